"""The rate at which a study trained, over the wall time of its searches, and what held it back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.text import many
from core.values import as_percent
from tune.engine.packing import read_packing
from tune.study.reading import Study

GOAL = 10_000.0
"""Training images a minute that a study packed on one H100 or H200 is to reach: ten times what
torchvision's plain loop trains there, 17.1 images a second (results/LOG.md)."""


@dataclass(frozen=True)
class Work:
    """The sums over all epochs of some trials.

    images       number of training images, each counted once an epoch
    training     seconds in training, of which `waiting` went by until the loader's next batch
    evaluating   seconds in evaluation
    """

    images: int = 0
    training: float = 0.0
    waiting: float = 0.0
    evaluating: float = 0.0

    def to_json(self) -> dict[str, float]:
        """The numbers by name."""
        return dict(vars(self))

    def without(self, before: Mapping[str, float]) -> "Work":
        """The work that was done since `before`, in the form of `to_json`."""
        return Work(**{name: value - before[name] for name, value in vars(self).items()})


def work_of(study: Study | None) -> Work:
    """The work of a study so far, that of its confirmation included."""
    if study is None:
        return Work()
    confirming = () if study.confirmation is None else study.confirmation.records
    epochs = [epoch for record in (*study.records, *confirming) for epoch in record.epochs]
    return Work(
        sum(round(one["images_per_second"] * one["train_seconds"]) for one in epochs),
        sum(float(one["train_seconds"]) for one in epochs),
        sum(float(one["wait_seconds"]) for one in epochs),
        sum(float(one["evaluate_seconds"]) for one in epochs),
    )


@dataclass(frozen=True)
class Rate:
    """The rate of a study.

    work      what its runs did, except those that were killed, whose time nobody measured
    seconds   wall time of these runs: start, measurement, training, evaluation and end
    runs      number of these runs
    killed    number of runs that were killed
    places    number of trials that can run at once
    packed    training images a second of all trials at once, as measured before the study; None
              without a GPU
    alone     the same of one trial alone on the GPU; None without a GPU
    """

    work: Work
    seconds: float
    runs: int
    killed: int
    places: int
    packed: float | None
    alone: float | None

    @property
    def per_minute(self) -> float:
        """Training images a minute over the whole wall time."""
        return 60 * self.work.images / self.seconds if self.seconds else 0.0

    def sentences(self, on_gpu: bool) -> tuple[str, ...]:
        """The rate in words, whether it reaches the goal, and where the time went."""
        if not self.seconds:
            return ("No run of the study was measured from its beginning to its end.",)
        work = self.work
        found = [
            f"{self.per_minute:,.0f} training images a minute over the whole wall time of the"
            f" study: n = {work.images:,} images in {self.seconds:,.0f} s"
            f" ({many(self.runs, 'run')}; killed and not counted: {self.killed})."
        ]
        if on_gpu:
            met = self.per_minute >= GOAL
            found.append(
                f"The goal of {GOAL:,.0f} a minute is {'met' if met else 'not met'}"
                f" ({as_percent(self.per_minute / GOAL)})."
            )
        if self.packed is not None and self.alone is not None:
            found.append(
                f"Training steps alone, measured before the study: {60 * self.packed:,.0f} images"
                f" a minute with {self.places} trials at once, {60 * self.alone:,.0f} with one."
            )
        held = self.places * self.seconds
        rest = held - work.training - work.evaluating
        found.append(
            f"Of the time of its {self.places} places, {as_percent(work.training / held)} went to"
            f" training ({as_percent(work.waiting / held)} to waiting for prepared images),"
            f" {as_percent(work.evaluating / held)} to evaluation and"
            f" {as_percent(rest / held)} to all else: the start of the study and its trials,"
            " measuring, places that stayed empty, and the report at its end."
        )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {**vars(self), "work": self.work.to_json(), "per_minute": self.per_minute}


def rate_of(study: Study, runs: Sequence[Mapping[str, Any]], places: int) -> Rate:
    """The rate of a study.

    runs     its runs in proof.json (see `benchmarks.proof.state`)
    places   number of trials that can run at once
    """
    measured = [run for run in runs if "seconds" in run]
    work = Work()
    for run in measured:
        after = Work(**run["after"]).without(run["before"])
        work = Work(
            *(
                one + other
                for one, other in zip(vars(work).values(), vars(after).values(), strict=True)
            )
        )
    packing = read_packing(study.folder.packing)
    return Rate(
        work,
        sum(float(run["seconds"]) for run in measured),
        len(measured),
        len(runs) - len(measured),
        places,
        None if packing is None else packing.images_per_second_packed,
        None if packing is None else packing.images_per_second_alone,
    )


def places_of(study: Study, cpus: int, gpus: int) -> int:
    """Number of trials of a study that can run at once on this machine."""
    resources = study.description["resources"]
    share = float(resources["gpus_per_trial"])
    by_cpu = max(1, cpus // int(resources["cpus_per_trial"]))
    return by_cpu if not share else max(1, min(by_cpu, round(gpus / share)))
