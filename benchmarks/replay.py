"""A trial that replays a learning curve: drives the whole search engine in milliseconds an epoch."""

import json
from collections.abc import Callable
from pathlib import Path

from core.errors import TornCheckpoint
from core.files import write_json_atomically
from core.trainable import EpochReport
from tune.bridge import Assignment


class ReplayedTrial:
    """What `tune.executor` drives, without training.

    ap50   the value after an epoch, by assignment and epoch; it may do what a real trial may: raise, wait, kill its
           process
    """

    def __init__(self, assignment: Assignment, ap50: Callable[[Assignment, int], float]) -> None:
        self._assignment, self._ap50 = assignment, ap50
        self.reports: list[EpochReport] = []

    def run_epoch(self) -> EpochReport:
        """Append the report of the next epoch; each claims a quarter of a second."""
        epoch = len(self.reports) + 1
        ap50 = self._ap50(self._assignment, epoch)
        report = EpochReport(
            epoch=epoch, losses={"loss": 1 / epoch}, learning_rate=0.1, ap50=ap50, ap50_uncapped=ap50, ap50_box=ap50,
            ap50_per_class=(ap50, None), seconds=0.25, train_seconds=0.2, evaluate_seconds=0.05, images_per_second=10.0,
            peak_memory_bytes=None, steps=3, detections=7,
        )  # fmt: skip
        self.reports.append(report)
        return report

    def save(self, folder: Path) -> None:
        """Write the reports, atomically."""
        write_json_atomically(folder / "last.json", [report.to_json() for report in self.reports])

    def load(self, folder: Path) -> bool:
        """Continue from the reports that were written."""
        path = folder / "last.json"
        if not path.exists():
            return False
        try:
            reports = json.loads(path.read_text())
        except ValueError as error:
            raise TornCheckpoint(f"{path} is torn ({error})") from None
        self.reports = [EpochReport.from_json(report) for report in reports]
        return True

    def discard(self, folder: Path) -> None:
        """Set a torn checkpoint aside."""
        (folder / "last.json").replace(folder / "last.json.torn")
