"""The detectors of the table in `core/detectors.py`.

This is the only place where settings of the network meet its layers.
"""

from collections.abc import Callable, Sequence
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
from core.network.box_coding import OffsetCoder
from core.network.detector import Traits
from core.network.frozen_norm import FrozenBatchNorm
from core.network.mask_rcnn import MaskRCNN
from core.network.pooling import PyramidPooling
from core.network.proposals import ProposalNetwork
from core.network.pyramid import CHANNELS, Norm, pyramid_backbone
from core.network.resizing import ImageTransform
from core.network.roi_heads import UPSAMPLING, BoxStage, RoIHeads

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB in 0..1 with which all of torchvision's weights were trained.
Images are normalised in the model and nowhere else."""

BOX_SIDE, BOX_VECTOR = 7, 1024
"""Side, in cells, of the features that the box branch pools from a box, and length of the vector
that its head makes of them."""
CONVOLUTIONS = [CHANNELS] * 4
"""Output channels of each convolution of the mask head, and of the box head of fpn_v2."""
GROUPS = 32
"""Groups of channels that group norm normalises together (Wu and He, Group Normalization, 2018)."""


def _offsets_of_each_class(classes: int) -> FastRCNNPredictor:
    """Torchvision's predictor: four offsets of each of the classes, background included."""
    return FastRCNNPredictor(BOX_VECTOR, classes)


def mask_rcnn(
    config: ModelConfig,
    classes: int,
    predict: PredictConfig,
    traits: Traits,
    *,
    has_norm: bool,
    proposal_convolutions: int,
    box_head: Callable[[Norm | None], nn.Module],
    box_predictor: Callable[[int], nn.Module] = _offsets_of_each_class,
    stages: Sequence[Callable[[nn.Module, nn.Module], BoxStage]] = (BoxStage,),
) -> MaskRCNN:
    """Mask R-CNN of the layers of one of torchvision's recipes, initialised in torchvision's order.

    classes                 number of classes beside background
    has_norm                whether the pyramid and the heads have layers of normalisation
    proposal_convolutions   number of 3x3 convolutions before the proposal network's outputs
    box_head                makes the module from features [K, 256, 7, 7] to vectors [K, 1024]; its
                            argument makes a layer of normalisation, and is None without any
    box_predictor           makes the module from these vectors to class logits and offsets; its
                            argument is the number of classes, background included
    stages                  make the stages of the box branch, each of a head and a predictor
    """
    norm = _norm(config, traits) if has_norm else None
    body_norm = partial(
        FrozenBatchNorm if traits.frozen_norm else nn.BatchNorm2d, eps=traits.norm_eps
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
        [stage(box_head(norm), box_predictor(classes + 1)) for stage in stages],
        PyramidPooling(config.mask_side // UPSAMPLING),
        MaskRCNNHeads(CHANNELS, CONVOLUTIONS, dilation=1, norm_layer=norm),
        MaskRCNNPredictor(CHANNELS, CHANNELS, classes + 1),
    )
    transform = ImageTransform(
        config.image_min_side,
        config.image_max_side,
        IMAGENET_MEAN,
        IMAGENET_STD,
        jitter=config.size_jitter,
    )
    row = BACKBONES[config.backbone]
    return MaskRCNN(transform, backbone, rpn, roi_heads, row=row, predict=predict, traits=traits)


def _norm(config: ModelConfig, traits: Traits) -> Norm:
    """The function that makes a layer of normalisation of pyramid and heads (`model.norm`)."""
    if config.norm == "group":
        return partial(nn.GroupNorm, GROUPS)
    if config.norm == "frozen":
        return partial(FrozenBatchNorm, eps=traits.norm_eps)
    return nn.BatchNorm2d


def _one_offset_of_all_classes(classes: int) -> FastRCNNPredictor:
    """Torchvision's predictor, but with four offsets that hold for all classes.

    classes   number of classes, background included
    """
    predictor = FastRCNNPredictor(BOX_VECTOR, classes)
    predictor.bbox_pred = nn.Linear(BOX_VECTOR, 4)
    return predictor


_fpn = partial(
    mask_rcnn,
    has_norm=False,
    proposal_convolutions=1,
    box_head=lambda _: TwoMLPHead(CHANNELS * BOX_SIDE**2, BOX_VECTOR),
)

FPN = Recipe(build=_fpn, freezes_norm=True, memory_rank=0)
FPN_V2 = Recipe(
    build=partial(
        mask_rcnn,
        has_norm=True,
        proposal_convolutions=2,
        box_head=lambda norm: FastRCNNConvFCHead(
            (CHANNELS, BOX_SIDE, BOX_SIDE), CONVOLUTIONS, [BOX_VECTOR], norm
        ),
    ),
    freezes_norm=False,
    memory_rank=2,
)
CASCADE = Recipe(
    build=partial(
        _fpn,
        box_predictor=_one_offset_of_all_classes,
        stages=[
            BoxStage,
            partial(BoxStage, coder=OffsetCoder(20.0, 10.0), least_iou=0.6, weight=0.5),
            partial(BoxStage, coder=OffsetCoder(30.0, 15.0), least_iou=0.7, weight=0.25),
        ],
    ),
    freezes_norm=True,
    memory_rank=1,
    coco="fpn",
    advice="its two further stages of boxes have 28 million parameters, which take 440 MB with"
    " their gradients and AdamW's moments",
    copies=tuple(
        ("roi_heads.box_head.", f"roi_heads.later_stages.{number}.box_head.") for number in (0, 1)
    ),
)
"""Cai and Vasconcelos, Cascade R-CNN: High Quality Object Detection and Instance Segmentation
(2019). With pretrained weights of a whole Mask R-CNN the box heads of the later stages begin as
copies of the first's."""
