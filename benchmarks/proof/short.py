"""The short form of the proof: few small images and small settings, for a test on a CPU.

It shows that the chain works from the first trial to the submission. Its numbers say nothing about
any method.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.config import Value
from core.data import load_data, synthetic
from core.data.dataset import Category, Dataset
from core.data.images import read_test_image
from core.files import replaced
from core.sample import Sample

IMAGES, TEST_IMAGES = 8, 2
"""Numbers of annotated images, each of another tile, and of test images."""
SIDE = 128
"""Side of these images, in pixels: windows from the middle of the crops."""
SHORT_ROWS = ("Res50", "Partial")
"""The rows of the reference report that the short form trains."""
EPOCHS = 6
"""Epochs of each training."""
TRIALS, TOP, FRESH_SEEDS = 3, 2, 2
"""Trials of the search; candidates of its confirmation, and the fresh seeds of each."""

SETTINGS: Mapping[str, Value] = {
    "data.validation_fraction": 0.25,
    "model.detector": "fpn",  # the norm of fpn_v2's heads learns too little from so few batches
    "optim.batch_size": 1,
    "model.image_min_side": SIDE,
    "model.image_max_side": SIDE,
    "model.anchor_scale": 0.5,
    "model.proposals_train": 100,
    "model.proposals_test": 100,
    "model.rpn_samples": 64,
    "model.box_samples": 32,
    "predict.max_detections": 50,
}
"""Settings that both studies have in the short form."""
ROW_SETTINGS: Mapping[str, Value] = {"optim.learning_rate": 3e-4}
"""A setting of the rows besides, and of the search's start: at the report's learning rate so few
steps teach nothing."""
LEARNING_RATES: Mapping[str, Value] = {"low": 3e-4, "high": 6e-4, "log": True}
"""Learning rates of the search."""

IN_WORDS = (
    f"{IMAGES} windows of {SIDE} px from CoNSeP, in which cells of all classes count as one class;"
    f" two rows of the report, trained for {EPOCHS} epochs of six steps each on a CPU, with the"
    f" smaller detector `fpn` at a larger learning rate; a search of {TRIALS} trials"
)
"""The short form in words, for its pages."""


def write_data(whole: Path, folder: Path) -> Path:
    """Write the windows of a data set in HW3 layout into `folder`, once; returns it."""
    if not folder.exists():
        data = load_data(str(whole))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replaced(folder) as written:
            synthetic.write_hw3(windows(data), written, windows_to_predict(data))
    return folder


def windows(data: Dataset) -> Dataset:
    """The middle of the first crop of each of the first tiles, by name; one class, `class1`."""
    tiles: dict[str, Sample] = {}
    for crop in data.samples:
        tiles.setdefault(crop.name.rsplit("_", 2)[0], crop)
    chosen = list(tiles.values())[:IMAGES]
    return replace(
        data, samples=tuple(map(_window, chosen)), classes=(Category(1, "class1"),), test_images=()
    )


def windows_to_predict(data: Dataset) -> list[Sample]:
    """The middle of the first test images, without annotations."""
    nobody = np.zeros(0, np.int64), np.zeros(0, np.bool_)
    found = []
    for image in data.test_images[:TEST_IMAGES]:
        pixels = read_test_image(image)
        empty = np.zeros((1, *pixels.shape[:2]), np.uint16)
        found.append(_window(Sample(Path(image.file_name).stem, pixels, empty, *nobody)))
    return found


def _window(crop: Sample) -> Sample:
    """The middle of a crop, with the instances of which it holds a pixel, all of class 1."""
    top, left = (max(0, (side - SIDE) // 2) for side in crop.size)
    rows, columns = slice(top, top + SIDE), slice(left, left + SIDE)
    maps = crop.label_maps[:, rows, columns]
    kept = np.unique(maps[maps > 0])
    numbers = np.zeros(len(crop.labels_N) + 1, np.uint16)
    numbers[kept] = np.arange(1, len(kept) + 1)
    image = np.ascontiguousarray(crop.image[rows, columns])
    return Sample(
        crop.name, image, numbers[maps], np.ones(len(kept), np.int64), np.zeros(len(kept), np.bool_)
    )
