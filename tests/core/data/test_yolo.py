"""Laws of YOLO's segmentation labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from core.config import DataConfig
from core.data import inspect_data, load_data
from core.data.split import split
from core.data.synthetic import make_cells
from core.errors import DataError
from tests.core.data.exports import yolo

SCENE = make_cells(images=4, side=64)
FIRST = f"labels/train/{SCENE.samples[0].name}.txt"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    yolo.write(tmp_path, SCENE)
    return tmp_path


def describe(folder: Path, **changes: object) -> None:
    description = yaml.safe_load((folder / "data.yaml").read_text())
    (folder / "data.yaml").write_text(yaml.safe_dump({**description, **changes}))


def test_polygons_are_read_with_their_instances_and_classes(export: Path) -> None:
    data = load_data(str(export))
    assert [(category.id, category.name) for category in data.classes] == [
        (number, f"class{number + 1}") for number in range(4)
    ]
    for read, drawn in zip(data.samples, SCENE.samples, strict=True):
        assert read.name == f"{drawn.name}.png"
        np.testing.assert_array_equal(read.image, drawn.image)
        np.testing.assert_array_equal(read.label_maps, drawn.label_maps)
        np.testing.assert_array_equal(read.labels_N, drawn.labels_N)


def test_val_is_the_own_split_and_test_is_noted_as_not_read(export: Path) -> None:
    data = load_data(str(export))
    assert split(data, DataConfig()).validation == (3,)
    assert any("images/test is not read" in note for note in data.notes)


def roboflow(folder: Path) -> None:
    for part, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        (folder / name).mkdir()
        for kind in ("images", "labels"):
            (folder / kind / part).rename(folder / name / kind)
    for kind in ("images", "labels"):
        (folder / kind).rmdir()
    names = [category.name for category in SCENE.classes]
    describe(folder, path="", train="../train/images", val="../valid/images", names=names)


def cvat(folder: Path) -> None:
    for part in ("train", "val"):
        images = sorted((folder / "images" / part).iterdir())
        lines = [f"data/images/{part}/{image.name}\n" for image in images]
        (folder / f"{part}.txt").write_text("".join(lines))
    describe(folder, path=".", train="train.txt", val="val.txt")


def other_machine(folder: Path) -> None:
    describe(folder, path=None, train="/home/me/cells/images/train", val=["C:\\cells\\images\\val"])


@pytest.mark.parametrize("layout", [roboflow, cvat, other_machine])
def test_other_tools_lay_it_out_otherwise_and_it_is_read_the_same(
    export: Path, layout: Callable[[Path], None]
) -> None:
    before = load_data(str(export))
    layout(export)
    assert load_data(str(export)).fingerprint == before.fingerprint


def test_an_export_without_parts_has_its_names_in_classes_txt(export: Path) -> None:
    for kind in ("images", "labels"):
        for part in ("train", "val"):
            for file in (export / kind / part).iterdir():
                file.rename(export / kind / file.name)
        for file in (export / kind / "test").iterdir():
            file.unlink()
    (export / "data.yaml").unlink()
    (export / "classes.txt").write_text("class1\nclass2\nclass3\nclass4\n")
    data = load_data(str(export))
    assert not data.validation
    assert [len(sample.labels_N) for sample in data.samples] == [
        len(sample.labels_N) for sample in SCENE.samples
    ]


def test_images_without_a_label_file_are_negatives_and_noted(export: Path) -> None:
    (export / FIRST).unlink()
    data = load_data(str(export))
    assert len(data.samples[0].labels_N) == 0
    assert any("1 image without a label file, so without instances" in note for note in data.notes)


def test_boxes_are_refused_with_what_was_seen(export: Path) -> None:
    for file in (export / "labels").rglob("*.txt"):
        lines = file.read_text().splitlines()
        file.write_text("".join(f"{line.split()[0]} 0.5 0.5 0.1 0.1\n" for line in lines))
    with pytest.raises(DataError, match=r"are boxes without outlines, as for object detection"):
        load_data(str(export))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 0.5 0.5 0.1 0.1", "this one has only a bbox"),
        ("4 0.1 0.1 0.2 0.1 0.2 0.2", "names, 0, 1, 2, 3, and begins with '4'"),
        ("x 0.1 0.1 0.2 0.1 0.2 0.2", "and begins with 'x'"),
        ("0 0.1 0.1 0.2 0.1 0.2", "three corners or more after its class, and holds 5 numbers"),
        ("0 0.1 0.1 0.2 y 0.2 0.2", "must hold numbers after its class"),
        ("0 10 10 20 10 20 20", "must be fractions of the image, from 0 to 1, and one is 10"),
        ("0 nan 0.1 0.2 0.1 0.2 0.2", "and one is nan"),
        ("0 0.1 0.1 0.1 0.1 0.1 0.1", "must cover at least one pixel"),
    ],
)
def test_one_bad_line_is_named_and_left_out_when_asked(export: Path, line: str, told: str) -> None:
    before = load_data(str(export)).instance_counts().sum()
    with (export / FIRST).open("a") as stream:
        stream.write(line + "\n")
    number = len((export / FIRST).read_text().splitlines())
    with pytest.raises(DataError) as refused:
        load_data(str(export))
    assert f"{export / FIRST}, line {number}: " in str(refused.value)
    assert told in str(refused.value)
    data = load_data(str(export), DataConfig(skip_bad=True))
    assert data.instance_counts().sum() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "must hold names, train and val, and is None"),
        ("names: [", "the file is not YAML"),
        ("train: images/train", "names must be a list of the classes' names, each its own"),
        ("names: [a, a]\ntrain: images/train", "names must be a list of the classes' names"),
        ("names: [a]\ntrain: ../../elsewhere", "'../../elsewhere' is not there; name it relative"),
        ("names: [a]\ntrain: 3", "and 3 is not there"),
        ("names: [a]\ntrain: data.yaml", "must be a folder of the data set or a .txt file"),
    ],
)
def test_a_bad_description_is_refused(export: Path, content: str, told: str) -> None:
    (export / "data.yaml").write_text(content)
    with pytest.raises(DataError) as refused:
        load_data(str(export))
    assert str(refused.value).startswith(f"{export}/data.yaml: ")
    assert told in str(refused.value)


def test_images_outside_the_folder_are_not_read(
    export: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    yolo.write(elsewhere, SCENE)
    describe(export, train=str(elsewhere / "images" / "unknown"))
    with pytest.raises(DataError, match="is not there"):
        load_data(str(export))


def test_an_image_in_two_parts_is_refused(export: Path) -> None:
    describe(export, val="images/train")
    with pytest.raises(DataError, match="an image must be in one part, and is in train and val"):
        load_data(str(export))


def test_images_that_share_a_label_file_are_refused_by_name(export: Path) -> None:
    image = next((export / "images/train").glob(f"{SCENE.samples[0].name}.*"))
    twin = image.with_suffix(".jpg")
    Image.open(image).save(twin)
    problems = {problem.place: problem.message for problem in inspect_data(str(export)).problems}
    assert problems.keys() == {str(image), str(twin)}
    assert problems[str(image)].startswith(
        f"an image must have a label file of its own, and {twin.name} has {FIRST} as well"
    )
    left = load_data(str(export), DataConfig(skip_bad=True))
    assert len(left.samples) == len(SCENE.samples) - 1
    (export / FIRST).unlink()  # two images without cells
    assert len(load_data(str(export)).samples) == len(SCENE.samples) + 1


def test_labels_without_an_image_are_noted(export: Path) -> None:
    image = next((export / "images/train").glob(f"{SCENE.samples[0].name}.*"))
    image.rename(image.with_suffix(".webp"))
    (export / "labels/classes.txt").write_text("a")
    notes = load_data(str(export)).notes
    assert f"1 label file whose image is in no part, left out: {FIRST}" in notes
