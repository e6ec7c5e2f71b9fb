"""Whether the candidates of a confirmation are complete, and the truly best one among them.

    python -m benchmarks.confirmed_candidates [--studies N] [--first SEED] [--sampler NAME]

A study takes about 30 s of processor time, or 10 s with `--sampler tpe`.

Studies of `search_spaces/ablation.yaml` are searched by the real ledger, sampler and stopping rule,
four trials at a time. Nothing is trained: an epoch's score is that of a simulated model on 41
validation images (`benchmarks.simulated_scores`), the same for all trials of a study. It comes with
the pull of each image, as that of a real epoch does. The true quality of a configuration is known.
Each study has a landscape of its own: the effect of every
setting is drawn at random, and so is the best learning rate for each number of trained stages.
Configurations that learn faster do not end higher, so curves cross.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.simulated_scores import MAX_DETS, SEED_SD, draw_images, evaluate
from core.metric.ap50 import ap50
from core.metric.reweighted import pulls
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.records import State, TrialRecord
from tune.request.file import load_request
from tune.request.request import StopEarly, StudyRequest
from tune.study import confirmation
from tune.study.candidates import Candidate, candidates, choose, to_continue
from tune.study.options import Options
from tune.study.plan import check_request

SPACE = Path(__file__).parents[1] / "search_spaces" / "ablation.yaml"
IMAGES, AT_ONCE = 41, 4
SWITCHES = ("horizontal_flip", "color_jitter", "affine", "elastic", "blur_or_noise")
Score = Callable[[TrialRecord, int], tuple[float, Sequence[float]]]
"""AP50 of a trial after an epoch, counted from 1, and how far each image pulled it; no pulls where
they are not known."""


@dataclass(frozen=True)
class Outcome:
    """The result of one simulated study.

    before      the candidates without continued trials
    after       the candidates after stopped trials were continued
    continued   number of continued trials
    epochs      number of epochs of the search, and of continued trials beside them
    kept        largest number of stopped trials whose checkpoints were kept at the same time
    best        number of the trial with the truly best configuration
    regret      by how much its quality exceeds that of the best candidate, before and after
    """

    before: Sequence[Candidate]
    after: Sequence[Candidate]
    continued: int
    epochs: tuple[int, int]
    kept: int
    best: int
    regret: tuple[float, float]

    @property
    def found(self) -> tuple[bool, bool]:
        """Whether the truly best configuration is a candidate, before and after."""
        before, after = (
            any(one.id == self.best for candidate in chosen for one in candidate.trials)
            for chosen in (self.before, self.after)
        )
        return before, after


class Landscape:
    """The true quality of configurations, and how fast they learn, in one study.

    The quality is that of `benchmarks.simulated_scores.evaluate`.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([41, seed])
        self._seed = seed
        self._images = draw_images(rng, IMAGES)
        self._switches = dict(zip(SWITCHES, rng.normal(0.03, 0.06, len(SWITCHES)), strict=True))
        self._backbones = dict(
            zip(("resnet50", "resnet101", "resnext50_32x4d"), rng.normal(0, 0.12, 3), strict=True)
        )
        self._layers = dict(zip((0, 1, 3, 5), rng.normal((-0.3, 0, 0.1, 0), 0.1), strict=True))
        self._rates = dict(zip((0, 1, 3, 5), rng.normal(-3.8, 0.3, 4), strict=True))
        self._restarts = dict(zip((0, 1, 3), rng.normal(0, 0.05, 3), strict=True))

    def truth(self, settings: Mapping[str, Any]) -> float:
        """The quality of a configuration after its last epoch, over all seeds."""
        layers = settings["model.trainable_layers"]
        distance = math.log10(settings["optim.learning_rate"]) - self._rates[layers]
        return float(
            0.3
            + self._backbones[settings["model.backbone"]]
            + self._layers[layers]
            + self._restarts[settings["optim.restarts"]]
            + sum(gain for name, gain in self._switches.items() if settings[f"augment.{name}"])
            - 0.5 * distance**2
        )

    def score(self, record: TrialRecord, epoch: int) -> tuple[float, Sequence[float]]:
        """AP50 after an epoch on the 41 images, and how far each image pulled it.

        The quality begins 1.5 below that of the last epoch. The distance falls by a factor of 20 to
        400 over the epochs: fast with a high learning rate, slowly with many augmentations.
        """
        settings = record.settings
        luck = np.random.default_rng([42, self._seed, record.id]).normal(0, SEED_SD)
        pace = 4.5 + math.log10(float(settings["optim.learning_rate"]) / 1e-4)
        pace -= 0.2 * sum(bool(settings[f"augment.{name}"]) for name in SWITCHES)
        missing = 1.5 * math.exp(-max(pace, 3.0) * epoch / record.planned_epochs)
        rng = np.random.default_rng([43, self._seed, record.id, epoch])
        table = evaluate(rng, self._images, self.truth(settings) + luck - missing)
        names = [str(image) for image in range(IMAGES)]
        return ap50(table, MAX_DETS).mean, pulls(table, MAX_DETS, names)


def play(
    request: StudyRequest,
    truth: Callable[[Mapping[str, Any]], float],
    score: Score,
    storage: str = "memory",
) -> Outcome:
    """Run a study's search, and continue the trials that may still be candidates.

    truth   returns the true quality of a configuration, given its settings
    """
    ledger = open_ledger(storage, request)
    kept = _run(ledger, request, score)
    searched = sum(len(record.epochs) for record in ledger.records)
    # Nothing is continued where nothing could have been stopped.
    without = replace(request, stop_early=StopEarly(rule="none"))
    before = candidates(ledger.records, request, choose(ledger.records, without))
    while chosen := to_continue(ledger.records, confirmation.decide(ledger, request)):
        for number in chosen:
            ledger.reopen(number)
        _run(ledger, request, score)
    records = ledger.records
    after = candidates(records, request, ledger.chosen)
    best = max(records, key=lambda record: truth(record.settings))

    def regret(found: Sequence[Candidate]) -> float:
        return truth(best.settings) - max(truth(one.trial.settings) for one in found)

    return Outcome(
        before,
        after,
        sum(record.continued_after is not None for record in records),
        (searched, sum(len(record.epochs) for record in records) - searched),
        kept,
        best.id,
        (regret(before), regret(after)),
    )


def _run(ledger: Ledger, request: StudyRequest, score: Score) -> int:
    """Run all waiting and coming trials, one epoch of each in turn; returns the largest number of
    stopped trials whose checkpoints were kept at the same time.
    """
    running: list[TrialRecord] = []
    reports: dict[int, list[dict[str, Any]]] = {}
    most = 0
    while True:
        while len(running) < AT_ONCE and (record := ledger.next()) is not None:
            running.append(record)
            reports[record.id] = [dict(epoch) for epoch in record.epochs]
        if not running:
            return most
        for record in list(running):
            mine = reports[record.id]
            epoch = len(mine) + 1
            value, pulled = score(record, epoch)
            mine.append({"epoch": epoch, "ap50": value, "ap50_pulls": pulled, "seconds": 1.0})
            if ledger.report(record.id, mine):
                running.remove(record)
                kept = confirmation.keep(ledger, request)
                stopped = [one for one in ledger.records if one.state is State.PRUNED]
                most = max(most, sum(one.id in kept for one in stopped))


def ablation(seed: int, sampler: str = "gp") -> StudyRequest:
    """The request of `ablation.yaml`; the sampler's seed is that of the study."""
    changes = [f"search.seed={seed}", f"search.sampler={sampler}"]
    asked = load_request(SPACE, changes, data="synthetic")
    with TemporaryDirectory() as results:
        plan, problems = check_request(asked, Options(Path(results)))
    if plan is None:
        raise problems[0]
    return replace(asked, space=plan.request.space)


def main() -> int:
    """Print a line for each study, and the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument("--sampler", default="gp")
    parsed = parser.parse_args()
    outcomes = []
    for seed in range(parsed.first, parsed.first + parsed.studies):
        landscape = Landscape(seed)
        done = play(ablation(seed, parsed.sampler), landscape.truth, landscape.score)
        outcomes.append(done)
        print(
            f"study {seed}: candidates {len(done.before)} -> {len(done.after)}, the truly best"
            f" among them {done.found[0]} -> {done.found[1]}, quality missing"
            f" {done.regret[0]:.3f} -> {done.regret[1]:.3f}, {done.continued} continued,"
            f" {done.epochs[0]} + {done.epochs[1]} epochs, checkpoints of {done.kept} kept",
            flush=True,
        )
    top = ablation(0).confirm.top
    for place, when in enumerate(("without", "with")):
        whole = sum(len((one.before, one.after)[place]) == top for one in outcomes)
        found = sum(one.found[place] for one in outcomes)
        missing = sum(one.regret[place] for one in outcomes) / len(outcomes)
        print(
            f"{when} continued trials: {whole} of {len(outcomes)} studies have {top} complete"
            f" candidates, {found} have the truly best configuration among them; quality missing"
            f" {missing:.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
