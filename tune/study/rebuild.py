"""Writes a tracker's view of a study anew from the ledger: `tune.search --rebuild-tracking`."""

from collections.abc import Callable
from pathlib import Path

from core.errors import StorageError, StudyError
from tune.ledger.claim import Claim
from tune.ledger.ledger import Ledger
from tune.ledger.reading import read_ledger
from tune.redaction import without_password
from tune.request.file import request_of
from tune.store.folder import StudyFolder
from tune.study import confirmation
from tune.study.options import Options, recall_options, storage_of
from tune.study.plan import tracked_study, tracking_of
from tune.tracking.tracker import Tracker


def rebuild_tracking(options: Options, study: str) -> tuple[int, int, Tracker]:
    """Show every trial of a study's ledger in its tracker, without data set, weights or training.

    Returns the number of trials of the search, the number of trials of its confirmation, and the
    tracker. What the tracker has already is kept and completed. Raises StudyError for a study that
    is unknown, has no trials or is being searched, and StorageError if the tracker does not take
    the trials.
    """
    folder = StudyFolder(options.results / study)
    request = request_of(folder)
    fingerprint = folder.read_description()["data"]["fingerprint"]
    options = recall_options(options, folder)
    tracker, storage = tracking_of(options), storage_of(options, folder)
    before = read_ledger(storage, study)
    if before is None or not before.records:
        raise StudyError(f"{folder.path} has no trials yet; there is nothing to show")
    with folder.driver_lock(), Claim(storage, study) as claim:
        ledger = Ledger(claim, request)
        phases: list[tuple[str, Ledger, Callable[[int], Path]]] = [("search", ledger, folder.trial)]
        confirming = confirmation.confirming_request(request)
        if read_ledger(storage, confirming.study) is not None:
            phases.append(("confirm", Ledger(claim, confirming), folder.confirm_trial))
        confirmed = confirmation.read_confirmation(folder, storage, request, ledger)
        finished = ledger.finished and (confirmed is None or confirmed.finished)
        tracked = tracked_study(request, ledger.identity, fingerprint, ledger.warm_start)
        runs: list[tuple[Ledger, int, str]] = []
        try:
            for phase, held, folder_of in phases:
                view = tracker.trials(tracked, phase)
                runs += [
                    (held, record.id, view.write(record, folder_of(record.id)))
                    for record in held.records
                ]
            view.close(finished)
        except Exception as error:  # a tracker may raise anything
            raise StorageError(
                f"{tracker.name} at {without_password(tracker.uri)} did not take the trials"
                f" {tracker.trouble_of(error)}"
            ) from error
        for held, number, run in runs:
            held.note_mlflow_run(number, run)
    return len(ledger.records), len(runs) - len(ledger.records), tracker
