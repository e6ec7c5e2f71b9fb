"""Laws of the kept anchors; the oracle is torchvision's generator."""

import copy

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from benchmarks.operations import Counter
from core.network.anchors import SIZES_KEPT, KeptAnchors

SIZES, RATIOS = ((16.0,), (32.0,), (64.0,)), ((0.5, 1.0, 2.0),) * 3


def batch(height: int, width: int, images: int = 2) -> tuple[ImageList, list[torch.Tensor]]:
    pixels = torch.zeros(images, 3, height, width)
    levels = [torch.zeros(images, 4, -(-height // stride), -(-width // stride)) for stride in (4, 8, 16)]
    return ImageList(pixels, [(height, width)] * images), levels


def torchvisions(images: ImageList, levels: list[torch.Tensor]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = AnchorGenerator(SIZES, RATIOS)(images, levels)
    return found


def test_anchors_are_torchvisions_whatever_sizes_came_before() -> None:
    anchors = KeptAnchors(SIZES, RATIOS)
    sizes = [(64, 64), (64, 96), (96, 64), (64, 64), (70, 50)] + [(32 * k, 32) for k in range(1, 2 * SIZES_KEPT)]
    for height, width in [*sizes, *sizes]:
        for images in (1, 3):
            given = batch(height, width, images)
            for found, expected in zip(anchors(*given), torchvisions(*given), strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_levels_that_do_not_divide_the_image_alike_are_other_anchors() -> None:
    """The same levels of a larger batch have larger strides."""
    anchors = KeptAnchors(SIZES, RATIOS)
    _, levels = batch(64, 64)
    for side in (64, 128):
        images, _ = batch(side, side)
        torch.testing.assert_close(anchors(images, levels)[0], torchvisions(images, levels)[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchors_have_the_dtype_of_the_levels(dtype: torch.dtype) -> None:
    anchors = KeptAnchors(SIZES, RATIOS)
    images, levels = batch(64, 64)
    anchors(images, levels)
    assert anchors(images, [level.to(dtype) for level in levels])[0].dtype == dtype


def test_a_size_that_was_seen_asks_for_no_operation() -> None:
    anchors = KeptAnchors(SIZES, RATIOS)
    anchors(*batch(64, 64))
    given = batch(64, 64, images=5)
    with Counter() as asked:
        anchors(*given)
    assert asked.operations == 0


def test_the_sizes_that_were_used_last_are_kept_and_no_more() -> None:
    anchors = KeptAnchors(SIZES, RATIOS)
    often = batch(64, 64)
    for side in range(32, 32 * 3 * SIZES_KEPT, 32):
        anchors(*batch(side, 32))
        anchors(*often)
    assert len(anchors._kept) == SIZES_KEPT
    with Counter() as asked:
        anchors(*often)
    assert asked.operations == 0


def test_what_was_first_seen_in_inference_trains_afterwards() -> None:
    anchors = KeptAnchors(SIZES, RATIOS)
    with torch.inference_mode():
        anchors(*batch(64, 64))
    (found, _) = anchors(*batch(64, 64))
    scale = torch.ones(4, requires_grad=True)
    (found * scale).sum().backward()
    assert scale.grad is not None


def test_a_copy_has_the_same_anchors_and_a_network_saves_none() -> None:
    anchors = KeptAnchors(SIZES, RATIOS)
    given = batch(64, 64)
    anchors(*given)
    torch.testing.assert_close(copy.deepcopy(anchors)(*given)[0], torchvisions(*given)[0], rtol=0, atol=0)
    assert not anchors.state_dict()
