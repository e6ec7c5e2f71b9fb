"""A search that ends before it is done: by Ctrl-C, by SIGTERM, or because Ray died."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from ray import tune as ray_tune

from core import interrupts
from tune import processes


class Ending(ray_tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Ends Ray Tune after a Ctrl-C: when nothing runs any more, or when the grace time is over.

    grace     seconds that running epochs have to end
    cluster   whether Ray's own processes are those of a cluster, which may be gone

    As a context manager around all that Ray does, it ends this process at once where a cluster has
    not answered some seconds after the grace time: Ray waits for a minute for one that is gone.
    Ray's own answer would clear away the reports of running epochs at once, and give their workers
    ten seconds.
    """

    def __init__(self, grace: float, cluster: bool = False) -> None:
        self._grace, self._cluster = grace, cluster
        self._asked_at: float | None = None
        self._last: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._last.cancel()

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Inside the block, note the first Ctrl-C in `core.interrupts`, and end at the second.

        The second ends this process at once. That loses nothing that was saved, because files are
        whole at any moment. No effect outside the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def first(*_: object) -> None:
            interrupts.note_interrupt()
            self._asked_at = time.monotonic()
            signal.signal(signal.SIGINT, _at_once)
            if self._cluster:
                self._last = threading.Timer(self._grace + _LAST_SECONDS, _at_once)
                self._last.daemon = True
                self._last.start()

        before = signal.signal(signal.SIGINT, first)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, _at_once if self._asked_at is not None else before)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Raise KeyboardInterrupt if the grace time is over. Ray calls this every tenth second."""
        if self._asked_at is not None and time.monotonic() - self._asked_at >= self._grace:
            raise KeyboardInterrupt


@contextlib.contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Inside the block, end this process at once on a Ctrl-C, with all that Ray has started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _at_once(*_: object) -> None:
    """Handle a Ctrl-C by ending this process at once."""
    _end_at_once(interrupts.exit_status(), "Ended at once; to continue, run the same command again")


_LAST_SECONDS = 15.0
"""Seconds after the grace time in which Ray may end."""


_of_ray: list[tuple[processes.Started, Path]] = []
"""For each running Ray, its processes and its temporary folder."""


@contextlib.contextmanager
def ended_with_the_driver(started: processes.Started, folder: Path) -> Iterator[None]:
    """Inside the block, have `_end_at_once` kill these processes and remove their folder."""
    _of_ray.append((started, folder))
    try:
        yield
    finally:
        _of_ray.remove((started, folder))


_ending = threading.Lock()
"""Held from the moment at which `_end_at_once` was first called."""


def _end_at_once(status: int, sentence: str) -> None:
    """Print a sentence, kill the processes of every running Ray, and exit with a status.

    This takes about a second. Only the first call counts: it kills Ray, and the thread that
    watches Ray would otherwise call again with another sentence.
    """
    if not _ending.acquire(blocking=False):
        return
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    print(f"{show_cursor}{sentence}", file=sys.stderr, flush=True)
    with Path(os.devnull).open("w") as nothing:  # Ray's libraries would print messages of their own
        os.dup2(nothing.fileno(), sys.__stderr__.fileno() if sys.__stderr__ else 2)
    for started, folder in _of_ray:
        started.end()
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(status)


@contextlib.contextmanager
def own_handler_of_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while Ray starts inside the block.

    Ray installs one that ends the process without a message.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # Ray's handler was called while Ray started
        signal.signal(signal.SIGTERM, ours)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, ours)


@contextlib.contextmanager
def ended_with_ray(started: processes.Started) -> Iterator[None]:
    """Inside the block, end this process soon after Ray's `gcs_server` or `raylet` dies.

    Ray cannot run without them: it would wait for a minute, then exit or abort this process without
    a message, and leave its agents running.
    """
    done = threading.Event()
    watched = {
        process: name
        for process in started.living()
        if (name := processes.name_of(process)) in _HEART
    }

    def watch() -> None:
        while not done.wait(_WATCH_SECONDS):
            gone = next(
                (name for process, name in watched.items() if not processes.is_running(process)),
                None,
            )
            if gone is not None and not done.is_set():
                _end_at_once(
                    1,
                    f"Ray's {gone} has ended; perhaps the kernel killed it because memory ran out;"
                    " what was saved is whole: run the same command again",
                )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


_HEART = ("gcs_server", "raylet")
"""The names that the kernel shows of the processes without which Ray cannot run."""
_WATCH_SECONDS = 0.5
"""Seconds between two checks that these processes live."""
