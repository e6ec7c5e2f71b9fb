"""The winner of a confirmation, its epoch and way to predict, and the luck in its score."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from core.config import PredictConfig
from core.metric.ap50 import MatchTable
from core.metric.reweighted import Reweighted
from tune.statistics.certainty import (
    Difference,
    Interval,
    Repeat,
    Scored,
    Scores,
    compare_all,
    distinct_seeds,
    for_all_pairs,
    mean_interval,
    seed_variances,
)


@dataclass(frozen=True)
class Choice:
    """The winner among candidates that were repeated on fresh seeds and splits, and its luck.

    name         the winner: the candidate whose mean curve, with the gain of its best settings of
                 prediction, reaches the highest point
    epoch        the epoch of that point, counted from 1
    score        the winner's mean AP50 over the repeats at that epoch, with that gain
    optimism     how much too high the score is because candidate, epoch and settings of prediction
                 were chosen on the images and seeds that it is measured on, by bootstrap
    corrected    `score` less `optimism`, with its interval
    curves       the mean AP50 of each candidate after each epoch, predicted with its own settings
    prediction   the settings of prediction that were tried and chosen; None for the winner's own
    gains        the mean gain in AP50, over the winner's own settings of prediction, of each that
                 was tried on the winner
    others       each other candidate's AP50 less the winner's, both at their own best epoch and
                 with their best settings of prediction; p is adjusted for all pairs of candidates
    """

    name: str
    epoch: int
    score: float
    optimism: float
    corrected: Interval
    curves: Mapping[str, tuple[float, ...]]
    prediction: PredictConfig | None = None
    gains: Mapping[PredictConfig, float] = field(default_factory=dict)
    others: Mapping[str, Difference] = field(default_factory=dict)


Tables = Mapping[str, Sequence[Sequence[Callable[[], MatchTable]]]]
"""Functions that load the match tables of candidates: by the candidate's name, [repeat][epoch]."""


@dataclass(frozen=True)
class Predictions:
    """Functions that load the match tables of a candidate's kept models, by settings of prediction.

    own     the candidate's own settings: one function for each repeat
    tried   other settings: one function for each repeat
    """

    own: Sequence[Callable[[], MatchTable]]
    tried: Mapping[PredictConfig, Sequence[Callable[[], MatchTable]]]


def choose_winner(
    candidates: Tables,
    max_dets: int | None,
    units_of: Callable[[Sequence[str]], Sequence[str]] | None = None,
    seed: int = 0,
    predictions: Mapping[str, Predictions] | None = None,
    repeats: Sequence[Repeat] | None = None,
) -> Choice:
    """Choose the winner, its epoch and its settings of prediction.

    All candidates have the same repeats, and all repeats of a candidate have the same number of
    epochs.

    max_dets      detections counted per image and class (`metric.max_dets`); None for all
    units_of      the units of images, given their names; None where each image is its own unit
    seed          seed of the resamples
    predictions   by the name of a candidate; those that are missing keep their own settings
    repeats       seed and fold of each repeat; None where each has a seed of its own

    The score of a candidate, an epoch and settings of prediction is the point of the mean curve
    plus the settings' mean gain. The gain is measured on the model that each repeat kept, that of
    its own best epoch. The luck of that epoch is in both scores whose difference is the gain.

    The choice of all three is repeated on resampled images and seeds. Each time the resampled score
    of the choice is compared with its score before resampling; the optimism is the mean excess
    (Efron and Gong 1983). Before that the candidates' scores are shrunk towards their mean, as far
    as chance explains their differences (empirical Bayes): candidates that differ by chance alone
    would otherwise hide the luck of the best.
    """
    weights = _Weights(np.random.default_rng([seed, 0]))
    if repeats is None:
        repeats = [Repeat(number) for number in range(len(next(iter(candidates.values()))))]

    def means(trained: Sequence[Sequence[Callable[[], MatchTable]]]) -> NDArray[np.float64]:
        """Mean AP50 over repeats of tables [repeat][K], as evaluated and resampled: [K, 1 + R]."""
        values = [
            [_resampled(load(), max_dets, units_of, weights) for load in tables]
            for tables in trained
        ]
        return np.mean(values, axis=0)  # type: ignore[no-any-return]

    curves: dict[str, tuple[float, ...]] = {}
    gains: dict[str, dict[PredictConfig, float]] = {}
    points: dict[str, NDArray[np.float64]] = {}
    resampled: dict[str, NDArray[np.float64]] = {}
    chosen: dict[str, tuple[int, PredictConfig | None]] = {}
    scores: dict[str, dict[Repeat, Scored]] = {}
    for name, trained in candidates.items():
        means_ER = means(trained)
        curves[name] = tuple(means_ER[:, 0].tolist())
        ways = (predictions or {}).get(name, Predictions((), {}))
        gains_KR = np.zeros((1, means_ER.shape[1]))
        if ways.tried:
            tables = zip(ways.own, *ways.tried.values(), strict=True)
            gains_KR = means(list(tables))
            gains_KR -= gains_KR[0]
        gains[name] = dict(zip(ways.tried, gains_KR[1:, 0].tolist(), strict=True))
        points_KR = (means_ER[:, None] + gains_KR).reshape(-1, means_ER.shape[1])
        points[name], resampled[name] = points_KR[:, 0], points_KR[:, 1:]
        epoch, way = divmod(int(np.argmax(points[name])), len(gains_KR))
        prediction = [None, *ways.tried][way]
        chosen[name] = epoch, prediction
        best = [epochs[epoch] for epochs in trained]
        scores[name] = {
            repeat: Scored.of(table, max_dets, units_of and units_of(table.image_names))
            for repeat, table in zip(
                repeats,
                (load() for load in (best if prediction is None else ways.tried[prediction])),
                strict=True,
            )
        }
    winner = max(points, key=lambda name: float(points[name].max()))
    epoch, prediction = chosen[winner]
    score, repeated = float(points[winner].max()), list(scores[winner].values())
    variances, seeds = seed_variances(scores), distinct_seeds(repeats)
    of_seeds = None if variances is None else variances.of_mean([winner], seeds)
    seed_sd = 0.0 if variances is None else math.sqrt(variances.pooled.value / seeds)
    optimism = _optimism(
        points,
        resampled,
        _towards_each_other(points, scores),
        seed_sd,
        np.random.default_rng([seed, 1]),
    )
    around = mean_interval(repeated, of_seeds)
    # The tables of other settings are of each repeat's own best epoch.
    too_high = optimism + (0.0 if prediction is None else around.estimate - score)
    corrected = Interval(
        *(
            min(max(value - too_high, 0.0), 1.0)
            for value in (around.estimate, around.low, around.high)
        )
    )
    return Choice(
        winner,
        epoch + 1,
        score,
        optimism,
        corrected,
        curves,
        prediction,
        gains[winner],
        compared_with_winner(winner, scores),
    )


def compared_with_winner(winner: str, scores: Scores) -> dict[str, Difference]:
    """The difference of each other candidate from the winner (see `Choice.others`)."""
    names = [name for name in scores if name != winner]
    found = compare_all(scores, [(name, winner) for name in names])
    adjusted = for_all_pairs([one.p for one in found])
    return {
        name: replace(one, p_adjusted=p)
        for name, one, p in zip(names, found, adjusted, strict=True)
    }


_RESAMPLES = 200


class _Weights:
    """The weight of each unit in each resample, drawn when the unit is first met.

    Weights are exponential, rounded to whole twentieths of their mean (the Bayesian bootstrap,
    Rubin 1981). They are independent of each other, unlike the ordinary bootstrap's, so units need
    not be known in advance; AP50 depends on their ratios only. None is 0, so no resample loses a
    class.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._of_unit: dict[str, NDArray[np.int64]] = {}

    def of(self, units: Sequence[str]) -> NDArray[np.int64]:
        """The weights of these units in R resamples, in twentieths, int64 [U, R]."""
        for unit in units:
            if unit not in self._of_unit:
                drawn = np.rint(20 * self._rng.exponential(size=_RESAMPLES))
                self._of_unit[unit] = np.maximum(drawn, 1).astype(np.int64)
        return np.array([self._of_unit[unit] for unit in units])


def _resampled(
    table: MatchTable,
    max_dets: int | None,
    units_of: Callable[[Sequence[str]], Sequence[str]] | None,
    weights: _Weights,
) -> NDArray[np.float64]:
    """The AP50 of a table as it was evaluated, then under each resample, float64 [1 + R]."""
    reweighted = Reweighted(table, max_dets, units_of and units_of(table.image_names))
    weights_UR = weights.of(reweighted.units)
    values_RC = reweighted.ap50(np.concatenate([np.ones((len(weights_UR), 1)), weights_UR], axis=1))
    present_C = ~np.isnan(values_RC[0])
    means_R: NDArray[np.float64] = values_RC[:, present_C].mean(axis=1)
    return means_R


def _towards_each_other(
    points: Mapping[str, NDArray[np.float64]], scores: Scores
) -> dict[str, float]:
    """The shift of each candidate's points towards the mean of all candidates.

    Where scores have variance s^2, of which v is due to chance, the shift is v / s^2 of the
    distance to the mean (James and Stein 1961).
    """
    best = {name: float(found.max()) for name, found in points.items()}
    observed = float(np.var(list(best.values()), ddof=1)) if len(best) > 1 else 0.0
    if observed == 0:
        return dict.fromkeys(best, 0.0)
    pairs = list(itertools.combinations(best, 2))
    by_chance = float(np.mean([min(pair.se, 1.0) ** 2 for pair in compare_all(scores, pairs)])) / 2
    mean = float(np.mean(list(best.values())))
    return {name: min(by_chance / observed, 1.0) * (mean - score) for name, score in best.items()}


def _optimism(
    points: Mapping[str, NDArray[np.float64]],
    resampled: Mapping[str, NDArray[np.float64]],
    moved: Mapping[str, float],
    seed_sd: float,
    rng: np.random.Generator,
) -> float:
    """The mean excess of the highest resampled point of all candidates over its value before.

    points      the score of each candidate's points [K]
    resampled   the same under each resample [K, R]
    moved       the shift of each candidate's points (`_towards_each_other`)
    seed_sd     standard deviation of the luck of seeds, which is drawn for each candidate
    """
    excess = []
    for number in range(_RESAMPLES):
        luck = rng.normal(0.0, seed_sd, len(points)) if seed_sd else np.zeros(len(points))
        seen = {
            name: resampled[name][:, number] + moved[name] + one
            for name, one in zip(points, luck, strict=True)
        }
        chosen = max(seen, key=lambda name: float(seen[name].max()))
        place = int(np.argmax(seen[chosen]))
        excess.append(float(seen[chosen][place] - points[chosen][place] - moved[chosen]))
    return float(np.mean(excess))
