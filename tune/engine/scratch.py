"""Temporary folders with the short paths that sockets need, removed even if their owner is killed.

A folder's owner holds a lock on a file in it for as long as it lives; the kernel releases the lock
when the owner dies. The next process that makes a folder removes those whose lock is free. This
also works between containers, where process ids mean nothing.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from core.errors import ResourceError
from core.files import reason_of

PREFIX = "ct-"
"""The beginning of the folders' names."""
LOCK = ".owner"
"""The file in a folder on which its owner holds a lock."""
LONGEST_BASE = 107 - len(
    "/ct-12345678/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
)
"""Largest length, in bytes, of the path of the folder that holds the temporary folders: a socket's
path may have 107 bytes (unix(7)), and the longest that Ray makes in a temporary folder is this."""
_FALLBACK = Path("/tmp")


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder for the time of the block.

    Raises ResourceError if none can be made in TMPDIR.
    """
    base = _base()
    _remove_what_the_dead_left(base)
    try:
        # The folder has another name until its lock is held: another process would take it for one
        # whose owner is dead, and remove it.
        made = Path(tempfile.mkdtemp(prefix="new-ct-", dir=base))
        lock = filelock.FileLock(made / LOCK, timeout=0)
        lock.acquire()
        path = made.rename(base / f"{PREFIX}{made.name[-8:]}")
    except OSError as error:
        raise ResourceError(
            f"TMPDIR must be a folder that can be written, and {base} is not ({reason_of(error)});"
            " set TMPDIR to another"
        ) from None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _base() -> Path:
    """The folder that holds temporary folders: TMPDIR, or /tmp if the path of TMPDIR is too long.

    Raises ResourceError if neither can be used.
    """
    wanted = Path(tempfile.gettempdir()).absolute()
    if len(os.fsencode(wanted)) <= LONGEST_BASE:
        return wanted
    if os.access(_FALLBACK, os.W_OK | os.X_OK):
        return _FALLBACK
    raise ResourceError(
        f"TMPDIR must have at most {LONGEST_BASE} bytes, since the paths of sockets in it may have"
        f" 107, and {wanted} has {len(os.fsencode(wanted))}; set TMPDIR to a shorter path, as"
        f" {_FALLBACK} cannot be written"
    )


def _remove_what_the_dead_left(base: Path) -> None:
    """Remove this user's temporary folders in `base` whose owners are dead."""
    for path in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, filelock.Timeout):
            if (
                path.is_symlink()
                or path.stat().st_uid != os.geteuid()
                or not (path / LOCK).is_file()
            ):
                continue
            with filelock.FileLock(path / LOCK, timeout=0):
                shutil.rmtree(path, ignore_errors=True)
