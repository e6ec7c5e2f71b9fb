"""Laws of the COCO reader, with pycocotools as the oracle."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from core import rle
from core.data import coco, inspect, load
from core.data.synthetic import make
from core.errors import DataError

HEIGHT, WIDTH = 40, 56
RGB = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    runs, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            runs.append(0)
            value = bool(pixel)
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def document(*segmentations: Any, **more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 12, "name": "lymphocyte"}, {"id": 3, "name": "tumour"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 12, "iscrowd": 0, "segmentation": segmentation, **more}
            for number, segmentation in enumerate(segmentations, start=1)
        ],
    }


def write(folder: Path, content: Any, image: np.ndarray = RGB) -> Path:
    (folder / "train").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "train" / "a.png")
    path = folder / "train.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Polygons, both run-length encodings, overlaps, a crowd region and an image without annotations."""
    folder = tmp_path_factory.mktemp("rich")
    rng = np.random.default_rng(5)
    blob = rng.random((HEIGHT, WIDTH)) < 0.3
    disc = np.hypot(*np.ogrid[-20:20, -28:28]) < 11
    content = document(
        [SQUARE], [[12.5, 3, 50.25, 9, 20, 33.3], [0, 0, 6, 0, 0, 6]], compressed(disc), uncompressed(blob)
    )
    content["annotations"][1]["category_id"] = 3
    content["annotations"][3]["iscrowd"] = 1
    content["images"].append({"id": 2, "file_name": "empty.jpg", "height": HEIGHT, "width": WIDTH})
    write(folder, content)
    Image.fromarray(RGB).save(folder / "train" / "empty.jpg")
    return folder


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on NumPy 2
def test_every_instance_has_exactly_the_pixels_that_pycocotools_gives_it(rich: Path) -> None:
    oracle = COCO(rich / "train.json")
    data = load(str(rich))
    assert [(category.id, category.name) for category in data.classes] == [(3, "tumour"), (12, "lymphocyte")]
    assert [sample.name for sample in data.samples] == ["a.png", "empty.jpg"]
    sample, empty = data.samples
    np.testing.assert_array_equal(sample.image, RGB)
    assert sample.labels_N.tolist() == [2, 1, 2, 2]
    assert sample.crowd_N.tolist() == [False, False, False, True]
    for number in range(1, 5):
        in_maps = sample.label_maps == number
        np.testing.assert_array_equal(in_maps.any(axis=0), oracle.annToMask(oracle.anns[number]))
        assert np.count_nonzero(in_maps.any(axis=(1, 2))) == 1
    assert len(sample.label_maps) > 1
    assert empty.label_maps.shape == (1, HEIGHT, WIDTH)
    assert len(empty.labels_N) == 0


def test_the_same_cells_as_coco_and_as_synthetic_have_the_same_label_maps(tmp_path: Path) -> None:
    data = make(images=3, side=64)
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": category.id, "name": category.name} for category in data.classes],
    }
    for image_id, sample in enumerate(data.samples):
        height, width = sample.size
        tifffile.imwrite(tmp_path / "train2017" / f"{sample.name}.tif", sample.image)
        content["images"].append({"id": image_id, "file_name": f"{sample.name}.tif", "height": height, "width": width})
        for number, label in enumerate(sample.labels_N.tolist(), start=1):
            segmentation = compressed(sample.label_maps[0] == number)
            annotation = {"id": image_id * 100 + number, "image_id": image_id, "category_id": label}
            content["annotations"].append({**annotation, "segmentation": segmentation})
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    read = load(str(tmp_path))
    for sample, original in zip(read.samples, data.samples, strict=True):
        np.testing.assert_array_equal(sample.image, original.image)
        np.testing.assert_array_equal(sample.label_maps, original.label_maps)
        np.testing.assert_array_equal(sample.labels_N, original.labels_N)


@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12))
@settings(deadline=None)
def test_a_damaged_run_length_encoding_is_refused_or_decodes_to_its_runs(counts: str) -> None:
    segmentation = {"size": [4, 5], "counts": counts}
    try:
        mask = coco._mask(segmentation, 4, 5)
    except DataError:
        return
    runs = rle.runs(counts)
    assert sum(runs) == 20
    np.testing.assert_array_equal(mask.ravel(order="F"), np.repeat(np.arange(len(runs)) % 2 == 1, runs))


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        (None, "must be polygons or a run-length encoding, and is None"),
        ([], "and is empty; remove the annotation"),
        ([[1, 1, 1, 1, 1, 1]], "must cover at least one pixel, and covers none"),
        ([[1, 1, 5, 5]], "three points or more, and is [1, 1, 5, 5]"),
        ([[1, 1, 5, 5, 9]], "three points or more"),
        ([SQUARE, "x"], "three points or more, and is 'x'"),
        ([[1, 1, 5, 1, 5, 1e9]], "value 5 (counted from 0) is 1000000000.0"),
        ([[1, 1, 5, 1, 5, float("nan")]], "value 5 (counted from 0) is nan"),
        ([[1, 1, 5, 1, 5, True]], "value 5 (counted from 0) is True"),
        ({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, f"must have the image's size, [{HEIGHT}, {WIDTH}]"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "add up to the image's 2,240 pixels, and add up to 10"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]}, "the runs must be 0 or more"),
        ({"size": [HEIGHT, WIDTH], "counts": "55"}, "add up to the image's 2,240 pixels, and add up to 10"),
        ({"size": [HEIGHT, WIDTH], "counts": "zz"}, "holds 'z'"),
        ({"size": [HEIGHT, WIDTH], "counts": "5T"}, "ends inside a number"),
        ({"size": [HEIGHT, WIDTH], "counts": [0.5, 2]}, "a list of whole numbers or a compressed text"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "covers none"),
    ],
)
def test_an_annotation_that_is_no_mask_is_refused_by_its_id(tmp_path: Path, segmentation: Any, told: str) -> None:
    path = write(tmp_path, document([SQUARE], segmentation))
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}, annotation 2: ')}.*{re.escape(told)}"):
        load(str(tmp_path))


def changed(*where: str | int, to: Any) -> dict[str, Any]:
    content = copy.deepcopy(document([SQUARE], [SQUARE]))
    node: Any = content
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = to
    return content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (changed("annotations", 1, "id", to=1), "annotation 1 (counted from 0): ids must be unique, and 1 repeats one"),
        (changed("annotations", 1, "id", to="x"), "annotation 1 (counted from 0): annotation must be an object"),
        (changed("annotations", 1, to=5), "annotation 1 (counted from 0): annotation must be an object"),
        (changed("annotations", 1, "image_id", to=8), "annotation 2: image_id must be the id of an image, and is 8"),
        (changed("annotations", 1, "category_id", to=1), "category_id must be the id of a category, and is 1"),
        (changed("annotations", 1, "category_id", to=[]), "category_id must be the id of a category, and is []"),
        (changed("annotations", 1, "iscrowd", to=2), "iscrowd must be 0 or 1, and is 2"),
        (changed("categories", 1, "id", to=12), "category 1 (counted from 0): ids must be unique, and 12 repeats one"),
        (changed("categories", 1, "name", to=3), "category 3: its name must be a text, and is 3"),
        (changed("categories", to=[]), "there must be at least one category"),
        (changed("categories", to=None), "must hold the lists images, annotations, categories, and categories"),
        (changed("images", 0, "file_name", to=None), "image 7: its file_name must be a text of its own"),
        (changed("images", 0, "file_name", to="b.png"), "image 7: the file 'b.png' is not there; looked in"),
        (changed("images", 0, "file_name", to="../a.png"), "must stay inside the data folder, and is '../a.png'"),
        (changed("images", 0, "height", to=41), "is listed with 41 x 56 pixels (height x width), and has 40 x 56"),
        ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, "there must be at least one image"),
        ([], "must hold the lists"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(tmp_path: Path, content: Any, told: str) -> None:
    path = write(tmp_path, content)
    problems = [str(problem) for problem in inspect(str(tmp_path)).problems]
    assert any(told in problem for problem in problems), problems
    assert all(problem.startswith(str(path)) for problem in problems)
    with pytest.raises(DataError):
        load(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "\udcff"])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, {}).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"train\.json: the file is no JSON"):
        load(str(tmp_path))


def test_two_annotation_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for year in (2014, 2017):
        (tmp_path / "annotations" / f"instances_train{year}.json").write_text("{}")
    with pytest.raises(DataError, match=r"there are instances_train2014\.json, instances_train2017\.json"):
        load(str(tmp_path))


def test_images_may_lie_in_train_in_images_or_beside_the_file(tmp_path: Path) -> None:
    prints = set()
    for place in ("train", "images", "."):
        folder = tmp_path / f"in_{place.strip('.')}"
        write(folder, document([SQUARE]))
        (folder / place).mkdir(exist_ok=True)
        (folder / "train" / "a.png").rename(folder / place / "a.png")
        prints.add(load(str(folder)).fingerprint)
    assert len(prints) == 1


def test_test_images_are_listed_and_not_decoded(tmp_path: Path) -> None:
    write(tmp_path, document([SQUARE]))
    (tmp_path / "test").mkdir()
    Image.fromarray(RGB[:30]).save(tmp_path / "test" / "b.jpg")
    listed = [{"id": 4, "file_name": "b.jpg", "height": 30, "width": WIDTH}]
    (tmp_path / "test.json").write_text(json.dumps({"images": listed}))
    (image,) = load(str(tmp_path)).test_images
    assert (image.id, image.file_name, image.height, image.width) == (4, "b.jpg", 30, WIDTH)
    assert Path(image.path) == tmp_path / "test" / "b.jpg"
    listed[0]["file_name"] = "../train/a.png"
    (tmp_path / "test.json").write_text(json.dumps({"images": listed}))
    with pytest.raises(DataError, match=r"test\.json, image 0 \(counted from 0\): a file name must stay inside"):
        load(str(tmp_path))


def test_a_picture_is_turned_by_its_exif_unless_the_listed_size_is_that_of_the_stored_pixels(tmp_path: Path) -> None:
    write(tmp_path, document([SQUARE]))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "train" / "a.png"
    Image.fromarray(np.rot90(RGB)).save(path, exif=exif)
    np.testing.assert_array_equal(load(str(tmp_path)).samples[0].image, RGB)
    Image.fromarray(RGB).save(path, exif=exif)
    np.testing.assert_array_equal(load(str(tmp_path)).samples[0].image, RGB)


def test_palette_grey_and_rgba_pngs_become_rgb(tmp_path: Path) -> None:
    write(tmp_path, document([SQUARE]))
    path = tmp_path / "train" / "a.png"
    Image.fromarray(np.dstack([RGB, RGB[:, :, 0]])).save(path)
    np.testing.assert_array_equal(load(str(tmp_path)).samples[0].image, RGB)
    Image.fromarray(RGB[:, :, 0]).save(path)
    np.testing.assert_array_equal(load(str(tmp_path)).samples[0].image, np.repeat(RGB[:, :, :1], 3, axis=2))
    palette = Image.fromarray(RGB // 64 * 64).quantize(64)
    palette.save(path)
    np.testing.assert_array_equal(load(str(tmp_path)).samples[0].image, np.asarray(palette.convert("RGB")))


def test_sixteen_bit_and_cmyk_pictures_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, document([SQUARE]))
    path = tmp_path / "train" / "a.png"
    Image.fromarray(RGB[:, :, 0].astype(np.uint16)).save(path)
    with pytest.raises(DataError, match=r"a\.png: images must have 8 bits a channel, and this one has 16"):
        load(str(tmp_path))
    Image.fromarray(RGB).convert("CMYK").save(path, format="JPEG")
    with pytest.raises(DataError, match=r"a\.png: an image must be grey, RGB or RGBA, and this one is CMYK"):
        load(str(tmp_path))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_picture_is_refused(tmp_path: Path, kind: str) -> None:
    write(tmp_path, document([SQUARE]))
    path = tmp_path / "train" / "a.png"
    Image.fromarray(RGB).save(path, format=kind)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 200, len(whole) // 20):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.png: (the file is (damaged|empty)|an image must be a TIFF)"):
            load(str(tmp_path))
