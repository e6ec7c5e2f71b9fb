"""The most memory that this process held."""

import contextlib
import re
import resource
import sys
from pathlib import Path


def forget_the_peak() -> None:
    """Let the peak begin again from what is resident now, on Linux; importing took more for a
    moment.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that was resident so far; on Linux its own count, since getrusage begins
    with the parent's.
    """
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
