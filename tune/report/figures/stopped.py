"""The figure of when each trial ended, and why."""

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from core.svg import Drawing, colour
from tune.ledger.records import State
from tune.report.content import ReportContent
from tune.stopping.hope import BEST_PLACES, NO_HOPE


def stopped(content: ReportContent) -> Drawing | None:
    """The number of epochs of each trial, and why it ended; None if all trials are complete."""
    records = [trial.record for trial in content.trials]
    if all(record.state is State.COMPLETE for record in records):
        return None
    looks = {
        State.COMPLETE: ("ran to the end", "o", "blue", False),
        State.PRUNED: ("stopped early", "v", "ochre", True),
        State.FAIL: ("failed", "X", "vermillion", False),
        State.RUNNING: ("not ended", "D", "muted", True),
    }
    counts = {state: sum(record.state is state for record in records) for state in looks}
    hopeless = sum(
        record.state is State.PRUNED and record.reason.endswith(NO_HOPE) for record in records
    )
    continued = sum(
        record.state is State.COMPLETE and record.continued_after is not None for record in records
    )
    between = {
        State.PRUNED: f" ({hopeless} of them {NO_HOPE})" if hopeless else "",
        State.COMPLETE: (
            f" ({continued} of them continued before the confirmation, after they had been stopped"
            " early)"
            if continued
            else ""
        ),
    }
    said = ", ".join(
        f"{count} {looks[state][0]}{between.get(state, '')}"
        for state, count in counts.items()
        if count
    )
    request = content.request
    rungs = request.stopping_rule.rungs(request.max_epochs)
    caption = f"Epochs that each trial trained, in the order they were started: {said}."
    if rungs:
        at = " and ".join(map(str, rungs))
        share = f"1 in {request.stop_early.reduction}"
        caption += (
            f" Each dashed line is a rung (epoch {at}), where only the best {share} trials go on."
            " From the first rung on, a trial also ends after any epoch where it is unlikely to"
            f" reach the best {BEST_PLACES} complete trials."
        )
    caption += " These are counts, not estimates: they have no uncertainty."

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        for rung in rungs:
            axes.axhline(rung, color=colour("muted"), linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for state, (label, marker, shade, hollow) in looks.items():
            mine = [record for record in records if record.state is state]
            if not mine:
                continue
            numbers, epochs = (
                [record.id for record in mine],
                [len(record.epochs) for record in mine],
            )
            axes.vlines(numbers, 0, epochs, color=colour("backdrop"), linewidth=1.2, zorder=2)
            face = colour("paper") if hollow else colour(shade)
            axes.plot(
                numbers,
                epochs,
                marker,
                color=colour(shade),
                markerfacecolor=face,
                label=label,
                zorder=3,
            )
        axes.set_ylim(0, None)
        axes.set_xlabel("trial")
        axes.set_ylabel("epochs")
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        canvas.legend(
            loc="outside upper left", ncols=4 if wide else 2, handletextpad=0.2, columnspacing=1.2
        )

    return Drawing("stopped", "When trials ended", caption, lambda wide: 260 if wide else 280, draw)
