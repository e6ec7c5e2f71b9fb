"""Match tables of models that were never trained: cells clustered in images, rare classes, and
luck of the seed.

What is simulated is what makes AP50 uncertain on small biomedical data sets: images hold from 1 to
700 instances; two of four classes are rare and come in few images; some images are hard for every
model, some for one; false alarms come in clusters too; and two trainings on the same settings give
models of different quality. The truth of a model is its AP50 on a pool so large that images no
longer matter.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from core.metric.ap50 import MatchTable, ap50

SHARES = np.array([0.44, 0.52, 0.02, 0.02])
"""Of all instances, by class: those of the reference report's data."""
MAX_DETS = 100
POOL = 20_000
SEED_SD = 0.06
"""Of a model's quality; 0.02 of AP50 where it is 0.3."""

_IMAGE_SD, _CLUTTER_SD, _TASTE_SD = 0.6, 0.6, 0.3


@dataclass(frozen=True)
class Images:
    """Images as every model meets them.

    truths_IC       int [images, 4], instances
    ease_I          how much easier than others an image is
    clutter_I       how many more false alarms it gives rise to (log)
    image_G         image of each instance
    label_G         its class, from 0
    ease_G          how much easier than others it is
    """

    truths_IC: NDArray[np.int64]
    ease_I: NDArray[np.float64]
    clutter_I: NDArray[np.float64]
    image_G: NDArray[np.int64]
    label_G: NDArray[np.int64]
    ease_G: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ease_I)

    def take(self, indices: NDArray[np.int64]) -> "Images":
        """Some of them, in this order of ascending indices."""
        place_I = np.full(len(self), -1)
        place_I[indices] = np.arange(len(indices))
        kept_G = place_I[self.image_G] >= 0
        return Images(
            self.truths_IC[indices], self.ease_I[indices], self.clutter_I[indices],
            place_I[self.image_G[kept_G]], self.label_G[kept_G], self.ease_G[kept_G],
        )  # fmt: skip


def draw_images(rng: np.random.Generator, count: int, median: int = 60) -> Images:
    """Images of the population; `median` is that of their numbers of instances."""
    sizes = np.exp(rng.normal(np.log(median), 1.1, count))
    sizes = np.clip(np.rint(sizes), 1, 700).astype(np.int64)
    mixture = rng.gamma(np.broadcast_to(3 * SHARES, (count, len(SHARES))))
    truths_IC = rng.multinomial(sizes, mixture / mixture.sum(axis=1, keepdims=True))
    classes = len(SHARES)
    return Images(
        truths_IC,
        rng.normal(0, _IMAGE_SD, count),
        rng.normal(0, _CLUTTER_SD, count),
        np.repeat(np.arange(count), sizes),
        np.repeat(np.tile(np.arange(classes), count), truths_IC.ravel()),
        rng.normal(0, 0.7, int(sizes.sum())),
    )


def evaluate(
    rng: np.random.Generator, images: Images, quality: float, names: NDArray[np.int64] | None = None
) -> MatchTable:
    """The match table of a model on these images.

    quality   0 gives an AP50 of about 0.33, -1 0.07, 1 0.62, 2 0.76
    names     what the images are called, as numbers; None for 0, 1, ...
    """
    count, classes = images.truths_IC.shape
    taste_I = rng.normal(0, _TASTE_SD, count)
    taste_IC = rng.normal(0, _TASTE_SD, (count, classes))
    clear_G = (
        quality + (images.ease_I + taste_I)[images.image_G]
        + taste_IC[images.image_G, images.label_G] + images.ease_G
        + rng.normal(0, 0.7, len(images.ease_G))
    )  # fmt: skip
    found_G = clear_G > 0
    expected_IC = (0.35 * images.truths_IC + SHARES) * np.exp(
        images.clutter_I + 0.5 * taste_I - 0.35 * quality
    )[:, None]
    alarms_IC = rng.poisson(expected_IC)
    alarms = int(alarms_IC.sum())
    hits = int(found_G.sum())
    image_D = np.concatenate(
        [images.image_G[found_G], np.repeat(np.arange(count), alarms_IC.sum(axis=1))]
    )
    label_D = np.concatenate(
        [images.label_G[found_G], np.repeat(np.tile(np.arange(classes), count), alarms_IC.ravel())]
    )
    score_D = np.concatenate(
        [clear_G[found_G] + rng.normal(0, 0.6, hits), rng.normal(0.2 - 0.1 * quality, 0.8, alarms)]
    ).astype(np.float32)
    order = np.lexsort((-score_D, image_D))
    key_D = (image_D * classes + label_D)[order]
    by_key = np.argsort(key_D, kind="stable")
    rank_D = np.empty(len(order), dtype=np.int64)
    rank_D[by_key] = np.arange(len(order)) - np.searchsorted(key_D[by_key], key_D[by_key])
    return MatchTable(
        image_D=image_D[order].astype(np.int32),
        label_D=(label_D[order] + 1).astype(np.int16),
        score_D=score_D[order],
        rank_D=rank_D.astype(np.int32),
        hit_D=(np.arange(hits + alarms) < hits)[order],
        ignored_D=np.zeros(hits + alarms, dtype=np.bool_),
        truths_IC=images.truths_IC.astype(np.int32),
        image_names=tuple(map(str, (np.arange(count) if names is None else names).tolist())),
    )


@functools.cache
def truth(quality: float) -> float:
    """AP50 of a model of this quality on the pool."""
    rng = np.random.default_rng([0, POOL])
    return ap50(evaluate(rng, draw_images(rng, POOL), quality), MAX_DETS).mean


@functools.cache
def quality_for(score: float) -> float:
    """The quality that has this AP50 on the pool, to about 0.001 of AP50, between knots."""
    knots = np.arange(-2.5, 4.5, 0.5).tolist()
    return float(PchipInterpolator([truth(knot) for knot in knots], knots)(score))
