"""Mask R-CNN from finished parts, which learns from label maps instead of stacks of masks.

Parameters and buffers have torchvision's names, for each of the backbones, so that its weights
load.
"""

from collections.abc import Sequence

import torch

from core.backbones import Backbone
from core.config import PredictConfig
from core.network.detector import Detector, RawDetections, Traits
from core.network.proposals import ProposalNetwork
from core.network.pyramid import PyramidBackbone
from core.network.resizing import ImageTransform, resize_boxes
from core.network.roi_heads import RoIHeads
from core.network.truths import Truths
from core.sample import Size, Target


class MaskRCNN(Detector):
    """A backbone under a pyramid, proposals, and heads that classify, refine and outline them.

    row     the backbone's row of the table, which names the stages that can be frozen
    fixed   the form of a training step: True for the fixed one, False for the other; None, the
            initial value, for the fixed one on a GPU and the other on a CPU

    In the fixed form no tensor's shape depends on computed values, so Python never waits for the
    GPU (but for batch norm in the heads, see `RoIHeads.losses`): all images have the same number of
    boxes, the missing ones being zeros, and empty slots of a draw have no weight in a loss. With
    the same draws, losses and gradients are equal in both forms, to rounding. The draws differ:
    those of the other form are torchvision's, to the bit, and those of the fixed form have the same
    distribution. On a CPU the empty slots would be computed for nothing.
    """

    def __init__(
        self,
        transform: ImageTransform,
        backbone: PyramidBackbone,
        rpn: ProposalNetwork,
        roi_heads: RoIHeads,
        *,
        row: Backbone,
        predict: PredictConfig,
        traits: Traits,
    ) -> None:
        super().__init__(predict, traits)
        self.row = row
        self.fixed: bool | None = None
        self.transform = transform
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads

    def losses(
        self, images: Sequence[torch.Tensor], targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """The five loss terms of torchvision's Mask R-CNN (see `Detector.losses`).

        The losses of a cascade's stages are added up.
        """
        assert self.training, "call train() first"
        batch = self.transform(images)
        fixed = batch.images_B3HW.device.type != "cpu" if self.fixed is None else self.fixed
        truths = Truths.of(targets, batch.sizes, padded=fixed)
        levels = self.backbone(batch.images_B3HW)
        proposals, rpn_losses = self.rpn(
            batch, levels, truths.by_image(truths.boxes_N4), fixed=fixed
        )
        losses = self.roi_heads.losses(levels, proposals, truths, self.loss_scale)
        return {**losses, **rpn_losses}

    @torch.no_grad()
    def detect(self, images: Sequence[torch.Tensor], scale: float = 1.0) -> list[RawDetections]:
        """See `Detector.detect`."""
        assert not self.training, "call eval() first"
        batch = self.transform(images, scale)
        levels = self.backbone(batch.images_B3HW)
        proposals, _ = self.rpn(batch, levels)
        found = self.roi_heads.detections(levels, proposals, batch.sizes, self.predict)
        return [
            RawDetections(
                resize_boxes(boxes_N4, size, image.shape[-2:]), labels_N, scores_N, masks_NMM
            )
            for (boxes_N4, labels_N, scores_N, masks_NMM), size, image in zip(
                found, batch.sizes, images, strict=True
            )
        ]

    def seen_size(self, height: int, width: int, scale: float = 1.0) -> Size:
        """See `Detector.seen_size`; the padding of a batch counts."""
        return self.transform.padded_size(height, width, scale)

    def freeze(self, stages: int, pyramid: bool) -> None:
        """See `Detector.freeze`. Unlike torchvision, it freezes unpretrained layers too."""
        body = self.backbone.body.requires_grad_(False)
        for stage in self.row.stages[:stages]:
            for layer in stage:
                body.get_submodule(layer).requires_grad_(True)
        self.backbone.fpn.requires_grad_(pyramid)
