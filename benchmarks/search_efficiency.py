"""What a search finds for its epochs: the real engine and its rivals on replayed learning
curves, at equal epochs.

python -m benchmarks.search_efficiency [--seeds N] [--tuning] [--jobs N]

Every method may spend 30 full trainings' worth of epochs, four trials at a time, epoch by epoch in
turn. A trial counts when it has run to its last epoch, and then stands for its best one; stopped
trials never count, whoever stopped them. Nobody starts a trial that, should it run to the end,
would not fit into the epochs that are left. The gap is what is missing to the best accuracy known
of a data set: of 2,000 random configurations and of all methods here.
"""

import argparse
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import optuna
from scipy.stats import rankdata

from benchmarks import learning_curves
from benchmarks.learning_curves import EPOCHS, SPACE
from benchmarks.table import Line
from tune.ledger.ledger import open_ledger
from tune.request.file import from_document

BUDGET = 30 * EPOCHS
AT_ONCE = 4
RANDOM_CONFIGS = 2000
OURS, TPE = "ours", "TPE without stopping"

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

Trial = Any
Config = Mapping[str, float]


class Method(Protocol):
    """What proposes configurations and ends trials."""

    def start(self) -> tuple[Trial, Config]:
        """A new trial and its configuration, names as in SPACE."""

    def stops(self, trial: Trial, epoch: int, accuracy: float) -> bool:
        """Enter a trial's accuracy (percent) after an epoch; whether it ends there.

        After the last it does.
        """


class Engine:
    """The project's own search: space file, ledger, sampler and stopping rule."""

    def __init__(self, seed: int, sampler: str, rule: str) -> None:
        space = {}
        for name, (low, high, log, _) in SPACE.items():
            space[SETTINGS[name]] = {"low": low, "high": high} | ({"log": True} if log else {})
        document = {
            "study": "efficiency",
            "data": "synthetic",
            "fixed": {"optim.epochs": EPOCHS},
            "space": space,
            "search": {"sampler": sampler, "trials": BUDGET, "seed": seed},
            "stop_early": {"rule": rule},
        }
        self._ledger = open_ledger("memory", from_document(document, "benchmark"))
        self._history: dict[int, list[dict[str, float]]] = {}

    def start(self) -> tuple[int, Config]:
        """The ledger's next trial."""
        record = self._ledger.next()
        assert record is not None
        self._history[record.id] = []
        return record.id, {
            name: float(record.params[setting]) for name, setting in SETTINGS.items()
        }

    def stops(self, trial: int, epoch: int, accuracy: float) -> bool:
        """The ledger's verdict."""
        self._history[trial].append({"epoch": epoch, "ap50": accuracy / 100, "seconds": 1.0})
        return self._ledger.report(trial, self._history[trial])


class Ray:
    """Ray's OptunaSearch and ASHAScheduler, their hooks called in the order in which Ray Tune
    calls them.
    """

    def __init__(self, seed: int, **asha: Any) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        distributions = {
            name: (
                optuna.distributions.IntDistribution(int(low), int(high), log=log)
                if whole and not log
                else optuna.distributions.FloatDistribution(low, high, log=log)
            )
            for name, (low, high, log, whole) in SPACE.items()
        }
        self._searcher = OptunaSearch(space=distributions, metric="accuracy", mode="max", seed=seed)
        self._scheduler = ASHAScheduler(metric="accuracy", mode="max", max_t=EPOCHS, **asha)
        self._started = 0

    def start(self) -> tuple[SimpleNamespace, Config]:
        """The searcher's next suggestion."""
        trial = SimpleNamespace(trial_id=str(self._started))
        self._started += 1
        config = self._searcher.suggest(trial.trial_id)
        self._scheduler.on_trial_add(None, trial)
        return trial, config

    def stops(self, trial: SimpleNamespace, epoch: int, accuracy: float) -> bool:
        """The scheduler's verdict; the searcher never sees the report that stops a trial as a
        result.
        """
        result = {"training_iteration": epoch, "accuracy": accuracy}
        if self._scheduler.on_trial_result(None, trial, result) == "STOP":
            self._scheduler.on_trial_complete(None, trial, result)
            self._searcher.on_trial_complete(trial.trial_id, result)
            return True
        self._searcher.on_trial_result(trial.trial_id, result)
        return False


@dataclass(frozen=True)
class Course:
    """What a method had found when.

    found    [BUDGET + 1] the best accuracy (percent) of its complete trials after so many epochs;
             nan before the first
    trials   how many it started
    """

    found: np.ndarray
    trials: int


def play(method: Method, data_set: str) -> Course:
    """Spend the epochs."""
    found = np.full(BUDGET + 1, np.nan)
    running: list[tuple[Trial, np.ndarray, list[float]]] = []
    spent = trials = 0
    while True:
        promised = sum(EPOCHS - len(done) for _, _, done in running)
        while len(running) < AT_ONCE and BUDGET - spent - promised >= EPOCHS:
            trial, config = method.start()
            running.append(
                (
                    trial,
                    learning_curves.curves(data_set, np.array([[config[n] for n in SPACE]]))[0],
                    [],
                )
            )
            trials += 1
            promised += EPOCHS
        if not running:
            return Course(found, trials)
        for entry in list(running):
            trial, curve, done = entry
            done.append(curve[len(done)])
            spent += 1
            stopped = method.stops(trial, len(done), done[-1])
            if stopped or len(done) == EPOCHS:
                running.remove(entry)
            if len(done) == EPOCHS:
                found[spent:] = np.fmax(found[spent:], max(done))


def best_after_one_epoch(data_set: str, seed: int, top: int) -> Course:
    """Train at random for one epoch each, as many as leave the epochs to train the best ones to
    the end.

    "Is one epoch all you need for multi-fidelity hyperparameter optimization?", arXiv 2307.15422.
    """
    trials = BUDGET - top * (EPOCHS - 1)
    drawn = learning_curves.curves(
        data_set, learning_curves.random_configs(trials, np.random.default_rng(seed))
    )
    found = np.full(BUDGET + 1, np.nan)
    spent = trials
    for curve in drawn[np.argsort(-drawn[:, 0])[:top]]:
        spent += EPOCHS - 1
        found[spent:] = np.fmax(found[spent:], curve.max())
    return Course(found, trials)


METHODS: Mapping[str, Callable[[str, int], Course]] = {
    "random": lambda data_set, seed: play(Engine(seed, "random", "none"), data_set),
    TPE: lambda data_set, seed: play(Engine(seed, "tpe", "none"), data_set),
    "Ray OptunaSearch + ASHA, defaults": lambda data_set, seed: play(Ray(seed), data_set),
    "Ray OptunaSearch + ASHA, grace 10%": lambda data_set, seed: play(
        Ray(seed, grace_period=math.ceil(EPOCHS / 10)), data_set
    ),
    "top 10 after one epoch": lambda data_set, seed: best_after_one_epoch(data_set, seed, 10),
    "top 28 after one epoch": lambda data_set, seed: best_after_one_epoch(data_set, seed, 28),
    OURS: lambda data_set, seed: play(Engine(seed, "gp", "successive_halving"), data_set),
}


def played(data_set: str, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaps [method, seed, BUDGET + 1] in accuracy points, and trials [method, seed], of one data
    set.
    """
    courses = [[METHODS[name](data_set, seed) for seed in range(seeds)] for name in METHODS]
    found = np.array([[course.found for course in row] for row in courses])
    best = max(learning_curves.best_of_random(data_set, RANDOM_CONFIGS), float(np.nanmax(found)))
    return best - found, np.array([[course.trials for course in row] for row in courses])


@dataclass(frozen=True)
class Outcome:
    """What came of all methods on all data sets.

    gaps     [data set, method, seed, BUDGET + 1] in accuracy points, nan before the first complete
             trial
    trials   [data set, method, seed]
    """

    gaps: np.ndarray
    trials: np.ndarray

    @property
    def at_the_end(self) -> np.ndarray:
        """Gaps when all epochs are spent, [data set, method], means over seeds."""
        return self.gaps[..., -1].mean(axis=2)

    @property
    def ranks(self) -> np.ndarray:
        """Ranks among the methods, 1 the best, ties shared, [data set, method]: a rank a seed,
        then their mean.
        """
        return rankdata(self.gaps[..., -1], axis=1).mean(axis=2)

    def epochs_to(self, gap: float, method: str) -> float:
        """Epochs after which the mean gap of a method is at most so much; infinite where it
        never is.
        """
        mean = self.gaps[:, list(METHODS).index(method)].mean(
            axis=(0, 1)
        )  # nan until all have a complete trial
        reached = np.flatnonzero(mean <= gap)
        return float(reached[0]) if len(reached) else math.inf


def measure(data_sets: Sequence[str], seeds: int, jobs: int) -> Outcome:
    """Play all methods on all data sets, so many at a time."""
    # A process of its own for each: Ray and onnxruntime have threads, which a fork would not
    # survive.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        results = list(pool.map(played, data_sets, [seeds] * len(data_sets)))
    return Outcome(
        np.array([gaps for gaps, _ in results]), np.array([trials for _, trials in results])
    )


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error over data sets, [data set]."""
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def _rows(outcome: Outcome) -> Iterator[list[str]]:
    yield [
        "method",
        "trials",
        "gap ± SE",
        "rank ± SE",
        "its gap - ours ± SE",
        "epochs to the gap of TPE, of all",
    ]
    ours = list(METHODS).index(OURS)
    target = float(outcome.at_the_end[:, list(METHODS).index(TPE)].mean())
    for index, name in enumerate(METHODS):
        gap, rank = _mean(outcome.at_the_end[:, index]), _mean(outcome.ranks[:, index])
        behind = _mean(outcome.at_the_end[:, index] - outcome.at_the_end[:, ours])
        epochs = outcome.epochs_to(target, name)
        yield [
            name,
            f"{outcome.trials[:, index].mean():.0f}",
            f"{gap[0]:.2f} ± {gap[1]:.2f}",
            f"{rank[0]:.2f} ± {rank[1]:.2f}",
            "" if name == OURS else f"{behind[0]:.2f} ± {behind[1]:.2f}",
            "never" if math.isinf(epochs) else f"{epochs:.0f} ({epochs / BUDGET:.2f})",
        ]


def as_text(outcome: Outcome) -> str:
    """The table: accuracy points, standard errors over data sets."""
    rows = list(_rows(outcome))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def lines(short: bool) -> Iterator[Line]:
    """What the table of all benchmarks says of the search; nothing where the curves are missing,
    but why.

    short   two data sets and one seed, about a minute on two cores, instead of 17 and three
    """
    if why := learning_curves.missing():
        print(why)
        return
    names = learning_curves.data_sets(tuning=False)
    outcome = measure(names[:2] if short else names, seeds=1 if short else 3, jobs=2)
    yield from _lines(outcome)


def _lines(outcome: Outcome) -> Iterator[Line]:
    gaps = dict(zip(METHODS, outcome.at_the_end.mean(axis=0), strict=True))
    ours = gaps[OURS]
    for name, gap in gaps.items():
        if name != OURS:
            yield Line(
                "search, gap to the best after 1,560 epochs, points",
                f"{ours:.2f}",
                f"{name} {gap:.2f}",
                gap / ours if ours > 0 else None,
                "goal: the smallest",
            )
    epochs = outcome.epochs_to(gaps[TPE], OURS)
    yield Line(
        "search, epochs to the accuracy of TPE without stopping",
        "never" if math.isinf(epochs) else f"{epochs:.0f}",
        f"{BUDGET}",
        BUDGET / epochs,
        "goal: half of them",
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--tuning", action="store_true", help="the half of the data sets on which choices were made"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parsed = parser.parse_args()
    if why := learning_curves.missing():
        print(why)
        return
    names = learning_curves.data_sets(parsed.tuning)
    outcome = measure(names, parsed.seeds, parsed.jobs)
    print(
        f"{len(names)} data sets ({'tuning' if parsed.tuning else 'final'} half), {parsed.seeds}"
        f" seeds, {BUDGET} epochs"
    )
    print(as_text(outcome))


if __name__ == "__main__":
    main()
