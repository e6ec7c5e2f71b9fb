"""Label Studio's JSON export: polygons in percent and brush masks, for each task of a project.

    DIR/project-1-at-2024-05-01-10-00-a1b2c3d4.json    or any other name; the one JSON file in DIR
                                                       that is a list of tasks
    DIR/images/NAME.png                                or DIR/NAME.png

Label Studio puts eight digits and a hyphen before the name of an uploaded image; the image may have
either name. A brush mask is the image's RGBA values in the run-length encoding of thi.ng's
rle-pack; as in Label Studio's converter, a pixel is in the mask where alpha is above 0. Where a
task has several annotations, the ground truth is used, or else the one that was changed last.
Classes are numbered in the order of their names. Predictions are not read.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from core.data.coco_masks import is_real, mask_of
from core.data.dataset import Category, Inspection, Problem
from core.data.images import IMAGE_SUFFIXES, whole_number
from core.data.json_files import begins_with_a_key, is_too_large, read_annotations
from core.data.outlines import AnnotatedImage, Outline, read_pictures
from core.data.pairing import only_file, sees_file
from core.data.readers import Reader
from core.errors import DataError
from core.sample import MaskCrop
from core.text import brief, listed, many

_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
_CHANNELS = 4
"""Values of a pixel in a brush mask: red, green, blue and alpha."""


@dataclass(frozen=True)
class _Region:
    """A region of an annotation.

    place   file, task and region
    labels  names of its labels; a single one is its class
    value   its outline, as JSON has it
    sides   height and width of the image that it was drawn on; 0 where that is unknown
    turned  by how many degrees the image was turned
    """

    place: str
    labels: tuple[str, ...]
    value: dict[str, Any]
    sides: tuple[int, int]
    turned: Any


def task_file(folder: Path) -> Path | None:
    """Find the JSON file of tasks in a folder, None if there is none.

    Raises DataError, which names them, if there are several.
    """
    found = [path for path in sorted(folder.glob("*.json")) if _holds_tasks(path)]
    order = "move the others to another folder"
    return only_file(folder, found, "one file of Label Studio's tasks", order)


def _holds_tasks(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            if not stream.read(64).lstrip().startswith(b"["):
                return False
        if is_too_large(path):  # reading it says so
            return begins_with_a_key(path, ("annotations", "annotation_id"))
        document = read_annotations(path)
    except (DataError, OSError):
        return False
    return (
        bool(document)
        and isinstance(document[0], dict)
        and ({"annotations", "data"} <= document[0].keys() or "annotation_id" in document[0])
    )


def read_label_studio(folder: Path) -> Inspection:
    """Read the image of every task that was annotated; problems are collected."""
    file: Path | None = None
    try:
        file = task_file(folder)
        assert file is not None, "the reader has seen this file"
        tasks = read_annotations(file)
    except DataError as error:
        return Inspection(None, (Problem.of(error, file or folder),))
    if "annotations" not in tasks[0]:
        message = "this is Label Studio's export JSON-MIN; export as JSON or as COCO"
        return Inspection(None, (Problem(str(file), message),))
    problems: list[Problem] = []
    folders = [place for place in (folder / "images", folder) if place.is_dir()]
    found: dict[str, tuple[str, list[_Region]]] = {}
    several = unannotated = 0
    for position, task in enumerate(tasks):
        place = f"{file}, task {task.get('id', position) if isinstance(task, dict) else position}"
        try:
            name = _image_name(task, folders)
            annotations = _annotations(task)
            if name in found:
                raise DataError(f"an image must be in one task, and {name!r} is in another as well")
            several += len(annotations) > 1
            if annotations:
                found[name] = place, _regions(annotations[-1], place)
            else:
                unannotated += 1
        except DataError as error:
            problems.append(Problem(place, str(error), skippable=True))
    notes = []
    if several:
        notes.append(
            f"{many(several, 'task')} with several annotations: of each the ground truth is used,"
            " or else the one that was changed last"
        )
    if unannotated:
        notes.append(f"{many(unannotated, 'task')} without an annotation, left out")
    names = sorted(
        {one.labels[0] for _, regions in found.values() for one in regions if len(one.labels) == 1}
    )
    classes = [Category(number, name) for number, name in enumerate(names, start=1)]
    label_of = {category.name: category.id for category in classes}
    pictures = [
        AnnotatedImage(
            place,
            name,
            name,
            folders,
            list(_outlines(regions, label_of, problems)),
            next((one.sides for one in regions if all(one.sides)), (0, 0)),
        )
        for name, (place, regions) in found.items()
    ]
    if not classes:
        problems.append(
            Problem(str(file), "there must be at least one labelled region, and there is none")
        )
    return read_pictures(folder, file, classes, pictures, problems=problems, notes=notes)


def _outlines(
    regions: Sequence[_Region], label_of: dict[str, int], problems: list[Problem]
) -> Iterator[Outline]:
    """Yield the outlines of regions; those without a label or with several become problems."""
    for one in regions:
        if len(one.labels) == 1:
            is_box = {"width", "height"} <= one.value.keys() and "rle" not in one.value
            label = label_of[one.labels[0]]
            yield Outline(one.place, label, None if is_box else partial(_draw, one))
        else:
            message = (
                "a region must have one label, and this one has"
                f" {listed([brief(name) for name in one.labels])}; remove all but its class"
                if one.labels
                else "a region must have a label, and this one has none; give it one"
            )
            problems.append(Problem(one.place, message, skippable=True))


def _image_name(task: Any, folders: Sequence[Path]) -> str:
    """The name of a task's image in the folders. Raises DataError, without a place."""
    data = task.get("data") if isinstance(task, dict) else None
    given = data.values() if isinstance(data, dict) else ()
    values = [value for value in given if isinstance(value, str)]
    for value in values:
        # Paths are such as /data/upload/1/a1b2c3d4-NAME.png and /data/local-files/?d=NAME.png.
        path = unquote(value).rpartition("?d=")[2].partition("?")[0].replace("\\", "/")
        name = PurePosixPath(path).name
        if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
            continue
        match = _UPLOADED.fullmatch(name)
        names = [name, match[1]] if match else [name]
        for known in names:
            if any((folder / known).is_file() for folder in folders):
                return known
        raise DataError(
            f"its image must lie in images/ beside the file, and {' or '.join(names)} is not there"
        )
    raise DataError(f"its data must name an image, and is {brief(data)}")


def _annotations(task: Any) -> list[dict[str, Any]]:
    """The annotations of a task that were not cancelled, the one to be used last."""
    given = task.get("annotations")
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise DataError(f"annotations must be a list of objects, and are {brief(given)}")
    valid = [one for one in given if not one.get("was_cancelled")]
    return sorted(
        valid, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at", "")))
    )


def _regions(annotation: dict[str, Any], place: str) -> list[_Region]:
    """The regions of an annotation with their labels, which may stand in results of their own."""
    results = annotation.get("result")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise DataError(f"result must be a list of objects, and is {brief(results)}")
    labels: dict[str, dict[str, None]] = {}
    labelled: dict[str, dict[str, Any]] = {}
    shapes: dict[str, dict[str, Any]] = {}
    for position, result in enumerate(results):
        value = result.get("value")
        if not isinstance(value, dict):
            continue  # relations between regions
        number = str(result.get("id", position))
        for key, given in value.items():
            if key.endswith("labels") and isinstance(given, list) and given:
                labels.setdefault(number, {}).update(dict.fromkeys(map(str, given)))
                labelled[number] = result
        if {"points", "rle", "width", "radiusX", "x"} & value.keys():
            shapes.setdefault(number, result)
    for number, result in labelled.items():  # of a kind that is not known: drawing it says so
        shapes.setdefault(number, result)
    return [
        _Region(
            f"{place}, region {number}",
            tuple(labels.get(number, ())),
            result["value"],
            (
                whole_number(result.get("original_height")) or 0,
                whole_number(result.get("original_width")) or 0,
            ),
            result.get("image_rotation", 0),
        )
        for number, result in shapes.items()
    ]


def _draw(region: _Region, height: int, width: int) -> MaskCrop:
    """Draw a region. Raises DataError, without a place."""
    value = region.value
    if region.turned not in (0, None):
        raise DataError(
            f"a region must be drawn on the image as it is, and the image was turned by"
            f" {brief(region.turned)} degrees; turn the image file instead"
        )
    if "rle" in value:
        return _brush(value["rle"], height, width)
    points = value.get("points")
    if points is None:
        raise DataError(
            f"a region must be a polygon or a brush mask, and has {brief(sorted(value))}; draw its"
            " outline, or remove it"
        )
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(map(is_real, point)) for point in points
    ):
        raise DataError(f"points must be a list of [x, y] in percent, and are {brief(points)}")
    corners = [
        value * side / 100
        for point in points
        for value, side in zip(point, (width, height), strict=True)
    ]
    return mask_of([corners], height, width)


def _brush(code: Any, height: int, width: int) -> MaskCrop:
    """Draw a brush mask. Raises DataError, without a place."""
    if not isinstance(code, list) or not all(
        isinstance(byte, int) and 0 <= byte <= 255 for byte in code
    ):
        raise DataError(f"rle must be a list of bytes, and is {brief(code)}")
    values = unpack(np.array(code, np.uint8), _CHANNELS * height * width)
    mask = values.reshape(height, width, _CHANNELS)[:, :, -1] > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise DataError("a mask must cover at least one pixel, and covers none; remove it")
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return MaskCrop(int(rows[0]), int(columns[0]), window.copy())


def unpack(code: NDArray[np.uint8], count: int) -> NDArray[np.uint32]:
    """Unpack the values of a run-length encoding of thi.ng's rle-pack, uint32 [count].

    code    uint8 [bytes]: 32 bits for the number of values, 5 for the bits of a value less 1, four
            times 4 for the bits of a length less 1; then blocks. A block is a bit, 1 for one value
            repeated and 0 for values one by one, 2 bits that choose the bits of its length, its
            length less 1, and its value or values
    count   number of values that must be in it

    Raises DataError, without a place.
    """
    bits = np.unpackbits(code)
    at = 0

    def take(length: int) -> int:
        nonlocal at
        if at + length > len(bits):
            raise DataError("rle must hold the whole mask, and ends early; export again")
        number = 0
        for bit in bits[at : at + length].tolist():
            number = 2 * number + bit
        at += length
        return number

    if (given := take(32)) != count:
        raise DataError(
            f"rle must hold {count:,} values, {_CHANNELS} for each pixel of the image, and holds"
            f" {given:,}; bring the picture that was annotated"
        )
    word = take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    weights = 1 << np.arange(word, dtype=np.uint64)[::-1]
    found = np.zeros(count, np.uint32)
    done = 0
    while done < count:
        repeats = take(1)
        end = min(done + 1 + take(lengths[take(2)]), count)
        if repeats:
            found[done:end] = take(word)
        else:
            size = word * (end - done)
            if at + size > len(bits):
                raise DataError("rle must hold the whole mask, and ends early; export again")
            found[done:end] = bits[at : at + size].reshape(-1, word) @ weights
            at += size
        done = end
    return found


READER = Reader(sees_file(task_file), lambda where: read_label_studio(Path(where)))
