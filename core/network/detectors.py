"""The detectors of the table in `core/detectors.py`.

This is the only place where settings of the network meet its layers.
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
from core.network.anchors import ANCHOR_RATIOS, ANCHOR_SIDES, Anchors
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
"""Mean and standard deviation of RGB in 0..1 with which all of torchvision's weights were trained.
Images are normalised in the model and nowhere else."""

BOX_SIDE, BOX_VECTOR, MASK_SIDE = 7, 1024, 14
"""Cells along a side of what the box branch pools from a box, length of the vector that describes a
box, and cells along a side of what the mask branch pools."""
CONVOLUTIONS = [CHANNELS] * 4
"""Output channels of each convolution of the mask head, and of the box head of fpn_v2."""


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

    norm                    makes a layer of normalisation for the pyramid and the mask head; None
                            for no layer
    proposal_convolutions   number of 3x3 convolutions before the proposal network's outputs
    box_head                makes the module from features [K, 256, 7, 7] to vectors [K, 1024]
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
