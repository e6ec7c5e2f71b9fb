"""`trials.csv`: one row a trial, for spreadsheets and other programs."""

import csv
import io
from collections.abc import Iterable, Sequence

from core.config import Value
from tune.ledger import TrialRecord

COLUMNS = (
    "trial", "name", "state", "epochs", "ap50", "ap50_last", "best_epoch", "seconds", "gpu_hours", "attempts", "seed",
    "fold", "reason",
)  # fmt: skip
"""The first columns; one for each searched setting follows."""


def trials_csv(records: Iterable[TrialRecord], searched: Sequence[str]) -> str:
    """The text of `trials.csv`. A setting that a trial did not search has its value all the same."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *searched])
    for record in records:
        writer.writerow([*_row(record), *(record.settings.get(name, "") for name in searched)])
    return text.getvalue()


def _row(record: TrialRecord) -> list[Value]:
    curve = record.curve
    return [
        record.id,
        record.name,
        record.state.value,
        len(curve),
        "" if record.ap50 is None else record.ap50,
        curve[-1] if curve else "",
        record.best_epoch or "",
        round(record.seconds, 3),
        round(record.seconds * record.gpu_share / 3600, 6),
        record.attempts,
        record.settings.get("seed", ""),
        record.settings.get("data.fold", ""),
        record.reason,
    ]
