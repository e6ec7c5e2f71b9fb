"""Reads a study from its folder and its ledger, also while it runs. Nothing is written."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import StudyError
from tune.ledger.reading import Reading, read_ledger
from tune.ledger.records import TrialRecord
from tune.request.file import request_of
from tune.request.request import StudyRequest
from tune.statistics.choice import Choice
from tune.store.folder import StudyFolder, last_study
from tune.study import automatic, confirmation
from tune.study.confirmation import Confirmation
from tune.study.options import Options, recall_options, storage_of, without_ledger
from tune.tables import trials_frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Study:
    """A study at the moment when it was read.

    options       the addresses of its ledger and of MLflow, among others
    folder        its files, wherever they were moved
    request       the request, with the values that every `auto` stands for
    description   content of study.json
    ledger        the search as its ledger has it
    """

    options: Options
    folder: StudyFolder
    request: StudyRequest
    description: Mapping[str, Any]
    ledger: Reading

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """The trials of the search, in the order of their numbers."""
        return self.ledger.records

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.request.study

    @property
    def storage(self) -> str:
        """The SQLAlchemy URL of the ledger, password included."""
        return storage_of(self.options, self.folder)

    @property
    def trials(self) -> "DataFrame":
        """The trials of the search, one row each, with the columns of trials.csv."""
        return trials_frame(self.records, self.request.searched)

    @property
    def confirm(self) -> "DataFrame":
        """The trials of the confirmation: the columns of confirm.csv; no rows before it begins."""
        read = self.confirmation
        records, found = ((), ()) if read is None else (read.records, read.candidates)
        origins = {one.name: one.origin for one in found}
        return trials_frame(records, self.request.searched, origins)

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial of the search with the highest AP50; None before one is complete."""
        return self.ledger.best

    @functools.cached_property
    def winner(self) -> Choice | None:
        """The winner that the confirmation chose; None before its end, or without a confirmation.

        Raises CheckpointError for a damaged match table.
        """
        return (
            None if self.confirmation is None else confirmation.confirmed_winner(self.confirmation)
        )

    @property
    def searched(self) -> bool:
        """Whether every planned trial of the search has ended."""
        return self.ledger.finished(self.request.planned_trials)

    @property
    def finished(self) -> bool:
        """Whether the search has ended, and the confirmation if there is one."""
        return self.searched and (self.confirmation is None or self.confirmation.finished)

    @functools.cached_property
    def confirmation(self) -> Confirmation | None:
        """The confirmation as the ledger has it; None if there is none."""
        return confirmation.read_confirmation(self.folder, self.storage, self.request, self.ledger)


def read_study(
    name: str | None = None,
    results: str | Path = "results",
    storage: str | None = None,
    tracking_uri: str | None = None,
) -> Study:
    """Read a study, also while it runs. Nothing is written and nothing is started.

    name           name of the study; None for the one that was used last
    results        folder of all studies
    storage        SQLAlchemy URL of its ledger, if that was moved or has a password; None for the
                   one that study.json names
    tracking_uri   address of the tracker; None for the one that study.json names

    Raises StudyError if there is no such study or its ledger is missing, and StorageError if the
    ledger does not answer.
    """
    options = Options(Path(results), storage, tracking_uri)
    folder = last_study(options.results) if name is None else StudyFolder(options.results / name)
    description = folder.read_description()
    request = request_of(folder)
    options = recall_options(options, folder, moved=True)
    reading = read_ledger(storage_of(options, folder), request.study)
    if reading is None:
        raise StudyError(
            without_ledger(folder, storage_of(options, folder), "name it with --storage")
        )
    request = automatic.resolved_request(request, reading.facts)
    return Study(options, folder, request, description, reading)
