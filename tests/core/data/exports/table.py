"""The table of exports: each is checked, trained on, searched on and predicted.

To add one, write a file beside this one and give it a line here.
"""

from tests.core.data.exports import (
    cellpose,
    cvat,
    dsb2018,
    hw3_png,
    label_studio,
    monusac,
    qupath,
    roboflow,
    stardist,
    yolo,
)
from tests.core.data.exports.export import Export

EXPORTS: dict[str, Export] = {
    "cellpose": cellpose.EXPORT,
    "cvat": cvat.EXPORT,
    "dsb2018": dsb2018.EXPORT,
    "hw3_png": hw3_png.EXPORT,
    "label_studio": label_studio.EXPORT,
    "monusac": monusac.EXPORT,
    "qupath": qupath.EXPORT,
    "roboflow": roboflow.EXPORT,
    "stardist": stardist.EXPORT,
    "yolo": yolo.EXPORT,
}
