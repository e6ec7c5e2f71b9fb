"""How sure a score is: intervals of AP50, and paired differences with a verdict.

The smallest difference that a comparison can be expected to find is here as well. Everything is
computed from the match tables of evaluated epochs, by reweighting (see
`core.metric.reweighted`). The choice of a winner is in `tune.statistics.choice`, the effects of
searched settings in `tune.statistics.effects`.

A score varies for two reasons. *Images*: another sample of images would have given another score;
this variance is estimated by leaving out one unit at a time. *Seeds*: another training with the
same settings would have given another model; this variance is how much the seeds of a row differ
beyond what their images explain, pooled over the rows of a table. A row whose seeds differ much
more than those of the others has a variance of its own. Neither can be estimated where each row has
one seed.

The unit that is left out is an image, or a group of images (`data.group_pattern`) where there are
groups.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from core.metric.ap50 import FEW_IMAGES, MatchTable
from core.metric.reweighted import Reweighted

_ScalarT = TypeVar("_ScalarT", bound=np.generic)

CONFIDENCE = 0.95
POWER = 0.8
HIGH_AP50, MANY_UNITS = 0.9, 41
"""Above this AP50, on fewer units than this, no interval that we know of covers the truth as often
as it promises."""

LEAST_DF = 2
"""Least degrees of freedom of the seeds' variance with which a verdict is given."""

_PRIOR = 1.0
"""Prior weight of the moderated variance and bias, in units: each class's value is averaged with
the pooled one as if the pooled one came from this many units. Chosen by simulation: see
docs/statistics.md."""


@dataclass(frozen=True)
class Scored:
    """The AP50 of one trained model, and the pull of each unit on it (`Reweighted.jackknife`).

    ap50           mean over the classes with ground truth; nan if there are none
    per_class_C    AP50 of each class; nan for one without ground truth
    units          names of the U units
    share_UC       the pull of each unit on `ap50` through each class. A unit's pull is the sum over
                   classes; the sum of the squared pulls of all units is the variance of `ap50`
                   that is due to images
    bias_C         the part of each class in the bias of `ap50`, by the jackknife: AP50 on few
                   images is too high on average
    holds_UC       whether the unit has instances of the class
    images_C       number of images with instances of the class
    luck           how much too high `ap50` is because its epoch was chosen on these images (see
                   `tune.statistics.epochs`); 0 for an epoch that was fixed beforehand
    """

    ap50: float
    per_class_C: NDArray[np.float64]
    units: tuple[str, ...]
    share_UC: NDArray[np.float64]
    bias_C: NDArray[np.float64]
    holds_UC: NDArray[np.bool_]
    images_C: NDArray[np.int64]
    luck: float = 0.0

    @property
    def honest(self) -> float:
        """`ap50` less the luck of its epoch's choice, at least 0."""
        return max(self.ap50 - self.luck, 0.0)

    @classmethod
    def of(
        cls, table: MatchTable, max_dets: int | None, units: Sequence[str] | None = None
    ) -> "Scored":
        """The score of a match table. `Reweighted` explains `max_dets`, `units` and the pulls.

        A unit that alone holds a class has no pull on it; such a class takes its variance from the
        other classes.
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


class Variance(NamedTuple):
    """A part of a variance, and the degrees of freedom of its estimate.

    firm   whether the estimate is seldom far too small: it comes from many units, or it is used
           because it is large
    """

    value: float
    df: float
    firm: bool = False


def _quantile(parts: Sequence[Variance], tail: float) -> float:
    """The quantile of a t statistic whose variance is the sum of independently estimated parts.

    The firm parts together have Satterthwaite's degrees of freedom. The result is the mean of the t
    quantiles of these and of each other part, weighted by their values (Cochran and Cox,
    *Experimental Designs*, 1950): with Satterthwaite's degrees of freedom for all, false alarms are
    too frequent where a part is known from two degrees of freedom and comes out small by chance.

    tail   probability above the quantile
    """
    firm = [part for part in parts if part.firm]
    apart = [part for part in parts if not part.firm] + ([_together(firm)] if firm else [])
    total = sum(part.value for part in apart)
    return sum(float(special.stdtrit(part.df, 1 - tail)) * part.value for part in apart) / total


def _together(parts: Sequence[Variance]) -> Variance:
    """The sum of independently estimated variances, with Satterthwaite's degrees of freedom.

    Shares are squared, not values: the square of a very small value is 0.
    """
    total = sum(part.value for part in parts)
    inverse = sum((part.value / total) ** 2 / part.df for part in parts)
    return Variance(total, 1 / inverse, firm=True)


def _two_sided_p(t: float, parts: Sequence[Variance]) -> float:
    """The two-sided p value of a t statistic, by the quantiles of `_quantile`; at least 2e-12."""
    size = abs(t)
    least = 1e-12
    if size >= _quantile(parts, least):
        return 2 * least
    return 2 * float(optimize.brentq(lambda tail: _quantile(parts, tail) - size, least, 0.5))


def _df_with(bound: float) -> float:
    """The degrees of freedom, 1 to `_MANY`, of the t distribution with this two-sided 95% bound."""
    tail = (1 - CONFIDENCE) / 2
    if bound <= float(special.stdtrit(_MANY, 1 - tail)):
        return _MANY
    if bound >= float(special.stdtrit(1.0, 1 - tail)):
        return 1.0
    return float(
        optimize.brentq(lambda df: float(special.stdtrit(df, 1 - tail)) - bound, 1.0, _MANY)
    )


_MANY = 1e4
"""Degrees of freedom from which a t distribution counts as normal."""


def standard_error(parts: Sequence[Variance]) -> tuple[float, float]:
    """The standard error of an estimate whose variance is a sum of parts, and its df.

    The df are the degrees of freedom of the t distribution whose 95% bound is that of the parts
    together (see `_quantile`). A variance of 0 has an infinite df.
    """
    known = [part for part in parts if part.value > 0]
    if not known:
        return 0.0, math.inf
    bound = _quantile(known, (1 - CONFIDENCE) / 2)
    return math.sqrt(sum(part.value for part in known)), _df_with(bound)


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval at 95% confidence."""

    estimate: float
    low: float
    high: float


def interval(score: Scored) -> Interval:
    """The interval of one trained model's AP50 over other validation images of the same kind.

    It is a moderated t interval of the logit. The variance of each class is averaged with the
    pooled variance of all classes, at a weight of `_PRIOR` units, since a class in few images would
    otherwise seem surer than it is. AP50 on few images is too high on average, so its bias is
    subtracted before the lower end is computed; the bias is moderated in the same way, and is half
    the score at most. With fewer than two units the interval is 0 to 1. In our simulation it covers
    the truth in at least 92% of cases, for an AP50 of 0.05 to 0.8 and 10 to 200 images;
    docs/statistics.md names the conditions under which another simulation found less.
    """
    return mean_interval([score], None)


def mean_interval(scores: Sequence[Scored], seeds: Sequence[Variance] | None) -> Interval:
    """The interval of the mean AP50 of repeats of one row, over images and trainings.

    It is computed as in `interval`, from the mean pull of each unit over the repeats, around the
    mean as measured. The luck of the epochs is subtracted from both ends afterwards, because a
    score without it may be near 0, where the logit is so steep that the variance of the measured
    score would widen the interval to 0 to 1.

    seeds   parts that seeds add to the variance of the mean (`SeedVariances.of_mean`); None where
            they cannot be estimated: the interval is then over images alone
    """
    measured = float(np.mean([score.ap50 for score in scores]))
    estimate = float(np.mean([score.honest for score in scores]))
    luck = measured - estimate
    images = _image_variance(_Pulls.of(scores, [score.share_UC for score in scores]))
    if math.isnan(estimate) or images.df < 1:
        return Interval(estimate, 0.0, 1.0)
    if images.value < _NOTHING:
        around = _where_nothing_varies(measured, _held(scores))
        return Interval(estimate, max(around.low - luck, 0.0), around.high)
    parts = [images, *(seeds or ())]
    bias = min(max(float(np.mean([_bias(score) for score in scores])), 0.0), measured / 2)
    half = _quantile(parts, (1 - CONFIDENCE) / 2) * math.sqrt(sum(part.value for part in parts))
    return Interval(
        estimate,
        min(max(_moved(measured - bias, -half) - luck, 0.0), estimate),
        max(_moved(measured, half) - luck, estimate),
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
    """An AP50 whose logit is moved by `by`, in units of AP50, times the slope of the logit."""
    at = min(max(ap50, _EDGE), 1 - _EDGE)  # at 0 and at 1 the logit has no slope
    return float(special.expit(special.logit(at) + by / (at * (1 - at))))


_EDGE = 1e-4
"""Slopes of the logit are computed at least this far from an AP50 of 0 or 1."""


def warnings_of(score: Scored, classes: Sequence[str]) -> list[str]:
    """The reasons why the interval of a score may promise too much, a sentence each."""
    warnings = [
        f"{name} is in {images} of the validation images only: its AP50 is hardly known"
        for name, images in zip(classes, score.images_C.tolist(), strict=True)
        if 0 < images < FEW_IMAGES
    ]
    if score.ap50 > HIGH_AP50 and len(score.units) < MANY_UNITS:
        warnings.append(
            f"for an AP50 above {HIGH_AP50} on fewer than {MANY_UNITS} images, or groups of images,"
            " no known interval covers the truth as often as it promises"
        )
    return warnings


@dataclass(frozen=True)
class _Pulls:
    """The pull of each unit on a mean over repeats, and how well each class is known.

    Classes that no unit holds are left out.

    share_UC   the pull of each unit, through each class
    held_C     number of units that hold the class
    known_C    number of these units whose pull on the class is known, because in some repeat
               they do not hold it alone
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
        pulls are `paired`, those of a difference of two models on the same images: there the
        unknown parts cancel, and in simulations counting them made the smallest difference on ten
        images a tenth larger.
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

    The value is proportional to 1 / k where k units hold the class, so k times the value is
    averaged with the weighted mean of this product over all classes. The weight of a class is the
    number of its known units less one, that of the mean is `_PRIOR` (the empirical Bayes of Smyth
    2004 with a fixed prior weight). Returns the moderated values and the sums of the two weights.
    """
    weight_C = np.maximum(known_C - 1, 0)
    pooled = float((weight_C * held_C * value_C).sum() / max(float(weight_C.sum()), 1.0))
    return (weight_C * held_C * value_C + _PRIOR * pooled) / (
        weight_C + _PRIOR
    ) / held_C, weight_C + _PRIOR


def _bias(score: Scored) -> float:
    """The jackknife's estimate of how much AP50 is too high on average, moderated class by class.

    A class in one unit gives no estimate of its own, although it is the most biased.
    """
    held_C = score.holds_UC.sum(axis=0).astype(np.float64)
    present_C = held_C > 0
    moderated_C, _ = _moderated(score.bias_C[present_C], held_C[present_C], held_C[present_C])
    return float(moderated_C.sum())


def _image_variance(pulls: _Pulls) -> Variance:
    """The variance of a sum over units, moderated class by class.

    The degrees of freedom are Satterthwaite's, and at most the number of units less one.
    """
    if not len(pulls.held_C):
        return Variance(0.0, 0.0)
    v_C = (pulls.share_UC**2).sum(axis=0)
    moderated_C, weight_C = _moderated(v_C, pulls.held_C, pulls.known_C)
    variance = float((pulls.share_UC.sum(axis=1) ** 2).sum() + (moderated_C - v_C).sum())
    square = float((moderated_C**2 / weight_C).sum())
    df = float(moderated_C.sum()) ** 2 / square if square > 0 else math.inf
    return Variance(max(variance, 0.0), min(df, len(pulls.share_UC) - 1.0), firm=True)


def noise_between(one: Scored, other: Scored) -> float:
    """The variance, due to images, of the difference of two models on the same images."""
    pulls = _Pulls.of([one], [one.share_UC - other.share_UC], paired=True)
    return _image_variance(pulls).value


class Verdict(StrEnum):
    """The result of a comparison, in one word or two."""

    BETTER = "better"
    WORSE = "worse"
    CANNOT_TELL = "cannot tell"


class Scope(StrEnum):
    """The claim that a verdict makes, from the narrowest to the widest."""

    MODELS = "these trained models"
    HERE = "methods trained on these images"
    ELSEWHERE = "methods trained on images of this kind"


@dataclass(frozen=True)
class Difference:
    """A paired difference in AP50, over the same repeats and images: variant less baseline.

    estimate      mean over the repeats
    low, high     interval at 95% confidence, for this comparison by itself
    p             two-sided p value of no difference
    p_adjusted    p value adjusted for all comparisons of the table, by Holm
    se, df        standard error, and degrees of freedom of the t distribution whose 95% bound the
                  interval has
    image_se      standard error due to images alone
    seed_se       standard error due to seeds alone; None where it cannot be estimated
    repeats       trained pairs that were compared
    seeds         distinct seeds among them; the folds of a seed share its luck
    units         images, or groups, that they were validated on
    p_elsewhere   `p_adjusted` for methods that train on other images of this kind; 1 where it
                  cannot be estimated
    decidable     whether enough is known of the seeds' variance for any verdict
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
    seeds: int
    units: int
    p_elsewhere: float = 1.0
    decidable: bool = True

    @property
    def scope(self) -> Scope:
        """The widest claim that the verdict holds for."""
        if self.seed_se is None:
            return Scope.MODELS
        return Scope.ELSEWHERE if self.p_elsewhere < 1 - CONFIDENCE else Scope.HERE

    @property
    def verdict(self) -> Verdict:
        """Better or worse where `p_adjusted` is under 5%; `scope` has the claim that it makes."""
        if not self.p_adjusted < 1 - CONFIDENCE:
            return Verdict.CANNOT_TELL
        return Verdict.BETTER if self.estimate > 0 else Verdict.WORSE


class Repeat(NamedTuple):
    """A training among those of a row: its seed, and its fold (0 for a hold-out)."""

    seed: int
    fold: int = 0


Scores = Mapping[str, Mapping[Repeat, Scored]]
"""The scored trials of a table: by row, then by repeat, which pairs the trials of two rows."""


def distinct_seeds(repeats: Iterable[Repeat]) -> int:
    """Number of distinct seeds."""
    return len({repeat.seed for repeat in repeats})


@dataclass(frozen=True)
class SeedVariances:
    """How much AP50 differs between seeds of one row, beyond what images explain.

    A seed's AP50 is the mean over its folds, because they may share its luck.

    pooled   variance of a seed's AP50, over all rows of a table
    own      the variance of each row whose seeds differ much more than those of the other rows;
             the pooled one does not hold for such a row
    """

    pooled: Variance
    own: Mapping[str, Variance]

    def of_mean(self, rows: Sequence[str], seeds: int) -> tuple[Variance, ...]:
        """Parts that seeds add to the variance of a mean over seeds, or a difference of two means.

        rows    the row, or the two rows
        seeds   number of distinct seeds
        """
        pooled = sum(row not in self.own for row in rows)
        parts = [Variance(pooled * self.pooled.value, self.pooled.df)] if pooled else []
        parts += [self.own[row] for row in rows if row in self.own]
        return tuple(part._replace(value=part.value / seeds) for part in parts)


def seed_variances(scores: Scores) -> SeedVariances | None:
    """The seeds' variance of the rows of a table; None where no row has two seeds.

    The model AP50 = row + seed + residual is fitted by least squares; the residuals of a whole
    table have (rows - 1) (seeds - 1) degrees of freedom. Where no two rows share two seeds, as in a
    table of one row, the model has no effect of the seed. One part of the residual variance is due
    to images, and its expectation follows from the units' pulls; what remains is due to the seeds.
    It is set to at least 2 / (2 + df) of the residual variance, because the difference of two
    estimates can be small by chance. A row whose own variance is more than `_UNEVEN` times that of
    the others keeps its own. These rules were chosen by simulation (docs/statistics.md).
    """
    cells = list(dict.fromkeys((row, repeat.seed) for row in scores for repeat in scores[row]))
    if not cells:
        return None
    row_M, seed_M = (np.array(column) for column in zip(*cells, strict=True))
    rows_MV = (row_M[:, None] == np.array(list(scores))).astype(np.float64)
    seeds_MS = (seed_M[:, None] == np.unique(seed_M)).astype(np.float64)
    for design in (np.concatenate([rows_MV, seeds_MS], axis=1), rows_MV):
        rest_MM = np.eye(len(cells)) - design @ np.linalg.pinv(design)
        df = round(float(np.trace(rest_MM)))
        if df >= 1:
            break
    else:
        return None
    folds = [
        [scored for repeat, scored in scores[row].items() if repeat.seed == seed]
        for row, seed in cells
    ]
    ap50_M = np.array([np.mean([one.honest for one in together]) for together in folds])
    flat = [(one, 1 / len(together)) for together in folds for one in together]
    pulls = _aligned(
        [one.share_UC.sum(axis=1) * weight for one, weight in flat], [one.units for one, _ in flat]
    )
    starts = np.cumsum([0, *(len(together) for together in folds[:-1])])
    pulls_UM = np.add.reduceat(pulls, starts, axis=1)
    squares_M = np.square(rest_MM @ ap50_M)
    of_all = float(squares_M.sum()) / df
    if of_all < _NOTHING:  # rows that are the same everywhere: the residuals are rounding errors
        return SeedVariances(Variance(0.0, df), {})
    of_images = float(((pulls_UM @ rest_MM) ** 2).sum()) / df
    pooled = Variance(max(of_all - of_images, of_all * 2 / (2 + df)), df)
    own: dict[str, Variance] = {}
    for row in scores:
        mine_M = row_M == row
        mine = float(np.diag(rest_MM)[mine_M].sum())
        others_df = df - mine
        # Weights of the row's own seeds, and of the others', in the squares of its residuals.
        by_own = float((rest_MM[np.ix_(mine_M, mine_M)] ** 2).sum())
        by_others = float((rest_MM[np.ix_(mine_M, ~mine_M)] ** 2).sum())
        own_df = round(mine**2 / by_own) if by_own > _NOTHING else 0
        if own_df < 1 or others_df < 1:
            continue
        others = float(squares_M[~mine_M].sum()) / others_df
        variance = (float(squares_M[mine_M].sum()) - by_others * others) / by_own
        if variance > _UNEVEN * others:
            own[row] = Variance(max(variance - of_images, pooled.value), own_df, firm=True)
    return SeedVariances(pooled, own)


def of_one_seed(scores: Scores, row: str, other: str) -> tuple[Variance, ...] | None:
    """Parts that one seed adds to the variance of the difference of two rows; None if unknown."""
    variances = seed_variances(scores)
    return None if variances is None else variances.of_mean((row, other), 1)


_UNEVEN = 2.0


def _aligned(
    columns: Sequence[NDArray[_ScalarT]], units: Sequence[Sequence[str]]
) -> NDArray[_ScalarT]:
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
    variant: Sequence[Scored],
    baseline: Sequence[Scored],
    seeds: int = 1,
    of_seeds: Sequence[Variance] | None = None,
    training: float | None = None,
) -> Difference:
    """The paired difference of two rows.

    `variant[r]` and `baseline[r]` were validated on the same images.

    seeds      number of distinct seeds
    of_seeds   parts that seeds add to the variance (`SeedVariances.of_mean`); None where they
               cannot be estimated: the difference is then one between these trained models
    training   number of validation images of a repeat divided by that of its training images; None
               if no claim about other training images is wanted

    Repeats share most of their training images, so an advantage that depends on these images hardly
    adds to the variance between repeats. For other training images the variance of a mean over J
    repeats, s^2 / J, becomes s^2 (1 / J + `training`) (Nadeau and Bengio, *Machine Learning* 52,
    2003).

    The variance of the mean difference is the variance due to images, moderated as in `interval`,
    plus that due to the seeds. Where the latter has fewer than `LEAST_DF` degrees of freedom, and
    is not firm, no verdict is given: the p values are 1.
    """
    assert len(variant) == len(baseline) > 0
    repeats = len(variant)
    pairs = list(zip(variant, baseline, strict=True))
    assert all(one.units == other.units for one, other in pairs), "the same images"
    estimate = float(np.mean([one.honest - other.honest for one, other in pairs]))
    pulls = _Pulls.of(variant, [one.share_UC - other.share_UC for one, other in pairs], paired=True)
    images = _image_variance(pulls)
    parts = [part for part in (images, *(of_seeds or ())) if part.value > 0]
    variance = sum(part.value for part in parts)
    units = len(pulls.share_UC)
    image_se = math.sqrt(images.value)
    seed_se = None if of_seeds is None else math.sqrt(sum(part.value for part in of_seeds))
    if math.isnan(estimate) or units < 2 or images.df <= 0 or variance < _NOTHING:
        # Without variance the two models are the same everywhere, or there are too few units to
        # estimate it.
        return Difference(
            estimate, -1.0, 1.0, 1.0, 1.0, math.inf, 0.0, image_se, seed_se, repeats, seeds,
            units,
        )  # fmt: skip
    se = math.sqrt(variance)
    known = all(part.firm or part.df >= LEAST_DF for part in of_seeds or () if part.value > 0)
    p = _two_sided_p(estimate / se, parts) if known else 1.0
    elsewhere = 1.0
    if training is not None and of_seeds is not None and known:
        wider = [
            part._replace(
                value=part.value * (1 + training * (repeats if part is images else seeds))
            )
            for part in parts
        ]
        wide_se = math.sqrt(sum(part.value for part in wider))
        elsewhere = _two_sided_p(estimate / wide_se, wider)
    bound = _quantile(parts, (1 - CONFIDENCE) / 2)
    low, high = max(estimate - bound * se, -1.0), min(estimate + bound * se, 1.0)
    return Difference(
        estimate, low, high, p, p, se, _df_with(bound), image_se, seed_se, repeats, seeds, units,
        elsewhere, known,
    )  # fmt: skip


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
    """P values of comparing the best of several with each of the others, adjusted for all pairs.

    The best was picked by the same scores, so some difference to it is large by chance. The p
    values of the pairs without the best are taken to be 1.
    """
    count = len(p_values) + 1
    other_pairs = count * (count - 1) // 2 - len(p_values)
    return holm([*p_values, *[1.0] * other_pairs])[: len(p_values)]


def compare_all(
    scores: Scores, pairs: Sequence[tuple[str, str]], training: float | None = None
) -> list[Difference]:
    """Each variant compared with its baseline, over the repeats that both have.

    The p values are adjusted for all pairs. `compare` explains `training`.
    """
    variances = seed_variances(scores)
    found = []
    for variant, baseline in pairs:
        both = [repeat for repeat in scores[variant] if repeat in scores[baseline]]
        assert both, f"{variant} and {baseline} have no repeat in common"
        one, other = ([scores[name][repeat] for repeat in both] for name in (variant, baseline))
        seeds = distinct_seeds(both)
        of_seeds = None if variances is None else variances.of_mean((variant, baseline), seeds)
        found.append(compare(one, other, seeds, of_seeds, training))
    here, elsewhere = (
        holm([difference.p for difference in found]),
        holm([difference.p_elsewhere for difference in found]),
    )
    return [
        replace(difference, p_adjusted=p, p_elsewhere=wide)
        for difference, p, wide in zip(found, here, elsewhere, strict=True)
    ]


def smallest_difference(se: float, df: float, comparisons: int = 1) -> float:
    """The true difference that a comparison with this standard error finds in 80% of cases.

    df            degrees of freedom of the standard error
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
"""Factor by which the smallest difference was too small in simulation (docs/statistics.md)."""


def prior_smallest_difference(units: int, repeats: int, comparisons: int = 1) -> float:
    """The `smallest_difference` to expect before anything is measured, from simulated images.

    units         images, or groups of them, that validate in any of the repeats
    repeats       trainings of each of the two that are compared
    comparisons   number of comparisons of the table, each of a row with the same baseline; the
                  variance of seeds is estimated from all rows
    """
    images = Variance(_PRIOR_IMAGE_VARIANCE / max(units, 1), max(units - 1, 1), firm=True)
    of_seeds = 2 * _PRIOR_SEED_SD**2 / max(repeats, 1)
    if repeats < 2:
        return smallest_difference(math.sqrt(images.value + of_seeds), images.df, comparisons)
    df = comparisons * (repeats - 1)
    if df < LEAST_DF:
        return math.inf
    least = (images.value + of_seeds) * 2 / (2 + df)  # as `seed_variances` has it
    parts = [images, Variance(max(of_seeds, least), df)]
    bound = _quantile(parts, (1 - CONFIDENCE) / 2)
    se = math.sqrt(sum(part.value for part in parts))
    return smallest_difference(se, _df_with(bound), comparisons)


_PRIOR_IMAGE_VARIANCE = 0.12
"""Variance due to images of a difference in AP50, multiplied by the number of units."""
_PRIOR_SEED_SD = 0.02
"""Standard deviation of AP50 over seeds."""
