"""Laws of the seeds and images that a report names for its open comparisons."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated_study import SMALL, build
from tune.ledger.records import TrialRecord
from tune.report.content import ReportContent, content_of
from tune.report.evidence import gather_evidence
from tune.report.further import Further
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


SEARCH: dict[str, Any] = {
    **SMALL,
    "study": "searched",
    "fixed": {"model.weights": "none", "optim.epochs": 2},
    "space": {"optim.learning_rate": [2e-5, 5e-5, 1e-4], "augment.elastic": [False]},
    "search": {"sampler": "grid"},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 0},
}


def by_rate(record: TrialRecord) -> float:
    """The two upper rates are nearly alike; 5e-5 is the default."""
    return {2e-5: -3.0, 5e-5: 0.0, 1e-4: 0.17}[float(record.settings["optim.learning_rate"])]


def searched(folder: Path, **changes: Any) -> tuple[ReportContent, tuple[Further, ...]]:
    build(folder, {**SEARCH, **changes}, by_rate)
    study = read_study("searched", folder)
    return content_of(study), gather_evidence(study).further


def test_a_search_says_what_would_tell_its_best_trial_from_the_next(tmp_path: Path) -> None:
    content, (one,) = searched(tmp_path)
    first, second, _ = content.rows
    assert second.verdict == Verdict.CANNOT_TELL
    assert (one.name, one.compared_with) == (second.name, first.name)
    (said,) = (sentence for sentence in content.answer if " in 80% of cases tell " in sentence)
    assert one.seeds is not None
    assert one.trainings == 2 * one.seeds
    assert f"{one.seeds} seeds of each ({one.trainings} trainings, " in said
    assert f" tell {second.name} from {first.name}; the observed one is that of the best" in said
    assert not any(table.name == "further" for table in content.tables)


def test_a_confirmation_says_what_would_tell_the_winner_from_the_runner_up(tmp_path: Path) -> None:
    content, (one,) = searched(tmp_path, confirm={"top": 2, "seeds": 3})
    choice = content.choice
    assert choice is not None
    ((other, difference),) = choice.others.items()
    assert difference.verdict is Verdict.CANNOT_TELL
    assert (one.name, one.compared_with, one.difference) == (other, choice.name, difference)
    (said,) = (sentence for sentence in content.answer if f" tell {other} from " in sentence)
    assert said.startswith("If the true difference is the observed one (")
    if one.seeds is None:
        assert "no number of further seeds would tell" in said
    else:
        assert one.trainings == 2 * one.seeds
        assert f"--set confirm.seeds={3 + one.seeds})" in said


def test_after_one_training_each_the_usual_spread_of_seeds_is_assumed_and_the_caption_says_so(
    tmp_path: Path,
) -> None:
    caption = further(reported(tmp_path, 1)).caption
    assert "standard deviation of AP50 over seeds is taken to be 0.02, as is usual" in caption
