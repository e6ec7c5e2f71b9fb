"""A data set of any format that this project reads, written as COCO.

    python -m core.convert SOURCE DEST

SOURCE is read as a search reads it, and left as it is. DEST is written whole or not at all: COCO
files among PNG images, which `--data DEST`, and every program that takes COCO, can read. Exit
status 2 for a SOURCE that cannot be used and a DEST that is not empty.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core.command import command_line
from core.console import say
from core.errors import DataError
from core.files import replaced
from core.text import many

_EXAMPLES = """\
examples:
  python -m core.convert data/train_set coco
      the same images and annotations in COCO layout
"""


@command_line(interrupted="Interrupted; nothing was written")
def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a data set."""
    parsed = build_parser().parse_args(arguments)
    from core.config import TrialConfig

    config = TrialConfig.from_assignments(parsed.set)
    folder = Path(parsed.dest)
    _check(parsed.source, folder)
    from core.data import load_data
    from core.data.conversion import refuse_target, write_coco

    refuse_target(folder)
    dataset = load_data(parsed.source, config.data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replaced(folder) as part:
        write_coco(dataset, part)
    console = Console()
    for note in dataset.notes:
        say(console, f"Note: {note}")
    instances = sum(len(sample.labels_N) for sample in dataset.samples)
    tests = f" and {many(len(dataset.test_images), 'test image')}" if dataset.test_images else ""
    say(
        console,
        f"Wrote {many(len(dataset.samples), 'image')} with {many(instances, 'instance')} of"
        f" {many(len(dataset.classes), 'class')}{tests} to {folder}. See what it holds: python -m"
        f" core.check {folder}",
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m core.convert",
        description=__doc__.partition("\n")[0],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a data set as --data takes it, or the word synthetic"
    )
    parser.add_argument(
        "dest", metavar="DEST", help="the folder to write: an empty one, or one that does not exist"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of reading, such as data.skip_bad=true",
    )
    return parser


def _check(source: str, folder: Path) -> None:
    """Raise DataError for a folder that must not be written."""
    if folder.is_dir() and (inside := sorted(folder.iterdir())):
        raise DataError(
            f"{folder}: the folder to write must be empty or not exist, and holds"
            f" {inside[0].name}; name another"
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a folder is to be written, and this is a file; name another")
    if folder.resolve().is_relative_to(Path(source).resolve()) and source != "synthetic":
        raise DataError(
            f"{folder}: the folder to write must lie outside the data set {source}, or it would be"
            " read as a part of it; name another"
        )


if __name__ == "__main__":
    sys.exit(main())
