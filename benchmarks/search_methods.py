"""The searches that benchmarks.search_efficiency compares: the project's own, and its rivals.

Each runs through its public interface, as its users run it, without a cluster: the benchmark
trains, and a method proposes configurations and says after each epoch whether a trial goes on.
"""

import logging
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution

from benchmarks.learning_curves import EPOCHS, SPACE, random_configs
from tune.ledger.ledger import open_ledger
from tune.ledger.records import TrialRecord
from tune.request.file import from_document
from tune.request.request import StopEarly
from tune.study.candidates import candidates, choose

GRACE = 6
"""The first rung of all rivals that have one, in epochs: a tenth of EPOCHS, as in ours. It favours
them: rivals that judge after one epoch find less than those that never stop a trial."""
CANDIDATES = 5
"""Number of configurations that a method names as its best."""

SETTINGS: Mapping[str, str] = {
    "batch_size": "augment.elastic_alpha",
    "learning_rate": "optim.learning_rate",
    "momentum": "augment.affine_p",
    "weight_decay": "optim.weight_decay",
    "num_layers": "model.trainable_layers",
    "max_units": "optim.gradient_clip",
    "max_dropout": "augment.elastic_p",
}
"""LCBench's settings, each under the name of one of ours that has room for its range."""
SWITCHES = ("augment.elastic", "augment.affine")
"""Switches that are on, because some of these settings have an effect only with them.
Configurations that differ only in settings without an effect would be one candidate."""

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    name: (
        optuna.distributions.IntDistribution(int(low), int(high))
        if whole and not log
        else optuna.distributions.FloatDistribution(low, high, log=log)
    )
    for name, (low, high, log, whole) in SPACE.items()
}
"""The space in Optuna's terms. Whole numbers on a log scale are rounded by the curves."""


class Fate(Enum):
    """The fate of a trial after an epoch."""

    GOES_ON = "goes on"
    PAUSES = "pauses"
    ENDS = "ends"


@dataclass(eq=False)
class Trial:
    """A trial of a method.

    config   its settings, names as in SPACE
    handle   the method's own object for it
    scores   the score after each epoch so far, with its noise
    pulls    how far each validation image pulls these scores; the sum of their squares is the
             square of the scores' standard error
    """

    config: Mapping[str, float]
    handle: Any = None
    scores: list[float] = field(default_factory=list)
    pulls: Sequence[float] = ()


class Method(ABC):
    """A search. Scores are accuracies in percent."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        """All trials, in the order in which they were started."""

    @abstractmethod
    def next(self, room: int) -> Trial | None:
        """A new trial, or a paused one, to train now; None if there is none that fits.

        room   epochs that no running trial may still need; a trial that needs more to reach its
               last epoch is not started
        """

    @abstractmethod
    def report(self, trial: Trial) -> Fate:
        """Enter the last of a trial's scores. A trial ends with its last epoch at the latest."""

    def candidates(self) -> list[Trial]:
        """At most CANDIDATES of the longest trained trials, in falling order of their best epoch.

        Trials that were stopped early are not candidates.
        """
        longest = max(len(one.scores) for one in self.trials)
        trained = [one for one in self.trials if len(one.scores) == longest]
        return sorted(trained, key=lambda one: -max(one.scores))[:CANDIDATES]

    def _new(self, config: Mapping[str, float], handle: Any = None) -> Trial:
        self.trials.append(Trial(config, handle))
        return self.trials[-1]


class Engine(Method):
    """The project's own search: space file, ledger, sampler, stopping rule, candidates."""

    def __init__(self, seed: int, trainings: int, sampler: str) -> None:
        super().__init__()
        space = {}
        for name, (low, high, log, _) in SPACE.items():
            space[SETTINGS[name]] = {"low": low, "high": high} | ({"log": True} if log else {})
        document = {
            "study": "efficiency",
            "data": "synthetic",
            "fixed": {"optim.epochs": EPOCHS} | dict.fromkeys(SWITCHES, True),
            "space": space,
            "search": {"sampler": sampler, "trials": trainings * EPOCHS, "seed": seed},
            "confirm": {"top": CANDIDATES},
        }
        self._request = from_document(document, "benchmark")
        self._ledger = open_ledger("memory", self._request)
        self._epochs: dict[int, list[dict[str, Any]]] = {}

    @property
    def records(self) -> Sequence[TrialRecord]:
        """The trials of its ledger."""
        return self._ledger.records

    def next(self, room: int) -> Trial | None:
        """The ledger's next trial."""
        if room < EPOCHS:
            return None
        record = self._ledger.next()
        assert record is not None
        assert record.id == len(self.trials)
        self._epochs[record.id] = []
        config = {name: float(record.params[setting]) for name, setting in SETTINGS.items()}
        return self._new(config, record.id)

    def report(self, trial: Trial) -> Fate:
        """The ledger's verdict."""
        epochs = self._epochs[trial.handle]
        epochs.append(
            {
                "epoch": len(trial.scores),
                "ap50": trial.scores[-1] / 100,
                "ap50_pulls": [pull / 100 for pull in trial.pulls],
                "seconds": 1.0,
            }
        )
        return Fate.ENDS if self._ledger.report(trial.handle, epochs) else Fate.GOES_ON

    def candidates(self) -> list[Trial]:
        """The trials that a confirmation of the study would train again, if none that was stopped
        early were continued: their epochs would not be in the budget.
        """
        records = self._ledger.records
        request = replace(self._request, stop_early=StopEarly(rule="none"))
        found = candidates(records, request, choose(records, request))
        return [self.trials[one.trials[0].id] for one in found] or super().candidates()


class Optuna(Method):
    """A loop over an Optuna study, as Optuna's documentation has it.

    An epoch's score is reported, the pruner is asked, and a complete trial is told its best epoch.
    """

    def __init__(
        self, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
    ) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)

    def next(self, room: int) -> Trial | None:
        """The sampler's next trial."""
        if room < EPOCHS:
            return None
        trial = self._study.ask(DISTRIBUTIONS)
        return self._new(trial.params, trial)

    def report(self, trial: Trial) -> Fate:
        """The pruner's verdict."""
        asked: optuna.Trial = trial.handle
        asked.report(trial.scores[-1], len(trial.scores))
        if len(trial.scores) == EPOCHS:
            self._study.tell(asked, max(trial.scores))
            return Fate.ENDS
        if asked.should_prune():
            self._study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            return Fate.ENDS
        return Fate.GOES_ON


@dataclass(eq=False)
class _RayTrial:
    """The attributes of a trial that Ray's schedulers read."""

    trial_id: str
    trial: Trial
    status: str
    is_saving: bool = False


class RayTune(Method):
    """Ray Tune's OptunaSearch and one of its schedulers.

    Their hooks are called in the order in which Tune's controller calls them, whose part this class
    plays; Ray itself is not started. The searcher never sees the report that stops a trial as a
    result.

    ahead   number of trials that are added to the scheduler before they can run
    """

    def __init__(
        self,
        scheduler: Any,
        seed: int | None = None,
        sampler: optuna.samplers.BaseSampler | None = None,
        ahead: int = 1,
    ) -> None:
        from ray.tune.search.optuna import OptunaSearch

        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("ray").setLevel(logging.WARNING)
        self._scheduler, self._ahead = scheduler, ahead
        self._searcher = OptunaSearch(
            space=DISTRIBUTIONS, metric="score", mode="max", seed=seed, sampler=sampler
        )
        self._added: list[_RayTrial] = []

    def next(self, room: int) -> Trial | None:
        """The scheduler's choice among pending and paused trials."""
        while sum(one.status == "PENDING" for one in self._added) < self._ahead:
            name = str(len(self._added))
            one = _RayTrial(name, Trial(self._searcher.suggest(name)), "PENDING")
            one.trial.handle = one
            self._added.append(one)
            self._scheduler.on_trial_add(self, one)
        chosen = self._scheduler.choose_trial_to_run(self)
        if chosen is None or room < EPOCHS - len(chosen.trial.scores):
            return None
        if chosen.status == "PENDING":
            self.trials.append(chosen.trial)
        chosen.status = "RUNNING"
        return chosen.trial

    def report(self, trial: Trial) -> Fate:
        """The scheduler's verdict; after the last epoch the trial ends by itself."""
        from ray.tune.schedulers import TrialScheduler

        one: _RayTrial = trial.handle
        result = {"training_iteration": len(trial.scores), "score": trial.scores[-1]}
        done = len(trial.scores) == EPOCHS
        if done or (
            (action := self._scheduler.on_trial_result(self, one, result)) == TrialScheduler.STOP
        ):
            self._scheduler.on_trial_complete(self, one, result)
            self._searcher.on_trial_complete(one.trial_id, result)
            one.status = "TERMINATED"
            return Fate.ENDS
        self._searcher.on_trial_result(one.trial_id, result)
        if action == TrialScheduler.PAUSE:
            one.status = "PAUSED"
            return Fate.PAUSES
        return Fate.GOES_ON

    def get_trials(self) -> list[_RayTrial]:
        """All trials, for the scheduler."""
        return self._added

    def stop_trial(self, one: _RayTrial) -> None:
        """End a trial that the scheduler has paused, for the scheduler."""
        self._scheduler.on_trial_remove(self, one)
        self._searcher.on_trial_complete(one.trial_id)
        one.status = "TERMINATED"


class TopAfterOneEpoch(Method):
    """Random configurations trained for one epoch each, and the best of them to the end.

    A third of the trainings is for the best ones; all other epochs are first epochs. "Is one epoch
    all you need for multi-fidelity hyperparameter optimization?", arXiv 2307.15422.
    """

    def __init__(self, seed: int, trainings: int) -> None:
        super().__init__()
        self._top = max(1, trainings // 3)
        count = trainings * EPOCHS - self._top * (EPOCHS - 1)
        self._configs = iter(random_configs(count, np.random.default_rng(seed)))
        self._best: list[Trial] | None = None

    def next(self, room: int) -> Trial | None:  # noqa: ARG002
        """The next random configuration, then the next of the best."""
        for config in self._configs:
            return self._new(dict(zip(SPACE, config.tolist(), strict=True)))
        if self._best is None:
            if any(not one.scores for one in self.trials):
                return None
            self._best = sorted(self.trials, key=lambda one: one.scores[0])[-self._top :]
        return self._best.pop() if self._best else None

    def report(self, trial: Trial) -> Fate:
        """Every trial pauses after its first epoch."""
        if len(trial.scores) == EPOCHS:
            return Fate.ENDS
        return Fate.PAUSES if len(trial.scores) == 1 else Fate.GOES_ON


def _never_called(config: Any, seed: int, budget: float) -> float:
    """The function that SMAC would minimize; the benchmark tells it the costs instead."""
    raise NotImplementedError(config, seed, budget)


class Smac(Method):
    """SMAC's multi-fidelity facade: Hyperband, whose configurations a random forest chooses.

    It asks for a configuration at a number of epochs; a configuration that it has asked for before
    continues. SMAC is not a dependency of the project: install `smac` to compare with it.
    """

    def __init__(self, seed: int, trainings: int) -> None:
        from ConfigSpace import ConfigurationSpace, Float, Integer
        from smac import MultiFidelityFacade, Scenario

        super().__init__()
        space = ConfigurationSpace(seed=seed)
        for name, (low, high, log, whole) in SPACE.items():
            if whole and not log:
                space.add(Integer(name, (int(low), int(high))))
            else:
                space.add(Float(name, (low, high), log=log))
        # Its initial design is a quarter of n_trials. A training is worth some three evaluations,
        # and with a ninth as the least it has three rungs. It writes a folder when it is made.
        with tempfile.TemporaryDirectory() as folder:
            scenario = Scenario(
                space, deterministic=True, n_trials=3 * trainings, min_budget=EPOCHS / 9,
                max_budget=EPOCHS, seed=seed, output_directory=Path(folder),
            )  # fmt: skip
            self._smac = MultiFidelityFacade(
                scenario, _never_called, overwrite=True, logging_level=False
            )
        self._of_config: dict[Any, Trial] = {}
        self._asked: Any = None

    def next(self, room: int) -> Trial | None:
        """The configuration that SMAC asks for; one that does not fit now waits.

        A configuration that it asks for again, in another bracket, may already have these epochs.
        """
        while True:
            asked = self._asked = self._asked or self._smac.ask()
            trial = self._of_config.get(asked.config)
            if trial is None or len(trial.scores) < round(asked.budget):
                break
            self._tell(asked, trial)
            self._asked = None
        runs = trial is not None and trial.handle is not None
        if runs or room < EPOCHS - (len(trial.scores) if trial else 0):
            return None
        if trial is None:
            trial = self._of_config[asked.config] = self._new(dict(asked.config))
        trial.handle, self._asked = asked, None
        return trial

    def report(self, trial: Trial) -> Fate:
        """The trial pauses at the number of epochs that SMAC asked for."""
        if len(trial.scores) < round(trial.handle.budget):
            return Fate.GOES_ON
        self._tell(trial.handle, trial)
        trial.handle = None
        return Fate.ENDS if len(trial.scores) == EPOCHS else Fate.PAUSES

    def _tell(self, asked: Any, trial: Trial) -> None:
        from smac.runhistory import TrialValue

        cost = -max(trial.scores[: round(asked.budget)])
        self._smac.tell(asked, TrialValue(cost=cost), save=False)


def _asha(seed: int) -> RayTune:
    from ray.tune.schedulers import ASHAScheduler

    return RayTune(
        ASHAScheduler(max_t=EPOCHS, grace_period=GRACE, metric="score", mode="max"), seed
    )


def _hyperband(seed: int) -> RayTune:
    from ray.tune.schedulers import HyperBandScheduler

    # 54 is the least multiple of 27, for three divisions by three, that is not under EPOCHS; with
    # 52 only the first bracket would reach the last epoch. Tune adds 200 random trials ahead.
    scheduler = HyperBandScheduler(max_t=54, metric="score", mode="max")
    return RayTune(scheduler, sampler=optuna.samplers.RandomSampler(seed), ahead=200)


def _halving() -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=GRACE, reduction_factor=3)


OURS = "ours"
METHODS: Mapping[str, Callable[[int, int], Method]] = {
    OURS: lambda seed, trainings: Engine(seed, trainings, "gp"),
    "ours, TPE": lambda seed, trainings: Engine(seed, trainings, "tpe"),
    "random": lambda seed, _: Optuna(
        optuna.samplers.RandomSampler(seed), optuna.pruners.NopPruner()
    ),
    "random + halving": lambda seed, _: Optuna(optuna.samplers.RandomSampler(seed), _halving()),
    "Optuna's default": lambda seed, _: Optuna(
        optuna.samplers.TPESampler(seed=seed), optuna.pruners.MedianPruner()
    ),
    "TPE + ASHA": lambda seed, _: Optuna(optuna.samplers.TPESampler(seed=seed), _halving()),
    "TPE + ASHA, Ray": lambda seed, _: _asha(seed),
    "Hyperband, Ray": lambda seed, _: _hyperband(seed),
    "top third after one epoch": TopAfterOneEpoch,
    "SMAC": Smac,
}
"""The constructor of each method, given a seed and the number of full trainings to spend."""


def is_ours(method: str) -> bool:
    """Whether a method is a form of the project's own search."""
    return method.split(",")[0] == OURS


def unavailable(method: str) -> str | None:
    """A sentence on why a method cannot run here; None if it can."""
    if method == "SMAC" and find_spec("smac") is None:
        return "SMAC is left out: the package `smac` is not installed."
    return None
