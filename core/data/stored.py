"""An image file as it is stored: what its header says, and its pixels before EXIF turns them.

`tiffs.py` and `pictures.py` open files, `images.py` is what the rest of the project calls. Errors
here carry no place; `images.py` puts the path before them.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import DataError

MAX_PIXELS = 89_478_485
"""Largest number of pixels of an image: Pillow's own limit, above which it takes a file for a
decompression bomb. A float64 mask of this size takes 716 MB to decode. A whole slide is larger and
must be cut into tiles."""


class Stored(Protocol):
    """An open image file.

    The methods `check_...` read the header alone. All methods may raise DataError.

    size           height and width in pixels, as stored
    orientation    EXIF's number 1 to 8: how a viewer turns the stored pixels
    deep           whether a channel has more than 8 bits
    """

    size: tuple[int, int]
    orientation: int
    deep: bool

    def check_picture(self) -> None:
        """Raise DataError if the header shows that `picture` would fail."""

    def picture(self) -> NDArray[Any]:
        """Decode the pixels to RGB, [H, W, 3]: uint8, or a file's own type of more bits."""

    def check_ids(self) -> None:
        """Raise DataError if the header shows that `ids` would fail."""

    def ids(self) -> NDArray[Any]:
        """Decode a mask's values as stored, [H, W]: bool, integer, float; a palette's indices."""


def check_size(height: int, width: int) -> None:
    """Raise DataError for an image without pixels, or with more than MAX_PIXELS."""
    if height < 1 or width < 1:
        raise DataError(f"an image must have pixels, and its header says {height} x {width}")
    if height * width > MAX_PIXELS:
        raise DataError(
            f"an image may have at most {MAX_PIXELS:,} pixels, and this one has {height:,} x"
            f" {width:,}; cut it into tiles"
        )


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels, [H, W] or [H, W, colours], as a viewer shows them.

    orientation   EXIF's number, 1 to 8
    """
    match orientation:
        case 2:
            shown = pixels[:, ::-1]
        case 3:
            shown = pixels[::-1, ::-1]
        case 4:
            shown = pixels[::-1]
        case 5:
            shown = pixels.swapaxes(0, 1)
        case 6:
            shown = pixels[::-1].swapaxes(0, 1)
        case 7:
            shown = pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            shown = pixels[:, ::-1].swapaxes(0, 1)
        case _:
            shown = pixels
    return np.ascontiguousarray(shown)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width after `turned`."""
    return (size[1], size[0]) if orientation in (5, 6, 7, 8) else size
