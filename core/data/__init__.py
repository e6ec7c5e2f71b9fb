"""Images and their annotations: one reader per format, all of them ending in a `Dataset`.

aperio.py      Aperio ImageScope's XML, as MoNuSAC and MoNuSeg have it
arrays.py      NumPy's arrays, as masks
class_names.py  names of classes in place of those that the files give
coco.py        the COCO layout
coco_masks.py  polygons and run lengths of a COCO file to masks
conversion.py  a data set written as COCO, whatever format it was read from
cvat.py        CVAT's own XML: polygons and masks
dataset.py     the data set that every reader delivers, and its problems
hw3.py         the HW3 layout: one folder per image, one mask per class
images.py      image and mask files to arrays
intensity.py   images of more than 8 bits brought to 8
json_files.py  JSON files of annotations, up to a size that memory holds
label_images.py  one label image per image: Cellpose, Omnipose, StarDist
label_studio.py  Label Studio's JSON: polygons in percent and brush masks
listing.py     images to predict on
looks.py       images that belong together by their looks
mask_folders.py  one mask file per instance, as the Data Science Bowl 2018 has them
measure.py     images and instances in numbers, from which settings are read
pixel_size.py  the size of a pixel in micrometres
outlines.py    outlined instances to a data set, for every format of outlines
pairing.py     files of annotations: paired with their images, or the one of an export
pictures.py    PNG, JPEG and BMP files
qupath.py      QuPath's GeoJSON: one file of outlined objects for each image
readers.py     the table of formats: which reader reads a data set
roboflow.py    Roboflow's COCO exports: parts with a file each, and their own split
signs.py       signs of exports that no reader reads, and what to do with them
split.py       the split into training and validation images
stored.py      an image file as it is stored, before EXIF turns it
suspicion.py   annotations that can be read but look wrong
synthetic.py   a data set of drawn cells, made without files
tiffs.py       TIFF files, by the axes that they name
xml_files.py   XML files that cannot grow and name no other file
yolo.py        YOLO's segmentation labels: one text file of polygons for each image
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from core.config import AUTO, DataConfig
from core.data.class_names import name_classes
from core.data.dataset import (
    Category,
    Dataset,
    Inspection,
    Problem,
    TestImage,
    by_cause,
    examples_of,
    first_problem_of,
)
from core.data.images import is_deep, of_8_bits
from core.data.intensity import of_one_way, with_8_bits
from core.data.listing import list_images
from core.data.readers import READERS
from core.data.signs import folder_meant, seen_in
from core.data.suspicion import split_components, suspicions
from core.errors import DataError
from core.files import reason_of
from core.text import have, many, shown

__all__ = [
    "Category",
    "Dataset",
    "Inspection",
    "Problem",
    "TestImage",
    "inspect_data",
    "list_images",
    "load_data",
]

MOST_LOOKED_INTO, MOST_NAMED = 200, 4
"""Largest numbers of what lies in a folder that is looked into for data sets, and of data sets that
a sentence counts."""
PARTS = ("train", "training", "val", "valid", "validation", "test", "images", "masks", "labels")
"""Names of folders that are parts of a data set and no data set, in small letters."""
STRICT = DataConfig()
"""Settings of reading under which a data set with any problem is refused."""


def load_data(where: str, config: DataConfig = STRICT) -> Dataset:
    """Read a data set: the word `synthetic`, or a folder in a layout of `core.data.readers`.

    config   of its settings, skip_bad, allow_suspicious, split_components, class_names, intensity
             and group_pattern count

    Images without instances are allowed. Raises DataError with the first problem and the number of
    the others.
    """
    inspection = inspect_data(where, config)
    if inspection.problems:
        problems = first_problem_of(inspection.problems)
        if inspection.single and not config.skip_bad:
            problems += (
                "; `--set data.skip_bad=true` skips and counts annotations and images that cannot"
                " be used"
            )
        lists = (
            f"; `python -m core.check {where}` lists all" if len(inspection.problems) > 1 else ""
        )
        raise DataError(f"{problems}{lists}")
    assert inspection.dataset is not None, "a reader found neither images nor a problem"
    return inspection.dataset


def inspect_data(where: str, config: DataConfig = STRICT) -> Inspection:
    """Read as much of a data set as can be read, as `load_data` does, and collect every problem."""
    found = _read(where)
    if found.dataset is not None:
        alike, others = of_one_way(found.dataset, where)
        found = Inspection(alike, (*found.problems, *others))
    if config.skip_bad:
        found = _without_bad(found)
    if found.dataset is None:
        return found
    try:
        dataset = with_8_bits(found.dataset, config.intensity)
    except DataError as error:
        return Inspection(None, (*found.problems, Problem(where, str(error))))
    problems = list(found.problems)
    if dataset.intensity is not None:
        dataset = replace(dataset, notes=(*dataset.notes, *_flat_test_images(dataset)))
    elif config.intensity == AUTO:
        problems += _deep_test_images(dataset)
    try:
        dataset = split_components(dataset) if config.split_components else dataset
    except DataError as error:
        return Inspection(dataset, (*problems, Problem.of(error, dataset.name)))
    try:
        dataset = name_classes(dataset, config.class_names)
    except DataError as error:
        return Inspection(dataset, (*problems, Problem("data.class_names", str(error))))
    misplaced = (
        any(problem.suspicious for problem in found.problems) and not config.allow_suspicious
    )
    suspicious, notes = suspicions(dataset, config, where, misplaced)
    problems += suspicious
    if config.allow_suspicious:
        notes += [
            f"data.allow_suspicious: {shown(problem.message)}"
            for problem in problems
            if problem.suspicious
        ]
        problems = [problem for problem in problems if not problem.suspicious]
    return Inspection(replace(dataset, notes=(*dataset.notes, *notes)), tuple(problems))


def _deep_test_images(dataset: Dataset) -> list[Problem]:
    """Problems of test images of more than 8 bits, for which no range of brightness is known."""
    return [
        Problem(
            image.path,
            "the image has more than 8 bits a channel, and the annotated images have 8; convert it"
            " to 8 bits as those were, or give the range that they have in it, such as"
            " --set data.intensity=0,4095",
        )
        for image in dataset.test_images
        if image.path and is_deep(Path(image.path))
    ]


def _flat_test_images(dataset: Dataset) -> list[str]:
    """A note on test images of 8 bits, which no range brings to the brightness of the others."""
    flat = of_8_bits(dataset.test_images)
    if not flat:
        return []
    return [
        f"{many(len(flat), 'test image')} {have(len(flat))} 8 bits a channel, and the annotated"
        f" images have more, so their brightness may differ: {examples_of(flat)}; save them as the"
        " annotated ones were"
    ]


def _without_bad(found: Inspection) -> Inspection:
    """Replace the problems of single annotations and images by one note that counts them."""
    if found.dataset is None or not found.single:
        return found
    note = f"data.skip_bad: {len(found.single):,} skipped; {'; '.join(by_cause(found.single))}"
    dataset = replace(found.dataset, notes=(*found.dataset.notes, note))
    return Inspection(
        dataset, tuple(problem for problem in found.problems if not problem.skippable)
    )


def _read(where: str) -> Inspection:
    """Read a data set with the first reader that recognises it."""
    folder = Path(where)
    try:
        for name, reader in READERS.items():
            with READERS.calling(name):
                if reader.sees(where):
                    return reader.read(where)
        if not folder.exists():
            message = "there is no such folder"
            if (meant := folder_meant(folder)) is not None:
                said = f"{message}; did you mean {shown(str(meant))}?"
                return Inspection(None, (Problem(where, said),))
        elif not folder.is_dir():
            message = "a folder is expected, and this is a file"
        else:
            kinds, *signs = seen_in(folder)
            message = f"the folder holds no annotated image ({kinds})"
            if inside := list(itertools.islice(_data_sets_in(folder), MOST_NAMED)):
                names = examples_of([one.name for one in inside])
                signs = [f"data sets lie in it, which are named one by one: {names}"]
            if signs:
                return Inspection(None, (Problem(where, "; ".join([message, *signs])),))
    except DataError as error:
        return Inspection(None, (Problem.of(error, where),))
    except OSError as error:
        return Inspection(
            None, (Problem(str(error.filename), f"the folder cannot be read: {reason_of(error)}"),)
        )
    return Inspection(None, (Problem(where, f"{message}; {_where_to_put(where)}"),))


def _data_sets_in(folder: Path) -> Iterator[Path]:
    """The folders right inside a folder that some reader recognises, but for parts of a split."""
    for inside in sorted(itertools.islice(folder.iterdir(), MOST_LOOKED_INTO)):
        if inside.is_dir() and inside.name.lower() not in PARTS:
            for name, reader in READERS.items():
                with READERS.calling(name):
                    if reader.sees(str(inside)):
                        yield inside
                        break


def _where_to_put(where: str) -> str:
    return (
        f"put one folder per image there, {where}/train/NAME/image.tif with its masks class1.tif,"
        f" class2.tif, ... beside it (the HW3 layout; {where}/NAME/image.tif is read too), or COCO"
        f" annotations as {where}/train.json with the images in {where}/train/, or label images as"
        f" {where}/NAME_masks.png beside the images {where}/NAME.png, or name another folder with"
        " --data"
    )
