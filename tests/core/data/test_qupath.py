"""Laws of QuPath's GeoJSON: areas with holes as pycocotools fills them, and QuPath's own habits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as MplPath
from PIL import Image

from core.config import DataConfig
from core.data import inspect_data, load_data
from core.data.coco_masks import mask_of_areas
from core.data.qupath import holds
from core.data.synthetic import make_cells
from core.errors import DataError
from core.sample import MaskCrop
from tests.core.data.exports import qupath
from tests.core.data.exports.tracing import areas_of, filled, flat

SCENE = make_cells(images=7, side=64)
SUSPICIOUS = DataConfig(allow_suspicious=True)
SQUARE = [[[[10, 5], [30, 5], [30, 25], [10, 25]]]]


def full(crop: MaskCrop, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.bool_)
    height, width = crop.pixels.shape
    mask[crop.y0 : crop.y0 + height, crop.x0 : crop.x0 + width] = crop.pixels
    return mask


def write(folder: Path, *features: dict[str, Any], name: str = "a") -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (56, 40), (120, 80, 120)).save(folder / f"{name}.png")
    content = {"type": "FeatureCollection", "features": features}
    (folder / f"{name}.geojson").write_text(json.dumps(content))


masks = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@settings(deadline=None, max_examples=60)
@given(masks.filter(np.any))
def test_any_mask_is_the_same_when_written_as_areas_with_holes_and_read(mask: np.ndarray) -> None:
    areas = [[flat(ring) for ring in area] for area in areas_of(mask)]
    np.testing.assert_array_equal(full(mask_of_areas(areas, *mask.shape), mask.shape), mask)


corner = st.tuples(st.floats(-3, 25), st.floats(-3, 25))
ring = st.lists(corner, min_size=3, max_size=6).map(lambda points: [x for xy in points for x in xy])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(ring, min_size=1, max_size=3), min_size=1, max_size=3))
def test_areas_are_the_union_of_polygons_without_their_holes_as_pycocotools_fills_them(
    areas: list[list[list[float]]],
) -> None:
    shape = (20, 22)
    expected = np.zeros(shape, np.bool_)
    for outline, *holes in areas:
        area = filled(outline, *shape)
        for hole in holes:
            area &= ~filled(hole, *shape)
        expected |= area
    if expected.any() and max(value for outline, *_ in areas for value in outline) > 1:
        np.testing.assert_array_equal(full(mask_of_areas(areas, *shape), shape), expected)


def test_objects_are_read_with_their_instances_and_classes(tmp_path: Path) -> None:
    qupath.write(tmp_path, SCENE)
    data = load_data(str(tmp_path))
    assert [category.name for category in data.classes] == ["class1", "class2", "class3", "class4"]
    for read, drawn in zip(data.samples, SCENE.samples, strict=True):
        assert read.name == f"{drawn.name}.png"
        np.testing.assert_array_equal(read.image, drawn.image)
        np.testing.assert_array_equal(read.label_maps, drawn.label_maps)
        np.testing.assert_array_equal(read.labels_N, drawn.labels_N)


def test_objects_that_overlap_keep_all_their_pixels(tmp_path: Path) -> None:
    write(tmp_path, qupath.feature(SQUARE, "a"), qupath.feature(SQUARE, "b"))
    (sample,) = load_data(str(tmp_path), DataConfig(allow_suspicious=True)).samples
    assert [np.count_nonzero(sample.label_maps == number) for number in (1, 2)] == [400, 400]


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("a.geojson", "images/a.tif"),
        ("annotations/a.geojson", "images/a.png"),
        ("a.png.geojson", "a.png"),
        ("A/a.geojson", "A/a.png"),
    ],
)
def test_files_and_images_are_paired_by_name(tmp_path: Path, file: str, image: str) -> None:
    write(tmp_path / "source", qupath.feature(SQUARE, "a"))
    for name, place in (("a.geojson", tmp_path / file), ("a.png", tmp_path / image)):
        place.parent.mkdir(exist_ok=True)
        (tmp_path / "source" / name).rename(place)
    (tmp_path / "source").rmdir()
    assert load_data(str(tmp_path)).samples[0].name == Path(image).name


@pytest.mark.parametrize("legacy", ["list", "single", "object_type", "id", "names"])
def test_other_versions_of_qupath_write_otherwise_and_are_read_the_same(
    tmp_path: Path, legacy: str
) -> None:
    one = qupath.feature(SQUARE, "Tumor: Positive", kind="cell")
    content: Any = {"type": "FeatureCollection", "features": [one]}
    if legacy == "list":
        content = [one]
    elif legacy == "single":
        content = one
    elif legacy == "object_type":
        one["properties"]["object_type"] = one["properties"].pop("objectType")
    elif legacy == "id":
        del one["properties"]["objectType"]
        one["id"] = "PathCellObject"
    else:
        one["properties"]["classification"] = {"names": ["Tumor", "Positive"]}
    one["nucleusGeometry"] = {"type": "Polygon", "coordinates": []}
    write(tmp_path)
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    data = load_data(str(tmp_path))
    assert [category.name for category in data.classes] == ["Tumor: Positive"]
    assert np.count_nonzero(data.samples[0].label_maps) == 400


def test_regions_tiles_and_ignored_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        qupath.feature([[[[0, 0], [50, 0], [50, 40]]]], None),
        qupath.feature(SQUARE, "Ignore*"),
        qupath.feature(SQUARE, None, kind="tile"),
        qupath.feature(SQUARE, "a", kind="detection"),
    )
    data = load_data(str(tmp_path))
    assert data.samples[0].labels_N.tolist() == [1]
    (note,) = (note for note in data.notes if "QuPath" in note)
    assert note.startswith("3 objects of QuPath left out: 1 region (annotations without a class")


def box(x: int, y: int, side: int) -> list[Any]:
    return [[[[x, y], [x + side, y], [x + side, y + side], [x, y + side]]]]


def cells(kind: str, *places: tuple[int, int]) -> list[dict[str, Any]]:
    return [qupath.feature(box(x, y, 4), "Tumor", kind) for x, y in places]


def regions_noted(folder: Path) -> list[str]:
    return [note for note in load_data(str(folder), SUSPICIOUS).notes if "QuPath" in note]


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("Stroma", "detection", "of class Stroma (annotations that hold 3 or more other objects)"),
        ("Stroma", "annotation", "of class Stroma (annotations that hold 3 or more other objects)"),
        (None, "annotation", "without a class (annotations that hold 3 or more other objects)"),
        (None, "detection", "(annotations without a class beside detections)"),
    ],
)
def test_an_annotation_that_holds_three_others_is_a_region_whatever_its_class(
    tmp_path: Path, name: str | None, kind: str, told: str
) -> None:
    region = qupath.feature(box(0, 0, 30), name)
    write(tmp_path, region, *cells(kind, (2, 2), (10, 2), (2, 10), (40, 30)))
    data = load_data(str(tmp_path), SUSPICIOUS)
    assert [category.name for category in data.classes] == ["Tumor"]
    assert len(data.samples[0].labels_N) == 4
    assert regions_noted(tmp_path) == [f"1 object of QuPath left out: 1 region {told}"]


def test_a_cell_that_winds_around_others_or_holds_two_stays_a_cell(tmp_path: Path) -> None:
    # Its box holds the four others, and its outline none of them.
    bend = [[[[0, 0], [30, 0], [30, 3], [3, 3], [3, 30], [0, 30]]]]
    around = qupath.feature(bend, "Tumor")
    write(tmp_path, around, *cells("annotation", (6, 6), (14, 6), (6, 14), (14, 14)))
    assert len(load_data(str(tmp_path), SUSPICIOUS).samples[0].labels_N) == 5
    holder = qupath.feature(box(0, 0, 30), "Tumor")
    write(tmp_path, holder, *cells("annotation", (2, 2), (10, 2)))
    assert len(load_data(str(tmp_path), SUSPICIOUS).samples[0].labels_N) == 3
    assert regions_noted(tmp_path) == []


def test_a_hole_is_no_part_of_a_region(tmp_path: Path) -> None:
    ring = [[box(0, 0, 36)[0][0], box(3, 3, 30)[0][0]]]
    write(
        tmp_path,
        qupath.feature(ring, "Tumor"),
        *cells("annotation", (6, 6), (14, 6), (6, 14), (14, 14)),
    )
    assert len(load_data(str(tmp_path), SUSPICIOUS).samples[0].labels_N) == 5


def test_beside_detections_a_large_annotation_is_a_region_and_a_small_one_an_added_cell(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        *cells("detection", (2, 2), (40, 2)),
        qupath.feature(box(20, 10, 20), "Stroma"),
        qupath.feature(box(2, 20, 6), "Tumor"),
    )
    data = load_data(str(tmp_path), SUSPICIOUS)
    assert len(data.samples[0].labels_N) == 3
    (note,) = regions_noted(tmp_path)
    assert "1 region of class Stroma (annotations over 4 times as large as any detection)" in note


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=3, max_size=3),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=9),
)
def test_a_point_is_inside_a_triangle_where_matplotlib_says_so(
    corners: list[tuple[int, int]], points: list[tuple[int, int]]
) -> None:
    ring = np.array(corners, float)
    tried = np.array(points) + np.sqrt([0.02, 0.03])  # on no side
    assert holds([ring], tried).tolist() == MplPath(ring).contains_points(tried).tolist()


def test_objects_without_any_class_are_cells(tmp_path: Path) -> None:
    write(tmp_path, qupath.feature(SQUARE, None))
    assert [category.name for category in load_data(str(tmp_path)).classes] == ["cell"]


POINT = {"type": "Point", "coordinates": [3, 4]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"geometry": POINT}, "must be an area, Polygon or MultiPolygon, and is 'Point'"),
        ({"geometry": None}, "must be an area, Polygon or MultiPolygon, and is None"),
        (
            {"geometry": {"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}},
            "three points or more",
        ),
        ({"geometry": {"type": "Polygon", "coordinates": [7]}}, "a ring must be a list of points"),
        ({"geometry": {"type": "Polygon", "coordinates": []}}, "must be rings of points"),
        (
            {"geometry": {"type": "Polygon", "coordinates": [[["1", 2], [3, 4], [5, 6]]]}},
            "value 0 (counted from 0) is '1'",
        ),
        ({"properties": {}}, "an object must have a class where others have one"),
    ],
)
def test_one_bad_object_is_named_and_left_out_when_asked(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    good = [qupath.feature([[[[x, 1], [x + 4, 1], [x + 4, 9]]]], "a") for x in (0, 8, 16)]
    write(tmp_path, *good, {**qupath.feature(SQUARE, "a"), **change})
    with pytest.raises(DataError) as refused:
        load_data(str(tmp_path))
    assert f"{tmp_path}/a.geojson, feature 3 (counted from 0): " in str(refused.value)
    assert told in str(refused.value)
    data = load_data(str(tmp_path), DataConfig(skip_bad=True))
    assert len(data.samples[0].labels_N) == 3
    assert any("data.skip_bad: 1 skipped" in note for note in data.notes)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "the file is not JSON"),
        ('{"features": 3}', "must hold features, and holds 3"),
        ('[{"type": "Polygon"}]', "must hold features, and number 0 (counted from 0) is"),
    ],
)
def test_a_file_that_is_no_geojson_is_named_and_left_out_when_asked(
    tmp_path: Path, content: str, told: str
) -> None:
    write(tmp_path, qupath.feature(SQUARE, "a"))
    write(tmp_path, name="b")
    (tmp_path / "b.geojson").write_text(content)
    with pytest.raises(DataError) as refused:
        load_data(str(tmp_path))
    assert f"{tmp_path}/b.geojson: " in str(refused.value)
    assert told in str(refused.value)
    assert len(load_data(str(tmp_path), DataConfig(skip_bad=True)).samples) == 1


def test_a_file_without_its_image_is_named(tmp_path: Path) -> None:
    write(tmp_path, qupath.feature(SQUARE, "a"))
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"one image a \(.*\) must lie beside it.*there is none"):
        load_data(str(tmp_path))
    (tmp_path / "a.svs").write_bytes(b"II")
    with pytest.raises(DataError, match=r"its image a\.svs is a whole slide"):
        load_data(str(tmp_path))


def test_images_without_a_file_are_noted(tmp_path: Path) -> None:
    write(tmp_path, qupath.feature(SQUARE, "a"))
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    notes = load_data(str(tmp_path)).notes
    assert any("1 image without a .geojson file, left out: b.png" in note for note in notes)


def test_a_file_is_never_drawn_on_the_image_of_another_file(tmp_path: Path) -> None:
    write(tmp_path / "one", qupath.feature(SQUARE, "a"))
    write(tmp_path / "two", qupath.feature(SQUARE, "a"), qupath.feature(SQUARE, "a"))
    (tmp_path / "two" / "a.png").unlink()
    told = (
        r"two/a\.geojson: a file must have an image of its own, and one/a\.png has one/a\.geojson"
    )
    with pytest.raises(DataError, match=told):
        load_data(str(tmp_path))
    (sample,) = load_data(str(tmp_path), DataConfig(skip_bad=True)).samples
    assert sample.name == "a.png"
    assert len(sample.labels_N) == 1


def test_of_two_files_for_one_image_in_another_folder_none_is_chosen(tmp_path: Path) -> None:
    for name in ("one", "two", "b"):
        write(tmp_path / name, qupath.feature(SQUARE, "a"), name="b" if name == "b" else "a")
    for name in ("one", "two"):
        (tmp_path / name / "a.png").rename(tmp_path / "a.png")
    found = inspect_data(str(tmp_path))
    assert [problem.place.rsplit("/", 2)[1] for problem in found.problems] == ["one", "two"]
    assert all(problem.skippable for problem in found.problems)
    assert found.dataset is not None
    assert [sample.name for sample in found.dataset.samples] == ["b.png"]
