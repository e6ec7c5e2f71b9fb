"""Every random draw has an address: (seed, purpose, epoch, image).

A draw depends on its address alone, not on what was drawn before. So a resumed trial repeats the
uninterrupted one, with any number of loader workers, and a checkpoint need not hold the state of a
generator.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a generator.

    The numbers are part of every result: never reuse or reorder them.
    """

    INITIALISE = 0
    SPLIT = 1
    ORDER = 2
    AUGMENT = 3
    CROP = 4
    TRAIN = 5
    SYNTHETIC = 6
    MIX = 7
    REPEAT = 8


def generator(seed: int, purpose: Purpose, *where: int) -> np.random.Generator:
    """The NumPy generator at an address; `where` is often the epoch, or the epoch and the image."""
    return np.random.default_rng([seed, int(purpose), *where])


def torch_seed(seed: int, purpose: Purpose, *where: int) -> int:
    """A seed for `torch.manual_seed` at an address."""
    return int(generator(seed, purpose, *where).integers(2**63))
