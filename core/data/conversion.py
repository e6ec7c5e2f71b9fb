"""A data set written as COCO, whatever format it was read from.

    FOLDER/train/_annotations.coco.json    the images that train in the data set's own split, or all
    FOLDER/valid/_annotations.coco.json    those that validate in it, where it has one
    FOLDER/test/_annotations.coco.json     the test images, where there are any

Each file lies among its images, the layout of Roboflow, because it is the one layout of COCO files
that says which images validate. Images are PNG files of the pixels that were read, not copies:
turned as EXIF says, in 8-bit RGB, and readable without the original's own ways of storing them.
Masks are run lengths, which hold every pixel; outlines would not.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.config import AUTO
from core.data.coco import ROBOFLOW
from core.data.dataset import Dataset
from core.data.images import IMAGE_SUFFIXES, read_test_image
from core.data.roboflow import VALIDATION
from core.errors import DataError
from core.labels import rle
from core.labels.label_maps import crop_mask, find_instances
from core.sample import Sample


def refuse_target(folder: Path) -> None:
    """Raise DataError for a folder that cannot be replaced whole: a link, the current folder."""
    if folder.is_symlink():
        raise DataError(
            f"{folder}: a folder is to be written, and this is a link; name the folder that it"
            f" leads to, {folder.resolve()}"
        )
    if folder.name in ("", "..") or folder.resolve() == Path.cwd():
        raise DataError(
            f"{folder}: the folder is made anew, which the current one and those around it cannot"
            " be; name a new folder"
        )


def write_coco(dataset: Dataset, folder: Path) -> None:
    """Write a data set into an empty folder.

    Reading the folder gives the same pixels and instances, numbered alike, and the same split; one
    without training images, by which nobody can train, is left out. The names of images end in
    `.png` afterwards. Raises DataError for a test image that cannot be read,
    and OSError.
    """
    file_of = converted_names([sample.name for sample in dataset.samples])
    validating = set(dataset.validation)
    if len(validating) == len(dataset.samples):
        validating = set()
    for part, validates in (("train", False), (VALIDATION, True)):
        samples = [one for one in dataset.samples if (one.name in validating) == validates]
        if samples:
            _write_part(folder / part, dataset, samples, file_of)
    if dataset.test_images:
        _write_test_images(folder / "test", dataset)


def converted_names(names: Iterable[str]) -> dict[str, str]:
    r"""The file of each image: its name with `.png` in place of an image's suffix.

    The suffix stays where two names differ in it alone. A file stays inside its folder whatever the
    name, also on Windows: on Linux a file may be called `..\a.png` or `C:\a.png`.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        steps = re.split(r"[/\\]", name.replace(":", "_"))
        path = "/".join(step for step in steps if step not in ("", ".", "..")) or "image"
        suffix = Path(path).suffix
        stem = path.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else path
        file = f"{stem}.png"
        number = 0
        while file in taken:
            file = f"{path}{f'_{number}' if number else ''}.png"
            number += 1
        taken.add(file)
        found[name] = file
    return found


def _write_part(
    folder: Path, dataset: Dataset, samples: Iterable[Sample], file_of: dict[str, str]
) -> None:
    """Write annotated images and their file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in samples:
        images.append(_write_image(folder, file_of[sample.name], sample.image, len(images) + 1))
        annotations += _annotations(sample, dataset, images[-1]["id"], len(annotations) + 1)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": one.id, "name": one.name} for one in dataset.classes],
    }
    (folder / ROBOFLOW).write_text(json.dumps(content), "utf-8")


def _annotations(
    sample: Sample, dataset: Dataset, image_id: int, first: int
) -> Iterable[dict[str, Any]]:
    """Yield the annotation of each instance in the order of their numbers, ids from `first`."""
    height, width = sample.size
    instances = find_instances(sample.label_maps)
    for index in np.argsort(instances.ids_N).tolist():
        crop = crop_mask(sample.label_maps, instances, index)
        h, w = crop.pixels.shape
        number = int(instances.ids_N[index]) - 1
        yield {
            "id": first + index,
            "image_id": image_id,
            "category_id": dataset.classes[int(sample.labels_N[number]) - 1].id,
            "segmentation": rle.encode(crop, height, width),
            "bbox": [crop.x0, crop.y0, w, h],
            "area": crop.area,
            "iscrowd": int(sample.crowd_N[number]),
        }


def _write_test_images(folder: Path, dataset: Dataset) -> None:
    """Write the test images and their listing, with their ids."""
    file_of = converted_names([image.file_name for image in dataset.test_images])
    intensity = dataset.intensity or AUTO
    images = [
        _write_image(folder, file_of[image.file_name], read_test_image(image, intensity), image.id)
        for image in dataset.test_images
    ]
    categories = [{"id": one.id, "name": one.name} for one in dataset.classes]
    (folder / ROBOFLOW).write_text(
        json.dumps({"images": images, "annotations": [], "categories": categories}), "utf-8"
    )


def _write_image(folder: Path, file: str, pixels: NDArray[np.uint8], number: int) -> dict[str, Any]:
    """Write an image, uint8 [H, W, 3]; returns its entry."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / file)
    height, width = pixels.shape[:2]
    return {"id": number, "file_name": file, "height": height, "width": width}
