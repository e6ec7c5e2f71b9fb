"""Laws of the size of a pixel, with files that tifffile writes as the programs of the field do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from core.data.pixel_size import PixelSize, parse_pixel_size, pixel_size_of
from core.errors import BadRequest

PIXELS = np.zeros((30, 40, 3), np.uint8)
OME = {"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}}
APERIO = "Aperio Image Library v1\r\n40x30 |AppMag = 40|MPP = 0.2520|Left = 1"


def of_ome(unit: str, size: float) -> dict[str, Any]:
    named = {f"PhysicalSize{axis}": size for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    return {"ome": True, "metadata": {"axes": "YXS", **named, **units}}


def of_imagej(unit: str, pixels: float) -> dict[str, Any]:
    return {"imagej": True, "resolution": (pixels, pixels), "metadata": {"unit": unit}}


def per(unit: str, x: float, y: float | None = None, **more: Any) -> dict[str, Any]:
    return {"resolution": (x, x if y is None else y), "resolutionunit": unit, **more}


@pytest.mark.parametrize(
    ("written", "x", "y"),
    [
        (OME, 0.25, 0.5),
        (of_ome("nm", 250), 0.25, 0.25),
        (of_ome("mm", 0.00025), 0.25, 0.25),
        (of_imagej("um", 4), 0.25, 0.25),
        (of_imagej("micron", 4), 0.25, 0.25),
        (of_imagej("\\u00B5m", 4), 0.25, 0.25),
        (of_imagej("cm", 40_000), 0.25, 0.25),
        ({"description": APERIO, "metadata": None}, 0.252, 0.252),
        (per("CENTIMETER", 40_000, 20_000), 0.25, 0.5),
        (per("INCH", 101_600), 0.25, 0.25),
        (per("CENTIMETER", 400), 25, 25),
    ],
)
def test_the_size_is_read_as_each_program_writes_it(
    tmp_path: Path, written: dict[str, Any], x: float, y: float
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, **written)
    found = pixel_size_of(path, (30, 40))
    assert found is not None
    assert (found.x, found.y) == pytest.approx((x, y), rel=1e-6)


@pytest.mark.parametrize(
    "written",
    [
        {},
        per("INCH", 72),
        per("INCH", 300),
        per("NONE", 40_000),
        of_imagej("pixel", 4),
        of_imagej("inch of rain", 4),
        of_ome("pixel", 1),
        of_ome("µm", 0),
        of_ome("µm", 1e-30),
        {"ome": True, "metadata": {"axes": "YXS"}},
        {"description": "<OME this is no XML", "metadata": None},
    ],
)
def test_a_resolution_for_printing_or_without_sense_is_no_size(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, **written)
    assert pixel_size_of(path, (30, 40)) is None


def test_pixels_of_a_turned_image_are_turned_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    turned = per("CENTIMETER", 40_000, 20_000, extratags=[(274, "H", 1, 6, True)])
    tifffile.imwrite(path, PIXELS, **turned)
    assert pixel_size_of(path, (40, 30)) == PixelSize(pytest.approx(0.5), pytest.approx(0.25))
    assert pixel_size_of(path, (30, 40)) == PixelSize(pytest.approx(0.25), pytest.approx(0.5))


def test_a_file_that_is_no_tiff_or_is_damaged_states_none(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", dpi=(101_600, 101_600))
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08\0")
    for name in ("a.png", "cut.tif", "absent.tif"):
        assert pixel_size_of(tmp_path / name, (30, 40)) is None


@pytest.mark.parametrize(("text", "size"), [("0.25", (0.25, 0.25)), ("0.25,0.3", (0.25, 0.3))])
def test_an_option_gives_one_side_or_two(text: str, size: tuple[float, float]) -> None:
    assert parse_pixel_size(text, "--pixel-size") == PixelSize(*size)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "nan", "inf", "0.25um", "1,2,3", "1,", "1e-300", "1e9"]
)
def test_another_option_is_one_sentence(text: str) -> None:
    with pytest.raises(BadRequest, match="--pixel-size must be the side of a pixel in micro"):
        parse_pixel_size(text, "--pixel-size")
