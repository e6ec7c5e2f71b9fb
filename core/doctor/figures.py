"""The figures of the doctor's page: sizes against anchors, instances per image against caps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from core.config import TrialConfig
from core.data.measure import Measurement
from core.fitting import anchor_sides, fitted_share, seen_cell, seen_sides
from core.svg import Drawing, DrawnFigure, colour, draw_figure
from core.text import listed, many
from core.values import as_number, as_percent, as_tick

HEIGHT = {True: 260.0, False: 280.0}
"""Height of a figure on a wide page and on a phone, in the units of `core.svg.WIDE`."""
BARS = 40
"""Number of bars of a histogram."""
MOST_ABOVE = 4.0
"""Largest factor between a cap and the most crowded image at which the cap is drawn; a higher one
is named in the caption, or the bars would be flat."""


def sizes(data: Measurement, config: TrialConfig) -> DrawnFigure | None:
    """The sides of instances as the network sees them, and those of the anchors; None without any.

    config   with resolved crop, sides and anchor scale
    """
    sides_K = seen_sides(data, config)
    if not len(sides_K):
        return None
    anchors = anchor_sides(config)
    low, high = min(sides_K.min(), anchors[0]) * 0.9, max(sides_K.max(), anchors[-1]) * 1.1
    edges = np.geomspace(low, high, BARS + 1)
    counts, _ = np.histogram(sides_K, edges)
    caption = (
        f"Bars: the sides of instances, {as_number(sides_K.min(), 2)} to"
        f" {as_number(sides_K.max(), 3)} pixels, median {as_number(seen_cell(data, config), 3)}."
        " Dashed lines: the anchors, the boxes from which the network starts; one fits"
        f" {as_percent(fitted_share(data, config))} of the instances. One fits where the overlap is"
        " at least half of the union (IoU 0.5). A side is the square root of the area of an"
        " instance's box, in pixels of the image that the network sees with the settings given; the"
        f" anchors have {listed([as_number(side, 3) for side in anchors])} pixels. The axis of"
        " sides is logarithmic."
    )

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        axes.stairs(counts, edges, fill=True, color=colour("blue"))
        axes.set_xscale("log")
        for side in anchors:
            axes.axvline(side, color=colour("vermillion"), linewidth=1.4, linestyle=(0, (4, 3)))
        axes.annotate(
            "anchors",
            (anchors[-1], 1.0), xycoords=("data", "axes fraction"), xytext=(-4, -3),
            textcoords="offset points", ha="right", va="top", color=colour("ink"),
        )  # fmt: skip
        axes.set_xlabel("side as the network sees it (pixels)")
        axes.set_ylabel("instances")
        ticks = [side for side in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= side <= high]
        _plain_ticks(axes, ticks if wide else ticks[::2])
        axes.grid(visible=False, axis="x")

    return draw_figure(
        "sizes",
        Drawing("sizes", "Sizes of instances against anchors", caption, HEIGHT.__getitem__, draw),
    )


def crowds(counts_I: NDArray[np.int64], most_of_a_class: int, config: TrialConfig) -> DrawnFigure:
    """The number of instances of each image, and the caps.

    counts_I          int64, instances of each image
    most_of_a_class   largest number of instances of one class in an image
    config            with resolved caps
    """
    descending = np.sort(counts_I)[::-1]
    most = int(descending.max(initial=0))
    caps = {
        "metric.max_dets": config.metric.max_dets,
        "predict.max_detections": config.predict.max_detections,
        "model.proposals_test": config.model.proposals_test,
    }
    drawn = {name: cap for name, cap in caps.items() if cap <= MOST_ABOVE * max(most, 1)}
    higher = [f"{name} {cap:,}" for name, cap in caps.items() if name not in drawn]
    over = int(np.count_nonzero(descending > caps["predict.max_detections"]))
    caption = (
        f"Instances of each of {many(len(descending), 'image')}, the most crowded first:"
        f" {int(descending.min(initial=most)):,} to {most:,}, median"
        f" {as_number(float(np.median(descending)), 4)}. "
        + (f"Dashed lines are caps: {_named(drawn)}. " if drawn else "")
        + (f"Too high to be drawn: {listed(higher)}. " if higher else "")
        + f"{many(over, 'image')} {'has' if over == 1 else 'have'} more than"
        " predict.max_detections, which whole images are predicted with (a tile has that many for"
        f" itself). metric.max_dets counts each class for itself, and the most of one class in an"
        f" image are {most_of_a_class:,}."
    )

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        axes.stairs(descending, np.arange(len(descending) + 1), fill=True, color=colour("backdrop"))
        for name, cap in drawn.items():
            axes.axhline(cap, color=colour("vermillion"), linewidth=1.4, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{name} {cap:,}",
                (1.0, cap),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 3),
                textcoords="offset points",
                ha="right",
                va="bottom",
                color=colour("ink"),
            )
        axes.set_xlim(0, max(len(descending), 1))
        axes.set_ylim(0, 1.12 * max(most, *drawn.values(), 1))
        axes.set_xlabel("images, the most crowded first")
        axes.set_ylabel("instances")
        axes.grid(visible=False, axis="x")
        axes.locator_params(axis="both", nbins=6 if wide else 4, integer=True)

    return draw_figure(
        "crowds", Drawing("crowds", "Instances per image", caption, HEIGHT.__getitem__, draw)
    )


def _named(caps: dict[str, int]) -> str:
    return listed([f"{name} {cap:,}" for name, cap in caps.items()])


def _plain_ticks(axes: Axes, ticks: Sequence[float]) -> None:
    """Write the numbers of a logarithmic axis out."""
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: as_tick(value)))
