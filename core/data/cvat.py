"""CVAT's own export "CVAT for images 1.1": one XML file of polygons and masks.

    DIR/annotations.xml     or any other name; the one XML file in DIR whose root is `annotations`
    DIR/images/NAME.png     or DIR/NAME.png; names may hold folders

A mask is written as runs, row by row, in the box that it lies in; background comes first. Shapes of
one label and one group (`group_id`) in an image are one instance, as in CVAT's COCO export. Classes
are the labels of the task in their order. Tags are ignored.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from core.data.coco_masks import mask_of, union_of
from core.data.dataset import Category, Inspection, Problem
from core.data.images import whole_number
from core.data.outlines import AnnotatedImage, Draw, Outline, read_pictures
from core.data.pairing import only_file, sees_file
from core.data.readers import Reader
from core.data.xml_files import read_xml, root_of
from core.errors import DataError
from core.sample import MaskCrop
from core.text import brief

_ROOT = "annotations"
_OTHERS = ("box", "ellipse", "polyline", "points", "cuboid", "skeleton")
"""Shapes that are no outlines."""


def shape_file(folder: Path) -> Path | None:
    """Find CVAT's XML file in a folder, None if there is none.

    Raises DataError, which names them, if there are several.
    """
    found = [path for path in sorted(folder.glob("*.xml")) if root_of(path) == _ROOT]
    order = "give each a folder of its own, or export the whole project at once"
    return only_file(folder, found, "one XML file of CVAT", order)


def read_cvat(folder: Path) -> Inspection:
    """Read every image that the file lists; problems are collected."""
    file: Path | None = None
    try:
        file = shape_file(folder)
        assert file is not None, "the reader has seen this file"
        root = read_xml(file)
    except DataError as error:
        return Inspection(None, (Problem.of(error, file or folder),))
    if root.find("track") is not None:
        message = (
            "the file holds tracks, as exports for videos do; export as 'CVAT for images' or as"
            " 'COCO'"
        )
        return Inspection(None, (Problem(str(file), message),))
    problems: list[Problem] = []
    classes = _classes(root)
    label_of = {category.name: label for label, category in enumerate(classes, start=1)}
    folders = [place for place in (folder / "images", folder) if place.is_dir()]
    pictures: dict[str, AnnotatedImage] = {}
    for position, image in enumerate(root.iter("image")):
        place = f"{file}, image {image.get('id', position)}"
        name = image.get("name", "")
        if not name or name in pictures:
            message = f"its name must be a string of its own, and is {brief(name)}"
            problems.append(Problem(place, message))
            continue
        sides = [whole_number(image.get(side, "")) or 0 for side in ("height", "width")]
        pictures[name] = AnnotatedImage(
            place,
            name,
            name,
            folders,
            _outlines(image, place, label_of, problems),
            (sides[0], sides[1]),
        )
    if not pictures:
        problems.append(Problem(str(file), "there must be at least one image, and there is none"))
    return read_pictures(folder, file, classes, list(pictures.values()), problems=problems)


def _classes(root: ElementTree.Element) -> list[Category]:
    """The labels of the task, job or project in their order, then those that only shapes have."""
    meta = root.find("meta")
    names = [] if meta is None else [one.text or "" for one in meta.findall("*/labels/label/name")]
    names += sorted(
        {
            shape.get("label", "")
            for image in root.iter("image")
            for shape in image
            if shape.tag in ("polygon", "mask")
        }
    )
    return [
        Category(number, name) for number, name in enumerate(dict.fromkeys(filter(None, names)), 1)
    ]


def _outlines(
    image: ElementTree.Element, place: str, label_of: dict[str, int], problems: list[Problem]
) -> list[Outline]:
    """The instances of an image; shapes that are none become problems."""
    # CVAT gives shapes no ids, so they are counted.
    together: dict[tuple[str, str], list[tuple[str, Draw | None]]] = {}
    for number, shape in enumerate((one for one in image if one.tag != "tag"), start=1):
        where = f"{place}, shape {number}"
        label = shape.get("label", "")
        if shape.tag in _OTHERS and shape.tag != "box":
            message = (
                f"a shape must be a polygon or a mask, and is a {shape.tag}; draw its outline, or"
                " remove it"
            )
            problems.append(Problem(where, message, skippable=True))
        elif shape.tag not in ("polygon", "mask", "box"):
            continue
        elif label not in label_of:
            message = f"a shape must have one of the task's labels, and has {brief(label)}"
            problems.append(Problem(where, message, skippable=True))
        else:
            draw = {"polygon": _polygon, "mask": _mask, "box": None}[shape.tag]
            group = shape.get("group_id", "0")
            alone = shape.tag == "box" or group in ("", "0")
            key = (label, f"shape {number}" if alone else f"group {group}")
            together.setdefault(key, []).append((where, draw and partial(draw, shape)))
    return [
        Outline(
            shapes[0][0],
            label_of[label],
            shapes[0][1] if len(shapes) == 1 else partial(_draw_all, [one for _, one in shapes]),
        )
        for (label, _), shapes in together.items()
    ]


def _draw_all(draws: Sequence[Draw | None], height: int, width: int) -> MaskCrop:
    """Draw the shapes of a group, which are one instance."""
    return union_of([draw(height, width) for draw in draws if draw is not None])


def _polygon(shape: ElementTree.Element, height: int, width: int) -> MaskCrop:
    """Draw a polygon of points x,y;x,y;... Raises DataError, without a place."""
    text = shape.get("points", "")
    try:
        points = [[float(value) for value in point.split(",")] for point in text.split(";")]
    except ValueError:
        points = []
    if not all(len(point) == 2 for point in points) or not points:
        raise DataError(f"points must be x,y;x,y;... in pixels, and are {brief(text)}")
    return mask_of([[value for point in points for value in point]], height, width)


def _mask(shape: ElementTree.Element, height: int, width: int) -> MaskCrop:
    """Draw a mask of runs in its box. Raises DataError, without a place."""
    sides = [
        whole_number(shape.get(side, "").strip()) for side in ("top", "left", "height", "width")
    ]
    top, left, h, w = (-1 if side is None else side for side in sides)
    if min(top, left) < 0 or min(h, w) < 1 or top + h > height or left + w > width:
        raise DataError(
            f"a mask's box must lie in the image ({width} wide, {height} high), and its top, left,"
            f" height and width are {brief(sides)}"
        )
    words = shape.get("rle", "").split(",")
    runs = [whole_number(word.strip()) for word in words]
    known = [run for run in runs if run is not None]
    if len(known) < len(runs) or sum(known) != h * w:
        raise DataError(
            f"the runs of a mask must be whole numbers that add up to the {h * w:,} pixels of its"
            f" box, and are {brief(shape.get('rle', ''))}"
        )
    pixels = np.repeat(np.arange(len(known)) % 2 == 1, known).reshape(h, w)
    if not pixels.any():
        raise DataError("a mask must cover at least one pixel, and covers none; remove it")
    return MaskCrop(top, left, pixels)


READER = Reader(sees_file(shape_file), lambda where: read_cvat(Path(where)))
