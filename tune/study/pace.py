"""How long an epoch of a study's trials takes on this machine, measured before the study.

Without a GPU, one image is trained on and evaluated, at small sizes first, within some seconds.
With a GPU, the speed is known from the measurement of how many trials share it
(`tune.engine.packing`).
"""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from core.config import DataConfig, TrialConfig
from core.data.dataset import Dataset
from core.data.split import split
from core.errors import CellTuneError
from core.prediction.choice import looks_needed
from core.sample import Sample
from core.training.trial import Trial
from core.training.visits import Visits
from tune.engine.packing import heaviest, read_packing
from tune.ledger.proposals import preview
from tune.ledger.reading import Reading, read_ledger
from tune.ledger.records import State, TrialRecord
from tune.ledger.selections import NOTHING_CHOSEN, Selections
from tune.study import confirmation
from tune.study.candidates import choose, most_candidates, to_continue
from tune.study.duration import (
    NO_TIME,
    SHOWN_SECONDS,
    Forecast,
    Span,
    forecast_of,
    seconds_of_an_epoch,
    time_line,
)
from tune.study.limits import budget_lines, spent_on
from tune.study.plan import StudyPlan

MEASURING_SECONDS = 8.0
"""Seconds that measuring one configuration should take. Sizes of the image that would take longer
are not measured, but extrapolated from smaller ones."""
MEASURED_PARTS = (0.25, 0.5, 1.0)
"""Sizes of the image that are measured, as parts of its side, smallest first."""
IN_A_BATCH = 0.7
"""Least time of an image in a batch, as a part of the time of an image alone: 0.72 was measured in
a batch of two (results/LOG.md, 2026-11-30)."""
LEAST_MEASURED_SIDE = 64
"""Smallest side, in pixels, of an image that is measured. Of a smaller one the last feature map is
a single pixel, and batch norm cannot learn from one value."""
SLOWEST = (0.5, 2.5e-5)
"""Upper bound on the time of an image on a processor, training and evaluation together: seconds for
each image, and seconds for each of its pixels. A study that is short even so is not measured."""
EVALUATED = (0.2, 1.5)
"""Time to evaluate an image on a GPU, least and most, as a multiple of the time to train on it: on
a GPU only training is measured."""


@dataclass(frozen=True)
class Pace:
    """The seconds that a trial takes for one image.

    trained     seconds in training
    evaluated   seconds in evaluation
    """

    trained: float
    evaluated: float

    def epoch(self, trained: int, validated: int) -> float:
        """Seconds of an epoch with `trained` training images and `validated` validation images."""
        return trained * self.trained + validated * self.evaluated


def forecast_plan(
    plan: StudyPlan,
    searched: Sequence[TrialRecord],
    measures: bool,
    confirmed: Sequence[TrialRecord] = (),
    chosen: Selections = NOTHING_CHOSEN,
) -> Forecast:
    """The forecast of a plan.

    searched    the trials of the search so far
    measures    whether to measure the seconds of an epoch if no trial has run one yet
    confirmed   the trials of the confirmation so far
    chosen      what the search has chosen for its confirmation so far
    """
    trying, evaluating = _after_training(plan)
    unknown = replace(
        forecast_of(plan.request, len(plan.repeats), plan.resources.parallel, records=searched),
        trying=trying,
        evaluating=evaluating,
    )
    there = len(searched) >= plan.request.planned_trials
    if there and all(one.state is not State.RUNNING for one in searched):
        chosen = choose(searched, plan.request, chosen)
    trainings = most_candidates(searched, plan.request, chosen) * len(plan.repeats)
    unknown = replace(unknown, confirming=unknown.confirming[:1] * trainings)
    if not confirmation.continues(plan.storage, plan.request):
        unknown = replace(unknown, continuing=())
    elif there and all(one.as_stopped.state is not State.RUNNING for one in searched):
        waiting = to_continue(searched, chosen)
        rest = [
            float(one.planned_epochs - len(one.epochs)) for one in searched if one.id in waiting
        ]
        unknown = replace(unknown, continuing=tuple(Span(one, one) for one in rest))
    seen = any(record.epochs for record in (*searched, *confirmed))
    if seen or not measures or plan.machine.address is not None:
        return unknown
    return replace(unknown, epoch=_seconds_of_an_epoch(plan, unknown))


def dry_lines(plan: StudyPlan) -> list[str]:
    """Sentences on the time and the budgets of a search, for a dry run: the ledger is read, and
    nothing is written.

    Nothing is said of the time if it is short or, without a GPU, unknown.
    """
    plan = _as_packed(plan)
    searched = read_ledger(plan.storage, plan.request.study) or Reading("", {}, ())
    records = searched.records
    confirming = confirmation.read_confirmation(plan.folder, plan.storage, plan.request, searched)
    confirmed = () if confirming is None else confirming.records
    chosen = confirmation.chosen_so_far(searched, plan.storage, plan.request)
    known = forecast_plan(plan, records, measures=True, confirmed=confirmed, chosen=chosen)
    line = time_line(
        known.left(records, confirmed),
        plan.options.time_budget,
        on_processors=not plan.resources.gpus,
        runs_already=bool(records),
    )
    return [*([line] if line else []), *plan_budget_lines(plan, known, records, confirmed)]


def plan_budget_lines(
    plan: StudyPlan,
    forecast: Forecast,
    searched: Sequence[TrialRecord],
    confirmed: Sequence[TrialRecord],
) -> list[str]:
    """A line on each budget of a plan: what is used of it, and whether it is enough.

    searched, confirmed   the trials so far
    """
    records = [*searched, *confirmed]
    epochs = forecast.epochs_left(searched, confirmed)
    seconds = seconds_of_an_epoch(records, forecast.epoch)
    share = plan.resources.gpus / 3600
    hours = None
    if seconds is not None:
        hours = Span(epochs.low * seconds.low * share, epochs.high * seconds.high * share)
    return budget_lines(
        plan.request.resources, spent_on(records), epochs, hours, on_gpu=plan.resources.gpus > 0
    )


def _as_packed(plan: StudyPlan) -> StudyPlan:
    """The plan with the number of trials on a GPU that an earlier search of the study chose."""
    wanted, packing = plan.request.resources, read_packing(plan.folder.packing)
    here = plan.machine.address is None and plan.resources.gpus > 0
    if packing is None or wanted.gpus_per_trial != "auto" or not here:
        return plan
    share = 1 / packing.trials
    resources = plan.machine.share(wanted.cpus_per_trial, share, plan.options.parallel)
    return replace(plan, resources=resources)


def _seconds_of_an_epoch(plan: StudyPlan, known: Forecast) -> Span | None:
    """Seconds of an epoch, from the first and the heaviest configuration.

    With a GPU they come from packing.json. None if they are not known, cannot be measured, or the
    study is too short to measure them.
    """
    data_settings = _typical(plan).data
    parts = split(plan.data, data_settings)
    shown = Visits(plan.data, parts.train, data_settings.repeat_rare, seed=0).number
    sizes = shown, len(parts.validation)
    if plan.resources.gpus:
        packing = read_packing(plan.folder.packing)
        if packing is None:
            return None
        trained = 1 / packing.images_per_second_alone
        if plan.resources.gpus < 1:
            trained = packing.trials / packing.images_per_second_packed
        low, high = (Pace(trained, factor * trained).epoch(*sizes) for factor in EVALUATED)
        return Span(low, high)
    most = replace(known, epoch=Span(0.0, _slowest(plan, sum(sizes))))
    at_most = most.left(())
    if at_most is None or at_most.high < SHOWN_SECONDS:
        return None
    configs = dict.fromkeys([_typical(plan), heaviest(plan.request.space)])
    try:
        seconds = [
            measure_pace(config, plan.data, plan.resources.cpus).epoch(*sizes) for config in configs
        ]
    except (CellTuneError, RuntimeError, ValueError, MemoryError):
        return None  # the trial itself will say what is wrong: an estimate must stop no study
    return Span(IN_A_BATCH * min(seconds), max(seconds))


def _after_training(plan: StudyPlan) -> tuple[Span, Span]:
    """The values of `Forecast.trying` and `Forecast.evaluating` for a study.

    Trying takes at least the network's looks at the images that the tried settings need, and at
    most an evaluation for each setting, if that is more.
    """
    request, config = plan.request, _typical(plan)
    others = config.other_predictions(request.after_training, request.space.auto)
    if not others:
        return NO_TIME, NO_TIME
    parts = split(plan.data, config.data)
    sizes = Counter(plan.data.samples[index].size for index in parts.validation)
    own, tried = (looks_needed(one, sizes, config.data.crop) for one in ([config.predict], others))
    trained, validated = len(parts.train), len(parts.validation)
    low, high = (factor * validated for factor in EVALUATED)
    return (
        Span(tried / own, max(tried / own, len(others))),
        Span(low / (trained + low), high / (trained + high)),
    )


def _typical(plan: StudyPlan) -> TrialConfig:
    """The study's first configuration, which stands for all where one is enough."""
    return TrialConfig.from_settings(preview(plan.request, 1)[0].settings)


def _slowest(plan: StudyPlan, images: int) -> float:
    """Upper bound on the seconds of an epoch with this number of images, by SLOWEST."""
    model = heaviest(plan.request.space).model
    of_an_image, of_a_pixel = SLOWEST
    return images * (of_an_image + of_a_pixel * model.image_min_side * model.image_max_side)


def measure_pace(
    config: TrialConfig, data: Dataset, threads: int, seconds: float = MEASURING_SECONDS
) -> Pace:
    """The pace of a trial on processors, measured on one image with a mean number of instances.

    threads   processor threads of the trial
    seconds   limit for the measurement; two sizes of the image are measured in any case

    The network has random weights, whatever weights the trial starts from: weights change what it
    finds, and not how long a layer takes. Raises what `Trial` and its first epoch raise.
    """
    before, until = torch.get_num_threads(), time.monotonic() + seconds
    sample, whole = _mean_image(data.samples), config.model.image_min_side
    sides = dict.fromkeys(
        min(whole, max(LEAST_MEASURED_SIDE, round(whole * part))) for part in MEASURED_PARTS
    )
    found: list[tuple[float, Pace]] = []
    try:
        for side in sides:
            scale = side / whole
            if len(found) > 1:
                expected = _at_area(found, scale**2).epoch(1, 1)
                if time.monotonic() + expected > until:
                    break
            pace = _of_one_image(_smaller_config(config, scale), sample, data, threads)
            found.append((scale**2, pace))
    finally:
        torch.set_num_threads(before)
    return _at_area(found, 1.0)


def _at_area(found: Sequence[tuple[float, Pace]], area: float) -> Pace:
    """The pace at a part of the image's area, extrapolated from the last two that were measured.

    found   measured parts of the area, ascending, each with its pace; at least two, unless the last
            one is `area`
    """
    last, pace = found[-1]
    if last == area:
        return pace
    before, smaller = found[-2]
    further = (area - last) / (last - before)

    def along(one: float, other: float) -> float:
        return other + max(0.0, other - one) * further

    return Pace(along(smaller.trained, pace.trained), along(smaller.evaluated, pace.evaluated))


def _mean_image(samples: Sequence[Sample]) -> Sample:
    """The image, of those with instances, whose number of them is nearest to the mean of all."""
    counts = np.array([len(sample.labels_N) for sample in samples])
    some = np.nonzero(counts)[0]
    mean = statistics.fmean(counts.tolist())
    return samples[int(some[np.argmin(np.abs(counts[some] - mean))])]


def _smaller_config(config: TrialConfig, scale: float) -> TrialConfig:
    """The configuration for one image at a part of its side, which learns practically nothing."""
    model, optim = config.model, config.optim
    names = ("image_min_side", "image_max_side")
    sides = {name: round(getattr(model, name) * scale) for name in names}
    return config.model_copy(
        update={
            "data": DataConfig(validation_fraction=0.5, crop=config.data.crop),
            "model": model.model_copy(update={**sides, "weights": "none", "size_jitter": 0.0}),
            # Two epochs, of which only the first is run: a trial's last one computes more.
            "optim": optim.model_copy(
                update={
                    "learning_rate": 1e-12,
                    "batch_size": 1,
                    "epochs": 2,
                    "warmup_epochs": 0,
                    "restarts": 0,  # two steps are too few for several restarts
                }
            ),
        }
    )


def _of_one_image(config: TrialConfig, sample: Sample, data: Dataset, threads: int) -> Pace:
    """The pace of an epoch that trains on an image once and evaluates it once."""
    twice = replace(data, samples=(sample, sample), test_images=())
    report = Trial(config, twice, device="cpu", threads=threads).run_epoch()
    return Pace(report.train_seconds, report.evaluate_seconds)
