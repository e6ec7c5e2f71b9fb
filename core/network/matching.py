"""The instance that each anchor and each proposal learns, computed in little memory.

Anchors are matched with some boxes at a time, because the matrix of IoUs between 700 boxes and the
267,000 anchors of 800 x 1333 pixels takes 0.75 GB, and computing it in one go takes 6.6 GB.

The boxes of a batch are matched together where they come as one tensor, [B, N, 4]. Images with
fewer boxes are then padded with boxes of zeros and labels of 0, which nothing learns.
"""

import torch

IOU_ENTRIES = {"cpu": 2**20, "cuda": 2**25}
"""Largest number of IoUs that are computed at once, at 14 bytes each: 15 MB on a CPU, 470 MB on a
GPU, which gains from few large calls and has room for them before the heads are computed."""

ANCHOR_IOU, BACKGROUND_IOU = 0.7, 0.3
"""An anchor whose highest IoU with an instance is at least ANCHOR_IOU learns that instance; one
whose highest IoU is below BACKGROUND_IOU learns background."""
PROPOSAL_IOU = 0.5
"""A proposal whose highest IoU with an instance is at least this learns that instance; every other
proposal learns background. Later stages of a cascade ask for more."""

BACKGROUND, NEITHER = -1, -2
"""Matches of anchors that learn no instance: those that learn background, and those that learn
nothing."""


def entries_at_once(device: torch.device) -> int:
    """Largest number of IoUs that are computed at once on a device."""
    return IOU_ENTRIES["cpu" if device.type == "cpu" else "cuda"]


def match_anchors(
    boxes: torch.Tensor, anchors_A4: torch.Tensor, *, padded: bool = False
) -> torch.Tensor:
    """The index of the box that each anchor learns, or BACKGROUND, or NEITHER: int64 [A] or [B, A].

    boxes        float32 [N, 4], or [B, N, 4] of a batch
    anchors_A4   float32 [A, 4]
    padded       whether boxes of zeros may be among `boxes`

    The result is that of torchvision's matcher, bit for bit. An anchor that has the highest IoU of
    all anchors with some box learns its own best box, however low that IoU is. Some boxes at a time
    are compared with all anchors, so that the highest IoU of these boxes is known at once.

    With `padded` a box that overlaps no anchor is learned by none. torchvision's matcher would let
    every anchor that does not overlap that box learn its best box, however low their IoU.
    """
    shape = *boxes.shape[:-2], len(anchors_A4)
    box_areas, anchor_areas_A = areas_of(boxes), areas_of(anchors_A4)
    # The results are allocated first: small tensors that are kept between large ones that are freed
    # would keep the memory of the large ones from being used again.
    value = boxes.new_full(shape, -1.0)
    box = torch.full(shape, BACKGROUND, device=boxes.device)
    kept = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    step = max(1, entries_at_once(boxes.device) // max(value.numel(), 1))
    for start in range(0, boxes.shape[-2], step):
        some = slice(start, start + step)
        iou = overlap(boxes[..., some, :], box_areas[..., some], anchors_A4, anchor_areas_A)
        highest = iou.amax(dim=-1, keepdim=True)
        if padded:
            highest = torch.where(highest > 0, highest, 2.0)  # no IoU equals 2
        kept.logical_or_((iou == highest).any(dim=-2))
        best, place = iou.max(dim=-2)
        # The first of equals, as in torchvision's matcher.
        torch.where(best > value, place + start, box, out=box)
        torch.maximum(value, best, out=value)
    result = torch.where(value < ANCHOR_IOU, NEITHER, box)
    result = torch.where(value < BACKGROUND_IOU, BACKGROUND, result)
    return torch.where(kept, box, result)


def match_proposals(
    boxes: torch.Tensor,
    labels: torch.Tensor,
    proposals: torch.Tensor,
    least_iou: float = PROPOSAL_IOU,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The index of the box with which each proposal has its highest IoU, and the class it learns.

    Both are int64 [K] or [B, K]; the class is 0 for background.

    boxes       float32 [N, 4], or [B, N, 4] of a batch
    labels      int64 [N] or [B, N], class numbers from 1
    proposals   float32 [K, 4] or [B, K, 4]
    least_iou   a proposal whose IoU with that box is below this learns background
    """
    if not boxes.shape[-2]:
        none = torch.zeros_like(proposals[..., 0], dtype=torch.int64)
        return none, none
    iou = overlap(boxes, areas_of(boxes), proposals, areas_of(proposals))
    value, box = iou.max(dim=-2)
    return box, torch.where(value < least_iou, 0, labels.gather(-1, box))


def areas_of(boxes: torch.Tensor) -> torch.Tensor:
    """The areas of boxes [..., 4], in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def overlap(
    boxes: torch.Tensor, box_areas: torch.Tensor, others: torch.Tensor, other_areas: torch.Tensor
) -> torch.Tensor:
    """The IoU of each box with each other box, float32 [..., N, K]; NaN for two boxes of zeros.

    boxes, box_areas      float32 [..., N, 4] and [..., N]
    others, other_areas   float32 [..., K, 4] and [..., K]

    It equals torchvision's `box_iou`, rounding included, with half the operations and memory.
    """
    sides = []
    for axis in (0, 1):
        begins = torch.maximum(boxes[..., :, None, axis], others[..., None, :, axis])
        ends = torch.minimum(boxes[..., :, None, axis + 2], others[..., None, :, axis + 2])
        sides.append(ends.sub_(begins).clamp_(min=0))
        del begins  # before the next one is made
    shared = sides[0].mul_(sides[1])
    union = torch.add(box_areas[..., :, None], other_areas[..., None, :], out=sides[1])
    return shared.div_(union.sub_(shared))
