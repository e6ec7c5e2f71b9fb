"""The reference report's question, answered on real tissue: one command from images to submissions.

    python -m benchmarks.proof --data DIR --weights FILE --results DIR [--minutes M] [--publish]
    python -m benchmarks.proof --data DIR --weights FILE --results DIR --short       on a CPU

It runs, and the same command continues it wherever it was stopped:

1. `search_spaces/report_tables.yaml`: the rows of the report for which weights are there, on three
   seeds, split by tile; about five minutes on one H100 or H200;
2. `search_spaces/ablation.yaml` as a search with early stopping and confirmation;
3. the retraining of its winner and of the report's recipe, with the submissions of both; about
   eight minutes together with the search;
4. the pages RESULTS/example/.

Epochs and trials are chosen once, from a rate that a pilot of one epoch measures, and kept in
RESULTS/proof.json. With `--minutes` the command ends by itself in time, and says what is left.
RESULTS/carried.tar.gz then holds all that a continuation on another machine needs: put it alone
into an empty folder and give that as `--results`. `--publish` also writes docs/example and README's
part about it; `--pages` writes the pages of what there is, and runs nothing.

DIR is CoNSeP in HW3 layout, or holds an `unpack.py` that writes it. FILE holds a ResNet-50's
ImageNet weights; other backbones, and COCO's weights, are taken where `model.weights` finds them,
and rows without weights are left out and named.

`--short` is for a CPU: eight windows of 128 px, two rows, a search of three trials.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.proof.clock import Clock
from core.command import command_line
from core.errors import BadRequest

if TYPE_CHECKING:
    from benchmarks.proof.plan import Weights


@command_line("Interrupted; to continue, run the same command again")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof, or continue it; returns 0 also if its time was up before the end."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = build_parser().parse_args(given)
    given_to_run = [one for one in given if one != "--pages"]
    if parsed.minutes is not None and not parsed.minutes >= LEAST_MINUTES:
        raise BadRequest(f"--minutes must be at least {LEAST_MINUTES:g}, and is {parsed.minutes:g}")
    clock = Clock(parsed.minutes)  # which runs while the libraries are imported
    from benchmarks.proof import example
    from benchmarks.proof.stages import Proof, run_stages
    from benchmarks.proof.state import MOST_BYTES, locked, open_state, pack

    results: Path = parsed.results
    with locked(results):
        state = open_state(results, parsed.short)
        proof = Proof(
            state,
            data_folder(parsed.data, results, parsed.short),
            weights_folder(parsed.weights, results, parsed.stride_in_1x1),
            clock,
            shlex.join(["python", "-m", "benchmarks.proof", *given_to_run]),
            say,
        )
        if parsed.pages:
            example.write_example(proof, results / "example")
        left = [] if parsed.pages else run_stages(proof)
        if left:
            say("\nTime is up. Left: " + "; ".join(stage.left() for stage in left) + ".")
            path, size = pack(results)
            say(
                f"To continue, run the same command again. {path} ({size / 1e6:.1f} MB) is all that"
                " a continuation on another machine needs."
            )
            if size > MOST_BYTES:
                say(f"Note: it is larger than {MOST_BYTES / 1e6:.0f} MB.")
            return 0
        if parsed.publish:
            example.publish(results)
        say(f"\nDone. {results / 'example' / 'README.md'}")
    return 0


LEAST_MINUTES = 1.0
"""Least value of `--minutes`: less is over before anything has begun."""


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.proof", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="CoNSeP, or its unpack.py")
    add("--weights", type=Path, required=True, metavar="FILE", help="a ResNet-50's weights")
    add("--stride-in-1x1", action="store_true", help="the weights stride in the 1x1 convolutions")
    add("--results", type=Path, required=True, metavar="DIR", help="folder of everything")
    add("--minutes", type=float, metavar="M", help="end by then; the same command continues")
    add("--short", action="store_true", help="the short form, for a CPU")
    add("--pages", action="store_true", help="write the pages of what there is; run nothing")
    add("--publish", action="store_true", help="write docs/example and README's part too")
    return parser


def data_folder(where: Path, results: Path, short: bool) -> Path:
    """The folder of the images, written into the folder of results if it has to be."""
    from benchmarks.proof.short import write_data
    from benchmarks.tissue import data_of

    if not where.is_dir():
        raise BadRequest(f"--data must be a folder, and {where} is not")
    folder = results / "data"
    folder.mkdir(parents=True, exist_ok=True)
    windows = folder / "short"
    if short and windows.exists():
        return windows
    whole = data_of(where, folder, short=False)
    return write_data(whole, windows) if short else whole


def weights_folder(file: Path, results: Path, stride_in_1x1: bool) -> "Weights":
    """The folder of the pretrained weights, in which the given file has torchvision's name."""
    from benchmarks.proof.plan import Weights, link_weights
    from core.config import ModelConfig
    from core.network.weights import FOLDER_VARIABLE, find_weights

    folder = results / "weights"
    declared = find_weights(ModelConfig(backbone="resnet50", weights=str(file)))
    link_weights(file, folder, stride_in_1x1 or (declared is not None and declared.stride_in_1x1))
    os.environ[FOLDER_VARIABLE] = str(folder)  # for children, and for the reports' pictures
    return Weights(folder)


def say(line: str) -> None:
    """Print a line at once, so that it stands before what a child prints."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
