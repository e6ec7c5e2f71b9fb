"""Laws of the seeds and images that a report names for its open comparisons."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated_study import SMALL, build
from tune.ledger.records import TrialRecord
from tune.report.content import ReportContent, content_of
from tune.statistics.certainty import Verdict
from tune.study.reading import read_study
from tune.tables import Table

QUALITY = {"Plain": 0.0, "Slightly": 0.3, "Twin": 0.0, "Far": 3.0}
TABLE: dict[str, Any] = {
    **SMALL,
    "study": "open",
    "fixed": {"model.weights": "none", "optim.epochs": 1},
    "variants": {
        "Plain": {},
        "Slightly": {"augment.affine": True},
        "Twin": {"augment.elastic": True},
        "Far": {"model.trainable_layers": 5},
    },
    "baseline": "Plain",
}


def by_name(record: TrialRecord) -> float:
    return QUALITY[record.name]


def reported(folder: Path, seeds: int) -> ReportContent:
    build(folder, {**TABLE, "seeds": seeds}, by_name)
    return content_of(read_study("open", folder))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> ReportContent:
    return reported(tmp_path_factory.mktemp("open"), seeds=3)


def further(content: ReportContent) -> Table:
    return next(table for table in content.tables if table.name == "further")


def test_each_open_comparison_has_a_row_and_no_other_has(content: ReportContent) -> None:
    left_open = [row.name for row in content.rows if row.verdict == Verdict.CANNOT_TELL]
    assert "Far" not in left_open
    assert [row[0] for row in further(content).rows] == left_open


def test_further_seeds_cost_trainings_of_every_method_as_long_as_those_before(
    content: ReportContent,
) -> None:
    names = [column.name for column in further(content).columns]
    seconds = [trial.record.seconds for trial in content.trials]
    for row in further(content).rows:
        one = dict(zip(names, row, strict=True))
        if one["seeds"] is None:
            assert (one["trainings"], one["hours"]) == (None, None)
            continue
        assert one["images"] is None
        assert one["trainings"] == one["seeds"] * len(TABLE["variants"])
        hours = one["trainings"] * sum(seconds) / len(seconds) / 3600
        assert one["hours"] == pytest.approx(hours)


def test_the_answer_says_what_would_decide_and_how_to_go_on(content: ReportContent) -> None:
    names = [row[0] for row in further(content).rows]
    by_seeds = [row for row in further(content).rows if row[3] is not None]
    said = " ".join(content.answer)
    assert all(f"{name} from Plain" in said for name in names)
    assert by_seeds
    for row in by_seeds:
        assert f"{row[0]} from Plain with seeds={3 + row[3]} ({row[4]} more trainings, " in said
    assert "python -m tune.search --study open --set seeds=N runs what is missing" in said


def test_after_one_training_each_the_usual_spread_of_seeds_is_assumed_and_the_caption_says_so(
    tmp_path: Path,
) -> None:
    caption = further(reported(tmp_path, 1)).caption
    assert "standard deviation of AP50 over seeds is taken to be 0.02, as is usual" in caption
