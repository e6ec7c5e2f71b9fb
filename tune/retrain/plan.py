"""The plan of a retraining: its trial is chosen, and checked against study, data and weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from core import data as datasets
from core.config import AUTO, ModelConfig, PredictConfig, TrialConfig, Value
from core.data.dataset import Dataset
from core.data.split import split
from core.device import MOST_THREADS
from core.errors import BadRequest, SettingError, StudyError
from core.fitting import Circumstances, circumstances_of
from core.network import weights as pretrained
from core.network.weights import BaseWeights
from core.text import have, many
from core.values import as_ap50, as_settings
from tune.ledger.records import State, TrialRecord, best_of
from tune.request.file import Changes, override_texts, setting_override
from tune.request.request import StudyRequest
from tune.space.space import SHARED
from tune.statistics.choice import Choice
from tune.store.folder import StudyFolder
from tune.study.confirmation import Confirmation, changed_prediction
from tune.study.learned import no_winner, nothing_learned
from tune.study.plan import tracking_of
from tune.study.pretrained import weights_key
from tune.study.reading import Study
from tune.tracking.tracker import Tracker

On = Literal["train", "all"]
_SPLIT = ("data.split_seed", "data.fold")


@dataclass(frozen=True)
class RetrainingPlan:
    """A retraining that can start.

    identity    the ledger's identity
    record      the trial that is repeated
    why         the reason for this trial, a sentence without a full stop
    on          train: the trial's own split, with the epoch that is best on its validation part;
                all: every annotated image
    config      the settings of the training
    epochs      number of epochs to train; `config.optim.epochs` is the length of the schedule. With
                `all` it is the best epoch of the confirmation's mean curve, or else of the trial
    own         the settings of prediction that are used unless one of `candidates` is better
    candidates  other settings of prediction to try; empty if the confirmation chose them
    confirmed   mean AP50 of the winner in the confirmation with each of the settings of prediction
                that were tried there, its own first; empty if none were tried
    changed     the settings for which the command line gives another value than the trial's
    threads     number of processor threads; None for torch's default
    members     the trials of the confirmation whose models predict together; empty if a model is
                trained
    """

    folder: StudyFolder
    request: StudyRequest
    identity: str
    tracking: Tracker
    record: TrialRecord
    why: str
    on: On
    config: TrialConfig
    epochs: int
    own: PredictConfig
    candidates: Sequence[PredictConfig]
    confirmed: Mapping[PredictConfig, float]
    changed: Mapping[str, Value]
    data: Dataset
    weights: BaseWeights | None
    threads: int | None
    members: tuple[TrialRecord, ...] = ()

    @property
    def kind(self) -> str:
        """The value of `on`, or `together` if members predict together."""
        return "together" if self.members else self.on

    @property
    def key(self) -> str:
        """A name that only this retraining has: it depends on all that changes its result."""
        identity = [
            self.config.settings(),
            self.data.fingerprint,
            self.weights and self.weights.sha256,
            self.epochs,
            *(member.id for member in self.members),
        ]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return f"{self.record.id}-{self.kind}-{digest[:8]}"

    def changed_in(self, trained: TrialConfig) -> dict[str, Value]:
        """The changed settings, with the value that the training used for each `auto`.

        A setting whose value is then the trial's own is left out.
        """
        settings = trained.settings()
        found = {name: settings[name] if one == AUTO else one for name, one in self.changed.items()}
        before = self.record.settings
        return {name: one for name, one in found.items() if one != before.get(name)}

    @property
    def work(self) -> Path:
        """The folder in which the training keeps its checkpoints."""
        return self.folder.retrain / self.key

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user before the training starts, a sentence each."""
        notes = []
        if self.record.state is State.PRUNED:
            notes.append(
                f"trial {self.record.id} was stopped early after epoch {len(self.record.epochs)}"
                " and is trained to its end now; its score in the search is of the shorter"
                " training"
            )
        if self.changed:
            notes.append(
                f"the score of trial {self.record.id} in the search is of a training without these"
                f" changes: {as_settings(self.changed)}"
            )
        if not self.data.test_images:
            notes.append(f"{self.data.name} lists no test images, so no submission is written")
        return tuple(notes)


def plan_retraining(
    study: Study,
    trial: int | None = None,
    data: str | None = None,
    on: On = "train",
    changes: Changes = (),
    threads: int | None = None,
    ensemble: bool = False,
) -> RetrainingPlan:
    """Check a retraining against study, data and weights. Raises the first BadRequest.

    Missing pretrained weights are downloaded; nothing else is written.

    trial     number of the trial; None for the winner
    data      the folder of the data set now; None for the folder of the search
    on        train or all, see `RetrainingPlan`
    changes   changes to the trial's settings
    threads   number of processor threads; None for the trial's own number with `train`, so that a
              CPU repeats the trial bit for bit, and for torch's default with `all`
    ensemble  whether to join the winner's models of the confirmation, instead of training one
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise BadRequest(f"--threads must be from 1 to {MOST_THREADS}, and is {threads}")
    request, folder = study.request, study.folder
    choice = study.winner if trial is None else None
    record, why = choose_trial(
        study.records, trial, request.planned_trials, study.confirmation, choice
    )
    best_epoch = (record.best_epoch or 1) if choice is None else choice.epoch
    place = f"trial {record.id}"
    changed = _changed_settings(override_texts(changes), record, on, best_epoch)
    asked = TrialConfig.from_settings({**record.settings, **changed}, place)
    weights = _pretrained(asked.model, study.ledger.facts, record)
    if weights is not None and _same_weights(weights, study.ledger.facts, record):
        changed.pop("model.weights", None)  # the file was moved, and is the same

    dataset = datasets.load_data(data or request.data, request.reading_again)
    known = study.ledger.facts.get("data", dataset.fingerprint)
    if dataset.fingerprint != known:
        raise StudyError(
            f"the data set must be the one that {folder.path} was searched on (fingerprint"
            f" {known[:12]}), and {data or request.data} is another ({dataset.fingerprint[:12]});"
            " bring the images and masks back, or name their folder with --data"
        )
    auto = _automatic(request, asked, dataset)
    settings = asked.resolved(auto).settings()
    changed = {name: settings[name] for name in changed}
    changed = {name: one for name, one in changed.items() if one != record.settings.get(name)}
    for_training = {name: one for name, one in changed.items() if not name.startswith("predict.")}
    config = TrialConfig.from_settings({**record.settings, **for_training}, place)
    chosen = {} if choice is None else changed_prediction(choice, record)
    winner = TrialConfig.from_settings({**record.settings, **chosen, **changed}, place)
    confirmed = {} if choice is None else _confirmed_predictions(choice, config.predict)
    tried = {
        name: values
        for name, values in request.after_training.items()
        if name not in changed and not confirmed
    }
    if on == "train":
        split(dataset, config.data)
    members = _members(study, trial, on, changed) if ensemble else ()
    return RetrainingPlan(
        folder=folder,
        request=request,
        identity=study.ledger.identity,
        tracking=tracking_of(study.options),
        record=record,
        why=why,
        on=on,
        config=config,
        epochs=best_epoch if on == "all" else config.optim.epochs,
        own=winner.predict,
        candidates=winner.other_predictions(tried, auto),
        confirmed=confirmed,
        changed=changed,
        data=dataset,
        weights=weights,
        threads=threads if threads or on == "all" else _threads_of_trials(study.description),
        members=members,
    )


def _automatic(request: StudyRequest, asked: TrialConfig, dataset: Dataset) -> Circumstances:
    """The values of `auto` on the command line: the study's, or else those read off these data.

    The precision stays open: it is resolved on the device of the training.
    """
    known = request.space.auto
    if known is not None and known.data is not None:
        return replace(known, precision=None)
    return circumstances_of(asked, dataset, None)


def _members(
    study: Study, trial: int | None, on: On, changed: Mapping[str, Value]
) -> tuple[TrialRecord, ...]:
    """The confirming trials of the winner. Raises BadRequest if they cannot be joined."""
    if trial is not None or on == "all":
        other = "--on all" if trial is None else "--trial"
        raise BadRequest(
            f"--ensemble puts the winner's models of the confirmation together, and {other} asks"
            " for another model; leave one of the two out"
        )
    if study.confirmation is None or study.winner is None:
        raise StudyError(
            "--ensemble needs a confirmation that has ended (confirm.top above 0 in the space"
            " file), and this study has none; leave it out, or let the search end"
        )
    trained = [name for name in changed if not name.startswith("predict.")]
    if trained:
        raise SettingError(
            f"--ensemble trains nothing, so --set may change settings of `predict.` only, and is"
            f" {trained[0]}; leave it out"
        )
    winner = study.winner.name
    found = next(one for one in study.confirmation.confirmed if one.candidate.name == winner)
    if len(found.repeats) < 2:
        raise StudyError(
            "--ensemble needs two models or more, and the confirmation trained the winner once;"
            " leave it out, or search with confirm.seeds above 1"
        )
    return found.repeats


def _confirmed_predictions(choice: Choice, own: PredictConfig) -> dict[PredictConfig, float]:
    """The winner's mean AP50 in the confirmation for each of the settings that it tried.

    own   the winner's own settings of prediction

    Empty if the confirmation tried none.
    """
    if not choice.gains:
        return {}
    alone = choice.curves[choice.name][choice.epoch - 1]
    return {own: alone} | {predict: alone + gain for predict, gain in choice.gains.items()}


def _threads_of_trials(description: Mapping[str, Any]) -> int:
    """Number of processors of each trial of the search. Raises StudyError for a bad study.json."""
    try:
        return int(description["resources"]["cpus_per_trial"])
    except (LookupError, TypeError, ValueError):
        raise StudyError(
            "study.json is damaged: resources.cpus_per_trial must be a whole number; restore it"
            " from a backup, or give --on all"
        ) from None


def choose_trial(
    records: Sequence[TrialRecord],
    trial: int | None,
    planned: int,
    confirmed: Confirmation | None = None,
    choice: Choice | None = None,
) -> tuple[TrialRecord, str]:
    """The trial to retrain, and the reason for it in a sentence without a full stop.

    trial       number of the trial; None for the winner: that of `choice`, or else the best of the
                search
    planned     number of trials that the search plans
    confirmed   the confirmation of the search, if there is one
    choice      the winner of the confirmation, if there is one

    Raises StudyError if there is no such trial, or it has no score.
    """
    best = best_of(records)
    if trial is None and confirmed is not None and choice is not None:
        return _confirmed_winner(confirmed, choice, best)
    if trial is None:
        if best is None:
            raise StudyError(
                f"a winner is a trial that ran to its end, and none of {len(records)} has; "
                "continue the search, or name a trial that was stopped early with --trial"
            )
        if nothing_learned(records):
            raise StudyError(
                f"{no_winner(records)}; retrain one of them all the same with --trial ID"
            )
        complete = sum(record.state is State.COMPLETE for record in records)
        ended = sum(record.state is not State.RUNNING for record in records)
        among = (
            f"is the best of {complete} that ran to their end"
            if complete > 1
            else "alone ran to its end"
        )
        so_far = (
            ""
            if ended >= planned
            else f" so far ({ended} of {many(planned, 'trial')} {have(ended)} ended)"
        )
        return best, (
            f"trial {best.id}{_named(best)}, which {among}{so_far}, with AP50"
            f" {as_ap50(best.ap50)}; " + _other_images(records) + _unconfirmed(confirmed)
        )
    record = next((record for record in records if record.id == trial), None)
    if record is None:
        there = f"0 to {len(records) - 1}" if records else "which has none yet"
        raise StudyError(f"--trial must be a trial of the study, {there}, and is {trial}")
    if record.state in (State.FAIL, State.RUNNING) or record.ap50 is None:
        state = f"failed: {record.reason}" if record.state is State.FAIL else "has not ended"
        raise StudyError(f"--trial must be a trial with a score, and trial {trial} {state}")
    place = ""
    if best is not None and best.id != trial:
        place = f"; the best is trial {best.id} with {as_ap50(best.ap50)}"
    return (
        record,
        (
            f"trial {record.id}{_named(record)}, because --trial names it; its AP50 is"
            f" {as_ap50(record.ap50)}{place}"
        ),
    )


def _confirmed_winner(
    confirmed: Confirmation, choice: Choice, best: TrialRecord | None
) -> tuple[TrialRecord, str]:
    """The confirmed winner's best trial, and the reason for it; `best` is the search's best."""
    winner = next(candidate for candidate in confirmed.candidates if candidate.name == choice.name)
    others = len(confirmed.confirmed)
    changed = changed_prediction(choice, winner.trial)
    predicting = f", predicting with {as_settings(changed)}" if changed else ""
    among = f", the best of {others} candidates" if others > 1 else ""
    place = ""
    if best is not None and best.id not in [record.id for record in winner.trials]:
        place = f"; the search's best was trial {best.id} with {as_ap50(best.ap50)}"
    return (
        winner.trial,
        (
            f"trial {winner.trial.id}{_named(winner.trial)}, confirmed on {confirmed.on}: "
            f"AP50 {as_ap50(choice.corrected.estimate)} (in the search {as_ap50(winner.score)})"
            f"{predicting}{among}; its mean curve is highest at epoch {choice.epoch}{place}"
        ),
    )


def _unconfirmed(confirmed: Confirmation | None) -> str:
    """Words on why the best of the search is taken although it was not confirmed."""
    if confirmed is None:
        return "no fresh seeds and splits confirmed it"
    if confirmed.finished:
        return f"no candidate could be confirmed: {'; '.join(confirmed.notes)}"
    return (
        f"it is not confirmed yet: {confirmed.ended} of {many(confirmed.planned, 'training')} on"
        f" fresh seeds and splits {have(confirmed.ended)} ended, and the search command goes on"
        " with them"
    )


def _other_images(records: Sequence[TrialRecord]) -> str:
    """A warning if trials were scored on different images (repeats of variants, folds); or ""."""
    splits = {tuple(record.settings.get(name) for name in _SPLIT) for record in records}
    return (
        "the trials were scored on different images, so luck has a part in their order; "
        if len(splits) > 1
        else ""
    )


def _named(record: TrialRecord) -> str:
    return f" ({record.name})" if record.name else ""


def _changed_settings(
    overrides: Sequence[str], record: TrialRecord, on: On, best_epoch: int
) -> dict[str, Value]:
    """The settings to which the command line gives another value than the trial's.

    Raises BadRequest if a setting cannot be changed, or `--on all` does not fit the trial.
    """
    changed: dict[str, Value] = {}
    for text in overrides:
        name, value = setting_override(text)
        if name in SHARED and name != "seed":
            raise SettingError(
                f"--set {text}: {name} is what all trials of a study have in common, and stays;"
                " search a study of its own with it"
            )
        if name == "optim.epochs" and on == "all":
            raise SettingError(
                f"--set {text}: --on all trains as many epochs as were best for trial {record.id}"
                f" ({best_epoch} of {record.planned_epochs}), which another schedule would change;"
                " leave it out"
            )
        changed[name] = value
    if on == "all" and record.state is not State.COMPLETE:
        raise BadRequest(
            f"--on all stops at the best epoch of a whole training, and trial {record.id} was"
            " stopped early; use --on train, or another trial"
        )
    return {name: value for name, value in changed.items() if value != record.settings.get(name)}


def _pretrained(
    model: ModelConfig, facts: Mapping[str, Any], record: TrialRecord
) -> BaseWeights | None:
    """The pretrained weights of a model; None for a model that starts from none.

    facts   the facts of the search

    Raises BadRequest if they cannot be read, or are others than the search used.
    """
    file = pretrained.find_weights(model)
    if file is None:
        return None
    weights = pretrained.read_weights(file)
    # None for weights that the search did not use.
    known = facts.get("weights", {}).get(weights_key(model))
    if known not in (None, [weights.sha256, weights.stride_in_1x1]):
        raise StudyError(
            f"trial {record.id} began with other pretrained weights: {file.path} had SHA-256"
            f" {known[0][:12]} and stride_in_1x1 {known[1]}, and has {weights.sha256[:12]} and"
            f" {weights.stride_in_1x1}; bring them back"
        )
    return weights


def _same_weights(weights: BaseWeights, facts: Mapping[str, Any], record: TrialRecord) -> bool:
    """Whether the trial began with these weights, whatever the name of their file."""
    model = TrialConfig.from_settings(record.settings).model
    return bool(
        facts.get("weights", {}).get(weights_key(model)) == [weights.sha256, weights.stride_in_1x1]
    )
