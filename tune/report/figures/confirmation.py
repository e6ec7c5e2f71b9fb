"""The figure of the candidates' scores in search and confirmation."""

from matplotlib.figure import Figure as Canvas

from core.svg import Drawing, plain
from tune.report.content import ReportContent
from tune.report.figures.intervals import IntervalLine, draw_lines, height_of
from tune.tables import Kind, cell_text


def confirmation(content: ReportContent) -> Drawing | None:
    """AP50 of each candidate in the search and on fresh seeds; None without a confirmed winner."""
    choice = content.choice
    if choice is None:
        return None
    of_search = _search_scores(content)
    marks = []
    for name, curve in sorted(choice.curves.items(), key=lambda item: -max(item[1])):
        best = max(curve)
        epoch = curve.index(best)
        dots = tuple(
            trial.record.curve[epoch]
            for trial in content.confirm_trials
            if trial.record.name == name and len(trial.record.curve) > epoch
        )
        before = of_search[name]
        marks += [
            IntervalLine(
                f"{plain(name)} in the search", before, note=cell_text(before, Kind.AP50),
                marker="D", shade="ochre", hollow=True, apart=True,
            ),
            IntervalLine(
                "on fresh seeds and splits", best, note=cell_text(best, Kind.AP50), dots=dots
            ),
        ]  # fmt: skip
        if name == choice.name:
            found = choice.corrected
            note = cell_text(found.estimate, Kind.AP50)
            marks.append(
                IntervalLine(
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
        "Diamonds: each candidate's score in the search. Filled circles: its mean on fresh seeds"
        " and splits; small circles are the single repeats, whose spread is its uncertainty. The"
        " search's score is too high on average, because it was picked as the best of many. The"
        " square is the winner's AP50 less the estimated luck of this second"
        " choice, with its 95% interval. Fresh splits reuse the search's images: only a test set is"
        " independent."
    )

    def draw(canvas: Canvas, wide: bool) -> None:
        draw_lines(canvas.subplots(), marks, wide, "AP50")

    return Drawing("confirmation", "Search against confirmation", caption, height_of(marks), draw)


def _search_scores(content: ReportContent) -> dict[str, float]:
    """AP50 of each candidate in the search, by name, from the table of the confirmation."""
    table = next(table for table in content.tables if table.name == "confirmation")
    place = [column.name for column in table.columns].index("search_ap50")
    return {str(row[0]): score for row in table.rows if isinstance(score := row[place], float)}
