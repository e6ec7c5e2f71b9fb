"""A toy augmentation that leaves a mark where it was used."""

from pathlib import Path

from pydantic import Field

from core.augmentations import Augmentation, Probability


class Dye(Augmentation):
    """Paint the image in one colour."""

    geometric = False

    dye_p: Probability = 1.0
    """Probability of a dye."""
    dye_shade: int = Field(7, ge=0, le=255)
    """Shade of the dye, on a scale of 0 to 255."""

    def changes(self):
        def dye(image, label_maps, seed):
            (Path(__file__).parent / f"{self.dye_shade} {image.shape[-1]} {seed}").touch()
            return image * 0 + self.dye_shade, label_maps

        return [dye]
