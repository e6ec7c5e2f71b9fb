"""CVAT 2, "CVAT for images 1.1": annotations.xml and images/, polygons and masks."""

from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from core.data.dataset import Dataset
from tests.core.data.exports.export import SCENE, Export
from tests.core.data.exports.tracing import areas_of


def write(folder: Path, scene: Dataset) -> None:
    """Odd instances are polygons, even ones brush masks."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "name").text = "cells"
    labels = ElementTree.SubElement(task, "labels")
    for category in scene.classes:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = category.name
        ElementTree.SubElement(label, "type").text = "any"
    (folder / "images").mkdir()
    for number, sample in enumerate(scene.samples):
        name = f"{sample.name}.png"
        Image.fromarray(sample.image).save(folder / "images" / name)
        height, width = sample.size
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=name, width=str(width), height=str(height)
        )
        for instance, label_number in enumerate(sample.labels_N.tolist(), start=1):
            mask = (sample.label_maps == instance).any(axis=0)
            common = {
                "label": scene.classes[label_number - 1].name,
                "source": "manual",
                "occluded": "0",
            }
            if instance % 2:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in areas_of(mask)[0][0])
                ElementTree.SubElement(
                    image, "polygon", {**common, "points": points, "z_order": "0"}
                )
            else:
                ElementTree.SubElement(image, "mask", {**common, **brush(mask), "z_order": "0"})
    ElementTree.ElementTree(root).write(
        folder / "annotations.xml", encoding="utf-8", xml_declaration=True
    )


def brush(mask: np.ndarray) -> dict[str, Any]:
    """A mask in CVAT's own run lengths: row by row in its box, background first."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    runs, value = [0], False
    for pixel in window.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {
        "rle": ", ".join(map(str, runs)),
        "left": str(columns[0]),
        "top": str(rows[0]),
        "width": str(window.shape[1]),
        "height": str(window.shape[0]),
    }


EXPORT = Export(
    partial(write, scene=SCENE), tuple(category.name for category in SCENE.classes), images="images"
)
