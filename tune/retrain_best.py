"""Retrain the winner of a study and write its submission: `python -m tune.retrain_best`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core.command import command_line
from core.console import complain
from tune.durations import seconds

_EXAMPLES = """\
examples:
  python -m tune.retrain_best
      the winner of the study that was searched last, into results/STUDY/best/
  python -m tune.retrain_best --study ablation --on all
      trained on every annotated image, so that none is left to score it
  python -m tune.retrain_best --study ablation --ensemble
      trains nothing: joins the winner's models of the confirmation into one
  python -m tune.retrain_best --trial 12 --set predict.views=mirror
      another trial, with other settings of prediction
"""


@command_line(
    interrupted="Interrupted; the same command goes on after the last epoch that was saved"
)
def main(arguments: Sequence[str] | None = None) -> int:
    """Retrain a study's winner; returns exit status 1 if the submission could not be written."""
    parsed = build_parser().parse_args(arguments)
    from tune.api import retrain
    from tune.study.reading import read_study

    outcome = retrain(
        read_study(parsed.study, parsed.results, parsed.storage, parsed.tracking_uri),
        parsed.trial,
        parsed.overrides,
        on=parsed.on,
        data=parsed.data,
        device=parsed.device,
        threads=parsed.threads,
        ensemble=parsed.ensemble,
        grace=seconds(parsed.grace, "--grace"),
        console=Console(),
    )
    for reason in outcome.missing:
        complain(f"No submission: {reason}")
    if outcome.missing:
        complain(
            "The model is complete; see to the submission, then run the same command again: nothing"
            " is trained twice"
        )
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.retrain_best",
        description=(
            "Retrain the winner of a study and write its model, submission and pictures. "
            "The same command, run again, continues."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--study", metavar="NAME", help="the study; default: the one that was searched last")
    add("--trial", type=int, metavar="ID", help="another trial than the winner")
    add("--data", metavar="DIR", help="where the data set is now; default: where it was")
    add(
        "--on",
        choices=("train", "all"),
        default="train",
        help=(
            "train: the trial's own split, the epoch chosen on its validation images (default); "
            "all: every annotated image, up to the epoch that was best"
        ),
    )
    add(
        "--ensemble",
        action="store_true",
        help="train nothing: the winner's models of the confirmation predict together",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting; repeatable",
    )
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of all studies; default: results",
    )
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda:0, ...; default: the first GPU, else the CPU",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        help="processor threads; default: those of the trial, so that it is repeated",
    )
    add(
        "--grace",
        metavar="30s",
        default="30s",
        help="time that a running epoch has to end after Ctrl-C or SIGTERM; default: 30s",
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
