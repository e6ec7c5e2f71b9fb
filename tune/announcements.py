"""The lines that a search and a retraining print: their plan before, their outcome after."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from core.prediction.detect import about_full_tiles
from core.programs import program_here
from core.text import have, many
from core.values import as_ap50, as_setting, as_settings
from tune.ledger.proposals import preview
from tune.ledger.records import State
from tune.ledger.warm_start import WarmStart
from tune.redaction import without_password
from tune.report.main_table import smallest_shown
from tune.report.page import WrittenReport
from tune.report.sentences import runners_up
from tune.request.request import StudyRequest
from tune.retrain.plan import RetrainingPlan
from tune.retrain.run import RetrainingOutcome
from tune.statistics.choice import Choice
from tune.study import confirmation
from tune.study.automatic import sentences_on_data
from tune.study.learned import no_winner, nothing_learned, remedies
from tune.study.plan import StudyPlan, data_advice, network_advice
from tune.study.reading import Study
from tune.tracking.tracker import Trouble

PREVIEW = 3
"""Largest number of configurations that a dry run shows."""


def search_lines(plan: StudyPlan) -> list[str]:
    """Lines printed before a search: its plan, then notes, a sentence each."""
    request, resources, data = plan.request, plan.resources, plan.data
    instances = int(data.instance_counts().sum())
    gpu = f"{as_setting(resources.gpus)} GPU and " if resources.gpus else ""
    measured = (
        resources.gpus
        and request.resources.gpus_per_trial == "auto"
        and plan.machine.address is None
    )
    trials, epochs = many(request.planned_trials, "trial"), many(request.max_epochs, "epoch")
    lines = [
        (
            f"Study {request.study}: {trials} of up to {epochs}, {resources.parallel} at once, "
            f"{gpu}{many(resources.cpus, 'processor')} each"
            f"{' (more, if sharing a GPU is measured to gain)' if measured else ''}"
        ),
        (
            f"Data {request.data}: {many(len(data.samples), 'image')},"
            f" {many(instances, 'instance')}, {many(len(data.classes), 'class')}"
        ),
    ]
    for file in dict.fromkeys(plan.weights.values()):
        at_first = (
            f" (to be downloaded: {round(file.missing.size)} MiB from {file.missing.url})"
            if file.missing
            else ""
        )
        lines.append(f"Weights: {file.path}{at_first}")
    notes = [*data.notes, *data_advice(request, data), *network_advice(request)]
    lines += [f"Note: {note}" for note in notes]
    lines += [f"Note: the study has grown: {sentence}" for sentence in plan.growth]
    if plan.warm_start is not None:
        lines += [f"Note: warm start: {sentence}" for sentence in plan.warm_start.sentences]
    lines += [f"Note: {said}" for said in (plan.at_hand, plan.precision) if said]
    lines += [f"Note: {sentence}" for sentence in sentences_on_data(request)]
    shortage = confirmation.shortage(request, plan.repeats)
    lines += [f"Note: {shortage}"] if shortage else []
    lines += [f"Note: {note}" for note in request.notes]
    return [*lines, f"Note: {smallest_shown(request, (), plan.groups).sentence}"]


def first_configurations(request: StudyRequest, warm: WarmStart | None = None) -> list[str]:
    """Lines with the first configurations that a search proposes, before it has any results.

    warm   what the search takes from another study
    """
    lines = ["First configurations:"]
    for record in preview(request, PREVIEW, warm):
        settings = as_settings(record.searched) or "all settings at their defaults"
        name = f"{record.name}: " if record.name else ""
        start = f" (start point: {record.start})" if record.start else ""
        lines.append(f"  {record.id}  {name}{settings}{start}")
    return lines


def searched_lines(plan: StudyPlan, study: Study, report: WrittenReport | str) -> list[str]:
    """Lines printed after a search: its best trial, how sure that is, and where its files are.

    report   the report that was written, or the reason why it could not be written
    """
    finished, records, best = study.finished, study.records, study.best
    written = None if isinstance(report, str) else report
    states = Counter(record.state for record in records)
    counts = ", ".join(
        f"{states[state]} {words}"
        for state, words in (
            (State.COMPLETE, "complete"),
            (State.PRUNED, "stopped early"),
            (State.FAIL, "failed"),
            (State.RUNNING, "to be continued"),
        )
        if states[state]
    )
    ended = [f"{'Finished' if finished else 'Not finished'}: {counts or 'no trial yet'}"]
    if nothing_learned(records):
        sentences = (no_winner(records), remedies(records))
        lines = [f"{sentence[0].upper()}{sentence[1:]}" for sentence in sentences]
        lines += (
            ["Nothing is confirmed on fresh seeds and splits"] if study.request.confirm.top else []
        )
        return [*lines, *ended, *_failure_lines(study), *_file_lines(plan, study, report)]
    lines = ended
    if best is not None:
        what = best.name or as_settings(best.searched)
        lines.append(
            f"Best: trial {best.id}, AP50 {as_ap50(best.ap50)} at epoch {best.best_epoch}: {what}"
        )
        lines += _confirmation_lines(study, None if written is None else written.content.choice)
    if written is not None:
        lines.append(written.content.smallest_difference.sentence)
    return [*lines, *_failure_lines(study), *_file_lines(plan, study, report)]


def _failure_lines(study: Study) -> list[str]:
    """A line on the most frequent reason of failed trials; none without a failure."""
    failed = [record for record in study.records if record.state is State.FAIL]
    if not failed:
        return []
    reason, times = Counter(record.reason for record in failed).most_common(1)[0]
    errors = study.folder.trial(failed[-1].id) / "error.txt"
    return [
        f"Failed: {times} of {len(failed)} for this reason: {reason}"
        + (f" ({errors})" if errors.exists() else "")
    ]


def _file_lines(plan: StudyPlan, study: Study, report: WrittenReport | str) -> list[str]:
    """Lines on where the report and the results are, and on how to compare the trials."""
    if isinstance(report, str):
        lines = [
            f"The report could not be written: {report}; to try again:"
            f" {program_here('python')} -m tune.report --study {study.request.study}"
        ]
    else:
        lines = [f"Report: {report.page}"]
        if report.trouble is not None:
            lines.append(f"{report.tracker} does not show the report {report.trouble}")
    lines.append(f"Results: {study.folder.path} (table: {study.folder.trials_csv})")
    lines.append(f"Compare: {plan.tracking.how_to_open}")
    if not isinstance(report, str) and report.link is not None:
        lines.append(f"Then open: {report.link}")
        lines += [f"Their curves and settings: {report.charts}"] if report.charts else []
    storage = shlex.quote(without_password(study.storage))
    lines.append(f"In Optuna's pages: {program_here('optuna-dashboard')} {storage}")
    if not study.finished:
        lines.append("To continue, run the same command again")
    elif study.best is not None and not nothing_learned(study.records):
        lines.append(f"Next, train the winner: {_retraining(study)}")
    return lines


def _retraining(study: Study) -> str:
    """The command that trains a study's winner again and writes its model."""
    folder = study.folder.path
    words = ["-m", "tune.retrain_best", "--study", study.request.study]
    words += [] if folder.parent == Path("results") else ["--results", str(folder.parent)]
    return f"{program_here('python')} {shlex.join(words)}"


def _confirmation_lines(study: Study, choice: Choice | None) -> list[str]:
    """Lines on the confirmation: the winner's score on fresh seeds and splits, once it is known."""
    too_high = (
        "That is the best of several scores on the same validation images, and so too high on"
        " average"
    )
    read = study.confirmation
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
        f"Confirmed: {choice.name}, AP50 {as_ap50(sure.estimate)} ({as_ap50(sure.low)} to"
        f" {as_ap50(sure.high)}) at epoch {choice.epoch}, on {read.on}; in the search it had"
        f" {as_ap50(winner.score)}"
        + (
            f", {as_ap50(winner.score - sure.estimate)} more"
            if winner.score > sure.estimate
            else ""
        )
    )
    if choice.others:
        lines.append(runners_up(choice))
    if choice.prediction is not None:
        changed = as_settings(confirmation.changed_prediction(choice, winner.trial))
        gain = as_ap50(choice.gains[choice.prediction])
        lines.append(
            f"Its best settings of prediction are {changed}; they bring {gain} of that AP50"
        )
    first = max(read.candidates, key=lambda candidate: candidate.score)
    if first.name != choice.name:
        curve = choice.curves.get(first.name)
        lines.append(
            f"In the search another candidate had the highest score: {first.name} had"
            f" {as_ap50(first.score)} there"
            + (
                f" and {as_ap50(max(curve))} on the fresh seeds, where the winner had"
                f" {as_ap50(choice.score)}"
                if curve
                else ""
            )
        )
        if not winner.trial.name:
            lines.append(f"Settings of {choice.name}: {as_settings(winner.trial.searched)}")
    return lines


def retraining_lines(plan: RetrainingPlan) -> list[str]:
    """Lines printed before a retraining: its plan, then notes, a sentence each."""
    samples = len(plan.data.samples)
    if plan.members:
        return [
            f"Study {plan.request.study}: {plan.why}",
            f"Nothing is trained: {many(len(plan.members), 'model')} of the confirmation predict"
            " together",
            *(f"Note: {note}" for note in plan.notes),
        ]
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


def retrained_lines(plan: RetrainingPlan, outcome: RetrainingOutcome) -> list[str]:
    """Lines printed after a retraining: scores, files, and the command that uses the model."""
    best, metrics = plan.folder.best, outcome.metrics
    if plan.members:
        lines = [_together_line(plan, metrics)]
    else:
        lines = [f"Retrained: the model of epoch {metrics['epoch']}{_scores(metrics)}"]
        if plan.on == "train" and plan.record.state is State.COMPLETE and not plan.changed:
            lines += _scatter_lines(plan, metrics)
        lines += _prediction_lines(plan, metrics)
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
    use = f"{program_here('python')} -m core.predict --model {shlex.quote(str(best))} --images DIR"
    return [
        *lines,
        f"Use it: {use} --out cells",
        "It writes label images, a table, polygons, pictures and COCO results into the new folder"
        " cells; --out results.json writes COCO results alone",
    ]


def registered_line(plan: RetrainingPlan, shown: str | Trouble) -> str:
    """A line with the address of the model in the tracker, or why the tracker does not show it."""
    if isinstance(shown, str):
        return f"{plan.tracking.name}: {shown}; {plan.tracking.how_to_open}"
    return f"{plan.tracking.name} does not show it {shown}; nothing is trained twice"


def _scores(metrics: dict[str, Any]) -> str:
    """A clause on the retrained model's AP50 beside that of the search."""
    search = f"AP50 {as_ap50(metrics['search']['ap50'])} in the search"
    if metrics["validation"] is None:
        return f"; no image is left to score it, the trial had {search}"
    return f", AP50 {as_ap50(metrics['validation']['ap50'])} on its validation images ({search})"


def _together_line(plan: RetrainingPlan, metrics: dict[str, Any]) -> str:
    """A line on how much AP50 models gain by predicting together, or why that cannot be told."""
    count, gain = many(len(plan.members), "model"), metrics["together"]
    if gain is None:
        return (
            f"Together: {count}; at least one of them was trained on each image with an instance,"
            " so their gain over a single model cannot be told"
        )
    return (
        f"Together: {count}, AP50 {as_ap50(gain['ap50'])} on the"
        f" {many(gain['images'], 'image')} that none of them trained on,"
        f" {as_ap50(gain['ap50_gain'])} ({as_ap50(gain['ap50_gain_low'])} to"
        f" {as_ap50(gain['ap50_gain_high'])}) more than one alone"
    )


def _scatter_lines(plan: RetrainingPlan, metrics: dict[str, Any]) -> list[str]:
    """A line on why the same settings and seed gave another score now; none if they did not."""
    again = metrics["prediction"]["tried"][0]["ap50"]
    if plan.confirmed:  # what was tried has the scores of the confirmation's trainings
        same = plan.own == plan.config.predict
        again = metrics["validation"]["ap50"] if same else metrics["search"]["ap50"]
    if again == metrics["search"]["ap50"]:
        return []
    return [
        "Settings, seed and split are the trial's, and its AP50 was"
        f" {as_ap50(metrics['search']['ap50'])} against {as_ap50(again)} now: another device,"
        " number of threads or version rounds differently, and scores scatter that much"
    ]


def _prediction_lines(plan: RetrainingPlan, metrics: dict[str, Any]) -> list[str]:
    tried = metrics["prediction"]["tried"]
    if not plan.candidates:
        return []
    if not tried:
        return [
            "Settings of prediction were not tried: the search kept no weights to try them with"
        ]
    chosen, own = metrics["prediction"]["chosen"], plan.own.model_dump()
    changes = as_settings(
        {f"predict.{name}": value for name, value in chosen.items() if value != own[name]}
    )
    before, best = tried[0]["ap50"], max(one["ap50"] for one in tried)
    if not changes:
        others = len(tried) - 1
        return [
            f"Prediction: its settings stay; none of {others} others had an AP50 above"
            f" {as_ap50(before)}"
        ]
    return [
        f"Prediction: {changes}, the best of {len(tried)} that were tried (AP50 {as_ap50(before)}"
        f" before, {as_ap50(best)} now)"
    ]
