"""Which trial is retrained, and how: a retraining checked against the study, the data and the weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from core import data as datasets
from core import weights as pretrained
from core.config import PredictConfig, TrialConfig, Value
from core.data.dataset import Dataset
from core.data.split import split
from core.errors import BadRequest, SettingError, StudyError
from core.weights import BaseWeights
from tune import ledger
from tune.folder import StudyFolder
from tune.ledger import State, TrialRecord
from tune.plan import Options, recall, storage_of, tracking_of, weights_key
from tune.request import StudyRequest
from tune.space import SHARED
from tune.space_file import from_document, setting_override
from tune.tracking import Destination

On = Literal["train", "all"]


@dataclass(frozen=True)
class Plan:
    """A retraining that can start.

    identity    of the ledger
    record      the trial that is repeated
    why         why this one, a sentence
    on          train: the trial's own split, the epoch chosen on its validation part; all: every image
    config      the settings it is trained with
    epochs      epochs to train; `config.optim.epochs` stays the horizon of the schedule
    own         the settings it predicts with unless one of `candidates` is better
    candidates  other settings of prediction to try
    changed     the settings that the command line gives other values than the trial's
    """

    folder: StudyFolder
    request: StudyRequest
    identity: str
    tracking: Destination
    record: TrialRecord
    why: str
    on: On
    config: TrialConfig
    epochs: int
    own: PredictConfig
    candidates: Sequence[PredictConfig]
    changed: Mapping[str, Value]
    data: Dataset
    weights: BaseWeights | None

    @property
    def key(self) -> str:
        """A name that no other training of this study has."""
        identity = [self.config.settings(), self.data.fingerprint, self.weights and self.weights.sha256, self.epochs]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return f"{self.record.id}-{self.on}-{digest[:8]}"

    @property
    def work(self) -> Path:
        """Where the training keeps its checkpoints."""
        return self.folder.retrain / self.key

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before the training starts, a sentence each."""
        notes = []
        if self.record.state is State.PRUNED:
            notes.append(
                f"trial {self.record.id} was stopped early after epoch {len(self.record.epochs)} and is trained to its "
                "end now; its score in the search is of the shorter training"
            )
        if self.changed:
            changed = ", ".join(f"{name} {value}" for name, value in self.changed.items())
            notes.append(f"the search's score of trial {self.record.id} was without: {changed}")
        if not self.data.test_images:
            notes.append(f"{self.data.name} lists no test images, so no submission is written")
        return tuple(notes)


def make_plan(
    options: Options,
    study: str | None = None,
    trial: int | None = None,
    data: str | None = None,
    on: On = "train",
    overrides: Sequence[str] = (),
) -> Plan:
    """Check a retraining against the world. Writes nothing but pretrained weights that had to be downloaded.

    study       its name, None for the one that was searched last
    trial       its number, None for the winner
    data        where the data set is now, None for where it was
    overrides   texts KEY=VALUE

    Raises BadRequest for the first thing wrong.
    """
    folder = StudyFolder(options.results / study) if study is not None else _last_study(options.results)
    request = from_document(folder.read_description()["request"], str(folder.description))
    options = recall(options, folder)
    reading = ledger.read(storage_of(options, folder), request.study)
    if reading is None:
        raise StudyError(f"{folder.path} is a study that its ledger does not hold; bring the ledger back")
    record, why = choose(reading.records, trial, request.planned_trials)
    changed = _changes(overrides, record, on)
    for_training = {name: value for name, value in changed.items() if not name.startswith("predict.")}
    place = f"trial {record.id}"
    config = TrialConfig.from_settings({**record.settings, **for_training}, place)
    own = TrialConfig.from_settings({**record.settings, **changed}, place).predict
    tried = {name: values for name, values in request.after_training.items() if name not in changed}
    winner = config.model_copy(update={"predict": own})
    candidates = replace(request, after_training=tried).prediction_candidates(winner)

    dataset = datasets.load(data or request.data)
    known = reading.facts.get("data", dataset.fingerprint)
    if dataset.fingerprint != known:
        raise StudyError(
            f"the data set must be the one that {folder.path} was searched on (fingerprint {known[:12]}), and "
            f"{data or request.data} is another ({dataset.fingerprint[:12]}); bring the images and masks back, or name "
            "their folder with --data"
        )
    if on == "train":
        split(dataset, config.data)
    return Plan(
        folder=folder,
        request=request,
        identity=reading.identity,
        tracking=tracking_of(options),
        record=record,
        why=why,
        on=on,
        config=config,
        epochs=(record.best_epoch or 1) if on == "all" else config.optim.epochs,
        own=own,
        candidates=[candidate for candidate in candidates if candidate != own],
        changed=changed,
        data=dataset,
        weights=_weights(config, reading.facts, changed, folder),
    )


def choose(records: Sequence[TrialRecord], trial: int | None, planned: int) -> tuple[TrialRecord, str]:
    """The trial to retrain and why, a sentence. Raises StudyError."""
    best = ledger.best_of(records)
    if trial is None:
        if best is None:
            raise StudyError(
                f"a winner is a trial that ran to its end, and none of {len(records)} has; "
                "continue the search, or name a trial that was stopped early with --trial"
            )
        complete = sum(record.state is State.COMPLETE for record in records)
        ended = sum(record.state is not State.RUNNING for record in records)
        among = f"is the best of {complete} that ran to their end" if complete > 1 else "alone ran to its end"
        so_far = "" if ended >= planned else f" so far ({ended} of {planned} trials have ended)"
        return best, (
            f"trial {best.id}{_named(best)}, which {among}{so_far}, with AP50 {best.ap50:.4f}; "
            "no fresh seeds and splits confirmed it"
        )
    record = next((record for record in records if record.id == trial), None)
    if record is None:
        raise StudyError(f"--trial must be a trial of the study, 0 to {len(records) - 1}, and is {trial}")
    if record.state in (State.FAIL, State.RUNNING) or record.ap50 is None:
        state = f"failed: {record.reason}" if record.state is State.FAIL else "has not ended"
        raise StudyError(f"--trial must be a trial with a score, and trial {trial} {state}")
    place = ""
    if best is not None and best.id != trial:
        place = f"; the best is trial {best.id} with {best.ap50:.4f}"
    return record, f"trial {record.id}{_named(record)}, because --trial names it; its AP50 is {record.ap50:.4f}{place}"


def _named(record: TrialRecord) -> str:
    return f" ({record.name})" if record.name else ""


def _last_study(results: Path) -> StudyFolder:
    found = sorted(results.glob("*/study.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise StudyError(f"{results} holds no study; start one with: python -m tune.search --space FILE")
    return StudyFolder(found[-1].parent)


def _changes(overrides: Sequence[str], record: TrialRecord, on: On) -> dict[str, Value]:
    """The settings that the command line changes. Raises SettingError."""
    changed: dict[str, Value] = {}
    for text in overrides:
        name, value = setting_override(text)
        if name in SHARED and name != "seed":
            raise SettingError(
                f"--set {text}: {name} is what all trials of a study have in common, and stays; search a study of its "
                "own with it"
            )
        if name == "optim.epochs" and on == "all":
            raise SettingError(
                f"--set {text}: --on all trains as many epochs as were best for trial {record.id} "
                f"({record.best_epoch} of {record.planned_epochs}), which another schedule would change; leave it out"
            )
        changed[name] = value
    if on == "all" and record.state is not State.COMPLETE:
        raise BadRequest(
            f"--on all stops at the best epoch of a whole training, and trial {record.id} was stopped early; "
            "use --on train, or another trial"
        )
    return {name: value for name, value in changed.items() if value != record.settings.get(name)}


def _weights(
    config: TrialConfig, facts: Mapping[str, Any], changed: Mapping[str, Value], folder: StudyFolder
) -> BaseWeights | None:
    """The pretrained weights, those of the search unless the command line asks for others. Raises BadRequest."""
    file = pretrained.find(config.model)
    if file is None:
        return None
    weights = pretrained.read(file)
    known = facts.get("weights", {}).get(weights_key(config.model))
    if known not in (None, [weights.sha256, weights.stride_in_1x1]) and "model.weights" not in changed:
        raise StudyError(
            f"{folder.path} was searched with other pretrained weights: {file.path} had SHA-256 {known[0][:12]} and "
            f"stride_in_1x1 {known[1]}, and has {weights.sha256[:12]} and {weights.stride_in_1x1}; bring them back"
        )
    return weights
