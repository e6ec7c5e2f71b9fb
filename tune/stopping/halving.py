"""When a trial is stopped early, read from the learning curves alone: where it falls behind, or
where hope ends.

The rule keeps no state of its own. Asked again about the same curves, for example after a crash, it
gives the same verdict. Falling behind is judged by asynchronous successive halving (Li et al. 2020,
"A System for Massively Parallel Hyperparameter Tuning", ASHA, its stopping variant), hope by what
complete trials still gained after the same epoch. Curves hold one value an epoch, higher is better;
a trial stands for its best epoch so far.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PLACES = 3
"""A trial has hope while it may still come among this number of best complete trials. A measure of
1, the best trial alone, would let too few trials run to the end to confirm a winner among them:
noisy scores make the best one lucky."""
NO_HOPE = f"without hope of coming among the best {PLACES} complete trials"
"""Part of the reason of a trial that ended between rungs, or at a rung that it would have passed.
"""
LUCK = 0.9
"""Quantile of the complete trials' gains after an epoch: the largest gain that a trial at this
epoch may hope for."""


@dataclass(frozen=True)
class SuccessiveHalving:
    """At each rung only the best 1 / `reduction` of the trials that have reached it go on, if
    there is hope at all.

    min_epochs   the first rung, in epochs (at least 1); no trial is stopped before it
    reduction    ratio of each rung to the one before (at least 2)
    """

    min_epochs: int
    reduction: int

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """The epochs after which a trial of `epochs` epochs in all is judged; its last epoch is
        no rung.
        """
        rungs: list[int] = []
        rung = self.min_epochs
        while rung < epochs:
            rungs.append(rung)
            rung *= self.reduction
        return tuple(rungs)

    def why_stopped(
        self,
        curve: Sequence[float],
        others: Iterable[Sequence[float]],
        complete: Iterable[Sequence[float]],
        epochs: int,
    ) -> str:
        """Why a trial of `epochs` epochs in all is stopped after its last epoch so far; empty if
        it goes on.

        curve      the trial's scores so far, one an epoch
        others     the curves of the study's other trials, for the rungs
        complete   the curves of its complete trials, for hope
        """
        at = f"stopped early after epoch {len(curve)}"
        if self.falls_behind(curve, others):
            return f"{at}: not among the best 1 in {self.reduction} at this rung"
        return f"{at}: {NO_HOPE}" if self.has_no_hope(curve, complete, epochs) else ""

    def falls_behind(self, curve: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
        """Whether a trial with this curve is not among the best of those that have reached its
        rung.

        A single bad epoch costs nothing. `others` are the curves of the study's other trials,
        whatever their length; those that have not reached the rung do not count. Of n trials at a
        rung the best max(1, n // reduction) go on, ties included, so the first to arrive always
        does.
        """
        rung = len(curve)
        if rung not in self.rungs(rung + 1):
            return False
        mine = max(curve)
        rivals = [max(other[:rung]) for other in others if len(other) >= rung]
        keep = max(1, (len(rivals) + 1) // self.reduction)
        better = sum(rival > mine for rival in rivals)
        return better >= keep

    def has_no_hope(
        self, curve: Sequence[float], complete: Iterable[Sequence[float]], epochs: int
    ) -> bool:
        """Whether a trial of `epochs` epochs in all would not come among the best complete ones
        even with much luck.

        With much luck it gains as much from here on as the `LUCK` quantile of the complete trials
        did after the same epoch. Complete trials of fewer than `epochs` epochs are left out: they
        do not say what this one may gain.
        """
        if len(curve) < self.min_epochs:
            return False
        complete = list(complete)
        gains = _gains(complete, len(curve), epochs)
        if len(gains) < PLACES:
            return False
        return max(curve) + float(np.quantile(gains, LUCK)) < sorted(map(max, complete))[-PLACES]


def expected_score(
    curve: Sequence[float], complete: Iterable[Sequence[float]], epochs: int
) -> float:
    """The score that a stopped trial of `epochs` epochs might have reached: with the complete
    trials' median gain.

    It is the trial's best epoch so far where no trial is complete. A sampler is shown it; it is
    never a trial's score.
    """
    gains = _gains(complete, len(curve), epochs)
    return max(curve) + (float(np.median(gains)) if gains else 0.0)


def _gains(complete: Iterable[Sequence[float]], epoch: int, epochs: int) -> list[float]:
    """The gain of each complete trial of at least `epochs` epochs: its best score less its best
    up to epoch `epoch`.
    """
    return [max(curve) - max(curve[:epoch]) for curve in complete if len(curve) >= epochs]
