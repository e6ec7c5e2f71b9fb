"""The evaluation of an epoch: masks, matches and COCO's numbers, and what helper threads bring.

    python -m benchmarks.evaluation [--short]

First without the network, 41 images with 300 detections each. Ours pastes, matches masks and boxes,
and computes AP50; theirs encodes the same masks and runs pycocotools, with what AP50 needs alone.
Then COCO's twelve numbers, for which theirs is pycocotools' whole evaluation. Last with a network
that was never trained, with helper threads on the processors of a trial and without.
"""

import contextlib
import io
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.cells import CLASSES, image_of_cells
from benchmarks.table import Line, as_text
from core.config import ModelConfig, PredictConfig
from core.labels import label_maps as masks
from core.metric.ap50 import ImageMatches, MatchTable, ap50, match_image, match_tables
from core.metric.coco_summary import coco_summary
from core.metric.limits import class_limits
from core.network.build import build_detector
from core.prediction.detect import combine
from core.prediction.views import Seen, look_at_samples
from core.sample import Detections, Sample

IMAGES, DETECTIONS, SIDE = 41, 300, 512
MAX_DETS = 100


def predictions(
    sample: Sample, seed: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Mask probabilities [N, 28, 28], boxes [N, 4], labels [N] and descending scores [N], near
    the annotations.
    """
    rng = np.random.default_rng(seed)
    truth = masks.find_instances(sample.label_maps)
    rows = rng.integers(0, len(truth), DETECTIONS)
    boxes_N4 = truth.boxes_N4[rows] + rng.normal(0, 2.0, (DETECTIONS, 4))
    boxes_N4[:, 2:] = np.maximum(boxes_N4[:, 2:], boxes_N4[:, :2] + 2)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    probs_N28 = np.clip(1.5 - np.hypot(x, y)[None] + rng.normal(0, 0.1, (DETECTIONS, 28, 28)), 0, 1)
    labels_N = np.where(rng.random(DETECTIONS) < 0.9, sample.labels_N[truth.ids_N[rows] - 1], 1)
    scores_N = -np.sort(-rng.random(DETECTIONS)).astype(np.float32)
    boxes_N4 = np.clip(boxes_N4, 0, SIDE).astype(np.float32)
    return (
        torch.from_numpy(probs_N28.astype(np.float32)),
        torch.from_numpy(boxes_N4),
        labels_N,
        scores_N,
    )


def lines(short: bool) -> Iterator[Line]:
    """An epoch's evaluation, and pycocotools' on the same masks."""
    torch.set_num_threads(1)
    samples = [image_of_cells(DETECTIONS, SIDE, SIDE, seed) for seed in range(IMAGES)]
    raw = [predictions(sample, seed) for seed, sample in enumerate(samples)]
    begin = time.perf_counter()
    found = []
    for probs_N28, boxes_N4, labels_N, scores_N in raw:
        crops = masks.paste_masks(probs_N28, boxes_N4, SIDE, SIDE)
        keep = np.array([crop.area > 0 for crop in crops])
        kept = tuple(crop for crop, kept in zip(crops, keep, strict=True) if kept)
        found.append(Detections(boxes_N4.numpy()[keep], labels_N[keep], scores_N[keep], kept))
    pasted = time.perf_counter()
    matched = [match_image(*pair, CLASSES) for pair in zip(samples, found, strict=True)]
    of_masks, of_boxes = match_tables(matched, CLASSES)
    score = ap50(of_masks, MAX_DETS).mean
    ap50(of_masks, None), ap50(of_boxes, MAX_DETS)
    ours = time.perf_counter() - begin
    matching = time.perf_counter() - pasted
    begin = time.perf_counter()
    class_limits(matched, CLASSES, MAX_DETS)
    limits = time.perf_counter() - begin

    coco, results, encoding = _as_coco(samples, found)
    theirs, stat = _coco_eval(coco, results, whole=False)
    differ = abs(stat - score)
    what = f"evaluation, {IMAGES} images x {DETECTIONS} detections"
    yield Line(f"{what}: paste, match, AP50", f"{ours:.2f} s", "", None, "goal: under 2 s")
    yield Line(
        f"{what}: match, AP50 (masks and boxes)",
        f"{matching:.2f} s",
        f"{encoding + theirs:.2f} s pycocotools, masks at IoU 0.5 alone",
        (encoding + theirs) / matching,
        f"AP50 differs by {differ:.0e}",
    )
    yield Line(
        f"{what}: what limited each class",
        f"{1000 * limits:.0f} ms",
        f"{1000 * ours:.0f} ms, all of the first line",
        None,
        f"{limits / ours:.1%} of it, in epochs that are the best so far",
    )
    if not short:
        begin = time.perf_counter()
        numbers = coco_summary(samples, found, CLASSES)
        ours = time.perf_counter() - begin
        whole, stat = _coco_eval(coco, results, whole=True)
        yield Line(
            f"{what}: COCO's twelve numbers",
            f"{ours:.2f} s",
            f"{encoding + whole:.1f} s pycocotools",
            (encoding + whole) / ours,
            f"AP50 differs by {abs(stat - float(numbers['AP50'] or 0)):.0e}",
        )
    yield from _with_a_network(4 if short else 12, repeats=1 if short else 3)


def _with_a_network(images: int, repeats: int) -> Iterator[Line]:
    """The same with a network, on all processors of a trial: helpers against none."""
    threads = min(2, len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="resnet18", weights="none", image_min_side=320, image_max_side=320
    )
    predict = PredictConfig(max_detections=DETECTIONS)
    model = build_detector(config, CLASSES, None, predict).eval()
    samples = [image_of_cells(100, 320, 320, seed) for seed in range(images)]

    def end(sample: Sample, seen: Seen) -> ImageMatches:
        return match_image(sample, combine(seen, predict), CLASSES)

    def run(helpers: int) -> tuple[float, MatchTable]:
        begin = time.perf_counter()
        matched = look_at_samples([model], samples, [predict], end, helpers=helpers)
        return time.perf_counter() - begin, match_tables(matched, CLASSES)[0]

    run(0)
    seconds: dict[int, list[float]] = {0: [], threads - 1: []}
    tables = {}
    for _ in range(repeats):
        for helpers, of_kind in seconds.items():
            one, tables[helpers] = run(helpers)
            of_kind.append(one)
    alone, helped = (statistics.median(of_kind) for of_kind in (seconds[0], seconds[threads - 1]))
    same = np.array_equal(tables[0].score_D, tables[threads - 1].score_D)
    yield Line(
        f"evaluation, network included, {images} images of 320 px, {threads} processors",
        f"{helped:.2f} s",
        f"{alone:.2f} s without helpers",
        alone / helped,
        f"match tables {'equal' if same else 'DIFFER'}, n = {repeats}",
    )


def _as_coco(
    samples: list[Sample], found: list[Detections]
) -> tuple[COCO, list[dict[str, Any]], float]:
    """Annotations, results, and seconds that encoding the results' full masks took."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    seconds = 0.0
    for image, (sample, detections) in enumerate(zip(samples, found, strict=True), start=1):
        truth = masks.find_instances(sample.label_maps)
        for number, area in zip(truth.ids_N.tolist(), truth.areas_N.tolist(), strict=True):
            full = np.asfortranarray(sample.label_maps[0] == number).astype(np.uint8, order="F")
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(sample.labels_N[number - 1]),
                    "segmentation": coco_mask.encode(full),
                    "area": area,
                    "iscrowd": 0,
                }
            )
        for label, score, crop in zip(
            detections.labels_N.tolist(),
            detections.scores_N.tolist(),
            detections.masks,
            strict=True,
        ):
            begin = time.perf_counter()
            full = np.zeros(sample.size, np.uint8, order="F")
            h, w = crop.pixels.shape
            full[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
            encoded = coco_mask.encode(full)
            seconds += time.perf_counter() - begin
            results.append(
                {"image_id": image, "category_id": label, "score": score, "segmentation": encoded}
            )
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [
            {"id": image, "height": SIDE, "width": SIDE} for image in range(1, len(samples) + 1)
        ],
        "categories": [{"id": label} for label in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco, results, seconds


def _coco_eval(coco: COCO, results: list[dict[str, Any]], whole: bool) -> tuple[float, float]:
    """Seconds of COCOeval and its AP50."""
    with contextlib.redirect_stdout(io.StringIO()):
        begin = time.perf_counter()
        # Copies, because it writes into the results that it is given.
        evaluation = COCOeval(coco, coco.loadRes([dict(one) for one in results]), "segm")
        if not whole:
            evaluation.params.iouThrs = np.array([0.5])
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        seconds = time.perf_counter() - begin
    precision_TRKAM = evaluation.eval["precision"]
    return seconds, float(precision_TRKAM[0, :, :, 0, -1].mean())


if __name__ == "__main__":
    print(as_text(lines(short="--short" in sys.argv)))
