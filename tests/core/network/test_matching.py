"""Laws of the matching of anchors and proposals: torchvision's own matcher on the whole matrix
is the oracle.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import box_iou

from core.network import matching
from core.network.matching import BACKGROUND, match_anchors, match_proposals


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
        assert torch.equal(match_anchors(truth_N4, anchor_A4), wanted)


def test_a_box_that_no_anchor_meets_is_treated_as_by_torchvision() -> None:
    truth_N4 = torch.tensor([[0.0, 0, 4, 4], [90, 90, 95, 95]])
    anchor_A4 = torch.tensor([[0.0, 0, 4, 5], [20, 20, 30, 30]])
    wanted = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(truth_N4, anchor_A4))
    assert torch.equal(match_anchors(truth_N4, anchor_A4), wanted)


def test_without_a_box_every_anchor_is_background() -> None:
    assert match_anchors(torch.zeros(0, 4), torch.rand(5, 4)).tolist() == [BACKGROUND] * 5


@given(seed=st.integers(0, 2**32), truths=st.integers(0, 12), proposals=st.integers(1, 60))
@settings(deadline=None)
def test_proposals_learn_what_torchvision_has_them_learn(
    seed: int, truths: int, proposals: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth_N4, proposal_K4 = boxes(generator, truths, 12), boxes(generator, proposals, 12)
    labels_N = torch.randint(1, 5, (truths,), generator=generator)
    heads = RoIHeads(None, None, None, 0.5, 0.5, 16, 0.25, None, 0.05, 0.5, 100)
    (wanted_K,), (wanted_labels_K,) = heads.assign_targets_to_proposals(
        [proposal_K4], [truth_N4], [labels_N]
    )
    match_K, labels_K = match_proposals(truth_N4, labels_N, proposal_K4)
    assert torch.equal(labels_K, wanted_labels_K)
    assert torch.equal(match_K[labels_K > 0], wanted_K[labels_K > 0])


@given(
    seed=st.integers(0, 2**32),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    entries=st.sampled_from([1, 100, 10**6]),
)
@settings(deadline=None)
def test_a_padded_batch_is_matched_as_each_image_alone(
    seed: int, counts: list[int], entries: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchor_A4 = torch.cat([boxes(generator, 90, 20), torch.tensor([[0.0, 0, 60, 60]])])
    proposal_K4 = boxes(generator, 30, 12)
    truth = [boxes(generator, count, 12) for count in counts]
    labels = [torch.randint(1, 5, (count,), generator=generator) for count in counts]
    truth_BN4 = torch.zeros(len(counts), max(1, *counts), 4)
    labels_BN = torch.zeros(truth_BN4.shape[:2], dtype=torch.int64)
    for image, count in enumerate(counts):
        truth_BN4[image, :count], labels_BN[image, :count] = truth[image], labels[image]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(matching.IOU_ENTRIES, "cpu", entries)
        match_BA = match_anchors(truth_BN4, anchor_A4, padded=True)
    proposal_BK4 = proposal_K4.expand(len(counts), -1, -1)
    found_BK, found_labels_BK = match_proposals(truth_BN4, labels_BN, proposal_BK4)
    for image, (truth_N4, labels_N) in enumerate(zip(truth, labels, strict=True)):
        assert torch.equal(match_BA[image], match_anchors(truth_N4, anchor_A4))
        match_K, labels_K = match_proposals(truth_N4, labels_N, proposal_K4)
        assert torch.equal(found_labels_BK[image], labels_K)
        assert torch.equal(found_BK[image][labels_K > 0], match_K[labels_K > 0])


def test_a_box_that_no_anchor_meets_teaches_none_in_a_padded_batch() -> None:
    truth_BN4 = torch.tensor([[[0.0, 0, 4, 4], [90, 90, 95, 95]]])
    anchor_A4 = torch.tensor([[0.0, 0, 4, 5], [20, 20, 30, 30]])
    assert match_anchors(truth_BN4, anchor_A4, padded=True).tolist() == [[0, BACKGROUND]]
