"""Where a test may end everything, to show that nothing is lost: points that the code passes, and one that kills.

    CELL_TUNE_KILL=told:2      SIGKILL, the second time a process passes the point `told`

A point that a worker passes kills the driver and then the worker itself, as a machine does that loses power. The points
are named where they are passed, `writing FILE` in `core.files` among them. Without the variable, nothing happens.
"""

import os
import signal
from collections import Counter

VARIABLE = "CELL_TUNE_KILL"
DRIVER = "CELL_TUNE_DRIVER"
"""The driver's process id, for workers; the driver sets it before it starts them."""

_passed: Counter[str] = Counter()


def mark_driver() -> None:
    """Have workers that are started from now on kill this process as well, where a test asks for it."""
    if VARIABLE in os.environ:
        os.environ[DRIVER] = str(os.getpid())


def passing(point: str) -> None:
    """Say that a point is passed."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    name, _, count = wanted.partition(":")
    if point != name:
        return
    _passed[point] += 1
    if _passed[point] == int(count or 1):
        driver = int(os.environ.get(DRIVER, os.getpid()))
        for process in dict.fromkeys((driver, os.getpid())):
            os.kill(process, signal.SIGKILL)
