import re
import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection import backbone_utils, mask_rcnn, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.roi_heads import paste_masks_in_image as mask_rcnn_paste
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.operations import Counter
from core.backbones import BACKBONES
from core.config import ModelConfig, PredictConfig
from core.detectors import DETECTORS
from core.errors import WeightsError
from core.labels import label_maps as masks
from core.network.balanced import BalancedSampler, Draws
from core.network.build import build_detector, restore_detector
from core.network.detectors import IMAGENET_MEAN
from core.network.frozen_norm import FrozenBatchNorm
from core.network.mask_rcnn import MaskRCNN
from core.network.roi_heads import MaskBranch
from core.network.truths import Truths
from core.network.weights import FILE_WITHOUT_EPSILON, BaseWeights, WeightsFile, read_weights
from core.sample import MaskCrop, Target
from tests.core.narrow import CHANNELS, VECTOR, narrowed

CLASSES = 4
RECIPES = ("fpn", "fpn_v2")
"""The detectors that torchvision has."""
RESNETS = [name for name in BACKBONES if name.startswith("res")]
REAL_WEIGHTS = (
    Path(__file__).parents[3].parent / "shared" / "weights" / "resnet50_imagenet_stride1x1_fp16.pth"
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings(**changes: Any) -> ModelConfig:
    small = {
        "backbone": "resnet18",
        "weights": "none",
        "image_min_side": 96,
        "image_max_side": 128,
        "proposals_train": 64,
        "proposals_test": 64,
        "box_samples": 32,
        "rpn_samples": 32,
    }
    return ModelConfig(**small | changes)


def build(
    config: ModelConfig,
    weights: BaseWeights | None = None,
    predict: PredictConfig | None = None,
    wide: bool = False,
) -> MaskRCNN:
    """A detector whose pyramid and heads have few channels, or those of torchvision's."""
    torch.manual_seed(0)
    with nullcontext() if wide else narrowed(body=False):
        network = build_detector(config, CLASSES, weights, predict or PredictConfig())
    assert isinstance(network, MaskRCNN)
    return network


@cache
def resnet_weights(backbone: str, seed: int = 0, stride_in_1x1: bool = False) -> BaseWeights:
    """A plain ResNet with statistics that a training could have left."""
    torch.manual_seed(seed)
    network = getattr(models, backbone)()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return BaseWeights("resnet.pth", "0" * 64, stride_in_1x1, arrays_of(network))


def arrays_of(network: nn.Module) -> dict[str, np.ndarray]:
    """A state dict as Ray hands it out: read-only arrays."""
    tensors = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    for array in tensors.values():
        array.flags.writeable = False
    return tensors


def torchvision_model(
    config: ModelConfig, frozen_norm: bool = False, classes: int = CLASSES, wide: bool = False
) -> nn.Module:
    """The oracle: torchvision's own Mask R-CNN, put together as its two builders do, with any
    backbone and the channels of `build`.
    """
    v2 = config.detector == "fpn_v2"
    few, vector = (256, 1024) if wide else (CHANNELS, VECTOR)
    body = getattr(models, config.backbone)(
        norm_layer=FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    )
    norm = nn.BatchNorm2d if v2 else None
    backbone = backbone_utils.BackboneWithFPN(
        body,
        {f"layer{number}": str(number - 1) for number in range(1, 5)},
        [body.inplanes // 2**back for back in (3, 2, 1, 0)],
        few,
        norm_layer=norm,
    )
    sizes = tuple((side * config.anchor_scale,) for side in (32, 64, 128, 256, 512))
    network = detection.MaskRCNN(
        backbone,
        rpn_head=rpn.RPNHead(few, 3, conv_depth=2 if v2 else 1),
        box_head=FastRCNNConvFCHead((few, 7, 7), [few] * 4, [vector], norm)
        if v2
        else TwoMLPHead(few * 7**2, vector),
        box_predictor=FastRCNNPredictor(vector, classes + 1),
        mask_head=mask_rcnn.MaskRCNNHeads(few, [few] * 4, 1, norm),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(few, few, classes + 1),
        min_size=config.image_min_side,
        max_size=config.image_max_side,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=config.proposals_train,
        rpn_post_nms_top_n_train=config.proposals_train,
        rpn_pre_nms_top_n_test=config.proposals_test,
        rpn_post_nms_top_n_test=config.proposals_test,
        rpn_batch_size_per_image=config.rpn_samples,
        box_batch_size_per_image=config.box_samples,
        box_detections_per_img=400,
    )
    # Ours has the features of its mask head in this order, whose sums are rounded otherwise.
    network.roi_heads.mask_head.register_forward_pre_hook(
        lambda _, given: (given[0].contiguous(memory_format=torch.channels_last),)
    )
    return network


def scene(
    seed: int, height: int, width: int, instances: int
) -> tuple[torch.Tensor, Target, dict[str, torch.Tensor]]:
    """An image whose instances overlap (two label maps) and touch its border; its target, and
    torchvision's.
    """
    rng = np.random.default_rng(seed)
    label_maps = np.zeros((2, height, width), np.uint16)
    for number in range(1, instances + 1):
        y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
        h, w = rng.integers(4, 40, 2)
        label_maps[number % 2, y : y + h, x : x + w] = number
    labels_N = rng.integers(1, CLASSES + 1, instances)
    target = masks.target_of(label_maps, labels_N, np.zeros(instances, np.bool_))
    full = target.label_maps_LHW[target.maps_N] == target.ids_N[:, None, None]
    image = torch.from_numpy(rng.random((3, height, width), np.float32))
    return (
        image,
        target,
        {"boxes": target.boxes_N4, "labels": target.labels_N, "masks": full.to(torch.uint8)},
    )


def same_draws(network: nn.Module, *inputs: Any) -> Any:
    torch.manual_seed(1)
    return network(*inputs)


# Structure


@pytest.mark.parametrize("detector", RECIPES)
@pytest.mark.parametrize("backbone", RESNETS)
def test_parameters_and_buffers_bear_torchvision_names_and_shapes(
    backbone: str, detector: str
) -> None:
    config = settings(backbone=backbone, detector=detector)
    with torch.device("meta"):
        ours, theirs = build(config, wide=True), torchvision_model(config, wide=True)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


@pytest.mark.parametrize("detector", RECIPES)
def test_the_network_of_resnet50_is_the_one_that_torchvision_published_weights_for(
    detector: str,
) -> None:
    published = models.get_model_weights(f"maskrcnn_resnet50_{detector}").COCO_V1.meta
    config = settings(backbone="resnet50", detector=detector)
    with torch.device("meta"):
        ours = build_detector(config, len(published["categories"]) - 1, None, PredictConfig())
        theirs = models.get_model(
            f"maskrcnn_resnet50_{detector}", weights=None, weights_backbone=None
        )
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    convolutions_and_heads = sum(value.numel() for value in ours.parameters())
    of_frozen_norm = 0
    if (
        detector == "fpn"
    ):  # with weights the backbone's norm has buffers, which nobody counts as parameters
        norms = [
            module for module in ours.backbone.body.modules() if isinstance(module, nn.BatchNorm2d)
        ]
        of_frozen_norm = sum(2 * module.num_features for module in norms)
    assert convolutions_and_heads - of_frozen_norm == published["num_params"]


def test_each_setting_that_was_given_is_the_one_that_is_applied() -> None:
    config = settings(
        anchor_scale=0.5, proposals_train=50, proposals_test=20, rpn_samples=40, box_samples=24
    )
    predict = PredictConfig(score_threshold=0.22, nms_iou=0.3, max_detections=5)
    network = build(config, predict=predict)
    assert network.rpn.anchors.sides == (16.0, 32.0, 64.0, 128.0, 256.0)
    image, target, _ = scene(0, 100, 150, 12)
    seen: dict[str, Any] = {}

    def watch(module: nn.Module, args: Any) -> None:
        seen[module._get_name() + str(module.training)] = args

    for part in (network.backbone, network.roi_heads.box_head):
        part.register_forward_pre_hook(watch)
    draws: list[int] = []
    sampler = network.rpn.sampler
    network.rpn.sampler = lambda labels: (
        draws.append(sampler.batch_size_per_image) or sampler(labels)
    )
    network.losses([image], [target])
    assert seen["PyramidBackboneTrue"][0].shape == (
        1,
        3,
        96,
        128,
    )  # 100 x 150: the longer side is brought to 128
    assert seen["TwoMLPHeadTrue"][0].shape[0] == 24
    assert draws == [40]
    found = network.eval().detect([image])[0]
    assert seen["TwoMLPHeadFalse"][0].shape[0] == 20
    assert 0 < len(found.scores_N) <= 5
    assert found.scores_N.min() > 0.22
    torch.manual_seed(0)
    network.train()
    batch = network.transform([image])
    proposals, _ = network.rpn(batch, network.backbone(batch.images_B3HW), [target.boxes_N4])
    assert len(proposals[0]) == 50


def test_the_smallest_anchors_that_settings_allow_have_an_area() -> None:
    smallest = build(settings(anchor_scale=0.05)).rpn.anchors.of_cell
    assert all(((anchors[:, 2:] - anchors[:, :2]) > 0).all() for anchors in smallest)


# Losses and detections: torchvision is the oracle


@pytest.mark.parametrize("detector", RECIPES)
def test_losses_and_gradients_equal_torchvision_on_full_masks(detector: str) -> None:
    config = settings(detector=detector, anchor_scale=0.5, box_samples=16)
    ours, theirs = build(config), torchvision_model(config)
    theirs.load_state_dict(ours.state_dict())
    ours.requires_grad_(True).train()  # torchvision's has no frozen stages here
    theirs.train()
    scenes = [scene(0, 90, 120, 9), scene(1, 128, 100, 14), scene(2, 96, 96, 0)]
    images = [image for image, _, _ in scenes]
    losses = same_draws(ours.losses, images, [target for _, target, _ in scenes])
    expected = same_draws(theirs, images, [target for _, _, target in scenes])
    assert losses.keys() == expected.keys()
    assert all(value > 0 for value in expected.values())
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), abs=1e-6), name
    torch.stack(list(losses.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        torch.testing.assert_close(value.grad, gradients[name].grad, atol=1e-4, rtol=1e-3, msg=name)


class TorchvisionsDraws(BalancedSampler):
    """Draws torchvision's, with the same numbers, into slots."""

    def fixed(self, labels_BA: torch.Tensor) -> Draws:
        slots, positives = self.batch_size_per_image, self.most_positives
        images, candidates = labels_BA.shape
        places_BS = torch.zeros(images, slots, dtype=torch.int64)
        weight_BS, is_positive_BS = torch.zeros(images, slots), torch.zeros(images, slots)
        for image, one in enumerate(self(labels_BA)):
            drawn = torch.cat([one.positive_P, one.negative_Q])
            places_BS[image, : len(drawn)] = drawn
            weight_BS[image, : len(drawn)] = 1
            is_positive_BS[image, : len(one.positive_P)] = 1
        first = torch.arange(images)[:, None]
        return Draws(
            (places_BS + candidates * first).flatten(),
            weight_BS.flatten(),
            (slots * first + torch.arange(positives)).flatten(),
            is_positive_BS[:, :positives].flatten(),
            (positives,) * images,
        )


@pytest.mark.parametrize(
    ("detector", "changes", "instances"),
    [
        *((detector, {}, (9, 14, 0)) for detector in DETECTORS),
        *(("fpn_v2", {}, instances) for instances in ((0, 0), (40, 1))),
        ("cascade", {}, (0, 0)),
        ("fpn_v2", {"norm": "group"}, (9, 14, 0)),
        ("fpn", {"size_jitter": 0.3}, (40, 1)),
    ],
)
def test_both_forms_of_a_step_have_the_same_losses_and_gradients_for_the_same_draws(
    detector: str, changes: dict[str, Any], instances: tuple[int, ...]
) -> None:
    """fpn_v2 has batch norm in its heads, which must not see empty slots."""
    network = build(settings(detector=detector, anchor_scale=0.5, box_samples=48, **changes))
    for part in (network.rpn, network.roi_heads):
        part.sampler = TorchvisionsDraws(
            part.sampler.batch_size_per_image, part.sampler.positive_fraction
        )
    scenes = [scene(seed, 90 + 10 * seed, 120, count) for seed, count in enumerate(instances)]
    images, targets = [image for image, _, _ in scenes], [target for _, target, _ in scenes]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    found = []
    for fixed in (False, True):
        network.load_state_dict(state)
        network.fixed = fixed
        network.zero_grad()
        losses = same_draws(network.losses, images, targets)
        after = torch.rand(1)
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: value.grad for name, value in network.named_parameters()}
        found.append((losses, after, gradients, dict(network.named_buffers())))
    torch.testing.assert_close(*found, rtol=1e-3, atol=2e-5)
    for name, value in found[0][0].items():
        assert value.item() == pytest.approx(found[1][0][name].item(), rel=1e-5, abs=1e-6), name


def optimizer_of(network: MaskRCNN) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [value for value in network.parameters() if value.requires_grad], lr=1e-4
    )


def step_on_meta(network: MaskRCNN, images: int, instances: int) -> Counter:
    """A whole training step where nothing is computed, so that nothing can be known."""
    meta = torch.device("meta")
    scenes = [scene(seed, 100, 120, instances) for seed in range(images)]
    pixels = [image.to(meta) for image, _, _ in scenes]
    targets = [target.to(meta) for _, target, _ in scenes]
    optimizer = optimizer_of(network)
    with Counter() as counter:
        losses = network.losses(pixels, targets)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    for name, value in network.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
    return counter


@pytest.mark.parametrize(
    "changes", [{}, {"detector": "fpn_v2", "norm": "group"}, {"size_jitter": 0.3}]
)
def test_a_training_step_on_a_gpu_needs_no_number_that_is_there(changes: dict[str, Any]) -> None:
    """Torch's meta device has no numbers: every operation that needs one raises there, and so does
    every shape that depends on one. A count of waits adds numbers that Python brings.
    """
    network = build(settings(**changes)).to("meta")
    step_on_meta(network, 1, 3)  # what is computed once
    for images, instances in ((2, 0), (2, 40), (3, 3)):
        # Sizes are drawn on the CPU, which is no wait for a GPU, and become numbers of Python.
        drawn = 1 if "size_jitter" in changes else 0
        assert step_on_meta(network, images, instances).waits == drawn
    network.fixed = False
    with pytest.raises(RuntimeError, match=r"[Mm]eta [Tt]ensor"):
        step_on_meta(network, 2, 3)


def test_a_larger_batch_asks_a_gpu_for_hardly_more_operations() -> None:
    network = build(settings()).to("meta")
    step_on_meta(network, 2, 12)
    few, many, crowded = (
        step_on_meta(network, *batch).operations for batch in ((2, 12), (8, 12), (2, 60))
    )
    assert few == crowded
    assert many <= 1.02 * few


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_step_never_waits_for_the_gpu(precision: str) -> None:
    device = torch.device("cuda")
    network = build(settings()).to(device)
    optimizer = optimizer_of(network)
    scenes = [scene(seed, 100, 120, 12) for seed in range(2)]
    images = [image.to(device) for image, _, _ in scenes]
    targets = [target.to(device) for _, target, _ in scenes]

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            losses = network.losses(images, targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("detector", RECIPES)
def test_detections_and_their_pasted_masks_equal_torchvision(detector: str) -> None:
    config = settings(detector=detector, proposals_test=16)
    ours, theirs = build(config).eval(), torchvision_model(config).eval()
    theirs.load_state_dict(ours.state_dict())
    images = [scene(0, 70, 110, 0)[0], scene(1, 128, 100, 0)[0]]
    with torch.no_grad():
        expected = theirs(images)
    for image, found, wanted in zip(images, ours.detect(images), expected, strict=True):
        assert len(wanted["scores"]) > 20
        assert torch.equal(found.boxes_N4, wanted["boxes"])
        assert torch.equal(found.labels_N, wanted["labels"])
        assert torch.equal(found.scores_N, wanted["scores"])
        assert found.mask_probs_NMM.shape == (len(wanted["scores"]), 28, 28)
        height, width = image.shape[1:]
        crops = masks.paste_masks(found.mask_probs_NMM, found.boxes_N4, height, width)
        for crop, full in zip(crops, wanted["masks"][:, 0] > 0.5, strict=True):
            assert np.array_equal(canvas(crop, height, width), full.numpy())


@pytest.mark.parametrize("side", [28, 56])
@pytest.mark.parametrize("fixed", [False, True])
def test_masks_are_learned_and_predicted_at_the_side_that_is_set(side: int, fixed: bool) -> None:
    network = build(settings(mask_side=side, proposals_test=16))
    network.fixed = fixed
    wanted = []
    cut = Truths.mask_targets

    def watched(self: Truths, *arguments: Any) -> torch.Tensor:
        wanted.append(cut(self, *arguments))
        return wanted[-1]

    image, target, _ = scene(0, 90, 120, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Truths, "mask_targets", watched)
        losses = network.losses([image], [target])
    assert wanted[0].shape[1:] == (side, side)
    assert wanted[0].any()
    assert 0 < losses["loss_mask"].item() < 100
    losses["loss_mask"].backward()
    assert all(value.grad is not None for value in network.roi_heads.mask_head.parameters())
    found = network.eval().detect([image])[0]
    assert len(found.boxes_N4) > 0
    assert found.mask_probs_NMM.shape[1:] == (side, side)
    crops = masks.paste_masks(found.mask_probs_NMM, found.boxes_N4, 90, 120)
    full = mask_rcnn_paste(found.mask_probs_NMM[:, None], found.boxes_N4, (90, 120))
    for crop, expected in zip(crops, full[:, 0] > 0.5, strict=True):
        assert np.array_equal(canvas(crop, 90, 120), expected.numpy())


def test_the_weights_of_a_mask_head_do_not_depend_on_the_side_of_its_masks() -> None:
    small, large = (build(settings(mask_side=side)) for side in (28, 56))
    large.load_state_dict(small.state_dict())
    assert {name: value.shape for name, value in small.state_dict().items()} == {
        name: value.shape for name, value in large.state_dict().items()
    }


def canvas(crop: MaskCrop, height: int, width: int) -> np.ndarray:
    full = np.zeros((height, width), np.bool_)
    h, w = crop.pixels.shape
    full[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    return full


@pytest.mark.parametrize("detector", RECIPES)
def test_the_order_in_memory_of_the_mask_heads_features_changes_no_more_than_rounding(
    detector: str,
) -> None:
    head = build(settings(detector=detector)).eval().roi_heads.mask_head
    features = torch.randn(5, CHANNELS, 14, 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = MaskBranch(head, nn.Identity())(features)
        torch.testing.assert_close(found, head(features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_batch_without_instances_teaches_background(detector: str) -> None:
    network = build(settings(detector=detector))
    image, target, _ = scene(0, 96, 96, 0)
    losses = network.losses([image, image], [target, target])
    assert losses["loss_mask"] == 0
    assert losses["loss_box_reg"] == 0
    assert losses["loss_objectness"] > 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


@pytest.mark.parametrize(
    ("detector", "precision", "layers", "fpn"),
    [
        ("fpn", "fp32", 1, True),
        ("fpn", "bf16", 5, True),
        ("fpn", "bf16", 0, False),
        ("fpn_v2", "fp32", 1, False),
        ("fpn_v2", "bf16", 1, True),
        ("cascade", "bf16", 1, True),
    ],
)
def test_after_any_batch_each_parameter_that_trains_has_a_gradient(
    detector: str, precision: str, layers: int, fpn: bool
) -> None:
    """AdamW leaves out what has none: such a weight does not decay, and its moments do not age."""
    network = build(settings(detector=detector, trainable_layers=layers, trainable_fpn=fpn))
    no_proposals = [False, False, False, True]
    for instances, none_proposed in zip(
        [(0, 0), (0, 9), (9, 0), (0, 0)], no_proposals, strict=True
    ):
        scenes = [scene(seed, 64, 80, count) for seed, count in enumerate(instances)]
        network.zero_grad(set_to_none=True)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            pytest.MonkeyPatch.context() as patch,
        ):
            if none_proposed:  # as where objectness is not a number
                patch.setattr(network.rpn, "best", lambda *_: ([torch.zeros(0, 4)] * 2, []))
            losses = network.losses(
                [image for image, _, _ in scenes], [target for _, target, _ in scenes]
            )
        torch.stack(list(losses.values())).sum().backward()
        for name, value in network.named_parameters():
            assert (value.grad is not None) == value.requires_grad, name
            assert value.grad is None or torch.isfinite(value.grad).all(), name
        assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_without_an_instance_gradients_are_torchvisions_zeros_and_not_none() -> None:
    ours, theirs = build(settings()), torchvision_model(settings())
    theirs.load_state_dict(ours.state_dict())
    ours.requires_grad_(True).train()
    theirs.train()
    image, target, full = scene(0, 96, 96, 0)
    for network, wanted in ((ours.losses, target), (theirs, full)):
        torch.stack(list(same_draws(network, [image], [wanted]).values())).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        torch.testing.assert_close(value.grad, expected[name].grad, atol=1e-4, rtol=1e-3, msg=name)
        if name.startswith(("roi_heads.mask", "roi_heads.box_predictor.bbox_pred")):
            assert not value.grad.any()


def test_calling_the_model_gives_losses_in_training_and_detections_in_evaluation() -> None:
    network = build(settings())
    image, target, _ = scene(0, 96, 96, 5)
    losses, called = (
        same_draws(network.losses, [image], [target]),
        same_draws(network, [image], [target]),
    )
    assert losses.keys() == called.keys()
    assert all(torch.equal(called[name], loss) for name, loss in losses.items())
    with pytest.raises(
        AssertionError, match=r"training needs targets; call eval\(\) first to detect"
    ):
        network([image])
    (found,), (expected,) = network.eval()([image]), network.detect([image])
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value)


def test_an_image_without_a_detection_is_no_special_case() -> None:
    network = build(settings(), predict=PredictConfig(score_threshold=0.999)).eval()
    found = network.detect([torch.rand(3, 80, 80)])[0]
    assert found.boxes_N4.shape == (0, 4)
    assert found.mask_probs_NMM.shape == (0, 28, 28)


def test_images_are_normalised_once() -> None:
    network = build(settings(proposals_test=16))
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None].expand(3, 96, 96)
    brighter = mean + torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    target = scene(0, 96, 96, 3)[1]
    network.losses([mean.clone(), brighter], [target, target])
    network.eval().detect([mean.clone(), brighter])
    for batch in seen:
        torch.testing.assert_close(batch[0], torch.zeros(3, 96, 96))
        torch.testing.assert_close(batch[1], torch.ones(3, 96, 96))
    assert len(seen) == 2


# bfloat16


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("detector", DETECTORS)
def test_losses_under_bfloat16_are_float32_and_near_those_without(
    detector: str, fixed: bool
) -> None:
    network = build(settings(detector=detector))
    network.fixed = fixed
    image, target, _ = scene(0, 96, 96, 10)
    exact = same_draws(network.losses, [image], [target])
    with torch.autocast("cpu", torch.bfloat16):
        losses = same_draws(network.losses, [image], [target])
    torch.stack(list(losses.values())).sum().backward()
    for name in ("loss_classifier", "loss_objectness", "loss_rpn_box_reg", "loss_mask"):
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(exact[name].item(), rel=0.2), name
    assert all(
        torch.isfinite(value.grad).all() for value in network.parameters() if value.grad is not None
    )


def test_proposals_keep_their_pixels_under_bfloat16() -> None:
    """Where nothing moves the anchors, proposals are the anchors, to the pixel: bfloat16 holds
    odd ones up to 256.
    """
    network = build(
        settings(image_min_side=400, image_max_side=400, anchor_scale=0.3, proposals_test=3000)
    ).eval()
    for layer in (network.rpn.head.cls_logits, network.rpn.head.bbox_pred):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    batch = network.transform([scene(0, 400, 400, 0)[0]])

    def proposals() -> torch.Tensor:
        with torch.no_grad():
            boxes, _ = network.rpn(batch, network.backbone(batch.images_B3HW))
        return boxes[0]

    exact = proposals()
    assert (exact[:, 2] % 2 == 1).any()
    assert exact[:, 2].max() == 400
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(proposals(), exact)


def test_detections_are_float32_under_bfloat16() -> None:
    network = build(
        settings(proposals_test=20), predict=PredictConfig(score_threshold=0, max_detections=10)
    ).eval()
    for value in network.roi_heads.box_predictor.bbox_pred.parameters():
        nn.init.zeros_(value)
    proposals = []
    network.roi_heads.box_roi_pool.register_forward_pre_hook(
        lambda _, args: proposals.extend(args[1][0].tolist())
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = network.detect([scene(0, 96, 96, 0)[0]])[0]
    assert (
        found.boxes_N4.dtype == found.scores_N.dtype == found.mask_probs_NMM.dtype == torch.float32
    )
    for box in found.boxes_N4:
        assert (torch.tensor(proposals) - box).abs().amax(dim=1).min() < 1e-4  # nothing moved them


# Freezing


def stage_names(trainable_layers: int) -> set[str]:
    """Of the backbone's children, those that train: written out, not computed."""
    return [
        set(),
        {"layer4"},
        {"layer4", "layer3"},
        {"layer4", "layer3", "layer2"},
        {"layer4", "layer3", "layer2", "layer1"},
        {"layer4", "layer3", "layer2", "layer1", "conv1", "bn1"},
    ][trainable_layers]


@pytest.mark.parametrize("source", ["none", "file"])
@pytest.mark.parametrize("detector", RECIPES)
@pytest.mark.parametrize("depth", range(6))
def test_just_the_last_stages_train_wherever_the_weights_come_from(
    depth: int, detector: str, source: str
) -> None:
    weights = resnet_weights("resnet18") if source == "file" else None
    name = "none" if weights is None else "resnet.pth"
    with torch.device("meta" if weights is None else "cpu"):  # nothing is computed
        network = build(settings(detector=detector, trainable_layers=depth, weights=name), weights)
    body = network.backbone.body
    trained = {name.split(".")[0] for name, value in body.named_parameters() if value.requires_grad}
    with_parameters = {name.split(".")[0] for name, _ in body.named_parameters()}
    assert with_parameters >= {"conv1", "layer1", "layer2", "layer3", "layer4"}
    assert trained == stage_names(depth) & with_parameters
    for stage in stage_names(depth):
        assert all(value.requires_grad for value in body.get_submodule(stage).parameters())
    others = [
        value for name, value in network.named_parameters() if not name.startswith("backbone.body.")
    ]
    assert all(value.requires_grad for value in others)
    frozen_norm = [module for module in network.modules() if isinstance(module, FrozenBatchNorm)]
    assert len(frozen_norm) == (
        20 if detector == "fpn" and source == "file" else 0
    )  # resnet18 has 20


@pytest.mark.parametrize("detector", RECIPES)
@pytest.mark.parametrize("depth", range(6))
def test_a_step_moves_all_that_trains_and_not_one_bit_of_what_is_frozen(
    depth: int, detector: str
) -> None:
    weights = resnet_weights("resnet18")
    trainable_fpn = depth % 2 == 1
    config = settings(
        detector=detector,
        trainable_layers=depth,
        trainable_fpn=trainable_fpn,
        weights="resnet.pth",
        image_min_side=64,
        image_max_side=64,
        box_samples=16,
        rpn_samples=4096,  # all anchors, so that every level of the pyramid has a gradient
    )
    network = build(config, weights)
    network.eval()
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pretrained = {name: array.copy() for name, array in weights.tensors.items()}
    optimizer = torch.optim.AdamW(
        [value for value in network.parameters() if value.requires_grad], lr=1e-3
    )
    image, target, _ = scene(0, 64, 64, 8)
    torch.stack(list(network.losses([image], [target]).values())).sum().backward()
    optimizer.step()
    moved = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == network.trained_state().keys()
    frozen_stages = {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"} - stage_names(depth)
    assert not any(
        name.startswith(tuple(f"backbone.body.{stage}." for stage in frozen_stages))
        for name in moved
    )
    assert any(name.startswith("backbone.fpn.") for name in moved) == trainable_fpn
    for stage in frozen_stages:
        for name in (
            name
            for name in pretrained
            if name.startswith(f"{stage}.") and "num_batches" not in name
        ):
            assert np.array_equal(
                network.state_dict()[f"backbone.body.{name}"].numpy(), pretrained[name]
            )
    for name, array in weights.tensors.items():
        assert np.array_equal(
            array, pretrained[name]
        )  # the trial trained a copy, not the shared array


def test_the_trained_state_and_the_base_weights_are_the_model() -> None:
    config, weights = (
        settings(detector="fpn_v2", trainable_layers=2, weights="resnet.pth"),
        resnet_weights("resnet18"),
    )
    trained = build(config, weights)
    optimizer = torch.optim.AdamW(
        [value for value in trained.parameters() if value.requires_grad], lr=1e-3
    )
    image, target, _ = scene(0, 96, 96, 8)
    torch.stack(list(trained.losses([image], [target]).values())).sum().backward()
    optimizer.step()
    again = build(config, weights)
    left = again.load_state_dict(trained.trained_state(), strict=False)
    assert not left.unexpected_keys
    for name, value in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


# Weights


@pytest.mark.parametrize("detector", RECIPES)
@pytest.mark.parametrize("backbone", ["resnet18", "resnext50_32x4d"])
def test_imagenet_weights_fill_the_backbone_and_nothing_else(backbone: str, detector: str) -> None:
    weights = resnet_weights(backbone, seed=3)
    without = {
        name: array
        for name, array in weights.tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    config = settings(backbone=backbone, detector=detector, weights="resnet.pth")
    for tensors in (weights.tensors, without):
        body = build(config, replace(weights, tensors=tensors)).backbone.body.state_dict()
        names = set(without) - {"fc.weight", "fc.bias"}
        assert {name for name in body if not name.endswith("num_batches_tracked")} == names
        assert all(np.array_equal(body[name].numpy(), weights.tensors[name]) for name in names)


@pytest.mark.parametrize("classes", [90, CLASSES])
@pytest.mark.parametrize("detector", RECIPES)
def test_weights_of_a_whole_model_fill_all_but_the_class_layers(
    detector: str, classes: int
) -> None:
    torch.manual_seed(5)
    other = torchvision_model(
        settings(detector=detector), frozen_norm=detector == "fpn", classes=classes
    )
    weights = BaseWeights("coco.pth", "0" * 64, False, arrays_of(other))
    state = build(settings(detector=detector, weights="coco.pth"), weights).state_dict()
    fresh = {
        name
        for name, value in state.items()
        if not np.array_equal(value.numpy(), weights.tensors[name])
    }
    assert fresh == {
        f"roi_heads.{layer}.{kind}"
        for layer in (
            "box_predictor.cls_score",
            "box_predictor.bbox_pred",
            "mask_predictor.mask_fcn_logits",
        )
        for kind in ("weight", "bias")
    }


def test_weights_with_the_names_of_older_torchvision_load() -> None:
    torch.manual_seed(5)
    tensors = arrays_of(torchvision_model(settings(), frozen_norm=True, classes=90))
    renamed = {}
    for name, array in tensors.items():
        old = re.sub(r"(backbone\.fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name).replace(
            "rpn.head.conv.0.0.", "rpn.head.conv."
        )
        old = re.sub(
            r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", old
        )
        renamed[old] = array
    assert len(set(renamed) - set(tensors)) == 26
    weights = BaseWeights(FILE_WITHOUT_EPSILON, "0" * 64, False, renamed, norm_eps=0.0)
    network = build(settings(weights=FILE_WITHOUT_EPSILON), weights)
    for name in (
        "backbone.fpn.inner_blocks.2.0.weight",
        "rpn.head.conv.0.0.bias",
        "roi_heads.mask_head.3.0.weight",
    ):
        assert np.array_equal(network.state_dict()[name].numpy(), tensors[name])
    norms = [module for module in network.modules() if isinstance(module, FrozenBatchNorm)]
    assert {module.eps for module in norms} == {0.0}


def test_read_only_weights_load_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(settings(weights="resnet.pth"), resnet_weights("resnet18"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"backbone": "resnet34"},
            r"resnet\.pth does not fit .*resnet34: it lacks layer1\.2\.conv1\.weight.* and \d+",
        ),
        (
            {"backbone": "resnet50"},
            r"resnet\.pth does not fit .*resnet50: size mismatch for layer1\.0\.conv1\.weight",
        ),
    ],
)
def test_weights_of_another_backbone_are_named_with_their_first_tensors(
    change: dict[str, str], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        build(settings(weights="resnet.pth", **change), resnet_weights("resnet18"))


def test_weights_with_tensors_that_have_no_place_are_named() -> None:
    weights = resnet_weights("resnet34")
    with pytest.raises(
        WeightsError,
        match=r"resnet\.pth does not fit .*: the model has no layer1\.2\.conv1\.weight",
    ):
        build(settings(weights="resnet.pth"), weights)


def test_weights_of_the_other_detector_are_named_with_their_first_tensors() -> None:
    tensors = arrays_of(torchvision_model(settings(), frozen_norm=True))
    with pytest.raises(WeightsError, match=r"coco\.pth does not fit model\.detector fpn_v2"):
        build(
            settings(detector="fpn_v2", weights="coco.pth"),
            BaseWeights("coco.pth", "0" * 64, False, tensors),
        )


# The norm of pyramid and heads


@cache
def whole_weights() -> BaseWeights:
    """fpn_v2 with statistics that a training could have left, as COCO's file has them."""
    torch.manual_seed(5)
    network = torchvision_model(settings(detector="fpn_v2"), classes=90)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return BaseWeights("coco.pth", "0" * 64, False, arrays_of(network))


def v2(norm: str) -> ModelConfig:
    return settings(detector="fpn_v2", norm=norm, weights="coco.pth", proposals_test=20)


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def of_classes(name: str) -> bool:
    return name.startswith(("roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits"))


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_pretrained_weights_of_a_whole_fpn_v2_fill_every_norm_that_has_a_place_for_them(
    norm: str,
) -> None:
    weights = whole_weights()
    state = build(v2(norm), weights).state_dict()
    for name, value in state.items():
        if not of_classes(name):
            assert np.array_equal(value.numpy(), weights.tensors[name]), name
    missing = {
        name for name in weights.tensors if name not in state and "num_batches_tracked" not in name
    }
    if norm == "frozen":
        assert not missing
    else:
        assert all(name.endswith(STATISTICS) for name in missing)
        assert {name.split(".")[0] for name in missing} == {"backbone", "roi_heads"}
        assert not any(name.startswith("backbone.body") for name in missing)


def test_in_evaluation_frozen_norm_is_batch_norm() -> None:
    image = scene(0, 96, 96, 0)[0]
    one, other = (build(v2(norm), whole_weights()).eval() for norm in ("frozen", "batch"))
    (found,), (wanted,) = one.detect([image]), other.detect([image])
    assert len(found.scores_N) > 10
    torch.testing.assert_close(vars(found), vars(wanted), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_without_batch_norm_an_image_is_seen_alike_whatever_is_beside_it(norm: str) -> None:
    network = build(v2(norm), whole_weights()).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    images = torch.stack([scene(seed, 96, 96, 0)[0] for seed in (0, 1)])
    both, alone = network.backbone(images), network.backbone(images[:1])
    for level, of_one in zip(both, alone, strict=True):
        torch.testing.assert_close(level[:1], of_one, rtol=1e-4, atol=1e-5)
    boxes = torch.randn(6, CHANNELS, 7, 7)
    head = network.roi_heads.box_head
    torch.testing.assert_close(head(boxes)[:2], head(boxes[:2]), rtol=1e-4, atol=1e-5)


def test_a_step_moves_group_norm_and_no_frozen_norm() -> None:
    for norm in ("frozen", "group"):
        network = build(v2(norm), whole_weights())
        before = {name: value.clone() for name, value in network.state_dict().items()}
        image, target, _ = scene(0, 96, 96, 8)
        torch.stack([*network.losses([image], [target]).values()]).sum().backward()
        optimizer_of(network).step()
        moved = {
            name for name, value in network.state_dict().items() if not value.equal(before[name])
        }
        assert moved == network.trained_state().keys()
        assert ("roi_heads.mask_head.0.1.weight" in moved) == (norm == "group")


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_a_network_is_restored_with_the_norm_that_it_had(norm: str) -> None:
    network = build(v2(norm), whole_weights()).eval()
    predict = PredictConfig()
    with narrowed(body=False):
        again = restore_detector(v2(norm), CLASSES, network.traits, predict, network.state_dict())
    image = scene(0, 96, 96, 0)[0]
    (found,), (wanted,) = again.detect([image]), network.detect([image])
    torch.testing.assert_close(vars(found), vars(wanted), rtol=0, atol=0)


def test_frozen_norm_of_a_backbone_alone_is_refused() -> None:
    config = settings(detector="fpn_v2", norm="frozen", weights="resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet\.pth is a backbone alone; name a whole fpn_v2"):
        build(config, resnet_weights("resnet18"))
    body = build(settings(detector="fpn_v2", norm="group", weights="resnet.pth"), resnet_weights(
        "resnet18")).backbone.body  # fmt: skip
    assert sum(isinstance(module, FrozenBatchNorm) for module in body.modules()) == 20


# The stride of a bottleneck


def strided_outside(tensors: dict[str, np.ndarray], images: torch.Tensor) -> list[torch.Tensor]:
    """The oracle: a 1x1 convolution with stride 2 is one without stride, of every second pixel.

    So this is torchvision's ResNet with all strides taken out of its stages, and every second pixel
    taken before each.
    """
    network = models.resnet50()
    network.load_state_dict(
        {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, strict=False
    )
    network.eval()
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    features = []
    for number, stage in enumerate(
        (network.layer1, network.layer2, network.layer3, network.layer4)
    ):
        if number:
            stage[0].conv2.stride = stage[0].downsample[0].stride = (1, 1)
            x = x[:, :, ::2, ::2]
        x = stage(x)
        features.append(x)
    return features


def check_stride(weights: BaseWeights, config: ModelConfig) -> None:
    body = build(config, weights).eval().backbone.body
    torch.manual_seed(2)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = body(images), strided_outside(dict(weights.tensors), images)
    for level, feature in enumerate(expected):
        torch.testing.assert_close(found[level], feature, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("by", ["setting", "declaration"])
def test_the_stride_in_the_1x1_convolution_takes_every_second_pixel(by: str) -> None:
    weights = resnet_weights("resnet50", stride_in_1x1=by == "declaration")
    check_stride(
        weights, settings(backbone="resnet50", weights="a.pth", stride_in_1x1=by == "setting")
    )


def test_without_a_declaration_the_stride_is_torchvision_s() -> None:
    with pytest.raises(AssertionError, match="not close"):
        check_stride(resnet_weights("resnet50"), settings(backbone="resnet50", weights="a.pth"))


@pytest.mark.skipif(not REAL_WEIGHTS.exists(), reason=f"{REAL_WEIGHTS} is not there")
def test_real_weights_load_and_stride_as_they_were_trained() -> None:
    weights = read_weights(WeightsFile(REAL_WEIGHTS, "file"))
    check_stride(
        weights, settings(backbone="resnet50", weights=str(REAL_WEIGHTS), stride_in_1x1=True)
    )
