"""A picture for README: the prediction of one model, which is trained here, on real tissue.

    python -m benchmarks.tissue_picture --weights FILE [--stride-in-1x1] [--data DIR]
        [--minutes 25] [--out DIR] [--publish]

DIR holds the data as `benchmarks.tissue` takes it, and FILE the weights of a ResNet-50. Every crop
is cut into its four quarters of 250 px. The split is by tile, so the images that are pictured and
scored come from tiles without a training image.

A few training images are timed first. The training then has as many epochs as fit in the minutes.
No epoch begins that would probably end later than one and a half times the minutes; the caption
says how many epochs ran. A run that was interrupted continues with the same command.

OUT gets three files: `prediction.jpg`, the validation image with the median AP50, as it is, as
annotated and as predicted; `prediction.json`, all numbers of the caption; and `caption.md`. The
picture is chosen by this rule and not by its looks. `--publish` copies them into docs/tissue, and
the caption into README.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from benchmarks.pages import as_jpeg, wrapped, write_part
from benchmarks.proof.state import commit, machine, machine_in_words
from benchmarks.tissue import GROUPS, all_quarters, data_of, found_data
from core.command import command_line
from core.config import TrialConfig, Value
from core.console import say
from core.data import load_data
from core.data.dataset import Dataset, assemble
from core.data.split import group_names
from core.errors import BadRequest, StudyError
from core.files import parse_json, write_atomically, write_json_atomically
from core.metric.ap50 import MatchTable, ap50, balanced_score, match_images
from core.prediction.overlay import draw_overlay
from core.sample import Detections, Sample
from core.text import many
from core.training.trial import Trial
from core.values import as_ap50, as_duration, as_interval
from tune.statistics.certainty import Scored, interval

ROOT = Path(__file__).parents[1]
FOLDER = Path("docs/tissue")
PICTURE, NUMBERS, CAPTION = "prediction.jpg", "prediction.json", "caption.md"
"""The files of OUT, and of FOLDER in the project."""
PART_BEGIN, PART_END = (
    "<!-- prediction: written by benchmarks.tissue_picture -->",
    "<!-- end of prediction -->",
)
"""The lines of README between which the picture and its caption stand."""
SETTINGS: Mapping[str, Value] = {
    # The classes of S. Graham et al. 2019, "Hover-Net", in which these are joined.
    "data.class_names": "other,inflammatory,epithelial,spindle-shaped",
    "data.group_pattern": GROUPS,
    "data.validation_fraction": 0.15,
    "model.trainable_layers": 3,
    "model.image_min_side": 320,
    "model.image_max_side": 320,
    "model.anchor_scale": 0.5,
    "model.proposals_train": 500,
    "model.proposals_test": 500,
    "model.box_samples": 64,
    "augment.horizontal_flip": True,
    "augment.vertical_flip": True,
    "augment.quarter_turns": True,
    "optim.learning_rate": 2e-4,
    "optim.warmup_epochs": 0.25,
    "optim.batch_size": 1,
    "optim.precision": "bf16",
    "predict.max_detections": 200,
}
"""The settings of the training. Stages, learning rate, flips and anchors are those that were best
on tissue (results/LOG.md). Sizes, caps and bf16 make an image cheap enough for a processor, and
batches of one give the most steps in the time."""
TIMED = 12
"""Training images that are timed before the number of epochs is chosen."""
LONGEST = 1.5
"""Multiple of the minutes; an epoch that would probably end later does not begin."""
PANEL = 500
"""Side of each of the three panels, in screen pixels."""
MOST_BYTES = 250_000
"""Largest size of the picture, in bytes."""


@dataclass(frozen=True)
class Predicted:
    """The detections of a trained model in the validation images.

    samples      the images with their annotations
    found        the detections in each
    table        their matches
    any_class    the matches if the class of a cell does not count
    """

    samples: Sequence[Sample]
    found: Sequence[Detections]
    table: MatchTable
    any_class: MatchTable


def config_of(weights: Path, stride_in_1x1: bool, epochs: int) -> TrialConfig:
    """The configuration of the training."""
    return TrialConfig.from_settings(
        {
            **SETTINGS,
            "model.weights": str(weights),
            "model.stride_in_1x1": stride_in_1x1,
            "optim.epochs": epochs,
        }
    )


def epochs_that_fit(images: int, seconds_per_image: float, minutes: float) -> int:
    """The number of epochs of `images` images that take at most `minutes`; at least 1."""
    return max(1, int(60 * minutes / (images * seconds_per_image)))


def seconds_per_image(data: Dataset, weights: Path, stride_in_1x1: bool) -> float:
    """Seconds that a training image takes, measured on TIMED of them."""
    few = replace(data, samples=data.samples[:TIMED], validation=())
    pilot = Trial(config_of(weights, stride_in_1x1, 1), few, validate=False)
    begin = time.monotonic()
    pilot.run_epoch()
    return (time.monotonic() - begin) / TIMED


def trained(data: Dataset, weights: Path, stride_in_1x1: bool, minutes: float, out: Path) -> Trial:
    """Train the model, or continue its training from `out`, which also keeps the chosen plan."""
    console = Console(stderr=True)
    plan = out / "plan.json"
    if plan.exists():
        epochs = int(parse_json(plan.read_bytes())["epochs"])
    else:
        each = seconds_per_image(data, weights, stride_in_1x1)
        # Every image trains or validates in an epoch; one that validates takes less time.
        epochs = epochs_that_fit(len(data.samples), each, minutes)
        write_json_atomically(plan, {"epochs": epochs, "seconds_per_image": each})
    trial = Trial(config_of(weights, stride_in_1x1, epochs), data)
    checkpoints = out / "checkpoints"
    if checkpoints.exists():
        trial.load(checkpoints)
    begin = time.monotonic()
    say(
        console,
        f"Trains on {many(len(trial.split.train), 'image')}, validates on"
        f" {many(len(trial.split.validation), 'image')}, {many(epochs, 'epoch')}",
    )
    while trial.epoch < epochs:
        spent = time.monotonic() - begin
        last = trial.reports[-1].seconds if trial.reports else 0.0
        if trial.reports and spent + last > 60 * LONGEST * minutes:
            break
        report = trial.run_epoch()
        checkpoints.mkdir(exist_ok=True)
        trial.save(checkpoints)
        score = as_ap50(report.ap50 or 0.0)
        say(console, f"Epoch {report.epoch}: AP50 {score}, {as_duration(report.seconds)}")
    return trial


def predicted(trial: Trial) -> Predicted:
    """Find cells in the validation images by the model of the best epoch."""
    model = trial.trained_model()
    samples = [trial.data.samples[index] for index in trial.split.validation]
    found = [model.predict(sample.image) for sample in samples]
    table, _ = match_images(samples, found, len(trial.data.classes))
    any_class, _ = match_images(
        [replace(one, labels_N=np.ones_like(one.labels_N)) for one in samples],
        [replace(one, labels_N=np.ones_like(one.labels_N)) for one in found],
        1,
    )
    return Predicted(samples, found, table, any_class)


def median_image(seen: Predicted, max_dets: int) -> tuple[int, float]:
    """The place and AP50 of the image with the median AP50, among those with annotated cells.

    Of two images in the middle it is the one with the higher AP50; images with equal AP50 are
    ordered by name.
    """
    classes = seen.table.truths_IC.shape[1]
    ranked = []
    for place, (sample, found) in enumerate(zip(seen.samples, seen.found, strict=True)):
        score = ap50(match_images([sample], [found], classes)[0], max_dets).mean
        if not np.isnan(score):
            ranked.append((score, sample.name, place))
    if not ranked:
        raise StudyError("a validation image must hold an annotated cell, and none does")
    score, _, place = sorted(ranked)[len(ranked) // 2]
    return place, score


def numbers_of(trial: Trial, seen: Predicted, minutes: float) -> dict[str, Any]:
    """All numbers of the caption, and what is needed to repeat the training."""
    max_dets = trial.config.metric.max_dets
    place, score = median_image(seen, max_dets)
    units = group_names(seen.table.image_names, GROUPS, "validation")
    sure = interval(Scored.of(seen.table, max_dets, units))
    threshold = balanced_score(seen.table)
    pictured = seen.samples[place]
    assert trial.best is not None
    return {
        "image": pictured.name,
        "image_ap50": score,
        "cells": len(pictured.labels_N),
        "threshold": 0.5 if threshold is None else threshold,
        "ap50": ap50(seen.table, max_dets).mean,
        "low": sure.low,
        "high": sure.high,
        "per_class": dict(
            zip(
                [category.name for category in trial.data.classes],
                ap50(seen.table, max_dets).per_class,
                strict=True,
            )
        ),
        "any_class_ap50": ap50(seen.any_class, max_dets).mean,
        "validation_images": len(trial.split.validation),
        "validation_tiles": len(set(units)),
        "validation_cells": int(seen.table.truths_IC.sum()),
        "training_images": len(trial.split.train),
        "side": int(pictured.size[0]),
        "epochs": trial.epoch,
        "planned_epochs": trial.config.optim.epochs,
        "best_epoch": trial.best.epoch,
        "curve": [report.ap50 for report in trial.reports],
        "train_seconds": sum(report.train_seconds for report in trial.reports),
        "minutes_asked": minutes,
        "threads": torch.get_num_threads(),
        "machine": machine_in_words(machine()),
        "commit": commit(),
        "settings": {**SETTINGS, "model.stride_in_1x1": trial.config.model.stride_in_1x1},
    }


def caption_of(found: Mapping[str, Any]) -> str:
    """The caption, in Markdown, from the numbers of `numbers_of`."""
    ran = many(found["epochs"], "epoch")
    if found["epochs"] < found["planned_epochs"]:
        ran = f"{found['epochs']} of {found['planned_epochs']} planned epochs"
    on_gpu = not str(found["machine"]).startswith("no GPU")
    threads = many(found["threads"], "thread")
    where = "a GPU" if on_gpu else f"{threads} of a processor, without a GPU"
    sure = as_interval(found["ap50"], found["low"], found["high"], signed=False)
    return (
        "*Colon tissue with stained nuclei (CoNSeP): the image, its annotated cells, and the cells"
        " that a model found. The image was not chosen for its looks: of the"
        f" {many(found['validation_images'], 'validation image')} it has the median AP50,"
        f" {as_ap50(found['image_ap50'])}, where 1 means that every cell is found and nothing else."
        f" Over all of them AP50 is {sure} as the mean of"
        f" {many(len(found['per_class']), 'class', 'classes')} of cells; the numbers in parentheses"
        f" are its 95% interval, from {many(found['validation_tiles'], 'tile')}. It is"
        f" {as_ap50(found['any_class_ap50'])} if the class of a cell does not count. The model is a"
        " Mask R-CNN with a ResNet-50 that begins with ImageNet's weights. It was trained for"
        f" {ran} on {many(found['training_images'], 'image')} of {found['side']} px from other"
        f" tiles, which took {as_duration(found['train_seconds'])} on {where}.*"
    )


def write_picture(seen: Predicted, numbers: Mapping[str, Any], data: Dataset, out: Path) -> None:
    """Write the three files."""
    place = next(i for i, one in enumerate(seen.samples) if one.name == numbers["image"])
    sample = seen.samples[place]
    drawn = draw_overlay(
        sample.image, seen.found[place], data.classes, sample, PANEL, numbers["threshold"]
    )
    write_atomically(out / PICTURE, as_jpeg(Image.fromarray(drawn), MOST_BYTES))
    write_json_atomically(out / NUMBERS, dict(numbers))
    write_atomically(out / CAPTION, (wrapped(caption_of(numbers)) + "\n").encode())


def publish(out: Path, root: Path = ROOT) -> None:
    """Copy the files into docs/tissue, and the picture's line and caption into README.

    Raises StudyError if README has no place for them.
    """
    write_part(root / "README.md", PART_BEGIN, PART_END, readme_part(out))
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for name in (PICTURE, NUMBERS, CAPTION):
        shutil.copyfile(out / name, root / FOLDER / name)


def readme_part(folder: Path) -> str:
    """README's lines about the picture whose caption is in `folder`."""
    alt = "Stained tissue, its annotated cells, and the cells that a model found"
    return f"![{alt}]({FOLDER}/{PICTURE})\n\n{(folder / CAPTION).read_text()}"


@command_line("Interrupted; to continue, run the same command again")
def main(arguments: Sequence[str] | None = None) -> int:
    """Train and score the model, make the picture, and print the caption."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tissue_picture", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--stride-in-1x1", action="store_true", help="as the weights have it")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--out", type=Path, default=Path("results/tissue_picture"), metavar="DIR")
    parser.add_argument("--publish", action="store_true", help="copy to docs/tissue and README")
    parsed = parser.parse_args(arguments)
    if not parsed.minutes > 0:
        raise BadRequest(f"--minutes must be above 0, and is {parsed.minutes}")
    out: Path = parsed.out
    out.mkdir(parents=True, exist_ok=True)
    config = config_of(parsed.weights, parsed.stride_in_1x1, 1)
    whole = load_data(str(data_of(parsed.data or found_data(), out, short=False)), config.data)
    data = assemble(whole.name, whole.classes, all_quarters(whole).samples)
    trial = trained(data, parsed.weights, parsed.stride_in_1x1, parsed.minutes, out)
    seen = predicted(trial)
    write_picture(seen, numbers_of(trial, seen, parsed.minutes), data, out)
    if parsed.publish:
        publish(out)
    print((out / CAPTION).read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
