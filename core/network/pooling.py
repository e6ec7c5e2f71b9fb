"""Features of boxes, each from the level of the pyramid that fits its size.

torchvision asks the GPU level by level for the boxes that belong there, and waits for each answer.
Here the boxes are sorted by level, and the GPU is waited for once, for the number of boxes of each
level.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops import box_area, roi_align

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
"""Scales of the levels relative to the image. torchvision guesses them from the first batch it sees
and keeps the guess, which depends on that batch's padding and is wrong for small images; a resumed
trial or a loaded model would go on with other scales."""

USUAL_SIDE, USUAL_HALVINGS, LEAST_HALVINGS = 224, 4, 2
"""A square box of USUAL_SIDE pixels is pooled from the level that is the image halved
USUAL_HALVINGS times, and one of twice the side from the next coarser level. The finest level is the
image halved LEAST_HALVINGS times."""


class PyramidPooling(nn.Module):
    """torchvision's MultiScaleRoIAlign, bit for bit, for levels of the scales in SCALES.

    output_size   side of what is pooled from each box, in cells
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(
        self, levels: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The pooled features of all boxes, float32 [P, F, M, M], image after image.

        levels   [B, F, H, W] each, the finest first; levels beyond SCALES are ignored
        boxes    float32 [P, 4] of each image
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
    """The number of the level from which each box is pooled, int64 [P]; 0 is the finest.

    Adding 1e-6 keeps a side that is exactly on a limit from being rounded below it.
    """
    doublings_P = torch.log2(box_area(boxes_P4).sqrt() / USUAL_SIDE)
    halvings_P = torch.floor(USUAL_HALVINGS + doublings_P + 1e-6)
    return (halvings_P - LEAST_HALVINGS).clamp(0, len(SCALES) - 1).to(torch.int64)
