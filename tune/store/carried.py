"""Files that are carried, piece by piece, to and from the keeper on the driver's machine."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock

from core.errors import StorageError
from tune.store.trial_files import LOCK_FILE, LOCK_SECONDS, pieces_of

TIMES_SENT = 3
"""Largest number of times that one file is sent, if the keeper loses what has come of it."""


class CarriedShelf:
    """A trial's files on the driver's machine, reached through the keeper (a `Shelf`)."""

    def __init__(self, ask: Callable[..., Any], key: str, attempt: int) -> None:
        """Reach the files of one attempt.

        ask   calls an operation of the keeper: its name, then its arguments; returns the answer and
              raises what the keeper raised
        """
        self._ask_keeper, self._key, self._attempt = ask, key, attempt

    def enter(self, folder: Path, direct: bool = False) -> None:
        """Begin the attempt, as soon as the worker of an earlier one has left the trial's folder.

        Raises filelock.Timeout, with the path of the folder's lock, if it does not leave.
        """
        until = time.monotonic() + LOCK_SECONDS
        while not self._ask("enter", direct):
            if time.monotonic() >= until:
                raise filelock.Timeout(str(folder / LOCK_FILE))
            time.sleep(1.0)

    def leave(self) -> None:
        """End the attempt."""
        self._ask("leave")

    def check(self) -> None:
        """Raise ProcessLost if a later attempt of the trial has begun."""
        self._ask("check")

    def sizes(self) -> Mapping[str, int]:
        """The trial's files by their names, each with its size in bytes."""
        found: Mapping[str, int] = self._ask("sizes")
        return found

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file from the driver's disk to a path of this node.

        Raises OSError, which names the file whose disk refuses.
        """
        offset = 0
        try:
            with path.open("wb") as stream:
                while piece := self._ask("read", name, offset):
                    stream.write(piece)
                    offset += len(piece)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise

    def write(self, name: str, path: Path) -> None:
        """Send a file; it is on the driver's disk when this returns.

        One piece is on its way at a time, so that no file takes much of Ray's object store.
        """
        size = path.stat().st_size
        for _ in range(TIMES_SENT):
            offset = 0
            for piece in pieces_of(path):
                if not self._ask("write", name, offset, piece, size):
                    break
                offset += len(piece)
            else:
                return
        raise StorageError(
            f"{name} of {self._key} could not be carried to the driver's machine: the process that"
            " writes it there was started anew each time; see whether that machine has memory left,"
            " then run the same command again"
        )

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._ask("remove", name)

    def epoch_begins(self) -> None:
        """Note that an epoch begins."""
        self._ask("epoch_begins")

    def epoch_ended(self) -> None:
        """Note that no epoch runs any more."""
        self._ask("epoch_ended")

    def _ask(self, operation: str, *arguments: Any) -> Any:
        """The keeper's answer. Raises what the keeper raised."""
        return self._ask_keeper(operation, self._key, self._attempt, *arguments)
