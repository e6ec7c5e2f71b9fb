"""Retrain the winner of a study and write its submission: `python -m tune.retrain_best`."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from core.console import complain, say
from core.errors import BadRequest, CellTuneError
from core.files import refused
from core.interrupts import exit_status, terminable
from core.prediction.detect import about_full_tiles
from core.text import many
from tune.ledger.records import State
from tune.retrain import run as retrain
from tune.retrain.plan import RetrainingPlan, plan_retraining
from tune.retrain.run import Outcome
from tune.study.plan import Options, absolute
from tune.tracking.tracker import Trouble


@terminable()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 2 a wrong request, 1 the rest, 130 or
    143 interrupted.
    """
    parsed = build_parser().parse_args(arguments)
    console = Console()
    try:
        options = Options(parsed.results, absolute(parsed.storage), absolute(parsed.tracking_uri))
        plan = plan_retraining(
            options,
            parsed.study,
            parsed.trial,
            parsed.data,
            parsed.on,
            parsed.overrides,
            parsed.threads,
        )
        _print(console, _plan_lines(plan))
        outcome = retrain.retrain(plan, console, parsed.device)
        _print(console, _outcome_lines(plan, outcome))
        _print(console, _shown_lines(plan, retrain.show(plan, outcome)))
        for reason in outcome.missing:
            complain(f"No submission: {reason}")
        if outcome.missing:
            complain(
                "The model is whole; see to it, then give the same command again: nothing is"
                " trained twice"
            )
            return 1
    except BadRequest as error:
        complain(error)
        return 2
    except CellTuneError as error:
        complain(error)
        return 1
    except OSError as error:
        complain(f"{refused(error)}, then run the same command again; what was saved is whole")
        return 1
    except KeyboardInterrupt:
        complain("Interrupted; the same command goes on after the last epoch that was saved")
        return exit_status()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.retrain_best",
        description=(
            "Retrain the winner of a study and write its model, submission and pictures. "
            "The same command, run again, continues."
        ),
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
            "all: every annotated image, as many epochs as were best"
        ),
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
    add("--tracking-uri", metavar="URI", help="MLflow; default: where the search showed it")
    add(
        "--storage",
        metavar="URL",
        help="the ledger's database; needed again where its URL has a password",
    )
    return parser


def _plan_lines(plan: RetrainingPlan) -> list[str]:
    samples = len(plan.data.samples)
    how = (
        "on the trial's own split, the epoch chosen on its validation images"
        if plan.on == "train"
        else (
            f"on {'the one image' if samples == 1 else f'all {samples:,} images'}, up to the epoch"
            " that was best"
        )
    )
    epochs = many(plan.config.optim.epochs, "epoch")
    epochs = f"{plan.epochs} of {epochs}" if plan.on == "all" else epochs
    lines = [f"Study {plan.request.study}: retraining {plan.why}", f"Training {how}; {epochs}"]
    return lines + [f"Note: {note}" for note in plan.notes]


def _outcome_lines(plan: RetrainingPlan, outcome: Outcome) -> list[str]:
    best, metrics = plan.folder.best, outcome.metrics
    lines = [f"Retrained: the model of epoch {metrics['epoch']}{_score(metrics)}"]
    if plan.on == "train" and plan.record.state is State.COMPLETE and not plan.changed:
        lines += _scatter(metrics)
    lines += _prediction(plan, metrics)
    lines.append(f"Model: {best}")
    if outcome.missing:
        lines.append(
            f"Submission: none, {len(outcome.test)} of"
            f" {many(len(plan.data.test_images), 'test image')} predicted"
        )
    elif plan.data.test_images:
        count = sum(len(results) for results in outcome.test.values())
        lines.append(
            f"Submission: {best / 'submission.zip'} ({many(len(outcome.test), 'image')},"
            f" {many(count, 'instance')})"
        )
        most = metrics["prediction"]["chosen"]["max_detections"]
        full = about_full_tiles(outcome.full_tiles, most, "it with --set predict.max_detections=N")
        lines += [f"Note: {full}"] if full else []
        if not count:
            lines.append("Nothing was found in any test image: the submission is an empty list")
    lines.append(f"Pictures: {best / 'overlays'}")
    use = (
        f"{_python()} -m core.predict --model {shlex.quote(str(best))} --images DIR --out"
        " results.json"
    )
    return [*lines, f"Use it: {use}"]


def _shown_lines(plan: RetrainingPlan, shown: str | Trouble) -> list[str]:
    name = plan.tracking.name
    if isinstance(shown, str):
        return [f"{name}: {shown}; {plan.tracking.how_to_open}"]
    return [f"{name} does not show it ({shown.reason}): {shown.way_out}; nothing is trained twice"]


def _python() -> str:
    """The Python program that runs here, as a person in this folder would type it."""
    program = Path(sys.executable)
    return shlex.quote(
        os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)
    )


def _score(metrics: dict[str, Any]) -> str:
    search = f"AP50 {metrics['search']['ap50']:.4f} in the search"
    if metrics["validation"] is None:
        return f"; no image is left to score it, the trial had {search}"
    return f", AP50 {metrics['validation']['ap50']:.4f} on its validation images ({search})"


def _scatter(metrics: dict[str, Any]) -> list[str]:
    """Why the same settings and the same seed did not give the same score, if they did not."""
    again = metrics["prediction"]["tried"][0]["ap50"]
    if again == metrics["search"]["ap50"]:
        return []
    return [
        "Settings, seed and split are the trial's, and its AP50 was"
        f" {metrics['search']['ap50']:.4f} against {again:.4f} now: another device, number of"
        " threads or version rounds otherwise, and scores scatter that much"
    ]


def _prediction(plan: RetrainingPlan, metrics: dict[str, Any]) -> list[str]:
    tried = metrics["prediction"]["tried"]
    if not plan.candidates:
        return []
    if not tried:
        return [
            "Settings of prediction were not tried: the search kept no weights to try them with"
        ]
    chosen, own = metrics["prediction"]["chosen"], plan.own.model_dump()
    changes = ", ".join(
        f"predict.{name} {value}" for name, value in chosen.items() if value != own[name]
    )
    before, best = tried[0]["ap50"], max(one["ap50"] for one in tried)
    if not changes:
        others = len(tried) - 1
        return [
            f"Prediction: its settings stay; none of {others} others had an AP50 above {before:.4f}"
        ]
    return [
        f"Prediction: {changes}, the best of {len(tried)} that were tried (AP50 {before:.4f}"
        f" before, {best:.4f} now)"
    ]


def _print(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        say(console, line)


if __name__ == "__main__":
    sys.exit(main())
