"""Trials of one study whose spaces differ, because the space has grown.

A parameter whose choices have grown is stored under another name from then on, such as
`model.backbone (4 choices)`, because Optuna stores a choice as its place among the choices, and
refuses other choices under the same name. Earlier trials stay as they are. A wider range keeps its
name.

Added values are searched: of the first trials after a space has grown, every other one takes an
added value, because a sampler that learns may keep to the values that it knows.
"""

from collections.abc import Iterable, Mapping, Sequence

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from core.config import Value
from tune.samplers.sampler import SAMPLERS
from tune.space.domains import Domain
from tune.space.space import Parameter, SearchSpace

FIRST = 10
"""Number of trials after a space has grown of which every other one takes an added value."""
_DRAWS = 100
"""Number of random points among which an added value is looked for."""


def plain_name(stored: str) -> str:
    """The name of the setting that is stored under the name `stored`."""
    return stored.partition(" ")[0]


def stored_parameter(
    name: str, wanted: BaseDistribution, known: Mapping[str, BaseDistribution]
) -> tuple[str, BaseDistribution]:
    """The name and the distribution under which a parameter of a new trial is stored.

    known   the distribution of each stored parameter
    """
    if not isinstance(wanted, CategoricalDistribution):
        return name, wanted
    for stored in (name, f"{name} ({len(wanted.choices)} choices)"):
        before = known.get(stored, wanted)
        if isinstance(before, CategoricalDistribution) and set(before.choices) == set(
            wanted.choices
        ):
            return stored, before  # perhaps in another order
    raise AssertionError(f"the choices of {name} have grown twice to the same number")


def united(distributions: Iterable[BaseDistribution]) -> BaseDistribution:
    """One distribution that holds the values of all given ones, which are of one kind."""
    found = list(distributions)
    last = found[-1]
    if isinstance(last, CategoricalDistribution):
        choices = [one.choices for one in found if isinstance(one, CategoricalDistribution)]
        return CategoricalDistribution(
            list(dict.fromkeys(value for one in choices for value in one))
        )
    assert isinstance(last, FloatDistribution | IntDistribution)
    ranges = [one for one in found if isinstance(one, FloatDistribution | IntDistribution)]
    low, high = min(one.low for one in ranges), max(one.high for one in ranges)
    if isinstance(last, IntDistribution):
        return IntDistribution(int(low), int(high), log=last.log, step=last.step)
    return FloatDistribution(low, high, log=last.log, step=last.step)


def added_value(
    space: SearchSpace, drawn: Sequence[Mapping[str, BaseDistribution]], seed: int
) -> dict[str, Value]:
    """The settings that the next trial takes because the space has grown; empty for most trials.

    drawn   the distributions from which the params of each trial were drawn, by plain names
    seed    seed of the value

    They are one value that trials before the growth could not have, with values of the parameters
    that must be set for it to be active. Where several parameters have grown, they take turns.
    """
    grown = {one.name: _places_outside(one, drawn) for one in space.parameters}
    names = [name for name, places in grown.items() if places]
    since = len(drawn) - 1 - max((max(grown[name]) for name in names), default=len(drawn))
    if not names or since >= FIRST or since % 2:
        return {}
    name = names[since // 2 % len(names)]
    before = united(drawn[place][name] for place in grown[name])
    needed = [one.name for one in space.part(name.__eq__).parameters]
    at_random = SAMPLERS["random"]()
    for attempt in range(_DRAWS):
        point = at_random.propose(space, {}, [], (seed + attempt) % 2**32)
        new = name in point and not _has(before, point[name])
        if new and space.forbidden_by(point) is None:
            return {one: point[one] for one in needed if one in point}
    return {}


def _places_outside(
    parameter: Parameter, drawn: Sequence[Mapping[str, BaseDistribution]]
) -> list[int]:
    """The trials whose distribution of a parameter lacks values that the parameter has now."""
    of_trials = [trial.get(parameter.name) for trial in drawn]
    # A ledger's trials share their distributions, so few are looked at.
    distinct = {id(one): one for one in of_trials if one is not None}
    lacking = {key for key, one in distinct.items() if not _holds(one, parameter.domain)}
    return [place for place, one in enumerate(of_trials) if id(one) in lacking]


def _holds(known: BaseDistribution, domain: Domain) -> bool:
    """Whether a distribution has all values of a domain of its kind; steps are ignored."""
    return all(_has(known, value) for value in domain.corners)


def _has(known: BaseDistribution, value: Value) -> bool:
    if isinstance(known, CategoricalDistribution):
        return value in known.choices
    assert isinstance(known, FloatDistribution | IntDistribution)
    return not isinstance(value, str) and known.low <= value <= known.high
