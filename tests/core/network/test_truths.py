"""Laws of the instances of a batch: those of each image are the oracle."""

from typing import Any

import numpy as np
import pytest
import torch

from core.labels import label_maps as masks
from core.network.truths import Truths, first_of
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
    truths = Truths.of(given, padded=padded)
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
    for first, boxes_N4 in zip(first_of(boxes).tolist(), boxes, strict=False):
        assert torch.equal(truths.boxes_N4[first : first + len(boxes_N4)], boxes_N4)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_wanted_masks_of_a_padded_batch_are_those_of_each_image(sizes: str) -> None:
    counts = [6, 1, 4]
    given = targets(SIZES[sizes], counts)
    found: list[Any] = []
    for padded in (True, False):
        truths = Truths.of(given, padded=padded)
        first = first_of(truths.by_image(truths.boxes_N4)).tolist()
        instances, boxes = [], []
        for start, target in zip(first, given, strict=False):
            some = torch.arange(5) % len(target.boxes_N4)
            height, width = target.label_maps_LHW.shape[-2:]
            limit = torch.tensor([width, height, width, height])
            grown_N4 = target.boxes_N4 + torch.tensor([-2.3, -1.7, 3.1, 0.4])  # IoU unlike 1
            boxes.append(torch.minimum(grown_N4.clamp(min=0), limit)[some])
            instances.append(some + start)
        wanted = truths.mask_targets(torch.cat(instances), torch.cat(boxes), [5] * 3, 28, 2.0)
        found.append(wanted)
    assert found[0].amax() == 1
    torch.testing.assert_close(*found, rtol=0, atol=5e-5)


def test_a_padded_batch_of_targets_that_nobody_measured_takes_windows_of_the_whole_image() -> None:
    (target,) = targets([(60, 80)], [4])
    unmeasured = Target(*target.tensors)
    arguments = torch.arange(4), target.boxes_N4, [4], 28, 2.0
    torch.testing.assert_close(
        Truths.of([unmeasured], padded=True).mask_targets(*arguments),
        Truths.of([target], padded=True).mask_targets(*arguments),
        rtol=0,
        atol=5e-5,
    )
