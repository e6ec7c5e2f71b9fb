"""A whole study without training: a real ledger and real match tables, of scores that are
simulated.

    python -m benchmarks.simulated_study reference DIR      the rows of the reference report, 41
                                                            images
    python -m benchmarks.simulated_study sampled DIR        a search with trials stopped early,
                                                            failures, a confirmation

Then `python -m tune.report --results DIR` writes its report.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulated_scores import MAX_DETS, SEED_SD, draw_images, evaluate
from core.metric.ap50 import Ap50, MatchTable, ap50
from core.metric.limits import DETECTION_KINDS, INSTANCE_KINDS, MENDS, ClassLimits
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.records import State, TrialRecord
from tune.request.file import from_document
from tune.store.folder import StudyFolder
from tune.study import conductor as study
from tune.study import confirmation
from tune.study.candidates import candidates
from tune.study.going_on import study_facts
from tune.study.options import Options
from tune.study.plan import StudyPlan, check_request
from tune.tables import trials_csv

IMAGES, VALIDATED = 209, 41
"""Images that there are, and how many of them validate: those of the reference report."""

SMALL = {
    "data": "synthetic",
    "resources": {"gpus_per_trial": 0},
}

_BASIC = {"model.detector": "fpn_v2", "model.trainable_layers": 0}
_MILD = {
    f"augment.{name}": True
    for name in ("horizontal_flip", "color_jitter", "affine", "blur_or_noise")
}
_PARTIAL = {**_BASIC, "model.trainable_layers": 1}
_NEW = {**_BASIC, "model.weights": "imagenet"}

REFERENCE: Mapping[str, Any] = {
    **SMALL,
    "study": "reference",
    "fixed": {"optim.epochs": 20},
    "variants": {
        "Res50": _BASIC,
        "Aug.": {**_BASIC, **_MILD},
        "Elastic": {**_BASIC, **_MILD, "augment.elastic": True},
        "Partial": _PARTIAL,
        "Partial + Aug.": {**_PARTIAL, **_MILD},
        "Partial + Elastic": {**_PARTIAL, **_MILD, "augment.elastic": True},
        "Res50 with restart": {**_BASIC, "optim.restarts": 2, "optim.restart_multiplier": 2},
        "Full fine-tuning": {**_BASIC, "model.trainable_layers": 5},
        "Res50 (ImageNet)": {**_NEW, "model.backbone": "resnet50"},
        "ResNet-101": {**_NEW, "model.backbone": "resnet101"},
        "ResNeXt-50": {**_NEW, "model.backbone": "resnext50_32x4d"},
    },
    "baseline": "Res50",
    "seeds": 3,
}
"""The rows of `search_spaces/report_tables.yaml`, fewer epochs."""

REFERENCE_QUALITY = {
    "Res50": 0.45, "Aug.": 0.40, "Elastic": 0.34, "Partial": 0.52, "Partial + Aug.": 0.52,
    "Partial + Elastic": 0.50, "Res50 with restart": 0.35, "Full fine-tuning": 0.05,
    "Res50 (ImageNet)": -0.2, "ResNet-101": -0.25, "ResNeXt-50": -0.5,
}  # fmt: skip
"""Near the AP50 of the reference report's table."""

SAMPLED: Mapping[str, Any] = {
    **SMALL,
    "study": "sampled",
    "fixed": {"model.weights": "none", "optim.epochs": 12},
    "space": {
        "model.backbone": ["resnet18", "resnet34", "resnet50"],
        "model.trainable_layers": [0, 1, 5],
        "augment.elastic": [False, True],
        "augment.horizontal_flip": [False, True],
        "optim.learning_rate": {"low": 1e-5, "high": 5e-4, "log": True},
        "optim.restarts": [0, 1, 3],
        "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1, 3]}},
    },
    "search": {"sampler": "random", "trials": 40},
    "stop_early": {"rule": "successive_halving", "min_epochs": 3, "reduction": 3},
    "confirm": {"top": 3, "seeds": 3},
}


def sampled_quality(record: TrialRecord) -> float:
    """A landscape with one clear and some faint effects."""
    settings = record.settings
    rate = np.log10(float(settings["optim.learning_rate"]) / 1e-4)
    return float(
        0.5
        - 0.8 * rate**2
        + 0.1 * bool(settings["augment.elastic"])
        - 0.05 * (settings["model.trainable_layers"] == 5)
    )


Quality = Callable[[TrialRecord], float]
Fate = Callable[[TrialRecord], str]
"""Why a trial fails after its first epoch; empty for one that does not."""


def build(
    results: Path, document: Mapping[str, Any], quality: Quality, fate: Fate = lambda _: ""
) -> StudyFolder:
    """Write a study into a results folder: study.json, ledger, match tables, trials.csv; returns
    its folder.
    """
    plan, problems = check_request(from_document(document, "replayed"), Options(results))
    if plan is None:
        raise problems[0]
    plan.folder.path.mkdir(parents=True)
    ledger = open_ledger(plan.storage, plan.request)
    facts = study_facts(plan.request, plan.data)
    ledger.remember(facts)
    study.write_study_json(plan)
    _run(ledger, plan.folder.trial, quality, fate)
    plan.folder.trials_csv.write_text(trials_csv(ledger.records, plan.request.searched))
    _confirm(plan, ledger, facts, quality)
    return plan.folder


def _confirm(plan: StudyPlan, ledger: Ledger, facts: Mapping[str, Any], quality: Quality) -> None:
    found = candidates(ledger.records, plan.request, confirmation.decide(ledger, plan.request))
    points = confirmation.confirming_points(found, plan.request, plan.repeats)
    if not points:
        return
    confirming = open_ledger(plan.storage, confirmation.confirming_request(plan.request), points)
    confirming.remember({**facts, **confirmation.confirmation_facts(plan.request, plan.repeats)})
    _run(confirming, plan.folder.confirm_trial, quality, lambda _: "")
    plan.folder.confirm_csv.write_text(trials_csv(confirming.records, plan.request.searched))


def _run(ledger: Ledger, folder_of: Callable[[int], Path], quality: Quality, fate: Fate) -> None:
    """Run every trial to its end, one after the other."""
    everything = draw_images(np.random.default_rng(0), IMAGES)
    while (record := ledger.next()) is not None:
        settings = record.settings
        split_seed = int(settings["data.split_seed"])
        names = np.sort(np.random.default_rng([1, split_seed]).permutation(IMAGES)[:VALIDATED])
        images = everything.take(names)
        rng = np.random.default_rng([2, int(settings["seed"]), record.id])
        best = quality(record) + rng.normal(0, SEED_SD)
        matches = folder_of(record.id) / "matches"
        matches.mkdir(parents=True)
        epochs: list[dict[str, Any]] = []
        while ledger.records[record.id].state is State.RUNNING:
            if len(epochs) == 1 and fate(record):
                ledger.fail(record.id, fate(record))
                break
            epoch = len(epochs) + 1
            now = best - 1.5 * np.exp(-6 * epoch / record.planned_epochs)
            table = evaluate(rng, images, float(now), names)
            table.save(matches / f"epoch-{epoch:04d}.npz")
            score, loss = (
                ap50(table, int(settings["metric.max_dets"])),
                0.9 + 1.8 * np.exp(-epoch / 5) - 0.2 * best,
            )
            epochs.append(
                _report(epoch, score.mean, score.per_class, float(loss + rng.normal(0, 0.02)))
                | {"limits": [one.to_json() for one in _limits(table, score)]}
            )
            ledger.report(record.id, epochs)


def _report(
    epoch: int, score: float, per_class: tuple[float | None, ...], loss: float
) -> dict[str, Any]:
    return {
        "epoch": epoch, "losses": {"loss": loss, "loss_mask": loss / 3}, "learning_rate": 1e-4,
        "ap50": score, "ap50_uncapped": score, "ap50_box": score, "ap50_per_class": list(per_class),
        "seconds": 61.0, "train_seconds": 50.0, "evaluate_seconds": 11.0, "images_per_second": 3.4,
        "peak_memory_bytes": None, "steps": 84, "detections": 4000,
    }  # fmt: skip


def _limits(table: MatchTable, score: Ap50) -> Iterator[ClassLimits]:
    """Limits that agree with a match table; numbers that it does not hold are fixed shares."""
    classes = len(score.per_class)
    for label, value in enumerate(score.per_class, start=1):
        mine_D = (table.label_D == label) & (table.rank_D < MAX_DETS)
        found = int(table.hit_D[mine_D].sum())
        lost = int(table.truths_IC[:, label - 1].sum()) - found
        wrong = int(mine_D.sum()) - found
        outlined, called = lost // 5, lost // 2
        instances = (found, called, outlined, lost - called - outlined)
        detections = (found, wrong // 10, wrong // 3, wrong // 4)
        yield ClassLimits(
            dict(zip(INSTANCE_KINDS, instances, strict=True)),
            tuple(called * (other == label % classes + 1) for other in range(1, classes + 1)),
            dict(zip(DETECTION_KINDS, (*detections, found + wrong - sum(detections)), strict=True)),
            {
                mend: None if value is None else value + (1 - value) * share
                for mend, share in zip(MENDS, (0.4, 0.2, 0.3, 0.02, 0.1), strict=True)
            },
        )


if __name__ == "__main__":
    kind, where = sys.argv[1:]
    if kind == "reference":
        print(build(Path(where), REFERENCE, lambda record: REFERENCE_QUALITY[record.name]).path)
    else:
        reasons = {7: "epoch 3, batch 4: loss is nan"}
        print(
            build(
                Path(where), SAMPLED, sampled_quality, lambda record: reasons.get(record.id, "")
            ).path
        )
