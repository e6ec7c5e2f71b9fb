"""The region proposal network: torchvision's numbers and draws, with few questions to the GPU.

torchvision asks it, image by image, which boxes are large enough, which score enough, which are drawn; every answer has
a size that Python must know, and is waited for.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import clip_boxes_to_image, nms

SUPPRESSED_TOGETHER = ("cuda",)
"""Devices that suppress the boxes of all levels at once: they would be waited for at each level. A CPU compares each
box with those of its own level only, which is faster there."""


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's, with a sampler that is a `core.sampling.BalancedSampler`."""

    def filter_proposals(
        self,
        proposals: torch.Tensor,
        objectness: torch.Tensor,
        image_shapes: Sequence[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Boxes, float32 [K, 4], and scores [K] of each image, best first, after suppression level by level.

        proposals    float32 [B, A, 4]
        objectness   float32 [B A, 1], logits
        """
        objectness_BA = objectness.detach().reshape(len(proposals), -1)
        top_BT = self._get_top_n_idx(objectness_BA, num_anchors_per_level)
        of_level = [min(self.pre_nms_top_n(), anchors) for anchors in num_anchors_per_level]
        scores_BT = objectness_BA.gather(1, top_BT).sigmoid()
        boxes_BT4 = proposals.gather(1, top_BT[..., None].expand(-1, -1, 4))
        boxes_BT4 = torch.stack(
            [clip_boxes_to_image(boxes_T4, size) for boxes_T4, size in zip(boxes_BT4, image_shapes, strict=True)]
        )
        sides_BT2 = boxes_BT4[..., 2:] - boxes_BT4[..., :2]
        fits_BT = (sides_BT2 >= self.min_size).all(dim=2) & (scores_BT >= self.score_thresh)
        # What does not fit has a score below all others: it suppresses none of them, and comes last.
        scores_BT = torch.where(fits_BT, scores_BT, -1.0)
        kept = [
            _suppressed(boxes_T4, scores_T, of_level, self.nms_thresh, max(size))
            for boxes_T4, scores_T, size in zip(boxes_BT4, scores_BT, image_shapes, strict=True)
        ]
        fit = torch.stack(
            [(scores_T[kept_K] >= 0).sum() for scores_T, kept_K in zip(scores_BT, kept, strict=True)]
        ).tolist()  # waits for the GPU
        kept = [kept_K[: min(fitting, self.post_nms_top_n())] for kept_K, fitting in zip(kept, fit, strict=True)]
        return (
            [boxes_T4[kept_K] for boxes_T4, kept_K in zip(boxes_BT4, kept, strict=True)],
            [scores_T[kept_K] for scores_T, kept_K in zip(scores_BT, kept, strict=True)],
        )

    def compute_loss(
        self,
        objectness: torch.Tensor,
        pred_bbox_deltas: torch.Tensor,
        labels: list[torch.Tensor],
        regression_targets: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of objectness, float32 [B A, 1], and of offsets, float32 [B A, 4]; labels and targets image by image."""
        drawn = self.fg_bg_sampler(labels)
        starts = range(0, len(objectness), len(labels[0]))  # all images of a batch have the same anchors
        positive_P = torch.cat([one.positive_P + start for one, start in zip(drawn, starts, strict=True)])
        negative_Q = torch.cat([one.negative_Q + start for one, start in zip(drawn, starts, strict=True)])
        drawn_S = torch.cat([positive_P, negative_Q])
        box_loss = functional.smooth_l1_loss(
            pred_bbox_deltas[positive_P], torch.cat(regression_targets)[positive_P], beta=1 / 9, reduction="sum"
        )
        loss = functional.binary_cross_entropy_with_logits(objectness.flatten()[drawn_S], torch.cat(labels)[drawn_S])
        return loss, box_loss / len(drawn_S)


def _suppressed(
    boxes_T4: torch.Tensor, scores_T: torch.Tensor, of_level: Sequence[int], iou: float, side: int
) -> torch.Tensor:
    """What non-maximum suppression leaves of each level by itself, int64, best score first.

    of_level   boxes of each level, which come level after level
    side       of the image, in pixels; no box passes it
    """
    if boxes_T4.device.type in SUPPRESSED_TOGETHER:
        return _all_together(boxes_T4, scores_T, of_level, iou, side)
    return _level_by_level(boxes_T4, scores_T, of_level, iou)


def _level_by_level(
    boxes_T4: torch.Tensor, scores_T: torch.Tensor, of_level: Sequence[int], iou: float
) -> torch.Tensor:
    places = torch.split(torch.arange(len(scores_T), device=scores_T.device), list(of_level))
    kept_K = torch.cat([place_T[nms(boxes_T4[place_T], scores_T[place_T], iou)] for place_T in places]).sort().values
    return kept_K[scores_T[kept_K].sort(descending=True, stable=True).indices]


def _all_together(
    boxes_T4: torch.Tensor, scores_T: torch.Tensor, of_level: Sequence[int], iou: float, side: int
) -> torch.Tensor:
    """Levels are moved apart so that their boxes do not meet; that rounds corners to a thousandth of a pixel."""
    apart_T1 = torch.cat([boxes_T4.new_full((count, 1), level * (side + 1)) for level, count in enumerate(of_level)])
    kept_K: torch.Tensor = nms(boxes_T4 + apart_T1, scores_T, iou)
    return kept_K
