"""The noise that validation images and training put on replayed scores.

The score of a trial after an epoch is its truth plus four independent errors:

    common   the effect of a split's images on all trials alike: it changes all scores of a study,
             but not the order of its trials
    images   the effect of these images on this trial alone, in all of its epochs
    seed     the effect of this training's seed, in all of its epochs
    epoch    the effect of a single epoch

The last three make up the level of noise, because they hide which of two trials is better. A study
knows of the first two: each image's pull on a score is in its match table, and the sum of the
squared pulls is the variance of the score that is due to images (docs/statistics.md). It is told
nothing of the other two.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.learning_curves import EPOCHS

IMAGES = 41
"""Validation images of the studies: as many as in the reference report."""


@dataclass(frozen=True)
class Noise:
    """How large the errors are, and how they divide.

    level    standard deviation of images, seed and epoch together
    images   share of the images' own error in that variance
    epoch    share of the epoch's; the rest is the seed's
    common   correlation of two trials' errors by the images that they share

    The defaults are near what benchmarks.simulated_scores has with 41 images: scores of two models
    correlate by 0.64 to 0.70 over draws of images (n = 250), their standard deviation is 0.06, and
    that of seeds 0.02. The share of the epoch is a guess.
    """

    level: float
    images: float = 0.6
    epoch: float = 0.2
    common: float = 0.7

    @property
    def standard_error(self) -> float:
        """The standard error of a score as its images tell it."""
        return self.level * math.sqrt(self.images / (1 - self.common))


class Split:
    """The errors of all trainings that are scored on the same images."""

    def __init__(self, noise: Noise, seed: tuple[int, ...]) -> None:
        """Make a split; equal seeds are equal splits."""
        self._noise, self._seed = noise, seed
        rng = np.random.default_rng([*seed, 0])
        self._common = rng.normal()
        self._common_I = rng.normal(size=IMAGES)

    def draw(self, training: int) -> tuple[np.ndarray, np.ndarray]:
        """The error of each epoch [52] and the pull of each image [41] of a training.

        Pulls tell the size of the errors due to images, and not their sign: the error of a mean of
        independent values is independent of the deviations from that mean.
        """
        noise, rng = self._noise, np.random.default_rng([*self._seed, 1, training])
        own, share = noise.standard_error * math.sqrt(1 - noise.common), noise.standard_error
        share *= math.sqrt(noise.common)
        seed_sd = noise.level * math.sqrt(1 - noise.images - noise.epoch)
        lasting = share * self._common + own * rng.normal() + seed_sd * rng.normal()
        errors = lasting + noise.level * math.sqrt(noise.epoch) * rng.normal(size=EPOCHS)
        pulls_I = (share * self._common_I + own * rng.normal(size=IMAGES)) / math.sqrt(IMAGES)
        return errors, pulls_I
