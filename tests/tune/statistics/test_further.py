"""Laws of how many further seeds, or images, would decide a comparison; simulated where truth must
be known.
"""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks import statistics
from tune.statistics.certainty import (
    Difference,
    Repeat,
    Scores,
    Variance,
    Verdict,
    compare_all,
    of_one_seed,
    smallest_difference,
)
from tune.statistics.further import (
    ENOUGH_SEEDS,
    MOST_SEEDS,
    Outlook,
    images_to_decide,
    outlook,
    seeds_to_decide,
)

FRACTION = 1 / statistics.FRACTION
MOST = 40
"""Largest number of seeds that a test simulates."""


def outlook_of(scores: Scores, difference: Difference, fraction: float = FRACTION) -> Outlook:
    """The outlook of variant 1 of a simulated table against variant 0."""
    variant, baseline = (list(scores[name].values()) for name in ("1", "0"))
    return outlook(variant, baseline, difference, of_one_seed(scores, "1", "0"), 0, fraction)


@pytest.mark.parametrize("repeats", [2, 3, 5])
@pytest.mark.parametrize("variants", [2, 4])
def test_the_outlook_of_no_further_seed_is_the_comparison_as_it_stands(
    variants: int, repeats: int
) -> None:
    for seed in range(6):
        scores = statistics.DataSet(seed, 20).scores(statistics.Table(variants, repeats))
        now = compare_all(scores, [("1", "0")])[0]
        se, df = outlook_of(scores, now).at(repeats)
        assert (se, df) == pytest.approx((now.se, now.df), rel=1e-3)


parts = st.floats(0, 0.01)
outlooks = st.builds(
    Outlook, st.floats(0.001, 0.5), st.integers(1, 9), st.floats(0.05, 1), parts, parts,
    st.builds(Variance, st.floats(1e-6, 0.01), st.floats(0.25, 20), st.booleans()).map(lambda one: (one,)),
    parts, st.floats(1, 200),
)  # fmt: skip


@given(found=outlooks, comparisons=st.integers(1, 12))
@example(
    found=Outlook(0.5, 1, 1.0, 0.0, 0.0, (Variance(2**-7, 1.0),), sys.float_info.min, 1.0),
    comparisons=1,
)
def test_the_number_of_seeds_is_the_smallest_that_decides(found: Outlook, comparisons: int) -> None:
    needed = seeds_to_decide(found, comparisons)
    if needed is None:
        assert not found.decides(comparisons, MOST_SEEDS)
        return
    assert needed > found.seeds
    assert found.decides(comparisons, needed)
    assert needed == found.seeds + 1 or not found.decides(comparisons, needed - 1)
    se, df = found.at(needed)
    assert smallest_difference(se, df, comparisons) <= found.estimate
    more = seeds_to_decide(found, comparisons + 1)
    assert more is None or more >= needed


def test_seeds_with_which_no_verdict_is_given_decide_nothing() -> None:
    """Two rows know their seeds' variance from one degree of freedom a seed beyond the first."""
    found = Outlook(0.5, 1, 0.2, 1e-5, 1e-5, (Variance(1e-5, 1.0),), 0.0, 40)
    assert seeds_to_decide(found, 1) == 3
    assert seeds_to_decide(replace(found, of_seeds=(Variance(1e-5, 2.0),)), 1) == 2
    assert seeds_to_decide(replace(found, of_seeds=()), 1) == 2


def test_where_images_limit_a_comparison_more_images_decide_it_and_seeds_do_not() -> None:
    found = Outlook(0.05, 3, 0.2, 0.03**2, 0.0, (Variance(0.02**2, 2.0),), 0.0, 40)
    assert seeds_to_decide(found, 1) is None
    times = images_to_decide(found, 1)
    assert times is not None
    assert found.decides(1, ENOUGH_SEEDS, times)
    assert not found.decides(1, ENOUGH_SEEDS, times - 0.01)
    enough = replace(found, common=0.0, own=0.03**2)
    assert seeds_to_decide(enough, 1) is not None
    assert images_to_decide(replace(found, estimate=1e-4), 1) is None


def test_images_that_all_trainings_see_alike_are_told_apart_from_what_each_sees() -> None:
    """Some tables have models that each see the images in their own way, others have one model that
    is trained again and again.
    """
    own, common = [], []
    for seed in range(12):
        scores = statistics.DataSet(seed, 20, fresh=False).scores(statistics.Table(2, 4))
        same = {name: dict.fromkeys(row, row[Repeat(0)]) for name, row in scores.items()}
        for table, found in ((scores, own), (same, common)):
            one = outlook_of(table, compare_all(table, [("1", "0")])[0], fraction=1.0)
            found.append(one.common / (one.common + one.own / 4))
    assert np.mean(own) < np.min(common) - 0.1


def share_decided(images: int, repeats: int, better: float, repetitions: int) -> float:
    """How often a comparison is decided by the number of seeds that was stated for it.

    better   true difference of the two rows, in AP50

    The pilot's estimate is set to the true difference. The comparison with the stated number of
    seeds is simulated on another data set. Pilots for which more than MOST are stated are left out.
    """
    pilots, found = [], []
    for seed in range(repetitions):
        table = statistics.Table(2, repeats, better=better)
        scores = statistics.DataSet(seed, images).scores(table)
        pilots.append((scores, compare_all(scores, [("1", "0")])[0]))
    truth = float(np.mean([difference.estimate for _, difference in pilots]))
    for seed, (scores, difference) in enumerate(pilots):
        needed = seeds_to_decide(outlook_of(scores, replace(difference, estimate=truth)), 1)
        if needed is None or needed > MOST:
            continue
        table = statistics.Table(2, needed, better=better)
        drawn = statistics.DataSet(10_000 + seed, images).scores(table)
        found.append(compare_all(drawn, [("1", "0")])[0].verdict is Verdict.BETTER)
    assert len(found) > 0.7 * repetitions
    return float(np.mean(found))


@pytest.mark.timeout(600)
def test_the_stated_number_of_seeds_decides_about_four_in_five_true_differences() -> None:
    share = share_decided(20, 3, better=0.13, repetitions=60)
    assert 0.8 - 2.33 * math.sqrt(0.8 * 0.2 / 60) <= share <= 0.98


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("images", "repeats", "better"), [(20, 2, 0.13), (41, 3, 0.08), (41, 2, 0.1)]
)
def test_the_stated_number_of_seeds_decides_about_four_in_five_at_other_sizes_too(
    images: int, repeats: int, better: float
) -> None:
    share = share_decided(images, repeats, better, repetitions=200)
    assert 0.8 - 2.33 * math.sqrt(0.8 * 0.2 / 200) <= share <= 0.93
