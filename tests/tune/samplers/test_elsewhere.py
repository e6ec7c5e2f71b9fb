"""Laws of the trials of another study that a sampler is shown."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import SETTINGS
from tune.request.file import from_document
from tune.samplers.elsewhere import LEAST_SCORES, MOST_TOGETHER, believed
from tune.samplers.sampler import SAMPLERS, Outcome, Tried

SPACE = from_document(
    {
        "study": "law",
        "data": "synthetic",
        "space": {
            "optim.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
            "optim.weight_decay": {"low": 0.0, "high": 0.1},
        },
    },
    "test",
).space


def truth(rate: float, decay: float) -> float:
    return 0.8 - 0.1 * (np.log10(rate) + 2) ** 2 - 2 * decay


def trials(
    count: int, seed: int, shift: float = 0.0, slope: float = 1.0, noise: float = 0.01
) -> list[Tried]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rate, decay = float(10 ** rng.uniform(-4, -1)), float(rng.uniform(0, 0.1))
        score = shift + slope * truth(rate, decay) + float(noise * rng.standard_normal())
        params = {"optim.learning_rate": rate, "optim.weight_decay": decay}
        found.append(
            Tried(params, {**SETTINGS, **params}, Outcome.COMPLETE, [score], score, noise**2)
        )
    return found


@given(st.integers(0, 10_000), st.floats(-0.3, 0.3))
@settings(max_examples=15)
def test_scores_of_the_other_study_are_brought_to_the_level_of_this_one(
    seed: int, shift: float
) -> None:
    """The estimate is drawn towards 0 as by one score more."""
    theirs, ours = trials(30, seed), trials(12, seed + 1, shift)
    shown = believed(SPACE, theirs, ours)
    assert len(shown) == len(theirs)
    moves = [one.score - other.score for one, other in zip(shown, theirs, strict=True)]
    assert np.ptp(moves) < 1e-9
    assert moves[0] == pytest.approx(shift * 12 / 13, abs=0.05)
    assert [one.params for one in shown] == [one.params for one in theirs]
    assert shown[0].curve[0] == pytest.approx(shown[0].score)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_a_study_whose_truth_is_inverted_is_left_out_after_some_scores(seed: int) -> None:
    assert believed(SPACE, trials(30, seed), trials(10, seed + 1, 1.0, slope=-1.0)) == []


def test_few_scores_do_not_contradict() -> None:
    theirs = trials(20, 1)
    for count in range(LEAST_SCORES):
        assert len(believed(SPACE, theirs, trials(count, 2, 1.0, slope=-1.0))) == len(theirs)


def test_nothing_is_compared_before_a_trial_is_complete() -> None:
    theirs = trials(20, 1)
    stopped = [
        Tried(one.params, one.settings, Outcome.STOPPED, one.curve, 0.1 * (one.score or 0))
        for one in trials(8, 2, slope=-1.0)
    ]
    assert believed(SPACE, theirs, stopped) == theirs


def test_scores_at_one_place_alone_do_not_contradict() -> None:
    """The order of start points that are all good is noise."""
    theirs, one = trials(30, 1), trials(1, 2)[0]
    ours = [
        Tried(one.params, one.settings, Outcome.COMPLETE, [score], score)
        for score in (0.4, 0.5, 0.3, 0.45, 0.35)
    ]
    assert len(believed(SPACE, theirs, ours)) == 30


def test_trials_of_this_study_take_the_places_of_the_other_one_s() -> None:
    theirs, ours = trials(60, 1), trials(MOST_TOGETHER + 3, 2)
    assert len(believed(SPACE, theirs, ours[:70])) == MOST_TOGETHER - 70
    assert believed(SPACE, theirs, ours) == []
    assert [one.params for one in believed(SPACE, theirs, ours[:70])] == [
        one.params for one in theirs[: MOST_TOGETHER - 70]
    ]


def test_every_sampler_says_whether_it_takes_a_history() -> None:
    assert {name: SAMPLERS[name].takes_history for name in ("gp", "tpe", "random", "grid")} == {
        "gp": True,
        "tpe": True,
        "random": False,
        "grid": False,
    }


def test_the_gaussian_process_may_try_what_only_the_other_study_tried() -> None:
    """A small space, all of whose points the other study knows: its best is proposed at once."""
    space = from_document(
        {
            "study": "law",
            "data": "synthetic",
            "space": {"optim.restarts": [0, 1], "model.trainable_layers": [1, 2, 3, 4, 5]},
        },
        "test",
    ).space
    theirs = [
        Tried(point, {**SETTINGS, **point}, Outcome.COMPLETE, [], score, elsewhere=True)
        for point in space.grid()
        for score in [0.1 * float(point["model.trainable_layers"]) + 0.2 * point["optim.restarts"]]
    ]
    proposed = [SAMPLERS["gp"]().propose(space, {}, theirs, seed) for seed in range(3)]
    assert proposed == [{"optim.restarts": 1, "model.trainable_layers": 5}] * 3
