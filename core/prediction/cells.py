"""The cells of an image: detections that no longer overlap, numbered in one label image.

A pixel belongs to the detection with the highest score that covers it. What a detection of lower
score keeps is its cell; where it keeps nothing, it is no cell. The label image, the table and the
polygons of an image all show these cells, under these numbers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.sample import MAX_INSTANCES, Detections, MaskCrop


@dataclass(frozen=True)
class CellMask:
    """One cell.

    number   its value in the label image, from 1, the best score first
    label    class number
    score    score of its detection
    mask     the pixels that it owns, in the window of its detection
    """

    number: int
    label: int
    score: float
    mask: MaskCrop


@dataclass(frozen=True)
class Cells:
    """The cells of one image.

    label_image   uint16 [H, W], or uint32 where the detections are more than 65,535: 0 is
                  background, every other value the cell of that number
    found         the cells by their numbers, from 1 without a gap
    covered       number of detections that own no pixel, because better ones cover them
    """

    label_image: NDArray[np.uint16] | NDArray[np.uint32]
    found: tuple[CellMask, ...]
    covered: int


@dataclass(frozen=True)
class Extent:
    """The measures of a cell in pixels, from the upper left corner of the image.

    The middle of the first pixel is at (0.5, 0.5), as in ImageJ and QuPath.

    area                   number of pixels
    centroid_x, centroid_y mean position of the pixels' middles
    x0, y0, x1, y1         the tightest box, half-open
    equivalent_diameter    diameter of a circle of the same area
    """

    area: int
    centroid_x: float
    centroid_y: float
    x0: int
    y0: int
    x1: int
    y1: int
    equivalent_diameter: float


def cells_of(found: Detections, height: int, width: int, least_score: float) -> Cells:
    """The cells in an image of `height` x `width` pixels: of detections of `least_score` or more.

    Work and memory are those of the label image and the windows of the masks.
    """
    count = int(np.count_nonzero(found.scores_N >= least_score))
    label_image = np.zeros((height, width), np.uint16 if count <= MAX_INSTANCES else np.uint32)
    cells = tuple(_owners(found, count, label_image))
    return Cells(label_image, cells, count - len(cells))


def _owners(
    found: Detections, count: int, label_image: NDArray[np.uint16] | NDArray[np.uint32]
) -> Iterator[CellMask]:
    """Give pixels of `label_image` to the first `count` detections, the best first."""
    number = 0
    columns = found.masks, found.labels_N.tolist(), found.scores_N.tolist()
    for mask, label, score in list(zip(*columns, strict=True))[:count]:
        h, w = mask.pixels.shape
        window = label_image[mask.y0 : mask.y0 + h, mask.x0 : mask.x0 + w]
        owned = mask.pixels & (window == 0)
        if owned.any():
            number += 1
            window[owned] = number
            yield CellMask(number, label, score, MaskCrop(mask.y0, mask.x0, owned))


def extent_of(mask: MaskCrop) -> Extent:
    """Measure a mask of at least one pixel."""
    ys, xs = np.nonzero(mask.pixels)
    area = len(ys)
    return Extent(
        area,
        mask.x0 + float(xs.mean()) + 0.5,
        mask.y0 + float(ys.mean()) + 0.5,
        mask.x0 + int(xs.min()),
        mask.y0 + int(ys.min()),
        mask.x0 + int(xs.max()) + 1,
        mask.y0 + int(ys.max()) + 1,
        2 * math.sqrt(area / math.pi),
    )
