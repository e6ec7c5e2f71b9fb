"""The region proposal network: torchvision's numbers and draws, with few questions to the GPU and a sparse gradient.

torchvision asks the GPU, image by image, which boxes are large enough, which score enough, which are drawn; every
answer has a size that Python must know, and is waited for. And of all anchors of an image, 160,000 at 800 x 800 pixels,
256 are drawn to be learned: only there is the gradient of the network's layers not zero, and only there it is computed.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, nms

SUPPRESSED_TOGETHER = ("cuda",)
"""Devices that suppress the boxes of all levels at once: they would be waited for at each level. A CPU compares each
box with those of its own level only, which is faster there."""


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's, with a sampler that is a `core.network.balanced.BalancedSampler`."""

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, torch.Tensor],
        targets: list[dict[str, torch.Tensor]] | None = None,
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Proposals of each image, float32 [K, 4], best first; and in training, with targets, two losses."""
        levels = list(features.values())
        with torch.no_grad():
            objectness, deltas = self.head(levels)
            of_level = [level[0].numel() for level in objectness]
            objectness, deltas = concat_box_prediction_layers(objectness, deltas)
            anchors = self.anchor_generator(images, levels)
            boxes_BA4 = self.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
            boxes, _ = self.filter_proposals(boxes_BA4, objectness, images.image_sizes, of_level)
            if not self.training:
                return boxes, {}
            assert targets is not None, "training needs targets"
            labels, truths = self.assign_targets_to_anchors(anchors, targets)
        return boxes, self._losses(levels, of_level, anchors, labels, truths)

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

    def _losses(
        self,
        levels: Sequence[torch.Tensor],
        of_level: Sequence[int],
        anchors: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
        truths: Sequence[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The terms of torchvision's `compute_loss`.

        of_level   anchors of each level in an image
        anchors, labels, truths   float32 [A, 4], [A] and [A, 4] of each image: the box that each anchor is to learn
        """
        drawn = self.fg_bg_sampler(labels)
        starts = range(0, len(anchors) * sum(of_level), sum(of_level))
        positive_P = torch.cat([one.positive_P + start for one, start in zip(drawn, starts, strict=True)])
        negative_Q = torch.cat([one.negative_Q + start for one, start in zip(drawn, starts, strict=True)])
        wanted_P4 = self.box_coder.encode_single(
            torch.cat([boxes_A4[one.positive_P] for boxes_A4, one in zip(truths, drawn, strict=True)]),
            torch.cat([anchors_A4[one.positive_P] for anchors_A4, one in zip(anchors, drawn, strict=True)]),
        )
        logits_S, deltas_S4 = predicted_at(self.head, levels, of_level, torch.cat([positive_P, negative_Q]))
        box_loss = functional.smooth_l1_loss(deltas_S4[: len(positive_P)], wanted_P4, beta=1 / 9, reduction="sum")
        is_object_S = torch.cat([torch.ones_like(positive_P), torch.zeros_like(negative_Q)]).to(logits_S.dtype)
        return {
            "loss_objectness": functional.binary_cross_entropy_with_logits(logits_S, is_object_S),
            "loss_rpn_box_reg": box_loss / len(logits_S),
        }


def predicted_at(
    head: RPNHead, levels: Sequence[torch.Tensor], of_level: Sequence[int], places_S: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Objectness, float32 [S], and box deltas, float32 [S, 4], that torchvision's RPNHead predicts for some anchors.

    levels     float32 [B, C, H, W] each
    of_level   anchors of each level in an image
    places_S   int64 [S], their places among all anchors of the batch: image, level, row, column, anchor

    They are predicted from the window of features that each sees, whose gradient is that of the whole maps.
    """
    image_S, place_S = places_S // sum(of_level), places_S % sum(of_level)
    starts = list(itertools.accumulate(of_level, initial=0))[:-1]
    level_S = torch.stack([place_S >= start for start in starts[1:]]).sum(dim=0)
    numbers_L1 = torch.arange(len(levels), device=places_S.device)[:, None]
    counts = (level_S == numbers_L1).sum(dim=1).tolist()  # waits for the GPU
    order_S = level_S.argsort(stable=True)
    back_S = order_S.argsort()
    layout_L4 = _layout(tuple(of_level), tuple(tuple(level.shape[-2:]) for level in levels), places_S.device)
    start_S, per_cell_S, height_S, width_S = layout_L4[level_S[order_S]].unbind(1)
    local_S = place_S[order_S] - start_S
    cell_S, anchor_S = local_S // per_cell_S, local_S % per_cell_S
    span_k = torch.arange(-len(head.conv), len(head.conv) + 1, device=places_S.device)
    row_Sk, row_is_inside_Sk = _along(cell_S // width_S, span_k, height_S)
    column_Sk, column_is_inside_Sk = _along(cell_S % width_S, span_k, width_S)
    inside_Skk = row_is_inside_Sk[:, :, None] & column_is_inside_Sk[:, None]
    # A level of which nothing is drawn has a gradient too, zeros: without one its layers would not decay.
    windows = [
        level.permute(0, 2, 3, 1)[image_K[:, None, None], row_Kk[:, :, None], column_Kk[:, None]]
        for level, image_K, row_Kk, column_Kk in zip(
            levels, *(torch.split(index, counts) for index in (image_S[order_S], row_Sk, column_Sk)), strict=True
        )
    ]
    x_SCkk = (torch.cat(windows) * inside_Skk[..., None]).permute(0, 3, 1, 2)
    for layer in head.conv:
        # The next layer pads with zeros what lies outside, whatever this one would find there.
        inside_Skk = inside_Skk[:, 1:-1, 1:-1]
        x_SCkk = functional.conv2d(x_SCkk, layer[0].weight, layer[0].bias).relu() * inside_Skk[:, None]
    logits_SA = head.cls_logits(x_SCkk).flatten(1).float()
    deltas_SA4 = head.bbox_pred(x_SCkk).reshape(len(logits_SA), -1, 4).float()
    rows_S = torch.arange(len(logits_SA), device=places_S.device)
    return logits_SA[rows_S, anchor_S][back_S], deltas_SA4[rows_S, anchor_S][back_S]


@functools.lru_cache(maxsize=8)
def _layout(of_level: tuple[int, ...], sizes: tuple[tuple[int, int], ...], device: torch.device) -> torch.Tensor:
    """Int64 [L, 4]: of each level its first anchor, the anchors of a cell, height and width; kept for some sizes."""
    starts = itertools.accumulate(of_level, initial=0)
    rows = [
        [start, anchors // (height * width), height, width]
        for start, anchors, (height, width) in zip(starts, of_level, sizes, strict=False)
    ]
    with torch.inference_mode(False):
        return torch.tensor(rows, device=device)


def _along(middle_S: torch.Tensor, span_k: torch.Tensor, length_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of windows along one axis: their places [S, k], brought into the map, and bool [S, k], which were inside it."""
    place_Sk, last_S1 = middle_S[:, None] + span_k, length_S[:, None] - 1
    inside_Sk = (place_Sk >= 0) & (place_Sk <= last_S1)
    return torch.minimum(place_Sk.clamp(min=0), last_S1), inside_Sk


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
