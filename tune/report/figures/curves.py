"""The figures of AP50 and loss after each epoch: the best rows by name, others as a backdrop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from core.svg import DASHES, MARKERS, SERIES, Drawing, colour, plain
from tune.ledger.records import TrialRecord
from tune.report.content import MainRow, ReportContent
from tune.report.figures.intervals import interval_ends, without_interval
from tune.tables import Kind, cell_text

HIGHLIGHTED = 5
"""Largest number of rows whose curves have a name and a colour, without the baseline."""
BACKDROP = 150
"""Largest number of curves in the backdrop: more would be one grey mass."""


def ap50_curves(content: ReportContent) -> Drawing | None:
    """AP50 after each epoch; None before the first epoch, and where nothing was learned."""
    shown = _series(content, lambda record: record.curve)
    if not shown or content.nothing_learned:
        return None
    caption = (
        f"Validation AP50 after each epoch: {_whose(content, shown)} {_bands(shown)} At the right,"
        " the AP50 of the best epoch with its 95% interval, in the same colours and markers. The"
        " luck of having picked that epoch on the same images is subtracted, so these points may"
        " lie below the curves' peaks. A step from one epoch to the next that is much smaller than"
        " these intervals means"
        f" nothing.{without_interval([one.row for one in shown if one.row is not None])}"
    )

    def draw(canvas: Canvas, wide: bool) -> None:
        curves, best = canvas.subplots(1, 2, sharey=True, width_ratios=[5 if wide else 3, 1])
        _draw_curves(canvas, curves, shown, wide, "validation AP50")
        named = [one for one in shown if one.row is not None]
        for place, one in enumerate(named):
            assert one.row is not None
            low, high = interval_ends(one.row.interval)
            shade = colour(SERIES[one.look])
            if low is not None and high is not None:
                best.plot([place, place], [low, high], color=shade, linewidth=1.8)
            best.plot(place, one.row.ap50, MARKERS[one.look], color=shade, markersize=6)
        best.set_xlim(-0.7, len(named) - 0.3)
        best.set_xticks([])
        best.set_xlabel("best\nepoch")
        best.spines["left"].set_visible(False)
        best.tick_params(left=False)

    return Drawing(
        "training", "AP50 while training", caption, lambda wide: 380 if wide else 430, draw
    )


def loss_curves(content: ReportContent) -> Drawing | None:
    """Training loss of each epoch; None before the first epoch."""
    shown = _series(
        content, lambda record: [float(epoch["losses"]["loss"]) for epoch in record.epochs]
    )
    if not shown:
        return None
    caption = (
        "Training loss, the sum of all terms, mean over the images of each epoch:"
        f" {_whose(content, shown)} {_bands(shown)} A loss has no interval over validation images."
        " It says whether training went well, not which settings are better: augmentation raises"
        " the loss and may still improve AP50."
    )
    values = [value for one in shown for curve in one.curves for value in curve]

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        _draw_curves(canvas, axes, shown, wide, "training loss")
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")

    return Drawing(
        "training", "Loss while training", caption, lambda wide: 340 if wide else 400, draw
    )


@dataclass(frozen=True)
class _Series:
    """The curves of a row, one for each repeat; without a row, the one curve of a backdrop trial.

    look     the row's place among the highlighted ones, which chooses colour, marker and dashes
    curves   a value for each epoch, epoch 1 first
    """

    row: MainRow | None
    look: int
    curves: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> list[float]:
        """The mean curve over the repeats, up to the last epoch that all of them have."""
        return [math.fsum(values) / len(values) for values in zip(*self.curves, strict=False)]


def _series(
    content: ReportContent, values: Callable[[TrialRecord], Sequence[float]]
) -> list[_Series]:
    """The curves to draw: the backdrop first, then the best rows, best first, then the baseline."""
    records = {trial.record.id: trial.record for trial in content.trials}
    best = sorted(content.rows, key=lambda row: -row.ap50)[:HIGHLIGHTED]
    partners = [
        row
        for row in content.rows
        if any(row.name == other.compared_with for other in content.rows)
    ]
    chosen = [*best, *(row for row in partners[:1] if row not in best)]
    highlighted = [
        _Series(row, look, tuple(tuple(values(records[number])) for number in row.trials))
        for look, row in enumerate(chosen)
    ]
    named = {number for row in chosen for number in row.trials}
    others = sorted(
        (record for record in records.values() if record.id not in named),
        key=lambda one: -(one.ap50 or 0),
    )
    backdrop = [_Series(None, 0, (tuple(values(record)),)) for record in others if record.epochs]
    return [*backdrop[:BACKDROP], *highlighted]


def _whose(content: ReportContent, shown: Sequence[_Series]) -> str:
    """A sentence on the rows whose curves are drawn."""
    named = [one for one in shown if one.row is not None]
    rest = len(shown) - len(named)
    what = "variants" if content.request.space.variants else "trials that ran to their end"
    if not named:
        sentence = "no trial has run to its end yet."
    elif len(named) == len(content.rows):
        sentence = (
            f"all {len(named)} {what}, best first."
            if len(named) > 1
            else "the one trial that ran to its end."
        )
    else:
        sentence = f"the best {min(HIGHLIGHTED, len(named))} {what}, best first"
        sentence += ", and the baseline." if len(named) > HIGHLIGHTED else "."
    return sentence + (f" The thin grey lines are {rest} other trials." if rest else "")


def _bands(shown: Sequence[_Series]) -> str:
    """A sentence on what lines and bands are, and on what they cannot show."""
    if any(len(one.curves) > 1 for one in shown):
        return (
            "Lines are means over the repeats, bands reach from the lowest to the highest repeat."
        )
    return (
        "Each line is one training with one seed; how much another seed would differ cannot be"
        " seen."
    )


def _draw_curves(
    canvas: Canvas, axes: Axes, shown: Sequence[_Series], wide: bool, label: str
) -> None:
    for one in shown:
        epochs = range(1, 1 + len(one.mean))
        if one.row is None:
            end = "." if len(one.mean) == 1 else ""
            axes.plot(
                epochs,
                one.mean,
                end or "-",
                color=colour("backdrop"),
                linewidth=0.9,
                markersize=4,
                zorder=1.5,
            )
            continue
        shade = colour(SERIES[one.look])
        if len(one.curves) > 1:
            lows, highs = (
                [edge(values) for values in zip(*one.curves, strict=False)] for edge in (min, max)
            )
            axes.fill_between(epochs, lows, highs, color=shade, alpha=0.12, linewidth=0, zorder=1.7)
        marked = sorted({0, len(one.mean) - 1, one.mean.index(max(one.mean))})
        axes.plot(
            epochs, one.mean, color=shade, linestyle=DASHES[one.look], marker=MARKERS[one.look],
            markevery=marked, markersize=5,
            label=f"{plain(one.row.name)}: {cell_text(one.row.ap50, Kind.AP50)}", zorder=3,
        )  # fmt: skip
    longest = max(len(one.mean) for one in shown)
    margin = 0.5 if longest == 1 else 0.03 * longest
    axes.set_xlim(1 - margin, longest + margin)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if any(one.row is not None for one in shown):
        canvas.legend(
            loc="outside right upper" if wide else "outside lower left",
            handlelength=2.6,
            labelspacing=0.7,
            title="AP50 of the best epoch",
            alignment="left",
        )
