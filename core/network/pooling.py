"""Features of boxes from the level of the pyramid that fits each.

torchvision asks the GPU level by level which boxes belong to it, and waits for each answer; here the boxes are sorted
by level and one answer, how many each has, is waited for.
"""

from collections.abc import Mapping, Sequence

import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
"""Of the levels. torchvision guesses them from the first batch it sees and keeps the guess. It depends on how much
padding that batch had and is wrong for small images; a resumed trial, or a model that is loaded, would go on with other
scales."""


class PyramidPooling(MultiScaleRoIAlign):  # type: ignore[misc]
    """torchvision's pooling, bit for bit, from levels that are the image by 4, 8, 16 and 32."""

    def __init__(self, levels: list[str], output_size: int) -> None:
        super().__init__(levels, output_size=output_size, sampling_ratio=2)
        self.scales = list(SCALES)
        self.map_levels = initLevelMapper(2, 5, self.canonical_scale, self.canonical_level)

    def forward(
        self,
        x: Mapping[str, torch.Tensor],
        boxes: Sequence[torch.Tensor],
        image_shapes: Sequence[tuple[int, int]],  # noqa: ARG002  # torchvision's signature
    ) -> torch.Tensor:
        """Float32 [P, C, S, S], image after image; x has [B, C, H, W] of each level, boxes [P, 4] of each image."""
        features = [x[name] for name in self.featmap_names]
        images = [torch.full_like(boxes_P4[:, :1], number) for number, boxes_P4 in enumerate(boxes)]
        rois_P5 = torch.cat([torch.cat(images), torch.cat(list(boxes))], dim=1)
        level_P = self.map_levels(boxes)
        order_P = level_P.argsort(stable=True)
        numbers_L1 = torch.arange(len(features), device=level_P.device)[:, None]
        counts = (level_P == numbers_L1).sum(dim=1).tolist()  # waits for the GPU
        pooled = [
            roi_align(feature, rois_K5, self.output_size, scale, self.sampling_ratio)
            for feature, rois_K5, scale in zip(
                features, torch.split(rois_P5[order_P], counts), self.scales, strict=True
            )
            if len(rois_K5)
        ]
        if not pooled:
            return features[0].new_zeros((0, features[0].shape[1], *self.output_size))
        sorted_PCSS = torch.cat(pooled)
        return torch.empty_like(sorted_PCSS).index_copy(0, order_P, sorted_PCSS)
