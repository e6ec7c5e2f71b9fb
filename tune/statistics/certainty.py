"""How sure a score is: intervals of AP50, and paired differences with a verdict.

The smallest difference that a comparison can be expected to find is here as well. Everything is
computed from the match tables of evaluated epochs, by reweighting (see
`core.metric.reweighted`). The choice of a winner is in `tune.statistics.choice`, the effects of
searched settings in `tune.statistics.effects`.

A score varies for two reasons. *Images*: another sample of images would have given another score;
this variance is estimated by leaving out one unit at a time. *Seeds*: another training on the same
settings would have given another model; this variance is how much the repeats of a variant differ
beyond what their images explain, pooled over all variants of a table. It cannot be estimated where
each variant has one repeat.

The unit that is left out is an image, or a group of images (`data.group_pattern`) where there are
groups.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from core.metric.ap50 import MatchTable
from core.metric.reweighted import Reweighted

ScalarT = TypeVar("ScalarT", bound=np.generic)

CONFIDENCE = 0.95
POWER = 0.8
FEW_IMAGES = 5
"""A class in fewer images than this is flagged: its AP50 is hardly known."""
HIGH_AP50, MANY_UNITS = 0.9, 41
"""For an AP50 above the first on fewer units than the second, no interval that we know of covers
the truth as often as it promises."""

_PRIOR = 1.0
"""Prior weight of the moderated variance and bias, in units: each class's value is averaged with
the pooled one as if the pooled one came from this many units. Chosen by simulation: see
docs/statistics.md."""


@dataclass(frozen=True)
class Scored:
    """The AP50 of one trained model, and how much each unit pulled it.

    ap50           mean over the classes with ground truth
    per_class_C    AP50 of each class; nan for one without ground truth
    units          names of the U units
    share_UC       the pull of each unit on `ap50` through each class. A unit's pull is the sum over
                   classes; the sum of the squared pulls of all units is the variance of `ap50`
                   that is due to images
    bias_C         the part of each class in the bias of `ap50`, by the jackknife: AP50 on few
                   images is too high on average
    holds_UC       whether the unit has instances of the class
    images_C       images with instances of the class
    """

    ap50: float
    per_class_C: NDArray[np.float64]
    units: tuple[str, ...]
    share_UC: NDArray[np.float64]
    bias_C: NDArray[np.float64]
    holds_UC: NDArray[np.bool_]
    images_C: NDArray[np.int64]

    @classmethod
    def of(
        cls, table: MatchTable, max_dets: int | None, units: Sequence[str] | None = None
    ) -> "Scored":
        """The score of a match table. `Reweighted` explains `max_dets`, `units` and the pulls.

        A class that one unit holds has no pull, and takes its variance from the other classes.
        """
        reweighted = Reweighted(table, max_dets, units)
        per_class_C = reweighted.per_class
        present_C = ~np.isnan(per_class_C)
        share_UC, bias_C = reweighted.jackknife()
        return cls(
            float(per_class_C[present_C].mean()) if present_C.any() else math.nan,
            per_class_C,
            reweighted.units,
            share_UC,
            bias_C,
            reweighted.truths_UC > 0,
            (table.truths_IC > 0).sum(axis=0),
        )


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval at 95% confidence."""

    estimate: float
    low: float
    high: float


def interval(score: Scored) -> Interval:
    """The interval of one trained model's AP50 over the images it could have been validated on.

    It is a moderated t interval of the logit. The variance of each class is averaged with the
    pooled variance of all classes, at a weight of `_PRIOR` units, since a class in few images would
    otherwise seem surer than it is. AP50 on few images is too high on average, so its bias is
    subtracted before the lower end is computed; the bias is moderated in the same way, and is half
    the score at most. With fewer than two units the interval is 0 to 1. It covers the truth in at
    least 92% of cases for an AP50 of 0.05 to 0.8 and 10 to 200 images in our simulation;
    docs/statistics.md names cells of another one in which it covers it in fewer.
    """
    return mean_interval([score], None)


def mean_interval(scores: Sequence[Scored], seeds: "SeedVariance | None") -> Interval:
    """The interval of the mean AP50 of repeats of one variant, over images and trainings.

    Where `seeds` is None, the interval is over images alone. It is computed as in `interval`, from
    the mean pull of each unit over the repeats. The seeds' variance, divided by the number of
    repeats, is added to the variance.
    """
    estimate = float(np.mean([score.ap50 for score in scores]))
    of_images, df_images = _image_variance(_Pulls.of(scores, [score.share_UC for score in scores]))
    if math.isnan(estimate) or df_images < 1:
        return Interval(estimate, 0.0, 1.0)
    if of_images < _NOTHING:
        return _where_nothing_varies(estimate, _held(scores))
    variance, df = _sum_of_variances(of_images, df_images, 1 / len(scores), seeds)
    bias = min(max(float(np.mean([_bias(score) for score in scores])), 0.0), estimate / 2)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, df)) * math.sqrt(variance)
    return Interval(
        estimate,
        min(_moved(estimate - bias, -half), estimate),
        max(_moved(estimate, half), estimate),
    )


def _where_nothing_varies(estimate: float, holds_UC: NDArray[np.bool_]) -> Interval:
    """The interval of an AP50 on which no unit has a pull.

    At an AP50 of 0 or 1 one end is the bound of Clopper and Pearson (1934) for none, or all, of
    the k units of the rarest class. At any other AP50 the interval is 0 to 1.
    """
    k_C = holds_UC.sum(axis=0)
    bound = ((1 - CONFIDENCE) / 2) ** (1 / int(k_C[k_C > 0].min()))
    if estimate <= _EDGE:
        return Interval(estimate, 0.0, 1 - bound)
    return Interval(estimate, bound if estimate >= 1 - _EDGE else 0.0, 1.0)


_NOTHING = 1e-14
"""A variance below this is rounding error."""


def _moved(ap50: float, by: float) -> float:
    """An AP50 that is moved by `by` on the scale of its logit.

    `by` times the slope of the logit is added to the logit.
    """
    at = min(max(ap50, _EDGE), 1 - _EDGE)  # at 0 and at 1 the logit has no slope
    return float(special.expit(special.logit(at) + by / (at * (1 - at))))


_EDGE = 1e-4


def warnings_of(score: Scored, classes: Sequence[str]) -> list[str]:
    """The reasons why the interval of a score may promise too much, a sentence each."""
    warnings = [
        f"{name} is in {images} of the validation images only: its AP50 is hardly known"
        for name, images in zip(classes, score.images_C.tolist(), strict=True)
        if 0 < images < FEW_IMAGES
    ]
    if score.ap50 > HIGH_AP50 and len(score.units) < MANY_UNITS:
        warnings.append(
            f"for an AP50 above {HIGH_AP50} on fewer than {MANY_UNITS} images no known interval"
            " covers the truth as often as it promises"
        )
    return warnings


@dataclass(frozen=True)
class _Pulls:
    """The pull of each unit on a mean over repeats, and how well each class is known.

    Classes that no unit holds are left out.

    share_UC   the pull of each unit, through each class
    held_C     number of units that hold the class
    known_C    number of these whose pull on the class is known, because in some repeat another unit
               holds it too
    """

    share_UC: NDArray[np.float64]
    held_C: NDArray[np.float64]
    known_C: NDArray[np.float64]

    @classmethod
    def of(
        cls, scored: Sequence[Scored], shares: Sequence[NDArray[np.float64]], paired: bool = False
    ) -> "_Pulls":
        """The pulls on the mean of repeats; `shares[r]` are the pulls of the units of `scored[r]`.

        Where only one unit of a repeat holds a class, the pull of that unit on the class is
        unknown. It is taken to be as large as the known pulls of the other repeats are on average:
        other repeats have other images, so their variances add up. It is taken to be 0 where the
        pulls are `paired`, those of a difference of two models on the same images: their unknown
        parts cancel, and in simulations ten images could show a tenth less where they were counted.
        """
        units = [one.units for one in scored]
        share_UC = _aligned(shares, units).sum(axis=1) / len(scored)
        known_UC = held_UC = _held(scored)
        if not paired:
            holders_RC = np.array([one.holds_UC.sum(axis=0) for one in scored])
            known_RC = holders_RC > 1
            share_UC *= np.sqrt((holders_RC > 0).sum(axis=0) / np.maximum(known_RC.sum(axis=0), 1))
            known = [one.holds_UC & known_C for one, known_C in zip(scored, known_RC, strict=True)]
            known_UC = np.any(_aligned(known, units), axis=1)
        present_C = held_UC.any(axis=0)
        return cls(
            share_UC[:, present_C],
            held_UC.sum(axis=0)[present_C].astype(np.float64),
            known_UC.sum(axis=0)[present_C].astype(np.float64),
        )


def _moderated(
    value_C: NDArray[np.float64], held_C: NDArray[np.float64], known_C: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Moderate a variance or a bias of each class.

    The value is proportional to 1 / k where k units hold the class. k times the value is averaged
    with the mean of this product over all classes. The class itself has the number of its known
    units less one as its weight, the mean has `_PRIOR` (the empirical Bayes of Smyth 2004 with a
    fixed prior weight). Returns the moderated values and the sums of the two weights.
    """
    weight_C = np.maximum(known_C - 1, 0)
    pooled = float((weight_C * held_C * value_C).sum() / max(float(weight_C.sum()), 1.0))
    return (weight_C * held_C * value_C + _PRIOR * pooled) / (
        weight_C + _PRIOR
    ) / held_C, weight_C + _PRIOR


def _bias(score: Scored) -> float:
    """The bias of AP50, how much it is too high on average, by the jackknife, moderated by class.

    A class in one unit gives no estimate of its own, although it is the most biased.
    """
    held_C = score.holds_UC.sum(axis=0).astype(np.float64)
    present_C = held_C > 0
    moderated_C, _ = _moderated(score.bias_C[present_C], held_C[present_C], held_C[present_C])
    return float(moderated_C.sum())


def _image_variance(pulls: _Pulls) -> tuple[float, float]:
    """The variance of a sum over units, moderated class by class, and its degrees of freedom.

    The degrees of freedom are Satterthwaite's, and at most the number of units less one.
    """
    if not len(pulls.held_C):
        return 0.0, 0.0
    v_C = (pulls.share_UC**2).sum(axis=0)
    moderated_C, weight_C = _moderated(v_C, pulls.held_C, pulls.known_C)
    variance = float((pulls.share_UC.sum(axis=1) ** 2).sum() + (moderated_C - v_C).sum())
    square = float((moderated_C**2 / weight_C).sum())
    df = float(moderated_C.sum()) ** 2 / square if square > 0 else math.inf
    return max(variance, 0.0), min(df, len(pulls.share_UC) - 1.0)


def _sum_of_variances(
    of_images: float, df_images: float, times: float, seeds: "SeedVariance | None"
) -> tuple[float, float]:
    """The variance due to images plus `times` that of seeds, and its degrees of freedom.

    The degrees of freedom are Satterthwaite's.
    """
    of_seeds = 0.0 if seeds is None else times * seeds.variance
    variance = of_images + of_seeds
    spread = (of_images**2 / df_images if df_images > 0 else 0.0) + (
        of_seeds**2 / seeds.df if seeds else 0.0
    )
    return variance, variance**2 / spread if spread > 0 else df_images


class Verdict(StrEnum):
    """The result of a comparison, in one word or two."""

    BETTER = "better"
    WORSE = "worse"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Difference:
    """A paired difference in AP50, over the same repeats and images: variant less baseline.

    estimate      mean over the repeats
    low, high     interval at 95% confidence, for this comparison by itself
    p             two-sided p value
    p_adjusted    p value adjusted for all comparisons of the table, by Holm
    se, df        standard error and degrees of freedom of the t distribution
    image_se      the part of the standard error that is due to images
    seed_se       the part that is due to seeds; None with one repeat, where it cannot be seen
    repeats       trained pairs that were compared
    units         images, or groups, that they were validated on
    """

    estimate: float
    low: float
    high: float
    p: float
    p_adjusted: float
    se: float
    df: float
    image_se: float
    seed_se: float | None
    repeats: int
    units: int

    @property
    def verdict(self) -> Verdict:
        """Better or worse where the adjusted p is under 5%.

        With one repeat it is about the two trained models only.
        """
        if not self.p_adjusted < 1 - CONFIDENCE:
            return Verdict.CANNOT_TELL
        return Verdict.BETTER if self.estimate > 0 else Verdict.WORSE


Scores = Mapping[str, Mapping[Hashable, Scored]]
"""The scored trials of a table: by variant, then by repeat (seed and fold), which pairs them."""


@dataclass(frozen=True)
class SeedVariance:
    """How much AP50 differs between trainings on the same settings, beyond what images explain.

    variance   variance of one training's AP50
    df         degrees of freedom of this estimate
    """

    variance: float
    df: float


def seed_variance(scores: Scores) -> SeedVariance | None:
    """The seeds' variance, pooled over the variants of a table.

    Returns None where no two variants share two repeats. AP50 is taken apart into variant + repeat
    + rest by least squares; the rest of a whole table has (variants - 1) (repeats - 1) degrees of
    freedom. One part of the rest's variance is due to images, and its expectation follows from the
    units' pulls; what remains is due to the seeds. It is set to at least a quarter of the rest's
    variance, because the difference of two estimates can be 0 by chance. Its degrees of freedom are
    those of the rest times its share of the rest's variance, because it is known less well. Both
    rules were chosen by simulation (docs/statistics.md).
    """
    cells = [(variant, repeat) for variant, row in scores.items() for repeat in row]
    variants, repeats = (
        list(dict.fromkeys(v for v, _ in cells)),
        list(dict.fromkeys(r for _, r in cells)),
    )
    design = np.zeros((len(cells), len(variants) + len(repeats)))
    for row, (variant, repeat) in enumerate(cells):
        design[row, variants.index(variant)] = design[
            row, len(variants) + repeats.index(repeat)
        ] = 1
    rest = np.eye(len(cells)) - design @ np.linalg.pinv(design)
    df = round(float(np.trace(rest)))
    if df < 1:
        return None
    scored = [scores[variant][repeat] for variant, repeat in cells]
    ap50 = np.array([score.ap50 for score in scored])
    pulls_UM = _aligned(
        [score.share_UC.sum(axis=1) for score in scored], [score.units for score in scored]
    )
    of_all = float(np.square(rest @ ap50).sum()) / df
    if of_all < _NOTHING:  # variants that are the same everywhere: what is left is rounding
        return SeedVariance(0.0, df)
    of_images = float(((pulls_UM @ rest) ** 2).sum()) / df
    variance = max(of_all - of_images, _LEAST_SEEDS * of_all)
    return SeedVariance(variance, df * variance / of_all)


_LEAST_SEEDS = 0.25


def _aligned(
    columns: Sequence[NDArray[ScalarT]], units: Sequence[Sequence[str]]
) -> NDArray[ScalarT]:
    """Arrays whose first axis is their own units, stacked over the union of all units.

    Returns [unit, array, ...], with 0 where an array lacks a unit.
    """
    union = {
        unit: row
        for row, unit in enumerate(dict.fromkeys(unit for names in units for unit in names))
    }
    result = np.zeros((len(union), len(columns), *columns[0].shape[1:]), dtype=columns[0].dtype)
    for number, (column, names) in enumerate(zip(columns, units, strict=True)):
        result[[union[unit] for unit in names], number] = column
    return result


def _held(scored: Sequence[Scored]) -> NDArray[np.bool_]:
    """Whether a unit has instances of a class in any of these evaluations, over all their units."""
    held_UC: NDArray[np.bool_] = np.any(
        _aligned([one.holds_UC for one in scored], [one.units for one in scored]), axis=1
    )
    return held_UC


def compare(
    variant: Sequence[Scored], baseline: Sequence[Scored], seeds: SeedVariance | None
) -> Difference:
    """The paired difference of two variants.

    `variant[r]` and `baseline[r]` were validated on the same images.

    seeds   the seeds' variance of the table (`seed_variance`); None with one repeat: the difference
            is then one between these two trained models

    The variance of the mean difference is the variance due to images, moderated as in `interval`,
    plus twice the seeds' variance divided by the number of repeats. The degrees of freedom are
    Satterthwaite's.
    """
    assert len(variant) == len(baseline) > 0
    repeats = len(variant)
    pairs = list(zip(variant, baseline, strict=True))
    assert all(one.units == other.units for one, other in pairs), "the same images"
    estimate = float(np.mean([one.ap50 - other.ap50 for one, other in pairs]))
    pulls = _Pulls.of(variant, [one.share_UC - other.share_UC for one, other in pairs], paired=True)
    of_images, df_images = _image_variance(pulls)
    variance, df = _sum_of_variances(of_images, df_images, 2 / repeats, seeds)
    units = len(pulls.share_UC)
    image_se, seed_se = (
        math.sqrt(of_images),
        None if seeds is None else math.sqrt(2 / repeats * seeds.variance),
    )
    if math.isnan(estimate) or units < 2 or df_images <= 0 or variance < _NOTHING:
        # Without variance the two models are the same everywhere, or there are too few units to
        # estimate it.
        return Difference(
            estimate, -1.0, 1.0, 1.0, 1.0, math.inf, 0.0, image_se, seed_se, repeats, units
        )
    se = math.sqrt(variance)
    p = float(2 * stats.t.sf(abs(estimate) / se, df))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, df)) * se
    low, high = max(estimate - half, -1.0), min(estimate + half, 1.0)
    return Difference(estimate, low, high, p, p, se, df, image_se, seed_se, repeats, units)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for all comparisons of a table (Holm 1979).

    The smallest is multiplied by their number, the next by one less, and so on; each is at least
    the one before.
    """
    adjusted = [1.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def for_all_pairs(p_values: Sequence[float]) -> list[float]:
    """P values of the best of several with each of the others, adjusted for the comparisons of all
    with each other, of which these are a part.

    Whichever is the best was picked by the same scores, so some difference to it is large by
    chance. The p values of the other pairs are taken to be 1.
    """
    count = len(p_values) + 1
    other_pairs = count * (count - 1) // 2 - len(p_values)
    return holm([*p_values, *[1.0] * other_pairs])[: len(p_values)]


def compare_all(scores: Scores, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    """Each variant compared with its baseline, over the repeats that both have.

    The p values are adjusted for all pairs.
    """
    seeds = seed_variance(scores)
    found = []
    for variant, baseline in pairs:
        both = [repeat for repeat in scores[variant] if repeat in scores[baseline]]
        assert both, f"{variant} and {baseline} have no repeat in common"
        one, other = ([scores[name][repeat] for repeat in both] for name in (variant, baseline))
        found.append(compare(one, other, seeds))
    adjusted = holm([difference.p for difference in found])
    return [
        replace(difference, p_adjusted=p) for difference, p in zip(found, adjusted, strict=True)
    ]


def smallest_difference(se: float, df: float, comparisons: int = 1) -> float:
    """The true difference that is found in 80% of cases, from the standard error of comparisons.

    comparisons   number of comparisons of the table, for all of which p values are adjusted

    It is the difference at which a noncentral t exceeds the two-sided bound of 5% / `comparisons`
    with that probability. Unlike (t.975 + t.8) SE, this takes into account that SE is an estimate.
    `_EXTRA` is the factor that simulation found missing. Returns infinity where the difference
    would have to be 1 or more, which no two AP50s can differ by.
    """
    if not (0 < se < math.inf and df >= 1):
        return math.inf
    bound = float(stats.t.isf((1 - CONFIDENCE) / 2 / comparisons, df))
    noncentrality = optimize.brentq(
        lambda shift: float(stats.nct.sf(bound, df, shift)) - POWER, 0.0, 50 + 50 * bound
    )
    smallest = float(noncentrality) * se * _EXTRA
    return smallest if smallest < 1 else math.inf


_EXTRA = 1.15


def prior_smallest_difference(units: int, repeats: int, comparisons: int = 1) -> float:
    """The `smallest_difference` to expect before anything is measured.

    It comes from simulated cell images, not from these data.

    units         images, or groups of them, that validate in any of the repeats
    repeats       trainings of each of the two that are compared
    comparisons   number of comparisons of the table
    """
    variance = _PRIOR_IMAGE_VARIANCE / max(units, 1) + 2 * _PRIOR_SEED_SD**2 / max(repeats, 1)
    return smallest_difference(math.sqrt(variance), max(units - 1, 1), comparisons)


_PRIOR_IMAGE_VARIANCE, _PRIOR_SEED_SD = 0.12, 0.02
