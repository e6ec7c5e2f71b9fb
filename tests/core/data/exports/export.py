"""An export: a small data set, written as a tool writes it, and what a reader must find in it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.data.dataset import Dataset
from core.data.synthetic import make_cells

SCENE: Dataset = make_cells(images=4, side=64)
"""The data that every export shows: four images of some 60 pixels a side, with four classes, and no
instance over another.
"""


@dataclass(frozen=True)
class Export:
    """A format of one tool.

    write      writes SCENE into an empty folder as the tool does
    classes    the names of the classes that its reader must find; a format without classes has one
    images     the folder whose images are predicted, inside that of the data set
    least_iou  least overlap of each instance with its own in SCENE: 1 for masks, less for outlines
    """

    write: Callable[[Path], None]
    classes: tuple[str, ...]
    images: str = "."
    least_iou: float = 1
