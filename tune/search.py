"""Search: `python -m tune.search --space FILE`."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core.console import complain, say
from core.errors import BadRequest, CellTuneError, StudyError
from core.files import refused
from core.interrupts import exit_status, terminable
from core.text import have, many
from tune.ledger.proposals import preview
from tune.ledger.reading import Reading, read_ledger
from tune.ledger.records import State, TrialRecord
from tune.report import page as report
from tune.report.page import Written
from tune.report.rows import smallest_shown
from tune.request.file import from_document, load, with_overrides
from tune.request.request import StudyRequest
from tune.statistics.choice import Choice
from tune.store.folder import StudyFolder
from tune.study import conductor as study
from tune.study import confirmation
from tune.study.learned import no_winner, nothing_learned, way_out
from tune.study.plan import Options, StudyPlan, absolute, check_request, data_advice, plan_study
from tune.study.rebuild import rebuild_tracking

PREVIEW = 3
"""Number of configurations that a dry run shows."""


@terminable()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 2 a wrong request, 130 or 143
    interrupted, 1 the rest.
    """
    parsed = build_parser().parse_args(arguments)
    try:
        return _run(parsed, Console())
    except BadRequest as error:
        complain(error)
        return 2
    except CellTuneError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain("Interrupted; to continue, run the same command again")
        return exit_status()


def _run(parsed: argparse.Namespace, console: Console) -> int:
    options = _options(parsed)
    if parsed.rebuild_tracking:
        return _rebuild_tracking(parsed, options, console)
    request = _request(parsed, options)
    if parsed.dry_run:
        return _dry_run(request, options, console)
    plan = plan_study(request, options)
    _announce(plan, console)
    finished = study.run_study(plan, console)
    return _conclude(plan, finished, console, *_report(plan))


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.search",
        description=(
            "Search the settings of Mask R-CNN on a data set. The same command, run again,"
            " continues."
        ),
    )
    add = parser.add_argument
    add(
        "--space",
        type=Path,
        metavar="FILE",
        help="the space file; may be left out with --study of a known study",
    )
    add(
        "--data", metavar="DIR", help="the data set: a folder in HW3 or COCO layout, or 'synthetic'"
    )
    add(
        "--study",
        metavar="NAME",
        help="name of the study and of its folder; default: that of the space file",
    )
    add("--trials", type=int, metavar="N", help="trials the study is to have in the end")
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
    add("--gpus-per-trial", metavar="X|auto", help="GPU a trial holds: a fraction, 1, 0 or auto")
    add("--cpus-per-trial", metavar="N|auto", help="processors a trial holds")
    add("--parallel", type=int, metavar="N", help="most trials at once; default: as many as fit")
    add(
        "--time-budget",
        metavar="90m",
        help="end after this time, such as 45s, 90m or 12h; run again to continue",
    )
    add("--address", metavar="RAY", help="a running Ray cluster; default: this machine")
    add("--tracking-uri", metavar="URI", help="MLflow; default: a database in the results folder")
    add(
        "--storage",
        metavar="URL",
        help="the ledger's database; default: a file in the study's folder",
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
    if parsed.parallel is not None and parsed.parallel < 1:
        raise BadRequest(f"--parallel must be at least 1, and is {parsed.parallel}")
    budget = None if parsed.time_budget is None else _seconds(parsed.time_budget)
    storage, tracking_uri = absolute(parsed.storage), absolute(parsed.tracking_uri)
    return Options(parsed.results, storage, tracking_uri, parsed.parallel, budget, parsed.address)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise BadRequest(
            f"--time-budget must be a number and s, m or h, such as 90m, and is {text!r}"
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _request(parsed: argparse.Namespace, options: Options) -> StudyRequest:
    overrides = list(parsed.overrides)
    overrides += (
        [f"resources.gpus_per_trial={parsed.gpus_per_trial}"] if parsed.gpus_per_trial else []
    )
    overrides += (
        [f"resources.cpus_per_trial={parsed.cpus_per_trial}"] if parsed.cpus_per_trial else []
    )
    named = {"data": parsed.data, "study": parsed.study, "trials": parsed.trials}
    if parsed.space is not None:
        return load(parsed.space, overrides, **named)
    if parsed.study is None:
        raise BadRequest(
            "--space FILE is needed, or --study NAME of a known study; search_spaces/ holds"
            " examples"
        )
    folder = StudyFolder(options.results / parsed.study)
    if not folder.description.exists():
        raise StudyError(
            f"--study: {parsed.study!r} is not a study in {options.results}; start it with --space"
            " FILE"
        )
    request = from_document(folder.read_description()["request"], str(folder.description))
    return with_overrides(request, overrides, **named)


def _rebuild_tracking(parsed: argparse.Namespace, options: Options, console: Console) -> int:
    if parsed.study is None:
        raise BadRequest("--rebuild-tracking needs --study NAME, the study to show in MLflow")
    trials, confirming, tracker = rebuild_tracking(options, parsed.study)
    beside = f" and {confirming} that confirm them" if confirming else ""
    say(console, f"{tracker.name} shows {many(trials, 'trial')} of {parsed.study}{beside}")
    say(console, f"Compare: {tracker.how_to_open}")
    return 0


def _announce(plan: StudyPlan, console: Console) -> None:
    for line in _plan_lines(plan):
        say(console, line)


def _plan_lines(plan: StudyPlan) -> list[str]:
    request, resources, data = plan.request, plan.resources, plan.data
    instances = int(data.instance_counts().sum())
    gpu = f"{resources.gpus:g} GPU and " if resources.gpus else ""
    probed = (
        resources.gpus
        and request.resources.gpus_per_trial == "auto"
        and plan.machine.address is None
    )
    trials, epochs = many(request.planned_trials, "trial"), many(request.max_epochs, "epoch")
    lines = [
        (
            f"Study {request.study}: {trials} of up to {epochs}, {resources.parallel} at once, "
            f"{gpu}{many(resources.cpus, 'processor')} each"
            f"{' (more, if a probe finds room on a GPU)' if probed else ''}"
        ),
        (
            f"Data {request.data}: {many(len(data.samples), 'image')},"
            f" {many(instances, 'instance')}, {many(len(data.classes), 'class')}"
        ),
    ]
    for file in dict.fromkeys(plan.weights.values()):
        at_first = (
            f" (to be downloaded: {file.missing.size:.0f} MiB from {file.missing.url})"
            if file.missing
            else ""
        )
        lines.append(f"Weights: {file.path}{at_first}")
    lines += [f"Note: {note}" for note in [*data.notes, *data_advice(request, data)]]
    lines += [f"Note: the space has grown: {sentence}" for sentence in plan.growth]
    shortage = confirmation.shortage(request, plan.repeats)
    lines += [f"Note: {shortage}"] if shortage else []
    lines += [f"Note: {note}" for note in request.notes]
    return [*lines, f"Note: {smallest_shown(request, (), plan.groups).sentence}"]


def _dry_run(request: StudyRequest, options: Options, console: Console) -> int:
    plan, problems = check_request(request, options)
    if plan is None:
        for problem in problems:
            complain(problem)
        return 2
    _announce(plan, console)
    say(console, "First configurations:")
    for record in preview(request, PREVIEW):
        params = _params(record) or "all settings at their defaults"
        name = f"{record.name}: " if record.name else ""
        say(console, f"  {record.id}  {name}{params}")
    say(console, "Dry run: nothing was started, nothing was written.")
    return 0


def _report(plan: StudyPlan) -> tuple[Written | None, str]:
    """Write the report of the study as it stands; None, and the reason, if it cannot be written:
    the study is whole.
    """
    try:
        return report.make_report(plan.options, plan.folder, plan.data), ""
    except CellTuneError as error:
        return None, str(error)
    except OSError as error:
        return None, refused(error)


def _conclude(
    plan: StudyPlan, finished: bool, console: Console, written: Written | None, trouble: str
) -> int:
    """Print the results of the study; returns the exit status, 1 if every trial that ended
    failed.
    """
    ledger = read_ledger(plan.storage, plan.request.study)
    assert ledger is not None
    states = [record.state for record in ledger.records]
    counts = ", ".join(
        f"{states.count(state)} {words}"
        for state, words in (
            (State.COMPLETE, "complete"),
            (State.PRUNED, "stopped early"),
            (State.FAIL, "failed"),
            (State.RUNNING, "to be continued"),
        )
        if state in states
    )
    lines = [f"{'Finished' if finished else 'Not finished'}: {counts or 'no trial yet'}"]
    best = ledger.best
    if nothing_learned(ledger.records):
        sentences = (no_winner(ledger.records), way_out(ledger.records))
        lines += [f"{sentence[0].upper()}{sentence[1:]}" for sentence in sentences]
        lines += (
            ["Nothing is confirmed on fresh seeds and splits"] if plan.request.confirm.top else []
        )
    elif best is not None:
        what = best.name or _params(best)
        lines.append(
            f"Best: trial {best.id}, AP50 {best.ap50:.4f} at epoch {best.best_epoch}: {what}"
        )
        lines += _confirmation_lines(
            plan, ledger, None if written is None else written.findings.choice
        )
    if written is not None and not written.findings.nothing_learned:
        lines.append(written.findings.smallest_difference.sentence)
    failed = [record for record in ledger.records if record.state is State.FAIL]
    if failed:
        reason, times = Counter(record.reason for record in failed).most_common(1)[0]
        errors = plan.folder.trial(failed[-1].id) / "error.txt"
        lines.append(
            f"Failed: {times} of {len(failed)} for this reason: {reason}"
            + (f" ({errors})" if errors.exists() else "")
        )
    if written is None:
        lines.append(
            f"The report could not be written: {trouble}; to try again: python -m tune.report"
        )
    else:
        lines.append(f"Report: {written.page}")
        if written.trouble is not None:
            lines.append(
                f"{written.tracker} does not show the report ({written.trouble.reason}):"
                f" {written.trouble.way_out}"
            )
    lines.append(f"Results: {plan.folder.path} (table: {plan.folder.trials_csv})")
    lines.append(f"Compare: {plan.tracking.how_to_open}")
    if not finished:
        lines.append("To continue, run the same command again")
    for line in lines:
        say(console, line)
    return 1 if failed and len(failed) == sum(state is not State.RUNNING for state in states) else 0


def _params(record: TrialRecord) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.params.items())


def _confirmation_lines(plan: StudyPlan, ledger: Reading, choice: Choice | None) -> list[str]:
    """Lines on the scores of the search's best on fresh seeds and splits, as far as these are
    known.
    """
    best = ledger.best
    if best is None:
        return []
    too_high = "That is the best of several scores on the same validation images, and so too high"
    read = confirmation.read_confirmation(plan.folder, plan.storage, plan.request, ledger.records)
    if read is None:
        return [f"{too_high}; only fresh seeds and splits can tell how sure the order is"]
    if not read.finished:
        ended = (
            f"of {many(read.planned, 'training')} on fresh seeds and splits {read.ended}"
            f" {have(read.ended)} ended"
        )
        return [f"{too_high}; {ended}"]
    lines = [f"Note: {note}" for note in read.notes]
    if choice is None:
        return [f"{too_high}, and nothing confirmed it", *lines]
    winner = next(candidate for candidate in read.candidates if candidate.name == choice.name)
    sure = choice.corrected
    lines.append(
        f"Confirmed: {choice.name}, AP50 {sure.estimate:.4f} ({sure.low:.4f} to {sure.high:.4f}) at"
        f" epoch {choice.epoch}, on {read.on}; in the search it had {winner.score:.4f}"
        + (
            f", which was {winner.score - sure.estimate:.4f} too high"
            if winner.score > sure.estimate
            else ""
        )
    )
    first = read.candidates[0]
    if first.name != choice.name:
        curve = choice.curves.get(first.name)
        lines.append(
            f"The best of the search was another: {first.name} had {first.score:.4f} there"
            + (
                f" and {max(curve):.4f} on the fresh seeds, where the winner had {choice.score:.4f}"
                if curve
                else ""
            )
        )
        if not winner.trial.name:
            lines.append(f"Settings of {choice.name}: {_params(winner.trial)}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
