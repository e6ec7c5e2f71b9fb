"""The figure of AP50 of each row of the main table, with its interval."""

from matplotlib.figure import Figure as Canvas

from core.svg import Drawing, plain
from tune.report.content import MainRow, ReportContent
from tune.report.figures.intervals import (
    IntervalLine,
    draw_lines,
    height_of,
    interval_ends,
    without_interval,
)
from tune.tables import Kind, cell_text

MOST_NAMED_TRIALS = 12
"""Largest number of trials of a sampled study that are shown by name; variants are all shown."""


def scores(content: ReportContent) -> Drawing | None:
    """AP50 of each row with its interval; None without a row, or where nothing was learned."""
    rows = content.rows if content.request.space.variants else content.rows[:MOST_NAMED_TRIALS]
    if not rows or content.nothing_learned:
        return None
    marks = [
        IntervalLine(
            plain(row.name),
            row.ap50,
            *interval_ends(row.interval),
            cell_text(row.ap50, Kind.AP50),
            shade="blue",
            dots=_scores_of(content, row) if len(row.trials) > 1 else (),
        )
        for row in rows
    ]
    what = (
        "each variant"
        if content.request.space.variants
        else f"the best {len(rows)} trials that ran to their end"
    )
    if len(rows) == len(content.rows) and not content.request.space.variants:
        what = "every trial that ran to its end"
    caption = (
        f"Validation AP50 of {what}, at the best epoch, less the luck of having chosen it, with its"
        " 95% interval over images"
    )
    if any(len(row.trials) > 1 for row in rows):
        caption += " and seeds. Small circles are the single repeats"
    caption += (
        ". Each interval is for that score by itself. Whether two rows differ is shown by their"
        " paired difference, which can be clear although the intervals overlap, because both were"
        " scored on the same images."
    )
    caption += without_interval(rows)

    def draw(canvas: Canvas, wide: bool) -> None:
        draw_lines(canvas.subplots(), marks, wide, "validation AP50")

    return Drawing("comparison", "AP50 and how sure it is", caption, height_of(marks), draw)


def _scores_of(content: ReportContent, row: MainRow) -> tuple[float, ...]:
    return tuple(trial.honest for trial in content.trials if trial.record.id in row.trials)
