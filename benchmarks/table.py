"""Lines of the one table that `make bench` prints."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One thing that was measured on both sides.

    what        such as `28 x 28 targets, 250 instances, 800 px`
    ours        with its unit
    theirs      of whom, with its unit; empty where there is no other side and a goal stands instead
    ratio       theirs / ours where more is worse, so that above 1 we are better; None where it
                makes no sense
    agreement   by how much the two sides differ in what they compute, or which goal is met
    """

    what: str
    ours: str
    theirs: str
    ratio: float | None
    agreement: str


HEADLINE = Line("what", "ours", "theirs", None, "agreement, or goal")


def as_text(lines: Iterable[Line]) -> str:
    """The table, columns aligned."""
    rows = [
        (
            line.what,
            line.ours,
            line.theirs,
            "" if line.ratio is None else f"{line.ratio:.3g}",
            line.agreement,
        )
        for line in lines
    ]
    rows.insert(0, (HEADLINE.what, HEADLINE.ours, HEADLINE.theirs, "ratio", HEADLINE.agreement))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
