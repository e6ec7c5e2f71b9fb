"""JSON files of annotations, read up to a size that memory holds."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.files import read_json

MOST_JSON = 512 * 2**20
"""Largest size of a JSON file, in bytes. Reading one takes 4 to 10 times as much memory, and up to
4 s for each 100 MB (results/LOG.md)."""
_HEAD = 2**16
"""Bytes of a file in which its kind is looked for where it is too large to be read."""


def read_annotations(path: Path) -> Any:
    """The content of a JSON file.

    Raises DataError, one sentence that begins with the path, for a file that cannot be read, is not
    JSON, has a key twice or is larger than MOST_JSON.
    """
    if is_too_large(path):
        raise DataError(
            f"{path}: a JSON file of annotations may have {MOST_JSON:,} bytes, and this one has"
            f" {path.stat().st_size:,}; export fewer images at a time, each part into a folder of"
            " its own"
        )
    return read_json(path, DataError)


def is_too_large(path: Path) -> bool:
    """Whether a file is larger than MOST_JSON; a file that is not there is not."""
    try:
        return path.stat().st_size > MOST_JSON
    except OSError:  # reading it says why
        return False


def begins_with_a_key(path: Path, keys: Iterable[str]) -> bool:
    """Whether one of the keys stands in the first bytes of a file, which is not read as JSON."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False
    return any(re.search(rb'"%s"\s*:' % re.escape(key.encode()), head) for key in keys)
