"""Laws of label images beside their images: nothing lies there that is neither read nor named."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from core.config import DataConfig
from core.data import inspect_data, list_images, load_data
from core.errors import DataError
from tests.core.data.exports import cellpose, stardist
from tests.core.data.exports.export import SCENE

FIRST = SCENE.samples[0]


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in inspect_data(str(folder)).problems]


def save(folder: Path, image: str, mask: str) -> None:
    """Write SCENE with other names; NAME stands for that of a sample."""
    for sample in SCENE.samples:
        for name, pixels in ((image, sample.image), (mask, sample.label_maps[0])):
            path = folder / name.replace("NAME", sample.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".npy":
                np.save(path, pixels)
            elif path.suffix == ".tif":
                tifffile.imwrite(path, pixels)
            else:
                Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("NAME.tif", "NAME_masks.tif"),
        ("NAME_img.png", "NAME_masks.png"),
        ("train/NAME.png", "train/NAME_cp_masks.tif"),
        ("NAME.png", "NAME_masks.npy"),
        ("images/NAME.png", "masks/NAME.tif"),
        ("train/images/NAME.tif", "train/masks/NAME_mask.png"),
        ("images/NAME.png", "labels/NAME.npy"),
    ],
)
def test_images_and_label_images_are_paired_by_their_names(
    image: str, mask: str, tmp_path: Path
) -> None:
    save(tmp_path, image, mask)
    data = load_data(str(tmp_path))
    assert data.notes == ()
    for read, drawn in zip(data.samples, SCENE.samples, strict=True):
        assert read.name == drawn.name
        assert np.array_equal(read.image, drawn.image)
        assert np.array_equal(read.label_maps, drawn.label_maps)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda folder: (folder / f"{FIRST.name}_cp_masks.png").unlink(),
            f"{FIRST.name}.png: the image has no mask beside it; add NAME_masks.png",
        ),
        (
            lambda folder: (folder / f"{FIRST.name}.png").unlink(),
            f"{FIRST.name}_cp_masks.png: the mask has no image; add {FIRST.name}.tif",
        ),
        (
            lambda folder: Image.fromarray(FIRST.label_maps[0]).save(
                folder / f"{FIRST.name}_masks.png"
            ),
            f"{FIRST.name}_masks.png; remove the others",
        ),
        (
            lambda folder: Image.fromarray(FIRST.label_maps[0][1:]).save(
                folder / f"{FIRST.name}_cp_masks.png"
            ),
            "a mask must have the size of its image",
        ),
        (
            lambda folder: (folder / f"{FIRST.name}.mat").write_bytes(b"MATLAB 5.0"),
            f"{FIRST.name}.mat: the file is not read: a mask must be a label image",
        ),
    ],
)
def test_what_has_no_partner_or_too_many_is_named(
    change: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    cellpose.write(tmp_path)
    change(tmp_path)
    (problem,) = problems(tmp_path)
    assert told in problem


def test_a_label_image_saved_as_jpeg_is_refused_since_its_ids_are_lost(tmp_path: Path) -> None:
    save(tmp_path, "NAME.png", "NAME_masks.png")
    (tmp_path / f"{FIRST.name}_masks.png").unlink()
    Image.fromarray(FIRST.label_maps[0].astype(np.uint8)).save(tmp_path / f"{FIRST.name}_masks.jpg")
    (problem,) = problems(tmp_path)
    assert "a mask must keep its ids, and JPEG changes values at the edges of cells" in problem


def test_a_validation_part_is_that_of_the_data_sets_own_split(tmp_path: Path) -> None:
    stardist.write(tmp_path)
    (tmp_path / "test").rename(tmp_path / "val")
    (problem,) = problems(tmp_path)
    assert f"val/images/{FIRST.name}.tif: names of images must differ, and" in problem
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind / f"{FIRST.name}.tif").unlink()
    data = load_data(str(tmp_path))
    assert data.notes == ()
    assert data.validation == (FIRST.name,)
    assert [sample.name for sample in data.samples] == [one.name for one in SCENE.samples]


def test_masks_of_test_images_are_counted_and_not_read(tmp_path: Path) -> None:
    stardist.write(tmp_path)
    data = load_data(str(tmp_path))
    assert data.notes == (
        f"1 mask in {tmp_path / 'test'} not read: its images are only predicted on",
    )
    assert [image.file_name for image in data.test_images] == [f"images/{FIRST.name}.tif"]


def test_pictures_in_other_folders_beside_are_counted(tmp_path: Path) -> None:
    save(tmp_path, "images/NAME.png", "masks/NAME.png")
    (tmp_path / "more").mkdir()
    Image.fromarray(FIRST.image).save(tmp_path / "more" / "a.png")
    Image.fromarray(FIRST.image).save(tmp_path / "b.png")
    (note,) = load_data(str(tmp_path)).notes
    assert note == f"2 pictures elsewhere in {tmp_path} not read: b.png, more/a.png"
    Image.fromarray(FIRST.label_maps[0]).save(tmp_path / "more" / "a_masks.png")
    (problem,) = problems(tmp_path)
    assert problem.startswith(f"{tmp_path / 'more' / 'a_masks.png'}: the mask is not read, since")


def test_masks_of_one_value_are_called_semantic_and_split_when_that_is_asked_for(
    tmp_path: Path,
) -> None:
    for number in range(3):
        labels = np.zeros((64, 64), np.uint8)
        for row in range(4):
            labels[4 + 16 * row : 12 + 16 * row, 4 + 16 * number : 12 + 16 * number] = 255
            labels[4 + 16 * row : 12 + 16 * row, 52:60] = 255
        image = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        Image.fromarray(labels).save(tmp_path / f"{number}_masks.png")
    (problem,) = problems(tmp_path)
    assert "3 of 3 instances of cell are several pieces, 24 in all" in problem
    assert "(semantic masks); `--set data.split_components=true` makes each piece" in problem
    assert "(those that touch stay one)" in problem
    split = load_data(str(tmp_path), DataConfig(split_components=True))
    assert split.instance_counts().sum() == 24


def test_cellposes_own_file_is_not_unpickled_and_yields_to_an_exported_mask(
    tmp_path: Path,
) -> None:
    class Trap:
        """Writes a file as soon as something unpickles it."""

        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return open, (str(tmp_path / "sprung"), "w")

    for sample in SCENE.samples:
        Image.fromarray(sample.image).save(tmp_path / f"{sample.name}.png")
        content = {"masks": sample.label_maps[0], "trap": Trap()}
        np.save(tmp_path / f"{sample.name}_seg.npy", content, allow_pickle=True)  # type: ignore[arg-type]
    for problem in problems(tmp_path):
        assert "File, Save masks as PNG/tif" in problem
    assert not (tmp_path / "sprung").exists()
    assert pickle.dumps(Trap())
    save(tmp_path, "NAME.png", "NAME_masks.png")
    assert (
        "4 files NAME_seg.npy not read, because the label image"
        in load_data(str(tmp_path)).notes[0]
    )
    assert len(list_images(str(tmp_path))) == 4


def test_an_array_of_other_axes_or_of_texts_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "NAME.png", "NAME_masks.npy")
    path = tmp_path / f"{FIRST.name}_masks.npy"
    np.save(path, np.zeros((2, *FIRST.size), np.uint16))
    assert "must be an array of rows and columns, and this one is 2 x" in problems(tmp_path)[0]
    np.save(path, np.full(FIRST.size, "a"))
    assert "must be an array of whole numbers, and this one is of <U1" in problems(tmp_path)[0]
    np.save(path, np.full(FIRST.size, 0.5))
    assert "instance ids must be whole numbers" in problems(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "the file is damaged or cut off" in problems(tmp_path)[0]


def test_a_folder_of_masks_alone_is_listed_to_predict_on(tmp_path: Path) -> None:
    save(tmp_path, "images/NAME.png", "masks/NAME_masks.png")
    assert len(list_images(str(tmp_path / "images"))) == 4
    with pytest.raises(DataError, match=r"name .*/images"):
        list_images(str(tmp_path))


@pytest.mark.parametrize("image", ["NAME_flow_1.png", "rois_NAME_rois.png", "NAME_outlines.tif"])
def test_an_image_may_be_called_as_cellpose_calls_its_by_products(
    image: str, tmp_path: Path
) -> None:
    stem, suffix = image.split(".")
    save(tmp_path, image, f"{stem}_masks.{suffix}")
    data = load_data(str(tmp_path))
    assert len(data.samples) == len(SCENE.samples)
    assert data.notes == ()


def test_pictures_in_folders_of_the_images_are_noted(tmp_path: Path) -> None:
    save(tmp_path, "images/NAME.png", "masks/NAME.png")
    save(tmp_path, "images/more/NAME.png", "masks/more/NAME.png")
    (note,) = load_data(str(tmp_path)).notes
    assert note.startswith(f"8 pictures elsewhere in {tmp_path} not read: images/more/")


def test_validation_images_that_are_not_read_are_noted(tmp_path: Path) -> None:
    save(tmp_path / "train", "NAME.png", "NAME_masks.png")
    save(tmp_path / "val", "images/NAME.png", "elsewhere/NAME.png")
    (tmp_path / "val/images").rename(tmp_path / "val/pictures")
    for path in (tmp_path / "val/pictures").iterdir():
        path.rename(tmp_path / "val" / path.name)
    (note,) = load_data(str(tmp_path)).notes
    assert note == f"4 images in {tmp_path}/val not read, because no image there has a mask"
