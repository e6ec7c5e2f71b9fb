"""The detections of several looks at one tile, merged into one list.

Boxes of one class whose IoU is above `predict.nms_iou` are taken for one instance. `predict.merge`
decides how they become one:

nms        the box with the best score stays
soft_nms   each score is multiplied by exp(-IoU^2 / SIGMA) for each better box (Bodla et al. 2017),
           whatever the IoU. The network has suppressed its own boxes at `predict.nms_iou` before
weighted   their mean, weighted with the scores, takes their place; its score is the mean of theirs
           (Solovyev et al. 2021), and a pixel is in its mask if the masks that hold it have at
           least half of the sum of scores

`predict.agreement`, a, then multiplies each score by 1 - a + a f, where f is the fraction of looks
with a box of the instance.

The result does not depend on the order of the looks. Finished masks vote on a pixel, because the
probabilities of masks would take four bytes for each pixel of every look.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou, nms

from core.config import PredictConfig
from core.sample import Detections, MaskCrop

SIGMA = 0.5
"""Sigma of soft suppression, as in the experiments of Bodla et al. (2017)."""
BOXES_AT_ONCE = 1024
"""Largest number of boxes that are compared with all boxes of a look at once."""


def merge_looks(looks: Sequence[Detections], config: PredictConfig) -> Detections:
    """The detections of several looks as one list, at most `config.max_detections`.

    looks   the detections of each look, one at least, in pixels of one picture, already limited by
            `config.score_threshold` and `config.max_detections`

    Detections whose score falls to `config.score_threshold` are left out. `full_tiles` is 1 if a
    look, or the result, holds `config.max_detections`, and else 0.
    """
    together, look_N = _all_looks(looks)
    merged = [take(together, np.empty(0, np.int64))]
    for label in np.unique(together.labels_N):
        (members,) = np.nonzero(together.labels_N == label)
        of_class = take(together, members)
        kept = _WAYS[config.merge](of_class, config)
        if config.agreement:
            fraction = _fraction(kept, of_class, look_N[members], len(looks), config.nms_iou)
            factor = 1 - config.agreement + config.agreement * fraction
            kept = replace(kept, scores_N=(kept.scores_N * factor).astype(np.float32))
        merged.append(kept)
    result, _ = _all_looks(merged)
    (above,) = np.nonzero(result.scores_N > config.score_threshold)
    result = take(result, above[: config.max_detections])
    full = max(one.full_tiles for one in looks)
    return replace(result, full_tiles=max(full, int(len(result) == config.max_detections)))


def suppress_overlapping(detections: Detections, iou: float) -> Detections:
    """Non-maximum suppression of boxes, each class by itself; best score first."""
    kept = [np.empty(0, np.int64)]
    for label in np.unique(detections.labels_N):
        (members,) = np.nonzero(detections.labels_N == label)
        kept.append(members[_kept(take(detections, members), iou)])
    return take(detections, np.sort(np.concatenate(kept)))


def take(detections: Detections, indices: NDArray[np.int64]) -> Detections:
    """Some of the detections, in the order of `indices`."""
    return Detections(
        detections.boxes_N4[indices],
        detections.labels_N[indices],
        detections.scores_N[indices],
        tuple(detections.masks[index] for index in indices),
    )


def _all_looks(looks: Sequence[Detections]) -> tuple[Detections, NDArray[np.int64]]:
    """All detections, best score first, and the index of the look of each, int64 [N].

    Those of equal score are sorted by class and box, whatever the order of the looks.
    """
    all_of_them = Detections(
        np.concatenate([one.boxes_N4 for one in looks]),
        np.concatenate([one.labels_N for one in looks]),
        np.concatenate([one.scores_N for one in looks]),
        tuple(mask for one in looks for mask in one.masks),
    )
    look_N = np.repeat(np.arange(len(looks)), [len(one) for one in looks])
    sides = all_of_them.boxes_N4.T[::-1]
    order = np.lexsort((*sides, all_of_them.labels_N, -all_of_them.scores_N))
    return take(all_of_them, order), look_N[order]


def _kept(of_class: Detections, iou: float) -> NDArray[np.int64]:
    """The rows of one class that non-maximum suppression keeps, ascending."""
    boxes_N4, scores_N = torch.from_numpy(of_class.boxes_N4), torch.from_numpy(of_class.scores_N)
    kept: NDArray[np.int64] = np.sort(nms(boxes_N4, scores_N, iou).numpy())
    return kept


def _best_stays(of_class: Detections, config: PredictConfig) -> Detections:
    return take(of_class, _kept(of_class, config.nms_iou))


def _softened(of_class: Detections, config: PredictConfig) -> Detections:
    """The boxes of one class, their scores lowered by soft suppression, and 0 if it drops them."""
    boxes_N4 = torch.from_numpy(of_class.boxes_N4)
    scores_N = of_class.scores_N.astype(np.float64)
    left_N = scores_N.copy()  # 0 for those that are done
    while left_N.max(initial=0.0) > config.score_threshold:
        best = int(left_N.argmax())
        scores_N[best], left_N[best] = left_N[best], 0.0
        overlap_N = box_iou(boxes_N4[best : best + 1], boxes_N4)[0].numpy()
        left_N *= np.exp(-np.square(overlap_N, dtype=np.float64) / SIGMA)
    scores_N[left_N > 0] = 0.0  # they fell to the threshold
    return replace(of_class, scores_N=scores_N.astype(np.float32))


def _fused(of_class: Detections, config: PredictConfig) -> Detections:
    """The mean boxes: each box, best first, joins the instance whose mean overlaps it most so far.

    It begins an instance of its own where no IoU is above `config.nms_iou`.
    """
    boxes_N4 = of_class.boxes_N4.astype(np.float64)
    scores_N = of_class.scores_N.astype(np.float64)
    instances: list[list[int]] = []
    sums_N4, means_N4 = np.zeros_like(boxes_N4), np.zeros_like(boxes_N4)
    weights_N = np.zeros_like(scores_N)
    for row, (box_4, score) in enumerate(zip(boxes_N4, scores_N, strict=True)):
        place, means = len(instances), torch.from_numpy(means_N4[: len(instances)])
        overlap = box_iou(torch.from_numpy(box_4[None]), means)[0].numpy()
        if overlap.max(initial=0.0) > config.nms_iou:
            place = int(overlap.argmax())
            instances[place].append(row)
        else:
            instances.append([row])
        sums_N4[place] += score * box_4
        weights_N[place] += score
        means_N4[place] = sums_N4[place] / weights_N[place]
    count = len(instances)
    fused, _ = _all_looks(
        [
            Detections(
                means_N4[:count].astype(np.float32),
                of_class.labels_N[:count],
                (weights_N[:count] / [len(rows) for rows in instances]).astype(np.float32),
                tuple(
                    _voted([of_class.masks[row] for row in rows], scores_N[rows])
                    for rows in instances
                ),
            )
        ]
    )
    return _best_stays(fused, config)  # means may overlap where their boxes did not


def _voted(crops: Sequence[MaskCrop], weights: NDArray[np.float64]) -> MaskCrop:
    """The pixels whose masks have at least half of the weights; the first mask if there is none."""
    y0, x0 = min(crop.y0 for crop in crops), min(crop.x0 for crop in crops)
    y1 = max(crop.y0 + crop.pixels.shape[0] for crop in crops)
    x1 = max(crop.x0 + crop.pixels.shape[1] for crop in crops)
    votes = np.zeros((y1 - y0, x1 - x0))
    for crop, weight in zip(crops, weights, strict=True):
        height, width = crop.pixels.shape
        top, left = crop.y0 - y0, crop.x0 - x0
        votes[top : top + height, left : left + width] += weight * crop.pixels
    voted = 2 * votes >= weights.sum()
    return MaskCrop(y0, x0, voted) if voted.any() else crops[0]


_WAYS: Mapping[str, Callable[[Detections, PredictConfig], Detections]] = {
    "nms": _best_stays,
    "soft_nms": _softened,
    "weighted": _fused,
}
"""Functions that merge the boxes of one class, best score first, by `predict.merge`."""


def _fraction(
    kept: Detections, of_class: Detections, look_N: NDArray[np.int64], looks: int, iou: float
) -> NDArray[np.float64]:
    """The fraction of looks that have a box of each instance that is kept, float64 [K].

    look_N   int64 [N], the index of the look of each detection in `of_class`
    looks    number of looks
    """
    agreeing_K = np.zeros(len(kept))
    for look in range(looks):
        others = torch.from_numpy(of_class.boxes_N4[look_N == look])
        if len(others):
            agreeing_K += np.concatenate(
                [
                    (box_iou(some, others) > iou).any(dim=1).numpy()
                    for some in torch.split(torch.from_numpy(kept.boxes_N4), BOXES_AT_ONCE)
                ]
            )
    return np.maximum(agreeing_K, 1) / looks
