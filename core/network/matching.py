"""The instance that each anchor and each proposal learns, computed in little memory.

The matrix of overlaps between 700 boxes and the 267,000 anchors of 800 x 1333 pixels takes 0.75 GB,
and computing it in one go takes 6.6 GB. So anchors are matched some at a time.
"""

import torch
from torchvision.ops import box_area, box_iou

IOU_ENTRIES = {"cpu": 2**20, "cuda": 2**23}
"""Largest number of overlaps that are computed at once, 14 bytes each: 15 MB on a CPU; 120 MB on a
GPU, which waits for every call from Python."""

ANCHOR_IOU, BACKGROUND_IOU = 0.7, 0.3
"""An anchor whose highest IoU with an instance is at least ANCHOR_IOU learns that instance; one
whose highest IoU is below BACKGROUND_IOU learns background."""
PROPOSAL_IOU = 0.5
"""A proposal whose highest IoU with an instance is at least this learns that instance; every other
proposal learns background."""

BACKGROUND, NEITHER = -1, -2
"""Matches of anchors that learn no instance: those that learn background, and those that learn
nothing."""


def match_anchors(boxes_N4: torch.Tensor, anchors_A4: torch.Tensor) -> torch.Tensor:
    """The box that each anchor learns, or BACKGROUND, or NEITHER: int64 [A].

    boxes_N4     float32 [N, 4]
    anchors_A4   float32 [A, 4]

    The result is that of torchvision's matcher, bit for bit. An anchor that has the highest IoU of
    all anchors with some box learns its own best box, however low that IoU is. These anchors are
    known only after all were seen, so where the anchors do not fit in one go their overlaps are
    computed twice. Keeping candidates for each piece and box instead was faster on a CPU, but a GPU
    had to be waited for in each piece.
    """
    if not len(boxes_N4):
        return torch.full_like(anchors_A4[:, 0], BACKGROUND, dtype=torch.int64)
    step = max(1, IOU_ENTRIES[boxes_N4.device.type] // len(boxes_N4))
    pieces = [slice(start, start + step) for start in range(0, len(anchors_A4), step)]
    box_areas_N, anchor_areas_A = box_area(boxes_N4), box_area(anchors_A4)
    # The results are allocated first: small tensors that are kept between large ones that are freed
    # would keep the memory of the large ones from being used again.
    value_A = boxes_N4.new_empty(len(anchors_A4))
    box_A = torch.empty(len(anchors_A4), dtype=torch.int64, device=boxes_N4.device)
    kept_A = torch.empty(len(anchors_A4), dtype=torch.bool, device=boxes_N4.device)
    highest_KN = boxes_N4.new_empty((len(pieces), len(boxes_N4)))

    def overlaps(some: slice) -> torch.Tensor:
        return _iou(boxes_N4, box_areas_N, anchors_A4[some], anchor_areas_A[some])

    for some, highest_N in zip(pieces, highest_KN, strict=True):
        iou_NK = overlaps(some)
        torch.max(iou_NK, dim=0, out=(value_A[some], box_A[some]))
        torch.amax(iou_NK, dim=1, out=highest_N)
    highest_N = highest_KN.amax(dim=0)
    for some in pieces:
        iou_NK = iou_NK if len(pieces) == 1 else overlaps(some)
        torch.any(iou_NK == highest_N[:, None], dim=0, out=kept_A[some])
    result_A = torch.where(value_A < ANCHOR_IOU, NEITHER, box_A)
    result_A = torch.where(value_A < BACKGROUND_IOU, BACKGROUND, result_A)
    return torch.where(kept_A, box_A, result_A)


def match_proposals(
    boxes_N4: torch.Tensor, labels_N: torch.Tensor, proposals_K4: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The box that each proposal overlaps most, and the class that it learns; int64 [K] each.

    boxes_N4, labels_N   float32 [N, 4] and int64 [N], class numbers from 1
    proposals_K4         float32 [K, 4]

    The class is 0 for background.
    """
    if not len(boxes_N4):
        none_K = torch.zeros_like(proposals_K4[:, 0], dtype=torch.int64)
        return none_K, none_K
    value_K, box_K = box_iou(boxes_N4, proposals_K4).max(dim=0)
    return box_K, torch.where(value_K < PROPOSAL_IOU, 0, labels_N[box_K])


def _iou(
    boxes_N4: torch.Tensor,
    box_areas_N: torch.Tensor,
    anchors_K4: torch.Tensor,
    anchor_areas_K: torch.Tensor,
) -> torch.Tensor:
    """The IoU of each box with each anchor, float32 [N, K].

    It equals torchvision's `box_iou`, rounding included, with half the operations and memory.
    """
    sides = []
    for axis in (0, 1):
        begins_NK = torch.maximum(boxes_N4[:, None, axis], anchors_K4[:, axis])
        ends_NK = torch.minimum(boxes_N4[:, None, axis + 2], anchors_K4[:, axis + 2])
        sides.append(ends_NK.sub_(begins_NK).clamp_(min=0))
    shared_NK = sides[0].mul_(sides[1])
    union_NK = torch.add(box_areas_N[:, None], anchor_areas_K, out=sides[1]).sub_(shared_NK)
    return shared_NK.div_(union_NK)
