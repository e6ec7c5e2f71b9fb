"""Pages that need no other file: their frame, their look, and how their templates are filled.

A page is whole without scripts and without a network. Its own policy forbids both, but for a script
of the page itself, which the block `scripts` names by its SHA-256. It follows the reader's choice
of light or dark, and can be read on a phone and on paper. The frame, `frame.html.jinja`, is what
the template of a page extends: it fills the blocks `title` and `body`, and `head` and `style` where
it has more of these. `caption.html.jinja` shows a caption; what takes more than two lines folds.
"""

import re
from pathlib import Path
from typing import Any

import jinja2

from core.svg import COLOURS

LEAD = 210
"""Largest number of characters of the sentences that begin a caption and are always shown: two
lines of a wide page. The first sentence is shown whatever its length; the others fold."""


def filled(template: Path, **values: Any) -> str:
    """The page that a template makes of `values`; every text among these is escaped.

    template   file of a template that extends `frame.html.jinja`

    Raises jinja2.UndefinedError for a value that the template needs and does not get.
    """
    folders = [template.parent, Path(__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(
        colours=COLOURS, lead_and_rest=lead_and_rest, **values
    )


def lead_and_rest(caption: str, taken: int = 0) -> tuple[str, str]:
    """The sentences of a caption that are always shown, and those that fold.

    taken   number of characters of the caption's lines that a title takes
    """
    first, *others = re.split(r"(?<=[.?!]) (?=[A-Z])", caption)
    while others and taken + len(first) + 1 + len(others[0]) <= LEAD:
        first = f"{first} {others.pop(0)}"
    return first, " ".join(others)
