"""A worker: a process of Ray's that runs attempts, one epoch in each step."""

import contextlib
import errno
import gc
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import filelock
import torch
from ray import tune as ray_tune

from core import faults
from core.device import is_out_of_memory
from core.errors import CheckpointError, ProcessLost, TornCheckpoint, TrialDiverged
from core.files import reason, write_atomically, write_json_atomically
from core.text import first_line
from tune.engine.messages import (
    Assignment,
    Failure,
    GpuFailed,
    History,
    Then,
    assignment_in,
    to_result,
)

EPOCH_FILE = ".epoch"
"""A file in a trial's folder that exists while an epoch runs; it holds the attempt's number, and
was last changed when the epoch began."""
LOCK_SECONDS = 120
"""Seconds that a new attempt waits for the worker of an earlier attempt to leave the trial's
folder."""
LAST_SECONDS = 20
"""Seconds after which the kernel ends a process whose GPU has failed, if it still lives."""
STORAGE_ERRORS = {
    errno.EACCES,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
}
"""Error numbers of a disk that is full, read-only, broken or away."""


class RunnableTrial(Protocol):
    """A trial that a worker can run: the real one of `core.training.trial`, or a replayed curve."""

    @property
    def reports(self) -> list[Any]:
        """The EpochReport of each epoch so far, the first epoch's first."""

    def run_epoch(self, progress: Callable[[float], object] = float) -> Any:
        """Train and evaluate one epoch, and do what follows the last one.

        progress   called with the fraction of the epoch that is done; with 1 for each step of what
                   follows, which may take longer than the epoch
        """

    def save(self, folder: Path) -> None:
        """Write a checkpoint into `folder`, atomically."""

    def load(self, folder: Path) -> bool:
        """Continue from the checkpoint in `folder`; False if there is none.

        Raises CheckpointError.
        """

    def discard(self, folder: Path) -> None:
        """Set a torn checkpoint aside."""


MakeTrial = Callable[[Assignment], RunnableTrial]
"""Builds the trial of an attempt in the worker's process.

It goes into Ray's object store once for all workers; arrays that it holds are read-only there.
"""


class TrialWorker(ray_tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """Runs attempts, one epoch in each step.

    A step's result is a message: History, or Failure where the trial raised. Only an error of the
    GPU stays an exception (GpuFailed): this process can no longer use it, so Ray ends the process,
    and later attempts run in another.
    """

    def setup(
        self,
        config: dict[str, Any],  # noqa: ARG002  # each step reads the assignment anew
        make_trial: MakeTrial,
        stall_seconds: float,
    ) -> None:
        """Store the arguments only: Ray may hand a started worker another trial.

        Work begins in the first step.
        """
        self._make_trial, self._stall_seconds = make_trial, stall_seconds
        self._trial: RunnableTrial | None = None
        self._history: list[dict[str, Any]] = []
        self._epoch_began: float | None = None
        self._frozen = False
        self._lock: filelock.BaseFileLock | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:  # noqa: ARG002
        """Leave the last trial and give back its GPU memory; returns True."""
        self._leave()
        return True

    def cleanup(self) -> None:
        """Leave the last trial."""
        self._leave()

    def step(self) -> dict[str, Any]:
        """Run one epoch and save it, or find a checkpoint that is ahead of the ledger; returns the
        message as Ray's result.

        Raises GpuFailed.
        """
        assignment = assignment_in(self.config)
        self._epoch_began = None
        try:
            message = self._message(assignment, Path(assignment.folder))
        except GpuFailed:
            # NVIDIA's service serves nobody until all that an error has struck have ended, and a
            # library may hang when such a process ends by itself.
            signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)
            raise
        signal.setitimer(signal.ITIMER_REAL, 0)
        return to_result(message)

    def _message(self, assignment: Assignment, folder: Path) -> History | Failure:
        try:
            return self._advance(assignment, folder)
        except GpuFailed:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a trial raises is data for the ledger
            return self._failure(error, folder)

    def _advance(self, assignment: Assignment, folder: Path) -> History:
        self._set_alarm()
        if self._trial is None:
            self._trial = self._open(assignment, folder)
            if len(self._trial.reports) > assignment.known_epochs:
                return self._history_of(self._trial, folder)
            self._set_alarm()  # opening the trial had its own time
        epoch_file = folder / EPOCH_FILE
        epoch_file.write_text(str(assignment.attempt))
        self._epoch_began = time.monotonic()
        self._trial.run_epoch(self._heard)
        self._trial.save(folder)
        epoch_file.unlink()
        faults.passing("saved")
        return self._history_of(self._trial, folder)

    def _set_alarm(self) -> None:
        """Have the kernel end this process when the time is up, whatever holds Python then; 0
        seconds set no alarm.
        """
        signal.setitimer(signal.ITIMER_REAL, self._stall_seconds)

    def _heard(self, done: float) -> None:
        if done >= 1:
            self._set_alarm()  # what follows the last epoch has its own time for each step

    def _failure(self, error: Exception, folder: Path) -> Failure:
        seconds = 0.0 if self._epoch_began is None else time.monotonic() - self._epoch_began
        with contextlib.suppress(OSError):
            (folder / EPOCH_FILE).unlink(missing_ok=True)
        return Failure(*_reason_and_step(error, folder), seconds)

    def _open(self, assignment: Assignment, folder: Path) -> RunnableTrial:
        if not self._frozen:
            # Imported modules stay for good. Searching their half a million objects for garbage
            # whenever a trial ends took most of the time between two trials.
            gc.freeze()
            self._frozen = True
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS)
        self._lock.acquire()
        for part in folder.glob(".*.part"):  # files that a killed process had half written
            part.unlink()
        write_json_atomically(folder / "config.json", dict(assignment.settings))
        trial = self._make_trial(assignment)
        try:
            trial.load(folder)
        except TornCheckpoint:
            trial.discard(folder)
            raise
        return trial

    def _history_of(self, trial: RunnableTrial, folder: Path) -> History:
        """The trial's whole history, which is also written as a table."""
        self._history += [report.to_json() for report in trial.reports[len(self._history) :]]
        _write_epochs(folder, self._history)
        return History(self._history)

    def _leave(self) -> None:
        self._trial, self._history = None, []
        gc.collect()
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # the GPU may have failed
                torch.cuda.empty_cache()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _reason_and_step(error: Exception, folder: Path) -> tuple[str, Then]:
    """Why an attempt failed, and the step that follows.

    An error that is not known here leaves its traceback in `error.txt`. Raises GpuFailed where this
    process can no longer use its GPU.
    """
    line = first_line(error)
    if isinstance(error, TrialDiverged):
        return f"diverged: {line}", Then.FAIL
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return f"out of memory: {line}", Then.RETRY_WITH_MORE_MEMORY
    if isinstance(error, ProcessLost | TornCheckpoint | filelock.Timeout):
        return line, Then.RETRY
    if isinstance(error, CheckpointError):
        return line, Then.FAIL
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        return f"{error.filename or folder} cannot be written: {reason(error)}", Then.HALT
    with contextlib.suppress(OSError):
        write_atomically(folder / "error.txt", "".join(traceback.format_exception(error)).encode())
    if isinstance(error, torch.AcceleratorError) or not _gpu_answers():
        raise GpuFailed(line) from None
    return f"{type(error).__name__}: {line}", Then.FAIL


def seconds_of_lost_epoch(folder: Path, attempt: int) -> float:
    """Seconds since the beginning of the epoch in which the process of an attempt died; 0 where
    it died outside of one.
    """
    epoch_file = folder / EPOCH_FILE
    try:
        if int(epoch_file.read_text()) != attempt:
            return 0.0
        return max(0.0, time.time() - epoch_file.stat().st_mtime)
    except (OSError, ValueError):
        return 0.0


def _write_epochs(folder: Path, epochs: list[dict[str, Any]]) -> None:
    """Write the trial's epochs as a table for people and spreadsheets: one row for each epoch,
    losses flattened. Pulls of images, which are for programs, are left out.
    """
    rows = [
        _flat({name: value for name, value in epoch.items() if name != "ap50_pulls"})
        for epoch in epochs
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names)] + [",".join(str(row.get(name, "")) for name in names) for row in rows]
    write_atomically(folder / "epochs.csv", ("\n".join(lines) + "\n").encode())


def _flat(report: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, list | tuple):
            value = {str(place): inner for place, inner in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            flat |= {f"{name}/{key}": inner for key, inner in _flat(value).items()}
        else:
            flat[name] = "" if value is None else value
    return flat


def _gpu_answers() -> bool:
    """Whether this process can still use its GPU; True where it has none."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
