"""The augmentation `scale_jitter`."""

from collections.abc import Sequence

from pydantic import Field

from core.augmentations import Augmentation, Change, Probability


class ScaleJitter(Augmentation):
    """Enlarge a random window to the image's size, or shrink the image (large-scale jitter)."""

    geometric = True

    scale_jitter_p: Probability = 1.0
    """Probability of a change of scale."""
    scale_jitter_low: float = Field(0.5, ge=0.1, le=1)
    """Smallest factor; the factor's logarithm is uniform. Around an image that shrank there is
    neutral colour."""
    scale_jitter_high: float = Field(2, ge=1, le=10)
    """Largest factor. Enlarging adds no detail: the window is cut from the image at the size at
    which the network sees it."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.changes import Rescaled

        return [Rescaled(self.scale_jitter_p, self.scale_jitter_low, self.scale_jitter_high)]
