"""The ledger: an Optuna study in a database that holds every trial.

It is the truth; Ray executes, MLflow is a view.

One process at a time writes a ledger (the study's lock ensures that), so the records are read once
and kept in memory, and each change goes to both. Each trial of the Optuna study carries these user
attributes:

    name          the variant's name, empty in a sampled study; the candidate's name in a
                  confirmation
    settings      every setting of the trial, flat names
    params        the params of a trial for which Optuna drew nothing (in a confirmation); else
                  Optuna's own params
    attempts      number of attempts, each written before its worker starts
    lost          number of attempts that ended without a result for the trial (a dead process, no
                  memory)
    lost_seconds  wall time, in seconds, of the epochs that were lost with these attempts
    gpu_share     GPUs that the trial holds while it runs
    gpus_needed   GPUs that its next attempt needs, after it ran out of memory with less; 0 for the
                  study's share
    reason        why it failed, was stopped, or lost its last worker
    epoch 7       the report of epoch 7, as JSON, with the time it arrived

and the study itself these:

    identity      a name that no other ledger has
    facts         what its trials have in common: the request, the data's fingerprint, the weights'
                  hashes
    mlflow_run 3  id of trial 3's run in MLflow
    driver        the process that runs the study: pid, host, and the time of its last heartbeat
"""

import contextlib
import functools
import inspect
import json
import math
import os
import socket
import sqlite3
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import optuna
import sqlalchemy
from optuna.storages._rdb import models
from optuna.trial import TrialState

from core import faults
from core.config import Value
from core.errors import StorageError, StudyError
from tune import database, processes
from tune.database import Patience, cause_of, place_of, refusal
from tune.redaction import without_password
from tune.request.request import StudyRequest
from tune.samplers import gaussian as sampler
from tune.samplers.gaussian import Tried
from tune.space.domains import Choices, Domain, FloatRange
from tune.space.space import SearchSpace
from tune.stopping.halving import SuccessiveHalving, expected_score

MAX_LOST = 2
"""Number of a trial's attempts that may end without a report and are repeated; the next such end
marks it FAIL."""

BUSY_SECONDS = 5
"""Seconds that sqlite itself waits for a ledger that another process has locked, before `Patience`
tries again."""

OPEN_SECONDS = 20.0
"""Seconds for which opening a ledger is tried again, where the reason may pass: a user waits for
the first answer."""

BEAT_SECONDS, CLAIM_SECONDS = 30, 180
"""Seconds between a driver's heartbeats, and seconds without one after which the driver is taken
for dead."""

optuna.logging.set_verbosity(optuna.logging.WARNING)

_SAMPLER_STREAM = 1
_IN_MEMORY = "memory"


class State(StrEnum):
    """The state of a trial. The names are Optuna's."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger has it.

    id         number of the trial in its study, counted from 0
    params     the settings that distinguish it: the searched ones, or those of its variant
    settings   every setting, flat names
    epochs     one report an epoch, epoch 1 first, as JSON objects (see
               `core.training.trial.EpochReport`), each with `at`, the time it reached the ledger in
               milliseconds since 1970
    """

    id: int
    name: str = ""
    state: State = State.RUNNING
    params: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)
    epochs: tuple[Mapping[str, Any], ...] = ()
    attempts: int = 0
    lost: int = 0
    lost_seconds: float = 0.0
    gpu_share: float = 0.0
    gpus_needed: float = 0.0
    reason: str = ""
    mlflow_run: str | None = None

    @functools.cached_property
    def curve(self) -> list[float]:
        """AP50 after each epoch."""
        return [float(epoch["ap50"]) for epoch in self.epochs]

    @functools.cached_property
    def best_epoch(self) -> int | None:
        """The epoch of the highest AP50, the first of equals; None before the first epoch."""
        curve = self.curve
        return 1 + curve.index(max(curve)) if curve else None

    @functools.cached_property
    def ap50(self) -> float | None:
        """AP50 of the best epoch; None before the first epoch."""
        return max(self.curve, default=None)

    @functools.cached_property
    def seconds(self) -> float:
        """Wall time inside epochs, over all attempts, lost epochs included."""
        return self.lost_seconds + math.fsum(float(epoch["seconds"]) for epoch in self.epochs)

    @property
    def planned_epochs(self) -> int:
        """Number of epochs that the trial runs unless it is stopped."""
        return int(self.settings["optim.epochs"])


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "at": time.time()}


def _is_alive(driver: Mapping[str, Any]) -> bool:
    """Whether another process runs the study: its heartbeat is recent and, on this machine, it
    still exists.
    """
    here = driver["host"] == socket.gethostname()
    if time.time() - driver["at"] > CLAIM_SECONDS or (here and driver["pid"] == os.getpid()):
        return False
    return not here or processes.runs(driver["pid"])


_F = TypeVar("_F", bound=Callable[..., Any])


@contextlib.contextmanager
def _in_one_sentence(url: Callable[[], str]) -> Iterator[None]:
    """Turn what the database at a URL still refuses after all patience into StorageError.

    url   gives it when something is refused: a ledger that is being made learns its own inside
    """
    try:
        yield
    except Exception as error:
        cause = cause_of(error)
        if cause is None:
            raise
        meant = refusal(cause, url())
        tried = f" for {database.RETRY_SECONDS:g} seconds" if meant.transient else ""
        whole = "what it holds is whole: " if meant.whole else ""
        raise StorageError(
            f"the ledger could not be read or written{tried} ({meant.reason});"
            f" {whole}{meant.way_out}, then run the same command again"
        ) from error


def _translated(method: _F) -> _F:
    """Turn a database's last refusal, after all tries, into StorageError.

    The ledger must then be opened anew.
    """

    @functools.wraps(method)
    def call(ledger: "Ledger", *args: Any, **kwargs: Any) -> Any:
        with _in_one_sentence(lambda: ledger.url):
            return method(ledger, *args, **kwargs)

    return cast(_F, call)


def _patient(name: str) -> Callable[..., Any]:
    def call(storage: "_PatientStorage", *args: Any, **kwargs: Any) -> Any:
        method = getattr(storage.inner, name)
        return storage.patience(lambda: method(*args, **kwargs))

    return call


class _PatientStorage(optuna.storages.BaseStorage):
    """A storage that tries each operation again while its database refuses for a reason that may
    pass.

    Each operation is one transaction, which a refusal leaves undone. If the connection was lost
    after the transaction, most operations can be repeated without effect; the two that cannot have
    methods of their own below.
    """

    def __init__(self, inner: optuna.storages.BaseStorage, patience: Patience) -> None:
        self.inner, self.patience = inner, patience

    def create_new_trial(
        self, study_id: int, template_trial: optuna.trial.FrozenTrial | None = None
    ) -> int:
        """Make one new trial, never two: this process alone runs the study, so a trial more than
        before is its own.
        """
        before = self.get_n_trials(study_id)

        def create() -> int:
            trials = self.inner.get_all_trials(study_id, deepcopy=False)
            if len(trials) > before:
                return trials[-1]._trial_id
            return self.inner.create_new_trial(study_id, template_trial)

        return self.patience(create)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Change the state of a trial; True if this call changed it."""
        tried = False

        def change() -> bool:
            nonlocal tried
            again, tried = tried, True
            if again and self.inner.get_trial(trial_id).state is state:
                return True
            return self.inner.set_trial_state_values(trial_id, state, values)

        return self.patience(change)


_DELEGATING: Any = type(
    "_DelegatingStorage",
    (_PatientStorage,),
    {
        name: _patient(name)
        for name, _ in inspect.getmembers(optuna.storages.BaseStorage, inspect.isfunction)
        if not name.startswith("_") and name not in vars(_PatientStorage)
    },
)
"""`_PatientStorage` with every public method of Optuna's storages, in whichever version is
installed."""


@dataclass(frozen=True)
class _Store:
    """A ledger's database, opened.

    storage   the storage of a study; it keeps ended trials in memory once it has read them
    direct    a storage that keeps nothing in memory
    patience  tries operations on the database again
    engine    the database itself; None for one in memory
    """

    storage: optuna.storages.BaseStorage
    direct: optuna.storages.BaseStorage
    patience: Patience
    engine: sqlalchemy.engine.Engine | None


class Ledger:
    """The trials of one study: it gives the next trial to start, takes in reports, and decides
    whether a trial goes on.

    storage    SQLAlchemy URL of the database, such as `sqlite:///results/demo/study.db`
    request    the study; its name is the name of the Optuna study
    wanted     the trials to have; None for those of the request. A confirmation gives them, and
               they change when the search goes on. A trial with wanted settings counts unless it
               was stopped; a trial that is not wanted stays if it has ended, and is stopped if it
               runs
    """

    @_translated
    def __init__(
        self, storage: str, request: StudyRequest, wanted: Sequence["Point"] | None = None
    ) -> None:
        self.url = storage
        """SQLAlchemy URL of the database."""
        self._request = request
        self._space: SearchSpace = request.space
        self._rule = (
            SuccessiveHalving(
                request.stop_early.first_rung(request.max_epochs), request.stop_early.reduction
            )
            if request.stop_early.rule == "successive_halving"
            else None
        )
        self._points = _points(request)
        self._store = _open_storage(storage)
        self._order = _order_of_choices(self._store, request)
        self._study = optuna.create_study(
            storage=self._store.storage,
            study_name=request.study,
            direction="maximize",
            load_if_exists=True,
        )
        known = self._study.user_attrs
        self._facts: Mapping[str, Any] | None = known.get("facts")
        self.identity: str = known.get("identity") or uuid.uuid4().hex
        """A name that no other ledger has, whatever its study is called."""
        if "identity" not in known:
            self._study.set_user_attr("identity", self.identity)
        self._beat = -math.inf
        self._trials: dict[int, optuna.Trial] = {}
        self._records: dict[int, TrialRecord] = {}
        for frozen in self._study.get_trials(deepcopy=False):
            if (
                frozen.state is TrialState.WAITING
            ):  # it was enqueued, and the process died before asking for it
                continue
            self._records[frozen.number] = _record(frozen, known.get(f"mlflow_run {frozen.number}"))
            if frozen.state is TrialState.RUNNING:
                # Settings that are still missing are drawn as the dead driver would have drawn
                # them.
                self._study.sampler = self._sampler(frozen.number)
                self._trials[frozen.number] = optuna.Trial(self._study, frozen._trial_id)
        for record in self.records:  # a verdict that was due when the last driver died
            if record.state is State.RUNNING and record.epochs:
                self._judge(record.id)
        self._missing: deque[Point] | None = (
            None if wanted is None else deque(self._keep_only(wanted))
        )
        self._waiting = deque(record.id for record in self.records if record.state is State.RUNNING)

    @_translated
    def claim(self) -> None:
        """Enter this process as the one that runs the study.

        Raises StudyError where another process runs it.

        The lock in the study's folder keeps two processes apart that share the folder; the claim
        keeps two apart that share only the database.
        """
        driver = optuna.load_study(
            study_name=self._request.study, storage=self._store.storage
        ).user_attrs.get("driver")
        if driver is not None and _is_alive(driver):
            raise StudyError(
                f"study {self._request.study} is being searched by process {driver['pid']} on host"
                f" {driver['host']}; wait for it or stop it (if it is dead, {CLAIM_SECONDS // 60}"
                " minutes are enough), or give this search another --study name"
            )
        self._beat = -math.inf
        self.beat()

    @_translated
    def beat(self) -> None:
        """Write a heartbeat: this process still runs the study.

        Writes once in BEAT_SECONDS at most.
        """
        if time.monotonic() - self._beat >= BEAT_SECONDS:
            self._study.set_user_attr("driver", _this_process())
            self._beat = time.monotonic()

    def hurry(self) -> None:
        """Stop waiting for a database that refuses: each write that is left is tried once."""
        self._store.patience.lose()

    @_translated
    def release(self) -> None:
        """Give up the claim: this process no longer runs the study."""
        self._study.set_user_attr("driver", None)

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """The facts that all trials of the study have in common, as `remember` wrote them; None
        before that.
        """
        return self._facts

    @_translated
    def remember(self, facts: Mapping[str, Any]) -> None:
        """Store the facts that all trials of the study have in common; they consist of JSON
        types.
        """
        if self._facts != facts:
            self._study.set_user_attr("facts", facts)
            self._facts = facts

    @property
    def planned(self) -> int:
        """Number of trials the study is to have in the end."""
        return (
            self._request.planned_trials
            if self._missing is None
            else len(self._records) + len(self._missing)
        )

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """All trials, in the order of their numbers."""
        return tuple(
            self._records.values()
        )  # numbers were given in order, and no trial is ever taken out

    @property
    def finished(self) -> bool:
        """Whether every planned trial has ended."""
        return len(self._records) >= self.planned and all(
            record.state is not State.RUNNING for record in self._records.values()
        )

    @property
    def comes_again(self) -> bool:
        """Whether the next trial has had an attempt before."""
        return bool(self._waiting)

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the highest AP50; see `best_of`."""
        return best_of(self.records)

    @_translated
    def next(self, gpu_share: float = 0.0) -> TrialRecord | None:
        """The trial to start now, with the number of its new attempt already written; None if
        there is none.

        Trials that lost their worker come first and go on from their last checkpoint; new trials
        follow until there are `planned` trials.

        gpu_share   GPUs that each trial holds; 0 where trials run on processors
        """
        if self._waiting:
            number = self._waiting.popleft()
        elif len(self._records) < self.planned:
            number = self._ask()
        else:
            return None
        faults.passing("asked")
        if not self._records[number].settings:
            self._draw(number)
        record = self._records[number]
        # On processors it holds none, whatever it needed of a GPU before.
        share = max(gpu_share, record.gpus_needed) if gpu_share else 0.0
        record = self._note(number, attempts=record.attempts + 1, gpu_share=share)
        faults.passing("started")
        return record

    @_translated
    def report(self, number: int, epochs: Sequence[Mapping[str, Any]]) -> bool:
        """Enter a trial's epochs; True if the trial ends here.

        epochs   the whole history of the trial, the first epoch's report first; epochs that are
                 known are skipped

        The trial ends because its last epoch is done (COMPLETE), or because the stopping rule stops
        it (PRUNED).
        """
        for epoch in epochs[len(self._records[number].epochs) :]:
            record = self._records[number]
            assert record.state is State.RUNNING
            assert epoch["epoch"] == len(record.epochs) + 1
            entry = {**epoch, "at": time.time_ns() // 1_000_000}
            self._write(
                number,
                {f"epoch {epoch['epoch']}": entry},
                {int(epoch["epoch"]): float(epoch["ap50"])},
            )
            self._records[number] = replace(record, epochs=(*record.epochs, entry))
            faults.passing("reported")
            if self._judge(number):
                return True
        return False

    @_translated
    def fail(self, number: int, reason: str, seconds: float = 0.0) -> None:
        """End a trial as failed, after `seconds` in an epoch that was lost.

        A failure has a reason and no score.
        """
        self._note(number, reason=reason, lost_seconds=self._records[number].lost_seconds + seconds)
        self._tell(number, State.FAIL)

    @_translated
    def lost(
        self, number: int, reason: str, seconds: float = 0.0, gpus_needed: float | None = None
    ) -> bool:
        """Enter that an attempt ended without finishing its trial; True if the trial waits for
        another, else it failed.

        seconds       wall time inside the epoch that was lost with the attempt
        gpus_needed   GPUs of the next attempt; None for no change. A trial whose share can still
                      grow has another attempt in any case: no trial fails for memory before it had
                      a whole GPU
        """
        record = self._records[number]
        grows = gpus_needed is not None and gpus_needed > record.gpu_share
        changes: dict[str, Any] = {} if gpus_needed is None else {"gpus_needed": gpus_needed}
        changes |= {
            "lost": record.lost + 1,
            "lost_seconds": record.lost_seconds + seconds,
            "reason": reason,
        }
        record = self._note(number, **changes)
        if record.lost > MAX_LOST and not grows:
            self.fail(number, f"{reason} ({record.lost} times)")
            return False
        self._waiting.append(number)
        return True

    @_translated
    def note_mlflow_run(self, number: int, run: str) -> None:
        """Store the id of a trial's run in MLflow, with the study: attributes of an ended trial
        cannot be changed.
        """
        if self._records[number].mlflow_run != run:
            self._study.set_user_attr(f"mlflow_run {number}", run)
            self._records[number] = replace(self._records[number], mlflow_run=run)

    def _ask(self) -> int:
        """Make a new trial, RUNNING in the database, and return its number; unknown settings are
        drawn later.
        """
        number = len(self._records)
        if self._missing is not None:
            self._add(number, self._missing.popleft())
            return number
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if number < len(self._points) and not waiting:
            self._study.enqueue_trial(dict(self._points[number].params))
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        assert trial.number == number
        self._trials[number] = trial
        self._records[number] = TrialRecord(number)
        return number

    def _add(self, number: int, point: "Point") -> None:
        """Add a trial whose settings are all known, in one transaction.

        Nothing is drawn, so Optuna has no params.
        """
        assert point.settings is not None
        known = {"name": point.name, "params": dict(point.params), "settings": dict(point.settings)}
        self._study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=known))
        frozen = self._study.get_trials(deepcopy=False)[-1]
        assert frozen.number == number
        self._study.sampler = self._sampler(number)
        self._trials[number] = optuna.Trial(self._study, frozen._trial_id)
        self._records[number] = _record(frozen, None)

    def _keep_only(self, wanted: Sequence["Point"]) -> list["Point"]:
        """Stop the running trials that are not wanted; returns the wanted points that have no
        trial yet.
        """
        asked = {_key(point.settings or {}) for point in wanted}
        there = set()
        for record in self.records:
            key = _key(record.settings)
            if record.state is State.RUNNING and key not in asked:
                self._note(
                    record.id,
                    reason=f"stopped after epoch {len(record.epochs)}: no longer asked for",
                )
                self._tell(record.id, State.PRUNED)
            elif record.state is not State.PRUNED:
                there.add(key)
        return [point for point in wanted if _key(point.settings or {}) not in there]

    def _draw(self, number: int) -> None:
        """Draw a trial's settings.

        After a crash in between, the settings drawn before it come from the database.
        """
        trial = self._trials[number]
        point = self._points[number] if number < len(self._points) else None
        if point is not None and point.settings is not None:
            params = {
                name: _suggest(trial, name, _variant_choices(self._points, name))
                for name in point.params
            }
            name, settings = point.name, point.settings
        else:
            params = self._space.sample(
                lambda name, domain: _suggest(trial, name, self._order.get(name, domain)),
            )
            name, settings = "", self._space.resolve(params).settings()
        self._records[number] = replace(self._records[number], params=params)
        self._note(number, name=name, settings=dict(settings))

    def _judge(self, number: int) -> bool:
        """End a trial if its last epoch is done or the stopping rule stops it; True if it ended."""
        record = self._records[number]
        if len(record.epochs) >= record.planned_epochs:
            if record.reason:  # it lost a worker on its way
                self._note(number, reason="")
            self._tell(number, State.COMPLETE)
        elif self._rule is not None:
            rivals, complete = self._rival_curves(number), self._complete_curves()
            if why := self._rule.why_stopped(record.curve, rivals, complete, record.planned_epochs):
                self._note(number, reason=why)
                self._tell(number, State.PRUNED)
        return self._records[number].state is not State.RUNNING

    def _rival_curves(self, number: int) -> Iterator[list[float]]:
        for record in self._records.values():
            if record.id != number and record.state is not State.FAIL:
                yield record.curve

    def _complete_curves(self) -> list[list[float]]:
        return [record.curve for record in self._records.values() if record.state is State.COMPLETE]

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler of one trial, seeded by the study's seed and the trial's number.

        One sampler for all trials would begin its random numbers anew after a restart and propose
        the same trials.
        """
        search, space = self._request.search, self._space
        seed = int(np.random.default_rng([search.seed, _SAMPLER_STREAM, number]).integers(2**32))
        if search.sampler == "gp" and not space.variants and number <= sampler.MOST:
            domains = {one.name: self._order.get(one.name, one.domain) for one in space.parameters}
            return sampler.GaussianProcess(seed, space, domains, self._tried)
        if search.sampler in ("gp", "tpe") and not space.variants:
            return sampler.tree_parzen(seed)
        return optuna.samplers.RandomSampler(seed=seed)

    def _tried(self) -> list[Tried]:
        """The trials as a sampler is shown them: all that have settings, stopped ones with their
        expected score.

        A trial without a score runs, has failed, or was stopped before its first epoch.
        """
        complete = self._complete_curves()

        def score(record: TrialRecord) -> float | None:
            if record.state is State.PRUNED and record.epochs:
                return expected_score(record.curve, complete, record.planned_epochs)
            return record.ap50 if record.state is State.COMPLETE else None

        return [
            Tried(record.settings, score(record))
            for record in self._records.values()
            if record.settings
        ]

    def _note(self, number: int, **changes: Any) -> TrialRecord:
        self._write(number, changes)
        record = self._records[number] = replace(self._records[number], **changes)
        return record

    def _write(
        self, number: int, attributes: Mapping[str, Any], values: Mapping[int, float] | None = None
    ) -> None:
        """Write attributes of a trial, and values by their epochs, in one transaction: all of
        them are stored, or none.

        Optuna's interface takes one at a time, each in a transaction of its own with objects for
        every row. So this writes to Optuna's tables directly.
        """
        trial, values, engine = self._trials[number], values or {}, self._store.engine
        if engine is None:
            for name, value in attributes.items():
                trial.set_user_attr(name, value)
            for step, value in values.items():
                trial.report(value, step)
            return
        self._store.patience(lambda: self._write_rows(engine, trial, attributes, values))

    @staticmethod
    def _write_rows(
        engine: sqlalchemy.engine.Engine,
        trial: optuna.Trial,
        attributes: Mapping[str, Any],
        values: Mapping[int, float],
    ) -> None:
        key, row, step_row = (
            trial._trial_id,
            models.TrialUserAttributeModel,
            models.TrialIntermediateValueModel,
        )
        with engine.begin() as connection:
            state = connection.scalar(
                sqlalchemy.select(models.TrialModel.state).where(models.TrialModel.trial_id == key)
            )
            if state is not TrialState.RUNNING:
                raise optuna.exceptions.UpdateFinishedTrialError(f"trial {trial.number} is {state}")
            # A row that is there was written before the connection was lost, or is to be replaced.
            connection.execute(
                sqlalchemy.delete(row).where(row.trial_id == key, row.key.in_(attributes))
            )
            connection.execute(
                sqlalchemy.delete(step_row).where(
                    step_row.trial_id == key, step_row.step.in_(values)
                )
            )
            entries = [
                {"trial_id": key, "key": name, "value_json": json.dumps(v)}
                for name, v in attributes.items()
            ]
            connection.execute(sqlalchemy.insert(row), entries)
            for step, value in values.items():
                stored, kind = step_row.intermediate_value_to_stored_repr(value)
                point = {
                    "trial_id": key,
                    "step": step,
                    "intermediate_value": stored,
                    "intermediate_value_type": kind,
                }
                connection.execute(sqlalchemy.insert(step_row), point)

    def _tell(self, number: int, state: State) -> None:
        record = self._records[number]
        value = record.ap50 if state is State.COMPLETE else None
        faults.passing("judged")
        self._study.tell(number, value, state=TrialState[state.name])
        self._records[number] = replace(record, state=state)
        faults.passing("told")


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest AP50, the earliest of equals; None without a complete
    one.

    Trials that were stopped early are never compared with trials that ran to the end.
    """
    complete = [record for record in records if record.state is State.COMPLETE]
    return max(complete, key=lambda record: (record.ap50, -record.id), default=None)


@dataclass(frozen=True)
class Reading:
    """A ledger as it stands, read by a process that does not run its study.

    identity   a name that no other ledger has
    facts      what its trials have in common (see `Ledger.remember`)
    records    its trials, in the order of their numbers
    """

    identity: str
    facts: Mapping[str, Any]
    records: tuple[TrialRecord, ...]


def read_ledger(storage: str, study: str) -> Reading | None:
    """Read a study from a ledger, also while it runs; None if there is no such study.

    Writes nothing.

    Raises StudyError where the ledger cannot be opened, StorageError where it cannot be read.
    """
    with _in_one_sentence(lambda: storage):
        found = _load(storage, study)
        if found is None:
            return None
        known = found.user_attrs
        records = tuple(
            _record(trial, known.get(f"mlflow_run {trial.number}"))
            for trial in found.get_trials(deepcopy=False)
            if trial.state is not TrialState.WAITING
        )
    return Reading(known.get("identity", ""), known.get("facts", {}), records)


def preview(request: StudyRequest, count: int) -> list[TrialRecord]:
    """The first `count` trials of a study, as they would be asked for without any results;
    nothing is written.
    """
    ledger = Ledger(_IN_MEMORY, request)
    records: list[TrialRecord] = []
    while len(records) < count and (record := ledger.next()) is not None:
        records.append(record)
    return records


@dataclass(frozen=True)
class Point:
    """A trial whose params are known in advance: a row of an ablation table, a grid point, a
    start point, a repeat.

    settings   every setting of the trial; None where some are still drawn
    """

    name: str
    params: Mapping[str, Value]
    settings: Mapping[str, Value] | None = None


def _points(request: StudyRequest) -> tuple[Point, ...]:
    if request.space.variants:
        return tuple(
            Point(row.name, row.params, row.config.settings()) for row in request.space.rows()
        )
    if request.search.sampler == "grid":
        return tuple(Point("", params) for params in request.space.grid())
    return tuple(Point("", params) for params in request.space.start)


def _key(settings: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(settings.items()))


def _variant_choices(points: Sequence[Point], name: str) -> Choices:
    return Choices(
        tuple(dict.fromkeys(point.params[name] for point in points if name in point.params))
    )


def _order_of_choices(store: _Store, request: StudyRequest) -> dict[str, Choices]:
    """The choices of each searched setting in the ledger's order, with choices that were added
    since at the end.

    Optuna stores a choice as its place among the choices, and refuses other choices under the same
    name. So where choices were added, the trials that are there are rewritten as if these had been
    among their choices: places keep their meaning.
    """
    order: dict[str, Choices] = {}
    storage, engine = store.direct, store.engine
    try:
        study = storage.get_study_id_from_name(request.study)
    except KeyError:
        return order
    known: dict[str, tuple[Value, ...]] = {}
    for trial in storage.get_all_trials(study, deepcopy=False):
        for name, distribution in trial.distributions.items():
            if isinstance(distribution, optuna.distributions.CategoricalDistribution):
                known.setdefault(name, cast("tuple[Value, ...]", distribution.choices))
    for parameter in request.space.parameters:
        before, domain = known.get(parameter.name), parameter.domain
        if before is None or not isinstance(domain, Choices):
            continue
        order[parameter.name] = Choices(tuple(dict.fromkeys([*before, *domain.values])))
        if len(order[parameter.name].values) > len(before) and engine is not None:
            wider = optuna.distributions.CategoricalDistribution(order[parameter.name].values)
            change = {
                "wider": optuna.distributions.distribution_to_json(wider),
                "name": parameter.name,
                "study": study,
            }
            store.patience(functools.partial(_widen, engine, change))
    return order


def _widen(engine: sqlalchemy.engine.Engine, change: Mapping[str, Any]) -> None:
    with engine.begin() as connection:
        connection.execute(_WIDEN, change)


_WIDEN = sqlalchemy.text(
    "UPDATE trial_params SET distribution_json = :wider WHERE param_name = :name "
    "AND trial_id IN (SELECT trial_id FROM trials WHERE study_id = :study)"
)
"""A statement on Optuna's own tables: its interface cannot change the choices of stored trials."""


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    if isinstance(domain, Choices):
        return cast(Value, trial.suggest_categorical(name, domain.values))
    if isinstance(domain, FloatRange):
        return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
    return trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)


def _record(trial: optuna.trial.FrozenTrial, mlflow_run: str | None) -> TrialRecord:
    attrs = trial.user_attrs
    epochs: list[Mapping[str, Any]] = []
    while (entry := attrs.get(f"epoch {len(epochs) + 1}")) is not None:
        epochs.append(entry)
    known = {name: attrs[name] for name in _NOTED if name in attrs}
    return TrialRecord(
        trial.number,
        mlflow_run=mlflow_run,
        params={**trial.params, **attrs.get("params", {})},
        state=State[trial.state.name],
        epochs=tuple(epochs),
        **known,
    )


_NOTED = (
    "name",
    "settings",
    "attempts",
    "lost",
    "lost_seconds",
    "gpu_share",
    "gpus_needed",
    "reason",
)


def remembered_facts(storage: str, study: str) -> Mapping[str, Any] | None:
    """The facts of a study in a ledger; None if there is no such study yet.

    Raises as `read_ledger` does; writes nothing.
    """
    with _in_one_sentence(lambda: storage):
        found = _load(storage, study)
        return (
            None
            if found is None
            else cast("Mapping[str, Any] | None", found.user_attrs.get("facts"))
        )


def _load(storage: str, study: str) -> optuna.Study | None:
    try:
        url = sqlalchemy.engine.make_url(storage)
    except sqlalchemy.exc.ArgumentError:
        raise StudyError(
            "--storage must be an SQLAlchemy URL, such as sqlite:///team.db, and is"
            f" {without_password(storage)!r}"
        ) from None
    if url.drivername.startswith("sqlite") and not Path(url.database or "").is_file():
        return None
    try:
        return optuna.load_study(study_name=study, storage=_open_storage(storage).storage)
    except KeyError:
        return None


def _open_storage(url: str) -> _Store:
    """Open a ledger's database; a sqlite file that is not there is made, whole or not at all.

    Raises StudyError.
    """
    if url == _IN_MEMORY:
        in_memory = optuna.storages.InMemoryStorage()
        return _Store(in_memory, in_memory, Patience(url), None)
    try:
        return Patience(url, OPEN_SECONDS)(lambda: _open_database(url))
    except RuntimeError as error:  # another version of Optuna made it
        reason, order = str(error).splitlines()[0], "see to it, or name another --storage"
    except (
        optuna.exceptions.StorageInternalError,
        sqlalchemy.exc.SQLAlchemyError,
        ImportError,
        OSError,
    ) as error:
        cause = cause_of(error)
        meant = None if cause is None else refusal(cause, url)
        reason = meant.reason if meant else str(error).strip().splitlines()[0]
        order = (
            f"{meant.way_out}, then run the same command again"
            if meant
            else "see to it, or name another --storage"
        )
    raise StudyError(
        f"the ledger {place_of(url)} cannot be opened ({without_password(reason)}): {order}"
    )


def _open_database(url: str) -> _Store:
    if not url.startswith("sqlite"):
        return _patient_store(optuna.storages.RDBStorage(url), url)
    file = database.file_of(url)
    if file is not None:
        database.make_whole(file, _make_tables)
    opened = optuna.storages.RDBStorage(
        url, engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}}
    )
    # Write-ahead logging lets others read while the search writes. The file stores this mode, but
    # not `synchronous`.
    sqlalchemy.event.listen(opened.engine, "connect", _synchronous_normal)
    with opened.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    opened.engine.dispose()
    return _patient_store(opened, url)


def _patient_store(opened: optuna.storages.RDBStorage, url: str) -> _Store:
    database.hand_over(opened.engine, url)
    remembering, patience = optuna.storages.get_storage(opened), Patience(url)
    return _Store(
        _DELEGATING(remembering, patience), _DELEGATING(opened, patience), patience, opened.engine
    )


def _make_tables(url: str) -> None:
    """Have Optuna make its tables, and leave no connection open."""
    optuna.storages.RDBStorage(
        url, engine_kwargs={"poolclass": sqlalchemy.pool.NullPool}
    ).remove_session()
    with contextlib.closing(sqlite3.connect(str(database.file_of(url)))) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _synchronous_normal(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


LEAST_FOR_IMPORTANCES = 10
"""Least number of complete trials for Optuna's importances, which compare the best tenth of the
trials with all."""


def importances(storage: str, study: str) -> Mapping[str, float]:
    """Optuna's importance of each searched setting over complete trials, highest first; they add
    up to 1.

    They are PED-ANOVA's (Watanabe, Bansal and Hutter 2023), Optuna's default: how much the
    setting's values in the best tenth of the trials differ from those in all trials. Nothing random
    enters. The result is empty where Optuna cannot tell: no such study, too few complete trials,
    equal scores, nothing searched.
    """
    with _in_one_sentence(lambda: storage):
        found = _load(storage, study)
        complete = (
            [] if found is None else found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        )
        if (
            found is None
            or len(complete) < LEAST_FOR_IMPORTANCES
            or len({trial.value for trial in complete}) == 1
        ):
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Optuna warns that a conditional setting has few trials
            shares = optuna.importance.get_param_importances(found)
    return dict(sorted(shares.items(), key=lambda share: (-share[1], share[0])))
