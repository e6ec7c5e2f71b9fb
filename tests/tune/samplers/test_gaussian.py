"""Laws of the Gaussian process that chooses settings."""

from typing import Any

import optuna
import pytest

from core.config import Value
from tune.request.file import from_document
from tune.samplers import gaussian as sampler
from tune.samplers.gaussian import STARTUP, GaussianProcess, Tried
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


def proposed(space: SearchSpace, tried: list[Tried], seed: int = 0) -> dict[str, Any]:
    """What comes of one trial, and nothing where it is left to chance."""
    process = GaussianProcess(
        seed, space, {one.name: one.domain for one in space.parameters}, lambda: tried
    )
    study = optuna.create_study(sampler=process)
    trial = study.ask()
    return process.sample_relative(
        study,
        study.trials[trial.number],
        process.infer_relative_search_space(study, study.trials[0]),
    )


def at_random(space: SearchSpace, count: int) -> list[dict[str, Value]]:
    drawn = []
    for seed in range(count):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask()
        params = space.sample(
            lambda name, domain, trial=trial: trial._suggest(name, sampler.distribution(domain))
        )
        drawn.append(space.resolve(params).settings())
    return drawn


def by_learning_rate(settings: dict[str, Value]) -> Tried:
    return Tried(settings, float(settings["optim.learning_rate"]) * 50)


def test_nothing_is_proposed_before_enough_trials_have_a_result() -> None:
    space = space_of(SPACE)
    settings = at_random(space, STARTUP + 5)
    few = [by_learning_rate(one) for one in settings[: STARTUP - 1]]
    without = [Tried(one, None) for one in settings[STARTUP:]]
    assert proposed(space, few + without) == {}
    assert proposed(space, [*few, by_learning_rate(settings[-1])]).keys() == {
        one.name for one in space.parameters
    }


def test_a_proposal_is_a_point_of_the_space_and_follows_what_was_good() -> None:
    space = space_of(SPACE)
    tried = [by_learning_rate(one) for one in at_random(space, 20)]
    point = proposed(space, tried)
    assert all(point[one.name] in one.domain for one in space.parameters)
    assert float(point["optim.learning_rate"]) > 3e-3
    assert proposed(space, tried) == point


def test_a_failed_trial_has_no_score_and_is_not_tried_again() -> None:
    space = space_of(FINITE)
    settings = at_random(space, 40)
    known = {tuple(one[name] for name in FINITE): one for one in settings}
    assert len(known) == space.size
    bad, *others = known.values()
    tried = [Tried(one, 0.2) for one in others]
    assert proposed(space, [*tried, Tried(bad, None)]) == {}, (
        "all were tried: the next is left to chance"
    )
    left = proposed(space, tried)
    assert left == {} or {name: bad[name] for name in FINITE} == left


def test_what_is_not_active_makes_no_proposal_new() -> None:
    document = {
        **FINITE,
        "augment.elastic_alpha": {"choices": [1, 2], "when": {"augment.elastic": [True]}},
    }
    space = space_of(document)
    tried = {
        tuple(one[name] for name in document): Tried(one, 0.1) for one in at_random(space, 200)
    }
    assert len(tried) == space.size
    assert proposed(space, list(tried.values())) == {}


@pytest.mark.parametrize(
    ("domain", "value", "inside"),
    [
        (Choices(("a", "b")), "b", "b"),
        (Choices(("a", "b")), "c", "a"),
        (FloatRange(0.1, 0.5), 0.0, 0.1),
        (FloatRange(0.1, 0.5, step=0.1), 0.34, 0.30000000000000004),
        (FloatRange(1.0, 2.0), "auto", 1.0),
        (IntRange(2, 8, step=3), 9, 8),
        (IntRange(2, 8, step=3), 4, 5),
    ],
)
def test_a_value_outside_of_a_domain_is_stood_for_by_one_inside(
    domain: Any, value: Value, inside: Value
) -> None:
    assert sampler._inside(domain, value) == inside
    assert sampler._inside(domain, value) in domain
