"""Sizes and numbers of images and instances, few enough to be kept with a study.

A measurement holds all that `core.fitting` needs to read settings off the data: how large images
and cells are, and how crowded. Crowd regions do not count as instances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.dataset import Dataset
from core.labels.label_maps import find_instances
from core.sample import Size

MOST_INSTANCES, MOST_IMAGE_SIZES = 2000, 500
"""Largest numbers of instances and of images whose sizes are kept; of more a random sample is, the
same on every machine. A proportion of 2000 instances has a standard error of at most 1.1 percentage
points."""
SIDES = (128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Sides, in pixels, of the windows in which instances are counted."""
_BINS = 4
"""Windows begin at multiples of their side divided by this."""


@dataclass(frozen=True)
class Measurement:
    """The measurement of a data set; all lengths are in pixels.

    images     height and width of each image, or of MOST_IMAGE_SIZES of them, drawn at random
    cells      for each instance, or MOST_INSTANCES of them, drawn at random: height and width of
               its image, then those of its box
    crowded    largest number of instances in an image
    windows    for each of SIDES, an upper bound of the number of instances in a square window of
               that side, those that the window cuts included
    """

    images: tuple[Size, ...]
    cells: tuple[tuple[int, int, int, int], ...]
    crowded: int
    windows: tuple[int, ...]

    def crowded_in(self, side: int) -> int:
        """An upper bound of the number of instances in a square window of any image.

        side   of the window in pixels; 0 for the whole image
        """
        larger = (most for one, most in zip(SIDES, self.windows, strict=True) if one >= side > 0)
        return next(larger, self.crowded)

    def to_json(self) -> dict[str, Any]:
        """The measurement as JSON types: each size of images is listed once, others are indices."""
        images_I2, cells_K4 = self.arrays()
        sizes, numbers = np.unique(
            np.concatenate([images_I2, cells_K4[:, :2]]), axis=0, return_inverse=True
        )
        numbers = numbers.ravel()
        return {
            "sizes": sizes.tolist(),
            "images": numbers[: len(images_I2)].tolist(),
            "of_image": numbers[len(images_I2) :].tolist(),
            "heights": cells_K4[:, 2].tolist(),
            "widths": cells_K4[:, 3].tolist(),
            "crowded": self.crowded,
            "windows": list(self.windows),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Measurement":
        """The measurement from which `to_json` made `content`."""
        sizes: list[Size] = [(int(height), int(width)) for height, width in content["sizes"]]
        parts = (content[name] for name in ("of_image", "heights", "widths"))
        return cls(
            tuple(sizes[number] for number in content["images"]),
            tuple((*sizes[number], int(h), int(w)) for number, h, w in zip(*parts, strict=True)),
            int(content["crowded"]),
            tuple(map(int, content["windows"])),
        )

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`images`, int64 [I, 2], and `cells`, int64 [K, 4]."""
        return (
            np.array(self.images, np.int64).reshape(-1, 2),
            np.array(self.cells, np.int64).reshape(-1, 4),
        )


def measure(dataset: Dataset) -> Measurement:
    """Measure a data set, in time linear in its pixels."""
    sizes = [sample.size for sample in dataset.samples]
    cells, windows, crowded = [], np.zeros(len(SIDES), np.int64), 0
    for sample in dataset.samples:
        found = find_instances(sample.label_maps)
        boxes_N4 = found.boxes_N4[~sample.crowd_N[found.ids_N - 1]]
        sides_N2 = boxes_N4[:, [3, 2]] - boxes_N4[:, [1, 0]]
        cells.append(np.concatenate([np.tile(sample.size, (len(sides_N2), 1)), sides_N2], axis=1))
        windows = np.maximum(windows, [most_in_window(boxes_N4, sample.size, s) for s in SIDES])
        crowded = max(crowded, len(boxes_N4))
    cells_K4 = np.concatenate(cells) if cells else np.zeros((0, 4), np.int64)
    return Measurement(
        tuple(sizes[index] for index in _some(len(sizes), MOST_IMAGE_SIZES)),
        tuple(
            (h, w, y, x) for h, w, y, x in cells_K4[_some(len(cells_K4), MOST_INSTANCES)].tolist()
        ),
        crowded,
        tuple(windows.tolist()),
    )


def _some(count: int, most: int) -> Sequence[int]:
    """The numbers from 0 to `count` - 1, or `most` of them drawn at random, ascending."""
    if count <= most:
        return range(count)
    drawn = np.random.default_rng(0).choice(count, most, replace=False)
    return sorted(drawn.tolist())


def most_in_window(boxes_N4: NDArray[np.int64], size: Size, side: int) -> int:
    """An upper bound of the number of boxes that any square window of `side` pixels holds or cuts.

    Each such window lies inside one that is a quarter longer and begins at multiples of that
    quarter; the bound is the largest number for these.

    boxes_N4   int64, half-open x0 y0 x1 y1 in pixels of an image of `size`
    """
    if max(size) <= side or len(boxes_N4) == 0:
        return len(boxes_N4)
    step = side // _BINS
    first_N2, last_N2 = boxes_N4[:, [1, 0]] // step, (boxes_N4[:, [3, 2]] - 1) // step
    # The longer windows that a box meets form a rectangle in the grid of their beginnings. Its four
    # corners are entered with their signs; the cumulative sum then counts the boxes of each window.
    (y0_N, x0_N), (y1_N, x1_N) = np.maximum(first_N2 - _BINS, 0).T, last_N2.T + 1
    counts = np.zeros([-(-length // step) + 1 for length in size], np.int64)
    for y_N, x_N, sign in ((y0_N, x0_N, 1), (y1_N, x1_N, 1), (y0_N, x1_N, -1), (y1_N, x0_N, -1)):
        np.add.at(counts, (y_N, x_N), sign)
    return int(counts.cumsum(axis=0).cumsum(axis=1).max())
