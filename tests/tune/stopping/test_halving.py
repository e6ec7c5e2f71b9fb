"""Laws of the early-stopping rule."""

from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tune.stopping.halving import SuccessiveHalving
from tune.stopping.hope import BEST_PLACES, NO_HOPE, expected_gain

RULE = SuccessiveHalving(2, 3)
EPOCHS = 12

curves = st.lists(st.floats(0, 1), min_size=1, max_size=12)
whole_curves = st.lists(st.floats(0, 1), min_size=EPOCHS, max_size=EPOCHS)


def test_rungs_grow_by_the_reduction_and_end_before_the_last_epoch() -> None:
    assert SuccessiveHalving(2, 3).rungs(50) == (2, 6, 18)
    assert SuccessiveHalving(2, 3).rungs(18) == (2, 6)
    assert SuccessiveHalving(5, 2).rungs(5) == ()


@given(st.integers(1, 4), st.integers(2, 4), curves, st.lists(curves, max_size=8))
def test_no_trial_falls_behind_between_rungs(
    first: int, reduction: int, curve: list[float], others: list[list[float]]
) -> None:
    rule = SuccessiveHalving(first, reduction)
    if len(curve) not in rule.rungs(1000):
        assert not rule.falls_behind(curve, others)


@given(curves)
def test_the_first_trial_at_a_rung_goes_on(curve: list[float]) -> None:
    shorter = [0.99] * (len(curve) - 1)
    assert not SuccessiveHalving(1, 2).falls_behind(curve, [shorter] if shorter else [])


@given(st.integers(2, 4), st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True))
def test_of_trials_that_stand_at_a_rung_together_exactly_one_in_reduction_goes_on(
    reduction: int, values: list[float]
) -> None:
    rule = SuccessiveHalving(1, reduction)
    going_on = {
        value
        for place, value in enumerate(values)
        if not rule.falls_behind(
            [value], [[other] for index, other in enumerate(values) if index != place]
        )
    }
    assert going_on == set(sorted(values, reverse=True)[: max(1, len(values) // reduction)])


@given(curves, st.lists(curves, max_size=8), st.lists(st.floats(0, 1), max_size=5))
def test_what_rivals_did_after_the_rung_changes_nothing(
    curve: list[float], others: list[list[float]], later: list[float]
) -> None:
    rule = SuccessiveHalving(1, 2)
    grown = [other + later if len(other) >= len(curve) else other for other in others]
    assert rule.falls_behind(curve, grown) == rule.falls_behind(curve, others)


def test_a_trial_stands_for_its_best_epoch_so_far() -> None:
    assert not SuccessiveHalving(2, 2).falls_behind(
        [0.9, 0.1], [[0.5, 0.5], [0.4, 0.4], [0.3, 0.6]]
    )


@given(curves, st.lists(whole_curves, max_size=6))
def test_hope_is_not_judged_before_the_first_rung(
    curve: list[float], complete: list[list[float]]
) -> None:
    assert not SuccessiveHalving(len(curve) + 1, 3).has_no_hope(curve, complete, EPOCHS)


@given(curves, st.lists(whole_curves, max_size=BEST_PLACES - 1))
def test_hope_is_not_judged_by_too_few_complete_trials(
    curve: list[float], complete: list[list[float]]
) -> None:
    assert not RULE.has_no_hope(curve, complete, EPOCHS)


@given(curves, st.lists(whole_curves, min_size=BEST_PLACES, max_size=6))
def test_a_trial_as_good_as_the_third_best_complete_one_has_hope(
    curve: list[float], complete: list[list[float]]
) -> None:
    assert not RULE.has_no_hope(
        [*curve, sorted(map(max, complete))[-BEST_PLACES]], complete, EPOCHS + 1
    )
    assert not RULE.has_no_hope(
        [*curve, sorted(map(max, complete))[-BEST_PLACES]], complete, EPOCHS
    )


@given(
    curves,
    st.lists(whole_curves, min_size=BEST_PLACES, max_size=6),
    st.floats(0, 1),
    st.randoms(),
)
def test_who_does_better_does_not_lose_hope_by_it_and_the_order_of_trials_changes_nothing(
    curve: list[float], complete: list[list[float]], more: float, random: Random
) -> None:
    shuffled = list(complete)
    random.shuffle(shuffled)
    hopeless = RULE.has_no_hope(curve, complete, EPOCHS)
    assert RULE.has_no_hope(curve, shuffled, EPOCHS) == hopeless
    if not hopeless:
        assert not RULE.has_no_hope([*curve[:-1], curve[-1] + more], complete, EPOCHS)


COMPLETE = [[0.5, 0.5, 0.6, 0.8], [0.2, 0.3, 0.7, 0.7], [0.4, 0.4, 0.6, 0.6]]
"""After the second epoch they gained 0.3, 0.4 and 0.2: the luck of three is 0.38. The third best
reached 0.6."""


def test_hope_ends_where_even_a_lucky_gain_does_not_reach_the_third_best() -> None:
    assert RULE.has_no_hope([0.1, 0.21], COMPLETE, 4)
    assert not RULE.has_no_hope([0.1, 0.23], COMPLETE, 4)


def test_trials_that_ran_shorter_do_not_say_what_a_longer_one_may_gain() -> None:
    assert not RULE.has_no_hope([0.0, 0.0], COMPLETE, 5)
    assert expected_gain(COMPLETE, 2, 5) == 0


def test_a_stopped_trial_is_expected_to_gain_what_complete_ones_gained_in_the_middle() -> None:
    complete = [[0.5, 0.7], [0.2, 0.2], [0.3, 0.4]]
    assert expected_gain(complete, 1, 2) == pytest.approx(0.1)


@given(st.integers(1, EPOCHS), st.lists(whole_curves, max_size=6))
def test_no_trial_is_expected_to_lose_what_it_reached(
    epoch: int, complete: list[list[float]]
) -> None:
    assert expected_gain(complete, epoch, EPOCHS) >= 0


@given(curves, st.lists(curves, max_size=8), st.lists(whole_curves, max_size=6))
def test_the_reason_says_by_which_rule_a_trial_ended(
    curve: list[float], others: list[list[float]], complete: list[list[float]]
) -> None:
    why = RULE.why_stopped(curve, others, complete, EPOCHS)
    behind, hopeless = RULE.falls_behind(curve, others), RULE.has_no_hope(curve, complete, EPOCHS)
    assert bool(why) == (behind or hopeless)
    assert ("at this rung" in why) == behind
    assert why.endswith(NO_HOPE) == (hopeless and not behind)
    assert not why or why.startswith(f"stopped early after epoch {len(curve)}: ")
