"""The size at which the network sees an image; images and boxes resized to it.

torchvision makes a tensor of every mean, deviation and ratio, and waits for the GPU at each of
them, twelve times in a training step. Here images of one shape are changed together, so the number
of operations hardly grows with the number of images.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from core.config import ModelConfig
from core.sample import Size

KindT = TypeVar("KindT", bound=Hashable)

MULTIPLE = 32
"""The sides of a batch, in pixels, are multiples of this: the backbone halves them five times."""


def network_size(height: int, width: int, min_side: int, max_side: int) -> Size:
    """Height and width, in pixels, at which the network sees an image of `height` x `width` pixels.

    The shorter side becomes `min_side`, unless the longer side would exceed `max_side`; then the
    longer one becomes `max_side`. Both are rounded down, as in torchvision, but to no less than one
    pixel. torchvision computes in floating point, so it can make 799 pixels where 800 are asked
    for. An image whose side is one pixel short is therefore left as it is. This makes the function
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


def largest_sides(config: ModelConfig) -> tuple[int, int]:
    """The largest `min_side` and `max_side`, in pixels, at which the network sees an image."""
    largest = 1 + config.size_jitter
    return math.ceil(largest * config.image_min_side), math.ceil(largest * config.image_max_side)


class ImageTransform(nn.Module):
    """Images normalised, resized and padded to a batch, with torchvision's numbers.

    min_side, max_side   see `network_size`
    mean, std            mean and standard deviation of red, green and blue in 0..1
    jitter               s: in training both sides are multiplied by a factor between 1 - s and
                         1 + s, drawn evenly for each image from torch's global generator of the CPU
    """

    mean_311: torch.Tensor
    std_311: torch.Tensor

    def __init__(
        self,
        min_side: int,
        max_side: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        jitter: float = 0.0,
    ) -> None:
        super().__init__()
        self.min_side, self.max_side = min_side, max_side
        self.least, self.most = 1 - jitter, 1 + jitter
        # They are not saved, because torchvision's weights have no such names.
        for name, values in (("mean_311", mean), ("std_311", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Sequence[torch.Tensor], scale: float = 1.0) -> ImageBatch:
        """A batch of images, float32 [3, H, W] each, RGB in 0..1, of any sizes.

        scale   factor on `min_side` and `max_side` in evaluation
        """
        sizes = [
            self.size_of(image, factor)
            for image, factor in zip(images, self._factors(len(images), scale), strict=True)
        ]
        height, width = (_padded(max(sides)) for sides in zip(*sizes, strict=True))

        def prepared(images: torch.Tensor, size: Size) -> torch.Tensor:
            resized = self.resize(self.normalize(images), size)
            padding = (0, width - resized.shape[-1], 0, height - resized.shape[-2])
            return functional.pad(resized, padding)

        return ImageBatch(torch.stack(_kind_by_kind(images, sizes, prepared)), sizes)

    def _factors(self, images: int, scale: float) -> Sequence[float]:
        """The factor on `min_side` and `max_side` for each image; in evaluation it is `scale`."""
        if not self.training:
            return [scale] * images
        # torchvision draws a size for each image, even from a list of one. The same numbers are
        # drawn here, so that all later draws equal torchvision's.
        drawn = torch.empty(images).uniform_()
        if self.least == self.most:
            return [self.most] * images
        return [self.least + (self.most - self.least) * one for one in drawn.tolist()]

    def size_of(self, image: torch.Tensor, factor: float = 1.0) -> Size:
        """Height and width, in pixels, at which the network sees an image [..., H, W].

        factor   on `min_side` and `max_side`
        """
        return network_size(image.shape[-2], image.shape[-1], *self._sides(factor))

    def padded_size(self, height: int, width: int, scale: float = 1.0) -> Size:
        """Height and width of a batch that holds one image of `height` x `width` pixels.

        scale   factor on `min_side` and `max_side`
        """
        height, width = network_size(height, width, *self._sides(scale))
        return _padded(height), _padded(width)

    def _sides(self, factor: float) -> Size:
        return round(factor * self.min_side), round(factor * self.max_side)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Images, float32 [..., 3, H, W], RGB in 0..1, less the mean, divided by the deviation."""
        return (images - self.mean_311) / self.std_311

    def resize(self, images: torch.Tensor, size: Size) -> torch.Tensor:
        """Images, float32 [..., 3, H, W], at another size."""
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

    change   a function from the tensors of one shape, stacked, [K, ...], to their results [K, ...]
    """
    return _kind_by_kind(tensors, [None] * len(tensors), lambda stacked, _: change(stacked))


def _kind_by_kind(
    tensors: Sequence[torch.Tensor],
    kinds: Sequence[KindT],
    change: Callable[[torch.Tensor, KindT], torch.Tensor],
) -> list[torch.Tensor]:
    """`shape_by_shape`, for tensors of one shape and kind; `change` is also given the kind."""
    numbers_of: dict[tuple[torch.Size, KindT], list[int]] = defaultdict(list)
    for number, (tensor, kind) in enumerate(zip(tensors, kinds, strict=True)):
        numbers_of[tensor.shape, kind].append(number)
    changed = {
        number: result
        for (_, kind), numbers in numbers_of.items()
        for number, result in zip(
            numbers, change(torch.stack([tensors[number] for number in numbers]), kind), strict=True
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
