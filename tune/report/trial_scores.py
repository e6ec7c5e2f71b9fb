"""The interval of a trial's score, from the match table in its folder.

If the table is missing or damaged, or gives another score than the ledger, the trial has no
interval; its score stays, and the report says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from core.errors import CheckpointError, DataError
from core.metric.ap50 import FEW_IMAGES
from core.metric.limits import ClassLimits
from core.text import many
from core.values import as_ap50
from tune.ledger.records import State, TrialRecord
from tune.statistics.certainty import Interval, Scored, interval, mean_interval
from tune.statistics.epochs import epochs_for_luck, luck_of_best
from tune.store.folder import match_table_path
from tune.study.scores import scored_of

_ROUNDING = 1e-9
"""Largest difference between the AP50s of ledger and match table that counts as rounding."""


@dataclass(frozen=True)
class ScoredTrial:
    """A trial with the interval of its score.

    record      the trial as the ledger has it
    phase       search, or confirm for a repeat of a candidate on a fresh seed and split
    interval    interval of the AP50 of its best epoch, over images alone; of a complete trial it is
                around the score without the luck of the epoch's choice. None for a failed trial,
                before the first epoch, and if there is no match table that fits the score
    per_class   AP50 of each class at its best epoch; None for a class without validation instances;
                empty without epochs
    trouble     why the interval, or the luck of the epoch's choice, is unknown, a sentence without
                a full stop; empty if both are known
    scored      the score and pulls from which `interval` was computed; None without interval
    limits      what limited each class at its best epoch; empty without epochs, and where an
                earlier version ran the trial
    is_lucky    whether the trial is complete and the luck of its best epoch is unknown, and
                therefore still in the score
    """

    record: TrialRecord
    phase: Literal["search", "confirm"]
    interval: Interval | None
    per_class: tuple[float | None, ...]
    trouble: str = ""
    scored: Scored | None = None
    limits: tuple[ClassLimits, ...] = ()
    is_lucky: bool = False

    @property
    def honest(self) -> float:
        """AP50 of the best epoch, less the luck of the epoch's choice where that is known."""
        if self.scored is not None:
            return self.scored.honest
        assert self.record.ap50 is not None, "a trial with an epoch has a score"
        return self.record.ap50


def score_trial(
    record: TrialRecord, phase: Literal["search", "confirm"], folder: Path, classes: int
) -> ScoredTrial:
    """A trial with the interval of its best epoch, from the match table in its folder.

    classes   number of classes of the data set
    """
    best = record.best_epoch
    if best is None:
        return ScoredTrial(record, phase, None, ())
    report = record.epochs[best - 1]
    per_class = tuple(None if value is None else float(value) for value in report["ap50_per_class"])
    limits = tuple(ClassLimits.from_json(one) for one in report.get("limits", ()))
    trial = ScoredTrial(record, phase, None, per_class, limits=limits)
    if record.state is State.FAIL:
        return trial
    path = match_table_path(folder, best)
    try:
        scored = scored_of(record, path)
    except CheckpointError:
        kind = "damaged" if path.exists() else "missing"
        return replace(
            trial, trouble=f"trial {record.id} has no interval: its match table {path} is {kind}"
        )
    except DataError as error:
        return replace(trial, trouble=f"trial {record.id} has no interval: {error}")
    if len(scored.per_class_C) != classes:
        return replace(
            trial,
            trouble=(
                f"trial {record.id} has no interval: its match table {path} is of"
                f" {many(len(scored.per_class_C), 'class')}, and the data set has {classes}"
            ),
        )
    if not abs(scored.ap50 - record.curve[best - 1]) <= _ROUNDING:
        return replace(
            trial,
            trouble=(
                f"trial {record.id} has no interval: its match table {path} gives AP50"
                f" {as_ap50(scored.ap50)} and the ledger {as_ap50(record.curve[best - 1])}"
            ),
        )
    if record.state is State.COMPLETE:
        try:
            scored = replace(scored, luck=_luck(record, folder, best, scored))
        except (CheckpointError, DataError) as error:
            trial = replace(
                trial,
                is_lucky=True,
                trouble=(
                    f"the luck of having chosen the best epoch of trial {record.id} is unknown, so"
                    f" it is not subtracted from its AP50: {error}"
                ),
            )
    return replace(trial, interval=interval(scored), scored=scored)


def _luck(record: TrialRecord, folder: Path, best: int, scored: Scored) -> float:
    """The luck of the best epoch, by which its AP50 is too high on average.

    It reads the match tables of a few epochs. Raises CheckpointError and DataError.
    """
    tables = {best: scored}
    for epoch in epochs_for_luck(record.curve):
        if epoch == best:
            continue
        path = match_table_path(folder, epoch)
        other = scored_of(record, path)
        same_images = (other.units, other.holds_UC.shape) == (scored.units, scored.holds_UC.shape)
        if not same_images or not abs(other.ap50 - record.curve[epoch - 1]) <= _ROUNDING:
            raise DataError(
                f"the match table {path} gives another score than the ledger, or is of other images"
            )
        tables[epoch] = other
    return luck_of_best(record.curve, tables)


def class_interval(repeats: Sequence[Scored], column: int) -> Interval | None:
    """The interval over images of one class's AP50, the mean over the repeats of a row.

    It is None if the class is in fewer than FEW_IMAGES images of a repeat.

    column   the class's place, counted from 0
    """
    if any(
        np.isnan(one.per_class_C[column]) or one.images_C[column] < FEW_IMAGES for one in repeats
    ):
        return None
    return mean_interval([_class_alone(one, column) for one in repeats], None)


def _class_alone(scored: Scored, column: int) -> Scored:
    """The score of one class, as if there were no other."""
    present = int((~np.isnan(scored.per_class_C)).sum())
    one = slice(column, column + 1)
    return Scored(
        float(scored.per_class_C[column]),
        scored.per_class_C[one],
        scored.units,
        scored.share_UC[:, one] * present,  # the mean over one class instead of all
        scored.bias_C[one] * present,
        scored.holds_UC[:, one],
        scored.images_C[one],
    )
