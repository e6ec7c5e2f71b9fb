"""The state of running and finished studies: `python -m tune.status`."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType

from core.command import command_line
from core.console import say
from core.errors import BadRequest, CellTuneError
from tune.store.folder import match_table_path

if TYPE_CHECKING:
    from tune.statistics.certainty import Interval
    from tune.study.standing import Standing

WATCH_SECONDS = 2.0
"""Seconds between two readings of the ledger with --watch."""

PIPED_WIDTH = 120
"""Width of the table, in characters, where the output is not a terminal."""

_EXAMPLES = """\
examples:
  python -m tune.status
      a line for each study in the folder results
  python -m tune.status --study ablation --watch
      one study on one screen, kept up to date until it ends
  python -m tune.status --study ablation --storage postgresql+psycopg://lab@db.example.org/studies
      from any machine that reaches the ledger, without the results folder
  python -m tune.status --study ablation --json
      for scripts
  python -m tune.status --study ablation --stop 12
      ask the driver to stop trial 12 after its epoch; its epochs stay
  python -m tune.status --study ablation --drain
      ask the driver to end when the running epochs have ended; the search's command continues
"""


@command_line(interrupted="No longer watched; the study goes on")
def main(arguments: Sequence[str] | None = None) -> int:
    """Show studies as they stand. Only --stop, --requeue and --drain write: they leave an order."""
    parsed = build_parser().parse_args(arguments)
    deed, trial = _asked(parsed)
    if parsed.study is None and (parsed.watch or deed):
        option = "watch" if parsed.watch else deed
        raise BadRequest(f"--{option} needs --study NAME, the study that is meant")
    from tune.study.standing import read_standing, study_names

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    if parsed.study is None:
        names = study_names(parsed.results, parsed.storage)
        return _overview(parsed, names, console)
    if parsed.watch and deed is None:
        return _watch(parsed, console)
    standing = read_standing(parsed.study, parsed.results, parsed.storage)
    if deed is not None:
        return _order(standing, deed, trial, console)
    if parsed.json:
        from tune.study.screen import as_document

        print(json.dumps(as_document(standing, _interval(standing)), indent=2))
        return 0
    from tune.study.screen import best_sentence, study_screen

    for part in study_screen(standing):
        _show(console, part)
    # The interval comes last, because the libraries that compute it take seconds to import.
    best = best_sentence(standing, _interval(standing))
    if best is not None:
        say(console, best)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.status",
        description=(
            "Show running and finished studies: trials by state, the best, running epochs, the time"
            " left, the driver (the process of the search) and its host, and why trials failed."
            " Nothing is written, except an order to the driver: --stop, --requeue or --drain."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--study", metavar="NAME", help="the study; default: a line for each")
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of all studies, which is not needed with --storage; default: results",
    )
    add("--storage", metavar="URL", help="the ledger's database; default: that of the study")
    add("--watch", action="store_true", help="keep the screen up to date until the study ends")
    add("--json", action="store_true", help="print JSON, for scripts")
    orders = parser.add_mutually_exclusive_group()
    orders.add_argument(
        "--stop", type=int, metavar="TRIAL", help="ask the driver to stop a trial after its epoch"
    )
    orders.add_argument(
        "--requeue",
        type=int,
        metavar="TRIAL",
        help="ask the driver to try a failed or stopped trial again",
    )
    orders.add_argument(
        "--drain",
        action="store_true",
        help="ask the driver to end after the running epochs; the search's command continues",
    )
    return parser


def _asked(parsed: argparse.Namespace) -> tuple[str | None, int | None]:
    """The order of the user, and the trial that it concerns; None and None without an order."""
    for deed in ("stop", "requeue"):
        if getattr(parsed, deed) is not None:
            return deed, getattr(parsed, deed)
    return ("drain", None) if parsed.drain else (None, None)


def _order(standing: "Standing", deed: str, trial: int | None, console: Console) -> int:
    """Leave an order for the driver of a study, and say so."""
    from tune.ledger.orders import Deed
    from tune.study.asking import ask

    order = ask(standing, Deed(deed), trial)
    when = (
        "the driver obeys within one epoch"
        if standing.is_driven
        else "nobody drives the study, so it is carried out when the search's command continues it"
    )
    say(console, f"Asked of {standing.name}: {order.asked}; {when}")
    return 0


def _overview(parsed: argparse.Namespace, names: Sequence[str], console: Console) -> int:
    """Print a line for each study; returns 1 if one of them cannot be read."""
    from tune.study.screen import as_document, one_line
    from tune.study.standing import read_standing

    status = 0
    documents = []
    for name in names:
        try:
            standing = read_standing(name, parsed.results, parsed.storage)
        except CellTuneError as error:
            say(console, f"{name}: cannot be read: {error}")
            status = 1
            continue
        if parsed.json:
            documents.append(as_document(standing))
        else:
            say(console, one_line(standing))
    if parsed.json:
        print(json.dumps(documents, indent=2))
    return status


def _watch(parsed: argparse.Namespace, console: Console) -> int:
    """Keep the screen of a study up to date until nobody drives it."""
    from rich.live import Live
    from rich.text import Text

    from core.text import shown
    from tune.study.screen import best_sentence, study_screen
    from tune.study.standing import read_standing

    known: tuple[int, Interval | None] | None = None
    with Live(console=console, auto_refresh=False) as live:
        while True:
            standing = read_standing(parsed.study, parsed.results, parsed.storage)
            best = standing.searched.best
            is_known = best is not None and known is not None and known[0] == best.id
            sure = known[1] if is_known and known is not None else None
            line = best_sentence(standing, sure)
            parts = study_screen(standing)
            live.update(Group(*parts, *([Text(shown(line))] if line else [])), refresh=True)
            if best is not None and not is_known:
                known = best.id, _interval(standing)
                continue
            if not standing.is_driven:
                return 0
            time.sleep(WATCH_SECONDS)


def _show(console: Console, part: RenderableType) -> None:
    """Print a line as it is, however long, or a table."""
    from rich.table import Table

    if isinstance(part, Table):
        console.print(part)
    else:
        say(console, str(part))


def _interval(standing: "Standing") -> "Interval | None":
    """The interval of the best trial's AP50; None where its match table cannot be reached."""
    best = standing.searched.best
    if best is None or best.best_epoch is None or standing.folder is None:
        return None
    folder = standing.folder.trial(best.id)
    if not match_table_path(folder, best.best_epoch).exists():
        return None
    from tune.study.scores import interval_so_far  # imports torch and SciPy

    return interval_so_far(best, folder)


if __name__ == "__main__":
    sys.exit(main())
