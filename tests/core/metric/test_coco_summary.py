"""Laws of COCO's twelve numbers: they are pycocotools', and agree with what else is known."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.labels import rle
from core.labels.label_maps import crop_mask, find_instances
from core.metric.ap50 import ap50, match_images
from core.metric.coco_summary import SUMMARY_NAMES, coco_summary
from core.sample import Detections, MaskCrop, Sample
from tests.core.scenes import CLASSES, random_detections, random_sample, random_scene


def official(
    samples: Sequence[Sample], detections: Sequence[Detections]
) -> dict[str, float | None]:
    """The twelve numbers by pycocotools itself."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (sample, found) in enumerate(zip(samples, detections, strict=True), start=1):
        instances = find_instances(sample.label_maps)
        for row, (number, area) in enumerate(
            zip(instances.ids_N.tolist(), instances.areas_N.tolist(), strict=True)
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(sample.labels_N[number - 1]),
                    "segmentation": rle.encode(
                        crop_mask(sample.label_maps, instances, row), *sample.size
                    ),
                    "area": area,
                    "iscrowd": int(sample.crowd_N[number - 1]),
                }
            )
        for label, score, mask in zip(
            found.labels_N.tolist(), found.scores_N.tolist(), found.masks, strict=True
        ):
            results.append(
                {
                    "image_id": image,
                    "category_id": label,
                    "segmentation": rle.encode(mask, *sample.size),
                    "score": score,
                }
            )
    truth, empty = COCO(), COCO()
    truth.dataset = {
        "info": {},
        "images": [
            {"id": number, "height": sample.size[0], "width": sample.size[1]}
            for number, sample in enumerate(samples, start=1)
        ],
        "categories": [{"id": number} for number in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        empty.dataset = {**truth.dataset, "annotations": []}
        empty.createIndex()
        # An empty list of results is none that pycocotools loads.
        evaluation = COCOeval(truth, truth.loadRes(results) if results else empty, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.asarray(evaluation.stats).tolist()
    return {
        name: None if value < 0 else value for name, value in zip(SUMMARY_NAMES, stats, strict=True)
    }


def larger(
    scene: tuple[list[Sample], list[Detections]], factor: int
) -> tuple[list[Sample], list[Detections]]:
    """The same scene with `factor` times as many pixels a side."""
    block = np.ones((factor, factor), np.uint16)
    samples = [
        replace(
            sample,
            image=np.kron(sample.image[..., 0], block)[..., None].astype(np.uint8),
            label_maps=np.stack([np.kron(one, block) for one in sample.label_maps]),
        )
        for sample in scene[0]
    ]
    detections = [
        replace(
            found,
            boxes_N4=found.boxes_N4 * factor,
            masks=tuple(
                MaskCrop(
                    mask.y0 * factor, mask.x0 * factor, np.kron(mask.pixels, block).astype(bool)
                )
                for mask in found.masks
            ),
        )
        for found in scene[1]
    ]
    return samples, detections


@given(seed=st.integers(0, 2**32), factor=st.sampled_from([1, 1, 5, 16]))
@settings(max_examples=40, deadline=None)
def test_they_are_those_of_pycocotools(seed: int, factor: int) -> None:
    samples, detections = larger(random_scene(seed), factor)
    expected = official(samples, detections)
    found = coco_summary(samples, detections, CLASSES)
    assert tuple(found) == SUMMARY_NAMES
    assert found == pytest.approx(expected, abs=1e-12)


def test_they_are_those_of_pycocotools_where_more_than_100_detections_of_a_class_are_cut_off() -> (
    None
):
    rng = np.random.default_rng(3)
    samples = [random_sample(rng, f"image{number}", [1, 2], 20) for number in range(2)]
    detections = [random_detections(rng, sample, [1, 2], 260) for sample in samples]
    assert min(np.bincount(found.labels_N)[1:].max() for found in detections) > 100
    found = coco_summary(samples, detections, CLASSES)
    assert found == pytest.approx(official(samples, detections), abs=1e-12)
    cut = [
        Detections(one.boxes_N4[:100], one.labels_N[:100], one.scores_N[:100], one.masks[:100])
        for one in detections
    ]
    assert coco_summary(samples, cut, CLASSES) != found


def test_instances_of_all_sizes_are_among_those_that_are_compared_with_pycocotools() -> None:
    found = [coco_summary(*larger(random_scene(seed), 5), CLASSES) for seed in range(5)]
    found += [coco_summary(*larger(random_scene(seed), 16), CLASSES) for seed in range(5)]
    for name in ("AP_small", "AP_medium", "AP_large"):
        assert any(one[name] for one in found)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_its_ap50_is_ours(seed: int) -> None:
    samples, detections = random_scene(seed)
    found = coco_summary(samples, detections, CLASSES)
    assert tuple(found) == SUMMARY_NAMES
    ours = ap50(match_images(samples, detections, CLASSES)[0], 100).mean
    assert (
        found["AP50"] is None if ours != ours else found["AP50"] == pytest.approx(ours, abs=1e-12)
    )


def test_the_annotations_themselves_have_all_numbers_at_1_but_for_recall_by_one_detection(
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn = [
        sample for seed in range(4) for sample in random_scene(seed)[0] if len(sample.labels_N)
    ]
    samples = [replace(sample, crowd_N=np.zeros_like(sample.crowd_N)) for sample in drawn]
    perfect = []
    for sample in samples:
        there = find_instances(sample.label_maps)
        perfect.append(
            Detections(
                there.boxes_N4.astype("float32"),
                sample.labels_N[there.ids_N - 1],
                there.areas_N.astype("float32") * 0 + 0.5,
                tuple(crop_mask(sample.label_maps, there, row) for row in range(len(there))),
            )
        )
    found = coco_summary(samples, perfect, CLASSES)
    assert [found[name] for name in ("AP", "AP50", "AP75", "AP_small", "AR_100")] == pytest.approx(
        [1.0] * 5
    )
    assert found["AP_large"] is None
    assert capsys.readouterr().out == ""


def test_without_detections_what_there_is_to_find_is_not_found() -> None:
    samples, detections = random_scene(5)
    none = [Detections(d.boxes_N4[:0], d.labels_N[:0], d.scores_N[:0], ()) for d in detections]
    assert coco_summary(samples, none, CLASSES)["AP"] == 0.0
