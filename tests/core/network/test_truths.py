"""Laws of the instances of a batch: those of each image are the oracle."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.memory import Made
from core.labels import label_maps as masks
from core.network.truths import Truths, first_places
from core.sample import Target

SIZES = {"one size": [(60, 80)] * 3, "two sizes": [(60, 80), (60, 80), (50, 90)]}


def targets(sizes: list[tuple[int, int]], counts: list[int]) -> list[Target]:
    """Rectangles that touch the borders of their images."""
    rng = np.random.default_rng(0)
    found = []
    for (height, width), instances in zip(sizes, counts, strict=True):
        label_maps = np.zeros((2, height, width), np.uint16)
        for number in range(1, instances + 1):
            y, x = rng.integers(0, height - 5), rng.integers(0, width - 5)
            label_maps[number % 2, y : y + rng.integers(2, 30), x : x + rng.integers(2, 30)] = (
                number
            )
        labels_N = rng.integers(1, 4, instances)
        found.append(masks.target_of(label_maps, labels_N, np.zeros(instances, np.bool_)))
    return found


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("counts", [[3, 0, 5], [0, 0, 0], [2, 2, 2]])
def test_the_instances_of_each_image_come_first_and_zeros_fill_up(
    counts: list[int], padded: bool
) -> None:
    given = targets(SIZES["one size"], counts)
    truths = Truths.of(given, SIZES["one size"], padded=padded)
    if padded:
        assert truths.counts == (max(1, *counts),) * 3
    for name in ("boxes_N4", "labels_N", "ids_N", "maps_N"):
        values = truths.by_image(getattr(truths, name))
        assert len(values) == 3
        for values_N, target in zip(values, given, strict=True):
            wanted_N = getattr(target, name)
            assert torch.equal(values_N[: len(wanted_N)], wanted_N)
            assert not values_N[len(wanted_N) :].any()
    boxes = truths.by_image(truths.boxes_N4)
    for first, boxes_N4 in zip(first_places(boxes).tolist(), boxes, strict=False):
        assert torch.equal(truths.boxes_N4[first : first + len(boxes_N4)], boxes_N4)


def wanted_masks(given: list[Target], seen: list[tuple[int, int]], *, padded: bool) -> torch.Tensor:
    """The wanted masks of boxes around the instances, by turns."""
    truths = Truths.of(given, seen, padded=padded)
    first = first_places(truths.by_image(truths.boxes_N4)).tolist()
    instances, boxes = [], []
    for start, target, (height, width) in zip(first, given, seen, strict=False):
        some = torch.arange(5) % len(target.boxes_N4)
        limit = torch.tensor([width, height, width, height])
        grown_N4 = truths.boxes_N4[some + start] + torch.tensor([-2.3, -1.7, 3.1, 0.4])
        boxes.append(torch.minimum(grown_N4.clamp(min=0), limit))  # IoU unlike 1
        instances.append(some + start)
    return truths.mask_targets(torch.cat(instances), torch.cat(boxes), [5] * 3, 28, 2.0)


@pytest.mark.parametrize("pixels", [1, 2000, 2**24])
@pytest.mark.parametrize("grows", [1.0, 1.7])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_wanted_masks_of_a_padded_batch_are_those_of_each_image(
    sizes: str, grows: float, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = targets(SIZES[sizes], [6, 1, 4])
    seen = [(int(grows * height), int(grows * width)) for height, width in SIZES[sizes]]
    monkeypatch.setattr(masks, "PIXELS_ON_A_GPU", pixels)
    found = wanted_masks(given, seen, padded=True)
    assert found.amax() == 1
    torch.testing.assert_close(found, wanted_masks(given, seen, padded=False), rtol=0, atol=5e-5)


def test_boxes_are_those_of_the_size_that_the_network_sees() -> None:
    given = targets([(60, 80)] * 2, [3, 2])
    truths = Truths.of(given, [(60, 80), (90, 160)], padded=True)
    first, second = truths.by_image(truths.boxes_N4)
    assert torch.equal(first, given[0].boxes_N4)
    torch.testing.assert_close(second[:2], given[1].boxes_N4 * torch.tensor([2, 1.5, 2, 1.5]))
    assert not second[2].any()


@pytest.mark.parametrize("large", [0, 1, 3])
def test_an_instance_as_large_as_the_image_among_small_ones_costs_its_own_mask_and_no_windows(
    large: int,
) -> None:
    """On the meta device, where nothing is computed; the form in which nothing is waited for."""
    height, width = 800, 1344
    label_maps = np.zeros((1 + large, height, width), np.uint16)
    for number in range(300):
        y, x = divmod(number, 20)
        label_maps[0, 40 * y : 40 * y + 20, 60 * x : 60 * x + 20] = number + 1
    for number in range(large):
        label_maps[1 + number, number : height - number] = 301 + number
    target = masks.target_of(
        label_maps, np.ones(300 + large, np.int64), np.zeros(300 + large, np.bool_)
    )
    meta = torch.device("meta")
    truths = Truths.of([target.to(meta)], [(height, width)], padded=True)
    arguments = (
        torch.zeros(256, dtype=torch.int64, device=meta),
        torch.zeros(256, 4, device=meta), [256], 28, 2.0,
    )  # fmt: skip
    with Made() as made:
        truths.mask_targets(*arguments)
    assert made.tensors <= (25 if large == 0 else 55)
    assert made.largest <= 4 * 256 * 44**2 + 4 * large * height * width
    assert made.bytes <= 4 * made.largest + 30e6
    uncounted = dataclasses.replace(truths, targets=[Target(*target.to(meta).tensors)])
    with Made() as windows:
        uncounted.mask_targets(*arguments)
    assert windows.tensors > 250
    assert windows.bytes > 1e9


def test_a_padded_batch_of_targets_that_nobody_measured_takes_windows_of_the_whole_image() -> None:
    (target,) = targets([(60, 80)], [4])
    unmeasured = Target(*target.tensors)
    arguments = torch.arange(4), target.boxes_N4, [4], 28, 2.0
    torch.testing.assert_close(
        Truths.of([unmeasured], [(60, 80)], padded=True).mask_targets(*arguments),
        Truths.of([target], [(60, 80)], padded=True).mask_targets(*arguments),
        rtol=0,
        atol=5e-5,
    )
