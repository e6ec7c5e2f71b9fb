"""The heads of Mask R-CNN: classes, boxes and masks of proposals, their losses, and detections.

Boxes may be classified and refined in several stages, a cascade. The mask loss samples its targets
from label maps, and masks are predicted some at a time. In the fixed form (see `MaskRCNN`)
proposals and instances are padded to the same number for every image, and a fixed number of slots
holds those that are drawn; empty slots have no weight.
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
from core.network.truths import OfImages, Truths, clipped, first_places, in_one_axis
from core.sample import Size

UPSAMPLING = 2
"""Side of a predicted mask divided by that of the features pooled from its box, both in cells."""
CELLS_IN_PREDICTION = 128 * 14**2
"""Largest number of pooled cells from which masks are predicted at once: those of 128 detections of
14 x 14 cells, which take about 200 MB of activations."""
LEAST_BOX_SIDE = 1e-2
"""Least side of a detected or refined box, in pixels."""
NOT_DRAWN = -100
"""Label of a slot that holds no proposal: torch's cross-entropy passes over it."""

CODER = OffsetCoder(10.0, 5.0)
"""The code of the box offsets of torchvision's only stage."""

Levels = Sequence[torch.Tensor]
"""The features of a batch, float32 [B, F, H, W] of each level, the finest first."""


@dataclass(frozen=True)
class BoxStage:
    """A stage of the box branch, which classifies boxes and refines them.

    head        module from pooled features [K, F, M, M] to a vector for each box
    predictor   module from these vectors to class logits [K, C + 1] and box offsets, four of each
                class, or four in all
    coder       what the offsets mean
    least_iou   a box whose highest IoU with an instance is at least this learns that instance;
                every other box learns background
    weight      factor on the losses of the stage
    """

    head: nn.Module
    predictor: nn.Module
    coder: OffsetCoder = CODER
    least_iou: float = PROPOSAL_IOU
    weight: float = 1.0

    def __call__(self, pooled_KFMM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits [K, C + 1], and offsets [K, C + 1, 4] or [K, 1, 4], float32."""
        logits, offsets = self.predictor(self.head(pooled_KFMM))
        # Float32 under autocast too, because boxes would be decoded in bfloat16 otherwise.
        return logits.float(), offsets.float().unflatten(1, (-1, 4))

    def refined(self, offsets: torch.Tensor, boxes_K4: torch.Tensor) -> torch.Tensor:
        """The boxes that the next stage is given, float32 [K, 4].

        offsets    float32 [K, 1, 4]
        boxes_K4   the boxes that this stage was given

        No gradient passes from a stage to the one before.
        """
        assert offsets.shape[1] == 1, "only the last stage may have offsets of each class"
        return self.coder.decode(offsets[:, 0].detach(), boxes_K4)


@dataclass(frozen=True)
class _Samples:
    """The boxes of a batch that a stage of the heads learns.

    draws               the slots they are in
    regions_S5          float32 [S, 5], number of the image and box (see `regions_of`)
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
    """Mask logits, float32 [P, classes + 1, 2 M, 2 M], from features [P, F, M, M].

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

    stages                      the stages of the box branch; each after the first is given the
                                boxes that the one before refined
    mask_head, mask_predictor   modules from pooled features to deeper ones, and from these to mask
                                logits

    Masks are learned from the positive boxes of the first stage, and predicted for the boxes of
    the last. The first stage has the names of parameters that torchvision's only stage has.
    """

    def __init__(
        self,
        sampler: BalancedSampler,
        box_roi_pool: PyramidPooling,
        stages: Sequence[BoxStage],
        mask_roi_pool: PyramidPooling,
        mask_head: nn.Module,
        mask_predictor: nn.Module,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.box_roi_pool = box_roi_pool
        self.stages = tuple(stages)
        self.box_head, self.box_predictor = stages[0].head, stages[0].predictor
        self.later_stages = nn.ModuleList(
            nn.ModuleDict({"box_head": stage.head, "box_predictor": stage.predictor})
            for stage in stages[1:]
        )
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
        self,
        levels: Levels,
        proposals: OfImages,
        truths: Truths,
        loss_scale: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The losses of classes, boxes and masks; those of classes and boxes summed over stages.

        proposals    float32 [K, 4] of each image; of a padded batch one tensor [B, K, 4], and
                     missing ones are boxes of zeros
        loss_scale   see `Detector`

        The first stage has the steps and draws of torchvision's heads. With a padded batch Python
        waits for the GPU only where batch norm of a head takes its statistics from the batch: it
        must not see empty slots, so their number must be known.
        """
        drawn = samples = self._drawn(proposals, truths)
        class_losses, box_losses = [], []
        for stage, following in itertools.zip_longest(self.stages, self.stages[1:]):
            logits_SC, offsets = self._of_slots(stage, levels, samples, truths.padded)
            class_loss, box_loss = _losses(stage, samples, logits_SC, offsets, truths)
            class_losses.append(class_loss)
            box_losses.append(box_loss)
            if following is not None:
                boxes_S4 = stage.refined(offsets, samples.regions_S5[:, 1:])
                samples = _matched_again(samples, boxes_S4, truths, following.least_iou)
        return {
            "loss_classifier": sum(class_losses[1:], class_losses[0]),
            "loss_box_reg": sum(box_losses[1:], box_losses[0]),
            "loss_mask": self._mask_loss(levels, drawn, truths, loss_scale),
        }

    def detections(
        self,
        levels: Levels,
        proposals: OfImages,
        sizes: Sequence[Size],
        predict: PredictConfig,
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Boxes [N, 4], labels [N], scores [N] and masks [N, M, M] of each image, best score first.

        proposals   float32 [K, 4] of each image
        sizes       height and width of each image in pixels, without padding
        predict     score threshold, IoU of suppression and largest number of detections

        Scores are means over the stages, boxes those of the last, in pixels as the network sees the
        image. The mask head sees some detections at a time, because 1,500 at once would take
        gigabytes.
        """
        counts = [len(proposals_K4) for proposals_K4 in proposals]
        boxes_K4, scores = in_one_axis(proposals), []
        for stage, following in itertools.zip_longest(self.stages, self.stages[1:]):
            logits_KC, offsets = stage(self.box_roi_pool(levels, torch.split(boxes_K4, counts)))
            scores.append(logits_KC.softmax(dim=1))
            if following is not None:
                refined = torch.split(stage.refined(offsets, boxes_K4), counts)
                boxes_K4 = in_one_axis(_with_sides(refined, sizes))
        scores_KC = torch.stack(scores).mean(dim=0)
        boxes_KC4 = self.stages[-1].coder.decode(offsets, boxes_K4[:, None])
        boxes_KC4 = boxes_KC4.expand(-1, scores_KC.shape[1], -1)
        of_images = zip(
            torch.split(boxes_KC4, counts), torch.split(scores_KC, counts), sizes, strict=True
        )
        best = [
            _best_boxes(of_boxes, of_scores, size, predict)
            for of_boxes, of_scores, size in of_images
        ]
        masks = self._masks(levels, [one[0] for one in best], [one[1] for one in best])
        return [(*one, masks_NMM) for one, masks_NMM in zip(best, masks, strict=True)]

    def _of_slots(
        self, stage: BoxStage, levels: Levels, samples: _Samples, padded: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A stage's logits and offsets of all slots; those of empty slots are to be ignored."""
        if not (padded and takes_statistics(stage.head)):
            return stage(self.box_roi_pool.pooled(levels, samples.regions_S5, fixed=padded))
        full_S = samples.draws.weight_S > 0
        found = stage(self.box_roi_pool.pooled(levels, samples.regions_S5[full_S]))
        row_S = torch.where(full_S, full_S.cumsum(dim=0), 0)
        logits_SC, offsets = (
            torch.cat([values.new_zeros(1, *values.shape[1:]), values])[row_S] for values in found
        )
        return logits_SC, offsets

    def _drawn(self, proposals: OfImages, truths: Truths) -> _Samples:
        """The boxes, among proposals and annotated boxes, that are drawn for the losses."""
        boxes_of = truths.by_image(truths.boxes_N4)
        candidates: OfImages
        if truths.padded:
            assert isinstance(proposals, torch.Tensor)
            assert isinstance(boxes_of, torch.Tensor)
            candidates = torch.cat([proposals, boxes_of], dim=1)
            match, label = _matched(candidates, truths, self.stages[0].least_iou)
            assert isinstance(label, torch.Tensor)
            is_zeros_BK = candidates[..., 2] <= candidates[..., 0]
            draws = self.sampler.fixed(label.masked_fill(is_zeros_BK, NOT_DRAWN))
        else:
            candidates = [
                torch.cat([boxes_K4, boxes_N4])
                for boxes_K4, boxes_N4 in zip(proposals, boxes_of, strict=True)
            ]
            match, label = _matched(candidates, truths, self.stages[0].least_iou)
            counts = [len(boxes_K4) for boxes_K4 in candidates]
            draws = positives_first(self.sampler([*label]), counts).ascending()
        labels_S = in_one_axis(label)[draws.places_S].masked_fill(draws.weight_S == 0, NOT_DRAWN)
        match_S = in_one_axis(match)[draws.places_S]
        return _samples(draws, regions_of(candidates)[draws.places_S], labels_S, match_S, truths)

    def _mask_loss(
        self,
        levels: Levels,
        samples: _Samples,
        truths: Truths,
        loss_scale: torch.Tensor | None,
    ) -> torch.Tensor:
        """The loss of the masks of positive proposals; see `mask_loss`."""
        regions_P5, labels_P = samples.positive_regions, samples.positive_labels_P
        weight_P, fixed = samples.draws.weight_P, truths.padded
        # A proposal that learns an instance has an IoU of least_iou or more with the instance's
        # box, so its sides are at most 1 / least_iou times those of the box.
        wanted_PMM = truths.mask_targets(
            samples.instances_P,
            regions_P5[:, 1:] * weight_P[:, None],  # an empty slot's box may be large
            samples.draws.positives,
            UPSAMPLING * self.mask_roi_pool.output_size,
            1 / self.stages[0].least_iou,
        )
        if fixed and takes_statistics(self.mask_head):
            full_P, fixed = weight_P > 0, False
            regions_P5, labels_P, wanted_PMM, weight_P = (
                values_P[full_P] for values_P in (regions_P5, labels_P, wanted_PMM, weight_P)
            )
        features_PFMM = self.mask_roi_pool.pooled(levels, regions_P5, fixed=fixed)
        return mask_loss(
            self.mask_branch, features_PFMM, labels_P, wanted_PMM, weight_P, loss_scale
        )

    def _masks(
        self, levels: Levels, boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """The masks of the detections in each image, probabilities, float32 [N, M, M]."""
        counts = [len(boxes_N4) for boxes_N4 in boxes]
        at_once = max(CELLS_IN_PREDICTION // self.mask_roi_pool.output_size**2, 1)
        masks = [
            self._mask_probabilities(levels, boxes_of_images, torch.cat(labels_of_images))
            for boxes_of_images, labels_of_images in zip(
                _in_chunks(boxes, at_once), _in_chunks(labels, at_once), strict=True
            )
        ]
        return torch.split(torch.cat(masks), counts)

    def _mask_probabilities(
        self, levels: Levels, boxes: Sequence[torch.Tensor], labels_K: torch.Tensor
    ) -> torch.Tensor:
        """The masks of some detections of each image, probabilities, float32 [K, M, M]."""
        logits_KCMM = self.mask_branch(self.mask_roi_pool(levels, boxes))
        rows_K = torch.arange(len(labels_K), device=labels_K.device)
        probabilities_KMM: torch.Tensor = logits_KCMM[rows_K, labels_K].sigmoid()
        return probabilities_KMM


def _matched(boxes: OfImages, truths: Truths, least_iou: float) -> tuple[OfImages, OfImages]:
    """The instance of its image that each box overlaps most, and the class that it learns.

    Both int64, [K] of each image, or [B, K] of a padded batch.
    """
    boxes_of, labels_of = truths.by_image(truths.boxes_N4), truths.by_image(truths.labels_N)
    if truths.padded:
        assert isinstance(boxes, torch.Tensor)
        assert isinstance(boxes_of, torch.Tensor)
        assert isinstance(labels_of, torch.Tensor)
        return match_proposals(boxes_of, labels_of, boxes, least_iou)
    matches, labels = zip(
        *(
            match_proposals(boxes_N4, labels_N, boxes_K4, least_iou)
            for boxes_N4, labels_N, boxes_K4 in zip(boxes_of, labels_of, boxes, strict=True)
        ),
        strict=True,
    )
    return matches, labels


def _matched_again(
    samples: _Samples, boxes_S4: torch.Tensor, truths: Truths, least_iou: float
) -> _Samples:
    """The same slots with refined boxes, each of which learns the instance that it overlaps now.

    A box that is empty inside its image learns nothing, nor does that of an empty slot.
    """
    images = len(truths.counts)
    image_S = samples.regions_S5[:, 0].to(torch.int64)

    def numbers(image_K: torch.Tensor) -> list[int]:
        """The number of entries of each image; this waits for a GPU, so no padded batch asks it."""
        return [int(count) for count in torch.bincount(image_K, minlength=images).tolist()]

    boxes: OfImages = (
        boxes_S4.reshape(images, -1, 4)
        if truths.padded
        else torch.split(boxes_S4, numbers(image_S))
    )
    boxes = _with_sides(boxes, truths.sizes)
    match, label = _matched(boxes, truths, least_iou)
    regions_S5 = regions_of(boxes)
    weight_S = samples.draws.weight_S * (regions_S5[:, 3] > regions_S5[:, 1])
    labels_S = in_one_axis(label).masked_fill(weight_S == 0, NOT_DRAWN)
    if truths.padded:  # any slot may hold a positive
        positive_P = torch.arange(len(labels_S), device=labels_S.device)
        counts = [len(labels_S) // images] * images
    else:
        (positive_P,) = torch.where(labels_S > 0)
        counts = numbers(image_S[positive_P])
    weight_P = (labels_S[positive_P] > 0).to(weight_S.dtype)
    draws = Draws(samples.draws.places_S, weight_S, positive_P, weight_P, tuple(counts))
    return _samples(draws, regions_S5, labels_S, in_one_axis(match), truths)


def _samples(
    draws: Draws,
    regions_S5: torch.Tensor,
    labels_S: torch.Tensor,
    match_S: torch.Tensor,
    truths: Truths,
) -> _Samples:
    """The samples of a stage, from the labels and matches of its slots.

    match_S   int64 [S], the instance of its image that each box overlaps most
    """
    image_P = regions_S5[draws.positive_P, 0].to(torch.int64)
    first_B = first_places(truths.by_image(truths.boxes_N4))
    return _Samples(
        draws,
        regions_S5,
        labels_S,
        labels_S[draws.positive_P].clamp(min=0),
        match_S[draws.positive_P] + first_B[image_P],
    )


def _with_sides(boxes: OfImages, sizes: Sequence[Size]) -> OfImages:
    """Boxes clipped to their images; zeros where a side is then under LEAST_BOX_SIDE or is NaN."""

    def zeros_for_none(boxes: torch.Tensor) -> torch.Tensor:
        has_sides = ((boxes[..., 2:] - boxes[..., :2]) >= LEAST_BOX_SIDE).all(dim=-1, keepdim=True)
        return torch.where(has_sides, boxes, 0.0)

    boxes = clipped(boxes, sizes)
    if isinstance(boxes, torch.Tensor):
        return zeros_for_none(boxes)
    return [zeros_for_none(boxes_K4) for boxes_K4 in boxes]


def _losses(
    stage: BoxStage,
    samples: _Samples,
    logits_SC: torch.Tensor,
    offsets: torch.Tensor,
    truths: Truths,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of a stage's classes and of its boxes, means over the draws, times its weight.

    offsets   float32 [S, C + 1, 4] or [S, 1, 4]
    """
    draws, column_P = samples.draws, samples.positive_labels_P
    offsets_P4 = offsets[draws.positive_P, column_P if offsets.shape[1] > 1 else 0]
    wanted_P4 = stage.coder.encode(
        truths.boxes_N4[samples.instances_P], samples.positive_regions[:, 1:]
    )
    class_loss = functional.cross_entropy(
        logits_SC, samples.labels_S, ignore_index=NOT_DRAWN, reduction="sum"
    )
    count = draws.count / stage.weight
    return class_loss / count, draws.box_loss(offsets_P4, wanted_P4) / count


def _best_boxes(
    boxes_KC4: torch.Tensor, scores_KC: torch.Tensor, size: Size, predict: PredictConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes [N, 4], labels [N] and scores [N] of an image, best score first.

    Each proposal is a candidate for each class; non-maximum suppression is applied to each class by
    itself.
    """
    labels_KC = torch.arange(scores_KC.shape[1], device=scores_KC.device).expand_as(scores_KC)
    boxes_J4 = clip_boxes_to_image(boxes_KC4, size)[:, 1:].reshape(-1, 4)  # 0 is background
    scores_J, labels_J = scores_KC[:, 1:].reshape(-1), labels_KC[:, 1:].reshape(-1)
    has_sides_J = ((boxes_J4[:, 2:] - boxes_J4[:, :2]) >= LEAST_BOX_SIDE).all(dim=1)
    (chosen,) = torch.where((scores_J > predict.score_threshold) & has_sides_J)  # waits for the GPU
    boxes_J4, scores_J, labels_J = boxes_J4[chosen], scores_J[chosen], labels_J[chosen]
    kept_N = batched_nms(boxes_J4, scores_J, labels_J, predict.nms_iou)[: predict.max_detections]
    return boxes_J4[kept_N], labels_J[kept_N], scores_J[kept_N]


def _in_chunks(of_images: Sequence[torch.Tensor], most: int) -> list[list[torch.Tensor]]:
    """The rows of all images in chunks of `most` rows; a chunk lists the rows of each image.

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
