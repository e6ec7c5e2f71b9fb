"""Laws of what the network sees; the oracle is torchvision's transform, to the last bit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.detection.transform import resize_boxes as torchvisions_boxes

from core.augment import pipeline as augment
from core.config import ModelConfig
from core.network.resizing import (
    ImageTransform,
    largest_sides,
    network_size,
    resize_all_boxes,
    resize_boxes,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LIMITS = [(800, 1333), (64, 128), (1000, 1000), (512, 2600), (33, 8192), (8192, 32), (1333, 1333)]
SIDES = np.arange(33, 2601)


def sizes_around(seed: int) -> list[tuple[int, int]]:
    """Every side from 33 to 2,600 once as a square, and twice beside a side that was drawn:
    height, and width.
    """
    drawn = np.random.default_rng(seed).integers(33, 2601, len(SIDES))
    pairs = [(SIDES, SIDES), (SIDES, drawn), (drawn, SIDES)]
    return [
        (int(height), int(width))
        for one, other in pairs
        for height, width in zip(one, other, strict=True)
    ]


def torchvisions_size(
    transform: GeneralizedRCNNTransform, height: int, width: int
) -> tuple[int, int]:
    """The size of an image that it resizes, whose pixels nobody computes."""
    batch, _ = transform([torch.empty(3, height, width, device="meta")])
    size: tuple[int, int] = batch.image_sizes[0]
    return size


def seen_size(transform: ImageTransform, height: int, width: int) -> tuple[int, int]:
    image = torch.empty(3, height, width, device="meta")
    resized = transform.resize(image, transform.size_of(image))
    return resized.shape[1], resized.shape[2]


@pytest.mark.parametrize(("min_side", "max_side"), LIMITS)
def test_the_network_sees_an_image_at_torchvisions_size_unless_it_lacks_one_pixel_of_it(
    min_side: int, max_side: int
) -> None:
    theirs = GeneralizedRCNNTransform(min_side, max_side, MEAN, STD).eval()
    ours = ImageTransform(min_side, max_side, MEAN, STD).eval()
    limit = [(min_side, min_side), (max_side, max_side), (min_side, max_side)]
    near = [(height + more, width + more) for height, width in limit for more in (-2, -1, 0, 1)]
    rounded = [
        size
        for size in sizes_around(0)
        if min(network_size(*size, min_side, max_side)) == min_side - 1
    ]
    for height, width in [*near, *rounded[::20], *sizes_around(0)[::200]]:
        size = network_size(height, width, min_side, max_side)
        assert seen_size(ours, height, width) == size
        if min(height, width) * max_side < max(height, width):
            assert min(size) == 1  # torchvision leaves nothing of this side, and raises
            continue
        expected = torchvisions_size(theirs, height, width)
        if size != expected:
            assert size == (height, width)
            assert min(height, width) == min_side - 1 or max(height, width) == max_side - 1
            assert height <= expected[0]
            assert width <= expected[1]


@pytest.mark.parametrize(("min_side", "max_side"), LIMITS)
def test_the_size_of_a_size_is_that_size_so_that_nothing_is_resampled_twice(
    min_side: int, max_side: int
) -> None:
    transform = ImageTransform(min_side, max_side, MEAN, STD)
    for number, (height, width) in enumerate(sizes_around(1)):
        size = network_size(height, width, min_side, max_side)
        assert network_size(*size, min_side, max_side) == size
        if number % 100 == 0:
            assert seen_size(transform, *size) == size


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(33, 2600), st.integers(33, 2600)),
    crop=st.sampled_from([0, 256, 801, 1000]),
    limits=st.sampled_from(LIMITS[:4]),
)
@example(size=(801, 801), crop=0, limits=(800, 1333))
@example(size=(2600, 1100), crop=801, limits=(800, 1333))
@example(size=(799, 1200), crop=0, limits=(800, 1333))
def test_training_sees_the_pixels_that_prediction_sees_through_the_whole_path(
    size: tuple[int, int], crop: int, limits: tuple[int, int]
) -> None:
    """The crop of a training image is the tile of a prediction; what was shrunk keeps its
    pixels, bit for bit.
    """
    rng = np.random.default_rng(0)
    image = np.broadcast_to(rng.integers(0, 256, (size[0], size[1], 1), np.uint8), (*size, 3))
    label_maps = np.zeros((1, *size), np.uint16)
    if crop:
        image, label_maps = augment.random_crop(image, label_maps, crop, rng)
    small, small_maps = augment.shrink(image, label_maps, *limits)
    transform = ImageTransform(*limits, [0.0] * 3, [1.0] * 3)

    def seen(pixels: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C")).float()
        return transform.resize(tensor, transform.size_of(tensor))

    trained, predicted = seen(small), seen(image)
    assert trained.shape == predicted.shape
    assert small_maps.shape[1:] == small.shape[:2]
    if small is not image:
        assert torch.equal(trained, torch.from_numpy(small.transpose(2, 0, 1).astype(np.float32)))
    assert (trained - predicted).abs().max() <= 1  # OpenCV rounds to whole grey levels


THIN = st.integers(1, 40)


@settings(deadline=None)
@given(
    size=st.tuples(st.one_of(THIN, st.integers(1, 100_000)), THIN),
    upright=st.booleans(),
    limits=st.sampled_from(LIMITS),
)
@example(size=(200, 1), upright=False, limits=(64, 128))
@example(size=(5000, 3), upright=False, limits=(800, 1333))
def test_no_side_vanishes_and_none_passes_its_limit(
    size: tuple[int, int], upright: bool, limits: tuple[int, int]
) -> None:
    height, width = size if upright else size[::-1]
    seen = network_size(height, width, *limits)
    assert min(seen) >= 1
    assert max(seen) <= limits[1]
    assert network_size(*seen, *limits) == seen
    image, label_maps = (
        np.zeros((height, width, 3), np.uint8),
        np.zeros((1, height, width), np.uint16),
    )
    small, small_maps = augment.shrink(image, label_maps, *limits)
    assert small.shape[:2] == small_maps.shape[1:]
    assert network_size(*small.shape[:2], *limits) == seen


@pytest.mark.parametrize("training", [True, False])
def test_images_and_boxes_are_torchvisions_and_so_are_the_draws(training: bool) -> None:
    ours = ImageTransform(100, 150, MEAN, STD).train(training)
    theirs = GeneralizedRCNNTransform(100, 150, MEAN, STD).train(training)
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.rand(3, height, width, generator=generator)
        for height, width in ((90, 70), (33, 140), (200, 201))
    ]
    boxes = [30 * torch.rand(4, 4, generator=generator), torch.zeros(0, 4), torch.zeros(0, 4)]
    torch.manual_seed(0)
    expected, expected_targets = theirs(images, [{"boxes": boxes_N4} for boxes_N4 in boxes])
    after = torch.rand(2)
    torch.manual_seed(0)
    found = ours(images)
    assert torch.equal(torch.rand(2), after)
    assert torch.equal(found.images_B3HW, expected.tensors)
    assert found.sizes == expected.image_sizes
    before = [boxes_N4.clone() for boxes_N4 in boxes]
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    resized = resize_all_boxes(boxes, sizes, found.sizes)
    for boxes_N4, target in zip(resized, expected_targets, strict=True):
        assert torch.equal(boxes_N4, target["boxes"])
    assert all(map(torch.equal, boxes, before))


def test_images_and_boxes_of_one_shape_are_resized_together() -> None:
    transform = ImageTransform(100, 150, MEAN, STD).eval()
    generator = torch.Generator().manual_seed(0)
    sizes = [(50, 60), (90, 140), (50, 60), (100, 120)]
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    boxes = [torch.tensor([[1.0, 2, 31, 12], [0, 0, 7, 18]])[:count] for count in (2, 0, 1, 2)]
    batch = transform(images)
    found = resize_all_boxes(boxes, sizes, batch.sizes)
    for number, image in enumerate(images):
        alone = transform([image])
        new_height, new_width = batch.sizes[number]
        assert torch.equal(
            batch.images_B3HW[number, :, :new_height, :new_width],
            alone.images_B3HW[0, :, :new_height, :new_width],
        )
        (resized,) = resize_all_boxes([boxes[number]], [sizes[number]], alone.sizes)
        assert torch.equal(found[number], resized)
    assert found[3] is boxes[3]


def test_sizes_are_drawn_evenly_between_the_smallest_and_the_largest_in_training_alone() -> None:
    transform = ImageTransform(100, 150, MEAN, STD, jitter=0.4)
    image = torch.rand(3, 200, 200)
    torch.manual_seed(0)
    sides = [size[0] for _ in range(300) for size in transform([image, image]).sizes]
    assert (min(sides), max(sides)) == (60, 140)
    assert sum(sides) / len(sides) == pytest.approx(100, abs=2)
    assert sum(side < 80 for side in sides) / len(sides) == pytest.approx(0.25, abs=0.06)
    assert set(transform.eval()([image] * 20).sizes) == {(100, 100)}


def test_a_size_that_is_drawn_is_that_of_its_image_and_costs_no_other_draw() -> None:
    plain, jittered = (ImageTransform(100, 150, MEAN, STD, jitter=one) for one in (0.0, 0.3))
    images = [torch.rand(3, *size) for size in ((90, 70), (90, 70), (33, 140))]
    after = []
    for transform in (plain, jittered):
        torch.manual_seed(0)
        batch = transform(images)
        after.append(torch.rand(2))
    assert torch.equal(*after)
    torch.manual_seed(0)
    factors = [0.7 + 0.6 * one for one in torch.rand(3).tolist()]
    for number, (image, factor) in enumerate(zip(images, factors, strict=True)):
        limits = round(factor * 100), round(factor * 150)
        alone = ImageTransform(*limits, MEAN, STD).eval()([image])
        ((height, width),) = alone.sizes
        assert batch.sizes[number] == (height, width)
        assert torch.equal(
            batch.images_B3HW[number, :, :height, :width], alone.images_B3HW[0, :, :height, :width]
        )
        assert not batch.images_B3HW[number, :, height:].any()


@given(
    jitter=st.floats(0, 0.9), min_side=st.integers(32, 900), more=st.integers(0, 900),
    drawn=st.floats(0, 1),
)  # fmt: skip
def test_no_size_that_is_drawn_is_above_the_largest(
    jitter: float, min_side: int, more: int, drawn: float
) -> None:
    sides = min_side, min_side + more
    config = ModelConfig(image_min_side=sides[0], image_max_side=sides[1], size_jitter=jitter)
    factor = 1 - jitter + 2 * jitter * drawn
    for largest, side in zip(largest_sides(config), sides, strict=True):
        assert round(factor * side) <= largest <= math.ceil((1 + jitter) * side)


@settings(deadline=None)
@given(
    old=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    new=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
def test_boxes_of_any_size_are_scaled_as_by_torchvision(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    boxes_N4 = 1000 * torch.rand(5, 4)
    assert torch.equal(resize_boxes(boxes_N4, old, new), torchvisions_boxes(boxes_N4, old, new))


def test_mean_and_deviation_are_not_saved_and_move_with_the_model() -> None:
    transform = ImageTransform(100, 150, MEAN, STD)
    assert not transform.state_dict()
    assert transform.to("meta").normalize(torch.zeros(3, 8, 8, device="meta")).device.type == "meta"
