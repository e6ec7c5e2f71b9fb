"""The COCO layout: one JSON file of polygons and run-length encodings beside a folder of images.

    DIR/train.json                              or DIR/annotations/instances_train*.json
        images in DIR/train*/                   or DIR/images/train*/, DIR/images/, DIR
    DIR/test.json                               or DIR/annotations/image_info_test*.json,
                                                   DIR/annotations/instances_test*.json
        images in DIR/test*/                    or DIR/images/test*/, DIR/images/, DIR

Exports of annotation tools are read where they lie: train/_annotations.coco.json (Roboflow), and
the one JSON file in DIR or DIR/annotations that has the lists of COCO, under any name (CVAT, Label
Studio).

The test listing may be absent, and annotations in it are not read. Instances that overlap go to
different label maps. `iscrowd` marks a crowd region. A validation listing is not read: validation
images are taken from the training images, see `core.data.split`.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from core.data.coco_masks import (
    FAR_AREA,
    BesideImage,
    box_of,
    fit_of_area,
    fit_of_bbox,
    mask_of,
)
from core.data.dataset import (
    Category,
    Dataset,
    Inspection,
    Problem,
    TestImage,
    assemble,
    examples_of,
    place_labels,
)
from core.data.images import (
    about_turned,
    find_file,
    read_listed,
    read_rgb,
    turned_in_doubt,
    whole_number,
)
from core.data.readers import Reader
from core.errors import DataError
from core.files import read_json
from core.sample import MAX_INSTANCES, MaskCrop, Sample
from core.text import brief, many

LISTS = ("images", "annotations", "categories")
"""The lists that a COCO file of annotated images has."""
ROBOFLOW = "_annotations.coco.json"
"""The annotations of the images in the same folder."""
MAX_LAYERS = 32
"""Largest number of instances that may overlap at one pixel; each needs a label map of its own."""
MAX_LAYER_PIXELS = MAX_LAYERS * 2**24
"""Largest number of pixels in all label maps of an image: 1 GiB at 2 bytes each."""
LEAST_APART = 3
"""Least number of annotations with one fault (a mask away from its bbox, an outline outside its
image) for which the whole file is doubted; fewer are slips."""
SOME = 0.02
"""Least fraction of annotations outside their image for which the whole file is doubted."""
FAULT_OF_THE_FILE = 0.5
"""A fault of more than this fraction of a file's annotations is one of the file, not of single
annotations."""


@dataclass(frozen=True)
class _Read:
    """The result of reading one image.

    sample       the image with its instances; None if it cannot be used
    problems     the problems of the image and its annotations, without those of the next fields
    boxes        number of annotations by how their `bbox` fits their mask (see `fit_of_bbox`)
    areas        number of annotations by how their `area` fits their mask (see `fit_of_area`)
    only_boxes   ids of annotations that have a bbox and no outline
    beside       the problems of annotations that lie outside the image
    lost         the problem of an image that is left out because most of its annotations cannot be
                 used
    turned       whether nothing tells if the annotations were drawn on the image as EXIF turns it
    """

    sample: Sample | None
    problems: list[Problem]
    boxes: Counter[str]
    areas: Counter[str]
    only_boxes: list[int]
    beside: list[Problem]
    lost: tuple[Problem, ...] = ()
    turned: bool = False


def annotation_file(folder: Path, part: str = "train") -> Path | None:
    """Find the annotation file of a part, `train` or `test`, by its name; None if there is none.

    Raises DataError if there are several.
    """
    if (folder / f"{part}.json").is_file():
        return folder / f"{part}.json"
    kinds = ("instances",) if part == "train" else ("image_info", "instances")
    for kind in kinds:
        found = sorted((folder / "annotations").glob(f"{kind}_{part}*.json"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(
                f"{folder}: one annotations/{kind}_{part}*.json is read, and there are {names};"
                " move the others to another folder"
            )
        if found:
            return found[0]
    return folder / part / ROBOFLOW if (folder / part / ROBOFLOW).is_file() else None


def unnamed_annotation_file(folder: Path) -> Path | None:
    """Find the JSON file with COCO's lists in a folder or its `annotations`, None if there is none.

    It may have any name but a test listing's. Raises DataError that names them if there are
    several.
    """
    found = _unnamed(folder)
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DataError(
            f"{folder}: one file of annotations is read, and there are {names}; name one train.json"
        )
    return found[0] if found else None


def _unnamed(folder: Path, without: Sequence[Path] = ()) -> list[Path]:
    """List the JSON files with COCO's lists in a folder and its `annotations`, without listings."""
    return [
        path
        for place in (folder, folder / "annotations")
        for path in sorted(place.glob("*.json"))
        if path not in without
        and not re.search(r"test|image_info", path.stem)
        and _holds_lists(path)
    ]


def _holds_lists(path: Path) -> bool:
    try:
        document = read_json(path, DataError)
    except DataError:
        return False
    return isinstance(document, dict) and all(
        isinstance(document.get(name), list) for name in LISTS
    )


def read_coco(folder: Path) -> Inspection:
    """Read every image of a folder in the COCO layout, in up to 8 threads.

    Problems are collected, not raised.
    """
    try:
        path, test_path = (
            annotation_file(folder) or unnamed_annotation_file(folder),
            annotation_file(folder, "test"),
        )
    except DataError as error:
        return Inspection(None, (Problem.of(error, folder),))
    if path is None:
        return Inspection(
            None, (Problem(str(folder), "no train.json and no annotations/instances_train*.json"),)
        )
    try:
        document = _read_lists(path, LISTS)
    except DataError as error:
        return Inspection(None, (Problem.of(error, path),))

    problems: list[Problem] = []
    notes = _unread(folder, path)
    classes = _classes(document, path, problems, notes)
    label_of = {category.id: label for label, category in enumerate(classes, start=1)}
    images = _checked_images(document["images"], path, problems)
    annotations = _by_image(document["annotations"], images, label_of, path, problems, notes)
    folders = image_folders(folder, path, "train")

    def read_image(image_id: int) -> _Read:
        return _read_image(images[image_id], annotations[image_id], label_of, folders, path)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(
            pool.map(read_image, sorted(images, key=lambda image_id: images[image_id]["file_name"]))
        )
    samples = [result.sample for result in results if result.sample is not None]
    only_boxes = [number for result in results for number in result.only_boxes]
    problems += _only_boxes(only_boxes, len(document["annotations"]), path)
    problems += [problem for result in results for problem in result.problems]
    beside = _beside(
        [problem for result in results for problem in result.beside],
        len(document["annotations"]),
        path,
    )
    problems += beside
    in_doubt = any(not problem.skippable for problem in beside)
    if not in_doubt:  # otherwise contradicting boxes and areas have the same cause
        problems += _contradictions(
            sum((result.boxes for result in results), Counter()), path, notes
        )
    notes += about_turned(
        [result.sample.name for result in results if result.sample is not None and result.turned]
    )
    areas = sum((result.areas for result in results), Counter())
    if (apart := areas["apart"]) and not in_doubt:
        notes.append(
            f"{apart:,} of {many(apart + areas['fits'], 'annotation')} have an area that differs"
            f" from that of their mask by a factor of more than {FAR_AREA}; masks are used"
        )

    test_images: list[TestImage] = []
    if test_path is not None:
        try:
            listed = _read_lists(test_path, ("images",))["images"]
        except DataError as error:
            problems.append(Problem.of(error, test_path))
        else:
            test_images, wrong = read_listed(
                listed, image_folders(folder, test_path, "test"), str(test_path)
            )
            problems += wrong
    dataset: Dataset | None = None
    if samples and classes:
        dataset = replace(
            assemble(folder.resolve().name, classes, samples, test_images), notes=tuple(notes)
        )
    found = Inspection(dataset, tuple(problems))
    # Images that are lost with skipped annotations are reported only if something can be skipped.
    lost = [problem for result in results for problem in result.lost] if found.single else []
    return Inspection(dataset, (*problems, *lost))


def _read_lists(path: Path, lists: tuple[str, ...]) -> dict[str, list[Any]]:
    document = read_json(path, DataError)
    for name in lists:
        if not isinstance(document, dict) or not isinstance(document.get(name), list):
            raise DataError(
                f"{path}: a COCO file must hold the lists {', '.join(lists)}, and {name} is missing"
            )
    return {name: document[name] for name in lists}


def image_folders(folder: Path, annotations: Path, part: str) -> list[Path]:
    """List the folders that may hold a part's images: train2017 for instances_train2017.json."""
    subset = annotations.stem.removeprefix("instances_")
    year = annotations.stem.rpartition(part)[2]
    names = (f"{part}{year}", part, f"images/{subset}", f"images/{part}", "images", ".")
    there = [folder / name for name in names if (folder / name).is_dir()]
    return list(dict.fromkeys(there))


def _unread(folder: Path, path: Path) -> list[str]:
    """Notes on annotation files of the folder that are not read."""
    others = [*sorted((folder / "annotations").glob("instances_val*.json"))]
    others += [
        other
        for part in ("val", "valid")
        for other in (folder / f"{part}.json", folder / part / ROBOFLOW)
    ]
    others = [other for other in others if other.is_file() and other != path]
    more = _unnamed(folder, without=(path, *others))
    validation, further = (
        [str(one.relative_to(folder)) for one in found] for found in (others, more)
    )
    notes = []
    if validation:
        notes.append(
            f"{examples_of(validation)} is not read: the split takes validation images out of the"
            " training images; to use its images too, merge the files"
        )
    if further:
        notes.append(
            f"{examples_of(further)} is not read, because one file is, {path.relative_to(folder)};"
            " to use its annotations too, merge the files"
        )
    return notes


def _numbered(
    items: list[Any], kind: str, path: Path, problems: list[Problem]
) -> list[tuple[int, dict[str, Any]]]:
    """Keep the items that are objects with a whole number as id, each with its position.

    The others become problems.
    """
    found = []
    for position, item in enumerate(items):
        entry_id = whole_number(item.get("id")) if isinstance(item, dict) else None
        if entry_id is None:
            message = f"{kind} must be an object with a whole number as id, and is {brief(item)}"
            problems.append(Problem(f"{path}, {kind} {position} (counted from 0)", message))
        else:
            found.append((position, {**item, "id": entry_id}))
    return found


def _by_id(
    items: list[Any], kind: str, path: Path, problems: list[Problem]
) -> dict[int, dict[str, Any]]:
    """Map ids to items; an item without an id of its own becomes a problem."""
    entries: dict[int, dict[str, Any]] = {}
    for position, item in _numbered(items, kind, path, problems):
        if item["id"] in entries:
            place = f"{path}, {kind} {position} (counted from 0)"
            problems.append(
                Problem(
                    place, f"ids must be unique, and {item['id']} repeats one; number them anew"
                )
            )
        else:
            entries[item["id"]] = item
    return entries


def _classes(
    document: Mapping[str, list[Any]], path: Path, problems: list[Problem], notes: list[str]
) -> list[Category]:
    """Read the categories in ascending id, without headings.

    A heading is the supercategory of another category and has no annotation of its own.
    """
    entries = _by_id(document["categories"], "category", path, problems)
    used = {
        whole_number(item.get("category_id"))
        for item in document["annotations"]
        if isinstance(item, dict)
    }
    parents = {
        item.get("supercategory")
        for item in entries.values()
        if _is_text(item.get("supercategory"))
    }
    classes: list[Category] = []
    headings: list[str] = []
    names: set[str] = set()
    for category_id, item in sorted(
        entries.items(), key=lambda entry: (entry[0] not in used, entry[0])
    ):
        name = item.get("name")
        if not _is_text(name):
            problems.append(
                Problem(
                    f"{path}, category {category_id}",
                    f"its name must be a string, and is {brief(name)}",
                )
            )
        elif name in parents and category_id not in used and len(entries) > 1:
            headings.append(name)
        elif name in names:
            problems.append(
                Problem(
                    f"{path}, category {category_id}",
                    f"names must be unique, and {name!r} repeats one; rename it",
                )
            )
        else:
            names.add(name)
            classes.append(Category(category_id, name))
    if headings and not classes:
        return [Category(min(entries), headings[0])]
    if headings:
        notes.append(
            f"{many(len(headings), 'category', 'categories')} without annotations that"
            f" {'is' if len(headings) == 1 else 'are'} the supercategory of others, left out:"
            f" {examples_of(headings)}"
        )
    if not classes:
        problems.append(
            Problem(str(path), "there must be at least one category, and there is none")
        )
    return sorted(classes, key=lambda category: category.id)


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value)


def _checked_images(
    items: list[Any], path: Path, problems: list[Problem]
) -> dict[int, dict[str, Any]]:
    """Map ids to images, each with a file name of its own; others become problems."""
    images = _by_id(items, "image", path, problems)
    if not items:
        problems.append(Problem(str(path), "there must be at least one image, and there is none"))
    names: set[str] = set()
    for image_id, item in list(images.items()):
        name = item.get("file_name")
        if isinstance(name, str) and name not in names:
            names.add(name)
            continue
        message = f"its file_name must be a string of its own, and is {brief(name)}"
        problems.append(Problem(f"{path}, image {image_id}", message))
        del images[image_id]
    return images


def _by_image(
    items: list[Any],
    images: Mapping[int, Any],
    label_of: Mapping[int, int],
    path: Path,
    problems: list[Problem],
    notes: list[str],
) -> dict[int, list[dict[str, Any]]]:
    """Group the annotations by image, in ascending id; invalid ones become problems.

    An annotation is valid if its image and its category exist and `iscrowd` is 0 or 1. Nothing
    refers to an annotation by its id, so repeated ids are only noted.
    """
    if not items:
        message = "the list of annotations is empty; export the file again with its annotations"
        problems.append(Problem(str(path), message))
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    numbered = [item for _, item in _numbered(items, "annotation", path, problems)]
    for item in sorted(numbered, key=lambda item: int(item["id"])):
        place = f"{path}, annotation {item['id']}"
        image_id, category_id = (
            whole_number(item.get("image_id")),
            whole_number(item.get("category_id")),
        )
        crowd = 0 if item.get("iscrowd") is None else item["iscrowd"]
        if image_id is None or image_id not in images:
            given = brief(item.get("image_id", ""))
            problems.append(
                Problem(
                    place, f"image_id must be the id of an image, and is {given}", skippable=True
                )
            )
        elif category_id not in label_of:
            given = brief(item.get("category_id", ""))
            problems.append(
                Problem(
                    place,
                    f"category_id must be the id of a category, and is {given}",
                    skippable=True,
                )
            )
        elif isinstance(crowd, list | dict) or crowd not in (0, 1, "0", "1"):
            problems.append(
                Problem(place, f"iscrowd must be 0 or 1, and is {brief(crowd)}", skippable=True)
            )
        else:
            annotations[image_id].append(
                {**item, "category_id": category_id, "iscrowd": int(crowd)}
            )
    if repeated := len(numbered) - len({item["id"] for item in numbered}):
        notes.append(
            f"{many(repeated, 'annotation')} with an id that another one has; all are used"
        )
    return annotations


def _read_image(
    image: Mapping[str, Any],
    annotations: list[dict[str, Any]],
    label_of: Mapping[int, int],
    folders: list[Path],
    path: Path,
) -> _Read:
    """Read one image and draw its annotations into label maps."""

    def unusable(problem: Problem) -> _Read:
        return _Read(None, [replace(problem, skippable=True)], Counter(), Counter(), [], [])

    place_of_image = f"{path}, image {image['id']}"
    try:
        file = find_file(image["file_name"], folders)
    except DataError as error:
        return unusable(Problem(place_of_image, str(error)))
    try:
        # Tools that do not know the size leave it out, or write null or 0.
        sides = [whole_number(image.get(side)) or 0 for side in ("height", "width")]
        known = (sides[0], sides[1]) if all(sides) else None
        pixels, in_doubt = read_rgb(file, known), turned_in_doubt(file, known)
    except DataError as error:
        return unusable(Problem.of(error, file))
    height, width = pixels.shape[:2]
    listed = (sides[0] or height, sides[1] or width)
    if listed != (height, width):
        turned = "; it looks turned by 90 degrees" if listed == (width, height) else ""
        name, sizes = image["file_name"], f"{listed[0]} x {listed[1]} pixels (height x width)"
        message = (
            f"{name!r} is listed with {sizes}, and has {height} x {width}{turned}; bring the"
            " picture that was annotated: on another one its outlines would lie elsewhere"
        )
        return unusable(Problem(place_of_image, message))

    canvas = _Canvas(height, width)
    problems: list[Problem] = []
    boxes: Counter[str] = Counter()
    areas: Counter[str] = Counter()
    only_boxes: list[int] = []
    beside: list[Problem] = []
    labels: list[int] = []
    crowd: list[bool] = []
    for annotation in annotations:
        if not annotation.get("segmentation") and box_of(annotation.get("bbox")) is not None:
            only_boxes.append(annotation["id"])
            continue
        try:
            mask = mask_of(annotation.get("segmentation"), height, width)
            canvas.draw(mask, len(labels) + 1)
        except DataError as error:
            problem = Problem(f"{path}, annotation {annotation['id']}", str(error), skippable=True)
            (beside if isinstance(error, BesideImage) else problems).append(problem)
            continue
        labels.append(label_of[annotation["category_id"]])
        crowd.append(bool(annotation["iscrowd"]))
        boxes[fit_of_bbox(annotation.get("bbox"), mask)] += 1
        areas[fit_of_area(annotation.get("area"), mask)] += 1
    if (bad := len(annotations) - len(labels)) > FAULT_OF_THE_FILE * len(annotations):
        # Without most of its instances the image would teach the network that they are background.
        message = (
            f"{bad:,} of its {many(len(annotations), 'annotation')} cannot be used, so the image"
            " cannot be used either"
        )
        return _Read(
            None,
            problems,
            boxes,
            areas,
            only_boxes,
            beside,
            (Problem(place_of_image, message, skippable=True),),
        )
    sample = Sample(
        image["file_name"],
        pixels,
        np.stack(canvas.label_maps),
        np.array(labels, np.int64),
        np.array(crowd, np.bool_),
    )
    return _Read(
        sample, problems, boxes, areas, only_boxes, beside, turned=in_doubt and bool(labels)
    )


class _Canvas:
    """The label maps of an image, into which its instances are drawn one by one.

    label_maps   uint16 [H, W] each
    depth_HW     uint8, number of instances on each pixel
    most         largest number of label maps
    """

    def __init__(self, height: int, width: int) -> None:
        self.label_maps = [np.zeros((height, width), np.uint16)]
        self.depth_HW = np.zeros((height, width), np.uint8)
        self.most = min(MAX_LAYERS, MAX_LAYER_PIXELS // (height * width))

    def draw(self, mask: MaskCrop, number: int) -> None:
        """Draw an instance, counted from 1, into the first label map that has room for it.

        Raises DataError, without a place, for more instances than the maps can hold.
        """
        if number > MAX_INSTANCES:
            raise DataError(
                f"an image can hold {MAX_INSTANCES:,} instances, and this one holds more; cut it"
                " into tiles"
            )
        h, w = mask.pixels.shape
        depth_hw = self.depth_HW[mask.y0 : mask.y0 + h, mask.x0 : mask.x0 + w]
        full = depth_hw[mask.pixels].max() >= self.most
        if not full:
            full = not place_labels(
                self.label_maps, mask.pixels * np.uint16(number), mask.y0, mask.x0, most=self.most
            )
        if full:
            raise DataError(
                f"{self.most} instances of an image of this size may overlap at one place, and for"
                " this one there is no room; remove annotations that repeat others"
            )
        depth_hw += mask.pixels


def _only_boxes(found: list[int], annotations: int, path: Path) -> list[Problem]:
    """Problems of annotations that are boxes without outlines: one if most are so, else one each.

    found         ids of these annotations
    annotations   number of all annotations
    """
    if len(found) <= FAULT_OF_THE_FILE * annotations:
        message = (
            "an annotation must have an outline, and this one has only a bbox; draw the outline, or"
            " remove the annotation"
        )
        return [
            Problem(f"{path}, annotation {number}", message, skippable=True) for number in found
        ]
    return [
        Problem(
            str(path),
            f"{len(found):,} of {many(annotations, 'annotation')} are boxes without outlines, as"
            " for object detection, and Mask R-CNN learns outlines; export polygons or masks, or"
            " draw them inside the boxes (tools such as Segment Anything propose them)",
        )
    ]


def _beside(found: list[Problem], annotations: int, path: Path) -> list[Problem]:
    """Problems of annotations outside their image: one for the file if they are many, or as found.

    annotations   number of all annotations
    """
    if len(found) < LEAST_APART or len(found) < SOME * annotations:
        return found
    return [
        Problem(
            str(path),
            f"{len(found):,} of {many(annotations, 'annotation')} lie outside their image, so the"
            " others may be wrong as well: x and y are exchanged, or they were drawn on images of"
            " another size; export again",
        )
    ]


def _contradictions(boxes: Counter[str], path: Path, notes: list[str]) -> list[Problem]:
    """Report annotations whose own bbox contradicts their mask: a problem if most do, else a note.

    boxes   number of annotations by the words of `fit_of_bbox`
    """
    compared = boxes.total() - boxes["no bbox"]
    far = boxes["apart"] + boxes["exchanged"]
    if boxes["corners"] > FAULT_OF_THE_FILE * compared:
        notes.append(
            f"bbox of {many(boxes['corners'], 'annotation')} holds two corners, where COCO has a"
            " corner, width and height; boxes are taken from the masks"
        )
    elif not far:
        return []
    elif far >= LEAST_APART and far > FAULT_OF_THE_FILE * compared:
        why = (
            "x and y look exchanged in one of the two"
            if boxes["exchanged"] > boxes["apart"]
            else (
                "they were made for an image of another size or are shifted, or masks are written"
                " row by row where COCO has columns"
            )
        )
        return [
            Problem(
                str(path),
                f"{far:,} of {many(compared, 'annotation')} have a bbox that is not where their"
                f" mask is ({why}); export again, or, if the masks are right, `--set"
                " data.allow_suspicious=true`",
                suspicious=True,
            )
        ]
    else:
        notes.append(
            f"{far:,} of {many(compared, 'annotation')} have a bbox that is not where their mask"
            " is; masks are used"
        )
    return []


def _reader(find: Callable[[Path], Path | None]) -> Reader:
    """Make the reader of the folders in which `find` finds a file of annotations."""

    def sees(where: str) -> bool:
        try:
            return find(Path(where)) is not None
        except DataError:  # there are several: reading says which
            return True

    return Reader(sees, lambda where: read_coco(Path(where)))


READER, EXPORT_READER = _reader(annotation_file), _reader(unnamed_annotation_file)
