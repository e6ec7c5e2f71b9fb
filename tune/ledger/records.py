"""A trial as the ledger has it, and the names under which an Optuna study stores it.

Each trial of the Optuna study has its searched settings as Optuna's params, AP50 after each epoch
as intermediate values, and these user attributes:

name       the variant's name; in a confirmation the candidate's; empty in a sampled study
settings   every setting of the trial, flat names
params     the trial's params where Optuna does not store them (in a confirmation)
start      where its start point is from; no attribute where the sampler chose all settings
notes      the notes on the trial in one piece (see `Notes`), with the `verdict` if the trial ended
           between two epochs
epoch 7    the report of epoch 7, with `at`, the time it reached the ledger in milliseconds since
           1970, and with the `verdict` if the trial ended with this epoch

The study itself has these:

identity       a name that no other ledger has
facts          what its trials have in common: the request, the data's fingerprint, the weights'
               hashes
chosen         the trials that were chosen for its confirmation (see `tune.ledger.selections`)
warm_start     what it took from another study when it began (see `tune.ledger.warm_start`)
run            its last run: where its driver is, and how it ended (see `tune.ledger.runs`)
mlflow_run 3   id of trial 3's run in the tracker
continued 3    notes on trial 3 since it was continued after it had been stopped early
continued 3 epoch 7    the report of its epoch 7, trained since then

Optuna lets nobody change a trial that has ended, so a trial that is continued keeps Optuna's state
PRUNED or FAIL, and its later notes and epochs are stored with the study. A record joins both into
one trial, as if it had not been stopped.

A verdict is stored together with the epoch that caused it, so it is never lost and never judged
again. Optuna's own state and intermediate values of the trial follow in further writes.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from optuna.trial import FrozenTrial

from core.config import Value
from core.dependence import effective_settings
from tune.ledger.damage import damaged
from tune.ledger.growth import plain_name

IDENTITY_KEY, FACTS_KEY = "identity", "facts"
"""Names of user attributes of the study."""
NAME_KEY, SETTINGS_KEY, PARAMS_KEY, START_KEY, NOTES_KEY, VERDICT_KEY = (
    "name",
    "settings",
    "params",
    "start",
    "notes",
    "verdict",
)
"""Names of user attributes of a trial; VERDICT_KEY is a key in its notes or in the report of an
epoch."""


class State(StrEnum):
    """The state of a trial, with Optuna's names."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Notes on a trial beside its epochs.

    attempts       number of attempts, each written before its worker starts
    lost           number of attempts that ended without finishing the trial (a dead process, no
                   memory)
    spared         number of other attempts that ended so and do not count as lost, because another
                   trial may have been to blame
    lost_seconds   wall time, in seconds, inside the epochs that were lost with all these attempts
    gpu_share      GPUs that the trial holds while it runs; 0 on processors
    gpus_needed    GPUs that its next attempt needs, after a smaller share had too little memory;
                   0 for the study's share
    room_needed    GPUs that its next attempt needs, after it was lost among others on its GPU; 0
                   again when it has trained an epoch since
    reason         why it failed, was stopped or continued, or lost its last worker
    obeyed         ids of the orders by people that were carried out on it (see
                   `tune.ledger.orders`)
    by_person      whether a person stopped it, so that nothing but a person lets it go on
    """

    attempts: int = 0
    lost: int = 0
    spared: int = 0
    lost_seconds: float = 0.0
    gpu_share: float = 0.0
    gpus_needed: float = 0.0
    room_needed: float = 0.0
    reason: str = ""
    obeyed: tuple[str, ...] = ()
    by_person: bool = False


@dataclass(frozen=True)
class TrialRecord(Notes):
    """One trial as the ledger has it.

    id          number of the trial in its study, counted from 0
    params      the settings that distinguish it: the searched ones, or those of its variant
    settings    every setting, flat names
    epochs      one report an epoch, epoch 1 first, as JSON objects (see
                `core.training.trial.EpochReport`), each with `at`
    mlflow_run  id of its run in the tracker; None before it is shown there
    continued_after   the epoch after which it was stopped early or failed, if it was continued
                      later; None for all other trials
    had_failed        whether it had failed when it was continued
    start             where its start point is from, such as `space file, point 1`; empty where the
                      sampler chose all settings, and in studies of earlier versions
    """

    id: int
    name: str = ""
    state: State = State.RUNNING
    params: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)
    epochs: tuple[Mapping[str, Any], ...] = ()
    mlflow_run: str | None = None
    continued_after: int | None = None
    had_failed: bool = False
    start: str = ""

    @functools.cached_property
    def searched(self) -> Mapping[str, Value]:
        """Its params with the values that they had: the number in place of `auto`."""
        return {name: self.settings.get(name, value) for name, value in self.params.items()}

    @functools.cached_property
    def in_effect(self) -> Mapping[str, Value]:
        """Its settings that have an effect (see `core.dependence.effective_settings`)."""
        return effective_settings(self.settings)

    @functools.cached_property
    def curve(self) -> list[float]:
        """AP50 after each epoch."""
        return [float(epoch["ap50"]) for epoch in self.epochs]

    @functools.cached_property
    def best_epoch(self) -> int | None:
        """The first epoch with the highest AP50, counted from 1; None before the first epoch."""
        curve = self.curve
        return 1 + curve.index(max(curve)) if curve else None

    @functools.cached_property
    def ap50(self) -> float | None:
        """AP50 of the best epoch; None before the first epoch."""
        return max(self.curve, default=None)

    @functools.cached_property
    def pulls(self) -> list[tuple[float, ...]]:
        """How far each validation image, or block of them, pulled the AP50 of each epoch.

        A tuple is empty where an earlier version, or a simulation, did not report the pulls.
        """
        return [tuple(epoch.get("ap50_pulls", ())) for epoch in self.epochs]

    @functools.cached_property
    def seconds(self) -> float:
        """Wall time inside epochs, in seconds, over all attempts, lost epochs included."""
        return self.lost_seconds + math.fsum(float(epoch["seconds"]) for epoch in self.epochs)

    @property
    def gpu_hours(self) -> float:
        """Its seconds in hours, times the part of a GPU that it holds; 0 on processors."""
        return self.seconds * self.gpu_share / 3600

    @property
    def planned_epochs(self) -> int:
        """Number of epochs that the trial runs unless it is stopped."""
        return int(self.settings["optim.epochs"])

    @property
    def as_stopped(self) -> "TrialRecord":
        """The trial as early stopping left it, without the epochs that were continued.

        It is the trial itself if early stopping never stopped it, or if it failed after that.
        """
        if self.continued_after is None or self.had_failed or self.state is State.FAIL:
            return self
        epochs = self.epochs[: self.continued_after]
        return replace(self, state=State.PRUNED, epochs=epochs, continued_after=None)


@dataclass(frozen=True)
class Point:
    """A trial that is not in the ledger yet: a row of an ablation table, a proposal, a repeat.

    name       as in `TrialRecord`
    params     the settings that distinguish it
    settings   every setting, flat names
    start      as in `TrialRecord`
    """

    name: str
    params: Mapping[str, Value]
    settings: Mapping[str, Value]
    start: str = ""


@dataclass(frozen=True)
class TrialEnd:
    """The end of a trial: its state, and the reason, which is empty for a complete trial."""

    state: State
    reason: str = ""


def epoch_name(number: int) -> str:
    """The name of a trial's attribute with the report of an epoch, counted from 1."""
    return f"epoch {number}"


def run_name(number: int) -> str:
    """The name of the study's attribute with the id of a trial's run in the tracker."""
    return f"mlflow_run {number}"


def continued_name(number: int, name: str = NOTES_KEY) -> str:
    """The name of the study's attribute in place of an attribute of a trial that was continued."""
    return f"continued {number}" if name == NOTES_KEY else f"continued {number} {name}"


def notes_of(record: TrialRecord) -> dict[str, Any]:
    """The notes in a record, as JSON types."""
    notes = {one.name: getattr(record, one.name) for one in fields(Notes)}
    return {**notes, "obeyed": list(record.obeyed)}


def record_of(trial: FrozenTrial, study: Mapping[str, Any]) -> TrialRecord:
    """A trial of an Optuna study as a record.

    study   the user attributes of the study

    A trial with a verdict has ended, whether or not Optuna's own state has followed. Raises
    StorageError for a trial whose attributes no driver can have written.
    """
    try:
        record = _record_of(trial, study)
        if record.state is State.COMPLETE:
            max(record.curve)
        record.name.encode()
        if record.settings != {} or record.state is not State.RUNNING:
            int(record.settings["optim.epochs"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(f"trial {trial.number} of the ledger", error) from error
    return record


def _record_of(trial: FrozenTrial, study: Mapping[str, Any]) -> TrialRecord:
    attributes = trial.user_attrs
    epochs = _epochs_in(attributes.get)
    # Earlier versions wrote each note under a name of its own.
    notes = dict(attributes.get(NOTES_KEY, attributes))
    ended = _verdict_in(notes, epochs) or {"state": trial.state.name}
    continued_after, had_failed = None, False
    if (since := study.get(continued_name(trial.number))) is not None:
        continued_after, notes = len(epochs), dict(since)
        had_failed = ended["state"] == State.FAIL
        epochs += _epochs_in(
            lambda name: study.get(continued_name(trial.number, name)), continued_after
        )
        ended = _verdict_in(notes, epochs) or {"state": State.RUNNING.name}
    known = {one.name: notes[one.name] for one in fields(Notes) if one.name in notes}
    known["obeyed"] = tuple(known.get("obeyed", ()))
    return TrialRecord(
        trial.number,
        attributes.get(NAME_KEY, ""),
        State[ended["state"]],
        {plain_name(name): value for name, value in trial.params.items()}
        | attributes.get(PARAMS_KEY, {}),
        attributes.get(SETTINGS_KEY, {}),
        tuple(epochs),
        study.get(run_name(trial.number)),
        continued_after,
        had_failed,
        str(attributes.get(START_KEY, "")),
        **{**known, "reason": ended.get("reason", known.get("reason", ""))},
    )


def _epochs_in(stored: Callable[[str], Any], known: int = 0) -> list[dict[str, Any]]:
    """The stored reports of the epochs after epoch `known`.

    stored   function from the name of an attribute to its value, None where there is none
    """
    epochs: list[dict[str, Any]] = []
    while (entry := stored(epoch_name(known + len(epochs) + 1))) is not None:
        epochs.append(dict(entry))
    return epochs


def _verdict_in(notes: dict[str, Any], epochs: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The last verdict in a trial's notes and epochs; all verdicts are removed from them."""
    verdicts: list[dict[str, Any]] = [
        one.pop(VERDICT_KEY) for one in (notes, *epochs) if VERDICT_KEY in one
    ]
    return verdicts[-1] if verdicts else None


def settings_key(
    settings: Mapping[str, Value], without: Sequence[str] = ()
) -> tuple[tuple[str, Value], ...]:
    """The settings in a form that is equal for equal settings, in any order.

    without   names of settings that are left out
    """
    return tuple(sorted((name, value) for name, value in settings.items() if name not in without))


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest AP50, the first of equals; None if none is complete.

    Trials that were stopped early are never compared with trials that ran to the end.
    """
    complete = [record for record in records if record.state is State.COMPLETE]
    return max(complete, key=lambda record: record.ap50 or 0.0, default=None)
