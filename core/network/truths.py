"""The instances that a batch of images teaches, image after image in one axis."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import clip_boxes_to_image

from core.labels.label_maps import mask_targets, whole_mask_targets, window_sizes
from core.network.resizing import resize_all_boxes
from core.sample import Size, Target

OfImages = torch.Tensor | Sequence[torch.Tensor]
"""Values of each image of a batch; one tensor, [B, ...], where every image has as many."""


@dataclass(frozen=True)
class Truths:
    """The instances of a batch, their boxes at the size that the network sees.

    boxes_N4, labels_N, ids_N, maps_N   as in `Target`, of all images; in a padded batch, images
                                        with fewer instances end in boxes of zeros and numbers of 0
    counts                              number of entries of each image, padding included
    targets                             the target of each image, at its own size
    sizes                               height and width at which the network sees each image
    padded                              whether all images have as many entries, at least one
    """

    boxes_N4: torch.Tensor
    labels_N: torch.Tensor
    ids_N: torch.Tensor
    maps_N: torch.Tensor
    counts: tuple[int, ...]
    targets: Sequence[Target]
    sizes: Sequence[Size]
    padded: bool

    @classmethod
    def of(cls, targets: Sequence[Target], sizes: Sequence[Size], *, padded: bool) -> "Truths":
        """The instances of targets whose images the network sees at `sizes`."""
        counts = [len(target.boxes_N4) for target in targets]
        entries = [max(1, *counts)] * len(counts) if padded else counts

        def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
            if not padded:
                return torch.cat(list(tensors))
            filler = tensors[0].new_zeros((entries[0], *tensors[0].shape[1:]))
            return torch.cat(
                [
                    piece
                    for tensor, count in zip(tensors, counts, strict=True)
                    for piece in (tensor, filler[count:])
                ]
            )

        boxes = [target.boxes_N4 for target in targets]
        return cls(
            boxes_N4=joined(
                resize_all_boxes(boxes, [_image_size(target) for target in targets], sizes)
            ),
            labels_N=joined([target.labels_N for target in targets]),
            ids_N=joined([target.ids_N for target in targets]),
            maps_N=joined([target.maps_N for target in targets]),
            counts=tuple(entries),
            targets=targets,
            sizes=sizes,
            padded=padded,
        )

    def by_image(self, values_N: torch.Tensor) -> OfImages:
        """The values of each image's instances."""
        if self.padded:
            return values_N.reshape(len(self.counts), -1, *values_N.shape[1:])
        return torch.split(values_N, list(self.counts))

    def mask_targets(
        self,
        instances_P: torch.Tensor,
        boxes_P4: torch.Tensor,
        counts: Sequence[int],
        size: int,
        largest_ratio: float,
    ) -> torch.Tensor:
        """The wanted mask of each box, float32 [P, size, size] in 0..1; see `mask_targets`.

        instances_P     int64 [P], the instance of each box
        boxes_P4        float32 [P, 4], image after image
        counts          number of boxes of each image
        largest_ratio   a side of a box is at most this many times that of its instance's box
        """
        kinds = zip((one.label_maps_LHW.shape for one in self.targets), self.sizes, strict=True)
        images = range(len(self.targets))
        groups = (
            [images]
            if self.padded and len(set(kinds)) == 1
            else [images[n : n + 1] for n in images]
        )
        wanted, first, place = [], 0, 0
        for group in groups:
            last = first + sum(self.counts[image] for image in group)
            end = place + sum(counts[image] for image in group)
            some = instances_P[place:end], boxes_P4[place:end]
            wanted.append(self._mask_targets_of(group, first, last, *some, size, largest_ratio))
            first, place = last, end
        return wanted[0] if len(wanted) == 1 else torch.cat(wanted)

    def _mask_targets_of(
        self,
        images: range,
        first: int,
        last: int,
        instances_K: torch.Tensor,
        boxes_K4: torch.Tensor,
        size: int,
        largest_ratio: float,
    ) -> torch.Tensor:
        """`mask_targets` of some images, which have label maps of one shape.

        first, last   the places in axis N of their first instance and of that of the next image
        """
        targets, seen = [self.targets[image] for image in images], self.sizes[images[0]]
        maps_N, label_maps_LHW = self.maps_N, targets[0].label_maps_LHW
        if len(targets) > 1:
            before_B = len(label_maps_LHW) * torch.arange(len(targets), device=maps_N.device)
            maps_N = (maps_N.reshape(len(targets), -1) + before_B[:, None]).flatten()
            label_maps_LHW = torch.cat([target.label_maps_LHW for target in targets])
        ids_K, maps_K = self.ids_N[instances_K], maps_N[instances_K]
        if not self.padded:
            return mask_targets(label_maps_LHW, ids_K, maps_K, boxes_K4, size, seen=seen)
        largest, count = _windows(targets, seen, len(boxes_K4), largest_ratio)
        wanted_KMM = mask_targets(
            label_maps_LHW, ids_K, maps_K, boxes_K4, size, seen=seen, largest=largest
        )
        if not count:
            return wanted_KMM
        boxes_N4 = self.boxes_N4[first:last]
        large = (boxes_N4[:, 2:] - boxes_N4[:, :2]).amax(dim=1).topk(count).indices + first
        large_N = torch.full_like(maps_N, -1)
        large_N[large] = torch.arange(count, device=large.device)
        large_K = large_N[instances_K]
        whole_KMM = whole_mask_targets(
            label_maps_LHW, self.ids_N[large], maps_N[large], large_K, boxes_K4, size, seen=seen
        )
        return torch.where((large_K < 0)[:, None, None], wanted_KMM, whole_KMM)


def _image_size(target: Target) -> Size:
    height, width = target.label_maps_LHW.shape[-2:]
    return height, width


def _windows(
    targets: Sequence[Target], seen: Size, proposals: int, ratio: float
) -> tuple[Size, int]:
    """`window_sizes` of the instances of targets of one size.

    Windows are as large as the image where a target has no `sides_N2`.
    """
    sides = [target.sides_N2 for target in targets if target.sides_N2 is not None]
    if len(sides) < len(targets):
        return seen, 0
    return window_sizes(
        np.concatenate(sides) * (np.array(seen) / _image_size(targets[0])), seen, proposals, ratio
    )


def first_places(of_images: OfImages) -> torch.Tensor:
    """The place of each image's first entry where those of all images are in one axis, int64 [B].

    of_images   the entries of each image, on one device; for a sequence the result ends in their
                number, [B + 1]
    """
    if isinstance(of_images, torch.Tensor):
        return torch.arange(len(of_images), device=of_images.device) * of_images.shape[1]
    starts = [0, *itertools.accumulate(len(entries) for entries in of_images)]
    return torch.tensor(starts, device=of_images[0].device)


def in_one_axis(of_images: OfImages) -> torch.Tensor:
    """The values of all images in one axis."""
    if isinstance(of_images, torch.Tensor):
        return of_images.flatten(0, 1)
    return torch.cat(list(of_images))


def clipped(boxes: OfImages, sizes: Sequence[Size]) -> OfImages:
    """Boxes, [K, 4] of each image, clipped to their images.

    sizes   height and width of each image in pixels
    """
    if isinstance(boxes, torch.Tensor) and len(set(sizes)) == 1:
        inside: torch.Tensor = clip_boxes_to_image(boxes, sizes[0])
        return inside
    of_images = [
        clip_boxes_to_image(boxes_K4, size) for boxes_K4, size in zip(boxes, sizes, strict=True)
    ]
    return torch.stack(of_images) if isinstance(boxes, torch.Tensor) else of_images
