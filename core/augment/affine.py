"""The augmentation `affine`."""

from collections.abc import Sequence

from pydantic import Field

from core.augmentations import Augmentation, Change, Probability


class Affine(Augmentation):
    """Shift, scale and rotate together."""

    geometric = True

    affine_p: Probability = 0.5
    """Probability of shift, scale and rotate."""
    shift: float = Field(0.05, ge=0, le=0.5)
    """Largest shift, as a fraction of the image's side."""
    scale: float = Field(0.1, ge=0, le=0.5)
    """Largest relative change of scale."""
    rotate: float = Field(15, ge=0, le=180)
    """Largest rotation in degrees."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.library import WARP, Transformed, albumentations

        affine = albumentations.Affine(
            translate_percent=(-self.shift, self.shift),
            scale=(1 - self.scale, 1 + self.scale),
            keep_ratio=True,
            rotate=(-self.rotate, self.rotate),
            p=self.affine_p,
            **WARP,
        )
        return [Transformed(affine)]
