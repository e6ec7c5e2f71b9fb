"""A worker: a Ray process that runs attempts of trials, one epoch in each step."""

import contextlib
import errno
import gc
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import filelock
import torch
from ray import tune as ray_tune

from core import faults
from core.device import is_out_of_memory
from core.errors import (
    CheckpointError,
    ProcessLost,
    StorageError,
    TornCheckpoint,
    TrialDiverged,
)
from core.files import encoded, reason_of, write_atomically, write_json_atomically
from core.text import first_line
from tune.engine.farewell import Farewell
from tune.engine.messages import (
    Assignment,
    Failure,
    GpuFailed,
    History,
    Then,
    assignment_in,
    to_result,
)
from tune.store.trial_files import TrialFiles, opened_here

LAST_SECONDS = 20
"""Seconds after which the kernel kills a process whose GPU has failed, if it still lives."""
STORAGE_ERRORS = {
    errno.EACCES,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
}
"""Error numbers (errno) of a disk that is full, read-only, forbidden, broken or away."""


class RunnableTrial(Protocol):
    """A trial that a worker can run: `core.training.trial.Trial`, or a replayed learning curve."""

    @property
    def reports(self) -> list[Any]:
        """The EpochReport of each epoch so far, in their order."""

    def run_epoch(self, progress: Callable[[float], object] = float) -> Any:
        """Train and evaluate one epoch, and return its EpochReport.

        progress   called with the fraction of the epoch that is done; then, if more work follows
                   the last epoch, with 1 at each step of it, since it may take longer than an epoch
        """

    def save(self, folder: Path) -> None:
        """Write a checkpoint into `folder`, atomically."""

    def load(self, folder: Path) -> bool:
        """Continue from the checkpoint in `folder`; False if there is none.

        Raises CheckpointError if it belongs to other settings, data or base weights, and
        TornCheckpoint if it is damaged.
        """

    def discard(self, folder: Path) -> None:
        """Move a damaged checkpoint aside, so that `load` finds none."""


MakeTrial = Callable[[Assignment], RunnableTrial]
"""A function that builds the trial of an attempt, called in the worker's process.

It goes into Ray's object store once for all workers; the arrays that it holds are read-only there.
"""

OpenFiles = Callable[[Assignment], AbstractContextManager[TrialFiles]]
"""A function that opens the files of an attempt in its worker, for as long as the worker has it."""


def files_here(assignment: Assignment) -> AbstractContextManager[TrialFiles]:
    """The files of an attempt in the folder that the assignment names. Raises filelock.Timeout."""
    return opened_here(Path(assignment.folder), assignment.attempt)


class TrialWorker(ray_tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """Ray's Trainable: runs attempts, one epoch in each step.

    A step's result is a message: History, or Failure if the trial raised an exception. Only an
    error of the GPU (GpuFailed) and the end of this process (ToldToEnd) are raised, because this
    process can run nothing more: Ray ends it, and later attempts run in another.
    """

    def setup(
        self,
        config: dict[str, Any],  # noqa: ARG002  # each step reads the assignment anew
        make_trial: MakeTrial,
        stall_seconds: float,
        grace: float,
        open_files: OpenFiles = files_here,
    ) -> None:
        """Store the arguments. Work begins in the first step: Ray may swap the trial before it.

        make_trial      builds the trial of an attempt
        stall_seconds   seconds that one epoch may take; 0 for no limit
        grace           seconds that a running epoch has to end after a SIGTERM to this process
        open_files      opens the files of an attempt
        """
        self._farewell = Farewell(grace)
        self._make_trial, self._stall_seconds = make_trial, stall_seconds
        self._open_files = open_files
        self._trial: RunnableTrial | None = None
        self._history: list[dict[str, Any]] = []
        self._epoch_began: float | None = None
        self._frozen = False
        self._opened = contextlib.ExitStack()
        self._files: TrialFiles | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:  # noqa: ARG002
        """Leave the last trial and free its GPU memory; True tells Ray to reuse this worker."""
        self._leave()
        return True

    def cleanup(self) -> None:
        """Leave the last trial."""
        self._leave()

    def step(self) -> dict[str, Any]:
        """Run one epoch and save it, or report a checkpoint that is ahead of the ledger.

        Returns the message as Ray's result. Raises GpuFailed and ToldToEnd.
        """
        assignment = assignment_in(self.config)
        self._epoch_began = None
        try:
            with self._farewell.awaited():
                message = self._message(assignment)
        except GpuFailed:
            # NVIDIA's service serves nobody until all processes that saw the error have ended, and
            # a library may hang while such a process exits.
            signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)
            raise
        signal.setitimer(signal.ITIMER_REAL, 0)
        return to_result(message)

    def _message(self, assignment: Assignment) -> History | Failure:
        """The message of one step. Raises GpuFailed."""
        try:
            return self._advance(assignment)
        except GpuFailed:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a trial raises is data for the ledger
            return self._failure(error, assignment)

    def _advance(self, assignment: Assignment) -> History:
        """Run and save one epoch, or find a checkpoint that is ahead of the ledger.

        The files are where the driver reads them before this returns. Raises whatever the trial
        raises.
        """
        self._set_alarm()
        if self._trial is None or self._files is None:
            self._trial, self._files = self._open(assignment)
            if len(self._trial.reports) > assignment.known_epochs:
                return self._history_of(self._trial, self._files)
            self._set_alarm()  # opening the trial had its own time
        self._files.epoch_begins()
        self._epoch_began = time.monotonic()
        self._trial.run_epoch(self._heard)
        self._trial.save(self._files.folder)
        self._files.epoch_ended()
        faults.passing("saved")
        return self._history_of(self._trial, self._files)

    def _set_alarm(self) -> None:
        """Have the kernel kill this process after `stall_seconds` from now; 0 sets no alarm.

        The kernel's alarm works even while native code holds the GIL. A process that was told to
        end has another alarm.
        """
        if not self._farewell.told:
            signal.setitimer(signal.ITIMER_REAL, self._stall_seconds)

    def _heard(self, done: float) -> None:
        """Take in a trial's progress, the fraction of the epoch that is done."""
        if done >= 1:
            self._set_alarm()  # each step after the last epoch has the time of an epoch

    def _failure(self, error: Exception, assignment: Assignment) -> Failure:
        seconds = 0.0 if self._epoch_began is None else time.monotonic() - self._epoch_began
        folder = Path(assignment.folder) if self._files is None else self._files.folder
        try:
            reason, then = _reason_and_step(error, folder, Path(assignment.folder))
        finally:  # GpuFailed too leaves `error.txt`
            if self._files is not None:
                # This error is reported, and not that the files' place may refuse them too.
                with contextlib.suppress(OSError, StorageError, ProcessLost):
                    self._files.epoch_ended()
                    self._files.hand_over()
        return Failure(reason, then, seconds)

    def _open(self, assignment: Assignment) -> tuple[RunnableTrial, TrialFiles]:
        """Open a trial's files, build the trial, and load its checkpoint if there is one."""
        if not self._frozen:
            # Imported modules are never freed. Searching their half a million objects for garbage
            # at the end of each trial took most of the time between two trials.
            gc.freeze()
            self._frozen = True
        files = self._opened.enter_context(self._open_files(assignment))
        self._files = files  # so that what follows can leave `error.txt` in the folder
        write_json_atomically(files.folder / "config.json", dict(assignment.settings))
        trial = self._make_trial(assignment)
        try:
            trial.load(files.folder)
        except TornCheckpoint:
            trial.discard(files.folder)
            raise
        return trial, files

    def _history_of(self, trial: RunnableTrial, files: TrialFiles) -> History:
        """The message with all epochs of the trial, which are also written to epochs.csv."""
        self._history += [report.to_json() for report in trial.reports[len(self._history) :]]
        _write_epochs(files.folder, self._history)
        files.hand_over()
        faults.passing("handed over")
        return History(self._history)

    def _leave(self) -> None:
        """Drop the present trial, free its GPU memory and release its folder."""
        self._trial, self._history = None, []
        gc.collect()
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # the GPU may have failed
                torch.cuda.empty_cache()
        self._files = None
        with contextlib.suppress(OSError, StorageError, ProcessLost):
            self._opened.close()


def _reason_and_step(error: Exception, folder: Path, at_the_driver: Path) -> tuple[str, Then]:
    """The reason of a failed attempt, one line, and the step that follows.

    folder          the folder to which the trial saves
    at_the_driver   the trial's folder on the driver's machine; a file elsewhere is named with its
                    machine

    An error of no known kind leaves its traceback in `error.txt` in the trial's folder. Raises
    GpuFailed if this process can no longer use its GPU.
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
    if isinstance(error, StorageError):
        return line, Then.HALT
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        file = Path(str(error.filename or folder))
        where = "" if file.is_relative_to(at_the_driver) else f" on {socket.gethostname()}"
        return f"{file}{where} cannot be written: {reason_of(error)}", Then.HALT
    with contextlib.suppress(OSError):
        write_atomically(folder / "error.txt", encoded("".join(traceback.format_exception(error))))
    if isinstance(error, torch.AcceleratorError) or not _gpu_answers():
        raise GpuFailed(line) from None
    return f"{type(error).__name__}: {line}", Then.FAIL


def _write_epochs(folder: Path, epochs: list[dict[str, Any]]) -> None:
    """Write `epochs.csv`, a table for people and spreadsheets with a row for each epoch.

    Losses are flattened into columns; `ap50_pulls`, which are for programs, are left out.
    """
    rows = [
        _flat({name: value for name, value in epoch.items() if name != "ap50_pulls"})
        for epoch in epochs
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names)] + [",".join(str(row.get(name, "")) for name in names) for row in rows]
    write_atomically(folder / "epochs.csv", encoded("\n".join(lines) + "\n"))


def _flat(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without nesting: `losses/loss`; places in a list count from 1."""
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
    """Whether this process can still use its GPU; True if it uses none."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
