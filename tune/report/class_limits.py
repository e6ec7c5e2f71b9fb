"""The limits of each class's AP50 in the rows of the main table: instances and detections by kind.

They are those that the trials reported (see `core.metric.limits`). Trials of an earlier version
reported none; their rows are left out.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.metric.limits import DETECTION_KINDS, INSTANCE_KINDS, MENDS, ClassLimits
from tune.report.main_table import MainRow
from tune.report.trial_scores import ScoredTrial

MOST_ROWS = 6
"""Largest number of variants that are shown: those with the highest AP50."""
MOST_CLASSES = 20
"""Largest number of classes that are shown of a row: those with the lowest AP50."""


@dataclass(frozen=True)
class RowLimits:
    """The limits of one class's AP50 at the best epochs of a row's trials, one trial a repeat.

    row          name of the row
    label        name of the class
    repeats      number of the row's trials
    instances    number of annotated instances of each kind, by INSTANCE_KINDS, over all repeats
    called       name of the class that most instances of the kind `called_another_class` are
                 called; None where there are none
    detections   number of detections of each kind, by DETECTION_KINDS, over all repeats
    ap50         AP50 of the class, mean over the repeats that have an instance of it
    mended       AP50 of the class if one kind of error were mended, by MENDS, mean over the repeats
                 of which it is known; None where it is known of none
    """

    row: str
    label: str
    repeats: int
    instances: Mapping[str, int]
    called: str | None
    detections: Mapping[str, int]
    ap50: float
    mended: Mapping[str, float | None]

    def share(self, kind: str) -> float:
        """The share of the annotated instances that are of a kind, in 0..1."""
        return self.instances[kind] / sum(self.instances.values())

    @property
    def best_mend(self) -> str | None:
        """The error whose mending would gain most AP50, by MENDS; None if none would gain any."""
        gains = {mend: value - self.ap50 for mend, value in self.mended.items() if value}
        best = max(gains, key=gains.__getitem__, default=None)
        return best if best is not None and gains[best] > 0 else None


def limits_of_rows(
    rows: Sequence[MainRow], trials: Sequence[ScoredTrial], classes: Sequence[str], variants: bool
) -> tuple[RowLimits, ...]:
    """The limits of the classes' AP50 in the best variants, or in the best trial, best row first.

    classes    names of the classes
    variants   whether the rows are variants: of these the best MOST_ROWS are taken, of trials one

    Of each row the MOST_CLASSES classes with the lowest AP50 are taken, in the order of `classes`.
    Classes without an annotated instance are left out, and so are rows of which a trial reported
    nothing.
    """
    # Trials are ordered by AP50 as measured: answer and table of classes take the first one too.
    best = sorted(rows, key=lambda row: -row.ap50)[:MOST_ROWS] if variants else rows[:1]
    by_number = {trial.record.id: trial for trial in trials}
    of_rows = (
        list(_of_row(row.name, [by_number[number] for number in row.trials], classes))
        for row in best
    )
    return tuple(one for found in of_rows for one in _weakest(found))


def _weakest(found: Sequence[RowLimits]) -> list[RowLimits]:
    """The MOST_CLASSES of them with the lowest AP50, in their order."""
    weakest = sorted(found, key=lambda one: one.ap50)[:MOST_CLASSES]
    return [one for one in found if one in weakest]


def _of_row(
    name: str, trials: Sequence[ScoredTrial], classes: Sequence[str]
) -> Iterator[RowLimits]:
    """The limits of each class of a row, but for classes without an annotated instance."""
    if any(len(trial.limits) != len(classes) for trial in trials):
        return
    for place, label in enumerate(classes):
        limits = [trial.limits[place] for trial in trials]
        scores = [score for trial in trials if (score := trial.per_class[place]) is not None]
        if not scores:
            continue
        called = [sum(counts) for counts in zip(*(one.called for one in limits), strict=True)]
        yield RowLimits(
            name,
            label,
            len(trials),
            {kind: sum(one.instances[kind] for one in limits) for kind in INSTANCE_KINDS},
            classes[called.index(max(called))] if any(called) else None,
            {kind: sum(one.detections[kind] for one in limits) for kind in DETECTION_KINDS},
            statistics.fmean(scores),
            {mend: _mean_mended(limits, mend) for mend in MENDS},
        )


def _mean_mended(limits: Sequence[ClassLimits], mend: str) -> float | None:
    known = [value for one in limits if (value := one.mended[mend]) is not None]
    return statistics.fmean(known) if known else None
