"""The thread that shows a study's trials in a tracker, so that a search never waits for it."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tune.ledger.records import TrialRecord
from tune.processes import deaf_to_sigterm
from tune.tracking.tracker import TrackedStudy, Tracker, TrialsView, Trouble, trouble_told_by

PASSING_TROUBLE_SECONDS, LASTING_TROUBLE_SECONDS = 5.0, 30.0
"""Seconds before the next attempt, after a passing refusal and after one that lasts until the user
acts (see `Trouble.lasting`)."""

GATHERING_SECONDS = 1.0
"""Seconds of pause after records were written, in which more records gather. Writing many costs
little more than writing one, and each call delays the search, since Python runs one thread at a
time."""

_logger = logging.getLogger(__name__)


class TrackingThread:
    """A thread that shows the trials of a phase as their records come.

    It keeps a record until the tracker has taken it.

    folder_of   returns a trial's folder, given its number
    is_ours     tells whether this process still runs the study; once it does not, nothing more is
                shown. A driver that was stalled would otherwise show trials as they were, and some
                of them twice
    """

    def __init__(
        self,
        tracker: Tracker,
        study: TrackedStudy,
        phase: str,
        folder_of: Callable[[int], Path],
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._tracker, self._study, self._phase = tracker, study, phase
        self._folder_of, self._is_ours = folder_of, is_ours
        self._view: TrialsView | None = None
        self._names: dict[int, str] = {}
        self._changed = threading.Condition()
        self._pending: dict[int, TrialRecord] = {}
        self._closing = False
        self._hurry = threading.Event()
        self._stopped = threading.Event()
        self.trouble: Trouble | None = None
        """The last reason why a record was refused; None if the last attempt wrote all records."""
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        # While Ray connects, a SIGTERM to this thread would end the process with a traceback of
        # Ray, so only the main thread gets the signal, when it is ready for it.
        with deaf_to_sigterm():
            self._thread.start()

    def show(self, record: TrialRecord) -> None:
        """Show a trial as it is now; returns at once."""
        with self._changed:
            self._pending[record.id] = record
            self._changed.notify()

    def new_names(self) -> Mapping[int, str]:
        """The tracker's name of each trial that was shown since the last call, by its number."""
        with self._changed:
            names, self._names = self._names, {}
        return names

    def close(self, ended: bool, seconds: float = 60.0) -> Sequence[int]:
        """Write what is left, waiting at most `seconds`, and end the thread.

        Returns the numbers of the trials of which a record is still unwritten.

        ended   whether the whole study has ended (see `TrialsView.close`)
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._hurry.set()
        self._thread.join(seconds)
        self._stopped.set()
        with self._changed:
            unwritten = sorted(self._pending)
        if self._view is not None and not unwritten and not self._thread.is_alive():
            try:
                self._view.close(ended)
            except Exception as error:  # noqa: BLE001  # whatever a tracker raises
                self.trouble = trouble_told_by(self._tracker, error)
        return unwritten

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending and self._view is not None:
                    return
                batch, closing = list(self._pending.values()), self._closing
            if not self._is_ours():
                return
            self.trouble = self._try_to_open() or self._try_to_write(batch)
            if not self.trouble:
                self._hurry.wait(GATHERING_SECONDS)
            elif closing and self.trouble.lasting:
                return
            elif closing:
                self._stopped.wait(PASSING_TROUBLE_SECONDS)
            else:
                self._hurry.wait(
                    LASTING_TROUBLE_SECONDS if self.trouble.lasting else PASSING_TROUBLE_SECONDS
                )

    def _try_to_open(self) -> Trouble | None:
        """Open the view if it is not open; returns what went wrong, or None."""
        try:
            self._view = self._view or self._tracker.trials(self._study, self._phase)
        except Exception as error:  # noqa: BLE001  # whatever a tracker raises: the search goes on
            return self._note(error)
        return None

    def _try_to_write(self, batch: Sequence[TrialRecord]) -> Trouble | None:
        """Write records; a refused record delays no other. Returns what went wrong, or None.

        After a lasting refusal the view is opened anew: the runs it knows may be gone by then.
        """
        view, met = self._view, None
        assert view is not None
        for record in batch:
            if not self._is_ours():
                return met
            try:
                name = view.shown(record) or view.write(record, self._folder_of(record.id))
            except Exception as error:  # noqa: BLE001  # whatever a tracker raises
                met = self._note(error)
                if met.lasting:
                    self._view = None
                continue
            with self._changed:
                self._names[record.id] = str(name)
                if self._pending.get(record.id) is record:
                    del self._pending[record.id]
        return met

    def _note(self, error: Exception) -> Trouble:
        meant = trouble_told_by(self._tracker, error)
        _logger.debug("%s did not take a record: %s", self._tracker.name, meant.reason)
        return meant
