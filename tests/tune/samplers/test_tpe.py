"""Optuna's TPE on a view of the trials, held against plain Optuna."""

import optuna
import pytest

from core.config import Value
from tune.request.file import from_document
from tune.samplers.at_random import AtRandom
from tune.samplers.grid import Grid
from tune.samplers.sampler import Outcome, Tried
from tune.samplers.tpe import TreeParzen

SPACE = from_document(
    {
        "study": "law",
        "data": "synthetic",
        "space": {
            "optim.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
            "optim.restarts": [0, 1, 3],
            "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1, 3]}},
        },
    },
    "test",
).space


def suggested(trial: optuna.Trial) -> dict[str, Value]:
    """The same space as plain Optuna has it."""
    params: dict[str, Value] = {
        "optim.learning_rate": trial.suggest_float("optim.learning_rate", 1e-5, 1e-2, log=True),
        "optim.restarts": trial.suggest_categorical("optim.restarts", (0, 1, 3)),
    }
    if params["optim.restarts"]:
        name = "optim.restart_multiplier"
        params[name] = trial.suggest_categorical(name, (1.0, 2.0))
    return params


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_tpe_proposes_what_plain_optuna_does_after_complete_stopped_failed_and_running_trials() -> (
    None
):
    study = optuna.create_study(direction="maximize")
    known: list[Tried] = []
    for number in range(24):
        study.sampler = optuna.samplers.TPESampler(
            seed=number, multivariate=True, group=True, constant_liar=True
        )
        trial = study.ask()
        params = suggested(trial)
        assert TreeParzen().propose(SPACE, {}, known, number) == params
        score = float(params["optim.learning_rate"]) * 50
        outcome = list(Outcome)[number % 4]
        curve = [score / 2, score] if outcome in (Outcome.COMPLETE, Outcome.STOPPED) else []
        for epoch, value in enumerate(curve, start=1):
            trial.report(value, epoch)
        if outcome is Outcome.COMPLETE:
            study.tell(trial, score)
        elif outcome is not Outcome.RUNS:
            failed = outcome is Outcome.FAILED
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.PRUNED
            study.tell(trial, state=state)
        settings = SPACE.resolve(params).settings()
        known.append(Tried(params, settings, outcome, curve, score))


def test_settings_at_random_are_those_of_plain_optuna_whatever_was_tried() -> None:
    for seed in range(20):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask()
        params = AtRandom().propose(SPACE, {}, [], seed)
        assert params == suggested(trial)
        known = [Tried(params, SPACE.resolve(params).settings(), Outcome.COMPLETE, [0.5], 0.5)]
        assert AtRandom().propose(SPACE, {}, known, seed) == params


def test_a_start_point_is_proposed_with_the_rest_drawn() -> None:
    given = {"optim.learning_rate": 0.001, "optim.restarts": 3}
    for sampler in (TreeParzen(), AtRandom()):
        params = sampler.propose(SPACE, given, [], 0)
        assert given.items() <= params.items()
        assert "optim.restart_multiplier" in params


def test_a_grid_proposes_its_points_in_their_order() -> None:
    space = from_document(
        {
            "study": "law",
            "data": "synthetic",
            "space": {"optim.restarts": [0, 1], "augment.elastic": [True, False]},
            "search": {"sampler": "grid"},
        },
        "test",
    ).space
    known: list[Tried] = []
    for _ in range(4):
        params = Grid().propose(space, {}, known, 0)
        known.append(Tried(params, space.resolve(params).settings()))
    assert [one.params for one in known] == space.grid()


def test_values_of_a_range_with_steps_are_those_that_a_when_names() -> None:
    space = from_document(
        {
            "study": "law",
            "data": "synthetic",
            "space": {
                "augment.elastic_p": {"low": 0, "high": 0.9, "step": 0.1},
                "augment.elastic": [True],
            },
        },
        "test",
    ).space
    points = set(space.parameters[0].domain.points())
    for sampler in (AtRandom(), TreeParzen()):
        drawn = {sampler.propose(space, {}, [], seed)["augment.elastic_p"] for seed in range(60)}
        assert drawn <= points
        assert {0.3, 0.6, 0.7} <= drawn
