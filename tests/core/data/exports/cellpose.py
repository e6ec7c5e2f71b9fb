"""Cellpose's command line: NAME_cp_masks.png beside NAME.png, with flows and outlines."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.core.data.exports.export import SCENE, Export


def write(folder: Path) -> None:
    """16-bit PNG masks, and what `cellpose --save_png --save_flows --save_txt` leaves."""
    for sample in SCENE.samples:
        Image.fromarray(sample.image).save(folder / f"{sample.name}.png")
        Image.fromarray(sample.label_maps[0]).save(folder / f"{sample.name}_cp_masks.png")
        Image.fromarray(sample.image).save(folder / f"{sample.name}_flows_cp_masks.tif")
        tifffile.imwrite(folder / f"{sample.name}_dP_cp_masks.tif", np.zeros((2, 9, 9), np.float32))
        (folder / f"{sample.name}_cp_outlines.txt").write_text("1,2,2,2,2,1\n")


EXPORT = Export(write, ("cell",))
