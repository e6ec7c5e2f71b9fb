"""Label maps to boxes, crops and training targets, and mask predictions back to crops.

Masks never become an [N, H, W] stack: the work is proportional to the label maps and to the boxes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
"""Largest number of pixels that are gathered at once on a GPU, about 130 MB: more, because a GPU
waits for Python to launch each operation."""
LONGER = 0.01
"""Least difference, in pixels, between the longest sides of instances whose masks are computed
whole and of others."""


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


def crop_mask(label_maps: NDArray[np.uint16], instances: Instances, index: int) -> MaskCrop:
    """Cut an instance out of `label_maps`, uint16 [L, H, W]; `index` is a row of `instances`."""
    x0, y0, x1, y1 = instances.boxes_N4[index].tolist()
    window = label_maps[instances.maps_N[index], y0:y1, x0:x1]
    return MaskCrop(y0, x0, window == instances.ids_N[index])


def target_of(
    label_maps: NDArray[np.uint16], labels_N: NDArray[np.int64], crowd_N: NDArray[np.bool_]
) -> Target:
    """Turn the label maps of one (augmented) image into its training target.

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
    return Target(
        boxes_N4=torch.from_numpy(boxes_N4.astype(np.float32)),
        labels_N=torch.from_numpy(labels_N[ids_N - 1].astype(np.int64)),
        ids_N=torch.from_numpy(ids_N.astype(np.uint16).view(np.int16)),
        maps_N=torch.from_numpy(found.maps_N[keep]),
        # A copy in any case: the data set's arrays may be shared and read-only.
        label_maps_LHW=torch.from_numpy(np.array(label_maps, order="C").view(np.int16)),
        sides_N2=(boxes_N4[:, 2:] - boxes_N4[:, :2])[:, ::-1],
    )


def resize_label_maps(
    label_maps: NDArray[np.uint16], height: int, width: int
) -> NDArray[np.uint16]:
    """Resize label maps, uint16 [L, H, W], to [L, height, width] by nearest neighbour.

    The pixels taken are those that torchvision's transform takes for a mask.
    """
    cpu = torch.device("cpu")
    rows = nearest_pixels(label_maps.shape[1], height, cpu).numpy()
    columns = nearest_pixels(label_maps.shape[2], width, cpu).numpy()
    return label_maps.take(rows, axis=1).take(columns, axis=2)


def nearest_pixels(old: int, new: int, device: torch.device) -> torch.Tensor:
    """The old row, or column, that each new one repeats if `old` are resized to `new`: int64 [new].

    These are the rows of `interpolate(..., mode="nearest")`, which computes in float32.
    """
    ratio = float(np.float32(old) / np.float32(new))
    return (torch.arange(new, device=device) * ratio).to(torch.int64).clamp(max=old - 1)


@torch.no_grad()
def mask_targets(
    label_maps_LHW: torch.Tensor,
    ids_P: torch.Tensor,
    maps_P: torch.Tensor,
    proposals_P4: torch.Tensor,
    size: int = 28,
    *,
    seen: tuple[int, int] | None = None,
    largest: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The training target of the mask head for each proposal: float32 [P, size, size] in 0..1.

    label_maps_LHW   int16 [L, H, W], as in `Target`
    ids_P, maps_P    int16 and int64 [P], the instance that each proposal is matched to, and the
                     label map that holds it
    proposals_P4     float32 [P, 4], x0 y0 x1 y1 in pixels of the image that the network sees
    seen             height and width of that image; None for those of the label maps. Maps of
                     another size are read at the nearest pixels, see `resize_label_maps`
    largest          height and width, in pixels, that no proposal whose target is needed exceeds;
                     the targets of larger ones mean nothing. None to measure the proposals, for
                     which Python waits for a GPU

    Equals torchvision's `project_masks_on_boxes` on full masks up to rounding: `roi_align` on a
    window around each proposal. A window never extends beyond the image, so a proposal that does
    meets the border of its window where it would meet that of the full mask, and `roi_align` treats
    its samples there alike. Windows move by whole pixels, which float32 subtracts exactly, so the
    sampling grid stays torchvision's.
    """
    image = _Resized(label_maps_LHW, seen)
    height, width = image.size
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
        masks_Khw = image.masks(ids_P[some], maps_P[some], rows_Kh, columns_Kw)
        boxes_K4 = proposals_P4[some] - torch.stack([x0_K, y0_K, x0_K, y0_K], dim=1)
        numbers_K = torch.arange(len(boxes_K4), device=device, dtype=torch.float32)
        targets[some] = _pooled(masks_Khw, numbers_K, boxes_K4, size)

    if largest is not None:
        # One pixel more at each end, because a side need not begin and end on whole pixels, and one
        # for the last sample's right-hand neighbour.
        h, w = min(largest[0] + 3, height), min(largest[1] + 3, width)
        step = max(1, PIXELS_ON_A_GPU // (w * h))
        for start in range(0, len(targets), step):
            fill(slice(start, start + step), w, h)
        return targets
    # `roi_align` widens boxes under one pixel.
    ends_P2 = torch.maximum(proposals_P4[:, 2:], proposals_P4[:, :2] + 1)
    # 2 for the pixel of the last sample and its right-hand neighbour.
    sides_P2 = (ends_P2.floor() - corners_P2).to(torch.int64) + 2
    width_P, height_P = sides_P2[:, 0].clamp(max=width), sides_P2[:, 1].clamp(max=height)
    order_P = (width_P * height_P).argsort(stable=True)
    sides = torch.stack([width_P, height_P], dim=1)[order_P].tolist()  # waits for the GPU
    for start, stop, w, h in _chunks(sides):
        fill(order_P[start:stop], w, h)
    return targets


@torch.no_grad()
def whole_mask_targets(
    label_maps_LHW: torch.Tensor,
    ids_K: torch.Tensor,
    maps_K: torch.Tensor,
    instance_P: torch.Tensor,
    proposals_P4: torch.Tensor,
    size: int = 28,
    *,
    seen: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Compute the targets of `mask_targets` from whole masks, for proposals of a few instances.

    Float32 [P, size, size] in 0..1, zeros for proposals of other instances. For instances too large
    for the windows of `mask_targets`, see `window_sizes`.

    ids_K, maps_K   int16 and int64 [K], the instances, as in `mask_targets`
    instance_P      int64 [P], number in K of the instance that a proposal is matched to; -1 for
                    another instance
    """
    image = _Resized(label_maps_LHW, seen)
    height, width = image.size
    rows_1h = torch.arange(height, device=label_maps_LHW.device)[None]
    columns_1w = torch.arange(width, device=label_maps_LHW.device)[None]
    targets = torch.zeros(
        (len(instance_P), size, size), dtype=torch.float32, device=label_maps_LHW.device
    )
    step = max(1, PIXELS_ON_A_GPU // (height * width))
    for start in range(0, len(ids_K), step):
        some = slice(start, start + step)
        masks = image.masks(ids_K[some], maps_K[some], rows_1h, columns_1w)
        number_P = (instance_P - start).clamp(0, len(masks) - 1)
        pooled = _pooled(masks, number_P, proposals_P4.to(torch.float32), size)
        targets = torch.where((instance_P == number_P + start)[:, None, None], pooled, targets)
    return targets


class _Resized:
    """Label maps, int16 [L, H, W], as if resized to `size`; only what is asked for is computed."""

    def __init__(self, label_maps_LHW: torch.Tensor, size: tuple[int, int] | None) -> None:
        self._maps_LHW = label_maps_LHW
        own = label_maps_LHW.shape[-2], label_maps_LHW.shape[-1]
        self.size = size or own
        self._nearest: tuple[torch.Tensor, torch.Tensor] | None = None
        if self.size != own:
            rows, columns = (
                nearest_pixels(old, new, label_maps_LHW.device)
                for old, new in zip(own, self.size, strict=True)
            )
            self._nearest = rows, columns

    def masks(
        self,
        ids_K: torch.Tensor,
        maps_K: torch.Tensor,
        rows_Kh: torch.Tensor,
        columns_Kw: torch.Tensor,
    ) -> torch.Tensor:
        """The masks of instances in these rows and columns, float32 [K, h, w].

        Rows and columns that all instances share may be given once, as [1, h] and [1, w].
        """
        if self._nearest is not None:
            rows_Kh, columns_Kw = self._nearest[0][rows_Kh], self._nearest[1][columns_Kw]
        windows_Khw = self._maps_LHW[
            maps_K[:, None, None], rows_Kh[:, :, None], columns_Kw[:, None, :]
        ]
        return (windows_Khw == ids_K[:, None, None]).to(torch.float32)


def _pooled(
    masks_KHW: torch.Tensor, number_P: torch.Tensor, boxes_P4: torch.Tensor, size: int
) -> torch.Tensor:
    """RoIAlign of masks in boxes, float32 [P, size, size].

    number_P   int64 [P], the mask of each box
    """
    rois_P5 = torch.cat([number_P[:, None].to(torch.float32), boxes_P4], dim=1)
    pooled: torch.Tensor = roi_align(
        masks_KHW[:, None], rois_P5, (size, size), sampling_ratio=-1, aligned=False
    )
    return pooled[:, 0]


def window_sizes(
    sides_N2: NDArray[np.floating[Any]], size: tuple[int, int], proposals: int, ratio: float
) -> tuple[tuple[int, int], int]:
    """Choose the windows' height and width, in pixels, that `mask_targets` takes as `largest`.

    Returns them, and the number of instances that are too large for such windows.

    sides_N2    [N, 2], height and width of each instance in pixels
    size        height and width of the image in pixels
    proposals   number of proposals
    ratio       a side of a proposal is at most this many times that of its instance

    Windows as large as the largest instance are taken unless they would be gathered in several
    pieces. Then the instances with the longest sides are left to `whole_mask_targets`, as many as
    leave the fewest pixels in all. These have sides that are longer than those of the others by
    LONGER at least, so that a GPU, which knows the sides to rounding, finds the same ones.
    """
    longest_N = sides_N2.max(axis=1, initial=1)
    order_N = np.argsort(-longest_N, kind="stable")
    # The largest sides of what is left without the first k instances, for each k.
    left = np.maximum.accumulate(np.vstack([sides_N2[order_N], [[1, 1]]])[::-1])[::-1]
    largest = (ratio * left).astype(np.int64) + 1
    pixels = proposals * np.minimum(largest + 3, size).prod(axis=1)
    if pixels[0] <= PIXELS_ON_A_GPU:
        return (int(largest[0, 0]), int(largest[0, 1])), 0
    pixels += np.arange(len(pixels)) * size[0] * size[1]
    gaps = -np.diff(longest_N[order_N], append=-np.inf)
    pixels[1:][gaps < LONGER] = np.iinfo(np.int64).max
    count = int(pixels.argmin())
    return (int(largest[count, 0]), int(largest[count, 1])), count


def _chunks(sides: list[list[int]]) -> Iterator[tuple[int, int, int, int]]:
    """Divide windows, (width, height) each, the smallest first, into runs of at most WINDOW_PIXELS.

    Yields for each run the index of its first window, that after its last, and a width and height
    that hold all its windows.
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
def paste_masks(
    mask_probs_NMM: torch.Tensor,
    boxes_N4: torch.Tensor,
    height: int,
    width: int,
    threshold: float = 0.5,
) -> list[MaskCrop]:
    """Turn mask predictions into masks, each inside its own window of a `height` x `width` image.

    mask_probs_NMM   float32 [N, M, M], probabilities
    boxes_N4         float32 [N, 4], x0 y0 x1 y1 in pixels of that image
    threshold        probability above which a pixel belongs to the mask

    The pixels are those of `torchvision.models.detection.roi_heads.paste_masks_in_image(...) >
    threshold`. Windows are clipped to the image; a box outside it gives an empty one. Runs on the
    CPU wherever the predictions are.
    """
    probs_N1MM, scale = expand_masks(mask_probs_NMM[:, None].cpu(), padding=1)
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
