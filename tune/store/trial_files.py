"""The files of one attempt of a trial, as its worker has them: in place, or as a copy."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import filelock

from tune.store.names import PIECE_BYTES, checked_name, checked_size, goes_along, names_in

EPOCH_FILE = ".epoch"
"""Name of a file in a trial's folder that exists while an epoch runs. It holds the number of the
attempt, and its time of modification is the beginning of the epoch."""
LOCK_FILE = ".lock"
"""Name of the file in a trial's folder whose lock is held by the attempt that may write there."""
LOCK_SECONDS = 120
"""Seconds that a new attempt waits for the worker of an earlier attempt to leave the trial's
folder."""


class TrialFiles(Protocol):
    """The files of one attempt of a trial, in its worker.

    folder   a folder on the worker's disk, to which the trial saves
    """

    @property
    def folder(self) -> Path:
        """The folder to which the trial saves."""

    def epoch_begins(self) -> None:
        """Note that an epoch begins, so that its time can be counted if the worker dies in it."""

    def epoch_ended(self) -> None:
        """Note that no epoch runs any more."""

    def hand_over(self) -> None:
        """Bring what was written since the last call to where the driver reads it.

        It is there when this returns, so that the ledger holds no epoch whose files are missing.
        """


class Here:
    """A trial's folder on this disk or on a shared one: what is written is there already."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder, self._attempt = folder, attempt

    def epoch_begins(self) -> None:
        """Leave EPOCH_FILE in the folder."""
        begin_epoch(self.folder, self._attempt)

    def epoch_ended(self) -> None:
        """Remove EPOCH_FILE."""
        end_epoch(self.folder)

    def hand_over(self) -> None:
        """Do nothing: the driver reads the same folder."""


@contextlib.contextmanager
def opened_here(folder: Path, attempt: int) -> Iterator[Here]:
    """The files of an attempt in a folder that the driver reads too, locked for the block.

    Half-written files of a process that died are removed. Raises filelock.Timeout if the worker of
    another attempt stays in the folder, and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / LOCK_FILE, timeout=LOCK_SECONDS):
        remove_parts(folder)
        yield Here(folder, attempt)


class Shelf(Protocol):
    """The files of one trial where the driver reads them, as a worker elsewhere reaches them.

    Every operation raises StorageError if the place takes no more or cannot be reached, and
    ProcessLost if a later attempt of the trial has begun, so that a worker which was given up and
    lives on changes nothing.
    """

    def sizes(self) -> Mapping[str, int]:
        """The trial's files by their names, each with its size in bytes."""

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a path on this machine."""

    def write(self, name: str, path: Path) -> None:
        """Copy a file from a path on this machine, whole or not at all."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""

    def epoch_begins(self) -> None:
        """Note that an epoch begins."""

    def epoch_ended(self) -> None:
        """Note that no epoch runs any more."""


class Copied:
    """A trial's files in a folder of this node alone, copied from a shelf and back to it."""

    def __init__(self, folder: Path, shelf: Shelf) -> None:
        """Copy to `folder`, which is empty, what the trial needs in order to go on.

        Raises StorageError, ProcessLost and OSError.
        """
        self.folder, self._shelf = folder, shelf
        self._there: dict[str, tuple[int, int] | None] = {}
        for name, size in shelf.sizes().items():
            self._there[name] = None
            if goes_along(checked_name(name)):
                checked_size(name, size)
                shelf.fetch(name, folder / name)
                self._there[name] = _mark(folder / name)

    def epoch_begins(self) -> None:
        """Note it at the shelf."""
        self._shelf.epoch_begins()

    def epoch_ended(self) -> None:
        """Note it at the shelf."""
        self._shelf.epoch_ended()

    def hand_over(self) -> None:
        """Write to the shelf the files that changed, in the order in which they were written.

        Then the files that the trial removed are removed there. So whenever this process dies, the
        checkpoint on the shelf names files that are there.
        """
        names = names_in(self.folder)
        for name in names:
            path = self.folder / name
            mark = _mark(path)
            if self._there.get(name) != mark:
                checked_size(name, path.stat().st_size)
                self._shelf.write(name, path)
                self._there[name] = mark
        for name in [name for name in self._there if goes_along(name) and name not in names]:
            self._shelf.remove(name)
            del self._there[name]


def _mark(path: Path) -> tuple[int, int]:
    """The inode and time of modification of a file, which change when another file replaces it."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def pieces_of(path: Path, size: int = PIECE_BYTES) -> Iterator[bytes]:
    """The content of a file in pieces of at most `size` bytes; one empty piece if it is empty."""
    with path.open("rb") as stream:
        piece = stream.read(size)
        yield piece
        while piece := stream.read(size):
            yield piece


def remove_parts(folder: Path) -> None:
    """Remove the half-written files that a killed process left in a trial's folder."""
    for part in [*folder.glob(".*.part"), *folder.glob("matches/.*.part")]:
        part.unlink(missing_ok=True)


def begin_epoch(folder: Path, attempt: int) -> None:
    """Leave EPOCH_FILE in a trial's folder."""
    (folder / EPOCH_FILE).write_text(str(attempt))


def end_epoch(folder: Path) -> None:
    """Remove EPOCH_FILE from a trial's folder."""
    (folder / EPOCH_FILE).unlink(missing_ok=True)


def seconds_of_lost_epoch(folder: Path, attempt: int) -> float:
    """Seconds since the beginning of the epoch in which the process of an attempt died.

    0 if it died outside of an epoch.
    """
    epoch_file = folder / EPOCH_FILE
    try:
        if int(epoch_file.read_text()) != attempt:
            return 0.0
        return max(0.0, time.time() - epoch_file.stat().st_mtime)
    except (OSError, ValueError):
        return 0.0
