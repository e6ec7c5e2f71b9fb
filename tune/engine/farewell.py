"""The answer of a worker's process to SIGTERM, by which a scheduler takes its machine away."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from tune.engine.messages import ToldToEnd

_SIGTERM = {signal.SIGTERM}


class _GivenUp(BaseException):
    """The running epoch did not end in time. No `except Exception` on the way stops it."""


class Farewell:
    """Lets the running epoch end after a SIGTERM, or gives it up, and lets no other begin.

    grace   seconds that the epoch has to end

    It holds from its creation to the end of the process, and only in the main thread, in which Ray
    runs a worker. Processes that are forked from this one block SIGTERM: a scheduler may signal all
    processes of a job, and the epoch needs them.
    """

    def __init__(self, grace: float) -> None:
        self._grace, self._running = grace, False
        self.told = False
        """Whether the process was told to end."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGTERM, self._tell)
        os.register_at_fork(before=_block, after_in_parent=_unblock)
        _unblock()  # the search started this process with SIGTERM blocked

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Run an epoch inside the block. Raises ToldToEnd if it is given up, or may not begin."""
        if self.told:
            raise ToldToEnd(signal.SIGTERM.name)
        self._running = True
        try:
            yield
        except _GivenUp:
            raise ToldToEnd(signal.SIGTERM.name) from None
        finally:
            self._running = False
            if self.told:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _tell(self, *_: object) -> None:
        """Handle SIGTERM; further ones change nothing."""
        if self.told:
            return
        self.told = True
        if not self._running:
            return
        if self._grace <= 0:
            raise _GivenUp
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, self._grace)

    def _give_up(self, *_: object) -> None:
        if self._running:
            raise _GivenUp


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGTERM)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGTERM)
