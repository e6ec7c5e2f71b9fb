"""Laws of the data doctor."""

import json
import shlex
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from core.backbones import BACKBONES
from core.check import main
from core.config import MOST_DETECTIONS, TrialConfig
from core.data.dataset import Category, Dataset, assemble
from core.data.looks import Looks
from core.data.measure import measure
from core.data.synthetic import make_cells, write_hw3
from core.detectors import DETECTORS
from core.fitting import READ_OFF_DATA
from core.prediction.advice import _copied, advice
from core.programs import program_here
from core.sample import Sample

DATA = make_cells(images=6, side=64)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are written into the current folder."""
    monkeypatch.chdir(tmp_path_factory.mktemp("current"))


def square(name: str, labels: list[int], image: np.ndarray | None = None, step: int = 4) -> Sample:
    """Squares of 3 x 3 pixels in rows, one an instance."""
    side = step * int(np.ceil(np.sqrt(max(1, len(labels)))))
    maps = np.zeros((1, side, side), np.uint16)
    for index in range(len(labels)):
        y, x = divmod(index, side // step)
        maps[0, y * step : y * step + 3, x * step : x * step + 3] = index + 1
    if image is None:
        image = np.random.default_rng(len(labels)).integers(0, 256, (side, side, 3), np.uint8)
    return Sample(name, image, maps, np.array(labels, np.int64), np.zeros(len(labels), np.bool_))


def report(
    folder: Path, capsys: pytest.CaptureFixture[str], data: Dataset | None = None
) -> tuple[int, str]:
    if data is not None:
        write_hw3(data, folder)
    status = main([str(folder)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, captured.out


def test_a_usable_data_set_is_described_and_ends_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = report(tmp_path, capsys, DATA)
    assert status == 0
    assert "\nUsable: no problems found.\n" in out
    following, page = out.splitlines()[-2:]
    assert following == (
        f"Next: {program_here('python')} -m tune.search --space search_spaces/ablation.yaml"
        f" --data {tmp_path} --dry-run"
    )
    assert page == "Page: check/index.html"
    counts = DATA.instance_counts()
    assert f"6 annotated images, {counts.sum()} instances, 0 test images" in out
    for column, category in enumerate(DATA.classes):
        row = next(line.split() for line in out.splitlines() if line.startswith(category.name))
        expected = [str(counts[:, column].sum()), str(np.count_nonzero(counts[:, column]))]
        assert [row[2], row[4]] == expected
    heights = [sample.size[0] for sample in DATA.samples]
    assert (
        f"image height        {min(heights)} to {max(heights)}, median {np.median(heights):.0f}"
        " pixels" in out
    )
    areas = np.concatenate([np.bincount(sample.label_maps.ravel())[1:] for sample in DATA.samples])
    assert (
        f"instance area       {areas.min()} to {areas.max()}, median {np.median(areas):,.0f} pixels"
        in out
    )


def test_the_next_command_sets_what_the_data_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """450 cells are more than a model may find by default."""
    write_hw3(assemble("x", DATA.classes, [square("a", [1] * 450), square("b", [1] * 9)]), tmp_path)
    _, out = report(tmp_path, capsys)
    following = out.splitlines()[-2]
    assert "--set predict.max_detections=auto" in following
    settings = following.split("--data ")[1].split()[1:-1]
    assert main([str(tmp_path), *settings]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[-2] == following, "with these settings nothing is left to be set"
    assert "can never be found" not in again


def test_all_problems_are_listed_at_once_and_it_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hw3(DATA, tmp_path)
    train = tmp_path / "train"
    damaged = [sample.name for sample in DATA.samples[:3]]
    whole = (train / damaged[0] / "image.tif").read_bytes()
    (train / damaged[0] / "image.tif").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(train / damaged[1] / "class1.tif", np.full(DATA.samples[1].size, 0.5))
    tifffile.imwrite(train / damaged[2] / "class9.tif", np.zeros((5, 5)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tif")}
    status, out = report(tmp_path, capsys)
    assert status == 2
    assert "3 problems to mend before a search:" in out
    for place in (
        f"{damaged[0]}/image.tif",
        f"{damaged[1]}/class1.tif",
        f"{damaged[2]}/class9.tif",
    ):
        assert sum(line.startswith(f"  {train / place}: ") for line in out.splitlines()) == 1
    assert "3 annotated images" in out, "an image with a damaged mask is not half read"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.tif")} == before


def test_unusual_things_are_noted_and_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowded = square("crowded", [1] * 101 + [2])
    negative = square("negative", [])
    twin = square("twin", [2, 2], crowded.image, step=4)
    twin_maps = np.zeros((1, *crowded.size), np.uint16)
    twin_maps[0, 0, 0], twin_maps[0, 9, 9], twin_maps[0, 5, 2:7] = 1, 1, 2
    twin = replace(twin, label_maps=twin_maps)
    status, out = report(
        tmp_path, capsys, assemble("cells", DATA.classes, [crowded, negative, twin])
    )
    notes = out[out.index("Worth a look;") :]
    assert status == 0
    assert "1 image without instances, taken as images in which there is none: negative" in notes
    assert "1 image holds more than 100 instances of a class" in notes
    assert (
        "1 instance of several separate pieces, perhaps different cells under one id: twin" in notes
    )
    assert "1 image is there more than once" in notes
    assert "crowded = twin" in notes
    assert "2 classes (class3, class4) have no instance" in notes
    assert "class class2 is in 2 images only" in notes
    assert "0 of one pixel, 1 of one row or column" in out


def test_what_the_network_needs_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hw3(DATA, tmp_path)
    network = ["--set", "model.backbone=swin_t", "--set", "model.detector=cascade"]
    assert main([str(tmp_path), *network]) == 0
    notes = capsys.readouterr().out
    assert f"model.backbone swin_t: {BACKBONES['swin_t'].advice}" in notes
    assert f"model.detector cascade: {DETECTORS['cascade'].advice}" in notes
    assert "model.backbone" not in report(tmp_path, capsys)[1]


def test_one_pixel_instances_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dots = square("dots", [1, 1, 3])
    maps = np.zeros_like(dots.label_maps)
    maps[0, 0, 0], maps[0, 0, 2:4], maps[0, 4:6, 4:6] = 1, 2, 3
    data = assemble("cells", DATA.classes, [replace(dots, label_maps=maps), square("b", [1])])
    status, out = report(tmp_path, capsys, data)
    assert status == 0
    assert "1 of one pixel, 1 of one row or column" in out
    assert "instance area       1 to 9, median 3 pixels" in out


def test_overlapping_instances_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = np.zeros((2, 8, 8), np.uint16)
    maps[0, :4], maps[1, 2:6] = 1, 2
    both = replace(square("both", [1, 2]), label_maps=maps)
    status, out = report(
        tmp_path, capsys, assemble("cells", DATA.classes, [both, square("b", [1])])
    )
    assert status == 0
    assert "1 image with overlapping instances: both" in out


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([square("a", [1])], "a hold-out needs at least 2 images, and there is 1"),
        ([square("a", []), square("b", [])], "the validation part must hold an instance"),
    ],
)
def test_what_cannot_be_split_is_not_usable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], samples: list[Sample], told: str
) -> None:
    status, out = report(tmp_path, capsys, assemble("cells", DATA.classes, samples))
    assert status == 2
    assert f"  {tmp_path}: {told}" in out
    assert "leave out" not in out


def test_the_command_line_answers_a_missing_folder_with_one_line_and_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "core.check", str(tmp_path / "nothing")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 2
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "1 problem to mend before a search:"
    assert (
        f"{tmp_path / 'nothing'}: there is no such folder; put one folder per image there"
        in done.stdout
    )
    blank, following = done.stdout.splitlines()[2:]
    assert (blank, following.partition(" -m ")[2]) == ("", f"core.check {tmp_path / 'nothing'}")


def test_a_slip_in_a_folders_name_is_answered_with_the_folder_that_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hw3(DATA, tmp_path / "cellpose")
    (tmp_path / "notes").mkdir()
    status, out = report(tmp_path / "celpose", capsys)
    told, following = out.splitlines()[1::2]
    assert status == 2
    assert told == (
        f"  {tmp_path}/celpose: there is no such folder; did you mean {tmp_path}/cellpose?"
    )
    assert following == f"Next: {program_here('python')} -m core.check {tmp_path}/cellpose"
    words = shlex.split(following.removeprefix("Next: "))
    assert Path(words[0]).exists(), "the command can be typed as it is printed"
    assert "did you mean" not in report(tmp_path / "nowhere", capsys)[1]


def test_the_folder_above_data_sets_is_told_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kidney", "liver"):
        write_hw3(DATA, tmp_path / name)
    status, out = report(tmp_path, capsys)
    assert status == 2
    assert "; data sets lie in it, which are named one by one: kidney, liver\n" in out


def test_cells_of_a_semantic_mask_are_no_slips_of_the_brush_and_are_to_be_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = []
    for number in range(4):
        maps = np.zeros((1, 200, 200), np.uint16)
        maps[0, 20:90, 20:90] = 1  # a clump, beside which the last cells are under a fiftieth
        for place in (110, 130, 150, 170):
            maps[0, place : place + 12, place : place + 12] = 1
            maps[0, place : place + 8, 40:48] = 1
        image = np.random.default_rng(number).integers(0, 256, (200, 200, 3), np.uint8)
        samples.append(
            Sample(f"i{number}", image, maps, np.ones(1, np.int64), np.zeros(1, np.bool_))
        )
    status, out = report(tmp_path, capsys, assemble("cells", [Category(1, "cell")], samples))
    assert status == 2
    assert "(semantic masks)" in out
    assert "stray pixels" not in out
    following = out.split("Next: ")[1].splitlines()[0]
    assert following.endswith(f"core.check {tmp_path} --set data.split_components=true")


def coco(folder: Path, categories: list[object], name: str = "a.png") -> Path:
    (folder / "train").mkdir(parents=True)
    Image.fromarray(square("a", [1] * 9).image).save(folder / "train" / name)
    segmentation = [[1, 1, 8, 1, 8, 8, 1, 8]]
    content = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation}],
        "categories": categories,
    }
    (folder / "train.json").write_text(json.dumps(content))
    return folder


def test_a_data_set_whose_classes_are_all_invalid_ends_in_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = report(coco(tmp_path, [{"id": 1, "name": None}, {"id": 2}, 3]), capsys)
    assert status == 2
    assert "its name must be a string, and is None (2 of this kind: also category 2)" in out
    assert "there must be at least one category, and there is none" in out


def test_thousands_of_categories_are_counted_and_not_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: list[object] = [{"id": number, "name": f"kind {number}"} for number in range(1, 3001)]
    _, out = report(coco(tmp_path, names), capsys)
    assert len(out.splitlines()) < 80
    assert "and 2,960 classes more, with 0 instances in all" in out
    assert "2,999 classes (kind 2, kind 3, kind 4 and 2,996 more) have no instance" in out


def test_no_name_reaches_the_terminal_as_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    _, out = report(
        coco(tmp_path / "a", [{"id": 1, "name": f"{evil} cell"}], f"{evil}.png"), capsys
    )
    assert "\\x1b]0;owned\\x07\\x1b[2J\\u202e cell" in out
    gone = coco(tmp_path / "b", [{"id": 1, "name": evil}, {"id": 1, "name": evil}, {"id": evil}])
    (gone / "train" / "a.png").unlink()
    content = json.loads((gone / "train.json").read_text())
    content["images"][0]["file_name"] = f"{evil}.png"
    (gone / "train.json").write_text(json.dumps(content))
    _, broken = report(gone, capsys)
    for text in (out, broken):
        assert all(character.isprintable() or character == "\n" for character in text)


def test_one_cause_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = coco(tmp_path, [{"id": 1, "name": "cell"}])
    content = json.loads((folder / "train.json").read_text())
    content["annotations"] = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": [[3, 3, 3, 3, 3, 3]]}
        for number in range(5000)
    ] + [
        {"id": 5000 + number, "image_id": number + 7, "category_id": 1, "segmentation": []}
        for number in range(9)
    ]
    (folder / "train.json").write_text(json.dumps(content))
    status, out = report(folder, capsys)
    assert status == 2
    assert "5,009 problems of 2 kinds to mend before a search:" in out
    assert sum("covers none" in line for line in out.splitlines()) == 1
    assert "(5,000 of this kind: also annotation 1, annotation 2 and 4,997 more)" in out
    assert "(9 of this kind: also annotation 5001, annotation 5002 and 6 more)" in out


def test_more_cells_than_the_largest_cap_holds_are_answered_with_tiles() -> None:
    data = assemble("x", [Category(1, "cell")], [square("a", [1] * (MOST_DETECTIONS + 1), step=4)])
    (note,) = (
        one for one in advice(data, measure(data), [TrialConfig()]) if "never be found" in one
    )
    assert note.endswith("; make the tiles smaller (predict.tile): each has this cap for itself")


def semantic(name: str) -> Sample:
    """Nine squares under one id."""
    squares = square(name, [1] * 9)
    one = (squares.label_maps > 0).astype(np.uint16)
    return replace(squares, label_maps=one, labels_N=np.array([1]), crowd_N=np.zeros(1, np.bool_))


def twice(name: str) -> Sample:
    """Nine squares in one class and in another."""
    squares = square(name, [1] * 9)
    above = np.where(squares.label_maps > 0, squares.label_maps + 9, 0).astype(np.uint16)
    both = np.concatenate([squares.label_maps, above])
    return replace(
        squares, label_maps=both, labels_N=np.repeat([1, 2], 9), crowd_N=np.zeros(18, np.bool_)
    )


@pytest.mark.parametrize(
    ("of", "told", "sign"),
    [
        (semantic, "(semantic masks)", "of several separate pieces"),
        (twice, "are annotated twice, 45 in two classes", "with overlapping instances"),
    ],
)
def test_what_is_suspected_is_said_once_and_is_no_figure_left_out(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    of: Callable[[str], Sample],
    told: str,
    sign: str,
) -> None:
    write_hw3(assemble("cells", DATA.classes, [of(f"a{number}") for number in range(5)]), tmp_path)
    status, out = report(tmp_path, capsys)
    assert status == 2
    assert sum(told in line for line in out.splitlines()) == 1
    assert sign not in out
    assert "leave out" not in out, "all was read"
    assert main([str(tmp_path), "--set", "data.allow_suspicious=true"]) == 0
    assert sign in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"iscrowd": 1}, "4 of 4 annotations are crowd regions"),
        ({"category_id": 7}, "category_id must be the id of a category, and is 7"),
    ],
)
def test_where_no_instance_is_left_only_the_cause_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, int], told: str
) -> None:
    """Nobody is asked to annotate more, nor to take out images that were annotated."""
    folder = coco(tmp_path, [{"id": 1, "name": "cell"}])
    content = json.loads((folder / "train.json").read_text())
    content["annotations"] = [
        {**content["annotations"][0], **change, "id": number} for number in range(4)
    ]
    (folder / "train.json").write_text(json.dumps(content))
    status, out = report(folder, capsys)
    assert status == 2
    assert told in out
    assert "Worth a look" not in out


def test_more_cells_than_are_predicted_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = assemble(
        "cells",
        DATA.classes,
        [square("a", [1] * 450), square("b", [1] * 300 + [2] * 120), square("c", [1])],
    )
    write_hw3(data, tmp_path)
    _, out = report(tmp_path, capsys)
    assert (
        "2 images hold more instances than are predicted in one (predict.max_detections 400), so"
        " that 70 of" in out
    )
    assert (
        "871 instances can never be found: a, b; `--set predict.max_detections=auto` has room"
        " for all (700)" in out
    )
    for cap in ("500", "auto"):
        assert main([str(tmp_path), "--set", f"predict.max_detections={cap}"]) == 0
        assert "can never be found" not in capsys.readouterr().out
    assert main([str(tmp_path), "--set", "predict.tile=64"]) == 0
    assert "can never be found" not in capsys.readouterr().out


def test_names_that_show_slides_are_answered_with_the_pattern(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"slide{slide}_{y}_{x}" for slide in range(5) for y in (0, 64) for x in (0, 64)]
    data = assemble(
        "cells", DATA.classes, [square(name, [1] * (5 + seed)) for seed, name in enumerate(names)]
    )
    write_hw3(data, tmp_path)
    _, out = report(tmp_path, capsys)
    assert (
        "20 images seem by their names to be parts of 5 slides, patients or series (slide0_0_0,"
        " slide0_0_64," in out
    )
    pattern = out.split("--set 'data.group_pattern=")[1].split("'")[0]
    assert main([str(tmp_path), "--set", f"data.group_pattern={pattern}"]) == 0
    assert "seem by their names" not in capsys.readouterr().out


def test_names_that_begin_alike_are_asked_about_only_where_colours_are_alike_too() -> None:
    def shown(shade_of: Callable[[int, int], int]) -> list[str]:
        rng = np.random.default_rng(0)
        samples = [
            square(
                f"slide{slide}_{7 + 31 * number}",
                [1] * 9,
                rng.integers(0, 30 + 20 * shade_of(slide, number), (12, 12, 3), np.uint8),
            )
            for slide in range(6)
            for number in range(6)
        ]
        data = assemble("cells", DATA.classes, samples)
        return [one for one in advice(data, measure(data), [TrialConfig()]) if "group_" in one]

    (asked,) = shown(lambda slide, _: slide)
    assert asked.startswith(
        "36 images seem by the beginnings of their names and by their colours to be parts of 6"
        " slides, patients or series (slide0_"
    )
    assert "`--set 'data.group_pattern=^(.+)_[A-Za-z]*(\\d+)$'`" in asked
    assert shown(lambda slide, number: (slide + number) % 6) == []


def test_images_that_are_alike_one_after_the_other_are_asked_about() -> None:
    rng = np.random.default_rng(0)
    samples = [
        square(
            f"img{number:02d}",
            [1] * 9,
            rng.integers(0, 30 + 30 * (number // 6), (12, 12, 3), np.uint8),
        )
        for number in range(36)
    ]
    data = assemble("cells", DATA.classes, samples)
    notes = "\n".join(advice(data, measure(data), [TrialConfig()]))
    assert "images that follow each other by name are closer in colour than others" in notes


def test_equal_images_are_named_once_and_a_changed_copy_of_them_as_a_pair() -> None:
    rng = np.random.default_rng(0)
    images = {f"a{number}": rng.integers(0, 256, (24, 24, 3), np.uint8) for number in range(60)}
    images |= {"b0": images["a3"], "b1": images["a3"], "c": images["a3"][:, ::-1].copy()}
    samples = [square(name, [1] * 36, image) for name, image in images.items()]
    data = assemble("cells", DATA.classes, samples)
    notes = list(advice(data, measure(data), [TrialConfig()]))
    (twins,) = [note for note in notes if "there more than once" in note]
    assert twins.startswith("1 image is there more than once")
    assert twins.endswith("a3 = b0 = b1")
    (pairs,) = [note for note in notes if "nearly the same place" in note]
    assert pairs.startswith("3 pairs of images show nearly the same place")
    assert all(f"{name} = c" in pairs for name in ("a3", "b0", "b1"))


def test_thousands_of_equal_images_are_no_millions_of_pairs() -> None:
    blank = np.full((4, 4, 3), 250, np.uint8)
    samples = [square(f"a{number}", [1], blank) for number in range(1500)]
    data = assemble("cells", DATA.classes, samples)
    looks = Looks(data)
    tracemalloc.start()
    try:
        assert len(list(_copied(data, looks, ""))) == 1
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 60e6


def test_an_image_or_group_that_holds_most_of_a_class_is_named() -> None:
    def notes(counts: list[int], **settings: str) -> list[str]:
        samples = [
            square(f"p{number // 2}_{number % 2}", [1] * (20 + number) + [2] * count)
            for number, count in enumerate(counts)
        ]
        data = assemble("cells", DATA.classes, samples)
        config = TrialConfig.from_settings(settings, "test")
        return [one for one in advice(data, measure(data), [config]) if " are in one " in one]

    (note,) = notes([1, 0, 8, 1, 0, 0])
    assert note.startswith("8 of 10 instances of class2 are in one image (p1_0): if it trains, ")
    assert notes([5, 0, 5, 1, 0, 0]) == []
    assert notes([9, 0, 0, 0, 0, 0]) == []  # a class in one image alone has a note of its own
    (note,) = notes([3, 3, 2, 2, 0, 0], **{"data.group_pattern": "(p.)"})
    assert note.startswith("6 of 10 instances of class2 are in one group (p0)")


def test_a_data_set_that_is_mostly_empty_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = assemble(
        "cells", DATA.classes, [square(f"a{number}", [1] * 3 * (number < 2)) for number in range(6)]
    )
    _, out = report(tmp_path, capsys, data)
    assert (
        "4 of 6 images hold no instance and train as background: a2, a3, a4 and 1 more; take out"
        " those" in out
    )


def test_a_pattern_that_finds_no_group_is_a_problem_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"a{number}_png.rf.{number:032x}" for number in (1, 1, 2)] + ["a1_png.rf." + "f" * 32]
    data = assemble(
        "cells",
        DATA.classes,
        [square(name, [1] * (3 + seed)) for seed, name in enumerate(set(names))],
    )
    write_hw3(data, tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "2 images are versions of 1 picture by their names" in capsys.readouterr().out
    assert main([str(tmp_path), "--set", "data.group_pattern=(zzz)"]) == 2
    assert "data.group_pattern must find a group in every image's name" in capsys.readouterr().out


def test_what_suits_the_data_is_recommended_with_what_it_brings_and_auto_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells of 3 pixels: as good as none fits an anchor of 32 where they are not enlarged."""
    data = assemble("x", DATA.classes, [square(name, [1] * 400) for name in "abcde"])
    write_hw3(data, tmp_path)
    given = ["--set", "model.image_min_side=80"]
    assert main([str(tmp_path), *given]) == 0
    out = capsys.readouterr().out
    at = out.index("Recommended; `--set NAME=auto` takes the value:")
    lines = out[at:].splitlines()[1 : 1 + len(READ_OFF_DATA)]
    values = dict(line.split(":")[0].split() for line in lines)
    assert values.keys() == READ_OFF_DATA
    assert ", 0% with the settings given" in out
    assert "some anchor fits 0% of the instances (IoU 0.5 or more)" in out
    auto = [part for name in READ_OFF_DATA for part in ("--set", f"{name}=auto")]
    assert main([str(tmp_path), *auto]) == 0
    again = capsys.readouterr().out
    assert "of the instances (IoU" not in again
    assert again[again.index("Recommended") :].splitlines()[1:8] == lines


def test_caps_of_proposals_below_the_crowd_are_answered_with_auto(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = assemble("x", DATA.classes, [square(name, [1] * 70) for name in "abcde"])
    write_hw3(data, tmp_path)
    assert main([str(tmp_path), "--set", "model.proposals_test=50"]) == 0
    out = capsys.readouterr().out
    assert (
        "model.proposals_test 50 are fewer than the instances: an image holds up to 70 instances;"
        " `--set model.proposals_test=auto` has room for them (1000)" in out
    )
    assert "model.proposals_train 2000 are fewer" not in out
