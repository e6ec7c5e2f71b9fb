"""Which ground-truth box each anchor is to learn, without a matrix of all boxes by all anchors.

700 boxes by the 267,000 anchors of 800 x 1333 pixels make a matrix of 0.75 GB, and computing it in one go takes 6.6 GB.
"""

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_area

IOU_ENTRIES = {"cpu": 2**20, "cuda": 2**23}
"""Most overlaps that are computed at once, 14 bytes each: 15 MB, and on a GPU, which waits for every call from Python,
120 MB."""

BoxesAndAnchors = tuple[torch.Tensor, torch.Tensor]


def boxes_and_anchors(boxes_N4: torch.Tensor, anchors_A4: torch.Tensor) -> BoxesAndAnchors:
    """What torchvision hands its matcher; it would be their overlaps, float32 [N, A]."""
    return boxes_N4, anchors_A4


class AnchorMatcher(Matcher):  # type: ignore[misc]
    """torchvision's matcher, low-quality matches included, of boxes and anchors instead of their overlaps.

    The result is torchvision's, bit for bit. Anchors are taken some at a time. That each box keeps the anchors that
    overlap it most, however little, is known only after all of them were seen; where they do not fit in one go their
    overlaps are computed a second time. Nothing is waited for: to remember candidates, some per piece and box, was
    faster on a CPU and asked a GPU how many there are in each piece.
    """

    def __init__(self, high_threshold: float, low_threshold: float) -> None:
        super().__init__(high_threshold, low_threshold, allow_low_quality_matches=True)

    def __call__(self, pair: BoxesAndAnchors) -> torch.Tensor:
        """int64 [A]: the box of each anchor, -1 where it is background, -2 where it is neither.

        pair   boxes, float32 [N, 4] with N at least 1, and anchors, float32 [A, 4]
        """
        boxes_N4, anchors_A4 = pair
        step = max(1, IOU_ENTRIES[boxes_N4.device.type] // len(boxes_N4))
        pieces = [slice(start, start + step) for start in range(0, len(anchors_A4), step)]
        box_areas_N, anchor_areas_A = box_area(boxes_N4), box_area(anchors_A4)
        # Room for the results first: small tensors that are kept between large ones that are not would keep the memory
        # of these from being used again.
        value_A = boxes_N4.new_empty(len(anchors_A4))
        box_A = torch.empty(len(anchors_A4), dtype=torch.int64, device=boxes_N4.device)
        kept_A = torch.empty(len(anchors_A4), dtype=torch.bool, device=boxes_N4.device)
        highest_SN = boxes_N4.new_empty((len(pieces), len(boxes_N4)))

        def overlaps(some: slice) -> torch.Tensor:
            return _iou(boxes_N4, box_areas_N, anchors_A4[some], anchor_areas_A[some])

        for some, highest_N in zip(pieces, highest_SN, strict=True):
            iou_NK = overlaps(some)
            torch.max(iou_NK, dim=0, out=(value_A[some], box_A[some]))
            torch.amax(iou_NK, dim=1, out=highest_N)
        highest_N = highest_SN.amax(dim=0)
        for some in pieces:
            iou_NK = iou_NK if len(pieces) == 1 else overlaps(some)
            torch.any(iou_NK == highest_N[:, None], dim=0, out=kept_A[some])
        result_A = torch.where(value_A < self.high_threshold, self.BETWEEN_THRESHOLDS, box_A)
        result_A = torch.where(value_A < self.low_threshold, self.BELOW_LOW_THRESHOLD, result_A)
        return torch.where(kept_A, box_A, result_A)


def _iou(
    boxes_N4: torch.Tensor, box_areas_N: torch.Tensor, anchors_K4: torch.Tensor, anchor_areas_K: torch.Tensor
) -> torch.Tensor:
    """float32 [N, K]: torchvision's `box_iou`, the same roundings, in half its operations and memory."""
    sides = []
    for axis in (0, 1):
        begins_NK = torch.maximum(boxes_N4[:, None, axis], anchors_K4[:, axis])
        ends_NK = torch.minimum(boxes_N4[:, None, axis + 2], anchors_K4[:, axis + 2])
        sides.append(ends_NK.sub_(begins_NK).clamp_(min=0))
    shared_NK = sides[0].mul_(sides[1])
    union_NK = torch.add(box_areas_N[:, None], anchor_areas_K, out=sides[1]).sub_(shared_NK)
    return shared_NK.div_(union_NK)
