"""The effect of each searched setting on AP50, estimated from the trials of one search.

Where trials were stopped early, all are compared after the last epoch that every one of them
reached. A stopped trial has no final score, and the complete trials are a selection of those that
were early, good or lucky, which would bias the effects of settings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from core.config import Value
from core.values import as_number, as_setting
from tune.statistics.certainty import CONFIDENCE, holm


@dataclass(frozen=True)
class Effect:
    """The effect of a searched setting on AP50 over the trials of a search.

    setting     name of the setting
    change      the change of the setting: `5 instead of 1`, `doubled`, `from 0.1 to 0.9`
    estimate    the change of AP50 that goes with it; `low` to `high` is its interval at 95%
                confidence, for this effect by itself
    p           two-sided p value of no effect
    p_adjusted  p value adjusted for all effects of the study, by Holm
    trials      number of trials that it was estimated from
    alone       whether the other settings were left out of the model: too few trials for all
                together, or a conditional setting; else they are held fixed
    """

    setting: str
    change: str
    estimate: float
    low: float
    high: float
    p: float
    p_adjusted: float
    trials: int
    alone: bool

    @property
    def is_clear(self) -> bool:
        """Whether the adjusted p is under 5%."""
        return self.p_adjusted < 1 - CONFIDENCE


def comparable_epoch(curves: Sequence[Sequence[float]], stopped: Sequence[bool]) -> int | None:
    """The last epoch that all trials reached; None if all were complete, and have a final score.

    curves    AP50 after each epoch of each trial
    stopped   whether the trial was stopped early
    """
    return min(map(len, curves)) if any(stopped) else None


def main_effects(points: Sequence[Mapping[str, Value]], ap50: Sequence[float]) -> list[Effect]:
    """The effect of each setting, by least squares over trials.

    points   the searched settings of each trial; a conditional one is missing where it is not
             active
    ap50     the score of each trial, at the same epoch or the last of each

    A choice enters as levels, and so does a number with at most `_LEVELS` values that more trials
    than that have. Other numbers enter linearly, or as a logarithm (`_RATIO_OF_DOUBLING`). The
    settings that every trial has are estimated together where there are `_TRIALS_A_COEFFICIENT`
    trials for each coefficient, else one at a time; conditional settings are always estimated by
    themselves. A setting whose effect cannot be estimated has no entry.

    A sampler that learns tries good settings more often and together, which least squares cannot
    see, and all trials share images and seed: effects describe one search and are not an
    experiment.
    """
    y = np.asarray(ap50, dtype=np.float64)
    names = list(dict.fromkeys(name for point in points for name in point))
    codings = [coding for name in names for coding in [_coded(name, points)] if coding is not None]
    everywhere = [coding for coding in codings if coding.rows_N.all()]
    effects: list[Effect] = []
    if everywhere and len(y) >= _TRIALS_A_COEFFICIENT * (
        1 + sum(len(coding.changes) for coding in everywhere)
    ):
        columns = np.concatenate([coding.columns_NP for coding in everywhere], axis=1)
        changes = [(coding.name, change) for coding in everywhere for change in coding.changes]
        effects = _least_squares(changes, columns, y, alone=False)
    for coding in [coding for coding in codings if not effects or not coding.rows_N.all()]:
        rows = coding.rows_N
        changes = [(coding.name, change) for change in coding.changes]
        effects = [*effects, *_least_squares(changes, coding.columns_NP[rows], y[rows], alone=True)]
    adjusted = holm([effect.p for effect in effects])
    return [replace(effect, p_adjusted=p) for effect, p in zip(effects, adjusted, strict=True)]


_LEVELS = 5
_TRIALS_A_COEFFICIENT = 3
_RATIO_OF_DOUBLING = 4.0
"""A number whose largest value is at least this many times its smallest enters as a logarithm; its
effect is that of doubling it."""
_SAME = 1e-9
"""Scores that differ by less than this count as equal."""


@dataclass(frozen=True)
class _Coding:
    """A setting as columns of a regression.

    rows_N       whether trial n has the setting
    columns_NP   one column for each of `changes`
    """

    name: str
    changes: tuple[str, ...]
    rows_N: NDArray[np.bool_]
    columns_NP: NDArray[np.float64]


def _coded(name: str, points: Sequence[Mapping[str, Value]]) -> _Coding | None:
    """The coding of a setting; None where it does not vary."""
    rows_N = np.array([name in point for point in points])
    values = [point[name] for point in points if name in point]
    distinct = sorted(set(values), key=lambda value: (-values.count(value), str(value)))
    if len(distinct) < 2:
        return None
    is_number = not any(isinstance(value, (bool, str)) for value in distinct)
    if not is_number or len(distinct) <= _LEVELS < len(values):
        reference, *others = distinct
        columns = [
            [float(point.get(name, reference) == other) for point in points] for other in others
        ]
        changes = tuple(
            f"{as_setting(other)} instead of {as_setting(reference)}" for other in others
        )
        return _Coding(name, changes, rows_N, np.array(columns).T)
    numbers = np.array([float(point.get(name, math.nan)) for point in points])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    if low > 0 and high / low >= _RATIO_OF_DOUBLING:
        return _Coding(name, ("doubled",), rows_N, np.log2(numbers)[:, None])
    return _Coding(
        name,
        (f"from {as_number(low, 3)} to {as_number(high, 3)}",),
        rows_N,
        ((numbers - low) / (high - low))[:, None],
    )


def _least_squares(
    names: Sequence[tuple[str, str]],
    columns_NP: NDArray[np.float64],
    y: NDArray[np.float64],
    alone: bool,
) -> list[Effect]:
    """The effects by least squares with an intercept.

    The list is empty where trials are too few, have equal scores, or cannot tell the coefficients
    apart.
    """
    design = np.concatenate([np.ones((len(y), 1)), columns_NP], axis=1)
    df = len(y) - design.shape[1]
    if df < 1 or np.ptp(y) < _SAME or np.linalg.matrix_rank(design) < design.shape[1]:
        return []
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = float(((y - design @ solution) ** 2).sum()) / df
    se = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * variance)
    bound = float(stats.t.ppf((1 + CONFIDENCE) / 2, df))
    p_values = 2 * stats.t.sf(np.abs(solution) / np.maximum(se, _SAME), df)
    return [
        Effect(
            setting, change, value, value - bound * one, value + bound * one, p, p, len(y), alone
        )
        for (setting, change), value, one, p in zip(
            names, solution[1:].tolist(), se[1:].tolist(), p_values[1:].tolist(), strict=True
        )
    ]
