"""Trackers, which show studies to people, as MLflow does in a browser, and their table.

A tracker is a view of the ledger. It is written from the ledger's records alone, and writing a
record again changes nothing, so a view that missed records is completed by writing them again. A
search never waits for a tracker, and goes on where the tracker refuses everything.

A tracker of another package is a class that inherits from `Tracker`, and an entry point:

    [project.entry-points."cell_tune.trackers"]
    board = "my_package.board:Board"

Then `--tracking-uri board:ADDRESS` shows a study there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from core.config import Value
from core.extensions import Parts
from tune.ledger.records import TrialRecord
from tune.redaction import without_password


@dataclass(frozen=True)
class TrackedStudy:
    """A study as a tracker knows it.

    name     name of the study
    ledger   identity of the search's ledger: a study that was deleted and searched anew is another
             study of the same name
    tags     texts that describe the study, by name
    """

    name: str
    ledger: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Retraining:
    """A trial that was trained again, and the folder that holds its model.

    folder     holds a model (see `core.prediction.trained_model`) and metrics.json, and where there
               are any submission.zip and overlays/
    on         train (the trial's own split), all (every annotated image) or together (nothing was
               trained: the models of its confirmation predict together)
    key        name of the training; the same key and the same config.yaml mean the same retraining
    settings   every setting of the model, flat names
    epochs     the report of each epoch (`EpochReport.to_json`), epoch 1 first
    metrics    the numbers of the model that was kept, and the `epoch` that they are of
    """

    folder: Path
    on: str
    key: str
    settings: Mapping[str, Value]
    epochs: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Trouble:
    """Why a tracker did not take something.

    reason    the tracker's answer, one line without secrets
    way_out   what the user can do, as an order
    lasting   whether the tracker refuses until the user does that
    """

    reason: str
    way_out: str = "run the same command again when it answers"
    lasting: bool = False

    def __str__(self) -> str:
        """Reason and way out, as they follow the words of what the tracker does not show."""
        return f"({self.reason}): {self.way_out}"


class TrialsView(Protocol):
    """The trials of one phase of a study, as a tracker shows them."""

    def write(self, record: TrialRecord, folder: Path) -> str:
        """Show a trial as its record has it; returns the name of the trial in the tracker.

        folder   the trial's folder, with its settings, epochs and match tables
        """
        ...

    def shown(self, record: TrialRecord) -> str | None:  # noqa: ARG002  # a default
        """The name of a trial that was shown to its end before; else None.

        Such a trial need not be written.
        """
        return None

    def close(self, ended: bool) -> None:
        """End the view of the phase. `ended` says whether the whole study has ended."""
        ...


class Tracker(Protocol):
    """A place that shows studies. Its methods may raise any exception, which `trouble_of` explains.

    It is made from its address (`--tracking-uri`, or None for its default) and the folder of all
    studies, without asking the place whether it answers.
    """

    @property
    def name(self) -> str:
        """The tracker's name in messages."""
        ...

    @property
    def uri(self) -> str:
        """Its address, which may hold secrets."""
        ...

    @property
    def how_to_open(self) -> str:
        """How to see the studies: a command, or an address, without secrets."""
        ...

    def trials(self, study: TrackedStudy, phase: str) -> TrialsView:
        """Open the view of the trials of a phase, `search` or `confirm`."""
        ...

    def show_report(self, study: TrackedStudy, folder: Path) -> str:
        """Show a report, index.html and the files beside it in `folder`; returns its address."""
        ...

    def show_retraining(
        self, study: TrackedStudy, record: TrialRecord, retraining: Retraining
    ) -> str:
        """Show a retraining of a trial, and keep its model; returns the model's address."""
        ...

    def trouble_of(self, error: Exception) -> Trouble:
        """The meaning of an error that another method raised."""
        return Trouble(first_line(error))


TRACKERS: Parts[Callable[[str | None, Path], Tracker]] = Parts(
    "tracker", "cell_tune.trackers", {"mlflow": "tune.tracking.mlflow_tracker:MLflow"}
)
"""The makers of trackers, by the scheme of their addresses."""


def tracker_at(uri: str | None, results: Path) -> Tracker:
    """The tracker that the scheme of an address names, or MLflow for any other address and None.

    results   folder of all studies
    """
    scheme = (uri or "").partition(":")[0]
    name = scheme if scheme in TRACKERS else "mlflow"
    with TRACKERS.calling(name):
        return TRACKERS[name](uri, results)


def trouble(tracker: Tracker, error: Exception) -> Trouble:
    """The meaning of a tracker's error, also where the tracker fails to say it."""
    try:
        meant = tracker.trouble_of(error)
    except Exception as other:  # noqa: BLE001  # whatever a tracker raises
        meant = Trouble(first_line(other))
    return meant if isinstance(meant, Trouble) else Trouble(first_line(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without passwords."""
    return without_password((str(error).strip() or type(error).__name__).splitlines()[0][:300])
