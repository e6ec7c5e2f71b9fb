"""Laws of COCO's twelve numbers: they agree with what else we know of the same predictions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.labels.label_maps import crop, find_instances
from core.metric.ap50 import ap50, match
from core.metric.coco_summary import NAMES, coco_summary
from core.sample import Detections
from tests.core.scenes import CLASSES, random_scene


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_its_ap50_is_ours(seed: int) -> None:
    samples, detections = random_scene(seed)
    found = coco_summary(samples, detections, CLASSES)
    assert tuple(found) == NAMES
    ours = ap50(match(samples, detections, CLASSES)[0], 100).mean
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
                tuple(crop(sample.label_maps, there, row) for row in range(len(there))),
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
