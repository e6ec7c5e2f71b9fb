"""The processes that a search starts, and their children, found by a mark in their environment.

Process groups would not find them all: Ray's agents leave their parent's group, and live for up to
a minute after it has ended.
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
"""The environment variable that holds the mark."""
_SIGTERM_BIT = 1 << (signal.SIGTERM - 1)
"""SIGTERM in the sets of signals that /proc shows."""
_POLL_SECONDS = 0.05
"""Seconds between two looks for processes that were sent a SIGTERM."""


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the time of the block; processes that start inside have them.

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


@contextlib.contextmanager
def marked() -> Iterator[str]:
    """Yield a mark; every process that starts inside the block carries it, this one does not."""
    mark = uuid.uuid4().hex
    with variables({MARK: mark}):
        yield mark


def living(mark: str) -> list[int]:
    """The ids of the processes with this mark that have not ended."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return [process for process in found if runs(process)]


def runs(process: int) -> bool:
    """Whether a process has not ended. A zombie has ended; only its parent has not asked for it."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def machine() -> str:
    """A name that two processes share exactly where a process id means the same to both.

    It names the machine's last start and the namespace of process ids: containers may share the
    name of their host.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def name_of(process: int) -> str:
    """The name of a process's program, as the kernel has it; empty if the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


def end(mark: str, seconds: float = 10.0) -> None:
    """Kill the processes with this mark, and wait for their end for at most `seconds`."""
    until = time.monotonic() + seconds
    while processes := living(mark):
        for process in processes:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > until:
            return
        time.sleep(0.02)


@contextlib.contextmanager
def deaf_to_sigterm() -> Iterator[None]:
    """Block SIGTERM in processes that start inside the block; one that comes to this process takes
    effect at the block's end.

    A scheduler that ends a job may signal all its processes. Ray's would end first, and the search,
    which needs them to save what runs, would end in Ray's own way. Ray itself blocks Ctrl-C in its
    processes like this.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def ended_when_asked(mark: str) -> Iterator[None]:
    """Inside the block, kill each process with this mark that Ray sends a SIGTERM: the processes
    block it, and Ray would wait for them.
    """
    done = threading.Event()
    asked_before = {process for process in living(mark) if _sigterm_waits(process)}

    def look() -> None:
        while not done.wait(_POLL_SECONDS):
            for process in set(living(mark)) - asked_before:
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
    """Whether a process was sent a SIGTERM that it has not handled."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("ShdPnd:"):
                return bool(int(line.split()[1], 16) & _SIGTERM_BIT)
    return False
