"""The augmentation `vertical_flip`."""

from collections.abc import Sequence

from core.augmentations import Augmentation, Change, Probability


class VerticalFlip(Augmentation):
    """Mirror top and bottom."""

    geometric = True

    vertical_flip_p: Probability = 0.5
    """Probability of a flip."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.library import Transformed, albumentations

        return [Transformed(albumentations.VerticalFlip(p=self.vertical_flip_p))]
