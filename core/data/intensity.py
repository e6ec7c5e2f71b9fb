"""Images of more than 8 bits brought to 8, by one range of brightness for the whole data set.

A reader delivers such images with the values that are stored. One range for all of them, and for
all channels, keeps what is brighter in one image than in another, and the colours. A trained model
keeps the range in its settings, and new images are brought to 8 bits by the same one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import AUTO, intensity_range
from core.data.dataset import Dataset, Problem, assemble
from core.errors import DataError
from core.sample import Sample
from core.text import many
from core.values import as_number, as_percent

PERCENTILES = (0.1, 99.9)
"""Percentages of the pixels that are at most as bright as the measured range's two ends. The few
beyond them, hot pixels and holes, would leave all others a part of the 256 grey levels."""
PIXELS_OF_AN_IMAGE = 2**16
"""Largest number of values of an image that are measured, evenly spread over it."""


LARGEST_ERROR = 0.002
"""Largest error of a measured range's width that its rounding may cause: half a grey level."""


def measured_range(images: Sequence[NDArray[Any]]) -> str:
    """The range of brightness of images as `data.intensity` has it, `LOW,HIGH`.

    images   numbers [H, W, 3]; each has the same weight, whatever its size

    Raises DataError, without a place, where all pixels are equal, or differ by so little that nine
    digits do not tell them apart.
    """
    values = []
    for image in images:
        flat = image.reshape(-1)
        step = max(1, flat.size // PIXELS_OF_AN_IMAGE)
        # A step of a multiple of 3 would measure one channel alone.
        values.append(flat[:: step + (step % 3 == 0)].astype(np.float64))
    weights = np.concatenate([np.full(len(one), 1 / len(one)) for one in values])
    low, high = np.percentile(
        np.concatenate(values), PERCENTILES, weights=weights, method="inverted_cdf"
    )
    if low == high:
        low, high = min(one.min() for one in values), max(one.max() for one in values)
    if low == high:
        raise DataError(
            f"all pixels of all images have the value {as_number(low)}, so no range of brightness"
            " can be measured; look at the images"
        )
    for digits in (6, 9):
        written = [as_number(end, digits) for end in (low, high)]
        error = abs(float(written[1]) - float(written[0]) - (high - low))
        if error <= LARGEST_ERROR * (high - low):
            return ",".join(written)
    raise DataError(
        f"the brightness of all images lies between {as_number(low, 17)} and {as_number(high, 17)},"
        " too near each other to tell apart; subtract the same number from all pixels"
    )


def to_8_bits(pixels: NDArray[Any], intensity: str) -> NDArray[np.uint8]:
    """Bring an image to 8 bits: LOW becomes 0, HIGH becomes 255, and what lies beyond is cut off.

    pixels      [H, W, 3]; uint8 is returned as it is
    intensity   `data.intensity`

    Raises DataError, without a place, where `intensity` is `auto`: then no range is known.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if intensity == AUTO:
        raise DataError(
            f"the image holds {pixels.dtype}, and the model was trained on images of 8 bits;"
            " convert it to 8 bits as those were"
        )
    low, high = intensity_range(intensity)
    # float32 holds every value of 16 bits, and not every one of 32. Python's numbers keep the type.
    narrow = pixels.dtype.itemsize == 2 or pixels.dtype == np.float32
    wide: NDArray[Any] = pixels.astype(np.float32 if narrow else np.float64)
    scaled = (wide - low) * (255 / (high - low))
    seen: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return seen


def of_one_way(dataset: Dataset, where: str) -> tuple[Dataset, list[Problem]]:
    """Leave out images that are stored in another way than most: no range of brightness fits both.

    Images of 8 bits, whole numbers of more bits and floating point are three ways. Of two that are
    equally frequent the first in this order stays. Returns the data set of the images that stay,
    and a problem for each of the others.

    where   the place of the data set
    """
    ways: dict[str, list[Sample]] = {"8 bits": [], "more than 8 bits": [], "floating point": []}
    for sample in dataset.samples:
        ways[_way(sample.image.dtype)].append(sample)
    kept = max(ways, key=lambda way: len(ways[way]))
    if len(ways[kept]) == len(dataset.samples):
        return dataset, []
    problems = [
        Problem(
            f"{where}, image {sample.name}",
            f"the image is stored as {sample.image.dtype}, with values from"
            f" {as_number(sample.image.min(), 6)} to {as_number(sample.image.max(), 6)}, and"
            f" {len(ways[kept]):,} of {many(len(dataset.samples), 'image')} in {kept}; save all in"
            " one way",
            skippable=True,
        )
        for way, samples in ways.items()
        if way != kept
        for sample in samples
    ]
    names = {sample.name for sample in ways[kept]}
    left = assemble(
        dataset.name,
        dataset.classes,
        ways[kept],
        dataset.test_images,
        [name for name in dataset.validation if name in names],
    )
    return replace(left, notes=dataset.notes), problems


def _way(stored: np.dtype[Any]) -> str:
    if stored == np.uint8:
        return "8 bits"
    return "floating point" if stored.kind == "f" else "more than 8 bits"


def with_8_bits(dataset: Dataset, intensity: str) -> Dataset:
    """Bring all images of a data set to 8 bits; one that has only such is returned as it is.

    intensity   `data.intensity`; `auto` is measured here

    dataset     its images are stored in one way, as `of_one_way` leaves them

    Raises DataError, without a place, for values that are infinite or NaN, and where no range can
    be measured.
    """
    deep = [sample for sample in dataset.samples if sample.image.dtype != np.uint8]
    if not deep:
        return dataset
    for sample in deep:
        if not np.isfinite(sample.image).all():
            raise DataError(
                f"the image {sample.name!r} holds values that are infinite or no numbers; save it"
                " again with finite ones"
            )
    found = measured_range([sample.image for sample in deep]) if intensity == AUTO else intensity
    low, high = intensity_range(found)
    kinds = ", ".join(sorted({str(sample.image.dtype) for sample in deep}))
    how = (
        f"measured: {as_percent(PERCENTILES[0] / 100, 1)} of the pixels are darker,"
        f" {as_percent(1 - PERCENTILES[1] / 100, 1)} brighter"
        if intensity == AUTO
        else "as it was set"
    )
    beyond = float(np.mean([np.mean((one.image < low) | (one.image > high)) for one in deep]))
    note = (
        f"data.intensity {found}: {many(len(deep), 'image')} of {kinds} brought to 8 bits,"
        f" {as_number(low, 6)} to black and {as_number(high, 6)} to white ({how});"
        f" {as_percent(beyond, 2)} of the pixels lie beyond"
    )
    seen = assemble(
        dataset.name,
        dataset.classes,
        [replace(sample, image=to_8_bits(sample.image, found)) for sample in dataset.samples],
        dataset.test_images,
        dataset.validation,
    )
    return replace(seen, notes=(*dataset.notes, note), intensity=found)
