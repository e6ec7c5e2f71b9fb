"""The ends that come before a search is done: Ctrl-C, SIGTERM, and the death of Ray."""

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
    """Lets this process know that Ctrl-C came.

    Ray answers it by setting an event, which it checks between steps only.

    Code that waits inside a step, for a database, must stop waiting.
    """

    def setup(self, *_: Any, **__: Any) -> None:
        """Handle Ctrl-C before the handler of Ray, which is installed by now and restores the
        earlier one itself.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        rays = signal.getsignal(signal.SIGINT)

        def answer(number: int, frame: Any) -> None:
            interrupts.note()
            if callable(rays):
                rays(number, frame)

        signal.signal(signal.SIGINT, answer)


@contextlib.contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """End this process at once on a Ctrl-C that Ray does not handle: saved files are whole at
    any moment.

    While trials run, Ray handles the first Ctrl-C by giving workers some seconds; then it restores
    this handler.
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


_started: dict[str, Path] = {}
"""The Rays that run: the mark of each one's processes, and its temporary folder."""


@contextlib.contextmanager
def ended_with_the_driver(mark: str, folder: Path) -> Iterator[None]:
    """Inside the block, an end at once of this process also ends the processes with this mark and
    removes their temporary folder.
    """
    _started[mark] = folder
    try:
        yield
    finally:
        del _started[mark]


def _end_at_once(status: int, sentence: str) -> None:
    """Print a sentence, then end this process and all processes that it started within about a
    second.
    """
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    print(f"{show_cursor}{sentence}", file=sys.stderr, flush=True)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(
            nothing.fileno(), sys.__stderr__.fileno() if sys.__stderr__ else 2
        )  # Ray's libraries would repeat it
    for mark, folder in _started.items():
        processes.end(mark)
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(status)


@contextlib.contextmanager
def our_answer_to_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray installs one when it starts, which ends
    without a message.
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
def ended_with_ray(mark: str) -> Iterator[None]:
    """End this process soon after a process dies that Ray cannot run without.

    Ray would wait for a minute and then end or abort this process without a message; Ray's agents
    would live on.
    """
    done = threading.Event()
    watched = {
        process: name
        for process in processes.living(mark)
        if (name := processes.name_of(process)) in _HEART
    }

    def watch() -> None:
        while not done.wait(_WATCH_SECONDS):
            gone = next(
                (name for process, name in watched.items() if not processes.runs(process)), None
            )
            if gone is not None and not done.is_set():
                _end_at_once(
                    1,
                    f"Ray's {gone} ended, killed by somebody or by the kernel for want of memory;"
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
"""The processes that Ray cannot run without."""
_WATCH_SECONDS = 0.5
