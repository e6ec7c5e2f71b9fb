"""Laws of the comparison on tissue: its presets are configurations, and its table is the report's."""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import tissue
from benchmarks.prediction import TriesWays, ways_of
from benchmarks.tissue import (
    EIGHT,
    GROUPS,
    LEAST_LEFT,
    PRESETS,
    SHORTER,
    data_of,
    quarters,
    space_of,
)
from core.config import PredictConfig, TrialConfig
from core.data import load_data, synthetic
from core.dependence import effective_settings
from tune.request.file import load_request
from tune.request.request import StudyRequest
from tune.study.trials import TrialInputs

ROOT = Path(__file__).parents[1]


def asked(**changes: object) -> argparse.Namespace:
    options = {
        "study": "tissue", "weights": "imagenet", "stride_in_1x1": False, "epochs": None,
        "seeds": None, "short": False,
    }  # fmt: skip
    return argparse.Namespace(**options | changes)


def request_of(names: tuple[str, ...], folder: Path, **changes: object) -> StudyRequest:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(space_of(names, folder, asked(**changes)), sort_keys=False))
    return load_request(path)


@pytest.mark.parametrize("short", [False, True])
def test_every_preset_is_a_configuration_that_no_other_is(short: bool, tmp_path: Path) -> None:
    request = request_of(tuple(PRESETS), tmp_path, short=short)
    trained = {
        variant.name: dict(effective_settings(request.space.resolve(variant.settings).settings()))
        for variant in request.space.variants
    }
    assert list(trained) == list(PRESETS)
    assert len({tuple(sorted(one.items())) for one in trained.values()}) == len(PRESETS)


def test_a_preset_that_is_named_after_a_change_has_that_change_and_no_other() -> None:
    whole = TrialConfig.from_settings(PRESETS["A"]).settings()
    changed = {
        name: {
            setting
            for setting, value in TrialConfig.from_settings(preset).settings().items()
            if value != whole[setting]
        }
        for name, preset in PRESETS.items()
        if name.startswith("A, ")
    }
    assert len(changed) >= 15
    assert all(changed.values())
    assert changed["A, 4e-4"] == {"optim.learning_rate"}
    assert changed["A, mirrored view"] == {"predict.views"}


def test_eight_presets_with_three_seeds_are_compared_with_a(tmp_path: Path) -> None:
    request = request_of(EIGHT, tmp_path)
    assert (len(EIGHT), request.planned_trials, request.space.baseline) == (8, 24, "A")
    assert request.space.value("data.group_pattern", {}) == GROUPS


def test_the_short_form_makes_what_presets_name_smaller_by_one_factor_a_setting(
    tmp_path: Path,
) -> None:
    whole, short = (request_of(tuple(PRESETS), tmp_path, short=short) for short in (False, True))
    for variant, smaller in zip(whole.space.variants, short.space.variants, strict=True):
        for name, factor in SHORTER.items():
            value = whole.space.value(name, variant.settings)
            found = short.space.value(name, smaller.settings)
            named = name in variant.settings or name == "model.image_min_side"
            if named and value != "auto":
                assert found == round(factor * value), (variant.name, name)
            elif named and name in variant.settings:
                assert found == "auto"
    assert short.space.value("optim.epochs", {}) == 8
    assert short.space.seeds == 3


def test_the_ways_to_predict_differ_and_begin_with_the_models_own() -> None:
    own = PredictConfig(max_detections=125)
    ways = ways_of(own, 160)
    assert next(iter(ways.values())) == own
    assert len(set(ways.values())) == len(ways) > 12


def test_only_trials_of_the_baseline_predict_in_other_ways(
    tmp_path: Path,
) -> None:
    space = request_of(("recipe", "A"), tmp_path).space
    of_a = next(row.config for row in space.rows() if row.name == "A")
    maker = TriesWays(of_a, 160)
    for row in space.rows():
        tried = maker.predictions(
            row.config, TrialInputs(synthetic.make_cells(2), {}, 1, gpu=False)
        )
        assert (len(tried) > 0) == (row.name == "A"), row
        assert row.config.predict not in tried


def tiles(folder: Path) -> Path:
    """Crops of five tiles, two of each, in HW3 layout."""
    data = synthetic.make_cells(images=10, side=64)
    named = [
        replace(sample, name=f"tile_{place // 2}_0_{500 * (place % 2)}")
        for place, sample in enumerate(data.samples)
    ]
    synthetic.write_hw3(replace(data, samples=tuple(named)), folder)
    return folder


def test_the_short_form_has_two_quarters_of_one_crop_of_each_tile(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folder = data_of(tiles(tmp_path / "whole"), tmp_path / "out", short=True)
    whole, found = load_data(str(tmp_path / "whole")), load_data(str(folder))
    crops = {crop.name: crop for crop in whole.samples if crop.name.endswith("_0_0")}
    assert len(found.samples) == 2 * len(crops) == 10
    for sample in found.samples:
        tile, y0, x0 = sample.name.rsplit("_", 2)
        crop = crops[f"{tile}_0_0"]
        height, width = (side // 2 for side in crop.size)
        assert (int(y0), int(x0)) in ((0, 0), (height, width))
        window = slice(int(y0), int(y0) + height), slice(int(x0), int(x0) + width)
        np.testing.assert_array_equal(sample.image, crop.image[window])
    assert data_of(tmp_path / "whole", tmp_path / "out", short=True) == folder
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder.name]


def test_a_quarter_has_the_instances_of_which_enough_is_left_and_no_other() -> None:
    data = synthetic.make_cells(images=6, side=128)
    named = tuple(
        replace(sample, name=f"tile_{place}_0_0") for place, sample in enumerate(data.samples)
    )
    cut = left_out = 0
    found = quarters(replace(data, samples=named)).samples
    for crop, *pair in zip(named, found[::2], found[1::2], strict=True):
        for sample in pair:
            y0, x0 = map(int, sample.name.rsplit("_", 2)[1:])
            height, width = sample.size
            expected = []
            for number, label in enumerate(crop.labels_N.tolist(), start=1):
                mask = (crop.label_maps == number).any(axis=0)
                here = mask[y0 : y0 + height, x0 : x0 + width]
                cut += 0 < here.sum() < mask.sum()
                left_out += 0 < here.sum() < LEAST_LEFT * mask.sum()
                if here.any() and here.sum() >= LEAST_LEFT * mask.sum():
                    expected.append((label, here.tobytes()))
            kept = [
                (label, (sample.label_maps == number).any(axis=0).tobytes())
                for number, label in enumerate(sample.labels_N.tolist(), start=1)
            ]
            assert kept == expected
    assert cut > left_out > 0


def test_a_folder_with_an_unpacking_program_is_unpacked_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "out").mkdir()
    (source / "unpack.py").write_text(
        "import pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1]) / 'train' / 'a_0_0'\n"
        "folder.mkdir(parents=True)\n"
    )
    folder = data_of(source, tmp_path / "out", short=False)
    assert (folder / "train" / "a_0_0").is_dir()
    (source / "unpack.py").write_text("raise SystemExit(1)")
    assert data_of(source, tmp_path / "out", short=False) == folder


def test_data_unpacked_from_one_folder_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    one, other = tiles(tmp_path / "one"), tiles(tmp_path / "other")
    assert data_of(one, tmp_path, short=True) != data_of(other, tmp_path, short=True)


@pytest.mark.parametrize("program", [None, "raise SystemExit(3)"])
def test_a_folder_without_data_ends_in_one_sentence(
    program: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if program is not None:
        (tmp_path / "unpack.py").write_text(program)
    for short in ([], ["--short"]):
        out = ["--out", str(tmp_path / "out")]
        assert tissue.main(["--data", str(tmp_path), *out, *short]) == 2
        said = capfd.readouterr().err
        assert str(tmp_path) in said
        assert len(said.splitlines()) == 1


def test_without_data_one_sentence_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tissue.main(["--out", str(tmp_path)]) == 2
    assert "--data DIR" in capsys.readouterr().err


@pytest.mark.study
def test_two_tiny_presets_end_in_the_tables_of_the_report(tmp_path: Path) -> None:
    tiny = {
        "model.backbone": "resnet18", "model.image_min_side": 64, "model.image_max_side": 96,
        "model.proposals_train": 32, "model.proposals_test": 32, "model.rpn_samples": 32,
        "model.box_samples": 16, "optim.warmup_epochs": 0, "predict.max_detections": 20,
    }  # fmt: skip
    command = [
        sys.executable, "-m", "benchmarks.tissue", "--short", "--data", tiles(tmp_path / "data"),
        "--out", tmp_path / "out", "--weights", "none", "--epochs", "1", "--seeds", "2",
        "--presets", "recipe", "A",
        *(part for name, value in tiny.items() for part in ("--set", f"{name}={value}")),
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    written = (tmp_path / "out" / "tissue-short.md").read_text()
    assert ended.stdout.strip() == written.strip()
    assert "2 presets, n = 2 seeds, 10 images split by tile, 1 epoch;" in written
    assert "the short form" in written
    tables = tmp_path / "out" / "tissue-short" / "report" / "tables"
    for name in ("methods", "limits"):
        assert (tables / f"{name}.md").read_text().strip() in written
    assert "| recipe" in written
    assert "| A " in written
    assert "### Ways to predict with A" in written
    for way in list(ways_of(PredictConfig(), 160))[1:]:
        (row,) = [line for line in written.splitlines() if line.startswith(f"| {way} |")]
        assert row.endswith("| 2 |"), "tried by both trainings"
