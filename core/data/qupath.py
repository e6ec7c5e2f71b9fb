"""QuPath's GeoJSON: one file of outlined objects for each image, with the image's name.

    DIR/NAME.tif          or DIR/images/NAME.tif; .png, .jpg, .jpeg, .bmp and .tiff as well
    DIR/NAME.geojson      or NAME.tif.geojson, beside the image or in another folder of DIR

Such a file is what QuPath 0.2 and later write by "Export objects as GeoJSON": a FeatureCollection,
a list of features, or one feature. An object is a Polygon or a MultiPolygon, with or without holes,
in pixels of the full image. Its class is the name of its classification; classes are numbered in
the order of their names. The outline of a cell is read, and not its nucleus.

Not read, and noted with their number: classes whose name ends with `*`, which QuPath itself ignores
(`Ignore*`, `Region*`); tiles and cores; and annotations without a class where detections lie beside
them, which are the regions in which the detections were made.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from core.data.coco_masks import mask_of_areas
from core.data.dataset import CELL, Category, Inspection, Problem
from core.data.outlines import AnnotatedImage, Outline, read_pictures
from core.data.pairing import (
    about_images_without,
    files_with_suffix,
    images_by_stem,
    names_of,
    pairs_of,
)
from core.data.readers import Reader
from core.errors import DataError
from core.files import read_json
from core.text import brief, many

SUFFIX = ".geojson"
_KINDS = {
    "annotation": "annotation",
    "PathAnnotationObject": "annotation",
    "detection": "detection",
    "PathDetectionObject": "detection",
    "cell": "detection",
    "PathCellObject": "detection",
    "tile": "",
    "PathTileObject": "",
    "tma_core": "",
    "TMACoreObject": "",
    "root": "",
    "PathRootObject": "",
}
"""The kind of each type of QuPath's objects; empty for those that are no instances."""


@dataclass(frozen=True)
class _Object:
    """An object of a file.

    place     file and feature
    kind      `annotation`, `detection`, or empty for one that is no instance
    name      name of its class; None where it has none
    geometry  as JSON has it
    """

    place: str
    kind: str
    name: str | None
    geometry: Any


def read_qupath(folder: Path) -> Inspection:
    """Read every image that has a GeoJSON file; problems are collected."""
    problems: list[Problem] = []
    notes: list[str] = []
    found: list[tuple[Path, Path, list[_Object]]] = []
    images = images_by_stem(folder)
    pairs, unpaired = pairs_of(files_with_suffix(folder, SUFFIX), images, folder)
    problems += unpaired
    notes += about_images_without(SUFFIX, images, pairs)
    for file, image in pairs:
        try:
            found.append((image, file, list(_objects(file))))
        except DataError as error:
            problems.append(Problem.of(error, file, skippable=True))
    kept = _instances([one for _, _, objects in found for one in objects], notes)
    names = sorted({one.name for one in kept if one.name is not None})
    classes = [Category(number, name) for number, name in enumerate(names, start=1)] or [CELL]
    number_of = {category.name: category.id for category in classes}
    chosen = {id(one) for one in kept}
    pictures = []
    name_of = names_of([image for image, _, _ in found], folder)
    for image, file, objects in found:
        outlines = []
        for one in objects:
            if id(one) not in chosen:
                continue
            if one.name is None and names:
                message = (
                    "an object must have a class where others have one, and this one has none;"
                    " set its class in QuPath, or delete it"
                )
                problems.append(Problem(one.place, message, skippable=True))
                continue
            outlines.append(
                Outline(one.place, number_of.get(one.name or "", 1), partial(_draw, one.geometry))
            )
        pictures.append(
            AnnotatedImage(str(file), name_of[image], image.name, [image.parent], outlines)
        )
    return read_pictures(folder, folder, classes, pictures, problems=problems, notes=notes)


def _objects(file: Path) -> Iterator[_Object]:
    """Yield the objects of a file. Raises DataError for a file that is no GeoJSON."""
    document = read_json(file, DataError)
    if isinstance(document, dict):
        document = document.get("features", [document])
    if not isinstance(document, list):
        raise DataError(f"{file}: a GeoJSON file must hold features, and holds {brief(document)}")
    for position, feature in enumerate(document):
        place = f"{file}, feature {position} (counted from 0)"
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise DataError(
                f"{file}: a GeoJSON file must hold features, and number {position} (counted from"
                f" 0) is {brief(feature)}"
            )
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        kind = next(
            (
                value
                for value in (
                    properties.get("objectType"),
                    properties.get("object_type"),
                    feature.get("id"),
                )
                if isinstance(value, str) and value in _KINDS
            ),
            "annotation",
        )
        yield _Object(
            place,
            _KINDS[kind],
            _class_name(properties.get("classification")),
            feature.get("geometry"),
        )


def _class_name(classification: Any) -> str | None:
    """The name of a classification; of a derived one as QuPath shows it, `Tumor: Positive`."""
    if isinstance(classification, dict):
        names = classification.get("names")
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return ": ".join(names)
        classification = classification.get("name")
    return classification if isinstance(classification, str) and classification else None


def _instances(objects: Sequence[_Object], notes: list[str]) -> list[_Object]:
    """The objects that are instances; the others are noted."""
    detected = any(one.kind == "detection" for one in objects)
    left_out: Counter[str] = Counter()
    kept = []
    for one in objects:
        if not one.kind:
            left_out["tiles or cores"] += 1
        elif one.name is not None and one.name.endswith("*"):
            left_out["of a class whose name ends with *"] += 1
        elif one.kind == "annotation" and one.name is None and detected:
            left_out["annotations without a class beside detections, so regions"] += 1
        else:
            kept.append(one)
    if left_out:
        kinds = "; ".join(f"{count:,} {what}" for what, count in left_out.items())
        notes.append(f"{many(left_out.total(), 'object')} of QuPath left out: {kinds}")
    return kept


def _draw(geometry: Any, height: int, width: int) -> Any:
    """Draw a geometry. Raises DataError, without a place, for one that is no area."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise DataError(
            "a geometry must be an area, Polygon or MultiPolygon, and is"
            f" {brief(kind if kind is not None else geometry)}; delete the object, or draw its"
            " outline"
        )
    areas = geometry.get("coordinates")
    areas = [areas] if kind == "Polygon" else areas
    if (
        not isinstance(areas, list)
        or not areas
        or not all(isinstance(area, list) and area for area in areas)
    ):
        raise DataError(f"coordinates must be rings of points, and are {brief(areas)}")
    return mask_of_areas([[_ring(ring) for ring in area] for area in areas], height, width)


def _ring(points: Any) -> list[Any]:
    """The corners of a ring, x, y, x, y, ..., without its first point at its end again."""
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) >= 2 for point in points
    ):
        raise DataError(f"a ring must be a list of points [x, y], and is {brief(points)}")
    if len(points) > 3 and points[0] == points[-1]:
        points = points[:-1]
    return [value for point in points for value in point[:2]]


READER = Reader(
    sees=lambda where: bool(files_with_suffix(Path(where), SUFFIX)),
    read=lambda where: read_qupath(Path(where)),
)
