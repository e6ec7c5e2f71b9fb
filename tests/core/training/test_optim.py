"""Laws of the learning rate and of the optimizer."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from core.config import OptimConfig
from core.errors import SettingError
from core.network.pyramid import pyramid_backbone
from core.sample import Target
from core.training.optim import Optimization, Schedule, build_optimizer, parameter_groups
from tests.core.training.small_detector import SmallDetector


def rates(schedule: Schedule) -> list[float]:
    return [schedule.learning_rate(step) for step in range(schedule.steps)]


def rates_of_torch(scheduler: Any, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[OptimConfig, Schedule]:
    epochs = draw(st.integers(1, 60))
    config = OptimConfig(
        learning_rate=draw(st.floats(1e-8, 1)),
        epochs=epochs,
        restarts=draw(st.integers(0, 8)),
        restart_multiplier=draw(st.sampled_from([1, 2, 3]) | st.floats(1, 4)),
        warmup_epochs=draw(st.floats(0, epochs, exclude_max=True)),
    )
    try:
        return config, Schedule(config, draw(st.integers(1, 90)))
    except SettingError:
        assume(False)
        raise


@given(schedules())
def test_every_rate_is_above_zero_and_at_most_the_learning_rate(
    made: tuple[OptimConfig, Schedule],
) -> None:
    config, schedule = made
    assert all(0 < rate <= config.learning_rate for rate in rates(schedule))


@given(schedules())
def test_cycles_follow_the_warm_up_and_each_other_without_a_gap_to_the_last_step(
    made: tuple[OptimConfig, Schedule],
) -> None:
    config, schedule = made
    assert len(schedule.cycles) == config.restarts + 1
    position = round(config.warmup_epochs * schedule.steps_per_epoch)
    for start, length in schedule.cycles:
        assert start == position
        assert length >= 1
        position += length
    assert position == config.epochs * schedule.steps_per_epoch == schedule.steps


@given(schedules())
def test_each_cycle_is_longer_by_the_multiplier_and_the_last_takes_the_remainder(
    made: tuple[OptimConfig, Schedule],
) -> None:
    config, schedule = made
    lengths = [length for _, length in schedule.cycles]
    shares = [config.restart_multiplier**k for k in range(len(lengths))]
    exact = [lengths[0] * share for share in shares] if len(lengths) > 1 else lengths
    for length, wanted in zip(lengths[:-1], exact[:-1], strict=True):
        assert wanted - 1 < length <= wanted
    assert lengths[-1] >= exact[-1] * (1 - 1e-12)
    # A first cycle one step longer would not fit.
    assert lengths[0] + 1 > sum(lengths) / sum(shares)


@given(schedules())
def test_a_cycle_begins_at_the_full_rate_and_only_falls(made: tuple[OptimConfig, Schedule]) -> None:
    config, schedule = made
    for start, length in schedule.cycles:
        cycle = [schedule.learning_rate(step) for step in range(start, start + length)]
        assert cycle[0] == config.learning_rate
        assert all(before > after for before, after in itertools.pairwise(cycle))
        # One more step would reach 0: the last rate is what the cosine has left one step before.
        assert cycle[-1] == pytest.approx(
            config.learning_rate * math.sin(math.pi / 2 / length) ** 2, rel=1e-6
        )


@given(schedules())
def test_the_warm_up_rises_in_equal_steps_to_the_full_rate(
    made: tuple[OptimConfig, Schedule],
) -> None:
    config, schedule = made
    warmup = [0.0, *(schedule.learning_rate(step) for step in range(schedule.warmup))]
    for before, after in itertools.pairwise(warmup):
        assert after - before == pytest.approx(config.learning_rate / schedule.warmup, rel=1e-6)
    assert schedule.warmup == 0 or warmup[-1] == config.learning_rate


def test_without_restarts_the_rates_are_those_of_cosine_annealing() -> None:
    schedule = Schedule(OptimConfig(learning_rate=3e-4, epochs=7), 11)
    oracle = lr_scheduler.CosineAnnealingLR(optimizer(3e-4), T_max=77)
    assert rates(schedule) == pytest.approx(rates_of_torch(oracle, 77), rel=1e-9)


@pytest.mark.parametrize(
    ("multiplier", "restarts", "first"), [(1, 3, 21), (2, 2, 12), (2, 1, 28), (3, 1, 21)]
)
def test_restarts_give_the_rates_of_torchs_warm_restarts(
    multiplier: int, restarts: int, first: int
) -> None:
    schedule = Schedule(OptimConfig(epochs=12, restarts=restarts, restart_multiplier=multiplier), 7)
    assert schedule.cycles[0] == (0, first)
    oracle = lr_scheduler.CosineAnnealingWarmRestarts(optimizer(5e-5), T_0=first, T_mult=multiplier)
    assert rates(schedule) == pytest.approx(rates_of_torch(oracle, 84), rel=1e-9)


def test_a_warm_up_shifts_the_cycles_and_changes_nothing_else_about_them() -> None:
    plain = Schedule(OptimConfig(epochs=4, restarts=1), 10)
    warmed = Schedule(OptimConfig(epochs=5, restarts=1, warmup_epochs=1), 10)
    assert rates(warmed)[10:] == rates(plain)
    oracle = lr_scheduler.LinearLR(optimizer(5e-5), start_factor=0.1, total_iters=9)
    assert rates(warmed)[:10] == pytest.approx(rates_of_torch(oracle, 10), rel=1e-9)


def test_the_remainder_goes_to_the_last_cycle() -> None:
    assert Schedule(OptimConfig(epochs=1, restarts=2, restart_multiplier=2), 40).cycles == (
        (0, 5),
        (5, 10),
        (15, 25),
    )


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"epochs": 3, "restarts": 6}, 7),
        ({"epochs": 3, "restarts": 2, "restart_multiplier": 2}, 7),
        ({"epochs": 1, "warmup_epochs": 0.9}, 1),
        ({"epochs": 3, "restarts": 100, "restart_multiplier": 10}, 1.11111e100),
    ],
)
def test_more_cycles_than_steps_are_refused_with_their_numbers(
    settings: dict[str, Any], needed: float
) -> None:
    with pytest.raises(
        SettingError, match=r"optim\.restarts .*optim\.restart_multiplier .*optim\.epochs"
    ) as caught:
        Schedule(OptimConfig(**settings), 2)
    assert f"at least {needed:.6g} optimizer step" in str(caught.value)


@pytest.mark.parametrize("multiplier", [1, 1.5, 2, 10])
@pytest.mark.parametrize("restarts", [0, 1, 4])
def test_one_step_fewer_than_the_message_asks_for_is_refused_and_as_many_are_enough(
    multiplier: float, restarts: int
) -> None:
    needed = math.ceil(sum(multiplier**k for k in range(restarts + 1)))
    config = OptimConfig(epochs=1, restarts=restarts, restart_multiplier=multiplier)
    assert Schedule(config, needed).cycles[0][1] == 1 or restarts == 0
    if needed > 1:
        with pytest.raises(
            SettingError, match=f"at least {needed} optimizer steps, and {needed - 1} are left"
        ):
            Schedule(config, needed - 1)


def names_of(detector: SmallDetector, config: OptimConfig) -> dict[tuple[float, float], set[str]]:
    """The names of what trains by (ratio of the learning rate, weight decay)."""
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    return {
        (group["factor"], group["weight_decay"]): {names[id(one)] for one in group["params"]}
        for group in parameter_groups(detector, config)
    }


def test_the_optimizer_takes_the_parameters_that_train_and_decays_them_all_alike() -> None:
    detector = SmallDetector()
    detector.freeze(0, pyramid=True)
    built = build_optimizer(detector, OptimConfig(learning_rate=0.01, weight_decay=0.3))
    (group,) = built.param_groups
    assert [id(one) for one in group["params"]] == [
        id(one) for name, one in detector.named_parameters() if not name.startswith("backbone")
    ]
    assert (group["lr"], group["weight_decay"], group["factor"]) == (0.01, 0.3, 1)
    before = [parameter.detach().clone() for parameter in group["params"]]
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    for parameter, value in zip(group["params"], before, strict=True):
        torch.testing.assert_close(parameter.detach(), value * (1 - 0.01 * 0.3))


BACKBONE = {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"}
VECTORS = {
    "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "pyramid.bias",
    "head.0.bias", "head.1.weight", "head.1.bias", "table_of_bias",
}  # fmt: skip


@pytest.mark.parametrize("factor", [1, 0.1])
@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("stages", [0, 1])
def test_the_backbone_has_its_own_rate_and_norms_and_biases_decay_only_if_they_should(
    factor: float, decay_norms: bool, stages: int
) -> None:
    detector = SmallDetector()
    detector.freeze(stages, pyramid=True)
    config = OptimConfig(weight_decay=0.3, backbone_factor=factor, decay_norms=decay_norms)
    trained = {name for name, value in detector.named_parameters() if value.requires_grad}
    slower = BACKBONE & trained if factor != 1 else set()
    without = set() if decay_norms else VECTORS & trained
    wanted = {
        (1, 0.3): trained - slower - without,
        (1, 0.0): without - slower,
        (factor, 0.3): (slower - without) if factor != 1 else trained - without,
        (factor, 0.0): (slower & without) if factor != 1 else without,
    }
    assert names_of(detector, config) == {kind: names for kind, names in wanted.items() if names}


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large", "convnext_tiny", "swin_t"])
def test_what_decays_of_a_backbone_is_what_its_authors_let_decay(backbone: str) -> None:
    """Convolutions and linear layers decay; scales, shifts and biases of any shape do not."""
    body = pyramid_backbone(backbone, nn.BatchNorm2d, None, stride_in_1x1=False).body
    detector = SmallDetector()
    detector.backbone = body
    layers = {
        f"backbone.{path}.weight"
        for path, module in body.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    (decaying,) = (
        names
        for (_, decay), names in names_of(detector, OptimConfig(decay_norms=False)).items()
        if decay
    )
    assert {name for name in decaying if name.startswith("backbone.")} == layers


@pytest.mark.parametrize("stages", [0, 1])
@pytest.mark.parametrize("pyramid", [True, False])
def test_asking_for_the_backbone_changes_nothing_of_what_trains(stages: int, pyramid: bool) -> None:
    detector = SmallDetector()
    detector.freeze(stages, pyramid)
    before = {name: value.requires_grad for name, value in detector.named_parameters()}
    found = {id(value) for value in detector.backbone_parameters()}
    assert {name: value.requires_grad for name, value in detector.named_parameters()} == before
    assert found == {
        id(value) for name, value in detector.named_parameters() if stages and name in BACKBONE
    }


def optimization(batches: int, **changes: Any) -> tuple[SmallDetector, Optimization]:
    detector = SmallDetector().double()
    detector.freeze(0, pyramid=True)  # else batch norm would join the images of a batch
    return detector.train(), Optimization(detector, OptimConfig(**changes), batches)


def loss_of(detector: SmallDetector, images: Sequence[int]) -> torch.Tensor:
    """The loss of a batch of images, each named by its seed."""
    dtype = detector.pyramid.weight.dtype
    made = [
        torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(one), dtype=dtype)
        for one in images
    ]
    none = torch.zeros(0, dtype=torch.int64)
    target = Target(torch.zeros(0, 4), none, none, none, torch.zeros(0, 6, 6, dtype=torch.int32))
    return torch.stack([*detector.losses(made, [target] * len(made)).values()]).sum()


def steps_of(
    detector: SmallDetector, optim: Optimization, batches: Sequence[Sequence[int]]
) -> list[dict[str, torch.Tensor]]:
    """The gradient of each step of an epoch."""
    seen: list[dict[str, torch.Tensor]] = []

    def note(*_: Any) -> None:
        named = detector.named_parameters()
        seen.append({name: one.grad.clone() for name, one in named if one.grad is not None})

    optim.optimizer.register_step_pre_hook(note)
    optim.begin(1)
    for batch in batches:
        optim.learn(loss_of(detector, batch), len(batch))
    optim.end()
    return seen


@pytest.mark.parametrize("sizes", [(2, 2, 2), (2, 2, 1), (3, 1), (2,)])
def test_where_a_loss_is_a_mean_over_images_several_batches_are_one_of_their_images(
    sizes: tuple[int, ...],
) -> None:
    images = list(range(sum(sizes)))
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    batches = [images[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    for clip in (0.0, 0.01):
        (small,) = steps_of(*optimization(len(sizes), accumulate=3, gradient_clip=clip), batches)
        (large,) = steps_of(*optimization(1, gradient_clip=clip), [images])
        torch.testing.assert_close(small, large)


def test_the_gradient_of_a_step_is_the_mean_over_images_of_its_batches_gradients() -> None:
    """Also where a loss is no mean over images, such as the square of one."""
    detector, optim = optimization(3, accumulate=3)
    batches = [(0, 1, 2), (3, 4, 5), (6,)]
    wanted: dict[str, torch.Tensor] = {}
    for batch in batches:
        detector.zero_grad()
        loss_of(detector, batch).square().backward()
        for name, one in detector.named_parameters():
            if one.grad is not None:
                wanted[name] = wanted.get(name, 0) + one.grad * (len(batch) / 7)
    seen = []
    optim.optimizer.register_step_pre_hook(
        lambda *_: seen.append(
            {n: one.grad.clone() for n, one in detector.named_parameters() if one.requires_grad}
        )
    )
    optim.begin(1)
    for batch in batches:
        optim.learn(loss_of(detector, batch).square(), len(batch))
    optim.end()
    torch.testing.assert_close(seen, [wanted])


def test_steps_are_those_of_the_schedule_and_the_last_of_an_epoch_may_have_fewer_batches() -> None:
    detector, optim = optimization(5, accumulate=2, epochs=2, warmup_epochs=1)
    assert optim.schedule.steps_per_epoch == 3
    rates: list[float] = []
    optim.optimizer.register_step_pre_hook(
        lambda stepped, *_: rates.append(stepped.param_groups[0]["lr"])
    )
    counts = []
    for epoch in (1, 2):
        optim.begin(epoch)
        for batch in range(5):
            optim.learn(loss_of(detector, [batch]), 1)
            counts.append(len(rates))
        optim.end()
    assert counts == [0, 1, 1, 2, 2, 3, 4, 4, 5, 5]
    assert rates == [optim.schedule.learning_rate(step) for step in range(6)]


def test_what_an_epoch_that_broke_off_has_learned_is_in_no_step() -> None:
    detector, optim = optimization(2, accumulate=2)
    optim.begin(1)
    optim.learn(1000 * loss_of(detector, [9]), 1)
    found = steps_of(detector, optim, [[0], [1]])
    assert_same(found, steps_of(*optimization(2, accumulate=2), [[0], [1]]))


def assert_same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_rate_of_the_backbone_is_in_proportion_at_every_step() -> None:
    detector = SmallDetector()
    optim = Optimization(detector, OptimConfig(epochs=2, backbone_factor=0.25), 4)
    rates: list[dict[float, float]] = []
    optim.optimizer.register_step_pre_hook(
        lambda stepped, *_: rates.append({one["factor"]: one["lr"] for one in stepped.param_groups})
    )
    steps_of(detector, optim, [[0], [1], [2], [3]])
    assert rates == [
        {0.25: 0.25 * rate, 1: rate} for rate in map(optim.schedule.learning_rate, range(4))
    ]


# Gradients in fp16


def scaled(batches: int = 4, **changes: Any) -> tuple[SmallDetector, Optimization]:
    """An optimization that scales its gradients; the losses are float32 all the same."""
    return optimization(batches, precision="fp16", **changes)


@pytest.mark.parametrize("clip", [0.0, 0.01])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_scaled_losses_have_the_gradients_and_steps_of_losses(clip: float, accumulate: int) -> None:
    changes = {"gradient_clip": clip, "accumulate": accumulate, "learning_rate": 0.01}
    batches = [[0], [1], [2], [3, 4]]
    found = []
    for detector, optim in (scaled(**changes), optimization(4, **changes)):
        steps_of(detector, optim, batches)
        found.append(dict(detector.named_parameters()))
    torch.testing.assert_close(*found)


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_the_scale_halved() -> None:
    detector, optim = scaled(learning_rate=0.1)
    optim.begin(1)
    optim.learn(loss_of(detector, [0]), 1)
    before = {name: value.clone() for name, value in optim.tensors().items()}
    weights = {name: value.clone() for name, value in detector.state_dict().items()}
    optim.learn(loss_of(detector, [1]) * torch.finfo(torch.float64).max, 1)
    after = optim.tensors()
    assert after.pop("scaler.scale") == before.pop("scaler.scale") / 2
    assert (before.pop("scaler._growth_tracker"), after.pop("scaler._growth_tracker")) == (1, 0)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    torch.testing.assert_close(detector.state_dict(), weights, rtol=0, atol=0)
    optim.learn(loss_of(detector, [2]), 1)
    assert not torch.equal(detector.pyramid.weight, weights["pyramid.weight"])


def test_the_state_of_the_scaler_is_restored() -> None:
    detector, optim = scaled()
    steps_of(detector, optim, [[0], [1]])
    optim.learn(loss_of(detector, [2]) * float("inf"), 1)
    steps_of(detector, optim, [[3]])
    kept = optim.tensors()
    assert kept["scaler.scale"] == 2**15
    other = scaled()[1]
    other.restore(kept)
    torch.testing.assert_close(other.tensors(), kept, rtol=0, atol=0)
    with pytest.raises(KeyError, match="scaler"):
        other.restore({name: value for name, value in kept.items() if "scaler" not in name})


def test_each_parameters_moments_are_restored_by_its_name_whatever_the_groups() -> None:
    """A checkpoint of a version without groups has the same names."""
    detector, plain = optimization(2)
    steps_of(detector, plain, [[0], [1]])
    kept = plain.tensors()
    other = SmallDetector().double()
    other.freeze(0, pyramid=True)
    grouped = Optimization(other, OptimConfig(decay_norms=False, backbone_factor=0.5), 2)
    assert len(grouped.optimizer.param_groups) == 2
    grouped.restore(kept)
    assert grouped.tensors().keys() == kept.keys()
    torch.testing.assert_close(grouped.tensors(), kept, rtol=0, atol=0)
