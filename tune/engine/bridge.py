"""Thin adapters between Ray and a desk, the object that decides what runs and records the results.

Ray calls the scheduler on every result and the searcher only on some, so the searcher hands out
work, and the scheduler takes in results and alone ends trials. Thus every epoch reaches the ledger
once. Ray's own retries are off: a trial that lost its worker is handed out again as a new Ray
trial, just as after the death of the driver.
"""

import math
import time
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
    ToldToEnd,
    WorkerLost,
    assignment_in,
    message_in,
    to_config,
)
from tune.engine.resources import Machine
from tune.engine.session import machine_now


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

    def now_has(self, machine: Machine) -> None:
        """Hand out attempts for the nodes that a cluster has from now on."""

    def say(self, sentence: str) -> None:
        """Tell the user something about the whole study."""


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


NODES_SECONDS = 5.0
"""Seconds between two looks at the nodes of a cluster."""


class LedgerCallback(Callback):  # type: ignore[misc]  # Ray ships no types
    """Ray's callback: tells the desk when a trial starts, and when a node joins or leaves.

    Ray does not tell this to the searcher and the scheduler.
    """

    def __init__(self, desk: Desk, address: str | None = None) -> None:
        """Serve a desk.

        address   address of the cluster that runs the trials; None for this machine
        """
        super().__init__()
        self._desk, self._address = desk, address
        self._looked = -math.inf

    def on_step_begin(
        self,
        iteration: int,  # noqa: ARG002  # Ray's signature
        trials: list[RayTrial],  # noqa: ARG002
        **info: Any,  # noqa: ARG002
    ) -> None:
        """Look at the nodes of a cluster from time to time, and tell the desk which are there."""
        if self._address is None or time.monotonic() - self._looked < NODES_SECONDS:
            return
        self._looked = time.monotonic()
        self._desk.now_has(machine_now(self._address))

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
    for error, cause in (
        (GpuFailed, Cause.GPU_FAILED),
        (NoGpu, Cause.NO_GPU),
        (ToldToEnd, Cause.TOLD_TO_END),
    ):
        given = [line.partition(f"{error.__name__}: ")[2] for line in lines]
        if any(given):
            return WorkerLost(cause, max(given, key=len))
    text = " ".join(lines)
    # A node that lives tells Ray within a second that a process of it died. Where the connection
    # is broken and Ray gives no cause, the node itself is gone.
    if any(death in text for death in ("node has died", "NodeDied", "is temporarily unavailable")):
        return WorkerLost(Cause.NODE_DIED)
    deaths = ("ActorDiedError", "WorkerCrashedError", "worker process has died")
    if not lines or any(death in text for death in deaths):
        return WorkerLost(Cause.DIED)
    return WorkerLost(Cause.COULD_NOT_RUN, lines[-1][:300])
