"""The instances of a batch, image after image in one axis."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from core.labels.label_maps import mask_targets
from core.sample import Target

OfImages = torch.Tensor | Sequence[torch.Tensor]
"""Values of each image of a batch; one tensor, [B, ...], where every image has as many."""


@dataclass(frozen=True)
class Truths:
    """The instances of a batch at the size that the network sees.

    boxes_N4, labels_N, ids_N, maps_N   as in `Target`, of all images; in a padded batch, images
                                        with fewer instances end in boxes of zeros and numbers of 0
    counts                              number of entries of each image, padding included
    targets                             the target of each image
    padded                              whether all images have as many entries, at least one
    """

    boxes_N4: torch.Tensor
    labels_N: torch.Tensor
    ids_N: torch.Tensor
    maps_N: torch.Tensor
    counts: tuple[int, ...]
    targets: Sequence[Target]
    padded: bool

    @classmethod
    def of(cls, targets: Sequence[Target], *, padded: bool) -> "Truths":
        """The instances of targets at the size that the network sees."""
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

        return cls(
            boxes_N4=joined([target.boxes_N4 for target in targets]),
            labels_N=joined([target.labels_N for target in targets]),
            ids_N=joined([target.ids_N for target in targets]),
            maps_N=joined([target.maps_N for target in targets]),
            counts=tuple(entries),
            targets=targets,
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
        ids_P, maps_P = self.ids_N[instances_P], self.maps_N[instances_P]
        maps = [target.label_maps_LHW for target in self.targets]
        largest = _largest(self.targets, largest_ratio) if self.padded else None
        if self.padded and len({label_maps.shape for label_maps in maps}) == 1:
            image_P = instances_P // self.counts[0]
            maps_P = maps_P + image_P * len(maps[0])
            return mask_targets(torch.cat(maps), ids_P, maps_P, boxes_P4, size, largest)
        parts = (torch.split(values_P, list(counts)) for values_P in (ids_P, maps_P, boxes_P4))
        return torch.cat(
            [
                mask_targets(label_maps, ids_K, maps_K, boxes_K4, size, largest)
                for label_maps, ids_K, maps_K, boxes_K4 in zip(maps, *parts, strict=True)
            ]
        )


def _largest(targets: Sequence[Target], ratio: float) -> tuple[int, int]:
    """Height and width, in pixels, that no box exceeds."""
    heights, widths = zip(
        *(target.largest or target.label_maps_LHW.shape[-2:] for target in targets), strict=True
    )
    return int(ratio * max(heights)) + 1, int(ratio * max(widths)) + 1


def first_of(of_images: OfImages) -> torch.Tensor:
    """The place of each image's first entry where those of all images are in one axis, int64 [B].

    of_images   the entries of each image, on one device
    """
    if isinstance(of_images, torch.Tensor):
        return torch.arange(len(of_images), device=of_images.device) * of_images.shape[1]
    starts = [0, *itertools.accumulate(len(entries) for entries in of_images)]
    return torch.tensor(starts, device=of_images[0].device)
