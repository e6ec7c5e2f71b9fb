"""The region proposal network: torchvision's numbers and draws, with few waits for the GPU.

torchvision asks the GPU, image by image, which boxes are large enough, which score enough and which
are drawn. The size of every answer must be known in Python, so each is waited for.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import clip_boxes_to_image, nms

from core.network.anchors import Anchors
from core.network.balanced import BalancedSampler
from core.network.box_coding import OffsetCoder
from core.network.matching import match_anchors
from core.network.resizing import ImageBatch, Size

SUPPRESSED_TOGETHER = ("cuda",)
"""Devices on which the boxes of all levels are suppressed in one call, because each call waits for
the device. A CPU compares each box only with those of its own level, which is faster there."""

SUPPRESSION_IOU = 0.7
"""Only the better of two boxes of one level is proposed if their IoU is above this."""
LEAST_SIDE = 1e-3
"""Least side of a proposal, in pixels."""


class ProposalNetwork(nn.Module):
    """The proposal network: boxes in which instances may be, whatever their class.

    head                 module from levels, [B, F, H, W] each, to objectness [B, Z, H, W] and
                         offsets [B, 4 Z, H, W] of each level
    kept_in_training     most boxes of a level that enter suppression, and most boxes of an image
                         that are proposed, in training mode
    kept_in_evaluation   the same in evaluation mode
    """

    def __init__(
        self,
        head: nn.Module,
        anchors: Anchors,
        sampler: BalancedSampler,
        kept_in_training: int,
        kept_in_evaluation: int,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.sampler = sampler
        self.coder = OffsetCoder(1.0, 1.0)
        self.kept_in_training, self.kept_in_evaluation = kept_in_training, kept_in_evaluation

    def forward(
        self,
        batch: ImageBatch,
        levels: Sequence[torch.Tensor],
        truths: Sequence[torch.Tensor] | None = None,
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Proposals of each image, float32 [K, 4], best first; with `truths` also two losses.

        levels   float32 [B, F, H, W] each, the finest first
        truths   the boxes of each image's instances, float32 [N, 4]
        """
        objectness, offsets = self.head(levels)
        of_level = [level[0].numel() for level in objectness]
        # Float32 under autocast too: bfloat16, which has no odd numbers above 256, is too coarse.
        objectness_BA = torch.cat(
            [_by_anchor(level, 1)[..., 0] for level in objectness], dim=1
        ).float()
        offsets_BA4 = torch.cat([_by_anchor(level, 4) for level in offsets], dim=1).float()
        anchors_A4 = self.anchors(batch.images_B3HW.shape[-2:], levels)
        with torch.no_grad():
            boxes_BA4 = self.coder.decode(offsets_BA4, anchors_A4)
            proposals, _ = self.best(boxes_BA4, objectness_BA.detach(), batch.sizes, of_level)
        if truths is None:
            return proposals, {}
        return proposals, self._losses(objectness_BA, offsets_BA4, anchors_A4, truths)

    def best(
        self,
        boxes_BA4: torch.Tensor,
        objectness_BA: torch.Tensor,
        sizes: Sequence[Size],
        of_level: Sequence[int],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Boxes, float32 [K, 4], and scores [K] of each image, best first.

        boxes_BA4       float32, the decoded anchors
        objectness_BA   float32, logits
        sizes           height and width of each image without padding
        of_level        number of anchors of each level in an image; anchors come level after level

        Non-maximum suppression is applied to each level by itself.
        """
        most = self.kept_in_training if self.training else self.kept_in_evaluation
        top_of_level = [min(most, anchors) for anchors in of_level]
        top_BT = _top(objectness_BA, of_level, top_of_level)
        scores_BT = objectness_BA.gather(1, top_BT).sigmoid()
        boxes_BT4 = boxes_BA4.gather(1, top_BT[..., None].expand(-1, -1, 4))
        boxes_BT4 = torch.stack(
            [
                clip_boxes_to_image(boxes_T4, size)
                for boxes_T4, size in zip(boxes_BT4, sizes, strict=True)
            ]
        )
        sides_BT2 = boxes_BT4[..., 2:] - boxes_BT4[..., :2]
        # The second condition is false for a score that is NaN.
        fits_BT = (sides_BT2 >= LEAST_SIDE).all(dim=2) & (scores_BT >= 0)
        # A box that does not fit gets a score below all others: it suppresses none of them, and
        # comes last.
        scores_BT = torch.where(fits_BT, scores_BT, -1.0)
        kept = [
            _suppressed(boxes_T4, scores_T, top_of_level, SUPPRESSION_IOU, max(size))
            for boxes_T4, scores_T, size in zip(boxes_BT4, scores_BT, sizes, strict=True)
        ]
        # This waits for the GPU.
        fit = torch.stack(
            [
                (scores_T[kept_K] >= 0).sum()
                for scores_T, kept_K in zip(scores_BT, kept, strict=True)
            ]
        ).tolist()
        kept = [kept_K[: min(fitting, most)] for kept_K, fitting in zip(kept, fit, strict=True)]
        return (
            [boxes_T4[kept_K] for boxes_T4, kept_K in zip(boxes_BT4, kept, strict=True)],
            [scores_T[kept_K] for scores_T, kept_K in zip(scores_BT, kept, strict=True)],
        )

    def _losses(
        self,
        objectness_BA: torch.Tensor,
        offsets_BA4: torch.Tensor,
        anchors_A4: torch.Tensor,
        truths: Sequence[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The two losses of torchvision's proposal network, over the anchors that are drawn."""
        matches = [match_anchors(boxes_N4, anchors_A4) for boxes_N4 in truths]
        # With 1 added, background is 0 and NEITHER is below 0, as the sampler wants them.
        drawn = self.sampler([match_A + 1 for match_A in matches])
        starts = range(0, objectness_BA.numel(), len(anchors_A4))
        positive_P = torch.cat(
            [one.positive_P + start for one, start in zip(drawn, starts, strict=True)]
        )
        negative_Q = torch.cat(
            [one.negative_Q + start for one, start in zip(drawn, starts, strict=True)]
        )
        wanted_P4 = self.coder.encode(
            torch.cat(
                [
                    boxes_N4[match_A[one.positive_P]]
                    for boxes_N4, match_A, one in zip(truths, matches, drawn, strict=True)
                ]
            ),
            torch.cat([anchors_A4[one.positive_P] for one in drawn]),
        )
        logits_S = objectness_BA.flatten()[torch.cat([positive_P, negative_Q])]
        is_object_S = torch.cat([torch.ones_like(positive_P), torch.zeros_like(negative_Q)]).to(
            logits_S.dtype
        )
        box_loss = functional.smooth_l1_loss(
            offsets_BA4.flatten(0, 1)[positive_P], wanted_P4, beta=1 / 9, reduction="sum"
        )
        return {
            "loss_objectness": functional.binary_cross_entropy_with_logits(logits_S, is_object_S),
            "loss_rpn_box_reg": box_loss / len(logits_S),
        }


def _by_anchor(level: torch.Tensor, numbers: int) -> torch.Tensor:
    """[B, A, numbers], by row, column and anchor of a cell, from [B, Z x numbers, H, W]."""
    batch, channels, height, width = level.shape
    by_anchor = level.reshape(batch, channels // numbers, numbers, height, width)
    return by_anchor.permute(0, 3, 4, 1, 2).reshape(batch, -1, numbers)


def _top(
    objectness_BA: torch.Tensor, of_level: Sequence[int], top_of_level: Sequence[int]
) -> torch.Tensor:
    """The places of the best anchors, int64 [B, T]: level after level, the best first in each.

    of_level       number of anchors of each level
    top_of_level   number of them that are taken
    """
    tops, start = [], 0
    for level_BK, most in zip(
        torch.split(objectness_BA, list(of_level), dim=1), top_of_level, strict=True
    ):
        tops.append(level_BK.topk(most, dim=1).indices + start)
        start += level_BK.shape[1]
    return torch.cat(tops, dim=1)


def _suppressed(
    boxes_T4: torch.Tensor, scores_T: torch.Tensor, of_level: Sequence[int], iou: float, side: int
) -> torch.Tensor:
    """The places of the boxes that non-maximum suppression keeps, int64, best score first.

    Each level is suppressed by itself.

    of_level   number of boxes of each level; boxes come level after level
    side       longer side of the image in pixels; no box extends beyond it
    """
    if boxes_T4.device.type in SUPPRESSED_TOGETHER:
        return _all_together(boxes_T4, scores_T, of_level, iou, side)
    return _level_by_level(boxes_T4, scores_T, of_level, iou)


def _level_by_level(
    boxes_T4: torch.Tensor, scores_T: torch.Tensor, of_level: Sequence[int], iou: float
) -> torch.Tensor:
    places = torch.split(torch.arange(len(scores_T), device=scores_T.device), list(of_level))
    kept_K = (
        torch.cat([place_T[nms(boxes_T4[place_T], scores_T[place_T], iou)] for place_T in places])
        .sort()
        .values
    )
    return kept_K[scores_T[kept_K].sort(descending=True, stable=True).indices]


def _all_together(
    boxes_T4: torch.Tensor, scores_T: torch.Tensor, of_level: Sequence[int], iou: float, side: int
) -> torch.Tensor:
    """`_suppressed` in one call, with levels moved apart so that their boxes do not meet.

    The move rounds corners to a thousandth of a pixel.
    """
    apart_T1 = torch.cat(
        [boxes_T4.new_full((count, 1), level * (side + 1)) for level, count in enumerate(of_level)]
    )
    kept_K: torch.Tensor = nms(boxes_T4 + apart_T1, scores_T, iou)
    return kept_K
