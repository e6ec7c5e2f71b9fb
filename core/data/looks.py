"""Images that belong together by their looks: near copies, and images of the same stain.

Tiles of one slide share its tissue, stain and scanner. Where some of them are training images and
some validation images, scores are too high and their intervals too narrow. Names often show which
tiles belong together (see `core.data.split.parts_by_name`); this module is for names that do not
tell.
"""

import hashlib
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.data.dataset import Dataset

MOST_COMPARED = 600
"""Largest number of images that are compared; a larger data set is sampled evenly by name."""
SIDE = 24
"""Side, in pixels, of the small copies that are compared."""
SAME_PLACE = 0.95
"""Correlation of two small copies, each less the mean over all images, from which on the two images
show the same place. The highest between two crops of CoNSeP is 0.56."""
PLAIN = 2.0
"""Standard deviation of a small copy, in grey levels, below which it is too plain to compare."""
CLOSE = 0.8
"""Largest mean distance in colour between images of one stain, as a fraction of that between random
pairs. The fraction is 0.40 on CoNSeP (0.51 for neighbours by name, 0.95 to 1.04 for shuffled names)
and 0.70 to 0.76 on the synthetic data set."""
SHUFFLES = 300
"""Number of random groupings; images must be closer in colour in the tested grouping than in every
one of these."""
LEAST_IMAGES = 12
"""Least number of images for which colours are compared."""


class Looks:
    """The looks of the images of a data set, or of MOST_COMPARED of them.

    names        names of the N images in natural order: a2 before a10
    places_NP    float64, their small copies in grey, less the mean over all images, scaled to a sum
                 of squares of 1; 0 for an image that is too plain. P counts pixels, SIDE x SIDE
    colours_NF   float64, mean and standard deviation of the optical density of each channel, each
                 scaled to a mean of 0 and a variance of 1 over all images
    """

    def __init__(self, dataset: Dataset) -> None:
        samples = sorted(dataset.samples, key=lambda sample: _by_number(sample.name))
        chosen = np.linspace(0, len(samples) - 1, min(len(samples), MOST_COMPARED)).astype(int)
        kept = [samples[index] for index in chosen]
        self.names = [sample.name for sample in kept]
        small_NHWC = np.array([_small_copy(sample.image) for sample in kept]).reshape(
            -1, SIDE, SIDE, 3
        )
        grey_NP = small_NHWC.mean(axis=3).reshape(len(kept), -1)
        places_NP = grey_NP - grey_NP.mean(axis=0)
        places_NP -= places_NP.mean(axis=1, keepdims=True)
        places_NP[grey_NP.std(axis=1) < PLAIN] = 0
        lengths_N = np.linalg.norm(places_NP, axis=1, keepdims=True)
        self.places_NP = places_NP / np.maximum(lengths_N, 1e-9)
        density_NPC = -np.log10((small_NHWC.reshape(len(kept), SIDE * SIDE, 3) + 1) / 256)
        colours_NF = np.concatenate([density_NPC.mean(axis=1), density_NPC.std(axis=1)], axis=1)
        colours_NF -= colours_NF.mean(axis=0)
        self.colours_NF = colours_NF / np.maximum(colours_NF.std(axis=0), 1e-9)

    def near_copies(self) -> list[tuple[str, str]]:
        """Names of each two images that show the same place, perhaps turned or mirrored."""
        squares_NHW = self.places_NP.reshape(-1, SIDE, SIDE)
        most_NN = np.zeros((len(self.names), len(self.names)))
        for mirrored in (squares_NHW, squares_NHW[:, :, ::-1]):
            for turns in range(4):
                other_NP = np.rot90(mirrored, turns, axes=(1, 2)).reshape(self.places_NP.shape)
                most_NN = np.maximum(most_NN, self.places_NP @ other_NP.T)
        return [
            (self.names[one], self.names[other])
            for one, other in np.argwhere(np.triu(most_NN, 1) >= SAME_PLACE).tolist()
        ]

    def share_colours(self, group_of: Callable[[str], str]) -> bool:
        """Whether images of one group are closer in colour than random pairs of images.

        group_of   returns the group of an image, given its name
        """
        groups_N = np.unique([group_of(name) for name in self.names], return_inverse=True)[1]
        together_NN = np.triu(groups_N[:, None] == groups_N, 1)
        return self._are_close(*np.nonzero(together_NN))

    def neighbours_share_colours(self) -> bool:
        """Whether images next to each other by name are closer in colour than random pairs."""
        order_N = np.arange(len(self.names))
        return self._are_close(order_N[:-1], order_N[1:])

    def _are_close(self, ones_K: NDArray[np.int64], others_K: NDArray[np.int64]) -> bool:
        """Whether these pairs of images are closer in colour than random pairs.

        Always false for fewer than LEAST_IMAGES images.
        """
        if len(self.names) < LEAST_IMAGES or not len(ones_K):
            return False
        square_N = (self.colours_NF**2).sum(axis=1)
        square_NN = square_N[:, None] + square_N - 2 * self.colours_NF @ self.colours_NF.T
        apart_NN = np.sqrt(np.maximum(square_NN, 0))
        rng = np.random.default_rng(0)
        orders = (rng.permutation(len(self.names)) for _ in range(SHUFFLES))
        shuffled = [float(apart_NN[order[ones_K], order[others_K]].mean()) for order in orders]
        found = float(apart_NN[ones_K, others_K].mean())
        return found < min(shuffled) and found <= CLOSE * float(np.mean(shuffled))


def by_content(dataset: Dataset) -> list[list[str]]:
    """Names of the images of a data set, those with the same pixels in one list."""
    found: dict[bytes, list[str]] = {}
    for sample in dataset.samples:
        content = repr(sample.image.shape).encode() + sample.image.tobytes()
        found.setdefault(hashlib.sha256(content).digest(), []).append(sample.name)
    return list(found.values())


def _small_copy(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shrink an image to float64 [SIDE, SIDE, 3], 0 to 255."""
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def _by_number(name: str) -> list[str | int]:
    """A sort key for natural order: a2 before a10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
