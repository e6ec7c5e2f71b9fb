"""Laws of the converter: what it writes is read as the same data set."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from core.config import DataConfig
from core.convert import main
from core.data import load_data
from core.data.conversion import write_coco
from core.data.dataset import Category, Dataset, TestImage, assemble
from core.data.synthetic import make_cells, write_hw3
from core.sample import Sample
from tests.core.data.exports import qupath, roboflow, yolo
from tests.core.data.exports.table import EXPORTS

SCENE = make_cells(images=7, side=64)


def overlapping() -> Dataset:
    """Discs over each other, a crowd region, an image without instances, and odd names."""
    rng = np.random.default_rng(3)
    samples = []
    for name in ("b/one.tif", "b/one.png", "two", "three.v2", "none.jpg"):
        image = rng.integers(0, 256, (40, 56, 3), np.uint8)
        maps, count = np.zeros((3, 40, 56), np.uint16), 0 if name == "none.jpg" else 4
        y, x = np.ogrid[:40, :56]
        for number in range(count):
            layer = (0, 1, 2, 0)[number]
            centre = (15, 14 + 8 * number) if layer else (22, 12 + 10 * number)
            maps[layer][np.hypot(y - centre[0], x - centre[1]) < 7] = number + 1
        labels = np.array([2, 1, 2, 2][:count], np.int64)
        samples.append(
            Sample(name, image, maps if count else maps[:1], labels, np.arange(count) == 1)
        )
    return assemble("discs", [Category(3, "round"), Category(12, "long")], samples)


def same(one: Dataset, other: Dataset) -> None:
    """Assert that two data sets have the same pixels, instances, classes and split."""
    assert one.classes == other.classes
    by_pixels = {sample.image.tobytes(): sample for sample in other.samples}
    assert len(by_pixels) == len(one.samples) == len(other.samples)
    for sample in one.samples:
        twin = by_pixels[sample.image.tobytes()]
        assert (sample.name in one.validation) == (twin.name in other.validation)
        np.testing.assert_array_equal(sample.labels_N, twin.labels_N)
        np.testing.assert_array_equal(sample.crowd_N, twin.crowd_N)
        for number in range(1, len(sample.labels_N) + 1):
            np.testing.assert_array_equal(
                (sample.label_maps == number).any(axis=0), (twin.label_maps == number).any(axis=0)
            )


def converted(source: Path | str, folder: Path, *settings: str) -> Dataset:
    assert main([str(source), str(folder), *(f"--set={setting}" for setting in settings)]) == 0
    return load_data(str(folder), DataConfig(allow_suspicious=True))


def write_coco_layout(folder: Path, scene: Dataset) -> None:
    """The COCO layout with polygons, compressed and uncompressed run lengths."""
    names = {f"{sample.name}.png": sample for sample in scene.samples}
    content = roboflow.document(names, [category.name for category in scene.classes])
    (folder / "train").mkdir()
    for name, sample in names.items():
        Image.fromarray(sample.image).save(folder / "train" / name)
    (folder / "train.json").write_text(json.dumps(content))


FORMATS = {
    "coco": lambda folder: write_coco_layout(folder, SCENE),
    "hw3": lambda folder: write_hw3(SCENE, folder),
    **{name: export.write for name, export in EXPORTS.items()},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_converted_and_read_again_is_the_same_data_set_with_the_same_label_maps(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "source").mkdir()
    FORMATS[name](tmp_path / "source")
    source = load_data(str(tmp_path / "source"))
    read = converted(tmp_path / "source", tmp_path / "coco")
    same(source, read)
    for one, other in zip(source.samples, read.samples, strict=True):
        np.testing.assert_array_equal(one.label_maps, other.label_maps)
    assert len(read.test_images) == len(source.test_images)


def test_overlaps_crowds_negatives_and_odd_names_survive(tmp_path: Path) -> None:
    data = overlapping()
    write_coco(data, tmp_path)
    read = load_data(str(tmp_path), DataConfig(allow_suspicious=True))
    same(data, read)
    assert sorted(sample.name for sample in read.samples) == [
        "b/one.png", "b/one.tif.png", "none.png", "three.v2.png", "two.png",
    ]  # fmt: skip


def test_what_was_converted_converts_to_the_same_files(tmp_path: Path) -> None:
    write_coco(overlapping(), tmp_path / "once")
    converted(tmp_path / "once", tmp_path / "twice", "data.allow_suspicious=true")
    files = [path for path in (tmp_path / "once").rglob("*") if path.is_file()]
    assert len(files) == 6
    for path in files:
        twin = tmp_path / "twice" / path.relative_to(tmp_path / "once")
        assert twin.read_bytes() == path.read_bytes()


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools on NumPy 2
def test_pycocotools_reads_the_masks_of_the_file(tmp_path: Path) -> None:
    data = overlapping()
    write_coco(data, tmp_path)
    content = json.loads((tmp_path / "train" / "_annotations.coco.json").read_text())
    name = {image["id"]: image["file_name"] for image in content["images"]}
    assert len(content["annotations"]) == 16
    for annotation in content["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
        assert name[annotation["image_id"]] != "none.png"


def test_test_images_keep_their_ids_and_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    listed = [TestImage("", "slide.tif", 17, 20, 30, pixels)]
    data = assemble("cells", SCENE.classes, SCENE.samples, listed)
    write_coco(data, tmp_path)
    (image,) = load_data(str(tmp_path)).test_images
    assert (image.file_name, image.id, image.height, image.width) == ("slide.png", 17, 20, 30)
    np.testing.assert_array_equal(np.asarray(Image.open(image.path)), pixels)


def test_it_says_what_it_wrote_and_what_is_unusual(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source").mkdir()
    roboflow.write(tmp_path / "source", SCENE)
    assert main([str(tmp_path / "source"), str(tmp_path / "coco")]) == 0
    said = capsys.readouterr().out
    count = int(SCENE.instance_counts().sum())
    assert f"Wrote 7 images with {count} instances of 4 classes and 1 test image to" in said
    assert "Note: 1 of 7 images validate in the data set's own split" in said


@pytest.mark.parametrize(
    ("dest", "told"),
    [
        ("full", "the folder to write must be empty or not exist, and holds a.txt"),
        ("full/a.txt", "a folder is to be written, and this is a file"),
        ("source/coco", "the folder to write must lie outside the data set"),
    ],
)
def test_a_folder_that_must_not_be_written_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dest: str, told: str
) -> None:
    (tmp_path / "source").mkdir()
    qupath.write(tmp_path / "source", SCENE)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main([str(tmp_path / "source"), str(tmp_path / dest)]) == 2
    assert told in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_that_cannot_be_used_writes_nothing_unless_its_bad_parts_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source").mkdir()
    yolo.write(tmp_path / "source", SCENE)
    labels = tmp_path / "source" / "labels" / "val" / f"{SCENE.samples[-1].name}.txt"
    labels.write_text(f"{labels.read_text()}9 0 0 0 0 0 0\n")
    assert main([str(tmp_path / "source"), str(tmp_path / "coco")]) == 2
    assert "data.skip_bad=true" in capsys.readouterr().err
    assert not (tmp_path / "coco").exists()
    data = converted(tmp_path / "source", tmp_path / "coco", "data.skip_bad=true")
    assert data.instance_counts().sum() == SCENE.instance_counts().sum()


def test_no_name_leads_out_of_the_folder_that_is_written(tmp_path: Path) -> None:
    """On Linux a file may have a path of Windows as its name, and label images keep it."""
    (tmp_path / "source").mkdir()
    names = ["..\\..\\out", "\\out", "C:\\out", "b\\..\\..\\out"]
    for name, sample in zip(names, SCENE.samples, strict=False):
        Image.fromarray(sample.image).save(tmp_path / "source" / f"{name}.png")
        Image.fromarray(sample.label_maps[0]).save(tmp_path / "source" / f"{name}_masks.png")
    before = set(tmp_path.rglob("*"))
    read = converted(tmp_path / "source", tmp_path / "coco")
    assert {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before} == {
        "coco"
    }
    same(load_data(str(tmp_path / "source")), read)


@pytest.mark.parametrize("dest", [".", "../empty", "new/..", "link"])
def test_the_current_folder_and_a_link_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dest: str
) -> None:
    (tmp_path / "empty").mkdir()
    if dest == "link":
        (tmp_path / "target").mkdir()
        monkeypatch.chdir(tmp_path)
        (tmp_path / "link").symlink_to("target")
    else:
        monkeypatch.chdir(tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    assert main(["synthetic", dest]) == 2
    assert capsys.readouterr().err.startswith(f"{dest}: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("validating", [1, len(SCENE.samples)])
def test_a_part_without_instances_and_a_split_without_training_images_can_be_read_again(
    tmp_path: Path, validating: int
) -> None:
    first, *others = SCENE.samples
    negative = replace(
        first,
        label_maps=np.zeros((1, *first.size), np.uint16),
        labels_N=np.zeros(0, np.int64),
        crowd_N=np.zeros(0, np.bool_),
    )
    samples = [negative, *others]
    names = [sample.name for sample in samples[:validating]]
    write_coco(assemble("cells", SCENE.classes, samples, validation=names), tmp_path)
    data = load_data(str(tmp_path))
    assert len(data.samples) == len(samples)
    assert len(data.validation) == validating % len(samples)
