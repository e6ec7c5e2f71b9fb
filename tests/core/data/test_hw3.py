"""Laws of the HW3 reader, on real files."""

import contextlib
import json
import re
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from core.config import DataConfig
from core.data import inspect_data, load_data
from core.data.images import MAX_PIXELS, read_rgb, read_size
from core.data.synthetic import make_cells, write_hw3
from core.errors import DataError
from core.sample import Sample

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def write_image(
    folder: Path,
    name: str = "a",
    image: np.ndarray = RGB,
    masks: dict[int, np.ndarray] | None = None,
) -> Path:
    place = folder / "train" / name
    place.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(place / "image.tif", image)
    for number, mask in (masks or {}).items():
        tifffile.imwrite(place / f"class{number}.tif", mask)
    return place


def pixels_of(sample: Sample, number: int) -> np.ndarray:
    return np.any(sample.label_maps == number, axis=0)


def fingerprint_or_sentence(folder: Path) -> str:
    try:
        return load_data(str(folder)).fingerprint
    except DataError as error:
        return str(error)


def mask_with(value: float, dtype: str = "float64") -> np.ndarray:
    mask = np.zeros(RGB.shape[:2], dtype)
    mask[2:5, 3:7] = 1
    mask[12, 13] = value
    return mask


def test_a_data_set_written_as_hw3_and_read_again_is_the_same(tmp_path: Path) -> None:
    written = make_cells(images=5, side=64, seed=3)
    write_hw3(written, tmp_path / "cells", test=make_cells(images=2, side=48, seed=4).samples)
    read = load_data(str(tmp_path / "cells"))
    assert read.fingerprint == written.fingerprint
    assert read.name == "cells"
    assert [(image.id, image.file_name) for image in read.test_images] == [
        (1, "slide01_field1.tif"),
        (2, "slide01_field2.tif"),
    ]
    for image, sample in zip(
        read.test_images, make_cells(images=2, side=48, seed=4).samples, strict=True
    ):
        assert (image.height, image.width) == sample.size
        np.testing.assert_array_equal(read_rgb(Path(image.path)), sample.image)


def test_the_fingerprint_does_not_depend_on_the_folder_or_on_naming_the_train_folder_itself(
    tmp_path: Path,
) -> None:
    data = make_cells(images=2, side=48)
    write_hw3(data, tmp_path / "one")
    write_hw3(data, tmp_path / "deeper" / "two")
    prints = {
        load_data(str(tmp_path / place)).fingerprint for place in ("one", "one/train", "deeper/two")
    }
    assert prints == {data.fingerprint}


def test_the_test_folder_is_no_training_image_and_a_training_image_may_be_called_test(
    tmp_path: Path,
) -> None:
    write_image(tmp_path, "test")
    write_image(tmp_path, "a")
    assert [sample.name for sample in load_data(str(tmp_path)).samples] == ["a", "test"]
    assert [sample.name for sample in load_data(str(tmp_path / "train")).samples] == ["a"]


def test_rgba_rgb_and_grey_images_become_rgb(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    alpha = np.full((20, 30, 1), 7, np.uint8)
    tifffile.imwrite(
        path, np.concatenate([RGB, alpha], 2), photometric="rgb", extrasamples=["unassalpha"]
    )
    np.testing.assert_array_equal(read_rgb(path), RGB)
    tifffile.imwrite(
        path, RGB, photometric="rgb", compression="lzw", predictor=True, rowsperstrip=3
    )
    np.testing.assert_array_equal(read_rgb(path), RGB)
    tifffile.imwrite(path, np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_rgb(path), RGB)
    tifffile.imwrite(path, RGB[:, :, 0])
    np.testing.assert_array_equal(read_rgb(path), np.repeat(RGB[:, :, :1], 3, 2))
    tifffile.imwrite(path, 255 - RGB[:, :, 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_rgb(path), np.repeat(RGB[:, :, :1], 3, 2))
    Image.fromarray(RGB).save(path, compression="tiff_lzw")
    np.testing.assert_array_equal(read_rgb(path), RGB)
    assert read_size(path) == (20, 30)


@pytest.mark.parametrize(
    ("image", "options", "named"),
    [
        (RGB[:, :, 0].astype(np.complex64), {}, "a channel of an image must have 1, 2, 4 or 8"),
        (RGB[:, :, 0].astype(np.int8), {}, "bits, and this one has 8 (int8)"),
        (
            np.dstack([RGB, RGB[:, :, 0]]),
            {"photometric": "separated"},
            "this one is SEPARATED with 4",
        ),
        (np.stack([RGB, RGB]), {"photometric": "rgb"}, "must hold one image, and this one holds 2"),
    ],
)
def test_other_kinds_of_image_are_refused_by_name(
    tmp_path: Path, image: np.ndarray, options: dict[str, object], named: str
) -> None:
    place = write_image(tmp_path)
    tifffile.imwrite(place / "image.tif", image, **options)
    with pytest.raises(
        DataError, match=f"^{re.escape(str(place / 'image.tif'))}: .*{re.escape(named)}"
    ):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-1.0, "-1.0"), (2.5, "2.5"), (np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")],
)
def test_ids_that_are_no_whole_numbers_are_refused_with_value_and_place(
    tmp_path: Path, value: float, shown: str
) -> None:
    place = write_image(tmp_path, masks={2: mask_with(value)})
    told = (
        f"{place / 'class2.tif'}: instance ids must be whole numbers from 0 up, and the pixel in"
        " row 12, column 13 "
    )
    with pytest.raises(
        DataError,
        match=re.escape(told)
        + r"\(counted from 0\) holds "
        + re.escape(shown)
        + ".*; export the ids again",
    ):
        load_data(str(tmp_path))


def test_a_negative_whole_number_is_refused_in_an_integer_mask(tmp_path: Path) -> None:
    write_image(tmp_path, masks={1: mask_with(-7, "int32")})
    with pytest.raises(DataError, match="holds -7"):
        load_data(str(tmp_path))


@given(
    ids=hnp.arrays(
        st.sampled_from(
            [np.uint8, np.int16, np.uint16, np.int32, np.float16, np.float32, np.float64]
        ),
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.sampled_from([0, 0, 1, 2, 5, 9, 120]),
    )
)
@settings(max_examples=40, deadline=None)
def test_every_id_of_any_data_type_becomes_one_instance_in_ascending_order(ids: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = np.zeros((*ids.shape, 3), np.uint8)
        write_image(Path(folder), image=image, masks={3: ids})
        sample = load_data(folder, DataConfig(allow_suspicious=True)).samples[
            0
        ]  # noise looks like no cells
    known = np.unique(ids[ids != 0])
    assert sample.labels_N.tolist() == [3] * len(known)
    assert sample.label_maps.shape == (1, *ids.shape)
    for number, value in enumerate(known, start=1):
        np.testing.assert_array_equal(pixels_of(sample, number), ids == value)


@given(
    masks=hnp.arrays(
        np.float64, (3, 9, 11), elements=st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 161.0])
    ),
)
@settings(max_examples=40, deadline=None)
def test_the_same_id_in_two_class_files_is_two_instances_and_none_is_lost_where_they_overlap(
    masks: np.ndarray,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_image(
            Path(folder),
            image=np.zeros((9, 11, 3), np.uint8),
            masks=dict(zip((1, 2, 4), masks, strict=True)),
        )
        sample = load_data(folder, DataConfig(allow_suspicious=True)).samples[
            0
        ]  # noise looks like no cells
    expected = [
        (number, ids == value)
        for number, ids in zip((1, 2, 4), masks, strict=True)
        for value in np.unique(ids[ids > 0])
    ]
    assert sample.labels_N.tolist() == [number for number, _ in expected]
    assert set(np.unique(sample.label_maps)) - {0} == set(range(1, len(expected) + 1))
    for number, (_, pixels) in enumerate(expected, start=1):
        maps = np.flatnonzero(np.any(sample.label_maps == number, axis=(1, 2)))
        assert len(maps) == 1
        np.testing.assert_array_equal(sample.label_maps[maps[0]] == number, pixels)
    overlap = np.count_nonzero(masks, axis=0).max(initial=0)
    assert max(1, overlap) <= len(sample.label_maps) <= 3


def test_class_maps_share_a_label_map_where_they_do_not_overlap(tmp_path: Path) -> None:
    left, right, both = np.zeros((3, 20, 30))
    left[:, :10], right[:, 20:], both[5:8] = 1, 1, 4
    write_image(tmp_path, masks={1: left, 2: both, 3: right})
    sample = load_data(str(tmp_path)).samples[0]
    assert [sorted(set(np.unique(label_map)) - {0}) for label_map in sample.label_maps] == [
        [1, 3],
        [2],
    ]


def test_an_image_without_masks_is_a_true_negative(tmp_path: Path) -> None:
    write_image(tmp_path)
    write_image(tmp_path, "b", masks={1: np.zeros((20, 30))})
    data = load_data(str(tmp_path))
    assert [(len(sample.labels_N), sample.label_maps.shape) for sample in data.samples] == [
        (0, (1, 20, 30))
    ] * 2
    assert [category.name for category in data.classes] == ["class1", "class2", "class3", "class4"]


def test_instances_of_one_pixel_and_of_one_row_are_kept(tmp_path: Path) -> None:
    mask = np.zeros((20, 30))
    mask[3, 4], mask[7, 2:9] = 5, 8
    write_image(tmp_path, masks={1: mask})
    sample = load_data(str(tmp_path)).samples[0]
    assert [np.count_nonzero(pixels_of(sample, number)) for number in (1, 2)] == [1, 7]


def test_classes_above_four_are_added_and_keep_their_number(tmp_path: Path) -> None:
    write_image(tmp_path, masks={7: mask_with(1)})
    data = load_data(str(tmp_path))
    assert [(category.id, category.name) for category in data.classes][3:] == [
        (4, "class4"),
        (7, "class7"),
    ]
    assert data.samples[0].labels_N.tolist() == [5]


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.zeros((20, 31)), "the size of its image, 20 x 30 (height x width), and has 20 x 31"),
        (
            np.zeros((20, 30, 3), np.uint8),
            "one channel of whole numbers, and this one has 3 of uint8",
        ),
        (np.zeros((20, 30), np.complex64), "one channel of whole numbers"),
        (np.arange(256 * 258).reshape(256, 258).astype(np.float64), "the size of its image"),
    ],
)
def test_a_mask_that_does_not_fit_its_image_is_refused(
    tmp_path: Path, mask: np.ndarray, told: str
) -> None:
    write_image(tmp_path, masks={1: mask})
    with pytest.raises(DataError, match=re.escape(told)):
        load_data(str(tmp_path))


def test_more_instances_than_a_label_map_can_count_are_refused(tmp_path: Path) -> None:
    mask = np.arange(256 * 258).reshape(256, 258).astype(np.float64)
    place = write_image(tmp_path, image=np.zeros((256, 258, 3), np.uint8), masks={1: mask})
    with pytest.raises(
        DataError, match=f"{re.escape(str(place))}/class1.tif: an image can hold 65,535 instances"
    ):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["class0.tif", "class01.tif", "class 1.tif", "class1.gif", "class_1.tif"]
)
def test_a_mask_under_a_wrong_name_is_not_overlooked(tmp_path: Path, name: str) -> None:
    place = write_image(tmp_path)
    tifffile.imwrite(place / name, mask_with(1))
    with pytest.raises(DataError, match=re.escape(name)):
        load_data(str(tmp_path))


def test_a_mask_in_another_format_is_read_and_never_lost(tmp_path: Path) -> None:
    """One class as TIFF and another as PNG or BMP: once 34 cells were lost and the data set was
    called usable.
    """
    ids = mask_with(2, "uint8")
    for suffix in ("tif", "tiff", "png", "bmp", "PNG"):
        place = write_image(tmp_path / suffix, masks={1: mask_with(5)})
        if suffix.startswith("tif"):
            tifffile.imwrite(place / f"class2.{suffix}", ids)
        else:
            Image.fromarray(ids).save(place / f"class2.{suffix}")
        sample = load_data(str(tmp_path / suffix)).samples[0]
        assert sample.labels_N.tolist() == [1, 1, 2, 2]
        np.testing.assert_array_equal(pixels_of(sample, 4), ids == 2)


@pytest.mark.parametrize("name", ["image.tiff", "image.png", "image.bmp", "Image.TIF", "image.jpg"])
def test_the_image_may_have_any_format_that_is_read(tmp_path: Path, name: str) -> None:
    place = write_image(tmp_path, masks={1: mask_with(2)})
    (place / "image.tif").unlink()
    if name.lower().endswith(("tif", "tiff")):
        tifffile.imwrite(place / name, RGB)
    else:
        Image.fromarray(RGB).save(place / name)
    (sample,) = load_data(str(tmp_path)).samples
    np.testing.assert_array_equal(sample.image, read_rgb(place / name))
    assert len(sample.labels_N) == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "class1.png",
            (
                "must hold one image and one mask per class, and holds image.tif, class1.png and"
                " class1.tif; rem"
            ),
        ),
        (
            "image.png",
            (
                "must hold one image and one mask per class, and holds image.png, image.tif and"
                " class1.tif; remove"
            ),
        ),
        ("class2.jpg", "a mask must keep its ids, and JPEG changes values at the edges of cells"),
        ("class2.gif", "the file is not read: masks must be named class1.tif, class2.tif, ..."),
        ("class2.npy", "the file is not read: masks must be named"),
        ("a_class2.png", "the file is not read: masks must be named"),
        ("mask.mat", "the file is not read: masks must be named"),
        (
            "masks/1.png",
            (
                "pictures in a folder inside an image's folder are not read; make one mask per class"
                " of them"
            ),
        ),
    ],
)
def test_a_file_that_may_be_a_mask_and_is_not_read_is_an_error(
    tmp_path: Path, name: str, told: str
) -> None:
    place = write_image(tmp_path, masks={1: mask_with(2)})
    (place / name).parent.mkdir(exist_ok=True)
    Image.fromarray(RGB[:, :, 0]).save(
        place / name, format="JPEG" if name.endswith("jpg") else "PNG"
    )
    with pytest.raises(DataError, match=re.escape(told)):
        load_data(str(tmp_path))


def test_one_name_that_is_not_read_in_many_folders_is_one_sentence(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        place = write_image(tmp_path, name, masks={1: mask_with(2)})
        (place / f"{name}_preview.png").write_bytes(b"x")
    (problem,) = inspect_data(str(tmp_path)).problems
    assert problem.place.endswith("a_preview.png")
    assert problem.message.endswith("(2 more folders with one like it)")


def test_what_systems_leave_is_passed_over_and_every_other_file_is_noted(tmp_path: Path) -> None:
    place = write_image(tmp_path, masks={1: mask_with(2)})
    for name in (".DS_Store", "Thumbs.db", "._class2.tif", "desktop.ini", "README", "notes.txt"):
        (place / name).write_bytes(b"x")
    (place / "__pycache__").mkdir()
    assert load_data(str(tmp_path)).notes == ()
    (place / "outline.xml").write_bytes(b"x")
    Image.fromarray(RGB).save(tmp_path / "train" / "loose.png")
    assert load_data(str(tmp_path)).notes == (
        (
            f"1 picture directly in {tmp_path / 'train'} not read, since each image has a folder of"
            " its own: loose.png"
        ),
        "1 file beside images, neither image nor mask, not read: a/outline.xml",
    )


def test_images_in_a_folder_beside_train_are_noted(tmp_path: Path) -> None:
    write_hw3(make_cells(images=3, side=64), tmp_path)
    assert load_data(str(tmp_path)).notes == ()
    write_hw3(make_cells(images=2, side=64), tmp_path / "more")
    (tmp_path / "more" / "train").rename(tmp_path / "val")
    (tmp_path / "weights" / "old").mkdir(parents=True)
    data = load_data(str(tmp_path))
    assert len(data.samples) == 3
    (note,) = data.notes
    assert note.startswith(
        f"2 images in {tmp_path / 'val'} not read: the split takes validation images out of"
    )


def test_an_image_with_a_damaged_mask_is_skipped_whole_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    write_image(tmp_path, "a", masks={1: mask_with(2), 2: mask_with(0.5)})
    write_image(tmp_path, "b", masks={1: mask_with(2)})
    data = load_data(str(tmp_path), DataConfig(skip_bad=True))
    assert [sample.name for sample in data.samples] == ["b"]
    assert data.notes[0].startswith("data.skip_bad: 1 skipped; ")


def test_an_image_that_is_turned_by_its_exif_stays_as_stored_where_its_masks_were_drawn_on_that(
    tmp_path: Path,
) -> None:
    place = write_image(tmp_path, masks={1: mask_with(2)})
    tifffile.imwrite(place / "image.tif", RGB, extratags=[(274, 3, 1, 6, True)])
    np.testing.assert_array_equal(load_data(str(tmp_path)).samples[0].image, RGB)
    tifffile.imwrite(place / "class1.tif", np.rot90(mask_with(2), -1))
    np.testing.assert_array_equal(load_data(str(tmp_path)).samples[0].image, np.rot90(RGB, -1))


@pytest.mark.parametrize("side", [20, 30])
def test_a_square_image_that_exif_turns_is_noted_for_its_masks_may_be_drawn_on_either(
    tmp_path: Path, side: int
) -> None:
    place = write_image(tmp_path, image=RGB[:, :side], masks={1: mask_with(2)[:, :side]})
    Image.fromarray(RGB[:, :side]).save(place / "image.tif", tiffinfo={274: 8})
    notes = load_data(str(tmp_path)).notes
    assert any("turned as EXIF says, and no size tells" in note for note in notes) == (side == 20)


@pytest.mark.parametrize("file_name", ["x.tif", "test\\x.tif", ".\\x.tif", "test/x.tif"])
@pytest.mark.parametrize("unknown", [None, 0, "gone"])
def test_back_slashes_ids_as_text_and_sizes_that_are_missing_are_understood(
    tmp_path: Path, file_name: str, unknown: object
) -> None:
    write_image(tmp_path)
    (tmp_path / "test").mkdir()
    tifffile.imwrite(tmp_path / "test" / "x.tif", RGB)
    entry = {"file_name": file_name, "id": "7"} | (
        {} if unknown == "gone" else {"height": unknown, "width": unknown}
    )
    (tmp_path / "test_image_name_to_ids.json").write_text(json.dumps([entry]))
    (image,) = load_data(str(tmp_path)).test_images
    assert (image.id, image.file_name, image.height, image.width) == (7, file_name, 20, 30)
    assert Path(image.path).resolve() == (tmp_path / "test" / "x.tif").resolve()


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (RGB.astype(np.uint16), "more than 8 bits a channel, and the annotated images have 8"),
        (np.stack([RGB, RGB, RGB]), "a TIFF must hold one image, and this one holds 3"),
    ],
)
def test_a_test_image_that_prediction_would_refuse_is_refused_where_it_is_listed(
    tmp_path: Path, pixels: np.ndarray, told: str
) -> None:
    write_image(tmp_path)
    (tmp_path / "test").mkdir()
    tifffile.imwrite(tmp_path / "test" / "x.tif", pixels, photometric="rgb")
    (tmp_path / "test_image_name_to_ids.json").write_text('[{"file_name": "x.tif", "id": 1}]')
    with pytest.raises(DataError, match=told):
        load_data(str(tmp_path))


WAYS_TO_WRITE = [
    {},
    {"rowsperstrip": 4},
    {"compression": "lzw", "predictor": True, "rowsperstrip": 5},
    {"compression": "zlib"},
    {"compression": "zlib", "tile": (16, 16)},
    {"compression": "packbits"},
]


@pytest.mark.parametrize("options", WAYS_TO_WRITE, ids=str)
@pytest.mark.parametrize("which", ["image.tif", "class1.tif"])
def test_a_truncated_tiff_is_refused_wherever_it_is_cut(
    tmp_path: Path, options: dict[str, object], which: str
) -> None:
    if which == "class1.tif":
        options = {**options, "predictor": False}
    place = write_image(tmp_path, masks={1: mask_with(2)})
    tifffile.imwrite(place / which, RGB if which == "image.tif" else mask_with(2), **options)
    whole = (place / which).read_bytes()
    good = load_data(str(tmp_path)).fingerprint
    for length in {
        *range(0, len(whole), max(1, len(whole) // 60)),
        *range(len(whole) - 12, len(whole)),
    }:
        (place / which).write_bytes(whole[:length])
        read = fingerprint_or_sentence(tmp_path)
        # Only bytes that hold no pixels, such as padding at the end, may be missing.
        assert read == good or read.startswith(f"{place / which}: "), (
            f"{length} of {len(whole)} bytes: {read}"
        )


def test_a_truncated_tiff_whose_directory_comes_last_is_refused(tmp_path: Path) -> None:
    place = write_image(tmp_path)
    Image.fromarray(RGB).save(place / "image.tif", compression="tiff_lzw")
    whole = (place / "image.tif").read_bytes()
    for length in (*range(0, len(whole), 20), *range(len(whole) - 140, len(whole))):
        (place / "image.tif").write_bytes(whole[:length])
        with pytest.raises(
            DataError, match=r"image\.tif: the file is (damaged|empty)|image\.tif: an image must be"
        ):
            load_data(str(tmp_path))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_flipped_bytes_end_in_pixels_or_in_one_sentence_never_in_another_error(
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.tif"
        options = data.draw(st.sampled_from(WAYS_TO_WRITE))
        tifffile.imwrite(path, RGB, **options)
        content = bytearray(path.read_bytes())
        for position in data.draw(
            st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)
        ):
            content[position] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            image = read_rgb(path)
            assert image.dtype == np.uint8
            assert image.ndim == 3


def test_an_image_over_the_size_limit_is_refused_by_its_header(tmp_path: Path) -> None:
    place = write_image(tmp_path)
    with tifffile.TiffFile(place / "image.tif", mode="r+") as tiff:
        tiff.pages.first.tags["ImageLength"].overwrite(3_000_000)
    with pytest.raises(
        DataError,
        match=f"may have at most {MAX_PIXELS:,} pixels, and this one has 3,000,000 x 30; cut it",
    ):
        load_data(str(tmp_path))


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_png_over_the_size_limit_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    bomb = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT"):
        bomb += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path = tmp_path / "image.png"
    path.write_bytes(bomb)
    with pytest.raises(DataError, match=f"may have at most {MAX_PIXELS:,} pixels"):
        read_rgb(path)


def test_all_problems_are_found_at_once_and_load_says_how_many_more(tmp_path: Path) -> None:
    write_image(tmp_path, "a", masks={1: mask_with(-1), 2: mask_with(0.5)})
    write_image(tmp_path, "b")
    (tmp_path / "train" / "b" / "image.tif").write_bytes(b"no image")
    write_image(tmp_path, "c")
    (tmp_path / "train" / "d").mkdir()
    inspection = inspect_data(str(tmp_path))
    assert [
        Path(problem.place).relative_to(tmp_path).as_posix() for problem in inspection.problems
    ] == [
        "train/a/class1.tif",
        "train/a/class2.tif",
        "train/b/image.tif",
        "train/d",
    ]
    assert inspection.dataset is not None
    assert [sample.name for sample in inspection.dataset.samples] == ["c"]
    with pytest.raises(
        DataError,
        match=r"class1.tif: .* \(and 3 more problems\); .*data.skip_bad=true.*; `python -m core",
    ):
        load_data(str(tmp_path))


def test_a_missing_folder_is_answered_with_where_to_put_the_images(tmp_path: Path) -> None:
    where = str(tmp_path / "train_set")
    with pytest.raises(DataError, match="there is no such folder") as missing:
        load_data(where)
    (tmp_path / "train_set" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no annotated image") as empty:
        load_data(where)
    (tmp_path / "train_set" / "train").rmdir()
    write_image(tmp_path / "train_set", ".hidden")
    with pytest.raises(DataError, match="holds no annotated image"):
        load_data(where)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="this is a file"):
        load_data(str(tmp_path / "file"))
    for error in (missing, empty):
        assert f"{where}/train/NAME/image.tif" in str(error.value)
        assert f"{where}/train.json" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"file_name": "../train/a/image.tif", "id": 1, "height": 20, "width": 30},
            "must stay inside the data folder",
        ),
        (
            {"file_name": "/etc/passwd", "id": 1, "height": 20, "width": 30},
            "must stay inside the data folder",
        ),
        (
            {"file_name": "..\\x.tif", "id": 1, "height": 20, "width": 30},
            "must stay inside the data folder",
        ),
        ({"file_name": "gone.tif", "id": 1, "height": 20, "width": 30}, "'gone.tif' is not there"),
        ({"file_name": "x.tif", "id": 1, "height": 21, "width": 30}, "listed with 21 x 30 pixels"),
        (
            {"file_name": "x.tif", "id": "one", "height": 20, "width": 30},
            "id of x.tif must be a whole number",
        ),
        (
            {"file_name": "x.tif", "id": 1, "height": 20, "width": -3},
            "width of x.tif must be a whole number from 1 up",
        ),
        ({"file_name": "x.tif", "id": 1, "height": 21}, "listed with 21 x None pixels"),
        (
            {"file_name": "y.tif", "id": 9, "height": 20, "width": 30},
            "must be unique, and y.tif (id 9) repeats one",
        ),
        ("x.tif", "must be listed as"),
    ],
)
def test_a_wrong_entry_of_the_test_listing_is_named(
    tmp_path: Path, entry: object, told: str
) -> None:
    write_image(tmp_path)
    (tmp_path / "test").mkdir()
    for name in ("x.tif", "y.tif", "z.tif"):
        tifffile.imwrite(tmp_path / "test" / name, RGB)
    listing = tmp_path / "test_image_name_to_ids.json"
    listing.write_text(
        json.dumps([{"file_name": "z.tif", "id": 9, "height": 20, "width": 30}, entry])
    )
    with pytest.raises(
        DataError,
        match=re.escape(f"{listing}, image 1 (counted from 0): ") + ".*" + re.escape(told),
    ):
        load_data(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", '{"file_name": 1}', "[" * 200_000])
def test_a_listing_that_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    write_image(tmp_path)
    (tmp_path / "test_image_name_to_ids.json").write_text(text)
    with pytest.raises(DataError, match=r"test_image_name_to_ids\.json: the (listing|file)"):
        load_data(str(tmp_path))


def test_listed_images_without_a_folder_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path)
    (tmp_path / "test_image_name_to_ids.json").write_text('[{"file_name": "x.tif"}]')
    with pytest.raises(DataError, match="test_release is not there; add it"):
        load_data(str(tmp_path))
