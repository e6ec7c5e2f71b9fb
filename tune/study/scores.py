"""How sure a trial's score is, from the match table of one of its epochs."""

from pathlib import Path

from core.data.split import group_names
from core.errors import CheckpointError, DataError
from core.metric.ap50 import MatchTable
from tune.ledger.records import TrialRecord
from tune.statistics.certainty import Interval, Scored, interval
from tune.store.folder import match_table_path


def scored_of(record: TrialRecord, path: Path) -> Scored:
    """The score of the match table at `path`. Raises CheckpointError and DataError."""
    table = MatchTable.load(path)
    units = group_names(table.image_names, str(record.settings["data.group_pattern"]), str(path))
    return Scored.of(table, int(record.settings["metric.max_dets"]), units)


def interval_so_far(record: TrialRecord, folder: Path) -> Interval | None:
    """The 95% interval of the AP50 of a trial's best epoch over images, as measured.

    folder   the trial's folder

    It is None without an epoch, and where the match table is missing or damaged. The report says
    more: it subtracts the luck of having chosen the epoch.
    """
    if record.best_epoch is None:
        return None
    try:
        return interval(scored_of(record, match_table_path(folder, record.best_epoch)))
    except (CheckpointError, DataError):
        return None
