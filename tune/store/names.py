"""The names that a trial's files may have in a store, and their largest sizes."""

import re
from pathlib import Path

from core.errors import StorageError
from core.text import shown

PIECE_BYTES = 8 * 2**20
"""Largest number of bytes that are carried at once."""
LARGEST_FILE = 16 * 2**30
"""Largest size of one file, in bytes: several times the checkpoint of the largest detector."""
MOST_FILES_OF_A_TRIAL = 20_000
"""Largest number of files of one trial: a match table for each of many epochs, and a few others."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}")
_KEY = re.compile(r"(?:trials|confirm)/(?:0|[1-9][0-9]{0,8})")


def is_name(name: str) -> bool:
    """Whether a trial's file may have this name, which `checked_name` then does not refuse."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """A file's name in its trial's folder, such as `matches/epoch-0001.npz`.

    Raises StorageError for a name that leaves the folder, is hidden, or has characters that not
    every place of files takes.
    """
    if not is_name(name):
        raise StorageError(
            "the name of a trial's file must be a relative path of letters, digits, dots, dashes"
            f" and underscores, no part of which begins with a dot, and is {shown(name)}"
        )
    return name


def checked_key(key: str) -> str:
    """A trial's place in its study, `trials/7` or `confirm/7`. Raises StorageError for others."""
    if not _KEY.fullmatch(key):
        raise StorageError(
            f"a trial's place must be trials/NUMBER or confirm/NUMBER, and is {shown(key)}"
        )
    return key


def checked_size(name: str, size: int) -> int:
    """A file's size in bytes. Raises StorageError for one that is larger than LARGEST_FILE."""
    if not 0 <= size <= LARGEST_FILE:
        raise StorageError(
            f"a trial's file must have at most {LARGEST_FILE} bytes, and {shown(name)} has {size}"
        )
    return size


def key_of(folder: Path) -> str:
    """A trial's place in its study, given the trial's folder."""
    return checked_key(f"{folder.parent.name}/{folder.name}")


def names_in(folder: Path, others: bool = True) -> list[str]:
    """Names of the finished files in a trial's folder, in the order in which they were written.

    others   whether a file whose name `checked_name` refuses is an error, and not left out: people
             may put such files into the driver's folder, and no trial writes one

    Hidden files, which are locks and half-written files, are left out. A checkpoint `last.*` comes
    last, because it names the others.

    Raises StorageError for more than MOST_FILES_OF_A_TRIAL, and for a name that is an error.
    """
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(".") or not path.is_file() or path.is_symlink():
            continue
        if others or is_name(name):
            found.append((is_checkpoint(name), path.stat().st_mtime_ns, checked_name(name)))
    if len(found) > MOST_FILES_OF_A_TRIAL:
        raise StorageError(
            f"{folder} must hold at most {MOST_FILES_OF_A_TRIAL} files, and holds {len(found)}"
        )
    return [name for _, _, name in sorted(found)]


def is_checkpoint(name: str) -> bool:
    """Whether a file is the one from which a trial goes on, which names the others."""
    return name.startswith("last.")


def goes_along(name: str) -> bool:
    """Whether a trial needs a file in order to go on elsewhere.

    Files in folders, which are match tables, are written once and not read by the trial again.
    """
    return "/" not in name
