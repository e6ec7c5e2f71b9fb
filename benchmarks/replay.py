"""A trial that replays a learning curve: drives the whole search engine in milliseconds an epoch,
and an executor without Ray.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import TornCheckpoint
from core.files import write_json_atomically
from core.metric import ap50
from core.metric.ap50 import MatchTable
from core.training.trial import EpochReport
from tune.engine.bridge import Desk
from tune.engine.messages import Assignment, History
from tune.engine.resources import Machine, TrialResources
from tune.engine.worker import MakeTrial, RunnableTrial
from tune.store.url import UrlStore
from tune.study.trials import TrialInputs


def execute_here(
    desk: Desk,
    make_trial: MakeTrial,
    machine: Machine,  # noqa: ARG001  # the signature of `tune.engine.executor.execute`
    resources: TrialResources,  # noqa: ARG001
    stall_seconds: float,  # noqa: ARG001
    study: Path | None,  # noqa: ARG001
    store: UrlStore | None,  # noqa: ARG001
    grace: float,  # noqa: ARG001
) -> None:
    """Run the attempts that a desk hands out, one after the other in this process, without Ray."""
    while not desk.finished and (assignment := desk.hand_out()) is not None:
        folder = Path(assignment.folder)
        folder.mkdir(parents=True, exist_ok=True)
        trial = make_trial(assignment)
        trial.load(folder)
        desk.begun(assignment)
        leaves = False
        while not leaves:
            trial.run_epoch()
            trial.save(folder)
            history = History([report.to_json() for report in trial.reports])
            leaves = desk.take_in(assignment, history)


@dataclass(frozen=True)
class Replays:
    """Makes the trials of a study by a function, and has none of them measured."""

    make: Callable[[Assignment, TrialInputs], RunnableTrial]
    trains: bool = False


class ReplayedTrial:
    """A trial that a worker runs as it would a real one; it does not train.

    result   the AP50 after an epoch, by assignment and epoch, or the match table that has it, which
             is then kept as a real trial keeps it; it may do what a real trial may: raise, wait,
             kill its process
    """

    def __init__(
        self, assignment: Assignment, result: Callable[[Assignment, int], float | MatchTable]
    ) -> None:
        self._assignment, self._result = assignment, result
        self._matches: dict[int, MatchTable] = {}
        self.reports: list[EpochReport] = []

    def run_epoch(self, progress: Callable[[float], object] = float) -> EpochReport:
        """Append the report of the next epoch; each claims a quarter of a second."""
        progress(0.0)
        epoch = len(self.reports) + 1
        result = self._result(self._assignment, epoch)
        per_class: tuple[float | None, ...]
        if isinstance(result, MatchTable):
            self._matches[epoch] = result
            max_dets = int(self._assignment.settings["metric.max_dets"])
            score, uncapped = ap50.ap50(result, max_dets), ap50.ap50(result, None)
            mean, mean_uncapped, per_class = score.mean, uncapped.mean, score.per_class
        else:
            mean, mean_uncapped, per_class = result, result, (result, None)
        report = EpochReport(
            epoch=epoch, losses={"loss": 1 / epoch}, learning_rate=0.1, ap50=mean,
            ap50_uncapped=mean_uncapped, ap50_box=mean, ap50_per_class=per_class, seconds=0.25,
            train_seconds=0.2, evaluate_seconds=0.05, images_per_second=10.0,
            peak_memory_bytes=None, steps=3, detections=7,
        )  # fmt: skip
        self.reports.append(report)
        return report

    def save(self, folder: Path) -> None:
        """Write the match tables since the last save, then the reports, each file atomically."""
        (folder / "matches").mkdir(parents=True, exist_ok=True)
        for epoch, table in self._matches.items():
            table.save(folder / "matches" / f"epoch-{epoch:04d}.npz")
        self._matches = {}
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
