"""albumentations, imported without its check for a newer version; its transforms as changes."""

import os
import random
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as albumentations  # handed on to the files of single augmentations

FILL_COLOUR = (124, 116, 104)
"""ImageNet's mean colour, RGB."""

WARP = {
    "interpolation": cv2.INTER_LINEAR,
    "mask_interpolation": cv2.INTER_NEAREST,
    "border_mode": cv2.BORDER_CONSTANT,
    "fill": FILL_COLOUR,
    "fill_mask": 0,
}
"""Interpolation and filling of every geometric transform.

Pixels from outside the image belong to no instance and get ImageNet's mean colour, which is 0 after
normalisation, the value of torchvision's own padding. They are not reflected: a reflected cell
would be a second piece of the same instance in another place.
"""


@dataclass(frozen=True)
class Transformed:
    """A transform of albumentations as a `core.augmentations.Change`."""

    transform: "albumentations.BasicTransform | albumentations.BaseCompose"

    def __call__(
        self, image: NDArray[np.uint8], label_maps: NDArray[np.uint16], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """See `core.augmentations.Change`."""
        # Compose.set_random_seed is not used: it seeds all its members alike, so that a flip and an
        # affine change of probability 0.5 would always be made together.
        self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        data: dict[str, Any] = self.transform(image=image, masks=label_maps)
        return data["image"], data["masks"]
