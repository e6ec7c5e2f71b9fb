"""Laws of the moving average of the weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.training.average import DELAY, WeightAverage
from tests.core.training.small_detector import SmallDetector

half_lives = st.floats(0.2, 60)


def shares(half_life: float, steps: int) -> list[float]:
    """The share that the weights of each step have in the average after so many: the closed form.

    At first they are binomial coefficients, whose sum is one by the hockey-stick identity. From
    step `turn` on each step takes an equal fraction of the average.
    """
    keep = 0.5 ** (1 / half_life)
    turn = max((t for t in range(1, steps + 1) if (t - 1) / (t + DELAY) <= keep), default=1)
    early = [
        math.comb(i + DELAY - 1, DELAY) / math.comb(turn + DELAY, DELAY + 1)
        for i in range(1, turn + 1)
    ]
    late = [(1 - keep) * keep ** (steps - i) for i in range(turn + 1, steps + 1)]
    return [share * keep ** (steps - turn) for share in early] + late


def walk(
    detector: SmallDetector, average: WeightAverage, steps: int, seed: int
) -> list[dict[str, torch.Tensor]]:
    """Random weights and statistics, step by step; returns them."""
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            for value in detector.trained_state().values():
                if value.is_floating_point():
                    value.copy_(torch.randn(value.shape, generator=generator))
        average.update(step)
        seen.append({name: value.clone() for name, value in detector.trained_state().items()})
    return seen


@settings(deadline=None)
@given(half_life=half_lives, steps=st.integers(1, 80), seed=st.integers(0, 99))
def test_the_average_is_the_closed_form(half_life: float, steps: int, seed: int) -> None:
    detector = SmallDetector().double()
    average = WeightAverage(detector, half_life)
    seen = walk(detector, average, steps, seed)
    wanted = shares(half_life, steps)
    assert sum(wanted) == pytest.approx(1)
    for name, value in average.model.trained_state().items():
        if value.is_floating_point():
            expected = sum(
                share * weights[name] for share, weights in zip(wanted, seen, strict=True)
            )
            torch.testing.assert_close(value, expected)


@given(half_life=half_lives, step=st.integers(1, 10_000))
def test_an_average_never_looks_back_further_than_its_half_life_nor_over_more_than_all_steps(
    half_life: float, step: int
) -> None:
    kept = WeightAverage(SmallDetector(), half_life).kept(step)
    assert kept <= 0.5 ** (1 / half_life)
    assert 0 <= kept <= 1 - 1 / step
    if step > 1000 * half_life:
        assert kept**half_life == pytest.approx(0.5)


@pytest.mark.parametrize("stages", [0, 1])
def test_what_does_not_train_is_shared_and_what_trains_is_a_copy(stages: int) -> None:
    detector = SmallDetector()
    detector.freeze(stages, pyramid=False)
    average = WeightAverage(detector.train(), 3)
    trained = detector.trained_state()
    assert average.model.trained_state().keys() == trained.keys()
    own, copied = detector.state_dict(), average.model.state_dict()
    assert own.keys() == copied.keys()
    for name, value in own.items():
        assert (value.data_ptr() == copied[name].data_ptr()) == (name not in trained), name
    assert ("backbone.0.weight" in trained) == (stages == 1)
    assert not average.model.training
    assert detector.training


def test_statistics_of_batch_norm_are_averaged_and_its_counters_are_not() -> None:
    detector = SmallDetector()
    average = WeightAverage(detector, 5)
    for step in range(1, 4):
        norm = detector.backbone[1]
        norm.running_mean.fill_(step)
        norm.num_batches_tracked.fill_(step)
        average.update(step)
    found = average.model.get_buffer("backbone.1.running_mean")
    wanted = sum(step * share for step, share in enumerate(shares(5, 3), 1))
    assert found.tolist() == pytest.approx([wanted] * 4)
    assert average.model.get_buffer("backbone.1.num_batches_tracked") == 0
