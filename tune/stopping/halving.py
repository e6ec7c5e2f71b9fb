"""When a trial is stopped early, read from the learning curves alone: where it falls behind, or where hope ends.

The rule keeps no state of its own. Asked again about the same curves, after a crash for one, it gives the same verdict.
Falling behind is asynchronous successive halving: Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning" (ASHA), its stopping variant. Hope is what trials that ran to the end still gained after the same epoch.
Curves hold one value an epoch, higher is better; a trial stands for its best epoch so far.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PLACES = 3
"""Who may still come among so many best complete trials has hope. With the best alone as the measure too few trials run
to the end for a winner to be confirmed among them: where scores are noisy, the best one is a lucky one."""
NO_HOPE = f"without hope of coming among the best {PLACES} complete trials"
"""In the reason of a trial that ended between rungs, or at one that it would have passed."""
LUCK = 0.9
"""A trial may hope for what so large a part of the complete trials did not pass in gains."""


@dataclass(frozen=True)
class SuccessiveHalving:
    """At each rung only the best 1 / `reduction` of the trials that have reached it go on, if there is hope at all.

    min_epochs   the first rung, in epochs (at least 1); nobody is stopped before it
    reduction    each rung is so many times higher than the one before (at least 2)
    """

    min_epochs: int
    reduction: int

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """The epochs after which a trial of so many epochs is judged; the last epoch is none of them."""
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
        """Why a trial of so many epochs in all ends after its last epoch so far, a few words; empty if it goes on."""
        at = f"stopped early after epoch {len(curve)}"
        if self.falls_behind(curve, others):
            return f"{at}: not among the best 1 in {self.reduction} at this rung"
        return f"{at}: {NO_HOPE}" if self.has_no_hope(curve, complete, epochs) else ""

    def falls_behind(self, curve: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
        """Whether a trial with this curve is not among the best of those that have reached its rung.

        A single bad epoch costs nothing. `others` are the curves of the study's other trials, whatever their length;
        those that have not reached the rung do not count. Of n trials at a rung the best max(1, n // reduction) go on,
        ties included, so the first to arrive always does.
        """
        rung = len(curve)
        if rung not in self.rungs(rung + 1):
            return False
        mine = max(curve)
        rivals = [max(other[:rung]) for other in others if len(other) >= rung]
        keep = max(1, (len(rivals) + 1) // self.reduction)
        better = sum(rival > mine for rival in rivals)
        return better >= keep

    def has_no_hope(self, curve: Sequence[float], complete: Iterable[Sequence[float]], epochs: int) -> bool:
        """Whether a trial of so many epochs in all would not come among the best complete ones even with much luck.

        Much luck is to gain from here on more than nine of ten complete trials did after the same epoch. Those that ran
        for fewer epochs than this one will do not say what it may gain.
        """
        if len(curve) < self.min_epochs:
            return False
        complete = list(complete)
        gains = _gains(complete, len(curve), epochs)
        if len(gains) < PLACES:
            return False
        return max(curve) + float(np.quantile(gains, LUCK)) < sorted(map(max, complete))[-PLACES]


def expected_score(curve: Sequence[float], complete: Iterable[Sequence[float]], epochs: int) -> float:
    """What a trial of so many epochs that was stopped might have reached: with the median gain of the complete ones.

    Its best epoch where there are none. Shown to a sampler; no score of a trial.
    """
    gains = _gains(complete, len(curve), epochs)
    return max(curve) + (float(np.median(gains)) if gains else 0.0)


def _gains(complete: Iterable[Sequence[float]], epoch: int, epochs: int) -> list[float]:
    """By how much the best epoch of each complete trial of at least so many epochs passed its best up to one epoch."""
    return [max(curve) - max(curve[:epoch]) for curve in complete if len(curve) >= epochs]
