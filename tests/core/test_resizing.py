"""Laws of what the network sees; the oracle is torchvision's transform, to the last bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.detection.transform import resize_boxes as torchvisions_boxes

from core.resizing import ImageTransform, resize_boxes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("training", [True, False])
def test_images_and_boxes_are_torchvisions_and_so_are_the_draws(training: bool) -> None:
    ours = ImageTransform(100, 150, MEAN, STD).train(training)
    theirs = GeneralizedRCNNTransform(100, 150, MEAN, STD).train(training)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, height, width, generator=generator) for height, width in ((90, 70), (33, 140), (200, 201))]
    targets = [
        {"boxes": 30 * torch.rand(4, 4, generator=generator), "ids": torch.arange(4)},
        *[{"boxes": torch.zeros(0, 4)}] * 2,
    ]
    given = [dict(target) for target in targets]
    torch.manual_seed(0)
    expected, expected_targets = theirs(images, targets)
    after = torch.rand(2)
    torch.manual_seed(0)
    found, found_targets = ours(images, given)
    assert torch.equal(torch.rand(2), after)
    assert torch.equal(found.tensors, expected.tensors)
    assert found.image_sizes == expected.image_sizes
    for one, other in zip(found_targets, expected_targets, strict=True):
        assert one.keys() == other.keys()
        assert torch.equal(one["boxes"], other["boxes"])
    assert all(torch.equal(one["boxes"], other["boxes"]) for one, other in zip(given, targets, strict=True))


@settings(deadline=None)
@given(
    old=st.tuples(st.integers(1, 2000), st.integers(1, 2000)), new=st.tuples(st.integers(1, 2000), st.integers(1, 2000))
)
def test_boxes_of_any_size_are_scaled_as_by_torchvision(old: tuple[int, int], new: tuple[int, int]) -> None:
    boxes_N4 = 1000 * torch.rand(5, 4)
    assert torch.equal(resize_boxes(boxes_N4, old, new), torchvisions_boxes(boxes_N4, old, new))


def test_mean_and_deviation_are_not_saved_and_move_with_the_model() -> None:
    transform = ImageTransform(100, 150, MEAN, STD)
    assert not transform.state_dict()
    assert transform.to("meta").normalize(torch.zeros(3, 8, 8, device="meta")).device.type == "meta"
