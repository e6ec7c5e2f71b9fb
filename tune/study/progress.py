"""The progress of a command: a live table or bar in a terminal, a line for each event elsewhere."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import rich.progress
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from core.config import Value
from core.console import say
from core.text import listed, many, shown
from core.values import as_ap50, as_duration, as_loss, as_seconds, as_settings, as_tenths
from tune.ledger.records import State, TrialRecord, best_of
from tune.processes import deaf_to_sigterm

if TYPE_CHECKING:
    from tune.statistics.certainty import Interval  # a status is shown before this is imported

LEFT_SECONDS = 1.0
"""Seconds for which an estimate of the time left is used again. An estimate reads all epochs of a
study, and the trial that has just reported waits for it."""
EPOCH_LINES = 10
"""Largest number of lines on the epochs of one trial where the output is not a terminal, apart from
that of its first epoch: a log of a long search stays readable."""
CURVE = 16
"""Largest number of characters of a curve; in a longer one neighbouring epochs share one."""
WIDE_TERMINAL = 100
"""Number of columns; in a narrower terminal curves have half as many characters."""
_BARS = "▁▂▃▄▅▆▇█"
STATES = (
    (State.COMPLETE, "complete"),
    (State.PRUNED, "stopped early"),
    (State.FAIL, "failed"),
    (State.RUNNING, "running"),
)
"""The states of trials with their words, in the order in which they are counted."""


class Progress:
    """Shows the trials of a search or of its confirmation as they change.

    planned    number of trials there will be
    console    the console to write to
    phase      search or confirm
    left       returns the time left of the study in a few words, given the trials as they are now;
               None to say nothing. It is called at most once in LEFT_SECONDS
    sure       returns the interval of a trial's AP50, None where it is not known. In a terminal it
               is called once for each trial that is the best so far
    """

    def __init__(
        self,
        planned: int,
        console: Console,
        phase: Literal["search", "confirm"] = "search",
        left: Callable[[Sequence[TrialRecord]], str | None] = lambda _: None,
        sure: "Callable[[TrialRecord], Interval | None]" = lambda _: None,
    ) -> None:
        self._planned = planned
        self._console = console
        self._confirms = phase == "confirm"
        self._find_left, self._find_interval = left, sure
        self._best: tuple[int, Interval | None] | None = None
        self._left: str | None = None
        self._begin = self._left_until = time.monotonic()
        self._records: Sequence[TrialRecord] = ()
        self._live = Live(
            console=console, refresh_per_second=2, get_renderable=self.view, transient=True
        )
        self._shown: dict[int, TrialRecord] = {}

    def __enter__(self) -> Self:
        self._left_until = time.monotonic()  # rich asked already, before there were trials
        if self._console.is_terminal:
            with deaf_to_sigterm():  # as the tracker's thread is
                self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, records: Sequence[TrialRecord], changed: TrialRecord | None = None) -> None:
        """Show all trials as they are now.

        changed   the trial that has news; None if none has
        """
        self._records = records
        if changed is None or self._console.is_terminal:
            return
        line = self._line(changed, self._shown.get(changed.id))
        self._shown[changed.id] = changed
        if line:
            say(self._console, line)

    def say(self, line: str) -> None:
        """Print a line, in a terminal above the table."""
        say(self._console, line)

    def _line(self, record: TrialRecord, before: TrialRecord | None) -> str | None:
        """One line on what is new about a trial; None if nothing is.

        before   the trial as it was shown last; None if it is new
        """
        done = sum(other.state is not State.RUNNING for other in self._records)
        head = f"[{done}/{self._planned}] {_called(record, self._confirms)}"
        if record.state is State.FAIL:
            return f"{head} failed: {record.reason}"
        if before is not None and record.lost + record.spared > before.lost + before.spared:
            return f"{head} will go on after epoch {len(record.epochs)}: {record.reason}"
        if before is None or record.attempts > before.attempts:
            if record.attempts > 1:
                return f"{head} goes on after epoch {len(record.epochs)}, attempt {record.attempts}"
            return (
                f"{head} starts: {as_settings(record.searched) or 'all settings at their defaults'}"
            )
        if len(record.epochs) == len(before.epochs) and record.state is before.state:
            return None
        last = record.epochs[-1]
        if record.state is State.RUNNING and not _has_a_line(record):
            return None
        text = (
            f"{head} epoch {len(record.epochs)}/{record.planned_epochs}: loss"
            f" {as_loss(last['losses']['loss'])}, AP50 {as_ap50(last['ap50'])},"
            f" {as_seconds(last['seconds'])}"
        )
        if record.state is State.PRUNED:
            text += f"; {record.reason}"
        elif record.state is State.COMPLETE:
            text += f"; complete, AP50 {as_ap50(record.ap50)}"
        left = self._time_left()
        return f"{text}; {left}" if left else text

    def view(self) -> RenderableType:
        """The live view: trials by state, the best one, a row for each running trial, the time."""
        lines = [counts_line(self._records, self._planned, self._confirms), *self._best_so_far()]
        running = [record for record in self._records if record.state is State.RUNNING]
        shown_lines = (Text(shown(line), overflow="ellipsis", no_wrap=True) for line in lines)
        signs = CURVE if self._console.width >= WIDE_TERMINAL else CURVE // 2
        table = [running_table(running, self._confirms, signs)] if running else []
        return Group(*shown_lines, *table, Text(self._time()))

    def _best_so_far(self) -> Sequence[str]:
        """A line on the best complete trial with its interval; none in a confirmation."""
        best = best_of(self._records)
        if best is None or self._confirms:
            return []
        if self._best is None or self._best[0] != best.id:
            self._best = best.id, self._find_interval(best)
        return [best_line(best, self._best[1])]

    def _time(self) -> str:
        """The time so far, and the time left, in words."""
        passed = as_duration(time.monotonic() - self._begin)
        left = self._time_left()
        return f"{passed} so far, {left}" if left else f"{passed} so far"

    def _time_left(self) -> str | None:
        if time.monotonic() >= self._left_until:
            self._left = self._find_left(self._records)
            self._left_until = time.monotonic() + LEFT_SECONDS
        return self._left


def counts_line(
    records: Sequence[TrialRecord],
    planned: int | None,
    confirms: bool = False,
    driven: bool = True,
) -> str:
    """The numbers of trials by state, and of those that have not begun.

    planned    number of trials there will be; None where it is not known
    confirms   whether they are the trials of a confirmation
    driven     whether a living process drives the study, without which nothing runs
    """
    counts = [
        (
            sum(record.state is state for record in records),
            word if driven or state is not State.RUNNING else "to be continued",
        )
        for state, word in STATES
    ]
    total = len(records) if planned is None else planned
    waiting = max(0, total - len(records))
    said = [f"{count} {word}" for count, word in (*counts, (waiting, "waiting")) if count]
    so_far = " so far" if planned is None else ""
    what = f"{many(total, 'confirming trial' if confirms else 'trial')}{so_far}"
    return f"{what}: {listed(said)}" if said else what


def best_line(best: TrialRecord, sure: "Interval | None") -> str:
    """A line on the best complete trial of a search, with its interval where that is known."""
    between = "" if sure is None else f" ({as_ap50(sure.low, 2)} to {as_ap50(sure.high, 2)})"
    what = best.name or as_settings(_short(best)) or "all settings at their defaults"
    return f"best so far: trial {best.id}, AP50 {as_ap50(best.ap50)}{between}: {what}"


def running_table(
    running: Sequence[TrialRecord], confirms: bool = False, signs: int = CURVE
) -> Table:
    """A row for each running trial; memory has a column where it is known.

    confirms   whether they are the trials of a confirmation
    signs      largest number of characters of a curve
    """
    memory = any(record.epochs and _gib(record) for record in running)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("trial", "epoch", "AP50", "best", "curve", "per epoch"):
        table.add_column(name, no_wrap=True, justify="left" if name == "curve" else "right")
    if memory:
        table.add_column("GPU memory", no_wrap=True, justify="right")
    table.add_column("left", no_wrap=True, justify="right")
    # In a narrow terminal this column alone is cut.
    table.add_column("settings", overflow="ellipsis", ratio=1)
    for record in running:
        curve = record.curve
        what = _called(record, True) if confirms else record.name or as_settings(_short(record))
        pace = _epoch_seconds(record)
        to_go = (record.planned_epochs - len(curve)) if record.settings else 0
        table.add_row(
            str(record.id),
            f"{len(curve)}/{record.planned_epochs}" if record.settings else "",
            as_ap50(curve[-1]) if curve else "",
            as_ap50(record.ap50) if curve else "",
            sparkline(curve, signs),
            as_seconds(pace) if pace is not None else "",
            *([_gib(record) or ""] if memory else []),
            as_duration(pace * to_go) if pace is not None else "",
            Text(shown(what), no_wrap=True, overflow="ellipsis"),
        )
    return table


def _called(record: TrialRecord, confirms: bool) -> str:
    if confirms:
        fold = f", fold {record.settings['data.fold']}" if record.settings["data.folds"] else ""
        return f"confirming {record.name}, seed {record.settings['seed']}{fold}"
    return f"trial {record.id}" + (f" ({record.name})" if record.name else "")


def sparkline(curve: Sequence[float], most: int = CURVE) -> str:
    """A curve as at most `most` bars from 0 to its highest value; each is the mean of its
    epochs. Where all is 0 the bars are the lowest.
    """
    if not curve:
        return ""
    signs = min(most, len(curve))
    edges = [round(place * len(curve) / signs) for place in range(signs + 1)]
    means = [statistics.fmean(curve[low:high]) for low, high in itertools.pairwise(edges)]
    highest = max(means)
    top = len(_BARS) - 1
    return "".join(_BARS[round(top * mean / highest) if highest > 0 else 0] for mean in means)


def _has_a_line(record: TrialRecord) -> bool:
    """Whether the last epoch of a running trial is written to a log: see EPOCH_LINES."""
    every = math.ceil(record.planned_epochs / EPOCH_LINES)
    return len(record.epochs) == 1 or len(record.epochs) % every == 0


def _short(record: TrialRecord) -> dict[str, Value]:
    """The searched settings by the last parts of their names, which fit into a terminal."""
    return {name.rpartition(".")[2]: value for name, value in record.searched.items()}


def _epoch_seconds(record: TrialRecord) -> float | None:
    """The median seconds of a trial's last epochs; None before its first."""
    last = [float(epoch["seconds"]) for epoch in record.epochs[-5:]]
    return statistics.median(last) if last else None


def _gib(record: TrialRecord) -> str:
    """The largest GPU memory of a trial's last epoch; empty where it is not measured."""
    peak = record.epochs[-1].get("peak_memory_bytes") if record.epochs else None
    return f"{as_tenths(peak / 2**30)} GiB" if peak else ""


class Steps:
    """A progress bar for steps of work in a terminal; elsewhere only the lines of `say`.

    what    name of the work, shown before the bar
    total   number of steps
    unit    name of a step, shown before "3/50"; empty to show the percentage alone
    """

    def __init__(self, console: Console, what: str, total: int, unit: str) -> None:
        self._console = console
        columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
        columns += [TextColumn(f"{unit} {{task.fields[step]}}/{total}")] if unit else []
        self._bar = rich.progress.Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True
        )
        self._total = total
        self._task = self._bar.add_task(what, total=total, step=min(1, total))

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def at(self, done: float) -> None:
        """Show that `done` steps are done; its fraction is the done part of the present step."""
        self._bar.update(self._task, completed=done, step=min(int(done) + 1, self._total))

    def say(self, line: str) -> None:
        """Print a line, in a terminal above the bar."""
        say(self._console, line)
