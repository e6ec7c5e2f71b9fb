"""Laws of image files: each gives the very pixels that were written, or a sentence that names
why it does not.
"""

import json
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from core.data.images import read_ids, read_rgb, read_size
from core.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
GREY = RGB[:, :, 0]
AS_RGB = np.repeat(GREY[:, :, None], 3, axis=2)
ALPHA = np.random.default_rng(1).integers(0, 256, (20, 30, 1), np.uint8)
IDS = np.zeros((20, 30), np.uint16)
IDS[2:9, 3:8], IDS[11:15, 20:29] = 1, 2
PREMULTIPLIED = np.round(RGB * (ALPHA / 255)).astype(np.uint8)


def refused(path: Path, sentence: str, read: Callable[[Path], Any] = read_rgb) -> None:
    """One sentence that begins with the path, from the header alone as well as from the pixels."""
    for attempt in (read, read_size if read is read_rgb else read):
        with pytest.raises(DataError, match=sentence) as caught:
            attempt(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def reads(path: Path, expected: np.ndarray) -> None:
    image = read_rgb(path)
    assert (image.dtype, image.flags.c_contiguous) == (np.uint8, True)
    np.testing.assert_array_equal(image, expected)
    assert read_size(path) == expected.shape[:2]


def tiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


# Flavours of TIFF


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_tifffile_writes_is_read_to_the_very_pixels(
    data: st.DataObject, tmp_path: Path
) -> None:
    kind = data.draw(st.sampled_from(["grey", "white is 0", "rgb", "rgba", "grey and alpha"]))
    pixels, photometric, extra, expected = {
        "grey": (GREY, "minisblack", None, AS_RGB),
        "white is 0": (255 - GREY, "miniswhite", None, AS_RGB),
        "rgb": (RGB, "rgb", None, RGB),
        "rgba": (np.concatenate([RGB, ALPHA], 2), "rgb", ["unassalpha"], RGB),
        "grey and alpha": (
            np.concatenate([GREY[:, :, None], ALPHA], 2),
            "minisblack",
            ["unassalpha"],
            AS_RGB,
        ),
    }[kind]
    options: dict[str, Any] = {
        "photometric": photometric,
        "extrasamples": extra,
        "byteorder": data.draw(st.sampled_from(["<", ">"])),
        "bigtiff": data.draw(st.booleans()),
        "compression": data.draw(
            st.sampled_from([None, "lzw", "zlib", "packbits", "zstd", "lzma"])
        ),
    }
    if options["compression"] in ("lzw", "zlib", "zstd") and data.draw(st.booleans()):
        options["predictor"] = True
    if data.draw(st.booleans()):
        options["tile"] = data.draw(st.sampled_from([(16, 16), (16, 32)]))
    else:
        options["rowsperstrip"] = data.draw(st.sampled_from([None, 1, 7, 20]))
    if pixels.ndim == 3:
        options["planarconfig"] = data.draw(st.sampled_from(["contig", "separate"]))
        if options["planarconfig"] == "separate":
            pixels = np.moveaxis(pixels, 2, 0)
    options["metadata"] = data.draw(st.sampled_from([None, {}, {"Creator": "a"}]))
    reads(tiff(tmp_path / "a.tif", pixels, **options), expected)


@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits"]
)
@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "RGB", "RGBA", "YCbCr", "CMYK", "LAB", "I;16", "F"]
)
def test_whatever_pillow_writes_as_tiff_is_read_or_refused_by_name(
    tmp_path: Path, mode: str, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    picture = Image.fromarray(IDS) if mode == "I;16" else Image.fromarray(RGB)
    if mode == "LAB":
        picture = Image.frombytes("LAB", (30, 20), RGB.tobytes())
    elif mode == "P":
        picture = picture.quantize(64)
    elif mode != "I;16":
        picture = picture.convert(mode)
    picture.save(path, compression=compression)
    if mode in ("CMYK", "LAB"):
        refused(path, {"CMYK": "SEPARATED with 4", "LAB": "LAB with 3"}[mode] + " channels")
    elif mode in ("I;16", "F"):
        stored = np.asarray(picture)
        image = read_rgb(path)
        assert image.dtype == stored.dtype
        np.testing.assert_array_equal(image, np.repeat(stored[:, :, None], 3, axis=2))
    else:
        with Image.open(path) as again:
            expected = np.asarray(again.convert("RGB"))
        if (
            mode == "YCbCr"
        ):  # libtiff, through which Pillow reads what is compressed, rounds otherwise
            assert np.abs(read_rgb(path).astype(int) - expected).max() <= 1
            expected = read_rgb(path)
        reads(path, expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", ["minisblack", "miniswhite"])
def test_fewer_bits_are_spread_over_all_of_grey(tmp_path: Path, bits: int, kind: str) -> None:
    most = 2**bits - 1
    values = GREY % (most + 1)
    pixels = values.astype(bool) if bits == 1 else values
    tiff(tmp_path / "a.tif", pixels, bitspersample=bits, photometric=kind)
    shown = (most - values if kind == "miniswhite" else values) * (255 // most)
    reads(tmp_path / "a.tif", np.repeat(shown.astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("scale", [1, 256, 257])
def test_a_palette_is_looked_up_whether_its_values_have_8_or_16_bits(
    tmp_path: Path, scale: int
) -> None:
    palette = np.random.default_rng(2).integers(0, 256, (3, 256)).astype(np.uint16)
    tiff(tmp_path / "a.tif", GREY, photometric="palette", colormap=palette * np.uint16(scale))
    reads(tmp_path / "a.tif", np.moveaxis(palette.astype(np.uint8)[:, GREY], 0, 2))


def test_ycbcr_is_turned_into_rgb_as_pillow_does_and_refused_where_its_colours_are_coarser(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tif"
    ycbcr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    expected = np.asarray(Image.fromarray(ycbcr, "YCbCr").convert("RGB"))
    tiff(path, ycbcr, photometric="ycbcr", subsampling=(1, 1), extratags=[])
    reads(path, expected)
    tiff(path, ycbcr, photometric="ycbcr", subsampling=(1, 1), compression="lzw")
    reads(path, expected)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["YCbCrSubSampling"].overwrite((2, 2))
    refused(path, "full resolution|YCBCR with 3 channels")


def test_jpeg_in_a_tiff_is_read_and_a_larger_picture_inside_a_strip_is_refused_before_it_is_decoded(
    tmp_path: Path,
) -> None:
    rows, columns = np.mgrid[:48, :64]
    smooth = np.stack([rows * 4, columns * 3, rows + columns], 2).astype(np.uint8)
    tiff(
        tmp_path / "a.tif",
        smooth,
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 100},
    )
    assert np.abs(read_rgb(tmp_path / "a.tif").astype(int) - smooth).mean() < 4
    Image.fromarray(np.zeros((4000, 4000), np.uint8)).save(tmp_path / "large.jpg")
    strip = (tmp_path / "large.jpg").read_bytes()
    tiff(tmp_path / "a.tif", iter([strip]), shape=(20, 30), dtype=np.uint8, compression=7)
    with pytest.raises(DataError, match=r"a strip or tile of at most 600 pixels holds 4000 x 4000"):
        read_rgb(tmp_path / "a.tif")


def test_a_compression_that_could_unpack_to_anything_is_refused_by_name(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", RGB, photometric="rgb", compression="png")
    refused(
        tmp_path / "a.tif",
        "the compression PNG is not read; save the file with LZW, deflate or none",
    )


# Alpha


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_colours_that_were_multiplied_by_alpha_are_divided_by_it_and_others_are_not(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.tif"
    premultiplied = kind == "assocalpha"
    colours = PREMULTIPLIED if premultiplied else RGB
    tiff(path, np.concatenate([colours, ALPHA], 2), photometric="rgb", extrasamples=[kind])
    image = read_rgb(path)
    if not premultiplied:
        np.testing.assert_array_equal(image, RGB)
        return
    alpha = np.broadcast_to(ALPHA.astype(int), RGB.shape)
    step = 255 / np.maximum(alpha, 1)  # what one level of the stored colour stands for
    off = np.abs(image.astype(int) - RGB)
    assert np.all(off[alpha > 0] <= step[alpha > 0] / 2 + 1)
    assert np.all(image[alpha == 0] == 0)
    np.testing.assert_array_equal(np.round(image * (alpha / 255))[alpha > 0], colours[alpha > 0])


def test_opaque_alpha_changes_no_pixel_and_half_alpha_does_not_halve_the_brightness(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tif"
    opaque = np.full((20, 30, 1), 255, np.uint8)
    tiff(path, np.concatenate([RGB, opaque], 2), photometric="rgb", extrasamples=["assocalpha"])
    reads(path, RGB)
    half = np.concatenate([RGB // 2, np.full((20, 30, 1), 128, np.uint8)], 2)
    tiff(path, half, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(read_rgb(path).astype(int) - RGB).max() <= 2


def test_colours_that_are_brighter_than_the_alpha_they_were_multiplied_by_are_refused(
    tmp_path: Path,
) -> None:
    pixels = np.concatenate([RGB, np.full((20, 30, 1), 9, np.uint8)], 2)
    tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    with pytest.raises(
        DataError,
        match=r"said to be multiplied by alpha, and \d+ pixels are brighter than their alpha",
    ):
        read_rgb(tmp_path / "a.tif")


# Axes and pages


PLANES = np.ascontiguousarray(np.moveaxis(RGB, 2, 0))
WRITERS: dict[str, dict[str, Any]] = {
    "OME": {"ome": True},
    "ImageJ": {"imagej": True},
    "tifffile": {},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_channels_that_the_file_names_are_read_as_red_green_and_blue(
    tmp_path: Path, writer: str
) -> None:
    path = tmp_path / "a.tif"
    options = {"photometric": "minisblack", **WRITERS[writer]}
    tiff(path, PLANES, metadata={"axes": "CYX"}, **options)
    reads(path, RGB)
    tiff(path, PLANES[:1], metadata={"axes": "CYX"}, **options)
    reads(path, AS_RGB)
    tiff(path, PLANES[None], metadata={"axes": "ZCYX"}, **options)
    reads(path, RGB)
    tiff(path, RGB, photometric="rgb", metadata={"axes": "YXS"}, **WRITERS[writer])
    reads(path, RGB)
    for channels in (2, 4):
        tiff(path, np.stack([GREY] * channels), metadata={"axes": "CYX"}, **options)
        refused(
            path,
            f"one channel or three, and this one has {channels}; choose which channels become red",
        )


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(("axes", "named"), [("ZYX", r"depth \(Z\) 3"), ("TYX", r"time \(T\) 3")])
def test_of_depths_and_times_none_is_taken_silently(
    tmp_path: Path, writer: str, axes: str, named: str
) -> None:
    path = tmp_path / "a.tif"
    tiff(path, PLANES, photometric="minisblack", metadata={"axes": axes}, **WRITERS[writer])
    refused(
        path, f"must hold one image, and this one says it holds {named}; make one plane of them"
    )
    refused(path, f"says it holds {named}", lambda path: read_ids(path, (20, 30)))
    tiff(path, PLANES[:1], photometric="minisblack", metadata={"axes": axes}, **WRITERS[writer])
    reads(path, AS_RGB)


def test_a_stack_behind_a_single_page_is_not_taken_for_its_first_plane(tmp_path: Path) -> None:
    """Large ImageJ stacks, tifffile's truncated series and MetaMorph's files have one page, and
    planes after it.
    """
    path = tmp_path / "a.tif"
    tiff(path, PLANES, photometric="minisblack", truncate=True)
    refused(path, "holds 3 .* without saying what they are")
    tiff(path, PLANES, photometric="minisblack", truncate=True, metadata={"axes": "ZYX"})
    refused(path, r"depth \(Z\) 3")
    tiff(
        path, PLANES, imagej=True, photometric="minisblack", truncate=True, metadata={"axes": "ZYX"}
    )
    refused(path, r"depth \(Z\) 3")
    tiff(
        path, PLANES, imagej=True, photometric="minisblack", truncate=True, metadata={"axes": "CYX"}
    )
    refused(path, "the file says that it has 3 channels, and holds 1 image; save it again as RGB")
    tiff(path, PLANES, photometric="minisblack", volumetric=True, tile=(16, 16, 16))
    refused(path, r"depth \(Z\) 3")
    tiff(
        path,
        GREY,
        metadata=None,
        extratags=[(33628, 4, 1, 0, True), (33629, 5, 3, (1, 1) * 3, True)],
    )
    refused(path, r"depth \(Z\) 3")


def test_planes_without_a_name_are_refused_with_advice_that_loses_nothing(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", PLANES, photometric="minisblack")
    refused(
        tmp_path / "a.tif",
        r"holds 3 \(20 x 30 pixels\) without saying what they are; if they are red, green and b",
    )
    tiff(tmp_path / "a.tif", PLANES, photometric="minisblack", metadata=None)
    refused(
        tmp_path / "a.tif",
        "holds 3 .* save them as one RGB image, if they are depths or times, save the one that",
    )


def test_three_channels_that_are_stored_side_by_side_without_a_colour_are_rgb(
    tmp_path: Path,
) -> None:
    for planar, pixels in (("contig", RGB), ("separate", PLANES)):
        tiff(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig=planar)
        reads(tmp_path / "a.tif", RGB)


def test_ome_xml_that_spreads_an_image_over_files_or_is_damaged_opens_no_other_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.ome.tif"
    tiff(path, PLANES, ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    with tifffile.TiffFile(path, mode="r+") as file:
        xml = file.pages.first.description
        file.pages.first.tags["ImageDescription"].overwrite(xml.replace('SizeC="3"', 'SizeC="6"'))
    refused(path, "has 6 channels, and holds 3 images")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageDescription"].overwrite(
            xml.replace("<TiffData", "<TiffDat").replace("Pixels", "P")
        )
    refused(path, "its OME-XML cannot be read")


@pytest.mark.parametrize("kind", [1, 4, 5])
@pytest.mark.parametrize("first", [False, True])
def test_thumbnails_masks_and_reduced_copies_are_passed_over(
    tmp_path: Path, kind: int, first: bool
) -> None:
    path = tmp_path / "a.tif"
    beside = RGB[::4, ::4] if kind == 1 else RGB[:, :, 0] > 99
    pages = [(RGB, {"photometric": "rgb"}), (beside, {"subfiletype": kind})]
    for number, (pixels, options) in enumerate(reversed(pages) if first else pages):
        tifffile.imwrite(path, pixels, metadata=None, append=number > 0, **options)
    reads(path, RGB)


def test_levels_of_a_pyramid_are_passed_over_wherever_they_stand(tmp_path: Path) -> None:
    large = np.random.default_rng(3).integers(0, 256, (101, 66, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "sub.tif") as file:
        file.write(large, subifds=2, photometric="rgb", metadata=None)
        for step in (2, 4):
            file.write(large[::step, ::step], subfiletype=1, photometric="rgb", metadata=None)
    reads(tmp_path / "sub.tif", large)
    with tifffile.TiffWriter(tmp_path / "chain.tif") as file:
        for step in (1, 2, 4):
            file.write(
                np.ascontiguousarray(large[::step, ::step]), photometric="rgb", metadata=None
            )
    reads(tmp_path / "chain.tif", large)
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(large, photometric="rgb", metadata=None)
        file.write(np.ascontiguousarray(large[:70, :40]), photometric="rgb", metadata=None)
    refused(tmp_path / "two.tif", r"holds 2 \(101 x 66 and 70 x 40 pixels\)")


def test_a_million_pages_are_not_counted(tmp_path: Path) -> None:
    tags = [
        (256, 4, 30),
        (257, 4, 20),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (278, 4, 20),
        (279, 4, 600),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags
    )
    content = bytearray(b"II*\0" + struct.pack("<I", 8))
    for _ in range(200_000):
        content += directory + struct.pack("<I", len(content) + len(directory) + 4)
    (tmp_path / "a.tif").write_bytes(content)
    begin = time.perf_counter()
    refused(tmp_path / "a.tif", "holds more than 64 ")
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ('{"shape": [' + "9" * 4000 + ", 20, 30]}", "holds 1000000000 "),
        (
            "ImageJ=1.11a\nimages=99999999999\nslices=99999999999\n",
            r"says it holds depth \(Z\) 1,000,000,000",
        ),
        (
            (
                "<OME><I><Pixels SizeZ='1' SizeT='1' SizeC='1'><TiffData"
                " PlaneCount='99999999'/></Pixels></I></OME>"
            ),
            "",
        ),
        ('{"shape": ' + "[" * 100_000, ""),
        (
            '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
            + "".join(
                f'<!ENTITY {chr(98 + i)} "{("&" + chr(97 + i) + ";") * 10}">' for i in range(9)
            )
            + "]><OME>&j;</OME>",
            "its OME-XML cannot be read",
        ),
    ],
    ids=["shape", "ImageJ", "planes of OME", "brackets", "entities of OME"],
)
def test_what_a_description_claims_takes_no_memory_and_no_time(
    tmp_path: Path, description: str, told: str
) -> None:
    tiff(tmp_path / "a.tif", GREY, description=description, metadata=None)
    begin = time.perf_counter()
    if told:
        refused(tmp_path / "a.tif", told)
    else:
        reads(tmp_path / "a.tif", AS_RGB)
    assert time.perf_counter() - begin < 5


# Turned pictures


def turned_by_exif(path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, extratags=[(274, 3, 1, orientation, True)])
    else:
        Image.fromarray(pixels).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_picture_is_turned_as_its_exif_says(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    turned_by_exif(path, RGB, orientation)
    turned_by_exif(
        tmp_path / "oracle.png",
        RGB if suffix != ".jpg" else np.asarray(Image.open(path)),
        orientation,
    )
    with Image.open(tmp_path / "oracle.png") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    reads(path, expected)
    stored = read_rgb(path, (20, 30))
    assert stored.shape == (
        20,
        30,
        3,
    ), "the listed size decides where only the stored pixels have it"
    assert read_size(path, (20, 30)) == (20, 30)
    assert read_size(path, (7, 7)) == expected.shape[:2]


def test_a_mask_is_turned_like_its_image(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        tifffile.imwrite(tmp_path / "a.tif", IDS, extratags=[(274, 3, 1, orientation, True)])
        turned_by_exif(
            tmp_path / "b.png", np.repeat(IDS.astype(np.uint8)[:, :, None], 3, 2), orientation
        )
        expected = read_rgb(tmp_path / "b.png")[:, :, 0]
        np.testing.assert_array_equal(read_ids(tmp_path / "a.tif", expected.shape), expected)


def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(tmp_path: Path) -> None:
    for orientation in (0, 9, 255):
        for name in ("a.png", "a.tif"):
            turned_by_exif(tmp_path / name, RGB, orientation)
            reads(tmp_path / name, RGB)
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0 rubbish")
    reads(tmp_path / "a.png", RGB)


# PNG, JPEG, BMP


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_whatever_pillow_writes_as_png_or_bmp_is_read(
    tmp_path: Path, mode: str, suffix: str
) -> None:
    picture = Image.fromarray(np.concatenate([RGB, ALPHA], 2)).convert(
        "RGB" if mode == "P" else mode
    )
    picture = picture.quantize(50) if mode == "P" else picture
    if (mode, suffix) == ("LA", ".bmp"):
        pytest.skip("BMP has no grey with alpha")
    path = tmp_path / f"a{suffix}"
    picture.save(path)
    expected = np.asarray(picture)[:, :, 0] if mode == "LA" else np.asarray(picture.convert("RGB"))
    reads(path, np.repeat(expected[:, :, None], 3, axis=2) if expected.ndim == 2 else expected)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("bits", [2, 4])
def test_png_of_few_bits_is_spread_over_all_of_grey(tmp_path: Path, bits: int) -> None:
    values = np.arange(16, dtype=np.uint8).reshape(2, 8) % 2**bits
    rows = b"".join(
        b"\0" + int("".join(f"{value:0{bits}b}" for value in row), 2).to_bytes(bits, "big")
        for row in values.tolist()
    )
    head = struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(content)
    reads(tmp_path / "a.png", np.repeat((values * (255 // (2**bits - 1)))[:, :, None], 3, axis=2))


def test_cmyk_and_animations_are_refused_from_the_header(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
    refused(
        tmp_path / "a.jpg", "must be grey, RGB or RGBA, and this one is CMYK; convert it to RGB"
    )
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    refused(tmp_path / "a.png", "this one is an animation of 2; save the frame that was annotated")


def test_a_palette_some_of_whose_colours_are_transparent_is_looked_up_without_a_warning(
    tmp_path: Path,
) -> None:
    picture = Image.fromarray(RGB).quantize(64)
    picture.save(tmp_path / "a.png", transparency=bytes(range(0, 256, 4)))
    reads(tmp_path / "a.png", np.asarray(picture.convert("RGB")))


def test_a_large_colour_profile_is_refused_as_what_it_is(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=bytes(50_000_000))
    refused(
        tmp_path / "a.png",
        "text or a colour profile in the file unpacks to megabytes; save the picture without it",
    )


# Masks


def test_masks_are_read_from_tiff_png_and_bmp_with_the_values_that_are_stored(
    tmp_path: Path,
) -> None:
    small = IDS.astype(np.uint8)
    paletted = Image.fromarray(small).convert("P")
    paletted.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    pictures = {
        "grey.png": Image.fromarray(small),
        "grey16.png": Image.fromarray(IDS * 300),
        "palette.png": paletted,
        "palette.bmp": paletted,
        "grey.bmp": Image.fromarray(small),
        "bits.png": Image.fromarray(IDS == 1),
        "palette.tif": paletted,
        "bits.tif": Image.fromarray(IDS == 1),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        expected = {"grey16.png": IDS * 300, "bits.png": IDS == 1, "bits.tif": IDS == 1}.get(
            name, small
        )
        np.testing.assert_array_equal(read_ids(tmp_path / name, (20, 30)), expected, err_msg=name)


@pytest.mark.parametrize(
    ("name", "picture", "sentence"),
    [
        (
            "a.jpg",
            Image.fromarray(GREY),
            "must keep its ids, and JPEG changes values at the edges of cells; export it a",
        ),
        (
            "a.png",
            Image.fromarray(RGB),
            "must have one channel of whole numbers, and this one is RGB",
        ),
        (
            "a.png",
            Image.fromarray(RGB).convert("LA"),
            "must have one channel of whole numbers, and this one is LA",
        ),
        (
            "a.png",
            Image.fromarray(GREY[:9]),
            r"must have the size of its image, 20 x 30 .*, and has 9 x 30",
        ),
        (
            "a.tif",
            Image.fromarray(RGB),
            (
                "must have one channel of whole numbers, and this one has 3 of uint8; save the ids"
                " as grey"
            ),
        ),
    ],
)
def test_a_mask_that_is_lossy_coloured_or_of_another_size_is_refused_by_name(
    tmp_path: Path, name: str, picture: Image.Image, sentence: str
) -> None:
    picture.save(tmp_path / name)
    refused(tmp_path / name, sentence, lambda path: read_ids(path, (20, 30)))


def test_a_mask_that_is_a_jpeg_inside_a_tiff_is_refused(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", GREY, compression="jpeg")
    refused(
        tmp_path / "a.tif", "JPEG compression changes values", lambda path: read_ids(path, (20, 30))
    )


def test_every_refusal_is_a_way_out_that_loses_no_channel(tmp_path: Path) -> None:
    """No message about several planes says to save one of them without asking what they are."""
    for axes in ("CYX", "ZYX", None):
        metadata = None if axes is None else {"axes": axes}
        planes = np.stack([GREY] * 4)
        tiff(tmp_path / "a.tif", planes, photometric="minisblack", metadata=metadata)
        with pytest.raises(DataError) as caught:
            read_rgb(tmp_path / "a.tif")
        assert not re.search("save one page", str(caught.value))
        assert json.dumps(str(caught.value))
