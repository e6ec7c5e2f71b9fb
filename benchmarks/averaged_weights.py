"""How much a moving average of the weights smooths the learning curve by which trials are judged.

    python -m benchmarks.averaged_weights [--seeds N] [--first SEED] [--epochs N]   a minute a seed

A small network learns synthetic cells, with new images and a new split for each seed. Averages of
its weights are kept beside it (`optim.ema`) and change nothing of its training, so after each epoch
of the second half all of them and the weights themselves are evaluated on the same validation
images. The measure of a curve's noise is the standard deviation of the change of AP50 from one
epoch to the next. A row has means over seeds, and their paired differences from the weights' own
with 95% t intervals.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import stats

from benchmarks.trial import SMALL
from core.config import TrialConfig, Value
from core.data import synthetic
from core.network.detector import Detector
from core.prediction.choice import evaluate_candidates
from core.prediction.trained_model import TrainedModel
from core.training.average import WeightAverage
from core.training.trial import Trial

HALF_LIVES = (0.5, 1.5)
"""Half-lives, in epochs, among which `best_ap50.yaml` searches."""
WEIGHTS = "weights"
"""Name of the curve of the weights themselves."""
IMAGES, SIDE = 32, 64
"""Number of images, half of which validate, and their side in pixels."""
SETTINGS: Mapping[str, Value] = {
    **SMALL,
    "data.validation_fraction": 0.5,
    "augment.horizontal_flip": True,
    "model.image_min_side": SIDE,
    "model.image_max_side": SIDE,
    "model.anchor_scale": 0.5,
    "model.proposals_train": 64,
    "model.proposals_test": 32,
    "model.box_samples": 32,
    "optim.learning_rate": 5e-4,
    "predict.max_detections": 16,
}

Curves = Mapping[str, Sequence[float]]
"""AP50 after each epoch of the second half, by the name of what was evaluated."""


def curves(seed: int, epochs: int) -> Curves:
    """The curves of one training."""
    settings = {**SETTINGS, "seed": seed, "data.split_seed": seed, "optim.epochs": epochs}
    data = synthetic.make_cells(IMAGES, SIDE, seed)
    trial = Trial(TrialConfig.from_settings(settings), data, device="cpu", threads=1)
    steps = trial.optim.schedule.steps_per_epoch
    averages = {
        f"half-life {half_life:g}": WeightAverage(trial.model, half_life * steps)
        for half_life in HALF_LIVES
    }
    made = 0

    def after_a_step(*_: object) -> None:
        nonlocal made
        made += 1
        for average in averages.values():
            average.update(made)

    trial.optim.optimizer.register_step_post_hook(after_a_step)
    found: dict[str, list[float]] = {name: [] for name in (WEIGHTS, *averages)}
    for epoch in range(epochs):
        score = trial.run_epoch().ap50
        if epoch < epochs // 2:
            continue
        found[WEIGHTS].append(score or 0.0)
        for name, average in averages.items():
            found[name].append(_ap50(trial, average.model))
    return found


def _ap50(trial: Trial, model: Detector) -> float:
    """AP50 of another model on the trial's validation images."""
    trained = TrainedModel(trial.config, trial.data.classes, model, None)
    samples = [trial.data.samples[index] for index in trial.split.validation]
    (found,) = evaluate_candidates(trained, samples, [trial.config.predict], keep=False)
    return found.ap50


def summary(curve: Sequence[float]) -> dict[str, float]:
    """The numbers of a curve that are compared."""
    change = np.diff(curve)
    return {"SD of change": float(change.std(ddof=1)), "last": curve[-1], "best": max(curve)}


CONFIDENCE = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of values, and the ends of its t interval at CONFIDENCE."""
    mean = float(np.mean(values))
    half = float(
        stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
        * np.std(values, ddof=1)
        / math.sqrt(len(values))
    )
    return mean, mean - half, mean + half


def rows(by_seed: Sequence[Curves]) -> list[str]:
    """The table of two seeds or more."""
    columns = list(summary(by_seed[0][WEIGHTS]))
    lines = [f"{'':16}" + "".join(f"{column:>36}" for column in columns)]
    for name in by_seed[0]:
        cells = []
        for column in columns:
            own, plain = (
                [summary(one[curve])[column] for one in by_seed] for curve in (name, WEIGHTS)
            )
            cell = f"{np.mean(own):.4f}"
            if name != WEIGHTS:
                mean, low, high = mean_interval(np.subtract(own, plain).tolist())
                cell += f" ({mean:+.4f}, {low:+.4f} to {high:+.4f})"
            cells.append(f"{cell:>36}")
        lines.append(f"{name:16}" + "".join(cells))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each seed's curves as they come, and the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.averaged_weights", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=6, help="at least 2")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12, help="at least 6")
    parsed = parser.parse_args(arguments)
    by_seed: list[Curves] = []
    for seed in range(parsed.first, parsed.first + parsed.seeds):
        by_seed.append(curves(seed, parsed.epochs))
        for name, curve in by_seed[-1].items():
            print(seed, f"{name:16}", *(f"{value:.3f}" for value in curve), flush=True)
    print(f"n = {parsed.seeds} seeds, {parsed.epochs} epochs", *rows(by_seed), sep="\n")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
