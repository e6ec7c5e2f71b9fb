"""The search as its user runs it: real images on a disk, real training, real Ray, Optuna and
MLflow.
"""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
import tifffile
from PIL import Image

from core import check
from core.data import synthetic
from tune.search import main

pytestmark = pytest.mark.study

ROOT = Path(__file__).parents[2]
TINY = """
study: tiny
data: cells
fixed:
  model.backbone: resnet18
  model.weights: none
  model.trainable_layers: 5
  model.image_min_side: 64
  model.image_max_side: 64
  model.proposals_train: 32
  model.proposals_test: 16
  model.rpn_samples: 32
  model.box_samples: 16
  predict.max_detections: 20
  optim.epochs: 2
space:
  optim.learning_rate: {low: 1e-4, high: 1e-3, log: true}
  augment.horizontal_flip: [true, false]
search: {sampler: random, trials: 3}
stop_early: {rule: successive_halving, min_epochs: 1, reduction: 2}
confirm: {top: 0}
"""


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def cells(folder: Path) -> Path:
    synthetic.write_hw3(synthetic.make_cells(images=6, side=64), folder)
    return folder


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tune.search", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which a search of three real trials has ended, and what it printed."""
    folder = tmp_path_factory.mktemp("searched")
    cells(folder / "cells")
    (folder / "tiny.yaml").write_text(TINY)
    done = command("--space", "tiny.yaml", "--gpus-per-trial", "0", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder, done.stdout


def test_a_search_of_images_on_a_disk_ends_with_a_table_the_way_to_mlflow_and_no_winner_of_scores_that_are_all_0(
    searched: tuple[Path, str],
) -> None:
    folder, said = searched
    rows = read_csv(folder / "results/tiny/trials.csv")
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert {row["state"] for row in rows} <= {"COMPLETE", "PRUNED"}
    assert "COMPLETE" in {row["state"] for row in rows}
    assert {float(row["ap50"]) for row in rows} == {0.0}  # six images, two epochs
    assert (
        "Nothing was learned: the highest AP50 of 3 trials is 0.0000 (trial 0), under 0.01" in said
    )
    assert "Best: trial" not in said
    assert "results/tiny/trials.csv" in said
    assert "mlflow ui" in said.replace("mlflow' ui", "mlflow ui")


def test_every_trial_leaves_its_settings_epochs_and_match_tables_and_only_the_winner_its_weights(
    searched: tuple[Path, str],
) -> None:
    folder, _ = searched
    best = optuna.load_study(
        study_name="tiny", storage=f"sqlite:///{folder}/results/tiny/study.db"
    ).best_trial.number
    for row in read_csv(folder / "results/tiny/trials.csv"):
        trial = folder / "results/tiny/trials" / row["trial"]
        assert json.loads((trial / "config.json").read_text())["optim.epochs"] == 2
        assert len(read_csv(trial / "epochs.csv")) == int(row["epochs"])
        assert len(list((trial / "matches").glob("epoch-*.npz"))) == int(row["epochs"])
        assert [path.name[:5] for path in trial.glob("*.safetensors")] == (
            ["best-"] if trial.name == str(best) else []
        )


def test_study_json_says_all_that_is_needed_to_repeat_the_search(
    searched: tuple[Path, str],
) -> None:
    folder, _ = searched
    described = json.loads((folder / "results/tiny/study.json").read_text())
    assert described["request"]["space"]["optim.learning_rate"] == {
        "low": 1e-4,
        "high": 1e-3,
        "log": True,
    }
    assert len(described["data"]["fingerprint"]) == 64
    assert set(described["versions"]) >= {
        "python",
        "torch",
        "torchvision",
        "ray",
        "optuna",
        "mlflow",
    }


def test_the_same_command_again_trains_nothing(searched: tuple[Path, str]) -> None:
    folder, said = searched
    again = command("--study", "tiny", folder=folder)
    assert again.returncode == 0, again.stderr
    assert "starts" not in again.stdout
    assert again.stdout.splitlines()[-4:] == said.splitlines()[-4:]


def test_a_study_whose_space_or_data_changed_is_refused_with_the_difference(
    searched: tuple[Path, str],
) -> None:
    folder, _ = searched
    changed = command("--space", "tiny.yaml", "--set", "optim.epochs=3", folder=folder)
    assert changed.returncode == 2
    assert "another request: request" not in changed.stderr
    assert "fixed, optim.epochs was 2 and is 3" in changed.stderr
    synthetic.write_hw3(synthetic.make_cells(images=6, side=64, seed=1), folder / "others")
    other_data = command("--study", "tiny", "--data", "others", folder=folder)
    assert other_data.returncode == 2
    assert "other data" in other_data.stderr


@pytest.fixture
def mlflow_ui(searched: tuple[Path, str]) -> Iterator[str]:
    """The address of the server that the printed command starts."""
    folder, said = searched
    printed = re.search(r"^Compare: (.+)$", said, re.MULTILINE)
    assert printed is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(
            [*shlex.split(printed[1]), "--port", str(port), "--workers", "1"],
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            wait_for(port, folder / "mlflow.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


# Loopback is reached directly, whatever proxy the environment names.
open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def wait_for(port: int, log: Path) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        with contextlib.suppress(OSError), open_url(f"http://127.0.0.1:{port}/health", timeout=10):
            return
        time.sleep(0.5)
    pytest.fail(f"the server did not answer; it said:\n{log.read_text()}")


def ask(address: str, path: str, **content: Any) -> Any:
    body = json.dumps(content).encode() if content else None
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}", body, {"Content-Type": "application/json"}
    )
    with open_url(request, timeout=30) as answer:
        return json.load(answer)


def test_the_mlflow_ui_that_a_search_prints_shows_every_trial_with_its_params_and_its_ap50_curve(
    searched: tuple[Path, str], mlflow_ui: str
) -> None:
    folder, _ = searched
    trials = optuna.load_study(
        study_name="tiny", storage=f"sqlite:///{folder}/results/tiny/study.db"
    ).trials
    experiment = ask(mlflow_ui, "experiments/get-by-name?experiment_name=tiny")["experiment"][
        "experiment_id"
    ]
    runs = ask(mlflow_ui, "runs/search", experiment_ids=[experiment])["runs"]
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]
    parents = [run for run, tag in zip(runs, tags, strict=True) if tag["phase"] == "study"]
    nested = {
        int(tag["trial"]): (run, tag)
        for run, tag in zip(runs, tags, strict=True)
        if tag["phase"] == "search"
    }
    assert len(parents) == 1
    assert sorted(nested) == [trial.number for trial in trials]
    for trial in trials:
        run, tag = nested[trial.number]
        identity = run["info"]["run_id"]
        assert tag["mlflow.parentRunId"] == parents[0]["info"]["run_id"]
        assert tag["state"] == trial.state.name
        params = {param["key"]: param["value"] for param in run["data"]["params"]}
        assert {name: params[name] for name in trial.params} == {
            k: str(v) for k, v in trial.params.items()
        }
        curve = ask(mlflow_ui, f"metrics/get-history?run_id={identity}&metric_key=ap50")["metrics"]
        assert {point["step"]: point["value"] for point in curve} == trial.intermediate_values
        measured = {metric["key"] for metric in run["data"]["metrics"]}
        assert measured >= {
            "ap50_box",
            "learning_rate",
            "seconds",
            "images_per_second",
            "loss/loss",
            "loss/loss_mask",
        }
        files = [
            file["path"] for file in ask(mlflow_ui, f"artifacts/list?run_id={identity}")["files"]
        ]
        assert "config.json" in files
        assert any(file.startswith("epoch-") for file in files)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which a request is refused; nothing may have been written."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert not Path("results").exists()
    return printed.err


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    cells(tmp_path / "cells")
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def test_mlflow_is_rebuilt_from_the_ledger_without_data_and_without_training(
    searched: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "rebuilt"
    shutil.copytree(
        searched[0], folder, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts", "cells")
    )
    monkeypatch.chdir(folder)
    assert main(["--rebuild-tracking"]) == 2
    assert "--rebuild-tracking needs --study NAME" in capsys.readouterr().err
    assert main(["--study", "other", "--rebuild-tracking"]) == 2
    for _ in range(2):
        assert main(["--study", "tiny", "--rebuild-tracking"]) == 0
        assert "MLflow shows 3 trials of tiny" in capsys.readouterr().out

    def runs(where: Path) -> list[tuple[Any, ...]]:
        client = mlflow.MlflowClient(f"sqlite:///{where}/results/mlflow.db")
        experiment = client.get_experiment_by_name("tiny")
        found = client.search_runs([experiment.experiment_id], "tags.phase = 'search'")
        return sorted(
            (
                run.data.tags["trial"],
                run.info.status,
                sorted(run.data.params.items()),
                sorted(run.data.metrics.items()),
            )
            for run in found
        )

    assert runs(folder) == runs(searched[0])


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "optim.learnig_rate=1"], "Did you mean 'optim.learning_rate'"),
        (
            ["--set", "optim.learning_rate=7"],
            "optim.learning_rate must be less than or equal to 1, and is 7",
        ),
        (["--data", "nowhere"], "nowhere"),
        (["--cpus-per-trial", "4096"], "resources.cpus_per_trial must not pass the"),
        (
            ["--gpus-per-trial", "2"],
            "gpus_per_trial must be at most 1, since a trial trains on one GPU, and is 2; take 1",
        ),
        (["--set", "model.weights=missing.pth"], "missing.pth"),
        (["--space", "none.yaml"], "none.yaml"),
        (
            ["--time-budget", "soon"],
            "--time-budget must be a number and s, m or h, such as 90m, and is 'soon'",
        ),
        (["--parallel", "0"], "--parallel must be at least 1, and is 0"),
        (["--study", "../outside"], "study"),
        (["--trials", "0"], "trials"),
        (["--set", "data.folds=3"], "data.folds"),
    ],
)
def test_a_wrong_request_is_one_sentence_status_2_and_nothing_written(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    space = [] if "--space" in arguments else ["--space", "tiny.yaml"]
    assert sentence in refused(capsys, *space, *arguments)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda image: image.write_bytes(image.read_bytes()[:-400]), "image.tif"),
        (lambda image: image.write_bytes(b"II*\0"), "image.tif"),
        (
            lambda image: tifffile.imwrite(image, tifffile.imread(image).astype(np.uint16)),
            "uint16",
        ),
        (
            lambda image: tifffile.imwrite(image, np.zeros((9, 9, 3), np.uint8), photometric="rgb"),
            "9",
        ),
        (
            lambda image: tifffile.imwrite(
                image.with_name("class1.tif"), np.full(tifffile.imread(image).shape[:2], -3.0)
            ),
            "-3",
        ),
        (
            lambda image: tifffile.imwrite(
                image.with_name("class1.tif"), np.full(tifffile.imread(image).shape[:2], 0.5)
            ),
            "0.5",
        ),
        (
            lambda image: tifffile.imwrite(
                image.with_name("class1.tif"), np.full(tifffile.imread(image).shape[:2], np.nan)
            ),
            "nan",
        ),
    ],
    ids=[
        "truncated",
        "header only",
        "16 bits among 8",
        "another size",
        "negative id",
        "fractional id",
        "nan id",
    ],
)
def test_a_data_set_that_cannot_be_trained_on_is_refused_by_file_and_value(
    workplace: Path, capsys: pytest.CaptureFixture[str], break_it: Any, sentence: str
) -> None:
    image = sorted((workplace / "cells/train").iterdir())[0] / "image.tif"
    break_it(image)
    said = refused(capsys, "--space", "tiny.yaml")
    assert image.parent.name in said
    assert sentence in said


def test_the_ablation_without_its_images_says_where_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(
        capsys, "--space", str(ROOT / "search_spaces/ablation.yaml"), "--set", "model.weights=none"
    )
    assert "data/train_set" in said
    assert "image.tif" in said


def test_a_study_remembers_its_ledger_and_refuses_another(
    searched: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(searched[0])
    assert main(["--study", "tiny", "--storage", "sqlite:///other.db"]) == 2
    assert "--storage must be that of the study, its own file" in capsys.readouterr().err
    assert not Path("other.db").exists()


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    "address", ["nonsense", "sqlite:///none/where.db", "nosuch://u:secret@h/db"]
)
def test_a_ledger_that_cannot_be_opened_is_one_sentence_without_its_password(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    assert main(["--space", "tiny.yaml", "--gpus-per-trial", "0", "--storage", address]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "secret" not in said


@pytest.mark.usefixtures("workplace")
def test_a_dry_run_shows_the_plan_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--space", "tiny.yaml", "--gpus-per-trial", "0", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Study tiny: 3 trials of up to 2 epochs" in said
    assert "6 images" in said
    assert "  0  optim.learning_rate" in said
    assert "nothing was started" in said
    assert not Path("results").exists()


def test_doctor_and_dry_run_count_the_same_instances_and_name_the_same_images_over_the_cap(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Crowd regions are no instances, and what lies on another one is."""
    (workplace / "both/train").mkdir(parents=True)
    images, annotations = [], []
    for image in range(1, 5):
        Image.fromarray(np.random.default_rng(image).integers(0, 256, (64, 64, 3), np.uint8)).save(
            workplace / f"both/train/{image}.png"
        )
        images.append({"id": image, "file_name": f"{image}.png", "height": 64, "width": 64})
        for x in range(4, 4 + 6 * (image + 2), 6):
            corners = [[x, 4, x + 9, 4, x + 9, 20, x, 20]]
            crowd = {"iscrowd": int(x == 4), "segmentation": corners, "id": len(annotations) + 1}
            annotations.append({**crowd, "image_id": image, "category_id": 1})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (workplace / "both/train.json").write_text(json.dumps(content))
    cap = ["--set", "predict.max_detections=4"]
    assert check.main(["both", *cap]) == 0
    doctor = capsys.readouterr().out
    assert (
        main(["--space", "tiny.yaml", "--data", "both", "--gpus-per-trial", "0", "--dry-run", *cap])
        == 0
    )
    dry_run = capsys.readouterr().out
    assert "both: 4 annotated images, 14 instances" in doctor
    assert "Data both: 4 images, 14 instances" in dry_run
    over = (
        "1 image holds more instances than are predicted in one (predict.max_detections 4), so that"
        " 1 of 14 instances"
    )
    assert over in doctor
    assert (
        f"Note: {over} can never be found: 4.png; `--set predict.max_detections=auto` has room"
        " for all (" in dry_run
    )


@pytest.mark.usefixtures("workplace")
def test_a_dry_run_lists_everything_that_is_wrong_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = ["--data", "nowhere", "--cpus-per-trial", "4096", "--set", "model.weights=missing.pth"]
    assert main(["--space", "tiny.yaml", "--dry-run", *wrong]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 3
    for part in ("nowhere", "missing.pth", "cpus_per_trial"):
        assert part in said
