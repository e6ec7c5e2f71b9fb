"""Laws of written values: one form for each kind, and none that a person would read as another."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.values import (
    NO_VALUE,
    as_ap50,
    as_difference,
    as_duration,
    as_hours,
    as_interval,
    as_loss,
    as_number,
    as_p_value,
    as_percent,
    as_seconds,
    as_setting,
    as_settings,
    as_tenths,
    as_tick,
    as_time_span,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "on"), (False, "off"), (1, "1"), (10_000, "10000"), (1.0, "1"), (5e-5, "5e-05"),
        (0.123456, "0.1235"), ("resnet50", "resnet50"), ("", ""),
    ],
)  # fmt: skip
def test_a_setting_has_one_form(value: bool | int | float | str, text: str) -> None:
    assert as_setting(value) == text
    assert as_settings({"a": value, "b": 2}) == f"a {text}, b 2"


@given(st.floats(0, 1))
def test_an_ap50_is_written_to_within_half_of_its_last_digit(score: float) -> None:
    assert len(as_ap50(score)) == 6
    assert abs(float(as_ap50(score)) - score) <= 0.5e-4 + 1e-12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (as_number(0.000123456), "0.0001235"), (as_number(2.0), "2"), (as_number(0.4321, 2), "0.43"),
        (as_ap50(0.0449, 2), "0.04"), (as_difference(0.01), "+0.0100"),
        (as_difference(-0.00004), "-0.0000"), (as_p_value(0.00009), "< 0.0001"),
        (as_p_value(0.04321), "0.0432"), (as_percent(0.125), "12%"), (as_percent(0.125, 1), "12.5%"),
        (as_loss(1.23456), "1.235"), (as_tenths(30.06), "30.1"), (as_seconds(12.34), "12.3 s"),
        (as_hours(1.234), "1.23"), (as_hours(0.01234), "0.012"), (as_tick(3e-5), "3e-5"),
        (as_tick(0.01), "0.01"), (as_tick(100.0), "100"), (as_tick(1e6), "1e6"),
        (as_interval(0.5, 0.4, 0.6123, signed=False), "0.5000 (0.400 to 0.612)"),
        (as_interval(0.1, -0.02, 0.22, signed=True), "+0.1000 (-0.020 to +0.220)"),
        (as_interval(0.1, math.nan, math.nan, signed=True), "+0.1000 (interval not known)"),
    ],
)  # fmt: skip
def test_each_kind_of_value_has_one_form(text: str, expected: str) -> None:
    assert text == expected


def test_no_score_is_no_number() -> None:
    assert as_ap50(None) == NO_VALUE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (7100, "118 min"),
        (7200, "2.0 h"),
        (9000, "2.5 h"),
        (172_000, "47.8 h"),
        (172_800, "2 days"),
        (59 * 86_400, "59 days"),
        (60 * 86_400, "2 months"),
        (700 * 86_400, "23 months"),
        (900 * 86_400, "2 years"),
    ],
)
def test_a_duration_has_the_unit_in_which_it_is_easy_to_grasp(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (120, 300, "2 to 5 min"),
        (2400, 9000, "40 min to 2.5 h"),
        (119, 121, "about 2 min"),
        (5e6, 2e7, "58 days to 8 months"),
        (0, 240, "up to 4 min"),
    ],
)
def test_a_span_of_times_names_a_unit_once_where_both_ends_have_it(
    low: float, high: float, text: str
) -> None:
    assert as_time_span(low, high) == text


@given(st.floats(0, 1e10), st.floats(0, 1e10))
def test_of_two_durations_in_one_unit_the_longer_never_reads_shorter(
    one: float, other: float
) -> None:
    (less, unit), (more, its) = (as_duration(value).split() for value in sorted((one, other)))
    if unit == its:
        assert float(less.replace(",", "")) <= float(more.replace(",", ""))
