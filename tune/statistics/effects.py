"""The effect of each searched setting on AP50, estimated from the trials of one search.

Where trials were stopped early, all are compared after the last epoch that every one of them
reached. A stopped trial has no final score, and the complete trials are a selection of those that
were early, good or lucky, which would bias the effects of settings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from core.config import Value, setting_in_words
from core.values import as_number, as_setting
from tune.statistics.certainty import CONFIDENCE, holm


@dataclass(frozen=True)
class Turn:
    """The value of a numeric setting at which AP50 is highest, or lowest, among those tried.

    at          the value; `low` to `high` is its interval at 95% confidence (Fieller's), cut at the
                smallest and the largest value that was tried
    is_best     whether AP50 is highest there; else it is lowest
    below       whether the smallest value that was tried is clearly on the other side, that is
                scored clearly less than `at` (or more, where `at` is the worst)
    above       the same of the largest value that was tried
    """

    at: float
    low: float
    high: float
    is_best: bool
    below: bool
    above: bool

    def __str__(self) -> str:
        """The turn in words: `best near 8e-05; lower and higher scored less`."""
        best, less = ("best", "less") if self.is_best else ("worst", "more")
        ends = {"lower": self.below, "higher": self.above}
        told = " and ".join(end for end, clear in ends.items() if clear)
        untold = " or ".join(end for end, clear in ends.items() if not clear)
        said = [f"{told} scored {less}"] if told else []
        said += [f"whether {untold} scored {less} cannot be told"] if untold else []
        return f"{best} near {as_number(self.at, 2)}; {', '.join(said)}"


@dataclass(frozen=True)
class Effect:
    """The effect of a searched setting on AP50 over the trials of a search.

    setting     name of the setting
    change      the change of the setting: `5 instead of 1`, `doubled`, `from 0.1 to 0.9`
    estimate    the change of AP50 that goes with it; `low` to `high` is its interval at 95%
                confidence, for this effect by itself
    p           two-sided p value of no effect; for a number that may turn, of neither a line nor a
                curve, which its two ends share
    p_adjusted  p value adjusted for all effects of the study, by Holm
    trials      number of trials that it was estimated from
    alone       whether the other settings were left out of the model: too few trials for all
                together, or a conditional setting; else they are held fixed
    turn        where a number is best or worst, if that is between the values that were tried; its
                two ends then have an effect each, against `turn.at`
    together    other settings that had another value exactly where this one had: the effect is that
                of all of them
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
    turn: Turn | None = None
    together: tuple[str, ...] = ()

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
    than that have. Other numbers enter as they are, or as a logarithm (`_RATIO_OF_DOUBLING`), and
    with their square, since the best value is often between the ends: both have one F test. The
    change is told as a line unless the square by itself is clear at 5%.

    The settings that every trial has are estimated together where there are `_TRIALS_A_COEFFICIENT`
    trials for each coefficient; if there are too few for all squares, each number has its own
    square beside the lines of the others; if there are too few for that, lines alone; else settings
    are taken one at a time. Conditional settings are always estimated by themselves, with a square
    under the same rule. Settings that always change together are one effect. A setting whose effect
    cannot be estimated has no entry.

    A sampler that learns tries good settings more often and together, which least squares cannot
    see, and all trials share images and seed: effects describe one search and are not an
    experiment.
    """
    y = np.asarray(ap50, dtype=np.float64)
    if not len(y) or np.ptp(y) < _SAME:
        return []
    names = list(dict.fromkeys(name for point in points for name in point))
    codings = [coding for name in names if (coding := _coded(name, points)) is not None]
    codings = _merged(codings, points)
    everywhere = [coding for coding in codings if coding.rows_N.all()]
    tests = _held_fixed(everywhere, y)
    for coding in [coding for coding in codings if not tests or not coding.rows_N.all()]:
        tests = [*tests, *_by_itself(coding, y)]
    adjusted = holm([effects[0].p for effects in tests])
    return [
        replace(effect, p_adjusted=p)
        for effects, p in zip(tests, adjusted, strict=True)
        for effect in effects
    ]


_LEVELS = 5
_TRIALS_A_COEFFICIENT = 3
_RATIO_OF_DOUBLING = 4.0
"""A number whose largest value is at least this many times its smallest enters as a logarithm; its
effect is that of doubling it."""
_SAME = 1e-9
"""Scores that differ by less than this count as equal."""

_Test = list[Effect]
"""The effects that share one p value."""


@dataclass(frozen=True)
class _Coding:
    """A setting as columns of a regression.

    rows_N       whether trial n has the setting
    columns_NP   one column for each of `changes`
    is_number    whether the one column is a number, which may have a square; else it is a level
    is_log       whether that column is a logarithm to the base of 2
    low, high    the smallest and the largest number
    together     other settings that always change with it
    with_these   words for how they change, to stand after each of `changes`
    """

    name: str
    changes: tuple[str, ...]
    rows_N: NDArray[np.bool_]
    columns_NP: NDArray[np.float64]
    is_number: bool = False
    is_log: bool = False
    low: float = 0.0
    high: float = 1.0
    together: tuple[str, ...] = ()
    with_these: tuple[str, ...] = ("",)

    def columns(self, squared: bool) -> NDArray[np.float64]:
        """The columns, and the square of a number if it is `squared`."""
        if not (squared and self.is_number):
            return self.columns_NP
        return np.concatenate([self.columns_NP, self.columns_NP**2], axis=1)

    def at(self, place: float) -> float:
        """The value of a number at a place of its column."""
        return 2**place * self._unit if self.is_log else self._unit * place + self._middle

    @property
    def _middle(self) -> float:
        return (self.low + self.high) / 2

    @property
    def _unit(self) -> float:
        return math.sqrt(self.low * self.high) if self.is_log else self.high - self.low

    def place(self, value: float) -> float:
        """The place of a value in the column of a number."""
        if self.is_log:
            return math.log2(value / self._unit)
        return (value - self._middle) / self._unit


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
        return _Coding(name, changes, rows_N, np.array(columns).T, with_these=("",) * len(changes))
    numbers = [float(value) for value in values]
    low, high = min(numbers), max(numbers)
    is_log = low > 0 and high / low >= _RATIO_OF_DOUBLING
    change = "doubled" if is_log else f"from {as_number(low, 3)} to {as_number(high, 3)}"
    bare = _Coding(name, (change,), rows_N, np.zeros((len(points), 1)), True, is_log, low, high)
    places = [bare.place(float(point[name])) if name in point else math.nan for point in points]
    return replace(bare, columns_NP=np.array(places)[:, None])


def _merged(codings: Sequence[_Coding], points: Sequence[Mapping[str, Value]]) -> list[_Coding]:
    """One coding for settings that always change together; the first of them stands for all."""
    found: list[_Coding] = []
    for coding in codings:
        for place, first in enumerate(found):
            rows = first.rows_N
            if not (rows == coding.rows_N).all():
                continue
            own, other = first.columns_NP[rows], coding.columns_NP[rows]
            if own.shape == other.shape and _rank(own, other) == _rank(own) == _rank(other):
                found[place] = replace(
                    first,
                    together=(*first.together, coding.name),
                    with_these=_also(first, coding.name, points),
                )
                break
        else:
            found.append(coding)
    return found


def _also(first: _Coding, other: str, points: Sequence[Mapping[str, Value]]) -> tuple[str, ...]:
    """The words for how `first` changes, with those for another setting that changes with it."""
    (before, *_), word = first.with_these, setting_in_words(other)
    if first.is_number:
        return (f"{before} and {word}" if before else f", always together with {word}",)
    mine_NP = np.where(first.rows_N[:, None], first.columns_NP, np.nan)
    reference = points[int(np.flatnonzero(mine_NP.sum(axis=1) == 0)[0])][other]
    values = [points[int(np.flatnonzero(column_N == 1)[0])][other] for column_N in mine_NP.T]
    return tuple(
        f"{words}{' and' if words else ', always with'} {word} {as_setting(value)} instead of"
        f" {as_setting(reference)}"
        for words, value in zip(first.with_these, values, strict=True)
    )


def _design(*columns_NP: NDArray[np.float64]) -> NDArray[np.float64]:
    """An intercept and the columns."""
    ones_N1 = np.ones((len(columns_NP[0]), 1))
    design: NDArray[np.float64] = np.concatenate([ones_N1, *columns_NP], axis=1)
    return design


def _rank(*columns_NP: NDArray[np.float64]) -> int:
    return int(np.linalg.matrix_rank(_design(*columns_NP)))


def _held_fixed(codings: Sequence[_Coding], y: NDArray[np.float64]) -> list[_Test]:
    """The tests of settings beside each other; none where trials are too few for that."""
    for others_squared, squared in ((True, True), (False, True), (False, False)):
        tests: list[_Test] = []
        for coding in codings:
            others = [one.columns(others_squared) for one in codings if one is not coding]
            found = _tests(coding, others, y, squared, alone=False)
            if not found:
                break
            tests += found
        else:
            return tests
    return []


def _by_itself(coding: _Coding, y: NDArray[np.float64]) -> list[_Test]:
    """The tests of a setting among the trials that have it."""
    rows = coding.rows_N
    mine = replace(coding, rows_N=rows[rows], columns_NP=coding.columns_NP[rows])
    for squared in (True, False):
        found = _tests(mine, [], y[rows], squared and coding.is_number, alone=True)
        if found:
            return found
    return []


@dataclass(frozen=True)
class _Fit:
    """Least squares with an intercept.

    solution_P     the coefficients, the intercept first
    covariance_PP  their covariance
    df             degrees of freedom of the residuals
    """

    solution_P: NDArray[np.float64]
    covariance_PP: NDArray[np.float64]
    df: int

    @property
    def bound(self) -> float:
        """The t bound of a 95% interval."""
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.df))

    def along(self, contrast_P: NDArray[np.float64]) -> tuple[float, float]:
        """A linear combination of the coefficients, and its standard error."""
        variance = float(contrast_P @ self.covariance_PP @ contrast_P)
        return float(contrast_P @ self.solution_P), max(math.sqrt(max(variance, 0.0)), _SAME)


def _fit(design_NP: NDArray[np.float64], y: NDArray[np.float64]) -> _Fit | None:
    """The fit; None where trials are too few, or cannot tell the coefficients apart."""
    df = len(y) - design_NP.shape[1]
    if df < 1 or np.linalg.matrix_rank(design_NP) < design_NP.shape[1]:
        return None
    solution = np.asarray(np.linalg.lstsq(design_NP, y, rcond=None)[0], dtype=np.float64)
    variance = max(float(((y - design_NP @ solution) ** 2).sum()) / df, _SAME**2)
    covariance: NDArray[np.float64] = variance * np.asarray(
        np.linalg.inv(design_NP.T @ design_NP), dtype=np.float64
    )
    return _Fit(solution, covariance, df)


def _tests(
    coding: _Coding,
    others: Sequence[NDArray[np.float64]],
    y: NDArray[np.float64],
    squared: bool,
    alone: bool,
) -> list[_Test]:
    """The tests of one setting beside the columns of the others.

    The list is empty where trials are too few or cannot tell the coefficients apart.
    """
    design = _design(coding.columns(squared), *others)
    needed = _TRIALS_A_COEFFICIENT * design.shape[1]
    fit = _fit(design, y)
    if fit is None or ((squared or not alone) and len(y) < needed):
        return []
    if squared and coding.is_number:
        turn = _curved(coding, fit, len(y), alone)
        if turn:
            return [turn]
        line = _fit(_design(coding.columns_NP, *others), y)
        assert line is not None
        (effect,) = chain.from_iterable(_lines(coding, line, len(y), alone))
        return [[replace(effect, p=_p_of_curve(fit))]]
    return _lines(coding, fit, len(y), alone)


def _lines(coding: _Coding, fit: _Fit, trials: int, alone: bool) -> list[_Test]:
    """A test of each column of a setting, whose columns come after the intercept."""
    tests = []
    changes = zip(coding.changes, coding.with_these, strict=True)
    for place, (change, with_these) in enumerate(changes, start=1):
        value, se = fit.along(np.eye(len(fit.solution_P))[place])
        p = float(2 * stats.t.sf(abs(value) / se, fit.df))
        ends = value - fit.bound * se, value + fit.bound * se
        tests.append([
            Effect(
                coding.name, f"{change}{with_these}", value, *ends, p, p, trials, alone,
                together=coding.together,
            )
        ])  # fmt: skip
    return tests


def _p_of_curve(fit: _Fit) -> float:
    """The p value of the F test that a number has neither a line nor a square."""
    value_2, covariance_22 = fit.solution_P[1:3], fit.covariance_PP[1:3, 1:3]
    ratio = float(value_2 @ np.linalg.solve(covariance_22, value_2)) / 2
    return float(stats.f.sf(ratio, 2, fit.df))


def _curved(coding: _Coding, fit: _Fit, trials: int, alone: bool) -> _Test:
    """The effects of a number whose square is clear by itself at 5%; else none.

    The interval of the turning point is that of the ratio of two coefficients (Fieller, *Journal of
    the Royal Statistical Society B* 16, 1954), which is finite exactly if the square is clear. That
    of a difference to the turning point takes it as known: near it the curve is level, so that its
    error changes the difference only in the second order.
    """
    slope, square = (float(value) for value in fit.solution_P[1:3])
    (v_line, v_both), (_, v_square) = fit.covariance_PP[1:3, 1:3].tolist()
    bound = fit.bound
    leading = square**2 - bound**2 * v_square
    if leading <= 0:
        return []
    p = _p_of_curve(fit)
    first, last = coding.place(coding.low), coding.place(coding.high)
    turning = -slope / (2 * square)

    def effect(change: str, there: float, here: float) -> Effect:
        contrast = np.zeros(len(fit.solution_P))
        contrast[1:3] = there - here, there**2 - here**2
        value, se = fit.along(contrast)
        return Effect(
            coding.name, f"{change}{coding.with_these[0]}", value, value - bound * se,
            value + bound * se, p, p, trials, alone, together=coding.together,
        )  # fmt: skip

    low, high = as_number(coding.low, 2), as_number(coding.high, 2)
    if not first < turning < last:
        return [effect(f"from {low} to {high}", last, first)]
    half = slope * square - bound**2 * v_both
    root = math.sqrt(max(half**2 - leading * (slope**2 - bound**2 * v_line), 0.0))
    earliest, latest = (
        coding.at(min(max((-half + sign * root) / (2 * leading), first), last)) for sign in (-1, 1)
    )
    at = as_number(coding.at(turning), 2)
    both = [
        effect(f"{low} instead of {at}", first, turning),
        effect(f"{high} instead of {at}", last, turning),
    ]
    below, above = (not one.low <= 0 <= one.high for one in both)
    turn = Turn(coding.at(turning), earliest, latest, square < 0, below, above)
    return [replace(one, turn=turn) for one in both]
