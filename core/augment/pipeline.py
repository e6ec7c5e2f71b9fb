"""Changes of a training image and its label maps: augmentations, crops, the network's size."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from core.augmentations import AUGMENTATIONS, Augmentation
from core.config import AugmentConfig
from core.labels.label_maps import resize_label_maps
from core.network.resizing import network_size
from core.sample import Image, LabelMaps, Sample

FIRST_SEEDS: Mapping[tuple[str, int], int] = {
    ("horizontal_flip", 0): 0,
    ("color_jitter", 0): 1,
    ("color_jitter", 1): 2,
    ("affine", 0): 3,
    ("elastic", 0): 4,
    ("blur_or_noise", 0): 5,
}
"""Place among an image's first random integers of the seed of each change, by augmentation and
number; the seed of any other change follows from its name. Part of every result: never changed."""


class Augmenter:
    """The augmentations that are on; call it with an image, its label maps and a generator.

    Every change draws from its own stream, whose seed depends on the generator and on the
    augmentation's name: two variants that differ in one augmentation change the images alike in
    everything else, and one that is added to the table changes nothing of what others draw.
    """

    def __init__(self, augmentations: Mapping[str, Augmentation]) -> None:
        self.changes = [
            (name, number, augmentation.geometric, change)
            for name, augmentation in augmentations.items()
            for number, change in enumerate(augmentation.changes())
        ]

    def __call__(
        self, image: Image, label_maps: LabelMaps, rng: np.random.Generator
    ) -> tuple[Image, LabelMaps]:
        """Change `image`, uint8 [H, W, 3], and `label_maps`, uint16 [L, H, W], in new arrays.

        These have the same shapes, or height and width exchanged in both. The label maps hold no
        value that they did not hold before. An array that nothing changes is returned itself.
        """
        *first, rest = rng.integers(2**63, size=len(FIRST_SEEDS) + 1).tolist()
        for name, number, geometric, change in self.changes:
            place = FIRST_SEEDS.get((name, number))
            seed = _named_seed(rest, name, number) if place is None else first[place]
            image, moved_maps = change(image, label_maps, seed)
            if geometric:
                label_maps = moved_maps
        return image, label_maps


class Mixer:
    """The augmentations that are on and need other training images.

    Call it with an image and a generator, before the image is shrunk. Every augmentation draws from
    its own stream, whose seed depends on the generator and on its name, as in `Augmenter`.

    training   the images of the training part
    """

    def __init__(
        self, augmentations: Mapping[str, Augmentation], training: Sequence[Sample]
    ) -> None:
        self.mixes = [
            (name, number, mix)
            for name, augmentation in augmentations.items()
            for number, mix in enumerate(augmentation.mixes(training))
        ]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the image with what it took from others; unchanged arrays are shared with it."""
        base = int(rng.integers(2**63))
        for name, number, mix in self.mixes:
            sample = mix(sample, _named_seed(base, name, number))
        return sample


def _named_seed(base: int, name: str, number: int) -> int:
    """The seed of change `number` of an augmentation, drawn from `base` and the name."""
    return int(np.random.default_rng([base, *name.encode(), number]).integers(2**63))


def build_augmenter(config: AugmentConfig) -> Augmenter | None:
    """Build the changes that `config` switches on; None when it switches on none."""
    augmenter = Augmenter(_switched_on(config))
    return augmenter if augmenter.changes else None


def build_mixer(config: AugmentConfig, training: Sequence[Sample]) -> Mixer | None:
    """Build the mixes that `config` switches on; None when it switches on none.

    training   the images of the training part
    """
    mixer = Mixer(_switched_on(config), training)
    return mixer if mixer.mixes else None


def _switched_on(config: AugmentConfig) -> dict[str, Augmentation]:
    """The augmentations that are on, by name in the table's order, with their strengths."""
    settings = config.model_dump()
    return {
        name: part(**{leaf: settings[leaf] for leaf in part.model_fields})
        for name, part in AUGMENTATIONS.items()
        if settings[name]
    }


def random_crop(
    image: Image, label_maps: LabelMaps, side: int, rng: np.random.Generator
) -> tuple[Image, LabelMaps]:
    """Cut a random square of `side` pixels out of both, as views; shorter sides stay whole."""
    height, width = image.shape[:2]
    y0 = int(rng.integers(max(height - side, 0) + 1))
    x0 = int(rng.integers(max(width - side, 0) + 1))
    return image[y0 : y0 + side, x0 : x0 + side], label_maps[:, y0 : y0 + side, x0 : x0 + side]


def shrink(
    image: Image, label_maps: LabelMaps, min_side: int, max_side: int
) -> tuple[Image, LabelMaps]:
    """Shrink both to the size at which the network sees them; smaller ones stay as they are.

    Augmenting pixels that the network never sees is wasted. The image is interpolated bilinearly,
    without smoothing, as the network's transform does it, so that training images look like those
    of prediction, which go through that transform alone.
    """
    height, width = image.shape[:2]
    new_height, new_width = network_size(height, width, min_side, max_side)
    if max(new_height, new_width) >= max(height, width):
        return image, label_maps
    resized_image: Any = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return resized_image, resize_label_maps(label_maps, new_height, new_width)
