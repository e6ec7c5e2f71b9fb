"""The data formats: what a reader is, and the table of them.

To add a format, write a reader in a file of this folder and give it a line in `READERS`; another
package names its reader in an entry point of the group `cell_tune.readers`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from core.data.dataset import Inspection
from core.extensions import Parts


@dataclass(frozen=True)
class Reader:
    """The reader of one format.

    Both functions take the data set as the user names it: the path of a folder, which may not
    exist, or a word.

    sees   returns whether the data set has this format; decodes no image
    read   reads as much of it as can be read. Problems are collected; one that leaves nothing to
           read may be raised as a DataError, whose sentence begins with the path
    """

    sees: Callable[[str], bool]
    read: Callable[[str], Inspection]


READERS: Parts[Reader] = Parts(
    "reader",
    "cell_tune.readers",
    {
        "synthetic": "core.data.synthetic:READER",
        "roboflow": "core.data.roboflow:READER",
        "coco": "core.data.coco:READER",
        "hw3": "core.data.hw3:READER",
        "label_images": "core.data.label_images:READER",
        "mask_folders": "core.data.mask_folders:READER",
        "qupath": "core.data.qupath:READER",
        "yolo": "core.data.yolo:READER",
        "aperio": "core.data.aperio:READER",
        "label_studio": "core.data.label_studio:READER",
        "cvat": "core.data.cvat:READER",
        "coco_export": "core.data.coco:EXPORT_READER",
    },
)
"""Every format, in the order in which they are asked: the first that sees a data set reads it.

A COCO file under any name counts last, because a data set of another format may hold one.
"""
