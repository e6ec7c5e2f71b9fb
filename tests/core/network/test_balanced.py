"""Laws of the draws; the oracle is torchvision's sampler, from the same generator."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from core.network.balanced import BalancedSampler

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
