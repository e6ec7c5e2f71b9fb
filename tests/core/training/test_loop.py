"""Laws of the training batches and of one epoch of training."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from core.augmentations import AUGMENTATIONS
from core.config import TrialConfig
from core.data.dataset import Category, Dataset, assemble
from core.errors import TrialDiverged
from core.network.build import build_detector
from core.network.detector import Detector
from core.prediction.detect import predict
from core.randomness import Purpose, generator
from core.sample import Sample
from core.training.loop import Batch, TrainingBatches, seeded, train_one_epoch
from core.training.optim import Optimization
from tests.core.narrow import narrowed
from tests.core.training.small_detector import SmallDetector

CPU = torch.device("cpu")
ALL_AUGMENTATIONS = {f"augment.{name}": True for name in AUGMENTATIONS}
TINY = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.trainable_layers": 5,
    "model.image_min_side": 64,
    "model.image_max_side": 128,
    "model.proposals_train": 32,
    "model.box_samples": 16,
    "model.rpn_samples": 16,
    "model.anchor_scale": 0.5,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sample(index: int, height: int, width: int, instances: int = 3, crowd: bool = False) -> Sample:
    """An image that tells where it came from: red is the column, green the row, blue the image."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = (
        np.arange(width),
        np.arange(height)[:, None],
        index,
    )
    label_map = np.zeros((1, height, width), np.uint16)
    for number in range(instances):
        top, left = 2 + number * height // 4, 1 + 7 * index % (width // 2)
        label_map[0, top : top + height // 5, left : left + width // 4] = number + 1
        image[label_map[0] == number + 1, 2] = 255 - index
    crowd_N = np.zeros(instances, bool)
    crowd_N[:1] = crowd
    return Sample(f"image-{index}", image, label_map, np.arange(instances) % 2 + 1, crowd_N)


def dataset(*samples: Sample) -> Dataset:
    return assemble("grid", (Category(1, "round"), Category(2, "long")), samples)


SEVEN = dataset(*(sample(index, 64, 60 + 4 * index) for index in range(7)))
PART = (0, 1, 3, 5, 6)


def batches(
    settings: dict[str, Any], data: Dataset = SEVEN, part: Sequence[int] = PART, workers: int = 0
) -> TrainingBatches:
    return TrainingBatches(data, tuple(part), TrialConfig.from_settings(settings), workers)


def index_of(image: torch.Tensor) -> int:
    return int(image[2, 0, 0])


def assert_equal(ones: Sequence[Batch], others: Sequence[Batch]) -> None:
    assert [len(one.images) for one in ones] == [len(other.images) for other in others]
    for one, other in zip(ones, others, strict=True):
        for image, same in zip(one.images, other.images, strict=True):
            assert torch.equal(image, same)
        for target, same_target in zip(one.targets, other.targets, strict=True):
            for value, same in zip(target.tensors, same_target.tensors, strict=True):
                assert torch.equal(value, same)
                assert value.dtype == same.dtype
            assert np.array_equal(target.sides_N2, same_target.sides_N2)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_an_epoch_shows_each_training_image_once_in_batches_of_the_size_set(
    batch_size: int,
) -> None:
    made = batches({"optim.batch_size": batch_size})
    for epoch in (1, 2):
        sizes = [len(batch.images) for batch in made.of_epoch(epoch)]
        assert sizes == [min(batch_size, 5 - start) for start in range(0, 5, batch_size)]
        assert len(made) == len(sizes)
        shown = [index_of(image) for batch in made.of_epoch(epoch) for image in batch.images]
        assert sorted(shown) == list(PART)


def test_the_order_is_the_one_named_by_seed_and_epoch() -> None:
    orders = set()
    for seed, epoch in itertools.product((0, 1), (1, 2, 3)):
        made = batches({"seed": seed}).of_epoch(epoch)
        shown = [index_of(image) for batch in made for image in batch.images]
        assert shown == generator(seed, Purpose.ORDER, epoch).permutation(np.array(PART)).tolist()
        orders.add(tuple(shown))
    assert len(orders) > 3


def test_without_augmentation_the_network_sees_the_pixels_and_labels_that_were_read() -> None:
    for batch in batches({}).of_epoch(1):
        for image, target in zip(batch.images, batch.targets, strict=True):
            read = SEVEN.samples[index_of(image)]
            assert image.dtype == torch.uint8
            np.testing.assert_array_equal(image.numpy(), read.image.transpose(2, 0, 1))
            np.testing.assert_array_equal(target.label_maps_LHW.numpy(), read.label_maps)
            np.testing.assert_array_equal(target.labels_N.numpy(), read.labels_N)


def test_a_batch_shares_no_memory_with_the_data_set() -> None:
    before = [read.image.copy() for read in SEVEN.samples]
    for batch in batches({}).of_epoch(1):
        for image, target in zip(batch.images, batch.targets, strict=True):
            image.zero_()
            target.label_maps_LHW.zero_()
    for read, pixels in zip(SEVEN.samples, before, strict=True):
        np.testing.assert_array_equal(read.image, pixels)
        assert read.label_maps.any()


def test_a_packed_batch_is_the_same_batch_in_one_piece_of_memory() -> None:
    data = dataset(sample(0, 51, 63), sample(1, 64, 37, instances=0), sample(2, 40, 40))
    (batch,) = batches({"optim.batch_size": 3}, data, [0, 1, 2]).of_epoch(1)
    packed = batch.pack()
    assert_equal([packed], [batch])
    assert packed.packed is not None
    memory = packed.packed.untyped_storage().data_ptr()
    assert all(one.untyped_storage().data_ptr() == memory for one in packed.tensors)
    moved = packed.to(torch.device("meta"))
    assert [one.shape for one in moved.tensors] == [one.shape for one in batch.tensors]
    assert all(one.device.type == "meta" for one in moved.tensors)
    packed.packed.zero_()
    assert not any(one.any() for one in packed.tensors)
    assert any(one.any() for one in batch.tensors)


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_change_nothing(workers: int) -> None:
    settings = ALL_AUGMENTATIONS | {"data.crop": 48, "data.repeat_rare": 1, "seed": 3}
    alone, helped = batches(settings), batches(settings, workers=workers)
    for epoch in (1, 2):
        assert_equal(list(alone.of_epoch(epoch)), list(helped.of_epoch(epoch)))


def test_an_epoch_is_the_same_whatever_was_drawn_before_it() -> None:
    made = batches(ALL_AUGMENTATIONS | {"data.crop": 48})
    third, first = list(made.of_epoch(3)), list(made.of_epoch(1))
    assert_equal(third, list(made.of_epoch(3)))
    assert_equal(first, list(batches(ALL_AUGMENTATIONS | {"data.crop": 48}).of_epoch(1)))
    with pytest.raises(AssertionError):
        assert_equal(first, third)


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_from_no_global_generator(workers: int) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    made = batches(ALL_AUGMENTATIONS, workers=workers)
    list(made.of_epoch(1))
    list(made.of_epoch(2))
    drawn = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(drawn[0], torch.rand(3))
    np.testing.assert_array_equal(drawn[1], np.random.random(3))  # noqa: NPY002


def test_a_flip_that_is_certain_mirrors_image_labels_and_boxes() -> None:
    plain = batches({})
    flipped = batches({"augment.horizontal_flip": True, "augment.horizontal_flip_p": 1})
    for before, after in zip(plain.of_epoch(1), flipped.of_epoch(1), strict=True):
        for image, mirrored in zip(before.images, after.images, strict=True):
            assert torch.equal(mirrored, image.flip(-1))
        for target, mirror in zip(before.targets, after.targets, strict=True):
            width = target.label_maps_LHW.shape[-1]
            assert torch.equal(mirror.label_maps_LHW, target.label_maps_LHW.flip(-1))
            assert torch.equal(mirror.boxes_N4[:, 0], width - target.boxes_N4[:, 2])
            assert torch.equal(mirror.boxes_N4[:, 2], width - target.boxes_N4[:, 0])


@pytest.mark.parametrize(
    ("switch", "moves_labels"),
    [(name, part.geometric) for name, part in AUGMENTATIONS.items()],
)
def test_each_switch_of_augmentation_reaches_the_batches(switch: str, moves_labels: bool) -> None:
    plain = batches({})
    changed = batches({f"augment.{switch}": True, f"augment.{switch}_p": 1})
    for before, after in zip(plain.of_epoch(1), changed.of_epoch(1), strict=True):
        for image, other in zip(before.images, after.images, strict=True):
            assert not torch.equal(image, other)
        for target, other_target in zip(before.targets, after.targets, strict=True):
            assert torch.equal(target.label_maps_LHW, other_target.label_maps_LHW) == (
                not moves_labels
            )
        off = batches({f"augment.{switch}": True, f"augment.{switch}_p": 0})
        assert_equal(list(plain.of_epoch(1)), list(off.of_epoch(1)))


def with_a_rare_class() -> Dataset:
    """Six images, one of which holds a class that no other has."""
    samples = [sample(index, 40, 44, instances=2) for index in range(6)]
    return dataset(
        *(
            replace(one, labels_N=np.array([1, 2 if index == 4 else 1]))
            for index, one in enumerate(samples)
        )
    )


def test_a_rare_class_is_shown_more_often_by_settings_that_are_otherwise_the_same() -> None:
    data, all_six = with_a_rare_class(), range(6)
    settings = {"data.crop": 32, "augment.color_jitter": True, "augment.color_jitter_p": 1}
    plain = batches(settings, data, all_six)
    repeated = batches(settings | {"data.repeat_rare": 1}, data, all_six)
    assert (len(plain), plain.images) == (3, 6)
    # The factor of an image in six is the root of 6.
    assert (len(repeated), repeated.images) == (4, math.ceil(5 + math.sqrt(6)))
    for epoch in (1, 2, 3):
        once, again = list(plain.of_epoch(epoch)), list(repeated.of_epoch(epoch))
        assert [len(batch.images) for batch in again] == [2, 2, 2, 2]
        first = {image.numpy().tobytes() for batch in once for image in batch.images}
        shown = [image.numpy().tobytes() for batch in again for image in batch.images]
        assert len(set(shown)) == len(shown)  # another visit has another crop and other colours
        assert first <= set(shown)


def test_instances_are_pasted_from_training_images_alone() -> None:
    """Blue tells of which image a pasted instance is."""
    made = batches({"augment.copy_paste": True, "augment.copy_paste_p": 1})
    sources = set()
    for epoch in range(1, 13):
        for batch in made.of_epoch(epoch):
            for image, target in zip(batch.images, batch.targets, strict=True):
                for number in target.ids_N[target.ids_N > 3].tolist():
                    blue = image[2][target.label_maps_LHW[0] == number]
                    sources |= {255 - int(value) for value in blue.unique()}
    assert sources == set(PART)


def test_a_crop_is_a_window_of_the_image_and_its_labels_and_moves_from_epoch_to_epoch() -> None:
    data, corners = dataset(sample(0, 100, 120)), set()
    made = batches({"data.crop": 48}, data, [0])
    for epoch in range(1, 9):
        (batch,) = made.of_epoch(epoch)
        image, target = batch.images[0], batch.targets[0]
        x0, y0 = int(image[0, 0, 0]), int(image[1, 0, 0])
        read = data.samples[0]
        np.testing.assert_array_equal(
            image.numpy(), read.image[y0 : y0 + 48, x0 : x0 + 48].transpose(2, 0, 1)
        )
        np.testing.assert_array_equal(
            target.label_maps_LHW, read.label_maps[:, y0 : y0 + 48, x0 : x0 + 48]
        )
        assert image.shape == (3, 48, 48)
        corners.add((x0, y0))
    assert len(corners) > 4


def test_a_crop_larger_than_the_image_is_the_image() -> None:
    assert_equal(list(batches({"data.crop": 400}).of_epoch(1)), list(batches({}).of_epoch(1)))


@pytest.mark.parametrize("size", [(200, 100), (90, 250), (130, 131), (60, 40)])
def test_an_image_arrives_no_larger_than_the_network_takes_it(size: tuple[int, int]) -> None:
    data = dataset(sample(0, *size))
    (batch,) = batches(
        {"model.image_min_side": 64, "model.image_max_side": 128}, data, [0]
    ).of_epoch(1)
    oracle, _ = GeneralizedRCNNTransform(64, 128, [0] * 3, [1] * 3)([torch.zeros(3, *size)])
    seen = oracle.image_sizes[0]
    assert tuple(batch.images[0].shape[1:]) == (seen if seen[0] < size[0] else size)
    assert batch.targets[0].label_maps_LHW.shape[1:] == batch.images[0].shape[1:]


def striped(height: int, width: int) -> Sample:
    """Grey levels drawn at random, and two instances, side by side along the longer side."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    label_map = np.zeros((1, height, width), np.uint16)
    along = label_map[0] if width >= height else label_map[0].T
    along[:, : along.shape[1] // 2], along[:, along.shape[1] // 2 :] = 1, 2
    label_map[0] = np.unique(label_map[0], return_inverse=True)[1].reshape(height, width) + 1
    count = int(label_map.max())
    return Sample("thin", image, label_map, np.arange(count) % 2 + 1, np.zeros(count, bool))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 200), (3, 5000), (31, 2), (1, 40000)])
@pytest.mark.parametrize("upright", [False, True])
def test_images_so_thin_that_a_side_would_vanish_are_trained_on_and_predicted(
    size: tuple[int, int], upright: bool
) -> None:
    height, width = size[::-1] if upright else size
    thin = striped(height, width)
    changes = ALL_AUGMENTATIONS | {
        f"augment.{name}_p": 1 for name in ("affine", "elastic", "blur_or_noise")
    }
    settings = changes | {
        "optim.precision": "bf16" if upright else "fp32",
        "data.crop": 64 if height > 999 else 0,
    }
    made = list(batches(settings, dataset(thin), [0]).of_epoch(1))
    assert min(made[0].images[0].shape) >= 1
    losses, _, model = epoch_of(settings, made)
    assert math.isfinite(losses["loss"])
    predicting = TrialConfig.from_settings(
        TINY | {"predict.score_threshold": 0, "predict.max_detections": 4}
    ).predict
    model.predict = predicting
    # An untrained mask head is undecided, and may paste nothing.
    torch.nn.init.constant_(model.roi_heads.mask_predictor.mask_fcn_logits.bias, 2.0)
    found = predict([model.eval()], thin.image, predicting)
    assert len(found)
    assert np.isfinite(found.boxes_N4).all()
    assert (found.boxes_N4 <= np.array([width, height, width, height]) * (1 + 1e-6)).all()


def test_a_crop_is_cut_at_full_resolution_and_then_shrunk() -> None:
    data = dataset(sample(0, 200, 200))
    (batch,) = batches({"data.crop": 128, "model.image_min_side": 64}, data, [0]).of_epoch(1)
    columns = batch.images[0][0, 0].int()
    assert batch.images[0].shape == (3, 64, 64)
    assert 124 <= int(columns[-1] - columns[0]) <= 128


def test_crowd_regions_are_not_learned_and_an_empty_image_is_background() -> None:
    data = dataset(sample(0, 64, 64, crowd=True), sample(1, 64, 64, instances=0))
    for batch in batches({"optim.batch_size": 1}, data, [0, 1]).of_epoch(1):
        ids = batch.targets[0].ids_N.tolist()
        assert ids == ([2, 3] if index_of(batch.images[0]) == 0 else [])


def test_seeded_draws_are_named_by_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    with seeded(7, CPU):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    with seeded(7, CPU):
        assert torch.equal(torch.rand(3), inside)
    with seeded(8, CPU):
        assert not torch.equal(torch.rand(3), inside)


def model_of(config: TrialConfig, wide: bool = False) -> Detector:
    """A detector of few channels, or of as many as it has in a search."""
    with seeded(0, CPU), nullcontext() if wide else narrowed():
        return build_detector(config.model, 2, None, config.predict)


def epoch_of(
    settings: dict[str, Any],
    made: Sequence[Batch] | None = None,
    model: Detector | None = None,
    seed: int | None = 0,
    read_every: int | None = None,
) -> tuple[dict[str, float], list[dict[str, float]], Detector]:
    """Train the first epoch; also what the optimizer held at each step: rate and norm of the
    gradient.
    """
    config = TrialConfig.from_settings(TINY | settings)
    model = model or model_of(config)
    made = list(batches(TINY | settings).of_epoch(1)) if made is None else made
    optim = Optimization(model, config.optim, len(made))
    steps = []

    def note(stepped: torch.optim.Optimizer, *_: Any) -> None:
        (group,) = stepped.param_groups
        grads = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        steps.append({"rate": group["lr"], "norm": float(torch.nn.utils.get_total_norm(grads))})

    optim.optimizer.register_step_pre_hook(note)
    if seed is not None:
        torch.manual_seed(seed)
    losses = train_one_epoch(model, made, optim, 1, read_every)
    return losses, steps, model


def test_every_step_has_the_rate_that_the_schedule_promises() -> None:
    settings = {
        "optim.epochs": 2,
        "optim.restarts": 1,
        "optim.warmup_epochs": 0.4,
        "optim.learning_rate": 1e-3,
    }
    config = TrialConfig.from_settings(TINY | settings)
    made = batches(TINY | settings)
    model = model_of(config)
    optim = Optimization(model, config.optim, len(made))
    rates: list[float] = []
    optim.optimizer.register_step_pre_hook(
        lambda stepped, *_: rates.append(stepped.param_groups[0]["lr"])
    )
    for epoch in (1, 2):
        train_one_epoch(model, made.of_epoch(epoch), optim, epoch)
    assert rates == [optim.schedule.learning_rate(step) for step in range(6)]
    assert len(set(rates)) > 3


def test_losses_are_means_over_images_and_loss_is_their_sum() -> None:
    still = {"optim.learning_rate": 1e-30, "optim.batch_size": 3}
    made = list(batches(TINY | still).of_epoch(1))
    assert [len(batch.images) for batch in made] == [3, 2]
    first, _, model = epoch_of(still, made[:1])
    second, _, _ = epoch_of(
        still, made[1:], model, seed=None
    )  # goes on with the generator where the first left it
    both, _, _ = epoch_of(still, made)
    assert set(both) == {
        "loss",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    for name, value in both.items():
        assert value == pytest.approx((3 * first[name] + 2 * second[name]) / 5, rel=1e-5)
    assert both["loss"] == pytest.approx(sum(both.values()) / 2, rel=1e-5)


def test_training_lowers_the_loss() -> None:
    config = TrialConfig.from_settings(TINY | {"optim.learning_rate": 3e-3, "optim.epochs": 8})
    model, made = model_of(config), list(batches(TINY).of_epoch(1))[:1]
    optim = Optimization(model, config.optim, 1)
    torch.manual_seed(0)
    losses = [train_one_epoch(model, made, optim, epoch)["loss"] for epoch in range(1, 9)]
    assert min(losses[-2:]) < 0.6 * losses[0]


def test_the_gradient_is_clipped_to_the_norm_set_and_not_otherwise() -> None:
    _, free, _ = epoch_of({})
    _, clipped, _ = epoch_of({"optim.gradient_clip": 0.05})
    assert all(step["norm"] > 0.06 for step in free)
    assert all(step["norm"] == pytest.approx(0.05, rel=1e-3) for step in clipped)


def test_bf16_computes_the_network_in_bf16_and_keeps_weights_and_losses_in_fp32() -> None:
    model = model_of(TrialConfig.from_settings(TINY))
    seen = set()
    model.backbone.body.conv1.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    half, _, _ = epoch_of({"optim.precision": "bf16"}, model=model)
    full, _, _ = epoch_of({"optim.precision": "fp32"})
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert half["loss"] == pytest.approx(full["loss"], rel=0.1)
    assert half != full


def test_a_loss_that_is_not_finite_ends_the_epoch_before_its_step_with_epoch_and_batch() -> None:
    data = dataset(sample(0, 64, 64, instances=0), sample(1, 64, 64))
    by_index = {
        index_of(one.images[0]): one
        for one in batches({"optim.batch_size": 1}, data, [0, 1]).of_epoch(1)
    }
    model = model_of(TrialConfig.from_settings(TINY))
    # Only an image with instances has a mask loss, so the first batch is sound.
    torch.nn.init.constant_(model.roi_heads.mask_predictor.mask_fcn_logits.bias, float("nan"))
    steps = []
    optim = Optimization(model, TrialConfig.from_settings(TINY).optim, 2)
    optim.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    with pytest.raises(TrialDiverged, match=r"^epoch 1, batch 2: loss is nan$"):
        train_one_epoch(model, [by_index[0], by_index[1]], optim, 1)
    assert len(steps) == 1


@pytest.mark.parametrize("read_every", [2, 3, 20])
def test_losses_that_are_read_once_in_some_steps_are_the_same(read_every: int) -> None:
    settings = {"optim.batch_size": 1}
    made = list(batches(TINY | settings).of_epoch(1))
    at_once, _, _ = epoch_of(settings, made)
    later, _, _ = epoch_of(settings, made, read_every=read_every)
    assert later == at_once


@pytest.mark.parametrize("read_every", [1, 2, 3, 20])
@pytest.mark.parametrize("value", ["nan", "1e10"])
def test_the_first_loss_that_diverges_is_named_however_late_it_is_read(
    read_every: int, value: str
) -> None:
    settings = {"optim.batch_size": 1}
    made = list(batches(TINY | settings).of_epoch(1))
    model = model_of(TrialConfig.from_settings(TINY))
    losses, calls = model.losses, itertools.count(1)

    def worse(*given: Any) -> dict[str, torch.Tensor]:
        terms = losses(*given)
        return (
            terms if next(calls) < 3 else {name: float(value) * one for name, one in terms.items()}
        )

    model.losses = worse  # type: ignore[method-assign]
    told = r"^epoch 1, batch 3: loss is (nan$|\d\.\d+e\+\d\d, and)"
    with pytest.raises(TrialDiverged, match=told):
        epoch_of(settings, made, model, read_every=read_every)
    steps = min(math.ceil(3 / read_every) * read_every, len(made))
    assert next(calls) == steps + 1


def test_a_weight_that_is_not_finite_after_the_last_step_is_no_result() -> None:
    model = model_of(TrialConfig.from_settings(TINY))
    model.roi_heads.box_predictor.cls_score.bias.register_hook(
        lambda gradient: gradient * float("inf")
    )
    told = (
        r"^epoch 1, batch 1: roi_heads\.box_predictor\.cls_score\.bias is nan after the step, and"
        r" the loss was \d"
    )
    with pytest.raises(TrialDiverged, match=told):
        epoch_of({}, list(batches(TINY).of_epoch(1))[:1], model)


@pytest.mark.parametrize(
    "broken", ["roi_heads.mask_predictor.mask_fcn_logits.bias", "backbone.body.bn1.running_var"]
)
def test_what_no_loss_shows_and_is_not_finite_is_divergence(broken: str) -> None:
    """A mask of a class that is in no batch; statistics that only prediction uses."""
    data = dataset(sample(0, 64, 64, instances=0))
    model = model_of(TrialConfig.from_settings(TINY | {"model.trainable_layers": 5}))
    tensor = model.state_dict()[broken]
    tensor[0] = math.inf
    told = rf"^epoch 1, batch 1: {re.escape(broken)} is inf after the step, and the loss was \d"
    with pytest.raises(TrialDiverged, match=told):
        epoch_of({}, list(batches({}, data, [0]).of_epoch(1)), model)


@pytest.mark.parametrize("scale", [1e30, 1e10])
def test_a_loss_that_is_finite_and_absurd_is_divergence_with_epoch_batch_and_value(
    scale: float,
) -> None:
    model = model_of(TrialConfig.from_settings(TINY))
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] = -scale
    made = list(batches(TINY).of_epoch(1))[:1]
    before = {name: value.clone() for name, value in model.named_parameters()}
    told = (
        r"^epoch 1, batch 1: loss is \d\.\d+e\+\d\d, and no training that works has one above"
        r" 1,000,000$"
    )
    with pytest.raises(TrialDiverged, match=told):
        epoch_of({}, made, model)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_loss_as_high_as_an_odd_beginning_is_trained_on() -> None:
    model = model_of(TrialConfig.from_settings(TINY))
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] = -1e5
    losses, _, _ = epoch_of({}, list(batches(TINY).of_epoch(1))[:1], model)
    assert 1e4 < losses["loss"] < 1e6


# Several batches a step, an average of the weights, fp16


def test_a_step_of_several_batches_has_the_mean_of_their_gradients_over_images() -> None:
    """The losses are means over samples and positives of a batch, so one batch of all its images
    would have another gradient.
    """
    settings = {"optim.accumulate": 3, "optim.learning_rate": 1e-30}
    made = list(batches(TINY | settings).of_epoch(1))
    assert [len(batch.images) for batch in made] == [2, 2, 1]
    model = model_of(TrialConfig.from_settings(TINY))
    torch.manual_seed(0)
    wanted: dict[str, torch.Tensor] = {}
    for batch in made:
        model.zero_grad()
        inputs = [image.float() / 255 for image in batch.images]
        torch.stack([*model.losses(inputs, batch.targets).values()]).sum().backward()
        for name, parameter in model.named_parameters():
            part = parameter.grad * (len(batch.images) / 5)
            wanted[name] = wanted[name] + part if name in wanted else part
    again = model_of(TrialConfig.from_settings(TINY))
    losses, steps, _ = epoch_of(settings, made, again)
    assert len(steps) == 1
    torch.testing.assert_close(
        {name: parameter.grad for name, parameter in again.named_parameters()}, wanted
    )
    alone, _, _ = epoch_of({"optim.learning_rate": 1e-30}, made)
    assert losses == pytest.approx(alone, rel=1e-5)


def test_the_average_of_the_weights_changes_nothing_of_what_trains() -> None:
    made = list(batches(TINY).of_epoch(1))
    plain, _, one = epoch_of({}, made)
    averaged, _, other = epoch_of({"optim.ema": 1.0}, made)
    assert plain == averaged
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_fp16_computes_the_network_in_fp16_and_its_gradients_do_not_vanish() -> None:
    seen = set()
    made = list(batches(TINY).of_epoch(1))[:1]
    found = []
    for precision in ("fp16", "fp32"):
        still = TINY | {"optim.learning_rate": 1e-30, "optim.precision": precision}
        config = TrialConfig.from_settings(still)
        model = model_of(config, wide=True)
        optim = Optimization(model, config.optim, 1)
        if precision == "fp16":
            model.backbone.body.conv1.register_forward_hook(lambda *call: seen.add(call[2].dtype))
            # A network that has learned nothing has large gradients; the scale would fall to this.
            optim.scaler.load_state_dict(optim.scaler.state_dict() | {"scale": 16.0})
        torch.manual_seed(0)
        losses = train_one_epoch(model, made, optim, 1)
        found.append((losses["loss"], {n: one.grad for n, one in model.named_parameters()}))
    (half, of_half), (full, of_full) = found
    assert seen == {torch.float16}
    assert half == pytest.approx(full, rel=0.02)
    for name, wanted in of_full.items():
        assert of_half[name].dtype == torch.float32
        assert (of_half[name] - wanted).norm() <= 0.3 * wanted.norm() + 1e-6, name


def in_fp16(batches_of_one: int) -> tuple[SmallDetector, list[Batch], Optimization]:
    model = SmallDetector()
    model.freeze(0, pyramid=True)
    data = dataset(*(sample(index, 32, 32) for index in range(batches_of_one)))
    made = list(batches({"optim.batch_size": 1}, data, range(batches_of_one)).of_epoch(1))
    config = TrialConfig.from_settings({"optim.precision": "fp16"}).optim
    return model, made, Optimization(model, config, len(made))


def test_a_gradient_that_is_not_finite_skips_its_step_in_fp16_and_is_no_divergence() -> None:
    model, made, optim = in_fp16(3)
    optim.scaler.load_state_dict(optim.scaler.state_dict() | {"scale": 16.0})
    calls = itertools.count(1)
    bias = model.pyramid.bias
    bias.register_hook(lambda one: one * (float("inf") if next(calls) == 2 else 1))
    weights = [bias.detach().clone()]
    optim.optimizer.register_step_post_hook(lambda *_: weights.append(bias.detach().clone()))
    losses = train_one_epoch(model, made, optim, 1)
    assert math.isfinite(losses["loss"])
    moved = [not torch.equal(one, other) for one, other in itertools.pairwise(weights)]
    assert moved == [True, False, True]
    assert optim.scaler.get_scale() == 8


def test_in_fp16_a_loss_that_is_not_finite_is_divergence_all_the_same() -> None:
    model, made, optim = in_fp16(1)
    torch.nn.init.constant_(model.pyramid.bias, float("nan"))
    with pytest.raises(TrialDiverged, match=r"^epoch 1, batch 1: loss is nan$"):
        train_one_epoch(model, made, optim, 1)


def test_gradients_that_are_never_finite_in_fp16_are_divergence() -> None:
    told = r"^epoch 1, batch 17: gradients are not finite in fp16, .* multiplied by 0\.5; "
    for steps in (16, 17):
        model, made, optim = in_fp16(steps)
        model.pyramid.bias.register_hook(lambda one: one * float("inf"))
        with pytest.raises(TrialDiverged, match=told) if steps == 17 else nullcontext():
            train_one_epoch(model, made, optim, 1)


# Several sizes


def test_images_keep_the_pixels_that_the_largest_of_several_sizes_needs() -> None:
    data = dataset(sample(0, 200, 240))
    sides = {"model.image_min_side": 64, "model.image_max_side": 128}
    for jitter, side in ((0.0, 64), (0.25, 80), (0.9, 122)):
        (batch,) = batches(sides | {"model.size_jitter": jitter}, data, [0]).of_epoch(1)
        assert min(batch.images[0].shape[1:]) == side
        assert batch.images[0].shape[1:] == batch.targets[0].label_maps_LHW.shape[1:]
