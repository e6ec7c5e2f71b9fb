"""How long a study will take, and how much of that is left. Nothing is measured here.

Two things are estimated, each as a span: the epochs that trials will run, and the seconds of an
epoch. The low end of the epochs is the number that trials would run if chance alone ordered them at
the rungs of early stopping; the high end is the number without early stopping. Both ends move
towards what the study itself shows.
"""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.values import as_duration, as_time_span
from tune.ledger.proposals import missing_rows
from tune.ledger.records import State, TrialRecord
from tune.request.request import StudyRequest
from tune.stopping.rule import StoppingRule

OVERHEAD_SECONDS = (5.0, 45.0)
"""Seconds, least and most, for all that is no training: the start of processes, the import of
libraries, and the report."""
SLOWER_BESIDE = 1.3
"""Largest factor by which an epoch takes longer than its own seconds say: trials that run at once
share the memory's bandwidth, and some time passes between two epochs."""
EPOCH_SPREAD = 0.3
"""Standard deviation of the seconds of an epoch over trials, as a part of their mean, before trials
show it."""
ENDED_BEFORE = 4
"""Prior weight, in trials, of the number of epochs that a trial is expected to run: it is averaged
with what the trials that ended ran."""
SHOWN_SECONDS = 60.0
"""Seconds: if a study takes less even at most, nothing is said."""
LONG_SECONDS = 2 * 86_400.0
"""Seconds: if a study takes longer even at least, and there is no GPU, the message names ways to
shorten it."""


@dataclass(frozen=True)
class Span:
    """A range that should hold the true value, in the unit of its place: 0 <= low <= high."""

    low: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.high + other.high)


NO_TIME = Span(0.0, 0.0)


@dataclass(frozen=True)
class Forecast:
    """All that is known, besides the trials themselves, about the time that a study takes.

    coming       the epochs, fewest and most, of each trial of the search, in its order
    rule         the rule that stops trials of the search early
    reduction    `stop_early.reduction`
    confirming   the epochs, fewest and most, of each training that confirms the best
    parallel     number of trials that run at once
    epoch        seconds of one epoch, as measured before the study; None if they were not measured
    continuing   the epochs, fewest and most, of each stopped trial that is to be continued before
                 the confirmation and does not run yet
    trying       time for which each confirming training tries settings of prediction after its last
                 epoch, as a multiple of the time of an evaluation
    evaluating   the part of an epoch's time that evaluation takes; it counts until a trial of the
                 search shows it
    """

    coming: tuple[Span, ...]
    rule: StoppingRule
    reduction: int
    confirming: tuple[Span, ...]
    parallel: int
    epoch: Span | None = None
    continuing: tuple[Span, ...] = ()
    trying: Span = NO_TIME
    evaluating: Span = Span(0.0, 1.0)

    def epochs_left(
        self, searched: Sequence[TrialRecord], confirmed: Sequence[TrialRecord] = ()
    ) -> Span:
        """The epochs that a study still takes, confirmation included.

        searched    the trials of the search so far
        confirmed   the trials of the confirmation so far
        """
        spans = [
            *epochs_left(searched, self.coming, self.rule, self.reduction),
            *self.continuing,
            *_rest(confirmed),
            *self.confirming[len(confirmed) :],
        ]
        return Span(sum(one.low for one in spans), sum(one.high for one in spans))

    def left(
        self, searched: Sequence[TrialRecord], confirmed: Sequence[TrialRecord] = ()
    ) -> Span | None:
        """The seconds that a study still takes; None if nothing tells how long an epoch takes.

        searched    the trials of the search so far
        confirmed   the trials of the confirmation so far
        """
        # The last epoch of a confirming training also holds the time in which it tries settings.
        alike = searched if self.trying.high else [*searched, *confirmed]
        epoch = seconds_of_an_epoch(alike, self.epoch)
        if epoch is None:
            return None
        stopped = epochs_left(searched, self.coming, self.rule, self.reduction)
        full = [*_rest(confirmed), *self.confirming[len(confirmed) :]]
        # Nothing stops the first trial that reaches a rung, nor a confirming training.
        new = self.coming[len(searched) :]
        to_the_end = 0.0 if searched else min((span.low for span in new), default=0.0)
        longest = max((span.low for span in full), default=0.0)
        share = _share_of_evaluation(searched) or self.evaluating
        trying = Span(
            self.trying.low * share.low * epoch.low, self.trying.high * share.high * epoch.high
        )
        return (
            _wall(stopped, epoch, self.parallel, to_the_end)
            + _wall(self.continuing, epoch, self.parallel, 0.0)
            + _wall(full, epoch, self.parallel, longest)
            + _wall([Span(1.0, 1.0)] * len(full), trying, self.parallel, 1.0)
        )


def forecast_of(
    request: StudyRequest,
    repeats: int,
    parallel: int,
    epoch: Span | None = None,
    records: Sequence[TrialRecord] = (),
) -> Forecast:
    """The forecast of a request.

    repeats    number of trainings that confirm one candidate
    parallel   number of trials that run at once
    epoch      seconds of one epoch, as measured; None if they were not
    records    the search's trials so far
    """
    few, most = _fewest_epochs(request), float(request.max_epochs)
    coming: list[Span] = []
    if request.space.variants:
        epochs = [record.planned_epochs for record in records]
        epochs += [row.config.optim.epochs for row in missing_rows(request.space, records)]
        coming = [Span(float(number), float(number)) for number in epochs]
    further = most - min(request.stopping_rule.rungs(request.max_epochs), default=0)
    return Forecast(
        tuple(coming) or (Span(few, most),) * request.planned_trials,
        request.stopping_rule,
        request.stop_early.reduction,
        (Span(few, most),) * (request.candidates * repeats),
        parallel,
        epoch,
        (Span(0.0, further),) * request.continued,
    )


def _fewest_epochs(request: StudyRequest) -> float:
    """Number of epochs of the shortest trial that the request allows, without early stopping."""
    space = request.space
    values = [space.value("optim.epochs", variant.settings) for variant in space.variants]
    for parameter in space.parameters:
        if parameter.name == "optim.epochs":
            values += parameter.domain.corners
    return min(float(value) for value in values or [space.value("optim.epochs", {})])


def seconds_of_an_epoch(records: Iterable[TrialRecord], before: Span | None = None) -> Span | None:
    """Seconds of one epoch of a trial that is to come; None if nothing tells them.

    before   the seconds as measured before the study: they count until a trial has run an epoch,
             and then still say how much trials may differ

    The span is the trials' mean, divided and multiplied by 1 plus two relative standard errors.
    """
    means = [
        (record.seconds - record.lost_seconds) / len(record.epochs)
        for record in records
        if record.epochs
    ]
    if not means:
        return before
    mean = statistics.fmean(means)
    if not mean > 0:
        return NO_TIME
    spread = EPOCH_SPREAD
    if before is not None and before.low > 0:
        spread = max(spread, (before.high / before.low - 1) / 4)
    squares = 2 * spread**2 + sum((one / mean - 1) ** 2 for one in means)
    factor = 1 + 2 * math.sqrt(squares / (1 + len(means)) / len(means))
    return Span(mean / factor, mean * factor)


def _share_of_evaluation(records: Iterable[TrialRecord]) -> Span | None:
    """The part of the trials' epochs that evaluation took; None if no epoch tells it."""
    epochs = [epoch for record in records for epoch in record.epochs if "evaluate_seconds" in epoch]
    total = math.fsum(float(epoch["seconds"]) for epoch in epochs)
    if not total > 0:
        return None
    share = math.fsum(float(epoch["evaluate_seconds"]) for epoch in epochs) / total
    return Span(share, share)


def epochs_left(
    records: Sequence[TrialRecord],
    coming: Sequence[Span],
    rule: StoppingRule,
    reduction: int,
) -> list[Span]:
    """The epochs left to each trial of a search that has not ended: the running ones first.

    coming      the epochs of all trials of the search, in its order; those of `records` come first
    reduction   `stop_early.reduction`
    """
    new = coming[len(records) :]
    spans = _rest(records, rule)
    if not new:
        return spans
    arrived = Counter(
        rung
        for record in records
        if record.state is not State.FAIL
        for rung in rule.rungs(len(record.epochs) + 1)
    )
    # Trials of as many epochs share their rungs, and are alike.
    lows: dict[float, float] = {}
    for fewest, count in Counter(span.low for span in new).items():
        lows[fewest] = _expected(count, int(fewest), rule, reduction, arrived) / count
    shares = [
        len(record.epochs) / record.planned_epochs
        for record in (one.as_stopped for one in records)
        if record.state is not State.RUNNING
    ]
    return [*spans, *(_learned(Span(lows[span.low], span.high), span, shares) for span in new)]


def _learned(epochs: Span, full: Span, shares: Sequence[float]) -> Span:
    """The expected epochs of a trial, averaged with what the trials that ended did.

    epochs   the epochs as expected without those trials
    full     the epochs without early stopping
    shares   for each trial that ended, the part of its planned epochs that it ran
    """
    if not shares:
        return epochs
    weight, mean = ENDED_BEFORE + len(shares), statistics.fmean(shares)
    error = 2 * statistics.pstdev(shares) / math.sqrt(len(shares)) / max(mean, 1e-6)
    low = (ENDED_BEFORE * epochs.low + sum(shares) * full.low) / weight / (1 + error)
    high = (ENDED_BEFORE * epochs.high + sum(shares) * full.high) / weight * (1 + error)
    return Span(min(low, full.high), min(high, full.high))


def _rest(records: Iterable[TrialRecord], rule: StoppingRule | None = None) -> list[Span]:
    """The epochs left to each running trial; `rule` is None if nothing stops them early."""
    spans = []
    for record in records:
        if record.state is not State.RUNNING or not record.settings:
            continue
        done, planned = len(record.epochs), record.planned_epochs
        stoppable = rule is not None and record.continued_after is None
        rungs = rule.rungs(planned) if rule is not None and stoppable else ()
        first = next((rung for rung in rungs if rung > done), planned)
        # The present epoch may be nearly done; past the first rung any may be a trial's last.
        low = 0 if rungs and done >= rungs[0] else first - done - 1
        spans.append(Span(max(0.0, low), max(0.0, planned - done)))
    return spans


def _expected(
    trials: int, epochs: int, rule: StoppingRule, reduction: int, arrived: Mapping[int, int]
) -> float:
    """The epochs that new trials together are expected to run, if chance alone orders all trials.

    trials    number of new trials
    epochs    planned epochs of each
    arrived   for each rung, the number of earlier trials that reached it
    """
    rungs = rule.rungs(epochs)
    total = float(trials * (rungs[0] if rungs else epochs))
    going = float(trials)
    for rung, following in itertools.pairwise([*rungs, epochs]):
        going = _passing(going, arrived.get(rung, 0), reduction)
        total += going * (following - rung)
    return total


def _passing(trials: float, before: int, reduction: int) -> float:
    """The number of `trials` expected to pass a rung that `before` others have reached already.

    The k-th trial that arrives passes if it is among the best max(1, k // reduction) so far. If
    chance alone orders the trials, its rank is any of k with the same probability.
    """
    k = np.arange(before + 1, before + math.ceil(trials) + 1)
    counts = np.minimum(1.0, trials - np.arange(len(k)))  # `trials` may have a fraction
    return float(np.sum(counts * np.maximum(1, k // reduction) / k))


def _wall(trainings: Sequence[Span], epoch: Span, parallel: int, longest: float) -> Span:
    """Seconds until all of these trainings have ended, `parallel` of them at a time.

    trainings   the epochs of each
    epoch       seconds of one epoch
    longest     number of epochs that one of them runs for certain

    In the worst case the longest begins last, when all others end.
    """
    if not trainings:
        return NO_TIME
    at_once = min(parallel, len(trainings))
    low = max(sum(one.low for one in trainings) / at_once, longest)
    high = sum(one.high for one in trainings) / at_once
    high += (1 - 1 / at_once) * max(one.high for one in trainings)
    return Span(low * epoch.low, high * epoch.high * SLOWER_BESIDE)


def time_line(
    left: Span | None, budget: float | None, on_processors: bool, runs_already: bool = False
) -> str | None:
    """The sentence on the time that a study takes; None if it is short or, without a GPU, unknown.

    left            seconds that are left, without the start; None if they are not known
    budget          seconds of `--time-budget`; None without one
    on_processors   whether trials train without a GPU
    runs_already    whether some of the study is done
    """
    if left is None and not on_processors:
        return (
            "Time: not measured yet; the search will say it once the GPU is measured or an epoch"
            " has run"
        )
    if left is None or left.high < SHOWN_SECONDS:
        return None
    left = left + Span(*OVERHEAD_SECONDS)
    what = "left of this study" if runs_already else "for this study"
    line = f"Time: {as_time_span(left.low, left.high)} {what} on this machine"
    if on_processors and left.low >= LONG_SECONDS:
        line += (
            " without a GPU; a GPU, smaller images (--set model.image_min_side=256) or fewer trials"
            " and epochs shorten it; search_spaces/demo.yaml shows in minutes how a search works"
        )
    if budget is None or budget >= left.high:
        return line
    ends = "ends" if budget <= left.low else "may end"
    return (
        f"{line}; --time-budget {ends} it after {as_duration(budget)}, and the same command goes on"
    )


def time_left(left: Span | None, until: float | None = None) -> str | None:
    """The rest of a study in words, such as `3 to 5 min left`; None if it is short or unknown.

    left    seconds that are left, without the start; None if they are not known
    until   seconds until the end of the time budget; None without one
    """
    if left is None or left.high < SHOWN_SECONDS:
        return None
    if until is not None and until < left.high:
        if until <= left.low:
            return f"{as_duration(max(0.0, until))} left of the time budget"
        left = Span(left.low, until)
    return f"{as_time_span(left.low, left.high)} left"
