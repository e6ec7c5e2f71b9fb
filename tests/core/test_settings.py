"""A law of every setting: changed alone, it changes what a trial reads, shows, learns or predicts.

A setting without a row in the table fails, so a new one brings its row.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from core.augmentations import AUGMENTATIONS
from core.config import SETTINGS, TrialConfig, Value
from core.data import inspect_data, synthetic
from core.data.intensity import with_8_bits
from core.data.split import split
from core.dependence import NEEDS, effective_settings, unmet_need
from core.training.loop import TrainingBatches
from core.training.trial import Trial
from tests.core.narrow import Stack, narrowed

BASE: Mapping[str, Value] = {
    "data.validation_fraction": 0.4,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.trainable_layers": 5,
    "model.image_min_side": 64,
    "model.image_max_side": 96,
    "model.anchor_scale": 0.5,
    "model.proposals_train": 64,
    "model.proposals_test": 64,
    "model.rpn_samples": 64,
    "model.box_samples": 32,
    "optim.epochs": 2,
    "optim.learning_rate": 1e-3,
    "optim.precision": "fp32",
    "predict.max_detections": 20,
}
"""A trial of a second, in which every setting of the table has the room to change something."""
DATA = synthetic.make_cells(images=6, side=64)
FOLDER, WEIGHTS = "cells", "weights.pth"
"""A data set with something wrong, and a file of weights, in the working folder of these tests."""

Observer = Callable[[TrialConfig], Any]
"""A function of a configuration that returns what the configuration did, to compare."""


def read(config: TrialConfig) -> Any:
    """The problems, images and instances of a data set in which masks are semantic, and one image
    is damaged.
    """
    found = inspect_data(FOLDER, config.data)
    samples = () if found.dataset is None else found.dataset.samples
    return (
        [problem.message for problem in found.problems],
        [(sample.name, len(sample.labels_N)) for sample in samples],
        [] if found.dataset is None else [category.name for category in found.dataset.classes],
    )


def brought_to_8_bits(config: TrialConfig) -> Any:
    """The pixels that are seen of images of 16 bits."""
    deep = [replace(one, image=one.image.astype(np.uint16) * 9) for one in DATA.samples]
    return with_8_bits(replace(DATA, samples=tuple(deep)), config.data.intensity).fingerprint


def shown(config: TrialConfig) -> Any:
    """The images and label maps that two epochs show, batch by batch, and those that validate."""
    parts = split(DATA, config.data)
    batches = TrainingBatches(DATA, parts.train, config, 0)
    return parts.validation, [
        [tensor.numpy().tobytes() for tensor in batch.tensors]
        for epoch in (1, 2)
        for batch in batches.of_epoch(epoch)
    ]


def learned(config: TrialConfig) -> Any:
    """The weights after the last epoch, and after each the score and all matches of detections."""
    trial = Trial(config, DATA, device="cpu", threads=1)
    scores = [trial.run_epoch().ap50 for _ in range(config.optim.epochs)]
    return (
        scores,
        [
            [(name, np.asarray(value).tobytes()) for name, value in vars(table).items()]
            for table in trial.matches.values()
        ],
        [(name, value.numpy().tobytes()) for name, value in trial.evaluated.state_dict().items()],
    )


@dataclass(frozen=True)
class Row:
    """How a setting is shown to have an effect.

    other   another value than that of `BASE`, or than the default
    where   values of other settings that it needs
    seen    what the configuration does
    """

    other: Value
    where: Mapping[str, Value] = field(default_factory=dict)
    seen: Observer = learned


STRENGTHS: Mapping[str, Value] = {
    "copy_paste_most": 1,
    "copy_paste_rarity": 0.0,
    "copy_paste_blend": 2.0,
    "brightness": 0.6,
    "contrast": 0.6,
    "hue": 60,
    "saturation": 90,
    "value": 60,
    "stain_alpha": 0.2,
    "stain_beta": 0.2,
    "shift": 0.2,
    "scale": 0.3,
    "rotate": 90.0,
    "scale_jitter_low": 0.9,
    "scale_jitter_high": 1.1,
    "elastic_alpha": 120.0,
    "elastic_sigma": 3.0,
}
"""Another strength of each augmentation that has any; the switches and probabilities follow from
the table of augmentations."""


def rows_of_augmentations() -> Iterator[tuple[str, Row]]:
    """A row of each switch, probability and strength."""
    for name, part in AUGMENTATIONS.items():
        switch, probability = f"augment.{name}", f"augment.{name}_p"
        surely = {probability: 1.0}
        yield switch, Row(True, surely, shown)
        yield probability, Row(0.0, {switch: True}, shown)
        for strength in sorted(part.model_fields.keys() - {f"{name}_p"}):
            if strength in STRENGTHS:
                yield (
                    f"augment.{strength}",
                    Row(STRENGTHS[strength], {switch: True, **surely}, shown),
                )


MIRRORED: Mapping[str, Value] = {"predict.views": "mirror"}
TABLE: Mapping[str, Row] = {
    "seed": Row(1, seen=shown),
    "data.validation_fraction": Row(0.6, seen=shown),
    "data.folds": Row(3, seen=shown),
    "data.fold": Row(1, {"data.folds": 3}, shown),
    "data.split_seed": Row(1, seen=shown),
    "data.group_pattern": Row(r"^(slide\d+)_", seen=shown),
    "data.skip_bad": Row(True, seen=read),
    "data.allow_suspicious": Row(True, seen=read),
    "data.split_components": Row(True, seen=read),
    "data.class_names": Row("4=macrophage", seen=read),
    "data.intensity": Row("0,1000", seen=brought_to_8_bits),
    "data.crop": Row(32, seen=shown),
    "data.repeat_rare": Row(1.0, seen=shown),
    **dict(rows_of_augmentations()),
    "model.detector": Row("cascade"),
    "model.backbone": Row("mobilenet_v3_large", {"optim.epochs": 1}),
    "model.weights": Row(WEIGHTS),
    "model.stride_in_1x1": Row(
        True, {"model.backbone": "resnet50", "model.trainable_layers": 0, "optim.epochs": 1}
    ),
    "model.trainable_layers": Row(4),
    "model.trainable_fpn": Row(False),
    "model.image_min_side": Row(48),
    "model.image_max_side": Row(64),
    "model.anchor_scale": Row(0.25),
    "model.proposals_train": Row(16),
    "model.proposals_test": Row(16),
    "model.size_jitter": Row(0.3),
    "model.rpn_samples": Row(16),
    "model.box_samples": Row(16),
    "model.mask_side": Row(56),
    "model.norm": Row("group", {"model.detector": "fpn_v2"}),
    "optim.learning_rate": Row(2e-3),
    "optim.backbone_factor": Row(0.5),
    "optim.weight_decay": Row(0.1),
    "optim.decay_norms": Row(False),
    "optim.epochs": Row(1),
    "optim.batch_size": Row(1),
    "optim.accumulate": Row(2),
    "optim.restarts": Row(1),
    "optim.restart_multiplier": Row(3.0, {"optim.restarts": 1, "optim.batch_size": 1}),
    "optim.warmup_epochs": Row(0.5),
    "optim.gradient_clip": Row(0.1),
    "optim.precision": Row("bf16"),
    "optim.ema": Row(1.0),
    "predict.score_threshold": Row(0.5),
    "predict.nms_iou": Row(0.1),
    "predict.max_detections": Row(5),
    "predict.class_caps": Row("1"),
    "predict.views": Row("mirror"),
    "predict.flips": Row(True),
    "predict.scales": Row("0.5,1"),
    "predict.tile": Row(32),
    "predict.overlap": Row(0.75, {"predict.tile": 32}),
    "predict.merge": Row("soft_nms", MIRRORED),
    "predict.agreement": Row(1.0, MIRRORED),
    "metric.max_dets": Row(
        1, {"optim.epochs": 12, "optim.batch_size": 1, "optim.learning_rate": 3e-3}
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Detectors of few channels, one thread, and a working folder with `FOLDER` and `WEIGHTS`."""
    place = tmp_path_factory.mktemp("settings")
    write_what_is_wrong(place / FOLDER)
    torch.manual_seed(7)
    torch.save(Stack(nn.BatchNorm2d).state_dict(), place / WEIGHTS)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, narrowed():
        patch.chdir(place)
        yield


def write_what_is_wrong(folder: Path) -> None:
    """Images whose masks give all cells of a class one number, and one that is cut off."""
    synthetic.write_hw3(synthetic.make_cells(images=9, side=128), folder)
    one, *others = sorted((folder / "train").iterdir())
    for path in (path for other in others for path in other.glob("class*.tif")):
        tifffile.imwrite(path, (tifffile.imread(path) > 0).astype(np.float64))
    image = one / "image.tif"
    image.write_bytes(image.read_bytes()[:200])


@cache
def done(seen: Observer, settings: tuple[tuple[str, Value], ...]) -> Any:
    """The observed result of a configuration, kept for all rows that compare with it."""
    return seen(TrialConfig.from_settings(dict(settings)))


def test_every_setting_has_a_row() -> None:
    assert TABLE.keys() == SETTINGS.keys()


def test_every_row_meets_the_needs_that_its_setting_is_said_to_have() -> None:
    for name in NEEDS:
        row = TABLE[name]
        assert unmet_need(name, {**BASE, **row.where, name: row.other}) is None


@pytest.mark.parametrize("seen", [read, shown, learned])
def test_two_configurations_that_differ_only_in_settings_without_effect_do_the_same(
    seen: Observer,
) -> None:
    """A difference in the tests below is then due to the setting, and not to chance."""
    idle = {"augment.rotate": 90.0, "optim.restart_multiplier": 3.0, "predict.overlap": 0.75}
    assert effective_settings({**BASE, **idle}) == effective_settings(BASE)
    one, other = (TrialConfig.from_settings({**BASE, **more}) for more in ({}, idle))
    assert seen(one) == seen(other)


@pytest.mark.parametrize("name", TABLE)
def test_a_setting_that_is_changed_alone_has_an_effect_and_is_said_to_have_one(name: str) -> None:
    row = TABLE[name]
    before = {**BASE, **row.where}
    after = {**before, name: row.other}
    assert TrialConfig.from_settings(after) != TrialConfig.from_settings(before)
    assert effective_settings(after) != effective_settings(before)
    assert done(row.seen, tuple(after.items())) != done(row.seen, tuple(before.items()))
