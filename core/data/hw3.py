"""The HW3 layout: one folder an image, one mask a class.

    DIR/train/NAME/image.tif           8-bit grey, RGB or RGBA
    DIR/train/NAME/class1.tif ...      one mask a class that is present: 0 is background, every other value an instance
    DIR/test_release/FILE              images to predict on; `test/` is read as well
    DIR/test_image_name_to_ids.json    [{"file_name": FILE, "id": 1, "height": 512, "width": 512}, ...]

DIR may also hold the NAME folders itself. The test listing may be absent. A folder without masks is an image without
instances, a true negative. Ids need not be contiguous and need not restart in each class; the same id in two class
files is two instances. The classes are class1 .. class4, always, so that two parts of one collection agree even where
a rare class is missing, and whatever higher ones are found.
"""

import json
import os
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from core.data.dataset import Category, Dataset, Inspection, Problem, TestImage, assemble, place, renumber
from core.data.images import read_ids, read_listed, read_rgb
from core.errors import DataError
from core.sample import Sample

IMAGE = "image.tif"
CLASS_FILE = re.compile(r"class([1-9]\d*)\.tif")
LISTING = "test_image_name_to_ids.json"
TEST_FOLDERS = ("test_release", "test")


def images_folder(folder: Path) -> Path | None:
    """The folder whose subfolders hold image.tif: `folder/train`, else `folder` itself, else None."""
    for candidate in (folder / "train", folder):
        if candidate.is_dir() and any((entry / IMAGE).is_file() for entry in _entries(candidate, folder)):
            return candidate
    return None


def _entries(images: Path, folder: Path) -> list[Path]:
    """The folders of single images, in the order of their names; not what systems and the layout itself put beside."""
    beside = TEST_FOLDERS if images == folder else ()
    return sorted(
        entry
        for entry in images.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "__")) and entry.name not in beside
    )


def read(folder: Path) -> Inspection:
    """Read every image of a folder in the HW3 layout, in a few threads. Problems are collected, not raised."""
    images = images_folder(folder)
    if images is None:
        return Inspection(None, (Problem(str(folder), f"no subfolder holds {IMAGE}"),))
    entries = _entries(images, folder)
    numbers = {number for entry in entries for number, _ in _class_files(entry)[0]}
    classes = [Category(number, f"class{number}") for number in sorted(numbers | {1, 2, 3, 4})]
    label_of = {category.id: label for label, category in enumerate(classes, start=1)}

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda entry: _read_image(entry, label_of), entries))
    samples = [sample for sample, _ in results if sample is not None]
    test_images, test_problems = _read_listing(folder)
    problems = [problem for _, found in results for problem in found] + test_problems
    dataset: Dataset | None = None
    if samples:
        dataset = assemble(folder.resolve().name, classes, samples, test_images)
    return Inspection(dataset, tuple(problems))


def _class_files(entry: Path) -> tuple[list[tuple[int, Path]], list[Problem]]:
    """The masks of an image with their class numbers, ascending, and files that look like masks and are none."""
    files, problems = [], []
    for path in sorted(entry.iterdir()):
        if match := CLASS_FILE.fullmatch(path.name):
            files.append((int(match[1]), path))
        elif re.match(r"class.*\.tiff?$", path.name, re.IGNORECASE):
            problems.append(Problem(str(path), "masks must be named class1.tif, class2.tif, ...; rename or remove it"))
    return sorted(files), problems


def _read_image(entry: Path, label_of: dict[int, int]) -> tuple[Sample | None, list[Problem]]:
    files, problems = _class_files(entry)
    if not (entry / IMAGE).is_file():
        return None, [*problems, Problem(str(entry), f"the folder holds no {IMAGE}; add it, or remove the folder")]
    try:
        image = read_rgb(entry / IMAGE)
    except DataError as error:
        return None, [*problems, Problem.of(error, entry / IMAGE)]

    label_maps = [np.zeros(image.shape[:2], np.uint16)]
    labels: list[int] = []
    for number, path in files:
        try:
            labels_HW, count = renumber(read_ids(path, image.shape[:2]), first=len(labels) + 1)
        except DataError as error:
            problems.append(Problem.of(error, path))
        else:
            place(label_maps, labels_HW)
            labels += [label_of[number]] * count
    # macOS may hand a name out decomposed; it must not change the fingerprint or a group.
    name = unicodedata.normalize("NFC", entry.name)
    sample = Sample(name, image, np.stack(label_maps), np.array(labels, np.int64), np.zeros(len(labels), np.bool_))
    return sample, problems


def _read_listing(folder: Path) -> tuple[list[TestImage], list[Problem]]:
    listing = folder / LISTING
    if not listing.exists():
        return [], []
    try:
        entries = json.loads(listing.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        return [], [Problem(str(listing), f"the listing is no JSON ({error})")]
    if not isinstance(entries, list):
        return [], [Problem(str(listing), f"the listing must be a list of images, and is a {type(entries).__name__}")]
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if test is None:
        return [], [Problem(str(listing), f"images are listed, and {folder / TEST_FOLDERS[0]} is not there; add it")]

    return read_listed(entries, [test], str(listing))
