"""Laws of CVAT's own XML."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from core.config import DataConfig
from core.data import load_data
from core.data.synthetic import make_cells
from core.errors import DataError
from tests.core.data.exports import cvat

SCENE = make_cells(images=4, side=64)
SQUARE = '<polygon label="a" points="10.00,5.00;30.00,5.00;30.00,25.00;10.00,25.00" {}/>'
RIGHT = '<polygon label="a" points="40.00,5.00;50.00,5.00;50.00,25.00;40.00,25.00" {}/>'
SIZE = (40, 56)


def write(folder: Path, *shapes: str, meta: str = "") -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", SIZE[::-1], (120, 80, 120)).save(folder / "a.png")
    image = f'<image id="7" name="a.png" width="56" height="40">{"".join(shapes)}</image>'
    (folder / "annotations.xml").write_text(f"<annotations>{meta}{image}</annotations>")


def test_polygons_and_masks_are_read_with_their_instances_and_classes(tmp_path: Path) -> None:
    cvat.write(tmp_path, SCENE)
    data = load_data(str(tmp_path))
    assert [category.name for category in data.classes] == ["class1", "class2", "class3", "class4"]
    for read, drawn in zip(data.samples, SCENE.samples, strict=True):
        assert read.name == f"{drawn.name}.png"
        np.testing.assert_array_equal(read.label_maps, drawn.label_maps)
        np.testing.assert_array_equal(read.labels_N, drawn.labels_N)


@settings(deadline=None, max_examples=40)
@given(arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 56))).filter(np.any))
def test_any_mask_is_the_same_when_written_and_read(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray
) -> None:
    folder = tmp_path_factory.mktemp("mask")
    inside = " ".join(f'{name}="{value}"' for name, value in cvat.brush(mask).items())
    write(folder, f'<mask label="a" {inside}/>')
    (sample,) = load_data(str(folder), DataConfig(allow_suspicious=True)).samples
    expected = np.zeros(SIZE, np.bool_)
    expected[: mask.shape[0], : mask.shape[1]] = mask
    np.testing.assert_array_equal(sample.label_maps[0] == 1, expected)


def test_shapes_of_one_group_and_label_are_one_instance(tmp_path: Path) -> None:
    group = 'group_id="3"'
    mask = f'<mask label="a" rle="0, 4" left="0" top="0" width="2" height="2" {group}/>'
    write(tmp_path, SQUARE.format(group), RIGHT.format(group), mask, SQUARE.format('group_id="0"'))
    (sample,) = load_data(str(tmp_path), DataConfig(allow_suspicious=True)).samples
    assert [np.count_nonzero(sample.label_maps == number) for number in (1, 2)] == [604, 400]


def test_labels_of_a_task_are_classes_in_their_order_and_tags_are_ignored(tmp_path: Path) -> None:
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("z", "a"))
    for place in ("task", "job", "project"):
        meta = f"<meta><{place}><labels>{labels}</labels></{place}></meta>"
        write(tmp_path, SQUARE.format(""), '<tag label="z"/>', meta=meta)
        data = load_data(str(tmp_path))
        assert [(one.id, one.name) for one in data.classes] == [(1, "z"), (2, "a")]
        assert data.samples[0].labels_N.tolist() == [2]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ('<box label="a" xtl="1" ytl="1" xbr="9" ybr="9"/>', "this one has only a bbox"),
        (
            '<polyline label="a" points="1,1;2,2"/>',
            "must be a polygon or a mask, and is a polyline",
        ),
        ('<polygon label="a" points="1,1;2"/>', "points must be x,y;x,y;... in pixels, and are"),
        ('<polygon label="a" points="1,1;x,2"/>', "points must be x,y;x,y;... in pixels, and are"),
        ('<polygon label="a"/>', "points must be x,y;x,y;... in pixels, and are ''"),
        ('<polygon points="1,1;9,1;9,9"/>', "must have one of the task's labels, and has ''"),
        (
            '<mask label="a" rle="0, 5" left="0" top="0" width="2" height="2"/>',
            "add up to the 4 pixels of its box, and are '0, 5'",
        ),
        (
            '<mask label="a" rle="0, -4" left="0" top="0" width="2" height="2"/>',
            "must be whole numbers that add up",
        ),
        ('<mask label="a" rle="4" left="0" top="0" width="2" height="2"/>', "at least one pixel"),
        (
            '<mask label="a" rle="0, 4" left="55" top="0" width="2" height="2"/>',
            "a mask's box must lie in the image (56 wide, 40 high)",
        ),
        ('<mask label="a" rle="0, 4"/>', "a mask's box must lie in the image (56 wide, 40 high)"),
    ],
)
def test_one_bad_shape_is_named_and_left_out_when_asked(
    tmp_path: Path, bad: str, told: str
) -> None:
    others = [SQUARE.format("").replace("5.00", f"{y}.00") for y in (1, 2, 3)]
    write(tmp_path, *others, bad)
    with pytest.raises(DataError) as refused:
        load_data(str(tmp_path))
    assert f"{tmp_path}/annotations.xml, image 7, shape 4: " in str(refused.value)
    assert told in str(refused.value)
    data = load_data(str(tmp_path), DataConfig(skip_bad=True, allow_suspicious=True))
    assert len(data.samples[0].labels_N) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((r'width="56"', 'width="57"'), "is listed with 40 x 57 pixels (height x width), and has"),
        ((r"<image.*</image>", "<track id='0'/>"), "the file holds tracks, as exports for videos"),
        ((r"<image.*</image>", ""), "there must be at least one image, and there is none"),
        ((r'name="a.png"', ""), "its name must be a string of its own, and is ''"),
        ((r'name="a.png"', 'name="b.png"'), "the file 'b.png' is not there"),
        ((r"^", "<!DOCTYPE a>"), "the file has a document type"),
        ((r"</image>", ""), "the file is not XML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    write(tmp_path, SQUARE.format(""))
    file = tmp_path / "annotations.xml"
    file.write_text(re.sub(*change, file.read_text()))
    with pytest.raises(DataError) as refused:
        load_data(str(tmp_path))
    assert str(file) in str(refused.value)
    assert told in str(refused.value)


def test_two_files_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, SQUARE.format(""))
    (tmp_path / "more.xml").write_text("<annotations/>")
    with pytest.raises(DataError, match=r"there are annotations\.xml and more\.xml"):
        load_data(str(tmp_path))
