"""The luck in the score of a best epoch: the score is too high, because the epoch was chosen by it.

The model that a trial keeps is that of its best epoch. On other images another epoch might have
been the best: part of its lead over the other epochs is luck with these images. The luck is
estimated by repeating the choice: the curve is simulated many times with new luck, and the estimate
is the mean luck of the epochs that then come out best (after Efron and Gong, *The American
Statistician* 37, 1983).
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from tune.statistics.certainty import Scored, noise_between

_OTHERS = 3
_DRAWS = 400
_CALM = 0.95
"""Largest correlation of the luck of two neighbouring epochs."""
_PRIOR = 2
"""Weight, in epochs, of the assumption that an epoch differs from its neighbours by luck alone."""
_IN_REACH = 6.0
"""An epoch further below the best than this many standard deviations of luck does not count in how
much epochs differ, because the curve still rises there."""


def epochs_for_luck(curve: Sequence[float]) -> tuple[int, ...]:
    """The epochs whose match tables `luck_of_best` needs, counted from 1, in ascending order.

    These are the best epoch, its neighbours, and the best `_OTHERS` of the others.
    """
    best = int(np.argmax(curve))
    near = {place for place in (best - 1, best, best + 1) if 0 <= place < len(curve)}
    ranked = sorted(range(len(curve)), key=lambda place: -curve[place])
    others = [place for place in ranked if place not in near][:_OTHERS]
    return tuple(place + 1 for place in sorted(near | set(others)))


def luck_of_best(curve: Sequence[float], scored: Mapping[int, Scored]) -> float:
    """The amount by which the AP50 of the best epoch is too high on average, being the highest.

    curve    AP50 after each epoch
    scored   the scores of `epochs_for_luck`, by epoch

    The variance, due to images, of the difference of two epochs follows from the units' pulls;
    epochs that follow each other share luck. A simulated curve is the observed one, moved towards
    a smooth curve as far as luck explains how epochs differ, with new luck added. The estimate
    misses up to a fifth of the true luck where all epochs are alike (docs/statistics.md).
    """
    if len(curve) < 2:
        return 0.0
    values = np.asarray(curve, dtype=np.float64)
    sd, shared = _luck_of_epochs(int(np.argmax(values)) + 1, scored)
    luck_RE = sd * _correlated(len(values), round(shared, 2))
    drawn_R = np.argmax(_without_luck(values, sd, shared) + luck_RE, axis=1)
    return max(float(luck_RE[np.arange(_DRAWS), drawn_R].mean()), 0.0)


def _luck_of_epochs(best: int, scored: Mapping[int, Scored]) -> tuple[float, float]:
    """The standard deviation of an epoch's luck, and its correlation with its neighbour's.

    Luck that all epochs share is left out. `scored` holds `best` and one other epoch at least.
    """
    between = {
        epoch: noise_between(scored[best], other)
        for epoch, other in scored.items()
        if epoch != best
    }
    near = [noise for epoch, noise in between.items() if abs(epoch - best) == 1]
    far = [noise for epoch, noise in between.items() if abs(epoch - best) > 1] or near
    variance = float(np.mean(far)) / 2
    if variance <= 0:
        return 0.0, 0.0
    shared = 1 - float(np.mean(near)) / (2 * variance)
    return math.sqrt(variance), min(max(shared, 0.0), _CALM)


def _without_luck(curve_E: NDArray[np.float64], sd: float, shared: float) -> NDArray[np.float64]:
    """The curve [E], moved towards a smooth one as far as luck explains how epochs differ.

    Epochs differ by their distances from the mean of their two neighbours.

    sd       standard deviation of an epoch's luck
    shared   its correlation with its neighbour's
    """
    if len(curve_E) < 3:
        return curve_E
    window = max(3, min(len(curve_E) // 4, 9) // 2 * 2 + 1)
    smooth_E = savgol_filter(curve_E, window, 1, mode="interp")
    bends = curve_E[1:-1] - (curve_E[:-2] + curve_E[2:]) / 2
    bends = bends[curve_E[1:-1] >= curve_E.max() - _IN_REACH * sd]
    # The variance of this distance in an autoregressive process of order 1.
    by_luck = sd**2 * (1.5 - 2 * shared + 0.5 * shared**2)
    seen = float((bends**2).sum()) + _PRIOR * by_luck
    share = min(by_luck * (len(bends) + _PRIOR) / seen, 1.0) if seen > 0 else 0.0
    drawn: NDArray[np.float64] = smooth_E + math.sqrt(1 - share) * (curve_E - smooth_E)
    return drawn


@functools.lru_cache(maxsize=64)
def _correlated(epochs: int, shared: float) -> NDArray[np.float64]:
    """Draws of luck, float64 [_DRAWS, epochs], of an autoregressive process of order 1.

    Their variance is 1, and `shared` is the correlation of neighbouring epochs.
    """
    luck_RE = np.random.default_rng(0).normal(size=(_DRAWS, epochs))
    for epoch in range(1, epochs):
        luck_RE[:, epoch] *= math.sqrt(1 - shared**2)
        luck_RE[:, epoch] += shared * luck_RE[:, epoch - 1]
    return luck_RE
