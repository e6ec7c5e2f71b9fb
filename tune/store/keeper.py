"""The keeper of trials' files: it writes, in the study's folder, what workers elsewhere send.

A keeper lives on the driver's machine. Workers that do not see the study's folder send it their
files piece by piece, and it gives them the checkpoints from which they go on.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock

from core import faults
from core.errors import ProcessLost, StorageError
from core.text import shown
from tune.store import trial_files
from tune.store.names import (
    PIECE_BYTES,
    checked_key,
    checked_name,
    checked_size,
    names_in,
)


@dataclass
class _Arriving:
    """A file of which some pieces have come."""

    name: str
    size: int
    part: Path
    stream: BinaryIO
    come: int = 0


class _Attempt:
    """The attempt that may write a trial's folder, and the file that it is sending."""

    def __init__(self, number: int, lock: filelock.BaseFileLock | None) -> None:
        self.number, self.lock = number, lock
        self.arriving: _Arriving | None = None

    def leave(self) -> None:
        """Drop the file that has come only in part, and release the folder."""
        self.drop()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def drop(self) -> None:
        """Drop the file that has come only in part."""
        if self.arriving is not None:
            self.arriving.stream.close()
            self.arriving.part.unlink(missing_ok=True)
            self.arriving = None


class Keeper:
    """Writes and reads the files of a study's trials for workers that do not see its folder.

    Each trial has one attempt at a time: operations of an earlier one raise ProcessLost. So a
    worker that was given up, and lives on in a part of the network that was cut off, changes
    nothing. Operations on files raise StorageError for names that leave the trial's folder, and
    OSError, which names the file, if the disk refuses.
    """

    def __init__(self, folder: str) -> None:
        """Begin without attempts.

        folder   absolute path of the study's folder
        """
        self._folder = Path(folder)
        self._attempts: dict[str, _Attempt] = {}

    def enter(self, key: str, attempt: int, direct: bool = False) -> bool:
        """Begin an attempt; False if another process is still in the trial's folder: ask again.

        key      place of the trial in its study: `trials/7`
        direct   whether the attempt's worker sees the folder and locks it by itself
        """
        before = self._attempts.get(checked_key(key))
        if before is not None and before.number > attempt:
            raise _superseded(key, attempt, before.number)
        lock = None
        if before is not None:
            before.drop()
            lock = before.lock
        folder = self._folder / key
        if direct:
            if lock is not None:
                lock.release()
            self._attempts[key] = _Attempt(attempt, None)
            return True
        if lock is None:
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / trial_files.LOCK_FILE, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except filelock.Timeout:
                return False
        trial_files.remove_parts(folder)
        self._attempts[key] = _Attempt(attempt, lock)
        return True

    def leave(self, key: str, attempt: int) -> None:
        """End an attempt: its folder is free for the next one."""
        self._current(key, attempt).leave()

    def check(self, key: str, attempt: int) -> None:
        """Raise ProcessLost if another attempt may write now."""
        self._current(key, attempt)

    def epoch_begins(self, key: str, attempt: int) -> None:
        """Note that an epoch begins."""
        self._current(key, attempt)
        trial_files.begin_epoch(self._folder / key, attempt)

    def epoch_ended(self, key: str, attempt: int) -> None:
        """Note that no epoch runs any more."""
        self._current(key, attempt)
        trial_files.end_epoch(self._folder / key)

    def sizes(self, key: str, attempt: int) -> Mapping[str, int]:
        """The trial's files by their names, each with its size in bytes."""
        self._current(key, attempt)
        folder = self._folder / key
        return {name: (folder / name).stat().st_size for name in names_in(folder, others=False)}

    def read(self, key: str, attempt: int, name: str, offset: int) -> bytes:
        """A piece of a file, from a byte on; empty at the file's end."""
        self._current(key, attempt)
        with (self._folder / key / checked_name(name)).open("rb") as stream:
            stream.seek(offset)
            return stream.read(PIECE_BYTES)

    def write(
        self, key: str, attempt: int, name: str, offset: int, piece: bytes, size: int
    ) -> bool:
        """Take in a piece of a file. With the last one the file appears, whole.

        offset   place of the piece in the file, in bytes; 0 begins the file anew
        size     bytes of the whole file

        False if the pieces before it are not here, as after a restart of the keeper: the file must
        be sent again.
        """
        one = self._current(key, attempt)
        path = self._folder / key / checked_name(name)
        if len(piece) > PIECE_BYTES or offset + len(piece) > checked_size(name, size):
            raise StorageError(
                f"a piece of a trial's file must have at most {PIECE_BYTES} bytes and end in the"
                f" file, and one of {shown(name)} has {len(piece)} from byte {offset} of {size}"
            )
        try:
            if offset == 0:
                one.drop()
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".{path.name}.{os.getpid()}.part")
                one.arriving = _Arriving(name, size, part, part.open("wb"))
            file = one.arriving
            if file is None or (file.name, file.come, file.size) != (name, offset, size):
                one.drop()
                return False
            file.stream.write(piece)
            file.come += len(piece)
            if file.come == size:
                file.stream.flush()
                os.fsync(file.stream.fileno())
                faults.passing(f"keeping {path.name}")
                file.part.replace(path)
                file.stream.close()
                one.arriving = None
        except OSError as error:
            error.filename = str(path)  # the name that the user knows
            one.drop()
            raise
        return True

    def remove(self, key: str, attempt: int, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        self._current(key, attempt)
        (self._folder / key / checked_name(name)).unlink(missing_ok=True)

    def content(self, name: str) -> bytes | None:
        """The beginning of a hidden file in the study's folder; None if it is not there.

        A node that has written it asks whether the driver's machine sees the same folder.
        """
        if "/" in name or not name.startswith("."):
            raise StorageError(f"a probe's file must be a hidden name, and is {shown(name)}")
        try:
            with (self._folder / name).open("rb") as stream:
                return stream.read(1000)
        except OSError:
            return None

    def _current(self, key: str, attempt: int) -> _Attempt:
        """The attempt that may write now. Raises ProcessLost for another.

        A keeper that was started anew knows no attempts: it takes the first that speaks, and then
        any later one.
        """
        found = self._attempts.get(checked_key(key))
        if (found is None or found.number < attempt) and self.enter(key, attempt):
            found = self._attempts[key]
        if found is None or found.number != attempt:
            raise _superseded(key, attempt, "another" if found is None else found.number)
        return found


def _superseded(key: str, attempt: int, current: int | str) -> ProcessLost:
    return ProcessLost(
        f"attempt {attempt} of {key} may write no more: attempt {current} has the trial now"
    )
