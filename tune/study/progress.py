"""The progress of a command: a live table or bar in a terminal, a line for each event elsewhere."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Self

import rich.progress
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from core.console import say
from core.text import many, shown
from core.values import as_ap50, as_duration, as_loss, as_seconds, as_settings
from tune.ledger.records import State, TrialRecord

LEFT_SECONDS = 1.0
"""Seconds for which an estimate of the time left is used again. An estimate reads all epochs of a
study, and the trial that has just reported waits for it."""


class Progress:
    """Shows the trials of a search or of its confirmation as they change.

    planned    number of trials there will be
    console    the console to write to
    phase      search or confirm
    left       returns the time left of the study in a few words, given the trials as they are now;
               None to say nothing. It is called at most once in LEFT_SECONDS
    """

    def __init__(
        self,
        planned: int,
        console: Console,
        phase: Literal["search", "confirm"] = "search",
        left: Callable[[Sequence[TrialRecord]], str | None] = lambda _: None,
    ) -> None:
        self._planned = planned
        self._console = console
        self._confirms = phase == "confirm"
        self._find_left = left
        self._left: str | None = None
        self._begin = self._left_until = time.monotonic()
        self._records: Sequence[TrialRecord] = ()
        self._live = Live(
            console=console, refresh_per_second=2, get_renderable=self._table, transient=True
        )
        self._shown: dict[int, TrialRecord] = {}

    def __enter__(self) -> Self:
        self._left_until = time.monotonic()  # rich asked already, before there were trials
        if self._console.is_terminal:
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
        head = f"[{done}/{self._planned}] {self._called(record)}"
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

    def _called(self, record: TrialRecord) -> str:
        if self._confirms:
            fold = f", fold {record.settings['data.fold']}" if record.settings["data.folds"] else ""
            return f"confirming {record.name}, seed {record.settings['seed']}{fold}"
        return f"trial {record.id}" + (f" ({record.name})" if record.name else "")

    def _table(self) -> Table:
        """The live table: a row for each running trial; the title counts those that have ended."""
        done = [record for record in self._records if record.state is not State.RUNNING]
        running = [record for record in self._records if record.state is State.RUNNING]
        complete = [record for record in done if record.state is State.COMPLETE]
        best = max(complete, key=lambda record: record.ap50 or 0.0, default=None)
        what = "confirming trial" if self._confirms else "trial"
        title = f"{len(done)} of {many(self._planned, what)} done"
        if best is not None and not self._confirms:
            title += f", best AP50 {as_ap50(best.ap50)} (trial {best.id})"
        table = Table(
            title=title, caption=self._time(), title_justify="left", caption_justify="left"
        )
        for name in ("trial", "epoch", "AP50", "best", "what"):
            table.add_column(name)
        for record in running:
            curve = record.curve
            short = {name.rpartition(".")[2]: value for name, value in record.searched.items()}
            what = self._called(record) if self._confirms else record.name or as_settings(short)
            table.add_row(
                str(record.id),
                f"{len(curve)}/{record.planned_epochs}" if record.settings else "",
                as_ap50(curve[-1]) if curve else "",
                as_ap50(record.ap50) if curve else "",
                Text(shown(what)),
            )
        return table

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
