"""Temporary folders, for sockets above all: short, our own, and removed even where their owner could not do it.

A folder's owner holds a lock on a file in it for as long as it lives, which the kernel lets go when it dies. So whoever
makes a folder next removes those whose lock nobody holds: also where process ids mean nothing, as between containers.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from core.errors import ResourceError

PREFIX = "ct-"
LOCK = ".owner"
LONGEST_BASE = 107 - len("/ct-12345678/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
"""Bytes of the path of a folder in which temporary folders may lie: a socket's path may have 107 (unix(7))."""
_FALLBACK = Path("/tmp")


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder for the time of the block. Raises ResourceError where there is no place for one."""
    base = _base()
    _remove_what_the_dead_left(base)
    try:
        # Under another name until its lock is held, or one that looks for what is left would take it for that.
        made = Path(tempfile.mkdtemp(prefix="new-ct-", dir=base))
        lock = filelock.FileLock(made / LOCK, timeout=0)
        lock.acquire()
        path = made.rename(base / f"{PREFIX}{made.name[-8:]}")
    except OSError as error:
        raise ResourceError(
            f"TMPDIR must be a folder that can be written, and {base} cannot ({error.strerror}); set TMPDIR to another"
        ) from None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _base() -> Path:
    """Where temporary folders lie: where TMPDIR says, or in /tmp where its path is too long for sockets."""
    wanted = Path(tempfile.gettempdir()).absolute()
    if len(os.fsencode(wanted)) <= LONGEST_BASE:
        return wanted
    if os.access(_FALLBACK, os.W_OK | os.X_OK):
        return _FALLBACK
    raise ResourceError(
        f"TMPDIR must have at most {LONGEST_BASE} bytes, since the paths of sockets in it may have 107, and {wanted} "
        f"has {len(os.fsencode(wanted))}; set TMPDIR to a shorter path, as {_FALLBACK} cannot be written"
    )


def _remove_what_the_dead_left(base: Path) -> None:
    """Remove this user's folders here whose owners live no more."""
    for path in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, filelock.Timeout):
            if path.is_symlink() or path.stat().st_uid != os.geteuid() or not (path / LOCK).is_file():
                continue
            with filelock.FileLock(path / LOCK, timeout=0):
                shutil.rmtree(path, ignore_errors=True)
