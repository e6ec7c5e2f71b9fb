"""The heads of Mask R-CNN: classes, boxes and masks of proposals, their losses, and detections.

The mask loss samples its targets from label maps, and masks are predicted some at a time.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import batched_nms, clip_boxes_to_image

from core.config import PredictConfig
from core.labels.label_maps import mask_targets
from core.network.balanced import BalancedSampler
from core.network.box_coding import OffsetCoder
from core.network.mask_loss import mask_loss
from core.network.matching import match_proposals
from core.network.pooling import PyramidPooling
from core.network.resizing import Size
from core.sample import Target

MASK_SIDE = 28
"""Side of a predicted mask in pixels, whatever the size of its box."""
MASKS_AT_ONCE = 128
"""Number of detections whose masks are computed at once: about 200 MB of activations."""
LEAST_SIDE = 1e-2
"""Least side of a detected box, in pixels."""

Levels = Sequence[torch.Tensor]
"""The features of a batch, float32 [B, F, H, W] of each level, the finest first."""


@dataclass(frozen=True)
class _Samples:
    """The proposals of one image that the heads learn.

    boxes_S4            float32 [S, 4]
    labels_S            int64 [S], class numbers, 0 for background
    positive_P          int64 [P], ascending places, in the other fields, of those that learn an
                        instance
    positive_boxes_P4   float32 [P, 4], the boxes of these
    instances_P         int64 [P], the instance that each of them learns
    """

    boxes_S4: torch.Tensor
    labels_S: torch.Tensor
    positive_P: torch.Tensor
    positive_boxes_P4: torch.Tensor
    instances_P: torch.Tensor


class MaskBranch(nn.Module):
    """Mask logits, float32 [P, classes + 1, 28, 28], from features [P, F, 14, 14].

    Features in channels-last order take three quarters of the time on a CPU. Logits are float32
    under autocast too.
    """

    def __init__(self, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.predictor = predictor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The mask logits of pooled features."""
        deeper = self.head(features.contiguous(memory_format=torch.channels_last))
        logits: torch.Tensor = self.predictor(deeper)
        return logits.float()


class RoIHeads(nn.Module):
    """The two branches of the heads: one for classes and boxes, one for masks.

    box_head, box_predictor     modules from pooled features to a vector for each box, and from that
                                to class logits and box offsets
    mask_head, mask_predictor   modules from pooled features to deeper ones, and from these to mask
                                logits
    """

    def __init__(
        self,
        sampler: BalancedSampler,
        box_roi_pool: PyramidPooling,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_roi_pool: PyramidPooling,
        mask_head: nn.Module,
        mask_predictor: nn.Module,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.coder = OffsetCoder(10.0, 5.0)
        self.box_roi_pool = box_roi_pool
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_roi_pool = mask_roi_pool
        self.mask_head = mask_head
        self.mask_predictor = mask_predictor

    @property
    def mask_branch(self) -> MaskBranch:
        """Mask head and predictor as one module.

        It is no child of this module, because weights are named after the two.
        """
        return MaskBranch(self.mask_head, self.mask_predictor)

    def losses(
        self, levels: Levels, proposals: Sequence[torch.Tensor], targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """The losses of classes, boxes and masks, with the steps and draws of torchvision's heads.

        proposals   float32 [K, 4] of each image
        targets     at the size that the network sees
        """
        samples = self._samples(proposals, targets)
        logits_SC, offsets_SC4 = self._classified(levels, [one.boxes_S4 for one in samples])
        loss_classifier, loss_box_reg = self._box_losses(logits_SC, offsets_SC4, samples, targets)
        return {
            "loss_classifier": loss_classifier,
            "loss_box_reg": loss_box_reg,
            "loss_mask": self._mask_loss(levels, samples, targets),
        }

    def detections(
        self,
        levels: Levels,
        proposals: Sequence[torch.Tensor],
        sizes: Sequence[Size],
        predict: PredictConfig,
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Boxes [N, 4], labels [N], scores [N] and masks [N, 28, 28] of each image.

        proposals   float32 [K, 4] of each image
        sizes       height and width of each image in pixels, without padding
        predict     score threshold, IoU of suppression and largest number of detections

        The best score comes first. The mask head sees MASKS_AT_ONCE detections at a time, because
        1,500 of them at once would take gigabytes.
        """
        logits_KC, offsets_KC4 = self._classified(levels, proposals)
        boxes_KC4 = self.coder.decode(offsets_KC4, torch.cat(list(proposals))[:, None])
        counts = [len(proposals_K4) for proposals_K4 in proposals]
        of_images = zip(
            torch.split(boxes_KC4, counts),
            torch.split(logits_KC.softmax(dim=1), counts),
            sizes,
            strict=True,
        )
        found = []
        for number, (of_boxes, of_scores, size) in enumerate(of_images):
            boxes_N4, labels_N, scores_N = _best(of_boxes, of_scores, size, predict)
            of_image = [level[number : number + 1] for level in levels]
            masks = [
                self._mask_probabilities(of_image, boxes_K4, labels_K)
                for boxes_K4, labels_K in zip(
                    torch.split(boxes_N4, MASKS_AT_ONCE),
                    torch.split(labels_N, MASKS_AT_ONCE),
                    strict=True,
                )
            ]
            found.append((boxes_N4, labels_N, scores_N, torch.cat(masks)))
        return found

    def _classified(
        self, levels: Levels, boxes: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits [K, C + 1] and offsets by class [K, C + 1, 4] of all boxes, float32."""
        logits, offsets = self.box_predictor(self.box_head(self.box_roi_pool(levels, boxes)))
        # Float32 under autocast too, because boxes would else be decoded in bfloat16.
        return logits.float(), offsets.float().reshape(*logits.shape, 4)

    def _samples(
        self, proposals: Sequence[torch.Tensor], targets: Sequence[Target]
    ) -> list[_Samples]:
        """The proposals and true boxes of each image that are drawn for the losses."""
        candidates = [
            torch.cat([boxes_K4, target.boxes_N4])
            for boxes_K4, target in zip(proposals, targets, strict=True)
        ]
        matched = [
            match_proposals(target.boxes_N4, target.labels_N, boxes_K4)
            for boxes_K4, target in zip(candidates, targets, strict=True)
        ]
        drawn = self.sampler([labels_K for _, labels_K in matched])
        samples = []
        for one, boxes_K4, (matches_K, labels_K) in zip(drawn, candidates, matched, strict=True):
            places_S = torch.cat([one.positive_P, one.negative_Q]).sort().values
            samples.append(
                _Samples(
                    boxes_S4=boxes_K4[places_S],
                    labels_S=labels_K[places_S],
                    positive_P=torch.searchsorted(places_S, one.positive_P),
                    positive_boxes_P4=boxes_K4[one.positive_P],
                    instances_P=matches_K[one.positive_P],
                )
            )
        return samples

    def _box_losses(
        self,
        logits_SC: torch.Tensor,
        offsets_SC4: torch.Tensor,
        samples: Sequence[_Samples],
        targets: Sequence[Target],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of classes and boxes, computed as in torchvision's `fastrcnn_loss`."""
        labels_S = torch.cat([one.labels_S for one in samples])
        starts = itertools.accumulate((len(one.labels_S) for one in samples), initial=0)
        positive_P = torch.cat(
            [one.positive_P + start for one, start in zip(samples, starts, strict=False)]
        )
        truths = [
            target.boxes_N4[one.instances_P] for target, one in zip(targets, samples, strict=True)
        ]
        wanted_P4 = self.coder.encode(
            torch.cat(truths), torch.cat([one.positive_boxes_P4 for one in samples])
        )
        box_loss = functional.smooth_l1_loss(
            offsets_SC4[positive_P, labels_S[positive_P]], wanted_P4, beta=1 / 9, reduction="sum"
        )
        class_loss = functional.cross_entropy(logits_SC, labels_S, reduction="sum")
        samples_or_1 = max(len(labels_S), 1)
        return class_loss / samples_or_1, box_loss / samples_or_1

    def _mask_loss(
        self, levels: Levels, samples: Sequence[_Samples], targets: Sequence[Target]
    ) -> torch.Tensor:
        """The loss of the masks of positive proposals; see `mask_loss`."""
        boxes = [one.positive_boxes_P4 for one in samples]
        instances = [one.instances_P for one in samples]
        with torch.autocast(boxes[0].device.type, enabled=False):
            wanted_P28 = torch.cat(
                [
                    mask_targets(
                        target.label_maps_LHW,
                        target.ids_N[chosen_P],
                        target.maps_N[chosen_P],
                        boxes_P4,
                        MASK_SIDE,
                    )
                    for target, chosen_P, boxes_P4 in zip(targets, instances, boxes, strict=True)
                ]
            )
        labels_P = torch.cat(
            [target.labels_N[chosen_P] for target, chosen_P in zip(targets, instances, strict=True)]
        )
        return mask_loss(self.mask_branch, self.mask_roi_pool(levels, boxes), labels_P, wanted_P28)

    def _mask_probabilities(
        self, levels: Levels, boxes_K4: torch.Tensor, labels_K: torch.Tensor
    ) -> torch.Tensor:
        """The masks of detections in one image, probabilities, float32 [K, 28, 28]."""
        logits_KC28 = self.mask_branch(self.mask_roi_pool(levels, [boxes_K4]))
        rows_K = torch.arange(len(labels_K), device=labels_K.device)
        probabilities_K28: torch.Tensor = logits_KC28[rows_K, labels_K].sigmoid()
        return probabilities_K28


def _best(
    boxes_KC4: torch.Tensor, scores_KC: torch.Tensor, size: Size, predict: PredictConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes [N, 4], labels [N] and scores [N] of an image, best score first.

    Each proposal is a candidate for each class; non-maximum suppression is applied to each class by
    itself.
    """
    labels_KC = torch.arange(scores_KC.shape[1], device=scores_KC.device).expand_as(scores_KC)
    boxes_J4 = clip_boxes_to_image(boxes_KC4, size)[:, 1:].reshape(-1, 4)  # 0 is background
    scores_J, labels_J = scores_KC[:, 1:].reshape(-1), labels_KC[:, 1:].reshape(-1)
    has_sides_J = ((boxes_J4[:, 2:] - boxes_J4[:, :2]) >= LEAST_SIDE).all(dim=1)
    (chosen,) = torch.where((scores_J > predict.score_threshold) & has_sides_J)  # waits for the GPU
    boxes_J4, scores_J, labels_J = boxes_J4[chosen], scores_J[chosen], labels_J[chosen]
    kept_N = batched_nms(boxes_J4, scores_J, labels_J, predict.nms_iou)[: predict.max_detections]
    return boxes_J4[kept_N], labels_J[kept_N], scores_J[kept_N]
