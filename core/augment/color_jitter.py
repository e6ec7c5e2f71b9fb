"""The augmentation `color_jitter`."""

from collections.abc import Sequence

from pydantic import Field

from core.augmentations import Augmentation, Change, Probability


class ColorJitter(Augmentation):
    """Change brightness and contrast, then hue, saturation and value, each with its own draw."""

    geometric = False

    color_jitter_p: Probability = 0.2
    """Probability of each of the two colour changes."""
    brightness: Probability = 0.2
    """Largest relative change of brightness."""
    contrast: Probability = 0.2
    """Largest relative change of contrast."""
    hue: int = Field(20, ge=0, le=90)
    """Largest shift of hue, in steps of 2 degrees (OpenCV's scale)."""
    saturation: int = Field(30, ge=0, le=255)
    """Largest shift of saturation, on a scale of 0 to 255."""
    value: int = Field(20, ge=0, le=255)
    """Largest shift of value (lightness in HSV), on a scale of 0 to 255."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.library import Transformed, albumentations

        brightness_contrast = albumentations.RandomBrightnessContrast(
            brightness_limit=self.brightness, contrast_limit=self.contrast, p=self.color_jitter_p
        )
        hue_saturation = albumentations.HueSaturationValue(
            hue_shift_limit=self.hue,
            sat_shift_limit=self.saturation,
            val_shift_limit=self.value,
            p=self.color_jitter_p,
        )
        return [Transformed(brightness_contrast), Transformed(hue_saturation)]
