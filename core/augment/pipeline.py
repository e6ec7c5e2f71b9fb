"""Training images and their label maps, changed together.

Pixels that an augmentation brings in from outside the image get ImageNet's mean colour, which is 0
after normalisation, the value of torchvision's own padding, and belong to no instance. They are not
reflected: a reflected cell would be a second piece of the same instance in another place.
"""

import os
import random
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from core.config import AugmentConfig
from core.labels.label_maps import resize_label_maps
from core.network.resizing import network_size

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no question to the package index on import

import albumentations

Image = NDArray[np.uint8]
LabelMaps = NDArray[np.uint16]

FILL = (124, 116, 104)
"""ImageNet's mean colour, RGB."""
NOISE_SD = (10**0.5 / 255, 50**0.5 / 255)
"""Standard deviation of Gaussian noise, of 255: 3.2 to 7.1 grey levels, the defaults of
albumentations 1 (variance 10 to 50). Those of albumentations 2, 51 to 112 grey levels, leave little
of a cell."""
BLUR_SD = (0.5, 3.0)
"""Standard deviation of Gaussian blur in pixels, albumentations' default."""


class Augmenter:
    """A sequence of random changes; call it with an image, its label maps and a generator.

    Every change draws from its own stream, seeded from the generator in a fixed order, on or off:
    two variants that differ in one switch change the images alike in everything else.
    (`albumentations.Compose.set_random_seed` is not used: it seeds all its members alike, and a
    coin of 0.5 then falls the same way for the flip and the affine change.)
    """

    def __init__(
        self, steps: "list[albumentations.BasicTransform | albumentations.BaseCompose | None]"
    ) -> None:
        self._steps = steps

    def __call__(
        self, image: Image, label_maps: LabelMaps, rng: np.random.Generator
    ) -> tuple[Image, LabelMaps]:
        """Return `image`, uint8 [H, W, 3], and `label_maps`, uint16 [L, H, W], changed in new
        arrays of their shapes.

        The label maps hold no value that they did not hold before. What no step changes is returned
        as it came.
        """
        data: dict[str, Any] = {"image": image, "masks": label_maps}
        for step, seed in zip(
            self._steps, rng.integers(2**63, size=len(self._steps)).tolist(), strict=True
        ):
            if step is not None:
                step.set_random_state(np.random.default_rng(seed), random.Random(seed))
                data = step(**data)
        return data["image"], data["masks"]


def build(config: AugmentConfig) -> Augmenter | None:
    """Build what `config` switches on; None when it switches nothing on."""
    brightness_contrast = albumentations.RandomBrightnessContrast(
        brightness_limit=config.brightness, contrast_limit=config.contrast, p=config.color_jitter_p
    )
    hue_saturation = albumentations.HueSaturationValue(
        hue_shift_limit=config.hue,
        sat_shift_limit=config.saturation,
        val_shift_limit=config.value,
        p=config.color_jitter_p,
    )
    blur, noise = (
        albumentations.GaussianBlur(sigma_limit=BLUR_SD),
        albumentations.GaussNoise(std_range=NOISE_SD),
    )
    steps = [
        (
            albumentations.HorizontalFlip(p=config.horizontal_flip_p)
            if config.horizontal_flip
            else None
        ),
        brightness_contrast if config.color_jitter else None,
        hue_saturation if config.color_jitter else None,
        _affine(config) if config.affine else None,
        _elastic(config) if config.elastic else None,
        (
            albumentations.OneOf([blur, noise], p=config.blur_or_noise_p)
            if config.blur_or_noise
            else None
        ),
    ]
    return Augmenter(steps) if any(step is not None for step in steps) else None


def _affine(config: AugmentConfig) -> albumentations.Affine:
    return albumentations.Affine(
        translate_percent=(-config.shift, config.shift),
        scale=(1 - config.scale, 1 + config.scale),
        keep_ratio=True,
        rotate=(-config.rotate, config.rotate),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_CONSTANT,
        fill=FILL,
        fill_mask=0,
        p=config.affine_p,
    )


def _elastic(config: AugmentConfig) -> albumentations.ElasticTransform:
    # Uniform noise, because albumentations divides Gaussian noise by its largest value: the
    # amplitude would depend on the size of the image. Uniform noise of SD 1 / sqrt(3), smoothed
    # with sigma, has an SD of 0.163 / sigma.
    return albumentations.ElasticTransform(
        alpha=config.elastic_alpha,
        sigma=config.elastic_sigma,
        noise_distribution="uniform",
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_CONSTANT,
        fill=FILL,
        fill_mask=0,
        p=config.elastic_p,
    )


def random_crop(
    image: Image, label_maps: LabelMaps, side: int, rng: np.random.Generator
) -> tuple[Image, LabelMaps]:
    """Cut the same random square of `side` pixels out of both, as views; a side that is shorter
    stays whole.
    """
    height, width = image.shape[:2]
    y0 = int(rng.integers(max(height - side, 0) + 1))
    x0 = int(rng.integers(max(width - side, 0) + 1))
    return image[y0 : y0 + side, x0 : x0 + side], label_maps[:, y0 : y0 + side, x0 : x0 + side]


def shrink(
    image: Image, label_maps: LabelMaps, min_side: int, max_side: int
) -> tuple[Image, LabelMaps]:
    """Shrink both to the size at which the network sees them; smaller ones are returned as they
    came.

    Augmenting pixels that the network never sees is wasted. The image is interpolated bilinearly,
    without smoothing, as the network's transform does it, so that training images look like those
    of prediction, which pass that alone.
    """
    height, width = image.shape[:2]
    new_height, new_width = network_size(height, width, min_side, max_side)
    if max(new_height, new_width) >= max(height, width):
        return image, label_maps
    resized_maps = resize_label_maps(
        torch.from_numpy(label_maps.astype(np.int32)), new_height, new_width
    )
    resized_image: Any = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return resized_image, resized_maps.numpy().astype(np.uint16)
