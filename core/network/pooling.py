"""Features of boxes from the level of the pyramid that fits each.

torchvision asks the GPU level by level which boxes belong to it, and waits for each answer; here
the boxes are sorted by level and one answer, how many each has, is waited for.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops import box_area, roi_align

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
"""Scales of the levels. torchvision guesses them from the first batch it sees and keeps the guess.
It depends on how much padding that batch had and is wrong for small images; a resumed trial, or a
model that is loaded, would go on with other scales."""

USUAL_SIDE, USUAL_HALVINGS, LEAST_HALVINGS = 224, 4, 2
"""A square box of this side, in pixels, is pooled from the level that is the image halved four
times; one of twice the side from the next. The finest level is the image halved twice."""


class PyramidPooling(nn.Module):
    """torchvision's MultiScaleRoIAlign, bit for bit, from levels that are the image by 4, 8, 16
    and 32.

    output_size   side of what is pooled from each box, in cells
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(
        self, levels: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Float32 [P, F, M, M], image after image; levels [B, F, H, W], finest first, boxes [P,
        4] of each image.

        Levels beyond SCALES are not looked at.
        """
        numbers = [torch.full_like(boxes_P4[:, :1], image) for image, boxes_P4 in enumerate(boxes)]
        boxes_P4 = torch.cat(list(boxes))
        rois_P5 = torch.cat([torch.cat(numbers), boxes_P4], dim=1)
        level_P = _level_of(boxes_P4)
        order_P = level_P.argsort(stable=True)
        level_numbers = torch.arange(len(SCALES), device=level_P.device)[:, None]
        counts = (level_P == level_numbers).sum(dim=1).tolist()  # waits for the GPU
        pooled = [
            roi_align(level, rois_K5, self.output_size, scale, sampling_ratio=2)
            for level, rois_K5, scale in zip(
                levels, torch.split(rois_P5[order_P], counts), SCALES, strict=False
            )
            if len(rois_K5)
        ]
        if not pooled:
            return levels[0].new_zeros((0, levels[0].shape[1], self.output_size, self.output_size))
        sorted_PFMM = torch.cat(pooled)
        return torch.empty_like(sorted_PFMM).index_copy(0, order_P, sorted_PFMM)


def _level_of(boxes_P4: torch.Tensor) -> torch.Tensor:
    """Int64 [P], 0 for the finest level.

    The millionth keeps a side that is on a limit from falling below it.
    """
    doublings_P = torch.log2(box_area(boxes_P4).sqrt() / USUAL_SIDE)
    halvings_P = torch.floor(USUAL_HALVINGS + doublings_P + 1e-6)
    return (halvings_P - LEAST_HALVINGS).clamp(0, len(SCALES) - 1).to(torch.int64)
