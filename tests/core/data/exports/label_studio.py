"""Label Studio 1.12, export "JSON": a list of tasks; polygons in percent and brush masks."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.data.dataset import Dataset
from tests.core.data.exports.export import SCENE, Export
from tests.core.data.exports.tracing import areas_of

FILE = "project-1-at-2024-05-01-10-00-a1b2c3d4.json"


def write(folder: Path, scene: Dataset) -> None:
    """Odd instances are polygons, even ones brush masks; images have the names they had."""
    (folder / "images").mkdir()
    tasks = []
    for number, sample in enumerate(scene.samples, start=1):
        Image.fromarray(sample.image).save(folder / "images" / f"{sample.name}.png")
        upload = f"{number:08x}-{sample.name}.png"
        results = [
            result(
                f"r{instance}",
                (sample.label_maps == instance).any(axis=0),
                scene.classes[label - 1].name,
                brush=instance % 2 == 0,
            )
            for instance, label in enumerate(sample.labels_N.tolist(), start=1)
        ]
        annotation = {
            "id": number,
            "completed_by": 1,
            "result": results,
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2024-05-01T09:00:00.000000Z",
            "updated_at": "2024-05-01T09:30:00.000000Z",
        }
        tasks.append(
            {
                "id": number,
                "annotations": [annotation],
                "file_upload": upload,
                "drafts": [],
                "predictions": [],
                "data": {"image": f"/data/upload/1/{upload}"},
                "project": 1,
            }
        )
    (folder / FILE).write_text(json.dumps(tasks))


def result(number: str, mask: np.ndarray, name: str, brush: bool) -> dict[str, Any]:
    """One region."""
    height, width = mask.shape
    kind = "brushlabels" if brush else "polygonlabels"
    if brush:
        value: dict[str, Any] = {"format": "rle", "rle": packed(np.repeat(mask.ravel() * 255, 4))}
    else:
        points = [[100 * x / width, 100 * y / height] for x, y in areas_of(mask)[0][0]]
        value = {"points": points, "closed": True}
    return {
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, kind: [name]},
        "id": number,
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
    }


def packed(values: np.ndarray, sizes: tuple[int, ...] = (3, 4, 8, 16)) -> list[int]:
    """Values of 8 bits in the encoding of thi.ng's rle-pack, as Label Studio's converter writes it.

    A run is the bit 1, the index of the smallest of `sizes` that holds its length less 1, that
    length and the value; a single value is a block of one.
    """
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    starts = np.flatnonzero(np.diff(values.astype(int), prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True):
        left = end - start
        while left:
            length = min(left, 2 ** sizes[-1])
            index = next(i for i, size in enumerate(sizes) if length <= 2**size)
            bits += f"{int(length > 1)}{index:02b}{length - 1:0{sizes[index]}b}{values[start]:08b}"
            left -= length
    bits += "0" * (8 - len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


EXPORT = Export(partial(write, scene=SCENE), ("class2", "class3", "class4"), images="images")
