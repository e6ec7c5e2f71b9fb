"""The augmentation `quarter_turns`."""

from collections.abc import Sequence

from core.augmentations import Augmentation, Change, Probability


class QuarterTurns(Augmentation):
    """Turn by 90, 180 or 270 degrees, without loss.

    A batch that holds upright and lying images takes the memory and time of square ones.
    """

    geometric = True

    quarter_turns_p: Probability = 0.75
    """Probability of a turn; the three angles are equally likely. At 0.75 no turn is as likely as
    each of them."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.changes import Turned

        return [Turned(self.quarter_turns_p)]
