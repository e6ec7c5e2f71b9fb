"""The size at which the network sees an image, and images, boxes and targets brought to it.

torchvision makes a tensor of every mean, deviation and ratio; for each of the twelve a step the GPU
is waited for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from core.labels.label_maps import resize_label_maps
from core.sample import Target

Size = tuple[int, int]
"""Height and width in pixels."""

MULTIPLE = 32
"""The sides of a batch are multiples of it: the backbone halves them five times."""


def network_size(height: int, width: int, min_side: int, max_side: int) -> Size:
    """Height and width, in pixels, at which the network sees an image of `height` x `width` pixels.

    The shorter side is brought to `min_side`, or the longer one to `max_side` where it would pass
    that; both are rounded down, as torchvision rounds them, to no less than one pixel. torchvision
    computes in floating point and so makes 799 pixels of 801 where 800 are asked for. An image of
    799 is therefore left as it is: the size of a size is that size, and what was shrunk before its
    augmentation is not resampled once more.
    """
    shorter, longer = sorted((height, width))
    if (
        shorter <= min_side
        and longer <= max_side
        and (shorter >= min_side - 1 or longer >= max_side - 1)
    ):
        return height, width
    ratio = min(min_side / shorter, max_side / longer)
    return max(math.floor(height * ratio), 1), max(math.floor(width * ratio), 1)


@dataclass(frozen=True)
class ImageBatch:
    """Images as the network sees them.

    images_B3HW   float32, normalised, with zeros to the right of and below what is smaller than the
                  batch
    sizes         of each image, without that padding
    """

    images_B3HW: torch.Tensor
    sizes: list[Size]


class ImageTransform(nn.Module):
    """Images normalised, resized and padded to a batch: torchvision's numbers at the sizes of
    `network_size`.

    mean, std   of red, green and blue in 0..1
    """

    mean_311: torch.Tensor
    std_311: torch.Tensor

    def __init__(
        self, min_side: int, max_side: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.min_side, self.max_side = min_side, max_side
        for name, values in (
            ("mean_311", mean),
            ("std_311", std),
        ):  # not saved: torchvision's has no such names
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Sequence[torch.Tensor]) -> ImageBatch:
        """A batch of float32 [3, H, W], RGB in 0..1, of any sizes."""
        if self.training:
            # torchvision draws which of one size it takes. The draws of a training after this one
            # stay what they were.
            torch.empty(len(images)).uniform_()
        resized = [self.resize(self.normalize(image)) for image in images]
        sizes = [(image.shape[-2], image.shape[-1]) for image in resized]
        height, width = (
            math.ceil(max(sides) / MULTIPLE) * MULTIPLE for sides in zip(*sizes, strict=True)
        )
        images_B3HW = resized[0].new_zeros((len(resized), 3, height, width))
        for place_3HW, image in zip(images_B3HW, resized, strict=True):
            place_3HW[:, : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageBatch(images_B3HW, sizes)

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """Float32 [3, H, W], RGB in 0..1, to that with mean 0 and deviation 1 over photographs."""
        return (image - self.mean_311) / self.std_311

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """Float32 [3, H, W] at the size that the network sees."""
        height, width = image.shape[-2:]
        size = network_size(height, width, self.min_side, self.max_side)
        if size == (height, width):
            return image
        return functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[
            0
        ]


def resize_target(target: Target, size: Size) -> Target:
    """A target whose boxes and label maps are those of its image at `size`."""
    height, width = target.label_maps_LHW.shape[-2:]
    if size == (height, width):
        return target
    return replace(
        target,
        boxes_N4=resize_boxes(target.boxes_N4, (height, width), size),
        label_maps_LHW=resize_label_maps(target.label_maps_LHW, *size),
    )


def resize_boxes(boxes_N4: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """Boxes, float32 [N, 4], of an image of size `old` (height, width) in one of size `new`."""
    down, across = (_ratio(after, before) for before, after in zip(old, new, strict=True))
    x0_N, y0_N, x1_N, y1_N = boxes_N4.unbind(1)
    return torch.stack((x0_N * across, y0_N * down, x1_N * across, y1_N * down), dim=1)


def _ratio(after: int, before: int) -> float:
    """Rounded to float32 as torchvision's tensors round it."""
    return float(np.float32(after) / np.float32(before))
