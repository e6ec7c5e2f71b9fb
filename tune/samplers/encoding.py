"""The points of a search space as rows of numbers, which a Gaussian process can compare."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.config import Value
from tune.space.domains import Choices, Domain, FloatRange, IntRange
from tune.space.space import SearchSpace

Array = NDArray[np.float64]

_MOST_STEPS = 1000
"""Largest number of values of a range with steps for which points are moved to these values. A
range with more values is treated as continuous until a point is decoded."""


@dataclass(frozen=True)
class Encoding:
    """The points of a space as rows of numbers, a column for each parameter.

    A range goes from 0 to 1, in its logarithm where it says so. A choice is its place among the
    choices, counted from 0; two choices are equally far apart, whichever they are. Every parameter
    has a column: where it is not active, the column has the value that holds there.
    """

    space: SearchSpace

    @functools.cached_property
    def nominal(self) -> NDArray[np.bool_]:
        """Whether a column holds places of choices."""
        return np.array([isinstance(one.domain, Choices) for one in self.space.parameters])

    def shown(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        """The value of each parameter in these settings or params, as one of its domain."""
        return {
            one.name: value_inside(one.domain, self.space.value(one.name, settings))
            for one in self.space.parameters
        }

    def encoded(self, points: Sequence[Mapping[str, Value]]) -> Array:
        """Points as rows [N, D]; each names a value of its domain for every parameter."""
        columns = [
            [_coordinate(one.domain, point[one.name]) for point in points]
            for one in self.space.parameters
        ]
        return np.array(columns, dtype=np.float64).T

    def decoded(self, row_D: Array) -> dict[str, Value]:
        """The values of a row, those of inactive parameters included."""
        return {
            one.name: _value(one.domain, float(number))
            for one, number in zip(self.space.parameters, row_D, strict=True)
        }

    def drawn(self, uniform_ND: Array) -> Array:
        """Rows [N, D] from numbers that are uniform from 0 to 1."""
        sizes = [
            one.domain.count if isinstance(one.domain, Choices) else 1
            for one in self.space.parameters
        ]
        return self.settled(np.array(sizes) * uniform_ND - 0.5 * self.nominal)

    def settled(self, rows_ND: Array) -> Array:
        """The rows of points of the space that are nearest to these rows.

        Numbers outside of a domain are moved to its ends, those between steps or choices to the
        nearest. The column of a parameter that is not active gets the value that holds there.
        """
        rows_ND = rows_ND.copy()
        active_N: dict[str, NDArray[np.bool_]] = {}
        for column, one in enumerate(self.space.parameters):
            rows_ND[:, column] = self._nearest(column, rows_ND[:, column])
            holds_N = np.ones(len(rows_ND), dtype=bool)
            for name, values in one.when.items():
                by_default = self.space.value(name, {}) in values
                if name not in active_N:
                    holds_N &= by_default
                    continue
                place = list(active_N).index(name)
                domain = self.space.parameters[place].domain
                numbers = [_coordinate(domain, value) for value in values if value in domain]
                holds_N &= np.where(active_N[name], np.isin(rows_ND[:, place], numbers), by_default)
            active_N[one.name] = holds_N
            rows_ND[~holds_N, column] = _coordinate(
                one.domain, value_inside(one.domain, self.space.value(one.name, {}))
            )
        return rows_ND

    def _nearest(self, column: int, numbers_N: Array) -> Array:
        values_V = self._steps[column]
        if values_V is None:
            return np.clip(numbers_N, 0.0, 1.0)
        between_V = (values_V[1:] + values_V[:-1]) / 2
        return values_V[np.searchsorted(between_V, numbers_N)]

    @functools.cached_property
    def _steps(self) -> list[Array | None]:
        """The numbers that a column may have, in their order; None for a continuous one."""
        found: list[Array | None] = []
        for one in self.space.parameters:
            domain = one.domain
            count = domain.count
            few = count is not None and count <= _MOST_STEPS
            values = [_coordinate(domain, value) for value in domain.points()] if few else None
            found.append(None if values is None else np.array(values))
        return found


def _coordinate(domain: Domain, value: Value) -> float:
    if isinstance(domain, Choices):
        return float(domain.values.index(value))
    low, high, number = float(domain.low), float(domain.high), float(value)
    if domain.log:
        low, high, number = math.log(low), math.log(high), math.log(number)
    return 0.5 if high == low else (number - low) / (high - low)


def _value(domain: Domain, number: float) -> Value:
    if isinstance(domain, Choices):
        return domain.values[round(number)]
    low, high = float(domain.low), float(domain.high)
    if domain.log:
        value = math.exp(math.log(low) + number * (math.log(high) - math.log(low)))
    else:
        value = low + number * (high - low)
    value = min(max(value, low), high)
    return domain.nearest(value) if isinstance(domain, FloatRange) else _nearest_step(domain, value)


def value_inside(domain: Domain, value: Value) -> Value:
    """The value itself, or a value of the domain that stands for it.

    The fixed value of an inactive setting may lie outside its domain.
    """
    if value in domain:
        return value
    if isinstance(domain, Choices):
        return domain.values[0]
    near = domain.low
    if not isinstance(value, str):
        near = min(max(value, domain.low), domain.high)
    return domain.nearest(near) if isinstance(domain, FloatRange) else _nearest_step(domain, near)


def _nearest_step(domain: IntRange, value: float) -> int:
    return int(domain.low + round((value - domain.low) / domain.step) * domain.step)
