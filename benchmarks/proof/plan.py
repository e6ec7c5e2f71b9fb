"""The requests of the two studies: rows, weights, and the epochs and trials that fit the time.

Both come from the shipped space files. What has to be changed for these images and this machine is
changed here and nowhere else, and is said on the pages.
"""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.proof import short
from benchmarks.proof.throughput import places_of
from benchmarks.tissue import GROUPS
from core import bounded_yaml
from core.config import ModelConfig, TrialConfig
from core.dependence import effective_settings
from core.errors import BadRequest
from core.files import write_atomically
from core.network.weights import find_weights
from core.text import listed
from tune.request.file import load_request
from tune.study.reading import Study

SPACES = Path(__file__).parents[2] / "search_spaces"
ROWS_STUDY, SEARCH_STUDY = "report_tables", "ablation"
"""The two studies, and the space files of their names."""
SEEDS = 3
"""Seeds of each row."""
TOP, FRESH_SEEDS = 3, 3
"""Candidates of the search's confirmation, and the fresh seeds of each."""
MINUTES = {ROWS_STUDY: 5.0, SEARCH_STUDY: 5.5}
"""Minutes that each study shall take on one H100 or H200; the retrainings come after them."""
FEWEST_EPOCHS, MOST_EPOCHS = 4, 50
FEWEST_TRIALS, MOST_TRIALS = 8, 60
START_SECONDS = 40.0
"""Seconds of a study in which no trial trains: Ray's start, reading, and the report at the end."""
SLOWER = 1.1
"""Factor by which later epochs may take longer than those of the pilot, in which not all places
were always taken."""
IN_PILOT = 8
"""Trials of the pilot of the search."""
CONTINUED = 3
"""Full trainings' worth of epochs that continued and stopped trials of a search take besides a
third of its trials (see `search_spaces/ablation.yaml`)."""


@dataclass(frozen=True)
class Weights:
    """The pretrained weights at hand.

    folder   folder in which files of torchvision's names are looked for first
    """

    folder: Path

    def are_there(self, model: ModelConfig) -> bool:
        """Whether the weights that a model asks for need no download."""
        file = find_weights(model, self.folder, download=False)
        return file is not None and file.missing is None


def link_weights(file: Path, folder: Path, stride_in_1x1: bool) -> None:
    """Put a ResNet-50's weights into a folder, under the name by which they are found.

    A study then names them `imagenet`, and its request is the same wherever the file lies. Raises
    BadRequest where there is no such file.
    """
    if not file.is_file():
        raise BadRequest(f"--weights must be a file with the weights of a ResNet-50: {file}")
    model = ModelConfig(backbone="resnet50", weights="imagenet")
    wanted = find_weights(model, folder, download=False)
    assert wanted is not None
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / wanted.path.name
    if place.is_symlink() or not place.exists():
        place.unlink(missing_ok=True)
        place.symlink_to(file.resolve())
    declared = {place.name: {"stride_in_1x1": stride_in_1x1}}
    write_atomically(folder / "WEIGHTS.json", json.dumps(declared).encode())


@dataclass(frozen=True)
class Rows:
    """The rows of the reference report that can be trained.

    document   the space file
    left_out   sentences on the rows that are left out, and on those that start elsewhere
    """

    document: dict[str, Any]
    left_out: tuple[str, ...]


def rows_document(weights: Weights, is_short: bool) -> Rows:
    """The space file of the report's rows for which weights are there.

    A row that starts from COCO's weights starts from ImageNet's where COCO's are not there. A row
    that is then the same as an earlier one is left out, and rows compared with it are compared with
    that one.
    """
    document = _shipped(ROWS_STUDY)
    fixed = document["fixed"] | {"data.group_pattern": GROUPS}
    variants: dict[str, dict[str, Any]] = {}
    same: dict[str, str] = {}
    trained: dict[str, str] = {}
    moved, missing = False, []
    for name, own in document["variants"].items():
        settings = dict(own)
        model = TrialConfig.from_settings({**fixed, **settings}).model
        if not weights.are_there(model) and model.weights == "coco":
            settings["model.weights"] = "imagenet"
            model = TrialConfig.from_settings({**fixed, **settings}).model
            moved = True
        if not weights.are_there(model):
            missing.append(name)
            continue
        key = json.dumps(
            dict(effective_settings(TrialConfig.from_settings({**fixed, **settings}).settings())),
            sort_keys=True,
        )
        if key in trained:
            same[name] = trained[key]
            continue
        trained[key] = name
        variants[name] = settings
    if is_short:
        variants = {name: variants[name] for name in short.SHORT_ROWS if name in variants}
        fixed |= {**short.SETTINGS, **short.ROW_SETTINGS}
    if document["baseline"] not in variants:
        raise BadRequest(
            f"the weights of {document['baseline']}, a ResNet-50, are not there; name their file"
            " with --weights FILE"
        )
    compare = {
        name: same.get(other, other)
        for name, other in (document.get("compare") or {}).items()
        if name in variants and same.get(other, other) in variants
    }
    document |= {"fixed": fixed, "variants": variants, "seeds": SEEDS}
    document = {name: one for name, one in document.items() if name != "compare"}
    if compare:
        document["compare"] = compare
    said = []
    if moved:
        said.append(
            "COCO's weights are not at hand, so the rows that name them start from ImageNet's:"
            " their pyramid and heads are new, and AP50 is lower than it would be from COCO's."
        )
    said += [
        f"{name} is the same as {other} here, and is trained once." for name, other in same.items()
    ]
    if missing:
        said.append(f"Left out, because no weights are at hand: {listed(missing)}.")
    return Rows(document, tuple(said))


def search_document(weights: Weights, is_short: bool) -> Rows:
    """The space file of the search, with the backbones for which weights are there."""
    document = _shipped(SEARCH_STUDY)
    fixed: dict[str, Any] = document["fixed"] | {"data.group_pattern": GROUPS}
    space: dict[str, Any] = document["space"]
    backbones = space["model.backbone"]
    said = []
    here = [
        one for one in backbones if weights.are_there(ModelConfig(backbone=one, weights="auto"))
    ]
    if "resnet50" not in here:
        fixed["model.weights"] = "imagenet"
        here = [
            one
            for one in backbones
            if weights.are_there(ModelConfig(backbone=one, weights="imagenet"))
        ]
        said.append("COCO's weights are not at hand, so every trial starts from ImageNet's.")
    gone = [one for one in backbones if one not in here]
    if gone:
        said.append(f"Not searched, because no weights are at hand: {listed(gone)}.")
    if not here:
        raise BadRequest("the weights of no backbone are there; name a file with --weights FILE")
    starts = [start for start in document["start"] if start["model.backbone"] in here]
    space["model.backbone"] = here
    if len(here) == 1:
        fixed["model.backbone"] = here[0]
        del space["model.backbone"]
        starts = [
            {name: one for name, one in start.items() if name != "model.backbone"}
            for start in starts
        ]
    if is_short:
        fixed |= short.SETTINGS
        space["optim.learning_rate"] = dict(short.LEARNING_RATES)
        starts = [{**start, **short.ROW_SETTINGS} for start in starts]
    document |= {"fixed": fixed, "space": space, "start": starts}
    return Rows(document, tuple(said))


@dataclass(frozen=True)
class Pilot:
    """The result of a pilot: each of its trials ran one epoch.

    epoch    seconds of an epoch of a trial while others ran beside it, the median
    places   number of trials that can run at once
    """

    epoch: float
    places: int


def pilot_of(study: Study, cpus: int, gpus: int) -> Pilot:
    """The result of a pilot's study. Raises BadRequest if none of its trials ran an epoch."""
    seconds = [float(epoch["seconds"]) for record in study.records for epoch in record.epochs]
    if not seconds:
        reasons = {record.reason for record in study.records if record.reason}
        raise BadRequest(
            f"no trial of {study.folder.path} ran an epoch ({'; '.join(sorted(reasons))}); see to"
            " it, then run the same command again with another --results folder"
        )
    return Pilot(statistics.median(seconds), places_of(study, cpus, gpus))


def pilot_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """The space file of a study's pilot: one epoch, one seed, nothing stopped or confirmed."""
    pilot = dict(document) | {"study": f"pilot_{document['study']}"}
    pilot["fixed"] = {**document["fixed"], "optim.epochs": 1}
    if "variants" in document:
        pilot["seeds"] = 1
    else:
        pilot["search"] = {**document["search"], "trials": IN_PILOT}
        pilot["stop_early"] = {"rule": "none"}
        pilot["confirm"] = {"top": 0}
    return pilot


def epochs_that_fit(trainings: int, pilot: Pilot, seconds: float) -> int:
    """The number of epochs with which so many trainings take at most `seconds`.

    They run in rounds of `pilot.places` at once. The number is at least FEWEST_EPOCHS, whatever the
    time, and at most MOST_EPOCHS.
    """
    rounds = math.ceil(trainings / pilot.places)
    fit = int((seconds - START_SECONDS) / (rounds * SLOWER * pilot.epoch))
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, fit))


def search_that_fits(pilot: Pilot, seconds: float) -> tuple[int, int]:
    """The epochs and trials of a search that takes at most `seconds`, its confirmation included.

    By early stopping three trials cost about one full training. The fewest trials get as many
    epochs as fit; what is left beside MOST_EPOCHS goes into further trials.
    """
    trainings = (seconds - START_SECONDS) * pilot.places / (SLOWER * pilot.epoch)  # in epochs
    fixed = TOP * FRESH_SEEDS + CONTINUED
    # Twelve searched trainings balance what the confirmation costs.
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, int(trainings / (fixed + TOP * FRESH_SEEDS))))
    trials = int(3 * (trainings / epochs - fixed))
    return epochs, min(MOST_TRIALS, max(FEWEST_TRIALS, trials))


def rows_request(document: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The space file of the rows with this number of epochs."""
    return document | {"fixed": document["fixed"] | {"optim.epochs": epochs}}


def search_request(
    document: dict[str, Any], epochs: int, trials: int, top: int, seeds: int
) -> dict[str, Any]:
    """The space file of the search with these numbers of epochs, trials and confirmations.

    A trial may be stopped after a fifth of its epochs.
    """
    return document | {
        "fixed": document["fixed"] | {"optim.epochs": epochs},
        "search": document["search"] | {"trials": trials},
        "stop_early": document["stop_early"] | {"min_epochs": max(1, round(epochs / 5))},
        "confirm": {"top": top, "seeds": seeds},
    }


def write_space(document: Mapping[str, Any], path: Path) -> None:
    """Write a space file, and check that it is one."""
    write_atomically(path, yaml.safe_dump(dict(document), sort_keys=False, width=100).encode())
    load_request(path)


def _shipped(name: str) -> dict[str, Any]:
    document = bounded_yaml.load_yaml((SPACES / f"{name}.yaml").read_text())
    assert isinstance(document, dict)
    return document
