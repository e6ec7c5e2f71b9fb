"""Laws of JSON files of annotations: none is read that memory might not hold."""

import json
from pathlib import Path

import pytest

from core.data import inspect_data, json_files, list_images
from core.errors import DataError
from tests.core.data.exports import label_studio, qupath, roboflow
from tests.core.data.exports.export import SCENE
from tests.core.data.test_coco import document, write


def coco(folder: Path) -> None:
    write(folder, document([[2, 2, 12, 2, 12, 12, 2, 12]]))


def coco_export(folder: Path) -> None:
    coco(folder)
    (folder / "train.json").rename(folder / "export.json")


def of_label_studio(folder: Path) -> None:
    label_studio.write(folder, SCENE)


WRITERS = {
    "train.json": coco,
    "export.json": coco_export,
    "*.json": of_label_studio,
    "*.geojson": qupath.EXPORT.write,
    "train/*.json": roboflow.EXPORT.write,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_too_large_is_refused_by_name_and_never_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    WRITERS[name](tmp_path)
    assert not inspect_data(str(tmp_path)).problems
    file = next(tmp_path.glob(name))
    size = file.stat().st_size
    others = max((one.stat().st_size for one in tmp_path.rglob("*json") if one != file), default=0)
    file.write_text(file.read_text() + " " * (others + 1))
    monkeypatch.setattr(json_files, "MOST_JSON", file.stat().st_size - 1)
    (problem,) = inspect_data(str(tmp_path)).problems
    assert problem.place == str(file)
    assert problem.message == (
        f"a JSON file of annotations may have {size + others:,} bytes, and this one has"
        f" {size + others + 1:,}; export fewer images at a time, each part into a folder of its own"
    )


def test_a_large_file_of_something_else_hides_no_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_export(tmp_path)
    (tmp_path / "log.json").write_text(json.dumps([{"epoch": 1, "loss": 0.5}] * 1000))
    monkeypatch.setattr(json_files, "MOST_JSON", (tmp_path / "log.json").stat().st_size - 1)
    assert not inspect_data(str(tmp_path)).problems


def test_a_listing_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test.json").write_text("[" + " " * 100 + "]")
    monkeypatch.setattr(json_files, "MOST_JSON", 99)
    with pytest.raises(DataError, match=r"test\.json: a JSON file of annotations may have 99 byte"):
        list_images(str(tmp_path / "test.json"))
