"""Arrays that NumPy saved, `.npy`: masks alone, since an array does not say what its axes are."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.stored import check_size
from core.errors import DataError

ARRAY_SIGNATURE = b"\x93NUMPY"


@contextlib.contextmanager
def open_array(path: Path) -> Iterator["StoredArray"]:
    """Open the array in a file, whose pixels are read where they are asked for.

    Raises DataError for Python objects, which only their own program can read safely, and for
    another number of axes than two; and whatever NumPy raises.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Object arrays" not in str(error) and "Python objects" not in str(error):
            raise
        raise DataError(
            "the file holds Python objects (a pickle), which could run any program, so it is not"
            " read; save the label image alone: in Cellpose's window File, Save masks as PNG/tif,"
            " or for all files `cellpose.io.save_masks`, which writes NAME_cp_masks.png"
        ) from None
    if array.ndim != 2:
        raise DataError(
            f"a mask must be an array of rows and columns, and this one is"
            f" {' x '.join(map(str, array.shape)) or 'a single number'}; save one label image"
        )
    check_size(*array.shape)
    yield StoredArray(array)


class StoredArray:
    """An array as a `core.data.stored.Stored`, which can only be a mask."""

    def __init__(self, array: NDArray[Any]) -> None:
        """Take an array of two axes, [H, W]."""
        self._array = array
        height, width = array.shape
        self.size = (height, width)
        self.orientation = 1
        self.deep = array.dtype.itemsize > 1

    def check_picture(self) -> None:
        """Refuse an array as an image."""
        raise DataError("an image must be a TIFF, PNG, JPEG or BMP file, and this is an array")

    def picture(self) -> NDArray[np.uint8]:
        """Refuse an array as an image."""
        raise AssertionError("check_picture refuses every array")

    def check_ids(self) -> None:
        """Refuse dtypes but bool, integer and float."""
        if self._array.dtype.kind not in "buif":
            raise DataError(
                f"a mask must be an array of whole numbers, and this one is of {self._array.dtype}"
            )

    def ids(self) -> NDArray[Any]:
        """The values as stored, [H, W]."""
        return np.array(self._array)
