"""PNG, JPEG and BMP files, through Pillow; PNG of 16 bits through imagecodecs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.data.stored import MAX_PIXELS, check_size
from core.errors import DataError

PICTURE_SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "BMP": b"BM"}

_ORIENTATION = 274
_PNG_DEPTH = 24
"""Offset of the byte of a PNG file that holds its bits per channel."""


@contextlib.contextmanager
def open_picture(path: Path, kind: str) -> Iterator["Picture"]:
    """Open the picture in a file of a known kind, a key of PICTURE_SIGNATURES.

    Raises DataError, and whatever Pillow raises.
    """
    depth = 8
    if kind == "PNG":
        with path.open("rb") as stream:
            depth = stream.read(_PNG_DEPTH + 1)[_PNG_DEPTH]
    try:
        picture = Image.open(path, formats=(kind,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"an image may have at most {MAX_PIXELS:,} pixels; cut it into tiles ({error})"
        ) from None
    except ValueError as error:
        if not str(error).startswith(
            ("Decompressed data too large", "Too much memory used in text")
        ):
            raise
        raise DataError(
            "text or a colour profile in the file unpacks to megabytes; save the picture without it"
        ) from None
    with picture:
        check_size(picture.height, picture.width)
        yield Picture(picture, path, kind, depth)


class Picture:
    """A picture as a `core.data.stored.Stored`.

    In these formats colours are never multiplied by alpha, so that it is simply dropped.
    """

    def __init__(self, picture: Image.Image, path: Path, kind: str, depth: int) -> None:
        """Take an open picture, its file and kind, and the bits per channel in its header."""
        self._picture, self._path, self._kind = picture, path, kind
        self.size = (picture.height, picture.width)
        self.deep = depth == 16
        # Only metadata before the pixels counts: browsers ignore later metadata, and it is known
        # only after decoding.
        self.orientation = _exif_orientation(picture.info.get("exif"))

    def check_picture(self) -> None:
        """Refuse animations, and colours that could mean several RGB values."""
        self._check_frames()
        if self.deep:
            return
        if self._picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise DataError(
                f"an image must be grey, RGB or RGBA, and this one is {self._picture.mode}; "
                "convert it to RGB, all images in the same way"
            )

    def picture(self) -> NDArray[Any]:
        """Decode to RGB, uint8 or uint16 [H, W, 3].

        What alpha hides is kept, since it was annotated too.
        """
        if self.deep:
            return self._deep_picture()
        self._picture.load()
        mode, has_alpha = self._picture.mode, "transparency" in self._picture.info
        pixels = self._picture.convert(
            "RGBA" if mode == "PA" or (mode == "P" and has_alpha) else mode
        )
        if pixels.mode in ("RGBA", "LA"):
            channels = np.asarray(pixels)[:, :, :-1]
            return (
                np.repeat(channels, 3, axis=2)
                if pixels.mode == "LA"
                else np.ascontiguousarray(channels)
            )
        return np.array(pixels.convert("RGB"))

    def _deep_picture(self) -> NDArray[np.uint16]:
        """Decode 16 bits a channel, which Pillow would silently narrow to 8."""
        stored = imagecodecs.png_decode(self._path.read_bytes())
        pixels: NDArray[np.uint16] = stored.reshape(*self.size, -1)
        colours = 3 if pixels.shape[2] > 2 else 1
        return np.ascontiguousarray(np.broadcast_to(pixels[:, :, :colours], (*self.size, 3)))

    def check_ids(self) -> None:
        """Refuse JPEG, and more than one channel."""
        if self._kind == "JPEG":
            raise DataError(
                "a mask must keep its ids, and JPEG changes values at the edges of cells; export it"
                " again as TIFF or PNG from its source, for converting the JPEG brings nothing back"
            )
        self._check_frames()
        if self._picture.mode not in ("1", "L", "P") and not self._picture.mode.startswith("I"):
            raise DataError(
                "a mask must have one channel of whole numbers, and this one is"
                f" {self._picture.mode}; save the ids as grey of 8 or 16 bits"
            )

    def ids(self) -> NDArray[Any]:
        """Decode the values as stored, [H, W]; of a palette the indices, not the colours."""
        self._picture.load()
        return np.array(self._picture)

    def _check_frames(self) -> None:
        # Further pictures in a JPEG (MPO) are previews and depth maps that telephones add.
        frames = getattr(self._picture, "n_frames", 1)
        if self._kind != "JPEG" and frames > 1:
            raise DataError(
                f"a file must hold one image, and this one is an animation of {frames}; "
                "save the frame that was annotated"
            )


def _exif_orientation(exif: bytes | None) -> int:
    """The orientation that EXIF names; 1, as stored, where it names none or is damaged."""
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        value = tags.get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  # damaged EXIF data does not make the pixels unusable
        return 1
    return value if value in range(1, 9) else 1
