"""Laws of `python -m core.predict`, with real models of random weights, real files, and
pycocotools as the reader.
"""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from benchmarks.predict_memory import HEIGHT, INSTANCES, WIDTH, measure_in_fresh_process
from core.config import TrialConfig
from core.data import Category, list_images
from core.data.images import read_rgb, read_test_image
from core.data.synthetic import make_cells, write_hw3
from core.network.build import build_detector
from core.predict import main
from core.prediction import trained_model
from core.prediction.submission import results_of
from core.prediction.trained_model import TrainedModel
from tests.core.narrow import narrowed

ROOT = Path(__file__).parents[2]
CLASSES = (Category(3, "epithelium"), Category(12, "lymphocyte"), Category(40, "[red] fibroblast"))
SETTINGS = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.image_min_side": 64,
    "model.image_max_side": 96,
    "model.proposals_test": 16,
    "predict.score_threshold": 0.1,
    "predict.max_detections": 6,
}

decodes = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools on NumPy 2


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def saved(folder: Path, **settings: str) -> Path:
    config = TrialConfig.from_settings({**SETTINGS, **settings})
    torch.manual_seed(0)
    network = build_detector(config.model, len(CLASSES), None, config.predict)
    trained_model.save(folder, TrainedModel(config, CLASSES, network.eval()))
    return folder


@pytest.fixture(scope="module")
def narrow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with narrowed():
        return saved(tmp_path_factory.mktemp("study") / "best")


@pytest.fixture
def model(narrow_model: Path) -> Iterator[Path]:
    with narrowed():
        yield narrow_model


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Three image files in a folder: grey, RGBA and RGB in a TIFF, a PNG and a JPEG, of any
    size.
    """
    folder = tmp_path / "cells"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tifffile.imwrite(folder / "a grey.tif", rng.integers(0, 256, (33, 33), np.uint8))
    Image.fromarray(rng.integers(0, 256, (40, 300, 4), np.uint8)).save(folder / "b.png")
    Image.fromarray(rng.integers(0, 256, (90, 70, 3), np.uint8)).save(folder / "c.jpg")
    return folder


@dataclass(frozen=True)
class Answer:
    """What one command left: exit status, what it printed, and the two files."""

    status: int
    out: str
    err: str
    results: list[dict[str, Any]] | None
    listing: dict[str, Any] | None

    def by_name(self) -> dict[str, list[dict[str, Any]]]:
        """The results of each image, without its id."""
        assert self.results is not None
        assert self.listing is not None
        return {
            image["file_name"]: [
                {key: value for key, value in result.items() if key != "image_id"}
                for result in self.results
                if result["image_id"] == image["id"]
            ]
            for image in self.listing["images"]
        }


def command(model: Path, images: Path | str, out: Path, *options: str) -> Answer:
    for file in (out, out.with_suffix(".images.json")):
        file.unlink(missing_ok=True)
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        status = main(["--model", str(model), "--images", str(images), "--out", str(out), *options])
    return answer(status, printed.getvalue(), errors.getvalue(), out)


def answer(status: int, printed: str, errors: str, out: Path) -> Answer:
    files = out, out.with_suffix(".images.json")
    contents = [json.loads(file.read_text()) if file.is_file() else None for file in files]
    return Answer(status, printed, errors, *contents)


def refused(found: Answer, sentence: str) -> None:
    """Exit status 2, one sentence, and no file."""
    assert (found.status, found.results, found.listing) == (2, None, None)
    assert re.search(sentence, found.err), found.err
    assert found.err.count("\n") == 1


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def predicted(model: Path, images: Path | str) -> list[dict[str, Any]]:
    """What the command shall write, made by its parts."""
    trained = trained_model.load(model, "cpu")
    return [
        json.loads(json.dumps(result))
        for image in list_images(str(images))
        for result in results_of(
            trained.predict(read_test_image(image)), image.id, image.height, image.width, CLASSES
        )
    ]


@decodes
def test_the_command_writes_what_its_parts_find_in_images_of_any_size_and_pycocotools_reads_it(
    cells: Path, tmp_path: Path
) -> None:
    model = saved(tmp_path / "study" / "best")
    out = tmp_path / "new" / "results.json"
    out.parent.mkdir()
    line = [
        sys.executable,
        "-m",
        "core.predict",
        "--model",
        str(model),
        "--images",
        "cells",
        "--out",
        "new/results.json",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*line, "--threads", "1", "--device", "cpu"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    found = answer(done.returncode, done.stdout, done.stderr, out)
    assert (found.status, found.err) == (0, "")
    assert found.results == predicted(model, cells)
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "results.images.json",
        "results.json",
    ]
    assert found.listing == {
        "images": [
            {"id": 1, "file_name": "a grey.tif", "height": 33, "width": 33},
            {"id": 2, "file_name": "b.png", "height": 40, "width": 300},
            {"id": 3, "file_name": "c.jpg", "height": 90, "width": 70},
        ],
        "annotations": [],
        "categories": [
            {"id": 3, "name": "epithelium"},
            {"id": 12, "name": "lymphocyte"},
            {"id": 40, "name": "[red] fibroblast"},
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(out.with_suffix(".images.json"))).loadRes(str(out))
    for image in found.listing["images"]:
        annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[image["id"]]))
        assert 0 < len(annotations) <= 6
        for annotation in annotations:
            mask = coco_mask.decode(annotation["segmentation"])
            assert mask.shape == (image["height"], image["width"])
            assert mask.any()
            assert loaded.cats[annotation["category_id"]]["name"] in {
                category.name for category in CLASSES
            }


def test_a_cap_that_was_reached_is_said_with_the_way_out(
    model: Path, cells: Path, tmp_path: Path
) -> None:
    found = command(
        model, cells, tmp_path / "results.json", "--tile", "64", "--max-detections", "2"
    )
    last = found.out.splitlines()[-1]
    told = re.fullmatch(
        r"In (\d) of 3 images, (\d+) tiles of them, as many instances were found as"
        r" predict\.max_detections keeps of a "
        r"tile \(2\), so more may be there; to keep them raise --max-detections",
        last,
    )
    assert told is not None, last
    images, full = map(int, told.groups())
    counts = [len(results) for results in found.by_name().values()]
    assert sum(count >= 2 for count in counts) >= images > 0
    assert full > images
    assert max(counts) > 2, "the cap is that of a tile, not of the image"


def test_what_is_printed_names_model_images_and_files(
    model: Path, cells: Path, tmp_path: Path
) -> None:
    found = command(
        model, cells, tmp_path / "results.json", "--device", "cpu", "--max-detections", "1000"
    )
    assert found.results is not None
    lines = found.out.splitlines()
    counts = [len(results) for results in found.by_name().values()]
    words = [f"{count} detection" + "s" * (count != 1) for count in counts]
    assert (
        lines[0]
        == f"Model {model}: resnet18, 3 classes (epithelium, lymphocyte, [red] fibroblast), on cpu"
    )
    assert re.fullmatch(rf"1/3 a grey\.tif: {words[0]}, \d+\.\d s", lines[1])
    assert re.fullmatch(rf"2/3 b\.png: {words[1]}, \d+\.\d s", lines[2])
    assert re.fullmatch(rf"3/3 c\.jpg: {words[2]}, \d+\.\d s", lines[3])
    assert (
        lines[4] == f"3 images, {sum(counts)} detections: {tmp_path}/results.json "
        f"(the images and their ids: {tmp_path}/results.images.json)"
    )
    assert len(lines) == 5


def test_a_terminal_gets_a_bar_and_the_files_are_the_same(
    model: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = command(model, cells, tmp_path / "plain.json")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    in_terminal = command(model, cells, tmp_path / "terminal.json")
    assert "3/3" in in_terminal.out
    assert "\x1b[" in in_terminal.out
    assert "2/3 b.png:" not in in_terminal.out
    assert (in_terminal.results, in_terminal.listing) == (plain.results, plain.listing)


def test_the_same_pixels_give_the_same_detections_from_hw3_coco_a_plain_folder_and_the_listings(
    model: Path, tmp_path: Path
) -> None:
    test = make_cells(images=2, side=64, seed=4).samples
    write_hw3(make_cells(images=1, side=64), tmp_path / "hw3", test)
    names = [f"{sample.name}.tif" for sample in test]
    shutil.copytree(tmp_path / "hw3" / "test_release", tmp_path / "plain")
    shutil.copytree(tmp_path / "hw3" / "test_release", tmp_path / "coco" / "test")
    entries = [
        {"id": number, "file_name": sample_name, "height": sample.size[0], "width": sample.size[1]}
        for number, sample_name, sample in zip((70, 4), names, test, strict=True)
    ]
    (tmp_path / "coco" / "test.json").write_text(json.dumps({"images": entries}))
    ids = {
        "plain": [1, 2],
        "hw3": [1, 2],
        "hw3/test_image_name_to_ids.json": [1, 2],
        "coco": [70, 4],
        "coco/test.json": [70, 4],
    }
    answers = {where: command(model, tmp_path / where, tmp_path / "results.json") for where in ids}
    expected = answers["plain"].by_name()
    assert list(expected) == names
    assert all(len(results) > 0 for results in expected.values())
    for where, found in answers.items():
        assert found.listing is not None
        assert [image["id"] for image in found.listing["images"]] == ids[where]
        assert found.by_name() == expected


def test_options_override_the_settings_of_the_model_and_no_option_leaves_them(
    model: Path, cells: Path, tmp_path: Path
) -> None:
    trained = trained_model.load(model, "cpu")
    image = read_rgb(cells / "c.jpg")
    height, width = image.shape[:2]
    cases: dict[tuple[str, ...], dict[str, Any]] = {
        (): {},
        ("--no-flips", "--tile", "0"): {},
        ("--flips",): {"flips": True},
        ("--tile", "48"): {"tile": 48},
        ("--tile", "48", "--overlap", "0.7"): {"tile": 48, "overlap": 0.7},
        ("--views", "all"): {"views": "all"},
        ("--scales", "1,1.5"): {"scales": "1,1.5"},
        ("--class-caps", "3,0"): {"class_caps": "3,0"},
        ("--flips", "--merge", "weighted"): {"flips": True, "merge": "weighted"},
        ("--views", "mirror", "--agreement", "0.3"): {"views": "mirror", "agreement": 0.3},
        ("--score-threshold", "0.35"): {"score_threshold": 0.35},
        ("--max-detections", "2"): {"max_detections": 2},
        ("--flips", "--tile", "64", "--max-detections", "40"): {
            "flips": True,
            "tile": 64,
            "max_detections": 40,
        },
    }
    seen = []
    for options, settings in cases.items():
        found = command(model, cells / "c.jpg", tmp_path / "results.json", *options)
        trained = trained.predicting_with(
            TrialConfig.from_settings(SETTINGS).predict.model_copy(update=settings)
        )
        results = results_of(trained.predict(image), 1, height, width, CLASSES)
        assert found.results == json.loads(json.dumps(results))
        seen.append(json.dumps(found.results))
    assert seen[0] == seen[1]
    assert len(set(seen)) == len(seen) - 1, "an option changed nothing"


def test_what_the_model_was_tuned_to_holds_until_an_option_says_otherwise(
    model: Path, cells: Path, tmp_path: Path
) -> None:
    image = cells / "c.jpg"
    trained = trained_model.load(model, "cpu")
    config = trained.config.model_copy(
        update={"predict": trained.config.predict.model_copy(update={"flips": True, "tile": 64})}
    )
    trained_model.save(tmp_path / "tuned", TrainedModel(config, trained.classes, trained.model))
    out = tmp_path / "results.json"
    tuned = command(tmp_path / "tuned", image, out)
    assert tuned.results == command(model, image, out, "--flips", "--tile", "64").results
    assert command(
        tmp_path / "tuned", image, out, "--no-flips", "--tile", "0"
    ).results == predicted(model, image)
    as_it_is = command(tmp_path / "tuned", image, out, "--views", "none", "--tile", "0")
    assert as_it_is.results == predicted(model, image), "the mirrored view was looked at"
    assert tuned.results != predicted(model, image)
    mirror = trained.config.predict.model_copy(update={"views": "mirror"})
    config = trained.config.model_copy(update={"predict": mirror})
    trained_model.save(tmp_path / "mirror", TrainedModel(config, trained.classes, trained.model))
    alone = command(tmp_path / "mirror", image, out, "--no-flips")
    assert alone.results == predicted(model, image), "the mirrored view was looked at"


def test_nothing_found_is_an_empty_list(model: Path, cells: Path, tmp_path: Path) -> None:
    found = command(model, cells, tmp_path / "results.json", "--score-threshold", "0.999")
    assert (found.status, found.results) == (0, [])
    assert found.out.splitlines()[-1].startswith("3 images, 0 detections: ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tile", "16"], r"^--tile: predict\.tile must be 0 or at least 32 pixels, and is 16$"),
        (
            ["--tile", "-1"],
            r"^--tile: predict\.tile must be greater than or equal to 0, and is -1$",
        ),
        (
            ["--score-threshold", "1"],
            r"^--score-threshold: predict\.score_threshold must be less than 1, and is 1",
        ),
        (
            ["--score-threshold", "nan"],
            r"^--score-threshold: predict\.score_threshold must be .*, and is nan$",
        ),
        (
            ["--max-detections", "0"],
            r"^--max-detections: predict\.max_detections must be .* 1, and is 0$",
        ),
        (["--threads", "0"], r"^--threads must be from 1 to 256, and is 0$"),
        (["--threads", "1000000"], r"^--threads must be from 1 to 256, and is 1000000$"),
        (
            ["--device", "gpu"],
            r"^the device must be auto, cpu, or a GPU such as cuda:0, and is 'gpu'$",
        ),
        (
            ["--device", "cuda:99"],
            r"^the device cuda:99 is not there: torch sees \d+ GPUs?; use auto or cpu$",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence(
    model: Path, cells: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    found = command(model, cells, tmp_path / "results.json", *options)
    refused(found, sentence)
    assert found.out == ""
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        (
            "nowhere/results.json",
            r"nowhere/results\.json cannot be written: No such file or directory; name a file in",
        ),
        (
            "cells/b.png/results.json",
            r"cannot be written: Not a directory; name a file in another folder$",
        ),
        ("cells/b.png", r"^--out must be the name of a \.json file, or of a folder .*, and is "),
        ("results.csv", r"^--out must be the name of a \.json file, or of a folder .*, and is "),
        ("nowhere/results", r"cannot be written: No such file or directory; name another folder$"),
        ("cells", r"cells must be a new or an empty folder, and holds a grey\.tif; name another"),
        (
            f"{'x' * 245}.json",
            r"cannot be written: File name too long; name a file in another folder$",
        ),
    ],
)
def test_a_place_that_cannot_be_written_is_found_before_anything_is_predicted(
    model: Path,
    cells: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    out: str,
    sentence: str,
) -> None:
    status = main(["--model", str(model), "--images", str(cells), "--out", str(tmp_path / out)])
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert re.search(sentence, captured.err.rstrip("\n")), captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


@pytest.mark.parametrize("out", ["a.json", "a.images.json"])
def test_the_listing_of_the_images_is_never_overwritten(
    model: Path, cells: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    listing = json.dumps({"images": [{"id": 8, "file_name": "b.png", "height": 40, "width": 300}]})
    (cells / out).write_text(listing)
    status = main(
        ["--model", str(model), "--images", str(cells / out), "--out", str(cells / "a.json")]
    )
    assert status == 2
    assert (
        f"{out} lists the images, and would be overwritten; name another file"
        in capsys.readouterr().err
    )
    assert (cells / out).read_text() == listing
    assert leftovers(cells) == []


def test_wrong_models_and_folders_are_one_sentence(
    model: Path, cells: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.json"
    refused(command(tmp_path, cells, out), "holds no trained model")
    refused(command(tmp_path / "nowhere", cells, out), "holds no trained model")
    refused(command(model.parent, cells, out), f"holds no trained model.*; name {model}, which")
    refused(command(model, model, out), r"no image file \(\.tif, .* lies directly in this folder")
    refused(command(model, tmp_path / "nowhere", out), "there is no such folder")
    refused(command(model, cells / "notes.txt", out), "there is no such folder")


def spoil(image: Path, how: str) -> None:
    whole = image.read_bytes()
    match how:
        case "header":
            image.write_bytes(whole[:20])
        case "pixels":
            image.write_bytes(whole[: len(whole) // 2])
        case "16 bits":
            Image.fromarray(np.zeros((40, 300), np.uint16)).save(image)


@decodes
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("header", "the file is damaged or cut off"),
        ("pixels", "the file is damaged or cut off"),
        ("16 bits", "the image holds uint16, and the model was trained on images of 8 bits"),
    ],
)
def test_an_image_that_cannot_be_read_costs_itself_and_the_others_are_written(
    model: Path, cells: Path, tmp_path: Path, how: str, told: str
) -> None:
    whole = command(model, cells, tmp_path / "results.json").by_name()
    spoil(cells / "b.png", how)
    found = command(model, cells, tmp_path / "results.json")
    assert found.status == 1
    assert re.fullmatch(rf"Left out: .*b\.png: {told}.*\n", found.err)
    assert found.listing is not None
    assert [(image["id"], image["file_name"]) for image in found.listing["images"]] == [
        (1, "a grey.tif"),
        (3, "c.jpg"),
    ]
    assert found.by_name() == {name: whole[name] for name in ("a grey.tif", "c.jpg")}
    assert any(line.endswith("; 1 image left out") for line in found.out.splitlines())
    assert leftovers(tmp_path) == []
    with contextlib.redirect_stdout(io.StringIO()):
        COCO(str(tmp_path / "results.images.json")).loadRes(str(tmp_path / "results.json"))


def test_an_image_that_a_header_refuses_is_named_before_the_first_is_predicted(
    model: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(cells / "b.png", "header")
    order = io.StringIO()
    monkeypatch.setattr(sys, "stdout", order)
    monkeypatch.setattr(sys, "stderr", order)
    assert (
        main(
            ["--model", str(model), "--images", str(cells), "--out", str(tmp_path / "results.json")]
        )
        == 1
    )
    lines = order.getvalue().splitlines()
    assert lines[0].startswith("Left out: ")
    assert lines[1].startswith("Model ")
    assert lines[2].startswith("1/2 a grey.tif: ")


@pytest.mark.parametrize(("how", "status"), [("header", 2), ("pixels", 1)])
def test_where_no_image_can_be_predicted_nothing_is_written_and_older_results_stay(
    model: Path,
    cells: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    how: str,
    status: int,
) -> None:
    out = tmp_path / "results.json"
    out.write_text("older")
    line = ["--model", str(model), "--images", str(cells / "b.png"), "--out", str(out)]
    whole = (cells / "b.png").read_bytes()
    spoil(cells / "b.png", how)
    assert main(line) == status
    assert "b.png: the file is damaged or cut off" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["results.json"]
    assert out.read_text() == "older"
    (cells / "b.png").write_bytes(whole)
    assert main(line) == 0
    assert len(json.loads(out.read_text())) > 0


def test_a_turned_picture_is_predicted_as_it_is_shown(model: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "cells").mkdir()
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "cells" / "a.png", exif=exif)
    turned = command(model, tmp_path / "cells", tmp_path / "results.json")
    assert turned.listing is not None
    assert [(image["height"], image["width"]) for image in turned.listing["images"]] == [(40, 70)]
    Image.fromarray(pixels).save(tmp_path / "cells" / "a.png")
    assert command(model, tmp_path / "cells", tmp_path / "results.json").results == turned.results


def test_an_interrupt_is_one_sentence_and_keeps_what_is_done(
    model: Path,
    cells: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Interrupting(io.StringIO):
        """Standard output that sends the signal of Ctrl-C once the first image is reported."""

        def write(self, text: str) -> int:
            if text.startswith("1/3"):
                signal.raise_signal(signal.SIGINT)
            return super().write(text)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(sys, "stdout", Interrupting())
        out = tmp_path / "results.json"
        status = main(["--model", str(model), "--images", str(cells), "--out", str(out)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130
    results = json.loads(out.read_text())
    counted = f"1 image, {len(results)} detection{'s' * (len(results) != 1)}"
    assert capsys.readouterr().err == f"Interrupted: {out} holds {counted}, of 3\n"
    assert {result["image_id"] for result in results} == {1}
    assert [
        image["id"]
        for image in json.loads((tmp_path / "results.images.json").read_text())["images"]
    ] == [1]


def in_folder(model: Path, cells: Path, out: Path, *options: str) -> tuple[int, str, str]:
    """Exit status of a prediction into a folder, and what it printed on both outputs."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        status = main(["--model", str(model), "--images", str(cells), "--out", str(out), *options])
    return status, printed.getvalue(), errors.getvalue()


@decodes
def test_a_folder_gets_every_kind_of_file_with_the_same_cells_as_the_results(
    model: Path, cells: Path, tmp_path: Path
) -> None:
    alone = command(model, cells, tmp_path / "results.json")
    out = tmp_path / "out"
    status, said, errors = in_folder(model, cells, out, "--score-threshold", "0.1")
    assert (status, errors) == (0, "")
    assert json.loads((out / "results.json").read_text()) == alone.results
    assert json.loads((out / "results.images.json").read_text()) == alone.listing
    with (out / "cells.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    for name, results in alone.by_name().items():
        file = Path(name).stem
        labels = tifffile.imread(out / "labels" / f"{file}.tif")
        owner = np.zeros(labels.shape, np.int64)
        number = 0
        for result in results:
            free = coco_mask.decode(result["segmentation"]).astype(bool) & (owner == 0)
            number += bool(free.any())
            owner[free] = number
        assert np.array_equal(labels, owner)
        of_image = [row for row in rows if row["image"] == name]
        assert [int(row["area_px"]) for row in of_image] == np.bincount(owner.ravel())[1:].tolist()
        drawn = json.loads((out / "geojson" / f"{file}.geojson").read_text())["features"]
        assert {one["properties"]["name"] for one in drawn} == {row["cell"] for row in of_image}
        with Image.open(out / "overlays" / f"{file}.png") as picture:
            assert picture.size > (2 * labels.shape[1], labels.shape[0])
    lines = said.splitlines()
    assert lines[4] == (
        f"3 images, {len(alone.results or [])} detections: {out} (labels/, cells.csv, geojson/,"
        " overlays/ and results.json)"
    )
    assert re.fullmatch(
        rf"{len(rows)} cells?: detections with a score of 0\.1 or more \(--score-threshold\), and"
        r" where they overlap the better one has the pixel(; \d+ others? lies? wholly under better"
        r" ones)?",
        lines[5],
    )
    assert lines[6].startswith("The pixel size of 3 images is not known, ")
    assert leftovers(out) == []


@decodes
def test_where_a_cap_is_said_to_keep_out_no_cells_none_are_missing(
    model: Path, cells: Path, tmp_path: Path
) -> None:
    tuned = shutil.copytree(model, tmp_path / "tuned")
    (tuned / "metrics.json").write_text('{"balanced_score": 0.274}')  # amid the model's scores
    said, cells_of = {}, {}
    for most in (1, 4, 1000):
        out = tmp_path / str(most)
        options = ("--max-detections", str(most), "--write", "csv,coco")
        said[most] = in_folder(tuned, cells, out, *options)[1]
        cells_of[most] = (out / "cells.csv").read_text()
    reassured = [most for most in said if "would score too little to be cells" in said[most]]
    assert reassured == [4], "with a cap of 1 cells are missing, and 1,000 are not reached"
    assert "keeps of a tile (1), so more may be there" in said[1]
    assert cells_of[1] != cells_of[1000]
    assert cells_of[4] == cells_of[1000]


def test_kinds_and_the_size_of_a_pixel_are_chosen(model: Path, cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--write", "csv,labels", "--pixel-size", "0.5,0.25", "--score-threshold", "0.1")
    status, said, _ = in_folder(model, cells, out, *options)
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == ["cells.csv", "labels"]
    assert "size of a pixel" not in said
    with (out / "cells.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            assert float(row["area_um2"]) == pytest.approx(int(row["area_px"]) / 8)


@pytest.mark.parametrize(
    ("out", "options", "sentence"),
    [
        (
            "out",
            ["--write", "labels,masks"],
            "--write must name some of labels, csv, geojson, over",
        ),
        ("out", ["--write", ""], "--write must name some of .*, and names ''"),
        (
            "a.json",
            ["--write", "labels"],
            "--write labels needs a folder in --out, and .*a.json is",
        ),
        ("out", ["--pixel-size", "0"], "--pixel-size must be the side of a pixel in micrometres"),
    ],
)
def test_a_wrong_choice_of_files_is_one_sentence(
    model: Path, cells: Path, tmp_path: Path, out: str, options: list[str], sentence: str
) -> None:
    status, said, errors = in_folder(model, cells, tmp_path / out, *options)
    assert (status, said) == (2, "")
    assert re.match(sentence, errors)
    assert errors.count("\n") == 1
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize(
    ("metrics", "least", "why", "warned"),
    [
        (
            {"balanced_score": 0.25, "validation": {"ap50": 0.5}},
            "0.25",
            "where F1 was highest on",
            None,
        ),
        (
            {"balanced_score": None, "validation": {"ap50": 0.0004}},
            "0.5",
            "the usual one",
            "0.0004",
        ),
        ({"validation": None, "search": {"ap50": 0.0}}, "0.5", "the usual one", "0.0000"),
        (
            {"validation": None, "together": {"ap50": 0.3}, "search": {"ap50": 0.0}},
            "0.5",
            "the",
            None,
        ),
        ({"validation": {"ap50": float("nan")}}, "0.5", "the usual one", None),
        ({"validation": [0.3], "search": "0.3"}, "0.5", "the usual one", None),
        (None, "0.5", "the usual one", None),
    ],
)
def test_metrics_of_the_model_say_which_score_counts_and_whether_it_learned_anything(
    model: Path,
    cells: Path,
    tmp_path: Path,
    metrics: dict[str, Any] | None,
    least: str,
    why: str,
    warned: str | None,
) -> None:
    shutil.copytree(model, tmp_path / "best")
    if metrics is not None:
        (tmp_path / "best" / "metrics.json").write_text(json.dumps(metrics))
    status, said, _ = in_folder(
        tmp_path / "best", cells / "a grey.tif", tmp_path / "out", "--write", "overlays"
    )
    assert status == 0
    assert f"detections with a score of {least} or more ({why}" in said
    sentence = (
        f"Warning: this model learned nothing (AP50 {warned} on validation images), so its"
        " predictions are guesses"
    )
    assert (sentence in said) == (warned is not None)
    assert ("Warning" in said) == (warned is not None)


def test_metrics_that_are_damaged_are_one_sentence(
    model: Path, cells: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "best")
    (tmp_path / "best" / "metrics.json").write_text("{")
    found = command(tmp_path / "best", cells, tmp_path / "results.json")
    refused(found, r"metrics\.json: the file is not JSON .*; bring it back, or remove it$")


def test_an_interrupt_leaves_whole_files_of_the_images_that_are_done(
    model: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(io.StringIO):
        """Standard output that sends the signal of Ctrl-C once the first image is reported."""

        def write(self, text: str) -> int:
            if text.startswith("1/3"):
                signal.raise_signal(signal.SIGINT)
            return super().write(text)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    out = tmp_path / "out"
    try:
        monkeypatch.setattr(sys, "stdout", Interrupting())
        line = ["--model", str(model), "--images", str(cells), "--out", str(out)]
        assert main([*line, "--score-threshold", "0.1"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [
        "cells.csv",
        "geojson/a grey.geojson",
        "labels/a grey.tif",
        "overlays/a grey.png",
        "results.images.json",
        "results.json",
    ]
    with (out / "cells.csv").open(newline="") as stream:
        assert {row["image"] for row in csv.DictReader(stream)} == {"a grey.tif"}


def test_masks_of_a_large_image_take_a_fraction_of_what_full_size_masks_would() -> None:
    """Resident memory of a fresh process, not tracemalloc, which does not see what torch
    allocates.
    """
    row = measure_in_fresh_process("paste", threads=1)
    assert row["results"] == INSTANCES
    assert row["windows"] > HEIGHT * WIDTH, "a mask of the whole image is among them"
    assert row["peak"] - row["before"] < INSTANCES * HEIGHT * WIDTH / 10


@pytest.mark.usefixtures("model")
def test_images_of_8_bits_are_noted_where_the_model_learned_on_deeper_ones(
    cells: Path, tmp_path: Path
) -> None:
    deep = saved(tmp_path / "deep", **{"data.intensity": "0,4095"})
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 40), np.uint16)
    tifffile.imwrite(cells / "d.tif", pixels)
    found = command(deep, cells, tmp_path / "out.json")
    assert found.status == 0
    assert "Note: 3 images have 8 bits a channel (a grey.tif, b.png, c.jpg)" in found.out
    for file in ("a grey.tif", "b.png", "c.jpg"):
        (cells / file).unlink()
    assert "Note: " not in command(deep, cells, tmp_path / "out.json").out
