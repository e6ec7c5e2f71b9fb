"""The score that a trial may still reach, estimated from complete trials.

It is estimated from their gains after the same epoch. Complete trials that had fewer epochs than
the trial in question give no gain, because they do not say what it may gain.
"""

from collections.abc import Iterable

import numpy as np

from tune.stopping.rule import Curve

BEST_PLACES = 3
"""A trial has hope as long as it may still come among this number of best complete trials. If it
had to beat the best trial alone, too few trials would run to the end to confirm a winner among
them, and noisy scores make the best trial a lucky one."""
NO_HOPE = f"without hope of coming among the best {BEST_PLACES} complete trials"
"""Part of the reason of a trial that is stopped for want of hope."""
LUCK = 0.9
"""The gain that a trial may hope for is this quantile of the gains of complete trials after the
same epoch."""


def has_no_hope(curve: Curve, complete: Iterable[Curve], epochs: int) -> bool:
    """Whether a trial, even with much luck, would not come among the BEST_PLACES best complete
    trials.

    epochs   number of epochs of the trial in all

    A trial with much luck gains as much from here on as the LUCK quantile of the complete trials'
    gains after the same epoch. With fewer than BEST_PLACES such gains there is always hope.
    """
    complete = list(complete)
    gains = _gains(complete, len(curve), epochs)
    if len(gains) < BEST_PLACES:
        return False
    return max(curve) + float(np.quantile(gains, LUCK)) < sorted(map(max, complete))[-BEST_PLACES]


def expected_gain(complete: Iterable[Curve], epoch: int, epochs: int) -> float:
    """The gain that a trial of `epochs` epochs, stopped after epoch `epoch`, might have had.

    It is the median gain of the complete trials after the same epoch, or 0 where there is none. A
    sampler is shown the trial's best score plus this gain; it is never a trial's score.
    """
    gains = _gains(complete, epoch, epochs)
    return float(np.median(gains)) if gains else 0.0


def gain_variance(complete: Iterable[Curve], epoch: int, epochs: int) -> float:
    """The variance of the gain that `expected_gain` estimates; 0 with fewer than two gains."""
    gains = _gains(complete, epoch, epochs)
    return float(np.var(gains, ddof=1)) if len(gains) > 1 else 0.0


def _gains(complete: Iterable[Curve], epoch: int, epochs: int) -> list[float]:
    """The gain of each complete trial of at least `epochs` epochs after epoch `epoch`.

    It is the trial's best score less its best score up to that epoch.
    """
    return [max(curve) - max(curve[:epoch]) for curve in complete if len(curve) >= epochs]
