"""Laws of Roboflow's exports: all parts are read, and their own split is the one of seed 0."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.config import DataConfig
from core.data import inspect_data, list_images, load_data
from core.data.split import split
from core.data.synthetic import make_cells
from core.errors import DataError
from tests.core.data.exports import roboflow

SCENE = make_cells(images=6, side=64)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    roboflow.write(tmp_path, SCENE)
    return tmp_path


def change(path: Path, name: str, value: object) -> None:
    content = json.loads(path.read_text())
    content[name] = value
    path.write_text(json.dumps(content))


def test_training_and_validation_images_are_read_with_their_instances(export: Path) -> None:
    data = load_data(str(export))
    assert [category.name for category in data.classes] == [
        category.name for category in SCENE.classes
    ]
    for read, drawn in zip(data.samples, SCENE.samples, strict=True):
        assert read.name == roboflow.file_name(drawn)
        np.testing.assert_array_equal(read.image, drawn.image)
        np.testing.assert_array_equal(read.label_maps, drawn.label_maps)
        np.testing.assert_array_equal(read.labels_N, drawn.labels_N)


def test_seed_0_takes_the_own_split_and_says_so(export: Path) -> None:
    data = load_data(str(export))
    assert data.validation == (data.samples[5].name,)
    assert split(data, DataConfig()).validation == (5,)
    assert split(data, DataConfig(validation_fraction=0.5)).validation == (5,)
    assert any("1 of 6 images validate in the data set's own split" in note for note in data.notes)


def test_other_seeds_and_folds_draw_from_all_images(export: Path) -> None:
    data = load_data(str(export))
    drawn = {
        split(data, DataConfig(split_seed=seed, validation_fraction=0.5)).validation
        for seed in range(1, 6)
    }
    assert len(drawn) > 1
    folds = [split(data, DataConfig(folds=3, fold=fold)).validation for fold in range(3)]
    assert sorted(sum(folds, ())) == list(range(6))


def test_a_group_that_the_own_split_divides_is_refused_with_two_of_its_images(export: Path) -> None:
    data = load_data(str(export))
    # The sixth field is the third of the second slide, and validates alone.
    pattern = r"^(slide\d+)_"
    with pytest.raises(DataError, match=r"slide02_field1.*slide02_field3.*split_seed to another"):
        split(data, DataConfig(group_pattern=pattern))
    assert split(data, DataConfig(group_pattern=pattern, split_seed=1)).validation


def test_an_own_split_without_an_instance_in_one_part_is_refused(export: Path) -> None:
    file = export / "valid" / "_annotations.coco.json"
    change(file, "annotations", [])
    data = inspect_data(str(export)).dataset
    assert data is not None
    with pytest.raises(DataError, match=r"that of the data set's own split holds none"):
        split(data, DataConfig())


def test_the_fingerprint_depends_on_the_own_split(export: Path) -> None:
    before = load_data(str(export)).fingerprint
    (export / "valid").rename(export / "more")
    assert not load_data(str(export)).validation
    (export / "more").rename(export / "valid")
    (export / "train").rename(export / "other")
    (export / "valid").rename(export / "train")
    (export / "other").rename(export / "valid")
    exchanged = load_data(str(export))
    assert len(exchanged.validation) == 5
    assert exchanged.fingerprint != before


def test_test_images_are_listed_and_never_trained_on(export: Path) -> None:
    data = load_data(str(export))
    (image,) = data.test_images
    assert Path(image.path).parent.name == "test"
    assert list_images(str(export)) == data.test_images
    assert any("neither trained on nor scored" in note for note in data.notes)


def test_the_heading_of_all_categories_is_no_class_although_it_heads_two_parts(
    export: Path,
) -> None:
    notes = load_data(str(export)).notes
    assert sum("1 category without annotations" in note for note in notes) == 1


def test_parts_with_different_categories_are_refused(export: Path) -> None:
    file = export / "valid" / "_annotations.coco.json"
    change(file, "categories", [{"id": 1, "name": "nucleus"}])
    with pytest.raises(DataError, match=r"valid/_annotations\.coco\.json: the categories must be"):
        load_data(str(export))


def test_a_picture_in_two_parts_is_named_and_left_out_of_validation_when_asked(
    export: Path,
) -> None:
    file = export / "valid" / "_annotations.coco.json"
    images = json.loads(file.read_text())["images"]
    name = roboflow.file_name(SCENE.samples[0])
    change(file, "images", [*images, {**images[0], "id": 9, "file_name": name}])
    with pytest.raises(DataError, match=r"image 9: a picture must be in one part"):
        load_data(str(export))
    data = load_data(str(export), DataConfig(skip_bad=True))
    assert len(data.samples) == 6
    assert name not in data.validation


def test_one_bad_outline_is_named_by_file_and_id_and_skipped_when_asked(export: Path) -> None:
    file = export / "valid" / "_annotations.coco.json"
    annotations = json.loads(file.read_text())["annotations"]
    annotations[1]["segmentation"] = [[1, 1, 2, 2]]
    change(file, "annotations", annotations)
    with pytest.raises(DataError, match=r"valid/_annotations\.coco\.json, annotation 1: a polygon"):
        load_data(str(export))
    data = load_data(str(export), DataConfig(skip_bad=True))
    assert len(data.samples[5].labels_N) == len(SCENE.samples[5].labels_N) - 1


def test_components_that_are_split_keep_the_own_split(export: Path) -> None:
    data = load_data(str(export), DataConfig(split_components=True))
    assert split(data, DataConfig()).validation == (5,)
