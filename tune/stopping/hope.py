"""What complete trials say of the score that another trial may still reach.

Complete trials of fewer epochs than the trial in question are left out: they do not say what it may
gain.
"""

from collections.abc import Iterable

import numpy as np

from tune.stopping.rule import Curve

PLACES = 3
"""A trial has hope while it may still come among this number of best complete trials.

A measure of 1, the best trial alone, would let too few trials run to the end to confirm a winner
among them: noisy scores make the best one lucky.
"""
NO_HOPE = f"without hope of coming among the best {PLACES} complete trials"
"""Part of the reason of a trial that is stopped for want of hope."""
LUCK = 0.9
"""The gain that a trial may hope for is this quantile of what complete trials gained after the same
epoch."""


def has_no_hope(curve: Curve, complete: Iterable[Curve], epochs: int) -> bool:
    """Whether a trial of `epochs` epochs in all would not come among the best PLACES complete
    trials even with much luck.

    A trial with much luck gains as much from here on as the `LUCK` quantile of the complete trials
    did after the same epoch. With fewer than PLACES such trials there is always hope.
    """
    complete = list(complete)
    gains = _gains(complete, len(curve), epochs)
    if len(gains) < PLACES:
        return False
    return max(curve) + float(np.quantile(gains, LUCK)) < sorted(map(max, complete))[-PLACES]


def expected_score(curve: Curve, complete: Iterable[Curve], epochs: int) -> float:
    """The score that a stopped trial of `epochs` epochs might have reached.

    It is the trial's best epoch so far and the median gain of the complete trials after the same
    epoch; no gain where no trial is complete. A sampler is shown it; it is never a trial's score.
    """
    gains = _gains(complete, len(curve), epochs)
    return max(curve) + (float(np.median(gains)) if gains else 0.0)


def _gains(complete: Iterable[Curve], epoch: int, epochs: int) -> list[float]:
    """The gain of each complete trial of at least `epochs` epochs: its best score less its best
    up to epoch `epoch`.
    """
    return [max(curve) - max(curve[:epoch]) for curve in complete if len(curve) >= epochs]
