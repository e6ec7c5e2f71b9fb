"""The eight symmetries of a square: pictures seen through them, and detections seen back."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.config import PredictConfig
from core.sample import Detections, MaskCrop


@dataclass(frozen=True)
class Symmetry:
    """A picture is transposed, then turned upside down, then mirrored, as the fields say."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture [H, W, 3] through this symmetry; [W, H, 3] if it is transposed."""
        pixels = pixels.swapaxes(0, 1) if self.transposed else pixels
        pixels = pixels[::-1] if self.upside_down else pixels
        return pixels[:, ::-1] if self.mirrored else pixels

    def undo(self, found: Detections, height: int, width: int) -> Detections:
        """The detections that were found in `of(picture)`, in pixels of the picture itself.

        height, width   those of `of(picture)`, in pixels
        """
        boxes_N4, crops = found.boxes_N4, found.masks
        if self.mirrored:
            boxes_N4 = boxes_N4[:, [2, 1, 0, 3]]
            boxes_N4[:, [0, 2]] = width - boxes_N4[:, [0, 2]]
            crops = tuple(
                MaskCrop(one.y0, width - one.x0 - one.pixels.shape[1], one.pixels[:, ::-1])
                for one in crops
            )
        if self.upside_down:
            boxes_N4 = boxes_N4[:, [0, 3, 2, 1]]
            boxes_N4[:, [1, 3]] = height - boxes_N4[:, [1, 3]]
            crops = tuple(
                MaskCrop(height - one.y0 - one.pixels.shape[0], one.x0, one.pixels[::-1])
                for one in crops
            )
        if self.transposed:
            boxes_N4 = boxes_N4[:, [1, 0, 3, 2]]
            crops = tuple(MaskCrop(one.x0, one.y0, one.pixels.T) for one in crops)
        return Detections(boxes_N4, found.labels_N, found.scores_N, crops)


UNCHANGED = Symmetry()
"""The picture as it is."""
_FLIPS = tuple(
    Symmetry(False, down, mirrored) for down in (False, True) for mirrored in (False, True)
)
SYMMETRIES: Mapping[str, tuple[Symmetry, ...]] = {
    "none": _FLIPS[:1],
    "mirror": _FLIPS[:2],
    "flips": _FLIPS,
    "all": (*_FLIPS, *(Symmetry(True, one.upside_down, one.mirrored) for one in _FLIPS)),
}
"""The symmetries of each value of `predict.views`."""


def symmetries(config: PredictConfig) -> tuple[Symmetry, ...]:
    """The symmetries through which each tile is looked at, by `predict.views` and `flips`."""
    return SYMMETRIES["mirror" if config.flips and config.views == "none" else config.views]
