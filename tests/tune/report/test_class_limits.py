"""Laws of what the report says of the limits of each class: the trials' counts, taken together."""

import csv
import io
import re
import statistics
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.simulated_study import SAMPLED, SMALL, build, sampled_quality
from core.metric.limits import DETECTION_KINDS, INSTANCE_KINDS, MENDS
from core.svg import draw_figure
from tune.report import class_limits
from tune.report.class_limits import MOST_ROWS, limits_of_rows
from tune.report.content import ReportContent, content_of
from tune.report.figures.limits import limits as figure
from tune.study.reading import read_study
from tune.tables import Kind, cell_text

VARIANTS = {
    **SMALL,
    "study": "variants",
    "fixed": {"model.weights": "none", "optim.epochs": 2},
    "variants": {
        f"Row {number}": {"model.backbone": "resnet18", "optim.batch_size": number}
        for number in range(1, MOST_ROWS + 3)
    },
    "baseline": "Row 1",
    "seeds": 2,
}
SEARCH = {
    **SAMPLED,
    "study": "search",
    "fixed": {"model.weights": "none", "optim.epochs": 2},
    "search": {"sampler": "random", "trials": 3},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 0},
}


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReportContent]:
    results = tmp_path_factory.mktemp("results")
    folders = [
        build(results, VARIANTS, lambda record: 0.1 * float(record.name.split()[1])),
        build(results, SEARCH, sampled_quality),
    ]
    return {one.path.name: content_of(read_study(one.path.name, results)) for one in folders}


def rows_of(content: ReportContent, name: str) -> list[dict[str, str]]:
    (table,) = (table for table in content.tables if table.name == name)
    return list(csv.DictReader(io.StringIO(table.csv())))


def reported(content: ReportContent, row: str, place: int) -> Iterator[dict[str, object]]:
    """What the ledger says of a class at the best epoch of each trial of a row."""
    numbers = next(one.trials for one in content.rows if one.name == row)
    for trial in content.trials:
        if trial.record.id in numbers:
            best = trial.record.best_epoch
            assert best is not None
            yield trial.record.epochs[best - 1]["limits"][place]


def test_a_row_has_the_counts_of_all_its_trials(contents: dict[str, ReportContent]) -> None:
    for content in contents.values():
        assert content.limits
        for one in content.limits:
            place = content.classes.index(one.label)
            of_trials = list(reported(content, one.row, place))
            for kind in INSTANCE_KINDS:
                assert one.instances[kind] == sum(part["instances"][kind] for part in of_trials)  # type: ignore[index]
            for kind in DETECTION_KINDS:
                assert one.detections[kind] == sum(part["detections"][kind] for part in of_trials)  # type: ignore[index]
            for mend in MENDS:
                known = [part["mended"][mend] for part in of_trials]  # type: ignore[index]
                known = [value for value in known if value is not None]
                assert one.mended[mend] == (statistics.fmean(known) if known else None)
            if one.instances["called_another_class"]:
                called = [sum(counts) for counts in zip(*(p["called"] for p in of_trials))]  # type: ignore[misc,attr-defined] # noqa: B905
                assert called[content.classes.index(str(one.called))] == max(called)


def test_the_best_variants_are_shown_and_of_a_search_the_best_trial(
    contents: dict[str, ReportContent],
) -> None:
    ranked = sorted(contents["variants"].rows, key=lambda row: -row.ap50)
    shown = list(dict.fromkeys(one.row for one in contents["variants"].limits))
    assert shown == [row.name for row in ranked[:MOST_ROWS]]
    search = contents["search"]
    assert {one.row for one in search.limits} == {search.rows[0].name}
    luckier = (replace(search.rows[0], ap50=0.0), *search.rows[1:])
    assert limits_of_rows(luckier, search.trials, search.classes, variants=False) == search.limits


@pytest.mark.parametrize("name", ["variants", "search"])
def test_the_answer_says_what_limited_the_weakest_class(
    contents: dict[str, ReportContent], name: str
) -> None:
    content = contents[name]
    first = content.limits[0].row
    weakest = min((one for one in content.limits if one.row == first), key=lambda one: one.ap50)
    (said,) = (one for one in content.answer if " is weakest in " in one)
    assert said.casefold().startswith(f"{first} is weakest in {weakest.label} (ap50 ".casefold())
    repeats = len(next(row.trials for row in content.rows if row.name == first))
    assert (repeats > 1) == (name == "variants")
    counted = f", counted in {repeats} repeats," if repeats > 1 else ""
    assert f": of its {sum(weakest.instances.values()):,} instances{counted} " in said
    share = cell_text(weakest.share("called_another_class"), Kind.PERCENT)
    assert f"{share} were found but called another class ({weakest.called} most often)" in said
    assert f"{cell_text(weakest.share('found'), Kind.PERCENT)} were found correctly" in said
    shares = [float(part) for part in re.findall(r"([\d.]+)%", said)]
    assert sum(shares) == pytest.approx(100, abs=0.25)
    best = max(weakest.mended.values(), key=lambda value: value or 0.0)
    assert cell_text(best, Kind.AP50) in said


def test_the_tables_have_a_row_for_each_class_of_each_row(
    contents: dict[str, ReportContent],
) -> None:
    for content in contents.values():
        for name, kinds in (("limits", INSTANCE_KINDS), ("detections", DETECTION_KINDS)):
            rows = rows_of(content, name)
            assert [(row["method"], row["class"]) for row in rows] == [
                (one.row, one.label) for one in content.limits
            ]
            for row in rows:
                assert sum(float(row[kind]) for kind in kinds) == pytest.approx(1)


@pytest.mark.parametrize("name", ["variants", "search"])
def test_the_figure_says_every_part_of_every_bar_in_numbers(
    contents: dict[str, ReportContent], name: str
) -> None:
    drawing = figure(contents[name])
    assert drawing is not None
    svg = draw_figure("limits", drawing).wide
    for one in contents[name].limits:
        parts = " · ".join(f"{100 * one.share(kind):.0f}" for kind in INSTANCE_KINDS)
        assert f">{parts}% of {sum(one.instances.values()):,}<" in svg
    assert svg.count("found<") == 2  # found, not found
    assert "interval" in drawing.caption


def test_of_many_classes_the_weakest_are_shown(
    contents: dict[str, ReportContent], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = contents["search"]
    monkeypatch.setattr(class_limits, "MOST_CLASSES", 2)
    found = limits_of_rows(content.rows, content.trials, content.classes, variants=False)
    weakest = sorted(content.limits, key=lambda one: one.ap50)[:2]
    assert found == tuple(one for one in content.limits if one in weakest)


def test_a_study_of_an_earlier_version_says_nothing_of_it(
    contents: dict[str, ReportContent],
) -> None:
    content = contents["variants"]
    first = content.rows[0].trials[0]
    older = [
        replace(trial, limits=()) if trial.record.id == first else trial for trial in content.trials
    ]
    found = limits_of_rows(content.rows, older, content.classes, variants=True)
    assert content.rows[0].name not in {one.row for one in found}
    assert figure(replace(content, limits=())) is None
