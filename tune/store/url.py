"""Trials' files at a URL of an object store, reached by pyarrow's file systems.

    URL/STUDY/identity.json        names the study that the files belong to
    URL/STUDY/trials/7/...         the files of a trial of the search; confirm/7/... of the others

An object appears when its last byte has been sent, so a file is whole or not there.
"""

import contextlib
import errno
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs, urlsplit

from core.errors import BadRequest, StorageError, StudyError
from core.files import parse_json
from core.text import first_line
from tune.redaction import without_password
from tune.store.carried import CarriedShelf
from tune.store.names import (
    PIECE_BYTES,
    checked_key,
    checked_name,
    checked_size,
    is_checkpoint,
    is_name,
)

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs")
"""Schemes of the URLs that can be a store."""
PAUSES = (1.0, 4.0, 15.0, 40.0)
"""Seconds before each further try of an operation that failed."""
GS_SECONDS = 20
"""Seconds for which Google's library tries one operation again, where the URL does not name others
(`retry_limit_seconds`). By itself it tries for a quarter of an hour, without a message."""
IDENTITY = "identity.json"
_OF_THIS_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Error numbers (errno) that an object store never has."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class UrlStore:
    """The files of a study's trials at a URL.

    url      `s3://BUCKET/FOLDER` or `gs://BUCKET/FOLDER`; may have the parameters of pyarrow's
             file systems, such as `?endpoint_override=HOST:PORT&scheme=http`
    study    name of the study
    pauses   seconds before each further try of an operation that failed

    Operations raise StorageError if the URL does not answer, or refuses.
    """

    url: str
    study: str
    pauses: tuple[float, ...] = PAUSES

    @functools.cached_property
    def _place(self) -> tuple["FileSystem", str]:
        """The file system, and the path of the study's folder in it."""
        from pyarrow import fs

        system, path = fs.FileSystem.from_uri(_bounded(self.url))
        return system, f"{path.rstrip('/')}/{self.study}"

    def claim(self, identity: str) -> None:
        """Note that the folder is that of a study; raises StudyError if it is another's.

        identity   a text that no two studies share
        """
        found = self.read(IDENTITY)
        if found is None:
            self.put(IDENTITY, json.dumps({"identity": identity}).encode())
            return
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if parse_json(found)["identity"] == identity:
                return
        raise StudyError(
            f"--store: another study that is called {self.study} has its files at"
            f" {without_password(self.url)}; name another URL, or give this search another --study"
            " name"
        )

    def read(self, name: str) -> bytes | None:
        """The beginning of a file that belongs to the whole study; None if there is none."""

        def get() -> bytes | None:
            system, base = self._place
            try:
                with system.open_input_stream(f"{base}/{name}") as stream:
                    return bytes(stream.read(10_000))
            except FileNotFoundError:
                return None

        return self._tried(get)

    def put(self, name: str, content: bytes) -> None:
        """Write a small file that belongs to the whole study."""

        def write() -> None:
            system, base = self._place
            with system.open_output_stream(f"{base}/{name}") as stream:
                stream.write(content)

        self._tried(write)

    def files(self, key: str) -> Mapping[str, tuple[int, int]]:
        """A trial's files by their names, each with its size in bytes and time in nanoseconds.

        Files of people, under names that no trial writes, are left out.
        """

        def find() -> dict[str, tuple[int, int]]:
            from pyarrow import fs

            system, base = self._place
            root = f"{base}/{checked_key(key)}"
            there = system.get_file_info(
                fs.FileSelector(root, allow_not_found=True, recursive=True)
            )
            return {
                name: (checked_size(one.path, one.size), one.mtime_ns or 0)
                for one in there
                if one.type == fs.FileType.File
                and is_name(name := one.path.removeprefix(root).lstrip("/"))
            }

        return self._tried(find)

    def fetch(self, key: str, name: str, path: Path) -> None:
        """Copy a file to a path on this machine. Raises OSError if that disk refuses it."""

        def get() -> None:
            system, base = self._place
            with (
                system.open_input_stream(f"{base}/{checked_key(key)}/{checked_name(name)}") as come,
                path.open("wb") as stream,
            ):
                while piece := come.read(PIECE_BYTES):
                    stream.write(piece)

        try:
            self._tried(get)
        except OSError as error:
            error.filename = str(path)
            raise

    def write(self, key: str, name: str, path: Path) -> None:
        """Copy a file from a path on this machine, whole or not at all."""

        def send() -> None:
            from pyarrow import fs

            system, base = self._place
            there = f"{base}/{checked_key(key)}/{checked_name(name)}"
            fs.copy_files(
                str(path.absolute()), there,
                source_filesystem=fs.LocalFileSystem(), destination_filesystem=system,
                chunk_size=PIECE_BYTES, use_threads=False,
            )  # fmt: skip

        checked_size(name, path.stat().st_size)
        self._tried(send)

    def remove(self, key: str, names: Iterable[str]) -> None:
        """Remove files of a trial; nothing happens where there are none."""

        def delete() -> None:
            system, base = self._place
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    system.delete_file(f"{base}/{checked_key(key)}/{checked_name(name)}")

        self._tried(delete)

    def forget(self, name: str) -> None:
        """Remove a small file that belongs to the whole study."""

        def delete() -> None:
            system, base = self._place
            with contextlib.suppress(FileNotFoundError):
                system.delete_file(f"{base}/{name}")

        self._tried(delete)

    def _tried(self, operation: Callable[[], Result]) -> Result:
        """The result of an operation, which is tried again after the pauses if it fails.

        Raises OSError at once where it is this machine's disk that refuses.
        """
        for pause in (*self.pauses, None):
            try:
                return operation()
            except (OSError, ValueError) as error:  # ValueError: pyarrow's ArrowInvalid
                if isinstance(error, OSError) and error.errno in _OF_THIS_DISK:
                    raise
                if pause is None:
                    raise StorageError(
                        f"{without_password(self.url)} cannot be used"
                        f" ({without_password(first_line(error))}); see that every node reaches it"
                        " and has the right to write there, then run the same command again"
                    ) from None
                time.sleep(pause)
        raise AssertionError


def _bounded(url: str) -> str:
    """A URL whose operations end in some seconds where nobody answers."""
    parts = urlsplit(url)
    if parts.scheme != "gs" or "retry_limit_seconds" in parse_qs(parts.query):
        return url
    query = f"{parts.query}&" if parts.query else ""
    return parts._replace(query=f"{query}retry_limit_seconds={GS_SECONDS}").geturl()


def checked_store(url: str) -> str:
    """A URL that can be a store. Raises BadRequest for others."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise BadRequest(
            "--store must be s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, and is"
            f" {without_password(url)}; a folder that all nodes share is named by --results"
        )
    return url


class UrlShelf:
    """The files of one trial at a URL, as a worker reaches them (a `Shelf`).

    The keeper on the driver's machine is asked before each write whether the attempt may write
    still: an object store has no locks.
    """

    def __init__(self, store: UrlStore, key: str, notes: CarriedShelf) -> None:
        self._store, self._key, self._notes = store, key, notes

    def sizes(self) -> Mapping[str, int]:
        """The trial's files by their names, each with its size in bytes."""
        return {name: size for name, (size, _) in self._store.files(self._key).items()}

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a path on this node."""
        self._store.fetch(self._key, name, path)

    def write(self, name: str, path: Path) -> None:
        """Copy a file from a path on this node."""
        self._notes.check()
        self._store.write(self._key, name, path)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._notes.check()
        self._store.remove(self._key, [name])

    def epoch_begins(self) -> None:
        """Note it on the driver's machine."""
        self._notes.epoch_begins()

    def epoch_ended(self) -> None:
        """Note it on the driver's machine."""
        self._notes.epoch_ended()


class Collection:
    """The driver's copies, in the study's folder, of what the trials' workers write to a URL."""

    def __init__(self, store: UrlStore) -> None:
        self._store = store
        self._have: dict[tuple[str, str], tuple[int, int]] = {}

    def collect(self, folder: Path, key: str, wanted: Callable[[str], bool]) -> None:
        """Copy a trial's files that are new, each whole or not at all.

        folder   the trial's folder on this machine
        wanted   whether a file, by its name, is wanted here

        A checkpoint comes last. Raises StorageError and OSError.
        """
        found = self._store.files(key)
        for name in sorted(found, key=lambda name: (is_checkpoint(name), name)):
            path = folder / name
            if not wanted(name) or (self._have.get((key, name)) == found[name] and path.exists()):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with _arriving(path) as part:
                self._store.fetch(key, name, part)
            self._have[key, name] = found[name]

    def remove(self, key: str, lost: Callable[[str], bool]) -> None:
        """Remove files of a trial at the URL; `lost` says by name which. Raises StorageError."""
        names = [name for name in self._store.files(key) if lost(name)]
        if names:
            self._store.remove(key, names)


@contextlib.contextmanager
def _arriving(path: Path) -> Iterator[Path]:
    """A path beside `path`, whose file takes its place at the end of the block."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
