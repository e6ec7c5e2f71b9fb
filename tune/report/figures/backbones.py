"""The figure of AP50 by backbone."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from core.config import Value
from core.dependence import effective_settings
from core.svg import MARKERS, SERIES, Drawing, plain
from tune.report.content import MainRow, ReportContent
from tune.report.figures.intervals import IntervalLine, draw_lines, height_of, interval_ends
from tune.space.space import BY_REPEAT
from tune.tables import Kind, cell_text


def backbones(content: ReportContent) -> Drawing | None:
    """AP50 by backbone; None where all rows have one backbone, or nothing was learned."""
    name = "model.backbone"
    rows = [row for row in content.rows if name in _effective_settings(content, row)]
    if content.request.space.variants:
        # Rows that are also equal in their weights come first, if there are any.
        rows = _same_but(content, rows, (name, *BY_REPEAT)) or _same_but(
            content, rows, (name, "model.weights", *BY_REPEAT)
        )
    found = list(dict.fromkeys(str(_effective_settings(content, row)[name]) for row in rows))
    if len(found) < 2 or content.nothing_learned:
        return None
    marks = [
        IntervalLine(
            (
                f"{backbone}: {plain(row.name, 20)}"
                if content.request.space.variants
                else f"{backbone}, {row.name}"
            ),
            row.ap50,
            *interval_ends(row.interval),
            cell_text(row.ap50, Kind.AP50),
            MARKERS[place % len(MARKERS)],
            SERIES[place % len(SERIES)],
        )
        for place, backbone in enumerate(found)
        for row in [row for row in rows if _effective_settings(content, row)[name] == backbone][
            : None if len(rows) < 9 else 3
        ]
    ]
    weights = {str(_effective_settings(content, row)["model.weights"]) for row in rows}
    caption = "Validation AP50 by backbone, with 95% intervals"
    if content.request.space.variants:
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
        draw_lines(canvas.subplots(), marks, wide, "validation AP50")

    return Drawing("factors", "AP50 by backbone", caption, height_of(marks), draw)


def _effective_settings(content: ReportContent, row: MainRow) -> dict[str, Value]:
    """The effective settings (see `core.dependence`) of a row's first trial, without `auto`."""
    first = next(trial.record for trial in content.trials if trial.record.id in row.trials)
    return dict(effective_settings(first.settings))


def _same_but(
    content: ReportContent, rows: Sequence[MainRow], names: Sequence[str]
) -> list[MainRow]:
    """The largest group of rows that agree in all settings but `names`, and differ in `names[0]`.

    The list is empty where there is no such group.
    """
    groups: dict[tuple[tuple[str, Value], ...], list[MainRow]] = {}
    for row in rows:
        settings = _effective_settings(content, row)
        key = tuple(sorted((name, value) for name, value in settings.items() if name not in names))
        groups.setdefault(key, []).append(row)
    differing = [
        group
        for group in groups.values()
        if len({_effective_settings(content, row)[names[0]] for row in group}) > 1
    ]
    return max(differing, key=len, default=[])
