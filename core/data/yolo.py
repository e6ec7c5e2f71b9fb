"""Segmentation labels of YOLO: one text file of polygons for each image.

    DIR/data.yaml                   names: the classes by number; train, val, test: their images
    DIR/images/train/NAME.png ...   or DIR/train/images/ (Roboflow), or DIR/images/
    DIR/labels/train/NAME.txt ...   `labels` in place of `images` in the image's path; a line is
                                    CLASS x1 y1 x2 y2 x3 y3 ..., in fractions of width and height

A part is a folder, a text file that lists images, or a list of either, relative to data.yaml. An
export without parts has DIR/images/, DIR/labels/ and DIR/classes.txt, with one name in each line
(Label Studio). The images of `val` validate in the data set's own split; those of `test` are not
read. As YOLO has it, an image without a label file has no instance.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from core.bounded_yaml import load_yaml
from core.data.coco_masks import mask_of
from core.data.dataset import Category, Inspection, Problem, examples_of
from core.data.images import IMAGE_SUFFIXES, whole_number
from core.data.outlines import AnnotatedImage, Outline, read_pictures
from core.data.pairing import names_of
from core.data.readers import Reader
from core.errors import DataError
from core.files import reason_of
from core.sample import MaskCrop
from core.text import brief, first_line, many

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")
"""Names of the file that describes a data set."""
CLASS_NAMES = "classes.txt"
MOST_BYTES = 64 * 2**20
"""Largest size of a text file that is read."""
MOST_OUTSIDE = 0.5
"""Distance from the image, in fractions of its side, up to which a corner is a slip."""


@dataclass(frozen=True)
class _Layout:
    """The content of a YOLO data set.

    source    the file that describes it
    names     the names of its classes by number
    parts     the images of `train`, and of `val`
    """

    source: Path
    names: dict[int, str]
    parts: dict[str, list[Path]]


def description(folder: Path) -> Path | None:
    """Find the file that describes a YOLO data set; None for a folder that holds no labels."""
    if not any(folder.glob("labels/**/*.txt")) and not any(folder.glob("*/labels/*.txt")):
        return None
    for name in (*DESCRIPTIONS, CLASS_NAMES):
        if (folder / name).is_file():
            return folder / name
    return None


def read_yolo(folder: Path) -> Inspection:
    """Read the images of `train` and `val`; problems are collected."""
    folder = Path(os.path.normpath(folder))
    source = description(folder)
    assert source is not None, "the reader has seen this file"
    try:
        layout = _layout(source, folder)
    except DataError as error:
        return Inspection(None, (Problem.of(error, source),))
    problems: list[Problem] = []
    classes = [Category(number, name) for number, name in sorted(layout.names.items())]
    label_of = {category.id: label for label, category in enumerate(classes, start=1)}
    pictures: dict[Path, AnnotatedImage] = {}
    unlabelled: list[str] = []
    validating: list[str] = []
    images = dict.fromkeys(path for paths in layout.parts.values() for path in paths)
    name_of = names_of(list(images), folder)
    sharing: dict[Path, list[Path]] = {}
    for path in images:
        sharing.setdefault(_label_file(path, folder), []).append(path)
    for part, paths in layout.parts.items():
        for path in paths:
            if path in pictures:
                message = f"an image must be in one part, and is in {' and '.join(layout.parts)}"
                problems.append(Problem(str(path), f"{message}; remove it from one"))
                continue
            name = name_of[path]
            label_file = _label_file(path, folder)
            others = [one for one in sharing[label_file] if one != path]
            if others and label_file.is_file():
                message = (
                    f"an image must have a label file of its own, and {others[0].name} has"
                    f" {label_file.relative_to(folder)} as well; remove one of the two images, or"
                    " give each a name of its own"
                )
                problems.append(Problem(str(path), message, skippable=True))
                continue
            outlines: list[Outline] = []
            try:
                outlines += _outlines(label_file, label_of, layout, problems)
            except FileNotFoundError:
                unlabelled.append(name)
            except DataError as error:
                problems.append(Problem.of(error, label_file, skippable=True))
                continue
            pictures[path] = AnnotatedImage(str(path), name, path.name, [path.parent], outlines)
            if part == "val":
                validating.append(name)
    notes = _notes(folder, unlabelled, [_label_file(path, folder) for path in images])
    if not pictures:
        problems.append(Problem(str(source), "there must be at least one image, and there is none"))
    return read_pictures(
        folder,
        folder,
        classes,
        list(pictures.values()),
        problems=problems,
        notes=notes,
        validation=validating,
    )


def _layout(source: Path, folder: Path) -> _Layout:
    """Read the description of a data set. Raises DataError."""
    if source.name == CLASS_NAMES:
        lines = [line.strip() for line in _read(source).splitlines()]
        names = {number: name for number, name in enumerate(lines) if name}
        return _Layout(source, names, {"train": _listed(folder, folder, "images", source)})
    try:
        document = load_yaml(_read(source))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{source}: the file is not YAML ({first_line(error)})") from None
    if not isinstance(document, dict):
        raise DataError(
            f"{source}: a description must hold names, train and val, and is {brief(document)}"
        )
    base = folder
    if isinstance(document.get("path"), str) and (folder / document["path"]).is_dir():
        base = folder / document["path"]
    parts = {
        part: [
            path
            for value in (values if isinstance(values, list) else [values])
            for path in _listed(folder, base, value, source)
        ]
        for part in ("train", "val")
        if (values := document.get(part))
    }
    if not parts:
        parts = {"train": _listed(folder, folder, "images", source)}
    return _Layout(source, _names(document.get("names"), source), parts)


def _names(value: Any, source: Path) -> dict[int, str]:
    """The names of classes by number. Raises DataError."""
    pairs = list(enumerate(value)) if isinstance(value, list) else []
    pairs = list(value.items()) if isinstance(value, dict) else pairs
    names = {whole_number(number): str(name) for number, name in pairs}
    known = {number: name for number, name in names.items() if number is not None and number >= 0}
    if not known or len(known) < len(pairs) or len(set(known.values())) < len(known):
        raise DataError(
            f"{source}: names must be a list of the classes' names, each its own, and is"
            f" {brief(value)}"
        )
    return known


def _listed(folder: Path, base: Path, value: Any, source: Path) -> list[Path]:
    """List the images of a part. Raises DataError for a part that is not in the folder."""
    place = _find(folder, base, value)
    if place is not None and place.is_dir():
        return [path for path in sorted(place.rglob("*")) if _is_image(path)]
    if place is not None and place.suffix == ".txt":
        lines = [line.strip() for line in _read(place).splitlines() if line.strip()]
        images = [_find(folder, base, line) for line in lines]
        for line, image in zip(lines, images, strict=True):
            if image is None or not _is_image(image):
                raise DataError(
                    f"{place}: an image must be in the folder of the data set, and {line} is not"
                )
        return [image for image in images if image is not None]
    raise DataError(
        f"{source}: a part must be a folder of the data set or a .txt file that lists images, and"
        f" {brief(value)} is not there; name it relative to {source.name}"
    )


def _find(folder: Path, base: Path, value: Any) -> Path | None:
    """Find a file or folder inside the data set's folder; None if there is none.

    Roboflow writes ../train/images for the folder beside data.yaml, and paths of other machines
    begin elsewhere, so what a path ends in counts.
    """
    if not isinstance(value, str):
        return None
    steps = [step for step in Path(value.replace("\\", "/")).parts if step not in ("..", ".", "/")]
    places = [base / value, *(folder.joinpath(*steps[first:]) for first in range(len(steps)))]
    for place in map(Path, map(os.path.normpath, places)):
        if place.exists() and place.is_relative_to(folder):
            return place
    return None


def _is_image(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _label_file(image: Path, folder: Path) -> Path:
    """The label file of an image: `labels` in place of the last `images` of its path."""
    parts = list(image.relative_to(folder).parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return folder.joinpath(*parts).with_suffix(".txt")


def _outlines(
    file: Path, label_of: dict[int, int], layout: _Layout, problems: list[Problem]
) -> Iterator[Outline]:
    """Yield the outlines of a label file. Raises DataError, and FileNotFoundError."""
    for number, line in enumerate(_read(file).splitlines(), start=1):
        if not (words := line.split()):
            continue
        place = f"{file}, line {number}"
        label = whole_number(words[0])
        if label is None or label not in label_of:
            message = (
                f"a line must begin with the number of a class that {layout.source.name} names,"
                f" {', '.join(map(str, layout.names))[:60]}, and begins with {brief(words[0])}"
            )
            problems.append(Problem(place, message, skippable=True))
            continue
        box = len(words) == 5
        yield Outline(place, label_of[label], None if box else partial(_draw, words[1:]))


def _draw(words: Sequence[str], height: int, width: int) -> MaskCrop:
    """Draw a polygon. Raises DataError, without a place."""
    try:
        corners = [float(word) for word in words]
    except ValueError:
        raise DataError(
            f"a line must hold numbers after its class, and holds {brief(' '.join(words))}"
        ) from None
    if len(corners) < 6 or len(corners) % 2:
        raise DataError(
            "a line must hold x and y of three corners or more after its class, and holds"
            f" {many(len(corners), 'number')}"
        )
    far = [
        word
        for word, value in zip(words, corners, strict=True)
        if not -MOST_OUTSIDE <= value <= 1 + MOST_OUTSIDE
    ]
    if far:
        raise DataError(
            f"corners must be fractions of the image, from 0 to 1, and one is {far[0]}; divide x"
            " by the width and y by the height"
        )
    sides = (width, height)
    return mask_of(
        [[value * sides[number % 2] for number, value in enumerate(corners)]], height, width
    )


def _read(file: Path) -> str:
    """The text of a file. Raises DataError, and FileNotFoundError."""
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise DataError(f"{file}: a text file may have {MOST_BYTES:,} bytes, and has {size:,}")
        return file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the file cannot be read: {reason_of(error)}") from None


def _notes(folder: Path, unlabelled: Sequence[str], used: Sequence[Path]) -> list[str]:
    """Notes on images and label files that lack the other, and on test images.

    used   the label files of all images, whether they are there or not
    """
    notes = []
    alone = {
        path
        for pattern in ("labels/**/*.txt", "*/labels/**/*.txt")
        for path in folder.glob(pattern)
        if path.name != CLASS_NAMES and "test" not in path.relative_to(folder).parts[:-1]
    } - set(used)
    if alone:
        names = sorted(path.relative_to(folder).as_posix() for path in alone)
        notes.append(
            f"{many(len(names), 'label file')} whose image is in no part, left out:"
            f" {examples_of(names)}"
        )
    if unlabelled:
        notes.append(
            f"{many(len(unlabelled), 'image')} without a label file, so without instances:"
            f" {examples_of(unlabelled)}"
        )
    tests = [place for place in ("images/test", "test/images") if (folder / place).is_dir()]
    if tests:
        notes.append(f"{tests[0]} is not read; name that folder to predict its images")
    return notes


READER = Reader(
    sees=lambda where: description(Path(where)) is not None,
    read=lambda where: read_yolo(Path(where)),
)
