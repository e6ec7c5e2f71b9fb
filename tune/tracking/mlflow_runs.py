"""MLflow, a view of the ledger: an experiment for each study, in it a parent run, and a nested
run for each trial.

Trials of the search have the tag `phase=search`, those that confirm its best `phase=confirm`. A
retraining is one more nested run, linked to its trial, and a version of the registered model named
like the study. Everything is written from the ledger's records alone, and writing it again changes
nothing: runs are found by their tags, and a metric's point is the same down to its time. So a view
that missed records is completed by writing them again. A thread writes, so a search never waits for
MLflow.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import re
import shlex
import sqlite3
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# `TrackingThread` itself tries a server again that does not answer, so MLflow's own attempts are
# short.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow
import sqlalchemy
from mlflow.entities import (
    Experiment,
    LifecycleStage,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec

from core import faults
from core.config import Value
from core.errors import CellTuneError
from core.files import way_out
from core.prediction import trained_model
from tune import database
from tune.database import cause_of, place_of, refusal
from tune.ledger.ledger import State, TrialRecord
from tune.redaction import without_password
from tune.store.folder import match_table_path

RETRY_SECONDS, LASTING_RETRY_SECONDS = 5.0, 30.0
"""Seconds of pause after MLflow did not answer, and after it refused for a reason that lasts until
the user acts."""

PAUSE_SECONDS = 1.0
"""Seconds of pause after records were written, so that more come together: many cost little more
than one, and since Python runs one thread at a time, each call of MLflow's delays the search a
little."""

_PARENT = "mlflow.parentRunId"
_PARAMS_A_CALL = 100
_METRICS_A_CALL = 1000
_OF_WHAT_IS_GONE = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""Error codes with which MLflow refuses writes to a deleted run or experiment, and other writes as
well."""
_STATUS = {
    State.RUNNING: "RUNNING",
    State.COMPLETE: "FINISHED",
    State.PRUNED: "KILLED",
    State.FAIL: "FAILED",
}
_MEASURED = (
    "ap50", "ap50_uncapped", "ap50_box", "learning_rate", "seconds", "train_seconds",
    "evaluate_seconds", "wait_seconds", "images_per_second", "peak_memory_bytes", "detections",
    "capped_images",
)  # fmt: skip

ALIAS = "best"
"""The alias of the version that `results/STUDY/best` holds; `latest` is the newest version."""

MODEL_NEEDS = (
    "filelock", "imagecodecs", "numpy", "pillow", "pycocotools", "pydantic", "pyyaml",
    "safetensors", "scipy", "tifffile", "torch", "torchvision",
)  # fmt: skip
"""Distributions that a registered model needs beside MLflow and this project."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """The MLflow database or server that shows a study.

    uri         MLflow's tracking URI
    artifacts   folder for artifacts, used where `uri` is a local database; a server has its own
    """

    uri: str
    artifacts: Path

    @classmethod
    def default(cls, results: Path) -> "Destination":
        """A database and a folder of artifacts under `results`."""
        return cls(f"sqlite:///{results / 'mlflow.db'}", results / "mlartifacts")

    @property
    def how_to_open(self) -> str:
        """How to see the study in a browser: a command for a database, the address of a server."""
        if urlsplit(self.uri).scheme in ("http", "https"):
            return f"open {without_password(self.uri)}"
        return f"{self.program} ui --backend-store-uri {without_password(self.uri)}"

    @property
    def program(self) -> str:
        """MLflow's command line, as a person in this folder would type it."""
        program = Path(sys.executable).with_name("mlflow")
        return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)

    def command(self, words: str) -> str:
        """A command of MLflow's command line for this database or server."""
        return (
            f"MLFLOW_TRACKING_URI={shlex.quote(without_password(self.uri))} {self.program} {words}"
        )


class ExperimentDeletedError(CellTuneError):
    """The study's experiment was deleted in MLflow. `number` is its ID there."""

    def __init__(self, name: str, number: str) -> None:
        super().__init__(f"experiment {name} (ID {number}) was deleted in MLflow")
        self.number = number


@dataclass(frozen=True)
class Trouble:
    """Why MLflow did not take something.

    reason    MLflow's answer, one line without secrets
    way_out   what the user can do, as an order
    lasting   whether MLflow refuses until the user does that
    """

    reason: str
    way_out: str = "run the same command again when it answers"
    lasting: bool = False


_REFUSED = {
    401: (
        "give it a user and password (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD) or a"
        " token (MLFLOW_TRACKING_TOKEN) that it takes"
    ),
    403: "ask whoever runs it for the right to write there",
    404: "give the address of an MLflow server as --tracking-uri",
}
"""The way out for each of these HTTP status codes of a server."""


def trouble_of(error: BaseException, destination: Destination) -> Trouble:
    """The meaning of MLflow's refusal, and what the user can do."""
    reason, uri = first_line(error), destination.uri
    again = ", then run the same command again"
    if isinstance(error, ExperimentDeletedError):
        return Trouble(
            reason,
            f"bring it back with: {destination.command('experiments restore')} "
            f"--experiment-id {error.number}{again}, or use another --study name",
            lasting=True,
        )
    if "_alembic_tmp_" in str(error):
        return Trouble(
            reason,
            f"an upgrade of {place_of(uri)} was cut short: put a copy from before it in its place,"
            " or move it away and write it anew, study by study, with --rebuild-tracking",
            lasting=True,
        )
    if "out-of-date database schema" in str(error):
        upgrade = f"{destination.program} db upgrade {shlex.quote(without_password(uri))}"
        return Trouble(
            reason.partition(". ")[0],
            f"copy {place_of(uri)}, upgrade it with: {upgrade}{again}",
            lasting=True,
        )
    cause = cause_of(error)
    if cause is not None:
        meant = refusal(cause, uri)
        return Trouble(meant.reason, f"{meant.way_out}{again}", not meant.transient)
    return _trouble_of_server(error, reason, again)


def _trouble_of_server(error: BaseException, reason: str, again: str) -> Trouble:
    said = str(error)
    inner = error.__cause__ if isinstance(error.__cause__, MlflowException) else error
    if isinstance(inner, MlflowException):
        code = inner.get_http_status_code()  # type: ignore[no-untyped-call]
        if code in _REFUSED and (code != 404 or said.startswith("API request to endpoint")):
            return Trouble(reason, f"{_REFUSED[code]}{again}", lasting=True)
    if re.search(
        r"(name or service not known|nodename nor servname|no address associated)",
        said,
        re.IGNORECASE,
    ):
        return Trouble(reason, f"give a host that exists as --tracking-uri{again}", lasting=True)
    if isinstance(error, OSError) and error.errno and way_out(error):
        return Trouble(reason, f"{way_out(error)}{again}", lasting=True)
    return Trouble(reason)


class StudyRuns:
    """The runs of one study, in its experiment, which is made if it is missing.

    study    name of the experiment
    ledger   the ledger's identity: a study that was deleted and searched anew has other runs in the
             same experiment
    """

    def __init__(self, destination: Destination, study: str, ledger: str) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # MLflow logs what its database refuses and raises it as well; our own sentence reports it
        # once.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        _make_database(destination)
        self.client = mlflow.MlflowClient(tracking_uri=destination.uri)
        self.experiment = self._find_experiment(study, destination)
        self._study = study
        self._ledger = ledger

    def search(self, **tags: str) -> list[Run]:
        """The runs with these tags, newest first."""
        found: list[Run] = []
        token = None
        where = " and ".join(
            f"tags.{name} = '{value}'" for name, value in {**tags, "ledger": self._ledger}.items()
        )
        while True:
            page = self.client.search_runs(
                [self.experiment], where, ViewType.ACTIVE_ONLY, 1000, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def refuse_deleted(self) -> None:
        """Raise ExperimentDeletedError if the experiment was deleted since it was found."""
        try:
            _refuse_deleted(self.client.get_experiment(self.experiment))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise ExperimentDeletedError(self._study, self.experiment) from error

    def is_gone(self, run: str) -> bool:
        """Whether a run was deleted."""
        try:
            return str(self.client.get_run(run).info.lifecycle_stage) == LifecycleStage.DELETED
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return True
            raise

    def create(self, name: str, tags: Mapping[str, str], start: int | None = None) -> Run:
        """Make a run. `start` is in milliseconds since 1970; None for now."""
        tags = {**tags, "ledger": self._ledger}
        return self.client.create_run(self.experiment, start, tags, name)

    def log_params(self, run: str, settings: Mapping[str, Value]) -> None:
        """Write settings as params; MLflow accepts equal params again."""
        params = [Param(name, str(value)) for name, value in settings.items()]
        for start in range(0, len(params), _PARAMS_A_CALL):
            self.client.log_batch(run, params=params[start : start + _PARAMS_A_CALL])

    def log_metrics(self, run: str, metrics: Sequence[Metric]) -> None:
        """Write points of metrics; a point that is there already is not doubled."""
        for start in range(0, len(metrics), _METRICS_A_CALL):
            self.client.log_batch(run, metrics=metrics[start : start + _METRICS_A_CALL])

    def _find_experiment(self, study: str, destination: Destination) -> str:
        found = self.client.get_experiment_by_name(study)
        if found is not None:
            _refuse_deleted(found)
            return str(found.experiment_id)
        local = urlsplit(destination.uri).scheme.startswith(("sqlite", "file"))
        return str(
            self.client.create_experiment(
                study, (destination.artifacts / study).as_uri() if local else None
            )
        )


def _refuse_deleted(experiment: Experiment) -> None:
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise ExperimentDeletedError(experiment.name, str(experiment.experiment_id))


def _make_database(destination: Destination) -> None:
    """Make MLflow's tables in a sqlite file, whole or not at all, if they are missing; a server
    makes its own.
    """
    file = database.file_of(destination.uri)
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    database.make_whole(file, lambda url: _make_tables(url, destination.artifacts), _is_half_made)


def _make_tables(url: str, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # not needed with a server

    store = SqlAlchemyStore(url, artifacts.absolute().as_uri())  # type: ignore[no-untyped-call]
    store.engine.dispose()


def _is_half_made(path: Path) -> bool:
    """Whether the making of MLflow's tables was cut short: MLflow makes the experiment `Default`
    last.

    MLflow never opens such a database again, because a temporary table of an upgrade is still
    there. The database has no experiment, and so no run.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=1.0)) as connection:
            tables = {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                )
            }
            holders = tables & {"experiments", "_alembic_tmp_experiments"}
            held = any(
                connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in holders
            )
    except sqlite3.Error:  # locked, or no database: MLflow itself will say so
        return False
    return not held and (bool(holders) or not tables - {"alembic_version"})


class Tracker:
    """Writes records as MLflow runs.

    study    name of the experiment and of the parent run
    ledger   identity of the search's ledger
    tags     tags of the parent run, which describe the study
    phase    phase of the trials: search or confirm
    """

    def __init__(
        self,
        destination: Destination,
        study: str,
        ledger: str,
        tags: Mapping[str, str],
        phase: str = "search",
    ) -> None:
        self._view = StudyRuns(destination, study, ledger)
        self._client = self._view.client
        self._phase = phase
        found = {run.data.tags["trial"]: run for run in self._view.search(phase=phase)}
        self._runs = {trial: run.info.run_id for trial, run in found.items()}
        self._ended = {trial: run.info.status for trial, run in found.items() if run.info.end_time}
        self._written: dict[str, int] = {}
        self._study, self._tags = study, tags
        self._nested_in = {trial: run.data.tags.get(_PARENT) for trial, run in found.items()}
        self._find_parent()

    def _find_parent(self) -> None:
        """Find the study's parent run, or make a new one where there is none or it was deleted."""
        parents = self._view.search(phase="study")
        parent = parents[0] if parents else self._view.create(self._study, {"phase": "study"})
        self._parent, self._parent_status = str(parent.info.run_id), str(parent.info.status)
        for name, value in self._tags.items():
            self._client.set_tag(self._parent, name, value)
        for trial, run in self._runs.items():
            if self._nested_in.get(trial) != self._parent and not self._view.is_gone(run):
                self._client.set_tag(run, _PARENT, self._parent)
                self._nested_in[trial] = self._parent

    def write(self, record: TrialRecord, folder: Path) -> str:
        """Bring a trial's run to the state of its record; returns the run's id.

        folder   the trial's folder: its configuration, its epochs and the match table of its best
                 epoch become artifacts when the trial has ended
        """
        try:
            return self._write(record, folder)
        except MlflowException as error:
            if error.error_code not in _OF_WHAT_IS_GONE:
                raise
            self._view.refuse_deleted()
            if not self._forget(str(record.id)):
                raise
        return self._write(record, folder)

    def _forget(self, trial: str) -> bool:
        """Forget the runs of a trial and of the study that were deleted in MLflow; True if
        either was.
        """
        run, parent_is_gone = self._runs.get(trial), self._view.is_gone(self._parent)
        if parent_is_gone:
            self._find_parent()
        if run is None or not self._view.is_gone(run):
            return parent_is_gone
        del self._runs[trial]
        self._written.pop(trial, None)
        return True

    def _write(self, record: TrialRecord, folder: Path) -> str:
        trial = str(record.id)
        run = self._runs.get(trial)
        if run is None:
            tags = {
                "trial": trial,
                "phase": self._phase,
                "state": State.RUNNING,
                _PARENT: self._parent,
            }
            run = self._runs[trial] = str(self._view.create(self._name(record), tags).info.run_id)
            self._nested_in[trial] = self._parent
            self._go_on()
        if trial not in self._written:
            self._view.log_params(run, record.settings)
            self._written[trial] = 0
        faults.passing("tracking")
        metrics = [
            point for epoch in record.epochs[self._written[trial] :] for point in _points(epoch)
        ]
        self._view.log_metrics(run, metrics)
        self._written[trial] = len(record.epochs)
        if record.state is State.RUNNING:
            self._go_on()
        else:
            self._finish(run, record, folder)
        return run

    def _go_on(self) -> None:
        """Set the parent run to RUNNING, also that of a study that had ended and was extended."""
        if self._parent_status != "RUNNING":
            self._client.update_run(self._parent, status="RUNNING")
            self._parent_status = "RUNNING"

    def shown(self, record: TrialRecord) -> str | None:
        """The run of a trial that was written to its end before this tracker was opened; None
        for any other trial.
        """
        trial = str(record.id)
        ended = (
            record.state is not State.RUNNING and self._ended.get(trial) == _STATUS[record.state]
        )
        return self._runs[trial] if ended else None

    def _name(self, record: TrialRecord) -> str:
        if self._phase == "confirm":
            fold = f", fold {record.settings['data.fold']}" if record.settings["data.folds"] else ""
            return f"confirm {record.name}, seed {record.settings['seed']}{fold}"
        return record.name or f"trial {record.id}"

    def close(self, ended: bool) -> None:
        """Set the parent run to FINISHED if the study has ended; an interrupted study stays
        RUNNING.
        """
        if ended and self._view.is_gone(self._parent):
            self._find_parent()
        if ended and self._parent_status != "FINISHED":
            self._client.set_terminated(self._parent, "FINISHED")
            self._parent_status = "FINISHED"

    def _finish(self, run: str, record: TrialRecord, folder: Path) -> None:
        tags = {
            "state": record.state.value,
            "reason": record.reason,
            "attempts": str(record.attempts),
        }
        metrics = []
        if record.best_epoch is not None:
            at = int(record.epochs[-1]["at"])
            metrics = [
                Metric("best_ap50", float(record.ap50 or 0.0), at, record.best_epoch),
                Metric("best_epoch", record.best_epoch, at, record.best_epoch),
            ]
        self._client.log_batch(
            run, metrics=metrics, tags=[RunTag(name, value) for name, value in tags.items()]
        )
        matches = match_table_path(folder, record.best_epoch or 0)
        for file in (folder / "config.json", folder / "epochs.csv", matches):
            if file.exists():
                self._client.log_artifact(run, str(file))
        self._client.set_terminated(run, _STATUS[record.state])


class TrackingThread:
    """A thread that writes records to MLflow as they come, and keeps those that MLflow does not
    take until it does.

    destination    the MLflow database or server
    open_tracker   makes the tracker, inside the thread; it is called again until it succeeds
    folder_of      returns a trial's folder, given its number
    """

    def __init__(
        self,
        destination: Destination,
        open_tracker: Callable[[], Tracker],
        folder_of: Callable[[int], Path],
    ) -> None:
        self._destination, self._open_tracker, self._folder_of = (
            destination,
            open_tracker,
            folder_of,
        )
        self._runs: dict[int, str] = {}
        self._changed = threading.Condition()
        self._pending: dict[int, TrialRecord] = {}
        self._closing = False
        self._hurry = threading.Event()
        self._stopped = threading.Event()
        self._tracker: Tracker | None = None
        self.trouble: Trouble | None = None
        """The last reason why a record is unwritten; None if all are written."""
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def show(self, record: TrialRecord) -> None:
        """Show a trial as it is now; returns at once."""
        with self._changed:
            self._pending[record.id] = record
            self._changed.notify()

    def new_runs(self) -> Mapping[int, str]:
        """The run of each trial that was written since the last call."""
        with self._changed:
            runs, self._runs = self._runs, {}
        return runs

    def close(self, ended: bool, seconds: float = 60.0) -> Sequence[int]:
        """Write what is left, waiting at most `seconds`; returns the trials that MLflow still
        does not show in full.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._hurry.set()
        self._thread.join(seconds)
        self._stopped.set()
        with self._changed:
            unwritten = sorted(self._pending)
        if self._tracker is not None and not unwritten and not self._thread.is_alive():
            try:
                self._tracker.close(ended)
            except Exception as error:  # noqa: BLE001  # whatever MLflow's stores raise
                self.trouble = trouble_of(error, self._destination)
        return unwritten

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending and self._tracker is not None:
                    return
                batch, closing = list(self._pending.values()), self._closing
            self.trouble = self._try_to_open() or self._try_to_write(batch)
            if not self.trouble:
                self._hurry.wait(PAUSE_SECONDS)
            elif closing and self.trouble.lasting:
                return
            elif closing:
                self._stopped.wait(RETRY_SECONDS)
            else:
                self._hurry.wait(LASTING_RETRY_SECONDS if self.trouble.lasting else RETRY_SECONDS)

    def _try_to_open(self) -> Trouble | None:
        """Open the tracker if it is not open; returns the trouble, or None."""
        try:
            self._tracker = self._tracker or self._open_tracker()
        except Exception as error:  # noqa: BLE001  # whatever MLflow's stores raise: the search goes on
            return self._note(error)
        return None

    def _try_to_write(self, batch: Sequence[TrialRecord]) -> Trouble | None:
        """Write records; a record that MLflow does not take delays no other.

        Returns the last trouble, or None.
        """
        trouble = None
        for record in batch:
            if self._tracker is None:
                break
            try:
                run = self._tracker.shown(record) or self._tracker.write(
                    record, self._folder_of(record.id)
                )
            except Exception as error:  # noqa: BLE001
                trouble = self._note(error)
                if isinstance(error, ExperimentDeletedError):
                    self._tracker = None  # opened anew, when it is back or gone for good
                continue
            with self._changed:
                self._runs[record.id] = run
                if self._pending.get(record.id) is record:
                    del self._pending[record.id]
        return trouble

    def _note(self, error: Exception) -> Trouble:
        trouble = trouble_of(error, self._destination)
        _logger.debug("MLflow did not take a record: %s", trouble.reason)
        return trouble


@dataclass(frozen=True)
class Retraining:
    """A trial that was trained again, and the folder that holds its model.

    folder     holds config.yaml, model.safetensors and metrics.json, and where there are any
               submission.zip and overlays/
    on         train (the trial's own split) or all (every annotated image)
    key        name of the training; the same key and the same config.yaml mean the same retraining
    settings   every setting of the model, flat names
    epochs     the report of each epoch (`EpochReport.to_json`), epoch 1 first
    metrics    the numbers of the model that was kept; those that an epoch has too, and `epoch`
               itself, are shown with the prefix `best_`, as a trial's are
    """

    folder: Path
    on: str
    key: str
    settings: Mapping[str, Value]
    epochs: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float]


def show_retraining(
    destination: Destination, study: str, ledger: str, record: TrialRecord, retraining: Retraining
) -> str:
    """Show a retraining as a run linked to the trial's, and register its model; returns
    `models:/STUDY/VERSION`.

    ledger   the ledger's identity
    record   the trial that was trained again

    The alias `best` (`models:/STUDY@best`) names the version that was shown last, even if a later
    version exists. Runs, models and versions of an earlier call that was killed or failed are found
    and completed; nothing is made twice. Raises MlflowException, whose message is one line without
    passwords, or OSError.
    """
    try:
        runs = StudyRuns(destination, study, ledger)
        run, tags = _retraining_run(runs, record, retraining)
        model = _logged_model(runs, study, run, tags, retraining)
        _log_results(runs, run, model, retraining)
        version = _registered_version(
            runs, study, run, model, tags, _description(record, retraining)
        )
        runs.client.set_registered_model_alias(study, ALIAS, version)
        if run.info.status != "FINISHED":
            runs.client.set_terminated(run.info.run_id, "FINISHED")
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        raise MlflowException(first_line(error)) from error
    return f"models:/{study}/{version}"


def show_report(destination: Destination, study: str, ledger: str, folder: Path) -> str:
    """Show a report as artifacts of the study's parent run, whose tag `report` names the page;
    returns its address.

    ledger   identity of the search's ledger
    folder   holds index.html and the files beside it

    Raises MlflowException, whose message is one line without passwords, or OSError.
    """
    try:
        runs = StudyRuns(destination, study, ledger)
        parents = runs.search(phase="study")
        parent = parents[0] if parents else runs.create(study, {"phase": "study"})
        runs.client.log_artifacts(parent.info.run_id, str(folder), "report")
        address = without_password(f"{parent.info.artifact_uri}/report/index.html")
        runs.client.set_tag(parent.info.run_id, "report", address)
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        raise MlflowException(first_line(error)) from error
    return address


def _retraining_run(
    runs: StudyRuns, record: TrialRecord, retraining: Retraining
) -> tuple[Run, dict[str, str]]:
    """The run of a retraining with its tags and params, and the tags that its model shares."""
    trial = str(record.id)
    # The same training with other settings of prediction is another model, and params of a run
    # cannot change.
    content = hashlib.sha256((retraining.folder / trained_model.CONFIG).read_bytes()).hexdigest()
    tags = {"trial": trial, "on": retraining.on, "retraining": retraining.key, "content": content}
    winner = record.mlflow_run or next(
        (run.info.run_id for run in runs.search(phase="search", trial=trial)), None
    )
    if winner is not None:
        tags["winner_run"] = winner
    own = {**tags, "phase": "retrain"}
    parent = next((run.info.run_id for run in runs.search(phase="study")), None)
    if parent is not None:
        own[_PARENT] = parent
    known = (run for run in runs.search(phase="retrain", content=content))
    run = next((run for run in known if run.data.tags["retraining"] == retraining.key), None)
    if run is None:
        took = sum(float(epoch["seconds"]) for epoch in retraining.epochs)
        run = runs.create(f"retrain trial {trial}", own, int((time.time() - took) * 1000))
    runs.client.log_batch(
        run.info.run_id, tags=[RunTag(name, value) for name, value in own.items()]
    )
    runs.log_params(run.info.run_id, retraining.settings)
    return run, tags


def _log_results(runs: StudyRuns, run: Run, model: LoggedModel, retraining: Retraining) -> None:
    """Write the run's metrics and files.

    Metrics of the kept model are the model's too; the weights are its alone.
    """
    at = int(run.info.start_time)  # the same whenever it is written again
    points = []
    for epoch in retraining.epochs:
        at += int(float(epoch["seconds"]) * 1000)
        points += _points({**epoch, "at": at})
    kept = int(retraining.metrics.get("epoch", len(retraining.epochs)))
    for name, value in retraining.metrics.items():
        shown = f"best_{name}" if name in (*_MEASURED, "epoch") else name
        points.append(
            Metric(shown, float(value), at, kept, model_id=model.model_id, run_id=run.info.run_id)
        )
    runs.log_metrics(run.info.run_id, points)
    for path in sorted(retraining.folder.iterdir()):
        if path.is_dir():
            runs.client.log_artifacts(run.info.run_id, str(path), path.name)
        elif path.name != trained_model.WEIGHTS:
            runs.client.log_artifact(run.info.run_id, str(path))


def _logged_model(
    runs: StudyRuns, study: str, run: Run, tags: Mapping[str, str], retraining: Retraining
) -> LoggedModel:
    """The run's model, which is made and uploaded if it is missing or incomplete."""
    run_id = run.info.run_id
    known = runs.client.search_logged_models([runs.experiment], f"source_run_id = '{run_id}'")
    if known:
        model = known[0]
    else:
        params = {name: str(value) for name, value in retraining.settings.items()}
        model = runs.client.create_logged_model(runs.experiment, study, run_id, dict(tags), params)
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            _save_model(folder, model, run_id, retraining.folder)
            runs.client.log_model_artifacts(model.model_id, str(folder))
        runs.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    if model.model_id not in [output.model_id for output in outputs]:
        runs.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model


def _save_model(folder: Path, model: LoggedModel, run: str, best: Path) -> None:
    """Write an MLflow model: the two files of `best`, and `registered_model.py`, which reads
    them.
    """
    with warnings.catch_warnings():
        # An example would not help: JSON has no uint8, and an input schema would refuse paths and
        # lists.
        warnings.filterwarnings("ignore", "(?s).*An input example was not provided", UserWarning)
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(Path(__file__).with_name("registered_model.py")),
            artifacts={
                name: str(best / name) for name in (trained_model.CONFIG, trained_model.WEIGHTS)
            },
            signature=ModelSignature(params=ParamSchema([ParamSpec("image_id", "long", 1)])),
            pip_requirements=[f"{name}=={_public_version(name)}" for name in MODEL_NEEDS],
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                run_id=run,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
        )


def _public_version(distribution: str) -> str:
    """The version without its local part: an index has 2.11.0, not 2.11.0+cpu."""
    return importlib.metadata.version(distribution).partition("+")[0]


def _registered_version(
    runs: StudyRuns,
    study: str,
    run: Run,
    model: LoggedModel,
    tags: Mapping[str, str],
    description: str,
) -> str:
    run_id = run.info.run_id
    known = runs.client.search_model_versions(f"name = '{study}' and run_id = '{run_id}'")
    if known:
        return str(known[0].version)
    try:
        runs.client.create_registered_model(
            study,
            description=(
                "An RGB image, uint8 [height, width, 3], or the path of one, to COCO results."
            ),
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A source `models:/ID` would be looked up where MLflow's global tracking URI leads.
    return str(
        runs.client.create_model_version(
            study,
            model.artifact_location,
            run_id,
            dict(tags),
            description=description,
            model_id=model.model_id,
        ).version
    )


def _description(record: TrialRecord, retraining: Retraining) -> str:
    name = f" ({record.name})" if record.name else ""
    on = {"train": "its own split", "all": "every annotated image"}[retraining.on]
    scores = [
        f"{metric} {value:.4f}" for metric, value in retraining.metrics.items() if "ap50" in metric
    ]
    return f"Trial {record.id}{name}, trained again on {on}" + (
        f": {', '.join(scores)}" if scores else ""
    )


def _points(epoch: Mapping[str, Any]) -> list[Metric]:
    """An epoch's numbers as metric points, at the time the epoch reached the ledger."""
    at, step = int(epoch["at"]), int(epoch["epoch"])
    values: dict[str, Any] = {name: epoch.get(name) for name in _MEASURED}
    values |= {f"loss/{name}": value for name, value in epoch.get("losses", {}).items()}
    values |= {f"coco/{name}": value for name, value in epoch.get("coco", {}).items()}
    return [
        Metric(name, float(value), at, step) for name, value in values.items() if value is not None
    ]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without passwords."""
    return without_password((str(error).strip() or type(error).__name__).splitlines()[0][:300])
