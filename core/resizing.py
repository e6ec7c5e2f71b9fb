"""Images normalised and resized with their boxes, without a number on its way to the GPU.

torchvision makes a tensor of every mean, deviation and ratio; for each of the twelve a step the GPU is waited for.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform, _resize_image_and_masks

TargetTensors = dict[str, torch.Tensor]


class ImageTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's, the same numbers and draws."""

    def __init__(self, min_size: int, max_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(min_size, max_size, mean, std)
        for name, values in (("_mean_311", mean), ("_std_311", std)):  # not saved: torchvision's has no such names
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """Float32 [3, H, W], RGB in 0..1, to that with mean 0 and deviation 1 over photographs."""
        normal: torch.Tensor = (image - self._mean_311) / self._std_311
        return normal

    def resize(
        self, image: torch.Tensor, target: TargetTensors | None = None
    ) -> tuple[torch.Tensor, TargetTensors | None]:
        """Image and boxes at the size that the network sees; changes `boxes` of the target."""
        size = self.torch_choice(self.min_size) if self.training else self.min_size[-1]
        resized, _ = _resize_image_and_masks(image, size, self.max_size)
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], image.shape[-2:], resized.shape[-2:])
        return resized, target


def resize_boxes(boxes_N4: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """Boxes, float32 [N, 4], of an image of size `old` (height, width) in one of size `new`."""
    down, across = (_ratio(after, before) for before, after in zip(old, new, strict=True))
    x0_N, y0_N, x1_N, y1_N = boxes_N4.unbind(1)
    return torch.stack((x0_N * across, y0_N * down, x1_N * across, y1_N * down), dim=1)


def _ratio(after: int, before: int) -> float:
    """Rounded to float32 as torchvision's tensors round it."""
    return float(np.float32(after) / np.float32(before))
