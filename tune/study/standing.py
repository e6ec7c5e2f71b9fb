"""A study as it stands, read quickly and from wherever its ledger can be reached.

Nothing is written. The results folder need not be there: the ledger itself says what was asked for
and where the files are. Nothing here imports torch or SciPy, so that the first screen of
`tune.status` comes at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import StudyError
from tune.ledger.holder import Holder, holder_of
from tune.ledger.orders import Order, read_orders
from tune.ledger.reading import Reading, confirming_name, read_ledger, studies_in
from tune.ledger.records import State, TrialRecord
from tune.ledger.runs import Run
from tune.request.file import from_document, request_of
from tune.request.request import StudyRequest
from tune.store.folder import StudyFolder, all_studies
from tune.study.duration import Span, forecast_of
from tune.study.options import Options, recall_options, storage_of, without_ledger

RATE_SECONDS = 3600.0
"""Seconds before the last epoch whose epochs tell the rate."""


@dataclass(frozen=True)
class Rate:
    """The epochs that a study trained in its last hour, or since its driver began.

    an_hour   epochs an hour
    seconds   the time that they are counted over
    """

    an_hour: float
    seconds: float


@dataclass(frozen=True)
class Standing:
    """A study as it stands.

    storage     SQLAlchemy URL of its ledger, password included
    folder      its files; None where they cannot be reached from here
    request     what was asked for; None where an earlier version left only a part of it in the
                ledger, and there is no folder
    searched    the search
    confirmed   the confirmation; None before it begins
    holder      the process that drives it, or that died driving it; None if none does
    orders      what people have asked of it, the oldest first
    """

    name: str
    storage: str
    folder: StudyFolder | None
    request: StudyRequest | None
    searched: Reading
    confirmed: Reading | None
    holder: Holder | None
    orders: Sequence[Order] = ()

    @property
    def run(self) -> Run | None:
        """The last run; None where the ledger does not describe it."""
        return self.searched.run

    @property
    def is_driven(self) -> bool:
        """Whether a living process drives it."""
        return self.holder is not None and self.holder.is_alive

    @property
    def planned(self) -> int | None:
        """Number of trials that the search is to have; None where it is not known."""
        return None if self.request is None else self.request.planned_trials

    @property
    def to_confirm(self) -> int:
        """Number of trainings that the confirmation is to have, as far as is known."""
        if self.confirmed is None:
            return 0
        asked = self.confirmed.facts.get("confirm", {})
        chosen = self.searched.chosen.candidates
        candidates = 0 if self.request is None else self.request.candidates
        if chosen is not None:
            candidates = len(chosen.expected)
        there = sum(record.state is not State.PRUNED for record in self.confirmed.records)
        return max(there, candidates * len(asked.get("repeats", ())))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, as far as the ledger tells."""
        if self.is_driven:
            return False
        if self.run is not None:
            return self.run.finished
        if self.planned is None or not self.searched.finished(self.planned):
            return False
        return self.confirmed is None or self.confirmed.finished(self.to_confirm)

    @property
    def rate(self) -> Rate | None:
        """The epochs that it trains in an hour; None if there are too few to tell.

        Times are those of the driver's clock alone, and earlier runs do not count.
        """
        records = [*self.searched.records, *(self.confirmed.records if self.confirmed else ())]
        begun = 0 if self.run is None else self.run.since
        times = sorted(
            int(epoch["at"])
            for record in records
            for epoch in record.epochs
            if int(epoch.get("at", -1)) >= begun
        )
        if len(times) < 2:
            return None
        first = times[-1] - 1000 * RATE_SECONDS
        counted = [at for at in times if at >= first]
        seconds = (counted[-1] - counted[0]) / 1000
        return Rate(3600 * (len(counted) - 1) / seconds, seconds) if seconds >= 1 else None

    @property
    def left(self) -> Span | None:
        """The seconds that it still takes; None if nobody drives it or nothing tells them."""
        if self.request is None or not self.is_driven:
            return None
        request, searched = self.request, self.searched.records
        confirmed: Sequence[TrialRecord] = self.confirmed.records if self.confirmed else ()
        repeats = request.confirm.seeds * max(request.confirm.folds, 1)
        parallel = self.run.parallel if self.run else sum(map(_runs, (*searched, *confirmed)))
        forecast = forecast_of(request, repeats, max(parallel, 1), records=searched)
        if self.confirmed is not None:
            trainings = forecast.confirming[:1] * self.to_confirm
            forecast = replace(forecast, confirming=trainings, continuing=())
        elif self.searched.chosen.continued is not None:
            waiting = self.searched.chosen.continued.expected
            rest = [
                float(one.planned_epochs - len(one.epochs))
                for one in searched
                if one.id in waiting and one.state is State.PRUNED
            ]
            forecast = replace(forecast, continuing=tuple(Span(one, one) for one in rest))
        return forecast.left(searched, confirmed)


def _runs(record: TrialRecord) -> bool:
    return record.state is State.RUNNING


def read_standing(name: str, results: Path, storage: str | None = None) -> Standing:
    """Read a study as it stands.

    results   folder of all studies; it need not hold this one
    storage   SQLAlchemy URL of its ledger; None for the one that its folder names

    Raises StudyError if there is no such study, StorageError if its ledger does not answer.
    """
    folder = StudyFolder(results / name)
    request = None
    described = folder.description.exists()
    if described:
        request = request_of(folder)
        # The tracker is not asked, so that it does not matter whether its address is known.
        given = Options(results, storage, tracking_uri="not used")
        storage = storage_of(recall_options(given, folder, moved=True), folder)
    elif storage is None:
        storage = storage_of(Options(results), folder)
    holder = holder_of(storage, name)
    while True:
        reading = read_ledger(storage, name)
        confirmed = read_ledger(storage, confirming_name(name))
        orders = read_orders(storage, name)
        before, holder = holder, holder_of(storage, name)
        # A driver that began or ended meanwhile wrote how its run stands.
        if (before and before.token) == (holder and holder.token):
            break
    if reading is None:
        if described:
            raise StudyError(without_ledger(folder, storage, "name it with --storage"))
        raise StudyError(
            f"{name!r} is not a study in {results}, nor in a ledger that --storage names; without"
            " --study all that are there are listed"
        )
    run = reading.run
    if run is not None and (request is None or run.request.get("study") == name):
        request = from_document(run.request, f"the ledger of {name}")
    if not described:
        elsewhere = StudyFolder(Path(run.folder)) if run is not None else folder
        folder = elsewhere if elsewhere.path.is_dir() else folder
    return Standing(
        name,
        storage,
        folder if folder.path.is_dir() else None,
        request,
        reading,
        confirmed,
        holder,
        orders,
    )


def study_names(results: Path, storage: str | None = None) -> list[str]:
    """The names of all studies in a results folder, the one used last first, or in a ledger.

    storage   SQLAlchemy URL of the ledger; None for the studies in the folder

    Raises StudyError if there is none, StorageError if the ledger does not answer.
    """
    if storage is not None:
        found = studies_in(storage)
        if not found:
            raise StudyError("the ledger that --storage names holds no study; is the URL right?")
        return found
    return [folder.path.name for folder in all_studies(results)]
