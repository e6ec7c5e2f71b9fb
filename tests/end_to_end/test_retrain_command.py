"""From a search to what is handed in, as its user does it: real training, a real kill, real
MLflow, pycocotools.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core import faults
from core.config import TrialConfig
from core.data import hw3, synthetic
from core.data.dataset import Category, assemble
from core.data.images import read_size
from core.data.split import split
from core.files import recover
from core.labels import rle
from core.labels.label_maps import crop_mask, find_instances
from core.metric.ap50 import ap50, match_images
from core.prediction import trained_model
from core.sample import Sample
from core.training import checkpoint
from tune.retrain_best import main
from tune.store.folder import StudyFolder

pytestmark = pytest.mark.study

ROOT = Path(__file__).parents[2]
CONSEP = ROOT.parent / "shared/data/consep"
WEIGHTS = ROOT.parent / "shared/weights/resnet50_imagenet_stride1x1_fp16.pth"
SPACE = """
study: tiny
data: cells
fixed:
  data.validation_fraction: 0.4
  optim.batch_size: 1
  model.backbone: resnet18
  model.weights: none
  model.trainable_layers: 5
  model.image_min_side: 64
  model.image_max_side: 64
  model.anchor_scale: 0.625
  model.proposals_train: 32
  model.proposals_test: 16
  model.rpn_samples: 32
  model.box_samples: 16
  optim.epochs: 3
  predict.score_threshold: 0.0
space:
  optim.learning_rate: {low: 6e-4, high: 8e-4}
after_training:
  predict.max_detections: [20, 40]
  predict.flips: [false, true]
search: {sampler: random, trials: 1}
stop_early: {rule: none}
confirm: {top: 0}
"""
CLASSES = tuple(Category(number, f"class{number}") for number in (1, 2, 3, 4))


def discs(images: int) -> tuple[Sample, ...]:
    """Three dark discs on a light ground, in each image elsewhere: learned in a few seconds."""
    samples = []
    rows, columns = np.mgrid[:64, :64]
    for number in range(images):
        rng = np.random.default_rng([0, number])
        image, labels = np.full((64, 64, 3), 235, np.uint8), np.zeros((1, 64, 64), np.uint16)
        corners = rng.permutation([(16, 16), (16, 48), (48, 16), (48, 48)])[:3]
        for instance, (y, x) in enumerate(corners + rng.integers(-4, 5, (3, 2)), start=1):
            inside = (rows - y) ** 2 + (columns - x) ** 2 <= 100
            image[inside], labels[0, inside] = (90, 40, 120), instance
        samples.append(
            Sample(f"disc{number:02d}", image, labels, np.ones(3, np.int64), np.zeros(3, np.bool_))
        )
    return tuple(samples)


SAMPLES = discs(12)
TRAINED_ON = assemble("discs", CLASSES, SAMPLES[:10])
HELD_BACK = SAMPLES[10:]


def python(module: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which a search and the retraining of its winner have ended, and what the
    latter printed.
    """
    folder = tmp_path_factory.mktemp("retrained")
    synthetic.write_hw3(TRAINED_ON, folder / "cells", test=HELD_BACK)
    (folder / "tiny.yaml").write_text(SPACE)
    python("tune.search", "--space", "tiny.yaml", "--gpus-per-trial", "0", folder=folder)
    done = python("tune.retrain_best", folder=folder)
    assert done.stderr == ""
    return folder, done.stdout


def results_in(archive: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["test-results.json"]
        results: list[dict[str, Any]] = json.loads(file.read("test-results.json"))
    return results


def coco_truth(samples: tuple[Sample, ...], classes: tuple[Category, ...]) -> dict[str, Any]:
    """The ground truth in COCO's format; image ids from 1."""
    annotations: list[dict[str, Any]] = []
    for image_id, sample in enumerate(samples, start=1):
        found = find_instances(sample.label_maps)
        for index in range(len(found)):
            x0, y0, x1, y1 = found.boxes_N4[index].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": classes[sample.labels_N[found.ids_N[index] - 1] - 1].id,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(found.areas_N[index]),
                    "iscrowd": 0,
                    "segmentation": rle.encode(
                        crop_mask(sample.label_maps, found, index), *sample.size
                    ),
                }
            )
    return {
        "images": [
            {
                "id": number,
                "file_name": sample.name,
                "height": sample.size[0],
                "width": sample.size[1],
            }
            for number, sample in enumerate(samples, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": category.id, "name": category.name} for category in classes],
    }


def official_ap50(truth: dict[str, Any], results: list[dict[str, Any]], folder: Path) -> float:
    """AP50 of masks by pycocotools, read from files."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "segm")
        evaluation.params.maxDets = [1, 10, 100]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][0, :, :, 0, 2]
    return float(np.mean(precision[precision > -1]))


def test_what_was_chosen_and_why_and_where_everything_is_stands_on_the_console(
    retrained: tuple[Path, str],
) -> None:
    _, said = retrained
    assert "Study tiny: retraining trial 0, which alone ran to its end, with AP50 0." in said
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("Epoch")] == [
        f"Epoch {epoch}/3" for epoch in (1, 2, 3)
    ]
    assert "Submission: results/tiny/best/submission.zip (2 images, " in said
    assert "MLflow: models:/tiny/1; " in said
    assert "python -m core.predict --model results/tiny/best --images DIR --out cells" in said


def test_best_holds_the_model_its_settings_what_is_known_of_it_the_submission_and_pictures(
    retrained: tuple[Path, str],
) -> None:
    best = retrained[0] / "results/tiny/best"
    assert sorted(path.name for path in best.iterdir()) == [
        "config.yaml", "metrics.json", "model.safetensors", "overlays", "submission.zip",
    ]  # fmt: skip
    settings = yaml.safe_load((best / "config.yaml").read_text())["settings"]
    searched = json.loads((retrained[0] / "results/tiny/trials/0/config.json").read_text())
    assert {name for name in settings if settings[name] != searched[name]} <= {
        "predict.max_detections",
        "predict.flips",
    }
    metrics = json.loads((best / "metrics.json").read_text())
    assert (metrics["trial"], metrics["on"], metrics["epochs_trained"]) == (0, "train", 3)
    tried = metrics["prediction"]["tried"]
    assert len(tried) == 5  # the trial's own and four combinations
    assert metrics["validation"]["ap50"] == max(one["ap50"] for one in tried)
    assert {
        f"predict.{name}": value for name, value in metrics["prediction"]["chosen"].items()
    }.items() <= settings.items()
    pictures = sorted(str(path.relative_to(best / "overlays")) for path in best.rglob("*.png"))
    assert pictures == [
        "test/disc10.png", "test/disc11.png",
        *(f"validation/{SAMPLES[index].name}.png" for index in validation_of(settings)),
    ]  # fmt: skip
    for picture in pictures:
        assert min(read_size(best / "overlays" / picture)) > 64


def validation_of(settings: dict[str, Any]) -> tuple[int, ...]:
    config = TrialConfig.from_settings(settings)
    return split(TRAINED_ON, config.data).validation


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_scores_the_submission_as_we_do(
    retrained: tuple[Path, str], tmp_path: Path
) -> None:
    best = retrained[0] / "results/tiny/best"
    trained = trained_model.load(best, "cpu")
    results = results_in(best / "submission.zip")
    assert results
    ours = ap50(
        match_images(HELD_BACK, [trained.predict(sample.image) for sample in HELD_BACK], 4)[0], 100
    ).mean
    theirs = official_ap50(coco_truth(HELD_BACK, trained.classes), results, tmp_path)
    assert theirs == pytest.approx(ours, abs=1e-12)
    assert ours > 0.05, "the model has learned nothing, and 0 equals 0"


def test_the_predict_command_gives_what_the_submission_holds(
    retrained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = retrained
    out = tmp_path / "again.json"
    python(
        "core.predict",
        "--model",
        "results/tiny/best",
        "--images",
        "cells",
        "--out",
        str(out),
        folder=folder,
    )
    assert json.loads(out.read_text()) == results_in(folder / "results/tiny/best/submission.zip")


def test_the_registered_model_predicts_in_a_process_that_knows_no_path(
    retrained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = retrained
    np.save(tmp_path / "image.npy", HELD_BACK[0].image)
    code = (
        "import json, mlflow, numpy\n"
        'model = mlflow.pyfunc.load_model("models:/tiny/latest")\n'
        'print(json.dumps(model.predict(numpy.load("image.npy"))))\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/results/mlflow.db"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [
        one
        for one in results_in(folder / "results/tiny/best/submission.zip")
        if one["image_id"] == 1
    ]
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_mlflow_shows_the_retraining_linked_to_its_trial(retrained: tuple[Path, str]) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{retrained[0]}/results/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id], "tags.phase = 'retrain'")
    (winner,) = client.search_runs([experiment.experiment_id], "tags.phase = 'search'")
    assert run.data.tags["trial"] == "0"
    assert run.data.tags["winner_run"] == winner.info.run_id
    assert len(client.get_metric_history(run.info.run_id, "ap50")) == 3


def again(retrained: tuple[Path, str], to: Path) -> Path:
    """A copy of the folder as it was after the search."""
    shutil.copytree(
        retrained[0],
        to,
        ignore=shutil.ignore_patterns("best", "retrain", "mlflow.db", "mlartifacts"),
    )
    return to


@pytest.mark.fault
@pytest.mark.parametrize("when", ["after the first epoch", "within the second epoch"])
def test_a_retraining_that_was_killed_goes_on_and_ends_with_the_same_weights(
    when: str, retrained: tuple[Path, str], tmp_path: Path
) -> None:
    folder = again(retrained, tmp_path / "killed")
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "tune.retrain_best"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Epoch 1/3"):
                time.sleep(1.0 if "within" in when else 0.0)
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "results/tiny/best").exists()
    said = python("tune.retrain_best", folder=folder).stdout
    assert "Goes on after epoch 1 of 3" in said
    assert "Epoch 1/3" not in said
    one, other = (path / "results/tiny" for path in (folder, retrained[0]))
    assert json.loads((one / "best/metrics.json").read_text())["epoch"] > 1, (
        "the best epoch was before the kill"
    )
    for name in ("model.safetensors", "config.yaml", "submission.zip"):
        assert (one / "best" / name).read_bytes() == (other / "best" / name).read_bytes(), name
    tensors, expected = (
        checkpoint.load_checkpoint(next((study / "retrain").glob("*/last.safetensors")))[0]
        for study in (one, other)
    )
    assert tensors.keys() == expected.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], expected[name])] == []


@pytest.mark.fault
@pytest.mark.parametrize("moment", ["Epoch 1/3", "Retrained"])
def test_sigterm_ends_a_retraining_in_one_sentence_and_the_same_command_goes_on(
    moment: str, retrained: tuple[Path, str], tmp_path: Path
) -> None:
    """While it trains, and while MLflow is shown what came of it."""
    folder = again(retrained, tmp_path / "ended")
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "tune.retrain_best"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(moment):
                process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert said == "Interrupted; the same command goes on after the last epoch that was saved\n"
    assert process.returncode == 128 + signal.SIGTERM
    best = folder / "results/tiny/best"
    assert best.exists() == (moment == "Retrained")
    assert [path.name for path in (folder / "results/tiny").glob(".best*")] == []
    done = python("tune.retrain_best", folder=folder)
    assert "Epoch 1/3" not in done.stdout
    assert "MLflow: models:/tiny/1;" in done.stdout
    for name in ("model.safetensors", "config.yaml", "submission.zip"):
        assert (best / name).read_bytes() == (
            retrained[0] / "results/tiny/best" / name
        ).read_bytes(), name


def test_the_trial_is_repeated_bit_for_bit(retrained: tuple[Path, str]) -> None:
    folder, said = retrained
    metrics = json.loads((folder / "results/tiny/best/metrics.json").read_text())
    assert metrics["prediction"]["tried"][0]["ap50"] == metrics["search"]["ap50"] > 0
    assert metrics["epoch"] == metrics["search"]["epoch"]
    assert "now: another device" not in said


@pytest.mark.fault
@pytest.mark.parametrize(
    "moment", ["best is away", "best is written", "writing config.yaml", "writing submission.zip"]
)
def test_best_is_whole_whenever_its_writer_dies(
    moment: str, retrained: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(retrained[0], folder)
    best = folder / "results/tiny/best"
    before = (best / "submission.zip").read_bytes()
    code = (
        "import sys\nfrom core import files\n"
        "files._exchange = lambda one, other: False  # as on a file system that cannot\n"
        "from tune.retrain_best import main\n"
        'sys.exit(main(["--set", "predict.max_detections=3"]))\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=os.environ | {faults.VARIABLE: moment}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    if not best.exists():
        assert moment == "best is away"
        recover(best)
    if moment == "writing submission.zip":
        assert sorted(path.name for path in best.iterdir() if not path.name.startswith(".")) == [
            "config.yaml", "metrics.json", "model.safetensors", "overlays",
        ]  # fmt: skip
        metrics = json.loads((best / "metrics.json").read_text())
        assert not metrics["submission"]["written"]
        assert trained_model.load(best, "cpu").config.predict.max_detections == 3
    else:
        assert (best / "submission.zip").read_bytes() == before
    python("tune.retrain_best", "--set", "predict.max_detections=3", folder=folder)
    assert json.loads((best / "metrics.json").read_text())["submission"] == {
        "written": True,
        "why": [],
    }
    assert not [path.name for path in best.iterdir() if path.name.startswith(".")]
    assert max(np.bincount([one["image_id"] for one in results_in(best / "submission.zip")])) <= 3
    assert [path.name for path in (folder / "results/tiny").glob(".best*")] == []


@pytest.mark.fault
def test_a_torn_checkpoint_of_a_retraining_is_set_aside_and_training_begins_anew(
    retrained: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(retrained[0], folder)
    (file,) = (folder / "results/tiny/retrain").glob("*/best-*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    said = python("tune.retrain_best", folder=folder).stdout
    assert "Begins anew: " in said
    assert "Epoch 1/3" in said
    model = "results/tiny/best/model.safetensors"
    assert (folder / model).read_bytes() == (retrained[0] / model).read_bytes()


@pytest.mark.fault
def test_a_full_disk_is_one_sentence_and_the_old_results_stay(
    retrained: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "full"
    shutil.copytree(retrained[0], folder)
    before = (folder / "results/tiny/best/config.yaml").read_bytes()
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 2000; exec {sys.executable} -m tune.retrain_best --set predict.max_detections=3"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be used (File too large): raise the largest size" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "results/tiny/best/config.yaml").read_bytes() == before


@pytest.mark.long
def test_all_images_train_to_the_best_epoch_and_no_new_score_is_made_up(
    retrained: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(again(retrained, tmp_path / "all"))
    assert main(["--on", "all", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    best = Path("results/tiny/best")
    metrics = json.loads((best / "metrics.json").read_text())
    searched = json.loads((retrained[0] / "results/tiny/best/metrics.json").read_text())["search"]
    assert metrics["validation"] is None
    assert metrics["search"] == searched
    assert metrics["images"] == {"train": 10, "validation": 0}
    assert metrics["epoch"] == metrics["epochs_trained"] == searched["epoch"]
    assert metrics["epochs_of_schedule"] == 3
    assert metrics["prediction"]["tried_on"] == "the trial of the search"
    assert "no image is left to score it" in said
    assert not (best / "overlays/validation").exists()

    # Other settings of prediction: another model, and not one epoch more.
    before = (best / "model.safetensors").read_bytes()
    assert main(["--on", "all", "--set", "predict.max_detections=7"]) == 0
    said = capsys.readouterr().out
    assert "The training had ended" in said
    assert "Epoch" not in said
    assert (best / "model.safetensors").read_bytes() == before
    assert max(np.bincount([one["image_id"] for one in results_in(best / "submission.zip")])) <= 7
    assert "as many instances were found as predict.max_detections keeps of a tile (7)" in said


def test_a_test_image_that_has_changed_is_named_and_the_old_results_stay(
    retrained: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(retrained[0], folder)
    monkeypatch.chdir(folder)
    image = folder / "cells/test_release" / f"{HELD_BACK[1].name}.tif"
    shutil.copy(folder / "cells/test_release" / f"{HELD_BACK[0].name}.tif", image)
    before = {path: path.read_bytes() for path in sorted(folder.rglob("best/*")) if path.is_file()}
    if HELD_BACK[0].size != HELD_BACK[1].size:
        assert main([]) == 2
        assert f"{HELD_BACK[1].name}.tif is listed with" in capsys.readouterr().err
    image.write_bytes(image.read_bytes()[:300])
    assert main([]) == 2
    assert HELD_BACK[1].name in capsys.readouterr().err
    image.unlink()
    assert main([]) == 2
    assert HELD_BACK[1].name in capsys.readouterr().err
    assert {
        path: path.read_bytes() for path in sorted(folder.rglob("best/*")) if path.is_file()
    } == before


def test_a_test_image_that_turns_out_damaged_costs_the_submission_and_not_the_model(
    retrained: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(retrained[0], folder)
    monkeypatch.chdir(folder)
    best = folder / "results/tiny/best"
    image = folder / "cells/test_release" / f"{HELD_BACK[1].name}.tif"
    whole = image.read_bytes()
    picture = io.BytesIO()
    Image.fromarray(HELD_BACK[1].image).save(picture, "PNG")
    image.write_bytes(
        picture.getvalue()[: len(picture.getvalue()) // 2]
    )  # a whole header, and half of the pixels
    line = ["--set", "predict.max_detections=3", "--device", "cpu"]
    assert main(line) == 1
    printed = capsys.readouterr()
    assert "Submission: none, 1 of 2 test images predicted" in printed.out
    assert f"No submission: {image}: the file is damaged or cut off" in printed.err
    assert "MLflow: models:/tiny/" in printed.out
    assert sorted(path.name for path in best.iterdir()) == [
        "config.yaml", "metrics.json", "model.safetensors", "overlays",
    ]  # fmt: skip
    assert [path.name for path in (best / "overlays/test").iterdir()] == [
        f"{HELD_BACK[0].name}.png"
    ]
    stands = json.loads((best / "metrics.json").read_text())["submission"]
    assert (stands["written"], len(stands["why"])) == (False, 1)
    image.write_bytes(whole)
    assert main(line) == 0
    assert "Epoch" not in capsys.readouterr().out
    assert max(np.bincount([one["image_id"] for one in results_in(best / "submission.zip")])) <= 3
    assert json.loads((best / "metrics.json").read_text())["submission"] == {
        "written": True,
        "why": [],
    }


def test_two_retrainings_of_one_study_do_not_meet(
    retrained: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(again(retrained, tmp_path / "busy"))
    with StudyFolder(Path("results/tiny")).retrain_lock():
        assert main([]) == 2
    assert f"is being retrained by process {os.getpid()} on host" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trial", "4"], "--trial must be a trial of the study"),
        (["--study", "other"], "holds no study"),
        (["--device", "gpu7"], "the device must be auto, cpu"),
        (["--set", "optim.epoch=3"], "Did you mean 'optim.epochs'?"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_status_2(
    arguments: list[str],
    sentence: str,
    retrained: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(retrained[0])
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


# The whole chain, on more than toys


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_demo_ends_in_a_submission_that_scores_what_we_say_on_images_it_has_not_seen(
    tmp_path: Path,
) -> None:
    python(
        "tune.search",
        "--space",
        str(ROOT / "search_spaces/demo.yaml"),
        "--gpus-per-trial",
        "0",
        folder=tmp_path,
    )
    python("tune.retrain_best", "--device", "cpu", folder=tmp_path)
    unseen = synthetic.make_cells(images=24 + synthetic.TEST_IMAGES).samples[24:]
    best = tmp_path / "results/demo/best"
    trained = trained_model.load(best, "cpu")
    torch.set_num_threads(json.loads((best / "metrics.json").read_text())["threads"])
    ours = ap50(
        match_images(unseen, [trained.predict(sample.image) for sample in unseen], 4)[0], 100
    ).mean
    theirs = official_ap50(
        coco_truth(unseen, trained.classes), results_in(best / "submission.zip"), tmp_path
    )
    assert theirs == pytest.approx(ours, abs=1e-12)
    assert ours > 0.05


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not CONSEP.exists(), reason=f"{CONSEP} is not there")
def test_real_tissue_ends_in_a_submission_that_scores_what_we_say(tmp_path: Path) -> None:
    """Seven tiles train, two are held back with their masks."""
    subprocess.run(
        [sys.executable, str(CONSEP / "unpack.py"), str(tmp_path / "all")],
        check=True,
        capture_output=True,
    )
    listing = []
    for number, folder in enumerate(sorted((tmp_path / "all/train").iterdir())):
        tile = int(folder.name.split("_")[1])
        if tile <= 7:
            shutil.copytree(folder, tmp_path / "cells/train" / folder.name)
        elif tile <= 9:
            shutil.copytree(folder, tmp_path / "held/train" / folder.name)
            (tmp_path / "cells/test_release").mkdir(exist_ok=True)
            shutil.copy(
                folder / "image.tif", tmp_path / "cells/test_release" / f"{folder.name}.tif"
            )
            listing.append(
                {"file_name": f"{folder.name}.tif", "id": number, "height": 500, "width": 500}
            )
    (tmp_path / "cells/test_image_name_to_ids.json").write_text(json.dumps(listing))
    weights = ["model.weights=none", "model.backbone=resnet18", "model.trainable_layers=5"]
    if WEIGHTS.exists():
        weights = [
            f"model.weights={WEIGHTS}",
            "model.backbone=resnet50",
            "model.stride_in_1x1=true",
        ]
    settings = [
        *weights, "optim.epochs=2", "optim.learning_rate=3e-4", "model.image_min_side=256",
        "model.box_samples=64", "model.proposals_train=300", "model.proposals_test=300",
        "model.anchor_scale=0.5", "predict.max_detections=200",
        r"data.group_pattern=^(.+)_\d+_\d+$", "confirm.top=0",
    ]  # fmt: skip
    python(
        "tune.search", "--space", str(ROOT / "search_spaces/ablation.yaml"), "--data", "cells",
        "--trials", "1", "--gpus-per-trial", "0", "--cpus-per-trial", "2",
        *(f"--set={one}" for one in settings), folder=tmp_path,
    )  # fmt: skip
    python("tune.retrain_best", "--device", "cpu", folder=tmp_path)
    held = hw3.read_hw3(tmp_path / "held").dataset
    assert held is not None
    best = tmp_path / "results/ablation/best"
    trained = trained_model.load(best, "cpu")
    torch.set_num_threads(json.loads((best / "metrics.json").read_text())["threads"])
    ours = ap50(
        match_images(held.samples, [trained.predict(one.image) for one in held.samples], 4)[0], 100
    ).mean
    number_of = {entry["file_name"]: entry["id"] for entry in listing}
    truth = coco_truth(held.samples, held.classes)
    names = {image["id"]: number_of[f"{image['file_name']}.tif"] for image in truth["images"]}
    for entry in truth["images"]:
        entry["id"] = names[entry["id"]]
    for entry in truth["annotations"]:
        entry["image_id"] = names[entry["image_id"]]
    theirs = official_ap50(truth, results_in(best / "submission.zip"), tmp_path)
    assert theirs == pytest.approx(ours, abs=1e-12)
    assert ours > 0, "the model has learned nothing, and 0 equals 0"
    print(
        f"AP50 of the held back tiles {ours:.4f}, in all"
        f" {sum(len(one.labels_N) for one in held.samples)} instances"
    )


@pytest.mark.long
def test_a_data_set_in_coco_layout_gets_the_same_with_the_ids_of_its_own(tmp_path: Path) -> None:
    classes = (Category(10, "a"), Category(20, "b"), Category(35, "c"), Category(36, "d"))
    for part, samples in (("train", SAMPLES[:10]), ("test", HELD_BACK)):
        (tmp_path / "cells" / part).mkdir(parents=True)
        document = coco_truth(samples, classes)
        for entry in document["images"]:
            entry["file_name"] += ".png"
            entry["id"] += 500
        for entry in document["annotations"]:
            entry["image_id"] += 500
        for sample in samples:
            Image.fromarray(sample.image).save(tmp_path / "cells" / part / f"{sample.name}.png")
        if part == "test":
            (tmp_path / "truth.json").write_text(json.dumps(document))
            document["annotations"] = []
        (tmp_path / "cells" / f"{part}.json").write_text(json.dumps(document))
    (tmp_path / "tiny.yaml").write_text(SPACE)
    python("tune.search", "--space", "tiny.yaml", "--gpus-per-trial", "0", folder=tmp_path)
    python("tune.retrain_best", "--device", "cpu", folder=tmp_path)
    best = tmp_path / "results/tiny/best"
    results = results_in(best / "submission.zip")
    assert {one["image_id"] for one in results} == {501, 502}
    assert {one["category_id"] for one in results} <= {10, 20, 35, 36}
    trained = trained_model.load(best, "cpu")
    torch.set_num_threads(json.loads((best / "metrics.json").read_text())["threads"])
    ours = ap50(
        match_images(HELD_BACK, [trained.predict(sample.image) for sample in HELD_BACK], 4)[0], 100
    ).mean
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert official_ap50(truth, results, tmp_path) == pytest.approx(ours, abs=1e-12)
    assert ours > 0.05, "the model has learned nothing, and 0 equals 0"
    out = tmp_path / "again.json"
    python(
        "core.predict",
        "--model",
        str(best),
        "--images",
        "cells/test.json",
        "--out",
        str(out),
        "--threads",
        str(torch.get_num_threads()),
        folder=tmp_path,
    )
    assert json.loads(out.read_text()) == results


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which a search was confirmed, and the winner's models were put together; and what
    the latter printed.
    """
    folder = tmp_path_factory.mktemp("confirmed")
    synthetic.write_hw3(TRAINED_ON, folder / "cells", test=HELD_BACK)
    # Half of the images validate, so that some validate twice.
    text = SPACE.replace("confirm: {top: 0}", "confirm: {top: 1, seeds: 2}")
    (folder / "tiny.yaml").write_text(text.replace("fraction: 0.4", "fraction: 0.5"))
    python("tune.search", "--space", "tiny.yaml", "--gpus-per-trial", "0", folder=folder)
    done = python("tune.retrain_best", "--ensemble", folder=folder)
    assert done.stderr == ""
    return folder, done.stdout


def test_the_confirmations_models_predict_together_as_one_model(
    confirmed: tuple[Path, str],
) -> None:
    folder, said = confirmed
    best = folder / "results/tiny/best"
    assert "Nothing is trained: 2 models of the confirmation predict together" in said
    metrics = json.loads((best / "metrics.json").read_text())
    assert (metrics["on"], len(metrics["members"])) == ("together", 2)
    trained = trained_model.load(best, "cpu")
    assert len(trained.models) == 2
    seeds = [one.config.seed for one in (trained, *trained.others)]
    assert seeds == [member["seed"] for member in metrics["members"]]
    parts = [set(validation_of(one.config.settings())) for one in (trained, *trained.others)]
    unseen = sorted(set.intersection(*parts))
    assert unseen, "two halves of these images share some"
    assert metrics["together"]["images"] == len(unseen)
    samples = [TRAINED_ON.samples[index] for index in unseen]
    scores = [
        ap50(
            match_images(samples, [one.predict(sample.image) for sample in samples], len(CLASSES))[
                0
            ],
            100,
        )
        for one in (trained, *(replace(one, others=()) for one in (trained, *trained.others)))
    ]
    together, *alone = [float(score.mean) for score in scores]
    gain = metrics["together"]
    assert gain["ap50"] == pytest.approx(together)
    assert gain["ap50_gain"] == pytest.approx(together - np.mean(alone))
    assert gain["ap50_gain_low"] <= gain["ap50_gain"] <= gain["ap50_gain_high"]
    assert f"on the {len(unseen)} image" in said
    pictures = {path.name for path in (best / "overlays/validation").iterdir()}
    assert pictures == {f"{sample.name}.png" for sample in samples}
    with_options = python(
        "core.predict", "--model", str(best), "--images", "cells", "--out", "results.json",
        folder=folder,
    )  # fmt: skip
    assert "2 images" in with_options.stdout
    assert len(json.loads((folder / "results.json").read_text())) == len(
        results_in(best / "submission.zip")
    )


def test_models_together_are_one_model_in_mlflow(confirmed: tuple[Path, str]) -> None:
    folder, said = confirmed
    assert "MLflow: models:/tiny/1; " in said
    mlflow.set_tracking_uri(f"sqlite:///{folder}/results/mlflow.db")
    registered = mlflow.pyfunc.load_model("models:/tiny@best")
    image = HELD_BACK[0].image
    here = trained_model.load(folder / "results/tiny/best", "cpu").predict(image)
    assert [one["score"] for one in registered.predict(image)] == here.scores_N.tolist()


def test_the_winner_of_a_confirmation_predicts_as_it_was_confirmed_and_chooses_no_more(
    confirmed: tuple[Path, str], tmp_path: Path
) -> None:
    folder = again(confirmed, tmp_path / "winner")
    tables = {path.name for path in (folder / "results/tiny/confirm").glob("*/matches/predict-*")}
    assert len(tables) == 4  # none of the four combinations is the trial's own
    said = python("tune.retrain_best", folder=folder).stdout
    assert "Prediction: " not in said
    metrics = json.loads((folder / "results/tiny/best/metrics.json").read_text())
    assert metrics["prediction"]["tried_on"] == "the trainings of the confirmation"
    tried = metrics["prediction"]["tried"]
    assert len(tried) == 5
    best = max(tried, key=lambda one: one["ap50"])
    assert {name: best[name] for name in metrics["prediction"]["chosen"]} == (
        metrics["prediction"]["chosen"]
    )
