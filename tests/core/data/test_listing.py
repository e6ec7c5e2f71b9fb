"""Laws of the list of images to predict on, on real files."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from core.data import TestImage, coco, hw3, list_images, load_data
from core.data.images import read_test_image
from core.data.listing import find_listing, look_through
from core.data.synthetic import make_cells, write_hw3
from core.errors import DataError

DATA = make_cells(images=3, side=64)
TEST = make_cells(images=3, side=48, seed=4).samples


def pixels(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".tif", ".tiff"):
        tifffile.imwrite(path, image)
    else:
        Image.fromarray(image).save(path)


def entry(number: int, name: str, height: int = 20, width: int = 30) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": height, "width": width}


def write_coco(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": entries, "categories": [{"id": 1, "name": "cell"}]}))
    return path


def refused(where: Path, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        list_images(str(where))
    assert "\n" not in str(caught.value)


def test_a_data_folder_with_a_test_listing_lists_what_its_reader_lists(tmp_path: Path) -> None:
    write_hw3(DATA, tmp_path / "hw3", TEST)
    assert list_images(str(tmp_path / "hw3")) == load_data(str(tmp_path / "hw3")).test_images
    assert [image.id for image in list_images(str(tmp_path / "hw3"))] == [1, 2, 3]

    folder = tmp_path / "coco"
    save(folder / "train" / "a.png", pixels())
    save(folder / "test2017" / "b.png", pixels())
    save(folder / "images" / "c.jpg", pixels(5, 7))
    document = {
        "images": [entry(1, "a.png")],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 9, 2, 9, 9]]}
        ],
    }
    (folder / "train.json").write_text(json.dumps(document))
    write_coco(
        folder / "annotations" / "image_info_test2017.json",
        [entry(70, "b.png"), entry(4, "c.jpg", 5, 7)],
    )
    assert list_images(str(folder)) == load_data(str(folder)).test_images
    assert [(image.id, image.file_name) for image in list_images(str(folder))] == [
        (70, "b.png"),
        (4, "c.jpg"),
    ]


def test_a_test_listing_needs_no_training_images_beside_it(tmp_path: Path) -> None:
    write_hw3(DATA, tmp_path / "hw3", TEST)
    expected = list_images(str(tmp_path / "hw3"))
    (tmp_path / "hw3" / "train").rename(tmp_path / "gone")
    assert list_images(str(tmp_path / "hw3")) == expected

    save(tmp_path / "coco" / "test" / "a.png", pixels())
    write_coco(tmp_path / "coco" / "test.json", [entry(3, "a.png")])
    (image,) = list_images(str(tmp_path / "coco"))
    assert (image.id, image.path) == (3, str(tmp_path / "coco" / "test" / "a.png"))


def test_a_listing_is_the_same_by_itself_and_by_its_folder(tmp_path: Path) -> None:
    write_hw3(DATA, tmp_path / "hw3", TEST)
    assert list_images(str(tmp_path / "hw3" / hw3.LISTING)) == list_images(str(tmp_path / "hw3"))
    save(tmp_path / "coco" / "test2017" / "a.png", pixels())
    path = write_coco(
        tmp_path / "coco" / "annotations" / "image_info_test2017.json", [entry(3, "a.png")]
    )
    assert list_images(str(path)) == list_images(str(tmp_path / "coco"))
    assert find_listing(tmp_path / "coco") == path == find_listing(path)


@pytest.mark.parametrize(
    ("listing", "image"),
    [
        ("test.json", "test/a.png"),
        ("test.json", "images/a.png"),
        ("test.json", "a.png"),
        ("fresh.json", "a.png"),
        ("fresh.json", "test/a.png"),
        ("annotations/instances_test2017.json", "test2017/a.png"),
        ("annotations/fresh.json", "images/a.png"),
        ("annotations/fresh.json", "annotations/a.png"),
        ("train.json", "train/a.png"),
        ("annotations/instances_val2017.json", "val2017/a.png"),
    ],
)
def test_images_of_a_coco_file_lie_where_its_data_set_has_them_or_beside_it(
    tmp_path: Path, listing: str, image: str
) -> None:
    save(tmp_path / image, pixels())
    path = write_coco(tmp_path / listing, [entry(12, "a.png")])
    assert list_images(str(path)) == (TestImage(str(tmp_path / image), "a.png", 12, 20, 30),)


@pytest.mark.parametrize("image", ["test_release/a.tif", "test/a.tif", "a.tif"])
def test_images_of_an_hw3_listing_lie_in_its_test_folder_or_beside_it(
    tmp_path: Path, image: str
) -> None:
    save(tmp_path / image, pixels())
    (tmp_path / "mine.json").write_text(json.dumps([entry(12, "a.tif")]))
    assert list_images(str(tmp_path / "mine.json")) == (
        TestImage(str(tmp_path / image), "a.tif", 12, 20, 30),
    )


def test_any_other_folder_is_its_image_files_in_the_order_of_their_names_with_ids_from_1(
    tmp_path: Path,
) -> None:
    names = ["B.PNG", "a.jpg", "c.tif", "d.JPEG", "e.TIFF", "Zürich 1.png"]
    for seed, name in enumerate(names):
        save(tmp_path / name, pixels(20 + seed, 30, seed))
    save(tmp_path / "deeper" / "x.png", pixels())
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\x16\7")  # what macOS puts beside a.jpg
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "notes.json").write_text("{}")
    images = list_images(str(tmp_path))
    assert [image.file_name for image in images] == sorted(names)
    assert [image.id for image in images] == [1, 2, 3, 4, 5, 6]
    assert [image.height for image in images] == [20 + names.index(name) for name in sorted(names)]
    assert all(Path(image.path) == tmp_path / image.file_name for image in images)
    assert find_listing(tmp_path) is None
    for image in images:
        assert read_test_image(image).shape == (image.height, 30, 3)


def test_paths_hold_in_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "cells" / "a.png", pixels())
    monkeypatch.chdir(tmp_path)
    (image,) = list_images("cells")
    monkeypatch.chdir("/")
    assert np.array_equal(read_test_image(image), pixels())


def test_a_link_to_an_image_that_is_gone_is_named_and_not_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "a.png", pixels())
    (tmp_path / "b.png").symlink_to(tmp_path / "moved away.png")
    images, problems = look_through(str(tmp_path))
    assert [image.file_name for image in images] == ["a.png"]
    assert [str(problem) for problem in problems] == [
        f"{tmp_path / 'b.png'}: the file cannot be read: No such file or directory"
    ]


def test_one_image_file_is_a_list_of_one(tmp_path: Path) -> None:
    save(tmp_path / "a.png", pixels())
    save(tmp_path / "b.png", pixels())
    assert list_images(str(tmp_path / "b.png")) == (
        TestImage(str(tmp_path / "b.png"), "b.png", 1, 20, 30),
    )


def test_the_synthetic_data_set_lists_its_own_test_images() -> None:
    for image, same in zip(
        list_images("synthetic"), load_data("synthetic").test_images, strict=True
    ):
        assert (image.file_name, image.id) == (same.file_name, same.id)
        assert np.array_equal(read_test_image(image), read_test_image(same))


def test_a_listed_image_that_is_missing_or_of_another_size_is_named(tmp_path: Path) -> None:
    write_hw3(DATA, tmp_path, TEST)
    names = [f"{sample.name}.tif" for sample in TEST]
    save(tmp_path / "test_release" / names[1], pixels(33, 44))
    refused(
        tmp_path,
        rf"image 1 \(counted from 0\): {re.escape(names[1])} is listed with .* and has 33 x 44$",
    )
    (tmp_path / "test_release" / names[0]).unlink()
    refused(
        tmp_path,
        rf"image 0 .*{re.escape(names[0])}' is not there; looked in .*test_release.*and 1 more"
        r" problem\)$",
    )


def test_an_image_that_cannot_be_predicted_on_is_found_before_it_is_decoded(tmp_path: Path) -> None:
    save(tmp_path / "a.png", pixels())
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    refused(tmp_path, r"b\.png: the file is damaged or cut off")
    (tmp_path / "b.png").write_bytes(b"GIF89a")
    refused(tmp_path, r"b\.png: an image must be a TIFF, PNG, JPEG or BMP file")


def test_a_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    save(tmp_path / "deeper" / "x.png", pixels())
    refused(
        tmp_path,
        r"no image file \(\.tif, \.tiff, \.png, \.jpg, \.jpeg, \.bmp\) lies directly in this"
        r" folder; name the",
    )
    refused(tmp_path / "nowhere", "nowhere: there is no such folder")
    refused(tmp_path / ("x" * 300), "x: the folder cannot be read: File name too long")


def test_a_training_folder_without_a_listing_says_so(tmp_path: Path) -> None:
    write_hw3(DATA, tmp_path / "cells")
    for folder in (tmp_path / "cells", tmp_path / "cells" / "train"):
        refused(
            folder,
            "it holds annotated images, .*train/NAME/image.tif, and no test_image_name_to_ids.json;"
            " copy",
        )
    save(tmp_path / "cells" / "test_release" / "a.tif", pixels())
    refused(tmp_path / "cells", "; name .*cells/test_release, or add test_image_name_to_ids.json")


def test_two_listings_in_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    write_hw3(DATA, tmp_path, TEST)
    save(tmp_path / "test" / "a.png", pixels())
    write_coco(tmp_path / "test.json", [entry(3, "a.png")])
    refused(
        tmp_path,
        "both .*test_image_name_to_ids.json and .*test.json list images; name the one that is"
        " meant",
    )
    assert len(list_images(str(tmp_path / "test.json"))) == 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.json", "{", "x.json: the file is not JSON"),
        (
            "x.json",
            "3",
            (
                r"a listing must be an object with a list of images \(COCO\), or a list of images"
                r" \(HW3\)"
            ),
        ),
        ("x.json", '{"images": {}}', "a listing must be an object with a list of images"),
        ("x.json", "[]", "there must be at least one image, and none is listed"),
        ("x.json", '{"images": []}', "there must be at least one image, and none is listed"),
        ("x.json", "[3]", r"image 0 \(counted from 0\): an image must be listed as"),
        (
            "x.json",
            '[{"file_name": "../a.png", "id": 1, "height": 1, "width": 1}]',
            "must stay inside the data folder",
        ),
        (
            "x.gif",
            "GIF89a",
            r"an image must be a \.tif, .* file, a listing a \.json file, and this is neither",
        ),
    ],
)
def test_a_file_that_lists_nothing_is_refused(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, sentence)


def test_a_file_name_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    refused(tmp_path, r"a file name must be UTF-8, and is b'caf\\xe9\.png'; rename the file")


def test_the_reader_and_the_list_agree_on_where_coco_images_lie(tmp_path: Path) -> None:
    for folder in ("test", "images", "."):
        save(tmp_path / folder / "a.png", pixels())
    path = write_coco(tmp_path / "test.json", [entry(1, "a.png")])
    (image,) = list_images(str(path))
    assert Path(image.path).parent == coco.image_folders(tmp_path, path, "test")[0]
