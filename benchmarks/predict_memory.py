"""What predicting a large image with many instances takes of memory.

python -m benchmarks.predict_memory [--part paste|whole|tiles] [--threads N]

Each part runs in a process of its own, which prints its peak resident memory over what it had
before it began:

paste   1,500 synthetic detections in 2500 x 2000 pixels, most of about 23 px, some of 300, one of
        the whole image, from their 28 x 28 probabilities to COCO results
whole   a prediction of that many in such an image by an untrained resnet18, and its COCO results
tiles   the same in 35 tiles of 512 pixels, with so many detections in each: 12 minutes on one core
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.memory import forget_the_peak, peak_bytes
from core.config import TrialConfig
from core.data.dataset import Category
from core.labels import label_maps as masks
from core.network.build import build_detector
from core.prediction.submission import results_of
from core.prediction.trained_model import TrainedModel
from core.sample import Detections

HEIGHT, WIDTH, INSTANCES = 2500, 2000, 1500
PARTS = ("paste", "whole", "tiles")
CLASSES = tuple(Category(number, f"class{number}") for number in (1, 2, 3, 4))
UNTRAINED = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "predict.score_threshold": 0,
    "predict.max_detections": INSTANCES,
}


def main() -> None:
    """Run one part, or each in a fresh process, and print a row a part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parsed = parser.parse_args()
    if parsed.part is not None:
        print(json.dumps(measure(parsed.part, parsed.threads)))
        return
    stack = INSTANCES * HEIGHT * WIDTH
    print(f"{INSTANCES:,} instances in {HEIGHT} x {WIDTH} pixels, threads: {parsed.threads}")
    print(
        f"a stack of full-size masks: {stack / 2**20:,.0f} MB of bool, {4 * stack / 2**20:,.0f} MB"
        " of float32"
    )
    print("part   before MB  peak MB  over MB  windows MB  results  JSON MB  seconds")
    for part in PARTS:
        row = measure_in_fresh_process(part, parsed.threads)
        print(
            f"{part:5}  {row['before'] / 2**20:9,.0f}  {row['peak'] / 2**20:7,.0f} "
            f" {(row['peak'] - row['before']) / 2**20:7,.0f}  {row['windows'] / 2**20:10,.1f} "
            f" {row['results']:7,.0f}  {row['json'] / 2**20:7.2f}  {row['seconds']:7.1f}",
            flush=True,
        )


def measure_in_fresh_process(part: str, threads: int) -> dict[str, float]:
    """`measure`, where nothing else has run before."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.predict_memory",
        "--part",
        part,
        "--threads",
        str(threads),
    ]
    root = Path(__file__).parents[1]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
    row: dict[str, float] = json.loads(output)
    return row


def measure(part: str, threads: int) -> dict[str, float]:
    """Bytes before and at the peak, bytes of all mask windows and of the results as JSON,
    results, seconds.
    """
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    if part == "paste":
        probs_N28, boxes_N4 = some_detections(rng)
        _encoded(
            _pasted(probs_N28[:2], boxes_N4[:2])
        )  # what is loaded on first use is not part of it
    else:
        trained = untrained(tile=512 if part == "tiles" else 0)
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    forget_the_peak()
    before, begin = peak_bytes(), time.perf_counter()
    found = _pasted(probs_N28, boxes_N4) if part == "paste" else trained.predict(image)
    text = _encoded(found)
    seconds = time.perf_counter() - begin
    return {
        "before": before,
        "peak": peak_bytes(),
        "windows": sum(crop.pixels.nbytes for crop in found.masks),
        "results": len(found),
        "json": len(text),
        "seconds": seconds,
    }


def some_detections(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs, float32 [N, 28, 28], and boxes, float32 [N, 4]: the whole image, 15 of 300 pixels,
    the rest about 23.
    """
    sides_N2 = rng.normal(23, 5, (INSTANCES, 2)).clip(4)
    sides_N2[1:16] = 300
    corners_N2 = rng.random((INSTANCES, 2)) * ([WIDTH, HEIGHT] - sides_N2)
    boxes_N4 = np.concatenate([corners_N2, corners_N2 + sides_N2], axis=1)
    boxes_N4[0] = 0, 0, WIDTH, HEIGHT
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    noise_N28: NDArray[np.float64] = rng.random((INSTANCES, 28, 28))
    probs_N28 = 0.8 * np.exp(-(x * x + y * y)) + 0.2 * noise_N28
    return torch.from_numpy(probs_N28.astype(np.float32)), torch.from_numpy(
        boxes_N4.astype(np.float32)
    )


def untrained(tile: int) -> TrainedModel:
    """A network of random weights that finds as many instances as it may."""
    config = TrialConfig.from_settings(UNTRAINED | {"predict.tile": tile}, "benchmark")
    torch.manual_seed(0)
    return TrainedModel(
        config, CLASSES, build_detector(config.model, len(CLASSES), None, config.predict).eval()
    )


def _pasted(probs_N28: torch.Tensor, boxes_N4: torch.Tensor) -> Detections:
    crops = masks.paste_masks(probs_N28, boxes_N4, HEIGHT, WIDTH)
    count = len(crops)
    scores_N = np.linspace(1, 0.1, count, dtype=np.float32)
    return Detections(boxes_N4.numpy(), np.arange(count) % len(CLASSES) + 1, scores_N, tuple(crops))


def _encoded(found: Detections) -> str:
    return json.dumps(results_of(found, 1, HEIGHT, WIDTH, CLASSES))


if __name__ == "__main__":
    main()
