"""The region proposal network: torchvision's numbers and draws, with few waits for the GPU.

torchvision asks the GPU, image by image, which boxes are large enough, which score enough and which
are drawn. Python must know the size of every answer, so it waits for each. In the fixed form (see
`MaskRCNN`) it waits for none: all images have the same number of proposals, of which the last may
be boxes of zeros, and the same number of draws, some of which may have no weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import nms

from core.network.anchors import Anchors
from core.network.balanced import BalancedSampler, positives_first
from core.network.box_coding import OffsetCoder
from core.network.matching import match_anchors
from core.network.resizing import ImageBatch
from core.network.suppression import suppress_in_rows
from core.network.truths import OfImages, clipped, first_places
from core.sample import Size

SUPPRESSED_TOGETHER = ("cuda",)
"""Types of device on which the boxes of all levels are suppressed in one call, because each call
waits for the device. On a CPU it is faster to compare each box only with those of its level."""

LEARNED_WHERE_DRAWN = ("cpu",)
"""Types of device on which the head's gradient is computed from the drawn anchors alone, some 256
of 160,000 in an image of 800 pixels, instead of from its outputs at all anchors."""

SUPPRESSION_IOU = 0.7
"""Only the better of two boxes of one level is proposed if their IoU is above this."""
LEAST_PROPOSAL_SIDE = 1e-3
"""Least side of a proposal, in pixels."""


class ProposalNetwork(nn.Module):
    """The region proposal network: boxes in which instances may be, whatever their class.

    head                 from levels, [B, F, H, W] each, to objectness [B, Z, H, W] and offsets
                         [B, 4 Z, H, W] of each level
    kept_in_training     largest number of boxes of a level that enter suppression, and of boxes
                         that are proposed in an image, in training mode
    kept_in_evaluation   the same in evaluation mode
    """

    def __init__(
        self,
        head: RPNHead,
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
        truths: OfImages | None = None,
        *,
        fixed: bool = False,
    ) -> tuple[OfImages, dict[str, torch.Tensor]]:
        """Proposals of each image, float32 [K, 4], best first; with `truths` also two losses.

        levels   float32 [B, F, H, W] each, the finest first
        truths   the boxes of each image's instances, float32 [N, 4]
        fixed    whether the step has the fixed form (see `MaskRCNN`). Then `truths` are one tensor,
                 [B, N, 4], and so are the proposals, [B, K, 4]; missing ones are boxes of zeros
        """
        anchors_A4 = self.anchors(batch.images_B3HW.shape[-2:], levels)
        if truths is not None and levels[0].device.type not in LEARNED_WHERE_DRAWN:
            outputs = _outputs(self.head, levels)
            losses = self._losses(outputs.at, anchors_A4, truths, fixed)
        else:
            # The losses come first: autocast keeps the weights that it has converted, and those
            # that it converts without gradients would have none in the losses.
            at = partial(_outputs_at, self.head, levels)
            losses = {} if truths is None else self._losses(at, anchors_A4, truths, fixed)
            with torch.no_grad():
                outputs = _outputs(self.head, levels)
        with torch.no_grad():
            boxes_BA4 = self.coder.decode(outputs.offsets_BA4, anchors_A4)
            scores_BA = outputs.objectness_BA.detach()
            proposals: OfImages
            if fixed:
                proposals = self.best_padded(boxes_BA4, scores_BA, batch.sizes, outputs.of_level)
            else:
                proposals, _ = self.best(boxes_BA4, scores_BA, batch.sizes, outputs.of_level)
        return proposals, losses

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
        most, top_of_level = self._counts(of_level)
        top_BT = torch.cat(_top(objectness_BA, of_level, top_of_level), dim=1)
        boxes_BT4, scores_BT = _boxes_at(boxes_BA4, objectness_BA, top_BT, sizes)
        kept = [
            _suppressed(boxes_T4, scores_T, top_of_level, SUPPRESSION_IOU, max(size))
            for boxes_T4, scores_T, size in zip(boxes_BT4, scores_BT, sizes, strict=True)
        ]
        # Python waits for the GPU here.
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

    def best_padded(
        self,
        boxes_BA4: torch.Tensor,
        objectness_BA: torch.Tensor,
        sizes: Sequence[Size],
        of_level: Sequence[int],
    ) -> torch.Tensor:
        """The boxes of `best` as one tensor, float32 [B, K, 4], padded with boxes of zeros.

        Python does not wait for the GPU. There may be more boxes than those of `best` in the one
        case that `suppress_in_rows` names.
        """
        most, top_of_level = self._counts(of_level)
        tops = _top(objectness_BA, of_level, top_of_level)
        longest = max(top_of_level)
        missing_BT = tops[0].new_full((len(boxes_BA4), longest), -1)
        places_BT = torch.cat(
            [piece for top_BK in tops for piece in (top_BK, missing_BT[:, top_BK.shape[1] :])],
            dim=1,
        )
        boxes_BT4, scores_BT = _boxes_at(boxes_BA4, objectness_BA, places_BT.clamp(min=0), sizes)
        fits_BT = (scores_BT >= 0) & (places_BT >= 0)
        kept_OT = suppress_in_rows(
            boxes_BT4.reshape(-1, longest, 4), fits_BT.reshape(-1, longest), SUPPRESSION_IOU
        )
        scores_BT = scores_BT.masked_fill(~kept_OT.reshape(scores_BT.shape), -1.0)
        scores_BK, places_BK = scores_BT.topk(min(most, scores_BT.shape[1]), dim=1)
        boxes_BK4 = boxes_BT4.gather(1, places_BK[..., None].expand(-1, -1, 4))
        return boxes_BK4.masked_fill(scores_BK[..., None] < 0, 0.0)

    def _counts(self, of_level: Sequence[int]) -> tuple[int, list[int]]:
        """Most proposals of an image, and the number of boxes of each level to be suppressed."""
        most = self.kept_in_training if self.training else self.kept_in_evaluation
        return most, [min(most, anchors) for anchors in of_level]

    def _losses(
        self,
        outputs_at: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        anchors_A4: torch.Tensor,
        truths: OfImages,
        fixed: bool,
    ) -> dict[str, torch.Tensor]:
        """The two losses of torchvision's proposal network, over the anchors that are drawn.

        outputs_at   the head's objectness, float32 [S], and offsets, float32 [S, 4], at places [S]
                     among the anchors of all images
        """
        anchors = len(anchors_A4)
        # The sampler is given the matches plus 1: background is 0, and NEITHER is below 0.
        if fixed:
            assert isinstance(truths, torch.Tensor)
            match_BA = match_anchors(truths, anchors_A4, padded=True)
            draws = self.sampler.fixed(match_BA + 1)
            match_A, truth_N4 = match_BA.flatten(), truths.flatten(0, 1)
        else:
            matches = [match_anchors(boxes_N4, anchors_A4) for boxes_N4 in truths]
            drawn = self.sampler([match_A + 1 for match_A in matches])
            draws = positives_first(drawn, [anchors] * len(matches))
            match_A, truth_N4 = torch.cat(matches), torch.cat(list(truths))
        logits_S, offsets_S4 = outputs_at(draws.places_S)
        is_object_S = (match_A[draws.places_S] >= 0).to(logits_S.dtype)
        places_P = draws.places_S[draws.positive_P]
        instance_P = match_A[places_P].clamp(min=0) + first_places(truths)[places_P // anchors]
        wanted_P4 = self.coder.encode(truth_N4[instance_P], anchors_A4[places_P % anchors])
        box_loss = draws.box_loss(offsets_S4[draws.positive_P], wanted_P4)
        mean_of_slots = functional.binary_cross_entropy_with_logits(
            logits_S, is_object_S, draws.weight_S
        )
        return {
            # Multiplied by 1 exactly where all slots are full, as torchvision's are.
            "loss_objectness": mean_of_slots * (len(logits_S) / draws.count),
            "loss_rpn_box_reg": box_loss / draws.count,
        }


@dataclass(frozen=True)
class _Outputs:
    """The outputs of the head at all anchors of a batch.

    objectness_BA   float32, logits
    offsets_BA4     float32
    of_level        number of anchors of each level in an image; anchors come level after level
    """

    objectness_BA: torch.Tensor
    offsets_BA4: torch.Tensor
    of_level: list[int]

    def at(self, places_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Objectness [S] and offsets [S, 4] at places among the anchors of all images."""
        return self.objectness_BA.flatten()[places_S], self.offsets_BA4.flatten(0, 1)[places_S]


def _outputs(head: RPNHead, levels: Sequence[torch.Tensor]) -> _Outputs:
    objectness, offsets = head(levels)
    # Float32 under autocast too: bfloat16, which has no odd numbers above 256, is too coarse.
    return _Outputs(
        torch.cat([_by_anchor(level, 1)[..., 0] for level in objectness], dim=1).float(),
        torch.cat([_by_anchor(level, 4) for level in offsets], dim=1).float(),
        [level[0].numel() for level in objectness],
    )


def _outputs_at(
    head: RPNHead, levels: Sequence[torch.Tensor], places_S: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_Outputs.at`, computed for these places alone, and differentiated for them alone.

    The head is applied to the window of k x k cells on which the outputs of a cell depend. No shape
    depends on the places, so nothing waits for the device.
    """
    reach, per_cell = len(head.conv), head.cls_logits.out_channels
    windows, cells = [], 0
    for level in levels:
        numbers = torch.arange(level[0, 0].numel(), device=level.device) + cells
        around_HW = functional.pad(numbers.view(level.shape[2:]), (reach,) * 4, value=-1)
        window_HWkk = around_HW.unfold(0, 2 * reach + 1, 1).unfold(1, 2 * reach + 1, 1)
        windows.append(window_HWkk.flatten(0, 1))
        cells += len(numbers)
    cell_S, anchor_S = places_S // per_cell, places_S % per_cell
    window_Skk = torch.cat(windows)[cell_S % cells]
    inside_S1kk = (window_Skk >= 0)[:, None]
    all_BFC = torch.cat([level.flatten(2) for level in levels], dim=2)
    image_S11 = (cell_S // cells)[:, None, None]
    x_SFkk = all_BFC[image_S11, :, window_Skk].permute(0, 3, 1, 2) * inside_S1kk
    for convolution, _ in head.conv:
        x_SFkk = functional.conv2d(x_SFkk, convolution.weight, convolution.bias).relu()
        inside_S1kk = inside_S1kk[..., 1:-1, 1:-1]
        x_SFkk = x_SFkk * inside_S1kk  # each convolution sees zeros around a level
    objectness_SZ = head.cls_logits(x_SFkk).flatten(1).float()
    offsets_SZ4 = head.bbox_pred(x_SFkk).reshape(-1, per_cell, 4).float()
    slot_S = torch.arange(len(places_S), device=places_S.device)
    return objectness_SZ[slot_S, anchor_S], offsets_SZ4[slot_S, anchor_S]


def _by_anchor(level: torch.Tensor, numbers: int) -> torch.Tensor:
    """A level's outputs, [B, Z x numbers, H, W], in the order of its anchors: [B, A, numbers].

    The order is by row, column, and anchor of a cell.
    """
    batch, channels, height, width = level.shape
    by_anchor = level.reshape(batch, channels // numbers, numbers, height, width)
    return by_anchor.permute(0, 3, 4, 1, 2).reshape(batch, -1, numbers)


def _top(
    objectness_BA: torch.Tensor, of_level: Sequence[int], top_of_level: Sequence[int]
) -> list[torch.Tensor]:
    """The places of the best anchors of each level, the best first: int64 [B, K] each.

    of_level       number of anchors of each level
    top_of_level   number of them that are taken
    """
    tops, start = [], 0
    for level_BK, most in zip(
        torch.split(objectness_BA, list(of_level), dim=1), top_of_level, strict=True
    ):
        tops.append(level_BK.topk(most, dim=1).indices + start)
        start += level_BK.shape[1]
    return tops


def _boxes_at(
    boxes_BA4: torch.Tensor,
    objectness_BA: torch.Tensor,
    places_BT: torch.Tensor,
    sizes: Sequence[Size],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The boxes [B, T, 4] at `places_BT`, clipped to their images, and their scores [B, T].

    A box with a side under LEAST_PROPOSAL_SIDE, or whose score is NaN, gets a score of -1, below
    all others: it suppresses none of them, and comes last.
    """
    scores_BT = objectness_BA.gather(1, places_BT).sigmoid()
    boxes_BT4 = clipped(boxes_BA4.gather(1, places_BT[..., None].expand(-1, -1, 4)), sizes)
    assert isinstance(boxes_BT4, torch.Tensor)
    sides_BT2 = boxes_BT4[..., 2:] - boxes_BT4[..., :2]
    # The second condition is false for a score that is NaN.
    fits_BT = (sides_BT2 >= LEAST_PROPOSAL_SIDE).all(dim=2) & (scores_BT >= 0)
    return boxes_BT4, scores_BT.masked_fill(~fits_BT, -1.0)


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
    """`_suppressed` with a call for each level."""
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
    """`_suppressed` in one call, with levels moved apart so that their boxes do not overlap.

    The move rounds corners to a thousandth of a pixel.
    """
    apart_T1 = torch.cat(
        [boxes_T4.new_full((count, 1), level * (side + 1)) for level, count in enumerate(of_level)]
    )
    kept_K: torch.Tensor = nms(boxes_T4 + apart_T1, scores_T, iou)
    return kept_K
