"""Laws of the proposal network; the oracle is torchvision's, from the same generator, to the last bit."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from core import proposals
from core.proposals import ProposalNetwork
from core.sampling import BalancedSampler

COUNTS = {"training": 300, "testing": 200}
OF_LEVEL = [1200, 900, 260, 40, 3]
SIZES = [(240, 320), (320, 200)]


def networks(**changes: Any) -> tuple[ProposalNetwork, RegionProposalNetwork]:
    arguments: dict[str, Any] = {
        "fg_iou_thresh": 0.7, "bg_iou_thresh": 0.3, "batch_size_per_image": 64, "positive_fraction": 0.5,
        "pre_nms_top_n": COUNTS, "post_nms_top_n": COUNTS, "nms_thresh": 0.7, **changes,
    }  # fmt: skip
    anchors = AnchorGenerator(((32.0,),), ((1.0,),))
    ours, theirs = (
        network(anchors, RPNHead(8, 1), **arguments) for network in (ProposalNetwork, RegionProposalNetwork)
    )
    ours.fg_bg_sampler = BalancedSampler(64, 0.5)
    assert isinstance(theirs.fg_bg_sampler, BalancedPositiveNegativeSampler)
    return ours, theirs


def crowd(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that overlap much, some beyond the image, some without a side, and logits."""
    generator = torch.Generator().manual_seed(seed)
    anchors = sum(OF_LEVEL)
    corners = 300 * torch.rand(2, anchors, 2, generator=generator) - 20
    sides = 60 * torch.rand(2, anchors, 2, generator=generator)
    sides[torch.rand(2, anchors, generator=generator) < 0.05] = 0
    logits = torch.randn(2 * anchors, 1, generator=generator)
    return torch.cat([corners, corners + sides], dim=2), logits


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("post", [20, 1000])
def test_proposals_and_their_scores_are_torchvisions(seed: int, training: bool, post: int) -> None:
    boxes_BA4, logits = crowd(seed)
    ours, theirs = networks(
        post_nms_top_n={"training": post, "testing": post}, pre_nms_top_n={"training": 600, "testing": 500}
    )
    found, expected = (
        network.train(training).filter_proposals(boxes_BA4.clone(), logits, SIZES, OF_LEVEL)
        for network in (ours, theirs)
    )
    for mine, its in zip(found, expected, strict=True):
        for one, other in zip(mine, its, strict=True):
            assert torch.equal(one, other)


def test_proposals_of_equal_scores_are_torchvisions_in_the_order_of_their_anchors() -> None:
    """Torchvision's order of equals is its sort's, which promises none."""
    boxes_BA4, logits = crowd(0)
    logits = logits.mul(2).round()
    found, expected = (
        network.filter_proposals(boxes_BA4.clone(), logits, SIZES, OF_LEVEL)[0]
        for network in networks(post_nms_top_n={"training": 5000}, pre_nms_top_n={"training": 5000})
    )
    for mine, its in zip(found, expected, strict=True):
        assert sorted(mine.tolist()) == sorted(its.tolist())


def test_a_score_that_is_no_number_makes_no_proposal() -> None:
    boxes_BA4, logits = crowd(0)
    logits[::3] = torch.nan
    ours, _ = networks()
    boxes, scores = ours.filter_proposals(boxes_BA4, logits, SIZES, OF_LEVEL)
    assert all(len(scores_K) and scores_K.isfinite().all() for scores_K in scores)
    assert [len(boxes_K4) for boxes_K4 in boxes] == [len(scores_K) for scores_K in scores]


def test_images_whose_boxes_all_have_no_side_make_no_proposal() -> None:
    boxes_BA4, logits = crowd(0)
    boxes_BA4[0, :, 2:] = boxes_BA4[0, :, :2]
    ours, _ = networks()
    boxes, _ = ours.filter_proposals(boxes_BA4, logits, SIZES, OF_LEVEL)
    assert len(boxes[0]) == 0 < len(boxes[1])


@pytest.mark.parametrize("seed", range(3))
def test_a_gpu_which_suppresses_all_levels_together_keeps_what_each_level_keeps_alone(seed: int) -> None:
    (boxes_A4, _), logits = crowd(seed)
    boxes_A4 = boxes_A4.clamp(0, 320).round()  # whole pixels, which moving apart does not round
    scores_A = logits[: len(boxes_A4), 0].sigmoid()
    together = proposals._all_together(boxes_A4, scores_A, OF_LEVEL, 0.7, 320)
    alone = proposals._level_by_level(boxes_A4, scores_A, OF_LEVEL, 0.7)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("positives", [0.0, 0.02, 0.9])
def test_losses_their_gradients_and_draws_are_torchvisions(seed: int, positives: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors = 900
    draws = torch.rand(2, anchors, generator=generator)
    labels = list(torch.where(draws < positives, 1.0, torch.where(draws < positives + 0.05, -1.0, 0.0)))
    targets = list(torch.randn(2, anchors, 4, generator=generator))
    results = []
    for network in networks():
        logits = torch.randn(2 * anchors, 1, generator=torch.Generator().manual_seed(1)).requires_grad_()
        deltas = torch.randn(2 * anchors, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        torch.manual_seed(3)
        losses = network.compute_loss(logits, deltas, labels, targets)
        after = torch.rand(1)
        sum(losses).backward()
        results.append((*losses, logits.grad, deltas.grad, after))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_the_network_has_torchvisions_parameters() -> None:
    ours, theirs = networks()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert isinstance(ours, nn.Module)
