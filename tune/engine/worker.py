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
from core.errors import CheckpointError, ProcessLost, TornCheckpoint, TrialDiverged
from core.files import write_atomically, write_json_atomically
from core.text import first_line
from tune.engine.messages import GPU_FAILED, Assignment, Then, WorkerUnusable

RUNNING = ".epoch"
"""A file in a trial's folder that exists while an epoch runs: it holds the attempt, and is as old
as the epoch."""
LOCK_SECONDS = 120
"""Seconds that a new attempt waits for the worker of an earlier attempt to leave the trial's
folder."""


class RunnableTrial(Protocol):
    """A trial that a worker can run: the real one of `core.training.trial`, or a replayed curve."""

    @property
    def reports(self) -> list[Any]:
        """The EpochReport of each epoch so far, the first epoch's first."""

    def run_epoch(self) -> Any:
        """Train and evaluate one epoch."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint into `folder`, atomically."""

    def load(self, folder: Path) -> bool:
        """Continue from the checkpoint in `folder`; False if there is none.

        Raises CheckpointError.
        """

    def discard(self, folder: Path) -> None:
        """Set a torn checkpoint aside."""


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

MakeTrial = Callable[..., RunnableTrial]
"""Builds the trial of an attempt in the worker's process: `make_trial(assignment, cpus, **shared)`.

`shared` arrives from Ray's object store; its arrays are read-only.
"""


class TrialWorker(ray_tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """Runs attempts, one epoch in each step.

    A failure inside a trial is a result, not an exception.

    A result holds either `epochs`, the whole history of the trial as JSON objects, or `failure`, a
    sentence, with `then`, the step that follows (see `Then`), and `seconds`, the wall time inside
    the epoch that failed. The one exception is an error of the GPU: this process can no longer use
    it, so the worker raises WorkerUnusable, Ray ends the process, and later attempts run in
    another.
    """

    def setup(  # Ray ships the configuration; the assignment is read in the step
        self,
        config: dict[str, Any],  # noqa: ARG002
        make_trial: Any,
        cpus: int,
        stall_seconds: float,
        shared: dict[str, Any],
    ) -> None:
        """Store the arguments only: Ray may hand a started worker another trial.

        Work begins in the first step.
        """
        self._make_trial, self._cpus, self._shared = make_trial, cpus, shared
        self._stall_seconds = stall_seconds
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
        """Run one epoch, save it and report it; a checkpoint that is ahead of the ledger is
        reported at once.
        """
        assignment = Assignment(**self.config["assignment"])
        folder = Path(assignment.folder)
        # The kernel ends this process when the time is up, whatever holds Python then; 0 sets no
        # alarm.
        signal.setitimer(signal.ITIMER_REAL, self._stall_seconds)
        self._epoch_began = None
        try:
            if self._trial is None:
                self._trial = self._open(assignment, folder)
                if len(self._trial.reports) > assignment.known_epochs:
                    return self._result(folder)
            running = folder / RUNNING
            running.write_text(str(assignment.attempt))
            signal.setitimer(
                signal.ITIMER_REAL, self._stall_seconds
            )  # opening the trial had its own time
            self._epoch_began = time.monotonic()
            self._trial.run_epoch()
            self._trial.save(folder)
            running.unlink()
            faults.passing("saved")
            return self._result(folder)
        except TrialDiverged as error:
            return self._failure(f"diverged: {error}", Then.FAIL)
        except (MemoryError, torch.OutOfMemoryError) as error:
            return self._failure(f"out of memory: {first_line(error)}", Then.RETRY_WITH_MORE_MEMORY)
        except (ProcessLost, TornCheckpoint, filelock.Timeout) as error:
            return self._failure(first_line(error), Then.RETRY)
        except CheckpointError as error:
            return self._failure(first_line(error), Then.FAIL)
        except WorkerUnusable:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a trial raises is data for the ledger
            if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
                return self._failure(
                    f"{error.filename or folder} cannot be written: {error.strerror}", Then.HALT
                )
            if isinstance(error, torch.AcceleratorError) and "out of memory" in str(
                error
            ):  # not from torch's allocator
                return self._failure(
                    f"out of memory: {first_line(error)}", Then.RETRY_WITH_MORE_MEMORY
                )
            with contextlib.suppress(OSError):
                write_atomically(folder / "error.txt", traceback.format_exc().encode())
            if isinstance(error, torch.AcceleratorError) or not _gpu_answers():
                raise WorkerUnusable(f"{GPU_FAILED}: {first_line(error)}") from None
            return self._failure(f"{type(error).__name__}: {first_line(error)}", Then.FAIL)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _failure(self, sentence: str, then: Then) -> dict[str, Any]:
        began = self._epoch_began
        seconds = 0.0 if began is None else time.monotonic() - began
        with contextlib.suppress(OSError):
            (Path(self.config["assignment"]["folder"]) / RUNNING).unlink(missing_ok=True)
        return {"failure": sentence, "then": then.value, "seconds": seconds}

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
        trial: RunnableTrial = self._make_trial(assignment, self._cpus, **self._shared)
        try:
            trial.load(folder)
        except TornCheckpoint:
            trial.discard(folder)
            raise
        return trial

    def _result(self, folder: Path) -> dict[str, Any]:
        """The result with the trial's whole history, which is also written as a table."""
        assert self._trial is not None
        self._history += [report.to_json() for report in self._trial.reports[len(self._history) :]]
        _write_epochs(folder, self._history)
        return {"epochs": self._history}

    def _leave(self) -> None:
        self._trial, self._history = None, []
        gc.collect()
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # the GPU may have failed
                torch.cuda.empty_cache()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def seconds_of_lost_epoch(folder: Path, attempt: int) -> float:
    """Seconds since the beginning of the epoch that an attempt was in when its process died; 0
    if it was in none.
    """
    running = folder / RUNNING
    try:
        if int(running.read_text()) != attempt:
            return 0.0
        return max(0.0, time.time() - running.stat().st_mtime)
    except (OSError, ValueError):
        return 0.0


def _write_epochs(folder: Path, epochs: list[dict[str, Any]]) -> None:
    """Write the trial's epochs as a table for people and spreadsheets: one row for each epoch,
    losses flattened.
    """
    rows = [_flat(epoch) for epoch in epochs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names)] + [",".join(str(row.get(name, "")) for name in names) for row in rows]
    write_atomically(folder / "epochs.csv", ("\n".join(lines) + "\n").encode())


def _flat(report: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{key}": inner for key, inner in value.items()}
        elif isinstance(value, list | tuple):
            flat |= {f"{name}/{place}": inner for place, inner in enumerate(value, start=1)}
        else:
            flat[name] = value
    return {name: "" if value is None else value for name, value in flat.items()}


def _gpu_answers() -> bool:
    """Whether this process can still use its GPU; True where it has none."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
