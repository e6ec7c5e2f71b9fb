"""TIFF files, through tifffile: the page that is the image, its axes, and its pixels.

tifffile keeps the dtype, while Pillow cannot open float64 and silently narrows 16-bit RGB to 8.
tifffile's `series` are not used: those of OME-TIFF open other files that the description names.
"""

import contextlib
import io
import logging
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from core.data.stored import MAX_PIXELS, check_size
from core.errors import DataError
from core.files import parse_json
from core.text import listed, many

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

MAX_PAGES = 64
"""Largest number of pages that are read: a file with more holds no single image, and a million
would take minutes."""

LOSSLESS = frozenset({1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000})
"""Compressions by which a strip cannot unpack to more than its header says: none, CCITT, LZW,
deflate, PackBits, LZMA, Zstandard."""
JPEG = 7
JPEG_2000 = frozenset({33005, 34712})

PIXEL_TAGS = frozenset({
    254, 255, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323,
    324, 325, 330, 338, 339, 347, 529, 530, 532,
})  # fmt: skip
"""Tags of a TIFF that say how its pixels are stored. Where the value of one is lost, tifffile goes
on with a default."""

AXES = {"Z": "depth (Z)", "T": "time (T)", "C": "channels (C)"}

# tifffile logs the problems of a file; the error that is raised reports them once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

PHOTOMETRIC = tifffile.PHOTOMETRIC
EXTRA = tifffile.EXTRASAMPLE


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator["Tiff"]:
    """Open the image in a TIFF file.

    Raises DataError if the file does not hold exactly one, and whatever tifffile raises.
    """
    with tifffile.TiffFile(path) as file:
        yield Tiff(file)


class Tiff:
    """The image of a TIFF file as a `core.data.stored.Stored`."""

    def __init__(self, file: tifffile.TiffFile) -> None:
        """Choose the image among the pages of an open file."""
        self._planes = _planes(file)
        page = self._planes[0]
        self.size = (page.imagelength, page.imagewidth)
        self.deep = page.bitspersample > 8
        orientation = page.tags.valueof(274, 1)
        self.orientation = orientation if orientation in range(1, 9) else 1

    def check_picture(self) -> None:
        """Refuse complex numbers, and colours that could mean several RGB values."""
        page = self._planes[0]
        bits, numbers = page.bitspersample, None if page.dtype is None else page.dtype.kind
        if not (
            (numbers in ("b", "u") and bits in (1, 2, 4, 8))
            or (numbers in ("u", "i", "f") and bits in (16, 32, 64))
        ):
            raise DataError(
                "a channel of an image must have 1, 2, 4 or 8 bits without sign, or 16, 32 or 64"
                f" bits, and this one has {bits} ({page.dtype}); convert all images in the same way"
            )
        if not (_is_grey(page) or _is_colour(page)):
            kind, samples = _photometric_name(page), page.samplesperpixel
            raise DataError(
                f"an image must be grey, RGB or RGBA, and this one is {kind} with"
                f" {many(samples, 'channel')}; convert it to RGB, all images in the same way"
            )

    def picture(self) -> NDArray[Any]:
        """Decode the pixels to RGB, [H, W, 3]: uint8, or the file's own type of more bits.

        Alpha is dropped; colours that were multiplied by it are divided by it.
        """
        page = self._planes[0]
        planes = [_stored_pixels(plane) for plane in self._planes]
        pixels = np.stack(planes, axis=2) if len(planes) > 1 else planes[0]
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, 2)
        elif pixels.ndim == 2:
            pixels = pixels[:, :, None]
        kind = page.photometric
        if kind == PHOTOMETRIC.PALETTE:
            return np.take(_colours(page), pixels[:, :, 0], axis=0)
        if page.bitspersample < 8:
            pixels = pixels.astype(np.uint8) * np.uint8(255 // (2**page.bitspersample - 1))
        if page.bitspersample <= 8:
            pixels = pixels.astype(np.uint8, copy=False)
        if kind == PHOTOMETRIC.MINISWHITE:
            pixels = np.iinfo(pixels.dtype).max - pixels
        if kind == PHOTOMETRIC.YCBCR and page.compression != JPEG:
            height, width = self.size
            stored = np.ascontiguousarray(pixels).tobytes()
            return np.array(Image.frombytes("YCbCr", (width, height), stored).convert("RGB"))
        colours = 3 if pixels.shape[2] > 2 else 1
        if EXTRA.ASSOCALPHA in page.extrasamples:
            pixels = _straight(pixels[:, :, :colours], pixels[:, :, colours:])
        return np.ascontiguousarray(np.broadcast_to(pixels[:, :, :colours], (*self.size, 3)))

    def check_ids(self) -> None:
        """Refuse JPEG compression, several channels, and dtypes but bool, integer and float."""
        page = self._planes[0]
        if page.compression == JPEG:
            raise DataError(
                "a mask must keep its ids, and JPEG compression changes values at the edges of"
                " cells; export it again without it from its source"
            )
        if (
            page.dtype is None
            or page.dtype.kind not in "buif"
            or page.axes != "YX"
            or len(self._planes) > 1
        ):
            channels = page.samplesperpixel * len(self._planes)
            raise DataError(
                f"a mask must have one channel of whole numbers, and this one has {channels} of"
                f" {page.dtype}; save the ids as grey of 8 or 16 bits"
            )

    def ids(self) -> NDArray[Any]:
        """Decode the values as stored, [H, W]; of a palette the indices, not the colours."""
        return _stored_pixels(self._planes[0])


def _planes(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Choose the page that is the image, or the three pages that the file says are its channels.

    Thumbnails, masks, reduced copies and levels of a pyramid are ignored. Raises DataError for
    several images, depths or times: none of them is taken silently.
    """
    pages = _pages(file)
    # A file whose only page is called a thumbnail is a saved thumbnail.
    marked = [page for page in pages if not (page.is_reduced or page.is_mask)] or pages
    planes = _without_levels(marked)
    for page in planes:
        check_size(page.imagelength, page.imagewidth)
        _check_segments(page)
    named = {
        axis: size for axis, size in _named_axes(file).items() if size > 1 and axis not in "YXS"
    }
    channels, unnamed = named.pop("C", 1), named.pop("Q", 1)
    first = planes[0]
    if named:
        axes = listed(
            [f"{AXES.get(axis, f'axis {axis}')} {size:,}" for axis, size in named.items()]
        )
        raise DataError(
            f"a TIFF must hold one image, and this one says it holds {axes}; make one plane of"
            " them, the one that was annotated or a projection, in the same way for all images"
        )
    if len(planes) == unnamed == 1 and channels in (1, first.samplesperpixel):
        return planes
    is_plain = all(
        page.axes == "YX" and page.photometric == PHOTOMETRIC.MINISBLACK for page in planes
    )
    if (
        channels == len(planes) > 1
        and is_plain
        and len({(page.shape, page.dtype) for page in planes}) == 1
    ):
        if channels == 3:
            return planes
        raise DataError(
            f"an image must have one channel or three, and this one has {channels}; choose which"
            " channels become red, green and blue, in the same way for all images, and save them"
            " as RGB"
        )
    if channels > 1:
        raise DataError(
            f"the file says that it has {channels} channels, and holds"
            f" {many(len(planes), 'image')}; save it again as RGB from its source"
        )
    sizes = listed(
        list(dict.fromkeys(f"{page.imagelength} x {page.imagewidth}" for page in planes))
    )
    count = f"more than {MAX_PAGES}" if len(pages) > MAX_PAGES else str(max(len(planes), unnamed))
    raise DataError(
        f"a TIFF must hold one image, and this one holds {count} ({sizes} pixels) without saying"
        " what they are; if they are red, green and blue, save them as one RGB image, if they are"
        " depths or times, save the one that was annotated or a projection"
    )


def _pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages, from 1 to MAX_PAGES + 1 of them.

    Raises DataError if there is none, or a page has lost one of PIXEL_TAGS.
    """
    pages: list[tifffile.TiffPage] = []
    for index in range(MAX_PAGES + 1):
        try:
            page = file.pages[index]
        except IndexError:
            break
        assert isinstance(page, tifffile.TiffPage), "frames are made only where they are asked for"
        if lost := _lost_tags(file, page):
            raise DataError(
                f"the file is damaged or cut off; copy it again from its source (tag {lost[0]} has"
                " no value)"
            )
        pages.append(page)
    if not pages:
        raise DataError(
            "the file is damaged or cut off; copy it again from its source (it holds no image)"
        )
    return pages


def _without_levels(pages: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """Keep the first page alone if all others are levels of its pyramid.

    A level has both sides of the first page divided by one whole number.
    """

    def is_level(page: tifffile.TiffPage) -> bool:
        """Whether a page is a smaller copy of the first, by its type and size."""
        first = pages[0]
        same = (page.dtype, page.samplesperpixel, page.photometric) == (
            first.dtype,
            first.samplesperpixel,
            first.photometric,
        )
        if not same or min(page.imagelength, page.imagewidth) < 1:
            return False
        factor = round(first.imagelength / page.imagelength)
        sides = ((first.imagelength, page.imagelength), (first.imagewidth, page.imagewidth))
        return factor > 1 and all(
            small in (large // factor, -(-large // factor)) for large, small in sides
        )

    return pages[:1] if all(is_level(page) for page in pages[1:]) else pages


def _named_axes(file: tifffile.TiffFile) -> dict[str, int]:
    """Sizes of the axes that a file names: Z depth, T time, C channels, Q one without a name."""
    page = file.pages.first
    if page.imagedepth > 1:
        return {"Z": page.imagedepth}
    if file.is_ome:
        return _ome_axes(page.description)
    if file.is_imagej:
        found = {
            axis: _claimed_number(file.imagej_metadata, key)
            for axis, key in zip("CZT", IMAGEJ_AXES, strict=True)
        }
        known = math.prod(found.values())
        images = _claimed_number(file.imagej_metadata, "images")
        return {**found, "Q": images} if known == 1 else found
    if METAMORPH_PLANES in page.tags:
        return {"Z": page.tags[METAMORPH_PLANES].count}
    if file.is_shaped:
        return _shaped_axes(page)
    return {}


METAMORPH_PLANES = 33629
"""Tag (UIC2) with one entry per plane; one page holds all planes, one after the other."""
MOST_PLANES = 1_000_000_000
"""Cap on the number of planes that a description claims, so that no message shows a number of many
digits."""
IMAGEJ_AXES = ("channels", "slices", "frames")


def _claimed_number(content: Mapping[str, Any] | None, key: str) -> int:
    """A size in ImageJ's metadata, at most MOST_PLANES; 1 where it is missing or not positive."""
    value = (content or {}).get(key, 1)
    return min(value, MOST_PLANES) if isinstance(value, int) and value > 0 else 1


def _ome_axes(description: str) -> dict[str, int]:
    """Sizes of Z, T and C of the first image of OME-XML; C does not count the samples of a pixel.

    Raises DataError for OME-XML that cannot be read, and for channels in another order than pages.
    """
    try:
        root = ElementTree.fromstring(description)
        pixels = [element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"]
        found = {axis: int(pixels[0].attrib[f"Size{axis}"]) for axis in "ZTC"}
        parts = [(part.tag.rpartition("}")[2], part.attrib) for part in pixels[0]]
        samples = [
            int(known.get("SamplesPerPixel", "1")) for tag, known in parts if tag == "Channel"
        ]
        in_order = all(
            known.get("FirstC", "0") == known.get("IFD", "0")
            for tag, known in parts
            if tag == "TiffData"
        )
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(
            f"its OME-XML cannot be read ({error}); save the image again from its source"
        ) from None
    if samples and samples[0] > 1:
        found["C"] = len(samples)
    if not in_order and found["C"] > 1:
        raise DataError(
            "its OME-XML stores channels in another order than pages; save the image as RGB from"
            " its source"
        )
    return found


def _shaped_axes(page: tifffile.TiffPage) -> dict[str, int]:
    """Sizes of the axes that tifffile's own description names.

    Where it names none, Q has the number of pages that the described shape would fill.
    """
    try:
        content = parse_json(page.description)
        shape, axes = (
            [min(int(size), MOST_PLANES) for size in content["shape"]],
            content.get("axes"),
        )
    except (ValueError, LookupError, TypeError):
        return {}
    if isinstance(axes, str) and len(axes) == len(shape):
        return dict(zip(axes.upper(), shape, strict=True))
    return {"Q": min(MOST_PLANES, math.prod(shape) // max(1, math.prod(page.shape)))}


def _lost_tags(file: tifffile.TiffFile, page: tifffile.TiffPage) -> list[int]:
    """The PIXEL_TAGS that tifffile left out because their values lie beyond the end of the file."""
    layout, handle = file.tiff, file.filehandle
    handle.seek(page.offset)
    (count,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    directory = handle.read(count * layout.tagsize)
    starts = range(0, len(directory), layout.tagsize)
    codes = [struct.unpack_from(f"{layout.byteorder}H", directory, start)[0] for start in starts]
    return [code for code in codes if code in PIXEL_TAGS and code not in page.tags]


def _photometric_name(page: tifffile.TiffPage) -> str:
    """The photometric interpretation of a page, in words for a message."""
    try:
        return tifffile.PHOTOMETRIC(page.photometric).name
    except ValueError:
        return f"of the unknown kind {page.photometric}"


def _is_grey(page: tifffile.TiffPage) -> bool:
    """Whether the page is grey, a palette of up to 8 bits, or grey with alpha."""
    deep = page.bitspersample > 8
    if page.photometric == PHOTOMETRIC.PALETTE:
        return page.axes == "YX" and "ColorMap" in page.tags and not deep
    if page.photometric == PHOTOMETRIC.MINISWHITE and deep:
        return page.axes == "YX" and page.dtype is not None and page.dtype.kind == "u"
    if page.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE):
        return False
    alpha = page.extrasamples in ((EXTRA.ASSOCALPHA,), (EXTRA.UNASSALPHA,))
    return page.axes == "YX" or (page.samplesperpixel == 2 and alpha and page.bitspersample == 8)


def _is_colour(page: tifffile.TiffPage) -> bool:
    """Whether the page has three channels that can be made RGB, and at most one more.

    They have 8 bits, or more; then they are not YCbCr, and not multiplied by alpha.
    """
    if page.bitspersample < 8 or page.axes not in ("YXS", "SYX"):
        return False
    if page.bitspersample > 8:
        return page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.MINISBLACK) and (
            page.samplesperpixel == 3
            or (page.samplesperpixel == 4 and page.extrasamples == (EXTRA.UNASSALPHA,))
        )
    samples, kind = page.samplesperpixel, page.photometric
    if (
        kind == PHOTOMETRIC.YCBCR and page.compression != JPEG
    ):  # tifffile converts that of JPEG to RGB while it decodes
        return samples == 3 and _is_usual_ycbcr(page)
    return (kind in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR) and samples in (3, 4)) or (
        kind == PHOTOMETRIC.MINISBLACK and samples == 3
    )


def _is_usual_ycbcr(page: tifffile.TiffPage) -> bool:
    """Whether YCbCr has full resolution and JPEG's coefficients and range, as Pillow expects."""
    coefficients, ranges = _ratios(page, 529), _ratios(page, 532)
    return (
        page.tags.valueof(530, (2, 2)) == (1, 1)
        and (coefficients is None or np.allclose(coefficients, (0.299, 0.587, 0.114)))
        and (ranges is None or ranges == [0, 255, 128, 255, 128, 255])
    )


def _ratios(page: tifffile.TiffPage, tag: int) -> list[float] | None:
    """The value of a tag that holds fractions; None where the page has no such tag."""
    value = page.tags.valueof(tag)
    if value is None:
        return None
    return [top / max(1, bottom) for top, bottom in zip(value[::2], value[1::2], strict=False)]


def _colours(page: tifffile.TiffPage) -> NDArray[np.uint8]:
    """The palette as RGB, uint8 [colours, 3].

    Its values should have 16 bits; some writers put 8 bits there.
    """
    palette = np.asarray(page.colormap).T
    return (palette if palette.max() < 256 else palette >> 8).astype(np.uint8)


def _straight(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Divide colours by the alpha with which they were multiplied; black where alpha is 0.

    colours   uint8 [H, W, 1 or 3]
    alpha     uint8 [H, W, 1]

    Returns uint8 in the shape of `colours`. Raises DataError for colours brighter than their alpha.
    """
    over = int(np.count_nonzero((colours > alpha.astype(np.int16) + 2).any(axis=2)))
    if over:
        raise DataError(
            f"its colours are said to be multiplied by alpha, and {many(over, 'pixel')} are"
            " brighter than their alpha; save it as RGB from its source"
        )
    wide = np.maximum(alpha, 1).astype(np.uint16)
    divided = np.minimum((colours * np.uint16(255) + wide // 2) // wide, 255)
    return np.where(alpha == 0, 0, divided).astype(np.uint8)


def _check_segments(page: tifffile.TiffPage) -> None:
    """Raise DataError if strips or tiles are missing, or are compressed in a way that is not read.

    tifffile would fill what is missing with zeros.
    """
    known = LOSSLESS | JPEG_2000 | {JPEG}
    if page.compression not in known:
        try:
            name = tifffile.COMPRESSION(page.compression).name
        except ValueError:
            name = f"number {page.compression}"
        raise DataError(
            f"the compression {name} is not read; save the file with LZW, deflate or none"
        )
    if page.is_tiled and math.prod(page.chunks) > 4 * MAX_PIXELS:
        raise DataError(f"the file is damaged: its tiles are {' x '.join(map(str, page.chunks))}")
    end_of_file = page.parent.filehandle.size
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if not page.is_contiguous and len(segments) != math.prod(page.chunked):
        raise DataError(
            f"the file is damaged: it has {len(segments)} of {math.prod(page.chunked)} strips or"
            " tiles"
        )
    for number, (offset, count) in enumerate(segments):
        if offset <= 0 or count <= 0 or offset + count > end_of_file:
            raise DataError(
                "the file is damaged or cut off; copy it again from its source "
                f"(strip {number} ends at byte {offset + count:,}, the file at {end_of_file:,})"
            )


def _stored_pixels(page: tifffile.TiffPage) -> NDArray[Any]:
    """Decode a page's pixels as stored, in the shape of `page.axes`."""
    if page.compression not in LOSSLESS:
        _check_pictures_inside(page)
    pixels: NDArray[Any] = page.asarray(maxworkers=1)
    if pixels.shape != page.shape:
        raise DataError(f"the file is damaged: {pixels.shape} decoded, {page.shape} in its header")
    return pixels


def _check_pictures_inside(page: tifffile.TiffPage) -> None:
    """Raise DataError if a strip or tile holds a larger picture than the file's header says.

    It would be decoded whole.
    """
    chunk = page.chunks[:2] if page.axes != "SYX" else page.chunks[1:3]
    most = max(math.prod(chunk), math.prod((page.imagelength, page.imagewidth)))
    handle = page.parent.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        handle.seek(offset)
        with Image.open(io.BytesIO(handle.read(count)), formats=("JPEG", "JPEG2000")) as inside:
            if inside.height * inside.width > most:
                raise DataError(
                    f"the file is damaged: a strip or tile of at most {most:,} pixels holds "
                    f"{inside.height} x {inside.width}"
                )
