"""Are the statistics right? Simulated studies in which the truth is known.

    python -m benchmarks.statistics                 the tables of docs/statistics.md
    python -m benchmarks.statistics --short         a tenth of the repetitions
    python -m benchmarks.statistics --only tables   one of them

A share of R repetitions has a standard error of sqrt(p (1 - p) / R). All tables of rows of one size
of hold-out are made from the same simulated data sets and trainings, each evaluated once, so their
errors are correlated.
"""

import argparse
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray

from benchmarks.simulated_scores import (
    MAX_DETS,
    SEED_SD,
    Images,
    draw_images,
    evaluate,
    quality_for,
    truth,
)
from core.config import Value
from core.metric.ap50 import MatchTable, ap50
from core.metric.reweighted import Reweighted
from tune.report.trial_scores import class_interval
from tune.statistics.certainty import (
    Difference,
    Repeat,
    Scored,
    Scores,
    Verdict,
    compare,
    compare_all,
    interval,
    mean_interval,
    seed_variances,
    smallest_difference,
)
from tune.statistics.choice import choose_winner, compared_with_winner
from tune.statistics.effects import Effect, comparable_epoch, main_effects
from tune.statistics.epochs import epochs_for_luck, luck_of_best
from tune.stopping.halving import SuccessiveHalving
from tune.stopping.hope import expected_gain

FRACTION = 5
"""A data set has so many times the images of its hold-out (`data.validation_fraction` 0.2)."""


QUALITY = 3.0
"""Change of quality that changes AP50 by 1, by the slope around an AP50 of 0.33."""
COLLAPSED = -2.5
"""Change of quality in a collapsed training: an AP50 of 0.33 becomes 0.01."""
_EPOCH_SD = 0.03
"""Standard deviation of the true quality over the epochs of a training."""
_STEP = 0.12
"""Trainings are evaluated at multiples of this quality, 0.04 of AP50; the rest of their quality, at
most half of it, is added to the score by the slope of AP50."""


@dataclass(frozen=True)
class Luck:
    """Sources of differences between trainings, beside their validation images.

    seeds      standard deviation of AP50 over seeds; one for all rows, or that of the first row and
               that of the others
    collapse   probability that a training of the first row collapses
    training   standard deviation of AP50 of a row's advantage over training sets of other images
    epochs     number of epochs, equal but for `_EPOCH_SD`, of which the best on its images is kept
    """

    seeds: float | tuple[float, float] = SEED_SD / QUALITY
    collapse: float = 0.0
    training: float = 0.0
    epochs: int = 1

    def sd(self, row: int) -> float:
        """The seeds' standard deviation of a row."""
        return self.seeds if isinstance(self.seeds, float) else self.seeds[min(row, 1)]


USUAL = Luck()


@dataclass(frozen=True)
class Table:
    """A table of rows that are alike, but for their luck and the last row.

    rows, seeds   their numbers; each row has one training a seed
    luck          what trainings differ by
    better        true advantage of the last row, in AP50
    score         true AP50 of the rows
    """

    rows: int
    seeds: int
    luck: Luck = USUAL
    better: float = 0.0
    score: float = 0.33


class DataSet:
    """A simulated data set, its hold-outs and the models that are trained on it.

    seed     each seed is another data set
    images   number of images of a hold-out
    fresh    whether each repeat has its own hold-out, as the rows of a study have; else all
             validate the same images
    """

    def __init__(self, seed: int, images: int, fresh: bool = True) -> None:
        self._key = (seed, images, int(fresh))
        self._images = images
        self._fresh = fresh
        rng = np.random.default_rng(self._key)
        self._data = draw_images(rng, images * FRACTION if fresh else images)
        self._scored: dict[tuple[int, int, int, float, int], Scored] = {}
        self._drawn: dict[tuple[int, int], tuple[float, float, float]] = {}
        self._held_out = [self._hold_out(repeat) for repeat in range(MOST_SEEDS)]

    def scores(self, table: Table) -> dict[str, dict[Repeat, Scored]]:
        """The rows of a table. Tables share trainings of equal place, quality and epochs."""
        return {
            str(row): {
                Repeat(seed): self._training(table, row, seed) for seed in range(table.seeds)
            }
            for row in range(table.rows)
        }

    def _training(self, table: Table, row: int, repeat: int) -> Scored:
        luck, slope = table.luck, _slope(table.score)
        place = _BETTER if table.better and row == table.rows - 1 else row
        drawn, collapses, taught = self._luck(place, repeat)
        moved = (drawn * luck.sd(row) + taught * luck.training) * QUALITY
        if row == 0 and collapses < luck.collapse:
            moved += COLLAPSED
        step = round(moved / _STEP)
        better = table.better if place == _BETTER else 0.0
        found = self._evaluated(place, repeat, step, _quality(table.score, better), luck.epochs)
        ap50 = found.ap50 + slope * (moved - step * _STEP)
        return replace(found, ap50=min(max(ap50, 0.0), 1.0))

    def _luck(self, place: int, repeat: int) -> tuple[float, float, float]:
        """Standard normal luck of the seed, a uniform number for its collapse, and how well the
        images that it trains on suit the row, of variance 1.
        """
        if (place, repeat) not in self._drawn:
            rng = np.random.default_rng([*self._key, 1, place, repeat])
            taught_I = np.random.default_rng([*self._key, 2, place]).normal(size=len(self._data))
            trained = np.delete(taught_I, self._held_out[repeat])
            taught = float(trained.sum()) / math.sqrt(len(trained)) if len(trained) else 0.0
            self._drawn[place, repeat] = (rng.normal(), rng.random(), taught)
        return self._drawn[place, repeat]

    def _hold_out(self, repeat: int) -> NDArray[np.int64]:
        if not self._fresh:
            return np.arange(self._images)
        rng = np.random.default_rng([*self._key, 3, repeat])
        return np.sort(rng.choice(len(self._data), self._images, replace=False))

    def _evaluated(self, place: int, repeat: int, step: int, quality: float, epochs: int) -> Scored:
        key = (place, repeat, step, quality, epochs)
        if key not in self._scored:
            rng = np.random.default_rng([*self._key, 4, place, repeat, epochs])
            held_out = self._held_out[repeat]
            wander_E = rng.normal(0, _EPOCH_SD, epochs) if epochs > 1 else np.zeros(1)
            qualities = (quality + step * _STEP + wander_E).tolist()
            self._scored[key] = chosen_epoch(rng, self._data.take(held_out), qualities, held_out)
        return self._scored[key]


MOST_SEEDS = 40
"""Largest number of seeds of a table."""
_BETTER = 1000
"""The place of the row that is better, in every table that has one."""


@functools.cache
def _quality(score: float, better: float = 0.0) -> float:
    """The quality of rows of this AP50, or of one that is better by `better`."""
    if score == 0.33 and not better:
        return 0.0
    return quality_for(truth(_quality(score)) + better if better else score)


@functools.cache
def _slope(score: float) -> float:
    """The change of AP50 with quality, around an AP50."""
    if score == 0.33:
        return 1 / QUALITY
    quality = _quality(score)
    return (truth(quality + _STEP) - truth(quality - _STEP)) / (2 * _STEP)


def chosen_epoch(
    rng: np.random.Generator, images: Images, qualities: Sequence[float], names: NDArray[np.int64]
) -> Scored:
    """The best of the epochs with these qualities."""
    tables = [evaluate(rng, images, quality, names) for quality in qualities]
    if len(tables) == 1:
        return Scored.of(tables[0], MAX_DETS)
    curve = [ap50(table, MAX_DETS).mean for table in tables]
    looked_at = {epoch: Scored.of(tables[epoch - 1], MAX_DETS) for epoch in epochs_for_luck(curve)}
    best = looked_at[int(np.argmax(curve)) + 1]
    return replace(best, luck=luck_of_best(curve, looked_at))


def compared(scores: Scores, fresh: bool) -> list[Difference]:
    """The comparisons of a simulated table with its first row."""
    pairs = [(row, "0") for row in list(scores)[1:]]
    return compare_all(scores, pairs, 1 / (FRACTION - 1) if fresh else None)


def by_one_pooled_variance(scores: Scores) -> Difference:
    """The last row compared with the first by the rule that today's is measured against.

    All rows have the pooled variance of seeds, the degrees of freedom are Satterthwaite's, and the
    p value is adjusted for as many comparisons as the table has rows to compare.
    """
    names = list(scores)
    one, other = (list(scores[name].values()) for name in (names[-1], names[0]))
    variances, seeds = seed_variances(scores), len(other)
    assert variances is not None
    pooled = replace(variances, own={}).of_mean((names[-1], names[0]), seeds)
    found = compare(one, other, seeds, [part._replace(firm=True) for part in pooled])
    return replace(found, p_adjusted=min(1.0, found.p * (len(names) - 1)))


class Outcome(NamedTuple):
    """What a simulated table says; for many of them, means over tables, where not stated otherwise.

    single       share of comparisons with p under 5%
    verdicts     whether the table has any verdict of better or worse
    elsewhere    whether it has one on methods trained on other images of this kind
    found        whether the last row is found better
    by_pooled    whether it is by `by_one_pooled_variance`
    smallest     smallest difference that is stated; median
    smallest_by_pooled   the same by `by_one_pooled_variance`; median
    covered      whether the interval of the first row holds the truth
    width        width of that interval; median
    too_high     its estimate less the truth
    measured     the same where the luck of having chosen the epochs is not subtracted
    """

    single: float
    verdicts: float
    elsewhere: float
    found: float
    by_pooled: float
    smallest: float
    smallest_by_pooled: float
    covered: float
    width: float
    too_high: float
    measured: float


def outcome(data: DataSet, table: Table, fresh: bool, true: float) -> Outcome:
    """The outcome of one table."""
    scores = data.scores(table)
    found, first = compared(scores, fresh), list(scores["0"].values())
    variances = seed_variances(scores)
    of_seeds = None if variances is None else variances.of_mean(["0"], table.seeds)
    around = mean_interval(first, of_seeds)
    clear = [one.verdict is not Verdict.CANNOT_TELL for one in found]
    pooled = by_one_pooled_variance(scores) if found and variances is not None else None
    return Outcome(
        float(np.mean([one.p < 0.05 for one in found])) if found else math.nan,
        float(any(clear)),
        float(any(one.p_elsewhere < 0.05 for one in found)),
        float(bool(found) and found[-1].verdict is Verdict.BETTER),
        float(pooled is not None and pooled.verdict is Verdict.BETTER),
        _smallest(found),
        _smallest([pooled] * len(found)) if pooled is not None else math.nan,
        float(around.low <= true <= around.high),
        around.high - around.low,
        around.estimate - true,
        float(np.mean([one.ap50 for one in first])) - true,
    )


def _smallest(found: Sequence[Difference]) -> float:
    """The smallest difference that a table states; nan for a table without comparisons."""
    if not found:
        return math.nan
    se, df = (float(np.median(part)) for part in zip(*((o.se, o.df) for o in found), strict=True))
    return smallest_difference(se, df, len(found))


def _outcomes(
    images: int, tables: Sequence[Table], fresh: bool, trues: Sequence[float], seed: int
) -> list[Outcome]:
    data = DataSet(seed, images, fresh)
    return [outcome(data, table, fresh, true) for table, true in zip(tables, trues, strict=True)]


def simulated(
    images: int, tables: Sequence[Table], repetitions: int, fresh: bool = True, first: int = 0
) -> list[Outcome]:
    """The outcomes of tables over simulated data sets, whose hold-outs have `images` images.

    first   seed of the first data set

    Epochs truly differ so little that the truth of a chosen epoch is taken to be that of the row.
    """
    trues = [truth(_quality(table.score)) for table in tables]
    for table in tables:  # before processes are started, which inherit what is cached
        _slope(table.score)
        _quality(table.score, table.better)
    task = partial(_outcomes, images, tables, fresh, trues)
    found = np.array(_in_parallel(task, range(first, first + repetitions)))
    means, medians = found.mean(axis=0), np.median(found, axis=0)
    medianed = [name in ("smallest", "smallest_by_pooled", "width") for name in Outcome._fields]
    return [Outcome(*row) for row in np.where(medianed, medians, means).tolist()]


def _covers(images: int, quality: float, true: float, seed: int) -> tuple[bool, float]:
    rng = np.random.default_rng([seed, images])
    found = interval(Scored.of(evaluate(rng, draw_images(rng, images), quality), MAX_DETS))
    return found.low <= true <= found.high, found.high - found.low


def coverage(images: int, score: float, repetitions: int) -> tuple[float, float]:
    """How often the 95% interval of one model holds its truth, and how wide it is at the median."""
    quality = quality_for(score)
    found = _in_parallel(partial(_covers, images, quality, truth(quality)), range(repetitions))
    return float(np.mean([covers for covers, _ in found])), float(
        np.median([width for _, width in found])
    )


def _covers_class(images: int, quality: float, true: float, seed: int) -> bool:
    rng = np.random.default_rng([seed, images, 6])
    part = draw_images(rng, images, CROWDED)
    found = class_interval([Scored.of(evaluate(rng, part, quality), None)], 0)
    return found is not None and found.low <= true <= found.high


def crowded(images: int, score: float, repetitions: int) -> float:
    """How often the interval of a common class alone holds its truth in crowded images."""
    rng = np.random.default_rng([CROWDED])
    pool, low, high, true = draw_images(rng, 2000, CROWDED), -3.0, 6.0, math.nan
    while high - low > 0.01:
        quality = (low + high) / 2
        true = ap50(evaluate(np.random.default_rng(1), pool, quality), None).per_class[0] or 0.0
        low, high = (quality, high) if true < score else (low, quality)
    task = partial(_covers_class, images, quality, true)
    return float(np.mean(_in_parallel(task, range(repetitions))))


CROWDED = 300
"""Median number of instances of a crowded image."""


@dataclass(frozen=True)
class Won:
    """What came of taking the best score of a search, and of a confirmation; means over
    repetitions, in AP50.

    by_score, confirmed   regret: how much the truly best of all is better than what was chosen
    too_high              what the search's best score promises above the truth
    raw, corrected        the same of the confirmed score, and of it less its optimism
    covered               how often the interval of the corrected score held the truth
    """

    by_score: float
    confirmed: float
    too_high: float
    raw: float
    corrected: float
    covered: float


EPOCHS = 8
_TRUE_SD = 0.06


def _search(
    images: int, trials: int, top: int, repeats: int, folds: int, seed: int
) -> tuple[float, ...]:
    """One search of trials of different quality on one hold-out, and the confirmation of its
    best.
    """
    rng = np.random.default_rng([seed, images, trials, top, repeats, *([folds] if folds else [])])
    data = draw_images(rng, images * FRACTION)
    quality_T = rng.normal(0.0, _TRUE_SD, trials)

    def curve(number: int, part: Images, names: np.ndarray) -> list[MatchTable]:
        """Epoch after epoch: nearly learned from the third on, up and down around that."""
        trained = quality_T[number] + rng.normal(0, SEED_SD)
        rise = [-0.5, -0.2] + [0.0] * (EPOCHS - 2)
        return [
            evaluate(rng, part, trained + step + rng.normal(0, _EPOCH_SD), names) for step in rise
        ]

    held_out = np.sort(rng.choice(len(data), images, replace=False))
    part = data.take(held_out)
    best_T = np.array(
        [max(ap50(t, MAX_DETS).mean for t in curve(n, part, held_out)) for n in range(trials)]
    )
    first = int(np.argmax(best_T))
    tables: dict[str, list[list[Callable[[], MatchTable]]]] = {
        str(number): [] for number in np.argsort(-best_T)[:top].tolist()
    }
    names: list[Repeat] = []
    for repeat in range(repeats):
        dealt = rng.permutation(len(data))
        parts = np.array_split(dealt, folds) if folds else [dealt[:images]]
        for fold, held_out in enumerate(map(np.sort, parts)):
            names.append(Repeat(repeat, fold))
            part = data.take(held_out)
            for number in tables:
                tables[number].append(
                    [partial(_same, table) for table in curve(int(number), part, held_out)]
                )
    choice = choose_winner(tables, MAX_DETS, seed=seed, repeats=names)
    # AP50 is all but linear in quality over so small a range.
    slope, at_zero = (truth(0.2) - truth(-0.2)) / 0.4, truth(0.0)
    true_T = at_zero + slope * quality_T
    winner = int(choice.name)
    return (
        float(true_T.max() - true_T[first]),
        float(true_T.max() - true_T[winner]),
        float(best_T[first] - true_T[first]),
        float(choice.score - true_T[winner]),
        float(choice.corrected.estimate - true_T[winner]),
        float(choice.corrected.low <= true_T[winner] <= choice.corrected.high),
    )


def _winner_alarm(images: int, top: int, repeats: int, seed: int) -> bool:
    """Whether a confirmation of candidates that are alike finds its winner better than another."""
    rng = np.random.default_rng([seed, images, top, repeats, 5])
    data = draw_images(rng, images * FRACTION)
    tables: dict[str, list[list[MatchTable]]] = {str(number): [] for number in range(top)}
    for _ in range(repeats):
        held_out = np.sort(rng.choice(len(data), images, replace=False))
        part = data.take(held_out)
        for trained in tables.values():
            moved = rng.normal(0, SEED_SD)
            trained.append(
                [
                    evaluate(rng, part, moved + step, held_out)
                    for step in rng.normal(0, _EPOCH_SD, EPOCHS)
                ]
            )
    curves = {
        name: np.mean([[ap50(one, MAX_DETS).mean for one in curve] for curve in trained], axis=0)
        for name, trained in tables.items()
    }
    winner = max(curves, key=lambda name: float(curves[name].max()))
    scores = {
        name: {
            Repeat(number): Scored.of(curve[int(np.argmax(curves[name]))], MAX_DETS)
            for number, curve in enumerate(trained)
        }
        for name, trained in tables.items()
    }
    others = compared_with_winner(winner, scores)
    return any(one.verdict is not Verdict.CANNOT_TELL for one in others.values())


def winner_alarms(images: int, top: int, repeats: int, repetitions: int) -> float:
    """Share of confirmations of like candidates in which the winner is found better than one."""
    task = partial(_winner_alarm, images, top, repeats)
    return float(np.mean(_in_parallel(task, range(repetitions))))


def _same(table: MatchTable) -> MatchTable:
    return table


def won(images: int, trials: int, top: int, repeats: int, repetitions: int, folds: int = 0) -> Won:
    """Searches whose trials differ by a true SD of 0.02, and their confirmations; folds 0: on
    hold-outs.
    """
    found = _in_parallel(partial(_search, images, trials, top, repeats, folds), range(repetitions))
    return Won(*np.mean(found, axis=0).tolist())


SEARCH_EPOCHS = 30
_TRIAL_SD = 0.04
"""Standard deviation of AP50 over trials of one configuration, seeds included."""
_LEAST = 1e-5
_MIDDLE = float(np.sqrt(_LEAST * 5e-4))
"""The smallest rate, and the one halfway to the largest on a logarithmic scale."""
_SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "better": optuna.distributions.CategoricalDistribution([False, True]),
    "switch": optuna.distributions.CategoricalDistribution([False, True]),
    "layers": optuna.distributions.CategoricalDistribution([0, 1, 5]),
    "backbone": optuna.distributions.CategoricalDistribution(["resnet18", "resnet50"]),
    "rate": optuna.distributions.FloatDistribution(_LEAST, 5e-4, log=True),
    "decay": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True),
    "strength": optuna.distributions.FloatDistribution(0.0, 1.0),
}
"""Seven settings, of which only the first and the rate may have an effect."""


@dataclass(frozen=True)
class Effects:
    """Summary of the effects of settings over simulated searches.

    named      share of searches that name a setting without an effect
    found      share that name the setting with one
    estimate   mean estimate of its effect
    covered    share of its intervals that hold the truth
    complete   `estimate` and `covered` if complete trials alone are compared, as they were before
    hump       share that name the rate, and say that it is best between the values tried
    """

    named: float
    found: float
    estimate: float
    covered: float
    complete: tuple[float, float]
    hump: float


def _effects(
    trials: int, true: float, hump: float, stops: bool, sampler: str, seed: int
) -> tuple[bool, bool, float, float, float, float, bool]:
    """One search, whose trials have the seven settings of `_SPACE`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng([seed, trials, stops, *sampler.encode()])
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "random": partial(optuna.samplers.RandomSampler, seed=seed),
        "tpe": partial(optuna.samplers.TPESampler, seed=seed, multivariate=True, group=True),
    }
    study = optuna.create_study(direction="maximize", sampler=samplers[sampler]())
    rule = SuccessiveHalving(SEARCH_EPOCHS // 10, 3)
    points: list[dict[str, Value]] = []
    curves: list[list[float]] = []
    stopped: list[bool] = []
    for _ in range(trials):
        trial = study.ask(_SPACE)
        level = 0.3 + true * bool(trial.params["better"]) + rng.normal(0, _TRIAL_SD)
        level -= hump * (np.log(trial.params["rate"] / _MIDDLE) / np.log(_MIDDLE / _LEAST)) ** 2
        whole = level - 0.25 * np.exp(-np.arange(1, SEARCH_EPOCHS + 1) / 5)
        whole += rng.normal(0, 0.015, SEARCH_EPOCHS)
        complete = [curve for curve, early in zip(curves, stopped, strict=True) if not early]
        curve: list[float] = []
        early = False
        while len(curve) < SEARCH_EPOCHS and not early:
            curve.append(float(whole[len(curve)]))
            early = (
                stops
                and len(curve) < SEARCH_EPOCHS
                and bool(rule.why_stopped(curve, curves, complete, SEARCH_EPOCHS))
            )
        gain = expected_gain(complete, len(curve), SEARCH_EPOCHS) if early else 0.0
        study.tell(trial, max(curve) + gain)
        points.append(dict(trial.params))
        curves.append(curve)
        stopped.append(early)
    epoch = comparable_epoch(curves, stopped)
    found = main_effects(points, [max(curve[:epoch]) for curve in curves])
    whole_ones = [at for at, early in enumerate(stopped) if not early]
    before = main_effects([points[at] for at in whole_ones], [max(curves[at]) for at in whole_ones])
    without = set(_SPACE) - {"better"} - ({"rate"} if hump else set())
    named = any(one.is_clear for one in found if one.setting in without)
    clear = any(one.is_clear for one in found if one.setting == "better")
    best_inside = any(
        one.is_clear and one.turn is not None and one.turn.is_best
        for one in found
        if one.setting == "rate"
    )
    return named, clear, *_of_better(found, true), *_of_better(before, true), best_inside


def _of_better(effects: Sequence[Effect], true: float) -> tuple[float, float]:
    """The estimate of the setting with an effect, and whether its interval holds the truth; nan
    where there is none.
    """
    for one in effects:
        if one.setting == "better":
            sign = 1 if one.change.startswith("on ") else -1
            low, high = sorted((sign * one.low, sign * one.high))
            return sign * one.estimate, float(low <= true <= high)
    return np.nan, np.nan


def effects(
    trials: int, true: float, stops: bool, sampler: str, repetitions: int, hump: float = 0.0
) -> Effects:
    """Searches over seven settings, the first of which changes AP50 by `true`.

    hump    by how much AP50 is lower at both ends of the rate than at its middle
    stops   whether trials are stopped early, by successive halving or because no hope is left
    """
    search = partial(_effects, trials, true, hump, stops, sampler)
    found = _in_parallel(search, range(repetitions))
    named, clear, estimate, covered, *before, best_inside = np.nanmean(found, axis=0).tolist()
    return Effects(named, clear, estimate, covered, (before[0], before[1]), best_inside)


def _in_parallel(task: Callable[[int], Any], seeds: Sequence[int]) -> list[Any]:
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), initializer=_one_thread) as pool:
        return list(pool.map(task, seeds, chunksize=max(1, min(20, len(seeds) // 8))))


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


COUNTS = {41: 310, 100: 140, 20: 90, 10: 90}
"""Simulated data sets, by the number of images of a hold-out."""
_PILOT = 40
"""Data sets from which the smallest difference is stated whose power is then simulated."""


def _named(images: int) -> dict[str, Table]:
    """The tables without a true difference that are simulated with hold-outs of this size."""
    tables: dict[str, Table] = {}
    small = images < 41
    for seeds in (3, 5):
        for rows in (2, 4) if small else (2, 4, 8):
            tables[f"{seeds} seeds, {rows} rows, alike"] = Table(rows, seeds)
            kinds = {
                "first row of SD 0.08, others 0.01": Luck((0.08, 0.01)),
                "first row of SD 0.04, others 0.01": Luck((0.04, 0.01)),
                "first row of SD 0.12, others 0.01": Luck((0.12, 0.01)),
                "a tenth of the first row collapses": Luck(collapse=0.1),
            }
            if rows < 8:
                kinds["all of SD 0.065"] = Luck(0.065)
                kinds["all of SD 0.12"] = Luck(0.12)
            if rows == 4:
                kinds["an advantage of SD 0.02 between training sets"] = Luck(training=0.02)
            if not small:
                for name, luck in kinds.items():
                    tables[f"{seeds} seeds, {rows} rows, {name}"] = Table(rows, seeds, luck)
    tables["1 seed, 4 trained models of equal quality"] = Table(4, 1, Luck(0.0))
    if images < 100:
        tables["3 seeds, 4 rows, best of 10 epochs"] = Table(4, 3, Luck(epochs=10))
    if images == 41:
        tables["2 seeds, 4 rows, alike"] = Table(4, 2)
        tables["2 seeds, 4 rows, first row of SD 0.08, others 0.01"] = Table(
            4, 2, Luck((0.08, 0.01))
        )
    for name, sd in (("", 0.02), (" of SD 0.065", 0.065)):
        tables[f"3 seeds{name}, 1 row"] = Table(1, 3, Luck(sd))
    return tables


def _tables(less: int) -> Iterator[str]:
    yield (
        "No true difference: % of comparisons with p under 5%; of tables with a verdict; of tables"
        " with one on images of this kind; smallest difference; and of the first row: % of"
        " intervals that hold the truth, their width, how much too high its score is, and as"
        " measured"
    )
    for images, count in COUNTS.items():
        tables = _named(images)
        found = simulated(images, list(tables.values()), count // less)
        yield f"{images} images, {count // less} data sets"
        for name, one in zip(tables, found, strict=True):
            yield f"  | {images} | {name} | {_summary(one)} |"


def _summary(one: Outcome) -> str:
    shares = (one.single, one.verdicts, one.elsewhere)
    of_first = (
        f"{100 * one.covered:.1f} | {one.width:.2f} | {one.too_high:+.3f} | {one.measured:+.3f}"
    )
    return (
        " | ".join(f"{100 * share:.1f}" for share in shares) + f" | {one.smallest:.3f} | {of_first}"
    )


def _same_images(less: int) -> Iterator[str]:
    yield "The same, where all repeats validate the same images"
    tables = {f"{seeds} seeds, 4 rows, alike": Table(4, seeds) for seeds in (3, 5)}
    found = simulated(41, list(tables.values()), 150 // less, fresh=False)
    for name, one in zip(tables, found, strict=True):
        yield f"  | 41 | {name} | {_summary(one)} |"


def _scores(less: int) -> Iterator[str]:
    yield "The same at other AP50"
    for images, seeds, count in ((10, 5, 500), (41, 3, 150), (41, 5, 100)):
        tables = {
            f"{seeds} seeds, 4 rows, AP50 {score}": Table(4, seeds, score=score)
            for score in (0.1, 0.6, 0.7, 0.8)
        }
        found = simulated(images, list(tables.values()), count // less)
        for name, one in zip(tables, found, strict=True):
            yield f"  | {images} | {name} | {_summary(one)} |"


def _power(less: int) -> Iterator[str]:
    yield (
        "A true difference: stated smallest, % found; stated by one pooled variance, % found there"
        " by that rule, % found there by today's"
    )
    for images, count in COUNTS.items():
        alike = [Table(rows, seeds) for seeds in (3, 5) for rows in (2, 4, 8)]
        if images == 41:
            alike += [Table(2, 3, score=score) for score in (0.1, 0.6, 0.7)]
        stated = simulated(images, alike, _PILOT, first=10_000)
        tables = [
            replace(table, better=size)
            for table, one in zip(alike, stated, strict=True)
            for size in (one.smallest, one.smallest_by_pooled)
        ]
        found = iter(simulated(images, tables, count // less))
        yield f"{images} images, {count // less} data sets"
        for table, one in zip(alike, stated, strict=True):
            ours, theirs = next(found), next(found)
            yield (
                f"  | {images} | {table.seeds} | {table.rows} | {table.score} |"
                f" {one.smallest:.3f} | {100 * ours.found:.0f} | {one.smallest_by_pooled:.3f} |"
                f" {100 * theirs.by_pooled:.0f} | {100 * theirs.found:.0f} |"
            )


def _settings(less: int) -> Iterator[str]:
    yield (
        "Effects of 7 settings, of which 1 may have one, and of the rate, which may have a hump: %"
        " of searches that name a setting without an effect, % that name the one with; its mean"
        " estimate, % of intervals that hold the truth; the last two from complete trials alone; %"
        " that find the hump"
    )
    for true, hump in ((0.0, 0.0), (0.06, 0.0), (0.06, 0.1)):
        for trials in (60, 120):
            for stops in (False, True):
                for sampler in ("random", "tpe"):
                    count = (1000 if sampler == "random" else 300) // less
                    found = effects(trials, true, stops, sampler, count, hump)
                    before, covered = found.complete
                    how = f"{sampler}, {'stopped early' if stops else 'all complete'}"
                    yield (
                        f"  effect {true:4}, hump {hump:3}, {trials:3} trials, {how:22}:"
                        f" {100 * found.named:4.1f}  {100 * found.found:5.1f} "
                        f" {found.estimate:.3f} {100 * found.covered:5.1f} "
                        f" {before:.3f} {100 * covered:5.1f}  {100 * found.hump:5.1f}"
                    )


def _coverage(less: int) -> Iterator[str]:
    yield "One model: % of 95% intervals that hold the truth; median width"
    for score in (0.05, 0.1, 0.3, 0.5, 0.8):
        for images in (10, 20, 41, 100, 200):
            covered, width = coverage(images, score, 300 // less)
            yield f"  AP50 {score:4}, {images:4} images: {100 * covered:4.1f}  {width:.3f}"


def _crowded(less: int) -> Iterator[str]:
    yield "A common class in crowded images: % of its own 95% intervals that hold the truth"
    for images in (20, 41):
        for score in (0.5, 0.8):
            share = crowded(images, score, 300 // less)
            yield f"  {images:4} images, AP50 {score}: {100 * share:.1f}"


def _winner(less: int) -> Iterator[str]:
    for images in (20, 41):
        share = winner_alarms(images, 5, 3, 200 // less)
        yield (
            f"5 candidates alike, 3 seeds, {images} images: winner better than another in"
            f" {100 * share:.1f}%"
        )


def _confirmed(less: int) -> Iterator[str]:
    yield (
        "Winner of 30 trials, 41 images: regret by best score, by confirmation; too high: best,"
        " confirmed, corrected"
    )
    for top, repeats, folds in ((3, 3, 0), (5, 3, 0), (5, 3, 5)):
        result = won(41, 30, top, repeats, (100 if folds else 200) // less, folds)
        on = f"{top} x {repeats}{f' x {folds} folds' if folds else ''}"
        yield (
            f"  top {on}: {result.by_score:.4f} {result.confirmed:.4f}; {result.too_high:.4f} "
            f"{result.raw:.4f} {result.corrected:.4f}; interval holds {100 * result.covered:.0f}%"
        )


def _speed(_: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    while len((table := evaluate(rng, draw_images(rng, 41), 1.0)).image_D) < 10_000:
        pass
    weights = rng.multinomial(41, np.full(41, 1 / 41), 2000).T
    started = time.process_time()
    Reweighted(table, None).ap50(weights)
    yield (
        f"2,000 resamples of 41 images with {len(table.image_D):,} detections: "
        f"{time.process_time() - started:.2f} s of processor time"
    )


_TABLES = {
    "tables": _tables,
    "power": _power,
    "winner": _winner,
    "scores": _scores,
    "crowded": _crowded,
    "same": _same_images,
    "coverage": _coverage,
    "settings": _settings,
    "confirmed": _confirmed,
    "speed": _speed,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.statistics", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--short", action="store_true", help="a tenth of the repetitions")
    parser.add_argument("--only", choices=_TABLES, help="one of the tables")
    parsed = parser.parse_args(arguments)
    less = 10 if parsed.short else 1
    for name, table in _TABLES.items():
        if parsed.only in (None, name):
            for line in table(less):
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
