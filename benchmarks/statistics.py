"""Are the statistics right? Simulated studies in which the truth is known.

    python -m benchmarks.statistics            the table of docs/statistics.md, about an hour on 2
                                               cores
    python -m benchmarks.statistics --short    a tenth of the repetitions

Each line is one law and how often it held; a share of R repetitions has a standard error of sqrt(p
(1 - p) / R).
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import optuna

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
from tune.statistics.certainty import (
    Difference,
    Repeat,
    Scored,
    Verdict,
    compare_all,
    interval,
    mean_interval,
    seed_variances,
    smallest_difference,
)
from tune.statistics.choice import choose_winner
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


@dataclass(frozen=True)
class Luck:
    """Sources of differences between trainings, beside their validation images.

    seeds      standard deviation of AP50 over seeds; one for all rows, or one for each
    collapse   probability that a training of the first row collapses
    training   standard deviation of AP50 of a row's advantage over training sets of other images
    epochs     number of epochs, equal but for `_EPOCH_SD`, of which the best on its images is kept
    """

    seeds: float | tuple[float, ...] = SEED_SD / QUALITY
    collapse: float = 0.0
    training: float = 0.0
    epochs: int = 1

    def sd(self, row: int) -> float:
        """The seeds' standard deviation of a row."""
        return self.seeds if isinstance(self.seeds, float) else self.seeds[row]


USUAL = Luck()
_EPOCH_SD = 0.03
"""Standard deviation of the true quality over the epochs of a training."""


def study(
    rng: np.random.Generator,
    images: int,
    repeats: int,
    qualities: Sequence[float],
    fresh: bool,
    luck: Luck = USUAL,
) -> dict[str, dict[Repeat, Scored]]:
    """A table of variants: each repeat trains a model of each variant and validates it on
    `images` images.

    fresh   each repeat has its own hold-out of one data set, as the variants of a study have; else
            all the same images
    """
    data = draw_images(rng, images * FRACTION if fresh else images)
    # The gain in a row's quality from each image, if it is among those that train.
    taught_VI = rng.normal(0, luck.training * QUALITY, (len(qualities), len(data)))
    scores: dict[str, dict[Repeat, Scored]] = {
        str(variant): {} for variant in range(len(qualities))
    }
    for repeat in range(repeats):
        held_out = (
            np.sort(rng.choice(len(data), images, replace=False)) if fresh else np.arange(images)
        )
        part = data.take(held_out)
        trained = np.setdiff1d(np.arange(len(data)), held_out)
        for variant, quality in enumerate(qualities):
            quality += rng.normal(0, luck.sd(variant) * QUALITY)
            if len(trained):
                quality += taught_VI[variant, trained].sum() / np.sqrt(len(trained))
            if variant == 0 and rng.random() < luck.collapse:
                quality += COLLAPSED
            wander_E = rng.normal(0, _EPOCH_SD, luck.epochs) if luck.epochs > 1 else [0.0]
            epochs = [quality + step for step in wander_E]
            scores[str(variant)][Repeat(repeat)] = chosen_epoch(rng, part, epochs, held_out)
    return scores


def chosen_epoch(
    rng: np.random.Generator, images: Images, qualities: Sequence[float], names: np.ndarray
) -> Scored:
    """The best of the epochs with these qualities."""
    tables = [evaluate(rng, images, quality, names) for quality in qualities]
    if len(tables) == 1:
        return Scored.of(tables[0], MAX_DETS)
    curve = [ap50(table, MAX_DETS).mean for table in tables]
    looked_at = {epoch: Scored.of(tables[epoch - 1], MAX_DETS) for epoch in epochs_for_luck(curve)}
    best = looked_at[int(np.argmax(curve)) + 1]
    return replace(best, luck=luck_of_best(curve, looked_at))


def comparisons(
    images: int, repeats: int, qualities: Sequence[float], fresh: bool, luck: Luck, seed: int
) -> list[Difference]:
    """The comparisons of one simulated table with its first variant."""
    rng = np.random.default_rng([seed, images, repeats, fresh, len(qualities)])
    scores = study(rng, images, repeats, qualities, fresh, luck)
    pairs = [(variant, "0") for variant in list(scores)[1:]]
    return compare_all(scores, pairs, 1 / (FRACTION - 1) if fresh else None)


@dataclass(frozen=True)
class FalseAlarms:
    """Shares of tables without any true difference: single comparisons under 5%, and tables with
    any verdict.
    """

    single: float
    family: float
    smallest: float
    """Median of the smallest difference that is stated."""
    elsewhere: float
    """Share of tables with a verdict on methods trained on other images of this kind."""


def false_alarms(
    images: int,
    repeats: int,
    variants: int,
    fresh: bool,
    repetitions: int,
    score: float = 0.33,
    luck: Luck = USUAL,
) -> FalseAlarms:
    """Tables whose variants are all alike."""
    qualities = [quality_for(score) if score != 0.33 else 0.0] * variants
    tables = _in_parallel(
        partial(comparisons, images, repeats, qualities, fresh, luck), range(repetitions)
    )
    return FalseAlarms(
        float(np.mean([[one.p < 0.05 for one in table] for table in tables])),
        float(
            np.mean(
                [any(one.verdict is not Verdict.CANNOT_TELL for one in table) for table in tables]
            )
        ),
        float(
            np.median(
                [
                    smallest_difference(one.se, one.df, len(table))
                    for table in tables
                    for one in table
                ]
            )
        ),
        float(np.mean([any(one.p_elsewhere < 0.05 for one in table) for table in tables])),
    )


def power(
    images: int,
    repeats: int,
    fresh: bool,
    repetitions: int,
    difference: float,
    variants: int = 2,
    score: float = 0.33,
) -> float:
    """How often a true difference is found, around an AP50.

    The last of `variants` is better by `difference` than all others, which are alike.
    """
    alike, better = quality_for(score - difference / 2), quality_for(score + difference / 2)
    qualities = [alike] * (variants - 1) + [better]
    tables = _in_parallel(
        partial(comparisons, images, repeats, qualities, fresh, USUAL), range(repetitions)
    )
    return float(np.mean([table[-1].verdict is Verdict.BETTER for table in tables]))


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


@dataclass(frozen=True)
class MeanCoverage:
    """How often the interval of a mean over repeats holds the truth, and how wide and how far off
    it is.

    covered    share of the 95% intervals that hold the truth
    width      their median width
    too_high   mean of the estimate less the truth
    measured   the same where the luck of having chosen the epochs is not subtracted
    """

    covered: float
    width: float
    too_high: float
    measured: float


def _mean_covers(
    images: int, repeats: int, rows: int, quality: float, true: float, luck: Luck, seed: int
) -> tuple[float, ...]:
    rng = np.random.default_rng([seed, images, repeats])
    scores = study(rng, images, repeats, [quality] * rows, fresh=True, luck=luck)
    mine = list(scores["0"].values())
    variances = seed_variances(scores)
    of_seeds = None if variances is None else variances.of_mean(["0"], repeats)
    found = mean_interval(mine, of_seeds)
    measured = float(np.mean([one.ap50 for one in mine]))
    holds = float(found.low <= true <= found.high)
    return holds, found.high - found.low, found.estimate - true, measured - true


def mean_coverage(
    images: int,
    repeats: int,
    score: float,
    repetitions: int,
    rows: int = 4,
    luck: Luck = USUAL,
) -> MeanCoverage:
    """As `coverage`, of the mean over a row's repeats on fresh hold-outs, in a table of rows.

    Epochs truly differ so little that the truth of a chosen epoch is taken to be that of the row.
    """
    quality = quality_for(score)
    task = partial(_mean_covers, images, repeats, rows, quality, truth(quality), luck)
    covered, widths, too_high, measured = np.array(_in_parallel(task, range(repetitions))).T
    return MeanCoverage(
        float(covered.mean()), float(np.median(widths)), float(too_high.mean()),
        float(measured.mean()),
    )  # fmt: skip


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
        [max(Scored.of(t, MAX_DETS).ap50 for t in curve(n, part, held_out)) for n in range(trials)]
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
_SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "better": optuna.distributions.CategoricalDistribution([False, True]),
    "switch": optuna.distributions.CategoricalDistribution([False, True]),
    "layers": optuna.distributions.CategoricalDistribution([0, 1, 5]),
    "backbone": optuna.distributions.CategoricalDistribution(["resnet18", "resnet50"]),
    "rate": optuna.distributions.FloatDistribution(1e-5, 5e-4, log=True),
    "decay": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True),
    "strength": optuna.distributions.FloatDistribution(0.0, 1.0),
}
"""Seven settings, of which only the first may have an effect."""


@dataclass(frozen=True)
class Effects:
    """Summary of the effects of settings over simulated searches.

    named      share of searches that name a setting without an effect
    found      share that name the setting with one
    estimate   mean estimate of its effect
    covered    share of its intervals that hold the truth
    complete   `estimate` and `covered` if complete trials alone are compared, as they were before
    """

    named: float
    found: float
    estimate: float
    covered: float
    complete: tuple[float, float]


def _effects(
    trials: int, true: float, stops: bool, sampler: str, seed: int
) -> tuple[bool, bool, float, float, float, float]:
    """One search, whose trials have the seven settings of `_SPACE`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng([seed, trials, stops, *sampler.encode()])
    samplers = {
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
    named = any(one.is_clear for one in found if one.setting != "better")
    clear = any(one.is_clear for one in found if one.setting == "better")
    return named, clear, *_of_better(found, true), *_of_better(before, true)


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


def effects(trials: int, true: float, stops: bool, sampler: str, repetitions: int) -> Effects:
    """Searches over seven settings, the first of which changes AP50 by `true`.

    stops   whether trials are stopped early, by successive halving or because no hope is left
    """
    found = _in_parallel(partial(_effects, trials, true, stops, sampler), range(repetitions))
    named, clear, estimate, covered, before, before_covered = np.nanmean(found, axis=0).tolist()
    return Effects(named, clear, estimate, covered, (before, before_covered))


def _in_parallel(task: Callable[[int], object], seeds: Sequence[int]) -> list:
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), initializer=_one_thread) as pool:
        return list(pool.map(task, seeds, chunksize=max(1, min(20, len(seeds) // 8))))


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def _alarms(less: int) -> Iterator[str]:
    yield (
        "No true difference, tables of 4: % of comparisons under p 0.05, of tables with a verdict;"
        " smallest stated"
    )
    for fresh in (True, False):
        for images in (10, 20, 41, 100):
            for repeats in (3, 5):
                found = false_alarms(images, repeats, 4, fresh, 1000 // less)
                how = "fresh hold-outs" if fresh else "same images"
                shares = f"{100 * found.single:4.1f}  {100 * found.family:4.1f}"
                yield (
                    f"  {images:4} images, {repeats} seeds, {how:15}: {shares} "
                    f" {found.smallest:.3f}"
                )


UNEVEN = {
    "a baseline of SD 0.08, others 0.01": (0.08, 0.01),
    "a baseline of SD 0.04, others 0.01": (0.04, 0.01),
    "all of SD 0.065": (0.065, 0.065),
    "all of SD 0.12": (0.12, 0.12),
}


def _uneven(less: int) -> Iterator[str]:
    yield (
        "No true difference, rows whose seeds differ by unequal SDs: % of comparisons with p under"
        " 0.05, % of tables with any verdict"
    )
    cells = [
        (images, repeats, rows) for images in (41, 100) for repeats in (3, 5) for rows in (2, 4, 8)
    ]
    for images, repeats, rows in cells:
        kinds = {
            name: Luck((first, *[rest] * (rows - 1))) for name, (first, rest) in UNEVEN.items()
        }
        kinds["a baseline of which a tenth collapses"] = Luck(collapse=0.1)
        for name, luck in kinds.items():
            if rows == 2 or not name.startswith("all"):
                found = false_alarms(images, repeats, rows, True, 500 // less, luck=luck)
                yield (
                    f"  {images:4} images, {repeats} seeds, {rows} rows, {name}:"
                    f" {100 * found.single:4.1f}  {100 * found.family:4.1f}"
                )


def _training(less: int) -> Iterator[str]:
    yield (
        "No true difference but an advantage that varies by SD 0.02 between training sets, tables"
        " of 4 rows: % with a verdict on methods trained on these images, on images of this kind"
    )
    for images in (41, 100):
        for repeats in (3, 5):
            luck = Luck(training=0.02)
            found = false_alarms(images, repeats, 4, True, 500 // less, luck=luck)
            yield (
                f"  {images:4} images, {repeats} seeds: {100 * found.family:4.1f} "
                f" {100 * found.elsewhere:4.1f}"
            )


def _power(less: int) -> Iterator[str]:
    yield "A true difference of the stated smallest size: % found"
    cells = [(images, repeats, 2, 0.33) for images in (20, 41, 100) for repeats in (3, 5)]
    cells += [(20, 3, 8, 0.33), (41, 3, 8, 0.33), (41, 5, 8, 0.33)]
    cells += [(41, 3, 2, score) for score in (0.1, 0.6, 0.8)]
    for images, repeats, variants, score in cells:
        smallest = false_alarms(images, repeats, variants, True, 300 // less, score).smallest
        found = power(images, repeats, True, 600 // less, smallest, variants, score)
        yield (
            f"  {images:4} images, {repeats} seeds, {variants} variants, AP50 {score:4}:"
            f" {smallest:.3f}  {100 * found:4.1f}"
        )


def _settings(less: int) -> Iterator[str]:
    yield (
        "Effects of 7 settings, of which 1 may have one: % of searches that name a setting without"
        " an effect, % that name the one with; its mean estimate, % of intervals that hold the"
        " truth; the last two from complete trials alone"
    )
    for true in (0.0, 0.06):
        for trials in (60, 120):
            for stops in (False, True):
                for sampler in ("random", "tpe"):
                    count = (1000 if sampler == "random" else 300) // less
                    found = effects(trials, true, stops, sampler, count)
                    before, covered = found.complete
                    how = f"{sampler}, {'stopped early' if stops else 'all complete'}"
                    yield (
                        f"  effect {true:4}, {trials:3} trials, {how:22}:"
                        f" {100 * found.named:4.1f}  {100 * found.found:5.1f} "
                        f" {found.estimate:.3f} {100 * found.covered:5.1f} "
                        f" {before:.3f} {100 * covered:5.1f}"
                    )


def _coverage(less: int) -> Iterator[str]:
    yield "One model: % of 95% intervals that hold the truth; median width"
    for score in (0.05, 0.1, 0.3, 0.5, 0.8):
        for images in (10, 20, 41, 100, 200):
            covered, width = coverage(images, score, 1000 // less)
            yield f"  AP50 {score:4}, {images:4} images: {100 * covered:4.1f}  {width:.3f}"


def _means(less: int) -> Iterator[str]:
    yield (
        "The mean over repeats on fresh hold-outs: % of 95% intervals that hold the truth; median"
        " width"
    )
    for score in (0.1, 0.33, 0.6):
        for images, repeats in ((10, 3), (10, 5), (20, 5), (41, 3), (41, 5), (100, 5)):
            found = mean_coverage(images, repeats, score, 500 // less)
            yield (
                f"  AP50 {score:4}, {images:4} images, {repeats} seeds: {100 * found.covered:4.1f} "
                f" {found.width:.3f}"
            )


def _alone(less: int) -> Iterator[str]:
    yield (
        "One row, or one of four, at AP50 0.33 and the best of its epochs: % of 95% intervals that"
        " hold the truth; how much too high the estimate is, and how much as measured"
    )
    for images in (20, 41, 100):
        for rows, sd, epochs in ((1, 0.02, 1), (1, 0.065, 1), (4, 0.02, 10), (4, 0.02, 40)):
            found = mean_coverage(images, 3, 0.33, 200 // less, rows, Luck(sd, epochs=epochs))
            yield (
                f"  {images:4} images, 3 seeds of SD {sd}, {rows} rows, {epochs:2} epochs:"
                f" {100 * found.covered:4.1f}  {found.too_high:+.3f} {found.measured:+.3f}"
            )


def _winner(less: int) -> Iterator[str]:
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
    "speed": _speed,
    "alarms": _alarms,
    "uneven": _uneven,
    "training": _training,
    "power": _power,
    "coverage": _coverage,
    "means": _means,
    "alone": _alone,
    "winner": _winner,
    "settings": _settings,
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
