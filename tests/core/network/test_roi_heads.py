"""Laws of the heads in stages: a cascade of one stage is Mask R-CNN."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou, clip_boxes_to_image

from core.config import ModelConfig, PredictConfig, TrialConfig
from core.data.dataset import Category
from core.network import roi_heads
from core.network.box_coding import OffsetCoder
from core.network.build import build_detector
from core.network.detector import Traits
from core.network.detectors import CASCADE
from core.network.mask_rcnn import MaskRCNN
from core.network.roi_heads import NOT_DRAWN, BoxStage
from core.network.weights import BaseWeights
from core.prediction import trained_model
from core.prediction.trained_model import TrainedModel
from tests.core.narrow import narrowed
from tests.core.network.test_mask_rcnn import (
    CLASSES,
    arrays_of,
    build,
    optimizer_of,
    same_draws,
    scene,
    settings,
    step_on_meta,
)

TINY: dict[str, Any] = {
    "anchor_scale": 0.5, "image_min_side": 64, "image_max_side": 64, "proposals_test": 16,
}  # fmt: skip
TRAITS = Traits(frozen_norm=False, norm_eps=1e-5, stride_in_1x1=False)
SCENES = [scene(0, 64, 80, 9), scene(1, 80, 64, 14), scene(2, 64, 64, 0)]
IMAGES = [image for image, _, _ in SCENES]
TARGETS = [target for _, target, _ in SCENES]


@pytest.fixture(autouse=True)
def _one_thread_and_few_channels() -> Iterator[None]:
    torch.set_num_threads(1)
    with narrowed(body=False):
        yield


def in_stages(*stages: Callable[[nn.Module, nn.Module], BoxStage], **changes: Any) -> MaskRCNN:
    """The cascade with other stages."""
    torch.manual_seed(0)
    config = settings(detector="cascade", **TINY, **changes)
    builder: Any = CASCADE.build
    with narrowed(body=False):
        network = builder(config, CLASSES, PredictConfig(), TRAITS, stages=stages)
    network.freeze(5, pyramid=True)
    assert isinstance(network, MaskRCNN)
    return network.train()


def total(network: MaskRCNN) -> dict[str, torch.Tensor]:
    network.zero_grad()
    losses = same_draws(network.losses, IMAGES, TARGETS)
    torch.stack(list(losses.values())).sum().backward()
    return losses


@pytest.mark.parametrize("fixed", [False, True])
def test_one_stage_is_mask_rcnn_whose_classes_share_their_offsets(fixed: bool) -> None:
    one = in_stages(BoxStage)
    mask_rcnn = build(settings(**TINY, trainable_layers=5))
    offsets = "roi_heads.box_predictor.bbox_pred."
    mask_rcnn.load_state_dict(
        {
            name: value.repeat(CLASSES + 1, *[1] * (value.dim() - 1))
            if name.startswith(offsets)
            else value
            for name, value in one.state_dict().items()
        }
    )
    one.fixed = mask_rcnn.fixed = fixed
    found, expected = total(one), total(mask_rcnn)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = dict(mask_rcnn.named_parameters())
    for name, value in one.named_parameters():
        wanted = gradients[name].grad
        if name.startswith(offsets):
            wanted = wanted.unflatten(0, (CLASSES + 1, -1)).sum(dim=0)
        torch.testing.assert_close(value.grad, wanted, rtol=1e-3, atol=1e-5, msg=name)
    if fixed:
        return  # a detection has one form
    for network in (one, mask_rcnn):
        network.eval()
    for ours, theirs in zip(one.detect(IMAGES), mask_rcnn.detect(IMAGES), strict=True):
        torch.testing.assert_close(vars(ours), vars(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fixed", [False, True])
def test_stages_that_refine_nothing_and_are_alike_are_one_stage(fixed: bool) -> None:
    """Boxes stay where they are, so that all stages learn and say the same; losses have weights."""
    alike = in_stages(*(partial(BoxStage, weight=weight) for weight in (1.0, 0.5, 0.25)))
    heads = alike.roi_heads
    for value in heads.box_predictor.bbox_pred.parameters():
        nn.init.zeros_(value)
    for later in heads.later_stages:
        later["box_head"].load_state_dict(heads.box_head.state_dict())
        later["box_predictor"].load_state_dict(heads.box_predictor.state_dict())
    one = in_stages(BoxStage)
    one.load_state_dict(
        {name: value for name, value in alike.state_dict().items() if "later_stages" not in name}
    )
    alike.fixed = one.fixed = fixed
    of_three, of_one = total(alike), total(one)
    for name, times in (("loss_classifier", 1.75), ("loss_box_reg", 1.75), ("loss_mask", 1)):
        assert of_three[name].item() == pytest.approx(times * of_one[name].item(), rel=1e-4)
    if fixed:
        return
    alike.eval()
    one.eval()
    for ours, theirs in zip(alike.detect(IMAGES), one.detect(IMAGES), strict=True):
        torch.testing.assert_close(vars(ours), vars(theirs), rtol=1e-5, atol=1e-4)


def watched(network: MaskRCNN, fixed: bool) -> list[tuple[Any, torch.Tensor]]:
    """What each stage of a step learned, and the offsets that it said."""
    network.fixed = fixed
    seen = []
    losses = roi_heads._losses

    def note(stage: BoxStage, samples: Any, logits: Any, offsets: Any, truths: Any) -> Any:
        seen.append((samples, offsets))
        return losses(stage, samples, logits, offsets, truths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roi_heads, "_losses", note)
        same_draws(network.losses, IMAGES, TARGETS)
    return seen


@pytest.mark.parametrize("fixed", [False, True])
def test_a_later_stage_learns_what_the_boxes_of_the_stage_before_overlap_enough(
    fixed: bool,
) -> None:
    """Written out for one box after the other, with torchvision's overlaps."""
    network = build(settings(detector="cascade", **TINY, box_samples=48))
    assert [stage.weight for stage in network.roi_heads.stages] == [1.0, 0.5, 0.25]
    seen = watched(network, fixed)
    assert len(seen) == 3
    coders = (OffsetCoder(10, 5), OffsetCoder(20, 10))
    batch = network.transform(IMAGES)
    positives = 0
    for (before, offsets), (after, _), coder, iou in zip(
        seen, seen[1:], coders, (0.6, 0.7), strict=False
    ):
        boxes_S4 = coder.decode(offsets[:, 0].detach(), before.regions_S5[:, 1:])
        learned = dict(
            zip(after.draws.positive_P.tolist(), after.instances_P.tolist(), strict=True)
        )
        for slot, (region_5, box_4) in enumerate(zip(after.regions_S5, boxes_S4, strict=True)):
            image = int(region_5[0])
            assert image == before.regions_S5[slot, 0]
            inside_4 = clip_boxes_to_image(box_4, batch.sizes[image])
            if before.labels_S[slot] == NOT_DRAWN or (inside_4[2:] - inside_4[:2]).min() < 0.01:
                assert after.labels_S[slot] == NOT_DRAWN
                continue
            torch.testing.assert_close(region_5[1:], inside_4)
            truth_N4 = scaled_truth(network, image)
            overlaps_N = box_iou(inside_4[None], truth_N4)[0] if len(truth_N4) else torch.zeros(1)
            if (overlaps_N.max() - iou).abs() < 1e-4:
                continue
            if overlaps_N.max() < iou:
                assert after.labels_S[slot] == 0
                continue
            best = int(overlaps_N.argmax())
            assert after.labels_S[slot] == TARGETS[image].labels_N[best]
            first = 14 * image if fixed else sum(len(one.labels_N) for one in TARGETS[:image])
            assert learned[slot] == first + best
            positives += 1
    assert positives > 10


def scaled_truth(network: MaskRCNN, image: int) -> torch.Tensor:
    """The boxes of an image's instances at the size that the network sees."""
    height, width = IMAGES[image].shape[-2:]
    new_height, new_width = network.transform.size_of(IMAGES[image])
    ratios = torch.tensor([new_width / width, new_height / height] * 2)
    return TARGETS[image].boxes_N4 * ratios


@pytest.mark.parametrize("fixed", [False, True])
def test_gradients_reach_each_stage_and_none_passes_from_one_to_another(fixed: bool) -> None:
    network = build(settings(detector="cascade", **TINY, box_samples=48))
    network.fixed = fixed
    seen = []
    losses = roi_heads._losses

    def note(stage: BoxStage, *arguments: Any) -> Any:
        seen.append(losses(stage, *arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roi_heads, "_losses", note)
        same_draws(network.losses, IMAGES, TARGETS)
    heads = network.roi_heads
    of_stages = [
        [*heads.box_head.parameters(), *heads.box_predictor.parameters()],
        *([*later.parameters()] for later in heads.later_stages),
    ]
    for number, (class_loss, box_loss) in enumerate(seen):
        for stage, parameters in enumerate(of_stages):
            gradients = torch.autograd.grad(
                class_loss + box_loss, parameters, retain_graph=True, allow_unused=True
            )
            reached = [one is not None and bool(one.any()) for one in gradients]
            assert reached == [stage == number] * len(parameters)


def test_scores_are_means_over_the_stages_and_boxes_are_those_of_the_last() -> None:
    network = build(
        settings(detector="cascade", proposals_test=16), predict=PredictConfig(score_threshold=0)
    ).eval()
    said = []
    heads = network.roi_heads
    for predictor in (heads.box_predictor, *(one["box_predictor"] for one in heads.later_stages)):
        predictor.register_forward_hook(lambda _, __, found: said.append(found))
    boxes: list[torch.Tensor] = []
    heads.box_roi_pool.register_forward_pre_hook(lambda _, given: boxes.append(given[1][0]))
    image = IMAGES[0]
    (found,) = network.detect([image])
    assert len(said) == len(boxes) == 3
    mean_KC = sum(logits.softmax(dim=1) for logits, _ in said) / 3
    last_K4 = OffsetCoder(30, 15).decode(said[2][1], boxes[2])
    size = network.transform.size_of(image)
    last_K4 = clip_boxes_to_image(last_K4, size)
    height, width = image.shape[-2:]
    last_K4 = last_K4 * torch.tensor([width / size[1], height / size[0]] * 2)
    assert len(found.boxes_N4) > 10
    for box_4, label, score in zip(found.boxes_N4, found.labels_N, found.scores_N, strict=True):
        proposal = (last_K4 - box_4).abs().amax(dim=1).argmin()
        torch.testing.assert_close(last_K4[proposal], box_4, rtol=1e-4, atol=1e-3)
        assert score.item() == pytest.approx(mean_KC[proposal, label].item(), abs=1e-5)


def test_a_step_of_the_cascade_on_a_gpu_needs_no_number_that_is_there() -> None:
    network = build(settings(detector="cascade")).to("meta")
    step_on_meta(network, 1, 3)
    for images, instances in ((2, 0), (2, 40)):
        assert step_on_meta(network, images, instances).waits == 0


def test_weights_of_mask_rcnn_fill_all_but_the_class_layers_and_each_stage_alike() -> None:
    other = build(settings())
    weights = BaseWeights("coco.pth", "0" * 64, False, arrays_of(other))
    torch.manual_seed(3)
    config = ModelConfig.model_validate(
        {**settings(detector="cascade").model_dump(), "weights": "coco.pth"}
    )
    cascade = build_detector(config, CLASSES, weights, PredictConfig())
    state, given = cascade.state_dict(), other.state_dict()
    fresh = {name for name in state if "predictor.mask_fcn" in name or "box_predictor" in name}
    assert len(fresh) == 2 + 3 * 4
    for name, value in state.items():
        source = name
        for number in (0, 1):
            source = source.replace(f"later_stages.{number}.", "")
        assert name in fresh or torch.equal(value, given[source]), name
        assert (
            name not in fresh
            or value.shape != given[source].shape
            or not torch.equal(value, given[source])
        )


def test_weights_of_a_cascade_fill_each_stage_with_its_own() -> None:
    other = build(settings(detector="cascade"))
    weights = BaseWeights("mine.pth", "0" * 64, False, arrays_of(other))
    torch.manual_seed(3)
    config = ModelConfig.model_validate(
        {**settings(detector="cascade").model_dump(), "weights": "mine.pth"}
    )
    again = build_detector(config, CLASSES, weights, PredictConfig()).state_dict()
    own = {name: value for name, value in other.state_dict().items() if ".box_head." in name}
    assert len(own) == 12
    assert not torch.equal(*(own[f"roi_heads.{one}box_head.fc7.weight"]
                             for one in ("", "later_stages.1.")))  # fmt: skip
    assert all(torch.equal(again[name], value) for name, value in own.items())


def test_a_saved_cascade_detects_the_same_to_the_bit_after_training(tmp_path: Path) -> None:
    config = TrialConfig.from_settings(
        {
            **{f"model.{name}": value for name, value in settings().model_dump().items()},
            "model.rpn_samples": 4096,  # all anchors, so that every level has a gradient
            "model.proposals_test": 16,
            "predict.score_threshold": 0.0,
            "predict.max_detections": 20,
            "model.detector": "cascade",
            "model.mask_side": 56,
        }
    )
    torch.manual_seed(0)
    network = build_detector(config.model, CLASSES, None, config.predict).train()
    assert isinstance(network, MaskRCNN)
    before = copy.deepcopy(network.state_dict())
    total(network)
    optimizer_of(network).step()
    moved = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == network.trained_state().keys()
    assert any("later_stages.1" in name for name in moved)
    classes = tuple(Category(number, f"class {number}") for number in range(1, CLASSES + 1))
    trained_model.save(tmp_path, TrainedModel(config, classes, network.eval(), None))
    again = trained_model.load(tmp_path, "cpu").model
    for found, expected in zip(again.detect(IMAGES), network.detect(IMAGES), strict=True):
        assert len(expected.boxes_N4) > 0
        for name, value in vars(expected).items():
            assert torch.equal(getattr(found, name), value), name
