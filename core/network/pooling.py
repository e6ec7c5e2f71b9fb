"""Features of boxes, each from the level of the pyramid that fits its size.

torchvision asks the GPU level by level for the boxes that belong there, and waits for each answer.
Here the boxes are sorted by level, and Python waits once, for the number of boxes of each level. In
the fixed form (see `MaskRCNN`) it does not wait: every box is pooled from every level and the
results are added up, but from all levels except its own it is moved outside of the image, where
nothing is read and zeros are pooled.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops import box_area, roi_align

from core.network.truths import OfImages

LEVEL_SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
"""Scales of the levels relative to the image. torchvision guesses them from the first batch it sees
and keeps the guess, which depends on that batch's padding and is wrong for small images; a resumed
trial or a loaded model would go on with other scales."""

USUAL_SIDE, USUAL_HALVINGS, LEAST_HALVINGS = 224, 4, 2
"""A square box of USUAL_SIDE pixels is pooled from the level that is the image halved
USUAL_HALVINGS times, and one of twice the side from the next coarser level (Lin et al., Feature
Pyramid Networks, 2017, equation 1). The finest level is the image halved LEAST_HALVINGS times."""

OUTSIDE = -1e4
"""Coordinate, in pixels, of a box that lies outside of a level."""


class PyramidPooling(nn.Module):
    """torchvision's MultiScaleRoIAlign, bit for bit, for levels of the scales in LEVEL_SCALES.

    output_size   side of what is pooled from each box, in cells
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, levels: Sequence[torch.Tensor], boxes: OfImages) -> torch.Tensor:
        """The pooled features of all boxes, float32 [P, F, M, M], image after image.

        levels   [B, F, H, W] each, the finest first; levels beyond LEVEL_SCALES are ignored
        boxes    float32 [P, 4] of each image
        """
        return self.pooled(levels, regions_of(boxes))

    def pooled(
        self, levels: Sequence[torch.Tensor], regions_P5: torch.Tensor, *, fixed: bool = False
    ) -> torch.Tensor:
        """The pooled features of boxes in the form of `regions_of`, in any order.

        fixed   whether the step has the fixed form, which does not wait for the GPU
        """
        level_P = _level_of(regions_P5[:, 1:])
        return (self._from_all if fixed else self._from_its_own)(levels, regions_P5, level_P)

    def _from_its_own(
        self, levels: Sequence[torch.Tensor], regions_P5: torch.Tensor, level_P: torch.Tensor
    ) -> torch.Tensor:
        """Each box pooled from its level alone, float32 [P, F, M, M]; Python waits for the GPU."""
        order_P = level_P.argsort(stable=True)
        level_numbers = torch.arange(len(LEVEL_SCALES), device=level_P.device)[:, None]
        counts = (level_P == level_numbers).sum(dim=1).tolist()  # waits for the GPU
        pooled = [
            self._aligned(level, regions_K5, scale)
            for level, regions_K5, scale in zip(
                levels, torch.split(regions_P5[order_P], counts), LEVEL_SCALES, strict=False
            )
            if len(regions_K5)
        ]
        if not pooled:
            return levels[0].new_zeros((0, levels[0].shape[1], self.output_size, self.output_size))
        sorted_PFMM = torch.cat(pooled)
        return torch.empty_like(sorted_PFMM).index_copy(0, order_P, sorted_PFMM)

    def _from_all(
        self, levels: Sequence[torch.Tensor], regions_P5: torch.Tensor, level_P: torch.Tensor
    ) -> torch.Tensor:
        """The same without waiting: the sum over all levels, of which only a box's own is not 0."""
        level_numbers = torch.arange(len(LEVEL_SCALES), device=level_P.device)[:, None, None]
        boxes = torch.where(level_P[:, None] == level_numbers, regions_P5[:, 1:], OUTSIDE)
        # The number of the image stays: an image that is not there must not be read either.
        images = regions_P5[:, :1].expand(len(LEVEL_SCALES), -1, -1)
        of_levels = (
            self._aligned(level, regions_P5, scale)
            for level, regions_P5, scale in zip(
                levels, torch.cat([images, boxes], dim=2), LEVEL_SCALES, strict=False
            )
        )
        # In place, and one after the other: a batch of eight has 200 MB from each level.
        pooled = next(of_levels)
        for from_level in of_levels:
            pooled = pooled.add_(from_level)
        return pooled

    def _aligned(self, level: torch.Tensor, regions_K5: torch.Tensor, scale: float) -> torch.Tensor:
        pooled: torch.Tensor = roi_align(
            level, regions_K5, self.output_size, scale, sampling_ratio=2
        )
        return pooled


def regions_of(boxes: OfImages) -> torch.Tensor:
    """The boxes of a batch, [K, 4] of each image, as torchvision's `roi_align` takes them.

    float32 [P, 5]: number of the image and box, image after image.
    """
    if isinstance(boxes, torch.Tensor):
        number_B = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
        numbers_BK1 = number_B[:, None, None].expand(-1, boxes.shape[1], 1)
        return torch.cat([numbers_BK1, boxes], dim=2).flatten(0, 1)
    numbers = [torch.full_like(boxes_K4[:, :1], image) for image, boxes_K4 in enumerate(boxes)]
    return torch.cat([torch.cat(numbers), torch.cat(list(boxes))], dim=1)


def _level_of(boxes_P4: torch.Tensor) -> torch.Tensor:
    """The number of the level from which each box is pooled, int64 [P]; 0 is the finest.

    Adding 1e-6 keeps a side that is exactly on a limit from being rounded below it.
    """
    doublings_P = torch.log2(box_area(boxes_P4).sqrt() / USUAL_SIDE)
    halvings_P = torch.floor(USUAL_HALVINGS + doublings_P + 1e-6)
    return (halvings_P - LEAST_HALVINGS).clamp(0, len(LEVEL_SCALES) - 1).to(torch.int64)
