"""The size at which the network sees an image; images, boxes and targets resized to it.

torchvision makes a tensor of every mean, deviation and ratio, and the GPU is waited for at each of
them, twelve times in a training step.
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
"""The sides of a batch, in pixels, are multiples of this: the backbone halves them five times."""


def network_size(height: int, width: int, min_side: int, max_side: int) -> Size:
    """Height and width, in pixels, at which the network sees an image of `height` x `width` pixels.

    The shorter side becomes `min_side`, unless the longer side would exceed `max_side`; then the
    longer one becomes `max_side`. Both are rounded down, as in torchvision, but to no less than one
    pixel. torchvision computes in floating point, so it can make 799 pixels where 800 are asked
    for. An image whose side is one pixel short is therefore left as it is. So the function is
    idempotent: an image that was shrunk before its augmentation is not resampled once more.
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

    images_B3HW   float32, normalised; images smaller than the batch are padded with zeros to the
                  right and below
    sizes         height and width of each image in pixels, without that padding
    """

    images_B3HW: torch.Tensor
    sizes: list[Size]


class ImageTransform(nn.Module):
    """Images normalised, resized and padded to a batch, with torchvision's numbers.

    min_side, max_side   see `network_size`
    mean, std            mean and standard deviation of red, green and blue in 0..1
    """

    mean_311: torch.Tensor
    std_311: torch.Tensor

    def __init__(
        self, min_side: int, max_side: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.min_side, self.max_side = min_side, max_side
        # They are not saved, because torchvision's weights have no such names.
        for name, values in (("mean_311", mean), ("std_311", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Sequence[torch.Tensor]) -> ImageBatch:
        """A batch of float32 [3, H, W], RGB in 0..1, of any sizes."""
        if self.training:
            # torchvision draws a size for each image, even from a list of one. The same numbers
            # are drawn here, so that all later draws equal torchvision's.
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
        """An image, float32 [3, H, W], RGB in 0..1, less the mean and divided by the deviation."""
        return (image - self.mean_311) / self.std_311

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """An image, float32 [3, H, W], at the size that the network sees."""
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
    """Boxes, float32 [N, 4], scaled from an image of size `old` (height, width) to size `new`."""
    down, across = (_ratio(after, before) for before, after in zip(old, new, strict=True))
    x0_N, y0_N, x1_N, y1_N = boxes_N4.unbind(1)
    return torch.stack((x0_N * across, y0_N * down, x1_N * across, y1_N * down), dim=1)


def _ratio(after: int, before: int) -> float:
    """The ratio of two sides, rounded to float32 as torchvision's tensors round it."""
    return float(np.float32(after) / np.float32(before))
