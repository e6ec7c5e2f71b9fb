"""The figures of a report, each with its caption.

Every score and interval was computed in `findings`.

Each figure shows its uncertainty: a number's interval is drawn if it has one, else the caption says
that there is none. Nothing is told by colour alone.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from core.config import Value
from core.dependence import effective
from tune.ledger.ledger import State
from tune.report.curves import ap50_curves, loss_curves
from tune.report.findings import Findings, Row, ScoredTrial
from tune.report.marks import Mark, draw_marks, ends, height_of, without_interval
from tune.report.svg import MARKERS, SERIES, Figure, colour, figure, plain
from tune.space.domains import Choices, Domain
from tune.space.space import BY_REPEAT
from tune.statistics.certainty import Verdict
from tune.stopping.halving import NO_HOPE, PLACES, SuccessiveHalving
from tune.tables import Kind, text

MOST_ROWS = 12
"""Largest number of trials of a sampled study that are shown by name; variants are all shown."""
MOST_SETTINGS = 12


def figures(findings: Findings) -> tuple[Figure, ...]:
    """All figures for which a study has data."""
    if findings.nothing_learned:  # these two show how training went, and rank nothing
        return tuple(one for one in (loss_curves(findings), stopped(findings)) if one is not None)
    made = (
        differences(findings),
        scores(findings),
        ap50_curves(findings),
        loss_curves(findings),
        backbones(findings),
        hyperparameters(findings),
        effects(findings),
        stopped(findings),
        confirmation(findings),
    )
    return tuple(one for one in made if one is not None)


def differences(findings: Findings) -> Figure | None:
    """The main comparison: the difference of each row to its counterpart."""
    rows = [row for row in findings.rows if row.difference is not None]
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
            Mark(between, found.estimate, found.low, found.high, note, marker, shade, hollow)
        )
    smallest = findings.smallest_difference.value
    to = f"to {plain(only)}" if only else "to what each row is compared with"
    caption = (
        f"Difference in validation AP50 {to}, over the same images and the same seeds, with its 95%"
        " interval. Right of the line the row scored higher. An interval that crosses the line"
        " means that the data cannot tell; the word at the right is the verdict, which counts in"
        " how many comparisons the table makes."
    )
    if smallest is not None and math.isfinite(smallest):
        caption += (
            f" The grey zone reaches {text(smallest, Kind.AP50)} to either side: a true difference"
            " inside it would be missed more often than once in five."
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
        draw_marks(axes, marks, wide, f"difference in AP50 {to}")

    return figure("differences", "Differences", caption, height_of(marks), draw)


def scores(findings: Findings) -> Figure | None:
    """AP50 of every row with its interval."""
    rows = findings.rows if findings.request.space.variants else findings.rows[:MOST_ROWS]
    if not rows:
        return None
    marks = [
        Mark(
            plain(row.name),
            row.ap50,
            *ends(row.interval),
            text(row.ap50, Kind.AP50),
            shade="blue",
            dots=_scores_of(findings, row) if len(row.trials) > 1 else (),
        )
        for row in rows
    ]
    what = (
        "each variant"
        if findings.request.space.variants
        else f"the best {len(rows)} trials that ran to their end"
    )
    if len(rows) == len(findings.rows) and not findings.request.space.variants:
        what = "every trial that ran to its end"
    caption = f"Validation AP50 of {what}, at the best epoch, with its 95% interval over images"
    if any(len(row.trials) > 1 for row in rows):
        caption += " and seeds. Small circles are the single repeats"
    caption += (
        ". The intervals are of each score by itself: whether two rows differ is in their paired"
        " difference, which can be sure where the intervals overlap, because both were scored on"
        " the same images."
    )
    caption += without_interval(rows)

    def draw(canvas: Canvas, wide: bool) -> None:
        draw_marks(canvas.subplots(), marks, wide, "validation AP50")

    return figure("scores", "AP50 and how sure it is", caption, height_of(marks), draw)


def backbones(findings: Findings) -> Figure | None:
    """AP50 by backbone, where it varies."""
    name = "model.backbone"
    rows = [row for row in findings.rows if name in _settings(findings, row)]
    if findings.request.space.variants:
        # Rows that are also equal in their weights come first, if there are any.
        rows = _same_but(findings, rows, (name, *BY_REPEAT)) or _same_but(
            findings, rows, (name, "model.weights", *BY_REPEAT)
        )
    found = list(dict.fromkeys(str(_settings(findings, row)[name]) for row in rows))
    if len(found) < 2:
        return None
    marks = [
        Mark(
            (
                f"{backbone}: {plain(row.name, 20)}"
                if findings.request.space.variants
                else f"{backbone}, {row.name}"
            ),
            row.ap50,
            *ends(row.interval),
            text(row.ap50, Kind.AP50),
            MARKERS[place % len(MARKERS)],
            SERIES[place % len(SERIES)],
        )
        for place, backbone in enumerate(found)
        for row in [row for row in rows if _settings(findings, row)[name] == backbone][
            : None if len(rows) < 9 else 3
        ]
    ]
    weights = {str(_settings(findings, row)["model.weights"]) for row in rows}
    caption = "Validation AP50 by backbone, with 95% intervals"
    if findings.request.space.variants:
        caption += ": variants that differ in nothing else" + (
            " but their pretrained weights." if len(weights) > 1 else "."
        )
    else:
        caption += (
            ": the best trials of each. Their other settings differ too, and the search tried some"
            " more often."
        )
    if len(weights) > 1:
        caption += (
            " Not all started from the same kind of weights, which is part of what is seen here."
        )

    def draw(canvas: Canvas, wide: bool) -> None:
        draw_marks(canvas.subplots(), marks, wide, "validation AP50")

    return figure("backbones", "AP50 by backbone", caption, height_of(marks), draw)


def hyperparameters(findings: Findings) -> Figure | None:
    """Each searched setting against AP50."""
    scored = [trial for trial in findings.trials if trial.record.ap50 is not None]
    complete = [trial for trial in scored if trial.record.state is State.COMPLETE]
    stopped_early = [trial for trial in scored if trial.record.state is State.PRUNED]
    parameters = [
        parameter
        for parameter in findings.request.space.parameters
        if len({effective(trial.record.settings).get(parameter.name) for trial in scored} - {None})
        > 1
    ]
    if not parameters or not complete:
        return None
    parameters.sort(key=lambda parameter: -findings.importances.get(parameter.name, 0.0))
    left_out, parameters = parameters[MOST_SETTINGS:], parameters[:MOST_SETTINGS]
    caption = (
        "Each searched setting against validation AP50. Filled: trials that ran to their end, with"
        " 95% intervals over images."
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
    caption += ", and the table of effects says how sure it is." if findings.effects else "."
    if findings.importances:
        caption += " The most important setting, by Optuna's estimate, comes first."
    if left_out:
        caption += f" Not shown: {', '.join(parameter.name for parameter in left_out)}."

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

    return figure("hyperparameters", "Settings against AP50", caption, height, draw)


def effects(findings: Findings) -> Figure | None:
    """The change of AP50 with each setting, by the main effects."""
    if not findings.effects:
        return None
    marks = []
    for effect in findings.effects:
        sure = effect.low > 0 or effect.high < 0
        label = plain(f"{effect.setting.rpartition('.')[2]}: {effect.change}", 40)
        note = text(effect.estimate, Kind.DIFFERENCE)
        shade = "blue" if sure else "muted"
        marks.append(
            Mark(label, effect.estimate, effect.low, effect.high, note, "o", shade, not sure)
        )
    caption = (
        "How AP50 changes with one setting, estimated from the trials that ran to their end, with"
        " 95% intervals. Hollow: the interval includes no change. These are descriptions of one"
        " search on one split, not experiments: settings that look good were tried together and"
        " more often."
    )
    if any(effect.alone for effect in findings.effects):
        caption += (
            " There are too few trials to hold the other settings still, so each is looked at by"
            " itself."
        )

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        axes.axvline(0, color=colour("muted"), linewidth=1.2, zorder=1)
        draw_marks(axes, marks, wide, "change of AP50")

    return figure("effects", "What each setting does", caption, height_of(marks), draw)


def stopped(findings: Findings) -> Figure | None:
    """The number of epochs that each trial trained, and why it ended there."""
    records = [trial.record for trial in findings.trials]
    if all(record.state is State.COMPLETE for record in records):
        return None
    looks = {
        State.COMPLETE: ("ran to the end", "o", "blue", False),
        State.PRUNED: ("stopped early", "v", "ochre", True),
        State.FAIL: ("failed", "X", "vermillion", False),
        State.RUNNING: ("not ended", "D", "muted", True),
    }
    counts = {state: sum(record.state is state for record in records) for state in looks}
    hopeless = sum(
        record.state is State.PRUNED and record.reason.endswith(NO_HOPE) for record in records
    )
    between = f" ({hopeless} of them without hope)" if hopeless else ""
    said = ", ".join(
        f"{count} {looks[state][0]}{between if state is State.PRUNED else ''}"
        for state, count in counts.items()
        if count
    )
    request = findings.request
    stop, epochs = request.stop_early, request.max_epochs
    rungs = (
        ()
        if stop.rule == "none"
        else SuccessiveHalving(stop.first_rung(epochs), stop.reduction).rungs(epochs)
    )
    caption = f"Epochs that each trial trained, in the order they were started: {said}."
    if rungs:
        at = " and ".join(map(str, rungs))
        caption += (
            f" At each dashed line (epoch {at}) only the best 1 in {stop.reduction} go on. From the"
            " first line"
        )
        caption += (
            " on, a trial also ends after any epoch where it is unlikely to reach the best"
            f" {PLACES} complete trials."
        )
    caption += " These are counts, not estimates: they have no uncertainty."

    def draw(canvas: Canvas, wide: bool) -> None:
        axes = canvas.subplots()
        for rung in rungs:
            axes.axhline(rung, color=colour("muted"), linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for state, (label, marker, shade, hollow) in looks.items():
            mine = [record for record in records if record.state is state]
            if not mine:
                continue
            numbers, epochs = (
                [record.id for record in mine],
                [len(record.epochs) for record in mine],
            )
            axes.vlines(numbers, 0, epochs, color=colour("backdrop"), linewidth=1.2, zorder=2)
            face = colour("paper") if hollow else colour(shade)
            axes.plot(
                numbers,
                epochs,
                marker,
                color=colour(shade),
                markerfacecolor=face,
                label=label,
                zorder=3,
            )
        axes.set_ylim(0, None)
        axes.set_xlabel("trial")
        axes.set_ylabel("epochs")
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        canvas.legend(
            loc="outside upper left", ncols=4 if wide else 2, handletextpad=0.2, columnspacing=1.2
        )

    return figure("stopped", "When trials ended", caption, lambda wide: 260 if wide else 280, draw)


def confirmation(findings: Findings) -> Figure | None:
    """The search's score of each candidate against its confirmed one."""
    choice = findings.choice
    if choice is None:
        return None
    of_search = _search_scores(findings)
    marks = []
    for name, curve in sorted(choice.curves.items(), key=lambda item: -max(item[1])):
        best = max(curve)
        epoch = curve.index(best)
        dots = tuple(
            trial.record.curve[epoch]
            for trial in findings.confirm_trials
            if trial.record.name == name and len(trial.record.curve) > epoch
        )
        before = of_search[name]
        marks += [
            Mark(
                f"{plain(name)} in the search", before, note=text(before, Kind.AP50), marker="D",
                shade="ochre", hollow=True, apart=True,
            ),
            Mark("on fresh seeds and splits", best, note=text(best, Kind.AP50), dots=dots),
        ]  # fmt: skip
        if name == choice.name:
            found = choice.corrected
            note = text(found.estimate, Kind.AP50)
            marks.append(
                Mark(
                    "less the luck of the choice",
                    found.estimate,
                    found.low,
                    found.high,
                    note,
                    "s",
                    "green",
                )
            )
    caption = (
        "Each candidate's score in the search (hollow diamond) against its mean on fresh seeds and"
        " fresh splits (filled circle; small circles are the single repeats, whose spread is its"
        " uncertainty). The search's score is too high because it was picked as the best of many."
        " For the winner, the square is what is left after the luck of this second choice is taken"
        " off as well, with its 95% interval. Fresh splits reuse the search's images: only a test"
        " set is independent."
    )

    def draw(canvas: Canvas, wide: bool) -> None:
        draw_marks(canvas.subplots(), marks, wide, "AP50")

    return figure("confirmation", "Search against confirmation", caption, height_of(marks), draw)


def _search_scores(findings: Findings) -> dict[str, float]:
    """AP50 of each candidate in the search, as in the table of the confirmation."""
    table = next(table for table in findings.tables if table.name == "confirmation")
    place = [column.name for column in table.columns].index("search_ap50")
    return {str(row[0]): score for row in table.rows if isinstance(score := row[place], float)}


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
            if isinstance(
                domain, Choices
            ):  # trials of one choice stand beside each other, in their order
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
        points = [trial.record.ap50 or 0.0 for trial in mine]
        axes.plot(across, points, "o", color=edge, markerfacecolor=face, markersize=4.5, zorder=3)
    if isinstance(domain, Choices):
        axes.set_xticks(
            range(len(domain.values)), [plain(_said(value), 14) for value in domain.values]
        )
        axes.set_xlim(-0.6, len(domain.values) - 0.4)
        axes.grid(visible=False, axis="x")
    elif domain.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(plain(name, 34), loc="left")


def _said(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(value: float) -> str:
    """A number on an axis: 3e-5, 0.01, 100."""
    return (
        f"{value:g}"
        if 0.001 < value < 10_000
        else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )


def _scores_of(findings: Findings, row: Row) -> tuple[float, ...]:
    return tuple(
        trial.record.ap50 or 0.0 for trial in findings.trials if trial.record.id in row.trials
    )


def _settings(findings: Findings, row: Row) -> dict[str, Value]:
    """The effective settings of a row's first trial, with `auto` resolved."""
    first = next(trial.record for trial in findings.trials if trial.record.id in row.trials)
    return dict(effective(first.settings))


def _same_but(findings: Findings, rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows of the largest group that agree in all settings but `names`, and differ in the
    first of `names`.
    """
    groups: dict[tuple[tuple[str, Value], ...], list[Row]] = {}
    for row in rows:
        settings = _settings(findings, row)
        key = tuple(sorted((name, value) for name, value in settings.items() if name not in names))
        groups.setdefault(key, []).append(row)
    differing = [
        group
        for group in groups.values()
        if len({_settings(findings, row)[names[0]] for row in group}) > 1
    ]
    return max(differing, key=len, default=[])
