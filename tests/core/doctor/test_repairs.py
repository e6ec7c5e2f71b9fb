"""Laws of repairs: each is counted and listed, nothing else changes, and the doctor finds none of
the repaired problems in the copy.
"""

import importlib.util
import json
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from core import faults
from core.check import main
from core.config import TrialConfig
from core.data import inspect_data
from core.data.conversion import write_coco
from core.data.dataset import Category, Dataset, Inspection, assemble
from core.data.synthetic import make_cells, write_hw3
from core.doctor.diagnosis import diagnose
from core.doctor.repairs import LIST, REPAIRS, Mended, mended, settings_for_copy
from core.sample import Sample

MAKE = Path(__file__).parents[4] / "shared/cases/make.py"
CELLS = make_cells(images=6, side=160)


@pytest.fixture(autouse=True)
def current(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("current")
    monkeypatch.chdir(folder)
    return folder


def disc(maps: np.ndarray, number: int, y: int, x: int, radius: int, layer: int = 0) -> None:
    rows, columns = np.mgrid[: maps.shape[1], : maps.shape[2]]
    maps[layer][(rows - y) ** 2 + (columns - x) ** 2 <= radius * radius] = number


def slipped() -> Dataset:
    """Discs, one with a stray pixel, one given twice, one in two classes, one of two pixels, and
    one of two pieces.
    """
    maps = np.zeros((3, 90, 90), np.uint16)
    disc(maps, 1, 20, 20, 9)
    maps[0, 20, 45] = 1  # stray
    disc(maps, 2, 20, 65, 9)
    disc(maps, 3, 20, 65, 9, layer=1)  # the same class again
    disc(maps, 4, 60, 20, 9)
    disc(maps, 5, 60, 20, 9, layer=1)  # another class
    maps[0, 60, 45:47] = 6  # two pixels
    disc(maps, 7, 55, 60, 6)
    disc(maps, 7, 75, 75, 6)  # two pieces
    disc(maps, 8, 85, 5, 4)
    labels = np.array([1, 1, 1, 1, 2, 1, 2, 1])
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    one = Sample("a", image, maps, labels, np.zeros(8, np.bool_))
    return assemble("x", [Category(1, "round"), Category(2, "other")], [one])


def done(dataset: Dataset) -> Mended:
    mend = mended(Inspection(dataset, ()), "x")
    assert mend is not None
    return mend


def test_each_slip_is_mended_once_and_what_a_person_must_decide_stays() -> None:
    mend = done(slipped())
    assert Counter(one.repair for one in mend.repairs) == {
        "twin": 1, "stray pixels": 1, "few pixels": 1
    }  # fmt: skip
    (sample,) = mend.dataset.samples
    assert sample.labels_N.tolist() == [1, 1, 1, 2, 2, 1], "two classes and two pieces stay"
    before, after = slipped().samples[0].label_maps, sample.label_maps
    assert np.count_nonzero(before.any(axis=0) & ~after.any(axis=0)) == 3, "1 stray, 2 of a slip"
    assert not (after.any(axis=0) & ~before.any(axis=0)).any()
    assert {one.pixels for one in mend.repairs if one.repair == "stray pixels"} == {1}


def test_a_mended_data_set_needs_no_repair() -> None:
    assert done(done(slipped()).dataset).repairs == ()


def test_a_good_data_set_is_left_as_it_is() -> None:
    assert done(CELLS).repairs == ()


def test_what_the_border_cut_off_is_no_slip() -> None:
    sample = CELLS.samples[0]
    maps = np.zeros((1, 100, 100), np.uint16)
    for number in range(1, 5):
        disc(maps, number, 20 * number, 50, 8)
    maps[0, 0, 50], maps[0, 50, 99] = 5, 1
    cut = Sample("a", sample.image[:100, :100], maps, np.ones(5, np.int64), np.zeros(5, np.bool_))
    assert done(assemble("x", [Category(1, "cell")], [cut])).repairs == ()


def smoothed(sample: Sample) -> Sample:
    """The instances as they are after the ids of their mask were halved and doubled in size with
    smoothing.
    """
    ids = Image.fromarray((sample.label_maps[0] * 9).astype(np.uint8))
    height, width = sample.size
    small = ids.resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    large = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
    numbers, maps = np.unique(large, return_inverse=True)
    count = len(numbers) - 1
    return replace(
        sample,
        label_maps=maps.reshape(1, height, width).astype(np.uint16),
        labels_N=np.ones(count, np.int64),
        crowd_N=np.zeros(count, np.bool_),
    )


def test_smoothed_ids_become_the_instances_that_they_were_made_of() -> None:
    """Each is found again with an IoU of 0.8 or more, and nothing else is left."""
    maps = np.zeros((1, 120, 160), np.uint16)
    for number in range(1, 13):
        disc(
            maps,
            number,
            20 + 38 * ((number - 1) // 4),
            22 + 35 * ((number - 1) % 4),
            7 + number % 4,
        )
    disc(maps, 13, 20, 42, 8)  # touches another
    true = Sample(
        "a", np.zeros((120, 160, 3), np.uint8), maps, np.ones(13, np.int64), np.zeros(13, np.bool_)
    )
    damaged = smoothed(true)
    assert len(damaged.labels_N) > 50
    mend = done(assemble("x", [Category(1, "cell")], [damaged]))
    assert {one.repair for one in mend.repairs} == {"made up"}
    assert sum(one.pixels for one in mend.repairs) > 100
    (after,) = mend.dataset.samples
    assert len(after.labels_N) == 13
    for number in range(1, 14):
        mask = maps[0] == number
        found = after.label_maps[0] == np.bincount(after.label_maps[0][mask]).argmax()
        assert np.count_nonzero(mask & found) >= 0.8 * np.count_nonzero(mask | found)


def test_smoothed_ids_of_cells_so_small_that_some_might_vanish_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = assemble("x", [Category(1, "cell")], [smoothed(one) for one in CELLS.samples])
    coco(tmp_path / "from", damaged)
    assert main([str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to")]) == 2
    said = capsys.readouterr().out
    assert "as where ids were resized with smoothing" in said
    assert "No copy was written: there is nothing to repair." in said


def coco(folder: Path, dataset: Dataset, empty: int = 0, unknown: int = 0) -> None:
    """A data set with so many empty outlines, and annotations of an unknown category, besides."""
    folder.mkdir()
    write_coco(dataset, folder)
    content = json.loads((folder / "train/_annotations.coco.json").read_text())
    for number in range(empty + unknown):
        content["annotations"].append({
            "id": 90_000 + number, "image_id": 1, "segmentation": [], **({"bbox": [1, 1, 5, 5]} if number % 2 else {}),
            "category_id": 99 if number >= empty else dataset.classes[0].id,
        })  # fmt: skip
    (folder / "train/_annotations.coco.json").write_text(json.dumps(content))


def test_the_copy_holds_all_but_what_is_listed_and_the_doctor_finds_none_of_it_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = assemble(
        "x", slipped().classes, [*slipped().samples, replace(slipped().samples[0], name="b")]
    )
    coco(tmp_path / "from", dataset, empty=2)
    before = {path: path.read_bytes() for path in (tmp_path / "from").rglob("*") if path.is_file()}
    main([str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to")])
    said = capsys.readouterr().out
    listed = json.loads((tmp_path / "to" / LIST).read_text())["repairs"]
    counts = Counter(one["repair"] for one in listed)
    assert counts == {"empty": 2, "twin": 2, "stray pixels": 2, "few pixels": 2}
    for name, count in counts.items():
        assert said.count(f"{count} {REPAIRS[name]}") == 2, "before and after"
    copy = diagnose(str(tmp_path / "to"), TrialConfig())
    assert copy.mend is not None
    assert copy.mend.repairs == ()
    assert not copy.inspection.problems or all(one.suspicious for one in copy.inspection.problems)
    assert {path: path.read_bytes() for path in before} == before, "the source stays"


def test_exif_is_gone_from_the_copy_and_its_pixels_are_upright(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hw3(CELLS, tmp_path / "from")
    turned = tmp_path / "from/train" / CELLS.samples[0].name
    exif = Image.Exif()
    exif[274] = 6
    stored = Image.fromarray(CELLS.samples[0].image).transpose(Image.Transpose.ROTATE_90)
    stored.save(turned / "image.png", exif=exif)
    (turned / "image.tif").unlink()
    assert main([str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to")]) == 0
    assert f"1 {REPAIRS['turned']}" in capsys.readouterr().out
    written = np.asarray(Image.open(tmp_path / "to/train" / f"{CELLS.samples[0].name}.png"))
    assert (written == CELLS.samples[0].image).all()
    copy = diagnose(str(tmp_path / "to"), TrialConfig()).mend
    assert copy is not None
    assert copy.repairs == ()


def test_where_something_would_be_missing_no_copy_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco(tmp_path / "from", slipped(), empty=1, unknown=1)
    arguments = [str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to")]
    assert main(arguments) == 2
    said = capsys.readouterr().out
    assert "No copy was written: it would lack what 1 problem above is about." in said
    assert "--set data.skip_bad=true" in said
    assert not (tmp_path / "to").exists()
    main([*arguments, "--set", "data.skip_bad=true"])
    assert "Repaired copy" in capsys.readouterr().out
    assert "data.skip_bad: 2 skipped" in (tmp_path / "to" / LIST).read_text()


@pytest.mark.parametrize("place", ["full", "a file", "inside", "nowhere"])
def test_a_copy_goes_to_a_new_or_an_empty_folder_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    coco(tmp_path / "from", slipped())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    (tmp_path / "a file").write_text("mine")
    copy = {"inside": tmp_path / "from/copy", "nowhere": tmp_path / "no/such"}.get(
        place, tmp_path / place
    )
    assert main([str(tmp_path / "from"), "--no-page", "--fix", str(copy)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(str(copy))
    assert (tmp_path / "full/thesis.txt").read_text() == (tmp_path / "a file").read_text() == "mine"


@pytest.mark.parametrize("named", ["from", "from/", "."])
def test_the_next_command_names_a_copy_that_may_be_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    named: str,
) -> None:
    coco(tmp_path / "from", slipped(), empty=1)
    monkeypatch.chdir(tmp_path / "from" if named == "." else tmp_path)
    assert main([named, "--no-page"]) == 2
    following = capsys.readouterr().out.splitlines()[-1].partition("core.check ")[2]
    main([*following.split(), "--no-page"])
    assert "Repaired copy" in capsys.readouterr().out
    assert (tmp_path / "from-repaired" / LIST).is_file()


def test_nothing_to_repair_gives_no_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hw3(CELLS, tmp_path / "from")
    assert main([str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to")]) == 0
    assert "No copy was written: there is nothing to repair." in capsys.readouterr().out
    assert not (tmp_path / "to").exists()


def test_an_interrupted_copy_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco(tmp_path / "from", slipped())

    def stop(point: str) -> None:
        if "repairs.json" in point:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "passing", stop)
    assert main([str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to")]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from"]


@pytest.fixture(scope="module")
def cases() -> ModuleType:
    if not MAKE.is_file():
        pytest.skip(f"the cases are not there: {MAKE}")
    spec = importlib.util.spec_from_file_location("shared_cases", MAKE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REPAIRED = {"exif-turned": "turned", "one-empty-polygon": "empty", "interpolated-ids": "made up"}
"""The shared cases that can be repaired without a person, and how."""


@pytest.mark.parametrize("name", REPAIRED)
def test_a_shared_case_is_usable_when_repaired(
    cases: ModuleType, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases.CASES[name](tmp_path / "from")
    status = main([str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to")])
    said = capsys.readouterr().out
    assert status == 0, said
    listed = json.loads((tmp_path / "to" / LIST).read_text())["repairs"]
    assert {one["repair"] for one in listed} >= {REPAIRED[name]}
    found = inspect_data(str(tmp_path / "to"))
    assert not found.problems
    assert found.dataset is not None
    again = mended(found, str(tmp_path / "to"))
    assert again is not None
    assert again.repairs == ()


def test_no_shared_case_loses_an_image_or_an_instance_in_silence(
    cases: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, build in cases.CASES.items():
        if name in REPAIRED:
            continue
        build(tmp_path / name)
        status = main([str(tmp_path / name), "--no-page", "--fix", str(tmp_path / f"{name}-to")])
        said = capsys.readouterr().out
        assert "No copy was written" in said or (tmp_path / f"{name}-to" / LIST).is_file(), name
        assert status in (0, 2)
        assert status == 0 or "to mend before a search" in said, name


def test_images_of_more_bits_to_predict_on_come_along_in_the_same_range(tmp_path: Path) -> None:
    (sample,) = slipped().samples
    deep = sample.image.astype(np.uint16) * 16
    (tmp_path / "from/test").mkdir(parents=True)
    (tmp_path / "from/train").mkdir()
    for name in ("a", "b"):
        imagecodecs.imwrite(tmp_path / f"from/train/{name}.png", deep)
        Image.fromarray(sample.label_maps[0]).save(tmp_path / f"from/train/{name}_masks.png")
    imagecodecs.imwrite(tmp_path / "from/test/c.png", deep)
    main([str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to")])
    trained, predicted = (
        np.asarray(Image.open(tmp_path / "to" / name)) for name in ("train/a.png", "test/c.png")
    )
    np.testing.assert_array_equal(trained, predicted)


def test_the_next_command_for_the_copy_keeps_the_settings_that_still_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hw3(CELLS, tmp_path / "from")
    pattern = r"data.group_pattern=^([^.]+)"
    arguments = ["--set", pattern, "--set", "data.split_components=true"]
    assert (
        main([str(tmp_path / "from"), "--no-page", "--fix", str(tmp_path / "to"), *arguments]) == 0
    )
    (following,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: ")
    ]
    assert shlex.split(following).count(pattern) == 1
    assert "split_components" not in following


@pytest.mark.parametrize("place", [".", "new/.."])
def test_the_current_folder_is_no_place_for_a_copy(
    current: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    coco(tmp_path / "from", slipped())
    assert main([str(tmp_path / "from"), "--no-page", "--fix", place]) == 2
    assert capsys.readouterr().err.startswith(f"{place}: ")
    assert not any(current.iterdir())


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [(r"^(s\d)", True), (r"^(.+)_\d+$", False), (r"^(.+?)(?:_\d+)?$", False), ("", True)],
)
def test_a_pattern_that_groups_the_files_of_the_copy_in_another_way_is_not_kept(
    pattern: str, kept: bool
) -> None:
    samples = [
        replace(sample, name=f"s{number // 2}_{number}")
        for number, sample in enumerate(CELLS.samples)
    ]
    mend = done(assemble("x", CELLS.classes, samples))
    given = TrialConfig.from_settings({"data.group_pattern": pattern})
    settings, said = settings_for_copy(given, mend)
    assert settings.data.group_pattern == (pattern if kept else "")
    assert len(said) == (not kept)
