"""Changes that albumentations does not have, or not as they are needed here."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from core.augment.library import FILL_COLOUR
from core.sample import Image, LabelMaps

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical densities of haematoxylin, eosin and DAB (rows) in red, green and blue (Ruifrok and
Johnston, Analytical and Quantitative Cytology and Histology 23, 2001)."""

LOG_LIGHT = np.log((np.arange(256) + 1) / 256).astype(np.float32)
"""Natural logarithm of the light at each grey level, as a fraction of that at 255. Level 0 has a
little light, because the density of no light would be infinite."""


@dataclass(frozen=True)
class Turned:
    """A turn by a random number of quarter turns, 1 to 3, as a `core.augmentations.Change`.

    p   probability of a turn
    """

    p: float

    def __call__(self, image: Image, label_maps: LabelMaps, seed: int) -> tuple[Image, LabelMaps]:
        """See `core.augmentations.Change`."""
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return image, label_maps
        quarters = int(rng.integers(1, 4))
        turned_maps = np.rot90(label_maps, quarters, axes=(1, 2))
        return np.ascontiguousarray(np.rot90(image, quarters)), np.ascontiguousarray(turned_maps)


@dataclass(frozen=True)
class Rescaled:
    """Another scale on a canvas of the same size, as a `core.augmentations.Change`.

    p           probability of a change
    low, high   smallest and largest factor, whose logarithm is uniform
    """

    p: float
    low: float
    high: float

    def __call__(self, image: Image, label_maps: LabelMaps, seed: int) -> tuple[Image, LabelMaps]:
        """See `core.augmentations.Change`.

        Label maps take the nearest pixels. The image is interpolated bilinearly where it grows, and
        averaged where it shrinks.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return image, label_maps
        factor = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        # Enlarging takes a window of the image, shrinking one of the canvas; the other is whole.
        from_y, from_x = (_window(side, 1 / factor, rng) for side in image.shape[:2])
        to_y, to_x = (_window(side, factor, rng) for side in image.shape[:2])
        canvas, canvas_maps = np.full_like(image, FILL_COLOUR), np.zeros_like(label_maps)
        canvas[to_y, to_x] = cv2.resize(
            image[from_y, from_x],
            (_length(to_x), _length(to_y)),
            interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR,
        )
        rows, columns = _nearest(from_y, _length(to_y)), _nearest(from_x, _length(to_x))
        canvas_maps[:, to_y, to_x] = label_maps[:, rows][:, :, columns]
        return canvas, canvas_maps


def _window(side: int, part: float, rng: np.random.Generator) -> slice:
    """Draw a window along a side of `side` pixels, as long as the fraction `part` of it.

    It has at least one pixel, and is the whole side where `part` is 1 or more.
    """
    length = min(max(round(part * side), 1), side)
    start = int(rng.integers(side - length + 1))
    return slice(start, start + length)


def _length(window: slice) -> int:
    return int(window.stop - window.start)


def _nearest(window: slice, length: int) -> NDArray[np.intp]:
    """The pixels of a window nearest to the centres of `length` pixels laid over it, [length]."""
    centres = (np.arange(length) + 0.5) * (_length(window) / length)
    nearest: NDArray[np.intp] = window.start + centres.astype(np.intp)
    return nearest


@dataclass(frozen=True)
class Restained:
    """Another amount of each stain, as a `core.augmentations.Change`.

    The amount of a stain in each pixel is multiplied by a factor and shifted (Tellez et al., IEEE
    Transactions on Medical Imaging 37, 2018).

    p       probability of a change
    alpha   factors are uniform in 1 - alpha .. 1 + alpha
    beta    shifts are uniform in -beta .. beta, in optical densities to base 10
    """

    p: float
    alpha: float
    beta: float

    def __call__(self, image: Image, label_maps: LabelMaps, seed: int) -> tuple[Image, LabelMaps]:
        """See `core.augmentations.Change`."""
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return image, label_maps
        factors_3 = rng.uniform(1 - self.alpha, 1 + self.alpha, 3)
        shifts_3 = rng.uniform(-self.beta, self.beta, 3)
        # Amounts are density x inverse(STAINS), so a change of amounts is one matrix and one shift
        # of densities, and likewise of the logarithms, which are densities times -log(10).
        mix_33 = np.linalg.inv(STAINS) @ (factors_3[:, None] * STAINS)
        shift_3 = math.log(256) - math.log(10) * (shifts_3 @ STAINS)
        logs = cv2.transform(cv2.LUT(image, LOG_LIGHT), np.column_stack([mix_33.T, shift_3]))
        # Less the 1 that LOG_LIGHT added to each grey level, and 0.5 more to round: 0.5 less.
        return np.clip(cv2.exp(logs) - 0.5, 0, 255).astype(np.uint8), label_maps
