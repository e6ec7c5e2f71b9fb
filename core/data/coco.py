"""The COCO layout: one JSON file of polygons and run-length encodings beside a folder of images.

    DIR/train.json  or  DIR/annotations/instances_train*.json        images in DIR/train*/, DIR/images/ or DIR
    DIR/test.json   or  DIR/annotations/{image_info,instances}_test*.json    images in DIR/test*/, DIR/images/ or DIR

The test listing may be absent, and annotations in it are not read. Instances that overlap go to different label maps.
`iscrowd` marks a crowd region. A validation listing is not read: the split takes validation images out of the training
images, the same for every study.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from core import rle
from core.data.dataset import Category, Dataset, Inspection, Problem, TestImage, assemble, place
from core.data.images import find_file, read_listed, read_rgb
from core.errors import DataError
from core.sample import MAX_INSTANCES, Sample


def annotation_file(folder: Path, part: str = "train") -> Path | None:
    """The JSON file of a part (train, test), None when there is none. Raises DataError when there are several."""
    if (folder / f"{part}.json").is_file():
        return folder / f"{part}.json"
    kinds = ("instances",) if part == "train" else ("image_info", "instances")
    for kind in kinds:
        found = sorted((folder / "annotations").glob(f"{kind}_{part}*.json"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{folder / 'annotations'}: one {kind}_{part}*.json is read, and there are {names}")
        if found:
            return found[0]
    return None


def read(folder: Path) -> Inspection:
    """Read every image of a folder in the COCO layout, in a few threads. Problems are collected, not raised."""
    try:
        path, test_path = annotation_file(folder), annotation_file(folder, "test")
    except DataError as error:
        return Inspection(None, (Problem.of(error, folder / "annotations"),))
    if path is None:
        return Inspection(None, (Problem(str(folder), "no train.json and no annotations/instances_train*.json"),))
    try:
        document = _load(path, ("images", "annotations", "categories"))
    except DataError as error:
        return Inspection(None, (Problem.of(error, path),))

    problems: list[Problem] = []
    classes = _classes(document["categories"], path, problems)
    label_of = {category.id: label for label, category in enumerate(classes, start=1)}
    images = _images(document["images"], path, problems)
    annotations = _by_image(document["annotations"], images, label_of, path, problems)
    folders = image_folders(folder, path, "train")

    def read_image(image_id: int) -> tuple[Sample | None, list[Problem]]:
        return _read_image(images[image_id], annotations[image_id], label_of, folders, path)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(read_image, sorted(images, key=lambda image_id: images[image_id]["file_name"])))
    samples = [sample for sample, _ in results if sample is not None]
    problems += [problem for _, found in results for problem in found]

    test_images: list[TestImage] = []
    if test_path is not None:
        try:
            listed = _load(test_path, ("images",))["images"]
        except DataError as error:
            problems.append(Problem.of(error, test_path))
        else:
            test_images, found = read_listed(listed, image_folders(folder, test_path, "test"), str(test_path))
            problems += found
    dataset: Dataset | None = None
    if samples:
        dataset = assemble(folder.resolve().name, classes, samples, test_images)
    return Inspection(dataset, tuple(problems))


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError, one sentence that begins with the path."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the file is no JSON ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read: {error.strerror}") from None


def _load(path: Path, lists: tuple[str, ...]) -> dict[str, list[Any]]:
    document = read_json(path)
    for name in lists:
        if not isinstance(document, dict) or not isinstance(document.get(name), list):
            raise DataError(f"{path}: a COCO file must hold the lists {', '.join(lists)}, and {name} is missing")
    return {name: document[name] for name in lists}


def image_folders(folder: Path, annotations: Path, part: str) -> list[Path]:
    """Where a part's images may lie; train2017 goes with instances_train2017.json."""
    year = annotations.stem.rpartition(part)[2]
    names = dict.fromkeys((f"{part}{year}", part, "images", "."))
    return [folder / name for name in names if (folder / name).is_dir()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _entries(items: list[Any], kind: str, path: Path, problems: list[Problem]) -> dict[int, dict[str, Any]]:
    """The items that are objects with a whole number of their own as id."""
    entries: dict[int, dict[str, Any]] = {}
    for position, item in enumerate(items):
        place = f"{path}, {kind} {position} (counted from 0)"
        if not isinstance(item, dict) or not _is_number(item.get("id")):
            problems.append(Problem(place, f"{kind} must be an object with a whole number as id, and is {item!r:.80}"))
        elif item["id"] in entries:
            problems.append(Problem(place, f"ids must be unique, and {item['id']} repeats one"))
        else:
            entries[item["id"]] = item
    return entries


def _classes(items: list[Any], path: Path, problems: list[Problem]) -> list[Category]:
    classes = []
    for category_id, item in sorted(_entries(items, "category", path, problems).items()):
        name = item.get("name")
        if isinstance(name, str) and name:
            classes.append(Category(category_id, name))
        else:
            problems.append(Problem(f"{path}, category {category_id}", f"its name must be a text, and is {name!r}"))
    if not classes:
        problems.append(Problem(str(path), "there must be at least one category, and there is none"))
    return classes


def _images(items: list[Any], path: Path, problems: list[Problem]) -> dict[int, dict[str, Any]]:
    images = _entries(items, "image", path, problems)
    if not items:
        problems.append(Problem(str(path), "there must be at least one image, and there is none"))
    names: set[str] = set()
    for image_id, item in list(images.items()):
        name = item.get("file_name")
        if isinstance(name, str) and name not in names:
            names.add(name)
            continue
        problems.append(
            Problem(f"{path}, image {image_id}", f"its file_name must be a text of its own, and is {name!r}")
        )
        del images[image_id]
    return images


def _by_image(
    items: list[Any],
    images: Mapping[int, Any],
    label_of: Mapping[int, int],
    path: Path,
    problems: list[Problem],
) -> dict[int, list[dict[str, Any]]]:
    """The annotations of each image in ascending id, without those whose image or category is unknown."""
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation_id, item in sorted(_entries(items, "annotation", path, problems).items()):
        place = f"{path}, annotation {annotation_id}"
        image_id, category_id, crowd = item.get("image_id", ""), item.get("category_id", ""), item.get("iscrowd", 0)
        if not _is_number(image_id) or image_id not in images:
            problems.append(Problem(place, f"image_id must be the id of an image, and is {image_id!r}"))
        elif not _is_number(category_id) or category_id not in label_of:
            problems.append(Problem(place, f"category_id must be the id of a category, and is {category_id!r}"))
        elif crowd not in (0, 1):
            problems.append(Problem(place, f"iscrowd must be 0 or 1, and is {crowd!r}"))
        else:
            annotations[image_id].append(item)
    return annotations


def _read_image(
    image: Mapping[str, Any],
    annotations: list[dict[str, Any]],
    label_of: Mapping[int, int],
    folders: list[Path],
    path: Path,
) -> tuple[Sample | None, list[Problem]]:
    place_of_image = f"{path}, image {image['id']}"
    try:
        file = find_file(image["file_name"], folders)
    except DataError as error:
        return None, [Problem(place_of_image, str(error))]
    try:
        listed: Any = (image.get("height"), image.get("width"))
        pixels = read_rgb(file, listed)
    except DataError as error:
        return None, [Problem.of(error, file)]
    height, width = pixels.shape[:2]
    if (image.get("height", height), image.get("width", width)) != (height, width):
        listed = f"{image.get('height')} x {image.get('width')}"
        message = f"{file} is listed with {listed} pixels (height x width), and has {height} x {width}"
        return None, [Problem(place_of_image, message)]

    problems: list[Problem] = []
    label_maps = [np.zeros((height, width), np.uint16)]
    labels: list[int] = []
    crowd: list[bool] = []
    for annotation in annotations:
        try:
            if len(labels) == MAX_INSTANCES:
                raise DataError(f"an image can hold {MAX_INSTANCES:,} instances; cut it into tiles")
            mask = _mask(annotation.get("segmentation"), height, width)
        except DataError as error:
            problems.append(Problem(f"{path}, annotation {annotation['id']}", str(error)))
            continue
        labels.append(label_of[annotation["category_id"]])
        crowd.append(bool(annotation.get("iscrowd", 0)))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        place(label_maps, window * np.uint16(len(labels)), int(rows[0]), int(columns[0]))
    sample = Sample(
        image["file_name"], pixels, np.stack(label_maps), np.array(labels, np.int64), np.array(crowd, np.bool_)
    )
    return sample, problems


def _mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The mask, bool [H, W], of polygons or of a run-length encoding. Raises DataError, without a place."""
    if isinstance(segmentation, list):
        runs = _of_polygons(segmentation, height, width)
    elif isinstance(segmentation, dict):
        runs = _of_encoding(segmentation, height, width)
    else:
        raise DataError(f"segmentation must be polygons or a run-length encoding, and is {segmentation!r:.80}")
    # Runs of background and of mask take turns, column by column, and begin with background.
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    if not mask.any():
        raise DataError("segmentation must cover at least one pixel, and covers none; remove the annotation")
    return mask


def _of_polygons(polygons: list[Any], height: int, width: int) -> list[int]:
    if not polygons:
        raise DataError("segmentation must cover at least one pixel, and is empty; remove the annotation")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise DataError(f"a polygon must be a list x, y, x, y, ... of three points or more, and is {polygon!r:.80}")
        for position, value in enumerate(polygon):
            side = height if position % 2 else width
            is_real = isinstance(value, int | float) and not isinstance(value, bool)
            # pycocotools allocates memory by the length of the outline, so a stray corner would take gigabytes.
            if not is_real or not -side <= value <= 2 * side:
                raise DataError(
                    f"a polygon's corners must be numbers in or near the image ({width} wide, {height} high), "
                    f"and value {position} (counted from 0) is {value!r}"
                )
    return rle.runs(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))["counts"].decode())


def _of_encoding(segmentation: Mapping[str, Any], height: int, width: int) -> list[int]:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        raise DataError(f"a run-length encoding must have the image's size, {[height, width]}, and has {size!r}")
    if isinstance(counts, str):
        runs = rle.runs(counts)
    elif isinstance(counts, list) and all(_is_number(count) for count in counts):
        runs = counts
    else:
        raise DataError(f"counts must be a list of whole numbers or a compressed text, and is {counts!r:.80}")
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise DataError(
            f"the runs must be 0 or more and add up to the image's {height * width:,} pixels, "
            f"and add up to {sum(runs):,}"
        )
    return runs
