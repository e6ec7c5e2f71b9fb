"""Laws of the Gaussian process that chooses settings."""

from typing import Any

import pytest

from core.config import AUTO, Value
from tune.request.file import from_document
from tune.samplers.at_random import AtRandom
from tune.samplers.encoding import value_inside
from tune.samplers.gaussian import MOST_TRIED, STARTUP, GaussianProcess, proposal
from tune.samplers.sampler import Outcome, Tried
from tune.samplers.tpe import TreeParzen
from tune.space.domains import Choices, FloatRange, IntRange
from tune.space.space import SearchSpace

SPACE: dict[str, Any] = {
    "optim.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "model.trainable_layers": {"low": 0, "high": 5},
    "optim.restarts": [0, 1, 3],
    "optim.restart_multiplier": {"choices": [1.5, 2], "when": {"optim.restarts": [1, 3]}},
}
FINITE: dict[str, Any] = {"augment.elastic": [True, False], "optim.restarts": [0, 1, 3, 7, 9, 11]}


def space_of(document: dict[str, Any]) -> SearchSpace:
    return from_document({"study": "law", "data": "synthetic", "space": document}, "test").space


def at_random(space: SearchSpace, count: int) -> list[dict[str, Value]]:
    """Settings of trials with random params."""
    points = [AtRandom().propose(space, {}, [], seed) for seed in range(count)]
    return [space.resolve(params).settings() for params in points]


def tried(settings: dict[str, Value], score: float | None) -> Tried:
    outcome = Outcome.FAILED if score is None else Outcome.COMPLETE
    return Tried({}, settings, outcome, score=score)


def by_learning_rate(settings: dict[str, Value]) -> Tried:
    return tried(settings, float(settings["optim.learning_rate"]) * 50)


def test_nothing_is_proposed_before_enough_trials_have_a_result() -> None:
    space = space_of(SPACE)
    settings = at_random(space, STARTUP + 5)
    few = [by_learning_rate(one) for one in settings[: STARTUP - 1]]
    without = [tried(one, None) for one in settings[STARTUP:]]
    assert proposal(space, few + without, 0) == {}
    assert proposal(space, [*few, by_learning_rate(settings[-1])], 0).keys() == {
        one.name for one in space.parameters
    }


def test_a_proposal_is_a_point_of_the_space_and_follows_what_was_good() -> None:
    space = space_of(SPACE)
    known = [by_learning_rate(one) for one in at_random(space, 20)]
    point = proposal(space, known, 0)
    assert all(point[one.name] in one.domain for one in space.parameters)
    assert float(point["optim.learning_rate"]) > 3e-3
    assert proposal(space, known, 0) == point


def test_a_choice_of_auto_counts_as_tried_though_the_trial_had_a_number() -> None:
    space = space_of({**FINITE, "augment.elastic": [True], "model.anchor_scale": [1, AUTO]})
    trials = []
    for params in space.grid():
        settings = {**space.resolve(params).settings(), "model.anchor_scale": 0.5}
        trials.append(Tried(params, settings, Outcome.COMPLETE, score=len(trials) / 20))
    assert [proposal(space, trials, seed) for seed in range(3)] == [{}] * 3


def test_a_failed_trial_has_no_score_and_is_not_tried_again() -> None:
    space = space_of(FINITE)
    settings = at_random(space, 40)
    known = {tuple(one[name] for name in FINITE): one for one in settings}
    assert len(known) == space.size
    bad, *others = known.values()
    known = [tried(one, 0.2) for one in others]
    assert proposal(space, [*known, tried(bad, None)], 0) == {}, (
        "all were tried: the next is left to chance"
    )
    left = proposal(space, known, 0)
    assert left == {} or {name: bad[name] for name in FINITE} == left


def test_what_is_not_active_makes_no_proposal_new() -> None:
    document = {
        **FINITE,
        "augment.elastic_alpha": {"choices": [1, 2], "when": {"augment.elastic": [True]}},
    }
    space = space_of(document)
    known = {
        tuple(one[name] for name in document): tried(one, 0.1) for one in at_random(space, 200)
    }
    assert len(known) == space.size
    assert proposal(space, list(known.values()), 0) == {}


@pytest.mark.parametrize(
    ("domain", "value", "stands"),
    [
        (Choices(("a", "b")), "b", "b"),
        (Choices(("a", "b")), "c", "a"),
        (FloatRange(0.1, 0.5), 0.0, 0.1),
        (FloatRange(0.1, 0.5, step=0.1), 0.34, 0.3),
        (FloatRange(1.0, 2.0), "auto", 1.0),
        (IntRange(2, 8, step=3), 9, 8),
        (IntRange(2, 8, step=3), 4, 5),
    ],
)
def test_a_value_outside_of_a_domain_is_stood_for_by_one_inside(
    domain: Any, value: Value, stands: Value
) -> None:
    assert value_inside(domain, value) == stands
    assert value_inside(domain, value) in domain


def test_a_start_point_keeps_what_it_gives_and_the_process_chooses_the_rest() -> None:
    space = space_of(SPACE)
    known = [by_learning_rate(one) for one in at_random(space, 20)]
    point = GaussianProcess().propose(space, {"optim.restarts": 0}, known, 0)
    rest = proposal(space, known, 0)
    assert point["optim.restarts"] == 0
    assert "optim.restart_multiplier" not in point
    assert point["optim.learning_rate"] == rest["optim.learning_rate"]


def test_tpe_takes_over_where_the_process_would_be_slow() -> None:
    space = space_of(FINITE)
    known = [
        Tried({name: one[name] for name in FINITE}, one, Outcome.COMPLETE, score=0.1 * number % 1)
        for number, one in enumerate(at_random(space, MOST_TRIED + 1))
    ]
    process, tpe = GaussianProcess(), TreeParzen()
    assert process.propose(space, {}, known, 7) == tpe.propose(space, {}, known, 7)
