"""Which ground-truth box each anchor is to learn, without a matrix of all boxes by all anchors.

700 boxes by the 267,000 anchors of 800 x 1333 pixels make a matrix of 0.75 GB, and computing it in one go takes 6.6 GB.
"""

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

IOU_ENTRIES = 2**22
"""Most overlaps that are computed at once: about 150 MB with what computing them takes."""

BoxesAndAnchors = tuple[torch.Tensor, torch.Tensor]


def boxes_and_anchors(boxes_N4: torch.Tensor, anchors_A4: torch.Tensor) -> BoxesAndAnchors:
    """What torchvision hands its matcher; it would be their overlaps, float32 [N, A]."""
    return boxes_N4, anchors_A4


class AnchorMatcher(Matcher):  # type: ignore[misc]
    """torchvision's matcher, low-quality matches included, of boxes and anchors instead of their overlaps.

    The result is torchvision's, bit for bit. Anchors are taken some at a time. That each box keeps the anchors that
    overlap it most, however little, is known only after all of them were seen; then only the pieces where a box has its
    highest overlap are computed again, for the boxes that have it there.
    """

    def __init__(self, high_threshold: float, low_threshold: float) -> None:
        super().__init__(high_threshold, low_threshold, allow_low_quality_matches=True)

    def __call__(self, pair: BoxesAndAnchors) -> torch.Tensor:
        """int64 [A]: the box of each anchor, -1 where it is background, -2 where it is neither.

        pair   boxes, float32 [N, 4] with N at least 1, and anchors, float32 [A, 4]
        """
        boxes_N4, anchors_A4 = pair
        pieces = torch.split(anchors_A4, max(1, IOU_ENTRIES // len(boxes_N4)))
        values, matched, highest = [], [], []
        for anchors_K4 in pieces:
            iou_NK = box_iou(boxes_N4, anchors_K4)
            value_K, box_K = iou_NK.max(dim=0)
            values.append(value_K)
            matched.append(box_K)
            highest.append(iou_NK.amax(dim=1))
        value_A, box_A, highest_PN = torch.cat(values), torch.cat(matched), torch.stack(highest)
        result_A = torch.where(value_A < self.high_threshold, self.BETWEEN_THRESHOLDS, box_A)
        result_A = torch.where(value_A < self.low_threshold, self.BELOW_LOW_THRESHOLD, result_A)
        highest_N = highest_PN.amax(dim=0)
        start = 0
        for anchors_K4, here_N in zip(pieces, (highest_PN == highest_N).cpu(), strict=True):
            if here_N.any():
                rows = here_N.to(boxes_N4.device)
                is_best_K = (box_iou(boxes_N4[rows], anchors_K4) == highest_N[rows, None]).any(dim=0)
                kept = slice(start, start + len(anchors_K4))
                result_A[kept] = torch.where(is_best_K, box_A[kept], result_A[kept])
            start += len(anchors_K4)
        return result_A
