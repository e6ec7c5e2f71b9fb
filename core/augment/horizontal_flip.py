"""The augmentation `horizontal_flip`."""

from collections.abc import Sequence

from core.augmentations import Augmentation, Change, Probability


class HorizontalFlip(Augmentation):
    """Mirror left and right."""

    geometric = True

    horizontal_flip_p: Probability = 0.5
    """Probability of a flip."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.library import Transformed, albumentations

        return [Transformed(albumentations.HorizontalFlip(p=self.horizontal_flip_p))]
