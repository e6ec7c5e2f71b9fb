"""Laws of every export in the table: it is read as it was drawn, trained on, and predicted."""

import json
from pathlib import Path

import numpy as np
import pytest

from core import check, predict
from core.config import TrialConfig
from core.data import load_data
from core.prediction import trained_model
from core.sample import Sample
from core.training.trial import Trial
from tests.core.data.exports.export import SCENE, Export
from tests.core.data.exports.table import EXPORTS

SETTINGS = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.image_min_side": 64,
    "model.image_max_side": 64,
    "model.proposals_train": 32,
    "model.proposals_test": 16,
    "model.rpn_samples": 32,
    "model.box_samples": 16,
    "data.validation_fraction": 0.5,
    "optim.epochs": 1,
    "predict.max_detections": 5,
}
each_export = pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)


def instances(sample: Sample) -> list[tuple[int, np.ndarray]]:
    """The class number and mask, bool [H, W], of each instance in the order of the first pixels."""
    found = []
    for number, label in enumerate(sample.labels_N, start=1):
        found.append((int(label), (sample.label_maps == number).any(axis=0)))
    return sorted(found, key=lambda one: int(np.flatnonzero(one[1])[0]))


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


@each_export
def test_an_export_is_read_as_it_was_drawn(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.write(tmp_path)
    assert check.main([str(tmp_path)]) == 0
    assert "Usable: no problems found." in capsys.readouterr().out
    data = load_data(str(tmp_path))
    assert tuple(category.name for category in data.classes) == export.classes
    assert len(data.samples) == len(SCENE.samples)
    for read, drawn in zip(data.samples, SCENE.samples, strict=True):
        assert np.array_equal(read.image, drawn.image)
        assert len(read.labels_N) == len(drawn.labels_N)
        drawn_masks = dict(enumerate(instances(drawn)))
        for label, mask in instances(read):
            nearest = max(drawn_masks, key=lambda number: iou(mask, drawn_masks[number][1]))
            expected, drawn_mask = drawn_masks.pop(nearest)
            assert iou(mask, drawn_mask) >= export.least_iou
            name = SCENE.classes[expected - 1].name if len(export.classes) > 1 else "cell"
            assert data.classes[label - 1].name == name


@pytest.mark.usefixtures("narrow")
@each_export
def test_a_model_trains_on_an_export_and_predicts_its_images(
    export: Export, tmp_path: Path
) -> None:
    data, results = tmp_path / "data", tmp_path / "results.json"
    data.mkdir()
    export.write(data)
    trial = Trial(TrialConfig.from_settings(SETTINGS), load_data(str(data)))
    assert np.isfinite(trial.run_epoch().losses["loss"])
    trained_model.save(tmp_path / "model", trial.trained_model())
    command = [
        "--model", str(tmp_path / "model"), "--images", str(data / export.images),
        "--out", str(results), "--device", "cpu",
    ]  # fmt: skip
    assert predict.main(command) == 0
    listed = json.loads((tmp_path / "results.images.json").read_text())
    sizes = {sample.size for sample in SCENE.samples}
    assert listed["images"]
    assert {(image["height"], image["width"]) for image in listed["images"]} <= sizes
    assert tuple(category["name"] for category in listed["categories"]) == export.classes
    assert len(listed["images"]) <= len(SCENE.samples), "a mask was taken for an image"
