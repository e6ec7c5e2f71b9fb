"""Mask R-CNN, assembled from torchvision's parts, that learns from label maps instead of stacks of masks.

Parameters and buffers bear torchvision's names, for any of the backbones, so that its weights load.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision import models
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead

from core.config import ModelConfig, PredictConfig
from core.errors import WeightsError
from core.labels import label_maps as masks
from core.network.anchors import KeptAnchors
from core.network.balanced import BalancedSampler
from core.network.box_coding import OffsetCoder
from core.network.frozen_norm import FrozenBatchNorm
from core.network.mask_loss import mask_loss
from core.network.matching import AnchorMatcher, boxes_and_anchors
from core.network.pooling import PyramidPooling
from core.network.proposals import ProposalNetwork
from core.network.resizing import ImageTransform, resize_boxes
from core.network.weights import NORM_EPS, BaseWeights, first_names
from core.sample import Target

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB in 0..1: what all of torchvision's weights were trained with. The model normalises, nobody else."""

ANCHOR_SIDES = (32, 64, 128, 256, 512)
"""Pixels of the resized image, one for each level of the pyramid; times `anchor_scale`."""
ANCHOR_RATIOS = (0.5, 1.0, 2.0)

STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")
"""The backbone's stages, from the last; `trainable_layers` of them train. The stem's batch norm belongs to conv1."""

CLASS_LAYERS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
"""What depends on the classes. Never taken from pretrained weights, even if the number of classes is the same: class 1
of the data set is not class 1 of COCO, nor known to be class 1 of somebody's file."""

ANCHOR_IOU, BACKGROUND_IOU = 0.7, 0.3
"""An anchor that overlaps an instance more than the first learns it, less than the second learns background."""
MASK_SIDE = 28
"""Pixels of a predicted mask, whatever the size of its box."""
MASKS_AT_ONCE = 128
"""Detections whose masks are computed at once: about 200 MB of activations."""

Features = Mapping[str, torch.Tensor]
_TargetTensors = dict[str, torch.Tensor]
"""A target as torchvision has it (boxes, labels), with ids, maps and label_maps where it would have masks."""


@dataclass(frozen=True)
class RawDetections:
    """What the network found in one image, best score first, on the network's device.

    boxes_N4        float32 [N, 4], half-open, pixels of the image that was given
    labels_N        int64 [N], class numbers 1..C
    scores_N        float32 [N]
    mask_probs_N28  float32 [N, 28, 28], probability of the mask inside its box
    """

    boxes_N4: torch.Tensor
    labels_N: torch.Tensor
    scores_N: torch.Tensor
    mask_probs_N28: torch.Tensor


@dataclass(frozen=True)
class Traits:
    """What a network has from the weights it began with beside their numbers; to build it again takes all three.

    frozen_norm    whether the backbone's batch norm is torchvision's FrozenBatchNorm2d
    norm_eps       what frozen batch norm adds to the variance
    stride_in_1x1  whether a bottleneck strides in its first 1x1 convolution
    """

    frozen_norm: bool
    norm_eps: float
    stride_in_1x1: bool


class MaskRCNN(GeneralizedRCNN):  # type: ignore[misc]
    """Mask R-CNN. `losses` in training mode, `detect` in evaluation mode; `traits` say how it was built.

    Both work under autocast: what follows the convolutions (boxes, losses, masks) is computed in float32.
    """

    traits: Traits

    def forward(
        self, images: Sequence[torch.Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, torch.Tensor] | list[RawDetections]:
        """What `losses` returns in training mode, which needs targets, and `detect` in evaluation mode."""
        if not self.training:
            return self.detect(images)
        assert targets is not None, "training needs targets; call eval() first to detect"
        return self.losses(images, targets)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; batch norm of frozen layers stays in evaluation mode, so its statistics never move."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def losses(self, images: Sequence[torch.Tensor], targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        """The five loss terms of a batch, scalars: torchvision's, which draws samples from torch's global generator.

        images    float32 [3, H, W] each, RGB in 0..1, of any sizes
        targets   one for each image; without instances the image teaches background
        """
        assert self.training, "call train() first"
        tensors = [
            {"boxes": target.boxes_N4, "labels": target.labels_N, "ids": target.ids_N, "maps": target.maps_N}
            for target in targets
        ]
        batch, resized = self.transform(list(images), tensors)
        features = self._features(batch.tensors)
        proposals, rpn_losses = self.rpn(batch, features, resized)
        for tensors_of_one, target, (height, width) in zip(resized, targets, batch.image_sizes, strict=True):
            tensors_of_one["label_maps"] = masks.resize_label_maps(target.label_maps_LHW, height, width)
        head_losses = self.roi_heads.losses(features, proposals, batch.image_sizes, resized)
        return {**head_losses, **rpn_losses}

    @torch.no_grad()
    def detect(self, images: Sequence[torch.Tensor]) -> list[RawDetections]:
        """The detections in each image, float32 [3, H, W], RGB in 0..1. Masks are not pasted."""
        assert not self.training, "call eval() first"
        batch, _ = self.transform(list(images), None)
        features = self._features(batch.tensors)
        proposals, _ = self.rpn(batch, features, None)
        found = self.roi_heads.detections(features, proposals, batch.image_sizes)
        return [
            RawDetections(
                boxes_N4=resize_boxes(one["boxes"], size, image.shape[-2:]),
                labels_N=one["labels"],
                scores_N=one["scores"],
                mask_probs_N28=one["masks"],
            )
            for one, size, image in zip(found, batch.image_sizes, images, strict=True)
        ]

    def _features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The pyramid in float32: anchors and boxes take its dtype, and bfloat16 has no odd pixels past 256."""
        if self.backbone.body.conv1.weight.is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)
        return {level: feature.float() for level, feature in self.backbone(images).items()}


@dataclass(frozen=True)
class _Samples:
    """The proposals of one image that the box head learns.

    boxes_S4     float32 [S, 4]
    matches_S    int64 [S], the instance that each overlaps most
    labels_S     int64 [S], class numbers, 0 for background
    positive_P   int64 [P], ascending, those that learn an instance
    """

    boxes_S4: torch.Tensor
    matches_S: torch.Tensor
    labels_S: torch.Tensor
    positive_P: torch.Tensor


class _LabelMapRoIHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's heads: the mask loss samples its targets from label maps, masks are predicted some at a time."""

    def losses(
        self,
        features: Features,
        proposals: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
        targets: Sequence[_TargetTensors],
    ) -> dict[str, torch.Tensor]:
        """Losses of classes, boxes and masks; the same steps and draws as the training half of RoIHeads.forward."""
        samples = self._samples(proposals, targets)
        boxes = [one.boxes_S4 for one in samples]
        box_features = self.box_head(self.box_roi_pool(features, boxes, image_sizes))
        positive = [one.boxes_S4[one.positive_P] for one in samples]
        matches = [one.matches_S[one.positive_P] for one in samples]
        class_logits, box_regression = self.box_predictor(box_features)
        loss_classifier, loss_box_reg = self._box_losses(
            class_logits, box_regression, samples, positive, matches, targets
        )
        loss_mask = self._mask_loss(features, positive, matches, image_sizes, targets)
        return {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg, "loss_mask": loss_mask}

    def _samples(self, proposals: list[torch.Tensor], targets: Sequence[_TargetTensors]) -> list[_Samples]:
        """Torchvision's `select_training_samples`, the same draws: proposals and true boxes, some of each image."""
        truths = [target["boxes"] for target in targets]
        candidates = self.add_gt_proposals(proposals, truths)
        matches, labels = self.assign_targets_to_proposals(candidates, truths, [target["labels"] for target in targets])
        samples = []
        for drawn, boxes_K4, matches_K, labels_K in zip(
            self.fg_bg_sampler(labels), candidates, matches, labels, strict=True
        ):
            places_S = torch.cat([drawn.positive_P, drawn.negative_Q]).sort().values
            samples.append(
                _Samples(
                    boxes_S4=boxes_K4[places_S],
                    matches_S=matches_K[places_S],
                    labels_S=labels_K[places_S],
                    positive_P=torch.searchsorted(places_S, drawn.positive_P),
                )
            )
        return samples

    def _box_losses(
        self,
        class_logits: torch.Tensor,
        box_regression: torch.Tensor,
        samples: Sequence[_Samples],
        positive: Sequence[torch.Tensor],
        matches: Sequence[torch.Tensor],
        targets: Sequence[_TargetTensors],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Torchvision's `fastrcnn_loss` of classes, float32 [S, C + 1], and of boxes, float32 [S, 4 (C + 1)].

        positive, matches   float32 [P, 4] and int64 [P] of each image, the boxes that learn an instance, and which
        """
        labels_S = torch.cat([one.labels_S for one in samples])
        starts = itertools.accumulate((len(one.labels_S) for one in samples), initial=0)
        positive_P = torch.cat([one.positive_P + start for one, start in zip(samples, starts, strict=False)])
        truths = [target["boxes"][indices] for target, indices in zip(targets, matches, strict=True)]
        wanted_P4 = self.box_coder.encode_single(torch.cat(truths), torch.cat(list(positive)))
        regression_SC4 = box_regression.reshape(len(labels_S), box_regression.shape[1] // 4, 4)
        box_loss = functional.smooth_l1_loss(
            regression_SC4[positive_P, labels_S[positive_P]], wanted_P4, beta=1 / 9, reduction="sum"
        )
        class_loss = functional.cross_entropy(class_logits, labels_S, reduction="sum")
        samples_or_1 = max(len(labels_S), 1)
        return class_loss / samples_or_1, box_loss / samples_or_1

    def detections(
        self, features: Features, proposals: list[torch.Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, torch.Tensor]]:
        """Boxes [N, 4], labels [N], scores [N] and masks [N, 28, 28] of each image, as RoIHeads.forward has them.

        The mask head sees MASKS_AT_ONCE detections at a time: all at once, 1,500 of them would take gigabytes.
        """
        box_features = self.box_head(self.box_roi_pool(features, proposals, image_sizes))
        class_logits, box_regression = self.box_predictor(box_features)
        found = []
        for number, (boxes_N4, scores_N, labels_N) in enumerate(
            zip(*self.postprocess_detections(class_logits, box_regression, proposals, image_sizes), strict=True)
        ):
            of_image = {level: feature[number : number + 1] for level, feature in features.items()}
            masks_N28 = [
                self._mask_probabilities(of_image, boxes_K4, labels_K, image_sizes[number])
                for boxes_K4, labels_K in zip(boxes_N4.split(MASKS_AT_ONCE), labels_N.split(MASKS_AT_ONCE), strict=True)
            ]
            found.append({"boxes": boxes_N4, "labels": labels_N, "scores": scores_N, "masks": torch.cat(masks_N28)})
        return found

    def _mask_probabilities(
        self, features: Features, boxes_K4: torch.Tensor, labels_K: torch.Tensor, image_size: tuple[int, int]
    ) -> torch.Tensor:
        """The masks of detections in one image, float32 [K, 28, 28]."""
        logits_KC28 = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, [boxes_K4], [image_size])))
        probs_K28: torch.Tensor = logits_KC28[torch.arange(len(labels_K), device=labels_K.device), labels_K].sigmoid()
        return probs_K28

    def _mask_loss(
        self,
        features: Features,
        proposals: list[torch.Tensor],
        matches: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
        targets: Sequence[_TargetTensors],
    ) -> torch.Tensor:
        """Mean binary cross-entropy over the mask of the right class of each positive proposal; see `mask_loss`.

        proposals   float32 [P, 4] of each image
        matches     int64 [P] of each image, index of the instance each is matched to
        """
        with torch.autocast(proposals[0].device.type, enabled=False):
            wanted_P28 = torch.cat(
                [
                    masks.mask_targets(
                        target["label_maps"], target["ids"][indices], target["maps"][indices], boxes, MASK_SIDE
                    )
                    for target, indices, boxes in zip(targets, matches, proposals, strict=True)
                ]
            )
        labels_P = torch.cat([target["labels"][indices] for target, indices in zip(targets, matches, strict=True)])
        pooled_P = self.mask_roi_pool(features, proposals, image_sizes)
        return mask_loss(nn.Sequential(self.mask_head, self.mask_predictor), pooled_P, labels_P, wanted_P28)


class _RPNHead(RPNHead):  # type: ignore[misc]
    """torchvision's, float32 out of autocast: it would decode boxes in the dtype of the predictions."""

    def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Objectness and box deltas of each level."""
        objectness, deltas = super().forward(features)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class _BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's, float32 out of autocast."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits and box deltas of each proposal."""
        logits, deltas = super().forward(features)
        return logits.float(), deltas.float()


class _MaskHead(MaskRCNNHeads):  # type: ignore[misc]
    """torchvision's, from features in channels-last order, which take three quarters of the time on a CPU."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features of each proposal for the predictor."""
        deeper: torch.Tensor = super().forward(features.contiguous(memory_format=torch.channels_last))
        return deeper


class _MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's, float32 out of autocast."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Mask logits of each proposal and class."""
        logits: torch.Tensor = super().forward(features)
        return logits.float()


def build_mask_rcnn(config: ModelConfig, classes: int, weights: BaseWeights | None, predict: PredictConfig) -> MaskRCNN:
    """Mask R-CNN for `classes` classes beside background, in training mode on the CPU, frozen as `config` says.

    weights   what `config.weights` names; None for none, and only then

    Norms are those of torchvision's recipes: fpn_v2 has batch norm in backbone, pyramid and heads; fpn in the backbone
    only, where pretrained weights make it FrozenBatchNorm2d. Layers that no weights fill are drawn from torch's global
    generator, which the caller seeds. Raises WeightsError for weights that do not fit.
    """
    assert (weights is None) == (config.weights == "none"), f"weights for model.weights: {config.weights}"
    traits = Traits(
        frozen_norm=config.detector == "fpn" and weights is not None,
        norm_eps=NORM_EPS if weights is None else weights.norm_eps,
        stride_in_1x1=config.stride_in_1x1 or (weights is not None and weights.stride_in_1x1),
    )
    model = _assemble(config, classes, predict, traits)
    if weights is not None:
        _load(model, weights, config)
    _freeze(model, config)
    return model.train()


def restore_mask_rcnn(
    config: ModelConfig, classes: int, traits: Traits, predict: PredictConfig, state: Mapping[str, torch.Tensor]
) -> MaskRCNN:
    """The network whose `state_dict` is `state`, in evaluation mode on the CPU; nothing of it trains.

    Draws nothing from torch's generators. Raises RuntimeError, torch's own, for a state of another network.
    """
    with torch.random.fork_rng([]):  # layers are drawn before they are filled
        model = _assemble(config, classes, predict, traits)
    model.load_state_dict(state)
    model.requires_grad_(False)
    model.eval()
    return model


def predict_with(model: MaskRCNN, predict: PredictConfig) -> None:
    """Give a model other settings of prediction; nothing of them is learned."""
    heads = model.roi_heads
    heads.score_thresh, heads.nms_thresh = predict.score_threshold, predict.nms_iou
    heads.detections_per_img = predict.max_detections


def trained_state(model: MaskRCNN) -> dict[str, torch.Tensor]:
    """What training can change, by name: parameters that train, and statistics of batch norm that is not frozen.

    The tensors are the model's own, not copies. Together with the pretrained weights and the seed they are the model.
    """
    state = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad:
            state |= dict(module.named_buffers(prefix=name))
    return state


def _assemble(config: ModelConfig, classes: int, predict: PredictConfig, traits: Traits) -> MaskRCNN:
    """The network of torchvision's `maskrcnn_resnet50_fpn` or `..._fpn_v2`, with any backbone, no weights loaded."""
    v2 = config.detector == "fpn_v2"
    norm = nn.BatchNorm2d if v2 else None
    resnet = getattr(models, config.backbone)(norm_layer=FrozenBatchNorm if traits.frozen_norm else nn.BatchNorm2d)
    channels = [resnet.inplanes // 8 * 2**stage for stage in range(4)]
    levels = {f"layer{stage + 1}": str(stage) for stage in range(4)}
    backbone = BackboneWithFPN(resnet, levels, channels, out_channels=256, norm_layer=norm)

    ratios = (ANCHOR_RATIOS,) * len(ANCHOR_SIDES)
    anchors = KeptAnchors(tuple((side * config.anchor_scale,) for side in ANCHOR_SIDES), ratios)
    rpn = ProposalNetwork(
        anchors,
        _RPNHead(256, len(ANCHOR_RATIOS), conv_depth=2 if v2 else 1),
        fg_iou_thresh=ANCHOR_IOU,
        bg_iou_thresh=BACKGROUND_IOU,
        batch_size_per_image=config.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n={"training": config.proposals_train, "testing": config.proposals_test},
        post_nms_top_n={"training": config.proposals_train, "testing": config.proposals_test},
        nms_thresh=0.7,
    )
    rpn.box_similarity, rpn.proposal_matcher = boxes_and_anchors, AnchorMatcher(ANCHOR_IOU, BACKGROUND_IOU)
    rpn.fg_bg_sampler, rpn.box_coder = BalancedSampler(config.rpn_samples, 0.5), OffsetCoder((1.0, 1.0, 1.0, 1.0))

    conv_layers = (256, 256, 256, 256)
    heads = _LabelMapRoIHeads(
        PyramidPooling(list(levels.values()), output_size=7),
        FastRCNNConvFCHead((256, 7, 7), conv_layers, [1024], norm_layer=norm) if v2 else TwoMLPHead(256 * 7 * 7, 1024),
        _BoxPredictor(1024, classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.box_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=predict.score_threshold,
        nms_thresh=predict.nms_iou,
        detections_per_img=predict.max_detections,
        mask_roi_pool=PyramidPooling(list(levels.values()), output_size=14),
        mask_head=_MaskHead(256, conv_layers, dilation=1, norm_layer=norm),
        mask_predictor=_MaskPredictor(256, 256, classes + 1),
    )
    heads.fg_bg_sampler = BalancedSampler(config.box_samples, 0.25)
    heads.box_coder = OffsetCoder((10.0, 10.0, 5.0, 5.0))
    transform = ImageTransform(config.image_min_side, config.image_max_side, IMAGENET_MEAN, IMAGENET_STD)
    model = MaskRCNN(backbone, rpn, heads, transform)
    model.traits = traits
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm):
            module.eps = traits.norm_eps
    if traits.stride_in_1x1:
        _stride_in_1x1(model)
    return model


def _load(model: MaskRCNN, weights: BaseWeights, config: ModelConfig) -> None:
    """Copy pretrained weights into the model, or into its backbone where they are a ResNet's."""
    unwanted = CLASS_LAYERS if weights.whole else ("fc.",)
    place = model if weights.whole else model.backbone.body
    tensors = {
        # A copy: shared arrays are read-only, which torch does not know.
        name: torch.from_numpy(np.array(value))
        for name, value in weights.tensors.items()
        if not name.startswith(unwanted)
    }
    misfit = f"{weights.name} does not fit model.detector {config.detector} with model.backbone {config.backbone}"
    way_out = "name the weights of this network, or set model.weights to auto or none"
    try:
        loaded = place.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # sizes that differ: one line each, after a headline
        raise WeightsError(f"{misfit}: {str(error).splitlines()[1].strip().rstrip('.')}; {way_out}") from None
    missing = [
        name for name in loaded.missing_keys if not (name.startswith(unwanted) or name.endswith("num_batches_tracked"))
    ]
    if missing:
        raise WeightsError(f"{misfit}: it lacks {first_names(missing)}; {way_out}")
    if loaded.unexpected_keys:
        raise WeightsError(f"{misfit}: the model has no {first_names(loaded.unexpected_keys)}; {way_out}")


def _stride_in_1x1(model: MaskRCNN) -> None:
    """Move the stride of each stage from the 3x3 convolution to the 1x1 before it, as in Keras and the first ResNet."""
    for stage in ("layer2", "layer3", "layer4"):
        bottleneck = model.backbone.body[stage][0]
        bottleneck.conv1.stride, bottleneck.conv2.stride = (2, 2), (1, 1)


def _freeze(model: MaskRCNN, config: ModelConfig) -> None:
    """Let only the last stages train, whatever the weights came from: torchvision does so only for its own."""
    trained = STAGES[: config.trainable_layers]
    for name, module in model.backbone.body.named_children():
        module.requires_grad_(name in trained or (name == "bn1" and "conv1" in trained))
    model.backbone.fpn.requires_grad_(config.trainable_fpn)
