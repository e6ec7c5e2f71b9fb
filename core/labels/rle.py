"""COCO's run-length encoding of a mask, made and read without the mask at its full size.

An encoding is the lengths of runs of equal pixels, column by column and down each column;
background and mask take turns, and background comes first, if need be with 0 pixels. COCO writes
the runs as a compressed string.
"""

from typing import TypedDict

import numpy as np
from pycocotools import mask as coco_mask

from core.errors import DataError
from core.sample import MaskCrop

LONGEST_NUMBER = 7
"""Largest number of characters, of 5 bits each, in which pycocotools writes a run: its runs have 32
bits, and their differences two more."""


class Rle(TypedDict):
    """An encoded mask, as JSON has it.

    size     [height, width] of the image, pixels
    counts   the runs as a compressed string
    """

    size: list[int]
    counts: str


def encode(crop: MaskCrop, height: int, width: int) -> Rle:
    """Encode the mask of one instance in an image of `height` x `width` pixels; it may be empty.

    The result is byte for byte what `pycocotools.mask.encode` makes of the full mask, in time and
    memory of the window alone.
    """
    h, w = crop.pixels.shape
    assert 0 <= crop.y0 <= height - h, "the window lies inside the image"
    assert 0 <= crop.x0 <= width - w, "the window lies inside the image"
    # Above and below the window is background, so each of its columns ends as many runs of mask as
    # it begins.
    x, y = np.nonzero(np.diff(crop.pixels.T, axis=1, prepend=False, append=False))
    borders = (x + crop.x0) * height + y + crop.y0
    # In a window as high as the image, a run that ends with its column may go on at the top of the
    # next one.
    joined = np.flatnonzero(borders[1:] == borders[:-1])
    borders = np.delete(borders, np.concatenate([joined, joined + 1]))
    runs_R = np.diff(borders, prepend=0, append=height * width)
    if len(borders) and borders[-1] == height * width:
        runs_R = runs_R[:-1]  # no background after the last pixel
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": runs_R}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def decode_runs(counts: str) -> list[int]:
    """Decode COCO's compressed string to run lengths.

    A run is written in base 32 with a continuation bit; from the fourth on it is the difference
    from the run two before. pycocotools itself reads past the end of a damaged string, and fills
    what its runs leave open with whatever is in memory. Whether no run is negative, and how many
    pixels they add up to, is for the caller to check.

    Raises DataError, without a place, for a string that pycocotools would not write.
    """
    found: list[int] = []
    value = shift = 0
    for character in counts:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise DataError(
                f"counts must be text as pycocotools writes it, and holds {character!r}"
            )
        if shift == 5 * LONGEST_NUMBER:
            raise DataError(
                "counts must be text as pycocotools writes it, and holds a number of over"
                f" {LONGEST_NUMBER} characters"
            )
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = shift = 0
    if shift:
        raise DataError("counts must be text as pycocotools writes it, and ends inside a number")
    return found
