"""The last run of a study, as the ledger describes it: where its driver is, and how it ended.

It is an attribute of the Optuna study, `run`, which the driver writes when its trials begin and
again when it ends. So a machine that reaches only the ledger knows what was asked for, and where
the files are. A run without an end still goes on, or its driver died: the claim tells which (see
`tune.ledger.claim`).
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

RUN_KEY = "run"
"""Name of the user attribute of the study."""


@dataclass(frozen=True)
class Run:
    """One run of a study by one driver.

    request    the request in the form of a space file (see `StudyRequest.to_document`)
    folder     absolute path of the study's folder on the driver's machine
    parallel   largest number of trials at once
    pid        the driver's process
    host       its machine
    since      the time at which its trials began, by its own clock, in milliseconds since 1970
    finished   whether nothing of the study was left to do at its end
    end        why it ended; empty while it goes on, and for ever where its driver died
    ended      the time of its end, as `since`; None as long as there is none
    """

    request: Mapping[str, Any]
    folder: str
    parallel: int
    pid: int
    host: str
    since: int
    finished: bool = False
    end: str = ""
    ended: int | None = None

    @classmethod
    def begun_here(cls, request: Mapping[str, Any], folder: str, parallel: int) -> "Run":
        """A run that this process begins now."""
        return cls(request, folder, parallel, os.getpid(), socket.gethostname(), now_ms())

    def to_json(self) -> dict[str, Any]:
        """The run as JSON types."""
        return asdict(self)


def now_ms() -> int:
    """The time of this machine's clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def stored_run(study: Mapping[str, Any]) -> Run | None:
    """The last run of a study; None where the ledger does not describe it.

    study   the user attributes of the Optuna study
    """
    content = study.get(RUN_KEY)
    if not isinstance(content, Mapping):
        return None
    try:
        return Run(**{one.name: content[one.name] for one in fields(Run) if one.name in content})
    except TypeError:  # another version wrote it
        return None
