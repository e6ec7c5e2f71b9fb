"""Asynchronous successive halving, and an end to trials without hope.

A trial that falls behind at a rung is stopped as in Li et al. 2020, "A System for Massively
Parallel Hyperparameter Tuning" (ASHA, its stopping variant). A trial without hope is stopped after
any epoch (see `tune.stopping.hope`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tune.stopping import hope
from tune.stopping.hope import NO_HOPE
from tune.stopping.rule import Curve


@dataclass(frozen=True)
class SuccessiveHalving:
    """Stops trials that fall behind at a rung, and from the first rung on trials without hope.

    min_epochs   the first rung, in epochs (at least 1); no trial is stopped before it
    reduction    ratio of each rung to the one before (at least 2); at each rung the best 1 /
                 `reduction` of the trials that have reached it go on
    """

    min_epochs: int
    reduction: int

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """The epochs after which a trial of `epochs` epochs in all is compared with others.

        Its last epoch is no rung.
        """
        rungs: list[int] = []
        rung = self.min_epochs
        while rung < epochs:
            rungs.append(rung)
            rung *= self.reduction
        return tuple(rungs)

    def why_stopped(
        self, curve: Curve, others: Iterable[Curve], complete: Iterable[Curve], epochs: int
    ) -> str:
        """The reason why a trial is stopped, as in `StoppingRule`."""
        at = f"stopped early after epoch {len(curve)}"
        if self.falls_behind(curve, others):
            return f"{at}: not among the best 1 in {self.reduction} at this rung"
        return f"{at}: {NO_HOPE}" if self.has_no_hope(curve, complete, epochs) else ""

    def falls_behind(self, curve: Curve, others: Iterable[Curve]) -> bool:
        """Whether a trial with this curve stands at a rung and is not among the best there.

        others   curves of the study's other trials, of any length; those that have not reached the
                 rung do not count

        Trials are compared by their best epoch up to the rung, so a single bad epoch costs nothing.
        The best max(1, n // reduction) of n trials at a rung go on, ties included, so the first to
        arrive always does.
        """
        rung = len(curve)
        if rung not in self.rungs(rung + 1):
            return False
        mine = max(curve)
        rivals = [max(other[:rung]) for other in others if len(other) >= rung]
        keep = max(1, (len(rivals) + 1) // self.reduction)
        better = sum(rival > mine for rival in rivals)
        return better >= keep

    def has_no_hope(self, curve: Curve, complete: Iterable[Curve], epochs: int) -> bool:
        """Whether a trial at or past the first rung has no hope (see `tune.stopping.hope`)."""
        return len(curve) >= self.min_epochs and hope.has_no_hope(curve, complete, epochs)
