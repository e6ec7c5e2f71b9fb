"""The figure of parallel coordinates: each trial a line through its settings to its AP50."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from core.config import Value, setting_in_words
from core.svg import Drawing, colour, plain
from core.values import as_ap50, as_setting, as_tick
from tune.ledger.records import State, TrialRecord
from tune.report.content import ReportContent
from tune.space.domains import Choices, Domain

MOST_AXES = 7
"""Largest number of settings that have an axis: those that Optuna rates as most important."""
BEST_SHARE = 0.25
"""The share of the complete trials, those with the highest AP50, whose lines are coloured."""


def parallel(content: ReportContent) -> Drawing | None:
    """The complete trials of a search through their settings; None for variants, under two settings
    or four trials, and where nothing was learned.
    """
    complete = [trial.record for trial in content.trials if trial.record.state is State.COMPLETE]
    parameters = [
        one
        for one in content.request.space.parameters
        if len({record.in_effect.get(one.name) for record in complete} - {None}) > 1
    ]
    if len(parameters) < 2 or len(complete) < 4 or content.nothing_learned:
        return None
    parameters.sort(key=lambda one: -content.importances.get(one.name, 0.0))
    shown = parameters[:MOST_AXES]
    ranked = sorted(complete, key=lambda record: (record.ap50 or 0.0, -record.id))
    best = ranked[-max(1, round(BEST_SHARE * len(ranked))) :]
    scores = [record.ap50 or 0.0 for record in ranked]
    axes_of = [_Coordinate.of_setting(one.name, one.domain) for one in shown]
    axes_of.append(_Coordinate.of_scores(min(scores), max(scores)))
    caption = (
        "Each line is a trial that ran to its end, from its settings to its AP50 as measured."
        f" Coloured and thick: the best {len(best)} of {len(ranked)}."
        " Where the coloured lines come together, good trials agree in a setting; the search also"
        " tries good settings more often. A line ends where a setting had no effect. Lines have no"
        " interval: the table of effects says how sure a setting is."
    )
    if len(parameters) > len(shown):
        left_out = ", ".join(setting_in_words(one.name) for one in parameters[MOST_AXES:])
        caption += f" Not shown, as less important: {left_out}."

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        for record in ranked:
            _draw_trial(axes, record, axes_of, wide, record in best)
        _draw_axes(axes, axes_of, wide)

    def height(wide: bool) -> float:
        return 330.0 if wide else 30 + 66.0 * len(axes_of)

    return Drawing("history", "From settings to AP50", caption, height, draw)


@dataclass(frozen=True)
class _Coordinate:
    """An axis of the figure.

    title    its name
    place    returns where on the axis a trial lies, 0..1; None where it has no value there
    ticks    places and their labels
    spread   width over which trials with the same choice are spread, so that each is seen
    """

    title: str
    place: Callable[[TrialRecord], float | None]
    ticks: Sequence[tuple[float, str]]
    spread: float = 0.0

    @classmethod
    def of_scores(cls, low: float, high: float) -> "_Coordinate":
        """The axis of AP50, from the lowest to the highest score."""
        width = (high - low) or 1.0

        def place(record: TrialRecord) -> float | None:
            return ((record.ap50 or 0.0) - low) / width

        ends = [(0.0, as_ap50(low, 2)), ((high - low) / width, as_ap50(high, 2))]
        return cls("AP50", place, ends[:1] if high == low else ends)

    @classmethod
    def of_setting(cls, name: str, domain: Domain) -> "_Coordinate":
        """The axis of a setting: its choices, evenly apart, or its range."""
        spread = 0.0
        if isinstance(domain, Choices):
            values, last = list(domain.values), max(len(domain.values) - 1, 1)
            spread = 0.16 / last

            def at(value: Value) -> float | None:
                return values.index(value) / last if value in values else None

            ticks = [(place / last, plain(as_setting(one), 16)) for place, one in enumerate(values)]
        else:
            scale = math.log if domain.log else float
            low, high = scale(domain.low), scale(domain.high)

            def at(value: Value) -> float | None:
                if isinstance(value, str):
                    return None
                where = (scale(value) - low) / ((high - low) or 1.0)
                return where if -0.01 <= where <= 1.01 else None

            ticks = [(0.0, as_tick(domain.low)), (1.0, as_tick(domain.high))]

        def place(record: TrialRecord) -> float | None:
            if name not in record.in_effect:
                return None
            # A choice `auto` has its own place on the axis, whatever number stood for it.
            return at(record.params.get(name, record.in_effect[name]))

        return cls(setting_in_words(name), place, ticks, spread)


def _draw_trial(
    axes: Axes, record: TrialRecord, along: Sequence[_Coordinate], wide: bool, good: bool
) -> None:
    """Draw a trial's line, broken where it has no value.

    good   whether the trial is one of the best, whose lines are coloured
    """
    # Multiples of the golden ratio spread evenly over 0..1, however many there are.
    aside = (record.id * 0.618034) % 1 - 0.5
    found = [(one, one.place(record)) for one in along]
    places = [math.nan if at is None else at + aside * one.spread for one, at in found]
    numbers = [float(number) for number in range(len(along))]
    axes.plot(
        *((numbers, places) if wide else (places, numbers)),
        color=colour("blue" if good else "backdrop"),
        linewidth=2.0 if good else 0.9,
        marker="o" if good else "", markersize=4,
        zorder=3 if good else 2,
    )  # fmt: skip


def _draw_axes(axes: Axes, along: Sequence[_Coordinate], wide: bool) -> None:
    """Draw the coordinates, each with its name and the labels of its ticks."""
    for number, one in enumerate(along):
        ends = [number, number], [0, 1]
        axes.plot(*(ends if wide else ends[::-1]), color=colour("muted"), linewidth=1, zorder=1)
        for place, label in one.ticks:
            if wide:
                axes.text(number + 0.04, place + 0.045, label, ha="left", va="center", zorder=4)
            else:
                side = "left" if place < 0.34 else "right" if place > 0.66 else "center"
                axes.text(place, number + 0.3, label, ha=side, va="center", zorder=4)
        if wide:
            named = plain(one.title, 16) if len(along) > 6 else plain(one.title, 24)
            axes.text(number, 1.16, _in_two_lines(named), ha="center", va="bottom")
        else:
            axes.text(-0.04, number - 0.34, one.title, ha="left", va="center", fontweight="bold")
    axes.set_axis_off()
    if wide:
        axes.set_xlim(-0.4, len(along) - 0.4)
        axes.set_ylim(-0.1, 1.4)
    else:
        axes.set_xlim(-0.06, 1.06)
        axes.set_ylim(len(along) - 0.5, -0.6)


def _in_two_lines(words: str) -> str:
    """A name broken at the space that is nearest to its middle, if it is long."""
    spaces = [place for place, sign in enumerate(words) if sign == " "]
    if len(words) < 13 or not spaces:
        return words
    middle = min(spaces, key=lambda place: abs(place - len(words) / 2))
    return f"{words[:middle]}\n{words[middle + 1 :]}"
