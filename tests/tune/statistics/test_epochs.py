"""Laws of the luck of a best epoch: it is not negative, grows with the number of epochs, and is the
amount that a choice on the same images adds.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulated_scores import MAX_DETS, draw_images, evaluate
from tune.statistics.certainty import Scored, Verdict, compare, interval, mean_interval
from tune.statistics.epochs import epochs_for_luck, luck_of_best


def curve_of(seed: int, qualities: list[float], images: int = 25) -> list[Scored]:
    rng = np.random.default_rng(seed)
    part = draw_images(rng, images)
    return [Scored.of(evaluate(rng, part, quality), MAX_DETS) for quality in qualities]


def luck(scores: list[Scored]) -> float:
    curve = [one.ap50 for one in scores]
    return luck_of_best(curve, {epoch: scores[epoch - 1] for epoch in epochs_for_luck(curve)})


@given(curve=st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_epochs_that_are_looked_at_are_few_and_hold_the_best_and_its_neighbours(
    curve: list[float],
) -> None:
    found, best = epochs_for_luck(curve), int(np.argmax(curve)) + 1
    assert found == tuple(sorted(set(found)))
    assert set(found) <= set(range(1, len(curve) + 1))
    assert {one for one in (best - 1, best, best + 1) if 0 < one <= len(curve)} <= set(found)
    assert len(found) <= 6


def test_one_epoch_owes_nothing_to_luck() -> None:
    assert luck(curve_of(0, [0.0])) == 0.0


def test_epochs_that_are_the_same_model_owe_nothing_to_luck() -> None:
    (one,) = curve_of(1, [0.0])
    assert luck([one] * 5) == 0.0


@given(seed=st.integers(0, 1000), epochs=st.integers(2, 12))
@settings(max_examples=10, deadline=None)
def test_luck_is_not_negative_and_less_than_a_few_errors_of_the_score(
    seed: int, epochs: int
) -> None:
    scores = curve_of(seed, [0.0] * epochs, images=12)
    found = luck(scores)
    whole = interval(scores[0])
    assert 0 <= found <= whole.high - whole.low


def test_a_curve_that_rises_far_beyond_its_noise_owes_little_to_luck() -> None:
    rising, flat = (
        np.mean([luck(curve_of(seed, qualities, 40)) for seed in range(4)])
        for qualities in ([-2.0, -1.2, -0.4, 0.4, 1.2], [0.0] * 5)
    )
    assert rising < 0.3 * flat


def test_more_epochs_to_choose_from_bring_more_luck() -> None:
    few, many = (
        np.mean([luck(curve_of(seed, [0.0] * epochs, 20)) for seed in range(5)])
        for epochs in (2, 12)
    )
    assert many > 1.5 * few > 0


@pytest.mark.timeout(300)
def test_the_luck_is_about_what_the_choice_of_the_epoch_adds() -> None:
    """Ten epochs are alike, so their mean is what an epoch that was fixed before would score."""
    curves = [curve_of(seed, [0.0] * 10, images=20) for seed in range(15)]
    too_high = np.mean([
        max(one.ap50 for one in scores) - np.mean([one.ap50 for one in scores]) for scores in curves
    ])  # fmt: skip
    assert too_high > 0.02
    assert np.mean([luck(scores) for scores in curves]) == pytest.approx(too_high, rel=0.35)


def test_intervals_and_differences_are_around_the_score_without_luck() -> None:
    (one,) = curve_of(2, [0.5])
    lucky = replace(one, luck=0.04)
    assert interval(lucky).estimate == pytest.approx(one.ap50 - 0.04)
    assert mean_interval([one, lucky], None).estimate == pytest.approx(one.ap50 - 0.02)
    (other,) = curve_of(2, [0.5])
    found = compare([lucky], [other])
    assert found.estimate == pytest.approx(-0.04)
    assert found.verdict in (Verdict.WORSE, Verdict.CANNOT_TELL)


@pytest.mark.parametrize("left", [0.2, 0.002, 0.0])
def test_luck_moves_an_interval_and_does_not_widen_it_where_little_of_the_score_is_left(
    left: float,
) -> None:
    """A score near 0 without its luck is not as unsure as if nothing had been measured."""
    (one,) = curve_of(2, [0.5])
    luck = one.ap50 - left
    whole, moved = interval(one), interval(replace(one, luck=luck))
    assert moved.estimate == pytest.approx(left)
    assert moved.high == pytest.approx(whole.high - luck)
    assert moved.low == pytest.approx(max(whole.low - luck, 0.0))
