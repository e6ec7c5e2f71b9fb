"""The protocol of a tracker, which shows studies to people as MLflow does, and their table.

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
from core.text import first_line
from tune.ledger.records import TrialRecord
from tune.redaction import without_password


@dataclass(frozen=True)
class TrackedStudy:
    """A study as a tracker knows it.

    name       name of the study
    ledger     identity of the search's ledger: a study that was deleted and searched anew is
               another study of the same name
    tags       texts that describe the study, by name
    searched   names of the searched settings
    """

    name: str
    ledger: str
    tags: Mapping[str, str] = field(default_factory=dict)
    searched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retraining:
    """A trial that was trained again, and the folder that holds its model.

    folder     holds a model (see `core.prediction.trained_model`) and metrics.json, and perhaps
               submission.zip and overlays/
    on         train (the trial's own split), all (every annotated image) or together (nothing was
               trained: the models of its confirmation predict together)
    key        name of the training; the same key and the same config.yaml mean the same retraining
    settings   every setting of the model, by flat names such as `optim.learning_rate`
    epochs     the report of each epoch (`EpochReport.to_json`), epoch 1 first
    metrics    the scores of the model that was kept, by name, and its `epoch`
    """

    folder: Path
    on: str
    key: str
    settings: Mapping[str, Value]
    epochs: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Trouble:
    """The reason why a tracker did not take something, and the way out.

    reason    the tracker's answer, one line without secrets
    way_out   what the user can do, as an order
    lasting   whether the tracker refuses until the user has done that
    """

    reason: str
    way_out: str = "run the same command again when it answers"
    lasting: bool = False

    def __str__(self) -> str:
        """`(REASON): WAY OUT`, to follow words such as "MLflow does not show the report"."""
        return f"({self.reason}): {self.way_out}"


class TrialsView(Protocol):
    """The trials of one phase of a study, as a tracker shows them."""

    def write(self, record: TrialRecord, folder: Path) -> str:
        """Show a trial as its record has it; returns the name of the trial in the tracker.

        folder   the trial's folder, with its settings, epochs and match tables
        """
        ...

    def shown(self, record: TrialRecord) -> str | None:  # noqa: ARG002  # a default
        """The tracker's name of a trial that needs no writing, because it is shown to its end; else
        None.
        """
        return None

    def close(self, ended: bool) -> None:
        """Close the view. `ended` says whether the whole study has ended."""
        ...


class Tracker(Protocol):
    """A place that shows studies. Its methods may raise any exception, which `trouble_of` explains.

    It is constructed from its address (`--tracking-uri`, or None for its default) and the folder of
    all studies. The constructor connects to nothing.
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
        """An order that opens the studies: a command, or an address, without secrets."""
        ...

    def trials(self, study: TrackedStudy, phase: str) -> TrialsView:
        """Open the view of the trials of a phase, `search` or `confirm`."""
        ...

    def link_to(self, study: TrackedStudy) -> str | None:  # noqa: ARG002  # a default
        """The address of the study's trials in a browser, without secrets; None if there is none.

        What `how_to_open` says comes first.
        """
        return None

    def link_to_charts(self, study: TrackedStudy) -> str | None:  # noqa: ARG002  # a default
        """The address of charts that compare the study's trials; None if there are none."""
        return None

    def show_report(self, study: TrackedStudy, folder: Path) -> str:
        """Show the report in `folder`, index.html and the files beside it; returns its address."""
        ...

    def show_retraining(
        self, study: TrackedStudy, record: TrialRecord, retraining: Retraining
    ) -> str:
        """Show a retraining of a trial, and keep its model; returns the model's address."""
        ...

    def trouble_of(self, error: Exception) -> Trouble:
        """The meaning of an error that another method raised."""
        return Trouble(safe_first_line(error))


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


def trouble_told_by(tracker: Tracker, error: Exception) -> Trouble:
    """The meaning of a tracker's error, also where the tracker's own `trouble_of` fails."""
    try:
        meant = tracker.trouble_of(error)
    except Exception as other:  # noqa: BLE001  # whatever a tracker raises
        meant = Trouble(safe_first_line(other))
    return meant if isinstance(meant, Trouble) else Trouble(safe_first_line(error))


def safe_first_line(error: BaseException) -> str:
    """The first line of an error's message, without passwords."""
    return without_password(first_line(error))
