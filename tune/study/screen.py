"""The words of `tune.status`: a study as it stands, on one screen or on one line."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from core.text import listed, many, shown
from core.values import as_ap50, as_duration, as_settings
from tune.ledger.records import State, TrialRecord
from tune.redaction import without_password
from tune.study.duration import time_left
from tune.study.progress import best_line, counts_line, running_table
from tune.study.standing import Standing

if TYPE_CHECKING:
    from tune.statistics.certainty import Interval  # brings torch and SciPy

REASONS = 5
"""Largest number of reasons of failures that a screen shows."""
ANSWERED = 3
"""Largest number of orders by people that a screen shows after the driver has answered them."""


def study_screen(standing: Standing) -> list[RenderableType]:
    """The screen of a study, but for its best trial (see `best_sentence`)."""
    where = "not reached from here" if standing.folder is None else str(standing.folder.path)
    lines = [
        f"Study {standing.name}: files {where}, ledger {without_password(standing.storage)}",
        driver_sentence(standing),
        counts_line(standing.searched.records, standing.planned, driven=standing.is_driven),
    ]
    if standing.searched.warm_start is not None:
        lines.insert(1, f"Warm start: {standing.searched.warm_start.line}")
    parts: list[RenderableType] = [*map(_line, lines)]
    parts += _running(standing, standing.searched.records)
    if standing.confirmed is not None:
        records = [one for one in standing.confirmed.records if one.state is not State.PRUNED]
        parts.append(
            _line(
                counts_line(records, standing.to_confirm, confirms=True, driven=standing.is_driven)
            )
        )
        parts += _running(standing, records, confirms=True)
    pace = [sentence for sentence in (_rate(standing), time_left(standing.left)) if sentence]
    if pace and standing.is_driven:
        parts.append(_line("; ".join(pace)))
    return parts + [_line(line) for line in (*failure_lines(standing), *order_lines(standing))]


def _line(text: str) -> Text:
    return Text(shown(text))


def _running(
    standing: Standing, records: Sequence[TrialRecord], confirms: bool = False
) -> list[RenderableType]:
    """The table of the trials that have not ended; none if nobody drives the study."""
    running = [record for record in records if record.state is State.RUNNING]
    return [running_table(running, confirms)] if running and standing.is_driven else []


def _rate(standing: Standing) -> str | None:
    rate = standing.rate
    if rate is None:
        return None
    return f"{many(round(rate.an_hour), 'epoch')} an hour over {as_duration(rate.seconds)}"


def driver_sentence(standing: Standing) -> str:
    """A sentence on the process that drives a study, or on how its last run ended."""
    holder, run = standing.holder, standing.run
    if holder is not None:
        who = f"process {holder.pid} on host {holder.host}"
        ago = f"{as_duration(max(0.0, holder.silence))} ago"
        if not holder.is_alive:
            return (
                f"Not driven: {who} died, last heartbeat {ago}; the search's command continues the"
                " study"
            )
        same = run is not None and (run.pid, run.host) == (holder.pid, holder.host)
        since = f" since {_clock(run.since)}" if run is not None and same and not run.ended else ""
        return f"Driven by {who}{since}, last heartbeat {ago}"
    if standing.finished:
        when = "" if run is None or run.ended is None else f" at {_clock(run.ended)}"
        return f"Finished{when}"
    if run is not None and run.ended is not None:
        return (
            f"Not driven: its last run ended at {_clock(run.ended)} ({run.end}); the search's"
            " command continues the study"
        )
    return "Not driven: the search's command continues the study"


def _clock(milliseconds: int) -> str:
    """A time in the words of this machine's clock: `2026-11-30 21:15`."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M")


def failure_lines(standing: Standing) -> list[str]:
    """A line for each reason of failed trials, the most frequent first."""
    lines = []
    for what, records in (
        ("trial", standing.searched.records),
        ("confirming trial", () if standing.confirmed is None else standing.confirmed.records),
    ):
        failed = [record for record in records if record.state is State.FAIL]
        reasons = Counter(record.reason for record in failed).most_common()
        for reason, count in reasons[:REASONS]:
            numbers = [str(one.id) for one in failed if one.reason == reason]
            some = [*numbers[:REASONS], *(["others"] if count > REASONS else [])]
            plural = what if count == 1 else f"{what}s"
            lines.append(f"failed: {plural} {listed(some)}: {reason}")
        if len(reasons) > REASONS:
            lines.append(f"failed: {many(len(reasons) - REASONS, 'further reason')}")
    return lines


def order_lines(standing: Standing) -> list[str]:
    """A line on each order that waits for the driver, and on the last ones that it answered."""
    answered = [order for order in standing.orders if order.answer is not None]
    waiting = [order for order in standing.orders if order.answer is None]
    lines = []
    for order in [*answered[-ANSWERED:], *waiting]:
        head = f"asked: {order.asked}, by {order.by} at {_clock(order.at)}"
        if order.answer is not None:
            lines.append(f"{head}: {'' if order.answer.done else 'refused, '}{order.answer.said}")
        elif standing.is_driven:
            lines.append(f"{head}: the driver obeys within one epoch")
        else:
            lines.append(
                f"{head}: the next driver obeys, when the search's command continues the study"
            )
    return lines


def best_sentence(standing: Standing, sure: "Interval | None" = None) -> str | None:
    """A line on the best complete trial; None before one is complete.

    sure   its interval, where it is known

    Where the match tables cannot be reached the line says so.
    """
    best = standing.searched.best
    if best is None:
        return None
    line = best_line(best, sure)
    if sure is None and standing.folder is None:
        run = standing.run
        where = "" if run is None else f": they are in {run.folder} on host {run.host}"
        line += f" (no interval, because the match tables cannot be reached from here{where})"
    return line


def one_line(standing: Standing) -> str:
    """A study on one line: its trials, the best of them, and who drives it."""
    best = standing.searched.best
    counts = counts_line(standing.searched.records, standing.planned, driven=standing.is_driven)
    parts = [f"{standing.name}: {counts}"]
    if standing.confirmed is not None:
        ended = sum(one.state in (State.COMPLETE, State.FAIL) for one in standing.confirmed.records)
        parts.append(f"{ended} of {many(standing.to_confirm, 'confirming trial')} ended")
    if best is not None:
        parts.append(f"best AP50 {as_ap50(best.ap50)} (trial {best.id})")
    return "; ".join([*parts, driver_sentence(standing)])


def as_document(standing: Standing, sure: "Interval | None" = None) -> dict[str, Any]:
    """A study as it stands, as JSON types for scripts."""
    best, holder, run, rate, left = (
        standing.searched.best,
        standing.holder,
        standing.run,
        standing.rate,
        standing.left,
    )
    orders = [
        {"asked": one.asked, "by": one.by, "at_ms": one.at}
        | {"answer": None if one.answer is None else asdict(one.answer)}
        for one in standing.orders
    ]
    return {
        "study": standing.name,
        "finished": standing.finished,
        "planned": standing.planned,
        "warm_start": None if (warm := standing.searched.warm_start) is None else warm.line,
        "trials": _states(standing.searched.records),
        "confirming": None
        if standing.confirmed is None
        else {"planned": standing.to_confirm, "trials": _states(standing.confirmed.records)},
        "best": None
        if best is None
        else {
            "trial": best.id,
            "name": best.name,
            "ap50": best.ap50,
            "low": None if sure is None else sure.low,
            "high": None if sure is None else sure.high,
            "settings": dict(best.searched),
        },
        "driver": None
        if holder is None
        else {
            "pid": holder.pid,
            "host": holder.host,
            "alive": holder.is_alive,
            "seconds_since_heartbeat": holder.silence,
        },
        "last_run": None
        if run is None
        else {"since_ms": run.since, "ended_ms": run.ended}
        | {"end": run.end, "host": run.host, "folder": run.folder},
        "epochs_an_hour": None if rate is None else rate.an_hour,
        "seconds_left": None if left is None else [left.low, left.high],
        "running": [
            {
                "trial": one.id,
                "epochs": len(one.epochs),
                "planned_epochs": one.planned_epochs,
                "ap50": one.ap50,
                "settings": as_settings(one.searched),
            }
            for one in standing.searched.records
            if one.state is State.RUNNING and one.settings
        ],
        "orders": orders,
        "failed": [
            {"trial": one.id, "reason": one.reason}
            for one in standing.searched.records
            if one.state is State.FAIL
        ],
    }


def _states(records: Sequence[TrialRecord]) -> dict[str, int]:
    return {state.value: sum(one.state is state for one in records) for state in State}
