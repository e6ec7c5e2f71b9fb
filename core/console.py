"""The only place where a command line prints: single lines, with escape sequences shown as text."""

import sys

from rich.console import Console

from core.text import shown


def say(console: Console, line: str) -> None:
    """Print a line.

    Names and reasons in it may be foreign text, so escapes, markup and emoji codes have no effect.
    """
    console.print(shown(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def complain(sentence: object) -> None:
    """Print an error, or another line, to standard error."""
    print(shown(str(sentence)), file=sys.stderr)
