"""The detectors of the table in `core/detectors.py`, and the only place where settings of the
network meet its layers.
"""

from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from core.backbones import BACKBONES
from core.config import ModelConfig, PredictConfig
from core.detectors import Recipe
from core.network.anchors import Anchors
from core.network.balanced import BalancedSampler
from core.network.detector import Traits
from core.network.frozen_norm import FrozenBatchNorm
from core.network.mask_rcnn import MaskRCNN
from core.network.pooling import PyramidPooling
from core.network.proposals import ProposalNetwork
from core.network.pyramid import CHANNELS, Norm, pyramid_backbone
from core.network.resizing import ImageTransform
from core.network.roi_heads import RoIHeads

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of RGB in 0..1 that all of torchvision's weights were trained with. Only the
model normalises."""

ANCHOR_SIDES = (32, 64, 128, 256, 512)
"""Pixels of the resized image, one for each level of the pyramid; times `anchor_scale`."""
ANCHOR_RATIOS = (0.5, 1.0, 2.0)

BOX_SIDE, BOX_VECTOR, MASK_SIDE = 7, 1024, 14
"""Cells that the branches pool along a side of a box, and numbers that describe a box."""
CONVOLUTIONS = [CHANNELS] * 4
"""Channels of each convolution of a branch."""


def mask_rcnn(
    config: ModelConfig,
    classes: int,
    predict: PredictConfig,
    traits: Traits,
    *,
    norm: Norm | None,
    proposal_convolutions: int,
    box_head: Callable[[], nn.Module],
) -> MaskRCNN:
    """Mask R-CNN with the layers of one of torchvision's two recipes, drawn in torchvision's order.

    norm        of pyramid and heads
    box_head    makes what describes a box, [K, 1024], from its features [K, 256, 7, 7]
    """
    body_norm = (
        partial(FrozenBatchNorm, eps=traits.norm_eps) if traits.frozen_norm else nn.BatchNorm2d
    )
    backbone = pyramid_backbone(config.backbone, body_norm, norm, traits.stride_in_1x1)
    rpn = ProposalNetwork(
        RPNHead(CHANNELS, len(ANCHOR_RATIOS), proposal_convolutions),
        Anchors([side * config.anchor_scale for side in ANCHOR_SIDES], ANCHOR_RATIOS),
        BalancedSampler(config.rpn_samples, 0.5),
        kept_in_training=config.proposals_train,
        kept_in_evaluation=config.proposals_test,
    )
    roi_heads = RoIHeads(
        BalancedSampler(config.box_samples, 0.25),
        PyramidPooling(BOX_SIDE),
        box_head(),
        FastRCNNPredictor(BOX_VECTOR, classes + 1),
        PyramidPooling(MASK_SIDE),
        MaskRCNNHeads(CHANNELS, CONVOLUTIONS, dilation=1, norm_layer=norm),
        MaskRCNNPredictor(CHANNELS, CHANNELS, classes + 1),
    )
    transform = ImageTransform(
        config.image_min_side, config.image_max_side, IMAGENET_MEAN, IMAGENET_STD
    )
    row = BACKBONES[config.backbone]
    return MaskRCNN(transform, backbone, rpn, roi_heads, row=row, predict=predict, traits=traits)


FPN = Recipe(
    build=partial(
        mask_rcnn,
        norm=None,
        proposal_convolutions=1,
        box_head=lambda: TwoMLPHead(CHANNELS * BOX_SIDE**2, BOX_VECTOR),
    ),
    freezes_norm=True,
    memory_rank=0,
)
FPN_V2 = Recipe(
    build=partial(
        mask_rcnn,
        norm=nn.BatchNorm2d,
        proposal_convolutions=2,
        box_head=lambda: FastRCNNConvFCHead(
            (CHANNELS, BOX_SIDE, BOX_SIDE), CONVOLUTIONS, [BOX_VECTOR], nn.BatchNorm2d
        ),
    ),
    freezes_norm=False,
    memory_rank=1,
)
