"""Trials of another study as a sampler is shown them: on the level of this study's scores, and only
as long as this study's own scores do not contradict them.

Scores of two studies may differ by what neither records: another version of a library, another
machine. A difference that is the same for all settings is estimated and subtracted. If the settings
that did well there do badly here, the other study tells nothing, and is left out.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tune.samplers.encoding import Encoding
from tune.samplers.sampler import Outcome, Tried
from tune.samplers.surrogate import encoded_points, fit_surrogate
from tune.space.space import SearchSpace

MOST_TOGETHER = 100
"""Largest number of trials, of both studies, that a sampler is shown while there are trials of
another study among them. Each further trial of this study takes the place of one of the other, and
the Gaussian process is not used with more (see `tune.samplers.gaussian.MOST_TRIED`)."""
LEAST_SCORES = 4
"""Number of this study's scores from which on they may contradict the other study."""
LEAST_SLOPE = 0.5
"""Least slope of this study's scores over those that the other study lets expect, with which the
other study is believed. Above one half, its scores are nearer than one mean score of all settings.
"""
_SLOPE_SPREAD = 0.5
"""Standard deviation of the slope before any score of this study is known; its mean is 1."""
_LEAST_VARIANCE = 1e-8
"""Variance of a score around the line, at least: replayed scores may lie exactly on it."""


def believed(space: SearchSpace, elsewhere: Sequence[Tried], here: Sequence[Tried]) -> list[Tried]:
    """The trials of another study that a sampler is shown beside those of this one.

    elsewhere   trials of the other study, each with a score, those that matter most first
    here        trials of this study

    The surrogate of the other study's scores says what each score of this study should be. The mean
    difference, shrunk towards 0 as if one score without a difference were known beside these, is
    added to all of the other study's scores. The list is empty once the posterior mean of the slope
    is under LEAST_SLOPE. Nothing is compared before a trial of this study is complete, since before
    that nobody knows what the stopped ones would have gained.
    """
    shown = list(elsewhere[: max(0, MOST_TOGETHER - len(here))])
    scored = [one for one in here if one.score is not None]
    if not shown or all(one.outcome is not Outcome.COMPLETE for one in scored):
        return shown
    encoding = Encoding(space)
    expected_N, _ = fit_surrogate(encoding, elsewhere).estimates(encoded_points(encoding, scored))
    scores_N = np.array([one.score for one in scored], dtype=np.float64)
    if len(scored) >= LEAST_SCORES and _slope(expected_N, scores_N) < LEAST_SLOPE:
        return []
    shift = float((scores_N - expected_N).sum()) / (len(scored) + 1)
    return [
        replace(one, score=(one.score or 0.0) + shift, curve=[ap50 + shift for ap50 in one.curve])
        for one in shown
    ]


def _slope(expected_N: np.ndarray, scores_N: np.ndarray) -> float:
    """The posterior mean of the slope of scores over expected scores, with a normal prior.

    The variance around the line is that of the residuals of least squares.
    """
    x_N, y_N = expected_N - expected_N.mean(), scores_N - scores_N.mean()
    xx, xy, yy = float(x_N @ x_N), float(x_N @ y_N), float(y_N @ y_N)
    residual = yy - xy**2 / xx if xx > 0 else yy
    variance = max(residual / (len(x_N) - 2), _LEAST_VARIANCE)
    prior = 1 / _SLOPE_SPREAD**2
    return (prior + xy / variance) / (prior + xx / variance)
