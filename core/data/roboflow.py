"""Roboflow's export "COCO Segmentation": parts with a file of annotations among their images.

    DIR/train/_annotations.coco.json    images in DIR/train/
    DIR/valid/_annotations.coco.json    images in DIR/valid/; they validate in the data set's own
                                        split. The part may be absent
    DIR/test/_annotations.coco.json     images to predict on; annotations in it are not read

All parts have the same categories. The first one, which names the project, heads the others and has
no annotation: it is no class.
"""

from pathlib import Path

from core.data.coco import ROBOFLOW, CocoFile, annotation_file, read_files
from core.data.dataset import Inspection
from core.data.readers import Reader
from core.errors import DataError

VALIDATION = "valid"
"""Roboflow's folder of validation images."""


def _training(folder: Path) -> CocoFile | None:
    """The training images; None where the folder is not Roboflow's, or is in a COCO layout too."""
    try:
        path = annotation_file(folder)
    except DataError:
        return None
    return _part(folder / "train") if path == folder / "train" / ROBOFLOW else None


def _part(folder: Path) -> CocoFile | None:
    return CocoFile(folder / ROBOFLOW, [folder]) if (folder / ROBOFLOW).is_file() else None


def read_roboflow(folder: Path) -> Inspection:
    """Read the images of `train` and `valid`, and list those of `test`; problems are collected."""
    training, validation, test = (
        _training(folder),
        *map(_part, (folder / VALIDATION, folder / "test")),
    )
    assert training is not None, "the reader has seen this part"
    notes = []
    if test is not None:
        notes.append(
            f"test/{ROBOFLOW} lists images to predict on; its annotations are neither trained on"
            " nor scored"
        )
    return read_files(
        folder,
        [part for part in (training, validation) if part is not None],
        validation=validation,
        listing=test,
        notes=notes,
    )


READER = Reader(
    sees=lambda where: _training(Path(where)) is not None,
    read=lambda where: read_roboflow(Path(where)),
)
