"""The limits of each class's AP50: every instance and every detection is of exactly one kind.

The kinds are those of D. Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection
Errors", 2020, changed in three ways. Each instance has a kind as well, where TIDE counts only those
that no detection comes near. An IoU of 0.5 with another class is looked at before a smaller one
with the own class, as a person would say it. And a detection that comes near an instance of another
class, with an IoU under 0.5, is background, where TIDE has a kind of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.metric.ap50 import IOU, ImageMatches, average_precision, concatenated, ranks

LEAST_IOU = 0.1
"""IoU from which on a detection is a bad outline of an instance, as in TIDE; below, the
two have nothing to do with each other."""

CALLED, OUTLINED = "called_another_class", "badly_outlined"
INSTANCE_KINDS = ("found", CALLED, OUTLINED, "not_found")
"""The kinds of annotated instances. The first that fits holds: a detection of its class took it; a
detection of another class has an IoU of 0.5 or more with it; a detection of its class has an IoU of
LEAST_IOU or more with it; none of these."""

DETECTION_KINDS = ("right", "duplicate", "of_another_class", OUTLINED, "background")
"""The kinds of detections. The first that fits holds: it took an instance; it has an IoU of 0.5 or
more with an instance of its class, which another detection took; it has an IoU of 0.5 or more with
an instance of another class; it has an IoU of LEAST_IOU or more with an instance of its class; none
of these."""

MENDS = (CALLED, OUTLINED, "not_found", "duplicate", "background")
"""The errors that can be imagined mended, one kind at a time (see `ClassLimits.mended`)."""


@dataclass(frozen=True)
class ClassLimits:
    """The limits of one class's AP50: numbers of instances and detections by kind.

    Only detections that count in AP50 are there: the best `metric.max_dets` of each image and
    class, without those that matched a crowd region. Crowd regions are no instances.

    instances    number of annotated instances of each kind, by INSTANCE_KINDS
    called       for each class 1, 2, ...: number of the instances that are called this class
                 instead of their own; of several detections the one with the highest score says so
    detections   number of detections of each kind, by DETECTION_KINDS; as many are right as
                 instances are found
    mended       AP50 of the class, in 0..1, if one kind of error were mended, by MENDS; None where
                 there would be nothing to find

    An error is mended as follows:

    called_another_class   these instances are found, at the score of the detection that calls them
                           so, and detections of the kind `of_another_class` are gone
    badly_outlined         these detections, the best score first, take the instance that they
                           overlap most; one whose instance is found already is gone
    not_found              these instances are gone
    duplicate, background  these detections are gone
    """

    instances: Mapping[str, int]
    called: tuple[int, ...]
    detections: Mapping[str, int]
    mended: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """The limits as a dictionary of JSON types."""
        return asdict(self) | {"called": list(self.called)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ClassLimits":
        """The limits from which `to_json` made `content`."""
        return cls(**{**content, "called": tuple(content["called"])})


def class_limits(
    images: Sequence[ImageMatches], classes: int, max_dets: int
) -> tuple[ClassLimits, ...]:
    """The limits of class 1, 2, ..., `classes`, from the matches of masks of all images.

    max_dets   number of detections per image and class that count
    """
    every = _pool(images, max_dets)
    return tuple(_of_class(every, label, classes) for label in range(1, classes + 1))


@dataclass(frozen=True)
class _Pooled:
    """The detections that count and the instances of all images, each with its kind.

    kinds_D, kinds_G    indices into DETECTION_KINDS and INSTANCE_KINDS
    called_K            instances that are called another class, ascending
    callers_K           the detection that calls each of them so, with the highest score
    outlined_O          instances, not found, that a badly outlined detection overlaps most of all
    outlines_O          that detection of each, with the highest score
    """

    labels_D: NDArray[np.int64]
    scores_D: NDArray[np.float32]
    kinds_D: NDArray[np.int64]
    labels_G: NDArray[np.int64]
    kinds_G: NDArray[np.int64]
    called_K: NDArray[np.int64]
    callers_K: NDArray[np.int64]
    outlined_O: NDArray[np.int64]
    outlines_O: NDArray[np.int64]


def _pool(images: Sequence[ImageMatches], max_dets: int) -> _Pooled:
    """Join the detections and instances of all images, and give each its kind."""
    labels, scores, taken, truth_labels = [], [], [], []
    detections, truths, ious = [], [], []
    first_D = first_G = 0
    for one in images:
        counts_D = ~one.by_mask.ignored_D & (ranks(one.labels_D) < max_dets)
        counts_G = ~one.crowd_G
        place_D, place_G = first_D + np.cumsum(counts_D) - 1, first_G + np.cumsum(counts_G) - 1
        first_D, first_G = first_D + int(counts_D.sum()), first_G + int(counts_G.sum())
        labels.append(one.labels_D[counts_D])
        scores.append(one.scores_D[counts_D])
        taken.append(np.append(place_G, -1)[one.by_mask.taken_D[counts_D]])
        truth_labels.append(one.labels_G[counts_G])
        pairs = one.overlaps
        counts_K = counts_D[pairs.detection] & counts_G[pairs.truth]
        detections.append(place_D[pairs.detection[counts_K]])
        truths.append(place_G[pairs.truth[counts_K]])
        ious.append(pairs.iou[counts_K])
    labels_D, scores_D = concatenated(labels, np.int64), concatenated(scores, np.float32)
    taken_D, labels_G = concatenated(taken, np.int64), concatenated(truth_labels, np.int64)
    d, g, iou = (
        concatenated(detections, np.int64),
        concatenated(truths, np.int64),
        concatenated(ious, np.float64),
    )
    order = np.lexsort((g, d))  # of equal overlaps that with the first instance is taken
    d, g, iou = d[order], g[order], iou[order]

    own, half = labels_D[d] == labels_G[g], iou >= IOU
    near = own & (iou >= LEAST_IOU)
    tests_D = (taken_D >= 0, *(_marked(d[k], labels_D) for k in (own & half, ~own & half, near)))
    kinds_D = np.select(tests_D, range(4), 4)
    found_G = _marked(taken_D[taken_D >= 0], labels_G)
    tests_G = (found_G, *(_marked(g[k], labels_G) for k in (~own & half, near)))
    kinds_G = np.select(tests_G, range(3), 3)

    calls = np.flatnonzero(~own & half & (kinds_G[g] == INSTANCE_KINDS.index(CALLED)))
    calls = calls[_best_rows(g[calls], scores_D[d[calls]])]
    outlines = np.flatnonzero(near & (kinds_D[d] == DETECTION_KINDS.index(OUTLINED)))
    outlines = outlines[_best_rows(d[outlines], iou[outlines])]
    outlines = outlines[~found_G[g[outlines]]]
    outlines = outlines[_best_rows(g[outlines], scores_D[d[outlines]])]
    return _Pooled(
        labels_D, scores_D, kinds_D, labels_G, kinds_G,
        g[calls], d[calls], g[outlines], d[outlines],
    )  # fmt: skip


def _marked(rows: NDArray[np.int64], like: NDArray[np.int64]) -> NDArray[np.bool_]:
    """A bool array of the length of `like` that is true at these rows."""
    marked = np.zeros(len(like), dtype=np.bool_)
    marked[rows] = True
    return marked


def _best_rows(keys_K: NDArray[np.int64], values_K: NDArray[np.floating]) -> NDArray[np.int64]:
    """The row with the highest value of each distinct key, keys ascending; of equals the first."""
    order = np.lexsort((-values_K, keys_K))
    return order[np.unique(keys_K[order], return_index=True)[1]]


def _of_class(every: _Pooled, label: int, classes: int) -> ClassLimits:
    """Count one class's kinds, and compute its AP50 with each kind of error mended."""
    mine_D, mine_G = every.labels_D == label, every.labels_G == label
    counts_D = np.bincount(every.kinds_D[mine_D], minlength=len(DETECTION_KINDS)).tolist()
    counts_G = np.bincount(every.kinds_G[mine_G], minlength=len(INSTANCE_KINDS)).tolist()
    instances = dict(zip(INSTANCE_KINDS, counts_G, strict=True))
    callers_K = every.callers_K[mine_G[every.called_K]]
    outlines_O = every.outlines_O[mine_G[every.outlined_O]]
    none = callers_K[:0]

    def ap50(
        gone: str = "", right_instead: NDArray[np.int64] = none, truths: int = sum(counts_G)
    ) -> float | None:
        """AP50 of the class without one kind of its detections; None without an instance to find.

        gone           that kind; empty for none
        right_instead  rows of detections, of whatever class, that are added as right
        truths         number of instances to find
        """
        if not truths:
            return None
        kept_D = mine_D & (every.kinds_D != (DETECTION_KINDS.index(gone) if gone else -1))
        rows = np.concatenate([np.flatnonzero(kept_D), right_instead])
        hits = np.arange(len(rows)) >= kept_D.sum()
        return average_precision(every.scores_D[rows], hits | (every.kinds_D[rows] == 0), truths)

    return ClassLimits(
        instances,
        tuple(np.bincount(every.labels_D[callers_K] - 1, minlength=classes).tolist()),
        dict(zip(DETECTION_KINDS, counts_D, strict=True)),
        {
            CALLED: ap50("of_another_class", callers_K),
            OUTLINED: ap50(OUTLINED, outlines_O),
            "not_found": ap50(truths=sum(counts_G) - instances["not_found"]),
            "duplicate": ap50("duplicate"),
            "background": ap50("background"),
        },
    )
