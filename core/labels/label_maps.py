"""Label maps to boxes, crops and training targets, and mask predictions back to crops.

Masks never become an [N, H, W] stack: the work is proportional to the label maps and to the boxes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks
from torchvision.ops import roi_align

from core.sample import MaskCrop, Target

WINDOW_PIXELS = 2**20
"""Largest number of pixels that `mask_targets` gathers at once, unless a single window is larger:
about 10 MB."""
PIXELS_ON_A_GPU = 2**24
"""The same on a GPU, which waits for Python to ask for each operation: about 160 MB."""


@dataclass(frozen=True)
class Instances:
    """The instances that have at least one pixel, by ascending id.

    ids_N      int64 [N], the value in the label map
    maps_N     int64 [N], the label map (axis L) that holds it
    boxes_N4   int64 [N, 4], half-open x0 y0 x1 y1 in pixels, the tightest
    areas_N    int64 [N], pixels
    """

    ids_N: NDArray[np.int64]
    maps_N: NDArray[np.int64]
    boxes_N4: NDArray[np.int64]
    areas_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids_N)


def find_instances(label_maps: NDArray[np.uint16]) -> Instances:
    """Find all instances of `label_maps`, uint16 [L, H, W], in one pass over each map.

    An instance that was cut into several pieces is one instance whose box holds them all.
    """
    rows: list[tuple[int, int, int, int, int, int, int]] = []
    for index, label_map in enumerate(label_maps):
        counts = np.bincount(label_map.ravel()).tolist()
        for number, window in enumerate(ndimage.find_objects(label_map), start=1):
            if window is not None:
                y, x = window
                rows.append((number, index, x.start, y.start, x.stop, y.stop, counts[number]))
    table = np.array(sorted(rows), dtype=np.int64).reshape(-1, 7)
    ids_N = table[:, 0]
    assert (np.diff(ids_N) > 0).all(), "an instance is in two label maps"
    return Instances(ids_N, table[:, 1], table[:, 2:6], table[:, 6])


def crop(label_maps: NDArray[np.uint16], instances: Instances, index: int) -> MaskCrop:
    """Cut instance `index` (a row of `instances`, not an id) out of `label_maps`, uint16 [L, H,
    W].
    """
    x0, y0, x1, y1 = instances.boxes_N4[index].tolist()
    window = label_maps[instances.maps_N[index], y0:y1, x0:x1]
    return MaskCrop(y0, x0, window == instances.ids_N[index])


def target_of(
    label_maps: NDArray[np.uint16], labels_N: NDArray[np.int64], crowd_N: NDArray[np.bool_]
) -> Target:
    """Turn the label maps of one (augmented) image into what the model learns.

    label_maps   uint16 [L, H, W]
    labels_N     int64 [N], class numbers; instance k has labels_N[k - 1]
    crowd_N      bool [N], the crowd regions

    Crowd regions and instances without a pixel left are absent. Boxes are read off the maps, so
    they always enclose their masks; `ids_N` keeps the values that the maps hold.
    """
    found = find_instances(label_maps)
    keep = ~crowd_N[found.ids_N - 1]
    ids_N = found.ids_N[keep]
    boxes_N4 = found.boxes_N4[keep]
    width, height = (boxes_N4[:, 2:] - boxes_N4[:, :2]).max(axis=0, initial=1).tolist()
    return Target(
        boxes_N4=torch.from_numpy(boxes_N4.astype(np.float32)),
        labels_N=torch.from_numpy(labels_N[ids_N - 1].astype(np.int64)),
        ids_N=torch.from_numpy(ids_N),
        maps_N=torch.from_numpy(found.maps_N[keep]),
        label_maps_LHW=torch.from_numpy(label_maps.astype(np.int32)),
        largest=(height, width),
    )


def resize_label_maps(label_maps_LHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize label maps, int32 [L, H, W], to [L, height, width] by the nearest pixels, those that
    torchvision's transform takes for a mask.

    torchvision resizes masks with `interpolate(..., recompute_scale_factor=True)`, whose ratio is
    that of the sizes.
    """
    maps_1LHW = label_maps_LHW[None].to(torch.float32)  # exact: instance numbers have 16 bits
    return functional.interpolate(maps_1LHW, size=(height, width), mode="nearest")[0].to(
        torch.int32
    )


@torch.no_grad()
def mask_targets(
    label_maps_LHW: torch.Tensor,
    ids_P: torch.Tensor,
    maps_P: torch.Tensor,
    proposals_P4: torch.Tensor,
    size: int = 28,
    largest: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The training target of the mask head for each proposal: float32 [P, size, size] in 0..1.

    label_maps_LHW   int32 [L, H, W], at the size that the network sees
    ids_P, maps_P    int64 [P], the instance that each proposal is matched to, and the label map
                     that holds it
    proposals_P4     float32 [P, 4], x0 y0 x1 y1 in pixels of the label maps
    largest          height and width, in pixels, that no proposal exceeds, or the target of one
                     that does is not needed; None to measure the proposals, for which a GPU is
                     waited for

    Equals torchvision's `project_masks_on_boxes` on full masks up to rounding: `roi_align` on a
    window around each proposal. A window never passes the image's border, so that the two borders
    coincide where they matter, and `roi_align` repeats the last pixels, and stops, where it would
    on the full mask. Windows move by whole pixels, which float32 subtracts exactly, so the sampling
    grid stays torchvision's.
    """
    height, width = label_maps_LHW.shape[-2:]
    proposals_P4 = proposals_P4.to(torch.float32)
    corners_P2 = proposals_P4[:, :2].floor()
    targets = torch.zeros(
        (len(proposals_P4), size, size), dtype=torch.float32, device=label_maps_LHW.device
    )

    def fill(some: slice | torch.Tensor, w: int, h: int) -> None:
        device = label_maps_LHW.device
        x0_K = corners_P2[some, 0].clamp(0, width - w)
        y0_K = corners_P2[some, 1].clamp(0, height - h)
        columns_Kw = x0_K[:, None].to(torch.int64) + torch.arange(w, device=device)
        rows_Kh = y0_K[:, None].to(torch.int64) + torch.arange(h, device=device)
        windows_Khw = label_maps_LHW[
            maps_P[some, None, None], rows_Kh[:, :, None], columns_Kw[:, None, :]
        ]
        masks_Khw = (windows_Khw == ids_P[some, None, None]).to(torch.float32)
        boxes_K4 = proposals_P4[some] - torch.stack([x0_K, y0_K, x0_K, y0_K], dim=1)
        numbers_K1 = torch.arange(len(boxes_K4), device=device, dtype=torch.float32)[:, None]
        rois_K5 = torch.cat([numbers_K1, boxes_K4], dim=1)
        targets[some] = roi_align(
            masks_Khw[:, None], rois_K5, (size, size), sampling_ratio=-1, aligned=False
        )[:, 0]

    if largest is not None:
        # A pixel more at each end where a side does not begin and end on whole pixels, and the last
        # sample's right-hand neighbour.
        h, w = min(largest[0] + 3, height), min(largest[1] + 3, width)
        step = max(1, PIXELS_ON_A_GPU // (w * h))
        for start in range(0, len(targets), step):
            fill(slice(start, start + step), w, h)
        return targets
    ends_P2 = torch.maximum(
        proposals_P4[:, 2:], proposals_P4[:, :2] + 1
    )  # roi_align widens boxes under one pixel
    sides_P2 = (ends_P2.floor() - corners_P2).to(
        torch.int64
    ) + 2  # the last sample and its right-hand neighbour
    width_P, height_P = sides_P2[:, 0].clamp(max=width), sides_P2[:, 1].clamp(max=height)
    order_P = (width_P * height_P).argsort(stable=True)
    sides = torch.stack([width_P, height_P], dim=1)[order_P].tolist()  # waits for the GPU
    for start, stop, w, h in _chunks(sides):
        fill(order_P[start:stop], w, h)
    return targets


def _chunks(sides: list[list[int]]) -> Iterator[tuple[int, int, int, int]]:
    """Divide windows, (width, height) each, the smallest first, into runs of at most WINDOW_PIXELS.

    Gives the first of each run and the one after its last, and the width and height that holds each
    of its windows.
    """
    start = w = h = 0
    for index, (width, height) in enumerate(sides):
        wider, higher = max(w, width), max(h, height)
        if index > start and (index + 1 - start) * wider * higher > WINDOW_PIXELS:
            yield start, index, w, h
            start, wider, higher = index, width, height
        w, h = wider, higher
    if sides:
        yield start, len(sides), w, h


@torch.no_grad()
def paste(
    mask_probs_N28: torch.Tensor,
    boxes_N4: torch.Tensor,
    height: int,
    width: int,
    threshold: float = 0.5,
) -> list[MaskCrop]:
    """Turn mask predictions into masks, each inside its own window of a `height` x `width` image.

    mask_probs_N28   float32 [N, 28, 28], probabilities
    boxes_N4         float32 [N, 4], in pixels of that image

    The pixels are those of `torchvision.models.detection.roi_heads.paste_masks_in_image(...) >
    threshold`. Windows are clipped to the image; a box outside it gives an empty one. Runs on the
    CPU wherever the predictions are.
    """
    probs_N1MM, scale = expand_masks(mask_probs_N28[:, None].cpu(), padding=1)
    boxes = expand_boxes(boxes_N4.cpu(), scale).to(torch.int64).tolist()
    crops = []
    for probs_1MM, (left, top, right, bottom) in zip(probs_N1MM, boxes, strict=True):
        size = max(bottom - top + 1, 1), max(right - left + 1, 1)
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = max(min(bottom + 1, height), y0), max(min(right + 1, width), x0)
        resized = functional.interpolate(
            probs_1MM[None], size=size, mode="bilinear", align_corners=False
        )[0, 0]
        window = resized[y0 - top : y1 - top, x0 - left : x1 - left] > threshold
        crops.append(MaskCrop(y0, x0, window.numpy()))
    return crops
