"""The HW3 layout: one folder per image, one mask per class.

    DIR/train/NAME/image.tif           8-bit grey, RGB or RGBA; .tiff, .png, .jpg, .jpeg and .bmp as
                                       well
    DIR/train/NAME/class1.tif ...      one mask per class that is present: 0 is background, every
                                       other value an instance; .tiff, .png and .bmp as well
    DIR/test_release/FILE              images to predict on; `test/` is read as well
    DIR/test_image_name_to_ids.json    [{"file_name": FILE, "id": 1, "height": 512, "width": 512},
                                       ...]

DIR may also hold the NAME folders itself. The test listing may be absent. A folder without masks is
an image without instances, a true negative. Ids need not be contiguous and need not restart in each
class; the same id in two class files is two instances. class1 to class4 are always classes, so that
two parts of one collection agree even where a rare class is missing; higher numbers are classes
where they are found.

Every file in a NAME folder is read or named: in a problem if it may be a mask or an image that is
meant to be read, in a note if it is neither. Only text files and the files that operating systems
leave are ignored.
"""

import contextlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.data.dataset import (
    Category,
    Dataset,
    Inspection,
    Problem,
    TestImage,
    assemble,
    examples_of,
    place_labels,
    renumber,
)
from core.data.images import (
    IMAGE_SUFFIXES,
    about_turned,
    mask_size,
    read_ids,
    read_listed,
    read_rgb,
    turned_in_doubt,
)
from core.data.json_files import read_annotations
from core.data.readers import Reader
from core.errors import DataError
from core.sample import Sample, Size
from core.text import listed, many

IMAGE = "image.tif"
LISTING = "test_image_name_to_ids.json"
TEST_FOLDERS = ("test_release", "test")

_ENDS = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
_IMAGE_FILE = re.compile(rf"image\.({_ENDS})", re.IGNORECASE | re.ASCII)
_CLASS_FILE = re.compile(rf"class([1-9][0-9]*)\.({_ENDS})", re.IGNORECASE | re.ASCII)
_FILES_BESIDE = re.compile(
    r"\..*|thumbs\.db|ehthumbs\.db|desktop\.ini|readme.*|licen[cs]e.*|.*\.(txt|md|rst|log)",
    re.IGNORECASE,
)
"""Names of files that are ignored: those that operating systems leave (`.DS_Store`, `._image.tif`),
and text for people."""
_PERHAPS_MEANT = re.compile(
    r"(image|class|mask|label|instance)s?[^a-z].*"
    r"|.*\.(tiff?|png|bmp|jpe?g|jp2|gif|webp|dib|p[gpn]m|npy|npz|mat|h5|hdf5|zarr|nii|gz|zip|roi|svs|ndpi|czi|nd2|lif|dcm)",
    re.IGNORECASE,
)
"""Names that may be meant as an image's or a mask's: those of pictures, arrays and archives, and
those that begin like them."""

_WRONG_NAME = (
    "the file is not read: masks must be named class1.tif, class2.tif, ... (or .png, .bmp), the"
    " image image.tif (or .png, .jpg, .bmp); rename it if it is one of these, else move it out of"
    " the folder"
)
_WRONG_FOLDER = (
    "pictures in a folder inside an image's folder are not read; make one mask per class of them,"
    " class1.tif beside the image, in which every instance has its own number"
)


@dataclass(frozen=True)
class _Folder:
    """The files in the folder of one image.

    images   files that are the image; there must be one
    masks    class numbers and files, in ascending number; there must be one for each class
    strays   files that may be meant to be read and are not, and why
    others   names of files that are neither read nor meant to be
    """

    path: Path
    images: tuple[Path, ...]
    masks: tuple[tuple[int, Path], ...]
    strays: tuple[tuple[Path, str], ...]
    others: tuple[str, ...]


def images_folder(folder: Path) -> Path | None:
    """Find the folder whose subfolders hold images: `folder/train`, else `folder`, else None."""
    for candidate in (folder / "train", folder):
        if candidate.is_dir() and any(
            _look_into(entry).images for entry in _image_folders(candidate, folder)
        ):
            return candidate
    return None


def _holds_image(entry: Path) -> bool:
    return any(_IMAGE_FILE.fullmatch(path.name) for path in entry.iterdir())


def _image_folders(images: Path, folder: Path) -> list[Path]:
    """List the folders of single images by name, without hidden ones and those of test images."""
    beside = TEST_FOLDERS if images == folder else ()
    return sorted(
        entry
        for entry in images.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "__")) and entry.name not in beside
    )


def read_hw3(folder: Path) -> Inspection:
    """Read every image of a folder in the HW3 layout, in up to 8 threads.

    Problems are collected, not raised.
    """
    images = images_folder(folder)
    if images is None:
        return Inspection(None, (Problem(str(folder), f"no subfolder holds {IMAGE}"),))
    folders = [_look_into(entry) for entry in _image_folders(images, folder)]
    numbers = {number for found in folders for number, _ in found.masks}
    classes = [Category(number, f"class{number}") for number in sorted(numbers | {1, 2, 3, 4})]
    label_of = {category.id: label for label, category in enumerate(classes, start=1)}

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda found: _read_image(found, label_of), folders))
    samples = [sample for sample, _ in results if sample is not None]
    test_images, test_problems = _read_listing(folder)
    problems = [problem for _, found in results for problem in found]
    problems += [*_stray_problems(folders), *test_problems]
    dataset: Dataset | None = None
    if samples:
        dataset = assemble(folder.resolve().name, classes, samples, test_images)
        dataset = replace(dataset, notes=tuple(_notes(folder, images, folders)))
    return Inspection(dataset, tuple(problems))


def _look_into(entry: Path) -> _Folder:
    """Sort the files of an image's folder by their purpose."""
    images: list[Path] = []
    masks: list[tuple[int, Path]] = []
    strays: list[tuple[Path, str]] = []
    others: list[str] = []
    for path in sorted(entry.iterdir()):
        if _IMAGE_FILE.fullmatch(path.name):
            images.append(path)
        elif match := _CLASS_FILE.fullmatch(path.name):
            masks.append((int(match[1]), path))
        elif _FILES_BESIDE.fullmatch(path.name) or path.name.startswith("__"):
            continue
        elif path.is_dir():
            if any(_PERHAPS_MEANT.fullmatch(inside.name) for inside in path.rglob("*")):
                strays.append((path, _WRONG_FOLDER))
        elif _PERHAPS_MEANT.fullmatch(path.name):
            strays.append((path, _WRONG_NAME))
        else:
            others.append(path.name)
    return _Folder(entry, tuple(images), tuple(sorted(masks)), tuple(strays), tuple(others))


def _read_image(found: _Folder, label_of: dict[int, int]) -> tuple[Sample | None, list[Problem]]:
    """Read the sample of a folder; None, with the problems, if its image or a mask cannot be read.

    label_of   class number in the data set, from 1 to C, of each K in classK
    """
    masks = dict(found.masks)
    if not found.images:
        message = f"the folder holds no {IMAGE} (or .png, .jpg, .bmp); add it, or remove the folder"
        return None, [Problem(str(found.path), message, skippable=True)]
    if len(found.images) > 1 or len(masks) < len(found.masks):
        files = [path.name for path in (*found.images, *(path for _, path in found.masks))]
        message = (
            f"a folder must hold one image and one mask per class, and holds {listed(files)};"
            " remove the duplicates"
        )
        return None, [Problem(str(found.path), message)]
    try:
        image = read_rgb(found.images[0], _size_of_masks(found))
    except DataError as error:
        return None, [Problem.of(error, found.images[0], skippable=True)]

    problems: list[Problem] = []
    label_maps = [np.zeros(image.shape[:2], np.uint16)]
    labels: list[int] = []
    for number, path in masks.items():
        try:
            labels_HW, count = renumber(read_ids(path, image.shape[:2]), first=len(labels) + 1)
        except DataError as error:
            problems.append(Problem.of(error, path, skippable=True))
        else:
            place_labels(label_maps, labels_HW)
            labels += [label_of[number]] * count
    if problems:  # without its mask, a cell would be learned as background
        return None, problems
    # macOS may decompose the Unicode characters of a name, which must not change the fingerprint or
    # a group.
    name = unicodedata.normalize("NFC", found.path.name)
    sample = Sample(
        name,
        image,
        np.stack(label_maps),
        np.array(labels, np.int64),
        np.zeros(len(labels), np.bool_),
    )
    return sample, []


def _size_of_masks(found: _Folder) -> Size | None:
    """The size of the first mask that can be read, on which it was drawn; None if there is none."""
    for _, path in found.masks:
        try:
            return mask_size(path)
        except DataError:  # reported where the mask is read
            continue
    return None


def _stray_problems(folders: Sequence[_Folder]) -> Iterator[Problem]:
    """Yield a problem for each name of a stray file, however many folders hold one of that name."""
    by_name: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for found in folders:
        for path, message in found.strays:
            by_name[path.name.replace(found.path.name, "NAME"), message].append(path)
    for (_, message), paths in by_name.items():
        more = (
            f" ({many(len(paths) - 1, 'more folder')} with one like it)" if len(paths) > 1 else ""
        )
        yield Problem(str(paths[0]), message + more)


def _notes(folder: Path, images: Path, folders: Sequence[_Folder]) -> Iterator[str]:
    """Yield notes on pictures and files that are not read, and on images that EXIF turns."""
    for other in _image_folders(folder, folder) if images != folder else ():
        inside = 0
        with contextlib.suppress(OSError):  # it may be unreadable, and no part of this data set
            inside = (
                sum(_holds_image(entry) for entry in (other, *_image_folders(other, folder)))
                if other != images
                else 0
            )
        if inside:
            yield (
                f"{many(inside, 'image')} in {other} not read: the split takes validation images"
                f" out of those in {images}; to use them too, move their folders there"
            )
    loose = sorted(
        path.name
        for path in images.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not _FILES_BESIDE.fullmatch(path.name)
    )
    if loose:
        yield (
            f"{many(len(loose), 'picture')} directly in {images} not read, since each image has a"
            f" folder of its own: {examples_of(loose)}"
        )
    if others := [f"{found.path.name}/{name}" for found in folders for name in found.others]:
        yield (
            f"{many(len(others), 'file')} beside images, neither image nor mask, not read:"
            f" {examples_of(others)}"
        )

    yield from about_turned([found.path.name for found in folders if _is_turned_in_doubt(found)])


def _is_turned_in_doubt(found: _Folder) -> bool:
    """Whether nothing tells if the masks were drawn on the stored image or as EXIF turns it."""
    try:
        return any(
            turned_in_doubt(path, _size_of_masks(found)) for path in found.images if found.masks
        )
    except DataError:  # reported where the image is read
        return False


def _read_listing(folder: Path) -> tuple[list[TestImage], list[Problem]]:
    """The listed test images, none where there is no listing, and the problems of the others."""
    listing = folder / LISTING
    if not listing.exists():
        return [], []
    try:
        entries = read_annotations(listing)
    except DataError as error:
        return [], [Problem.of(error, listing)]
    if not isinstance(entries, list):
        return [], [
            Problem(
                str(listing),
                f"the listing must be a list of images, and is a {type(entries).__name__}",
            )
        ]
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if test is None:
        return [], [
            Problem(
                str(listing),
                f"images are listed, and {folder / TEST_FOLDERS[0]} is not there; add it",
            )
        ]

    return read_listed(entries, [test, folder], str(listing))


READER = Reader(
    sees=lambda where: images_folder(Path(where)) is not None,
    read=lambda where: read_hw3(Path(where)),
)
