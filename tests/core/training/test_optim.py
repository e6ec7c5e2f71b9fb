"""Laws of the learning rate and of the optimizer."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from core.config import OptimConfig
from core.errors import SettingError
from core.training.optim import Schedule, build_optimizer


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
    assert f"at least {needed:.6g} optimizer steps" in str(caught.value)


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


def test_the_optimizer_takes_the_parameters_that_train_and_decays_them_all_alike() -> None:
    layer = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )
    layer[0].requires_grad_(False)
    built = build_optimizer(layer.parameters(), OptimConfig(learning_rate=0.01, weight_decay=0.3))
    (group,) = built.param_groups
    assert [id(parameter) for parameter in group["params"]] == [
        id(p) for p in layer[1:].parameters()
    ]
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.3)
    before = [parameter.detach().clone() for parameter in group["params"]]
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    for parameter, value in zip(group["params"], before, strict=True):
        torch.testing.assert_close(parameter.detach(), value * (1 - 0.01 * 0.3))
