"""The values that a setting may have: listed ones, or a range of numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from core.config import Value

_STEP_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Choices:
    """A domain of listed values: at least one, all different."""

    values: tuple[Value, ...]

    def __contains__(self, value: Value) -> bool:
        return value in self.values

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.values)

    @property
    def corners(self) -> tuple[Value, ...]:
        """The values with which a space is checked: all of them."""
        return self.values

    def points(self) -> Iterator[Value]:
        """All values."""
        return iter(self.values)


@dataclass(frozen=True)
class FloatRange:
    """A number from `low` to `high`, both included.

    If there is a `step`, `high - low` is a multiple of it.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __contains__(self, value: Value) -> bool:
        if isinstance(value, str) or not self.low <= value <= self.high:
            return False
        return self.step is None or is_whole((value - self.low) / self.step)

    @property
    def count(self) -> int | None:
        """Number of values; None if the range is continuous."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    @property
    def corners(self) -> tuple[float, float]:
        """The values with which a space is checked: both ends."""
        return self.low, self.high

    def points(self) -> Iterator[float]:
        """All values, ascending; the range must have a step."""
        assert self.count is not None
        return (self._point(index) for index in range(self.count))

    def nearest(self, value: float) -> float:
        """The value itself in a continuous range; with a step, the nearest value of the range."""
        if self.step is None:
            return value
        return self._point(max(0, round((value - self.low) / self.step)))

    def _point(self, index: int) -> float:
        # In decimals, so that the third step of 0.1 is 0.3 and not 0.30000000000000004.
        return min(float(Decimal(repr(self.low)) + index * Decimal(repr(self.step))), self.high)


@dataclass(frozen=True)
class IntRange:
    """A whole number from `low` to `high`, both included; `high - low` is a multiple of `step`."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __contains__(self, value: Value) -> bool:
        return not isinstance(value, str) and value in range(self.low, self.high + 1, self.step)

    @property
    def count(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    @property
    def corners(self) -> tuple[int, int]:
        """The values with which a space is checked: both ends."""
        return self.low, self.high

    def points(self) -> Iterator[int]:
        """All values, ascending."""
        return iter(range(self.low, self.high + 1, self.step))


Domain = Choices | FloatRange | IntRange


def is_whole(quotient: float) -> bool:
    """Whether a quotient of floats is a whole number, but for rounding."""
    return abs(quotient - round(quotient)) < _STEP_TOLERANCE
