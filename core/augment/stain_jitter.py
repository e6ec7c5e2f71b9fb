"""The augmentation `stain_jitter`."""

from collections.abc import Sequence

from pydantic import Field

from core.augmentations import Augmentation, Change, Probability


class StainJitter(Augmentation):
    """More or less of haematoxylin, eosin and DAB, the stains of tissue, each by itself."""

    geometric = False

    stain_jitter_p: Probability = 0.5
    """Probability that the stains are changed."""
    stain_alpha: float = Field(0.05, ge=0, le=0.5)
    """Largest relative change of the amount of each stain."""
    stain_beta: float = Field(0.05, ge=0, le=0.5)
    """Largest shift of the amount of each stain, in optical densities: 0.3 halves the light."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.changes import Restained

        return [Restained(self.stain_jitter_p, self.stain_alpha, self.stain_beta)]
