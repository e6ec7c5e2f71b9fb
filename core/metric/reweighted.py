"""AP50 of another sample of images, from the match table of the one that was evaluated.

Matching at one IoU never looks beyond an image, so another sample of images is the same table with
other weights of its images: nothing is matched again, and the result is exact.
"""

import functools
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
        result_C: NDArray[np.float64] = self._left_out[-1]
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
                hits_KU, rows_KU = ranking.counts
                result_RC[start : start + _AT_ONCE, column] = _average_precision(
                    hits_KU @ some_UR, rows_KU @ some_UR, truths_R
                )
        return result_RC

    def without_each(self) -> NDArray[np.float64]:
        """AP50 of each class without each unit, float64 [U, C]; nan without ground truth left."""
        result_UC: NDArray[np.float64] = self._left_out[:-1]
        return result_UC

    @functools.cached_property
    def _left_out(self) -> NDArray[np.float64]:
        """AP50 of each class, [U + 1, C], with one unit left out; the last row has all units."""
        columns = zip(self._classes, self.truths_UC.T, strict=True)
        return np.stack([ranking.without_each(truths_U) for ranking, truths_U in columns], axis=1)

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
    """The detections of one class, best score first, as far as the last of its K hits.

    units       number of units
    unit_K      unit of each hit
    rows_K      number of detections up to and including each hit
    unit_D      unit of each detection
    slot_D      place, among the hits, of the first hit at or after each detection
    """

    units: int
    unit_K: NDArray[np.int64]
    rows_K: NDArray[np.int64]
    unit_D: NDArray[np.int64]
    slot_D: NDArray[np.int64]

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
        hits = np.flatnonzero(table.hit_D[rows])
        # Detections after the last hit lower no precision that counts.
        rows = rows[: hits[-1] + 1] if len(hits) else rows[:0]
        unit_D = unit_I[table.image_D[rows]]
        slot_D = np.searchsorted(hits, np.arange(len(rows)))
        return cls(units, unit_D[hits], hits + 1, unit_D, slot_D)

    @functools.cached_property
    def counts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The hits of each unit up to and including each hit, and its detections: [K, U] each."""
        hits = len(self.unit_K)
        hits_KU = np.zeros((hits, self.units), dtype=np.float32)
        hits_KU[np.arange(hits), self.unit_K] = 1
        rows_KU = np.zeros((hits, self.units), dtype=np.float32)
        np.add.at(rows_KU, (self.slot_D, self.unit_D), 1)
        return np.cumsum(hits_KU, axis=0), np.cumsum(rows_KU, axis=0)

    def without_each(self, truths_U: NDArray[np.int64]) -> NDArray[np.float64]:
        """AP50 with one unit left out, then with all: [U + 1]; nan where no ground truth is left.

        truths_U   number of ground-truth instances of each unit
        """
        hits = len(self.unit_K)
        left_B = truths_U.sum() - np.append(truths_U, 0)  # B: the units, then one that has nothing
        result_B = np.where(left_B > 0, 0.0, np.nan)
        if not hits:
            return result_B
        for start in range(0, len(left_B), _UNITS_AT_ONCE):
            some = slice(start, start + _UNITS_AT_ONCE)
            truths_B1 = np.maximum(left_B[some], 1)[:, None]
            offsets_B1 = np.arange(len(truths_B1))[:, None] * hits
            mine_K, mine_D = (
                (unit >= start) & (unit < start + len(truths_B1))
                for unit in (self.unit_K, self.unit_D)
            )
            hits_BK = np.ones((len(truths_B1), hits), dtype=np.int64)
            hits_BK[self.unit_K[mine_K] - start, np.flatnonzero(mine_K)] = 0
            hits_BK = np.cumsum(hits_BK, axis=1)
            rows_BK = np.bincount(
                (self.unit_D[mine_D] - start) * hits + self.slot_D[mine_D],
                minlength=hits_BK.size,
            ).reshape(hits_BK.shape)
            rows_BK = self.rows_K - np.cumsum(rows_BK, axis=1)
            precision_BK = hits_BK / (rows_BK + np.spacing(1))
            # The least number of hits whose recall, as a quotient of floats, reaches each level.
            least_BL = np.ceil(RECALL_LEVELS * truths_B1 - _ROUNDING).astype(np.int64)
            least_BL += least_BL / truths_B1 < RECALL_LEVELS
            reached_BL = least_BL <= hits_BK[:, -1:]
            # Rows of counts follow each other in one ascending array.
            apart_B1 = np.arange(len(truths_B1))[:, None] * (hits + 1)
            flat = np.searchsorted((hits_BK + apart_B1).ravel(), least_BL + apart_B1)
            place_BL = np.where(reached_BL, flat - offsets_B1, hits - 1)
            between_BL = np.maximum.reduceat(
                precision_BK.ravel(), (place_BL + offsets_B1).ravel()
            ).reshape(place_BL.shape)
            envelope_BL = np.maximum.accumulate(between_BL[:, ::-1], axis=1)[:, ::-1]
            result_B[some] += np.where(reached_BL, envelope_BL, 0.0).mean(axis=1)
        return result_B


_UNITS_AT_ONCE = 32
"""Number of units that are left out together: few enough to stay in the processor's cache."""
_ROUNDING = 1e-6


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
