"""The augmentation `elastic`."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from core.augmentations import Augmentation, Change, Probability


class Elastic(Augmentation):
    """Smooth random displacement of every pixel."""

    geometric = True
    needs: ClassVar = {"elastic_sigma": "elastic_alpha"}

    elastic_p: Probability = 0.5
    """Probability of an elastic displacement."""
    elastic_alpha: float = Field(60, ge=0, le=1000)
    """Amplitude in pixels before smoothing; displacements have a standard deviation of about 0.16
    alpha / sigma."""
    elastic_sigma: float = Field(6, ge=1, le=100)
    """Smoothing of the displacement field, a standard deviation in pixels."""

    def changes(self) -> Sequence[Change]:
        """See `Augmentation.changes`."""
        from core.augment.library import WARP, Transformed, albumentations

        elastic = albumentations.ElasticTransform(
            alpha=self.elastic_alpha,
            sigma=self.elastic_sigma,
            # albumentations divides Gaussian noise by its largest value, so that the amplitude
            # would depend on the size of the image. Uniform noise in -1..1 has a standard deviation
            # of 1 / sqrt(3); smoothed with sigma, of 0.163 / sigma.
            noise_distribution="uniform",
            p=self.elastic_p,
            **WARP,
        )
        return [Transformed(elastic)]
