"""MLflow: one experiment a study, one parent run, one nested run a trial. A view of the ledger, written from a thread.

What is written follows from the ledger's records alone, and writing it again changes nothing: runs are found by their
tags, and a metric's point is the same down to its time. So a view that missed something is mended by showing it the
records again, and a search never waits for MLflow.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from tune.ledger import State, TrialRecord
from tune.redaction import without_password

RETRY_SECONDS = 5.0
"""Pause after MLflow did not answer."""

_PARAMS_A_CALL = 100
_METRICS_A_CALL = 1000
_STATUS = {State.RUNNING: "RUNNING", State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.FAIL: "FAILED"}
_MEASURED = (
    "ap50", "ap50_uncapped", "ap50_box", "learning_rate", "seconds", "train_seconds", "evaluate_seconds",
    "images_per_second", "peak_memory_bytes", "detections",
)  # fmt: skip

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """Where a study is shown.

    uri         MLflow's tracking URI
    artifacts   folder for artifacts, used where `uri` is a local database; a server has its own place
    """

    uri: str
    artifacts: Path

    @classmethod
    def default(cls, results: Path) -> "Destination":
        """A database and a folder of artifacts under `results`."""
        return cls(f"sqlite:///{results / 'mlflow.db'}", results / "mlartifacts")

    @property
    def how_to_open(self) -> str:
        """What to do to see it in a browser: a command for a database, the address of a server."""
        if urlsplit(self.uri).scheme in ("http", "https"):
            return f"open {without_password(self.uri)}"
        program = Path(sys.executable).with_name("mlflow")
        shown = os.path.relpath(program) if program.is_relative_to(Path.cwd()) else program
        return f"{shown} ui --backend-store-uri {without_password(self.uri)}"


class Tracker:
    """Writes records as MLflow runs.

    study    name of the experiment and of the parent run
    ledger   the ledger's identity: a study that was thrown away and searched anew has other runs in the same experiment
    tags     tags of the parent run: what the study is
    """

    def __init__(self, destination: Destination, study: str, ledger: str, tags: Mapping[str, str]) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._client = mlflow.MlflowClient(tracking_uri=destination.uri)
        self._experiment = self._find_experiment(study, destination)
        self._ledger = ledger
        self._runs = {
            run.data.tags["trial"]: run.info.run_id for run in self._search("tags.phase = 'search'") if run.data.tags
        }
        self._written: dict[str, int] = {}
        parents = self._search("tags.phase = 'study'")
        self._parent = parents[0].info.run_id if parents else self._create(study, {"phase": "study"})
        for name, value in tags.items():
            self._client.set_tag(self._parent, name, value)

    def write(self, record: TrialRecord, folder: Path) -> str:
        """Bring a trial's run to the state of its record; returns the run's id.

        `folder` is the trial's: its configuration and the match table of its best epoch become artifacts at its end.
        """
        trial = str(record.id)
        run = self._runs.get(trial)
        if run is None:
            run = self._runs[trial] = self._create(
                record.name or f"trial {trial}",
                {"trial": trial, "phase": "search", "state": State.RUNNING, "mlflow.parentRunId": self._parent},
            )
        if trial not in self._written:
            params = [Param(name, str(value)) for name, value in record.settings.items()]
            for start in range(0, len(params), _PARAMS_A_CALL):
                self._client.log_batch(run, params=params[start : start + _PARAMS_A_CALL])
            self._written[trial] = 0
        metrics = [point for epoch in record.epochs[self._written[trial] :] for point in _points(epoch)]
        for start in range(0, len(metrics), _METRICS_A_CALL):
            self._client.log_batch(run, metrics=metrics[start : start + _METRICS_A_CALL])
        self._written[trial] = len(record.epochs)
        if record.state is not State.RUNNING:
            self._finish(run, record, folder)
        return run

    def close(self, ended: bool) -> None:
        """Say that the study has ended, or is interrupted and can go on."""
        if ended:
            self._client.set_terminated(self._parent, "FINISHED")

    def _finish(self, run: str, record: TrialRecord, folder: Path) -> None:
        tags = {"state": record.state.value, "reason": record.reason, "attempts": str(record.attempts)}
        metrics = []
        if record.best_epoch is not None:
            at = int(record.epochs[-1]["at"])
            metrics = [
                Metric("best_ap50", float(record.ap50 or 0.0), at, record.best_epoch),
                Metric("best_epoch", record.best_epoch, at, record.best_epoch),
            ]
        self._client.log_batch(run, metrics=metrics, tags=[RunTag(name, value) for name, value in tags.items()])
        matches = folder / "matches" / f"epoch-{record.best_epoch or 0:04d}.npz"
        for file in (folder / "config.json", folder / "epochs.csv", matches):
            if file.exists():
                self._client.log_artifact(run, str(file))
        self._client.set_terminated(run, _STATUS[record.state])

    def _find_experiment(self, study: str, destination: Destination) -> str:
        found = self._client.get_experiment_by_name(study)
        if found is not None:
            return str(found.experiment_id)
        local = urlsplit(destination.uri).scheme.startswith(("sqlite", "file"))
        return str(self._client.create_experiment(study, (destination.artifacts / study).as_uri() if local else None))

    def _search(self, where: str) -> list[Run]:
        found: list[Run] = []
        token = None
        where = f"{where} and tags.ledger = '{self._ledger}'"
        while True:
            page = self._client.search_runs([self._experiment], where, ViewType.ACTIVE_ONLY, 1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        tags = {**tags, "ledger": self._ledger}
        return str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)


class TrackingThread:
    """Shows records to MLflow as they come, and holds what it could not show until MLflow is back.

    open_tracker   makes the tracker, in the thread; called again until it succeeds
    folder_of      a trial's folder by its number
    """

    def __init__(self, open_tracker: Callable[[], Tracker], folder_of: Callable[[int], Path]) -> None:
        self._open_tracker, self._folder_of = open_tracker, folder_of
        self._runs: dict[int, str] = {}
        self._changed = threading.Condition()
        self._pending: dict[int, TrialRecord] = {}
        self._closing = False
        self._stopped = threading.Event()
        self._tracker: Tracker | None = None
        self.trouble: str | None = None
        """What MLflow last answered while something is unwritten, else None."""
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
        """Write what is left, waiting at most `seconds`; returns the trials that MLflow still does not show in full."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        self._stopped.set()
        with self._changed:
            unwritten = sorted(self._pending)
        if self._tracker is not None and not unwritten and not self._thread.is_alive():
            try:
                self._tracker.close(ended)
            except (MlflowException, OSError) as error:
                self.trouble = _first_line(error)
        return unwritten

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending and self._tracker is not None:
                    return
                batch = list(self._pending.values())
            self.trouble = self._try_to_open() or self._try_to_write(batch)
            if self.trouble:
                self._stopped.wait(RETRY_SECONDS)

    def _try_to_open(self) -> str | None:
        """Open the tracker if it is not; returns what went wrong."""
        try:
            self._tracker = self._tracker or self._open_tracker()
        except Exception as error:  # noqa: BLE001  # whatever MLflow's stores raise: the search goes on
            return self._note(error)
        return None

    def _try_to_write(self, batch: Sequence[TrialRecord]) -> str | None:
        """Write records; one that MLflow does not take holds up no other. Returns what went wrong last."""
        assert self._tracker is not None
        trouble = None
        for record in batch:
            try:
                run = self._tracker.write(record, self._folder_of(record.id))
            except Exception as error:  # noqa: BLE001
                trouble = self._note(error)
                continue
            with self._changed:
                self._runs[record.id] = run
                if self._pending.get(record.id) is record:
                    del self._pending[record.id]
        return trouble

    def _note(self, error: Exception) -> str:
        _logger.debug("MLflow did not take a record", exc_info=error)
        return _first_line(error)


def _points(epoch: Mapping[str, Any]) -> list[Metric]:
    """An epoch's numbers as metric points, at the time the epoch reached the ledger."""
    at, step = int(epoch["at"]), int(epoch["epoch"])
    values: dict[str, Any] = {name: epoch.get(name) for name in _MEASURED}
    values |= {f"loss/{name}": value for name, value in epoch.get("losses", {}).items()}
    return [Metric(name, float(value), at, step) for name, value in values.items() if value is not None]


def _first_line(error: BaseException) -> str:
    return without_password((str(error).strip() or type(error).__name__).splitlines()[0][:300])
