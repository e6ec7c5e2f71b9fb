"""Laws of the files of a prediction: all kinds show the same cells, and other readers read them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Line
from PIL import Image

from core.data.dataset import Category, TestImage
from core.data.pixel_size import PLAUSIBLE, PixelSize, pixel_size_of
from core.files import GrowingFile
from core.prediction import outputs
from core.prediction.outputs import (
    CELL_COLUMNS,
    OUTPUTS,
    Files,
    Predicted,
    csv_rows,
    file_names,
    geojson,
    label_tiff,
    overlay_png,
)
from tests.core.prediction.test_cells import HEIGHT, WIDTH, some_detections

CLASSES = (Category(3, "epithelium"), Category(12, '=HYPERLINK("x")'), Category(40, "a,\nb"))


def seen(
    seed: int = 0,
    count: int = 6,
    name: str = "a",
    least: float = 0.2,
    size: PixelSize | None = None,
    warning: str = "",
) -> Predicted:
    image = TestImage("", f"{name}.tif", ord(name[0]), HEIGHT, WIDTH)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    found = some_detections(seed, count)
    return Predicted(image, name, pixels, found, least, size, CLASSES, warning)


def table_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(",".join(CELL_COLUMNS) + "\n" + text)))


def drawn_again(features: list[dict[str, Any]]) -> np.ndarray:
    """The label image that the polygons describe, by matplotlib's test of points."""
    ys, xs = np.indices((HEIGHT, WIDTH))
    middles = np.stack([xs.ravel() + 0.5, ys.ravel() + 0.5], axis=1)
    labels = np.zeros(HEIGHT * WIDTH, np.int64)
    for feature in features:
        assert feature["geometry"]["type"] == "Polygon"
        outer, *holes = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] for ring in (outer, *holes))
        inside = Line(outer, closed=True).contains_points(middles)
        for hole in holes:
            inside &= ~Line(hole, closed=True).contains_points(middles)
        assert not labels[inside].any()
        labels[inside] = int(feature["properties"]["name"])
    return labels.reshape(HEIGHT, WIDTH)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 8))
def test_label_image_polygons_and_table_show_the_same_cells(seed: int, count: int) -> None:
    one = seen(seed, count, size=PixelSize(0.5, 0.25))
    labels = tifffile.imread(io.BytesIO(label_tiff(one)))
    assert np.array_equal(labels, one.cells.label_image)
    features = json.loads(geojson(one))["features"]
    assert np.array_equal(drawn_again(features), labels)
    rows = table_of(csv_rows(one))
    assert [int(row["cell"]) for row in rows] == list(range(1, labels.max() + 1))
    for row in rows:
        mask = labels == int(row["cell"])
        ys, xs = np.nonzero(mask)
        area = int(mask.sum())
        assert int(row["area_px"]) == area
        assert float(row["area_um2"]) == pytest.approx(area * 0.125, rel=1e-6)
        assert float(row["centroid_x_um"]) == pytest.approx((xs.mean() + 0.5) * 0.5, rel=1e-6)
        assert float(row["centroid_y_um"]) == pytest.approx((ys.mean() + 0.5) * 0.25, rel=1e-6)
        box = [int(row[f"{side}_px"]) for side in ("x0", "y0", "x1", "y1")]
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        of_cell = [one for one in features if one["properties"]["name"] == row["cell"]]
        measured = {m["name"]: m["value"] for m in of_cell[0]["properties"]["measurements"]}
        assert measured["pieces"] == len(of_cell)
        assert measured["score"] == pytest.approx(float(row["score"]), abs=1e-6)


def test_a_feature_has_the_name_and_the_colour_of_its_class() -> None:
    one = seen(3)
    features = json.loads(geojson(one))["features"]
    labels = {cell.number: cell.label for cell in one.cells.found}
    assert features
    for feature in features:
        properties = feature["properties"]
        label = labels[int(properties["name"])]
        assert properties["classification"]["name"] == CLASSES[label - 1].name
        colour = properties["classification"]["color"]
        assert len(colour) == 3
        assert all(0 <= channel <= 255 for channel in colour)
        assert properties["objectType"] == "annotation"
    of_class = {
        feature["properties"]["classification"]["name"]: tuple(
            feature["properties"]["classification"]["color"]
        )
        for feature in features
    }
    assert len(set(of_class.values())) == len(of_class) > 1


def test_a_class_named_as_a_formula_is_text_and_unknown_sizes_are_empty() -> None:
    rows = table_of(csv_rows(seen(3)))
    assert {row["class"] for row in rows} <= {"epithelium", '\'=HYPERLINK("x")', "a,\nb"}
    assert len({row["class_id"] for row in rows}) > 1
    assert all(row[column] == "" for row in rows for column in CELL_COLUMNS if "_um" in column)


def test_a_label_image_keeps_the_size_of_a_pixel(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(label_tiff(seen(size=PixelSize(0.5, 0.25))))
    assert pixel_size_of(tmp_path / "a.tif", (HEIGHT, WIDTH)) == PixelSize(
        pytest.approx(0.5), pytest.approx(0.25)
    )
    (tmp_path / "a.tif").write_bytes(label_tiff(seen()))
    assert pixel_size_of(tmp_path / "a.tif", (HEIGHT, WIDTH)) is None


def test_a_warning_stands_in_the_picture_above_the_panels() -> None:
    with Image.open(io.BytesIO(overlay_png(seen()))) as plain:
        height = plain.height
        below = np.asarray(plain)
    with Image.open(io.BytesIO(overlay_png(seen(warning="it learned nothing")))) as warned:
        assert warned.height > height
        assert np.array_equal(np.asarray(warned)[warned.height - height + 40 :], below[40:])


def test_the_files_of_two_images_and_nothing_else(tmp_path: Path) -> None:
    files = Files(tmp_path, list(OUTPUTS))
    images = [seen(1, name="a"), seen(2, name="b"), seen(3, 0, name="c")]
    for one in images:
        files.add(one)
    files.finish([one.image for one in images], CLASSES)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "cells.csv",
        *(f"geojson/{name}.geojson" for name in "abc"),
        *(f"labels/{name}.tif" for name in "abc"),
        *(f"overlays/{name}.png" for name in "abc"),
        "results.images.json",
        "results.json",
    ]
    with (tmp_path / "cells.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [
        one.name for one in images for _ in one.cells.found
    ]  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result["image_id"] for result in results] == [
        one.image.id for one in images for _ in range(len(one.found))
    ]


@pytest.mark.parametrize("kinds", [["csv"], ["coco"], ["coco", "csv"]])
def test_tables_alone_come_into_a_new_folder_too(tmp_path: Path, kinds: list[str]) -> None:
    files = Files(tmp_path / "cells", kinds)
    files.add(seen(1, 0, name="a"))
    files.finish([seen(1, name="a").image], CLASSES)
    names = {"csv": {"cells.csv"}, "coco": {"results.json", "results.images.json"}}
    wanted = set().union(*(names[kind] for kind in kinds))
    assert {path.name for path in (tmp_path / "cells").iterdir()} == wanted


def test_a_table_that_the_disk_refuses_keeps_no_other_from_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path, ["csv", "coco"])
    files.add(seen(1, name="a"))
    whole = GrowingFile.finish

    def finish(self: GrowingFile, tail: str) -> None:
        if self.path.name == "cells.csv":
            raise OSError(28, "No space left on device")
        whole(self, tail)

    monkeypatch.setattr(GrowingFile, "finish", finish)
    with pytest.raises(OSError, match="No space"):
        files.finish([seen(1, name="a").image], CLASSES)
    assert json.loads((tmp_path / "results.json").read_text())
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("side", PLAUSIBLE)
def test_the_least_and_the_largest_pixel_fit_into_all_files(side: float) -> None:
    one = seen(3, size=PixelSize(side, side))
    assert label_tiff(one)
    assert all(0 < float(row["area_um2"]) < float("inf") for row in table_of(csv_rows(one)))


@pytest.mark.parametrize("kind", list(OUTPUTS))
def test_an_image_that_fails_in_one_file_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Ctrl-C may come while any of them is made."""
    files = Files(tmp_path, list(OUTPUTS))
    files.add(seen(1, name="a"))
    names = {"labels": "b.tif", "geojson": "b.geojson", "overlays": "b.png", "csv": "cells.csv"}
    name = names.get(kind, "results.json")
    whole_write, whole_add = outputs.write_atomically, GrowingFile.add

    def write(path: Path, data: bytes) -> None:
        whole_write(path, data)
        if path.name == name:
            raise KeyboardInterrupt

    def add(self: GrowingFile, text: str) -> None:
        whole_add(self, text)
        if self.path.name == name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "write_atomically", write)
        patched.setattr(GrowingFile, "add", add)
        with pytest.raises(KeyboardInterrupt):
            files.add(seen(2, name="b"))
    files.finish([seen(1, name="a").image], CLASSES)
    assert not list(tmp_path.rglob("b.*"))
    assert not list(tmp_path.rglob(".*"))
    with (tmp_path / "cells.csv").open(newline="") as stream:
        assert {row["file"] for row in csv.DictReader(stream)} == {"a"}
    assert {r["image_id"] for r in json.loads((tmp_path / "results.json").read_text())} == {97}


def test_names_of_files_are_distinct_and_short() -> None:
    names = ["a.tif", "a.png", "s/a.tif", "x" * 300 + ".tif", "x" * 301, "b.c"]
    found = file_names(names)
    assert found[:3] == ["a", "a_2", "s_a"]
    assert found[5] == "b.c"
    assert len(set(found)) == len(found)
    assert max(map(len, found)) < 210


@pytest.mark.parametrize("name", ["\\a.png", "\\\\host\\a.png", "/a.png", "..\\..\\a.png", "\\"])
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    (found,) = file_names([name])
    assert found
    assert "/" not in found
    assert (Path("cells/labels") / f"{found}.tif").parent == Path("cells/labels")
