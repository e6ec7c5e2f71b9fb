"""Laws of the proof on real tissue: its requests, its clock, its state, its pages, its continuation."""

import base64
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.proof import example, plan, short, state
from benchmarks.proof.__main__ import build_parser, main
from benchmarks.proof.clock import Clock, run_child
from benchmarks.proof.plan import Pilot, Weights
from benchmarks.proof.published import PUBLISHED, TABLES
from benchmarks.proof.throughput import GOAL, Rate, Work
from core.config import ModelConfig, TrialConfig
from core.data import load_data, synthetic
from core.errors import BadRequest, StudyError
from core.network.weights import find_weights, read_weights
from core.sample import Sample
from core.training.trial import Trial
from tune.request.file import load_request
from tune.request.request import variant_attributions

ROOT = Path(__file__).parents[1]
CONSEP = ROOT.parent / "shared/data/consep"
WEIGHTS = ROOT.parent / "shared/weights/resnet50_imagenet_stride1x1_fp16.pth"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Weights]:
    """A function that makes a folder of weights which holds files of these names alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELL_TUNE_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def made(**backbones: str) -> Weights:
        folder = tmp_path / "weights"
        folder.mkdir(exist_ok=True)
        for backbone, kind in backbones.items():
            model = ModelConfig(backbone=backbone, weights=kind, detector="fpn_v2")
            file = find_weights(model, folder, download=False)
            assert file is not None
            (folder / file.path.name).write_bytes(b"weights")
        return Weights(folder)

    return made


def test_every_row_of_the_reference_report_is_a_row_of_its_space_file() -> None:
    variants = yaml.safe_load((ROOT / "search_spaces/report_tables.yaml").read_text())["variants"]
    assert {name for names in TABLES.values() for name in names} == set(variants)
    assert set(PUBLISHED) <= set(variants)


def test_rows_without_weights_are_left_out_and_named_and_no_row_is_trained_twice(
    weights: Callable[..., Weights],
) -> None:
    rows = plan.rows_document(weights(resnet50="imagenet"), is_short=False)
    assert list(rows.document["variants"]) == list(PUBLISHED)
    assert {one["model.weights"] for one in rows.document["variants"].values()} == {"imagenet"}
    assert "compare" not in rows.document
    said = " ".join(rows.left_out)
    assert "Left out, because no weights are at hand: ResNet-101 and ResNeXt-50." in said
    assert "Res50 (ImageNet) is the same as Res50 here" in said
    assert "start from ImageNet's" in said


def test_another_backbone_is_compared_with_the_row_that_starts_like_it(
    weights: Callable[..., Weights], tmp_path: Path
) -> None:
    rows = plan.rows_document(weights(resnet50="imagenet", resnet101="imagenet"), is_short=False)
    assert rows.document["compare"] == {"ResNet-101": "Res50"}
    plan.write_space(plan.rows_request(rows.document, 9), tmp_path / "rows.yaml")
    request = load_request(tmp_path / "rows.yaml")
    assert (request.planned_trials, request.max_epochs) == (27, 9)
    differs = {one.name: one for one in variant_attributions(request.space)}
    assert [one.name for one in differs["ResNet-101"].factors] == ["backbone"]


def test_where_coco_s_weights_are_the_rows_are_those_of_the_space_file(
    weights: Callable[..., Weights],
) -> None:
    at_hand = weights(resnet50="coco")
    rows = plan.rows_document(at_hand, is_short=False).document
    shipped = yaml.safe_load((ROOT / "search_spaces/report_tables.yaml").read_text())
    assert rows["variants"] == {name: shipped["variants"][name] for name in PUBLISHED}


def test_without_weights_of_the_baseline_one_sentence_asks_for_them(
    weights: Callable[..., Weights],
) -> None:
    for make in (plan.rows_document, plan.search_document):
        with pytest.raises(BadRequest, match="--weights FILE"):
            make(weights(), is_short=False)


@pytest.mark.parametrize("is_short", [False, True])
def test_the_search_has_the_backbones_that_have_weights_and_confirms_its_best(
    is_short: bool, weights: Callable[..., Weights], tmp_path: Path
) -> None:
    found = plan.search_document(weights(resnet50="imagenet"), is_short)
    assert "resnet101" in " ".join(found.left_out)
    document = plan.search_request(found.document, 10, 30, 3, 2)
    plan.write_space(document, tmp_path / "search.yaml")
    request = load_request(tmp_path / "search.yaml")
    assert "model.backbone" not in {one.name for one in request.space.parameters}
    assert (request.planned_trials, request.max_epochs) == (30, 10)
    assert (request.confirm.top, request.confirm.seeds) == (3, 2)
    assert min(request.stopping_rule.rungs(10)) == 2
    assert request.space.value("data.group_pattern", {}) == r"^(.+)_\d+_\d+$"
    pilot = plan.pilot_document(document)
    plan.write_space(pilot, tmp_path / "pilot.yaml")
    tried = load_request(tmp_path / "pilot.yaml")
    assert (tried.max_epochs, tried.confirm.top) == (1, 0)
    assert tried.space.parameters == request.space.parameters


@given(st.integers(1, 60), st.integers(1, 16), st.floats(0.1, 900), st.floats(60, 3600))
def test_the_chosen_epochs_fit_the_time_and_one_more_would_not(
    trainings: int, places: int, epoch: float, seconds: float
) -> None:
    def cost(epochs: int) -> float:
        return plan.START_SECONDS + -(-trainings // places) * plan.SLOWER * epochs * epoch

    chosen = plan.epochs_that_fit(trainings, Pilot(epoch, places), seconds)
    assert plan.FEWEST_EPOCHS <= chosen <= plan.MOST_EPOCHS
    assert chosen == plan.FEWEST_EPOCHS or cost(chosen) <= seconds * (1 + 1e-9)
    assert chosen == plan.MOST_EPOCHS or cost(chosen + 1) > seconds * (1 - 1e-9)


@given(st.integers(1, 16), st.floats(0.1, 900), st.floats(60, 3600))
def test_the_chosen_search_fits_the_time_unless_it_is_the_smallest(
    places: int, epoch: float, seconds: float
) -> None:
    epochs, trials = plan.search_that_fits(Pilot(epoch, places), seconds)
    trainings = trials / 3 + plan.TOP * plan.FRESH_SEEDS + plan.CONTINUED
    cost = plan.START_SECONDS + trainings * epochs * epoch * plan.SLOWER / places
    assert plan.FEWEST_TRIALS <= trials <= plan.MOST_TRIALS
    smallest = trials == plan.FEWEST_TRIALS or epochs == plan.FEWEST_EPOCHS
    assert smallest or cost <= seconds * (1 + 1e-9)


def test_a_child_is_interrupted_when_its_time_is_up_and_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import pathlib, time\n"
        "try:\n"
        f"    pathlib.Path({str(tmp_path / 'began')!r}).touch()\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        f"    pathlib.Path({str(tmp_path / 'kept')!r}).touch()\n"
    )
    ended = run_child([sys.executable, "-c", code], 5.0, {})  # on a busy machine it sleeps by then
    assert ended.status is None
    assert (tmp_path / "began").exists()
    assert (tmp_path / "kept").exists()
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"], 60.0, {}).status == 3
    shown = [sys.executable, "-c", "import os, sys; sys.exit(os.environ['SEEN'] != 'yes')"]
    assert run_child(shown, 60.0, {"SEEN": "yes"}).status == 0


def test_a_child_that_does_not_end_is_killed_within_what_is_kept_for_it() -> None:
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    assert run_child([sys.executable, "-c", code], 2.0, {}, grace=0.5).status is None
    for minutes in (1.0, 2.0, 15.0):
        assert 0 < Clock(minutes).grace < Clock(minutes).reserve


def test_a_killed_command_leaves_no_child_behind(tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    code = (
        "import sys; from benchmarks.proof.clock import run_child\n"
        f"run_child([sys.executable, '-c', {child!r}], 99.0, {{}})"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", parent)
    number = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    wait_for(
        lambda: (
            not Path(f"/proc/{number}/cmdline").exists()
            or not Path(f"/proc/{number}/cmdline").read_bytes()
        )
    )


def test_the_time_for_work_leaves_a_part_for_the_end() -> None:
    for minutes in (0.5, 3.0, 9.0):
        clock = Clock(minutes)
        assert 0 < clock.reserve <= 20 * minutes
        assert clock.for_work() < clock.left() <= 60 * minutes
    assert Clock().for_work() == float("inf")


def test_what_is_carried_has_the_ledger_and_match_tables_and_neither_weights_nor_images(
    tmp_path: Path,
) -> None:
    carried = [
        "proof.json", "ablation/study.db", "ablation/study.json", "ablation/packing.json",
        "ablation/trials/0/matches/epoch-0001.npz", "ablation/best/submission.zip",
        "ablation/report/index.html", "prediction.jpg", "ablation.yaml",
    ]  # fmt: skip
    left = [
        "ablation/trials/0/last.safetensors", "ablation/best/model.safetensors", ".proof.lock",
        "ablation/retrain/0/last.json", "data/tissue-data-1/train/a/image.tif", "weights/a.pth",
        "ablation/best/overlays/a.png", "mlartifacts/1/a", "ablation/driver.json",
    ]  # fmt: skip
    for name in carried + left:
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_text(name)
    (tmp_path / "one/proof.json").write_text(
        json.dumps({"format": 1, "short": True, "chosen": {"a": {"why": "b"}}, "runs": []})
    )
    place, size = state.pack(tmp_path / "one")
    assert size == place.stat().st_size
    with tarfile.open(place) as archive:
        assert sorted(archive.getnames()) == sorted(carried)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / place.name).write_bytes(place.read_bytes())
    opened = state.open_state(tmp_path / "other", short=True)
    assert opened.chosen == {"a": {"why": "b"}}
    for name in carried[1:]:
        assert (tmp_path / "other" / name).read_text() == name
    with pytest.raises(BadRequest, match="the short form of the proof"):
        state.open_state(tmp_path / "other", short=False)


def test_a_torn_archive_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / state.ARCHIVE).write_bytes(b"\x1f\x8b torn")
    with pytest.raises(StudyError, match="cannot be unpacked"):
        state.open_state(tmp_path, short=True)


def test_two_commands_do_not_work_in_one_folder(tmp_path: Path) -> None:
    another = pytest.raises(StudyError, match="another process")
    with state.locked(tmp_path), another, state.locked(tmp_path):
        pass


def of_tiles(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """The samples under the names of crops, two of each tile."""
    return tuple(
        replace(sample, name=f"tile_{place // 2}_0_{place % 2}")
        for place, sample in enumerate(samples)
    )


def test_a_window_has_the_cells_of_its_crop_all_in_one_class() -> None:
    data = synthetic.make_cells(images=6, side=200)
    assert len(short.windows(replace(data, samples=of_tiles(data.samples))).samples) == 3
    for crop in data.samples:
        (window,) = short.windows(replace(data, samples=(crop,))).samples
        height, width = crop.size
        top, left = max(0, (height - short.SIDE) // 2), max(0, (width - short.SIDE) // 2)
        place = slice(top, top + short.SIDE), slice(left, left + short.SIDE)
        np.testing.assert_array_equal(window.image, crop.image[place])
        there = {
            (crop.label_maps == number).any(axis=0)[place].tobytes()
            for number in range(1, len(crop.labels_N) + 1)
        } - {np.zeros(window.size, bool).tobytes()}
        found = {
            (window.label_maps == number).any(axis=0).tobytes()
            for number in range(1, len(window.labels_N) + 1)
        }
        assert found == there
        assert set(window.labels_N.tolist()) <= {1}


def test_the_rate_counts_no_run_that_was_killed_and_says_what_held_it_back() -> None:
    work = Work(images=6000, training=900.0, waiting=90.0, evaluating=300.0)
    rate = Rate(work, 60.0, 2, 1, 32, 137.0, 31.0)
    assert rate.per_minute == 6000
    said = " ".join(rate.sentences(on_gpu=True))
    assert "6,000 training images a minute" in said
    assert "n = 6,000 images in 60 s (2 runs; killed and not counted: 1)" in said
    assert f"The goal of {GOAL:,.0f} a minute is not met (60%)" in said
    assert "8,220 images a minute with 32 trials at once, 1,860 with one" in said
    assert "47% went to training (5% to waiting" in said
    assert "16% to evaluation and 38% to all else" in said
    assert "goal" not in " ".join(rate.sentences(on_gpu=False))


def test_a_page_that_is_too_large_keeps_its_pictures_and_gets_small_enough() -> None:
    rng = np.random.default_rng(0)
    smooth = np.clip(
        np.linspace(0, 255, 900)[None, :, None] + rng.integers(0, 12, (600, 900, 3)), 0, 255
    ).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, "PNG")
    picture = base64.b64encode(stream.getvalue()).decode()
    page = f'<p>before</p><img src="data:image/png;base64,{picture}">' * 2
    assert len(page) > example.MOST_PAGE_BYTES
    slim = example.slim_page(page)
    assert len(slim) < example.MOST_PAGE_BYTES
    assert slim.count("data:image/webp;base64,") == 2
    shown = re.findall(r"base64,([^\"]+)", slim)
    assert Image.open(io.BytesIO(base64.b64decode(shown[0]))).size == (900, 600)
    assert example.slim_page("<p>small</p>") == "<p>small</p>"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--minutes", "0.1"], "--minutes must be at least 1, and is 0.1"),
        (["--data", "none"], "--data must be a folder"),
        (["--weights", "none.pth"], "none.pth"),
    ],
)
def test_a_wrong_request_ends_in_one_sentence(
    arguments: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    synthetic.write_hw3(synthetic.make_cells(2), tmp_path / "data")
    given = ["--data", str(tmp_path / "data"), "--weights", "none.pth", "--results", str(tmp_path)]
    assert main([*given, *arguments]) == 2
    said = capfd.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


def test_the_example_says_in_its_first_lines_whether_it_is_of_the_short_form() -> None:
    folder = ROOT / "docs/example"
    facts = json.loads((folder / "proof.json").read_text())
    pages = {name: (folder / name).read_text() for name in ("README.md", "first_screen.md")}
    for page in pages.values():
        first = " ".join(page.splitlines()[:3])
        assert ("short form" in first) == facts["short"]
    assert facts["commit"] in pages["README.md"]
    assert facts["machine"] in pages["README.md"]


def test_readme_has_the_example_s_summary_and_its_command_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    part = readme.partition(example.BEGIN)[2].partition(example.END)[0]
    assert part.strip() == (ROOT / "docs/example/first_screen.md").read_text().strip()
    for name in re.findall(r"\((docs/example/[\w.]+)\)", part):
        assert (ROOT / name).is_file()
    assert build_parser().parse_args(example.REAL_COMMAND.split()[3:]).publish


def test_the_example_is_small_and_names_no_place_of_the_machine_that_made_it() -> None:
    folders = "|".join(re.escape(one.name) for one in Path("/").iterdir() if one.is_dir())
    absolute = re.compile(rf"(?<![\w./-])/(?:{folders})/".encode())
    assert absolute.search(f"--results {ROOT.resolve()}/results".encode())
    for path in (ROOT / "docs/example").iterdir():
        content = path.read_bytes()
        assert len(content) <= example.MOST_PAGE_BYTES, path
        assert not absolute.search(content), path
    pictures = [ROOT / "docs/example" / name for name in ("report.svg", example.PICTURE)]
    assert sum(path.stat().st_size for path in pictures if path.exists()) < 400_000


def wait_for(holds: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None) -> None:
    until = time.monotonic() + 900
    while not holds():
        assert time.monotonic() < until
        assert process is None or process.poll() is None, "it ended before"
        time.sleep(0.1)


needs_consep = pytest.mark.skipif(
    not (CONSEP.exists() and WEIGHTS.exists()), reason=f"{CONSEP} or {WEIGHTS} is not there"
)


@needs_consep
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_proof_that_is_killed_twice_and_carried_ends_and_its_trials_are_those_of_no_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(results: Path, *more: str) -> list[str]:
        return [
            sys.executable, "-m", "benchmarks.proof", "--data", str(CONSEP), "--weights",
            str(WEIGHTS), "--stride-in-1x1", "--results", str(results), "--short", *more,
        ]  # fmt: skip

    def killed_when(holds: Callable[[], bool], results: Path) -> None:
        process = subprocess.Popen(command(results), cwd=ROOT, process_group=0)
        wait_for(holds, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    one, other = tmp_path / "one", tmp_path / "other"
    killed_when(lambda: any(one.glob("report_tables/trials/*/epochs.csv")), one)
    chosen = json.loads((one / "proof.json").read_text())["chosen"]["report_tables"]
    began = time.monotonic()
    ended = subprocess.run(
        command(one, "--minutes", "1.2"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, time.monotonic() - began < 90) == (0, True), ended.stderr
    assert "Time is up. Left: " in ended.stdout
    carried = one / state.ARCHIVE
    assert carried.stat().st_size < 5_000_000
    other.mkdir()
    carried.rename(other / state.ARCHIVE)
    killed_when(lambda: any(other.glob("ablation/retrain/*/*.safetensors")), other)
    assert subprocess.run(command(other), cwd=ROOT, check=False).returncode == 0

    with (other / "report_tables/trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["COMPLETE"] * plan.SEEDS * len(short.SHORT_ROWS)
    monkeypatch.setenv("CELL_TUNE_WEIGHTS", str(other / "weights"))
    interrupted = next(row for row in rows if int(row["attempts"]) > 1)
    settings = json.loads(
        (other / "report_tables/trials" / interrupted["trial"] / "config.json").read_text()
    )
    config = TrialConfig.from_settings(settings)
    file = find_weights(config.model, download=False)
    assert file is not None
    data = load_data(str(other / "data/short"))
    trial = Trial(config, data, read_weights(file), device="cpu", threads=1)
    scores = [trial.run_epoch().ap50 for _ in range(config.optim.epochs)]
    assert float(interrupted["ap50_last"]) == scores[-1]

    facts = json.loads((other / "example/proof.json").read_text())
    assert sum("seconds" not in run for run in facts["runs"]) == 2
    assert json.loads((other / "proof.json").read_text())["chosen"]["report_tables"] == chosen
    for name in ("report_tables", "ablation"):
        assert (other / name / "best/submission.zip").exists()
        assert (other / "example" / f"{name}.html").stat().st_size <= example.MOST_PAGE_BYTES
    page = (other / "example/README.md").read_text()
    assert "short form" in " ".join(page.splitlines()[:3])
    for name in short.SHORT_ROWS:
        assert re.search(rf"\| {name} \| 0\.\d{{4}} .* \| 3 \|", page)
