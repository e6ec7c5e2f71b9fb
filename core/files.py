"""Files and folders written whole or not at all, and ways out where the system refuses one."""

import contextlib
import ctypes
import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import filelock

from core import faults
from core.text import first_line


def encoded(text: str) -> bytes:
    """A text in UTF-8. What UTF-8 lacks is escaped, such as the bytes of a file's name that are no
    text, which Python holds as halves of characters.
    """
    return text.encode(errors="backslashreplace")


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to the disk, then rename it over `path`.

    A reader sees the old file or the new one; a process that dies in between leaves the old one.
    Raises OSError, which names `path`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        faults.passing(f"writing {path.name}")
        part.replace(path)
    except OSError as error:
        error.filename = str(path)  # the name that the user knows
        raise
    finally:
        part.unlink(missing_ok=True)


class GrowingFile:
    """A text file that grows under a hidden name, and takes its own when it is finished.

    A reader sees the old file or the whole new one. What was added since `keep` was called last is
    cut off at the end. Nothing is buffered in this process, so a disk that is full refuses a text
    when it is added, and what was kept before can still be finished.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened before the first text."""
        self.path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._stream: FileIO | None = None
        self._kept = 0

    @property
    def begun(self) -> bool:
        """Whether a text was kept."""
        return self._kept > 0

    def add(self, text: str) -> None:
        """Add a text; characters that UTF-8 lacks are escaped. Raises OSError, which names it."""
        with self._named():
            if self._stream is None:
                self._stream = self._part.open("wb", buffering=0)
            _write_all(self._stream, text)

    def keep(self) -> None:
        """Keep what was added. Raises OSError."""
        with self._named():
            if self._stream is not None:
                self._kept = self._stream.tell()

    def finish(self, tail: str) -> None:
        """Cut off what was not kept, add a last text, and give the file its name.

        Raises OSError.
        """
        try:
            with self._named():
                stream = self._stream or self._part.open("wb", buffering=0)
                with stream:
                    stream.truncate(self._kept)
                    stream.seek(self._kept)
                    _write_all(stream, tail)
                    os.fsync(stream.fileno())
                faults.passing(f"writing {self.path.name}")
                self._part.replace(self.path)
        finally:
            self.drop()

    def drop(self) -> None:
        """Remove what was written; a finished file stays."""
        if self._stream is not None:
            with contextlib.suppress(OSError):  # a full disk refuses what was not flushed
                self._stream.close()
            self._stream = None
        self._part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self.path)  # the name that the user knows
            raise


def _write_all(stream: FileIO, text: str) -> None:
    """Write a text to a file without a buffer."""
    rest = memoryview(encoded(text))
    while rest:
        rest = rest[stream.write(rest) :]


def write_json_atomically(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, as `write_atomically` does.

    Raises ValueError for nan and infinity, which JSON does not have.
    """
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, raising: type[Exception], order: str = "") -> Any:
    """Read a JSON file.

    raising   what to raise, with one sentence that begins with the path, for a file that cannot be
              read, is not JSON, or has a key twice, of which one value would be lost
    order     what the user can do, an imperative that is added to that sentence
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        trouble = f"cannot be read: {reason_of(error)}"
    except ValueError as error:
        trouble = f"is not JSON ({error})"
    raise raising(f"{path}: the file {trouble}{'; ' if order else ''}{order}")


def parse_json(text: str | bytes) -> Any:
    """The content of JSON, such as that of a file, a header or an attribute.

    Raises ValueError where it is not JSON, is nested too deeply to be read, or has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its keys and values; raises ValueError for a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object must hold a key once, and one holds {twice!r:.80} twice")
    return found


def write_once(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file, whole or not at all and with `mode` from the beginning, unless one exists.

    A file without content does not count as one. If several processes write at once, one succeeds,
    and all find the content that it wrote. Raises OSError.
    """
    if path.exists():
        if path.stat().st_size:
            return
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists() and not path.stat().st_size:
                # A process of an earlier version was killed before it wrote.
                path.unlink()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        faults.passing(f"writing {path.name}")
        try:
            os.link(part, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            part.rename(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` at the end of the block.

    If something is raised, the new folder is removed instead. A process that dies in between leaves
    the old folder, perhaps under another name: see `recover`. Raises OSError.
    """
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists() and not _exchange(part, folder):
        faults.passing(f"{folder.name} is written")
        folder.rename(old)
    faults.passing(f"{folder.name} is away")
    if not folder.exists():
        part.rename(folder)
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, so that both always exist; False if the system cannot."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    try:
        exchanged: int = ctypes.CDLL(None).renameat2(
            here, os.fsencode(one), here, os.fsencode(other), exchange
        )
    except AttributeError:  # a C library before 2018
        return False
    return exchanged == 0


def recover(folder: Path) -> None:
    """Bring back the old folder of a process that died before `replaced` had moved the new one."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that a loss of power does not undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_WAYS_OUT = {
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space in this user's quota",
    errno.EROFS: "its file system takes no writes: see to the disk, or use another folder",
    errno.EIO: "see to the disk",
    errno.EFBIG: "raise the largest size of a file that this process may write (ulimit -f)",
    errno.EACCES: "give this user the right to use it",
    errno.EPERM: "give this user the right to use it",
    errno.ENOENT: "bring it back",
    errno.ENOTDIR: "one of the folders in its path is a file: name another place",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EMFILE: "let this process open more files (ulimit -n)",
    errno.ENFILE: "let this machine open more files",
    errno.ESTALE: "see that its file system is mounted",
    errno.ENOTCONN: "see that its file system is mounted",
    errno.ENODEV: "see that its file system is mounted",
    errno.ETIMEDOUT: "see that its file system is mounted",
}


def way_out(error: OSError) -> str:
    """The user's way out of an error of the system, in the imperative; empty if none is known."""
    return _WAYS_OUT.get(error.errno or 0, "")


def refused(error: OSError, what: object = "a file", again: bool = False) -> str:
    """An error of the operating system in one sentence: file, the system's words, way out.

    what    words for the file if the system does not name it
    again   whether the same command, run again, goes on from what was saved
    """
    file = f"{error.filename or what} cannot be used ({reason_of(error)})"
    order = way_out(error) or "see to it"
    then = ", then run the same command again; what was saved is whole" if again else ""
    return f"{file}: {order}{then}"


def reason_of(error: Exception) -> str:
    """The system's own words for its error, without the name of the file.

    Of any other error it is the first line of the message.
    """
    return (isinstance(error, OSError) and error.strerror) or first_line(error)
