"""Overlapping tiles of a large image, and the instances that several of them show, merged once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from core.sample import Detections, MaskCrop

SAME_MASK = 0.5
"""Masks that agree by more than this fraction are of one instance. From one half on, no mask has
such an IoU with two that are disjoint."""

CUT_MARGIN = 0.05
"""A box counts as cut by an inner border of its tile if it is nearer to it than this fraction of
its own side."""
CUT_PIXELS = 2
"""A box also counts as cut by such a border if it is nearer than this number of pixels, because
predicted boxes are no more exact than that."""


@dataclass(frozen=True)
class Window:
    """A tile: rows y0 .. y1 - 1 and columns x0 .. x1 - 1 of the image."""

    y0: int
    x0: int
    y1: int
    x1: int


def tiles(height: int, width: int, side: int, overlap: float = 0.25) -> list[Window]:
    """Tiles of `side` pixels that cover the image evenly.

    side      side of a tile in pixels; 0 for the whole image
    overlap   least fraction of its side that a tile shares with the next, under 1. An instance up
              to this size is whole in one of them; with a quarter, the tiles of a large image have
              about 1.8 times its pixels

    There is one tile if `side` is 0 or the image is no larger.
    """
    return [
        Window(y, x, min(y + (side or height), height), min(x + (side or width), width))
        for y in _starts(height, side, overlap)
        for x in _starts(width, side, overlap)
    ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """The first pixel of each tile along one axis of `length` pixels."""
    if side == 0 or length <= side:
        return [0]
    steps = -(-(length - side) // (side - int(side * overlap)))
    return [(length - side) * step // steps for step in range(steps + 1)]


def merge_tiles(
    windows: Sequence[Window], found: Sequence[Detections], height: int, width: int
) -> Detections:
    """Each instance once, where overlapping tiles show it several times or show pieces of it.

    windows   the tiles of a `height` x `width` image
    found     the detections in each tile, in pixels of the image

    Two detections of one class in different tiles are of the same instance if their masks agree in
    the area that both tiles show: by IoU; or, if one of them may be cut by its tile, by the
    fraction of this piece that the other mask covers (of two pieces, the smaller). The best
    detection of an instance among those that are not cut stays. Pieces stay only if no tile shows
    the instance whole: then they become one detection, with the union of their masks and boxes and
    the best score.
    """
    tiles_N = np.repeat(np.arange(len(windows)), [len(one) for one in found])
    boxes_N4 = np.concatenate([one.boxes_N4 for one in found])
    labels_N = np.concatenate([one.labels_N for one in found])
    scores_N = np.concatenate([one.scores_N for one in found])
    crops = [crop for one in found for crop in one.masks]
    cuts = [
        _cut_by_border(one.boxes_N4, window, height, width)
        for one, window in zip(found, windows, strict=True)
    ]
    cut_N = np.concatenate(cuts)
    same: list[set[int]] = [set() for _ in crops]
    for first, second in _same_instances(windows, tiles_N, labels_N, cut_N, crops):
        same[first].add(second)
        same[second].add(first)
    kept: set[int] = set()
    for index in np.argsort(-scores_N, kind="stable").tolist():
        if not cut_N[index] and not same[index] & kept:
            kept.add(index)
    pieces = {
        index
        for index in np.nonzero(cut_N)[0].tolist()
        if all(cut_N[other] for other in same[index])
    }
    groups = [[index] for index in sorted(kept)]
    while pieces:
        group = [min(pieces)]
        pieces -= {group[0]}
        for index in group:  # it grows meanwhile, until it holds all that is connected
            group += sorted(same[index] & pieces)
            pieces -= same[index]
        groups.append(group)
    groups.sort(key=lambda group: -scores_N[group].max())
    return Detections(
        boxes_N4=np.array(
            [
                [*boxes_N4[group, :2].min(axis=0), *boxes_N4[group, 2:].max(axis=0)]
                for group in groups
            ],
            np.float32,
        ).reshape(-1, 4),
        labels_N=labels_N[[group[0] for group in groups]],
        scores_N=np.array([scores_N[group].max() for group in groups], np.float32),
        masks=tuple(_union([crops[index] for index in group]) for group in groups),
    )


def _cut_by_border(
    boxes_N4: NDArray[np.float32], window: Window, height: int, width: int
) -> NDArray[np.bool_]:
    """Whether each box may be cut by a border of its tile that is not the image's, bool [N]."""
    low, high = np.array([window.x0, window.y0]), np.array([window.x1, window.y1])
    margin_N2 = np.maximum(CUT_MARGIN * (boxes_N4[:, 2:] - boxes_N4[:, :2]), CUT_PIXELS)
    cut_N2 = (low > 0) & (boxes_N4[:, :2] - margin_N2 < low)
    cut_N2 |= (high < [width, height]) & (boxes_N4[:, 2:] + margin_N2 > high)
    cut_N: NDArray[np.bool_] = cut_N2.any(axis=1)
    return cut_N


def _same_instances(
    windows: Sequence[Window],
    tiles_N: NDArray[np.int64],
    labels_N: NDArray[np.int64],
    cut_N: NDArray[np.bool_],
    crops: Sequence[MaskCrop],
) -> list[tuple[int, int]]:
    """Pairs of detections, by index, that show one instance in two tiles."""
    low_N2 = np.array([(crop.y0, crop.x0) for crop in crops], np.int64).reshape(-1, 2)
    high_N2 = low_N2 + np.array([crop.pixels.shape for crop in crops], np.int64).reshape(-1, 2)
    of_tile = [np.flatnonzero(tiles_N == number) for number in range(len(windows))]
    pairs = []
    for (a, one), (b, other) in combinations(enumerate(windows), 2):
        zone = Window(
            max(one.y0, other.y0),
            max(one.x0, other.x0),
            min(one.y1, other.y1),
            min(one.x1, other.x1),
        )
        if zone.y0 >= zone.y1 or zone.x0 >= zone.x1:
            continue
        low, high = [zone.y0, zone.x0], [zone.y1, zone.x1]
        in_a, in_b = (
            rows[(np.maximum(low_N2[rows], low) < np.minimum(high_N2[rows], high)).all(axis=1)]
            for rows in (of_tile[a], of_tile[b])
        )
        touch_KK2 = np.maximum(low_N2[in_a, None], low_N2[in_b]) < np.minimum(
            high_N2[in_a, None], high_N2[in_b]
        )
        candidates = touch_KK2.all(axis=2) & (labels_N[in_a, None] == labels_N[in_b])
        for first, second in zip(*np.nonzero(candidates), strict=True):
            i, j = int(in_a[first]), int(in_b[second])
            intersection, area_i, area_j = _areas(zone, crops[i], crops[j])
            pieces = [area for area, cut in ((area_i, cut_N[i]), (area_j, cut_N[j])) if cut]
            if intersection > SAME_MASK * min(pieces, default=area_i + area_j - intersection):
                pairs.append((i, j))
    return pairs


def _areas(zone: Window, one: MaskCrop, other: MaskCrop) -> tuple[int, int, int]:
    """Numbers of pixels inside `zone` that are in both masks, in the one, and in the other.

    All are 0 where the masks' windows do not meet inside `zone`.
    """
    y0, x0 = max(one.y0, other.y0, zone.y0), max(one.x0, other.x0, zone.x0)
    y1 = min(one.y0 + one.pixels.shape[0], other.y0 + other.pixels.shape[0], zone.y1)
    x1 = min(one.x0 + one.pixels.shape[1], other.x0 + other.pixels.shape[1], zone.x1)
    if y0 >= y1 or x0 >= x1:
        return 0, 0, 0
    both = Window(y0, x0, y1, x1)
    return (
        int(np.count_nonzero(_inside(one, both) & _inside(other, both))),
        int(np.count_nonzero(_inside(one, zone))),
        int(np.count_nonzero(_inside(other, zone))),
    )


def _inside(crop: MaskCrop, window: Window) -> NDArray[np.bool_]:
    """The part of a mask that lies in `window`."""
    return crop.pixels[
        max(window.y0 - crop.y0, 0) : window.y1 - crop.y0,
        max(window.x0 - crop.x0, 0) : window.x1 - crop.x0,
    ]


def _union(crops: Sequence[MaskCrop]) -> MaskCrop:
    if len(crops) == 1:
        return crops[0]
    y0, x0 = min(crop.y0 for crop in crops), min(crop.x0 for crop in crops)
    y1 = max(crop.y0 + crop.pixels.shape[0] for crop in crops)
    x1 = max(crop.x0 + crop.pixels.shape[1] for crop in crops)
    pixels = np.zeros((y1 - y0, x1 - x0), np.bool_)
    for crop in crops:
        height, width = crop.pixels.shape
        pixels[crop.y0 - y0 : crop.y0 - y0 + height, crop.x0 - x0 : crop.x0 - x0 + width] |= (
            crop.pixels
        )
    return MaskCrop(y0, x0, pixels)
