"""Lines with a label and a point with its interval: how differences and scores are drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from core.svg import colour, plain
from tune.report.content import MainRow
from tune.statistics.certainty import Interval

ROW_HEIGHT, TWO_LINES_HEIGHT = 25.0, 42.0
"""Heights of a line of a wide figure, and of a narrow one, whose label is above its point, in the
units of `core.svg.WIDE`."""
_AROUND = 64.0
"""Height of what is around the lines, in the same units."""
_ACROSS = 48
"""Number of characters that fit on a line of a narrow figure."""
_EDGE = 0.05
"""Fraction of the axis of a narrow figure, at each end, that has no tick."""


@dataclass(frozen=True)
class IntervalLine:
    """A line of a figure of intervals: a label, a point with its interval, a note in words.

    low, high   ends of the interval; None for a point without one
    marker      marker of the point, as matplotlib names it
    shade       name of its colour in `core.svg.COLOURS`
    hollow      whether the point is not filled
    dots        smaller points on the same line, such as single repeats
    apart       whether a rule separates the line from the one above
    """

    label: str
    estimate: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    marker: str = "o"
    shade: str = "blue"
    hollow: bool = False
    dots: tuple[float, ...] = ()
    apart: bool = False


def draw_lines(axes: Axes, lines: Sequence[IntervalLine], wide: bool, label: str) -> None:
    """Draw lines; labels stand at the left, in a narrow figure above the points.

    label   label of the horizontal axis
    """
    lift = 0.0 if wide else 0.2
    for place, mark in enumerate(lines):
        y = place + lift
        shade = colour(mark.shade)
        if mark.apart and place:
            axes.axhline(
                place - (0.5 if wide else 0.68), color=colour("backdrop"), linewidth=0.8, zorder=1
            )
        if mark.dots:
            face = colour("paper")
            axes.plot(
                mark.dots,
                [y] * len(mark.dots),
                "o",
                color=shade,
                markerfacecolor=face,
                markersize=4,
                zorder=2.5,
            )
        if mark.low is not None and mark.high is not None:
            axes.plot([mark.low, mark.high], [y, y], color=shade, linewidth=2, zorder=2)
        face = colour("paper") if mark.hollow else shade
        axes.plot(
            mark.estimate, y, mark.marker, color=shade, markerfacecolor=face, markersize=7, zorder=3
        )
        if not wide:
            label_above = plain(mark.label, _ACROSS - len(mark.note))
            axes.text(
                0,
                y - 0.42,
                label_above,
                transform=axes.get_yaxis_transform(),
                va="center",
                ha="left",
            )
        beside = (1.02, y) if wide else (1.0, y - 0.42)
        axes.text(
            *beside,
            mark.note,
            transform=axes.get_yaxis_transform(),
            va="center",
            ha="left" if wide else "right",
        )
    axes.set_yticks(range(len(lines)), [mark.label for mark in lines] if wide else [])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    if not wide:  # nothing stands left of the axis, where half of a label at its end would be cut
        low, high = axes.get_xlim()
        edge = _EDGE * (high - low)
        axes.set_xticks([at for at in axes.get_xticks() if low + edge <= at <= high - edge])


def height_of(lines: Sequence[IntervalLine]) -> Callable[[bool], float]:
    """The height of a figure with these lines, as `Drawing.height` is given it."""
    return lambda wide: _AROUND + len(lines) * (ROW_HEIGHT if wide else TWO_LINES_HEIGHT)


def interval_ends(interval: Interval | None) -> tuple[float | None, float | None]:
    """The ends of an interval, as `IntervalLine` takes them."""
    return (None, None) if interval is None else (interval.low, interval.high)


def without_interval(rows: Sequence[MainRow]) -> str:
    """The last sentence of a caption, which names the rows without interval; empty if none is."""
    missing = [row.name for row in rows if row.interval is None]
    return (
        f" No interval is known for {', '.join(missing)}: match tables are missing."
        if missing
        else ""
    )
