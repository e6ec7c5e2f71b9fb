"""An augmentation of another package: a study searches its settings and trains on its images."""

from pathlib import Path

from core.data import synthetic
from tests import toys
from tests.extensions.tiny_study import run_python, search

DYE = '''
"""A toy augmentation that leaves a mark where it was used."""

from pathlib import Path

from pydantic import Field

from core.augmentations import Augmentation, Probability


class Dye(Augmentation):
    """Paint the image in one colour."""

    geometric = False

    dye_p: Probability = 1.0
    """Probability of a dye."""
    dye_shade: int = Field(7, ge=0, le=255)
    """Shade of the dye, on a scale of 0 to 255."""

    def changes(self):
        def dye(image, label_maps, seed):
            (Path(__file__).parent / f"{self.dye_shade} {image.shape[-1]} {seed}").touch()
            return image * 0 + self.dye_shade, label_maps

        return [dye]
'''

TABLES = """
from core.dependence import NEEDS
from tune.request.confounds import AUGMENTATION, FACTORS
from tune.request.schema import json_schema
print(*NEEDS["augment.dye_shade"], sep=", ")
print(*(name for name in FACTORS[AUGMENTATION] if "dye" in name))
schema = json_schema()["$defs"]["settings"]["properties"]["augment.dye_shade"]
print(schema["maximum"], schema["default"], schema["description"])
"""


def test_a_study_searches_an_augmentation_of_another_package(tmp_path: Path) -> None:
    site = toys.install(tmp_path / "site", DYE, {"cell_tune.augmentations": "dye = toy:Dye"})
    synthetic.write_hw3(synthetic.make(images=5, side=64), tmp_path / "cells")
    row, config = search(tmp_path, site, "cells", {"augment.dye": True, "augment.dye_shade": 9})
    assert row["state"] == "COMPLETE"
    assert (row["augment.dye"], row["augment.dye_shade"]) == ("True", "9")
    assert (config["augment.dye"], config["augment.dye_p"]) == (True, 1.0)
    used = [path.name.split() for path in site.glob("9 3 *")]
    assert len(used) == 4  # four of five images train, each with a seed of its own

    tables = run_python(tmp_path, site, "-c", TABLES)
    assert tables.stdout.splitlines() == [
        "augment.dye true, augment.dye_p above 0",
        "augment.dye augment.dye_p augment.dye_shade",
        "255 7 Shade of the dye, on a scale of 0 to 255.",
    ], tables.stderr
