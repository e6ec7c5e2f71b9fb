"""Laws of the early-stopping rule."""

import hypothesis.strategies as st
from hypothesis import given

from tune.stopping import SuccessiveHalving

curves = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_rungs_grow_by_the_reduction_and_end_before_the_last_epoch() -> None:
    assert SuccessiveHalving(2, 3).rungs(50) == (2, 6, 18)
    assert SuccessiveHalving(2, 3).rungs(18) == (2, 6)
    assert SuccessiveHalving(5, 2).rungs(5) == ()


@given(st.integers(1, 4), st.integers(2, 4), curves, st.lists(curves, max_size=8))
def test_no_trial_is_stopped_between_rungs(
    first: int, reduction: int, curve: list[float], others: list[list[float]]
) -> None:
    rule = SuccessiveHalving(first, reduction)
    if len(curve) not in rule.rungs(1000):
        assert not rule.stops(curve, others)


@given(curves)
def test_the_first_trial_at_a_rung_goes_on(curve: list[float]) -> None:
    shorter = [0.99] * (len(curve) - 1)
    assert not SuccessiveHalving(1, 2).stops(curve, [shorter] if shorter else [])


@given(st.integers(2, 4), st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True))
def test_of_trials_that_stand_at_a_rung_together_exactly_one_in_reduction_goes_on(
    reduction: int, values: list[float]
) -> None:
    rule = SuccessiveHalving(1, reduction)
    going_on = {
        value
        for place, value in enumerate(values)
        if not rule.stops([value], [[other] for index, other in enumerate(values) if index != place])
    }
    assert going_on == set(sorted(values, reverse=True)[: max(1, len(values) // reduction)])


@given(curves, st.lists(curves, max_size=8), st.lists(st.floats(0, 1), max_size=5))
def test_what_rivals_did_after_the_rung_changes_nothing(
    curve: list[float], others: list[list[float]], later: list[float]
) -> None:
    rule = SuccessiveHalving(1, 2)
    grown = [other + later if len(other) >= len(curve) else other for other in others]
    assert rule.stops(curve, grown) == rule.stops(curve, others)


def test_a_trial_stands_for_its_best_epoch_so_far() -> None:
    assert not SuccessiveHalving(2, 2).stops([0.9, 0.1], [[0.5, 0.5], [0.4, 0.4], [0.3, 0.6]])
