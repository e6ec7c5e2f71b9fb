"""Laws of what a study takes from another one when it begins, in its ledger."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.config import Value
from core.errors import StorageError, StudyError
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.posterior import posterior
from tune.ledger.proposals import CHECKS, next_point, preview, tried_of
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord
from tune.ledger.storage import study_to_read
from tune.ledger.warm_start import WARM_KEY, StartPoint, TakenTrial, WarmStart, stored_warm_start
from tune.request.file import from_document
from tune.request.request import StudyRequest
from tune.samplers.elsewhere import believed

EPOCHS, TRIALS = 2, 14
SPACE: dict[str, Any] = {
    "study": "law",
    "data": "synthetic",
    "fixed": {"optim.epochs": EPOCHS},
    "space": {
        "optim.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "optim.weight_decay": {"low": 0.0, "high": 0.1},
    },
    "start": [{"optim.learning_rate": 0.02}],
    "search": {"sampler": "gp", "trials": TRIALS, "seed": 3},
    "stop_early": {"rule": "none"},
}


def request(**changes: Any) -> StudyRequest:
    return from_document({**SPACE, **changes}, "test")


def score(params: Any) -> float:
    return 0.5 - float(params["optim.weight_decay"]) - abs(float(params["optim.learning_rate"]))


def finish(ledger: Ledger, record: TrialRecord) -> None:
    found = score(record.params)
    ledger.report(
        record.id,
        [
            {"epoch": 1, "ap50": found / 2, "seconds": 1.0},
            {"epoch": 2, "ap50": found, "seconds": 1.0},
        ],
    )


def point(rate: float, decay: float) -> dict[str, Value]:
    return {"optim.learning_rate": rate, "optim.weight_decay": decay}


def taken() -> WarmStart:
    points = [point(10 ** -(1 + number % 4), 0.005 * number) for number in range(16)]
    return WarmStart(
        "other",
        "results/other",
        (StartPoint(7, points[7]), StartPoint(3, points[3])),
        tuple(
            TakenTrial(number, one, number == 5, (score(one) / 2, score(one)), score(one), 1e-4)
            for number, one in enumerate(points)
        ),
        {"resnet50": ["abc", True]},
        ("a sentence",),
    )


def test_what_is_taken_is_read_back_as_it_was_and_in_one_attribute(url: str) -> None:
    with open_ledger(url, request()).claim as claim:
        Ledger(claim, request()).begin_from(taken())
        with study_to_read(url, "law") as stored:
            assert stored is not None
            assert stored.attributes()[WARM_KEY] == taken().to_json()
        assert Ledger(claim, request()).warm_start == taken()
    reading = read_ledger(url, "law")
    assert reading is not None
    assert reading.warm_start == taken()
    assert reading.records == ()


def test_a_study_reopened_before_every_trial_proposes_what_an_uninterrupted_one_does(
    url: str,
) -> None:
    """The ledger alone is read, so it does not matter whether the other study is still there."""
    whole = open_ledger("memory", request())
    whole.begin_from(taken())
    while (record := whole.next()) is not None:
        finish(whole, record)
    ledger = open_ledger(url, request())
    ledger.begin_from(taken())
    for _ in range(TRIALS):
        ledger = Ledger(ledger.claim, request())
        record = ledger.next()
        assert record is not None
        finish(ledger, record)
    assert [one.params for one in ledger.records] == [one.params for one in whole.records]
    assert [one.start for one in ledger.records] == [one.start for one in whole.records]


def test_start_points_come_after_those_of_the_space_file_and_each_says_where_it_is_from(
    url: str,
) -> None:
    ledger = open_ledger(url, request())
    ledger.begin_from(taken())
    for _ in range(4):
        assert ledger.next() is not None
    reading = read_ledger(url, "law")
    assert reading is not None
    first, *theirs, sampled = reading.records
    assert (first.start, first.params["optim.learning_rate"]) == ("space file, point 1", 0.02)
    assert [one.start for one in theirs] == ["study other, trial 7", "study other, trial 3"]
    assert [one.params for one in theirs] == [one.params for one in taken().start]
    assert sampled.start == ""
    assert [one.params for one in preview(request(), 3, taken())] == [
        one.params for one in reading.records[:3]
    ]


def test_a_start_point_that_the_space_file_names_is_tried_once() -> None:
    named = [dict(one.params) for one in taken().start]
    shown = preview(request(start=named), 4, taken())
    assert [one.start for one in shown] == ["space file, point 1", "space file, point 2", "", ""]


def test_trials_of_the_other_study_are_no_trials_of_this_one(url: str) -> None:
    """Neither planned, nor finished, nor best, nor compared with by the stopping rule."""
    asked = request(
        search={"sampler": "random", "trials": 3},
        stop_early={"rule": "successive_halving", "min_epochs": 1},
        start=[],
    )
    cold, warm = open_ledger("memory", asked), open_ledger(url, asked)
    better = tuple(replace(one, score=0.99, curve=(0.98, 0.99)) for one in taken().history)
    warm.begin_from(replace(taken(), start=(), history=better))
    for ledger in (cold, warm):
        assert not ledger.finished
        assert ledger.best is None
        while (record := ledger.next()) is not None:
            finish(ledger, record)
    assert warm.planned == len(warm.records) == 3
    assert [(one.state, one.params) for one in warm.records] == [
        (one.state, one.params) for one in cold.records
    ]
    assert posterior(asked.space, warm.records) == posterior(asked.space, cold.records)
    assert warm.records[0].state is State.COMPLETE


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_sampler_that_learns_is_shown_the_history_but_for_every_other_of_the_first_trials(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(search={"sampler": sampler, "trials": TRIALS}, start=[])
    ledger = open_ledger("memory", asked)
    ledger.begin_from(taken())
    kind = type(asked.sampler)
    propose, shown = kind.propose, []

    def noting(self: Any, space: Any, given: Any, tried: Any, seed: int) -> Any:
        shown.append([sum(one.elsewhere for one in tried), sum(not one.elsewhere for one in tried)])
        return propose(self, space, given, tried, seed)

    monkeypatch.setattr(kind, "propose", noting)
    while (record := ledger.next()) is not None:
        finish(ledger, record)
    with_history = [
        number for number, (theirs, _) in enumerate(shown) if theirs == len(taken().history)
    ]
    first = len(taken().start)
    without = {first + number for number in range(0, CHECKS, 2)}
    assert set(with_history) == set(range(TRIALS)) - without
    assert [own for _, own in shown] == list(range(TRIALS))


def test_a_sampler_that_does_not_learn_proposes_as_if_it_had_no_history() -> None:
    asked = request(search={"sampler": "random", "trials": 5}, start=[])
    without = replace(taken(), start=())
    assert preview(asked, 5, without)[0].params == next_point(asked, []).params
    assert [one.params for one in preview(asked, 5, without)] == [
        one.params for one in preview(asked, 5)
    ]


def test_a_study_that_has_trials_takes_nothing(url: str) -> None:
    ledger = open_ledger(url, request())
    ledger.next()
    with pytest.raises(StudyError, match="law has begun without it"):
        ledger.begin_from(taken())
    assert Ledger(ledger.claim, request()).warm_start is None


def test_a_damaged_warm_start_is_one_sentence() -> None:
    for content in ({"study": "a"}, [], {**taken().to_json(), "history": [[1, 2]]}):
        with pytest.raises(StorageError, match="the warm start in the ledger is damaged"):
            stored_warm_start({WARM_KEY: content})
    assert stored_warm_start({}) is None


def test_other_weights_under_the_same_name_take_the_history_and_leave_the_start_points() -> None:
    warm = taken()
    assert warm.with_weights({"resnet50": ["abc", True], "swin": ["x", False]}) == warm
    without = warm.with_weights({"resnet50": ["abd", True]})
    assert (without.start, without.history) == (warm.start, ())
    assert "resnet50" in without.sentences[-1]


def test_the_space_of_a_study_may_grow_after_a_warm_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    ledger = open_ledger(url, request())
    ledger.begin_from(taken())
    for _ in range(6):
        record = ledger.next()
        assert record is not None
        finish(ledger, record)
    wider = {**SPACE["space"], "optim.weight_decay": {"low": 0.0, "high": 0.2}}
    ledger = Ledger(ledger.claim, request(space=wider))
    record = ledger.next()
    assert record is not None
    assert record.params.keys() == SPACE["space"].keys()
    shown = believed(request(space=wider).space, taken().tried(request().space), tried_of([record]))
    assert len(shown) == len(taken().history)
