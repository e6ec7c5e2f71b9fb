"""The augmentation `copy_paste`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from core.augmentations import Augmentation, Mix, Probability

if TYPE_CHECKING:
    from core.sample import Sample


class CopyPaste(Augmentation):
    """Paste instances of other training images, with their pixels, over what is in the image."""

    geometric = True

    copy_paste_p: Probability = 0.5
    """Probability that instances are pasted."""
    copy_paste_most: int = Field(10, ge=1, le=1000)
    """Largest number of instances pasted into an image; each number from 1 on is equally likely."""
    copy_paste_rarity: float = Field(0.5, ge=0, le=1)
    """Preference for rare classes: 0 draws each class in proportion to its n instances, 1 all
    classes equally often, and a value e between them in proportion to n to the power of 1 - e."""
    copy_paste_blend: float = Field(0, ge=0, le=20)
    """Width in pixels of the rim in which a pasted instance fades into the image; 0 for a sharp
    border."""

    def mixes(self, training: "Sequence[Sample]") -> Sequence[Mix]:
        """See `Augmentation.mixes`."""
        from core.augment.pasting import Pasting

        return [
            Pasting(
                training,
                p=self.copy_paste_p,
                most=self.copy_paste_most,
                rarity=self.copy_paste_rarity,
                blend=self.copy_paste_blend,
            )
        ]
