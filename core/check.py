"""The data doctor: everything about a data set at once, before a search is started on it.

    python -m core.check DIR

It prints what the data set holds, what is unusual and accepted, and every problem that keeps it
from being used. It changes nothing. Exit status 0 when the data set can be searched on, 2 when it
cannot.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from core.command import command_line
from core.console import say


@command_line(interrupted="Interrupted; nothing was changed")
def main(arguments: Sequence[str] | None = None) -> int:
    """Check a data set; returns 2 if it cannot be searched on."""
    parsed = build_parser().parse_args(arguments)
    from core.config import TrialConfig

    config = TrialConfig.from_assignments(parsed.set)
    from core.doctor import diagnose

    diagnosis = diagnose(parsed.dir, config)
    console = Console()
    for line in diagnosis.lines:
        say(console, line)
    return 0 if diagnosis.usable else 2


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m core.check", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "dir", metavar="DIR", help="the folder of a data set, or the word synthetic"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=(
            "a setting of a trial, such as data.skip_bad=true; those of reading, splitting, sizes,"
            " anchors and caps matter here"
        ),
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
