"""Search: `python -m tune.search --space FILE`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from core.command import command_line
from core.console import complain, say
from core.errors import BadRequest, StudyError
from core.text import many
from tune.durations import seconds
from tune.store.folder import StudyFolder
from tune.study.options import Options

if TYPE_CHECKING:
    from tune.request.request import StudyRequest


_EXAMPLES = """\
examples:
  python -m tune.search --space search_spaces/demo.yaml
      a search of minutes on synthetic images
  python -m tune.search --space search_spaces/ablation.yaml --data data/train_set --dry-run
      the plan, its duration and what is wrong with it; nothing is started
  python -m tune.search --space search_spaces/quick.yaml --study try --trials 3 --set optim.epochs=1
      a shorter try, as a study of its own
  python -m tune.search --study ablation --trials 80
      more trials of a finished study
  python -m tune.search --space search_spaces/ablation.yaml --gpu-hour-budget 40
      at most 40 GPU hours over all runs; the same command with more continues
  python -m tune.search --space search_spaces/best_ap50.yaml --warm-start ablation
      a new study that begins from what the study ablation found

words:
  HW3       a layout of a data set: a folder per image, in it image.tif and a mask per class,
            class1.tif ...; every value of a mask but 0 is one instance
  trial     one training with one choice of settings
  ledger    the database of all trials of a study
  variant   a named row of settings in a space file, under `variants:`, in place of a search
  baseline  the variant that all others are compared with, the first unless `baseline:` names one
  compare   in a space file, the counterpart of a variant that is not compared with the baseline
"""


@command_line(interrupted="Interrupted; to continue, run the same command again")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a search, or continue it; returns exit status 1 if every trial that ended failed."""
    parsed = build_parser().parse_args(arguments)
    options = _options(parsed)
    if parsed.rebuild_tracking:
        return _rebuild_tracking(parsed.study, options)
    request = _asked_for(parsed, options)
    if parsed.dry_run:
        return _dry_run(request, options)
    from tune.api import search

    study = search(request, **asdict(options), console=Console())
    ended = {record.state for record in study.records} - {"RUNNING"}
    return 1 if ended == {"FAIL"} else 0


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.search",
        description=(
            "Search the settings of Mask R-CNN on a data set. The same command, run again,"
            " continues."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--space",
        type=Path,
        metavar="FILE",
        help="the space file; may be left out with --study of a known study",
    )
    add("--data", metavar="DIR", help="the data set: its folder, or 'synthetic'")
    add(
        "--study",
        metavar="NAME",
        help="name of the study and of its folder; default: that of the space file",
    )
    add(
        "--warm-start",
        metavar="STUDY",
        help="begin from another study, by its name or folder: its best configurations are tried"
        " first, and the sampler knows its scores where they compare",
    )
    add("--trials", type=int, metavar="N", help="number of trials of the finished study")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="fix a setting; repeatable",
    )
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of all studies; default: results",
    )
    add("--gpus-per-trial", metavar="X|auto", help="GPUs of one trial: 0, a fraction, 1 or auto")
    add("--cpus-per-trial", metavar="N|auto", help="CPU cores of one trial")
    add(
        "--parallel",
        type=int,
        metavar="N",
        help="largest number of trials at once; default: as many as fit",
    )
    add(
        "--time-budget",
        metavar="90m",
        help="end after this time, such as 45s, 90m or 12h; run again to continue",
    )
    add(
        "--grace",
        metavar="30s",
        default="30s",
        help="time that running epochs have to end after Ctrl-C or SIGTERM; default: 30s",
    )
    add(
        "--epoch-budget",
        metavar="N",
        help="largest number of epochs of the study over all runs; run again with more to continue",
    )
    add(
        "--gpu-hour-budget",
        metavar="X",
        help="largest number of GPU hours of the study over all runs; run again with more to"
        " continue",
    )
    add("--address", metavar="RAY", help="a running Ray cluster; default: this machine")
    add(
        "--store",
        metavar="URL",
        help="s3:// or gs:// folder through which trials' files come to this machine; default:"
        " nodes that do not share the results folder send them here directly",
    )
    add("--tracking-uri", metavar="URI", help="MLflow; default: a database in the results folder")
    add(
        "--storage",
        metavar="URL",
        help="the ledger's database, such as postgresql+psycopg://USER@HOST/DATABASE; default: a"
        " file in the study's folder",
    )
    add(
        "--rebuild-tracking",
        action="store_true",
        help="write MLflow anew from the ledger of --study; train nothing",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print the plan and what is wrong with it; start nothing",
    )
    return parser


def _options(parsed: argparse.Namespace) -> Options:
    return Options(
        parsed.results,
        parsed.storage,
        parsed.tracking_uri,
        parsed.parallel,
        None if parsed.time_budget is None else seconds(parsed.time_budget, "--time-budget"),
        parsed.address,
        store=parsed.store,
        grace=seconds(parsed.grace, "--grace"),
        warm_start=parsed.warm_start,
    )


def _asked_for(parsed: argparse.Namespace, options: Options) -> "StudyRequest":
    """The request of the space file, or of the known study, with the command line's changes."""
    if parsed.space is None and parsed.study is None:
        raise BadRequest(
            "--space FILE is needed, or --study NAME of a known study; search_spaces/ holds"
            " examples"
        )
    from tune.request.file import load_request, request_of, with_overrides

    changes = list(parsed.overrides)
    for name in ("gpus_per_trial", "cpus_per_trial", "epoch_budget", "gpu_hour_budget"):
        if value := getattr(parsed, name):
            changes.append(f"resources.{name}={value}")
    named = {"data": parsed.data, "study": parsed.study, "trials": parsed.trials}
    if parsed.space is not None:
        return load_request(parsed.space, changes, **named)
    folder = StudyFolder(options.results / parsed.study)
    if not folder.description.exists():
        raise StudyError(
            f"--study: {parsed.study!r} is not a study in {options.results}; start it with --space"
            " FILE"
        )
    return with_overrides(request_of(folder), changes, **named)


def _rebuild_tracking(study: str | None, options: Options) -> int:
    if study is None:
        raise BadRequest("--rebuild-tracking needs --study NAME, the study to show in MLflow")
    from tune.study.rebuild import rebuild_tracking

    trials, confirming, tracker = rebuild_tracking(options, study)
    beside = f" and {confirming} that confirm them" if confirming else ""
    console = Console()
    say(console, f"{tracker.name} shows {many(trials, 'trial')} of {study}{beside}")
    say(console, f"Compare: {tracker.how_to_open}")
    return 0


def _dry_run(request: "StudyRequest", options: Options) -> int:
    from tune.announcements import first_configurations, search_lines
    from tune.study.pace import dry_lines
    from tune.study.plan import check_request

    plan, problems = check_request(request, options)
    if plan is None:
        for problem in problems:
            complain(problem)
        return 2
    console = Console()
    for line in [
        *search_lines(plan),
        *first_configurations(plan.request, plan.warm_start),
        *dry_lines(plan),
    ]:
        say(console, line)
    say(console, "Dry run: nothing was started, nothing was written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
