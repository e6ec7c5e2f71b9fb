"""Trials of one study whose spaces differ, because the space has grown.

Optuna stores a choice as its place among the choices, and refuses other choices under the same
name. So a parameter whose choices have grown is stored under another name from then on, such as
`model.backbone (4 choices)`; trials that are there stay as they are. A wider range keeps its name.
"""

from collections.abc import Iterable, Mapping

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


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
