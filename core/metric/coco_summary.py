"""COCO's twelve numbers of a set of predictions, by pycocotools itself: what other papers print.

They take pycocotools' whole evaluation (ten IoUs, four ranges of area), which is far slower than
`core.metric.ap50`; so they are computed once, at the end of a trial.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.labels import label_maps as masks
from core.labels import rle
from core.sample import Detections, Sample

NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""The numbers in pycocotools' order. All but AP50 and AP75 are means over the IoUs .50 to .95; all
but AR_1 and AR_10 take at most 100 detections per image and class; a small instance has under 32^2
pixels, a large one over 96^2."""


def coco_summary(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: int
) -> Mapping[str, float | None]:
    """The twelve numbers of masks, by their `NAMES`, in 0..1; None where there is nothing to find.

    AP50 is that of `core.metric.ap50` with at most 100 detections, to 1e-12.
    """
    assert len(samples) == len(detections), "one Detections for each sample"
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (sample, found) in enumerate(zip(samples, detections, strict=True), start=1):
        height, width = sample.size
        instances = masks.find_instances(sample.label_maps)
        for row, (number, area) in enumerate(
            zip(instances.ids_N.tolist(), instances.areas_N.tolist(), strict=True)
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(sample.labels_N[number - 1]),
                    "segmentation": rle.encode(
                        masks.crop(sample.label_maps, instances, row), height, width
                    ),
                    "area": area,
                    "iscrowd": int(sample.crowd_N[number - 1]),
                }
            )
        for label, score, crop in zip(
            found.labels_N.tolist(), found.scores_N.tolist(), found.masks, strict=True
        ):
            results.append(
                {
                    "image_id": image,
                    "category_id": label,
                    "segmentation": rle.encode(crop, height, width),
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
        "categories": [{"id": number} for number in range(1, classes + 1)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(
        io.StringIO()
    ):  # it prints its progress, and no option keeps it from that
        truth.createIndex()
        empty.dataset = {**truth.dataset, "annotations": []}
        empty.createIndex()
        # An empty list of results is none that pycocotools loads.
        evaluation = COCOeval(truth, truth.loadRes(results) if results else empty, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.asarray(evaluation.stats).tolist()
    return {name: None if value < 0 else value for name, value in zip(NAMES, stats, strict=True)}
