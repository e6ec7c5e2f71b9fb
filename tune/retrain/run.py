"""The retraining of a study's winner: training, settings of prediction, submission and pictures.

It writes `results/STUDY/best/`:

    config.yaml, model.safetensors    the model (see `core.prediction.trained_model`), or members/
                                      in place of its weights where several predict together
    metrics.json                      the trial, its training, its scores, and whether there is a
                                      submission or why not
    overlays/validation               pictures of the validation images
    submission.zip                    the detections in the data set's test images, where it lists
                                      any
    overlays/test                     pictures of the test images

The model and its metrics come first and replace an older `best/` as a whole, so that a submission
never lies beside another model. Then the test images are predicted. One that cannot be read costs
the submission, never the model, and the same command makes the submission once that image is
repaired.

The training keeps its checkpoints in `results/STUDY/retrain/KEY/`, so the same command goes on
after any interruption.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from core import interrupts
from core.console import say
from core.device import precision_of, resolve_device
from core.errors import CellTuneError, CheckpointError, ProcessLost, TornCheckpoint
from core.files import recover, replaced, write_json_atomically
from core.metric import ap50
from core.metric.ap50 import MatchTable
from core.metric.coco_summary import coco_summary
from core.prediction import choice as prediction_choice
from core.prediction import trained_model
from core.prediction.choice import Evaluated
from core.prediction.submission import CocoResult
from core.prediction.trained_model import TrainedModel
from core.training.trial import EpochReport, Trial
from core.values import as_ap50, as_loss, as_seconds
from tune.retrain import ensemble
from tune.retrain.outputs import DRAWN_SCORE, NOT_YET, add_submission, draw_validation
from tune.retrain.plan import RetrainingPlan
from tune.store.folder import match_table_path
from tune.study.progress import Steps
from tune.tracking.tracker import Retraining, TrackedStudy, Trouble

MAX_WORKERS = 8
"""Largest number of processes that prepare images beside a GPU."""


class OutOfMemoryError(CellTuneError):
    """The retraining does not fit into memory."""


@dataclass(frozen=True)
class RetrainingOutcome:
    """The result of a retraining.

    metrics     the content of metrics.json
    test        the detections in each test image that could be predicted, by the image's id
    full_tiles  for each of these images, the number of tiles that reached the cap on detections
    missing     the reasons why there is no submission, a sentence each; empty if there is one
    shown       the results for the tracker
    """

    metrics: dict[str, Any]
    test: dict[int, list[CocoResult]]
    full_tiles: list[int]
    missing: list[str]
    shown: Retraining


def run_retraining(
    plan: RetrainingPlan,
    console: Console,
    device: str = "auto",
    grace: float = interrupts.GRACE_SECONDS,
) -> RetrainingOutcome:
    """Retrain, or continue a retraining, and write `best/`. Raises CellTuneError.

    grace   seconds that a running epoch has to end after Ctrl-C, which then raises
            KeyboardInterrupt

    If the plan has members, nothing is trained: they are joined into one model.
    """
    with plan.folder.retrain_lock(), _memory_in_one_sentence(plan):
        recover(plan.folder.best)
        if plan.members:
            return _put_together(plan, console, device)
        trial = _train(plan, console, device, grace)
        trained = trial.trained_model()
        evaluated: list[Evaluated] = []
        if plan.on == "train":
            evaluated = _evaluate(plan, trained, trial, console)
        elif plan.candidates:
            evaluated = _evaluate_winner(plan, console, device)
        chosen = prediction_choice.best_evaluated(evaluated) if evaluated else None
        trained = trained.predicting_with(plan.own if chosen is None else chosen.config)
        metrics = _metrics(plan, trial, evaluated, chosen)
        matches = _matches_of_search(plan) if chosen is None or plan.on == "all" else chosen.masks
        balanced = None if matches is None else ap50.balanced_score(matches)
        metrics["balanced_score"] = balanced
        shown = DRAWN_SCORE if balanced is None else balanced
        metrics["submission"] = NOT_YET if plan.data.test_images else None
        with replaced(plan.folder.best) as folder:
            trained_model.save(folder, trained)
            write_json_atomically(folder / "metrics.json", metrics)
            if plan.on == "train" and chosen is not None:
                samples = [plan.data.samples[index] for index in trial.split.validation]
                found, classes = chosen.found, trained.classes
                draw_validation(folder, samples, found, classes, metrics, shown, console)
        tested = add_submission(
            plan.folder.best,
            trained,
            plan.data.test_images,
            metrics,
            shown,
            console,
            helpers=trial.threads - 1,
        )
        plan.folder.description.touch()  # this is now the study that was used last
    return RetrainingOutcome(
        metrics,
        tested.results,
        tested.full_tiles,
        tested.missing,
        _for_tracker(plan, trial, trained, metrics),
    )


def _put_together(plan: RetrainingPlan, console: Console, device: str) -> RetrainingOutcome:
    """Join the plan's members into one model, and write `best/`."""
    made = ensemble.make_ensemble(plan, console, device)
    metrics, trained = made.metrics, made.trained
    metrics["submission"] = NOT_YET if plan.data.test_images else None
    with replaced(plan.folder.best) as folder:
        trained_model.save(folder, trained)
        write_json_atomically(folder / "metrics.json", metrics)
        if made.unseen:
            classes, shown = trained.classes, metrics["balanced_score"]
            draw_validation(folder, made.unseen, made.found, classes, metrics, shown, console)
    tested = add_submission(
        plan.folder.best,
        trained,
        plan.data.test_images,
        metrics,
        metrics["balanced_score"],
        console,
        helpers=torch.get_num_threads() - 1,
    )
    plan.folder.description.touch()  # this is now the study that was used last
    numbers = {"search_ap50": float(plan.record.ap50 or 0.0)}
    if metrics["together"] is not None:
        numbers |= {name: metrics["together"][name] for name in ("ap50", "ap50_gain")}
    settings = trained.config.settings()
    shown_as = Retraining(plan.folder.best, plan.kind, plan.key, settings, [], numbers)
    return RetrainingOutcome(metrics, tested.results, tested.full_tiles, tested.missing, shown_as)


def show_in_tracker(plan: RetrainingPlan, outcome: RetrainingOutcome) -> str | Trouble:
    """Show a retraining in the tracker.

    Returns the model's address there, or why the tracker did not take the model. The files that
    were written stay in either case, because a tracker is only a view.
    """
    study = TrackedStudy(plan.request.study, plan.identity)
    try:
        return plan.tracking.show_retraining(study, plan.record, outcome.shown)
    except Exception as error:  # noqa: BLE001  # a tracker may raise anything
        return plan.tracking.trouble_of(error)


@contextlib.contextmanager
def _memory_in_one_sentence(plan: RetrainingPlan) -> Iterator[None]:
    """Turn errors that say that memory ran out into OutOfMemoryError.

    On a CPU torch raises a plain RuntimeError for it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (
            isinstance(error, MemoryError | torch.OutOfMemoryError)
            or "can't allocate memory" in str(error)
        ):
            raise
        reason = (str(error).strip() or "out of memory").splitlines()[0][:200]
        kept = "" if plan.members else f", and the epochs that ended are kept in {plan.work}"
        raise OutOfMemoryError(
            f"the retraining does not fit into memory ({reason}){kept}; free memory, or give the"
            " command again with --device cpu, or, if training had ended, with"
            " --set predict.tile=512"
        ) from error


def _train(plan: RetrainingPlan, console: Console, device: str, grace: float) -> Trial:
    """Train to the plan's last epoch, from a checkpoint if there is one; returns the trial."""
    helpers = min(len(os.sched_getaffinity(0)) - 1, MAX_WORKERS)
    place = resolve_device(device)
    half = plan.config.optim.precision
    if (half == "bf16" and precision_of(place) != "bf16") or (
        half == "fp16" and place.type == "cpu"
    ):
        say(
            console,
            f"Note: the trial trained in {half}, which is slow on {place};"
            " --set optim.precision=fp32 is faster, but is not the trial's method",
        )
    trial = Trial(
        plan.config,
        plan.data,
        plan.weights,
        validate=plan.on == "train",
        device=device,
        loader_workers=helpers if place.type == "cuda" else 0,
        threads=plan.threads,
    )
    with Steps(console, "Training", plan.epochs, "epoch") as steps:
        try:
            there = trial.load(plan.work)
        except TornCheckpoint as error:
            trial.discard(plan.work)
            there = False
            steps.say(f"Begins anew: {error}")
        if there:
            left = plan.epochs - trial.epoch
            steps.say(
                f"Goes on after epoch {trial.epoch} of {plan.epochs}"
                if left
                else "The training had ended"
            )
            steps.at(trial.epoch)
        while trial.epoch < plan.epochs:
            before = trial.epoch
            with interrupts.grace(grace), _ended_beside_its_helpers():
                report = trial.run_epoch(lambda done, before=before: steps.at(before + done))  # type: ignore[misc]
                trial.save(plan.work)
            steps.say(_epoch_line(report, plan.epochs))
    # What follows must be the same whether or not an epoch was run here.
    torch.set_num_threads(trial.threads)
    return trial


@contextlib.contextmanager
def _ended_beside_its_helpers() -> Iterator[None]:
    """Raise KeyboardInterrupt where processes that prepare images were told to end, as this was.

    A scheduler may send SIGTERM to all processes of a job.
    """
    try:
        yield
    except ProcessLost:
        if not interrupts.interrupted():
            raise
        raise KeyboardInterrupt from None


def _epoch_line(report: EpochReport, epochs: int) -> str:
    score = "" if report.ap50 is None else f", AP50 {as_ap50(report.ap50)}"
    return (
        f"Epoch {report.epoch}/{epochs}: loss {as_loss(report.losses['loss'])}{score},"
        f" {as_seconds(report.seconds)}"
    )


def _evaluate(
    plan: RetrainingPlan, trained: TrainedModel, trial: Trial, console: Console
) -> list[Evaluated]:
    """A model's scores on validation images with each of the plan's settings of prediction.

    The plan's own settings come first, then its candidates.

    trial   the trial whose validation images these are
    """
    samples = [plan.data.samples[index] for index in trial.split.validation]
    candidates = [plan.own, *plan.candidates]
    with Steps(console, "Predicting the validation images", 1, "") as steps:
        return prediction_choice.evaluate_candidates(
            trained, samples, candidates, steps.at, helpers=trial.threads - 1
        )


def _evaluate_winner(plan: RetrainingPlan, console: Console, device: str) -> list[Evaluated]:
    """The scores of the search's own model with each candidate, to choose settings of prediction.

    The new model trains on every image, so none is left to score it. The list is empty if the
    search kept no weights of the trial, if these are damaged or of an earlier version, or if the
    retraining has other settings.
    """
    if any(not name.startswith("predict.") for name in plan.changed):
        return []
    trial = Trial(plan.config, plan.data, plan.weights, device=device)
    try:
        kept = trial.kept_model(plan.folder.trial(plan.record.id))
    except CheckpointError:
        kept = None
    return [] if kept is None else _evaluate(plan, kept, trial, console)


def _matches_of_search(plan: RetrainingPlan) -> MatchTable | None:
    """The match table of the trial's best epoch in the search; None if the file is missing."""
    path = match_table_path(plan.folder.trial(plan.record.id), plan.record.best_epoch or 0)
    return MatchTable.load(path) if path.exists() else None


def _metrics(
    plan: RetrainingPlan, trial: Trial, evaluated: Sequence[Evaluated], chosen: Evaluated | None
) -> dict[str, Any]:
    """The content of metrics.json; `chosen` is the one of `evaluated` that the model uses."""
    record, best = plan.record, trial.best
    assert best is not None
    search = {
        "of": "the trial in the search, on its validation images",
        "ap50": record.ap50,
        "epoch": record.best_epoch,
        "epochs": len(record.epochs),
        "state": record.state.value,
    }
    metrics: dict[str, Any] = {
        "study": plan.request.study,
        "trial": record.id,
        "name": record.name,
        "why": plan.why,
        "on": plan.on,
        "images": {"train": len(trial.split.train), "validation": len(trial.split.validation)},
        "epoch": best.epoch,
        "epochs_trained": trial.epoch,
        "epochs_of_schedule": plan.config.optim.epochs,
        "changed": plan.changed_in(trial.config),
        "search": search,
        "validation": None,
        "prediction": {
            "chosen": (plan.own if chosen is None else chosen.config).model_dump(),
            "tried_on": (
                "the trainings of the confirmation"
                if plan.confirmed
                else None
                if not evaluated
                else "this model"
                if plan.on == "train"
                else "the trial of the search"
            ),
            "tried": [
                {**predict.model_dump(), "ap50": score}
                for predict, score in (
                    plan.confirmed or {one.config: one.ap50 for one in evaluated}
                ).items()
            ],
        },
        "data_fingerprint": plan.data.fingerprint,
        "threads": trial.threads,
    }
    if plan.on == "train" and chosen is not None:
        of_masks = ap50.ap50(chosen.masks, chosen.max_dets)
        metrics["validation"] = {
            "of": (
                "this model, on the images by which its epoch and its prediction were chosen: too"
                " high"
            ),
            "ap50": of_masks.mean,
            "ap50_uncapped": ap50.ap50(chosen.masks, None).mean,
            "ap50_box": ap50.ap50(chosen.boxes, chosen.max_dets).mean,
            "capped_images": sum(found.full_tiles > 0 for found in chosen.found),
            "ap50_per_class": {
                category.name: score
                for category, score in zip(plan.data.classes, of_masks.per_class, strict=True)
            },
            "coco": coco_summary(
                [trial.data.samples[index] for index in trial.split.validation],
                chosen.found,
                len(plan.data.classes),
            ),
        }
    return metrics


def _for_tracker(
    plan: RetrainingPlan, trial: Trial, trained: TrainedModel, metrics: dict[str, Any]
) -> Retraining:
    """The results of a retraining as a tracker shows them."""
    validation = metrics["validation"] or {}
    numbers = {
        name: validation[name]
        for name in ("ap50", "ap50_uncapped", "ap50_box")
        if name in validation
    }
    return Retraining(
        folder=plan.folder.best,
        on=plan.kind,
        key=plan.key,
        settings=trained.config.settings(),
        epochs=[report.to_json() for report in trial.reports],
        metrics={
            **numbers,
            "search_ap50": float(plan.record.ap50 or 0.0),
            "epoch": metrics["epoch"],
        },
    )
