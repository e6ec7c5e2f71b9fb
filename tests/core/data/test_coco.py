"""Laws of the COCO reader, with pycocotools as the oracle."""

import copy
import json
import re
import time
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

from core.config import DataConfig
from core.data import inspect_data, load_data
from core.data.coco_masks import mask_of
from core.data.synthetic import make_cells
from core.errors import DataError
from core.labels import rle

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
            {
                "id": number,
                "image_id": 7,
                "category_id": 12,
                "iscrowd": 0,
                "segmentation": segmentation,
                **more,
            }
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
    """Polygons, both run-length encodings, overlaps, a crowd region and an image without
    annotations.
    """
    folder = tmp_path_factory.mktemp("rich")
    rng = np.random.default_rng(5)
    blob = rng.random((HEIGHT, WIDTH)) < 0.3
    disc = np.hypot(*np.ogrid[-20:20, -28:28]) < 11
    content = document(
        [SQUARE],
        [[12.5, 3, 50.25, 9, 20, 33.3], [0, 0, 6, 0, 0, 6]],
        compressed(disc),
        uncompressed(blob),
    )
    content["annotations"][1]["category_id"] = 3
    content["annotations"][3]["iscrowd"] = 1
    content["images"].append({"id": 2, "file_name": "empty.jpg", "height": HEIGHT, "width": WIDTH})
    write(folder, content)
    Image.fromarray(RGB).save(folder / "train" / "empty.jpg")
    return folder


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools on NumPy 2
def test_every_instance_has_exactly_the_pixels_that_pycocotools_gives_it(rich: Path) -> None:
    oracle = COCO(rich / "train.json")
    data = load_data(str(rich))
    assert [(category.id, category.name) for category in data.classes] == [
        (3, "tumour"),
        (12, "lymphocyte"),
    ]
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
    data = make_cells(images=3, side=64)
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
        content["images"].append(
            {"id": image_id, "file_name": f"{sample.name}.tif", "height": height, "width": width}
        )
        for number, label in enumerate(sample.labels_N.tolist(), start=1):
            segmentation = compressed(sample.label_maps[0] == number)
            annotation = {"id": image_id * 100 + number, "image_id": image_id, "category_id": label}
            content["annotations"].append({**annotation, "segmentation": segmentation})
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    read = load_data(str(tmp_path))
    for sample, original in zip(read.samples, data.samples, strict=True):
        np.testing.assert_array_equal(sample.image, original.image)
        np.testing.assert_array_equal(sample.label_maps, original.label_maps)
        np.testing.assert_array_equal(sample.labels_N, original.labels_N)


@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12))
@settings(deadline=None)
def test_a_damaged_run_length_encoding_is_refused_or_decodes_to_its_runs(counts: str) -> None:
    segmentation = {"size": [4, 5], "counts": counts}
    try:
        crop = mask_of(segmentation, 4, 5)
    except DataError:
        return
    runs = rle.decode_runs(counts)
    assert sum(runs) == 20
    mask = np.zeros((4, 5), np.bool_)
    h, w = crop.pixels.shape
    mask[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    np.testing.assert_array_equal(
        mask.ravel(order="F"), np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    )


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
        (
            {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
            f"must have the image's size, [{HEIGHT}, {WIDTH}]",
        ),
        (
            {"size": [HEIGHT, WIDTH], "counts": [5, 5]},
            "add up to the image's 2,240 pixels, and add up to 10",
        ),
        (
            {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]},
            "the runs must be 0 or more",
        ),
        (
            {"size": [HEIGHT, WIDTH], "counts": "55"},
            "add up to the image's 2,240 pixels, and add up to 10",
        ),
        ({"size": [HEIGHT, WIDTH], "counts": "zz"}, "holds 'z'"),
        ({"size": [HEIGHT, WIDTH], "counts": "5T"}, "ends inside a number"),
        (
            {"size": [HEIGHT, WIDTH], "counts": [0.5, 2]},
            "a list of whole numbers or a compressed string",
        ),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "covers none"),
    ],
)
def test_an_annotation_that_is_no_mask_is_refused_by_its_id(
    tmp_path: Path, segmentation: Any, told: str
) -> None:
    path = write(tmp_path, document([SQUARE], segmentation))
    with pytest.raises(
        DataError, match=f"^{re.escape(f'{path}, annotation 2: ')}.*{re.escape(told)}"
    ):
        load_data(str(tmp_path))


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
        (
            changed("annotations", 1, "id", to="x"),
            "annotation 1 (counted from 0): annotation must be an object",
        ),
        (
            changed("annotations", 1, to=5),
            "annotation 1 (counted from 0): annotation must be an object",
        ),
        (
            changed("annotations", 1, "image_id", to=8),
            "annotation 2: image_id must be the id of an image, and is 8",
        ),
        (
            changed("annotations", 1, "category_id", to=1),
            "category_id must be the id of a category, and is 1",
        ),
        (
            changed("annotations", 1, "category_id", to=[]),
            "category_id must be the id of a category, and is []",
        ),
        (changed("annotations", 1, "iscrowd", to=2), "iscrowd must be 0 or 1, and is 2"),
        (
            changed("categories", 1, "id", to=12),
            "category 1 (counted from 0): ids must be unique, and 12 repeats one",
        ),
        (changed("categories", 1, "name", to=3), "category 3: its name must be a string, and is 3"),
        (changed("categories", to=[]), "there must be at least one category"),
        (
            changed("categories", to=None),
            "must hold the lists images, annotations, categories, and categories",
        ),
        (
            changed("images", 0, "file_name", to=None),
            "image 7: its file_name must be a string of its own",
        ),
        (
            changed("images", 0, "file_name", to="b.png"),
            "image 7: the file 'b.png' is not there; looked in",
        ),
        (
            changed("images", 0, "file_name", to="../a.png"),
            "must stay inside the data folder, and is '../a.png'",
        ),
        (
            changed("images", 0, "height", to=41),
            (
                "is listed with 41 x 56 pixels (height x width), and has 40 x 56; bring the picture"
                " that was annotated"
            ),
        ),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
            "there must be at least one image",
        ),
        ([], "must hold the lists"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(tmp_path: Path, content: Any, told: str) -> None:
    path = write(tmp_path, content)
    problems = [str(problem) for problem in inspect_data(str(tmp_path)).problems]
    assert any(told in problem for problem in problems), problems
    assert all(problem.startswith(str(path)) for problem in problems)
    with pytest.raises(DataError):
        load_data(str(tmp_path))


def test_a_position_counts_the_entries_that_cannot_be_used(tmp_path: Path) -> None:
    content = changed("categories", 1, "id", to=12)
    content["categories"].insert(0, {"name": "without an id"})
    write(tmp_path, content)
    places = [problem.place for problem in inspect_data(str(tmp_path)).problems]
    assert [place.partition(", ")[2] for place in places] == [
        "category 0 (counted from 0)",
        "category 2 (counted from 0)",
    ]


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "\udcff"])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, {}).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"train\.json: the file is not JSON"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (("instances_train2014", "instances_train2017"), "one annotations/instances_train*.json"),
        (("first", "second"), "one file of annotations"),
    ],
)
def test_two_annotation_files_are_refused_by_name_and_place(
    tmp_path: Path, names: tuple[str, str], rule: str
) -> None:
    (tmp_path / "annotations").mkdir()
    for name in names:
        lists = '{"images": [], "annotations": [], "categories": []}'
        (tmp_path / "annotations" / f"{name}.json").write_text(lists)
    (problem,) = inspect_data(str(tmp_path)).problems
    assert str(problem).startswith(f"{tmp_path}: {rule} is read, and there are ")
    assert all(f"{name}.json" in problem.message for name in names)
    assert str(problem).count(str(tmp_path)) == 1


def test_images_may_lie_in_train_in_images_or_beside_the_file(tmp_path: Path) -> None:
    prints = set()
    for place in ("train", "images", "."):
        folder = tmp_path / f"in_{place.strip('.')}"
        write(folder, document([SQUARE]))
        (folder / place).mkdir(exist_ok=True)
        (folder / "train" / "a.png").rename(folder / place / "a.png")
        prints.add(load_data(str(folder)).fingerprint)
    assert len(prints) == 1


def test_test_images_are_listed_and_not_decoded(tmp_path: Path) -> None:
    write(tmp_path, document([SQUARE]))
    (tmp_path / "test").mkdir()
    Image.fromarray(RGB[:30]).save(tmp_path / "test" / "b.jpg")
    listed = [{"id": 4, "file_name": "b.jpg", "height": 30, "width": WIDTH}]
    (tmp_path / "test.json").write_text(json.dumps({"images": listed}))
    (image,) = load_data(str(tmp_path)).test_images
    assert (image.id, image.file_name, image.height, image.width) == (4, "b.jpg", 30, WIDTH)
    assert Path(image.path) == tmp_path / "test" / "b.jpg"
    listed[0]["file_name"] = "../train/a.png"
    (tmp_path / "test.json").write_text(json.dumps({"images": listed}))
    with pytest.raises(
        DataError, match=r"test\.json, image 0 \(counted from 0\): a file name must stay inside"
    ):
        load_data(str(tmp_path))


def test_a_listed_test_image_that_prediction_would_refuse_is_refused_with_the_data_set(
    tmp_path: Path,
) -> None:
    write(tmp_path, document([SQUARE]))
    (tmp_path / "test").mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(tmp_path / "test" / "b.png")
    (tmp_path / "test.json").write_text(json.dumps({"images": [{"id": 4, "file_name": "b.png"}]}))
    with pytest.raises(
        DataError, match=r"b\.png: the image has more than 8 bits a channel, and the annotated"
    ):
        load_data(str(tmp_path))


def test_a_picture_is_turned_by_its_exif_unless_the_listed_size_is_that_of_the_stored_pixels(
    tmp_path: Path,
) -> None:
    write(tmp_path, document([SQUARE]))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "train" / "a.png"
    Image.fromarray(np.rot90(RGB)).save(path, exif=exif)
    np.testing.assert_array_equal(load_data(str(tmp_path)).samples[0].image, RGB)
    Image.fromarray(RGB).save(path, exif=exif)
    np.testing.assert_array_equal(load_data(str(tmp_path)).samples[0].image, RGB)


def test_palette_grey_and_rgba_pngs_become_rgb(tmp_path: Path) -> None:
    write(tmp_path, document([SQUARE]))
    path = tmp_path / "train" / "a.png"
    Image.fromarray(np.dstack([RGB, RGB[:, :, 0]])).save(path)
    np.testing.assert_array_equal(load_data(str(tmp_path)).samples[0].image, RGB)
    Image.fromarray(RGB[:, :, 0]).save(path)
    np.testing.assert_array_equal(
        load_data(str(tmp_path)).samples[0].image, np.repeat(RGB[:, :, :1], 3, axis=2)
    )
    palette = Image.fromarray(RGB // 64 * 64).quantize(64)
    palette.save(path)
    np.testing.assert_array_equal(
        load_data(str(tmp_path)).samples[0].image, np.asarray(palette.convert("RGB"))
    )


def test_cmyk_pictures_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, document([SQUARE]))
    path = tmp_path / "train" / "a.png"
    Image.fromarray(RGB).convert("CMYK").save(path, format="JPEG")
    with pytest.raises(
        DataError, match=r"a\.png: an image must be grey, RGB or RGBA, and this one is CMYK"
    ):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("orientation", "height", "width", "listed", "noted"),
    [
        (6, 40, 40, True, True),
        (8, 40, 40, False, True),
        (3, 40, 56, True, True),
        (2, 40, 56, True, True),
        (6, 40, 56, False, True),
        (6, 40, 56, True, False),
        (1, 40, 40, True, False),
        (9, 40, 40, False, False),
    ],
)
def test_where_no_size_tells_whether_annotations_were_drawn_on_the_turned_picture_it_is_noted(
    tmp_path: Path, orientation: int, height: int, width: int, listed: bool, noted: bool
) -> None:
    stored = (
        RGB[:height, :width]
        if orientation < 5 or height == width
        else np.ascontiguousarray(np.rot90(RGB))
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = document([SQUARE])
    content["images"] = [{"id": 7, "file_name": "a.png", "height": height, "width": width}]
    if not listed:
        content["images"] = [{"id": 7, "file_name": "a.png"}]
    write(tmp_path, content)
    Image.fromarray(stored).save(tmp_path / "train" / "a.png", exif=exif)
    notes = load_data(str(tmp_path)).notes
    assert (
        any(note.startswith("1 image is turned as EXIF says, and no size tells") for note in notes)
        == noted
    )
    assert (
        not noted
        or "a.png; look at it, and where they were not, remove the orientation" in " ".join(notes)
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_picture_is_refused(tmp_path: Path, kind: str) -> None:
    write(tmp_path, document([SQUARE]))
    path = tmp_path / "train" / "a.png"
    Image.fromarray(RGB).save(path, format=kind)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 200, len(whole) // 20):
        path.write_bytes(whole[:length])
        with pytest.raises(
            DataError, match=r"a\.png: (the file is (damaged|empty)|an image must be a TIFF)"
        ):
            load_data(str(tmp_path))


def many_cells(
    folder: Path, change: Any = None, images: int = 5, side: tuple[int, int] = (96, 128)
) -> Path:
    """Images of six cells each, in polygons with their bbox, as an annotation tool writes them."""
    height, width = side
    (folder / "train").mkdir(parents=True)
    angle = np.arange(16) * np.pi / 8
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "nucleus"}],
    }
    for image in range(images):
        rng = np.random.default_rng(image)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"picture {image:02d}.png")
        content["images"].append(
            {
                "id": image + 1,
                "file_name": f"picture {image:02d}.png",
                "height": height,
                "width": width,
            }
        )
        for cell in range(6):
            row, column = divmod(cell, 3)
            x = width * (2 * column + 1) / 6 + rng.uniform(-3, 3)
            y = height * (2 * row + 1) / 4 + rng.uniform(-3, 3)
            a, b = rng.uniform(6, 9, 2)
            corners = (
                np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], 1)
                .round(2)
                .ravel()
                .tolist()
            )
            box = [x - a, y - b, 2 * a, 2 * b]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1, "image_id": image + 1, "category_id": 1,
                    "iscrowd": 0, "segmentation": [corners], "bbox": box, "area": box[2] * box[3],
                }
            )  # fmt: skip
    if change is not None:
        change(content)
    path = folder / "train.json"
    path.write_text(json.dumps(content))
    return path


def each(key: str, **new: Any) -> Any:
    """A change of all entries: values, or functions of the entry."""

    def change(content: dict[str, Any]) -> None:
        for entry in content[key]:
            entry.update(
                {name: value(entry) if callable(value) else value for name, value in new.items()}
            )

    return change


def messages(folder: Path, **settings: Any) -> list[str]:
    return [
        problem.message
        for problem in inspect_data(str(folder), DataConfig.model_validate(settings)).problems
    ]


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as refused:
        load_data(str(folder), DataConfig.model_validate(settings))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def plain(folder: Path) -> str:
    """The fingerprint of the same cells as they should be written."""
    many_cells(folder)
    return load_data(str(folder)).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        each("images", id=lambda entry: str(entry["id"])),
        each("annotations", image_id=lambda entry: str(entry["image_id"]), category_id="1"),
        each("annotations", id=lambda entry: float(entry["id"]), image_id=lambda entry: float(entry["image_id"])),
        each("categories", id=1.0),
        each("images", height=None, width=None),
        each("images", height=0, width=0),
        each("images", height="96", width=128.0),
        each("annotations", iscrowd=None),
        each("annotations", iscrowd=False),
        each("annotations", segmentation=lambda entry: entry["segmentation"][0]),
        each("annotations", bbox=None, area=None),
    ],
    ids=[
        "image ids are texts", "references are texts", "ids are floats", "category ids are floats",
        "sizes are null", "sizes are 0", "sizes are texts", "iscrowd is null", "iscrowd is false",
        "a polygon without its list", "no bbox",
    ],
)  # fmt: skip
def test_what_tools_write_otherwise_is_read_the_same(tmp_path: Path, change: Any) -> None:
    many_cells(tmp_path / "other", change)
    assert load_data(str(tmp_path / "other")).fingerprint == plain(tmp_path / "plain")


def test_paths_of_windows_are_found(tmp_path: Path) -> None:
    many_cells(tmp_path, each("images", file_name=lambda entry: "train\\" + entry["file_name"]))
    assert load_data(str(tmp_path)).instance_counts().sum() == 30


def test_sizes_that_are_left_out_are_taken_from_the_images(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            del image["height"], image["width"]

    many_cells(tmp_path / "other", change)
    assert load_data(str(tmp_path / "other")).fingerprint == plain(tmp_path / "plain")


def test_annotation_ids_that_repeat_are_noted_and_all_are_used(tmp_path: Path) -> None:
    many_cells(tmp_path / "other", each("annotations", id=lambda entry: entry["id"] % 6))
    data = load_data(str(tmp_path / "other"))
    assert data.instance_counts().sum() == 30
    assert "24 annotations with an id that another one has; all are used" in data.notes


def test_one_polygon_without_a_pixel_is_named_and_left_out_when_asked(tmp_path: Path) -> None:
    path = many_cells(
        tmp_path,
        lambda content: content["annotations"][3].update(segmentation=[[5, 5, 5, 5, 5, 5]]),
    )
    told = refusal(tmp_path)
    assert told.startswith(f"{path}, annotation 4: segmentation must cover at least one pixel")
    assert "`--set data.skip_bad=true` skips and counts" in told
    data = load_data(str(tmp_path), DataConfig(skip_bad=True))
    assert data.instance_counts().sum() == 29
    assert data.notes == (
        (
            f"data.skip_bad: 1 skipped; {path}, annotation 4: segmentation must cover at least one"
            " pixel, and covers none; remove the annotation"
        ),
    )


def test_a_missing_image_is_left_out_when_asked(tmp_path: Path) -> None:
    many_cells(tmp_path)
    (tmp_path / "train" / "picture 02.png").unlink()
    assert "'picture 02.png' is not there" in refusal(tmp_path)
    data = load_data(str(tmp_path), DataConfig(skip_bad=True))
    assert [sample.name for sample in data.samples] == [
        f"picture {number:02d}.png" for number in (0, 1, 3, 4)
    ]


def test_a_data_set_that_is_mostly_bad_is_not_skipped_to_its_rest(tmp_path: Path) -> None:
    path = many_cells(tmp_path)
    content = json.loads(path.read_text())
    for annotation in content["annotations"][2:]:
        annotation["segmentation"] = [[5, 5, 5, 5, 5, 5]]
    path.write_text(json.dumps(content))
    for told in (refusal(tmp_path), refusal(tmp_path, skip_bad=True)):
        assert "covers none" in told
        assert "data.skip_bad" not in told


@pytest.mark.parametrize("segmentation", [[], None])
def test_boxes_without_outlines_are_one_sentence(tmp_path: Path, segmentation: Any) -> None:
    path = many_cells(tmp_path, each("annotations", segmentation=segmentation))
    (problem,) = inspect_data(str(tmp_path)).problems
    assert str(problem).startswith(
        f"{path}: 30 of 30 annotations are boxes without outlines, as for object detection"
    )
    assert "export polygons or masks" in str(problem)


def test_one_box_among_outlines_is_its_own_problem(tmp_path: Path) -> None:
    path = many_cells(tmp_path, lambda content: content["annotations"][3].update(segmentation=[]))
    (problem,) = inspect_data(str(tmp_path)).problems
    assert problem.place == f"{path}, annotation 4"
    assert problem.skippable
    assert load_data(str(tmp_path), DataConfig(skip_bad=True)).instance_counts().sum() == 29


def fractions(entry: dict[str, Any]) -> list[list[float]]:
    return [
        [
            value / (96 if position % 2 else 128)
            for position, value in enumerate(entry["segmentation"][0])
        ]
    ]


def test_coordinates_that_are_fractions_of_the_image_are_called_that(tmp_path: Path) -> None:
    many_cells(tmp_path, each("annotations", segmentation=fractions))
    problems = inspect_data(str(tmp_path)).problems
    assert len(problems) == 30
    assert len({problem.cause for problem in problems}) == 1
    assert "look like fractions of the image" in problems[0].message
    assert "data.skip_bad" not in refusal(tmp_path, skip_bad=True)


def exchanged(entry: dict[str, Any]) -> list[list[float]]:
    corners = entry["segmentation"][0]
    return [[corners[position + 1 - 2 * (position % 2)] for position in range(len(corners))]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (each("annotations", segmentation=exchanged), "x and y look exchanged"),
        (
            each(
                "annotations",
                segmentation=lambda entry: [[value / 2 for value in entry["segmentation"][0]]],
            ),
            "made for an image of another size",
        ),
    ],
)
def test_masks_that_are_not_where_their_own_bbox_is_are_suspected(
    tmp_path: Path, change: Any, told: str
) -> None:
    path = many_cells(tmp_path, change, side=(128, 128))
    (problem,) = inspect_data(str(tmp_path)).problems
    assert problem.place == str(path)
    assert " of 30 annotations have a bbox that is not where their mask is" in problem.message
    assert told in problem.message
    assert "data.allow_suspicious=true" in problem.message
    assert load_data(str(tmp_path), DataConfig(allow_suspicious=True)).instance_counts().sum() == 30


@pytest.mark.parametrize("change", [{}, {"bbox": None}, {"area": 1}])
def test_outlines_beside_the_image_put_the_whole_file_in_doubt_in_one_sentence(
    tmp_path: Path, change: Any
) -> None:
    path = many_cells(
        tmp_path, each("annotations", segmentation=exchanged, **change), side=(96, 160)
    )
    found = inspect_data(str(tmp_path))
    (told,) = found.problems
    assert found.dataset is None or found.dataset.notes == ()
    assert re.match(
        r"1\d of 30 annotations lie outside their image, so the others may be wrong",
        told.message,
    )
    assert "x and y are exchanged" in told.message
    assert (told.place, told.skippable) == (str(path), False)


def test_one_outline_beside_the_image_is_its_own_problem(tmp_path: Path) -> None:
    beside = [[200, 10, 220, 10, 220, 30]]
    path = many_cells(
        tmp_path, lambda content: content["annotations"][3].update(segmentation=beside)
    )
    (problem,) = inspect_data(str(tmp_path)).problems
    assert str(problem).startswith(
        f"{path}, annotation 4: a polygon must lie in the image (128 wide, 96 high)"
    )
    assert problem.skippable


def test_an_image_most_of_whose_annotations_are_bad_is_skipped_whole_and_no_true_negative(
    tmp_path: Path,
) -> None:
    def change(content: dict[str, Any]) -> None:
        for annotation in content["annotations"][:4]:
            annotation["segmentation"] = [[5, 5, 5, 5, 5, 5]]

    path = many_cells(tmp_path, change)
    data = load_data(str(tmp_path), DataConfig(skip_bad=True))
    assert [sample.name for sample in data.samples] == [
        f"picture {number:02d}.png" for number in range(1, 5)
    ]
    assert (
        f"{path}, image 1: 4 of its 6 annotations cannot be used, so the image cannot be used either"
        in data.notes[0]
    )


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools on NumPy 2
def test_masks_written_row_by_row_are_suspected_and_not_called_semantic(tmp_path: Path) -> None:
    def row_by_row(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            mask = coco_mask.decode(
                coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], 96, 128))
            )
            encoded = uncompressed(mask.ravel().reshape(128, 96).T.astype(np.bool_))
            annotation["segmentation"] = {"size": [96, 128], "counts": encoded["counts"]}

    many_cells(tmp_path, row_by_row)
    (message,) = messages(tmp_path)
    assert "written row by row" in message
    noted = inspect_data(str(tmp_path), DataConfig(allow_suspicious=True))
    assert noted.problems == ()
    assert noted.dataset is not None
    assert any("semantic masks" in note for note in noted.dataset.notes)


@pytest.mark.parametrize(("sign", "told"), [("", "far more"), ("-", "far less")])
def test_runs_of_more_digits_than_python_writes_are_refused_in_a_sentence(
    tmp_path: Path, sign: str, told: str
) -> None:
    path = write(tmp_path, "")
    runs = ",".join([f"{sign}{'9' * 4300}"] * 20)
    content = json.dumps(document({"size": [HEIGHT, WIDTH], "counts": []}))
    path.write_text(content.replace('"counts": []', f'"counts": [{runs}]'))
    assert any(f"add up to {told}" in message for message in messages(tmp_path))


def test_a_few_boxes_elsewhere_and_boxes_of_two_corners_are_notes(tmp_path: Path) -> None:
    many_cells(
        tmp_path / "few", lambda content: content["annotations"][0].update(bbox=[100, 70, 20, 20])
    )
    assert any(
        "1 of 30 annotations have a bbox that is not where" in note
        for note in load_data(str(tmp_path / "few")).notes
    )
    two = each(
        "annotations",
        bbox=lambda e: [*e["bbox"][:2], e["bbox"][0] + e["bbox"][2], e["bbox"][1] + e["bbox"][3]],
    )
    many_cells(tmp_path / "corners", two)
    assert any("holds two corners" in note for note in load_data(str(tmp_path / "corners")).notes)


def test_areas_that_are_not_those_of_the_masks_are_a_note(tmp_path: Path) -> None:
    many_cells(
        tmp_path, lambda content: [entry.update(area=7) for entry in content["annotations"][:8]]
    )
    notes = load_data(str(tmp_path)).notes
    assert any(
        "8 of 30 annotations have an area that differs from that of their mask" in note
        for note in notes
    )


def test_crowd_regions_that_are_all_annotations_are_suspected(tmp_path: Path) -> None:
    many_cells(tmp_path, each("annotations", iscrowd=1))
    (message,) = messages(tmp_path)
    assert message.startswith("30 of 30 annotations are crowd regions (iscrowd 1)")


def test_a_file_without_annotations_says_so(tmp_path: Path) -> None:
    many_cells(tmp_path, lambda content: content["annotations"].clear())
    assert "the list of annotations is empty" in refusal(tmp_path)


def test_the_heading_that_roboflow_puts_over_its_categories_is_left_out(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "nucleus", "supercategory": "cells"},
    ]
    many_cells(tmp_path, lambda content: content.update(categories=categories))
    data = load_data(str(tmp_path))
    assert [category.name for category in data.classes] == ["nucleus"]
    assert any(
        "1 category without annotations that is the supercategory of others" in note
        for note in data.notes
    )


def test_two_categories_of_one_name_are_refused(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "nucleus"}]
    many_cells(tmp_path, lambda content: content.update(categories=categories))
    assert "category 2: names must be unique, and 'nucleus' repeats one" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/instances_default.json", "images"),
        ("annotations/instances_default.json", "images/default"),
        ("annotations/instances_Train.json", "images/Train"),
        ("train/_annotations.coco.json", "train"),
        ("result.json", "images"),
        ("labels_my-project.json", "."),
    ],
)
def test_exports_of_annotation_tools_are_read_where_they_lie(
    tmp_path: Path, file: str, images: str
) -> None:
    path = many_cells(tmp_path / "other")
    (tmp_path / "other" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "other" / images).mkdir(parents=True, exist_ok=True)
    path.rename(tmp_path / "other" / file)
    for picture in list((tmp_path / "other" / "train").glob("*.png")):
        picture.rename(tmp_path / "other" / images / picture.name)
    assert load_data(str(tmp_path / "other")).fingerprint == plain(tmp_path / "plain")


def test_several_unnamed_files_are_refused_by_name(tmp_path: Path) -> None:
    path = many_cells(tmp_path)
    (tmp_path / "first.json").write_text(path.read_text())
    path.rename(tmp_path / "second.json")
    assert "there are first.json and second.json; name one train.json" in refusal(tmp_path)


def test_a_validation_file_that_is_not_read_is_noted(tmp_path: Path) -> None:
    many_cells(tmp_path)
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "_annotations.coco.json").write_text("{}")
    assert any(
        note.startswith("valid/_annotations.coco.json is not read")
        for note in load_data(str(tmp_path)).notes
    )


def test_an_unknown_folder_is_answered_with_what_was_seen(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    for number in range(3):
        (tmp_path / "words" / f"{number}.txt").write_text("")
    (tmp_path / "setup.yaml").write_text("")
    assert "holds no annotated image (seen: 3 .txt and 1 .yaml); put one folder" in refusal(
        tmp_path
    )


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = many_cells(tmp_path)
    path.write_text(path.read_text()[:-1] + ', "annotations": []}')
    assert "one holds 'annotations' twice" in refusal(tmp_path)


@pytest.mark.parametrize("number", ["1" * 5000, "1e999", "NaN", "-Infinity"])
def test_numbers_that_are_none_end_in_a_sentence(tmp_path: Path, number: str) -> None:
    path = many_cells(tmp_path)
    for what in (
        '"image_id": 1',
        '"height": 96',
        '"iscrowd": 0',
        '"category_id": 1',
        '"segmentation": [[',
    ):
        text = path.read_text()
        key = what.split(":")[0]
        changed_text = text.replace(
            what, f"{key}: [[{number}, " if what.endswith("[") else f"{key}: {number}", 1
        )
        assert changed_text != text
        (tmp_path / "train.json").write_text(changed_text)
        inspect_data(str(tmp_path))
        path.write_text(text)


def test_instances_that_lie_on_each_other_by_thousands_end_in_a_sentence_in_time(
    tmp_path: Path,
) -> None:
    path = many_cells(tmp_path, images=2, side=(512, 512))
    content = json.loads(path.read_text())
    content["annotations"] += [
        {
            "id": 100 + number,
            "image_id": 1,
            "category_id": 1,
            "segmentation": [[2, 2, 500, 2, 500, 500, 2, 500]],
        }
        for number in range(2000)
    ]
    path.write_text(json.dumps(content))
    started = time.process_time()
    told = [
        problem
        for problem in inspect_data(str(tmp_path)).problems
        if "may overlap at one place" in problem.message
    ]
    assert len(told) > 1900
    assert time.process_time() - started < 60  # 4 s measured


def test_an_outline_that_would_take_gigabytes_is_refused(tmp_path: Path) -> None:
    zigzag = [
        value for number in range(200_000) for value in (0.0 if number % 2 else 120.0, number % 90)
    ]
    many_cells(tmp_path, lambda content: content["annotations"][0].update(segmentation=[zigzag]))
    assert "outlines of an annotation may be 2,000,000 pixels long" in refusal(tmp_path)


def test_a_message_never_writes_out_a_large_value(tmp_path: Path) -> None:
    many_cells(
        tmp_path,
        lambda content: content["annotations"][0].update(segmentation=[[["x"] * 100_000] * 4]),
    )
    assert len(refusal(tmp_path)) < 1000


def test_large_images_have_room_for_fewer_instances_on_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.outlines.MAX_LAYER_PIXELS", 3 * HEIGHT * WIDTH + 1)
    write(tmp_path, document(*[[SQUARE]] * 5))
    found = [message for message in messages(tmp_path) if "may overlap at one place" in message]
    assert len(found) == 2
    assert found[0].startswith("3 instances of an image of this size may overlap at one place")


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools on NumPy 2
@pytest.mark.parametrize("count", [1, 2, 8, 9, 65, 500])
def test_an_outline_of_many_pieces_is_drawn_as_pycocotools_draws_it(count: int) -> None:
    corners = np.random.default_rng(count).integers(0, 190, (count, 2))
    pieces = [[x, y, x + 9, y, x + 9, y + 7, x, y + 7] for x, y in corners.tolist()]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(pieces, 200, 220)))
    found = mask_of(pieces, 200, 220)
    height, width = found.pixels.shape
    drawn = np.zeros((200, 220), np.uint8)
    drawn[found.y0 : found.y0 + height, found.x0 : found.x0 + width] = found.pixels
    np.testing.assert_array_equal(drawn, expected)


def test_another_file_of_annotations_beside_the_one_that_is_read_is_noted(tmp_path: Path) -> None:
    path = many_cells(tmp_path)
    for name in ("train2.json", "test.json", "annotations/second_half.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(path.read_text() if name != "test.json" else '{"images": []}')
    (tmp_path / "info.json").write_text("{}")
    (note,) = [note for note in load_data(str(tmp_path)).notes if "not read" in note]
    assert note.startswith(
        "train2.json, annotations/second_half.json is not read, because one file is, "
    )
