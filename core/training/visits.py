"""How often an epoch shows each training image: images of rare classes more than once."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.data.dataset import Dataset
from core.randomness import Purpose, generator


def repeat_factors(counts_IC: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
    """The expected number of visits of each image in an epoch, float64 [I], at least 1.

    counts_IC   number of instances of each class in each image
    threshold   a class in a fraction f of the images asks for max(1, sqrt(threshold / f)) visits

    An image has the largest factor of its classes, and 1 where it has no instance, by the rule of
    LVIS (Gupta et al., 2019, section 4.1).
    """
    holds_IC = counts_IC > 0
    fraction_C = np.maximum(holds_IC.mean(axis=0), 1 / len(holds_IC))
    factor_C = np.maximum(1, np.sqrt(threshold / fraction_C))
    factors_I: NDArray[np.float64] = np.where(holds_IC, factor_C, 1).max(axis=1, initial=1)
    return factors_I


class Visits:
    """The visits of each training image in every epoch.

    data        the data set
    indices     indices in the data set of the images of the training part
    threshold   `data.repeat_rare`; at 0 each image has one visit
    seed        the trial's seed

    Every epoch has `number` visits, the sum of the repeat factors rounded up. The expected number
    of an image's visits is its repeat factor, times `number` over the sum. Its number in an epoch
    is the whole number above or below that, by systematic sampling: equidistant points from a
    random start, on a line on which each image takes the length of its expectation. No image is
    ever left out.
    """

    def __init__(self, data: Dataset, indices: Sequence[int], threshold: float, seed: int) -> None:
        counts_IC = data.instance_counts()[list(indices)]
        self.indices = np.array(indices)
        self.seed = seed
        ends_I = np.cumsum(repeat_factors(counts_IC, threshold))
        # A sum that rounding took past a whole number is that number.
        self.number: int = math.ceil(ends_I[-1] * (1 - 1e-9))
        self._ends_I = ends_I * (self.number / ends_I[-1])
        self._ends_I[-1] = self.number

    def of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """The visits of an epoch, counted from 1, in the order of the images: int64 [number, 2].

        A row has the image's index in the data set, and the number of its earlier visits.
        """
        start = generator(self.seed, Purpose.REPEAT, epoch).random()
        visits_I = np.diff(np.ceil(self._ends_I - start), prepend=0).astype(np.int64)
        earlier = np.concatenate([np.arange(visits) for visits in visits_I])
        return np.column_stack([np.repeat(self.indices, visits_I), earlier])
