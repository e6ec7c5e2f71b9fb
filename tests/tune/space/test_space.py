"""Laws of the search space: what its points are, and how many."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from core.config import SETTINGS, Value
from core.errors import SpaceError
from tune.request.file import from_document
from tune.request.request import SearchOptions, StudyRequest
from tune.space.domains import Choices, Domain, FloatRange, IntRange
from tune.space.space import Parameter, SearchSpace

# A few settings whose values are easy to draw, in one tree of conditions.
CHOICES: Mapping[str, list[Value]] = {
    "optim.restarts": [0, 1, 3],
    "optim.restart_multiplier": [1.0, 1.5, 2.0],
    "augment.elastic": [False, True],
    "augment.elastic_alpha": [20.0, 60.0, 100.0],
    "model.trainable_layers": [0, 1, 5],
    "model.detector": ["fpn", "fpn_v2"],
}


@st.composite
def finite_spaces(draw: st.DrawFn) -> SearchSpace:
    """Parameters in any order of names, each conditional on some of those before it or on
    settings not searched.
    """
    names = draw(st.lists(st.sampled_from(sorted(CHOICES)), min_size=1, max_size=5, unique=True))
    parameters: list[Parameter] = []
    for index, name in enumerate(names):
        values = draw(st.lists(st.sampled_from(CHOICES[name]), min_size=1, max_size=3, unique=True))
        parents = draw(
            st.lists(st.sampled_from([*names[:index], "optim.precision"]), max_size=2, unique=True)
        )
        when = {
            parent: tuple(
                draw(
                    st.lists(
                        st.sampled_from(CHOICES.get(parent, ["fp32", "bf16"])),
                        min_size=1,
                        max_size=2,
                        unique=True,
                    )
                )
            )
            for parent in parents
        }
        parameters.append(Parameter(name, Choices(tuple(values)), when))
    return SearchSpace(parameters=tuple(parameters))


def active_only(space: SearchSpace, full: Mapping[str, Value]) -> dict[str, Value]:
    """What remains of values for all parameters when the conditions are applied one after the
    other.
    """
    merged, params = dict(SETTINGS) | dict(space.fixed), {}
    for parameter in space.parameters:
        if all(merged[name] in values for name, values in parameter.when.items()):
            params[parameter.name] = merged[parameter.name] = full[parameter.name]
    return params


@given(finite_spaces())
def test_a_grid_is_every_combination_once(space: SearchSpace) -> None:
    names = [parameter.name for parameter in space.parameters]
    products = itertools.product(*(parameter.domain.points() for parameter in space.parameters))
    expected = {
        tuple(active_only(space, dict(zip(names, values, strict=True))).items())
        for values in products
    }
    grid = [tuple(point.items()) for point in space.grid()]
    assert set(grid) == expected
    assert len(grid) == len(expected) == space.size
    configs = {space.resolve(dict(point)).model_dump_json() for point in grid}
    assert len(configs) == len(grid)


@given(finite_spaces(), st.randoms(use_true_random=False))
def test_sampling_draws_the_active_parameters_and_no_other(space: SearchSpace, rng: Any) -> None:
    full = {
        parameter.name: rng.choice(list(parameter.domain.points()))
        for parameter in space.parameters
    }
    drawn: list[str] = []

    def draw(name: str, domain: Domain) -> Value:
        drawn.append(name)
        value: Value = full[name]
        assert value in domain
        return value

    params = space.sample(draw)
    assert params == active_only(space, full)
    assert drawn == list(params)
    before: dict[str, Value] = {}
    for parameter in space.parameters:
        assert space.is_active(parameter.name, before) == (parameter.name in params)
        before |= {name: value for name, value in params.items() if name == parameter.name}
    assert set(params) <= space.possible


@given(finite_spaces())
def test_a_parameter_that_is_not_possible_is_in_no_point_of_the_grid(space: SearchSpace) -> None:
    seen = {name for point in space.grid() for name in point}
    assert seen <= space.possible
    conditional = {parameter.name for parameter in space.parameters if parameter.when}
    if all(len(p.when) <= 1 and not conditional & set(p.when) for p in space.parameters):
        assert seen == space.possible  # conditions that cannot exclude each other


@given(
    st.integers(0, 50),
    st.integers(1, 60),
    st.integers(1, 7),
)
def test_a_range_of_whole_numbers_contains_its_points_and_nothing_between(
    low: int, steps: int, step: int
) -> None:
    domain = IntRange(low, low + steps * step, step=step)
    points = list(domain.points())
    assert points[0] == domain.low
    assert points[-1] == domain.high
    assert len(points) == domain.count
    inside = [value for value in range(low - 10, domain.high + 10) if value in domain]
    assert inside == points


@given(st.integers(0, 50), st.integers(1, 60), st.sampled_from([0.1, 0.25, 0.3, 1e-5]))
def test_a_range_with_a_step_contains_its_points_as_they_are_written(
    low: int, steps: int, step: float
) -> None:
    domain = FloatRange(low * step, low * step + steps * step, step=step)
    points = list(domain.points())
    assert len(points) == domain.count == steps + 1
    assert all(point in domain for point in points)
    assert all((left + right) / 2 not in domain for left, right in itertools.pairwise(points))


def test_the_steps_of_a_tenth_are_those_one_would_write() -> None:
    assert list(FloatRange(0.1, 0.7, step=0.1).points()) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_the_size_of_a_large_space_is_counted_without_walking_through_it() -> None:
    parameters = [
        Parameter(name, Choices((False, True)))
        for name, default in SETTINGS.items()
        if name.startswith("augment.") and default is False
    ]
    combinations = 2 ** len(parameters)
    parameters.append(Parameter("optim.epochs", IntRange(1, 10_000)))
    parameters.append(
        Parameter("model.proposals_test", IntRange(16, 10_000), {"optim.epochs": (3, 17, 20_000)})
    )
    assert SearchSpace(parameters=tuple(parameters)).size == combinations * (2 * 9985 + 9998)
    assert (
        SearchSpace(parameters=(Parameter("optim.learning_rate", FloatRange(1e-5, 1e-3)),)).size
        is None
    )


@given(finite_spaces(), st.sampled_from(["tpe", "random"]), st.integers(1, 100))
def test_a_request_survives_its_document(space: SearchSpace, sampler: Any, trials: int) -> None:
    request = StudyRequest("s", "synthetic", space, SearchOptions(sampler=sampler, trials=trials))
    document = json.loads(json.dumps(request.to_document(), allow_nan=False))
    try:
        again = from_document(document, "study.json")
    except SpaceError as error:
        if "that it can take" in str(error) or "nothing is left" in str(error):
            return  # conditions that nothing can fulfil
        raise
    assert again == request
    assert again.to_document() == request.to_document()
