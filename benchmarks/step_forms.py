"""AP50 after trainings with each form of a training step, that of a GPU and the other.

    python -m benchmarks.step_forms [--seeds N] [--processes N]   6 minutes on 2 cores (computed)

`MaskRCNN.fixed` names the forms. A test holds that their losses are equal for the same samples of
anchors and proposals; in a training the forms draw other samples, from the same distribution. So
whole trainings are compared, on images of drawn tissue: for each seed, which decides weights,
images and their order, one training with each form, and the AP50 of both on the same held-out
images. Evaluation is the same for both.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from scipy import stats

from core.config import TrialConfig
from core.data import synthetic
from core.metric import ap50
from core.network.mask_rcnn import MaskRCNN
from core.prediction.detect import combine
from core.prediction.views import Seen, look_at_samples
from core.sample import Sample
from core.training.trial import Trial

SEEDS, PROCESSES = 4, 2
SIDE, TRAIN, HELD_OUT = 96, 16, 60
"""Side in pixels of the images, and their number in training and in evaluation."""
SETTINGS: Mapping[str, Any] = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.trainable_layers": 5,
    "model.image_min_side": SIDE,
    "model.image_max_side": 2 * SIDE,
    "model.anchor_scale": 0.5,
    "model.proposals_train": 100,
    "model.proposals_test": 100,
    "model.rpn_samples": 64,
    "model.box_samples": 32,
    "predict.max_detections": 50,
    "optim.epochs": 6,
    "optim.learning_rate": 6e-4,
}
"""A small network without pretrained weights, so that the step's form matters as much as it can."""
CONFIDENCE = 0.95


def trained(seed: int, fixed: bool, settings: Mapping[str, Any] = SETTINGS) -> float:
    """AP50 on held-out images after a training with one form of the step."""
    torch.set_num_threads(1)
    config = TrialConfig.from_settings({**settings, "seed": seed})
    side = config.model.image_min_side
    trial = Trial(config, synthetic.make_cells(TRAIN, side, seed), validate=False, device="cpu")
    assert isinstance(trial.model, MaskRCNN)
    trial.model.fixed = fixed
    for _ in range(config.optim.epochs):
        trial.run_epoch()
    trial.model.eval()
    held_out = synthetic.make_cells(HELD_OUT, side, 1_000_000)
    classes = len(held_out.classes)

    def matched(sample: Sample, seen: Seen) -> Any:
        return ap50.match_image(sample, combine(seen, config.predict), classes)

    matches = look_at_samples([trial.model], held_out.samples, [config.predict], matched)
    of_masks, _ = ap50.match_tables(matches, classes)
    return ap50.ap50(of_masks, config.metric.max_dets).mean


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of values, and the ends of its t interval at CONFIDENCE."""
    mean = float(np.mean(values))
    half = float(
        stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
        * np.std(values, ddof=1)
        / math.sqrt(len(values))
    )
    return mean, mean - half, mean + half


HEADER = "seed  fixed   other   difference"


def line_of(seed: int, fixed: float, other: float) -> str:
    """The scores of a seed as one line, that of the fixed form first."""
    return f"{seed:4d}  {fixed:.4f}  {other:.4f}  {fixed - other:+.4f}"


def last_line(pairs: Sequence[tuple[float, float]]) -> str:
    """The mean scores, and the mean difference with its interval."""
    mean, low, high = mean_interval([fixed - other for fixed, other in pairs])
    of_fixed, of_other = np.mean(pairs, axis=0)
    return (
        f"AP50 {of_fixed:.4f} in the fixed form and {of_other:.4f} in the other: {mean:+.4f}"
        f" ({low:+.4f} to {high:+.4f}), n = {len(pairs)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scores of all trainings, and the mean difference with its interval."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_forms", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at least 2")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parsed = parser.parse_args(arguments)
    seeds = [seed for seed in range(parsed.seeds) for _ in range(2)]
    pairs: list[tuple[float, float]] = []
    print(HEADER)
    with ProcessPoolExecutor(parsed.processes, get_context("spawn")) as pool:
        scores = pool.map(trained, seeds, [True, False] * parsed.seeds)
        for seed, pair in enumerate(zip(scores, scores, strict=True)):
            pairs.append(pair)
            print(line_of(seed, *pair), flush=True)
    print(last_line(pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
