"""Laws of the pooling from a pyramid; the oracle is torchvision's, values and gradients to the
last bit.
"""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from core.network.pooling import LEVEL_SCALES, PyramidPooling, regions_of

LEVELS = ["0", "1", "2", "3"]


def torchvisions(size: int) -> MultiScaleRoIAlign:
    pool = MultiScaleRoIAlign(LEVELS, output_size=size, sampling_ratio=2)
    pool.scales, pool.map_levels = list(LEVEL_SCALES), initLevelMapper(2, 5)
    return pool


def pyramid(images: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [int(640 * scale) for scale in LEVEL_SCALES]
    levels = {
        name: torch.randn(images, 6, side, side, generator=generator)
        for name, side in zip(LEVELS, sides, strict=True)
    }
    return {
        **{name: level.requires_grad_() for name, level in levels.items()},
        "pool": torch.zeros(images, 6, 10, 10),
    }


def boxes(seed: int, count: int, sides: tuple[float, float]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners_N2 = 600 * torch.rand(count, 2, generator=generator)
    low, high = sides
    return torch.cat(
        [corners_N2, corners_N2 + low + (high - low) * torch.rand(count, 2, generator=generator)],
        dim=1,
    )


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize(
    "given",
    [
        [boxes(0, 40, (2, 600)), boxes(1, 30, (2, 600))],
        [boxes(2, 12, (2, 40)), boxes(3, 9, (2, 40))],  # all on the first level
        [
            boxes(4, 0, (2, 40)),
            boxes(5, 9, (400, 640)),
        ],  # none in the first image, none on the first levels
        [boxes(6, 1, (100, 200))],
    ],
    ids=["all levels", "one level", "an empty image", "one box"],
)
def test_pooled_features_and_their_gradients_are_torchvisions(
    size: int, given: list[torch.Tensor], fixed: bool
) -> None:
    results = []
    for ours in (True, False):
        features = pyramid(len(given))
        if ours:
            pooled = PyramidPooling(size).pooled(
                list(features.values()), regions_of(given), fixed=fixed
            )
        else:
            pooled = torchvisions(size)(features, given, [(640, 640)] * len(given))
        (pooled * torch.linspace(-1, 1, pooled.numel()).reshape(pooled.shape)).sum().backward()
        results.append((pooled, [features[name].grad for name in LEVELS]))
    (pooled, gradients), (expected, expected_gradients) = results
    assert torch.equal(pooled, expected)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(
            torch.zeros(1) if found is None else found, torch.zeros(1) if found is None else wanted
        )
        assert found is not None or not wanted.any()


def test_regions_of_one_tensor_are_those_of_the_images_in_it() -> None:
    boxes_BK4 = torch.stack([boxes(0, 5, (2, 40)), boxes(1, 5, (2, 40))])
    assert torch.equal(regions_of(boxes_BK4), regions_of([*boxes_BK4]))


def test_no_box_at_all_has_no_features() -> None:
    none = [boxes(0, 0, (1, 2))] * 2
    features = pyramid(2)
    found = PyramidPooling(7)(list(features.values()), none)
    assert found.shape == torchvisions(7)(features, none, [(640, 640)] * 2).shape == (0, 6, 7, 7)


@pytest.mark.parametrize("side", [28.0, 56.0, 111.99, 112.0, 224.0, 448.0, 447.99, 896.0])
def test_a_side_on_the_limit_of_a_level_is_pooled_from_the_level_that_torchvision_takes(
    side: float,
) -> None:
    given, features = [torch.tensor([[0.0, 0, side, side]])], pyramid(1)
    found = PyramidPooling(7)(list(features.values()), given)
    assert torch.equal(found, torchvisions(7)(features, given, [(640, 640)]))
