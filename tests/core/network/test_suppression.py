"""Laws of non-maximum suppression in tensor operations; the oracle is torchvision's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from core.network import matching, suppression
from core.network.suppression import ROUNDS, suppress_in_rows


def torchvisions(boxes_T4: torch.Tensor, fits_T: torch.Tensor, iou: float) -> torch.Tensor:
    """The boxes that torchvision keeps, of boxes sorted by score."""
    places_T = torch.where(fits_T)[0]
    scores_T = torch.linspace(1, 0.5, len(places_T))
    kept_T = torch.zeros_like(fits_T)
    kept_T[places_T[nms(boxes_T4[places_T], scores_T, iou)]] = True
    return kept_T


def rows(seed: int, rows: int, boxes: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of about equal size, the more of them on each other the less spread they are."""
    generator = torch.Generator().manual_seed(seed)
    corners = spread * torch.rand((rows, boxes, 2), generator=generator)
    sides = 20 + 8 * torch.rand((rows, boxes, 2), generator=generator)
    fits = torch.rand((rows, boxes), generator=generator) > 0.1
    return torch.cat([corners, corners + sides], dim=2), fits


def chain(length: int) -> torch.Tensor:
    """Boxes each of which overlaps just the one before and the one after it."""
    left_T = 3.0 * torch.arange(length)
    return torch.stack([left_T, torch.zeros(length), left_T + 20, torch.full((length,), 20.0)], 1)


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 4),
    boxes=st.integers(0, 120),
    spread=st.sampled_from([5.0, 40.0, 200.0]),
    iou=st.sampled_from([0.3, 0.5, 0.7]),
    at_once=st.sampled_from([7, 50, 2048]),
    entries=st.sampled_from([1, 5000, 2**20]),
)
@settings(deadline=None)
def test_what_is_kept_of_each_row_is_what_torchvision_keeps(
    seed: int, count: int, boxes: int, spread: float, iou: float, at_once: int, entries: int
) -> None:
    boxes_OT4, fits_OT = rows(seed, count, boxes, spread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suppression, "BOXES_A_PIECE", at_once)
        patch.setitem(matching.IOU_ENTRIES, "cpu", entries)
        kept_OT = suppress_in_rows(boxes_OT4, fits_OT, iou)
    for kept_T, boxes_T4, fits_T in zip(kept_OT, boxes_OT4, fits_OT, strict=True):
        assert torch.equal(kept_T, torchvisions(boxes_T4, fits_T, iou))


@pytest.mark.parametrize("length", [1, 2, ROUNDS - 1, ROUNDS])
def test_a_chain_of_as_many_boxes_as_there_are_rounds_is_exact(length: int) -> None:
    boxes_T4, fits_T = chain(length), torch.ones(length, dtype=torch.bool)
    wanted_T = torchvisions(boxes_T4, fits_T, 0.7)
    assert torch.equal(wanted_T, torch.arange(length) % 2 == 0)  # every second
    assert torch.equal(suppress_in_rows(boxes_T4[None], fits_T[None], 0.7)[0], wanted_T)


@given(seed=st.integers(0, 2**32), rounds=st.sampled_from([0, 2, 4]))
@settings(deadline=None)
def test_with_too_few_rounds_nothing_that_torchvision_keeps_is_missed(
    seed: int, rounds: int
) -> None:
    boxes_OT4, fits_OT = rows(seed, 2, 100, 15.0)
    kept_OT = suppress_in_rows(boxes_OT4, fits_OT, 0.5, rounds)
    for kept_T, boxes_T4, fits_T in zip(kept_OT, boxes_OT4, fits_OT, strict=True):
        assert not (torchvisions(boxes_T4, fits_T, 0.5) & ~kept_T).any()
        assert not (kept_T & ~fits_T).any()


def test_a_chain_longer_than_the_rounds_keeps_its_first_boxes_right_and_its_last_ones_all() -> None:
    boxes_T4, fits_T = chain(2 * ROUNDS), torch.ones(2 * ROUNDS, dtype=torch.bool)
    kept_T = suppress_in_rows(boxes_T4[None], fits_T[None], 0.7)[0]
    assert torch.equal(kept_T[:ROUNDS], torch.arange(ROUNDS) % 2 == 0)
    assert kept_T[ROUNDS + 1 :].all()


def test_many_better_boxes_suppress_as_one_does() -> None:
    """Their number is rounded in bfloat16."""
    apart = torch.zeros(1000, 4)
    apart[:, 2:] = 20
    boxes_T4 = torch.cat([chain(3)[:1], apart, chain(3)[1:]])
    fits_T = torch.ones(len(boxes_T4), dtype=torch.bool)
    assert torch.equal(
        suppress_in_rows(boxes_T4[None], fits_T[None], 0.7)[0], torchvisions(boxes_T4, fits_T, 0.7)
    )
