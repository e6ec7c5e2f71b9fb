"""Laws of the draws; the oracle is torchvision's sampler, from the same generator.

Draws that wait for nothing come from another generator, so their law is the distribution.
"""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from core.network.balanced import BalancedSampler, positives_first

LABELS = st.lists(st.sampled_from([-1, 0, 0, 0, 1, 3]), max_size=60)


@settings(deadline=None)
@given(
    images=st.lists(LABELS, min_size=1, max_size=4),
    some=st.integers(1, 40),
    fraction=st.sampled_from([0.25, 0.5, 1.0]),
    dtype=st.sampled_from([torch.int64, torch.float32]),
    seed=st.integers(0, 2**32),
)
def test_the_draws_are_torchvisions_and_leave_its_generator_in_the_same_state(
    images: list[list[int]], some: int, fraction: float, dtype: torch.dtype, seed: int
) -> None:
    labels = [torch.tensor(values, dtype=dtype) for values in images]
    torch.manual_seed(seed)
    positive, negative = BalancedPositiveNegativeSampler(some, fraction)(labels)
    after = torch.rand(3)
    torch.manual_seed(seed)
    drawn = BalancedSampler(some, fraction)(labels)
    assert torch.equal(torch.rand(3), after)
    for one, positive_A, negative_A in zip(drawn, positive, negative, strict=True):
        assert torch.equal(one.positive_P, torch.where(positive_A)[0])
        assert torch.equal(one.negative_Q, torch.where(negative_A)[0])


def test_an_image_without_anything_to_draw_from_gives_nothing_and_takes_no_draw_from_the_others() -> (
    None
):
    none = torch.zeros(0, dtype=torch.int64)
    labels = torch.tensor([1, 0, 0, 1, 1])
    torch.manual_seed(0)
    (alone,) = BalancedSampler(2, 0.5)([labels])
    torch.manual_seed(0)
    empty, beside = BalancedSampler(2, 0.5)([none, labels])
    assert len(empty.positive_P) == len(empty.negative_Q) == 0
    assert torch.equal(alone.positive_P, beside.positive_P)
    assert torch.equal(alone.negative_Q, beside.negative_Q)


@settings(deadline=None)
@given(
    images=st.integers(1, 3),
    labels=st.lists(st.sampled_from([-2, -1, 0, 0, 1, 3]), min_size=1, max_size=50),
    some=st.integers(1, 40),
    fraction=st.sampled_from([0.25, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_fixed_draws_are_as_many_as_torchvisions_of_the_same_kinds_and_none_twice(
    images: int, labels: list[int], some: int, fraction: float, seed: int
) -> None:
    labels_BA = torch.stack([torch.tensor(labels).roll(image) for image in range(images)])
    torch.manual_seed(seed)
    sampler = BalancedSampler(some, fraction)
    draws = sampler.fixed(labels_BA)
    slots = min(some, len(labels))
    assert draws.places_S.shape == draws.weight_S.shape == (images * slots,)
    places = draws.places_S[draws.weight_S > 0]
    assert len(set(places.tolist())) == len(places)
    assert set(draws.weight_S.tolist()) <= {0.0, 1.0}
    positive_S = labels_BA.flatten()[draws.places_S] >= 1
    assert (labels_BA.flatten()[places] >= 0).all()
    in_slots = torch.zeros_like(positive_S)
    in_slots[draws.positive_P[draws.weight_P > 0]] = True
    assert torch.equal(in_slots, positive_S & (draws.weight_S > 0))
    for image, one in enumerate(sampler(labels_BA)):
        here = slice(image * slots, (image + 1) * slots)
        assert (draws.places_S[here] // len(labels) == image).all()
        assert in_slots[here].sum() == len(one.positive_P)
        assert draws.weight_S[here].sum() == len(one.positive_P) + len(one.negative_Q)
    assert draws.count == max(1, len(places))


@pytest.mark.parametrize("positives", [True, False])
def test_every_set_of_fixed_draws_is_equally_probable(positives: bool) -> None:
    """Chi-squared: 3 of 5 members are 10 sets, so 9 degrees of freedom, of which 34 is passed once
    in ten thousand.
    """
    torch.manual_seed(0)
    labels_A = torch.tensor([0, 1, 0, 0, -1, 0, 0])
    sampler = BalancedSampler(3, 0.0)
    if positives:
        labels_A, sampler = 1 - labels_A.abs(), BalancedSampler(3, 1.0)
    images = 5000
    draws = sampler.fixed(labels_A.expand(images, -1))
    assert (draws.weight_S == 1).all()
    places = (draws.places_S % len(labels_A)).reshape(images, 3).sort(dim=1).values
    seen = Counter(tuple(row) for row in places.tolist())
    sets = list(itertools.combinations([0, 2, 3, 5, 6], 3))
    assert set(seen) == set(sets)
    expected = images / len(sets)
    assert sum((seen[one] - expected) ** 2 / expected for one in sets) < 34


def test_draws_in_ascending_order_are_the_same_draws() -> None:
    labels = [torch.tensor([1, 0, 0, 2, 0]), torch.tensor([0, 3, 0])]
    draws = positives_first(BalancedSampler(4, 0.5)(labels), [5, 3])
    ordered = draws.ascending()
    assert draws.positives == ordered.positives == (2, 1)
    assert torch.equal(ordered.places_S, draws.places_S.sort().values)
    assert torch.equal(
        ordered.places_S[ordered.positive_P], draws.places_S[draws.positive_P].sort().values
    )
    assert set(ordered.places_S[ordered.positive_P].tolist()) == {0, 3, 6}
