"""COCO's twelve numbers of a set of predictions, as papers print them.

They are those of pycocotools' COCOeval to 1e-12. It compares each detection with each instance in
Python, at ten IoUs and in four ranges of area, which took minutes for crowded images; here a
detection is compared only with the instances that it overlaps by half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.labels.label_maps import find_instances
from core.metric.ap50 import average_precision, mask_overlaps, ranks
from core.sample import Detections, Sample

SUMMARY_NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""The numbers in pycocotools' order. All but AP50 and AP75 are means over the IoUs .50 to .95; all
but AR_1 and AR_10 take at most 100 detections per image and class; a small instance has at most
32^2 pixels, a large one at least 96^2."""

_IOUS = np.linspace(0.5, 0.95, 10)
_AREAS = ((0, 10**10), (0, 32**2), (32**2, 96**2), (96**2, 10**10))
"""The ranges of area in pixels, both ends included: all, small, medium, large."""
_MOST = (1, 10, 100)
"""Numbers of detections per image and class that count."""


@dataclass(frozen=True)
class GradedMatches:
    """The detections of one image, the best score first, and what they matched.

    The axes X and Y are the four ranges of area and the ten IoUs. Only the 100 best detections of
    each class are there.

    labels_D      int64 [D], class numbers
    scores_D      float32 [D]
    ranks_D       int64 [D], 0-based place among the detections of the class
    hit_XYD       bool, matched an annotated instance of the range
    ignored_XYD   bool, neither right nor wrong: matched a crowd region or an instance outside of
                  the range, or matched nothing and is outside of the range itself
    truths_XC     int64 [X, C], annotated instances of each range and class
    """

    labels_D: NDArray[np.int64]
    scores_D: NDArray[np.float32]
    ranks_D: NDArray[np.int64]
    hit_XYD: NDArray[np.bool_]
    ignored_XYD: NDArray[np.bool_]
    truths_XC: NDArray[np.int64]


def coco_summary(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: int
) -> Mapping[str, float | None]:
    """The twelve numbers of masks by their SUMMARY_NAMES, in 0..1; None without ground truth.

    `classes` is C. AP50 is that of `core.metric.ap50` with at most 100 detections per image and
    class.
    """
    return summarize(
        [
            match_graded(sample, found, classes)
            for sample, found in zip(samples, detections, strict=True)
        ]
    )


def match_graded(sample: Sample, found: Detections, classes: int) -> GradedMatches:
    """Match the detections in one sample with its ground truth, as COCOeval does.

    `classes` is C. The best score chooses first, and takes the instance that it overlaps most; an
    ignored one, such as a crowd region, only where no other is left.
    """
    order = np.argsort(-found.scores_N, kind="stable")
    order = order[ranks(found.labels_N[order]) < max(_MOST)]
    labels_D = found.labels_N[order]
    crops = [found.masks[row] for row in order.tolist()]
    truth = find_instances(sample.label_maps)
    labels_G, crowd_G = sample.labels_N[truth.ids_N - 1], sample.crowd_N[truth.ids_N - 1]
    overlaps = mask_overlaps(crops, sample.label_maps, truth, crowd_G)
    same_K = (overlaps.iou >= _IOUS[0]) & (labels_D[overlaps.detection] == labels_G[overlaps.truth])
    candidates: dict[int, list[tuple[float, int]]] = {}
    for detection, instance, iou in zip(
        overlaps.detection[same_K].tolist(),
        overlaps.truth[same_K].tolist(),
        overlaps.iou[same_K].tolist(),
        strict=True,
    ):
        candidates.setdefault(detection, []).append((iou, instance))

    areas_D = np.array([crop.area for crop in crops], np.int64)
    hit_XYD = np.zeros((len(_AREAS), len(_IOUS), len(order)), np.bool_)
    ignored_XYD = np.zeros_like(hit_XYD)
    truths_XC = np.zeros((len(_AREAS), classes), np.int64)
    for x, (low, high) in enumerate(_AREAS):
        ignored_G = crowd_G | (truth.areas_N < low) | (truth.areas_N > high)
        truths_XC[x] = np.bincount(labels_G[~ignored_G] - 1, minlength=classes)
        outside_D = (areas_D < low) | (areas_D > high)
        for y, iou in enumerate(_IOUS.tolist()):
            matched = _takes_ignored(candidates, iou, ignored_G.tolist(), crowd_G.tolist())
            ignored_XYD[x, y] = outside_D
            for detection, is_ignored in matched.items():
                hit_XYD[x, y, detection] = not is_ignored
                ignored_XYD[x, y, detection] = is_ignored
    return GradedMatches(
        labels_D, found.scores_N[order], ranks(labels_D), hit_XYD, ignored_XYD, truths_XC
    )


def _takes_ignored(
    candidates: Mapping[int, Sequence[tuple[float, int]]],
    least: float,
    ignored: Sequence[bool],
    crowd: Sequence[bool],
) -> dict[int, bool]:
    """Match greedily; returns for each matched detection whether its instance is ignored.

    candidates   for each detection, the best score first, IoU and row of the instances it overlaps
    least        least IoU of a match
    ignored      for each instance, whether it is a crowd region or outside of the range of area
    crowd        for each instance, whether any number of detections may take it
    """
    free = [True] * len(ignored)
    matched = {}
    for detection, pairs in candidates.items():
        # Of equal overlaps the later instance is taken.
        best = max(
            (
                (not ignored[instance], iou, instance)
                for iou, instance in pairs
                if iou >= least and free[instance]
            ),
            default=None,
        )
        if best is not None:
            counts, _, instance = best
            free[instance] = crowd[instance]
            matched[detection] = not counts
    return matched


def summarize(images: Sequence[GradedMatches]) -> Mapping[str, float | None]:
    """The twelve numbers from the matches of each image."""
    labels_D = np.concatenate([one.labels_D for one in images])
    scores_D = np.concatenate([one.scores_D for one in images])
    ranks_D = np.concatenate([one.ranks_D for one in images])
    hit_XYD = np.concatenate([one.hit_XYD for one in images], axis=2)
    ignored_XYD = np.concatenate([one.ignored_XYD for one in images], axis=2)
    truths_XC = np.sum([one.truths_XC for one in images], axis=0)
    # Classes without an instance in a range stay nan, and are left out of its means.
    precision_XYC = np.full((len(_AREAS), len(_IOUS), truths_XC.shape[1]), np.nan)
    recall_MXYC = np.full((len(_MOST), *precision_XYC.shape), np.nan)
    for x, c in zip(*np.nonzero(truths_XC), strict=True):
        rows = np.flatnonzero(labels_D == c + 1)
        for y in range(len(_IOUS)):
            counted = rows[~ignored_XYD[x, y, rows]]
            hits = hit_XYD[x, y, counted]
            precision_XYC[x, y, c] = average_precision(
                scores_D[counted], hits, int(truths_XC[x, c])
            )
            for m, most in enumerate(_MOST):
                found = np.count_nonzero(hits & (ranks_D[counted] < most))
                recall_MXYC[m, x, y, c] = found / truths_XC[x, c]
    parts = [
        *(precision_XYC[0], precision_XYC[0, 0], precision_XYC[0, 5], *precision_XYC[1:]),
        *(*recall_MXYC[:, 0], *recall_MXYC[2, 1:]),
    ]
    return {name: _mean(part) for name, part in zip(SUMMARY_NAMES, parts, strict=True)}


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean without nan; None where nothing else is there."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else None
