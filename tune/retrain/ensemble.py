"""The ensemble of the models that the confirmation trained of the winner: they predict as one.

They differ in seed and split, and were trained anyway. Their detections are merged as those of
views are (`predict.merge`, `predict.agreement`).

The gain of the ensemble is measured on the images that none of its models trained on: those in the
validation parts of all their splits. There may be few of these images, or none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from core.config import TrialConfig
from core.data.split import group_names, split
from core.errors import CheckpointError, StudyError
from core.metric import ap50
from core.metric.ap50 import MatchTable
from core.prediction.choice import Evaluated, evaluate_candidates
from core.prediction.trained_model import TrainedModel, join_models
from core.sample import Detections, Sample
from core.training.trial import Trial
from tune.ledger.records import TrialRecord
from tune.retrain.outputs import DRAWN_SCORE
from tune.retrain.plan import RetrainingPlan
from tune.statistics.certainty import Scored, compare
from tune.store.folder import match_table_path
from tune.study.progress import Steps


@dataclass(frozen=True)
class Ensemble:
    """Models that predict together.

    trained   the joined model
    metrics   the content of metrics.json
    unseen    the samples that none of them trained on
    found     the joined model's detections in each of these samples
    """

    trained: TrainedModel
    metrics: dict[str, Any]
    unseen: Sequence[Sample]
    found: Sequence[Detections]


def make_ensemble(plan: RetrainingPlan, console: Console, device: str) -> Ensemble:
    """Join the plan's members into one model, and measure its gain over one member alone.

    Raises StudyError if the weights of a member are missing or damaged.
    """
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    members = [_member(plan, record, device) for record in plan.members]
    trained = join_models(members)
    parts = [
        set(split(plan.data, TrialConfig.from_settings(record.settings).data).validation)
        for record in plan.members
    ]
    unseen = [plan.data.samples[index] for index in sorted(set.intersection(*parts))]
    evaluated = _scores_of_each([trained, *members], unseen, console) if unseen else []
    return Ensemble(
        trained,
        _metrics(plan, evaluated),
        unseen,
        evaluated[0].found if evaluated else (),
    )


def _member(plan: RetrainingPlan, record: TrialRecord, device: str) -> TrainedModel:
    """The model of a confirming trial's best epoch, set to predict with the plan's settings.

    Raises StudyError if its weights are missing or damaged.
    """
    folder = plan.folder.confirm_trial(record.id)
    config = TrialConfig.from_settings(record.settings, f"confirming trial {record.id}")
    trial = Trial(config, plan.data, plan.weights, device=device)
    try:
        kept = trial.kept_model(folder)
    except CheckpointError as error:
        raise StudyError(f"--ensemble: {error}") from None
    if kept is None:
        raise StudyError(
            f"--ensemble needs the weights of all {len(plan.members)} trainings of the winner, and"
            f" {folder} holds none: an earlier version trained it, or they were removed when"
            " another candidate was the winner; leave --ensemble out, or confirm in a new study"
        )
    return kept.predicting_with(plan.own)


def _scores_of_each(
    models: Sequence[TrainedModel], samples: Sequence[Sample], console: Console
) -> list[Evaluated]:
    """The score of each model on the samples, with the model's own settings of prediction."""
    helpers = torch.get_num_threads() - 1
    scored = []
    title = "Predicting the images that no member trained on"
    with Steps(console, title, len(models), "") as steps:
        for number, model in enumerate(models):
            (one,) = evaluate_candidates(
                model,
                samples,
                [model.config.predict],
                lambda done, number=number: steps.at(number + done),  # type: ignore[misc]
                helpers=helpers,
            )
            scored.append(one)
    return scored


def _metrics(plan: RetrainingPlan, evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """The content of metrics.json for an ensemble; `evaluated` is that of `gain_of_ensemble`."""
    record = plan.record
    first = plan.members[0]
    tables = match_table_path(plan.folder.confirm_trial(first.id), first.best_epoch or 0)
    matches = evaluated[0].masks if evaluated else MatchTable.load(tables)
    balanced = ap50.balanced_score(matches)
    return {
        "study": plan.request.study,
        "trial": record.id,
        "name": record.name,
        "why": plan.why,
        "on": plan.kind,
        "members": [
            {
                "trial": member.id,
                "seed": member.settings["seed"],
                "fold": member.settings["data.fold"],
                "epoch": member.best_epoch,
                "ap50": member.ap50,
            }
            for member in plan.members
        ],
        "changed": dict(plan.changed),
        "search": {
            "of": "the trial in the search, on its validation images",
            "ap50": record.ap50,
            "epoch": record.best_epoch,
            "epochs": len(record.epochs),
            "state": record.state.value,
        },
        "together": gain_of_ensemble(evaluated, plan.config.data.group_pattern),
        "prediction": {"chosen": plan.own.model_dump()},
        "data_fingerprint": plan.data.fingerprint,
        "threads": torch.get_num_threads(),
        "balanced_score": DRAWN_SCORE if balanced is None else balanced,
    }


def gain_of_ensemble(evaluated: Sequence[Evaluated], pattern: str) -> dict[str, Any] | None:
    """The gain of the joined model over one model alone, as in metrics.json.

    evaluated   the scores on the images that none of them trained on: of the joined model, then of
                each alone; empty if there are no such images
    pattern     `data.group_pattern`

    None if there are no such images, or no instances in them.
    """
    if not evaluated or math.isnan(evaluated[0].ap50):
        return None

    def scored(one: Evaluated) -> Scored:
        units = group_names(one.masks.image_names, pattern=pattern, place="the ensemble")
        return Scored.of(one.masks, one.max_dets, units)

    joint, *alone = [scored(one) for one in evaluated]
    difference = compare([joint] * len(alone), alone)
    return {
        "of": (
            "images that no member trained on; the members' epochs and settings of prediction were"
            " chosen partly on them"
        ),
        "images": len(evaluated[0].masks.image_names),
        "ap50": joint.ap50,
        "ap50_gain": difference.estimate,
        "ap50_gain_low": difference.low,
        "ap50_gain_high": difference.high,
    }
