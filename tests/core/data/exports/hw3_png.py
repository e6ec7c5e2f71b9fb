"""HW3's layout as people make it themselves: image.png, and class1.png of 8 bits for each class."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.core.data.exports.export import SCENE, Export


def write(folder: Path) -> None:
    """PNG images and masks; ids begin at 1 in each class, as they are counted by hand."""
    for sample in SCENE.samples:
        place = folder / "train" / sample.name
        place.mkdir(parents=True)
        Image.fromarray(sample.image).save(place / "image.png")
        for label in np.unique(sample.labels_N):
            mask = np.zeros(sample.size, np.uint8)
            for number, index in enumerate(np.flatnonzero(sample.labels_N == label), start=1):
                mask[sample.label_maps[0] == index + 1] = number
            Image.fromarray(mask).save(place / f"class{label}.png")
    (folder / "test").mkdir()
    Image.fromarray(SCENE.samples[0].image).save(folder / "test" / "a.png")


EXPORT = Export(write, tuple(category.name for category in SCENE.classes), images="test")
