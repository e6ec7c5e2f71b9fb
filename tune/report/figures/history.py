"""The figure of a search's history: the best AP50 so far, and what the confirmation said later."""

from itertools import accumulate

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from core.svg import Drawing, colour
from tune.ledger.records import State
from tune.report.content import ReportContent


def history(content: ReportContent) -> Drawing | None:
    """AP50 of each trial in the order of their numbers; None for variants, whose order means
    nothing, before two trials are complete, and where nothing was learned.
    """
    records = [trial.record for trial in content.trials if trial.record.ap50 is not None]
    complete = [one for one in records if one.state is State.COMPLETE]
    stopped = [one for one in records if one.state is State.PRUNED]
    if content.request.space.variants or len(complete) < 2 or content.nothing_learned:
        return None
    scores = {one.id: one.ap50 or 0.0 for one in complete}
    best = list(accumulate(scores.values(), max))
    confirmed = (
        {}
        if content.choice is None
        else {content.candidates[name]: max(curve) for name, curve in content.choice.curves.items()}
    )
    caption = (
        "AP50 of each trial as measured in the search; the line is the best so far of the trials"
        " that ran to their end."
    )
    if confirmed:
        caption += (
            " Squares: the same settings on fresh seeds and splits, joined to their trial. They lie"
            " lower on average, because the search's best is partly the luckiest."
        )
    else:
        caption += " The best of many scores is too high on average."
    if stopped:
        caption += " Hollow: trials that were stopped early, at the best AP50 they had reached."
    caption += (
        " The figure of AP50 by trial has the interval of each score; steps of the line that are"
        " much smaller than it mean nothing."
    )

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        axes.step(
            list(scores), best, where="post", color=colour("blue"), zorder=2, label="best so far"
        )
        axes.plot(
            list(scores), list(scores.values()), "o", color=colour("blue"), markersize=5,
            label="ran to the end", zorder=3,
        )  # fmt: skip
        if stopped:
            axes.plot(
                [one.id for one in stopped], [one.ap50 or 0.0 for one in stopped], "v",
                color=colour("muted"), markerfacecolor=colour("paper"), markersize=5,
                label="stopped early", zorder=2.5,
            )  # fmt: skip
        if confirmed:
            for number, score in confirmed.items():
                axes.plot(
                    [number, number], [scores[number], score], color=colour("vermillion"),
                    linewidth=1, linestyle=(0, (3, 2)), zorder=1.5,
                )  # fmt: skip
            axes.plot(
                list(confirmed), list(confirmed.values()), "s", color=colour("vermillion"),
                markersize=6.5, label="on fresh seeds and splits", zorder=4,
            )  # fmt: skip
        axes.set_xlabel("trial")
        axes.set_ylabel("validation AP50")
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        canvas.legend(
            loc="outside upper left", ncols=4 if wide else 2, handletextpad=0.4, columnspacing=1.2
        )

    return Drawing(
        "history", "History of the search", caption, lambda wide: 300 if wide else 320, draw
    )
