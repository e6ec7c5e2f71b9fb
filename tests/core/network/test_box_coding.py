"""Laws of the offsets between boxes; the oracle is torchvision's coder, to the last bit."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from core.network.box_coding import OffsetCoder

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def boxes(seed: int, count: int) -> torch.Tensor:
    corners_N2, sides_N2 = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([800 * corners_N2, 800 * corners_N2 + 300 * sides_N2 + 0.01], dim=1)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("count", [0, 1, 500])
def test_offsets_are_torchvisions(weights: tuple[float, float, float, float], count: int) -> None:
    wanted, given = [boxes(0, count), boxes(1, count)], [boxes(2, count), boxes(3, count)]
    for found, expected in zip(
        OffsetCoder(weights).encode(wanted, given), BoxCoder(weights).encode(wanted, given), strict=True
    ):
        assert torch.equal(found, expected)


def test_boxes_without_a_side_have_the_offsets_that_torchvision_gives_them() -> None:
    flat, other = torch.tensor([[3.0, 3, 3, 9]]), torch.tensor([[1.0, 1, 5, 5]])
    for one, two in ((flat, other), (other, flat)):
        found, expected = (coder(WEIGHTS[1]).encode_single(one, two) for coder in (OffsetCoder, BoxCoder))
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_boxes_from_offsets_are_torchvisions_however_large_the_offsets(
    weights: tuple[float, float, float, float], classes: int, count: int
) -> None:
    codes = 3 * torch.randn(2 * count, 4 * classes, generator=torch.Generator().manual_seed(4))
    given = [boxes(5, count), boxes(6, count)]
    assert torch.equal(OffsetCoder(weights).decode(codes, given), BoxCoder(weights).decode(codes, given))
