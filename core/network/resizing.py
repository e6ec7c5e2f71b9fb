"""The size at which the network sees an image, and images and boxes brought to it without a number sent to the GPU.

torchvision makes a tensor of every mean, deviation and ratio; for each of the twelve a step the GPU is waited for.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from torchvision.models.detection.transform import GeneralizedRCNNTransform

TargetTensors = dict[str, torch.Tensor]


def network_size(height: int, width: int, min_side: int, max_side: int) -> tuple[int, int]:
    """Height and width, in pixels, at which the network sees an image of `height` x `width` pixels.

    The shorter side is brought to `min_side`, or the longer one to `max_side` where it would pass that; both are
    rounded down, as torchvision rounds them, to no less than one pixel. torchvision computes in floating point and so
    makes 799 pixels of 801 where 800 are asked for. An image of 799 is therefore left as it is: the size of a size is
    that size, and what was shrunk before its augmentation is not resampled once more.
    """
    shorter, longer = sorted((height, width))
    if shorter <= min_side and longer <= max_side and (shorter >= min_side - 1 or longer >= max_side - 1):
        return height, width
    ratio = min(min_side / shorter, max_side / longer)
    return max(math.floor(height * ratio), 1), max(math.floor(width * ratio), 1)


class ImageTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's, the same numbers and draws, at the size that `network_size` says."""

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
        min_side = self.torch_choice(self.min_size) if self.training else self.min_size[-1]
        height, width = image.shape[-2:]
        size = network_size(height, width, min_side, self.max_size)
        if size == (height, width):
            return image, target
        image = functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], (height, width), size)
        return image, target


def resize_boxes(boxes_N4: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """Boxes, float32 [N, 4], of an image of size `old` (height, width) in one of size `new`."""
    down, across = (_ratio(after, before) for before, after in zip(old, new, strict=True))
    x0_N, y0_N, x1_N, y1_N = boxes_N4.unbind(1)
    return torch.stack((x0_N * across, y0_N * down, x1_N * across, y1_N * down), dim=1)


def _ratio(after: int, before: int) -> float:
    """Rounded to float32 as torchvision's tensors round it."""
    return float(np.float32(after) / np.float32(before))
