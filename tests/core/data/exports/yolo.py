"""Ultralytics' segmentation data sets, as of version 8: data.yaml, images/PART and labels/PART."""

from functools import partial
from pathlib import Path

import yaml
from PIL import Image

from core.data.dataset import Dataset
from tests.core.data.exports.export import SCENE, Export
from tests.core.data.exports.tracing import areas_of


def write(folder: Path, scene: Dataset) -> None:
    """The last image of the scene validates; the first is the test image as well."""
    for part, samples in (
        ("train", scene.samples[:-1]),
        ("val", scene.samples[-1:]),
        ("test", scene.samples[:1]),
    ):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for sample in samples:
            Image.fromarray(sample.image).save(folder / "images" / part / f"{sample.name}.png")
            height, width = sample.size
            lines = []
            for number, label in enumerate(sample.labels_N.tolist(), start=1):
                ((outline, *_), *_) = areas_of((sample.label_maps == number).any(axis=0))
                corners = [f"{x / width:.6f} {y / height:.6f}" for x, y in outline]
                lines.append(" ".join([str(label - 1), *corners]) + "\n")
            (folder / "labels" / part / f"{sample.name}.txt").write_text("".join(lines))
    description = {
        "path": "../datasets/cells",
        "train": "images/train",
        "val": "images/val",
        "test": "images/test",
        "names": {number: category.name for number, category in enumerate(scene.classes)},
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(description, sort_keys=False))


EXPORT = Export(
    partial(write, scene=SCENE),
    tuple(category.name for category in SCENE.classes),
    images="images/test",
)
