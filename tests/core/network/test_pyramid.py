"""Laws of every backbone of the table, under its pyramid: torchvision's own network is the oracle."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import StochasticDepth

from core.backbones import BACKBONES
from core.config import TrialConfig
from core.data.dataset import Category
from core.network.build import build_detector
from core.network.frozen_norm import FrozenBatchNorm
from core.network.mask_rcnn import MaskRCNN
from core.network.pyramid import LEVEL_EPS, pyramid_backbone
from core.network.weights import BaseWeights
from core.prediction import trained_model
from core.prediction.trained_model import TrainedModel
from core.sample import Target
from core.training import checkpoint
from tests.core.narrow import narrowed
from tests.core.network.test_mask_rcnn import arrays_of, scene, step_on_meta

CLASSES = tuple(Category(number, f"class {number}") for number in range(1, 5))
WITH_LAYER_NORM = [name for name, row in BACKBONES.items() if row.norm == "layer"]
SMALL = {
    "model.image_min_side": 64, "model.image_max_side": 64, "model.proposals_train": 32,
    "model.proposals_test": 16, "model.box_samples": 16,
    "model.rpn_samples": 4096,  # all anchors, so that every level of the pyramid has a gradient
    "predict.score_threshold": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread_and_few_channels() -> Iterator[None]:
    """Few channels of pyramid and heads; the backbones are torchvision's."""
    torch.set_num_threads(1)
    with narrowed(body=False):
        yield


@dataclass(frozen=True)
class Started:
    """A detector whose backbone began with a classifier's random numbers, and both."""

    name: str
    config: TrialConfig
    classifier: nn.Module
    weights: BaseWeights
    network: MaskRCNN


def classifier_of(name: str) -> nn.Module:
    """Torchvision's network with numbers that a training could have left."""
    torch.manual_seed(0)
    classifier: nn.Module = models.get_model(name)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    for parameter_name, value in classifier.named_parameters():
        if parameter_name.endswith("layer_scale"):  # ConvNeXt's blocks begin as nearly nothing
            nn.init.constant_(value, 0.5)
    return classifier


OTHERS = ("resnet34", "resnet50", "resnet101", "resnext50_32x4d", "convnext_small", "swin_s")
"""Backbones whose layers are of the kinds of another one; one of each kind is in every run."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.long if name in OTHERS else ()) for name in BACKBONES
    ],
)
def started(request: pytest.FixtureRequest) -> Started:
    """Each backbone in turn; the tests change its network one after the other."""
    name = request.param
    classifier = classifier_of(name)
    weights = BaseWeights("random.pth", "0" * 64, False, arrays_of(classifier))
    settings = {**SMALL, "model.backbone": name, "model.weights": "random.pth"}
    config = TrialConfig.from_settings(settings)
    network = build_detector(config.model, len(CLASSES), weights, config.predict)
    assert isinstance(network, MaskRCNN)
    return Started(name, config, classifier, weights, network)


def levels_of_torchvision(
    name: str, classifier: nn.Module, images: torch.Tensor, train: bool = False
) -> list[torch.Tensor]:
    """The levels of torchvision's own network; the oracle."""
    row = BACKBONES[name]
    extractor = create_feature_extractor(
        classifier, {layer: str(level) for level, layer in enumerate(row.levels)}
    )
    with torch.no_grad():
        found = list(extractor.train(train)(images).values())
    if row.axes == "BHWF":
        found = [level.permute(0, 3, 1, 2) for level in found]
    if row.norm == "layer":
        found = [
            functional.layer_norm(level.permute(0, 2, 3, 1), level.shape[1:2], eps=LEVEL_EPS)
            .permute(0, 3, 1, 2)
            for level in found
        ]  # fmt: skip
    return found


def test_the_levels_are_those_of_torchvisions_network_with_the_same_weights(
    started: Started,
) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = levels_of_torchvision(started.name, started.classifier, images)
    body = started.network.eval().backbone.body
    with torch.no_grad():
        found = body(images)
    assert_alike(found, expected)
    norms = [module for module in body.modules() if isinstance(module, FrozenBatchNorm)]
    assert bool(norms) == (BACKBONES[started.name].norm == "batch")
    with torch.no_grad():
        in_the_order_of_a_gpu = body.to(memory_format=torch.channels_last)(
            images.contiguous(memory_format=torch.channels_last)
        )
        body.to(memory_format=torch.contiguous_format)
    assert_alike(in_the_order_of_a_gpu, expected)


def assert_alike(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Levels are equal to rounding, which grows with their own size: deep networks make them large."""
    for level, wanted in zip(found, expected, strict=True):
        size = wanted.std()
        torch.testing.assert_close(level / size, wanted / size, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_at_each_depth_just_the_last_stages_of_the_table_train_and_the_others_rest(
    name: str,
) -> None:
    row = BACKBONES[name]
    config = TrialConfig.from_settings({**SMALL, "model.backbone": name, "model.weights": "none"})
    with torch.device("meta"):  # nothing is computed
        network = build_detector(config.model, len(CLASSES), None, config.predict)
    body = network.get_submodule("backbone.body")
    numbers = []
    for depth in range(6):
        network.freeze(depth, pyramid=depth % 2 == 0)
        network.eval()
        network.train()
        trains = {one for one, value in body.named_parameters() if value.requires_grad}
        in_stages = tuple(f"{layer}." for stage in row.stages[:depth] for layer in stage)
        assert trains == {one for one, _ in body.named_parameters() if one.startswith(in_stages)}
        numbers.append(len(trains))
        drawn = [
            (one, module.training)
            for one, module in body.named_modules()
            if isinstance(module, StochasticDepth)
        ]
        assert bool(drawn) == (row.norm == "layer")
        assert all(training == one.startswith(in_stages) for one, training in drawn)
        for one, value in network.named_parameters():
            if not one.startswith("backbone.body."):
                in_pyramid = one.startswith("backbone.fpn.")
                assert value.requires_grad == (depth % 2 == 0 or not in_pyramid), one
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == len([*body.parameters()])


@pytest.fixture(scope="module")
def example() -> tuple[torch.Tensor, Target]:
    image, target, _ = scene(0, 64, 64, 8)
    return image, target


@pytest.mark.parametrize(
    "depth",
    [pytest.param(one, marks=pytest.mark.long if one in (1, 3, 4) else ()) for one in range(6)],
)
def test_a_step_moves_just_what_trains_and_what_is_saved_of_it_restores_it_to_the_bit(
    started: Started, depth: int, example: tuple[torch.Tensor, Target], tmp_path: Path
) -> None:
    network = started.network
    network.freeze(depth, pyramid=True)
    network.train()
    network.zero_grad(set_to_none=True)
    before = copy.deepcopy(network)
    image, target = example
    for module in network.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # a block that is left out moves by its decay alone
    losses = network.losses([image, image], [target, target])
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    assert torch.isfinite(loss)
    for name, value in network.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        assert value.grad is None or value.grad.isfinite().all(), name
    trained = [value for value in network.parameters() if value.requires_grad]
    torch.optim.AdamW(trained, lr=1e-3).step()
    saved = network.trained_state()
    unmoved = before.state_dict()
    moved = {
        name
        for name, value in network.state_dict().items()
        if not torch.equal(value, unmoved[name])
    }
    assert moved == saved.keys()
    checkpoint.save_checkpoint(tmp_path / "trained.safetensors", saved, {})
    tensors, _ = checkpoint.load_checkpoint(tmp_path / "trained.safetensors")
    before.load_state_dict(tensors, strict=False)
    restored = before.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(restored[name], value), name


def test_the_stages_that_are_frozen_draw_nothing(started: Started) -> None:
    """The levels of frozen stages are the same in each pass, those of the others are not."""
    network = started.network
    network.freeze(1, pyramid=True)
    body = network.train().backbone.body
    drawn = [module for module in body.modules() if isinstance(module, StochasticDepth)]
    for module in drawn:
        module.p = 0.5
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        one, other = body(images), body(images)
    same = [torch.equal(before, after) for before, after in zip(one, other, strict=True)]
    assert same == [True, True, True, not drawn]


def test_a_saved_model_detects_the_same_to_the_bit(
    started: Started, example: tuple[torch.Tensor, Target], tmp_path: Path
) -> None:
    trained = TrainedModel(started.config, CLASSES, started.network.eval(), None)
    trained_model.save(tmp_path, trained)
    again = trained_model.load(tmp_path, "cpu")
    assert again.model.traits == started.network.traits
    state = again.model.state_dict()
    for name, value in started.network.state_dict().items():
        assert torch.equal(state[name], value), name
    (found,), (expected,) = (one.detect([example[0]]) for one in (again.model, started.network))
    assert len(expected.boxes_N4) > 0
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value), name
        assert torch.isfinite(value).all(), name


# Blocks that are left out at random, and layer norm


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
def test_in_training_blocks_are_left_out_as_torchvision_draws_it(name: str) -> None:
    classifier = classifier_of(name)
    body = pyramid_backbone(name, nn.BatchNorm2d, None, stride_in_1x1=False).body
    body.load_state_dict(classifier.state_dict(), strict=False)
    images = torch.randn(6, 3, 32, 32)
    torch.manual_seed(1)
    with torch.no_grad():
        found = body.train()(images)
    torch.manual_seed(1)
    expected = levels_of_torchvision(name, classifier, images, train=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(body.eval()(images)[3], found[3], atol=1e-3)


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t", "mobilenet_v3_large"])
def test_levels_under_bfloat16_are_near_those_in_float32(name: str) -> None:
    torch.manual_seed(0)
    backbone = pyramid_backbone(name, nn.BatchNorm2d, None, stride_in_1x1=False).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = backbone(images)
    for level, expected in zip(found, exact, strict=True):
        assert level.dtype == torch.float32
        assert (level - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t", "mobilenet_v3_large"])
def test_a_step_on_a_gpu_needs_no_number_that_is_there(name: str) -> None:
    """As in `test_mask_rcnn`, with the layers of another backbone."""
    config = TrialConfig.from_settings(
        {**SMALL, "model.backbone": name, "model.weights": "none", "model.trainable_layers": 5}
    )
    with torch.device("meta"):
        network = build_detector(config.model, len(CLASSES), None, config.predict)
    assert isinstance(network, MaskRCNN)
    step_on_meta(network, 1, 3)  # what is computed once
    assert step_on_meta(network, 2, 12).waits == 0


@pytest.mark.parametrize("name", WITH_LAYER_NORM)
def test_a_classifiers_weights_fill_all_but_the_norms_of_the_levels(name: str) -> None:
    with torch.device("meta"):
        body = pyramid_backbone(name, nn.BatchNorm2d, None, stride_in_1x1=False).body
        of_classifier = models.get_model(name).state_dict()
    own = body.state_dict().keys()
    assert {one for one in own if one not in of_classifier} == {
        f"level_norms.{level}.{kind}" for level in range(4) for kind in ("weight", "bias")
    }
    left_out = {one for one in of_classifier if one not in own}
    assert all(one.startswith(BACKBONES[name].head) for one in left_out)
    assert len(left_out) >= 2


@pytest.mark.long
def test_gradients_of_a_new_convnext_overflow_in_fp16_and_not_where_padding_is_no_zeros(
    example: tuple[torch.Tensor, Target],
) -> None:
    """The settings therefore refuse the first, and pretrained weights, which have biases, may be used."""
    image, target = example
    settings = {**SMALL, "model.backbone": "convnext_tiny", "model.weights": "none",
                "model.trainable_layers": 5, "model.image_min_side": 48}  # fmt: skip
    config = TrialConfig.from_settings(settings)
    torch.manual_seed(0)
    network = build_detector(config.model, len(CLASSES), None, config.predict)

    def overflows(scale: float) -> bool:
        network.zero_grad()
        network.loss_scale = torch.tensor(scale)
        with torch.autocast("cpu", torch.float16):
            losses = network.losses([image[:, :48, :40]], [target])
        (torch.stack(list(losses.values())).sum() * scale).backward()
        return not all(value.grad.isfinite().all() for value in network.backbone.parameters())

    assert overflows(1.0)
    for name, value in network.backbone.body.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(value, 0, 0.1)
    assert not overflows(2.0**16)
