"""QuPath's GeoJSON: one file of outlined objects for each image, with the image's name.

    DIR/NAME.tif          or DIR/images/NAME.tif; .png, .jpg, .jpeg, .bmp and .tiff as well
    DIR/NAME.geojson      or NAME.tif.geojson, beside the image or in another folder of DIR

Such a file is what QuPath 0.2 and later write by "Export objects as GeoJSON": a FeatureCollection,
a list of features, or one feature. An object is a Polygon or a MultiPolygon, with or without holes,
in pixels of the full image. Its class is the name of its classification; classes are numbered in
the order of their names. The outline of a cell is read, and not its nucleus.

Not read, and noted with their number: classes whose name ends with `*`, which QuPath itself ignores
(`Ignore*`, `Region*`); tiles and cores; and annotations that are regions, in which QuPath detects
cells or a person outlines them. An annotation is a region if it

- has no class, and detections lie beside it;
- holds the middles of HELD or more other objects of its file, with or without a class; or
- lies beside detections and has more than AS_LARGE times the area of the largest of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.coco_masks import mask_of_areas
from core.data.dataset import CELL, Category, Inspection, Problem
from core.data.json_files import read_annotations
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
from core.text import brief, many

SUFFIX = ".geojson"
HELD = 3
"""Smallest number of other objects that make the annotation that holds them a region."""
AS_LARGE = 4
"""An annotation is a region if its area is more than this many times that of the data set's largest
detection. A cell that a person added to detected ones is smaller."""
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

    file      its file
    place     file and feature
    kind      `annotation`, `detection`, or empty for one that is no instance
    name      name of its class; None where it has none
    geometry  as JSON has it
    """

    file: Path
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
    document = read_annotations(file)
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
            file,
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
    regions = _regions([one for one in objects if one.kind])
    left_out: Counter[tuple[str, str]] = Counter()  # noun, and what follows it
    kept = []
    for one in objects:
        if not one.kind:
            left_out["tile or core", "that is no instance"] += 1
        elif one.name is not None and one.name.endswith("*"):
            left_out["object", "of a class whose name ends with *"] += 1
        elif one.kind == "annotation" and one.name is None and detected:
            left_out["region", "(annotations without a class beside detections)"] += 1
        elif (why := regions.get(one.place)) is not None:
            of = "without a class" if one.name is None else f"of class {one.name}"
            left_out["region", f"{of} (annotations {why})"] += 1
        else:
            kept.append(one)
    if left_out:
        kinds = "; ".join(f"{many(n, noun)} {what}" for (noun, what), n in left_out.items())
        notes.append(f"{many(left_out.total(), 'object')} of QuPath left out: {kinds}")
    return kept


def _regions(objects: Sequence[_Object]) -> dict[str, str]:
    """The reason for each annotation that is a region by its outlines, under its place."""
    outlines = {one.place: _rings_of(one.geometry) for one in objects}
    middles = {
        place: np.mean([rings[0].min(axis=0), rings[0].max(axis=0)], axis=0)
        for place, rings in outlines.items()
        if rings
    }
    of_file: dict[Path, list[str]] = {}
    for one in objects:
        if one.place in middles:
            of_file.setdefault(one.file, []).append(one.place)
    middles_K2 = {
        file: np.array([middles[place] for place in places]) for file, places in of_file.items()
    }
    detected = [_area(outlines[one.place]) for one in objects if one.kind == "detection"]
    found = {}
    for one in objects:
        if one.kind != "annotation" or one.place not in middles:
            continue
        rings = outlines[one.place]
        own = holds(rings, middles[one.place][None]).sum()
        if holds(rings, middles_K2[one.file]).sum() - own >= HELD:
            found[one.place] = f"that hold {HELD} or more other objects"
        elif detected and _area(rings) > AS_LARGE * max(detected) > 0:
            found[one.place] = f"over {AS_LARGE} times as large as any detection"
    return found


def _rings_of(geometry: Any) -> list[NDArray[np.float64]]:
    """The rings of a geometry, x and y [K, 2] each; empty for one that cannot be drawn."""
    if not isinstance(geometry, dict):
        return []
    try:
        rings = [
            np.array(_ring(ring), np.float64).reshape(-1, 2)
            for area in _areas(geometry)
            for ring in area
            if ring
        ]
    except (DataError, ValueError, TypeError, OverflowError):  # drawing it says what is wrong
        return []
    return rings if all(np.isfinite(ring).all() for ring in rings) else []


def _area(rings: Sequence[NDArray[np.float64]]) -> float:
    """The area of the largest ring, by the shoelace formula."""
    return max(
        (
            abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
            for x, y in (ring.T for ring in rings)
        ),
        default=0.0,
    )


def holds(
    rings: Sequence[NDArray[np.float64]], points_K2: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each point lies in an area with these rings, bool [K].

    Inside, a line from the point to the right crosses the rings an odd number of times.
    """
    inside_K = np.zeros(len(points_K2), np.bool_)
    # Few points lie in the box around the rings; only these are tried, one after the other.
    corners_K2 = np.concatenate(rings)
    near_K = (points_K2 >= corners_K2.min(axis=0)) & (points_K2 <= corners_K2.max(axis=0))
    for row in np.flatnonzero(near_K.all(axis=1)).tolist():
        x, y = points_K2[row]
        crossed = 0
        for ring in rings:
            x0, y0 = ring.T
            x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
            spans = (y0 > y) != (y1 > y)
            at = x0[spans] + (y - y0[spans]) / (y1[spans] - y0[spans]) * (x1[spans] - x0[spans])
            crossed += int(np.count_nonzero(at > x))
        inside_K[row] = crossed % 2 == 1
    return inside_K


def _draw(geometry: Any, height: int, width: int) -> Any:
    """Draw a geometry. Raises DataError, without a place, for one that is no area."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise DataError(
            "a geometry must be an area, Polygon or MultiPolygon, and is"
            f" {brief(kind if kind is not None else geometry)}; delete the object, or draw its"
            " outline"
        )
    return mask_of_areas(
        [[_ring(ring) for ring in area] for area in _areas(geometry)], height, width
    )


def _areas(geometry: Any) -> list[list[Any]]:
    """The areas of a Polygon or MultiPolygon, each a list of rings. Raises DataError."""
    areas = geometry.get("coordinates")
    areas = [areas] if geometry.get("type") == "Polygon" else areas
    if (
        not isinstance(areas, list)
        or not areas
        or not all(isinstance(area, list) and area for area in areas)
    ):
        raise DataError(f"coordinates must be rings of points, and are {brief(areas)}")
    return areas


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
