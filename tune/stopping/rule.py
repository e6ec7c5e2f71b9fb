"""The protocol of a stopping rule, and the table of rules.

To add a rule, write a class like those beside this file and give it a row in `STOPPING_RULES`.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, Self

from core.extensions import Parts

Curve = Sequence[float]
"""A trial's scores so far, one an epoch, higher is better. A study gives its rule `NoisyCurve`s."""


class NoisyCurve(tuple[float, ...]):
    """A trial's scores so far, and the part of their noise that is known.

    pulls   for each epoch, how far each validation image, or each group or block of them, pulled
            the score from what it would be on endlessly many images. The images are the same for
            all trials of a study, so for two trials the sum of the squared differences of their
            pulls is the variance of the difference of their scores. Empty for an epoch of which
            this is not known
    """

    pulls: Sequence[Sequence[float]]

    def __new__(cls, scores: Iterable[float], pulls: Sequence[Sequence[float]] = ()) -> Self:
        """Make a curve; `pulls` has an entry for each score, or is empty."""
        made = super().__new__(cls, scores)
        made.pulls = pulls
        return made


class StoppingRule(Protocol):
    """Says after each epoch whether a trial goes on.

    It keeps no state: asked again about the same curves, for example after a crash, it gives the
    same verdict. A trial is to be judged by its best epoch so far.
    """

    def __init__(self, min_epochs: int, reduction: int) -> None:
        """Make the rule from the options of `stop_early`.

        min_epochs   epochs before which no trial is stopped, at least 1
        reduction    `stop_early.reduction`, at least 2
        """

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """The epochs after which trials of `epochs` epochs are compared; empty if never."""

    def why_stopped(
        self, curve: Curve, others: Iterable[Curve], complete: Iterable[Curve], epochs: int
    ) -> str:
        """The reason why a trial is stopped after its last epoch so far; empty if it goes on.

        curve      the trial's curve
        others     curves of the study's other trials, without those that failed
        complete   curves of the study's complete trials
        epochs     number of epochs of the trial in all

        The reason begins with `stopped early after epoch N: `.
        """


STOPPING_RULES = Parts[type[StoppingRule]](
    "stopping rule",
    "cell_tune.stopping_rules",
    {
        "successive_halving": "tune.stopping.halving:SuccessiveHalving",
        "none": "tune.stopping.never:Never",
    },
)
"""All stopping rules, by the values of `stop_early.rule`."""
