"""COCO segmentations to masks, and how well an annotation's own bbox and area fit its mask."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from core.errors import DataError
from core.labels import rle
from core.sample import MaskCrop
from core.text import brief

LONGEST_OUTLINE = 2_000_000
"""Largest length, in pixels, of an annotation's outlines. pycocotools takes some 100 bytes for each
of these pixels."""
_MOST_WRITTEN = 10**18
"""Sums of run lengths are written out in messages below this number of pixels."""
COVERS = "segmentation must cover at least one pixel"
"""The beginning of the message on an annotation that covers no pixel: nothing is lost with it."""
_COVERS_NONE = f"{COVERS}, and covers none; remove the annotation"
_Window = tuple[slice, slice]
FAR_BOX = 0.5
"""IoU of an annotation's own bbox with the box of its mask below which the two contradict each
other, unless their sides are near."""
NEAR_SIDES = 2.0
"""Distance, in pixels, within which each side of two boxes is near that of the other."""
FAR_AREA = 4
"""Factor by which an annotation's own area may differ from its mask's: some tools write the area of
the box."""


class BesideImage(DataError):
    """An annotation lies outside its image.

    It is seldom the only one: the outlines belong to other images, or to images of another size.
    """


def is_real(value: Any) -> bool:
    """Whether a value from JSON is a number that a coordinate can be: finite, and below 1e9."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def mask_of(segmentation: Any, height: int, width: int) -> MaskCrop:
    """Decode a segmentation, polygons or a run-length encoding, to a mask in its window.

    height, width   of the image, in pixels

    Raises DataError, without a place: BesideImage for polygons that all lie outside the image.
    """
    if isinstance(segmentation, list):
        runs = _of_polygons(segmentation, height, width)
    elif isinstance(segmentation, dict):
        runs = _of_encoding(segmentation, height, width)
    else:
        raise DataError(
            f"segmentation must be polygons or a run-length encoding, and is {brief(segmentation)}"
        )
    return _crop(runs, height)


def mask_of_areas(areas: Sequence[Sequence[list[Any]]], height: int, width: int) -> MaskCrop:
    """Draw one instance of one or more areas, each an outline and the outlines of its holes.

    An outline is x, y, x, y, ... in pixels. Outlines and holes are filled as pycocotools fills
    polygons; an area is its outline without its holes, and the instance all of its areas.

    height, width   of the image, in pixels

    Raises DataError as `mask_of` does.
    """
    whole = mask_of([outline for outline, *_ in areas], height, width)
    if all(len(area) == 1 for area in areas):
        return whole
    covered = np.zeros_like(whole.pixels)
    _corners_of([hole for _, *holes in areas for hole in holes], height, width)
    for outline, *holes in areas:
        area = _crop_of_runs(_filled([outline], height, width), height)
        if area is None:
            continue
        for hole in holes:
            empty = _crop_of_runs(_filled([hole], height, width), height)
            if empty is not None:
                ours, theirs = _common(area, empty)
                area.pixels[ours] &= ~empty.pixels[theirs]
        ours, theirs = _common(whole, area)
        covered[ours] |= area.pixels[theirs]
    if not covered.any():
        raise DataError(_COVERS_NONE)
    return MaskCrop(whole.y0, whole.x0, covered)


def union_of(masks: Sequence[MaskCrop]) -> MaskCrop:
    """The union of one or more masks."""
    y0, x0 = (min(values) for values in zip(*((one.y0, one.x0) for one in masks), strict=True))
    y1 = max(one.y0 + one.pixels.shape[0] for one in masks)
    x1 = max(one.x0 + one.pixels.shape[1] for one in masks)
    whole = MaskCrop(y0, x0, np.zeros((y1 - y0, x1 - x0), np.bool_))
    for one in masks:
        ours, theirs = _common(whole, one)
        whole.pixels[ours] |= one.pixels[theirs]
    return whole


def _common(one: MaskCrop, other: MaskCrop) -> tuple[_Window, _Window]:
    """The window that two crops have in common, as slices of the one and of the other."""
    slices = []
    for a, length_a, b, length_b in zip(
        (one.y0, one.x0),
        one.pixels.shape,
        (other.y0, other.x0),
        other.pixels.shape,
        strict=True,
    ):
        first, last = max(a, b), max(max(a, b), min(a + length_a, b + length_b))
        slices.append((slice(first - a, last - a), slice(first - b, last - b)))
    return (slices[0][0], slices[1][0]), (slices[0][1], slices[1][1])


def _crop(runs: Sequence[int], height: int) -> MaskCrop:
    """The mask of run lengths in its window. Raises DataError for one without a pixel."""
    crop = _crop_of_runs(runs, height)
    if crop is None:
        raise DataError(_COVERS_NONE)
    return crop


def _crop_of_runs(runs: Sequence[int], height: int) -> MaskCrop | None:
    """The mask of run lengths in its window; None for one without a pixel."""
    # Runs of background and of mask take turns, column by column, and begin with background.
    ends_R = np.cumsum(runs, dtype=np.int64)
    covers_R = (np.arange(len(runs)) % 2 == 1) & (np.diff(ends_R, prepend=0) > 0)
    if not covers_R.any():
        return None
    covering = np.flatnonzero(covers_R)
    first = int(ends_R[covering[0] - 1]) // height
    last = (int(ends_R[covering[-1]]) - 1) // height
    # Only the columns between the first and the last pixel are unfolded.
    clipped_R = np.clip(ends_R, first * height, (last + 1) * height)
    lengths_R = np.diff(clipped_R, prepend=first * height)
    columns = (
        np.repeat(np.arange(len(runs)) % 2 == 1, lengths_R).reshape(last - first + 1, height).T
    )
    rows = np.flatnonzero(columns.any(axis=1))
    return MaskCrop(int(rows[0]), first, columns[rows[0] : rows[-1] + 1])


def _of_polygons(polygons: list[Any], height: int, width: int) -> Sequence[int]:
    """The run lengths of the union of polygons, in COCO's order."""
    if not polygons:
        raise DataError(f"{COVERS}, and is empty; remove the annotation")
    if len(polygons) >= 6 and all(is_real(value) for value in polygons):
        polygons = [polygons]  # one polygon without the list around it, as some tools write it
    in_sight, in_fractions = False, True
    for corners in _corners_of(polygons, height, width):
        x, y = corners[::2], corners[1::2]
        in_fractions &= bool(corners.max() <= 1 and (corners % 1).any())
        in_sight |= bool(x.min() < width and y.min() < height and x.max() > 0 and y.max() > 0)
    if not in_sight:
        raise BesideImage(
            f"a polygon must lie in the image ({width} wide, {height} high), and this one is"
            " outside; are x and y exchanged, or was it drawn on an image of another size?"
        )
    if in_fractions and min(height, width) > 8:
        raise DataError(
            "a polygon's corners must be in pixels, and these look like fractions of the image"
            " (none is over 1); multiply x by its width and y by its height"
        )
    return _filled(polygons, height, width)


def _filled(polygons: list[Any], height: int, width: int) -> Sequence[int]:
    """The run lengths of the union of polygons whose corners were checked."""
    encoded = coco_mask.frPyObjects(polygons, height, width)
    # pycocotools merges each polygon with the union of all before it, which took 16 s for 60,000
    # polygons in a file of 3 MB; merging in groups of 8 takes 0.1 s.
    while len(encoded) > 1:
        encoded = [
            coco_mask.merge(encoded[start : start + 8]) for start in range(0, len(encoded), 8)
        ]
    return rle.decode_runs(encoded[0]["counts"].decode())


def _corners_of(polygons: list[Any], height: int, width: int) -> list[NDArray[np.float64]]:
    """The corners of polygons. Raises DataError, also for outlines that are too long together."""
    found = [_corners(polygon, height, width) for polygon in polygons]
    length = sum(
        float(
            np.maximum(
                abs(np.diff(corners[::2], append=corners[0])),
                abs(np.diff(corners[1::2], append=corners[1])),
            ).sum()
        )
        for corners in found
    )
    if length > LONGEST_OUTLINE:
        raise DataError(
            f"the outlines of an annotation may be {LONGEST_OUTLINE:,} pixels long, and these are"
            f" {round(length):,}; simplify them"
        )
    return found


def _corners(polygon: Any, height: int, width: int) -> NDArray[np.float64]:
    """The corners of a polygon, in or near the image: float64 [2 x corners], x, y, x, y, ...

    Raises DataError, without a place.
    """
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise DataError(
            "a polygon must be a list x, y, x, y, ... of three points or more, and is"
            f" {brief(polygon)}"
        )
    if set(map(type, polygon)) <= {int, float} and all(map(is_real, polygon)):
        corners = np.array(polygon, np.float64)
        sides = np.tile([width, height], len(corners) // 2)
        # pycocotools allocates memory by the length of the outline, so a stray corner would take
        # gigabytes.
        good = (corners >= -sides) & (corners <= 2 * sides)
        if good.all():
            return corners
        position = int(np.argmin(good))
    else:
        position = next(number for number, value in enumerate(polygon) if not is_real(value))
    raise DataError(
        f"a polygon's corners must be numbers in or near the image ({width} wide, {height} high), "
        f"and value {position} (counted from 0) is {brief(polygon[position])}"
    )


def _of_encoding(segmentation: Mapping[str, Any], height: int, width: int) -> Sequence[int]:
    """The run lengths of an encoding, compressed or not, after checking them."""
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        raise DataError(
            f"a run-length encoding must have the image's size, {[height, width]}, and has"
            f" {brief(size)}"
        )
    if isinstance(counts, str):
        runs = rle.decode_runs(counts)
    elif isinstance(counts, list) and set(map(type, counts)) <= {int}:
        runs = counts
    else:
        raise DataError(
            f"counts must be a list of whole numbers or a compressed string, and is {brief(counts)}"
        )
    total = sum(runs)
    if any(run < 0 for run in runs) or total != height * width:
        # Python refuses to write a number of thousands of digits.
        given = (
            f"{total:,}" if abs(total) < _MOST_WRITTEN else "far more" if total > 0 else "far less"
        )
        raise DataError(
            f"the runs must be 0 or more and add up to the image's {height * width:,} pixels, and"
            f" add up to {given}"
        )
    return runs


def box_of(bbox: Any) -> tuple[float, float, float, float] | None:
    """A COCO bbox as x0, y0, x1, y1; None for a box without area and for anything else."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_real(value) for value in bbox):
        return None
    x, y, w, h = (float(value) for value in bbox)
    return (x, y, x + w, y + h) if w > 0 and h > 0 else None


def fit_of_bbox(bbox: Any, mask: MaskCrop) -> str:
    """Say in a word how an annotation's own bbox fits its mask.

    The word is `no bbox`, `fits`, `exchanged` (x and y), `corners` (x0 y0 x1 y1 in place of x y
    width height), `fractions` (of the image: no value is above 1), or `apart`.
    """
    given = box_of(bbox)
    if given is None:
        return "no bbox"
    h, w = mask.pixels.shape
    own = (mask.x0, mask.y0, mask.x0 + w, mask.y0 + h)
    x0, y0, x1, y1 = given
    readings = {
        "fits": given,
        "exchanged": (y0, x0, y1, x1),
        "corners": (x0, y0, x1 - x0, y1 - y0),
    }
    for word, box in readings.items():
        if _alike(box, own):
            return word
    return "fractions" if max(bbox) <= 1 else "apart"


def fit_of_area(area: Any, mask: MaskCrop) -> str:
    """Say how an annotation's own area fits its mask: `no area`, `fits` or `apart`."""
    if not is_real(area) or area <= 0:
        return "no area"
    return "fits" if mask.area / FAR_AREA <= area <= mask.area * FAR_AREA else "apart"


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes, x0 y0 x1 y1, agree by NEAR_SIDES or FAR_BOX."""
    if max(abs(a - b) for a, b in zip(one, other, strict=True)) <= NEAR_SIDES:
        return True
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common >= FAR_BOX * (sum(areas) - common)
