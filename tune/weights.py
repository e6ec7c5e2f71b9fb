"""Pretrained weights of a space file: `python -m tune.weights SPACE` lists and fetches them."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from core.command import command_line
from core.console import say
from core.errors import BadRequest
from core.text import many

_EXAMPLES = """\
examples:
  python -m tune.weights search_spaces/ablation.yaml
      list the files that its trials begin with, and download those that are missing
  python -m tune.weights search_spaces/ablation.yaml --list
      only list them: address, size, checksum and place
  python -m tune.weights search_spaces/ablation.yaml --into weights
      download into ./weights, to carry that folder to a machine without a network
"""


@command_line(interrupted="Interrupted; the same command goes on with what has arrived")
def main(arguments: Sequence[str] | None = None) -> int:
    """List the files of weights, and download those that are missing."""
    parsed = build_parser().parse_args(arguments)
    from tune.request.file import load_request

    request = load_request(parsed.space, parsed.overrides)
    from core.network.weights import WeightsFile, fetch_weights
    from tune.study.pretrained import weights_files_of

    problems: list[BadRequest] = []
    files: list[WeightsFile] = [*dict.fromkeys(weights_files_of(request.space, problems).values())]
    if problems:
        raise problems[0]
    if parsed.into is not None:
        carried = [parsed.into / file.path.name for file in files]
        files = [
            replace(file, path=path, missing=None)
            if file.kind != "file" and path.is_file()
            else file
            for file, path in zip(files, carried, strict=True)
        ]
    console = Console()
    for file in files:
        line = f"missing: {file.missing}" if file.missing else f"there:   {file.path}"
        is_carried = file.missing or file.kind == "file" or parsed.into == file.path.parent
        if parsed.into is not None and not is_carried:
            line += f" (not in {parsed.into}; copy it there to carry it as well)"
        say(console, line)
    missing = [file.missing for file in files if file.missing]
    if missing and not parsed.list:
        fetch_weights(missing, into=parsed.into)
        for source in dict.fromkeys(missing):
            place = parsed.into or next(f.path.parent for f in files if f.missing == source)
            say(console, f"fetched: {place / source.name}")
        missing = []
    if not files and request.space.value("model.weights", {}) == "at_hand":
        say(
            console,
            "model.weights at_hand takes what is on the machine, and nothing is: training starts"
            " from scratch. --set model.weights=auto lists the files to begin with",
        )
    count = many(len(files), "file") + " of pretrained weights"
    say(console, f"{count}, {len(missing)} missing" if missing else f"{count}, none missing")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.weights",
        description=(
            "List the files of pretrained weights that the trials of a space file begin with, and"
            " download those that are missing. An interrupted download goes on where it stopped."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("space", type=Path, metavar="SPACE", help="the space file")
    add("--list", action="store_true", help="download nothing")
    add(
        "--into",
        type=Path,
        metavar="DIR",
        help=(
            "folder that gets the files; default: torch's cache. A search looks into the folder"
            " that CELL_TUNE_WEIGHTS names, into ./weights and into that cache"
        ),
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="fix a setting, as for tune.search; repeatable",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
