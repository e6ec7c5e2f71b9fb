"""The search space of a study: parameters with their domains, or variants to compare.

This module reads no file.
"""

import itertools
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from core.config import AUTO, SETTINGS, TrialConfig, Value
from core.dependence import NEEDS, Need, unmet_need
from core.errors import SpaceError
from tune.space.domains import Choices, Domain

if TYPE_CHECKING:
    from core.fitting import Circumstances

SHARED = (
    "seed",
    "data.split_seed",
    "data.validation_fraction",
    "data.folds",
    "data.fold",
    "data.group_pattern",
    "data.skip_bad",
    "data.allow_suspicious",
    "data.split_components",
    "data.class_names",
    "data.intensity",
    "metric.max_dets",
)
"""Settings that can neither be searched nor differ between variants, because scores could then not
be compared."""
BY_REPEAT = ("seed", "data.split_seed", "data.fold")
"""Settings that tell the repeats of a variant apart."""

MAX_COMBINATIONS = 2000
"""Largest number of combinations of choices and range ends with which a space is checked."""


@dataclass(frozen=True)
class Parameter:
    """A searched setting.

    when   the parameter is active, that is searched, only where every setting named here has one of
           its listed values. A setting that is not searched, or not active itself, has its fixed
           value or its default
    """

    name: str
    domain: Domain
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A row of an ablation table."""

    name: str
    settings: Mapping[str, Value]


@dataclass(frozen=True)
class VariantRepeat:
    """One trial of a study of variants.

    name     the variant's name, the same for all its repeats
    config   the configuration, with the seed, split seed and fold of the repeat
    params   the variant's own settings
    """

    name: str
    config: TrialConfig
    params: dict[str, Value]


@dataclass(frozen=True)
class SearchSpace:
    """The configurations of a study: parameters to search, or variants to compare.

    A point of the space has a value for each active parameter, and no more; such values are called
    `params`.

    fixed        settings that all trials share; a setting that is not named has its default
    parameters   the searched settings, parents before the parameters whose `when` names them
    start        points that are tried first; settings that a point does not name are drawn
    baseline     the variant with which the others are compared
    compare      the counterpart of each variant that is not compared with the baseline
    seeds        number of repeats of each variant; repeat r has seed and split seed r, counted from
                 0
    forbid       rules that forbid points: each names settings, searched or not, with the values
                 that they must not have together
    auto         the facts from which `resolve` takes a value for each `auto`; None leaves `auto` in
                 place, as before a study is planned on its data and a machine
    """

    fixed: Mapping[str, Value] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    variants: tuple[Variant, ...] = ()
    start: tuple[Mapping[str, Value], ...] = ()
    baseline: str | None = None
    compare: Mapping[str, str] = field(default_factory=dict)
    seeds: int = 1
    forbid: tuple[Mapping[str, tuple[Value, ...]], ...] = ()
    auto: "Circumstances | None" = None

    def is_active(self, name: str, params: Mapping[str, Value]) -> bool:
        """Whether a parameter is active at a point, given the params of its parents."""
        return self._holds(self._parameter(name), params)

    def sample(self, draw: Callable[[str, Domain], Value]) -> dict[str, Value]:
        """One point of the space.

        `draw(name, domain)` is called for the active parameters only, parents first.
        """
        params: dict[str, Value] = {}
        for parameter in self.parameters:
            if self._holds(parameter, params):
                params[parameter.name] = draw(parameter.name, parameter.domain)
        return params

    def holds(self, params: object) -> bool:
        """Whether these are the params of a point: a value for each active parameter, no others."""
        if not isinstance(params, Mapping):
            return False
        try:
            point = self.sample(lambda name, _: params[name])
            inside = all(
                point[one.name] in one.domain for one in self.parameters if one.name in point
            )
        except (KeyError, TypeError):
            return False
        return inside and point == dict(params) and self.forbidden_by(params) is None

    def forbidden_by(self, params: Mapping[str, Value]) -> Mapping[str, tuple[Value, ...]] | None:
        """The first rule that forbids a point; None if none does."""
        return next(
            (
                rule
                for rule in self.forbid
                if all(self.value(name, params) in values for name, values in rule.items())
            ),
            None,
        )

    @property
    def of_rules(self) -> "SearchSpace":
        """The same space with only the parameters that the rules of `forbid` name, and their
        parents, and only with values that tell one rule from another.
        """
        named = {name for rule in self.forbid for name in rule}
        return self.part(named.__contains__).corners

    def pinned(self, point: Mapping[str, Value]) -> "SearchSpace":
        """The same space with one value for each parameter that a point, or a part of it, names."""
        return replace(
            self,
            parameters=tuple(
                replace(one, domain=Choices((point[one.name],))) if one.name in point else one
                for one in self.parameters
            ),
        )

    def resolve(self, params: Mapping[str, Value], place: str = "space") -> TrialConfig:
        """The configuration of a point. Raises SettingError, whose message names `place`, where a
        value is outside its range or settings exclude each other.
        """
        config = TrialConfig.from_settings({**self.fixed, **params}, place)
        return config if self.auto is None else config.resolved(self.auto)

    def rows(self) -> tuple[VariantRepeat, ...]:
        """The trials of a study of variants.

        The first repeats of all variants come before any second one, so a study that is cut short
        compares like with like.
        """
        folds = int(self.value("data.folds", {}))
        return tuple(
            VariantRepeat(
                variant.name,
                self.resolve({**variant.settings, **repeat}, variant.name),
                dict(variant.settings),
            )
            for seed in range(self.seeds)
            for fold in range(max(folds, 1))
            for repeat in [dict[str, Value](zip(BY_REPEAT, (seed, seed, fold), strict=True))]
            for variant in self.variants
        )

    def leaves_open(self, name: str) -> bool:
        """Whether a setting is `auto` in some configuration."""
        if self.variants:
            return any(self.value(name, variant.settings) == AUTO for variant in self.variants)
        mine = [one for one in self.parameters if one.name == name]
        if any(AUTO in one.domain for one in mine):
            return True
        always = any(not one.when for one in mine)
        return not always and self.value(name, {}) == AUTO

    def counterpart(self, name: str) -> str | None:
        """The variant with which this one is compared; None for a baseline without one."""
        return self.compare.get(name, None if name == self.baseline else self.baseline)

    def grid(self) -> list[dict[str, Value]]:
        """Every point that is not forbidden once, in the order of the file. Raises SpaceError if a
        range has no step.
        """
        possible = self.possible
        for parameter in self.parameters:
            if parameter.domain.count is None and parameter.name in possible:
                raise SpaceError(
                    f"{parameter.name}: a grid needs a `step` or choices in place of a continuous"
                    f" range, and has low {parameter.domain.corners[0]} and high"
                    f" {parameter.domain.corners[1]} only."
                )
        points: list[dict[str, Value]] = [{}]
        later = {parameter.name for parameter in self.parameters}
        for parameter in self.parameters:
            later.remove(parameter.name)
            rules = tuple(rule for rule in self.forbid if not later & rule.keys())
            decided = replace(self, forbid=rules)
            points = [
                point if value is None else {**point, parameter.name: value}
                for point in points
                for value in (
                    parameter.domain.points() if self._holds(parameter, point) else [None]
                )
            ]
            if rules:
                points = [point for point in points if decided.forbidden_by(point) is None]
        return points

    @property
    def size(self) -> int | None:
        """Number of different configurations without repeats; None if a range is continuous."""
        if self.variants:
            return len(
                {
                    tuple(sorted(({**self.fixed, **variant.settings}).items()))
                    for variant in self.variants
                }
            )
        possible = self.possible
        if any(
            parameter.domain.count is None
            for parameter in self.parameters
            if parameter.name in possible
        ):
            return None
        return self._count(0, {})

    @property
    def idle(self) -> dict[str, Need]:
        """The settings without an effect in any point, each with a need that is not met.

        Only searched settings, and settings fixed to another value than the default, are looked at.
        A setting that depends on so many others that not all combinations can be tried counts as
        having an effect.
        """
        named = {parameter.name for parameter in self.parameters if parameter.name in self.possible}
        named |= {name for name, value in self.fixed.items() if value != SETTINGS[name]}
        found = {}
        for name in [name for name in SETTINGS if name in named & NEEDS.keys()]:
            lacking = self._lacking(name)
            if lacking is not None:
                found[name] = lacking
        return found

    def _lacking(self, name: str) -> Need | None:
        """The need that the first point with the setting lacks; None if a point lacks none."""
        if self.variants:
            points: list[Mapping[str, Value]] = [variant.settings for variant in self.variants]
        else:
            concerned = {name, *(need.setting for need in NEEDS[name])}
            part = self.part(concerned.__contains__).corners
            assert part.size is not None
            if part.size > MAX_COMBINATIONS:
                return None
            points = [point for point in part.grid() if name in point or name in self.fixed]
        lacking = [unmet_need(name, {**self.fixed, **point}) for point in points]
        return lacking[0] if lacking and None not in lacking else None

    @property
    def corners(self) -> "SearchSpace":
        """The same space with each range replaced by a few of its values.

        These are its two ends, the values that some `when` or a rule of `forbid` names, and, where
        those are all of these, one that none names, if the range has steps.
        """

        def corners(parameter: Parameter) -> Choices:
            domain = parameter.domain
            named = [value for value in self.told_apart(parameter.name) if value in domain]
            values: list[Value] = [*domain.corners, *named]
            if domain.count is not None and set(values) <= set(named):
                values += itertools.islice((one for one in domain.points() if one not in named), 1)
            return Choices(tuple(dict.fromkeys(values)))

        return replace(
            self, parameters=tuple(replace(one, domain=corners(one)) for one in self.parameters)
        )

    def part(self, wants: Callable[[str], bool]) -> "SearchSpace":
        """The same space with only the parameters that `wants` accepts, and the parents that their
        `when` names. A rule of `forbid` stays if it names none of the others.
        """
        names: set[str] = set()
        for parameter in reversed(self.parameters):
            if wants(parameter.name) or parameter.name in names:
                names |= {parameter.name, *parameter.when}
        gone = {one.name for one in self.parameters} - names
        return replace(
            self,
            parameters=tuple(one for one in self.parameters if one.name in names),
            start=(),
            forbid=tuple(rule for rule in self.forbid if not gone & rule.keys()),
        )

    @property
    def possible(self) -> frozenset[str]:
        """The parameters that are active in at least one point."""
        possible: set[str] = set()
        for parameter in self.parameters:
            if all(self._may_be(name, values, possible) for name, values in parameter.when.items()):
                possible.add(parameter.name)
        return frozenset(possible)

    def value(self, name: str, params: Mapping[str, Value]) -> Value:
        """The value of a setting at a point: drawn, fixed, or the default."""
        return params.get(name, self.fixed.get(name, SETTINGS[name]))

    def told_apart(self, name: str) -> list[Value]:
        """The values of a setting that the `when` of any parameter, or a rule of `forbid`, names,
        each once.
        """
        named = [*(parameter.when for parameter in self.parameters), *self.forbid]
        return list(dict.fromkeys(value for one in named for value in one.get(name, ())))

    def unmet(self, parameter: Parameter) -> dict[str, tuple[Value, ...]]:
        """The conditions of a parameter that no point fulfils."""
        possible = self.possible
        return {
            name: values
            for name, values in parameter.when.items()
            if not self._may_be(name, values, possible)
        }

    def _parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def _holds(self, parameter: Parameter, params: Mapping[str, Value]) -> bool:
        """Whether the `when` of a parameter is fulfilled at a point."""
        return all(self.value(name, params) in values for name, values in parameter.when.items())

    def _may_be(self, name: str, values: tuple[Value, ...], possible: Set[str]) -> bool:
        """Whether a setting has one of these values in at least one point.

        possible   parameters that are active in at least one point
        """
        by_default = self.value(name, {}) in values
        for parameter in self.parameters:
            if parameter.name == name and name in possible:
                return any(value in parameter.domain for value in values) or (
                    bool(parameter.when) and by_default
                )
        return by_default

    def _count(self, index: int, params: Mapping[str, Any]) -> int:
        """Number of points that differ in the parameters from `index` on.

        Not every point is visited: all values of a parameter that `told_apart` lacks lead to the
        same number of points, so one of them, written None, stands for all.
        """
        if index == len(self.parameters):
            return int(self.forbidden_by(params) is None)
        parameter = self.parameters[index]
        if not self._holds(parameter, params):
            return self._count(index + 1, params)
        assert parameter.domain.count is not None
        named = {value for value in self.told_apart(parameter.name) if value in parameter.domain}
        total = sum(self._count(index + 1, {**params, parameter.name: value}) for value in named)
        if others := parameter.domain.count - len(named):
            total += others * self._count(index + 1, {**params, parameter.name: None})
        return total
