"""Roboflow's export "COCO Segmentation", as of 2024: three parts, each with its file of annotations.

Files are named STEM_SUFFIX.rf.HASH.SUFFIX. Category 0 has the project's name and heads the others.
"""

import hashlib
import json
from functools import partial
from pathlib import Path

from PIL import Image

from core.data.dataset import Dataset
from core.sample import Sample
from tests.core.data.exports.export import SCENE, Export
from tests.core.data.exports.tracing import areas_of, flat

PARTS = {"train": slice(0, -1), "valid": slice(-1, None), "test": slice(0, 1)}
"""The images of a scene in each part; the test image is one of the others, under another name."""


def file_name(sample: Sample, version: str = "") -> str:
    """The name that Roboflow gives a version of an image."""
    digest = hashlib.md5(f"{sample.name}{version}".encode()).hexdigest()
    return f"{sample.name}_png.rf.{digest}.png"


def write(folder: Path, scene: Dataset) -> None:
    """The last image of the scene validates."""
    for part, images in PARTS.items():
        (folder / part).mkdir()
        names = {
            file_name(sample, part if part == "test" else ""): sample
            for sample in scene.samples[images]
        }
        for name, sample in names.items():
            Image.fromarray(sample.image).save(folder / part / name)
        content = document(names, [category.name for category in scene.classes])
        (folder / part / "_annotations.coco.json").write_text(json.dumps(content))
    (folder / "README.roboflow.txt").write_text("cells > 2024-05-01\n")
    (folder / "README.dataset.txt").write_text("# cells\n")


def document(samples: dict[str, Sample], classes: list[str]) -> dict[str, object]:
    """The file of annotations of a part."""
    images, annotations = [], []
    for image_id, (name, sample) in enumerate(samples.items()):
        height, width = sample.size
        images.append(
            {
                "id": image_id,
                "license": 1,
                "file_name": name,
                "height": height,
                "width": width,
                "date_captured": "2024-05-01T10:00:00+00:00",
            }
        )
        for number, label in enumerate(sample.labels_N.tolist(), start=1):
            mask = (sample.label_maps == number).any(axis=0)
            rings = [area[0] for area in areas_of(mask)]
            x, y = zip(*(point for ring in rings for point in ring), strict=True)
            width, height = max(x) - min(x), max(y) - min(y)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": [min(x), min(y), width, height],
                    "area": width * height,
                    "segmentation": [flat(ring) for ring in rings],
                    "iscrowd": 0,
                }
            )
    heading = {"id": 0, "name": "cells", "supercategory": "none"}
    categories = [
        {"id": number, "name": name, "supercategory": "cells"}
        for number, name in enumerate(classes, start=1)
    ]
    return {
        "info": {"year": "2024", "version": "2", "description": "Exported from roboflow.com"},
        "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
        "categories": [heading, *categories],
        "images": images,
        "annotations": annotations,
    }


EXPORT = Export(partial(write, scene=SCENE), tuple(category.name for category in SCENE.classes))
