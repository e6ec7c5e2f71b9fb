"""How values are written, in one form each: in sentences, and in the cells of tables."""

from collections.abc import Mapping

NO_VALUE = "\N{EN DASH}"
"""The text where there is no value."""


def as_setting(value: bool | int | float | str) -> str:
    """The value of a setting: `on` or `off`, a number of four digits at most, or its text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_settings(settings: Mapping[str, bool | int | float | str]) -> str:
    """Settings with their values: `optim.epochs 50, augment.elastic on`."""
    return ", ".join(f"{name} {as_setting(value)}" for name, value in settings.items())


def as_ap50(score: float | None) -> str:
    """An AP50 with four digits after the point, as in the reference report."""
    return NO_VALUE if score is None else f"{score:.4f}"


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
