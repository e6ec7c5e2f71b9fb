"""Aperio ImageScope's XML, as MoNuSAC and MoNuSeg have it: one file of regions for each image.

    DIR/PATIENT/NAME.tif, NAME.xml                 MoNuSAC, whose NAME.svs are not read
    DIR/Tissue Images/NAME.tif, Annotations/NAME.xml    MoNuSeg

Folders may have any names; an XML file is paired with the image of its name. A region is a polygon
in pixels of the image. The class of a region is that of its annotation (layer): the name of its
attribute, as in MoNuSAC, or else the annotation's own name. ImageScope's own attribute
`Description`, which MoNuSeg has, names no class. Classes are numbered in the order of their names.
"""

from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from core.data.coco_masks import mask_of
from core.data.dataset import CELL, Category, Inspection, Problem
from core.data.outlines import AnnotatedImage, Draw, Outline, read_pictures
from core.data.pairing import (
    about_images_without,
    files_with_suffix,
    images_by_stem,
    names_of,
    pairs_of,
)
from core.data.readers import Reader
from core.data.xml_files import read_xml, root_of
from core.errors import DataError
from core.sample import MaskCrop
from core.text import brief

_ROOT = "Annotations"
_NO_CLASS = ("", "description")
"""Names of attributes and annotations, in small letters, that are no class."""
_AREAS = ("0", "1")
"""Types of regions that are outlines: polygons and rectangles."""
_OTHERS = {"2": "an ellipse", "3": "an arrow", "4": "a ruler", "5": "a point"}


def region_files(folder: Path) -> list[Path]:
    """List the XML files of ImageScope in a folder and below it."""
    return [path for path in files_with_suffix(folder, ".xml") if root_of(path) == _ROOT]


def read_aperio(folder: Path) -> Inspection:
    """Read every image that has an XML file; problems are collected."""
    problems: list[Problem] = []
    images = images_by_stem(folder)
    found: list[tuple[Path, Path, list[tuple[str, str, Draw]]]] = []
    pairs, unpaired = pairs_of(region_files(folder), images, folder)
    problems += unpaired
    notes = about_images_without(".xml", images, pairs)
    for file, image in pairs:
        try:
            found.append((image, file, list(_regions(file))))
        except DataError as error:
            problems.append(Problem.of(error, file, skippable=True))
    names = sorted({name for _, _, regions in found for name, _, _ in regions if name})
    classes = [Category(number, name) for number, name in enumerate(names, start=1)] or [CELL]
    number_of = {category.name: category.id for category in classes}
    name_of = names_of([image for image, _, _ in found], folder)
    pictures = []
    for image, file, regions in found:
        outlines = []
        for name, place, draw in regions:
            if names and not name:
                message = (
                    "a region must be in an annotation that names a class where others are, and"
                    " this one is not; name the annotation's attribute, or remove the region"
                )
                problems.append(Problem(place, message, skippable=True))
                continue
            outlines.append(Outline(place, number_of.get(name, 1), draw))
        pictures.append(
            AnnotatedImage(str(file), name_of[image], image.name, [image.parent], outlines)
        )
    return read_pictures(folder, folder, classes, pictures, problems=problems, notes=notes)


def _regions(file: Path) -> Iterator[tuple[str, str, Draw]]:
    """Yield the class name, which may be empty, the place and the mask of each region."""
    for layer, annotation in enumerate(read_xml(file).iter("Annotation"), start=1):
        attributes = annotation.find("Attributes")
        given = [] if attributes is None else [one.get("Name", "") for one in attributes]
        candidates = [*given, annotation.get("Name", "")]
        name = next((one.strip() for one in candidates if one.strip().lower() not in _NO_CLASS), "")
        for region in annotation.iter("Region"):
            number = region.get("Id", "without an Id")
            place = f"{file}, annotation {annotation.get('Id', layer)}, region {number}"
            # Numbers take a tenth of the memory of their elements.
            corners = array("d")
            fault = _fault(region)
            for vertex in region.iter("Vertex"):
                try:
                    corners.extend([float(vertex.get(axis, "")) for axis in ("X", "Y")])
                except ValueError:
                    given_here = brief(dict(vertex.attrib))
                    fault = f"a vertex must have the numbers X and Y, and has {given_here}"
            yield name, place, partial(_draw, corners, fault)


def _fault(region: ElementTree.Element) -> str:
    """The reason why a region is no outline of an instance; empty if it is one."""
    kind = region.get("Type", "0")
    if kind not in _AREAS:
        return (
            "a region must be a polygon or a rectangle (Type 0 or 1), and is"
            f" {_OTHERS.get(kind, 'of another kind')} (Type {brief(kind)}); draw its outline, or"
            " remove it"
        )
    if region.get("NegativeROA", "0") == "1":
        return (
            "a region must be an instance, and this one is cut out of others (NegativeROA 1);"
            " remove it, or draw the instance around it anew"
        )
    return ""


def _draw(corners: "array[float]", fault: str, height: int, width: int) -> MaskCrop:
    """Draw a region of corners x, y, x, y, ... Raises DataError, without a place."""
    if fault:
        raise DataError(fault)
    outline = corners.tolist()
    if len(outline) > 6 and outline[:2] == outline[-2:]:
        outline = outline[:-2]
    return mask_of([outline], height, width)


READER = Reader(
    sees=lambda where: bool(region_files(Path(where))),
    read=lambda where: read_aperio(Path(where)),
)
