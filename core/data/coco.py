"""The COCO layout: one JSON file of polygons and run-length encodings beside a folder of images.

    DIR/train.json                              or DIR/annotations/instances_train*.json
        images in DIR/train*/                   or DIR/images/train*/, DIR/images/, DIR
    DIR/test.json                               or DIR/annotations/image_info_test*.json,
                                                   DIR/annotations/instances_test*.json
        images in DIR/test*/                    or DIR/images/test*/, DIR/images/, DIR

Exports of annotation tools are read where they lie: the one JSON file in DIR or DIR/annotations
that has the lists of COCO, under any name (CVAT, Label Studio).

The test listing may be absent, and annotations in it are not read. Instances that overlap go to
different label maps. `iscrowd` marks a crowd region. A validation listing is not read: validation
images are taken from the training images, see `core.data.split`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from core.data.coco_masks import box_of, mask_of
from core.data.dataset import (
    Category,
    Inspection,
    Problem,
    TestImage,
    examples_of,
)
from core.data.images import read_listed, whole_number
from core.data.json_files import begins_with_a_key, is_too_large, read_annotations
from core.data.outlines import AnnotatedImage, Outline, read_pictures
from core.data.pairing import only_file, sees_file
from core.data.readers import Reader
from core.errors import DataError
from core.text import brief, many

LISTS = ("images", "annotations", "categories")
"""The lists that a COCO file of annotated images has."""
ROBOFLOW = "_annotations.coco.json"
"""The annotations of the images in the same folder."""


def annotation_file(folder: Path, part: str = "train") -> Path | None:
    """Find the annotation file of a part, `train` or `test`, by its name; None if there is none.

    Raises DataError if there are several.
    """
    if (folder / f"{part}.json").is_file():
        return folder / f"{part}.json"
    kinds = ("instances",) if part == "train" else ("image_info", "instances")
    for kind in kinds:
        named = sorted((folder / "annotations").glob(f"{kind}_{part}*.json"))
        rule, order = f"one annotations/{kind}_{part}*.json", "move the others to another folder"
        if (found := only_file(folder, named, rule, order)) is not None:
            return found
    return folder / part / ROBOFLOW if (folder / part / ROBOFLOW).is_file() else None


def unnamed_annotation_file(folder: Path) -> Path | None:
    """Find the JSON file with COCO's lists in a folder or its `annotations`, None if there is none.

    It may have any name but a test listing's. Raises DataError that names them if there are
    several.
    """
    found = _unnamed(folder)
    return only_file(folder, found, "one file of annotations", "name one train.json")


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
    if is_too_large(path):  # reading it says so
        return begins_with_a_key(path, LISTS)
    try:
        document = read_annotations(path)
    except DataError:
        return False
    return isinstance(document, dict) and all(
        isinstance(document.get(name), list) for name in LISTS
    )


@dataclass(frozen=True)
class CocoFile:
    """A file of annotated images.

    path      the file
    folders   folders in which its images are looked for
    """

    path: Path
    folders: Sequence[Path]


def read_coco(folder: Path) -> Inspection:
    """Read every image of a folder in the COCO layout, in up to 8 threads.

    Problems are collected, not raised.
    """
    try:
        path = annotation_file(folder) or unnamed_annotation_file(folder)
        listing = annotation_file(folder, "test")
    except DataError as error:
        return Inspection(None, (Problem.of(error, folder),))
    if path is None:
        return Inspection(
            None, (Problem(str(folder), "no train.json and no annotations/instances_train*.json"),)
        )
    return read_files(
        folder,
        [CocoFile(path, image_folders(folder, path, "train"))],
        listing=(
            None if listing is None else CocoFile(listing, image_folders(folder, listing, "test"))
        ),
        notes=_unread(folder, path),
    )


def read_files(
    folder: Path,
    files: Sequence[CocoFile],
    *,
    validation: CocoFile | None = None,
    listing: CocoFile | None = None,
    notes: Sequence[str] = (),
) -> Inspection:
    """Read every image of one or more COCO files, which must have the same categories.

    folder       folder of the data set, which names it
    validation   the one of the files whose images validate in the data set's own split
    listing      the test images; annotations in it are not read
    notes        of the data set, found before
    """
    problems: list[Problem] = []
    notes = list(notes)
    try:
        documents = [(file, _read_lists(file.path, LISTS)) for file in files]
    except DataError as error:
        # The sentence begins with the file's path, which is all the place there is to say.
        path, _, message = str(error).partition(": ")
        return Inspection(None, (Problem(path, message),))
    used = {
        whole_number(item.get("category_id"))
        for _, document in documents
        for item in document["annotations"]
        if isinstance(item, dict)
    }
    first = files[0].path
    classes = _classes(documents[0][1]["categories"], used, first, problems, notes)
    expected = _names(documents[0][1]["categories"])
    for file, document in documents[1:]:
        if (named := _names(document["categories"])) != expected:
            message = (
                f"the categories must be those of {first}, {brief(expected)}, and are"
                f" {brief(named)}; export all parts together"
            )
            problems.append(Problem(str(file.path), message))
    label_of = {category.id: label for label, category in enumerate(classes, start=1)}
    if not any(document["annotations"] for _, document in documents):
        message = "the list of annotations is empty; export the file again with its annotations"
        problems.append(Problem(str(first), message))
    pictures: dict[str, AnnotatedImage] = {}
    validating: list[str] = []
    for file, document in documents:
        images = _checked_images(document["images"], file.path, problems)
        annotations = _by_image(
            document["annotations"], images, label_of, file.path, problems, notes
        )
        for image_id, image in images.items():
            picture = _picture(image, annotations[image_id], label_of, file)
            if picture.name in pictures:
                message = (
                    f"a picture must be in one part of the data set, and {picture.name!r} is at"
                    f" {pictures[picture.name].place} as well; remove one of the two"
                )
                problems.append(Problem(picture.place, message, skippable=True))
                continue
            pictures[picture.name] = picture
            if file == validation:
                validating.append(picture.name)

    test_images: list[TestImage] = []
    if listing is not None:
        try:
            listed = _read_lists(listing.path, ("images",))["images"]
        except DataError as error:
            problems.append(Problem.of(error, listing.path))
        else:
            test_images, wrong = read_listed(listed, listing.folders, str(listing.path))
            problems += wrong
    return read_pictures(
        folder,
        first if len(files) == 1 else folder,
        classes,
        list(pictures.values()),
        annotations=sum(len(document["annotations"]) for _, document in documents),
        problems=problems,
        notes=notes,
        test_images=test_images,
        validation=validating,
    )


def _names(categories: Sequence[Any]) -> dict[Any, Any]:
    """The name of each category id."""
    return {str(item.get("id")): item.get("name") for item in categories if isinstance(item, dict)}


def _picture(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    label_of: Mapping[int, int],
    file: CocoFile,
) -> AnnotatedImage:
    """An image of a COCO file and its annotations."""
    # Tools that do not know the size leave it out, or write null or 0.
    height, width = (whole_number(image.get(side)) or 0 for side in ("height", "width"))
    outlines = [
        Outline(
            place=f"{file.path}, annotation {annotation['id']}",
            label=label_of[annotation["category_id"]],
            draw=(
                None
                if not annotation.get("segmentation") and box_of(annotation.get("bbox")) is not None
                else partial(mask_of, annotation.get("segmentation"))
            ),
            crowd=bool(annotation["iscrowd"]),
            bbox=annotation.get("bbox"),
            area=annotation.get("area"),
        )
        for annotation in annotations
    ]
    name = image["file_name"]
    return AnnotatedImage(
        f"{file.path}, image {image['id']}", name, name, file.folders, outlines, (height, width)
    )


def _read_lists(path: Path, lists: tuple[str, ...]) -> dict[str, list[Any]]:
    document = read_annotations(path)
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
    categories: list[Any],
    used: set[int | None],
    path: Path,
    problems: list[Problem],
    notes: list[str],
) -> list[Category]:
    """Read the categories in ascending id, without headings.

    A heading is the supercategory of another category and has no annotation of its own.

    used   ids of the categories that have annotations
    """
    entries = _by_id(categories, "category", path, problems)
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


def _read(where: str) -> Inspection:
    return read_coco(Path(where))


READER = Reader(sees_file(annotation_file), _read)
EXPORT_READER = Reader(sees_file(unnamed_annotation_file), _read)
