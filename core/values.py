"""How values are written, in one form each: in sentences, and in the cells of tables."""

import math
from collections.abc import Mapping

NO_VALUE = "\N{EN DASH}"
"""The text where there is no value."""


def as_number(value: float, digits: int = 4) -> str:
    """A number with at most so many significant digits: `0.0001235`, `12.5`, `1.5e+06`."""
    return f"{value:.{digits}g}"


def as_setting(value: bool | int | float | str) -> str:
    """The value of a setting: `on` or `off`, a number of four digits at most, or its text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return as_number(value) if isinstance(value, float) else str(value)


def as_settings(settings: Mapping[str, bool | int | float | str]) -> str:
    """Settings with their values: `optim.epochs 50, augment.elastic on`."""
    return ", ".join(f"{name} {as_setting(value)}" for name, value in settings.items())


def as_ap50(score: float | None, digits: int = 4) -> str:
    """An AP50 with so many digits after the point; four of them as in the reference report."""
    return NO_VALUE if score is None else f"{score:.{digits}f}"


def as_difference(ap50: float) -> str:
    """A difference in AP50, with its sign."""
    return f"{ap50:+.4f}"


def as_interval(estimate: float, low: float, high: float, signed: bool) -> str:
    """An AP50, or a difference in AP50 where `signed`, with the ends of its interval.

    The ends are left out where they are not numbers.
    """
    written = as_difference(estimate) if signed else as_ap50(estimate)
    if math.isnan(low):
        return f"{written} (interval not known)"
    sign = "+" if signed else ""
    return f"{written} ({low:{sign}.3f} to {high:{sign}.3f})"


def as_p_value(p: float) -> str:
    """A p value with four digits after the point, or `< 0.0001`."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def as_percent(fraction: float, digits: int = 0) -> str:
    """A fraction of 1 in percent: `12%`."""
    return f"{fraction:.{digits}%}"


def as_loss(loss: float) -> str:
    """A loss with three digits after the point."""
    return f"{loss:.3f}"


def as_tenths(value: float) -> str:
    """A measured value, such as images per second or GiB, with one digit after the point."""
    return f"{value:.1f}"


def as_seconds(seconds: float) -> str:
    """A short time that was measured: `12.3 s`."""
    return f"{seconds:.1f} s"


def as_hours(hours: float) -> str:
    """A number of hours, to the hundredth from 0.1 on."""
    return f"{hours:.2f}" if hours >= 0.1 else as_number(hours, 2)


def as_tick(value: float) -> str:
    """A number on an axis: `3e-5`, `0.01`, `100`."""
    if 0.001 < value < 10_000:
        return as_number(value, 6)
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def as_duration(seconds: float) -> str:
    """A time in the unit that is easiest to grasp: `89 s`, `40 min`, `2.5 h`, `3 months`."""
    return " ".join(_amount_and_unit(seconds))


def as_time_span(low: float, high: float) -> str:
    """A range of times, given in seconds: `3 to 5 min`, `40 min to 2.5 h`, `about 20 min`.

    It is `up to 4 min` where the low end is under a fiftieth of the high one.
    """
    (least, unit), (most, other) = _amount_and_unit(low), _amount_and_unit(high)
    if low < high / 50:
        return f"up to {most} {other}"
    if unit != other:
        return f"{least} {unit} to {most} {other}"
    return f"about {most} {unit}" if least == most else f"{least} to {most} {unit}"


def _amount_and_unit(seconds: float) -> tuple[str, str]:
    """A time as a rounded amount and its unit, from seconds to years."""
    minutes, days = round(seconds / 60), seconds / 86_400
    if seconds < 90:
        return f"{round(seconds)}", "s"
    if minutes < 120:
        return f"{minutes}", "min"
    if minutes < 48 * 60:
        return f"{minutes / 60:.1f}", "h"
    if days < 60:
        return f"{round(days)}", "days"
    if days < 730:
        return f"{round(days / 30.44)}", "months"
    return f"{round(days / 365.25):,}", "years"
