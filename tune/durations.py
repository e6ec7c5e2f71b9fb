"""Durations as command lines take them, such as 90m."""

import re

from core.errors import BadRequest


def seconds(text: str, option: str) -> float:
    """The seconds of a duration such as 45s, 90m or 12h.

    option   the option that takes it

    Raises BadRequest, which names the option, if the text is no duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise BadRequest(f"{option} must be a number and s, m or h, such as 90m, and is {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
