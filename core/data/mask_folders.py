"""One mask file per instance, as the Data Science Bowl 2018 has them.

    DIR/NAME/images/NAME.png         one image; grey, RGB or RGBA, any suffix of an image
    DIR/NAME/masks/*.png             one mask per instance: 0 is background, one other value is the
                                     instance; instances may overlap
    DIR/stage1_train/NAME/...        or DIR/train/NAME/..., and then
    DIR/stage1_test/NAME/images/     images to predict on, also in DIR/test/, without masks

A folder whose `masks/` is empty is an image without instances. All instances are of one class,
`cell`.
"""

import contextlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.data.dataset import (
    CELL,
    Dataset,
    Inspection,
    Problem,
    TestImage,
    assemble,
    examples_of,
    of_one_class,
    place_labels,
)
from core.data.images import IMAGE_SUFFIXES, mask_size, read_ids, read_listed, read_rgb
from core.data.outlines import MAX_LAYERS
from core.data.readers import Reader
from core.errors import DataError
from core.sample import MAX_INSTANCES, Sample, Size
from core.text import listed, many

_TRAIN, _TEST = ("stage1_train", "train"), ("stage1_test", "test", "stage2_test_final")


@dataclass(frozen=True)
class _Folder:
    """The files in the folder of one image.

    images   files that are the image; there must be one
    masks    files of one instance each; None if there is no folder `masks`
    strays   further files in the two folders
    """

    path: Path
    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None
    strays: tuple[Path, ...]


def _look_into(folder: Path) -> _Folder:
    strays: list[Path] = []
    images = _pictures(folder / "images", strays)
    masks = _pictures(folder / "masks", strays) if (folder / "masks").is_dir() else None
    return _Folder(folder, images, masks, tuple(strays))


def _pictures(folder: Path, strays: list[Path]) -> tuple[Path, ...]:
    """The pictures in a folder; what is neither one nor hidden is added to the strays."""
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    pictures = tuple(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    strays += [path for path in files if path not in pictures]
    return pictures


def _image_folders(folder: Path) -> list[Path]:
    """List the folders of single images in a folder, by name: those that hold `images/`."""
    if not folder.is_dir():
        return []
    return [
        entry
        for entry in sorted(folder.iterdir())
        if not entry.name.startswith(".") and (entry / "images").is_dir()
    ]


def find_images(folder: Path) -> Path | None:
    """Find the folder of the folders of annotated images: DIR/stage1_train, DIR/train, or DIR.

    None if there is none. At least one of its folders has exactly one image, and `masks/`.
    """
    for candidate in (*(folder / name for name in _TRAIN), folder):
        if any(
            len(found.images) == 1 and found.masks is not None
            for found in map(_look_into, _image_folders(candidate))
        ):
            return candidate
    return None


def single_images(folder: Path) -> list[Path]:
    """List the pictures `folder/NAME/images/*`, as the test images lie."""
    return [path for entry in _image_folders(folder) for path in _look_into(entry).images]


def read_mask_folders(folder: Path) -> Inspection:
    """Read every image of a folder with its masks, in up to 8 threads.

    Problems are collected, not raised.
    """
    images = find_images(folder)
    if images is None:
        message = "no subfolder holds an image in images/ and masks in masks/"
        return Inspection(None, (Problem(str(folder), message),))
    folders = [_look_into(entry) for entry in _image_folders(images) if entry.name not in _TEST]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(_read_image, folders))
    samples = [sample for sample, _ in results if sample is not None]
    listed_images, test_problems = _test_images(folder, images)
    problems = [problem for _, found in results for problem in found]
    problems += [*_stray_problems(folders), *test_problems]
    dataset: Dataset | None = None
    if samples:
        dataset = assemble(folder.resolve().name, (CELL,), samples, listed_images)
        dataset = replace(dataset, notes=tuple(_notes(folder, images)))
    return Inspection(dataset, tuple(problems))


def _read_image(found: _Folder) -> tuple[Sample | None, list[Problem]]:
    """Read the sample of a folder; None, with the problems, if its image or a mask cannot be read.

    An image of which a mask cannot be read is not half read: its cell would be background.
    """
    if len(found.images) != 1:
        files = listed([path.name for path in found.images]) or "none"
        message = f"images/ must hold one image, and holds {files}; leave one"
        return None, [Problem(str(found.path), message, skippable=True)]
    if found.masks is None:
        message = (
            "the image has no folder masks/; add it, empty if there is no cell, or move the image's"
            " folder out of this one"
        )
        return None, [Problem(str(found.path), message, skippable=True)]
    (path,) = found.images
    try:
        image = read_rgb(path, mask_size(found.masks[0]) if found.masks else None)
    except DataError as error:
        place = path if str(error).startswith(f"{path}: ") else found.masks[0]
        return None, [Problem.of(error, place, skippable=True)]
    if len(found.masks) > MAX_INSTANCES:
        message = f"an image can hold {MAX_INSTANCES:,} instances, and has {len(found.masks):,}"
        return None, [Problem(str(found.path), message, skippable=True)]

    size: Size = (image.shape[0], image.shape[1])
    label_maps = [np.zeros(size, np.uint16)]
    problems = []
    for number, mask in enumerate(found.masks, start=1):
        try:
            _place_mask(mask, size, number, label_maps)
        except DataError as error:
            problems.append(Problem.of(error, mask, skippable=True))
    if problems:
        return None, problems
    name = unicodedata.normalize("NFC", found.path.name)
    return of_one_class(name, image, label_maps, len(found.masks)), []


def _place_mask(path: Path, size: Size, number: int, label_maps: list[NDArray[np.uint16]]) -> None:
    """Write the instance of a mask file into the first label map in which it is free."""
    ids_HW = read_ids(path, size)
    values = np.unique(ids_HW[ids_HW != 0])
    if len(values) == 0:
        raise DataError(f"{path}: the mask holds no pixel of an instance; remove the file")
    if len(values) > 1:
        raise DataError(
            f"{path}: a mask file must hold one instance, 0 and one other value, and this one holds"
            f" {many(len(values), 'value')} besides 0; if it is a label image of all instances, put"
            " the images into DIR/images and the label images into DIR/masks, both under one name"
        )
    rows, columns = (np.flatnonzero((ids_HW != 0).any(axis=axis)) for axis in (1, 0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    inside = np.where(ids_HW[y0:y1, x0:x1] != 0, np.uint16(number), np.uint16(0))
    if not place_labels(label_maps, inside, int(y0), int(x0), MAX_LAYERS):
        raise DataError(
            f"{path}: at most {MAX_LAYERS} instances may overlap at one place; remove masks that"
            " are there twice"
        )


def _stray_problems(folders: Sequence[_Folder]) -> Iterator[Problem]:
    """One problem for all files that are no pictures, where pictures are expected."""
    strays = [path for found in folders for path in found.strays]
    if strays:
        more = f" ({len(strays):,} of this kind)" if len(strays) > 1 else ""
        yield Problem(
            str(strays[0]),
            "the file is not read: images/ holds one image, masks/ one picture per instance (TIFF,"
            f" PNG or BMP); convert it, or move it out{more}",
        )


def _test_images(folder: Path, images: Path) -> tuple[list[TestImage], list[Problem]]:
    """The images to predict on, with ids from 1; none if there are none."""
    for name in _TEST:
        if folder / name != images and (paths := single_images(folder / name)):
            place = folder / name
            entries = [
                {"file_name": path.relative_to(place).as_posix(), "id": number}
                for number, path in enumerate(paths, start=1)
            ]
            return read_listed(entries, [place], str(place))
    return [], []


def _notes(folder: Path, images: Path) -> Iterator[str]:
    """Yield notes on images and folders that are not read."""
    loose = sorted(path.name for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if loose:
        yield (
            f"{many(len(loose), 'picture')} directly in {images} not read, since each image has a"
            f" folder of its own: {examples_of(loose)}"
        )
    others = sorted(
        entry.name
        for entry in images.iterdir()
        if entry.is_dir()
        and not (entry / "images").is_dir()
        and not entry.name.startswith((".", "__"))
        and entry.name not in _TEST
    )
    if others:
        yield (
            f"{many(len(others), 'folder')} in {images} without images/ not read:"
            f" {examples_of(others)}"
        )
    for place in sorted(folder.iterdir()) if images != folder else ():
        found: list[Path] = []
        with contextlib.suppress(OSError):  # it may be unreadable, and no part of this data set
            found = _image_folders(place)
        if found and place != images and place.name not in _TEST:
            yield f"{many(len(found), 'image')} in {place} not read, because {images} is"
    if images != folder and (more := [entry.name for entry in _image_folders(folder)]):
        yield (
            f"{many(len(more), 'image')} directly in {folder} not read, because {images} is:"
            f" {examples_of(more)}"
        )


READER = Reader(
    sees=lambda where: find_images(Path(where)) is not None,
    read=lambda where: read_mask_folders(Path(where)),
)
