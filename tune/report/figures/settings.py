"""The figures of the searched settings: AP50 against each, and the effect of each."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from core.config import Value, setting_in_words
from core.dependence import effective_settings
from core.svg import Drawing, colour, plain
from core.text import listed
from core.values import as_setting, as_tick
from tune.ledger.records import State
from tune.report.content import ReportContent, ScoredTrial
from tune.report.figures.intervals import IntervalLine, draw_lines, height_of
from tune.report.tables import effects_score
from tune.space.domains import Choices, Domain
from tune.statistics.effects import Effect
from tune.tables import Kind, cell_text

MOST_SETTINGS = 12
"""Largest number of settings that are drawn; the caption names the others."""


def effects(content: ReportContent) -> Drawing | None:
    """The main effect of each setting on AP50; None where no effect is known."""
    if not content.effects:
        return None
    marks = []
    for effect in content.effects:
        sure = effect.is_clear
        label = plain(f"{setting_in_words(effect.setting)}: {effect.change}", 44)
        note = cell_text(effect.estimate, Kind.DIFFERENCE)
        shade = "blue" if sure else "muted"
        marks.append(
            IntervalLine(
                label, effect.estimate, effect.low, effect.high, note, "o", shade, not sure
            )
        )
    caption = (
        f"How {effects_score(content.effects_epoch)} changes with one setting, with 95% intervals"
        " that are not adjusted for their number. Hollow: p, adjusted for all effects, is 0.05 or"
        " more."
    )
    turns = {one.setting: one.turn for one in content.effects if one.turn and one.is_clear}
    for name, turn in turns.items():
        word = setting_in_words(name)
        caption += f" {word[0].upper()}{word[1:]}: {turn}."
    caption += f" {_adjusted(content.effects)}"
    caption += (
        " These are descriptions of one search on one split, not experiments: settings that look"
        " good were tried together and more often."
    )

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        axes.axvline(0, color=colour("muted"), linewidth=1.2, zorder=1)
        draw_lines(axes, marks, wide, "change of AP50")

    return Drawing("settings", "What each setting does", caption, height_of(marks), draw)


def _adjusted(effects: Sequence[Effect]) -> str:
    """A sentence on which effects are adjusted for the other settings."""
    alone = list(dict.fromkeys(setting_in_words(one.setting) for one in effects if one.alone))
    if all(one.alone for one in effects):
        return (
            "The trials cannot tell all settings apart, so each is looked at by itself, and what"
            " changed with it counts as its effect."
        )
    if alone:
        return (
            "The effects are adjusted for the other settings, except for"
            f" {listed(alone)}: not every trial has a value, so these are looked at by themselves."
        )
    return "The effects are adjusted for the other settings."


def hyperparameters(content: ReportContent) -> Drawing | None:
    """AP50 against each setting with several values; None without any, or without scores."""
    scored = [trial for trial in content.trials if trial.record.ap50 is not None]
    complete = [trial for trial in scored if trial.record.state is State.COMPLETE]
    stopped_early = [trial for trial in scored if trial.record.state is State.PRUNED]
    parameters = [
        parameter
        for parameter in content.request.space.parameters
        if len(
            {effective_settings(trial.record.settings).get(parameter.name) for trial in scored}
            - {None}
        )
        > 1
    ]
    if not parameters or not complete or content.nothing_learned:
        return None
    parameters.sort(key=lambda parameter: -content.importances.get(parameter.name, 0.0))
    left_out, parameters = parameters[MOST_SETTINGS:], parameters[:MOST_SETTINGS]
    caption = (
        "Each searched setting against validation AP50. Filled: trials that ran to their end, less"
        " the luck of their best epochs, with 95% intervals over images."
    )
    if stopped_early:
        caption += (
            " Hollow: trials that were stopped early, at the best AP50 they had reached; they are"
            " not to be compared with the others."
        )
    caption += (
        " The settings vary together, and the search tries good ones more often: a trend here is a"
        " hint"
    )
    caption += ", and the table of effects says how sure it is." if content.effects else "."
    if content.importances:
        caption += " The most important setting, by Optuna's estimate, comes first."
    if left_out:
        caption += (
            f" Not shown: {', '.join(setting_in_words(parameter.name) for parameter in left_out)}."
        )

    def draw(canvas: Canvas, wide: bool) -> None:
        columns = min(3 if wide else 1, len(parameters))
        grid = canvas.subplots(
            math.ceil(len(parameters) / columns), columns, sharey=True, squeeze=False
        )
        for axes, parameter in zip_longest(grid.ravel(), parameters):
            if parameter is None:
                axes.set_axis_off()
                continue
            _draw_setting(axes, parameter.name, parameter.domain, complete, stopped_early)
        for row in grid:
            row[0].set_ylabel("AP50")

    def height(wide: bool) -> float:
        return 30 + (170.0 if wide else 140.0) * math.ceil(len(parameters) / (3 if wide else 1))

    return Drawing("settings", "Settings against AP50", caption, height, draw)


def _draw_setting(
    axes: Axes,
    name: str,
    domain: Domain,
    complete: Sequence[ScoredTrial],
    stopped_early: Sequence[ScoredTrial],
) -> None:
    def place(value: Value) -> float:
        if isinstance(domain, Choices):
            return (
                float(domain.values.index(value))
                if value in domain.values
                else float(len(domain.values))
            )
        return float(value)

    for trials, hollow in ((stopped_early, True), (complete, False)):
        mine = [trial for trial in trials if name in trial.record.params]
        alike = Counter(place(trial.record.params[name]) for trial in mine)
        seen: Counter[float] = Counter()
        across = []
        for trial in mine:
            x = at = place(trial.record.params[name])
            if isinstance(domain, Choices):
                # Trials with the same choice stand beside each other, in their order.
                x += 0.5 * ((seen[at] + 0.5) / alike[at] - 0.5)
                seen[at] += 1
            across.append(x)
        sure = [
            (x, trial.interval)
            for x, trial in zip(across, mine, strict=True)
            if trial.interval and not hollow
        ]
        lows, highs = [found.low for _, found in sure], [found.high for _, found in sure]
        axes.vlines(
            [x for x, _ in sure],
            lows,
            highs,
            color=colour("blue"),
            linewidth=0.9,
            alpha=0.5,
            zorder=2,
        )
        face, edge = (
            (colour("paper"), colour("muted")) if hollow else (colour("blue"), colour("blue"))
        )
        points = [trial.honest for trial in mine]
        axes.plot(across, points, "o", color=edge, markerfacecolor=face, markersize=4.5, zorder=3)
    if isinstance(domain, Choices):
        axes.set_xticks(
            range(len(domain.values)), [plain(as_setting(value), 14) for value in domain.values]
        )
        axes.set_xlim(-0.6, len(domain.values) - 0.4)
        axes.grid(visible=False, axis="x")
    elif domain.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: as_tick(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(plain(setting_in_words(name), 34), loc="left")
