"""Laws of one mask file per instance."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import inspect_data, list_images, load_data
from core.data.dataset import SLIPS
from core.errors import DataError
from tests.core.data.exports import dsb2018
from tests.core.data.exports.export import SCENE

FIRST = SCENE.samples[0]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of the first image of the export."""
    dsb2018.write(tmp_path)
    return tmp_path / "stage1_train" / FIRST.name


def problems(place: Path) -> list[str]:
    return [str(problem) for problem in inspect_data(str(place.parents[1])).problems]


def test_instances_that_overlap_keep_all_their_pixels(place: Path) -> None:
    mask = np.zeros(FIRST.size, np.uint8)
    mask[5:25, 5:30] = 255
    Image.fromarray(mask).save(place / "masks" / "0.png")
    read = load_data(str(place.parents[1])).samples[0]
    assert len(read.labels_N) == len(FIRST.labels_N) + 1
    assert np.array_equal((read.label_maps == 1).any(axis=0), mask > 0)


def test_an_image_with_an_empty_masks_folder_is_one_without_instances(place: Path) -> None:
    for mask in (place / "masks").iterdir():
        mask.unlink()
    assert len(load_data(str(place.parents[1])).samples[0].labels_N) == 0


def several_values(place: Path) -> None:
    Image.fromarray(FIRST.label_maps[0]).save(place / "masks" / "all.png")


def no_pixels(place: Path) -> None:
    Image.fromarray(np.zeros(FIRST.size, np.uint8)).save(place / "masks" / "none.png")


def jpeg(place: Path) -> None:
    Image.fromarray(np.zeros(FIRST.size, np.uint8)).save(place / "masks" / "a.jpg")


def no_masks(place: Path) -> None:
    (place / "masks").rename(place / "mask")


def two_images(place: Path) -> None:
    Image.fromarray(FIRST.image).save(place / "images" / "b.png")


def archive(place: Path) -> None:
    (place / "masks" / "more.zip").write_bytes(b"PK")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (several_values, "a mask file must hold one instance, 0 and one other value, and this one"),
        (no_pixels, "the mask holds no pixel of an instance; remove the file"),
        (jpeg, "a mask must keep its ids, and JPEG changes values"),
        (no_masks, "the image has no folder masks/; add it, empty if there is no cell"),
        (two_images, "images/ must hold one image, and holds b.png and"),
        (archive, "more.zip: the file is not read: images/ holds one image, masks/ one picture"),
    ],
)
def test_an_image_is_read_with_all_its_masks_or_named(
    change: Callable[[Path], None], told: str, place: Path
) -> None:
    change(place)
    (problem,) = problems(place)
    assert told in problem


def test_more_than_thirty_two_instances_at_one_place_are_refused(place: Path) -> None:
    mask = np.full(FIRST.size, 255, np.uint8)
    for number in range(33):
        Image.fromarray(mask).save(place / "masks" / f"0{number:02}.png")
    told = problems(place)
    assert 0 < len(told) <= SLIPS
    assert all("at most 32 instances may overlap at one place" in problem for problem in told)


def test_test_images_lie_in_folders_of_their_own(place: Path) -> None:
    folder = place.parents[1]
    (image,) = list_images(str(folder / "stage1_test"))
    assert image.file_name == "0f1f896d9ae5/images/0f1f896d9ae5.png"
    assert [one.path for one in load_data(str(folder)).test_images] == [image.path]
    with pytest.raises(DataError, match=r"name .*/stage1_test"):
        list_images(str(folder))


def test_a_folder_of_images_beside_those_that_are_read_is_noted(place: Path) -> None:
    root = place.parents[1]
    (root / "val").mkdir()
    place.rename(root / "val" / place.name)
    assert (
        f"1 image in {root}/val not read, because {place.parent} is" in load_data(str(root)).notes
    )
