"""Laws of the proposal network; the oracle is torchvision's, from the same generator, to the last bit."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from core.network import proposals
from core.network.balanced import BalancedSampler
from core.network.proposals import ProposalNetwork

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


def scene(seed: int, depth: int, images: int = 2) -> tuple[list[Any], ImageList, list[dict[str, torch.Tensor]]]:
    """Ours and torchvision's network with the same numbers in them, images, and boxes, none in the last image."""
    torch.manual_seed(seed)
    anchors = AnchorGenerator(((16.0,), (32.0,), (64.0,)), ((0.5, 1.0, 2.0),) * 3)
    arguments = {"fg_iou_thresh": 0.5, "bg_iou_thresh": 0.3, "batch_size_per_image": 64, "positive_fraction": 0.5}
    heads = [RPNHead(8, 3, conv_depth=depth) for _ in range(2)]
    for parameter in heads[0].parameters():
        nn.init.normal_(parameter, std=0.2)
    heads[1].load_state_dict(heads[0].state_dict())
    ours, theirs = (
        network(anchors, head, **arguments, pre_nms_top_n=COUNTS, post_nms_top_n=COUNTS, nms_thresh=0.7)
        for network, head in zip((ProposalNetwork, RegionProposalNetwork), heads, strict=True)
    )
    ours.fg_bg_sampler = BalancedSampler(64, 0.5)
    corners = 60 * torch.rand(images, 6, 2)
    boxes = torch.cat([corners, corners + 8 + 50 * torch.rand(images, 6, 2)], dim=2)
    targets = [{"boxes": boxes_N4[: 6 if number < images - 1 else 0]} for number, boxes_N4 in enumerate(boxes)]
    return [ours, theirs], ImageList(torch.zeros(images, 3, 96, 128), [(96, 128)] * images), targets


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [1, 2])
def test_losses_gradients_draws_and_proposals_are_torchvisions_at_the_images_border_too(seed: int, depth: int) -> None:
    networks_of_both, images, targets = scene(seed, depth)
    results = []
    for network in networks_of_both:
        generator = torch.Generator().manual_seed(1)
        sizes = [(24, 32), (12, 16), (3, 4)]  # on the last, each window passes the border
        levels = {
            str(level): torch.randn(2, 8, *size, generator=generator).requires_grad_()
            for level, size in enumerate(sizes)
        }
        torch.manual_seed(2)
        boxes, losses = network(images, levels, targets)
        after = torch.rand(1)
        sum(losses.values()).backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        gradients |= {name: level.grad for name, level in levels.items()}
        results.append((boxes, losses, gradients, after))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [1, 2])
def test_gradients_under_bfloat16_are_torchvisions_but_for_its_rounding(seed: int, depth: int) -> None:
    """Both passes are under autocast, the first without a graph: what it cached must not stand in for a weight."""
    networks_of_both, images, targets = scene(seed, depth)
    results = []
    for network, half in zip([*networks_of_both, networks_of_both[0]], (True, True, False), strict=True):
        network.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(1)
        levels = {
            str(level): torch.randn(2, 8, *size, generator=generator).requires_grad_()
            for level, size in enumerate([(24, 32), (12, 16), (3, 4)])
        }
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            _, losses = network(images, levels, targets)
        sum(losses.values()).backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        gradients |= {name: level.grad for name, level in levels.items()}
        results.append((losses, gradients))
    (ours, gradients), (theirs, expected), (exact, precise) = results
    assert all(loss.dtype == torch.float32 for loss in ours.values())
    for name, loss in ours.items():
        assert loss.item() == pytest.approx(theirs[name].item(), rel=0.02), name
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.02), name
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.dtype == torch.float32
        norm = precise[name].norm()
        off, theirs_off = ((one - precise[name]).norm() for one in (gradient, expected[name]))
        assert off <= 2 * theirs_off + 2**-8 * norm, name
        assert off <= 0.1 * norm, name


@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_predicted_at_a_place_is_what_the_whole_maps_have_there(depth: int) -> None:
    (ours, _), _, _ = scene(0, depth)
    levels = [torch.randn(2, 8, 6, 5), torch.randn(2, 8, 3, 3), torch.randn(2, 8, 1, 2)]
    objectness, deltas = ours.head(levels)
    of_level = [level[0].numel() for level in objectness]
    logits, boxes = concat_box_prediction_layers(objectness, deltas)
    places = torch.randperm(2 * sum(of_level))
    found_logits, found_boxes = proposals.predicted_at(ours.head, levels, of_level, places)
    torch.testing.assert_close(found_logits, logits[places, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found_boxes, boxes[places], rtol=1e-4, atol=1e-6)


def test_no_activation_of_the_whole_maps_is_kept_for_the_gradient() -> None:
    (ours, _), images, targets = scene(0, depth=1)
    levels = {
        "0": torch.randn(2, 8, 24, 32).requires_grad_(),
        "1": torch.randn(2, 8, 12, 16),
        "2": torch.randn(2, 8, 6, 8),
    }
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        ours(images, levels, targets)
    assert kept
    assert not any(shape[-2:] == (24, 32) for shape in kept)


def test_the_network_has_torchvisions_parameters() -> None:
    ours, theirs = networks()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert isinstance(ours, nn.Module)
