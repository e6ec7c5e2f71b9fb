"""The Data Science Bowl 2018: stage1_train/ID/images/ID.png, a PNG of 0 and 255 for each nucleus."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.core.data.exports.export import SCENE, Export


def write(folder: Path) -> None:
    """RGBA images and 8-bit masks, all named by hashes, and one test image without masks."""
    for sample in SCENE.samples:
        place = folder / "stage1_train" / f"{sample.name}"
        (place / "images").mkdir(parents=True)
        (place / "masks").mkdir()
        opaque = np.dstack([sample.image, np.full(sample.size, 255, np.uint8)])
        Image.fromarray(opaque).save(place / "images" / f"{sample.name}.png")
        for number in range(1, len(sample.labels_N) + 1):
            mask = np.where(sample.label_maps[0] == number, 255, 0).astype(np.uint8)
            name = hashlib.sha256(mask.tobytes()).hexdigest()
            Image.fromarray(mask).save(place / "masks" / f"{name}.png")
    place = folder / "stage1_test" / "0f1f896d9ae5" / "images"
    place.mkdir(parents=True)
    Image.fromarray(SCENE.samples[0].image).save(place / "0f1f896d9ae5.png")


EXPORT = Export(write, ("cell",), images="stage1_test")
