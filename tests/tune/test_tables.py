"""Laws of tables: no precision is lost in CSV, no text breaks Markdown or LaTeX, and a number is
written in one way.
"""

import csv
import io
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.values import NO_VALUE
from tune.ledger.records import State, TrialRecord
from tune.statistics.certainty import Interval
from tune.tables import COLUMNS, Cell, Column, Kind, Table, TrialsCsv, cell_text, trials_csv

MINUS = "\N{MINUS SIGN}"
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
INTERVALS = st.builds(Interval, NUMBERS, NUMBERS, NUMBERS)
PRINTABLE = st.text(st.characters(exclude_categories=["C"]), max_size=20)
CELLS = {
    Kind.TEXT: PRINTABLE,
    Kind.SETTING: st.sampled_from(["optim.epochs", "model.backbone", "augment.elastic"]),
    Kind.COUNT: st.integers(),
    Kind.INTERVAL: INTERVALS,
    Kind.DIFFERENCE: INTERVALS,
    **dict.fromkeys(
        (Kind.NUMBER, Kind.AP50, Kind.CHANGE, Kind.P, Kind.HOURS, Kind.PERCENT), NUMBERS
    ),
}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    kinds = draw(st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=6))
    columns = tuple(
        Column(f"column_{place}", draw(PRINTABLE), kind) for place, kind in enumerate(kinds)
    )
    rows = draw(st.lists(st.tuples(*(st.none() | CELLS[kind] for kind in kinds)), max_size=5))
    return Table("name", draw(PRINTABLE), draw(PRINTABLE), columns, tuple(rows))


def one_cell(cell: Cell, kind: Kind = Kind.TEXT) -> Table:
    return Table("name", "Title", "Caption.", (Column("column", "Column", kind),), ((cell,),))


def read_csv(table: Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(table.csv())))


@given(table=tables())
@settings(deadline=None)
def test_a_csv_file_gives_back_every_cell_in_full_precision(table: Table) -> None:
    head, *rows = read_csv(table)
    assert head == [name for column in table.columns for name in column.names]
    assert len(rows) == len(table.rows)
    for row, cells in zip(rows, table.rows, strict=True):
        values = iter(row)
        for cell, column in zip(cells, table.columns, strict=True):
            found = [next(values) for _ in column.names]
            if cell is None:
                assert found == [""] * len(found)
            elif isinstance(cell, Interval):
                assert [float(value) for value in found] == [cell.estimate, cell.low, cell.high]
            elif isinstance(cell, str):
                # A text that begins like a formula has an apostrophe before it.
                assert found[0] == cell or found[0].replace("'", "") == cell.replace("'", "")
            else:
                assert [type(cell)(value) for value in found] == [cell]
        assert next(values, None) is None


@given(table=tables())
@settings(deadline=None)
def test_markdown_has_a_cell_for_every_cell_whatever_is_in_it(table: Table) -> None:
    lines = [line for line in table.markdown().split("\n") if line.startswith("| ")]
    assert len(lines) == 2 + len(table.rows)
    for line in lines:
        cells = re.split(r"(?<!\\)\|", re.sub(r"\\\\", "", line))
        assert len(cells) == len(table.columns) + 2


def unescaped(latex: str) -> str:
    """LaTeX without its escapes and the commands that stand for characters."""
    return re.sub(r"\\text\w+\{\}|\\[&%$#_{}]|\$-\$|\{[\[\]]\}", "", latex)


@given(plain=PRINTABLE)
@settings(deadline=None)
def test_no_text_reaches_latex_as_a_command(plain: str) -> None:
    line = one_cell(plain).latex().split("\n")[8]
    assert line.endswith(r" \\")
    assert not set(unescaped(line.removesuffix(r" \\"))) & set("\\&%$#_{}~^[]")


def test_latex_sets_a_table_of_booktabs() -> None:
    columns = (
        Column("method", "Method"),
        Column("ap50", "AP50", Kind.INTERVAL),
        Column("p", "p", Kind.P),
    )
    table = Table(
        "methods",
        "Methods",
        "100% of it.",
        columns,
        (("Res_50 & more", Interval(0.4699, 0.4, 0.5), 0.00001),),
    )
    assert table.latex() == "\n".join([
        r"\begin{table}",
        r"\centering",
        r"\caption{100\% of it.}",
        r"\label{tab:methods}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Method & AP50 & p \\",
        r"\midrule",
        r"Res\_50 \& more & 0.4699 (0.400 to 0.500) & \textless{} 0.0001 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "kind", "seen"),
    [
        (None, Kind.AP50, NO_VALUE),
        (0.46994, Kind.AP50, "0.4699"),
        (1234, Kind.COUNT, "1,234"),
        (1333, Kind.NUMBER, "1333"),
        (5e-05, Kind.NUMBER, "5e-05"),
        (-0.02, Kind.CHANGE, f"{MINUS}0.0200"),
        (0.049999, Kind.P, "0.0500"),
        (0.00009, Kind.P, "< 0.0001"),
        (12.345, Kind.HOURS, "12.35"),
        (0.00123, Kind.HOURS, "0.0012"),
        (0.4449, Kind.PERCENT, "44.5%"),
        (Interval(0.4699, 0.3812, 0.5601), Kind.INTERVAL, "0.4699 (0.381 to 0.560)"),
        (Interval(0.4699, math.nan, math.nan), Kind.INTERVAL, "0.4699 (interval not known)"),
        (
            Interval(-0.0144, -0.05, 0.02),
            Kind.DIFFERENCE,
            f"{MINUS}0.0144 ({MINUS}0.050 to +0.020)",
        ),
    ],
)
def test_a_value_is_written_by_what_it_is(cell: Cell, kind: Kind, seen: str) -> None:
    assert cell_text(cell, kind) == seen
    assert one_cell(cell, kind).texts == ((seen,),)


def test_ends_of_an_interval_that_are_not_known_are_empty_in_csv() -> None:
    table = one_cell(Interval(0.5, math.nan, math.nan), Kind.INTERVAL)
    assert read_csv(table) == [["column", "column_low", "column_high"], ["0.5", "", ""]]


def test_the_table_of_trials_has_a_row_for_every_trial_and_its_full_scores() -> None:
    epochs = tuple(
        {"epoch": number, "ap50": ap50, "seconds": 1.5}
        for number, ap50 in ((1, 0.1 + 0.2), (2, 0.25))
    )
    done = TrialRecord(
        0, "A, b", State.COMPLETE, {"optim.epochs": 2}, {"optim.epochs": 2, "seed": 7}, epochs, 1
    )
    failed = TrialRecord(
        1, state=State.FAIL, settings={"optim.epochs": 2}, reason="diverged: loss is nan"
    )
    head, *rows = csv.reader(io.StringIO(trials_csv([done, failed], ["optim.epochs"])))
    assert head == [*COLUMNS, "optim.epochs"]
    first, second = (dict(zip(head, row, strict=True)) for row in rows)
    assert (first["name"], float(first["ap50"]), first["ap50_last"]) == ("A, b", 0.1 + 0.2, "0.25")
    assert (first["best_epoch"], first["seed"], first["seconds"]) == ("1", "7", "3.0")
    assert (second["ap50"], second["ap50_last"], second["reason"]) == (
        "",
        "",
        "diverged: loss is nan",
    )


def test_the_table_of_a_running_study_follows_every_change_of_a_trial() -> None:
    planned = {"optim.epochs": 2}
    table = TrialsCsv(["optim.epochs"], None)
    records = [TrialRecord(number, settings=planned) for number in range(2)]
    epochs = tuple({"epoch": one, "ap50": 0.1 * one, "seconds": 1.5} for one in (1, 2))
    changes: list[tuple[int, dict[str, Any]]] = [
        (0, {"epochs": epochs[:1]}),
        (1, {"state": State.FAIL, "reason": "diverged: loss is nan"}),
        (0, {"epochs": epochs, "state": State.COMPLETE}),
        (0, {"attempts": 2}),
    ]
    for number, change in changes:
        assert table.text(records) == trials_csv(records, ["optim.epochs"])
        records[number] = replace(records[number], **change)
    records.append(TrialRecord(2, settings=planned))
    assert table.text(records) == trials_csv(records, ["optim.epochs"])


FORMULAS = st.builds(
    "".join,
    st.lists(
        st.sampled_from("=+-@;\t\r\n ,'\"\0 1aé=SUM(A1)\N{FULLWIDTH EQUALS SIGN}"), max_size=12
    ),
)


def is_number(plain: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", plain) is not None


@example("\r\0")  # a carriage return that nobody quotes begins a row
@given(FORMULAS)
@settings(deadline=None)
def test_no_part_of_a_csv_cell_runs_as_a_formula_whatever_the_spreadsheet_takes_for_a_separator(
    foreign: str,
) -> None:
    record = TrialRecord(0, foreign, State.FAIL, reason=foreign)
    tables = [
        trials_csv([record], []),
        one_cell(foreign).csv(),
        Table("n", "t", "c", (Column(foreign, ""),), ()).csv(),
    ]
    for cell in (
        cell
        for written in tables
        for row in csv.reader(io.StringIO(written, newline=""))
        for cell in row
    ):
        assert is_number(cell) or not cell.startswith(("\t", "\r", "\n", "\0"))
        for part in re.split("[;\t\r\n]", cell):
            assert is_number(cell) or not part.lstrip("\0 ").startswith(
                tuple("=+-@\N{FULLWIDTH EQUALS SIGN}")
            ), cell


@pytest.mark.parametrize("number", ["-0.5", "+1e-5", "-1", "1e5", "-.5"])
def test_a_number_stays_a_number_in_a_csv_file(number: str) -> None:
    assert read_csv(one_cell(number)) == [["column"], [number]]


def test_a_formula_is_shown_as_the_text_that_it_is() -> None:
    assert read_csv(one_cell("=cmd|' /C calc'!A0")) == [["column"], ["'=cmd|' /C calc'!A0"]]
    assert read_csv(one_cell("a;@SUM(A1)")) == [["column"], ["a;'@SUM(A1)"]]
    assert read_csv(one_cell("ResNet-50 + Aug.")) == [["column"], ["ResNet-50 + Aug."]]
