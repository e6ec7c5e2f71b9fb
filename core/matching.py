"""Which ground-truth box each anchor is to learn, without a matrix of all boxes by all anchors.

700 boxes by the 267,000 anchors of 800 x 1333 pixels make a matrix of 0.75 GB, and computing it in one go takes 6.6 GB.
"""

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

IOU_ENTRIES = 2**20
"""Most overlaps that are computed at once: under 100 MB with what computing them takes."""

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
        step = max(1, IOU_ENTRIES // len(boxes_N4))
        starts = range(0, len(anchors_A4), step)
        # Room for the results first: small tensors that are kept between large ones that are not would keep the memory
        # of these from being used again.
        value_A = boxes_N4.new_empty(len(anchors_A4))
        box_A = torch.empty(len(anchors_A4), dtype=torch.int64, device=boxes_N4.device)
        highest_SN = boxes_N4.new_empty((len(starts), len(boxes_N4)))
        for piece, start in enumerate(starts):
            some = slice(start, start + step)
            iou_NK = box_iou(boxes_N4, anchors_A4[some])
            value_A[some], box_A[some] = iou_NK.max(dim=0)
            highest_SN[piece] = iou_NK.amax(dim=1)
        result_A = torch.where(value_A < self.high_threshold, self.BETWEEN_THRESHOLDS, box_A)
        result_A = torch.where(value_A < self.low_threshold, self.BELOW_LOW_THRESHOLD, result_A)
        highest_N = highest_SN.amax(dim=0)
        for start, here_N in zip(starts, (highest_SN == highest_N).cpu(), strict=True):
            if here_N.any():
                some, rows = slice(start, start + step), here_N.to(boxes_N4.device)
                is_best_K = (box_iou(boxes_N4[rows], anchors_A4[some]) == highest_N[rows, None]).any(dim=0)
                result_A[some] = torch.where(is_best_K, box_A[some], result_A[some])
        return result_A
