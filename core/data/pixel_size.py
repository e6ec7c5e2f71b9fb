"""The size of an image's pixels in micrometres, as its TIFF file states it.

Microscopes and their programs write it in four ways, which are tried in this order:

    OME-XML           PhysicalSizeX and PhysicalSizeY of the first image, in their units
    ImageJ            the tags of resolution, in pixels per `unit` of the description
    Aperio            MPP in the description, micrometres per pixel
    resolution tags   pixels per centimetre or inch

Image editors write a resolution too, which is meant for printing: 72 or 300 pixels per inch, 353 or
85 micrometres a pixel. So resolution tags alone count only where a pixel is at most `LARGEST`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from core.data.images import IMAGE_SUFFIXES
from core.data.tiffs import TIFF_SIGNATURES
from core.errors import BadRequest
from core.sample import Size
from core.values import as_number

LARGEST = 25.0
"""Micrometres. Resolution tags alone that state a larger pixel are taken for those of printing: a
lens that magnifies once on a camera of 10 micrometres a pixel stays below."""

PLAUSIBLE = (1e-5, 1e5)
"""Micrometres. Least and largest side of a pixel that is believed: a tenth of an atom's width, and
ten centimetres. The resolution tags of a TIFF file cannot hold much smaller sides."""

UNITS = {
    "": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "\\u00B5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "inch": 25_400.0,
}
"""Micrometres in a unit of length, by the names that OME-XML and ImageJ give it. The unit that
OME-XML leaves out is the micrometre. ImageJ writes the sign of micro as an escape."""


@dataclass(frozen=True)
class PixelSize:
    """The width `x` and the height `y` of a pixel in micrometres."""

    x: float
    y: float


def parse_pixel_size(text: str, option: str) -> PixelSize:
    """Parse `0.25`, or `0.25,0.3` for width and height, in micrometres.

    Raises BadRequest, which names the option, for anything else.
    """
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    size = PixelSize(sides[0], sides[-1]) if len(sides) in (1, 2) else None
    if size is None or not _is_plausible(size):
        raise BadRequest(
            f"{option} must be the side of a pixel in micrometres, such as 0.25, or width and"
            f" height, such as 0.25,0.3, each from {as_number(PLAUSIBLE[0])} to"
            f" {as_number(PLAUSIBLE[1])}, and is {text!r}"
        )
    return size


def pixel_size_of(path: Path, size: Size) -> PixelSize | None:
    """The size of a pixel of an image as it is read, from its file; None where it is not known.

    size   height and width of the image as it is read, in pixels; where EXIF turned it by a
           quarter, width and height of its pixels change places

    A file that tifffile cannot read, or whose words on the size make no sense, states none.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES or not _is_tiff(path):
        return None
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage), "frames are made only where asked for"
            found = _stated(page)
            is_turned = (
                page.tags.valueof(274, 1) in (5, 6, 7, 8)
                and (page.imagewidth, page.imagelength) == size
            )
    except Exception:  # noqa: BLE001  # tifffile raises almost anything on damaged tags
        return None
    if found is None or not _is_plausible(found):
        return None
    return PixelSize(found.y, found.x) if is_turned else found


def _is_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) in TIFF_SIGNATURES
    except OSError:
        return False


def _is_plausible(size: PixelSize) -> bool:
    """Whether both sides are in PLAUSIBLE."""
    return all(PLAUSIBLE[0] <= side <= PLAUSIBLE[1] for side in (size.x, size.y))


def _stated(page: tifffile.TiffPage) -> PixelSize | None:
    """The size of a pixel that a page states; None if it states none."""
    description = page.description or ""
    if "<OME" in description[:2000]:
        return _of_ome(description)
    if description.startswith("ImageJ="):
        unit = re.search(r"^unit=(.*)$", description, re.MULTILINE)
        named = UNITS.get(unit[1].strip()) if unit else None
        return None if named is None else _of_resolution(page, named)
    magnified = re.search(r"\bMPP\s*=\s*([0-9.]+)", description)
    if description.startswith("Aperio") and magnified:
        return PixelSize(float(magnified[1]), float(magnified[1]))
    unit_of_tags = {2: UNITS["inch"], 3: UNITS["cm"]}.get(int(page.tags.valueof(296, 2)))
    found = None if unit_of_tags is None else _of_resolution(page, unit_of_tags)
    return None if found is None or max(found.x, found.y) > LARGEST else found


def _of_ome(description: str) -> PixelSize | None:
    for element in ElementTree.fromstring(description).iter():
        if element.tag.rpartition("}")[2] == "Pixels":
            sides = [
                float(element.attrib[f"PhysicalSize{axis}"])
                * UNITS[element.attrib.get(f"PhysicalSize{axis}Unit", "").strip()]
                for axis in "XY"
            ]
            return PixelSize(*sides)
    return None


def _of_resolution(page: tifffile.TiffPage, unit: float) -> PixelSize | None:
    """The size that the tags XResolution and YResolution state, in units of so many micrometres."""
    sides = []
    for tag in (282, 283):
        pixels, units = page.tags.valueof(tag, (0, 1))
        if not pixels or not units:
            return None
        sides.append(unit * units / pixels)
    return PixelSize(*sides)
