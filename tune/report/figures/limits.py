"""The figure of the annotated instances of each class, by what became of them."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from core.svg import Drawing, colour, plain
from core.text import listed
from tune.report.class_limits import RowLimits
from tune.report.content import ReportContent
from tune.report.figures.intervals import ROW_HEIGHT, TWO_LINES_HEIGHT

_KINDS_IN_WORDS = {
    "found": ("found", "blue"),
    "called_another_class": ("called another class", "vermillion"),
    "badly_outlined": ("badly outlined", "green"),
    "not_found": ("not found", "backdrop"),
}
"""Words and colours of the kinds of instances, in the order in which they are stacked."""
_AROUND = 96.0
"""Height of what is around the bars, in the units of `core.svg.WIDE`."""


def limits(content: ReportContent) -> Drawing | None:
    """The kinds of each class's instances in the best rows; None if unknown, or nothing learned."""
    if not content.limits or content.nothing_learned:
        return None
    bars = sorted(content.limits, key=lambda one: content.classes.index(one.label))
    rows = list(dict.fromkeys(one.row for one in bars))
    words = ", ".join(word for word, _ in _KINDS_IN_WORDS.values())
    caption = (
        "Shares of each class's annotated instances in the validation images, by what became of"
        f" them. Shown: {_which(content, rows)} at the best epoch. The numbers beside a bar are its"
        f" parts in their order ({words}), in percent, and the number of instances over all"
        " repeats. A part has no interval."
    )

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        for place, one in enumerate(bars):
            _draw_bar(axes, place, one, wide)
            if place and one.label != bars[place - 1].label:
                axes.axhline(place - 0.5, color=colour("backdrop"), linewidth=0.8, zorder=1)
        names = [_label(one, len(rows) > 1) for one in bars]
        if not wide:
            for place, name in enumerate(names):
                axes.text(0, place - 0.22, plain(name, 28), va="center", ha="left")
        axes.set_yticks(range(len(bars)), [plain(name) for name in names] if wide else [])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("instances")
        handles, words = axes.get_legend_handles_labels()
        canvas.legend(
            handles[: len(_KINDS_IN_WORDS)], words[: len(_KINDS_IN_WORDS)],
            loc="outside upper left", ncols=4 if wide else 2, handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip

    def height(wide: bool) -> float:
        return _AROUND + len(bars) * (ROW_HEIGHT if wide else TWO_LINES_HEIGHT)

    return Drawing("classes", "What limited each class", caption, height, draw)


def _draw_bar(axes: Axes, place: int, one: RowLimits, wide: bool) -> None:
    left = 0.0
    for kind, (words, shade) in _KINDS_IN_WORDS.items():
        share = one.share(kind)
        axes.barh(
            place if wide else place + 0.18, share, 0.6 if wide else 0.36, left,
            color=colour(shade), edgecolor=colour("paper"), linewidth=0.8, label=words, zorder=2,
        )  # fmt: skip
        left += share
    parts = " · ".join(str(round(100 * one.share(kind))) for kind in _KINDS_IN_WORDS)
    note = f"{parts}% of {sum(one.instances.values()):,}"
    x, y = (1.02, float(place)) if wide else (1.0, place - 0.22)
    axes.text(x, y, note, va="center", ha="left" if wide else "right")


def _label(one: RowLimits, several: bool) -> str:
    return f"{one.label}: {one.row}" if several else one.label


def _which(content: ReportContent, rows: list[str]) -> str:
    """The rows of the figure, in words."""
    if len(rows) == 1:
        return rows[0]
    return f"the {len(rows)} best variants" if len(rows) < len(content.rows) else listed(rows)
