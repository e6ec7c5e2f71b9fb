"""MLflow's runs: an experiment for each study, in it a parent run, and a nested run for each trial.

Trials of the search have the tag `phase=search`, those of the confirmation `phase=confirm`. Writing
a record again changes nothing, because runs are found by their tags, and a metric's point is the
same down to its time.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.entities import Experiment, LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from core import faults
from core.config import Value
from core.text import shown
from core.values import as_setting
from tune import database
from tune.ledger.records import State, TrialRecord
from tune.redaction import without_password
from tune.store.folder import match_table_path, overlay_path
from tune.tracking import mlflow_view
from tune.tracking.mlflow_destination import Destination
from tune.tracking.mlflow_errors import CopiedFolderError, ExperimentDeletedError
from tune.tracking.tracker import TrackedStudy, TrialsView

PARENT = "mlflow.parentRunId"
"""The tag by which MLflow nests a run in another."""
_PARAMS_A_CALL, _METRICS_A_CALL = 100, 1000
"""Largest numbers of params and metric points that MLflow takes in one call."""
_OF_WHAT_IS_GONE = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""Error codes with which MLflow refuses writes to a deleted run or experiment, among others."""
_STATUS = {
    State.RUNNING: "RUNNING",
    State.COMPLETE: "FINISHED",
    State.PRUNED: "FINISHED",
    State.FAIL: "FAILED",
}
"""MLflow's status of each state. MLflow shows KILLED as it shows a failure, and a trial that was
stopped early has done all that it was to do: its name and its tag `state` say what happened."""
_NOTE = (
    "The study as a whole. Under *Artifacts*, `report/index.html` is its report,"
    " `report/images.html` shows every image with its outlines, and `report/figures` its figures."
    " Its trials are the runs below this one; each has a picture of its predictions among its"
    " artifacts."
)
"""The description of a study's run, in Markdown."""
_LONGEST_NAME = 70
"""Largest number of characters of the settings in a run's name."""
MEASURED = (
    "ap50", "ap50_uncapped", "ap50_box", "learning_rate", "seconds", "train_seconds",
    "evaluate_seconds", "wait_seconds", "images_per_second", "peak_memory_bytes", "detections",
    "capped_images",
)  # fmt: skip
"""The numbers of an epoch that are shown as metrics, by their names in its report."""


class StudyRuns:
    """The runs of one study in its experiment, which is made if it is missing.

    experiment   id of the experiment in MLflow

    Raises ExperimentDeletedError on construction if the experiment was deleted.
    """

    def __init__(self, destination: Destination, study: TrackedStudy) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # MLflow logs what its database refuses, and raises it as well: our own sentence reports it.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        _make_database(destination)
        self.client = mlflow.MlflowClient(tracking_uri=destination.uri)
        self._study = study
        self.experiment = self._find_experiment(destination)

    def search(self, **tags: str) -> list[Run]:
        """The study's runs with these tags that are not deleted, newest first."""
        found: list[Run] = []
        token = None
        where = " and ".join(
            f"tags.{name} = '{value}'"
            for name, value in {**tags, "ledger": self._study.ledger}.items()
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
            raise ExperimentDeletedError(self._study.name, self.experiment) from error

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
        tags = {**tags, "ledger": self._study.ledger}
        return self.client.create_run(self.experiment, start, tags, name)

    def log_params(self, run: str, settings: Mapping[str, Value]) -> None:
        """Write settings as params; MLflow accepts a param again if its value is the same."""
        params = [Param(name, str(value)) for name, value in settings.items()]
        for start in range(0, len(params), _PARAMS_A_CALL):
            self.client.log_batch(run, params=params[start : start + _PARAMS_A_CALL])

    def log_metrics(self, run: str, metrics: Sequence[Metric]) -> None:
        """Write points of metrics; a point that MLflow has already is not doubled."""
        for start in range(0, len(metrics), _METRICS_A_CALL):
            self.client.log_batch(run, metrics=metrics[start : start + _METRICS_A_CALL])

    def parent(self) -> Run | None:
        """The study's run, in which the runs of its trials are nested; None if there is none."""
        return next(iter(self.search(phase="study")), None)

    def parent_or_new(self) -> Run:
        """The study's run, which is made if it is missing."""
        return self.parent() or self.create(self._study.name, {"phase": "study"})

    def describe(self) -> None:
        """Say in the experiment's tags that it is training, and how its page looks when opened."""
        tags = {
            mlflow_view.KIND_TAG: mlflow_view.KIND,
            mlflow_view.TAG: mlflow_view.view_of(self._study.searched),
        }
        there = self.client.get_experiment(self.experiment).tags
        for name, value in tags.items():
            if there.get(name) != value:
                self.client.set_experiment_tag(self.experiment, name, value)

    def _find_experiment(self, destination: Destination) -> str:
        found = self.client.get_experiment_by_name(self._study.name)
        if found is not None:
            _refuse_deleted(found)
            return str(found.experiment_id)
        local = urlsplit(destination.uri).scheme.startswith(("sqlite", "file"))
        artifacts = (destination.artifacts / self._study.name).as_uri() if local else None
        return str(self.client.create_experiment(self._study.name, artifacts))


def _refuse_deleted(experiment: Experiment) -> None:
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise ExperimentDeletedError(experiment.name, str(experiment.experiment_id))


def _make_database(destination: Destination) -> None:
    """Make MLflow's tables in a sqlite file, whole or not at all, if they are missing.

    A server makes its own.
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
    """Whether the making of MLflow's tables was cut short.

    MLflow makes the experiment `Default` last, so a database without any experiment is half made,
    and has no run to lose. MLflow never opens it again, because a temporary table of an upgrade is
    still there.
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


class TrialRuns(TrialsView):
    """The runs of the trials of one phase, `search` or `confirm`, nested in the study's run."""

    def __init__(self, destination: Destination, study: TrackedStudy, phase: str) -> None:
        self._all = StudyRuns(destination, study)
        self._client = self._all.client
        self._phase, self._tags = phase, study.tags
        found = {run.data.tags["trial"]: run for run in self._all.search(phase=phase)}
        self._runs = {trial: run.info.run_id for trial, run in found.items()}
        self._ended = {
            trial: (run.info.status, run.data.tags.get("state"))
            for trial, run in found.items()
            if run.info.end_time
        }
        self._written: dict[str, int] = {}
        self._nested_in = {trial: run.data.tags.get(PARENT) for trial, run in found.items()}
        self._find_parent()
        self._all.describe()

    def _find_parent(self) -> None:
        """Find the study's run, or make a new one where there is none or it was deleted."""
        parent = self._all.parent_or_new()
        self._parent, self._parent_status = str(parent.info.run_id), str(parent.info.status)
        for name, value in self._tags.items():
            self._client.set_tag(self._parent, name, value)
        for trial, run in self._runs.items():
            if self._nested_in.get(trial) != self._parent and not self._all.is_gone(run):
                self._client.set_tag(run, PARENT, self._parent)
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
            self._all.refuse_deleted()
            if not self._forget(str(record.id)):
                raise
        return self._write(record, folder)

    def _forget(self, trial: str) -> bool:
        """Forget the runs of a trial and of the study if they were deleted; True if one was."""
        run, parent_is_gone = self._runs.get(trial), self._all.is_gone(self._parent)
        if parent_is_gone:
            self._find_parent()
        if run is None or not self._all.is_gone(run):
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
                PARENT: self._parent,
            } | ({"start": record.start} if record.start else {})
            run = self._runs[trial] = str(self._all.create(self._name(record), tags).info.run_id)
            self._nested_in[trial] = self._parent
            self._go_on()
        if record.state is State.RUNNING and self._ended.pop(trial, None) is not None:
            # The trial was stopped early, and is continued.
            self._client.update_run(run, status="RUNNING", name=self._name(record))
            self._client.set_tag(run, "state", State.RUNNING)
        if trial not in self._written:
            self._all.log_params(run, record.settings)
            self._written[trial] = 0
        faults.passing("tracking")
        metrics = [
            point
            for epoch in record.epochs[self._written[trial] :]
            for point in metric_points(epoch)
        ]
        self._all.log_metrics(run, metrics)
        self._written[trial] = len(record.epochs)
        if record.state is State.RUNNING:
            self._go_on()
        else:
            self._finish(run, record, folder)
        return run

    def _go_on(self) -> None:
        """Set the study's run to RUNNING, also where the study had ended and was extended."""
        if self._parent_status != "RUNNING":
            self._client.update_run(self._parent, status="RUNNING")
            self._parent_status = "RUNNING"

    def shown(self, record: TrialRecord) -> str | None:
        """The id of a trial's run, if it was whole before this view was opened; else None."""
        trial = str(record.id)
        ended = record.state is not State.RUNNING and self._ended.get(trial) == (
            _STATUS[record.state],
            record.state.value,
        )
        return self._runs[trial] if ended else None

    def _name(self, record: TrialRecord) -> str:
        if self._phase == "confirm":
            fold = f", fold {record.settings['data.fold']}" if record.settings["data.folds"] else ""
            return f"confirm {record.name}, seed {record.settings['seed']}{fold}"
        ended_early = " (stopped early)" if record.state is State.PRUNED else ""
        if record.name:
            seed = record.settings.get("seed")
            return f"{record.name}{'' if seed is None else f', seed {seed}'}{ended_early}"
        settings = ", ".join(
            f"{name.rpartition('.')[2]} {as_setting(value)}"
            for name, value in record.searched.items()
        )
        if len(settings) > _LONGEST_NAME:
            settings = f"{settings[: _LONGEST_NAME - 1]}…"
        return f"trial {record.id}{ended_early}{f': {settings}' if settings else ''}"

    def close(self, ended: bool) -> None:
        """Set the study's run to FINISHED if the study has ended; else it stays RUNNING."""
        if ended and self._all.is_gone(self._parent):
            self._find_parent()
        if ended and self._parent_status != "FINISHED":
            self._client.set_terminated(self._parent, "FINISHED")
            self._parent_status = "FINISHED"

    def _finish(self, run: str, record: TrialRecord, folder: Path) -> None:
        """Write the tags, best score and artifacts of a trial that has ended, and end its run."""
        tags = {
            "state": record.state.value,
            "reason": shown(record.reason),
            "attempts": str(record.attempts),
        }
        if record.continued_after is not None:
            tags["continued_after"] = str(record.continued_after)
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
        if record.state is State.PRUNED:
            self._client.update_run(run, name=self._name(record))
        for file in (folder / "config.json", folder / "epochs.csv", matches, overlay_path(folder)):
            if file.exists():
                self._client.log_artifact(run, str(file))
        self._client.set_terminated(run, _STATUS[record.state])


def link_of_study(destination: Destination, study: TrackedStudy) -> str:
    """The address of a study's runs in a browser, without secrets."""
    return mlflow_view.address_of_runs(destination.uri, StudyRuns(destination, study).experiment)


def show_report(destination: Destination, study: TrackedStudy, folder: Path) -> str:
    """Show a report as artifacts of the study's run; returns the address of its page.

    The address becomes the run's tag `report`; the run's description says what lies there.

    folder   folder of the report, with index.html and the files beside it

    Raises CopiedFolderError where the results folder was copied or moved with its database.
    """
    runs = StudyRuns(destination, study)
    _refuse_files_elsewhere(destination, runs)
    parent = runs.parent_or_new()
    runs.client.log_artifacts(parent.info.run_id, str(folder), "report")
    address = without_password(f"{parent.info.artifact_uri}/report/index.html")
    runs.client.set_tag(parent.info.run_id, "report", address)
    runs.client.set_tag(parent.info.run_id, MLFLOW_RUN_NOTE, _NOTE)
    return address


def _refuse_files_elsewhere(destination: Destination, runs: StudyRuns) -> None:
    """Refuse a database of the results folder whose experiment keeps its files outside of it.

    MLflow stores where artifacts lie as an absolute path. In a copy of the folder this is a place
    in the original, whose report would be overwritten. Raises CopiedFolderError.
    """
    file = database.file_of(destination.uri)
    results = destination.artifacts.resolve().parent
    if file is None or file.resolve().parent != results:
        return
    stored = urlsplit(runs.client.get_experiment(runs.experiment).artifact_location)
    if stored.scheme not in ("", "file"):
        return
    artifacts = Path(url2pathname(stored.path)).resolve()
    if not artifacts.is_relative_to(results):
        raise CopiedFolderError(database.place_of(destination.uri), str(artifacts))


def metric_points(epoch: Mapping[str, Any]) -> list[Metric]:
    """An epoch's numbers as metric points, at the time the epoch reached the ledger."""
    at, step = int(epoch["at"]), int(epoch["epoch"])
    values: dict[str, Any] = {name: epoch.get(name) for name in MEASURED}
    values |= {f"loss/{name}": value for name, value in epoch.get("losses", {}).items()}
    values |= {f"coco/{name}": value for name, value in epoch.get("coco", {}).items()}
    for number, limits in enumerate(epoch.get("limits", ()), start=1):
        values |= _limits_of_class(f"limits/class {number}", limits)
    return [
        Metric(name, float(value), at, step) for name, value in values.items() if value is not None
    ]


def _limits_of_class(name: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    """The limits of a class's AP50 (`core.metric.limits`) as metrics, counts as shares in 0..1."""
    values: dict[str, Any] = {}
    for of in ("instances", "detections"):
        total = sum(limits[of].values())
        if total:
            values |= {f"{name}/{of}/{kind}": n / total for kind, n in limits[of].items()}
    return values | {f"{name}/mended/{kind}": value for kind, value in limits["mended"].items()}
