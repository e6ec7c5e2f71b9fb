"""The files of one study, `results/STUDY/`, and the locks of its search and its retraining."""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from core.config import PredictConfig
from core.errors import StudyError
from core.files import read_json, write_json_atomically
from core.programs import program_here

STUDY_FORMAT = 1
"""Version of study.json."""

_READ_AGAIN = {
    "created": str,
    "request": dict,
    "data": dict,
    "storage": str | None,
    "tracking_uri": str | None,
}
"""The entries of study.json whose types are checked when it is read; None may be one of them."""


def checkpoint_path(trial: Path) -> Path:
    """The path of the checkpoint from which a trial goes on, in the trial's folder."""
    return trial / "last.safetensors"


def match_table_path(trial: Path, epoch: int) -> Path:
    """The path of the match table of an epoch, counted from 1, in a trial's folder."""
    return trial / "matches" / f"epoch-{epoch:04d}.npz"


def overlay_path(trial: Path) -> Path:
    """The path of the picture of a trial's best epoch, in the trial's folder."""
    return trial / "overlay.jpg"


def prediction_table_path(trial: Path, predict: PredictConfig) -> Path:
    """The path of the match table for other settings of prediction, in a trial's folder."""
    return trial / "matches" / f"predict-{predict.key}.npz"


@dataclass(frozen=True)
class StudyFolder:
    """The files of a study: `results/STUDY/`."""

    path: Path

    @property
    def description(self) -> Path:
        """The file with the request and all that is needed to repeat the study."""
        return self.path / "study.json"

    @property
    def trials_csv(self) -> Path:
        """The file with the table of the search: one row for each trial."""
        return self.path / "trials.csv"

    @property
    def confirm_csv(self) -> Path:
        """The file with the table of the confirmation: one row for each trial."""
        return self.path / "confirm.csv"

    @property
    def packing(self) -> Path:
        """The file with the measurements of trials that share a GPU."""
        return self.path / "packing.json"

    @property
    def retrain(self) -> Path:
        """The folder of retrainings' checkpoints, in which each retraining has a folder."""
        return self.path / "retrain"

    @property
    def best(self) -> Path:
        """The folder of the last retraining's model, metrics, submission and pictures."""
        return self.path / "best"

    def trial(self, number: int) -> Path:
        """The folder of one trial, written by its worker, or by a keeper for it."""
        return self.path / "trials" / str(number)

    def confirm_trial(self, number: int) -> Path:
        """The folder of one trial of the confirmation, written as those of the search are."""
        return self.path / "confirm" / str(number)

    def read_description(self) -> dict[str, Any]:
        """The content of study.json. Raises StudyError if it is missing, damaged or too new."""
        if not self.description.exists():
            raise StudyError(_NONE.format(self.path, program_here("python")))
        content = read_json(self.description, StudyError, _RESTORE)
        if not isinstance(content, dict) or content.get("format") != STUDY_FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise StudyError(
                f"{self.description} must be of format {STUDY_FORMAT}, and is of format"
                f" {found!r:.20}; use the version that wrote it, or {_RESTORE}"
            )
        for name, kinds in _READ_AGAIN.items():
            if not isinstance(content.get(name, ...), kinds):
                raise StudyError(
                    f"{self.description} is damaged: {name} is {content.get(name)!r:.80};"
                    f" {_RESTORE}"
                )
        return content

    def driver_lock(self) -> contextlib.AbstractContextManager[None]:
        """Lock the study for one search, for the time of a block.

        Raises StudyError, which names the process and host that hold the lock.
        """
        return _locked(
            self.path,
            "driver",
            "searched",
            "wait for it, stop it, or give this search another --study name",
        )

    def retrain_lock(self) -> contextlib.AbstractContextManager[None]:
        """Lock `retrain/` and `best/` for one retraining, for the time of a block.

        Raises StudyError, which names the process and host that hold the lock.
        """
        return _locked(self.retrain, "retrain", "retrained", "wait for it, or stop it")


def all_studies(results: Path) -> list[StudyFolder]:
    """All studies in a folder, the one that was searched or retrained last first.

    Raises StudyError if there is none.
    """
    found = sorted(results.glob("*/study.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise StudyError(_NONE.format(results, program_here("python")))
    return [StudyFolder(path.parent) for path in reversed(found)]


def last_study(results: Path) -> StudyFolder:
    """The study that was searched or retrained last. Raises StudyError if there is none."""
    return all_studies(results)[0]


_NONE = "{} holds no study; start one with: {} -m tune.search --space FILE"
_RESTORE = "restore it from a backup"


@contextlib.contextmanager
def _locked(folder: Path, name: str, doing: str, way_out: str) -> Iterator[None]:
    """Hold a folder's lock of this name for the time of the block.

    doing, way_out   words of the error if another process holds it: `searched`, `wait for it`

    Raises StudyError, which names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{name}.json"
    lock = filelock.FileLock(folder / f".{name}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StudyError(
            f"{folder} is being {doing} by process {_who(holder)}; {way_out}"
        ) from None
    for part in folder.glob(".*.part"):  # half-written files of a killed process
        if part.is_file():
            part.unlink()
    try:
        write_json_atomically(holder, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _who(holder: Path) -> str:
    """The process and host in a lock's file, in words."""
    try:
        who = read_json(holder, ValueError)
        return f"{who['pid']} on host {who['host']}"
    except (ValueError, LookupError, TypeError):  # not written yet, or damaged
        return "unknown on host unknown"
