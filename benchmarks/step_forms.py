"""AP50 after trainings with each form of a training step, that of a GPU and the other.

    python -m benchmarks.step_forms [--seeds N] [--processes N]   6 minutes on 2 cores (computed)

`MaskRCNN.fixed` names the forms. A test holds that their losses are equal for the same samples of
anchors and proposals; in a training the forms draw other samples, from the same distribution. So
whole trainings are compared, on images of drawn tissue whose cells are all of one class, since rare
classes would add more noise than anything else: for each seed, which decides weights,
images and their order, one training with each form, and the AP50 of both on the same held-out
images. Evaluation is the same for both. The difference has its interval by the statistics of a
report (`tune.statistics.certainty`).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from core.config import TrialConfig
from core.data import synthetic
from core.data.dataset import Category, Dataset, assemble
from core.metric import ap50
from core.network.mask_rcnn import MaskRCNN
from core.prediction.detect import combine
from core.prediction.views import Seen, look_at_samples
from core.sample import Sample
from core.training.trial import Trial
from tune.statistics.certainty import Difference, Repeat, Scored, compare_all

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


def cells(images: int, side: int, seed: int) -> Dataset:
    """Drawn tissue whose cells are all of one class."""
    samples = [
        replace(sample, labels_N=np.ones_like(sample.labels_N))
        for sample in synthetic.make_cells(images, side, seed).samples
    ]
    return assemble("cells", [Category(1, "cell")], samples, [])


def trained(seed: int, fixed: bool, settings: Mapping[str, Any] = SETTINGS) -> Scored:
    """The AP50 on held-out images after a training with one form of the step."""
    torch.set_num_threads(1)
    config = TrialConfig.from_settings({**settings, "seed": seed})
    side = config.model.image_min_side
    trial = Trial(config, cells(TRAIN, side, seed), validate=False, device="cpu")
    assert isinstance(trial.model, MaskRCNN)
    trial.model.fixed = fixed
    for _ in range(config.optim.epochs):
        trial.run_epoch()
    trial.model.eval()
    held_out = cells(HELD_OUT, side, 1_000_000)
    classes = len(held_out.classes)

    def matched(sample: Sample, seen: Seen) -> ap50.ImageMatches:
        return ap50.match_image(sample, combine(seen, config.predict), classes)

    matches = look_at_samples([trial.model], held_out.samples, [config.predict], matched)
    of_masks, _ = ap50.match_tables(matches, classes)
    return Scored.of(of_masks, config.metric.max_dets)


FIXED, OTHER = "fixed", "other"


def difference(pairs: Sequence[tuple[Scored, Scored]]) -> Difference:
    """The fixed form less the other, over images and seeds; one pair for each seed."""
    scores = {
        form: {Repeat(seed): scored for seed, scored in enumerate(column)}
        for form, column in zip((FIXED, OTHER), zip(*pairs, strict=True), strict=True)
    }
    return compare_all(scores, [(FIXED, OTHER)])[0]


HEADER = "seed  fixed   other   difference"


def line_of(seed: int, fixed: Scored, other: Scored) -> str:
    """The scores of a seed as one line, that of the fixed form first."""
    return f"{seed:4d}  {fixed.ap50:.4f}  {other.ap50:.4f}  {fixed.ap50 - other.ap50:+.4f}"


def last_line(pairs: Sequence[tuple[Scored, Scored]]) -> str:
    """The mean scores, and the mean difference with its interval."""
    of_fixed, of_other = (
        sum(scored.ap50 for scored in column) / len(pairs) for column in zip(*pairs, strict=True)
    )
    found = difference(pairs)
    return (
        f"AP50 {of_fixed:.4f} in the fixed form and {of_other:.4f} in the other:"
        f" {found.estimate:+.4f} ({found.low:+.4f} to {found.high:+.4f}), n = {len(pairs)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scores of all trainings, and the mean difference with its interval."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_forms", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at least 3")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parsed = parser.parse_args(arguments)
    seeds = [seed for seed in range(parsed.seeds) for _ in range(2)]
    pairs: list[tuple[Scored, Scored]] = []
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
