"""Laws of the proposal network; the oracle is torchvision's, from the same generator, to the
last bit.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from core.network import proposals
from core.network.anchors import Anchors
from core.network.balanced import BalancedSampler, ImageDraws
from core.network.proposals import ProposalNetwork
from core.network.resizing import ImageBatch

OF_LEVEL = [1200, 900, 260, 40, 3]
SIZES = [(240, 320), (320, 200)]
SIDES, RATIOS = (16.0, 32.0, 64.0), (0.5, 1.0, 2.0)


def networks(
    in_training: int = 300, in_evaluation: int = 200, head: RPNHead | None = None
) -> tuple[ProposalNetwork, RegionProposalNetwork]:
    """Ours and torchvision's with the same numbers in them."""
    head = head or RPNHead(8, 3)
    ours = ProposalNetwork(
        head, Anchors(SIDES, RATIOS), BalancedSampler(64, 0.5), in_training, in_evaluation
    )
    counts = {"training": in_training, "testing": in_evaluation}
    theirs = RegionProposalNetwork(
        AnchorGenerator(tuple((side,) for side in SIDES), (RATIOS,) * len(SIDES)),
        copy.deepcopy(head),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_top_n=counts,
        post_nms_top_n=counts,
        nms_thresh=0.7,
    )
    return ours, theirs


def crowd(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that overlap much, some beyond the image, some without a side, and logits."""
    generator = torch.Generator().manual_seed(seed)
    anchors = sum(OF_LEVEL)
    corners = 300 * torch.rand(2, anchors, 2, generator=generator) - 20
    sides = 60 * torch.rand(2, anchors, 2, generator=generator)
    sides[torch.rand(2, anchors, generator=generator) < 0.05] = 0
    logits_BA = torch.randn(2, anchors, generator=generator)
    return torch.cat([corners, corners + sides], dim=2), logits_BA


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("most", [20, 300, 5000])
def test_proposals_and_their_scores_are_torchvisions(seed: int, training: bool, most: int) -> None:
    boxes_BA4, logits_BA = crowd(seed)
    ours, theirs = networks(most, most + 10)
    found = ours.train(training).best(boxes_BA4, logits_BA, SIZES, OF_LEVEL)
    expected = theirs.train(training).filter_proposals(
        boxes_BA4.clone(), logits_BA.reshape(-1, 1), SIZES, OF_LEVEL
    )
    for mine, its in zip(found, expected, strict=True):
        for one, other in zip(mine, its, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [20, 300, 5000])
def test_padded_proposals_are_the_same_and_end_in_boxes_of_zeros(seed: int, most: int) -> None:
    boxes_BA4, logits_BA = crowd(seed)
    logits_BA[1, ::7] = torch.nan
    ours, _ = networks(most)
    expected, _ = ours.best(boxes_BA4, logits_BA, SIZES, OF_LEVEL)
    found_BK4 = ours.best_padded(boxes_BA4, logits_BA, SIZES, OF_LEVEL)
    assert len(found_BK4) == len(expected)
    for found_K4, wanted_K4 in zip(found_BK4, expected, strict=True):
        assert torch.equal(found_K4[: len(wanted_K4)], wanted_K4)
        assert not found_K4[len(wanted_K4) :].any()


def test_proposals_of_equal_scores_are_torchvisions_in_the_order_of_their_anchors() -> None:
    """Torchvision's order of equals is its sort's, which promises none."""
    boxes_BA4, logits_BA = crowd(0)
    logits_BA = logits_BA.mul(2).round()
    ours, theirs = networks(in_training=5000)
    found, _ = ours.best(boxes_BA4, logits_BA, SIZES, OF_LEVEL)
    expected, _ = theirs.filter_proposals(
        boxes_BA4.clone(), logits_BA.reshape(-1, 1), SIZES, OF_LEVEL
    )
    for mine, its in zip(found, expected, strict=True):
        assert sorted(mine.tolist()) == sorted(its.tolist())


def test_a_score_that_is_no_number_makes_no_proposal() -> None:
    boxes_BA4, logits_BA = crowd(0)
    logits_BA[:, ::3] = torch.nan
    ours, _ = networks()
    boxes, scores = ours.best(boxes_BA4, logits_BA, SIZES, OF_LEVEL)
    assert all(len(scores_K) and scores_K.isfinite().all() for scores_K in scores)
    assert [len(boxes_K4) for boxes_K4 in boxes] == [len(scores_K) for scores_K in scores]


def test_images_whose_boxes_all_have_no_side_make_no_proposal() -> None:
    boxes_BA4, logits_BA = crowd(0)
    boxes_BA4[0, :, 2:] = boxes_BA4[0, :, :2]
    ours, _ = networks()
    boxes, _ = ours.best(boxes_BA4, logits_BA, SIZES, OF_LEVEL)
    assert len(boxes[0]) == 0 < len(boxes[1])


@pytest.mark.parametrize("seed", range(3))
def test_a_gpu_which_suppresses_all_levels_together_keeps_what_each_level_keeps_alone(
    seed: int,
) -> None:
    (boxes_A4, _), (logits_A, _) = crowd(seed)
    boxes_A4 = boxes_A4.clamp(0, 320).round()  # whole pixels, which moving apart does not round
    scores_A = logits_A.sigmoid()
    together = proposals._all_together(boxes_A4, scores_A, OF_LEVEL, 0.7, 320)
    alone = proposals._level_by_level(boxes_A4, scores_A, OF_LEVEL, 0.7)
    assert torch.equal(together, alone)


Run = Callable[[list[torch.Tensor]], tuple[list[torch.Tensor], dict[str, torch.Tensor]]]


def scene(seed: int, depth: int, images: int = 2) -> list[tuple[nn.Module, Run]]:
    """Both networks, and each on the same images: from levels to proposals and losses; no box in
    the last image.
    """
    torch.manual_seed(seed)
    head = RPNHead(8, 3, conv_depth=depth)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours, theirs = networks(head=head)
    corners = 60 * torch.rand(images, 6, 2)
    boxes = torch.cat([corners, corners + 8 + 50 * torch.rand(images, 6, 2)], dim=2)
    truths = [boxes_N4[: 6 if number < images - 1 else 0] for number, boxes_N4 in enumerate(boxes)]
    pixels, sizes = torch.zeros(images, 3, 96, 128), [(96, 128)] * images

    def run_theirs(levels: list[torch.Tensor]) -> Any:
        named = {str(number): level for number, level in enumerate(levels)}
        return theirs(ImageList(pixels, sizes), named, [{"boxes": boxes_N4} for boxes_N4 in truths])

    return [
        (ours, lambda levels: ours(ImageBatch(pixels, sizes), levels, truths)),
        (theirs, run_theirs),
    ]


def levels_of(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 8, *size, generator=generator).requires_grad_() for size in sizes]


def gradients_of(network: nn.Module, levels: list[torch.Tensor]) -> dict[str, torch.Tensor | None]:
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return gradients | {str(number): level.grad for number, level in enumerate(levels)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [1, 2])
def test_losses_gradients_draws_and_proposals_are_torchvisions(seed: int, depth: int) -> None:
    results = []
    for network, run in scene(seed, depth):
        levels = levels_of([(24, 32), (12, 16), (3, 4)])
        torch.manual_seed(2)
        boxes, losses = run(levels)
        after = torch.rand(1)
        sum(losses.values()).backward()
        results.append((boxes, losses, gradients_of(network, levels), after))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [1, 2])
def test_losses_and_gradients_under_bfloat16_are_torchvisions(seed: int, depth: int) -> None:
    results = []
    for network, run in scene(seed, depth):
        levels = levels_of([(24, 32), (12, 16), (3, 4)])
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            _, losses = run(levels)
        sum(losses.values()).backward()
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        gradients = gradients_of(network, levels)
        assert all(
            gradient is not None and gradient.dtype == torch.float32
            for gradient in gradients.values()
        )
        results.append((losses, gradients))
    (our_losses, ours), (their_losses, theirs) = results
    torch.testing.assert_close(our_losses, their_losses, rtol=2**-7, atol=1e-7)
    # Where two windows share a cell, each part of its gradient is rounded before they are added.
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 2**-7 * gradient.norm()


@pytest.mark.parametrize("fixed", [False, True], ids=["", "fixed"])
@pytest.mark.parametrize("depth", [1, 2])
def test_losses_and_gradients_of_the_drawn_anchors_alone_are_those_of_all_outputs(
    depth: int, fixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU computes them from the outputs at all anchors."""
    (network, _), _ = scene(0, depth)
    pixels, sizes = torch.zeros(2, 3, 96, 128), [(96, 128)] * 2
    corners = 60 * torch.rand(2, 6, 2)
    truths_BN4 = torch.cat([corners, corners + 8 + 30 * torch.rand(2, 6, 2)], dim=2)
    results = []
    for types in (("cpu",), ()):
        monkeypatch.setattr(proposals, "LEARNED_WHERE_DRAWN", types)
        network.zero_grad()
        levels = levels_of([(24, 32), (12, 16), (3, 4)])
        torch.manual_seed(2)
        truths = truths_BN4 if fixed else list(truths_BN4)
        boxes, losses = network(ImageBatch(pixels, sizes), levels, truths, fixed=fixed)
        sum(losses.values()).backward()
        results.append((boxes, losses, gradients_of(network, levels)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


def test_where_nothing_of_a_level_is_drawn_its_gradient_is_zeros() -> None:
    """AdamW leaves out what has none."""
    (network, run), _ = scene(0, depth=1)
    none = torch.zeros(0, dtype=torch.int64)
    network.sampler = lambda labels: [ImageDraws(none, torch.tensor([0, 1])) for _ in labels]
    levels = levels_of([(24, 32), (12, 16), (3, 4)])
    sum(run(levels)[1].values()).backward()
    assert levels[0].grad is not None
    assert levels[0].grad.any()
    for level in levels[1:]:
        assert level.grad is not None
        assert not level.grad.any()


def test_the_network_has_torchvisions_parameters() -> None:
    ours, theirs = networks()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
