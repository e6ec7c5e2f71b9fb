"""SIGTERM handled as one Ctrl-C: schedulers, containers and service managers end a process with it.

Without a handler of ours it ends Python at once, or in Ray's own way. Ours calls the handler that
Ctrl-C has at that moment, so each place that can be interrupted is written once. Further SIGTERMs
are ignored: some senders send several.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

GRACE_SECONDS = 30.0
"""Default number of seconds in which a running epoch may end after the first Ctrl-C or SIGTERM.

Kubernetes kills 30 s after its SIGTERM unless `terminationGracePeriodSeconds` says otherwise.
"""

_terminated = False
_interrupted = False


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Handle the first SIGTERM inside the block as Ctrl-C.

    It has no effect outside the main thread, and inside another such block.
    """
    global _terminated, _interrupted  # signals are a process's own
    outside = threading.current_thread() is not threading.main_thread()
    if outside or signal.getsignal(signal.SIGTERM) == _as_ctrl_c:
        yield
        return
    _terminated = _interrupted = False
    before = signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _interrupted = False


def interrupted() -> bool:
    """Whether this process was asked to end, by SIGTERM or by a Ctrl-C that raised nothing.

    Code that waits in a loop asks this in every turn. Everywhere else Ctrl-C raises
    KeyboardInterrupt, and there is no need to ask.
    """
    return _interrupted


@contextlib.contextmanager
def grace(seconds: float) -> Iterator[None]:
    """Give what runs inside the block some seconds to end after the first Ctrl-C.

    KeyboardInterrupt is raised when the block ends, or after `seconds`, or at a second Ctrl-C,
    whichever comes first. Python raises it between two of its steps, so a running call of a library
    ends first. It has no effect outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def ctrl_c(_: int, __: FrameType | None) -> None:
        nonlocal asked
        note_interrupt()
        if asked or seconds <= 0:
            raise KeyboardInterrupt
        asked = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.signal(signal.SIGINT, ctrl_c)
    alarm_before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        yield
        if asked:
            raise KeyboardInterrupt
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm_before)
        signal.signal(signal.SIGINT, before)


def note_interrupt() -> None:
    """Record a Ctrl-C that is handled without KeyboardInterrupt, for `interrupted`."""
    global _interrupted
    _interrupted = True


def exit_status() -> int:
    """The exit status of a command that was interrupted: 143 after SIGTERM, 130 after Ctrl-C."""
    return 128 + (signal.SIGTERM if _terminated else signal.SIGINT)


def _as_ctrl_c(_: int, frame: FrameType | None) -> None:
    """Handle the first SIGTERM as Ctrl-C would be at this moment, and ignore further ones."""
    global _terminated
    if _terminated:
        return
    _terminated = True
    note_interrupt()
    answer = signal.getsignal(signal.SIGINT)
    if not callable(answer):  # a shell that starts a program in the background has it ignore Ctrl-C
        raise KeyboardInterrupt
    answer(signal.SIGINT, frame)
