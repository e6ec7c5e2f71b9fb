"""MLflow's view of a study, written anew from its ledger: `python -m tune.search --study NAME --rebuild-tracking`."""

from core.errors import StorageError, StudyError
from tune.folder import StudyFolder
from tune.ledger import Ledger
from tune.plan import Options, recall, storage_of, tags_of, tracking_of
from tune.redaction import without_password
from tune.space_file import from_document
from tune.tracking import Destination, Tracker, first_line


def rebuild_tracking(options: Options, study: str) -> tuple[int, Destination]:
    """Show every trial of a study's ledger in MLflow; how many, and where.

    Needs neither the data set nor pretrained weights, and trains nothing. What MLflow has already stays and is
    completed. Raises StudyError for a study that is unknown or being searched, StorageError where MLflow is away.
    """
    folder = StudyFolder(options.results / study)
    description = folder.read_description()
    request = from_document(description["request"], str(folder.description))
    options = recall(options, folder)
    destination = tracking_of(options)
    with folder.driver_lock():
        ledger = Ledger(storage_of(options, folder), request)
        if not ledger.records:
            raise StudyError(f"{folder.path} has no trials yet; there is nothing to show")
        tags = tags_of(request, description["data"]["fingerprint"])
        try:
            tracker = Tracker(destination, request.study, ledger.identity, tags)
            runs = {record.id: tracker.write(record, folder.trial(record.id)) for record in ledger.records}
            tracker.close(ledger.finished)
        except Exception as error:  # whatever MLflow's stores raise
            raise StorageError(
                f"MLflow at {without_password(destination.uri)} did not take the trials ({first_line(error)}); run the "
                "same command again when it answers"
            ) from error
        for number, run in runs.items():
            ledger.note_mlflow_run(number, run)
    return len(ledger.records), destination
