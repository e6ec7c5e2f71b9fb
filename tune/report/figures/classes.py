"""The figure of the AP50 of each class in the best trial, or in the best row of variants."""

import math

from matplotlib.figure import Figure as Canvas

from core.svg import Drawing, plain
from core.text import many
from tune.report.content import ReportContent
from tune.report.figures.intervals import IntervalLine, draw_lines, height_of
from tune.report.tables import best_row, classes_of
from tune.statistics.certainty import Interval
from tune.tables import Kind, cell_text

LEAST_ACROSS = 0.1
"""AP50 that the figure's axis reaches at least."""


def classes(content: ReportContent) -> Drawing | None:
    """AP50 of each class with its interval; None for one class, and where nothing was learned."""
    table = next((one for one in content.tables if one.name == "classes"), None)
    row = best_row(content.rows, bool(content.request.space.variants))
    if row is None or table is None or len(table.rows) < 2 or content.nothing_learned:
        return None
    marks, without = [], []
    for name, images, found in table.rows:
        if not isinstance(found, Interval):
            without.append(str(name))
            continue
        known = not math.isnan(found.low)
        marks.append(
            IntervalLine(
                f"{plain(str(name))} ({many(images, 'image')})"
                if isinstance(images, int)
                else plain(str(name)),
                found.estimate,
                found.low if known else None,
                found.high if known else None,
                cell_text(found.estimate, Kind.AP50),
            )
        )
    if not marks:
        return None
    caption = (
        f"AP50 of each class for {classes_of(row)}, at its best epoch, with 95% intervals over"
        " images. Beside each name: the validation images that hold the class, of several repeats"
        " in the one with the fewest. A class in few images has no interval, and its score may be"
        " far from that on other images."
    )
    if without:
        caption += f" Without instances in the validation images: {', '.join(without)}."

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        lengths = [mark.estimate if mark.high is None else mark.high for mark in marks]
        # From 0, with room for the whole mark of a class that scored 0, and wide enough that a
        # difference of a thousandth does not look large.
        end = 1.05 * max(LEAST_ACROSS, *lengths)
        axes.set_xlim(-0.02 * end, end)
        draw_lines(axes, marks, wide, "AP50 of the class, as measured")

    return Drawing("classes", "AP50 of each class", caption, height_of(marks), draw)
