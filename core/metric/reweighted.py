"""AP50 of another sample of images, from the match table of the one that was evaluated.

Matching at one IoU never looks beyond an image, so another sample of images is the same table with
other weights of its images: nothing is matched again, and the result is exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.metric.ap50 import RECALL_LEVELS, MatchTable

MOST_PULLS = 64
"""Largest number of units whose pulls are reported for an epoch."""

_AT_ONCE = 128
"""Number of resamples that are computed together: few enough to stay in the processor's cache."""


class Reweighted:
    """AP50 of one match table as a function of how often each of its units counts.

    table      the match table of one evaluated epoch, with C classes
    max_dets   number of detections that count per image and class (`metric.max_dets`); None for all
    units      the unit of each image, such as its group; None where each image is its own unit

    Detections of equal score keep the order of the images, whatever the weights.
    """

    def __init__(
        self, table: MatchTable, max_dets: int | None, units: Sequence[str] | None = None
    ) -> None:
        named = table.image_names if units is None else tuple(units)
        assert len(named) == len(table.image_names), "one unit for each image"
        self.units: tuple[str, ...] = tuple(dict.fromkeys(named))
        """Names of the U units."""
        place = {unit: number for number, unit in enumerate(self.units)}
        unit_I = np.array([place[unit] for unit in named], dtype=np.int64)
        self.truths_UC = np.zeros((len(self.units), table.truths_IC.shape[1]), dtype=np.int64)
        """Ground-truth instances of each unit and class."""
        np.add.at(self.truths_UC, unit_I, table.truths_IC)
        self._classes = [
            _Ranking.of(table, label, max_dets, unit_I, len(self.units))
            for label in range(1, 1 + len(self.truths_UC.T))
        ]

    @property
    def per_class(self) -> NDArray[np.float64]:
        """AP50 of each class as evaluated, float64 [C]; nan for a class without ground truth."""
        result_C: NDArray[np.float64] = self.ap50(np.ones((len(self.units), 1)))[0]
        return result_C

    def ap50(self, weights_UR: ArrayLike) -> NDArray[np.float64]:
        """AP50 of each class, float64 [R, C], for each of R weightings of the units, [U, R].

        It is nan where there is no ground truth. The weight of a unit, a whole number from 0, is
        how often its images count. Weights of 1 give the AP50 that was evaluated.
        """
        # In float32, sums of whole numbers under 2^24 are exact.
        weights = np.asarray(weights_UR, dtype=np.float32)
        result_RC = np.full((weights.shape[1], len(self._classes)), np.nan)
        for start in range(0, weights.shape[1], _AT_ONCE):
            some_UR = weights[:, start : start + _AT_ONCE]
            for column, ranking in enumerate(self._classes):
                truths_R = self.truths_UC[:, column].astype(np.float64) @ some_UR
                result_RC[start : start + _AT_ONCE, column] = _average_precision(
                    ranking.hits_KU @ some_UR, ranking.rows_KU @ some_UR, truths_R
                )
        return result_RC

    def without_each(self) -> NDArray[np.float64]:
        """AP50 of each class without each unit, float64 [U, C]; nan without ground truth left."""
        result_UC = np.full(self.truths_UC.shape, np.nan)
        for column, ranking in enumerate(self._classes):
            truths_U = self.truths_UC[:, column].astype(np.float64)
            hits_K1, rows_K1 = (
                counts_KU.sum(axis=1, keepdims=True)
                for counts_KU in (ranking.hits_KU, ranking.rows_KU)
            )
            result_UC[:, column] = _average_precision(
                hits_K1 - ranking.hits_KU, rows_K1 - ranking.rows_KU, truths_U.sum() - truths_U
            )
        return result_UC

    def jackknife(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The pull of each unit on the mean AP50 through each class, [U, C], and the bias, [C].

        The pull of unit i is its jackknife pseudo-value less the mean, (n - 1) (mean_j AP(-j) -
        AP(-i)), divided by n and multiplied by sqrt(n / (n - 1)), so that the sum of the squared
        pulls of all units is the variance of AP50 that is due to images. It is 0 where no other
        unit holds the class. The bias of a class, (n - 1) (mean_j AP(-j) - AP), is its part in how
        much the mean AP50 is too high on average; it is 0 for a class in one unit. Both are divided
        by the number of classes with ground truth, since they are parts of a mean over these.
        """
        per_class_C = self.per_class
        present_C = ~np.isnan(per_class_C)
        n = len(self.units)
        share_UC, bias_C = np.zeros(self.truths_UC.shape), np.zeros(len(per_class_C))
        if n > 1:
            left_UC = self.without_each()
            known_UC = ~np.isnan(left_UC)
            mean_C = np.where(known_UC, left_UC, 0.0).sum(axis=0) / np.maximum(
                known_UC.sum(axis=0), 1
            )
            classes = max(int(present_C.sum()), 1)
            share_UC[known_UC] = (mean_C - left_UC)[known_UC] * math.sqrt((n - 1) / n) / classes
            in_several_C = present_C & (np.count_nonzero(self.truths_UC, axis=0) > 1)
            bias_C[in_several_C] = (n - 1) * (mean_C - per_class_C)[in_several_C] / classes
        return share_UC, bias_C


def pulls(table: MatchTable, max_dets: int | None, groups: Sequence[str]) -> tuple[float, ...]:
    """How far each unit pulled the AP50 of a match table (see `Reweighted.jackknife`), rounded.

    groups   the group of each image, which is its own name where images are not grouped

    A unit is a group. More than MOST_PULLS groups are put together to that number of blocks, so
    that a report stays small and takes little time. Two models that were evaluated on the same
    images have the same units in the same order.
    """
    order = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    blocks = min(len(order), MOST_PULLS)
    units = [str(order[name] * blocks // len(order)) for name in groups]
    share_UC, _ = Reweighted(table, max_dets, units).jackknife()
    return tuple(round(pull, 6) for pull in share_UC.sum(axis=1).tolist())


@dataclass(frozen=True)
class _Ranking:
    """The detections of one class, best score first, as counts up to each of K hits, by unit.

    hits_KU   float32, number of the unit's hits up to and including this hit
    rows_KU   float32, number of the unit's detections up to and including this hit
    """

    hits_KU: NDArray[np.float32]
    rows_KU: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        table: MatchTable,
        label: int,
        max_dets: int | None,
        unit_I: NDArray[np.int64],
        units: int,
    ) -> "_Ranking":
        """Rank the detections of class `label`; unit_I is the number of each image's unit."""
        counted_D = (table.label_D == label) & ~table.ignored_D
        if max_dets is not None:
            counted_D &= table.rank_D < max_dets
        rows = np.flatnonzero(counted_D)
        rows = rows[np.argsort(-table.score_D[rows], kind="stable")]
        unit_D, hits = unit_I[table.image_D[rows]], np.flatnonzero(table.hit_D[rows])
        # A detection is entered at the first hit at or after it; those after the last hit, whose
        # row is dropped below, lower no precision that counts.
        rows_KU = np.zeros((len(hits) + 1, units), dtype=np.float32)
        np.add.at(rows_KU, (np.searchsorted(hits, np.arange(len(rows))), unit_D), 1)
        hits_KU = np.zeros((len(hits), units), dtype=np.float32)
        hits_KU[np.arange(len(hits)), unit_D[hits]] = 1
        return cls(np.cumsum(hits_KU, axis=0), np.cumsum(rows_KU[:-1], axis=0))


def _average_precision(
    hits_KR: NDArray[np.floating], rows_KR: NDArray[np.floating], truths_R: NDArray[np.floating]
) -> NDArray[np.float64]:
    """AP50 of one class for each of R weightings, [R]; `core.metric.ap50` explains the formula."""
    hits_RK = np.ascontiguousarray(hits_KR.T, dtype=np.float64)
    precision_RK = hits_RK / (np.ascontiguousarray(rows_KR.T, dtype=np.float64) + np.spacing(1))
    envelope_RK = np.maximum.accumulate(precision_RK[:, ::-1], axis=1)[:, ::-1]
    result_R = np.full(len(hits_RK), np.nan)
    for row in np.flatnonzero(truths_R > 0):
        reached_at = np.searchsorted(hits_RK[row] / truths_R[row], RECALL_LEVELS, side="left")
        result_R[row] = np.append(envelope_RK[row], 0.0)[reached_at].mean()
    return result_R
