"""A search that ends before it is done: by Ctrl-C, by SIGTERM, or because Ray died."""

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from core import interrupts
from tune import processes


class NotesCtrlC(ray_tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Notes in `core.interrupts` that Ctrl-C has come.

    Ray answers Ctrl-C by setting an event that it checks between its steps only. Code that waits
    inside a step, for a database, must hear of it at once.
    """

    def setup(self, *_: Any, **__: Any) -> None:
        """Wrap the handler of SIGINT that Ray has installed by now.

        Ray restores at its end the handler that it found, so there is nothing to undo.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        handler_of_ray = signal.getsignal(signal.SIGINT)

        def handle(number: int, frame: Any) -> None:
            interrupts.note_interrupt()
            if callable(handler_of_ray):
                handler_of_ray(number, frame)

        signal.signal(signal.SIGINT, handle)


@contextlib.contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """Inside the block, end this process at once on a Ctrl-C that Ray does not handle.

    While trials run, Ray handles the first Ctrl-C: it gives workers some seconds, and restores the
    handler of this block for the second. Ending at once loses nothing that was saved, because
    files are whole at any moment.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(
        signal.SIGINT,
        lambda *_: _end_at_once(
            interrupts.exit_status(), "Ended at once; to continue, run the same command again"
        ),
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
