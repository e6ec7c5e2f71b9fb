"""The size at which the network sees an image; images and boxes resized to it.

torchvision makes a tensor of every mean, deviation and ratio, and the GPU is waited for at each of
them, twelve times in a training step. Here images of one shape are changed together, so that most
batches ask for as many operations however many images they have.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

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
        sizes = [self.size_of(image) for image in images]
        height, width = (_padded(max(sides)) for sides in zip(*sizes, strict=True))

        def prepared(images: torch.Tensor) -> torch.Tensor:
            resized = self.resize(self.normalize(images))
            padding = (0, width - resized.shape[-1], 0, height - resized.shape[-2])
            return functional.pad(resized, padding)

        return ImageBatch(torch.stack(shape_by_shape(images, prepared)), sizes)

    def size_of(self, image: torch.Tensor) -> Size:
        """Height and width, in pixels, at which the network sees an image [..., H, W]."""
        return network_size(image.shape[-2], image.shape[-1], self.min_side, self.max_side)

    def padded_size(self, height: int, width: int) -> Size:
        """Height and width of a batch that holds one image of `height` x `width` pixels."""
        height, width = network_size(height, width, self.min_side, self.max_side)
        return _padded(height), _padded(width)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Images, float32 [..., 3, H, W], RGB in 0..1, less the mean, divided by the deviation."""
        return (images - self.mean_311) / self.std_311

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Images, float32 [..., 3, H, W], at the size that the network sees."""
        size = self.size_of(images)
        if size == images.shape[-2:]:
            return images
        resized = functional.interpolate(
            images.reshape(-1, *images.shape[-3:]), size=size, mode="bilinear", align_corners=False
        )
        return resized.reshape(*images.shape[:-2], *size)


def _padded(side: int) -> int:
    return math.ceil(side / MULTIPLE) * MULTIPLE


def shape_by_shape(
    tensors: Sequence[torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """The result of `change` for each tensor, in the order given.

    change   a function of the tensors of one shape, stacked: [K, ...] to [K, ...]
    """
    numbers_of: dict[torch.Size, list[int]] = defaultdict(list)
    for number, tensor in enumerate(tensors):
        numbers_of[tensor.shape].append(number)
    changed = {
        number: result
        for numbers in numbers_of.values()
        for number, result in zip(
            numbers, change(torch.stack([tensors[number] for number in numbers])), strict=True
        )
    }
    return [changed[number] for number in range(len(tensors))]


def resize_all_boxes(
    boxes: Sequence[torch.Tensor], old: Sequence[Size], new: Sequence[Size]
) -> list[torch.Tensor]:
    """The boxes of each image, float32 [N, 4], scaled from the image's old size to its new one.

    Images that are scaled alike are scaled together.
    """
    numbers_of: dict[tuple[Size, Size], list[int]] = defaultdict(list)
    for number, sizes in enumerate(zip(old, new, strict=True)):
        numbers_of[sizes].append(number)
    resized = list(boxes)
    for (before, after), numbers in numbers_of.items():
        if before == after:
            continue
        some = [boxes[number] for number in numbers]
        scaled = torch.split(resize_boxes(torch.cat(some), before, after), [*map(len, some)])
        for number, boxes_N4 in zip(numbers, scaled, strict=True):
            resized[number] = boxes_N4
    return resized


def resize_boxes(boxes_N4: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """Boxes, float32 [N, 4], scaled from an image of size `old` (height, width) to size `new`."""
    down, across = (_ratio(after, before) for before, after in zip(old, new, strict=True))
    x0_N, y0_N, x1_N, y1_N = boxes_N4.unbind(1)
    return torch.stack((x0_N * across, y0_N * down, x1_N * across, y1_N * down), dim=1)


def _ratio(after: int, before: int) -> float:
    """The ratio of two sides, rounded to float32 as torchvision's tensors round it."""
    return float(np.float32(after) / np.float32(before))
