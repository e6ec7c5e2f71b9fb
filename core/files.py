"""Files that are there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from core import faults


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to the disk, then rename it over `path`.

    A reader sees the old file or the new one; a process that dies in between leaves the old one.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        faults.passing(f"writing {path.name}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json_atomically(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; NaN is refused, since JSON has none."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
