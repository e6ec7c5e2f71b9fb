"""The augmentation `blur_or_noise`."""

from collections.abc import Sequence

from core.augmentations import Augmentation, Change, Probability

NOISE_SD = (10**0.5 / 255, 50**0.5 / 255)
"""Range of the standard deviation of Gaussian noise, as a fraction of 255: 3.2 to 7.1 grey levels,
the default of albumentations 1 (variance 10 to 50). The default of albumentations 2, 51 to 112 grey
levels, leaves little of a cell."""
BLUR_SD = (0.5, 3.0)
"""Range of the standard deviation of Gaussian blur in pixels, albumentations' default."""


class BlurOrNoise(Augmentation):
    """Gaussian blur or Gaussian noise, one of the two."""

    geometric = False

    blur_or_noise_p: Probability = 0.3
    """Probability that the image is blurred or noised."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.library import Transformed, albumentations

        blur = albumentations.GaussianBlur(sigma_limit=BLUR_SD)
        noise = albumentations.GaussNoise(std_range=NOISE_SD)
        return [Transformed(albumentations.OneOf([blur, noise], p=self.blur_or_noise_p))]
