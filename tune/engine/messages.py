"""The messages between the driver and its workers, and the dicts as which Ray carries them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


@dataclass(frozen=True)
class Assignment:
    """One attempt of one trial: the driver's message that starts it in a worker.

    trial          the trial's number in the ledger
    attempt        the attempt's number, 1 for the first
    folder         absolute path of the trial's folder on the driver's machine; a worker that sees
                   it writes nowhere else, and another has a copy (`tune.store.trial_files`)
    settings       every setting of the trial, by its dotted name (`optim.epochs`)
    known_epochs   number of the trial's epochs that the ledger holds; a worker that finds a
                   checkpoint with more reports these before it trains
    gpus           GPUs that the attempt holds: 0, 1, or a fraction of one
    """

    trial: int
    attempt: int
    folder: str
    settings: Mapping[str, Any]
    known_epochs: int
    gpus: float = 0.0


@dataclass(frozen=True)
class History:
    """A worker's message that the trial's checkpoint holds these epochs.

    It is sent after each epoch that was trained, and before the first one where a checkpoint is
    found that holds more epochs than the ledger.

    epochs   the EpochReports of all epochs of the trial as JSON objects, the first epoch's first
    """

    epochs: Sequence[Mapping[str, Any]]


class Then(StrEnum):
    """The step that follows a failed attempt: of the trial, or of the whole study."""

    FAIL = "fail"
    RETRY = "retry"
    RETRY_WITH_MORE_MEMORY = "retry with more memory"
    HALT = "halt"
    """The study stops until the user removes the cause: nothing is wrong with the trial, and the
    next one would fail too."""


@dataclass(frozen=True)
class Failure:
    """A worker's message that an attempt failed; the worker itself can run other attempts.

    reason    one line for the user
    then      the step that follows
    seconds   wall time, in seconds, inside the epoch that failed; 0 where no epoch had begun
    """

    reason: str
    then: Then
    seconds: float = 0.0


class Cause(StrEnum):
    """The reason why a worker is lost, in words for the user."""

    DIED = "its worker process died"
    NODE_DIED = "its node does not answer any more"
    """The node's machine, network or Ray ended, and all trials on it with it."""
    GPU_FAILED = "the GPU failed its worker"
    NO_GPU = "its worker found no GPU that it could use"
    """The trial had not begun, so nothing is wrong with it."""
    TOLD_TO_END = "its worker was told to end"
    """Nothing is wrong with the trial."""
    COULD_NOT_RUN = "its worker could not run"


@dataclass(frozen=True)
class WorkerLost:
    """The news that the worker of an attempt is gone, or can run nothing more.

    It is made from what Ray reports; the worker itself sends nothing.

    detail   one line of the error; empty where the worker left none
    """

    cause: Cause
    detail: str = ""

    @property
    def reason(self) -> str:
        """One line for the user."""
        return f"{self.cause}: {self.detail}" if self.detail else str(self.cause)


class GpuFailed(Exception):
    """The GPU failed this worker's process, which can no longer compute on it.

    The exception's text is the first line of the error. It reaches the driver as WorkerLost.
    """


class NoGpu(GpuFailed):
    """The GPU could not be used from the worker's start; nothing is wrong with the trial.

    It reaches the driver as WorkerLost.
    """


class ToldToEnd(Exception):
    """A worker's process was told to end by the signal that the exception's text names.

    It reaches the driver as WorkerLost.
    """


def to_config(assignment: Assignment) -> dict[str, Any]:
    """The configuration of the Ray trial that runs an attempt: a dict of plain values."""
    return {"assignment": dict(vars(assignment))}


def assignment_in(config: Mapping[str, Any]) -> Assignment:
    """The attempt that a Ray trial with this configuration runs."""
    return Assignment(**config["assignment"])


def to_result(message: History | Failure) -> dict[str, Any]:
    """A worker's message as a result for Ray: a dict of plain values and lists.

    No value is a dict, because Ray would flatten it.
    """
    return {"kind": type(message).__name__, **vars(message)}


def message_in(result: Mapping[str, Any]) -> History | Failure:
    """The worker's message in a result, to which Ray has added entries of its own."""
    kinds: dict[str, type[History] | type[Failure]] = {"History": History, "Failure": Failure}
    kind = kinds[result["kind"]]
    return kind(**{field.name: result[field.name] for field in fields(kind)})
