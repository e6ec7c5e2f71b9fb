"""Laws of the offsets between boxes; the oracle is torchvision's coder, to the last bit."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from core.network.box_coding import OffsetCoder

WEIGHTS = [(1.0, 1.0), (10.0, 5.0)]


def torchvisions(weights: tuple[float, float]) -> BoxCoder:
    of_centre, of_size = weights
    return BoxCoder((of_centre, of_centre, of_size, of_size))


def boxes(seed: int, count: int) -> torch.Tensor:
    corners_N2, sides_N2 = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([800 * corners_N2, 800 * corners_N2 + 300 * sides_N2 + 0.01], dim=1)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("count", [0, 1, 500])
def test_offsets_are_torchvisions(weights: tuple[float, float], count: int) -> None:
    wanted_P4, given_P4 = boxes(0, count), boxes(2, count)
    found = OffsetCoder(*weights).encode(wanted_P4, given_P4)
    assert torch.equal(found, torchvisions(weights).encode_single(wanted_P4, given_P4))


def test_boxes_without_a_side_have_the_offsets_that_torchvision_gives_them() -> None:
    flat, other = torch.tensor([[3.0, 3, 3, 9]]), torch.tensor([[1.0, 1, 5, 5]])
    for one, two in ((flat, other), (other, flat)):
        found = OffsetCoder(*WEIGHTS[1]).encode(one, two)
        expected = torchvisions(WEIGHTS[1]).encode_single(one, two)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_boxes_from_offsets_are_torchvisions_however_large_the_offsets(
    weights: tuple[float, float], classes: int, count: int
) -> None:
    offsets_PC4 = 3 * torch.randn(count, classes, 4, generator=torch.Generator().manual_seed(4))
    given_P4 = boxes(5, count)
    found = OffsetCoder(*weights).decode(offsets_PC4, given_P4[:, None])
    expected = torchvisions(weights).decode_single(offsets_PC4.flatten(1), given_P4)
    assert torch.equal(found.flatten(1), expected)


def test_anchors_that_images_share_are_decoded_as_each_images_own() -> None:
    offsets_BA4, anchors_A4 = torch.randn(3, 50, 4), boxes(6, 50)
    found = OffsetCoder(1.0, 1.0).decode(offsets_BA4, anchors_A4)
    expected = torchvisions(WEIGHTS[0]).decode(offsets_BA4.flatten(0, 1), [anchors_A4] * 3)
    assert torch.equal(found.flatten(0, 1), expected[:, 0])
