"""The anchors of the proposal network, computed once for each size of image."""

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

SIZES_KEPT = 8
"""Sizes of batches whose anchors are kept: 4 MB each at 800 x 1333 pixels, and with all scales on there are some."""


class KeptAnchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors; it computes them anew for every batch, in 52 operations."""

    def __init__(self, sizes: tuple[tuple[float, ...], ...], aspect_ratios: tuple[tuple[float, ...], ...]) -> None:
        super().__init__(sizes, aspect_ratios)
        self._kept: dict[tuple[object, ...], torch.Tensor] = {}

    def forward(self, image_list: ImageList, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Float [A, 4] for each image: x0 y0 x1 y1 in pixels of the batch. One tensor for all, not to be written to."""
        first = feature_maps[0]
        grids = tuple(tuple(level.shape[-2:]) for level in feature_maps)
        key = *image_list.tensors.shape[-2:], grids, first.dtype, first.device
        anchors_A4 = self._kept.pop(key, None)
        if anchors_A4 is None:
            one = ImageList(image_list.tensors, image_list.image_sizes[:1])
            with torch.inference_mode(False):
                (anchors_A4,) = super().forward(one, feature_maps)
        self._kept[key] = anchors_A4  # the last of all
        if len(self._kept) > SIZES_KEPT:
            del self._kept[next(iter(self._kept))]
        return [anchors_A4] * len(image_list.image_sizes)
