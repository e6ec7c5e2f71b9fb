"""A package as another project would install it beside ours: one module, and its entry points."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.data import synthetic

STUDY: dict[str, Any] = {
    "study": "tiny",
    "data": "cells",
    "fixed": {
        "model.backbone": "resnet18",
        "model.weights": "none",
        "model.image_min_side": 64,
        "model.image_max_side": 64,
        "model.proposals_train": 32,
        "model.proposals_test": 32,
        "model.rpn_samples": 32,
        "model.box_samples": 16,
        "predict.max_detections": 20,
        "optim.epochs": 1,
    },
    "space": {"optim.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}},
    "search": {"sampler": "random", "trials": 2},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 0},
}
"""A space file of two trials, each of which takes about a second of a processor."""


def install(folder: Path, source: str, parts: Mapping[str, str], name: str = "toy") -> Path:
    """Install a package of one module in a folder, and return the folder.

    parts   entry points by group: {"cell_tune.samplers": "toy = toy:Toy"}
    """
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = "".join(f"[{group}]\n{part}\n\n" for group, part in parts.items())
    (about / "entry_points.txt").write_text(groups)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process, and of all that it starts, that finds the package."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), *([before] if before else [])])
    }


def write_study(folder: Path) -> None:
    """Write `tiny.json`, the space file `STUDY`, and its images."""
    synthetic.write_hw3(synthetic.make(images=6, side=64), folder / "cells")
    (folder / "tiny.json").write_text(json.dumps(STUDY))


def run(folder: Path, site: Path, program: str) -> str:
    """What a Python program prints that is run in a folder, beside the packages of `site`."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout
