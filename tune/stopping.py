"""When a trial is stopped early: asynchronous successive halving, read from the learning curves alone.

The rule keeps no state of its own. Asked again about the same curves, after a crash for one, it gives the same verdict.
Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA), its stopping variant.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SuccessiveHalving:
    """At each rung only the best 1 / `reduction` of the trials that have reached it go on.

    min_epochs   the first rung, in epochs (at least 1)
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

    def stops(self, curve: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
        """Whether a trial with this curve, one value an epoch and higher is better, ends here.

        A trial stands at a rung for its best value up to it: a single bad epoch costs nothing. `others` are the curves
        of the study's other trials, whatever their length; those that have not reached the rung do not count. Of n
        trials at a rung the best max(1, n // reduction) go on, ties included, so the first to arrive always does.
        """
        rung = len(curve)
        if rung not in self.rungs(rung + 1):
            return False
        mine = max(curve)
        rivals = [max(other[:rung]) for other in others if len(other) >= rung]
        keep = max(1, (len(rivals) + 1) // self.reduction)
        better = sum(rival > mine for rival in rivals)
        return better >= keep
