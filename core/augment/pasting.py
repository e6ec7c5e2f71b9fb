"""Instances of training images, pasted with their pixels into another training image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from core.labels.label_maps import crop_mask, find_instances
from core.sample import MAX_INSTANCES, Sample

VISIBLE = 0.1
"""Least fraction of its pixels that an instance must keep where others are pasted over it. One that
keeps less is removed: a rim of a few pixels teaches the network nothing about a cell."""


@dataclass(frozen=True)
class Paste:
    """One instance and its place.

    donor   index of the training image that it is from
    row     index of the instance among those that `find_instances` finds there
    y0, x0  row and column at which its box begins in the image into which it is pasted
    """

    donor: int
    row: int
    y0: int
    x0: int


class Pasting:
    """Pastes instances of other training images, as a `core.augmentations.Mix`.

    training   the training images, with unique names
    p          probability that instances are pasted
    most       largest number of them; each number from 1 on is equally likely
    rarity     a class of n instances is drawn in proportion to n ** (1 - rarity)
    blend      width in pixels of the rim in which a pasted instance fades into the image

    Crowd regions are not pasted, nor instances that touch the border of their image: what is beyond
    it would be missing. n counts the instances of a class that can be pasted, without those of the
    image that is pasted into. A place is drawn uniformly from those where the instance's box is in
    the image; an instance that is larger than the image is left out.
    """

    def __init__(
        self, training: Sequence[Sample], *, p: float, most: int, rarity: float, blend: float
    ) -> None:
        assert training
        self.training = training
        self.p, self.most, self.rarity, self.blend = p, most, rarity, blend
        self.found = [find_instances(sample.label_maps) for sample in training]
        self._donor_of = {sample.name: donor for donor, sample in enumerate(training)}
        rows, labels = [], []
        for donor, (sample, found) in enumerate(zip(training, self.found, strict=True)):
            height, width = sample.size
            x0_N, y0_N, x1_N, y1_N = found.boxes_N4.T
            whole_N = (x0_N > 0) & (y0_N > 0) & (x1_N < width) & (y1_N < height)
            kept = np.flatnonzero(whole_N & ~sample.crowd_N[found.ids_N - 1])
            rows.append(np.column_stack([np.full_like(kept, donor), kept]))
            labels.append(sample.labels_N[found.ids_N[kept] - 1])
        labels_K = np.concatenate(labels)
        rows_K2 = np.concatenate(rows)
        self._classes = [rows_K2[labels_K == label] for label in np.unique(labels_K)]

    def draw(self, sample: Sample, seed: int) -> list[Paste]:
        """Draw the instances that are pasted into an image, in the order in which they are."""
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return []
        own = self._donor_of.get(sample.name, -1)
        classes = [rows_K2[rows_K2[:, 0] != own] for rows_K2 in self._classes]
        classes = [rows_K2 for rows_K2 in classes if len(rows_K2)]
        if not classes:
            return []
        weights = np.array([len(rows_K2) for rows_K2 in classes]) ** (1 - self.rarity)
        number = int(rng.integers(1, self.most + 1))
        pastes = []
        for chosen in rng.choice(len(classes), size=number, p=weights / weights.sum()):
            donor, row = rng.choice(classes[chosen]).tolist()
            x0, y0, x1, y1 = self.found[donor].boxes_N4[row].tolist()
            down, across = sample.size[0] - (y1 - y0), sample.size[1] - (x1 - x0)
            y0, x0 = (int(rng.integers(max(room, 0) + 1)) for room in (down, across))
            if min(down, across) >= 0:
                pastes.append(Paste(donor, row, y0, x0))
        return pastes[: MAX_INSTANCES - len(sample.labels_N)]

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """See `core.augmentations.Mix`."""
        pastes = self.draw(sample, seed)
        if not pastes:
            return sample
        image, label_maps = sample.image.copy(), sample.label_maps.copy()
        first = len(sample.labels_N) + 1
        covered_N = np.zeros(first + len(pastes), np.int64)
        labels = []
        for number, paste in enumerate(pastes, first):
            donor, found = self.training[paste.donor], self.found[paste.donor]
            cut = crop_mask(donor.label_maps, found, paste.row)
            h, w = cut.pixels.shape
            here = slice(paste.y0, paste.y0 + h), slice(paste.x0, paste.x0 + w)
            there = slice(cut.y0, cut.y0 + h), slice(cut.x0, cut.x0 + w)
            image[here] = self._blended(image[here], donor.image[there], cut.pixels)
            for label_map in label_maps:
                below = label_map[here][cut.pixels]
                covered_N += np.bincount(below, minlength=len(covered_N))
                label_map[here][cut.pixels] = 0
            label_maps[0][here][cut.pixels] = number
            labels.append(donor.labels_N[found.ids_N[paste.row] - 1])
        left_N = np.bincount(label_maps.ravel(), minlength=len(covered_N))
        kept_N = left_N >= VISIBLE * (left_N + covered_N)
        numbers_N = np.where(kept_N, np.arange(len(kept_N)), 0).astype(np.uint16)
        return replace(
            sample,
            image=image,
            label_maps=numbers_N[label_maps],
            labels_N=np.concatenate([sample.labels_N, np.array(labels, np.int64)]),
            crowd_N=np.concatenate([sample.crowd_N, np.zeros(len(labels), bool)]),
        )

    def _blended(
        self,
        below_hw3: NDArray[np.uint8],
        above_hw3: NDArray[np.uint8],
        mask_hw: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """`above_hw3` over `below_hw3` in a mask, fading towards its border; uint8 [h, w, 3]."""
        weights_hw = mask_hw.astype(np.float32)
        if self.blend:
            outside = np.pad(mask_hw, 1).astype(np.uint8)
            distances = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            weights_hw = np.minimum(distances[1:-1, 1:-1] / (self.blend + 1), 1)
        mixed = below_hw3 + weights_hw[..., None] * (above_hw3.astype(np.float32) - below_hw3)
        return np.rint(mixed).astype(np.uint8)
