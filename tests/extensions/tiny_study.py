"""A study of one tiny trial, searched by the command line with a toy package installed."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import toys

SMALL: Mapping[str, Any] = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.trainable_layers": 5,
    "model.image_min_side": 64,
    "model.image_max_side": 64,
    "model.proposals_train": 32,
    "model.proposals_test": 32,
    "model.rpn_samples": 32,
    "model.box_samples": 16,
    "predict.max_detections": 20,
    "optim.epochs": 1,
}


def run_python(folder: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in `folder`, with the package that is installed in `site`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=toys.environment(site),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def search(
    folder: Path, site: Path, data: str, settings: Mapping[str, Any], *arguments: str
) -> tuple[dict[str, str], dict[str, Any]]:
    """The row of trials.csv and the config.json of a study of one trial in `folder`.

    data       the data set, as the space file names it
    settings   each is searched, over this one value
    arguments  further ones of the command line
    """
    document = {
        "study": "toy",
        "data": data,
        "fixed": {name: value for name, value in SMALL.items() if name not in settings},
        "space": {name: [value] for name, value in settings.items()},
        "search": {"sampler": "grid"},
        "stop_early": {"rule": "none"},
        "confirm": {"top": 0},
    }
    (folder / "toy.yaml").write_text(json.dumps(document))
    command = ("-m", "tune.search", "--space", "toy.yaml", "--gpus-per-trial", "0")
    done = run_python(folder, site, *command, *arguments)
    assert done.returncode == 0, done.stderr
    results = folder / "results/toy"
    (row,) = csv.DictReader((results / "trials.csv").read_text().splitlines())
    return row, json.loads((results / "trials" / row["trial"] / "config.json").read_text())
