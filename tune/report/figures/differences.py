"""The figure of the main comparison: the difference of each row to its counterpart."""

import math

from matplotlib.figure import Figure as Canvas

from core.svg import Drawing, colour, plain
from tune.report.content import ReportContent
from tune.report.figures.intervals import IntervalLine, draw_lines, height_of
from tune.statistics.certainty import Verdict
from tune.tables import Kind, cell_text


def differences(content: ReportContent) -> Drawing | None:
    """The difference of each row to its counterpart; None where nothing is compared."""
    rows = [row for row in content.rows if row.difference is not None]
    if not rows:
        return None
    partners = {row.compared_with for row in rows}
    only = partners.pop() if len(partners) == 1 else None
    looks = {Verdict.BETTER: ("^", "green", False), Verdict.WORSE: ("v", "vermillion", False)}
    marks = []
    for row in rows:
        assert row.difference is not None
        marker, shade, hollow = looks.get(row.difference.verdict, ("o", "muted", True))
        between = (
            plain(row.name)
            if only
            else f"{plain(row.name, 20)} vs {plain(str(row.compared_with), 20)}"
        )
        note = row.verdict + (" (confounded)" if row.confounds else "")
        found = row.difference
        marks.append(
            IntervalLine(
                between, found.estimate, found.low, found.high, note, marker, shade, hollow
            )
        )
    smallest = content.smallest_difference.value
    to = f"to {plain(only)}" if only else "to what each row is compared with"
    caption = (
        f"Difference in validation AP50 {to}, over the same images and the same seeds, with its 95%"
        " interval. Right of the line the row scored higher. An interval that crosses the line"
        " means that the data cannot tell. The word at the right is the verdict, which takes into"
        " account how many comparisons the table makes."
    )
    if smallest is not None and math.isfinite(smallest):
        caption += (
            f" The grey zone reaches {cell_text(smallest, Kind.AP50)} to either side: a true"
            " difference inside it would be missed more often than once in five."
        )
    if any(row.confounds for row in rows):
        caption += (
            " Confounded: more differs between the two than the name says, so the difference has no"
            " one cause."
        )

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        if smallest is not None and math.isfinite(smallest):
            axes.axvspan(-smallest, smallest, color=colour("faint"), linewidth=0, zorder=0)
        axes.axvline(0, color=colour("muted"), linewidth=1.2, zorder=1)
        draw_lines(axes, marks, wide, f"difference in AP50 {to}")

    return Drawing("comparison", "Differences", caption, height_of(marks), draw)
