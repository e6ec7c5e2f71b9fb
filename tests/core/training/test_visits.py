"""Laws of how often an epoch shows each training image."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.data.dataset import Category, Dataset, assemble
from core.sample import Sample
from core.training.visits import Visits, repeat_factors

COUNTS = st.integers(1, 12).flatmap(
    lambda images: st.lists(
        st.lists(st.sampled_from([0, 0, 1, 5]), min_size=3, max_size=3),
        min_size=images,
        max_size=images,
    )
)
THRESHOLDS = st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0])


def data_of(counts_IC: list[list[int]]) -> Dataset:
    """Images with so many instances of each class; a crowd region of the first class in each."""
    samples = []
    for index, counts in enumerate(counts_IC):
        labels_N = np.array([1, *np.repeat([1, 2, 3], counts)])
        label_maps = np.arange(len(labels_N), dtype=np.uint16).reshape(1, 1, -1)
        image = np.zeros((*label_maps.shape[1:], 3), np.uint8)
        crowd_N = np.arange(len(labels_N)) == 0
        samples.append(Sample(f"{index:03d}", image, label_maps, labels_N, crowd_N))
    return assemble("counted", [Category(number, "") for number in (1, 2, 3)], samples)


def by_the_paper(counts_IC: list[list[int]], threshold: float) -> list[float]:
    """For each category c the fraction f(c) of images with it, r(c) = max(1, sqrt(t / f(c))), and
    r(i) the largest r(c) of the image's categories.
    """
    factors = []
    for counts in counts_IC:
        of_image = [1.0]
        for c, count in enumerate(counts):
            if count:
                f = sum(other[c] > 0 for other in counts_IC) / len(counts_IC)
                of_image.append(max(1.0, math.sqrt(threshold / f)))
        factors.append(max(of_image))
    return factors


@given(COUNTS, THRESHOLDS)
def test_repeat_factors_are_those_of_lvis(counts: list[list[int]], threshold: float) -> None:
    found = repeat_factors(np.array(counts), threshold)
    assert found.tolist() == pytest.approx(by_the_paper(counts, threshold))


@settings(deadline=None, max_examples=60)
@given(COUNTS, THRESHOLDS, st.integers(0, 5))
def test_every_epoch_has_the_same_number_of_visits_and_an_image_its_factor_rounded_up_or_down(
    counts: list[list[int]], threshold: float, seed: int
) -> None:
    indices = [*range(0, len(counts), 2)] or [0]
    factors = np.array(by_the_paper([counts[index] for index in indices], threshold))
    visits = Visits(data_of(counts), indices, threshold, seed)
    assert visits.number == math.ceil(factors.sum() - 1e-6)
    expected = factors * visits.number / factors.sum()
    for epoch in (1, 2, 3):
        shown = visits.of_epoch(epoch)
        assert shown.shape == (visits.number, 2)
        assert np.array_equal(
            shown, Visits(data_of(counts), indices, threshold, seed).of_epoch(epoch)
        )
        times = Counter(shown[:, 0].tolist())
        assert sorted(times) == indices
        for index, expectation in zip(indices, expected, strict=True):
            assert math.floor(expectation + 1e-6) <= times[index] <= math.ceil(expectation - 1e-6)
            assert shown[shown[:, 0] == index, 1].tolist() == [*range(times[index])]


def test_over_many_epochs_an_image_is_shown_as_often_as_its_factor_says() -> None:
    counts = [[3, 0, 0]] * 9 + [[3, 1, 0]] * 2 + [[1, 0, 1]]
    visits = Visits(data_of(counts), range(12), 0.5, seed=3)
    factors: NDArray[np.float64] = np.array(by_the_paper(counts, 0.5))
    assert len(set(factors)) == 3
    epochs = 2000
    total = np.zeros(12)
    for epoch in range(epochs):
        np.add.at(total, visits.of_epoch(epoch)[:, 0], 1)
    wanted = factors * visits.number / factors.sum()
    # The number of visits of an epoch is one of two: its deviation is at most 0.5.
    assert np.abs(total / epochs - wanted).max() < 4 * 0.5 / math.sqrt(epochs)


def test_without_a_threshold_an_epoch_shows_each_image_once_in_their_order() -> None:
    for epoch in range(20):
        shown = Visits(data_of([[1, 0, 0]] * 7), (0, 2, 3, 6), 0.0, seed=1).of_epoch(epoch)
        assert shown.tolist() == [[0, 0], [2, 0], [3, 0], [6, 0]]
