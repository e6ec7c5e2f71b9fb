"""Image files to arrays: sizes are judged by the header before anything is decoded, and damage is one sentence.

TIFFs go through tifffile, which keeps their data type (Pillow cannot open float64, and narrows 16-bit RGB to 8 without
a word); PNG and JPEG go through Pillow.
"""

import logging
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from core.data.dataset import Problem, TestImage
from core.errors import DataError

MAX_PIXELS = 89_478_485
"""Pixels of an image. Pillow's own limit, above which it takes a file for a decompression bomb; a float64 mask of this
size takes 716 MB to decode. A whole slide is larger, and belongs cut into tiles."""

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_IN_TIFF = 7
PIXEL_TAGS = frozenset({256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339})
"""Tags of a TIFF that say how its pixels are stored; where one is lost tifffile goes on with a default."""

T = TypeVar("T")

# What is wrong with a file is said once, in the sentence that is raised.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The image as RGB, uint8 [H, W, 3], from 8-bit grey, RGB or RGBA in a TIFF, PNG or JPEG file.

    Grey is repeated, alpha is dropped. An orientation in EXIF is ignored: annotations are drawn on the stored pixels,
    and their height and width are those of the stored pixels.

    Raises DataError, one sentence that begins with the path: not there, damaged or cut off, over MAX_PIXELS, 16-bit,
    or another kind of image, by name.
    """
    return _decoded(path, lambda: _tiff_rgb(path) if _signature(path) == "TIFF" else _picture_rgb(path))


def read_test_image(image: TestImage) -> NDArray[np.uint8]:
    """The pixels of a listed image, uint8 [H, W, 3]. Raises DataError as `read_rgb`, and for a size not listed."""
    pixels = read_rgb(Path(image.path)) if image.pixels is None else image.pixels
    height, width = pixels.shape[:2]
    if (height, width) != (image.height, image.width):
        raise DataError(
            f"{image.path or image.file_name}: the image is listed with {image.height} x {image.width} pixels "
            f"(height x width), and has {height} x {width}"
        )
    return pixels


def read_ids(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    """The instance ids of a mask, [H, W] in the data type of the file: bool, integer or floating point.

    Raises DataError, one sentence that begins with the path: what `read_rgb` refuses as well, a size other than `size`
    (height, width), more than one channel, or an id that is negative, fractional, infinite or NaN.
    """
    ids_HW = _decoded(path, lambda: _tiff_ids(path, size))
    if ids_HW.dtype.kind in "if":
        good = ids_HW >= 0
        if ids_HW.dtype.kind == "f":
            good &= np.isfinite(ids_HW) & (ids_HW == np.floor(ids_HW))
        if not np.all(good):
            row, column = np.argwhere(~good)[0]
            raise DataError(
                f"{path}: instance ids must be whole numbers from 0 up, and the pixel in row {row}, column {column} "
                f"(counted from 0) holds {ids_HW[row, column]} ({np.count_nonzero(~good):,} such pixels)"
            )
    return ids_HW


def read_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the header alone. Raises DataError as `read_rgb` does."""

    def size() -> tuple[int, int]:
        if _signature(path) == "TIFF":
            with tifffile.TiffFile(path) as tiff:
                page = _only_page(tiff, path)
                return page.imagelength, page.imagewidth
        with _picture(path) as picture:
            return picture.height, picture.width

    return _decoded(path, size)


def find_file(file_name: str, folders: Sequence[Path]) -> Path:
    """The file inside the first folder that holds it. Links are followed: images may live in a store elsewhere.

    Raises DataError, without a place, for a name that leaves the folder and for a file that is in none.
    """
    for name in (PurePosixPath(file_name), PureWindowsPath(file_name)):
        if not name.parts or name.anchor or ".." in name.parts or "\0" in file_name:
            raise DataError(f"a file name must stay inside the data folder, and is {file_name!r}")
    for folder in folders:
        if (folder / file_name).is_file():
            return folder / file_name
    raise DataError(f"the file {file_name!r} is not there; looked in {', '.join(map(str, folders))}")


def read_listed(entries: Sequence[Any], folders: Sequence[Path], listing: str) -> tuple[list[TestImage], list[Problem]]:
    """Check listed images: fields, unique ids and names, files inside one of `folders`, sizes against the headers.

    entries   of {"file_name": str, "id": int, "height": int, "width": int}, from JSON, so of any type whatever
    """
    images: list[TestImage] = []
    problems: list[Problem] = []
    seen: set[str | int] = set()
    for position, entry in enumerate(entries):
        try:
            image = _listed(entry, folders)
            if image.id in seen or image.file_name in seen:
                raise DataError(f"ids and file names must be unique, and {image.file_name} (id {image.id}) repeats one")
        except DataError as error:
            problems.append(Problem(f"{listing}, image {position} (counted from 0)", str(error)))
        else:
            seen |= {image.id, image.file_name}
            images.append(image)
    return images, problems


def _listed(entry: Any, folders: Sequence[Path]) -> TestImage:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise DataError('an image must be listed as {"file_name": ..., "id": ..., "height": ..., "width": ...}')
    file_name = entry["file_name"]
    for key, least in (("id", 0), ("height", 1), ("width", 1)):
        value = entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DataError(f"the {key} of {file_name} must be a whole number from {least} up, and is {value!r}")
    path = find_file(file_name, folders)
    size = read_size(path)
    if size != (entry["height"], entry["width"]):
        raise DataError(
            f"{file_name} is listed with {entry['height']} x {entry['width']} pixels (height x width), "
            f"and has {size[0]} x {size[1]}"
        )
    return TestImage(str(path.absolute()), file_name, entry["id"], *size)


def _decoded(path: Path, decode: Callable[[], T]) -> T:
    try:
        return decode()
    except DataError:
        raise
    except Exception as error:  # on damaged bytes decoders raise almost anything: struct.error, IndexError, their own
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{path}: the file cannot be read: {error.strerror}") from error
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: the file is damaged or cut off; copy it again from its source ({cause})") from error


def _signature(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(TIFF_SIGNATURES):
        return "TIFF"
    if head.startswith(PNG_SIGNATURE):
        return "PNG"
    if head.startswith(JPEG_SIGNATURE):
        return "JPEG"
    if not head:
        raise DataError(f"{path}: the file is empty; copy it again from its source")
    raise DataError(f"{path}: an image must be a TIFF, PNG or JPEG file, and this one begins with {head!r}")


def _check_size(path: Path, height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise DataError(f"{path}: an image must have pixels, and its header says {height} x {width}")
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{path}: an image may have {MAX_PIXELS:,} pixels, and this one has {height:,} x {width:,}; "
            "cut it into tiles"
        )


def _only_page(tiff: tifffile.TiffFile, path: Path) -> tifffile.TiffPage:
    if not len(tiff.pages):
        raise DataError(f"{path}: the file is damaged or cut off; copy it again from its source (it holds no image)")
    if len(tiff.pages) > 1:
        raise DataError(f"{path}: a TIFF must hold one image, and this one holds {len(tiff.pages)}; save one page")
    page = tiff.pages.first
    if lost := _lost_tags(tiff, page):
        raise DataError(
            f"{path}: the file is damaged or cut off; copy it again from its source (tag {lost[0]} has no value)"
        )
    _check_size(path, page.imagelength, page.imagewidth)
    return page


def _lost_tags(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> list[int]:
    """Tags that say how to read the pixels, and that tifffile left out because their value lies beyond the file."""
    layout, handle = tiff.tiff, tiff.filehandle
    handle.seek(page.offset)
    (count,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    directory = handle.read(count * layout.tagsize)
    starts = range(0, len(directory), layout.tagsize)
    codes = [struct.unpack_from(f"{layout.byteorder}H", directory, start)[0] for start in starts]
    return [code for code in codes if code in PIXEL_TAGS and code not in page.tags]


def _pixels(page: tifffile.TiffPage, path: Path) -> NDArray[Any]:
    """Decode, having made sure that all of it is there: tifffile fills what is missing with zeros."""
    if page.is_tiled and math.prod(page.chunks) > 4 * MAX_PIXELS:
        raise DataError(f"{path}: the file is damaged: its tiles are {' x '.join(map(str, page.chunks))}")
    end_of_file = page.parent.filehandle.size
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if not page.is_contiguous and len(segments) != math.prod(page.chunked):
        raise DataError(
            f"{path}: the file is damaged: it has {len(segments)} of {math.prod(page.chunked)} strips or tiles"
        )
    for number, (offset, count) in enumerate(segments):
        if offset <= 0 or count <= 0 or offset + count > end_of_file:
            raise DataError(
                f"{path}: the file is damaged or cut off; copy it again from its source "
                f"(strip {number} ends at byte {offset + count:,}, the file at {end_of_file:,})"
            )
    pixels: NDArray[Any] = page.asarray(maxworkers=1)
    if pixels.shape != page.shape:
        raise DataError(f"{path}: the file is damaged: {pixels.shape} decoded, {page.shape} in its header")
    return pixels


def _tiff_rgb(path: Path) -> NDArray[np.uint8]:
    with tifffile.TiffFile(path) as tiff:
        page = _only_page(tiff, path)
        if page.dtype != np.uint8 or page.bitspersample != 8:
            raise DataError(
                f"{path}: images must have 8 bits a channel, and this one has {page.bitspersample} ({page.dtype}); "
                "convert it, with a brightness range that you choose for all images alike"
            )
        kind, samples = tifffile.PHOTOMETRIC(page.photometric).name, page.samplesperpixel
        is_grey = kind in ("MINISBLACK", "MINISWHITE") and page.axes == "YX"
        # tifffile turns the YCbCr of a JPEG into RGB while it decodes.
        is_colour = kind == "RGB" or (kind == "YCBCR" and page.compression == JPEG_IN_TIFF)
        if not is_grey and not (is_colour and samples in (3, 4) and page.axes in ("YXS", "SYX")):
            raise DataError(
                f"{path}: an image must be grey, RGB or RGBA, and this one is {kind} with {samples} "
                f"channel{'s' if samples > 1 else ''}; convert it"
            )
        pixels = _pixels(page, path).astype(np.uint8, copy=False)
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, 2)
        if is_grey:
            grey = 255 - pixels if kind == "MINISWHITE" else pixels
            pixels = np.repeat(grey[:, :, None], 3, axis=2)
        return np.ascontiguousarray(pixels[:, :, :3])


def _tiff_ids(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    if _signature(path) != "TIFF":
        raise DataError(f"{path}: a mask must be a TIFF file, and this is a {_signature(path)}")
    with tifffile.TiffFile(path) as tiff:
        page = _only_page(tiff, path)
        if page.dtype is None or page.dtype.kind not in "buif" or page.axes != "YX":
            raise DataError(
                f"{path}: a mask must have one channel of whole numbers, and this one has {page.samplesperpixel} "
                f"of {page.dtype}"
            )
        if (page.imagelength, page.imagewidth) != size:
            raise DataError(
                f"{path}: a mask must have the size of its image, {size[0]} x {size[1]} (height x width), "
                f"and has {page.imagelength} x {page.imagewidth}"
            )
        return _pixels(page, path)


def _picture(path: Path) -> Image.Image:
    try:
        picture = Image.open(path, formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: an image may have {MAX_PIXELS:,} pixels; cut it into tiles ({error})") from None
    _check_size(path, picture.height, picture.width)
    return picture


def _picture_rgb(path: Path) -> NDArray[np.uint8]:
    if _signature(path) == "PNG":
        with path.open("rb") as stream:
            depth = stream.read(25)[24]  # of the header chunk; Pillow would narrow 16-bit RGB to 8 without a word
        if depth == 16:
            raise DataError(
                f"{path}: images must have 8 bits a channel, and this one has 16; "
                "convert it, with a brightness range that you choose for all images alike"
            )
    with _picture(path) as picture:
        if picture.mode not in ("L", "RGB", "RGBA", "P"):
            raise DataError(f"{path}: an image must be grey, RGB or RGBA, and this one is {picture.mode}; convert it")
        picture.load()
        if picture.mode == "RGBA":  # dropped, not blended: what lies under transparent pixels was annotated too
            return np.ascontiguousarray(np.asarray(picture)[:, :, :3])
        return np.asarray(picture.convert("RGB"))
