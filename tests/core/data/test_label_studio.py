"""Laws of Label Studio's JSON export."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.config import DataConfig
from core.data import load_data
from core.data.label_studio import unpack
from core.data.synthetic import make_cells
from core.errors import DataError
from tests.core.data.exports import label_studio

SCENE = make_cells(images=4, side=64)
SIZE = (40, 56)


def square(y: int = 5) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[y : y + 20, 10:30] = True
    return mask


def region(number: str = "bad", brush: bool = False, **value: Any) -> dict[str, Any]:
    """A square, or what `value` makes of it."""
    one = label_studio.result(number, square(), "a", brush)
    one["value"].update(value)
    return one


def write(folder: Path, *results: dict[str, Any], change: Callable[[Any], object] = bool) -> Path:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", SIZE[::-1], (120, 80, 120)).save(folder / "a.png")
    annotation = {"id": 3, "result": list(results), "was_cancelled": False, "updated_at": "2024"}
    tasks = [{"id": 5, "annotations": [annotation], "data": {"image": "/data/upload/1/a.png"}}]
    change(tasks)
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


def test_polygons_and_brush_masks_are_read_with_their_instances_and_classes(tmp_path: Path) -> None:
    label_studio.write(tmp_path, SCENE)
    data = load_data(str(tmp_path))
    assert [category.name for category in data.classes] == ["class2", "class3", "class4"]
    for read, drawn in zip(data.samples, SCENE.samples, strict=True):
        assert read.name == f"{drawn.name}.png"
        np.testing.assert_array_equal(read.label_maps, drawn.label_maps)
        np.testing.assert_array_equal(read.labels_N + 1, drawn.labels_N)


runs = st.lists(st.tuples(st.integers(0, 255), st.integers(1, 400)), min_size=1, max_size=20)


@settings(deadline=None, max_examples=60)
@given(runs, st.sampled_from([(3, 4, 8, 16), (1, 2, 3, 4), (8, 8, 8, 8)]))
def test_values_that_were_packed_unpack_to_the_same(
    blocks: list[tuple[int, int]], sizes: tuple[int, ...]
) -> None:
    values = np.repeat(*np.array(blocks).T)
    code = np.array(label_studio.packed(values, sizes), np.uint8)
    np.testing.assert_array_equal(unpack(code, len(values)), values)


def test_values_one_by_one_in_a_block_are_read() -> None:
    # Label Studio's own code in the browser writes such blocks, its converter does not.
    values = [7, 0, 255, 3]
    bits = f"{4:032b}{7:05b}" + f"{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "00" + f"{3:03b}"
    bits += "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    code = np.array([int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)], np.uint8)
    assert unpack(code, 4).tolist() == values


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 255), max_size=60))
def test_damaged_codes_are_unpacked_or_refused(code: list[int]) -> None:
    header = [*(200).to_bytes(4, "big"), 0b00111001, 0b00011011, 0b11111110]
    try:
        assert len(unpack(np.array([*header, *code], np.uint8), 200)) == 200
    except DataError as error:
        assert "ends early" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/1/0a1b2c3d-a.png",
        "/data/local-files/?d=cells/images/a.png",
        "s3://bucket/cells/a.png",
        "https://host/a.png?token=x",
        "C:\\cells\\a.png",
        "/data/upload/1/a%2Epng",
    ],
)
def test_images_are_found_wherever_label_studio_had_them(tmp_path: Path, image: str) -> None:
    def change(tasks: Any) -> None:
        tasks[0]["data"] = {"note": "none", "picture": image}

    write(tmp_path, region(), change=change)
    assert load_data(str(tmp_path)).samples[0].name == "a.png"


def test_a_label_may_stand_in_a_result_of_its_own(tmp_path: Path) -> None:
    shape = region()
    shape["type"] = "polygon"
    del shape["value"]["polygonlabels"]
    label = {"id": "bad", "type": "labels", "value": {"labels": ["a"], **shape["value"]}}
    relation = {"from_id": "bad", "to_id": "bad", "type": "relation"}
    write(tmp_path, shape, label, relation)
    assert load_data(str(tmp_path)).samples[0].labels_N.tolist() == [1]


def test_of_several_annotations_the_ground_truth_or_the_last_changed_is_used_and_noted(
    tmp_path: Path,
) -> None:
    def several(changes: dict[str, Any]) -> Callable[[Any], None]:
        def change(tasks: Any) -> None:
            (first,) = tasks[0]["annotations"]
            tasks[0]["annotations"].append({**first, "result": [], **changes})

        return change

    for changes, count, noted in (
        ({"updated_at": "2023"}, 1, True),
        ({"updated_at": "2025"}, 0, True),
        ({"updated_at": "2023", "ground_truth": True}, 0, True),
        ({"updated_at": "2025", "was_cancelled": True}, 1, False),
    ):
        write(tmp_path, region(), change=several(changes))
        if count:
            data = load_data(str(tmp_path))
            assert len(data.samples[0].labels_N) == 1
            assert any("1 task with several annotations" in note for note in data.notes) == noted
        else:
            with pytest.raises(DataError, match="at least one labelled region"):
                load_data(str(tmp_path))


def test_tasks_that_nobody_annotated_are_left_out_and_counted(tmp_path: Path) -> None:
    def change(tasks: Any) -> None:
        Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
        tasks.append({"id": 6, "annotations": [], "data": {"image": "b.png"}})

    write(tmp_path, region(), change=change)
    data = load_data(str(tmp_path))
    assert len(data.samples) == 1
    assert "1 task without an annotation, left out" in data.notes


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (region(points=[[1, 2], [3, 4]]), "of three points or more"),
        (region(points=[[1, 2], [3], [5, 6]]), "must be a list of [x, y] in percent, and are"),
        (region(points=[[1, "2"], [3, 4], [5, 6]]), "must be a list of [x, y] in percent"),
        (region(polygonlabels=[]), "a region must have a label, and this one has none"),
        (
            region(polygonlabels=["a", "b"]),
            "a region must have one label, and this one has 'a' and 'b'; remove all but its class",
        ),
        (region(labels=["b"]), "a region must have one label, and this one has 'a' and 'b'"),
        ({**region(), "image_rotation": 90}, "the image was turned by 90 degrees"),
        (region(brush=True, rle=[1, 2, 3]), "must hold the whole mask, and ends early"),
        (region(brush=True, rle=[0] * 40), "must hold 8,960 values, 4 for each pixel of the image"),
        (region(brush=True, rle=[256]), "rle must be a list of bytes, and is [256]"),
        (
            region(brush=True, rle=label_studio.packed(np.zeros(8960, int))),
            "must cover at least one pixel",
        ),
        (
            {
                **region(),
                "value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["a"]},
            },
            "this one has only a bbox",
        ),
        (
            {**region(), "value": {"x": 1, "y": 1, "radiusX": 9, "ellipselabels": ["a"]}},
            "a region must be a polygon or a brush mask, and has ['ellipselabels', 'radiusX'",
        ),
        (
            {**region(), "value": {"x": 1, "y": 1, "width": 1, "keypointlabels": ["a"]}},
            "a region must be a polygon or a brush mask, and has ['keypointlabels', 'width'",
        ),
    ],
)
def test_one_bad_region_is_named_and_left_out_when_asked(
    tmp_path: Path, bad: dict[str, Any], told: str
) -> None:
    others = [label_studio.result(f"r{y}", square(y), "a", brush=False) for y in (1, 2, 3)]
    write(tmp_path, *others, bad)
    with pytest.raises(DataError) as refused:
        load_data(str(tmp_path))
    assert f"{tmp_path}/export.json, task 5, region bad: " in str(refused.value)
    assert told in str(refused.value)
    data = load_data(str(tmp_path), DataConfig(skip_bad=True, allow_suspicious=True))
    assert len(data.samples[0].labels_N) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tasks: tasks[0].update(data={}), "its data must name an image, and is {}"),
        (lambda tasks: tasks[0].update(data={"image": "b.png"}), "and b.png is not there"),
        (lambda tasks: tasks.append(tasks[0]), "an image must be in one task, and 'a.png'"),
        (lambda tasks: tasks[0].update(annotations=3), "annotations must be a list of objects"),
        (lambda tasks: tasks.append(3), "its data must name an image, and is None"),
        (
            lambda tasks: tasks.append({"data": ["a.png"], "annotations": []}),
            "its data must name an image, and is ['a.png']",
        ),
        (
            lambda tasks: tasks[0]["annotations"][0].update(result=3),
            "result must be a list of objects, and is 3",
        ),
        (
            lambda tasks: tasks[0]["annotations"][0]["result"][0].update(original_width=99),
            "is listed with 40 x 99 pixels (height x width)",
        ),
        (
            lambda tasks: tasks.insert(0, {"annotation_id": 3, "image": "a.png"}),
            "this is Label Studio's export JSON-MIN; export as JSON or as COCO",
        ),
    ],
)
def test_a_bad_task_is_named(tmp_path: Path, change: Callable[[Any], object], told: str) -> None:
    file = write(tmp_path, region(), change=change)
    with pytest.raises(DataError) as refused:
        load_data(str(tmp_path))
    assert str(file) in str(refused.value)
    assert told in str(refused.value)


def test_two_files_of_tasks_are_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, region())
    (tmp_path / "more.json").write_text(file.read_text())
    with pytest.raises(DataError, match=r"there are export\.json and more\.json"):
        load_data(str(tmp_path))


def test_a_region_of_an_unknown_kind_is_named(tmp_path: Path) -> None:
    vertices = {"vertices": [{"x": 1, "y": 2}], "vectorlabels": ["a"]}
    strange = {"id": "new", "type": "vectorlabels", "value": vertices}
    write(tmp_path, region(), strange)
    with pytest.raises(DataError, match=r"region new: a region must be a polygon or a brush mask"):
        load_data(str(tmp_path))
