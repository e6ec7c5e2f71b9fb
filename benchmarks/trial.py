"""What one trial costs: seconds an epoch, images/s and peak memory.

python -m benchmarks.trial [--data DIR] [--epochs N] [--threads N] [--set KEY=VALUE ...]
"""

import argparse
from collections.abc import Mapping

import torch
import yaml

from benchmarks.memory import peak_bytes
from core import data as datasets
from core.config import TrialConfig, Value
from core.training.trial import Trial

SMALL: Mapping[str, Value] = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.trainable_layers": 5,
    "model.image_min_side": 128,
    "model.image_max_side": 128,
    "model.proposals_train": 100,
    "model.proposals_test": 100,
    "model.box_samples": 64,
    "model.rpn_samples": 64,
}


def main() -> None:
    """Run a trial and print a row an epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument(
        "--full", action="store_true", help="begin from the defaults, not from a small model"
    )
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parsed = parser.parse_args()

    settings = {} if parsed.full else dict(SMALL)
    settings |= {
        key: yaml.safe_load(value)
        for key, _, value in (text.partition("=") for text in parsed.overrides)
    }
    settings["optim.epochs"] = parsed.epochs
    config = TrialConfig.from_settings(settings, "--set")
    trial = Trial(
        config,
        datasets.load_data(parsed.data),
        threads=parsed.threads,
        loader_workers=parsed.loader_workers,
    )
    print(
        f"{trial.device}, {parsed.threads} threads, {config.model.backbone}, batch"
        f" {config.optim.batch_size}, {len(trial.split.train)} training and"
        f" {len(trial.split.validation)} validation images"
    )
    print("epoch  seconds  training  evaluation  images/s  peak MB  loss    AP50")
    for _ in range(parsed.epochs):
        report = trial.run_epoch()
        peak = report.peak_memory_bytes or peak_bytes()
        print(
            f"{report.epoch:5d}  {report.seconds:7.2f}  {report.train_seconds:8.2f} "
            f" {report.evaluate_seconds:10.2f}  {report.images_per_second:8.2f} "
            f" {peak / 2**20:7.0f}  {report.losses['loss']:.3f}  {report.ap50:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
