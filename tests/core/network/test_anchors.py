"""Laws of the kept anchors; the oracle is torchvision's generator."""

import copy

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from benchmarks.operations import Counter
from core.network.anchors import SIZES_KEPT, Anchors

SIDES, RATIOS = (16.0, 32.0, 64.0), (0.5, 1.0, 2.0)
Size = tuple[int, int]


def batch(height: int, width: int, images: int = 2) -> tuple[Size, list[torch.Tensor]]:
    levels = [
        torch.zeros(images, 4, -(-height // stride), -(-width // stride)) for stride in (4, 8, 16)
    ]
    return (height, width), levels


def torchvisions(
    size: Size, levels: list[torch.Tensor], sides: tuple[float, ...] = SIDES
) -> torch.Tensor:
    generator = AnchorGenerator(tuple((side,) for side in sides), (RATIOS,) * len(sides))
    found: list[torch.Tensor] = generator(ImageList(torch.zeros(1, 3, *size), [size]), levels)
    return found[0]


@pytest.mark.parametrize("scale", [0.05, 0.3, 0.77, 1.0, 1.33, 8.0])
def test_anchors_of_any_sides_are_torchvisions(scale: float) -> None:
    sides = tuple(side * scale for side in SIDES)
    size, levels = batch(70, 50)
    assert torch.equal(Anchors(sides, RATIOS)(size, levels), torchvisions(size, levels, sides))


def test_anchors_are_torchvisions_whatever_sizes_came_before() -> None:
    anchors = Anchors(SIDES, RATIOS)
    sizes = [(64, 64), (64, 96), (96, 64), (64, 64), (70, 50)] + [
        (32 * k, 32) for k in range(1, 2 * SIZES_KEPT)
    ]
    for height, width in [*sizes, *sizes]:
        for images in (1, 3):
            given = batch(height, width, images)
            assert torch.equal(anchors(*given), torchvisions(*given))


def test_levels_that_do_not_divide_the_image_alike_are_other_anchors() -> None:
    """The same levels of a larger batch have larger strides."""
    anchors = Anchors(SIDES, RATIOS)
    _, levels = batch(64, 64)
    for size in ((64, 64), (128, 128)):
        assert torch.equal(anchors(size, levels), torchvisions(size, levels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchors_have_the_dtype_of_the_levels(dtype: torch.dtype) -> None:
    anchors = Anchors(SIDES, RATIOS)
    size, levels = batch(64, 64)
    anchors(size, levels)
    assert anchors(size, [level.to(dtype) for level in levels]).dtype == dtype


def test_a_size_that_was_seen_asks_for_no_operation() -> None:
    anchors = Anchors(SIDES, RATIOS)
    anchors(*batch(64, 64))
    given = batch(64, 64, images=5)
    with Counter() as asked:
        anchors(*given)
    assert asked.operations == 0


def test_another_size_fetches_nothing_from_where_the_anchors_of_a_cell_were_made() -> None:
    """A GPU would be waited for at each size that training draws."""
    anchors = Anchors(SIDES, RATIOS)
    anchors(*batch(64, 64))
    anchors.of_cell = []
    assert torch.equal(anchors(*batch(96, 64)), torchvisions(*batch(96, 64)))


def test_the_sizes_that_were_used_last_are_kept_and_no_more() -> None:
    anchors = Anchors(SIDES, RATIOS)
    often = batch(64, 64)
    for side in range(32, 32 * 3 * SIZES_KEPT, 32):
        anchors(*batch(side, 32))
        anchors(*often)
    assert len(anchors._kept) == SIZES_KEPT
    with Counter() as asked:
        anchors(*often)
    assert asked.operations == 0


def test_what_was_first_seen_in_inference_trains_afterwards() -> None:
    anchors = Anchors(SIDES, RATIOS)
    with torch.inference_mode():
        anchors(*batch(64, 64))
    found = anchors(*batch(64, 64))
    scale = torch.ones(4, requires_grad=True)
    (found * scale).sum().backward()
    assert scale.grad is not None


def test_a_copy_has_the_same_anchors() -> None:
    anchors = Anchors(SIDES, RATIOS)
    given = batch(64, 64)
    anchors(*given)
    assert torch.equal(copy.deepcopy(anchors)(*given), torchvisions(*given))
