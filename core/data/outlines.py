"""Outlined instances to a data set: what every format of outlines has in common once it is parsed.

A reader of polygons or run lengths lists its pictures and their outlines. Here the pictures are
read, the outlines are drawn, and what is wrong with single ones, or with all of them, is told.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.data.coco_masks import (
    FAR_AREA,
    BesideImage,
    fit_of_area,
    fit_of_bbox,
)
from core.data.dataset import (
    Category,
    Dataset,
    Inspection,
    Problem,
    TestImage,
    assemble,
    place_labels,
)
from core.data.images import about_turned, find_file, read_rgb, turned_in_doubt
from core.errors import DataError
from core.sample import MAX_INSTANCES, MaskCrop, Sample
from core.text import many

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

Draw = Callable[[int, int], MaskCrop]
"""A function that draws an outline in an image of a height and a width in pixels; it raises
DataError without a place.
"""


@dataclass(frozen=True)
class Outline:
    """One annotation.

    place   where it is written: file and id
    label   class number, from 1 to C
    draw    makes its mask; None where there is no outline
    crowd   whether it is a crowd region
    bbox    the annotation's own box as COCO has it, where it has one
    area    the annotation's own area, where it has one
    """

    place: str
    label: int
    draw: Draw | None
    crowd: bool = False
    bbox: Any = None
    area: Any = None


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its annotations.

    place      where it is written: file and id
    name       its name in the data set, unique there
    file       its file, relative to one of `folders`
    folders    folders in which the file is looked for
    sides      height and width in pixels on which it was annotated; 0 where that is unknown
    outlines   in the order in which they are numbered
    """

    place: str
    name: str
    file: str
    folders: Sequence[Path]
    outlines: Sequence[Outline]
    sides: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Read:
    """The result of reading one image.

    sample       the image with its instances; None if it cannot be used
    problems     the problems of the image and its annotations, without those of the next fields
    boxes        number of annotations by how their `bbox` fits their mask (see `fit_of_bbox`)
    areas        number of annotations by how their `area` fits their mask (see `fit_of_area`)
    only_boxes   places of annotations that have a bbox and no outline
    beside       the problems of annotations that lie outside the image
    lost         the problem of an image that is left out because most of its annotations cannot be
                 used
    turned       whether nothing tells if the annotations were drawn on the image as EXIF turns it
    """

    sample: Sample | None
    problems: list[Problem]
    boxes: Counter[str]
    areas: Counter[str]
    only_boxes: list[str]
    beside: list[Problem]
    lost: tuple[Problem, ...] = ()
    turned: bool = False


def read_pictures(
    folder: Path,
    place: Path,
    classes: Sequence[Category],
    pictures: Sequence[AnnotatedImage],
    *,
    annotations: int | None = None,
    problems: Sequence[Problem] = (),
    notes: Sequence[str] = (),
    test_images: Sequence[TestImage] = (),
    validation: Sequence[str] = (),
) -> Inspection:
    """Read pictures and draw their outlines, in up to 8 threads; problems are collected.

    folder        folder of the data set, which names it
    place         file or folder to which a fault of most annotations is put down
    classes       in ascending id
    annotations   number of all annotations, where some were left out already
    problems      found before; they come first
    notes         of the data set, found before
    validation    names of the pictures that validate in the data set's own split
    """
    problems, notes = list(problems), list(notes)
    if annotations is None:
        annotations = sum(len(picture.outlines) for picture in pictures)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(_read, sorted(pictures, key=lambda picture: picture.name)))
    samples = [result.sample for result in results if result.sample is not None]
    problems += _only_boxes(
        [box for result in results for box in result.only_boxes], annotations, place
    )
    problems += [problem for result in results for problem in result.problems]
    beside = _beside(
        [problem for result in results for problem in result.beside], annotations, place
    )
    problems += beside
    in_doubt = any(not problem.skippable for problem in beside)
    if not in_doubt:  # otherwise contradicting boxes and areas have the same cause
        problems += _contradictions(
            sum((result.boxes for result in results), Counter()), place, notes
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
    there = {sample.name for sample in samples}
    validating = [name for name in validation if name in there]
    if validating:
        notes.append(
            f"{len(validating):,} of {many(len(samples), 'image')} validate in the data set's own"
            " split. data.split_seed 0, the default, takes that split, and data.validation_fraction"
            " has no effect on it; other split seeds, as of the confirmation, and data.folds draw"
            " validation images out of all"
        )
    dataset: Dataset | None = None
    if samples and classes:
        dataset = assemble(folder.resolve().name, classes, samples, test_images, validating)
        dataset = replace(dataset, notes=tuple(notes))
    found = Inspection(dataset, tuple(problems))
    # Images that are lost with skipped annotations are reported only if something can be skipped.
    lost = [problem for result in results for problem in result.lost] if found.single else []
    return Inspection(dataset, (*problems, *lost))


def _read(picture: AnnotatedImage) -> _Read:
    """Read one image and draw its annotations into label maps."""

    def unusable(problem: Problem) -> _Read:
        return _Read(None, [replace(problem, skippable=True)], Counter(), Counter(), [], [])

    try:
        file = find_file(picture.file, picture.folders)
    except DataError as error:
        return unusable(Problem(picture.place, str(error)))
    known = picture.sides if all(picture.sides) else None
    try:
        pixels, in_doubt = read_rgb(file, known), turned_in_doubt(file, known)
    except DataError as error:
        return unusable(Problem.of(error, file))
    height, width = pixels.shape[:2]
    listed = (picture.sides[0] or height, picture.sides[1] or width)
    if listed != (height, width):
        turned = "; it looks turned by 90 degrees" if listed == (width, height) else ""
        message = (
            f"{picture.file!r} is listed with {listed[0]} x {listed[1]} pixels (height x width),"
            f" and has {height} x {width}{turned}; bring the"
            " picture that was annotated: on another one its outlines would lie elsewhere"
        )
        return unusable(Problem(picture.place, message))

    canvas = _Canvas(height, width)
    problems: list[Problem] = []
    boxes: Counter[str] = Counter()
    areas: Counter[str] = Counter()
    only_boxes: list[str] = []
    beside: list[Problem] = []
    labels: list[int] = []
    crowd: list[bool] = []
    for outline in picture.outlines:
        if outline.draw is None:
            only_boxes.append(outline.place)
            continue
        try:
            mask = outline.draw(height, width)
            canvas.draw(mask, len(labels) + 1)
        except DataError as error:
            problem = Problem(outline.place, str(error), skippable=True)
            (beside if isinstance(error, BesideImage) else problems).append(problem)
            continue
        labels.append(outline.label)
        crowd.append(outline.crowd)
        boxes[fit_of_bbox(outline.bbox, mask)] += 1
        areas[fit_of_area(outline.area, mask)] += 1
    if (bad := len(picture.outlines) - len(labels)) > FAULT_OF_THE_FILE * len(picture.outlines):
        # Without most of its instances the image would teach the network that they are background.
        message = (
            f"{bad:,} of its {many(len(picture.outlines), 'annotation')} cannot be used, so the"
            " image cannot be used either"
        )
        return _Read(
            None,
            problems,
            boxes,
            areas,
            only_boxes,
            beside,
            (Problem(picture.place, message, skippable=True),),
        )
    sample = Sample(
        picture.name,
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
                f"{many(self.most, 'instance')} of an image of this size may overlap at one place,"
                " and for this one there is no room; remove annotations that repeat others"
            )
        depth_hw += mask.pixels


def _only_boxes(found: list[str], annotations: int, path: Path) -> list[Problem]:
    """Problems of annotations that are boxes without outlines: one if most are so, else one each.

    found         places of these annotations
    annotations   number of all annotations
    """
    if len(found) <= FAULT_OF_THE_FILE * annotations:
        message = (
            "an annotation must have an outline, and this one has only a bbox; draw the outline, or"
            " remove the annotation"
        )
        return [Problem(place, message, skippable=True) for place in found]
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
