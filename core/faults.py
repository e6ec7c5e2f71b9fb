"""Named points of the code at which a test can kill the process, to show that nothing is lost.

    CELL_TUNE_KILL=told:2      SIGKILL when a process passes the point `told` for the second time

In a worker such a point kills the driver and then the worker itself, as a loss of power would. The
code names its points where it passes them, for example `writing FILE` in `core.files`. Without the
variable, nothing happens.
"""

import os
import signal
from collections import Counter

VARIABLE = "CELL_TUNE_KILL"
DRIVER = "CELL_TUNE_DRIVER"
"""Environment variable of the driver's process id, which the driver sets before it starts workers.
"""

_passed: Counter[str] = Counter()


def mark_driver() -> None:
    """Mark this process as the driver, which its workers kill as well if a test asks for it."""
    if VARIABLE in os.environ:
        os.environ[DRIVER] = str(os.getpid())


def passing(point: str) -> None:
    """Pass a point: kill this process, and the driver before it, if VARIABLE says so."""
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
