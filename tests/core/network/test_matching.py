"""Laws of the matching of anchors: torchvision's own matcher on the whole matrix is the oracle."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from core.network import matching
from core.network.matching import AnchorMatcher, boxes_and_anchors


def boxes(generator: torch.Generator, count: int, largest: int) -> torch.Tensor:
    """Boxes with corners on whole pixels, so that overlaps are often equal."""
    corner_N2 = torch.randint(0, 40, (count, 2), generator=generator)
    side_N2 = torch.randint(1, largest, (count, 2), generator=generator)
    return torch.cat([corner_N2, corner_N2 + side_N2], dim=1).float()


@given(
    seed=st.integers(0, 2**32),
    truths=st.integers(1, 12),
    anchors=st.integers(1, 200),
    entries=st.sampled_from([1, 13, 100, 10**6]),
)
@settings(deadline=None)
def test_anchors_are_matched_as_torchvision_does_on_the_whole_matrix_however_they_are_divided(
    seed: int, truths: int, anchors: int, entries: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth_N4, anchor_A4 = boxes(generator, truths, 12), boxes(generator, anchors, 20)
    wanted = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(truth_N4, anchor_A4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(matching.IOU_ENTRIES, "cpu", entries)
        assert torch.equal(AnchorMatcher(0.7, 0.3)(boxes_and_anchors(truth_N4, anchor_A4)), wanted)


def test_a_box_that_no_anchor_meets_is_treated_as_by_torchvision() -> None:
    truth_N4 = torch.tensor([[0.0, 0, 4, 4], [90, 90, 95, 95]])
    anchor_A4 = torch.tensor([[0.0, 0, 4, 5], [20, 20, 30, 30]])
    wanted = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(truth_N4, anchor_A4))
    assert torch.equal(AnchorMatcher(0.7, 0.3)((truth_N4, anchor_A4)), wanted)
