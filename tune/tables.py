"""Tables: `trials.csv`, and those of the report as CSV, Markdown, LaTeX or text of the page.

`cell_text` writes the cells that people read, in the forms of `core.values`, so that a number looks
the same everywhere. CSV has numbers in full precision.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from core.config import Value, setting_in_words
from core.text import inert
from core.values import (
    NO_VALUE,
    as_ap50,
    as_difference,
    as_hours,
    as_interval,
    as_p_value,
    as_percent,
    as_setting,
)
from tune.ledger.records import TrialRecord
from tune.request.values import TYPES
from tune.statistics.certainty import Interval

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    "trial", "name", "state", "epochs", "ap50", "ap50_last", "best_epoch", "seconds", "gpu_hours",
    "attempts", "seed", "fold", "reason", "continued_after", "start",
)  # fmt: skip
"""The first columns of `trials.csv`; one for each searched setting follows."""
OF_ORIGIN = ("search_ap50", "expected_ap50")
"""Columns of `confirm.csv` that follow these: AP50 in the search of the configuration, and the AP50
that was expected of it when it was chosen."""


_TYPES = {
    "trial": "int64", "epochs": "int64", "ap50": "float64", "ap50_last": "float64",
    "best_epoch": "Int64", "seconds": "float64", "gpu_hours": "float64", "attempts": "int64",
    "seed": "Int64", "fold": "Int64", "continued_after": "Int64",
    "search_ap50": "float64", "expected_ap50": "float64",
}  # fmt: skip
"""The pandas dtypes of these columns; the others are texts. Int64 may lack values, int64 may not.
"""


@dataclass(frozen=True)
class Origin:
    """The result that a confirmed configuration had in the search.

    continued_after   the epoch after which a trial of it had been stopped early, and from which it
                      was continued; None if none was
    score             its AP50 in the search
    expected          the AP50 that was expected of it when it was chosen; None where it was chosen
                      by its score
    """

    continued_after: int | None
    score: float
    expected: float | None


def trials_csv(
    records: Iterable[TrialRecord],
    searched: Sequence[str],
    origins: Mapping[str, Origin] | None = None,
) -> str:
    """The text of `trials.csv`. A setting has its value also in trials that did not search it.

    searched   names of the settings that get a column
    origins    for the trials of a confirmation: what the search had found of each candidate, by
               the candidate's name
    """
    return TrialsCsv(searched, origins).text(records)


class TrialsCsv:
    """`trials.csv` of a study that runs. The row of a trial is made once for each change of it.

    searched, origins   as in `trials_csv`
    """

    def __init__(self, searched: Sequence[str], origins: Mapping[str, Origin] | None) -> None:
        self._searched, self._origins = searched, origins
        self._rows: dict[int, tuple[TrialRecord, str]] = {}

    def text(self, records: Iterable[TrialRecord]) -> str:
        """The text of the file for the trials as they are now."""
        head = _csv(_columns(self._searched, self._origins), ())
        return head + "".join(map(self._row, records))

    def _row(self, record: TrialRecord) -> str:
        known, row = self._rows.get(record.id, (None, ""))
        if known is not record:
            row = _csv(_csv_row(record, self._searched, self._origins), ())
            self._rows[record.id] = record, row
        return row


def trials_frame(
    records: Iterable[TrialRecord],
    searched: Sequence[str],
    origins: Mapping[str, Origin] | None = None,
) -> "DataFrame":
    """The table of `trials.csv` as a DataFrame; the parameters are those of `trials_csv`.

    The dtype of a column does not depend on the values: str, int64, float64, and where a trial may
    lack a value Int64 or boolean. A setting has the type of its definition.
    """
    from pandas import DataFrame  # a command line does without it

    of_settings = {bool: "boolean", int: "Int64", float: "float64"}
    types = _TYPES | {name: of_settings.get(TYPES[name], "str") for name in searched}
    columns = _columns(searched, origins)
    rows = [
        [
            None if value == "" and types.get(name, "str") != "str" else value
            for name, value in zip(columns, _csv_row(record, searched, origins), strict=True)
        ]
        for record in records
    ]
    frame = DataFrame(rows, columns=columns, dtype="object")
    return frame.astype({name: types.get(name, "str") for name in columns})


def _columns(searched: Sequence[str], origins: Mapping[str, Origin] | None) -> list[str]:
    return [*COLUMNS, *(OF_ORIGIN if origins is not None else ()), *searched]


def _csv_row(
    record: TrialRecord, searched: Sequence[str], origins: Mapping[str, Origin] | None
) -> list[Value]:
    curve, continued_after = record.curve, record.continued_after
    of_origin: list[Value] = []
    if origins is not None:
        origin = origins.get(record.name, Origin(None, math.nan, None))
        continued_after = origin.continued_after
        of_origin = [
            "" if one is None or math.isnan(one) else one for one in (origin.score, origin.expected)
        ]
    return [
        record.id,
        record.name,
        record.state.value,
        len(curve),
        "" if record.ap50 is None else record.ap50,
        curve[-1] if curve else "",
        record.best_epoch or "",
        round(record.seconds, 3),
        round(record.gpu_hours, 6),
        record.attempts,
        record.settings.get("seed", ""),
        record.settings.get("data.fold", ""),
        record.reason,
        "" if continued_after is None else continued_after,
        record.start,
        *of_origin,
        *(record.settings.get(name, "") for name in searched),
    ]


class Kind(StrEnum):
    """The kind of a column's values, which decides how they are written."""

    TEXT = "text"
    SETTING = "setting"
    COUNT = "count"
    NUMBER = "number"
    AP50 = "ap50"
    INTERVAL = "interval"
    DIFFERENCE = "difference"
    CHANGE = "change"
    P = "p"
    HOURS = "hours"
    PERCENT = "percent"


Cell = str | int | float | Interval | None
"""The full value of a cell; None where there is none.

By kind: text is a str, setting is the name of one, such as `optim.epochs`, count is an int;
interval and difference are an Interval, whose ends are nan where they are not known. The others are
floats: a change is a difference without an interval, a percent is a fraction of 1.
"""


def cell_text(cell: Cell, kind: Kind) -> str:
    """A cell as people read it: minus signs are U+2212, and AP50 has four digits."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return NO_VALUE
    if isinstance(cell, str):
        return f"{setting_in_words(cell)} ({cell})" if kind is Kind.SETTING else cell
    if isinstance(cell, Interval):
        signed = kind is Kind.DIFFERENCE
        return _minus(as_interval(cell.estimate, cell.low, cell.high, signed))
    return _minus(_number_text(cell, kind))


def _number_text(value: float, kind: Kind) -> str:
    match kind:
        case Kind.COUNT:
            return f"{value:,}"
        case Kind.AP50:
            return as_ap50(value)
        case Kind.CHANGE | Kind.DIFFERENCE:
            return as_difference(value)
        case Kind.P:
            return as_p_value(value)
        case Kind.HOURS:
            return as_hours(value)
        case Kind.PERCENT:
            return as_percent(value, 1)
        case _:
            return as_setting(value)


def _minus(number: str) -> str:
    return re.sub("(?<!e)-", "\N{MINUS SIGN}", number)


@dataclass(frozen=True)
class Column:
    """A column: its name in the CSV file, its heading, and the kind of its values.

    An interval or a difference takes three columns of the CSV file: NAME, NAME_low and NAME_high.
    """

    name: str
    title: str
    kind: Kind = Kind.TEXT

    @property
    def is_numeric(self) -> bool:
        """Whether its cells are numbers, which are aligned to the right."""
        return self.kind not in (Kind.TEXT, Kind.SETTING)

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns in the CSV file."""
        if self.kind in (Kind.INTERVAL, Kind.DIFFERENCE):
            return self.name, f"{self.name}_low", f"{self.name}_high"
        return (self.name,)

    def values(self, cell: Cell) -> tuple[Value, ...]:
        """The values of a cell in the columns `names`, in full precision; "" for no value."""
        assert cell is None or isinstance(cell, Interval) == (len(self.names) == 3), self.name
        parts = (
            (cell.estimate, cell.low, cell.high)
            if isinstance(cell, Interval)
            else (cell,) * len(self.names)
        )
        return tuple(
            "" if part is None or (isinstance(part, float) and math.isnan(part)) else part
            for part in parts
        )


@dataclass(frozen=True)
class Table:
    """A table of the report, written as a part of the page, CSV, Markdown or LaTeX.

    name      name of its files, without extension
    caption   what the table shows and how to read it, in whole sentences
    rows      the rows, each with a cell for every column
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.name

    @property
    def places(self) -> tuple[tuple[float | None, ...], ...]:
        """The number by which each cell is sorted, row by row; None for a text and for no value."""
        return tuple(tuple(map(_place, row)) for row in self.rows)

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The cells as people read them, row by row; nothing is escaped."""
        return tuple(
            tuple(
                cell_text(cell, column.kind) for cell, column in zip(row, self.columns, strict=True)
            )
            for row in self.rows
        )

    def csv(self) -> str:
        """The table for programs: column names without spaces, numbers in full precision."""
        names = [name for column in self.columns for name in column.names]
        return _csv(names, (self._values(row) for row in self.rows))

    def _values(self, row: Sequence[Cell]) -> list[Value]:
        return [
            value
            for cell, column in zip(row, self.columns, strict=True)
            for value in column.values(cell)
        ]

    def markdown(self) -> str:
        """The table for a README or a lab notebook: title, table, caption."""

        def line(cells: Iterable[str]) -> str:
            return f"| {' | '.join(cells)} |"

        rules = ("---:" if column.is_numeric else "---" for column in self.columns)
        rows = (line(map(_in_markdown, row)) for row in self.texts)
        heads = line(_in_markdown(column.title) for column in self.columns)
        caption = _in_markdown(self.caption)
        return "\n".join(
            [f"### {_in_markdown(self.title)}", "", heads, line(rules), *rows, "", caption, ""]
        )

    def latex(self) -> str:
        r"""The table for a paper: a `table` environment that needs `\usepackage{booktabs}`."""
        heads = " & ".join(_in_latex(column.title) for column in self.columns)
        rows = [" & ".join(map(_in_latex, row)) + r" \\" for row in self.texts]
        sides = "".join("r" if column.is_numeric else "l" for column in self.columns)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_in_latex(self.caption)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            rf"{heads} \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _place(cell: Cell) -> float | None:
    """The number of a cell, of an interval its estimate; None where there is none."""
    number = cell.estimate if isinstance(cell, Interval) else cell
    return None if number is None or isinstance(number, str) or math.isnan(number) else number


def _in_markdown(plain: str) -> str:
    """Plain text, escaped so that Markdown shows it unchanged, in one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", " ".join(plain.split()))


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--", "[": "{[}", "]": "{]}",
    # LaTeX would read a bracket at the beginning of a row as an option of the line break before it.
} | {character: f"\\{character}" for character in "&%$#_{}"}  # fmt: skip


def _in_latex(plain: str) -> str:
    """Plain text, escaped so that LaTeX sets it unchanged, in one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(plain.split()))


def _csv(first: Sequence[Value], rows: Iterable[Sequence[Value]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_inert(value) for value in first])
    writer.writerows([_inert(value) for value in row] for row in rows)
    return stream.getvalue()


def _inert(value: Value) -> Value:
    """A value that no spreadsheet runs; only a text can be a formula."""
    return inert(value) if isinstance(value, str) else value
