"""The vocabulary of one image: a sample that is read, a target to learn, detections.

Axis letters are suffixes of names, `boxes_N4`, and stand in shapes, [N, 4]. Each means one thing in
all of core:

    A   anchors of one image
    B   images of one batch
    C   classes; class numbers run from 1 to C, 0 is background
    D   detections that are scored: those of one image, or the rows of a match table
    E   what the parts of a split are to hold evenly: images, then instances of each class
    F   features of a pixel or a cell, which networks call channels
    G   annotated instances of one image, where its detections are matched with them
    H   height in pixels
    I   images of a data set
    J   every class of every proposal of one image
    K   some of another axis, or what else the docstring says
    L   label maps of one image; almost always 1, more only where instances overlap
    M   side of what is pooled from a box, or of its predicted mask, in cells
    N   instances of one image, annotated or detected
    O   sets of boxes that are suppressed by themselves: each level of each image
    P   boxes that a head works on: proposals, or only the positive ones
    Q   negative anchors or proposals that are drawn for a loss
    R   runs of equal pixels
    S   anchors or proposals that are drawn for a loss, positive and negative
    T   best anchors of every level
    U   groups of images, of which a split is made
    V   parts of a split
    W   width in pixels
    X   ranges of area in COCO's twelve numbers
    Y   IoU thresholds in COCO's twelve numbers
    Z   anchors of one cell

Small letters are lengths inside an image: a window of h x w pixels. Images are RGB, uint8, [H, W,
3]. Boxes are half-open, x0 y0 x1 y1 in pixels of the image they belong to: a box holds the columns
x0 .. x1 - 1, so one pixel has width 1. A label map is uint16 [H, W]: 0 is background, every other
value k is the instance whose class is `labels_N[k - 1]`. Instance numbers are unique over the maps
of one image, run from 1 to N, and no instance is in two maps.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""Pixels [H, W, 3], RGB."""
LabelMaps = NDArray[np.uint16]
"""The label maps of one image, [L, H, W]."""
Size = tuple[int, int]
"""Height and width in pixels."""

MAX_INSTANCES = np.iinfo(np.uint16).max
"""Largest number of instances of an image, 65,535: a label map counts them in 16 bits."""


@dataclass(frozen=True)
class Sample:
    """One annotated image, as read.

    name         unique in its data set; groups are read off it
    image        uint8 [H, W, 3]
    label_maps   uint16 [L, H, W], L >= 1 (an image without instances has one empty map)
    labels_N     int64 [N], class numbers 1..C; instance k has labels_N[k - 1]
    crowd_N      bool [N], COCO's crowd regions: ignored in evaluation, absent from training
    """

    name: str
    image: NDArray[np.uint8]
    label_maps: NDArray[np.uint16]
    labels_N: NDArray[np.int64]
    crowd_N: NDArray[np.bool_]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True)
class Target:
    """The training target of one (augmented) image: its instances, still as label maps.

    boxes_N4        float32 [N, 4], half-open, pixels of the augmented image, every box at least one
                    pixel wide and high
    labels_N        int64 [N], class numbers 1..C
    ids_N           int16 [N], the instance's value in its label map, the bits of uint16
    maps_N          int64 [N], index of the label map (axis L) that holds the instance
    label_maps_LHW  int16 [L, H, W], the bits of uint16, for which torch has few operations
    sides_N2        int64 [N, 2], height and width of the boxes in pixels, as an array, so that
                    Python need not wait for a GPU to know them; None where they were not measured
    """

    boxes_N4: torch.Tensor
    labels_N: torch.Tensor
    ids_N: torch.Tensor
    maps_N: torch.Tensor
    label_maps_LHW: torch.Tensor
    sides_N2: NDArray[np.int64] | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The five tensors, in the order of the arguments."""
        return self.boxes_N4, self.labels_N, self.ids_N, self.maps_N, self.label_maps_LHW

    def to(self, device: torch.device) -> "Target":
        """The same target on another device."""
        return self.of(tensor.to(device, non_blocking=True) for tensor in self.tensors)

    def of(self, tensors: Iterable[torch.Tensor]) -> "Target":
        """The target with other tensors of the same values, in the order of `tensors`."""
        boxes_N4, labels_N, ids_N, maps_N, label_maps_LHW = tensors
        return Target(boxes_N4, labels_N, ids_N, maps_N, label_maps_LHW, self.sides_N2)


@dataclass(frozen=True)
class MaskCrop:
    """One instance mask inside its window; everything outside the window is background.

    y0, x0   first row and column of the window in the image
    pixels   bool [h, w], the mask in the window, which lies inside the image; h or w may be 0
    """

    y0: int
    x0: int
    pixels: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Number of mask pixels."""
        return int(np.count_nonzero(self.pixels))


@dataclass(frozen=True)
class Detections:
    """The detections in one image, best score first, in pixels of that image. No mask is empty.

    boxes_N4     float32 [N, 4], half-open
    labels_N     int64 [N], class numbers 1..C
    scores_N     float32 [N], in (0, 1], descending
    masks        one mask crop for each detection
    full_tiles   number of tiles with `predict.max_detections` detections, in which there may be
                 more instances
    """

    boxes_N4: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    scores_N: NDArray[np.float32]
    masks: tuple[MaskCrop, ...]
    full_tiles: int = 0

    def __len__(self) -> int:
        return len(self.scores_N)
