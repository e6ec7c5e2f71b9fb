"""Databases: sqlite files made whole or not at all; what a database's errors mean, and retries.

The ledger and MLflow's view are in databases that other libraries make in many steps. A process
that is killed in the middle leaves half of the tables, and MLflow never opens such a file again; so
a sqlite file is made in another place and renamed. An error of a database, called a refusal here,
means that the same operation may succeed later, or not, and that the user can do something. This is
read from SQLAlchemy's exception classes, sqlite's result codes and SQLSTATE, whichever library
raised the error.
"""

import contextlib
import errno
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import filelock
import sqlalchemy

from core import faults
from core.files import reason_of, sync_folder, way_out
from core.interrupts import interrupted
from tune.redaction import without_password

RETRY_SECONDS = 150.0
"""Seconds for which an operation is repeated that a database refuses for a passing reason: longer
than a server is away that restarts or fails over within two minutes, and short enough that the
process still counts as alive (see `tune.ledger.claim`)."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
"""Seconds of pause after the first refusal, and the longest pause; each is twice the one before."""

_NAP_SECONDS = 0.2
"""Seconds after which a pause looks whether the process was asked to end."""

QUIET_SECONDS = 10.0
"""Seconds without a change of a database's file, after which we assume that nobody makes its
tables."""

_MAKING_SECONDS = 300.0
"""Longest wait in seconds for another process that makes the same database."""

_SIDE_FILES = ("-journal", "-wal", "-shm")
"""Suffixes of the files that sqlite keeps beside a database; they would damage another database of
the same name."""

_T = TypeVar("_T")


def file_of(url: str) -> Path | None:
    """The file of a sqlite URL; None for a database in memory, another URL, and any other text."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None
    in_a_file = (
        parsed.database
        and parsed.database != ":memory:"
        and not parsed.database.startswith("file:")
    )
    return (
        Path(parsed.database or "")
        if parsed.drivername.startswith("sqlite") and in_a_file
        else None
    )


def place_of(url: str) -> str:
    """The name of a database in messages: its file, or its URL without secrets."""
    file = file_of(url)
    return str(file) if file else without_password(url)


def make_whole(
    path: Path, make: Callable[[str], None], half_made: Callable[[Path], bool] = lambda _: False
) -> None:
    """Make the sqlite database `path` in a folder beside it, and rename it when it is whole.

    make        makes the database at a URL, and leaves no connection open
    half_made   tells whether an existing database was never finished; such a database is kept under
                another name (see `set_aside`)

    A database that exists and is whole stays as it is. Of several processes one makes it and the
    others wait. Folders that a killed process left are removed. Raises OSError, for a connection
    left open sqlite3.OperationalError, and whatever `make` raises.
    """

    def is_there() -> bool:
        return path.exists() and not half_made(path)

    if is_there() and not _parts(path):
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    with filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=_MAKING_SECONDS):
        # This process has the lock, so the processes that began these have ended.
        for part in _parts(path):
            shutil.rmtree(part, ignore_errors=True)
        if not is_there():
            # Another program, or an earlier version, may be making it in its place, without a lock.
            _wait_until_quiet(path)
        if is_there():
            return
        set_aside(path)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            make(f"sqlite:///{folder / path.name}")
            faults.passing(f"{path.name} is made")
            _put(folder / path.name, path)
            faults.passing(f"{path.name} is there")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _parts(path: Path) -> list[Path]:
    """The folders in which processes make a database, or began to and were killed."""
    return [
        one
        for one in path.parent.glob(".*.part")
        if one.name.startswith(f".{path.name}.") and one.is_dir()
    ]


def _put(made: Path, path: Path) -> None:
    """Rename a finished database, which no process has open, to `path`, unless another program
    has made a database there meanwhile.
    """
    if any(made.with_name(made.name + end).exists() for end in _SIDE_FILES):
        raise sqlite3.OperationalError(f"{made} is still in use")
    with made.open("rb") as stream:
        os.fsync(stream.fileno())
    try:
        os.link(made, path)  # unlike a rename, a link never replaces a file
    except FileExistsError:
        return
    except OSError:  # a file system without links
        made.rename(path)
    sync_folder(path.parent)


def set_aside(path: Path) -> Path:
    """Rename a database, and sqlite's files beside it, to the first free name such as
    `mlflow.db.half-made`.
    """
    number, aside = 1, path.with_name(f"{path.name}.half-made")
    while any(aside.with_name(aside.name + end).exists() for end in ("", *_SIDE_FILES)):
        number += 1
        aside = path.with_name(f"{path.name}.half-made-{number}")
    for end in ("", *_SIDE_FILES):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    return aside


def _wait_until_quiet(path: Path) -> None:
    """Wait until nobody has written a database for QUIET_SECONDS, or until it is gone."""
    with contextlib.suppress(FileNotFoundError):
        while 0 <= (age := time.time() - path.stat().st_mtime) < QUIET_SECONDS:
            time.sleep(min(1.0, QUIET_SECONDS - age))


@dataclass(frozen=True)
class Refusal:
    """The meaning of a database's error.

    reason      the database's own words, one line without secrets
    way_out     what the user can do, as an order that names the database
    transient   whether the same operation may succeed later
    whole       whether the content of the database can be trusted
    """

    reason: str
    way_out: str
    transient: bool = False
    whole: bool = True


@dataclass(frozen=True)
class _RefusalKind:
    """A kind of refusal, and how it is recognised.

    way_out   as in `Refusal`; `{place}` stands for the database
    codes     sqlite's primary result codes
    states    SQLSTATEs, or their first characters
    words     a regular expression, case ignored, for drivers that give only a message
    """

    way_out: str
    codes: tuple[int, ...] = ()
    states: tuple[str, ...] = ()
    words: str = ""
    transient: bool = False
    whole: bool = True


_REFUSAL_KINDS = (
    _RefusalKind(
        "find out which process holds {place}, and end it",
        (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
        ("40", "55P03"),
        r"database (table )?is locked|deadlock|lock wait timeout",
        transient=True,
    ),
    _RefusalKind(
        "free space on the disk of {place}",
        (sqlite3.SQLITE_FULL,),
        ("53100",),
        r"no space left|(database or )?disk is full|quota exceeded",
    ),
    _RefusalKind(
        "make {place} and its folder writable for this user",
        (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
        ("25006", "42501"),
        r"read[- ]?only|permission denied",
    ),
    _RefusalKind(
        "restore {place} from a backup",
        (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT),
        ("XX001", "XX002"),
        r"malformed|is not a database|could not decode",
        whole=False,
    ),
    _RefusalKind(
        "restore {place} from a backup, or name another database: a table is missing there",
        (),
        ("42P01", "42703"),
        r"no such (table|column)|has no column named|doesn't exist",
        whole=False,
    ),
    _RefusalKind(
        "check that the folder of {place} exists and belongs to this user",
        (sqlite3.SQLITE_CANTOPEN,),
    ),
    _RefusalKind(
        "give the right user and password of {place}",
        (),
        ("28",),
        r"(password|ident|peer) authentication failed|access denied for user|no pg_hba\.conf entry|"
        r"role .* does not exist|login failed",
    ),
    _RefusalKind(
        "create the database of {place} on its server, or name another",
        (),
        ("3D",),
        r"database .* does not exist|unknown database",
    ),
    _RefusalKind(
        "give {place} a host that exists",
        (),
        (),
        r"(could not translate host name|name or service not known|unknown (mysql )?server host|"
        r"nodename nor servname|no address associated)(?!.*temporary failure)",
    ),
    _RefusalKind(
        "check that the disk of {place} works", (sqlite3.SQLITE_IOERR,), ("58",), transient=True
    ),
)
"""The kinds of refusals; the first that fits holds."""
_AWAY = _RefusalKind("check that {place} answers", (), ("08", "53", "57P"), transient=True)
_OTHER = _RefusalKind("see to {place}")
_LOST = (
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.DisconnectionError,
    sqlalchemy.exc.TimeoutError,
)


class RefusedForNowError(Exception):
    """Raised for a passing refusal in place of the error, which a library would handle itself."""

    def __init__(self, cause: sqlalchemy.exc.SQLAlchemyError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def hand_over(engine: sqlalchemy.engine.Engine, url: str) -> None:
    """Make an engine raise passing refusals as RefusedForNowError, which no library handles.

    Otherwise Optuna itself would repeat the creation of a trial, up to five times. If only the
    database's answer was lost, the first trial is stored, and there would be two.

    url   URL of the database, which only messages use
    """

    def replace(context: sqlalchemy.engine.ExceptionContext) -> BaseException | None:
        if context.is_pre_ping:  # the pool itself replaces a connection that was lost while idle
            return None
        error = context.sqlalchemy_exception
        return (
            RefusedForNowError(error)
            if error is not None and refusal_of(error, url).transient
            else None
        )

    sqlalchemy.event.listen(engine, "handle_error", replace)


def cause_of(error: BaseException) -> sqlalchemy.exc.SQLAlchemyError | None:
    """SQLAlchemy's error: this one, or the one behind it; None if no database raised it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, sqlalchemy.exc.SQLAlchemyError):
        found = found.cause if isinstance(found, RefusedForNowError) else found.__cause__
    return found


def refusal_of(error: sqlalchemy.exc.SQLAlchemyError, url: str) -> Refusal:
    """The meaning of an error of the database at `url`."""
    said = getattr(error, "orig", None) or error
    words = str(said).strip() or type(said).__name__
    kind = _kind_of_refusal(error, words)
    reason, order = (
        without_password(words.splitlines()[0][:300]),
        kind.way_out.format(place=place_of(url)),
    )
    file = file_of(url)
    if (
        _code(said) == sqlite3.SQLITE_IOERR
        and file is not None
        and (refused := _refused_by_disk(file)) is not None
    ):
        # sqlite gives this code for a full disk, and for a file that may not grow, as well: ask the
        # system.
        return Refusal(f"{reason}: {reason_of(refused)}", way_out(refused) or order)
    return Refusal(reason, order, kind.transient, kind.whole)


def _kind_of_refusal(error: sqlalchemy.exc.SQLAlchemyError, words: str) -> _RefusalKind:
    """The first kind that fits an error by its code, its SQLSTATE or its words."""
    said = getattr(error, "orig", None)
    code, state = (
        _code(said),
        str(getattr(said, "sqlstate", None) or getattr(said, "pgcode", None) or ""),
    )
    for kind in (*_REFUSAL_KINDS, _AWAY):
        by_state = bool(state) and state.startswith(kind.states)
        if (
            (code is not None and code in kind.codes)
            or by_state
            or (kind.words and re.search(kind.words, words, re.IGNORECASE | re.DOTALL))
        ):
            return kind
    lost = isinstance(error, _LOST) or getattr(error, "connection_invalidated", False)
    # A driver raises an OperationalError without a code if it cannot connect.
    unanswered = isinstance(error, sqlalchemy.exc.OperationalError) and code is None and not state
    return _AWAY if lost or unanswered else _OTHER


def _code(said: object) -> int | None:
    """The primary result code of sqlite; None for an error of another driver."""
    code = getattr(said, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def _refused_by_disk(path: Path) -> OSError | None:
    """The system's error on writing 1 MiB more beside a file; None if that can be written."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(2**20))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error
    return None


class Patience:
    """Repeats an operation that the database at `url` refuses for a passing reason.

    seconds   seconds for which an operation is repeated; None for RETRY_SECONDS

    After it has waited in vain, it tries each operation once, until one succeeds: a study whose
    ledger stays away ends after one wait, not after one for each of its last writes. In a process
    that was asked to end (see `core.interrupts`) it does not wait either.
    """

    def __init__(self, url: str, seconds: float | None = None) -> None:
        self.url, self._seconds, self._in_vain = url, seconds, False

    def lose(self) -> None:
        """Stop waiting: every operation is tried once, until one succeeds."""
        self._in_vain = True

    def __call__(self, operation: Callable[[], _T]) -> _T:
        """Return the result of `operation`; raise the last refusal when the time is up, and any
        other error at once.
        """
        seconds = RETRY_SECONDS if self._seconds is None else self._seconds
        until = time.monotonic() + (0.0 if self._in_vain else seconds)
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                result = operation()
            except Exception as error:
                cause = cause_of(error)
                left = until - time.monotonic()
                if cause is None or not refusal_of(cause, self.url).transient:
                    raise
                if left <= 0 or interrupted():
                    self._in_vain = True
                    raise
            else:
                self._in_vain = False
                return result
            _sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _sleep(seconds: float) -> None:
    """Sleep, but end when the process is asked to end; `time.sleep` would go on."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not interrupted():
        time.sleep(min(left, _NAP_SECONDS))
