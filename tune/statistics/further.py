"""The number of further seeds, or images, that would decide an open comparison.

A number of seeds decides a comparison if with it the difference is found in 80% of cases, where the
true difference is the observed one. The effect of more seeds follows from the parts of the variance
of the mean difference over S seeds:

- *images that all trainings see alike*, common (1 + (1 - f) / (f S)), where the trainings of a seed
  validate a share f of the images: more seeds validate more of the images, and then this part
  stays;
- *images as one training sees them*, own / S;
- *seeds*, as in `tune.statistics.certainty`, in proportion to 1 / S; its degrees of freedom grow
  with S - 1;
- the rest of the comparison's variance, which no number of seeds changes.

The two parts that are due to images are told apart by how much smaller the variance of all seeds
together is than that of one of them alone. With few seeds this estimate is poor, so it is averaged
with a prior. Both are in inverse proportion to the number of images.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tune.statistics.certainty import (
    LEAST_DF,
    Difference,
    Scored,
    Variance,
    compare,
    smallest_difference,
    standard_error,
)

MOST_SEEDS = 1000
"""Largest number of seeds that is considered; a study takes no more."""
ENOUGH_SEEDS = 10
"""Least number of seeds that is assumed where the number of images is multiplied instead: more
seeds than these hardly matter."""
MOST_TIMES_THE_IMAGES = 20.0
"""Largest number of images that is considered, as a multiple of the present number."""
USUAL_SEED_SD = 0.02
"""Usual standard deviation of AP50 over trainings with the same settings; it is assumed where each
of the two methods was trained once, so that their own cannot be estimated."""

_ROUNDING = 1e-6

_PRIOR_SHARE, _PRIOR_WEIGHT = 0.25, 4.0
"""Prior of the part, due to images, that all trainings see alike, as a fraction of the most that it
can be, and the prior's weight in seeds. With three seeds the estimate of this part varies from
table to table by as much as that maximum (docs/statistics.md)."""


@dataclass(frozen=True)
class Outlook:
    """How sure a comparison would be with more seeds or more images.

    estimate     the observed difference
    seeds        number of seeds so far
    fraction     share of the images that validate in the trainings of one seed: 1 with folds
    common       variance due to images that all trainings see alike, once every image validates
    own          variance due to images as the trainings of one seed see them
    of_seeds     parts of the variance due to the seed, with one seed; their degrees of freedom are
                 those for each seed beyond the first
    other        the rest of the variance, which no number of seeds or images changes
    df_images    degrees of freedom of the variance due to images
    """

    estimate: float
    seeds: int
    fraction: float
    common: float
    own: float
    of_seeds: tuple[Variance, ...]
    other: float
    df_images: float

    def at(self, seeds: float, images: float = 1.0) -> tuple[float, float]:
        """The standard error of the comparison with more seeds or images, and its df.

        seeds    number of seeds, more than 1; infinity for the limit
        images   number of images, as a multiple of the present number
        """
        overlap = 1 + (1 - self.fraction) / (self.fraction * seeds)
        of_images = (self.common * overlap + self.own / seeds) / images
        return standard_error(
            [
                Variance(of_images + self.other, self.df_images, firm=True),
                *(
                    Variance(part.value / seeds, max(part.df * (seeds - 1), 1.0), part.firm)
                    for part in self.of_seeds
                ),
            ]
        )

    def decides(self, comparisons: int, seeds: float, images: float = 1.0) -> bool:
        """Whether a true difference of the observed size is found in 80% of cases (see `at`).

        comparisons   number of open comparisons of the table, which share one error rate

        It is not with too few seeds for any verdict (see `certainty.compare`).
        """
        if any(
            part.value > 0 and not part.firm and part.df * (seeds - 1) < LEAST_DF - _ROUNDING
            for part in self.of_seeds
        ):
            return False
        se, df = self.at(seeds, images)
        return smallest_difference(se, df, comparisons) <= abs(self.estimate)


def outlook(
    variant: Sequence[Scored],
    baseline: Sequence[Scored],
    difference: Difference,
    seeds: Sequence[Variance] | None,
    folds: int,
    fraction: float,
) -> Outlook:
    """The outlook of a comparison, given the trainings of its two rows.

    `variant[r]` and `baseline[r]` were validated on the same images; the folds of a seed follow
    each other.

    difference   the comparison as it stands
    seeds        parts that one seed adds to the variance of the comparison; None with one seed
    folds        number of folds of each seed; 0 for hold-outs
    fraction     share of the images that a hold-out validates

    With one seed each the seeds' variance is taken to be the usual one (`USUAL_SEED_SD`).
    """
    repeats, each = len(variant), max(folds, 1)
    together = compare(variant, baseline)
    pairs = list(zip(variant, baseline, strict=True))
    single = sum(compare([one], [other]).image_se ** 2 for one, other in pairs) / repeats
    of_images = together.image_se**2
    number = repeats / each
    fraction = 1.0 if folds else fraction
    overlap = 1 + (1 - fraction) / (fraction * number)
    most = of_images / overlap
    common = _PRIOR_SHARE * most
    if repeats > each:
        seen = min(max(repeats * of_images - single, 0.0) / (repeats - each), most)
        common += (number - 1) / (number - 1 + _PRIOR_WEIGHT) * (seen - common)
    own = max(of_images - common * overlap, 0.0) * number
    if seeds is None or number < 2:
        parts: tuple[Variance, ...] = (Variance(2 * USUAL_SEED_SD**2 / each, 1.0),)
    else:
        parts = tuple(part._replace(df=part.df / (number - 1)) for part in seeds)
    known = of_images
    if seeds is not None:
        known += sum(part.value for part in parts) / number
    other = max(difference.se**2 - known, 0.0) if math.isfinite(difference.se) else 0.0
    return Outlook(
        difference.estimate, round(number), fraction, common, own, parts, other,
        max(together.df, 1.0),
    )  # fmt: skip


def seeds_to_decide(found: Outlook, comparisons: int) -> int | None:
    """The smallest number of seeds in all that decides a comparison; None where none does."""
    least = found.seeds + 1
    return _smallest(lambda seeds: found.decides(comparisons, seeds), least, MOST_SEEDS)


def images_to_decide(found: Outlook, comparisons: int) -> float | None:
    """The smallest multiple of the present number of images that decides a comparison.

    It is computed with at least ENOUGH_SEEDS seeds; None where no multiple up to
    MOST_TIMES_THE_IMAGES decides.
    """
    seeds = max(found.seeds, ENOUGH_SEEDS)
    hundredths = _smallest(
        lambda number: found.decides(comparisons, seeds, number / 100),
        100,
        round(100 * MOST_TIMES_THE_IMAGES),
    )
    return None if hundredths is None else hundredths / 100


def _smallest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number from `low` to `high` that `holds`, as all larger ones do; or None."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
