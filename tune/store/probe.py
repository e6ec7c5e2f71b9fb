"""Whether two machines see the same folder: each writes, and the other reads."""

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

PLACE_FILE = ".place"
"""Name of the file in a study's folder by which a node recognises it. It holds a random text, made
anew each time the study runs."""

_SEEN = ".seen-"
"""The beginning of the names of the files that nodes leave there for a moment."""


def leave_mark(folder: Path) -> str:
    """Write PLACE_FILE in the study's folder, and return its text. Raises OSError.

    What nodes that died in a probe left there is removed.
    """
    text = secrets.token_hex(16)
    for left in folder.glob(f"{_SEEN}*"):
        left.unlink(missing_ok=True)
    (folder / PLACE_FILE).write_text(text)
    return text


def forget_mark(folder: Path) -> None:
    """Remove PLACE_FILE."""
    with contextlib.suppress(OSError):
        (folder / PLACE_FILE).unlink(missing_ok=True)


def sees_folder(folder: Path, text: str, read_there: Callable[[str], bytes | None]) -> bool:
    """Whether this machine sees the driver's folder, and the driver sees what is written here.

    folder       the study's folder, by its path on the driver's machine
    text         the text of the driver's PLACE_FILE
    read_there   reads a hidden file of the folder on the driver's machine; None if it is not there

    A copy of the folder, as a disk's image has it, and a folder that only reads do not count.
    """
    path = folder / f"{_SEEN}{secrets.token_hex(8)}"
    try:
        if (folder / PLACE_FILE).read_text() != text:
            return False
        path.write_text(path.name)
        return read_there(path.name) == path.name.encode()
    except (OSError, UnicodeDecodeError):
        return False
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
