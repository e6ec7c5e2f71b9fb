"""The limits that end a run of a study before its last trial: time, other budgets, an order.

Epochs and GPU hours are counted over all runs of a study, confirmation included, from what the
ledger holds; GPU hours include the time of epochs that were lost with their worker. An epoch that
has begun counts before it ends, so no more than the budget is trained.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from core.interrupts import interrupted
from core.text import many
from core.values import as_hours
from tune.ledger.records import TrialRecord
from tune.request.request import Resources
from tune.study.duration import Span


@dataclass(frozen=True)
class Spent:
    """The cost of trials.

    epochs      epochs that were trained
    gpu_hours   hours inside epochs, lost ones included, times the part of a GPU that was held
    """

    epochs: int
    gpu_hours: float


def spent_on(records: Iterable[TrialRecord]) -> Spent:
    """The cost of these trials so far."""
    epochs, hours = 0, []
    for record in records:
        epochs += len(record.epochs)
        hours.append(record.gpu_hours)
    return Spent(epochs, math.fsum(hours))


@dataclass
class Limits:
    """The limits of one run, which its phases share.

    deadline     a time of `time.monotonic` after which no epoch begins; None for no limit
    epochs       largest number of epochs of the whole study; None for no limit
    gpu_hours    largest number of GPU hours of the whole study; None for no limit
    drained_by   who asked that the run end after the running epochs; empty if nobody did
    used_up      a clause on the budget that ended the run; empty if none did
    """

    deadline: float | None = None
    epochs: int | None = None
    gpu_hours: float | None = None
    drained_by: str = ""
    used_up: str = ""

    @property
    def until(self) -> float | None:
        """Seconds until the deadline; None for no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def reached(self) -> bool:
        """Whether no attempt and no epoch may begin any more, whatever the other budgets say."""
        return bool(self.drained_by) or self.until == 0.0 or interrupted()

    @property
    def has_budget(self) -> bool:
        """Whether epochs or GPU hours are limited."""
        return self.epochs is not None or self.gpu_hours is not None

    def allows(self, spent: Spent, running: int, more: int = 1) -> bool:
        """Whether the budgets leave room for further epochs.

        running   number of epochs that run and are not in `spent`
        more      number of further epochs
        """
        return not self._exceeded(spent, running + more)

    def _exceeded(self, spent: Spent, further: int) -> str:
        """A clause on the budget that `further` epochs would exceed; empty if none."""
        if self.epochs is not None and spent.epochs + further > self.epochs:
            return (
                f"{spent.epochs:,} of its budget of {many(self.epochs, 'epoch')} are trained, and"
                " no more fit into it; a larger --epoch-budget continues"
            )
        if self.gpu_hours is not None:
            each = spent.gpu_hours / spent.epochs if spent.epochs else 0.0
            if spent.gpu_hours >= self.gpu_hours or (
                spent.gpu_hours + further * each > self.gpu_hours
            ):
                return (
                    f"{as_hours(spent.gpu_hours)} of its budget of {as_hours(self.gpu_hours)} GPU"
                    " hours are spent, and no further epoch fits into it; a larger"
                    " --gpu-hour-budget continues"
                )
        return ""

    def note_used_up(self, spent: Spent, more: int) -> None:
        """Record the budget that ends the run, if `more` further epochs would exceed one."""
        self.used_up = self._exceeded(spent, more)

    @property
    def why(self) -> str:
        """The reason for which a run that is not finished ended, as a clause."""
        if self.drained_by:
            return f"{self.drained_by} asked it to end after the running epochs"
        return self.used_up or "the time budget was used up"


def budget_lines(
    resources: Resources, spent: Spent, epochs: Span, hours: Span | None, on_gpu: bool
) -> list[str]:
    """A line on each budget of a study: whether it is enough for what is left.

    epochs   the epochs that the study still takes
    hours    the GPU hours that it still takes; None where they are not known
    """
    lines = []
    if resources.epoch_budget is not None:
        rest = resources.epoch_budget - spent.epochs
        low, high = math.ceil(epochs.low), math.ceil(epochs.high)
        takes = f"{low:,} to {high:,}" if low < high else f"{high:,}"
        lines.append(
            f"Budget: {many(resources.epoch_budget, 'epoch')}, {spent.epochs:,} of them trained;"
            f" the rest of the study takes {takes}, so {_enough(rest, Span(low, high), 'epoch')}"
        )
    if resources.gpu_hour_budget is not None:
        budget = resources.gpu_hour_budget
        begin = f"Budget: {as_hours(budget)} GPU hours, {as_hours(spent.gpu_hours)} of them spent"
        if not on_gpu:
            lines.append(f"{begin}; trials run on processors here, which it does not limit")
        elif hours is None:
            lines.append(f"{begin}; how many the study takes is not known before an epoch has run")
        else:
            takes = f"{as_hours(hours.low)} to {as_hours(hours.high)}"
            enough = _enough(budget - spent.gpu_hours, hours, "gpu-hour")
            lines.append(f"{begin}; the rest of the study takes {takes}, so {enough}")
    return lines


def _enough(rest: float, left: Span, option: str) -> str:
    """A clause on whether the rest of a budget is enough for what is left."""
    if rest >= left.high:
        return "the budget is enough"
    ends = "ends the study early" if rest < left.low else "may end the study early"
    return f"the budget {ends}; the same command with a larger --{option}-budget continues"
