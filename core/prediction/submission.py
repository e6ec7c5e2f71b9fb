"""Detections as COCO results, and the zip of a submission, which is checked before it is written.

The zip holds `test-results.json`. One result is {"image_id", "bbox", "score", "category_id",
"segmentation": {"size": [height, width], "counts"}}. Ids are the data set's own, boxes are [x, y,
width, height] in pixels of the listed image, and masks are text as pycocotools writes it.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from core.data.dataset import Category, TestImage
from core.errors import DataError, SubmissionError
from core.files import write_atomically
from core.labels import rle
from core.sample import Detections

MEMBER = "test-results.json"
"""Name of the only file in the zip."""

SAME_BYTES = (1980, 1, 1, 0, 0, 0)
"""Modification time that the zip gives its member: the earliest that a zip can hold, so that the
bytes do not depend on the time of writing."""


class CocoResult(TypedDict):
    """One detection, as JSON has it.

    image_id       id of the image in the listing
    bbox           [x, y, width, height] in pixels; the float32 numbers of the prediction, not
                   rounded
    score          in (0, 1]
    category_id    id of the category in the data set, `Category.id`
    segmentation   the mask, at the size of the image
    """

    image_id: int
    bbox: list[float]
    score: float
    category_id: int
    segmentation: rle.Rle


def results_of(
    found: Detections, image_id: int, height: int, width: int, classes: Sequence[Category]
) -> list[CocoResult]:
    """The detections in an image of `height` x `width` pixels as COCO results, in their order.

    Class number c becomes the id of `classes[c - 1]`. Masks are encoded in their windows, never at
    full size.
    """
    results: list[CocoResult] = []
    columns = found.boxes_N4.tolist(), found.labels_N.tolist(), found.scores_N.tolist(), found.masks
    for (x0, y0, x1, y1), label, score, crop in zip(*columns, strict=True):
        assert 1 <= label <= len(classes), "class numbers run from 1 to C"
        results.append(
            {
                "image_id": image_id,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
                "category_id": classes[label - 1].id,
                "segmentation": rle.encode(crop, height, width),
            }
        )
    return results


def check_results(
    results: Mapping[int, Sequence[CocoResult]],
    images: Sequence[TestImage],
    classes: Sequence[Category],
    most: Callable[[TestImage], int],
) -> None:
    """Raise SubmissionError with the first rule of a submission that the results break.

    results   the results of every listed image by its id; an image without detections has an empty
              list
    images    the listed images
    most      function that gives the largest number of results of an image, which is
              `predict.max_detections` for each of its tiles

    The rules: every listed image was predicted, and no other; no image has more than `most`
    results; each result names its image and a known category; its score lies in (0, 1]; its box is
    four finite numbers, with width and height 0 or more; its mask is not empty and decodes to
    exactly the listed size.
    """
    unlisted = results.keys() - {image.id for image in images}
    if unlisted:
        raise SubmissionError(
            f"image id {min(unlisted)}: only listed images may be handed in, and this id is none of"
            f" the {len(images)} listed ones; predict the images of the listing"
        )
    category_ids = [category.id for category in classes]
    for image in images:
        place = f"{image.file_name} (image id {image.id})"
        if image.id not in results:
            raise SubmissionError(
                f"{place}: every listed image must be predicted, and this one was not; predict it,"
                " or hand in an empty list where nothing was found"
            )
        of_image = results[image.id]
        if len(of_image) > most(image):
            raise SubmissionError(
                f"{place}: an image may have at most {most(image):,} results, and this one has"
                f" {len(of_image):,}; keep the best, or raise predict.max_detections"
            )
        for position, result in enumerate(of_image):
            problem = _problem(result, image, category_ids)
            if problem is not None:
                raise SubmissionError(f"{place}, result {position} (counted from 0): {problem}")


def write_zip(
    path: Path,
    results: Mapping[int, Sequence[CocoResult]],
    images: Sequence[TestImage],
    classes: Sequence[Category],
    most: Callable[[TestImage], int],
) -> None:
    """Check the results, then write the zip, whole or not at all.

    The same results give the same bytes. Images come in the order of the listing, and the results
    of each with the best score first (equal scores as they came). Where nothing was found in any
    image the list is empty, which is a whole submission, although `COCO.loadRes` does not read it.
    Raises SubmissionError as `check_results` does, and then leaves an older file as it was.
    """
    check_results(results, images, classes, most)
    ordered = [
        result
        for image in images
        for result in sorted(results[image.id], key=lambda result: -result["score"])
    ]
    member = zipfile.ZipInfo(MEMBER, date_time=SAME_BYTES)
    member.compress_type = zipfile.ZIP_DEFLATED
    # The system is said to be Unix, so that the permissions below are read.
    member.create_system = 3
    member.external_attr = 0o644 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, json.dumps(ordered, allow_nan=False, separators=(",", ":")))
    write_atomically(path, buffer.getvalue())


def _problem(result: CocoResult, image: TestImage, category_ids: Sequence[int]) -> str | None:
    """The first rule that a result breaks, the value received and the way out; else None."""
    if result["image_id"] != image.id:
        return (
            f"image_id must be that of the image, and is {result['image_id']!r}; put it with its"
            " own image"
        )
    if result["category_id"] not in category_ids:
        known = ", ".join(map(str, category_ids))
        return (
            f"category_id must be the id of a category of the data set ({known}), and is"
            f" {result['category_id']!r}; predict with a model that was trained on this data set"
        )
    if not 0 < result["score"] <= 1:  # false for NaN too
        return (
            f"a score must be over 0 and at most 1, and is {result['score']!r}; leave the"
            " detection out"
        )
    bbox = result["bbox"]
    if len(bbox) != 4 or not all(map(math.isfinite, bbox)) or min(bbox[2:]) < 0:
        return (
            "bbox must be [x, y, width, height], finite, width and height 0 or more, "
            f"and is {bbox!r}; leave the detection out"
        )
    return _problem_of_mask(result["segmentation"], image)


def _problem_of_mask(segmentation: rle.Rle, image: TestImage) -> str | None:
    """The first rule that a mask breaks, as in `_problem`."""
    if segmentation["size"] != [image.height, image.width]:
        return (
            f"a mask must have the listed size, {[image.height, image.width]} (height, width), "
            f"and has {segmentation['size']!r}; predict the image as it is listed"
        )
    try:
        runs = rle.decode_runs(segmentation["counts"])
    except DataError as error:
        return f"{error}; encode the mask again"
    pixels = image.height * image.width
    if min(runs, default=0) < 0 or sum(runs) != pixels:
        return (
            f"the runs of a mask must be 0 or more and add up to the image's {pixels:,} pixels, "
            f"and add up to {sum(runs):,}; encode the mask again"
        )
    if not any(runs[1::2]):
        return "a mask must cover at least one pixel, and covers none; leave the detection out"
    return None
