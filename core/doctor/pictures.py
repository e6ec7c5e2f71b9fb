"""Images with the outlines of their annotations, small enough that a page holds hundreds.

A page is one file, so the bytes of all pictures together have a budget. Where cells would be too
small to see, a part of the image is shown in place of all of it.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from core.prediction.overlay import draw_outlines
from core.sample import Sample, Size

Region = tuple[int, int, int, int]
"""A part of an image, half-open x0 y0 x1 y1 in pixels."""

LONGEST_SIDE = 320
"""Screen pixels of the longer side of a picture, at most."""
LEAST_SEEN, WELL_SEEN = 8.0, 14.0
"""Screen pixels. Where the median cell would be shorter than the first, a part of the image is
shown, in which it has the second."""
THICK_FROM = 24.0
"""Screen pixels of the median cell's side from which an outline is two pixels wide."""
AROUND = 1.5
"""Margin around a marked instance, in sides of the median cell."""
FRAME_GAP = 4
"""Screen pixels between a marked instance's box and its frame."""
QUALITIES = (80, 65, 50, 35, 20)
"""WebP qualities that are tried, until a picture fits its share of the budget."""


@dataclass(frozen=True)
class SmallPicture:
    """A picture of a page.

    data            the WebP file, in base64
    height, width   screen pixels
    window          the part of the image that it shows
    whole           whether that is all of it
    """

    data: str
    height: int
    width: int
    window: Region
    whole: bool


def picture_of(
    sample: Sample,
    classes: int,
    cell: float,
    most_bytes: int,
    window: Region | None = None,
    framed: Sequence[Region] = (),
) -> SmallPicture:
    """Draw an image with its outlines, or the part of it in which they can be seen.

    classes      number of classes
    cell         side of the data set's median cell in pixels; 0 where there is none
    most_bytes   largest size of the file; it is missed only where even a quarter of the side and
                 the least quality take more
    window       the part to be shown, where something there is to be looked at
    framed       boxes that get a frame, black and white so that it is seen on any tissue
    """
    height, width = sample.size
    part = window or _seen_part(sample, cell)
    x0, y0, x1, y1 = part
    size = _on_screen(y1 - y0, x1 - x0)
    thick = cell * size[1] / (x1 - x0) >= THICK_FROM
    pixels = draw_outlines(sample, size, classes, part, thick)
    if framed:
        pixels = _with_frames(pixels, part, framed)
    data = b""
    for smaller in (1, 2, 4):
        shown = pixels if smaller == 1 else _shrunk(pixels, smaller)
        for quality in QUALITIES:
            data = _webp(shown, quality)
            if len(data) <= most_bytes:
                break
        if len(data) <= most_bytes:
            break
    return SmallPicture(
        base64.b64encode(data).decode(), *size, part, (y1 - y0, x1 - x0) == (height, width)
    )


def part_around(sample: Sample, box: Region, cell: float) -> Region:
    """The part of an image around a marked instance, with its neighbours."""
    height, width = sample.size
    x0, y0, x1, y1 = box
    side = min(round(max(x1 - x0, y1 - y0) + 2 * AROUND * max(cell, 8)), max(height, width))
    left = min(max((x0 + x1 - side) // 2, 0), max(width - side, 0))
    top = min(max((y0 + y1 - side) // 2, 0), max(height - side, 0))
    return left, top, min(left + side, width), min(top + side, height)


def _seen_part(sample: Sample, cell: float) -> Region:
    """The whole image, or its most crowded square where cells would be too small on it."""
    height, width = sample.size
    longer = max(height, width)
    if not cell or longer <= LONGEST_SIDE or cell * LONGEST_SIDE / longer >= LEAST_SEEN:
        return 0, 0, width, height
    side = min(max(round(cell * LONGEST_SIDE / WELL_SEEN), LONGEST_SIDE), longer)
    h, w = min(side, height), min(side, width)
    inside_HW = (sample.label_maps > 0).any(axis=0)
    # Sums over windows at multiples of a quarter of the side.
    sums_HW = np.pad(inside_HW.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    tops = np.unique([*range(0, height - h, max(h // 4, 1)), height - h])
    lefts = np.unique([*range(0, width - w, max(w // 4, 1)), width - w])
    covered = (
        sums_HW[np.ix_(tops + h, lefts + w)]
        - sums_HW[np.ix_(tops, lefts + w)]
        - sums_HW[np.ix_(tops + h, lefts)]
        + sums_HW[np.ix_(tops, lefts)]
    )
    row, column = np.unravel_index(int(covered.argmax()), covered.shape)
    top, left = int(tops[row]), int(lefts[column])
    return left, top, left + w, top + h


def _on_screen(height: int, width: int) -> Size:
    """Height and width in screen pixels: small parts are enlarged by whole factors."""
    longer = max(height, width)
    if longer > LONGEST_SIDE:
        return max(1, round(height * LONGEST_SIDE / longer)), max(
            1, round(width * LONGEST_SIDE / longer)
        )
    factor = max(1, LONGEST_SIDE // longer)
    return height * factor, width * factor


def _with_frames(
    pixels: NDArray[np.uint8], part: Region, boxes: Sequence[Region]
) -> NDArray[np.uint8]:
    """Draw a frame around each box that the part of the image holds."""
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    across, down = pixels.shape[1] / (part[2] - part[0]), pixels.shape[0] / (part[3] - part[1])
    for x0, y0, x1, y1 in boxes:
        if x1 <= part[0] or y1 <= part[1] or x0 >= part[2] or y0 >= part[3]:
            continue
        left, right = (x0 - part[0]) * across, (x1 - part[0]) * across
        top, bottom = (y0 - part[1]) * down, (y1 - part[1]) * down
        for gap, shade in ((FRAME_GAP, "white"), (FRAME_GAP + 1, "black")):
            pen.rectangle((left - gap, top - gap, right + gap, bottom + gap), outline=shade)
    return np.array(picture)


def _shrunk(pixels: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    small = (max(1, width // by), max(1, height // by))
    return np.asarray(Image.fromarray(pixels).resize(small, Image.Resampling.BOX))


def _webp(pixels: NDArray[np.uint8], quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="WEBP", quality=quality, method=3)
    return stream.getvalue()
