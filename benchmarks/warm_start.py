"""Points that a search misses when it begins from another study, on replayed learning curves.

    python -m benchmarks.warm_start --data-sets 6 --trainings 5      some ten minutes on one core

A first search spends 10 full trainings; a second one, with another seed, begins from it. It
searches the task of the first one (same), or the first one had searched another data set (related)
or the same with its truth inverted, so that what was good there is bad here (adversarial).
`history` means that the scores of the first search were shown to the sampler as well as its start
points. A study does that only for scores that compare; with a related or an adversarial task this
asks how much harm it would do where the rule is mistaken. Noise and points missing are those of
benchmarks.search_efficiency.
"""

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks import learning_curves
from benchmarks.learning_curves import EPOCHS, Task
from benchmarks.score_noise import Noise, Split
from benchmarks.search_efficiency import Cell, mean_of, run_search
from benchmarks.search_methods import Engine
from tune.ledger.reading import Reading
from tune.ledger.warm_start import WarmStart
from tune.study.other_study import warm_start_from

FIRST = 10
"""Full trainings that the first search may spend."""
NOISE = 1.0
"""Noise of a score, in interquartile ranges of good scores."""
TRIALS_A_TRAINING = 3
"""Trials that a study plans for the cost of a full training, since most are stopped early. The
number of start points follows from it."""
SAME, RELATED, ADVERSARIAL = "same", "related", "adversarial"
ARMS = (
    "cold",
    *(f"{task}, {what}" for task in (SAME, RELATED, ADVERSARIAL) for what in ("start", "history")),
)
"""The ways to begin the second search: without the first, with its start points alone, and with its
scores as well."""


class WarmEngine(Engine):
    """The project's own search, begun from another."""

    def begin_from(self, other: Engine, history: bool, trainings: int) -> None:
        """Take start points, and with `history` scores as well, before the first trial.

        trainings   budget of this search
        """
        search = self._request.search.model_copy(update={"trials": TRIALS_A_TRAINING * trainings})
        asked = replace(self._request, search=search)
        found = Reading("", {"data": "here"}, tuple(other.records))
        warm: WarmStart = warm_start_from(asked, "here", "first", "memory", found)
        self._ledger.begin_from(warm if history else replace(warm, history=()))


@dataclass(frozen=True)
class Inverted(Task):
    """A task whose good configurations are bad ones of the data set, and the reverse.

    worst   the accuracy that becomes the best
    """

    worst: float = 0.0

    def curve(self, config: Mapping[str, float]) -> np.ndarray:
        """A curve of the same shape that ends where the inverted accuracy is."""
        plain = super().curve(config)
        target = self.best + self.worst - max(float(plain.max()), self.worst)
        return plain * target / float(plain.max())


def inverted(data_set: str) -> Inverted:
    """The inverted task of a data set; the worst tenth of random configurations is the best."""
    plain = learning_curves.task(data_set)
    rng = np.random.default_rng([1, int(data_set)])
    drawn = learning_curves.curves(data_set, learning_curves.random_configs(200, rng))
    worst = float(np.quantile(drawn.max(axis=1), 0.1))
    return Inverted(plain.data_set, plain.best, plain.spread, worst)


def missing(task: Task, engine: Engine, trainings: int, seed: int) -> float:
    """Run a search, and judge its choice without noise: accuracy points missing to the best."""
    split = Split(Noise(NOISE * task.spread), (seed, 0))
    truths, _ = run_search(engine, task, split, Cell(NOISE, trainings, 1))
    return task.best - float(truths[engine.candidates()[0]].max())


def play(data_set: str, other: str, repeat: int, trainings: int, sampler: str) -> dict[str, float]:
    """The points missing of each arm on a data set.

    other   the data set of the related task
    """
    seed = int.from_bytes(hashlib.sha256(f"{data_set} {repeat}".encode()).digest()[:4], "big")
    task = learning_curves.task(data_set)
    first: dict[str, Engine] = {}
    tasks = {
        SAME: task,
        RELATED: learning_curves.task(other),
        ADVERSARIAL: inverted(data_set),
    }
    for name, its_task in tasks.items():
        first[name] = Engine(seed + 1, FIRST, sampler)
        missing(its_task, first[name], FIRST, seed + 1)
    found = {}
    for arm in ARMS:
        engine = WarmEngine(seed, trainings, sampler)
        name, _, what = arm.partition(", ")
        if name in first:
            engine.begin_from(first[name], what == "history", trainings)
        found[arm] = missing(task, engine, trainings, seed)
    return found


def main() -> None:
    """Play all runs and print a table as it grows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-sets", type=int, default=6, help="data sets of the tuning half")
    parser.add_argument("--repeats", type=int, default=1, help="runs on each data set")
    parser.add_argument("--trainings", type=int, default=5, help="budget of the second search")
    parser.add_argument("--sampler", choices=("gp", "tpe"), default="gp")
    asked = parser.parse_args()
    if why := learning_curves.missing():
        print(why)
        return
    names = learning_curves.data_sets(tuning=True)
    found: dict[str, dict[tuple[str, int], float]] = {arm: {} for arm in ARMS}
    for repeat in range(asked.repeats):
        for place, name in enumerate(names[: asked.data_sets]):
            other = names[(place + 1) % len(names)]
            run = play(name, other, repeat, asked.trainings, asked.sampler)
            for arm, points in run.items():
                found[arm][name, repeat] = points
            print(name, repeat, {arm: round(points, 2) for arm, points in run.items()}, flush=True)
    cold = found["cold"]
    print(f"\n| {asked.trainings} trainings of {EPOCHS} epochs, n = {len(cold)} | points missing |")
    print("|---|---|")
    for arm in ARMS:
        less = {run: found[arm][run] - cold[run] for run in cold}
        print(f"| {arm} | {mean_of(found[arm])} (to cold: {mean_of(less)}) |")


if __name__ == "__main__":
    main()
