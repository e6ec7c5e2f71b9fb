"""The only place where a command line prints: a line each, and nothing in it that a terminal would obey."""

import sys

from rich.console import Console

from core.text import shown


def say(console: Console, line: str) -> None:
    """Print a line. Names and reasons in it may be anybody's: no escapes, no markup, no emoji codes."""
    console.print(shown(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def complain(sentence: object) -> None:
    """Print an error, or another line, to standard error."""
    print(shown(str(sentence)), file=sys.stderr)
