"""The processes that a search starts, and their children.

They are found by a mark in their environment, by their parents, and by having been seen before.
Process groups would not find all of them: Ray's agents leave their parent's group, and outlive
their parent by up to a minute. The mark alone does not either: a process of Ray that gives itself a
name writes it over its arguments and the first variables of its environment, whose order is random.
"""

import contextlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

MARK = "CELL_TUNE_SEARCH"
"""Name of the environment variable that holds the mark."""
_SIGTERM_BIT = 1 << (signal.SIGTERM - 1)
"""The bit of SIGTERM in the sets of signals that /proc shows."""
_POLL_SECONDS = 0.05
"""Seconds between two looks for processes that were sent a SIGTERM."""


@contextlib.contextmanager
def environment_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block, also for processes that start there.

    No other variable is touched, since other threads may set theirs meanwhile.
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Started:
    """The processes that were started with a mark in their environment, and their descendants.

    variable   the name of the environment variable that holds `mark`
    """

    def __init__(self, variable: str = MARK) -> None:
        self.mark = uuid.uuid4().hex
        self._variable = variable
        self._seen: dict[int, str] = {}

    def living(self) -> list[int]:
        """The ids of the processes that have not ended, ascending.

        A process that has lost its mark is found while its parent lives, or if an earlier call
        found it.
        """
        all_of_them = _running()
        found = {
            process
            for process, (_, begin) in all_of_them.items()
            if self._seen.get(process) == begin or self._carries_the_mark(process)
        }
        while children := {
            process
            for process, (parent, _) in all_of_them.items()
            if parent in found and process not in found
        }:
            found |= children
        self._seen |= {process: all_of_them[process][1] for process in found}
        return sorted(found)

    def end(self, seconds: float = 10.0) -> None:
        """Kill the processes, and wait at most `seconds` for their end."""
        until = time.monotonic() + seconds
        while found := self.living():
            for process in found:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            if time.monotonic() > until:
                return
            time.sleep(0.02)

    def _carries_the_mark(self, process: int) -> bool:
        wanted = f"{self._variable}={self.mark}".encode()
        with contextlib.suppress(OSError):
            return wanted in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        return False


@contextlib.contextmanager
def marked() -> Iterator[Started]:
    """Mark every process that starts inside the block; this process gets no mark."""
    started = Started()
    with environment_variables({MARK: started.mark}):
        yield started


def is_running(process: int) -> bool:
    """Whether a process has not ended. A zombie has ended, although nobody has waited for it."""
    return _stat(process) is not None


def _running() -> dict[int, tuple[int, str]]:
    """The parent and start time of each process that has not ended, by process id (see `_stat`)."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and (stat := _stat(int(path.name))) is not None:
            found[int(path.name)] = stat
    return found


def _stat(process: int) -> tuple[int, str] | None:
    """A process's parent and start time, in clock ticks since boot; None if it has ended.

    See proc_pid_stat(5).
    """
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return int(fields[1]), fields[19]
    return None


def machine_name() -> str:
    """A name of this machine, shared by two processes only if a process id means the same to both.

    It is made of the id of the last boot and of the PID namespace: containers may share the name of
    their host.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def name_of(process: int) -> str:
    """The name of a process's program, as the kernel has it; empty if the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


@contextlib.contextmanager
def deaf_to_sigterm() -> Iterator[None]:
    """Block SIGTERM in this thread, and in the processes that it starts inside the block.

    A SIGTERM for this thread takes effect at the block's end. A batch scheduler that ends a job may
    signal all its processes: Ray's would end first, and the search, which needs them to save what
    runs, would end in Ray's own way. Ray itself blocks Ctrl-C in its processes like this.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def ended_when_asked(started: Started) -> Iterator[None]:
    """Inside the block, kill every process of `started` that is sent a SIGTERM.

    The processes block SIGTERM, and Ray, which sends it to end them, would wait.
    """
    done = threading.Event()
    asked_before = {process for process in started.living() if _sigterm_waits(process)}

    def look() -> None:
        while not done.wait(_POLL_SECONDS):
            for process in set(started.living()) - asked_before:
                if _sigterm_waits(process):
                    with contextlib.suppress(OSError):
                        os.kill(process, signal.SIGKILL)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _sigterm_waits(process: int) -> bool:
    """Whether a process was sent a SIGTERM that is still pending."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("ShdPnd:"):
                return bool(int(line.split()[1], 16) & _SIGTERM_BIT)
    return False
