"""The heads of Mask R-CNN: classes, boxes and masks of proposals, their losses, and detections.

The mask loss samples its targets from label maps, and masks are predicted some at a time. In the
fixed form (see `MaskRCNN`) nothing is waited for: proposals and instances of all images are padded
to tensors of one shape, and what is drawn of them has slots, of which empty ones have no weight.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import batched_nms, clip_boxes_to_image

from core.config import PredictConfig
from core.network.balanced import BalancedSampler, Draws, positives_first
from core.network.box_coding import OffsetCoder
from core.network.mask_loss import mask_loss, takes_statistics
from core.network.matching import PROPOSAL_IOU, match_proposals
from core.network.pooling import PyramidPooling, regions_of
from core.network.resizing import Size
from core.network.truths import OfImages, Truths, first_of

MASK_SIDE = 28
"""Side of a predicted mask in pixels, whatever the size of its box."""
MASKS_AT_ONCE = 128
"""Number of detections whose masks are computed at once: about 200 MB of activations."""
LEAST_SIDE = 1e-2
"""Least side of a detected box, in pixels."""
NOT_DRAWN = -100
"""Label of a slot that holds no proposal: torch's cross-entropy passes over it."""

Levels = Sequence[torch.Tensor]
"""The features of a batch, float32 [B, F, H, W] of each level, the finest first."""


@dataclass(frozen=True)
class _Samples:
    """The proposals of a batch that the heads learn.

    draws               the slots they are in
    regions_S5          float32 [S, 5], number of the image and box
    labels_S            int64 [S], class numbers, 0 for background, NOT_DRAWN for an empty slot
    positive_labels_P   int64 [P], class numbers of `draws.positive_P`, 0 in an empty slot
    instances_P         int64 [P], the instance of the batch that each of these learns
    """

    draws: Draws
    regions_S5: torch.Tensor
    labels_S: torch.Tensor
    positive_labels_P: torch.Tensor
    instances_P: torch.Tensor

    @cached_property
    def positive_regions(self) -> torch.Tensor:
        """The regions of `draws.positive_P`, [P, 5]."""
        return self.regions_S5[self.draws.positive_P]


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
        self, levels: Levels, proposals: OfImages, truths: Truths
    ) -> dict[str, torch.Tensor]:
        """The losses of classes, boxes and masks, with the steps and draws of torchvision's heads.

        proposals   float32 [K, 4] of each image; of a padded batch one tensor [B, K, 4], and
                    missing ones are boxes of zeros

        Of a padded batch nothing is waited for, except where batch norm of a head takes its
        statistics from the batch: there empty slots must not be seen, and their number is asked.
        """
        samples = self._samples(proposals, truths)
        logits_SC, offsets_SC4 = self._of_drawn(levels, samples, truths.padded)
        draws, positive_P = samples.draws, samples.draws.positive_P
        wanted_P4 = self.coder.encode(
            truths.boxes_N4[samples.instances_P], samples.positive_regions[:, 1:]
        )
        offsets_P4 = offsets_SC4[positive_P, samples.positive_labels_P]
        class_loss = functional.cross_entropy(
            logits_SC, samples.labels_S, ignore_index=NOT_DRAWN, reduction="sum"
        )
        return {
            "loss_classifier": class_loss / draws.count,
            "loss_box_reg": draws.box_loss(offsets_P4, wanted_P4) / draws.count,
            "loss_mask": self._mask_loss(levels, samples, truths),
        }

    def detections(
        self,
        levels: Levels,
        proposals: OfImages,
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
        logits_KC, offsets_KC4 = self._classified(self.box_roi_pool(levels, proposals))
        boxes_KC4 = self.coder.decode(offsets_KC4, torch.cat(list(proposals))[:, None])
        counts = [len(proposals_K4) for proposals_K4 in proposals]
        of_images = zip(
            torch.split(boxes_KC4, counts),
            torch.split(logits_KC.softmax(dim=1), counts),
            sizes,
            strict=True,
        )
        best = [
            _best(of_boxes, of_scores, size, predict) for of_boxes, of_scores, size in of_images
        ]
        masks = self._masks(levels, [one[0] for one in best], [one[1] for one in best])
        return [(*one, masks_N28) for one, masks_N28 in zip(best, masks, strict=True)]

    def _classified(self, pooled_KFMM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits [K, C + 1] and offsets by class [K, C + 1, 4] of all boxes, float32."""
        logits, offsets = self.box_predictor(self.box_head(pooled_KFMM))
        # Float32 under autocast too, because boxes would else be decoded in bfloat16.
        return logits.float(), offsets.float().reshape(*logits.shape, 4)

    def _of_drawn(
        self, levels: Levels, samples: _Samples, padded: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`_classified` of all slots; the numbers of an empty one mean nothing."""
        if not (padded and takes_statistics(self.box_head)):
            return self._classified(
                self.box_roi_pool.pooled(levels, samples.regions_S5, fixed=padded)
            )
        full_S = samples.draws.weight_S > 0
        found = self._classified(self.box_roi_pool.pooled(levels, samples.regions_S5[full_S]))
        row_S = torch.where(full_S, full_S.cumsum(dim=0), 0)
        logits_SC, offsets_SC4 = (
            torch.cat([values.new_zeros(1, *values.shape[1:]), values])[row_S] for values in found
        )
        return logits_SC, offsets_SC4

    def _samples(self, proposals: OfImages, truths: Truths) -> _Samples:
        """The proposals and true boxes that are drawn for the losses."""
        boxes_of, labels_of = truths.by_image(truths.boxes_N4), truths.by_image(truths.labels_N)
        candidates: OfImages
        if truths.padded:
            assert isinstance(proposals, torch.Tensor)
            assert isinstance(boxes_of, torch.Tensor)
            assert isinstance(labels_of, torch.Tensor)
            candidates = torch.cat([proposals, boxes_of], dim=1)
            match_BK, label_BK = match_proposals(boxes_of, labels_of, candidates)
            is_zeros_BK = candidates[..., 2] <= candidates[..., 0]
            draws = self.sampler.fixed(label_BK.masked_fill(is_zeros_BK, NOT_DRAWN))
            match_K, label_K = match_BK.flatten(), label_BK.flatten()
        else:
            candidates = [
                torch.cat([boxes_K4, boxes_N4])
                for boxes_K4, boxes_N4 in zip(proposals, boxes_of, strict=True)
            ]
            matches, labels = zip(
                *(
                    match_proposals(boxes_N4, labels_N, boxes_K4)
                    for boxes_N4, labels_N, boxes_K4 in zip(
                        boxes_of, labels_of, candidates, strict=True
                    )
                ),
                strict=True,
            )
            counts = [len(boxes_K4) for boxes_K4 in candidates]
            draws = positives_first(self.sampler(labels), counts).ascending()
            match_K, label_K = torch.cat(matches), torch.cat(labels)
        regions_S5 = regions_of(candidates)[draws.places_S]
        labels_S = label_K[draws.places_S].masked_fill(draws.weight_S == 0, NOT_DRAWN)
        image_P = regions_S5[draws.positive_P, 0].to(torch.int64)
        return _Samples(
            draws,
            regions_S5,
            labels_S,
            labels_S[draws.positive_P].clamp(min=0),
            match_K[draws.places_S[draws.positive_P]] + first_of(boxes_of)[image_P],
        )

    def _mask_loss(self, levels: Levels, samples: _Samples, truths: Truths) -> torch.Tensor:
        """The loss of the masks of positive proposals; see `mask_loss`."""
        regions_P5, labels_P = samples.positive_regions, samples.positive_labels_P
        weight_P, fixed = samples.draws.weight_P, truths.padded
        # A proposal that learns an instance has an IoU with its box of PROPOSAL_IOU at least.
        wanted_P28 = truths.mask_targets(
            samples.instances_P,
            regions_P5[:, 1:] * weight_P[:, None],  # an empty slot's box may be large
            samples.draws.positives,
            MASK_SIDE,
            1 / PROPOSAL_IOU,
        )
        if fixed and takes_statistics(self.mask_head):
            full_P, fixed = weight_P > 0, False
            regions_P5, labels_P, wanted_P28, weight_P = (
                values_P[full_P] for values_P in (regions_P5, labels_P, wanted_P28, weight_P)
            )
        features_PFMM = self.mask_roi_pool.pooled(levels, regions_P5, fixed=fixed)
        return mask_loss(self.mask_branch, features_PFMM, labels_P, wanted_P28, weight_P)

    def _masks(
        self, levels: Levels, boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """The masks of the detections in each image, probabilities, float32 [N, 28, 28]."""
        counts = [len(boxes_N4) for boxes_N4 in boxes]
        masks = [
            self._mask_probabilities(levels, boxes_of_images, torch.cat(labels_of_images))
            for boxes_of_images, labels_of_images in zip(
                _in_chunks(boxes, MASKS_AT_ONCE), _in_chunks(labels, MASKS_AT_ONCE), strict=True
            )
        ]
        return torch.split(torch.cat(masks), counts)

    def _mask_probabilities(
        self, levels: Levels, boxes: Sequence[torch.Tensor], labels_K: torch.Tensor
    ) -> torch.Tensor:
        """The masks of some detections of each image, probabilities, float32 [K, 28, 28]."""
        logits_KC28 = self.mask_branch(self.mask_roi_pool(levels, boxes))
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


def _in_chunks(of_images: Sequence[torch.Tensor], most: int) -> list[list[torch.Tensor]]:
    """The rows of all images in chunks of `most`, each as the rows that it has of each image.

    Where there are no rows, there is one chunk without any.
    """
    firsts = list(itertools.accumulate(map(len, of_images), initial=0))
    return [
        [
            rows[max(start - first, 0) : max(start + most - first, 0)]
            for rows, first in zip(of_images, firsts, strict=False)
        ]
        for start in range(0, max(firsts[-1], 1), most)
    ]
