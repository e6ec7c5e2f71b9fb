"""Write the report of a study: `python -m tune.report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core.command import command_line
from core.console import say

_EXAMPLES = """\
examples:
  python -m tune.report
      the study that was used last: results/STUDY/report/index.html, tables/ and figures/
  python -m tune.report --study ablation
      another one, also while its search runs
"""


@command_line(interrupted="Interrupted; give the same command again")
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of a study, also while its search runs."""
    parsed = build_parser().parse_args(arguments)
    from tune.report.page import dataset_of, make_report
    from tune.study.reading import read_study

    study = read_study(parsed.study, parsed.results, parsed.storage, parsed.tracking_uri)
    data, missing = dataset_of(study, parsed.data)
    written = make_report(study, data)
    console = Console()
    if missing:
        say(console, f"Without pictures: {missing}")
    say(console, f"Report: {written.page}")
    if written.trouble is not None:
        say(console, f"{written.tracker} does not show it {written.trouble}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.report",
        description=(
            "Write the report of a study: one page with its tables and figures. Run again, it is"
            " the same."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--study", metavar="NAME", help="the study; default: the one that was used last")
    add(
        "--data",
        metavar="DIR",
        help="where the data set is now, for the pictures; default: where it was",
    )
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of all studies; default: results",
    )
    add("--tracking-uri", metavar="URI", help="MLflow; default: where the search showed it")
    add(
        "--storage",
        metavar="URL",
        help="the ledger's database; needed again where its URL has a password",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
