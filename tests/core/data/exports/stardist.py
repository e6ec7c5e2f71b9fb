"""StarDist's data sets: train/images and train/masks, 16-bit TIFF masks, and a test part."""

from pathlib import Path

import tifffile

from tests.core.data.exports.export import SCENE, Export


def write(folder: Path) -> None:
    """All four images to train on, and one of them again to test."""
    for part, samples in (("train", SCENE.samples), ("test", SCENE.samples[:1])):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
        for sample in samples:
            place, file = folder / part, f"{sample.name}.tif"
            tifffile.imwrite(place / "images" / file, sample.image, photometric="rgb")
            tifffile.imwrite(place / "masks" / file, sample.label_maps[0], compression="zlib")


EXPORT = Export(write, ("cell",), images="test/images")
