"""The data doctor: everything about a data set at once, before a search is started on it.

    python -m core.check DIR

It prints what the data set holds, what is unusual and accepted, and every problem that keeps it
from being used, and writes the same as a page, `check/index.html`, on which all of it is shown on
the images. It changes nothing in DIR. Exit status 0 when the data set can be searched on, 2 when it
cannot.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from core.command import command_line
from core.console import say
from core.errors import BadRequest
from core.text import many

if TYPE_CHECKING:
    from core.config import TrialConfig
    from core.doctor.diagnosis import Diagnosis

DEFAULT_FOLDER = Path("check")
"""The folder of the page, in the current folder."""

_EXAMPLES = """\
examples:
  python -m core.check data/train_set
      what it holds, every problem with its way out, and recommended settings
  python -m core.check data/train_set --set data.skip_bad=true
      without single annotations and images that cannot be used
  python -m core.check data/train_set --set 'data.group_pattern=^(.+)_[0-9]+$'
      images whose names begin alike belong to one slide or patient
"""


@command_line(interrupted="Interrupted; nothing was changed")
def main(arguments: Sequence[str] | None = None) -> int:
    """Check a data set; returns 2 if it cannot be searched on."""
    parsed = build_parser().parse_args(arguments)
    from core.config import TrialConfig

    config = TrialConfig.from_assignments(parsed.set)
    from core.doctor.diagnosis import diagnose
    from core.doctor.page import refuse_folder, write_page
    from core.doctor.repairs import refuse_copy

    console = Console()
    folder, no_page = (None if parsed.no_page else parsed.out or DEFAULT_FOLDER), ""
    if parsed.fix is not None:
        refuse_copy(parsed.dir, parsed.fix)
    if folder is not None:
        try:
            refuse_folder(folder, parsed.dir)
        except BadRequest as error:
            if parsed.out is not None:
                raise
            folder, no_page = None, f"No page: {error}"
    diagnosis = diagnose(parsed.dir, config, parsed.set)
    for line in diagnosis.lines:
        say(console, line)
    following, usable = diagnosis.following, diagnosis.usable
    if parsed.fix is not None:
        following, usable = _fix(console, diagnosis, config, parsed.fix, parsed.set)
    say(console, "")
    say(console, f"Next: {following}")
    if folder is not None and diagnosis.inspection.dataset is not None:
        say(console, f"Page: {write_page(diagnosis, folder)}")
    elif no_page:
        say(console, no_page)
    return 0 if usable else 2


def _fix(
    console: Console,
    diagnosis: "Diagnosis",
    config: "TrialConfig",
    copy: Path,
    given: Sequence[str],
) -> tuple[str, bool]:
    """Write the repaired copy and check it; returns the next command and whether it is usable.

    given   the settings of `--set` as they were written
    """
    from core.doctor.diagnosis import diagnose
    from core.doctor.repairs import (
        LIST,
        in_the_way,
        is_for_copy,
        settings_for_copy,
        write_copy,
    )

    mend, blocked = diagnosis.mend, in_the_way(diagnosis.inspection)
    say(console, "")
    if mend is None or blocked:
        left_out = (
            "; `--set data.skip_bad=true` leaves out and counts what concerns one annotation or one"
            " image alone"
            if diagnosis.inspection.single
            else ""
        )
        say(
            console,
            f"No copy was written: it would lack what {many(len(blocked), 'problem')} above"
            f" {'is' if len(blocked) == 1 else 'are'} about. Each is named there with its way"
            f" out{left_out}.",
        )
        return diagnosis.following, False
    if not (mend.repairs or config.data.skip_bad or config.data.split_components):
        say(console, "No copy was written: there is nothing to repair.")
        return diagnosis.following, diagnosis.usable
    write_copy(mend, diagnosis.where, copy)
    say(console, f"Repaired copy, in the COCO layout: {copy}")
    for line in mend.lines:
        say(console, f"  {line}")
    say(console, f"Each repair with its place: {copy / LIST}")
    settings, said = settings_for_copy(config, mend)
    for line in said:
        say(console, line)
    kept = [one for one in given if is_for_copy(one.partition("=")[0], settings)]
    checked = diagnose(str(copy), settings, kept)
    say(console, f"The copy, read again: {checked.headline}")
    for line in (*checked.causes, *checked.ways_out):
        say(console, f"  {line}")
    return checked.following, checked.usable


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m core.check",
        description=__doc__.partition("\n")[0],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"the folder of the page index.html, outside DIR (default: {DEFAULT_FOLDER})",
    )
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="FOLDER",
        help=(
            "write a copy of DIR with the repairs that need no judgement, each listed, in the COCO"
            " layout, to a new or empty folder; DIR stays as it is"
        ),
    )
    parser.add_argument("--no-page", action="store_true", help="print only, write no page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
