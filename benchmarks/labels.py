"""Label maps against stacks of masks: boxes, training targets, augmentation, and pasted
predictions.

    python -m benchmarks.labels

One thread, medians of repeated calls that take turns with the other side.
"""

import dataclasses
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from benchmarks.cells import image_of_cells
from benchmarks.memory import Made
from benchmarks.table import Line, as_text
from core.augment import pipeline as augment
from core.augmentations import AUGMENTATIONS
from core.config import AugmentConfig
from core.labels import label_maps as masks
from core.network.truths import Truths


def taking_turns(
    ours: Callable[[], Any], theirs: Callable[[], Any], times: int
) -> tuple[float, float, Any, Any]:
    """Median seconds of both, and what they returned last; both ran once before the clock did."""
    results = [ours(), theirs()]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for side, call in enumerate((ours, theirs)):
            begin = time.perf_counter()
            results[side] = call()
            seconds[side].append(time.perf_counter() - begin)
    return statistics.median(seconds[0]), statistics.median(seconds[1]), *results


def lines(short: bool) -> Iterator[Line]:
    """Every line of this benchmark, in the order in which they are printed."""
    torch.set_num_threads(1)
    times = 3 if short else 9
    yield _boxes(times)
    yield _targets(times)
    yield _one_large(times)
    yield _layers(times)
    yield _augmentation(times)
    yield from _each_augmentation(times)
    yield _pasting(times)


def _boxes(times: int) -> Line:
    sample = image_of_cells(250, 500, 500)

    def one_by_one() -> list[tuple[int, int, int, int, int]]:
        found = []
        for number in np.unique(sample.label_maps[0])[1:]:
            rows, columns = np.nonzero(sample.label_maps[0] == number)
            found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, len(rows)))
        return found

    ours, theirs, found, wanted = taking_turns(
        lambda: masks.find_instances(sample.label_maps), one_by_one, times
    )
    equal = np.array_equal(np.column_stack([found.boxes_N4, found.areas_N]), np.array(wanted))
    assert equal, "the same boxes and areas"
    return Line(
        "boxes and areas, 250 instances, 500 px",
        f"{1e3 * ours:.1f} ms",
        f"{1e3 * theirs:.0f} ms a comparison an instance",
        theirs / ours,
        "equal; goal: under 5 ms",
    )


def _targets(times: int) -> Line:
    sample = image_of_cells(250, 800, 800)
    target = masks.target_of(sample.label_maps, sample.labels_N, sample.crowd_N)
    rng = np.random.default_rng(0)
    matched_P = torch.from_numpy(rng.integers(0, 250, 128))
    jitter_P4 = torch.from_numpy(rng.normal(0, 2, (128, 4)).astype(np.float32))
    proposals_P4 = (target.boxes_N4[matched_P] + jitter_P4).clamp(0, 800)
    proposals_P4[:, 2:] = torch.maximum(proposals_P4[:, 2:], proposals_P4[:, :2] + 1)
    full_NHW = (target.label_maps_LHW[target.maps_N] == target.ids_N[:, None, None]).to(torch.uint8)
    ours, theirs, found, wanted = taking_turns(
        lambda: masks.mask_targets(
            target.label_maps_LHW, target.ids_N[matched_P], target.maps_N[matched_P], proposals_P4
        ),
        lambda: project_masks_on_boxes(full_NHW, proposals_P4, matched_P, 28),
        times,
    )
    return Line(
        "28 x 28 targets, 128 proposals, 250 instances, 800 px",
        f"{1e3 * ours:.1f} ms",
        f"{1e3 * theirs:.0f} ms torchvision",
        theirs / ours,
        f"differ by {float((found - wanted).abs().max()):.0e} at most",
    )


def _one_large(times: int) -> Line:
    """Targets of a step's fixed form, whose windows have one size, beside one huge instance."""
    sample = image_of_cells(300, 800, 800)
    behind = np.full((1, 800, 800), 301, np.uint16)
    label_maps = np.concatenate([sample.label_maps, behind])
    target = masks.target_of(label_maps, np.ones(301, np.int64), np.zeros(301, np.bool_))
    truths = Truths.of([target], [(800, 800)], padded=True)
    of_windows = dataclasses.replace(truths, targets=[dataclasses.replace(target, sides_N2=None)])
    instances_P = torch.arange(301)[-256:]
    arguments = instances_P, target.boxes_N4[instances_P], [256], 28, 2.0
    ours_is, theirs_is = (
        functools.partial(one.mask_targets, *arguments) for one in (truths, of_windows)
    )
    ours, theirs, found, wanted = taking_turns(ours_is, theirs_is, min(times, 3))
    return Line(
        "28 x 28 targets, 256 proposals, 1 of 301 instances fills 800 px",
        f"{1e3 * ours:.0f} ms, {_made(ours_is)}",
        f"{1e3 * theirs:.0f} ms, {_made(theirs_is)}: windows as large as the image",
        theirs / ours,
        f"differ by {float((found - wanted).abs().max()):.0e} at most",
    )


def _made(call: Callable[[], torch.Tensor]) -> str:
    """The tensors that a call makes: `47 of 17 MB`."""
    with Made() as made:
        call()
    return f"{made.tensors} tensors of {made.bytes / 2**20:.0f} MB"


def _layers(times: int) -> Line:
    """Targets of an augmented image with 20 label maps, which the network sees enlarged."""
    sample = image_of_cells(250, 500, 500)
    holder_N = np.random.default_rng(0).integers(0, 20, 251)
    label_maps = np.where(
        holder_N[sample.label_maps[0]] == np.arange(20)[:, None, None], sample.label_maps[0], 0
    ).astype(np.uint16)
    instances_P = torch.arange(128)

    def read_when_needed() -> torch.Tensor:
        target = masks.target_of(label_maps, sample.labels_N, sample.crowd_N)
        truths = Truths.of([target], [(800, 800)], padded=False)
        boxes_P4 = truths.boxes_N4[instances_P]
        return truths.mask_targets(instances_P, boxes_P4, [128], 28, 2.0)

    def resized_before() -> torch.Tensor:
        target = masks.target_of(label_maps, sample.labels_N, sample.crowd_N)
        maps_1LHW = torch.from_numpy(label_maps.astype(np.int32))[None].to(torch.float32)
        resized = functional.interpolate(maps_1LHW, size=(800, 800), mode="nearest")
        return masks.mask_targets(
            resized[0].to(torch.int32), target.ids_N[instances_P], target.maps_N[instances_P],
            target.boxes_N4[instances_P] * 1.6,
        )  # fmt: skip

    ours, theirs, found, wanted = taking_turns(read_when_needed, resized_before, times)
    return Line(
        "targets of an image of 20 label maps, 500 px seen at 800",
        f"{1e3 * ours:.0f} ms, {_made(read_when_needed)}",
        f"{1e3 * theirs:.0f} ms, {_made(resized_before)}: maps resized",
        theirs / ours,
        f"differ by {float((found - wanted).abs().max()):.0e} at most",
    )


def _augmentation(times: int) -> Line:
    sample = image_of_cells(300, 512, 512)
    flags = ("horizontal_flip", "color_jitter", "affine", "elastic", "blur_or_noise")
    everything = AugmentConfig(**dict.fromkeys(flags, True), **{f"{name}_p": 1.0 for name in flags})
    change = augment.build_augmenter(everything)
    assert change is not None
    numbers_N = np.arange(1, 301, dtype=np.uint16)
    full_NHW = (sample.label_maps[0] == numbers_N[:, None, None]).astype(np.uint16)
    ours, theirs, found, wanted = taking_turns(
        lambda: change(sample.image, sample.label_maps, np.random.default_rng(1)),
        lambda: change(sample.image, full_NHW, np.random.default_rng(1)),
        times,
    )
    assert np.array_equal(found[1][0] == numbers_N[:, None, None], wanted[1] > 0), "the same masks"
    return Line(
        "five augmentations, 300 instances, 512 px",
        f"{1e3 * ours:.0f} ms",
        f"{1e3 * theirs:.0f} ms mask by mask",
        theirs / ours,
        "equal; goal: 10 times faster",
    )


def _each_augmentation(times: int) -> Iterator[Line]:
    """Every augmentation against `affine`, on an image of 1000 px with 300 instances."""
    samples = [image_of_cells(300, 1000, 1000, seed) for seed in range(3)]

    def call(name: str) -> Callable[[], Any]:
        config = AugmentConfig(**{name: True, f"{name}_p": 1.0})
        mixer, change = augment.build_mixer(config, samples), augment.build_augmenter(config)
        numbers = itertools.count()

        def change_one() -> Any:
            rng = np.random.default_rng(next(numbers))
            if mixer is not None:
                return mixer(samples[0], rng)
            assert change is not None
            return change(samples[0].image, samples[0].label_maps, rng)

        return change_one

    for name in AUGMENTATIONS:
        if name != "affine":
            ours, theirs, _, _ = taking_turns(call(name), call("affine"), 5 * times)
            yield Line(
                f"{name}, 300 instances, 1000 px",
                f"{1e3 * ours:.1f} ms",
                f"{1e3 * theirs:.1f} ms affine",
                theirs / ours,
                "",
            )


def _pasting(times: int) -> Line:
    sample = image_of_cells(300, 512, 512)
    boxes_N4 = (
        torch.from_numpy(masks.find_instances(sample.label_maps).boxes_N4.astype(np.float32)) + 0.3
    )
    probs_N28 = torch.from_numpy(np.random.default_rng(0).random((300, 28, 28)).astype(np.float32))
    ours, theirs, found, wanted = taking_turns(
        lambda: masks.paste_masks(probs_N28, boxes_N4, 512, 512),
        lambda: paste_masks_in_image(probs_N28[:, None], boxes_N4, (512, 512))[:, 0] > 0.5,
        times,
    )
    different = 0
    for crop, full_HW in zip(found, wanted.numpy(), strict=True):
        h, w = crop.pixels.shape
        different += int(full_HW.sum()) - int(
            (full_HW[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] & crop.pixels).sum()
        )
        different += crop.area - int(
            (full_HW[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] & crop.pixels).sum()
        )
    return Line(
        "300 predicted masks pasted, 512 px",
        f"{1e3 * ours:.1f} ms",
        f"{1e3 * theirs:.0f} ms torchvision",
        theirs / ours,
        f"{different} pixels differ",
    )


if __name__ == "__main__":
    print(as_text(lines(short="--short" in sys.argv)))
