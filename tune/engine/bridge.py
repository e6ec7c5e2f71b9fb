"""Thin adapters between Ray and a desk, the object that decides what runs and records the results.

Ray calls the scheduler on every result and the searcher only on some, so the searcher hands out
work, and the scheduler takes in results and alone ends trials. Thus every epoch reaches the ledger
once. Ray's own retries are off: a trial that lost its worker is handed out again as a new Ray
trial, just as after the death of the driver.
"""

from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune.engine.messages import (
    Assignment,
    Cause,
    Failure,
    GpuFailed,
    History,
    NoGpu,
    WorkerLost,
    assignment_in,
    message_in,
    to_config,
)


class Desk(Protocol):
    """The driver's side of a search: hands out attempts, and records what becomes of them."""

    @property
    def finished(self) -> bool:
        """Whether the search is over: nothing will be handed out any more."""

    def hand_out(self) -> Assignment | None:
        """The next attempt to start; None if none may start now."""

    def begun(self, assignment: Assignment) -> None:
        """Record that Ray has given an attempt its processors and GPUs, and a worker runs it."""

    def take_in(self, assignment: Assignment, message: History | Failure | WorkerLost) -> bool:
        """Record a message about an attempt; True if its worker must leave the trial now."""


class LedgerSearcher(Searcher):  # type: ignore[misc]  # Ray ships no types
    """Ray's search algorithm: asks the desk for the next attempt."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002  # Ray's signature
        """The configuration of the next Ray trial; None: ask again later; FINISHED: no more."""
        if self._desk.finished:
            return Searcher.FINISHED
        assignment = self._desk.hand_out()
        return None if assignment is None else to_config(assignment)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the scheduler has told the desk already."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the ledger is the state."""


class LedgerScheduler(FIFOScheduler):  # type: ignore[misc]  # Ray ships no types
    """Ray's trial scheduler: reports to the desk and obeys it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Pass a worker's message to the desk; returns STOP to end the Ray trial, or CONTINUE."""
        ended = self._desk.take_in(assignment_in(trial.config), message_in(result))
        return str(TrialScheduler.STOP if ended else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:  # noqa: ARG002
        """Tell the desk that a worker's process died, could not start or cannot go on.

        An exception that the trial itself raised arrives as a result (`Failure`) instead.
        """
        self._desk.take_in(assignment_in(trial.config), _loss_of(trial))


class LedgerCallback(Callback):  # type: ignore[misc]  # Ray ships no types
    """Ray's callback: tells the desk when a trial starts; searcher and scheduler are not told."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def on_trial_start(
        self,
        iteration: int,  # noqa: ARG002  # Ray's signature
        trials: list[RayTrial],  # noqa: ARG002
        trial: RayTrial,
        **info: Any,  # noqa: ARG002
    ) -> None:
        """Tell the desk that a worker runs the trial from now on."""
        self._desk.begun(assignment_in(trial.config))


def _loss_of(trial: RayTrial) -> WorkerLost:
    """The cause of a Ray trial's error, read from the text file in which Ray leaves it."""
    try:
        text = Path(trial.error_file).read_text()
    except (OSError, TypeError):  # TypeError: Ray left no file
        return WorkerLost(Cause.DIED)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for error, cause in ((GpuFailed, Cause.GPU_FAILED), (NoGpu, Cause.NO_GPU)):
        given = [line.partition(f"{error.__name__}: ")[2] for line in lines]
        if any(given):
            return WorkerLost(cause, max(given, key=len))
    deaths = ("ActorDiedError", "WorkerCrashedError", "worker process has died")
    if not lines or any(death in " ".join(lines) for death in deaths):
        return WorkerLost(Cause.DIED)
    return WorkerLost(Cause.COULD_NOT_RUN, lines[-1][:300])
