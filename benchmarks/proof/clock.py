"""The time that a command has, and child processes that end when it is over.

A child has a process group of its own, so that Ctrl-C in a terminal reaches this process alone,
which passes it on once. The kernel kills a child whose parent dies, so that a killed command leaves
nothing that holds the lock of a study.
"""

import ctypes
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

INTERRUPTED_SECONDS = 20.0
"""Most seconds that a child has to end after it was interrupted; then it is killed. A search and a
retraining lose nothing by either."""
_PR_SET_PDEATHSIG = 1
"""The option of prctl(2) that names a signal for the death of the parent."""


@dataclass(frozen=True)
class Clock:
    """The time that a command has.

    minutes   the time in all, in minutes; None for no limit
    """

    minutes: float | None = None
    _begin: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds that are left; infinite without a limit."""
        if self.minutes is None:
            return math.inf
        return self._begin + 60 * self.minutes - time.monotonic()

    @property
    def grace(self) -> float:
        """Seconds that a child has to end after it was interrupted."""
        return (
            INTERRUPTED_SECONDS
            if self.minutes is None
            else min(INTERRUPTED_SECONDS, 10 * self.minutes)
        )

    @property
    def reserve(self) -> float:
        """Seconds that are kept for the end: for a child that was interrupted, and the archive."""
        return 0.0 if self.minutes is None else min(self.grace + 25, 20 * self.minutes)

    def for_work(self) -> float:
        """Seconds after which a child must have ended; infinite without a limit."""
        return self.left() - self.reserve


@dataclass(frozen=True)
class Ended:
    """The end of a child process.

    status     its exit status; None if its time was up and it was interrupted
    seconds    wall time
    """

    status: int | None
    seconds: float


def run_child(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str],
    beat: Callable[[], object] = int,
    grace: float = INTERRUPTED_SECONDS,
) -> Ended:
    """Run a command, whose output goes where this process's goes, and wait for its end.

    seconds       seconds after which it is interrupted as by Ctrl-C; infinite for no limit
    environment   variables that are set for it besides those of this process
    beat          called every few seconds while it runs
    grace         seconds that it has to end after it was interrupted; then it is killed

    Raises KeyboardInterrupt after this process was interrupted, and the child with it.
    """
    library = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ends_with_its_parent() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # which died before the kernel was told
            os.kill(os.getpid(), signal.SIGKILL)

    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        process_group=0,
        preexec_fn=ends_with_its_parent,
    )
    try:
        while True:
            left = begin + seconds - time.monotonic()
            if left <= 0:
                _interrupt(process, grace)
                return Ended(None, time.monotonic() - begin)
            try:
                status = process.wait(min(left, 5.0))
            except subprocess.TimeoutExpired:
                beat()
                continue
            return Ended(status, time.monotonic() - begin)
    except BaseException:
        _interrupt(process, grace)
        raise


def _interrupt(process: "subprocess.Popen[bytes]", grace: float) -> None:
    """Interrupt a child as Ctrl-C does, and kill it if it does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
