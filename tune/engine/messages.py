"""The messages between the driver and its workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True)
class Assignment:
    """One attempt of one trial, as a worker gets it.

    trial          the trial's number in the ledger
    attempt        the attempt's number, 1 for the first
    folder         absolute path of the trial's folder, the only place its worker writes to
    settings       every setting of the trial, by its flat name
    known_epochs   number of epochs that the ledger holds; a worker that finds a checkpoint with
                   more reports these before it trains
    gpus           GPUs that the attempt holds: 0, 1, or a fraction of one
    """

    trial: int
    attempt: int
    folder: str
    settings: Mapping[str, Any]
    known_epochs: int
    gpus: float = 0.0


class Then(StrEnum):
    """The step that follows a failed attempt."""

    FAIL = "fail"
    RETRY = "retry"
    RETRY_WITH_MORE_MEMORY = "retry with more memory"
    HALT = "halt"
    """The study stops until the user removes the cause: nothing is wrong with the trial, and the
    next one would fail too."""


DIED = "its worker process died"
"""The reason of an attempt whose worker ended without a message."""
GPU_FAILED = "the GPU failed its worker"
"""The beginning of the reason where a process can no longer use its GPU."""


class WorkerUnusable(Exception):
    """A worker's process cannot run trials any longer. The message is the reason, in one line."""
