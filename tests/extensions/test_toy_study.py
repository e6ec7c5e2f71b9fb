"""Seven parts of other packages, one of each kind, and a study that runs with all of them.

Each toy beside this file is installed as a package of its own, as `core/extensions.py` shows. The
study is searched and retrained by the command lines.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from core.backbones import BACKBONES
from core.data import synthetic
from tests import toys

pytestmark = pytest.mark.study

TOYS = Path(__file__).with_name("toys")
PARTS = {
    "augmentation": ("augmentations", "dye = toy_augmentation:Dye"),
    "backbone": ("backbones", "pond = toy_backbone:POND"),
    "reader": ("readers", "arrays = toy_reader:READER"),
    "sampler": ("samplers", "halving = toy_sampler:Halving"),
    "stopping_rule": ("stopping_rules", "enough = toy_stopping_rule:Enough"),
    "tracker": ("trackers", "board = toy_tracker:Board"),
    "figure": ("figures", "speed = toy_figure:speed\nnever = toy_figure:never"),
}
SPACE: Mapping[str, Any] = {
    "study": "toy",
    "data": "cells",
    "fixed": {
        "model.backbone": "pond",
        "model.weights": "none",
        "model.trainable_layers": 2,
        "model.image_min_side": 64,
        "model.image_max_side": 64,
        "model.proposals_train": 32,
        "model.proposals_test": 16,
        "model.rpn_samples": 32,
        "model.box_samples": 16,
        "predict.max_detections": 10,
        "optim.epochs": 3,
        "augment.dye": True,
        "augment.dye_shade": 9,
    },
    "space": {"optim.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}},
    "search": {"sampler": "halving", "trials": 2},
    "stop_early": {"rule": "enough", "min_epochs": 2},
    "confirm": {"top": 0},
}


@dataclass(frozen=True)
class Toy:
    """The study in its folder, and what retraining it said."""

    folder: Path
    rows: list[dict[str, str]]
    said: str

    @property
    def results(self) -> Path:
        return self.folder / "results" / "toy"

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(self.folder, *arguments)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in `folder`, with the packages that are installed in its `site`."""
    found = [str(folder / "site"), *(one for one in sys.path if one)]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ":".join(found), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    for name, (group, points) in PARTS.items():
        source = (TOYS / f"{name}.py").read_text()
        toys.install(folder / "site", source, {f"cell_tune.{group}": points}, f"toy_{name}")
    (folder / "cells").mkdir()
    for sample in synthetic.make_cells(images=5, side=64).samples:
        np.savez(
            folder / "cells" / f"{sample.name}.npz",
            image=sample.image,
            maps=sample.label_maps,
            labels=sample.labels_N,
        )
    (folder / "toy.yaml").write_text(json.dumps(SPACE))
    command = ["-m", "tune.search", "--space", "toy.yaml", "--gpus-per-trial", "0"]
    address = ["--tracking-uri", f"board:{folder / 'board'}"]
    searched = run(folder, *command, "--parallel", "1", *address)
    assert searched.returncode == 0, searched.stderr
    rows = list(csv.DictReader((folder / "results/toy/trials.csv").read_text().splitlines()))
    retrained = run(folder, "-m", "tune.retrain_best", "--trial", "0")
    assert retrained.returncode == 0, retrained.stderr
    return Toy(folder, rows, retrained.stdout)


def test_a_study_trains_on_a_data_format_of_another_package(toy: Toy) -> None:
    assert "kind4" in (toy.results / "study.json").read_text()  # a class as the reader names it
    np.savez(toy.folder / "cells" / "zero.npz", image=np.zeros((64, 64, 3), np.uint8))
    checked = toy.python("-m", "core.check", "cells")
    assert "cells/zero.npz: the archive holds no labels; add them" in checked.stdout
    (toy.folder / "cells" / "zero.npz").unlink()


def test_a_study_trains_a_backbone_of_another_package_as_far_as_its_stages_are_to_train(
    toy: Toy,
) -> None:
    config = json.loads((toy.results / "trials/0/config.json").read_text())
    assert config["model.backbone"] == "pond"
    (weights,) = (toy.results / "trials/0").glob("best-*.safetensors")
    names = [name for name in safetensors.numpy.load_file(weights) if "body" in name]
    assert {name.split(".")[2] for name in names} == {"depth2", "depth3"}  # two of three stages


def test_a_study_changes_its_training_images_by_an_augmentation_of_another_package(
    toy: Toy,
) -> None:
    config = json.loads((toy.results / "trials/0/config.json").read_text())
    assert (config["augment.dye"], config["augment.dye_shade"]) == (True, 9)
    assert config["augment.dye_p"] == 1.0
    seeds = list((toy.folder / "site").glob("9 3 *"))
    assert len(seeds) >= 4 * 3  # four of five images train, with a seed for each of three epochs


def test_a_study_asks_a_sampler_of_another_package(toy: Toy) -> None:
    rates = [float(row["optim.learning_rate"]) for row in toy.rows]
    assert rates == pytest.approx([1e-3, 5e-4])


def test_a_study_obeys_a_stopping_rule_of_another_package(toy: Toy) -> None:
    assert [(row["state"], row["epochs"]) for row in toy.rows] == [
        ("COMPLETE", "3"),
        ("PRUNED", "2"),
    ]
    assert toy.rows[1]["reason"] == "stopped early after epoch 2: one complete trial is enough"


def test_a_tracker_of_another_package_shows_trials_report_and_retraining_where_it_was_told_to(
    toy: Toy,
) -> None:
    board = {path.name: json.loads(path.read_text()) for path in (toy.folder / "board").iterdir()}
    assert [board[f"trial-{number}"][0] for number in (0, 1)] == ["COMPLETE", "PRUNED"]
    assert [len(board[f"trial-{number}"][1]) for number in (0, 1)] == [3, 2]
    assert board["study"] == ["toy", True]
    assert board["report"] == "results/toy/report"
    assert board["winner"][:2] == [0, "pinned trial-0"]
    assert f"The board: pinned winner; ls {toy.folder / 'board'}" in toy.said
    assert not (toy.folder / "results" / "mlflow.db").exists()


def test_a_figure_of_another_package_stands_in_its_section_of_the_report_and_one_that_does_not_apply_does_not(
    toy: Toy,
) -> None:
    page = (toy.results / "report" / "index.html").read_text()
    section = page[page.index('<h2 id="cost">') :]
    section = section[: section.index("</section>")]
    assert 'id="figure-speed"' in section
    assert "Time.</strong> Seconds of 2 trials. They have no uncertainty." in section
    assert (toy.results / "report" / "figures" / "speed.svg").exists()
    assert "never" not in page


def test_without_its_package_a_part_is_a_wrong_request_that_names_the_parts_there_are(
    tmp_path: Path,
) -> None:
    (tmp_path / "toy.yaml").write_text(json.dumps({**SPACE, "fixed": {}, "stop_early": {}}))
    done = run(tmp_path, "-m", "tune.search", "--space", "toy.yaml")
    assert done.returncode == 2
    assert "sampler must be 'gp', 'tpe', 'random' or 'grid', and is 'halving'" in done.stderr


def test_weights_that_torchvision_lacks_for_a_backbone_are_refused_with_the_way_out(
    toy: Toy,
) -> None:
    program = (
        "from core.config import TrialConfig; import sys\n"
        "for weights in ('auto', 'imagenet'):\n"
        "    try: TrialConfig.from_settings({'model.backbone': 'pond', 'model.weights': weights})\n"
        "    except Exception as error: print(error)"
    )
    assert toy.python("-c", program).stdout.splitlines() == [
        f"settings: model.weights: {weights} exists for {', '.join(BACKBONES)} only, and"
        " model.backbone is pond; use none or the path of a file"
        for weights in ("auto", "imagenet")
    ]


def test_dependences_factors_and_schema_know_the_strengths_of_a_foreign_augmentation(
    toy: Toy,
) -> None:
    program = (
        "from core.dependence import NEEDS\n"
        "from tune.request.confounds import AUGMENTATION, FACTORS\n"
        "from tune.request.schema import json_schema\n"
        "print(*NEEDS['augment.dye_shade'], sep=', ')\n"
        "print(*(name for name in FACTORS[AUGMENTATION] if 'dye' in name))\n"
        "shade = json_schema()['$defs']['settings']['properties']['augment.dye_shade']\n"
        "print(shade['maximum'], shade['default'], shade['description'])"
    )
    assert toy.python("-c", program).stdout.splitlines() == [
        "augment.dye true, augment.dye_p above 0",
        "augment.dye augment.dye_p augment.dye_shade",
        "255 7 Shade of the dye, on a scale of 0 to 255.",
    ]
