"""A Gaussian process of scores over a search space, which knows the noise of each score."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import linalg, optimize

from core.config import Value
from core.dependence import unmet_need
from tune.samplers.encoding import Array, Encoding
from tune.samplers.sampler import Tried

_REACH = 3.0
"""Scores below the median by more than this number of times the distance from the median to the
best are raised to that bound: how bad the bad ones are says nothing about where the best are. The
distance is at least the noise of a score, because a bound nearer than that would let bad scores
pass for good ones where most are nearly the best. Where it is 0, no score is raised."""
_SAME = 1e-9
"""Scores that differ by less than this count as equal."""
_JITTER = 1e-6
"""Variance, in units of the scores' variance, that is added so that a matrix can be factorized."""
_LENGTH, _LENGTH_SPREAD = math.log(0.35), 1.5
_SCALE_SPREAD = 0.7
_NOISE, _NOISE_SPREAD = math.log(1e-3), 2.5
"""Priors, normal in the logarithm: of a length, in units of a domain, for a space of one parameter
(it grows with the square root of their number); of the process's variance, around 1; and of the
noise beyond the given variances. Variance and noise are in units of the scores' variance."""


class Surrogate:
    """A Gaussian process that was fitted to scores.

    Its covariance is Matérn's (5/2) with a length for each parameter. Each score has its given
    variance and, in addition, noise of one size for all scores, which is fitted: it stands for what
    training with another seed would have changed. Lengths, variance and noise are at the maximum of
    their posterior.
    """

    def __init__(
        self, encoding: Encoding, points_ND: Array, scores_N: Array, variances_N: Array
    ) -> None:
        """Fit the process to scores at points; each score has a variance, 0 where none is known."""
        self._nominal_D = encoding.nominal
        self._points_ND = points_ND
        middle, noise = float(np.median(scores_N)), math.sqrt(float(np.median(variances_N)))
        distance = max(float(scores_N.max()) - middle, noise)
        floor = middle - _REACH * distance if distance > _SAME else -math.inf
        clipped_N = np.maximum(scores_N, floor)
        self._mean, self._spread = float(clipped_N.mean()), float(clipped_N.std()) or 1.0
        self._scores_N = (clipped_N - self._mean) / self._spread
        self._given_N = variances_N / self._spread**2 + _JITTER
        self._apart_DNN = self._apart(points_ND, points_ND)
        self._fit()

    def _apart(self, some_ND: Array, others_MD: Array) -> Array:
        """Squared distances of each parameter, [D, N, M]; 1 between two different choices."""
        apart_DNM: Array = np.square(some_ND.T[:, :, None] - others_MD.T[:, None, :])
        apart_DNM[self._nominal_D] = apart_DNM[self._nominal_D] > 0
        return apart_DNM

    def loss(self, theta: Array) -> tuple[float, Array]:
        """The negative log posterior of the process's parameters, up to a constant, and its
        gradient.

        theta   the logarithms of each length, of the variance and of the noise [D + 2]
        """
        count = len(self._apart_DNN)
        away = (theta - self._centre) / self._width
        inverse_D = np.exp(-2 * theta[:count])
        scale, noise = np.exp(theta[count:])
        distance_NN = np.sqrt(5 * np.tensordot(inverse_D, self._apart_DNN, 1))
        decay_NN = scale * np.exp(-distance_NN)
        kernel_NN = decay_NN * (1 + distance_NN + distance_NN**2 / 3)
        factor = linalg.cho_factor(kernel_NN + np.diag(self._given_N + noise), lower=True)
        weights_N = linalg.cho_solve(factor, self._scores_N)
        inverse_NN = linalg.cho_solve(factor, np.eye(len(weights_N)))
        value = (
            0.5 * float(self._scores_N @ weights_N)
            + float(np.log(np.diag(factor[0])).sum())
            + 0.5 * float(away @ away)
        )
        pull_NN = 0.5 * (inverse_NN - np.outer(weights_N, weights_N))
        slope_NN = pull_NN * decay_NN * (1 + distance_NN) * (5 / 3)
        gradient = np.concatenate(
            [
                np.tensordot(self._apart_DNN, slope_NN, 2) * inverse_D,
                [float((pull_NN * kernel_NN).sum()), noise * float(np.trace(pull_NN))],
            ]
        )
        return value, gradient + away / self._width

    def _fit(self) -> None:
        count = len(self._apart_DNN)
        self._centre = np.array([_LENGTH + 0.5 * math.log(count)] * count + [0.0, _NOISE])
        self._width = np.array([_LENGTH_SPREAD] * count + [_SCALE_SPREAD, _NOISE_SPREAD])
        bounds = [(-4.0, 8.0)] * count + [(-4.0, 4.0), (-14.0, 3.0)]
        theta = optimize.minimize(
            self.loss,
            self._centre,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 60},
        ).x
        self._inverse_D = np.exp(-2 * theta[:count])
        self._scale, self.noise = (float(one) for one in np.exp(theta[count:]))
        kernel_NN = self._kernel(self._apart_DNN)
        noisy_NN = kernel_NN + np.diag(self._given_N + self.noise)
        self._factor = linalg.cho_factor(noisy_NN, lower=True)
        self._weights_N = linalg.cho_solve(self._factor, self._scores_N)

    def _kernel(self, apart_DNM: Array) -> Array:
        distance_NM = np.sqrt(5 * np.tensordot(self._inverse_D, apart_DNM, 1))
        return np.asarray(
            self._scale * np.exp(-distance_NM) * (1 + distance_NM + distance_NM**2 / 3)
        )

    def posterior(self, points_MD: Array) -> tuple[Array, Array]:
        """Mean and covariance of the process at points, in units of the fitted scores."""
        cross_MN = self._kernel(self._apart(points_MD, self._points_ND))
        solved_NM = linalg.cho_solve(self._factor, cross_MN.T)
        own_MM = self._kernel(self._apart(points_MD, points_MD))
        return cross_MN @ self._weights_N, own_MM - cross_MN @ solved_NM

    def estimates(self, points_MD: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the process at points, in units of scores."""
        mean_M, covariance_MM = self.posterior(points_MD)
        sd_M = np.sqrt(np.clip(np.diag(covariance_MM), 0.0, None))
        return self._mean + self._spread * mean_M, self._spread * sd_M


def fit_surrogate(encoding: Encoding, scored: Sequence[Tried]) -> Surrogate:
    """The Gaussian process of trials that have a score."""
    return Surrogate(
        encoding,
        encoded_points(encoding, scored),
        np.array([one.score for one in scored], dtype=np.float64),
        np.array([one.variance for one in scored], dtype=np.float64),
    )


def encoded_points(encoding: Encoding, tried: Sequence[Tried]) -> Array:
    """The points of trials as rows [N, D]; settings without an effect make no difference."""
    points = [encoding.shown(_having_effect(one)) for one in tried]
    return encoding.encoded(points).reshape(len(points), len(encoding.space.parameters))


def _having_effect(one: Tried) -> dict[str, Value]:
    # The params win: where `auto` was chosen they say so, and the settings hold its number.
    named = {**one.settings, **one.params}
    return {name: value for name, value in named.items() if unmet_need(name, one.settings) is None}
