"""The sections of a space file that name settings, checked value by value and as a whole."""

import itertools
import math
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from core.config import AT_HAND, AUTO, RELATED, SETTINGS, TrialConfig, Value
from core.errors import SettingError, SpaceError
from core.text import brief
from core.values import as_number
from tune.request.values import (
    TYPES,
    as_mapping,
    check_known,
    check_name,
    checked_settings,
    checked_value,
    condition,
    suggestion,
)
from tune.space.domains import Choices, Domain, FloatRange, IntRange
from tune.space.space import BY_REPEAT, MAX_COMBINATIONS, SHARED, Parameter, SearchSpace, Variant

MAX_CANDIDATES = 100
"""Largest number of combinations of `after_training`: each predicts all validation images once
more."""
_MAX_STEPS = 1_000_000
"""Largest number of steps of a range."""
_MAX_RULED = 100_000
"""Largest number of combinations of values that the rules of `forbid` may tell apart."""
_SAMPLED_COMBINATIONS = 200
"""Number of random combinations with which a group of settings is checked that has too many."""
_STEP: Mapping[Any, TypeAdapter[Any]] = {
    int: TypeAdapter(Annotated[int, Field(gt=0)]),
    float: TypeAdapter(Annotated[float, Field(gt=0, allow_inf_nan=False)]),
}


def variants_space(
    sections: Mapping[str, Any], fixed: Mapping[str, Value], place: str
) -> SearchSpace:
    """The space of a study of variants. Raises SpaceError or SettingError."""
    if not sections["variants"]:
        raise SpaceError(f"{place}: `variants:` is empty. Name at least one row with its settings.")
    for name in BY_REPEAT:
        if name in fixed:
            raise SpaceError(
                f"{place}: '{name}' cannot be fixed in a study of variants: repeat r of each has"
                " seed and split seed r. `seeds:` says how many repeats, data.folds how many"
                " folds."
            )
    variants: list[Variant] = []
    for name, raw in sections["variants"].items():
        where = f"{place}, variants, {brief(name)}"
        if (
            not isinstance(name, str)
            or not name.strip()
            or len(name) > 100
            or not name.isprintable()
        ):
            raise SpaceError(f"{where}: a variant's name must be a text of 1 to 100 characters.")
        settings = checked_settings(raw, where)
        _check_not_shared(settings, where)
        for setting, value in settings.items():
            _refuse_at_hand(setting, [value], where)
        variants.append(Variant(name, settings))
    seeds = sections.get("seeds", 1)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or not 1 <= seeds <= 1000:
        raise SpaceError(
            f"{place}: `seeds:` must be a whole number from 1 to 1000, and is {brief(seeds)}."
        )
    names = [variant.name for variant in variants]
    baseline = sections.get("baseline", names[0])
    if baseline not in names:
        raise SpaceError(
            f"{place}: `baseline:` must name a variant, and is {brief(baseline)}."
            f" {suggestion(baseline, names)}"
        )
    compare = _counterparts(sections["compare"], names, f"{place}, compare")
    space = SearchSpace(
        fixed,
        variants=tuple(variants),
        baseline=baseline,
        compare=compare,
        seeds=seeds,
        forbid=_rules(sections["forbid"], {}, f"{place}, forbid"),
    )
    for variant in variants:
        space.resolve(variant.settings, f"{place}, variants, '{variant.name}'")
        rule = space.forbidden_by(variant.settings)
        if rule is not None:
            raise SpaceError(
                f"{place}, variants, '{variant.name}': is forbidden by `forbid:`"
                f" ({condition(rule)}). Take one of the two out."
            )
    return space


def _counterparts(raw: Mapping[object, object], names: Sequence[str], place: str) -> dict[str, str]:
    """The section `compare`: the counterpart of each variant that is not compared with the
    baseline.
    """
    counterparts: dict[str, str] = {}
    for name, counterpart in raw.items():
        for one in (name, counterpart):
            if one not in names:
                raise SpaceError(
                    f"{place}: must name variants, and {brief(one)} is none."
                    f" {suggestion(one, names)}"
                )
        if name == counterpart:
            raise SpaceError(
                f"{place}: a variant must be compared with another one, and {brief(name)} is with"
                " itself. Leave it out, or name the variant that differs from it in one thing."
            )
        counterparts[str(name)] = str(counterpart)
    return counterparts


def sampled_space(
    sections: Mapping[str, Any], fixed: Mapping[str, Value], place: str, overridden: Set[str]
) -> SearchSpace:
    """The space of a study that searches settings.

    overridden   settings that `--set` fixed, and that are therefore no longer in the sections

    Raises SpaceError or SettingError.
    """
    if not sections["space"]:
        taken = ", ".join(sorted(overridden & set(SETTINGS)))
        why = f" (--set fixes {taken})" if taken else ""
        raise SpaceError(
            f"{place}: `space:` is empty, nothing is left to search{why}. "
            "Search at least one setting, or name the configuration under `variants:`."
        )
    if fixed.get("data.folds"):
        raise SpaceError(
            f"{place}: data.folds must be 0 in a search, whose trials share one split, and is"
            f" {fixed['data.folds']}. Use confirm.folds, or `variants:`."
        )
    where = f"{place}, space"
    domains: dict[str, Domain] = {}
    for name, spec in sections["space"].items():
        check_name(name, where)
        if name in fixed:
            raise SpaceError(f"{where}: '{name}' is under `fixed:` too. Keep it in one of the two.")
        domains[name] = _domain(name, spec, where)
    _check_not_shared(domains, where)
    parameters = [
        Parameter(name, domain, _when(name, sections["space"], domains, fixed, where))
        for name, domain in domains.items()
    ]
    rules = _rules(sections["forbid"], domains, f"{place}, forbid")
    space = SearchSpace(fixed, _parents_first(parameters, where), forbid=rules)
    if not space.possible:
        only = ", ".join(f"{p.name} only where {condition(p.when)}" for p in space.parameters)
        raise SpaceError(
            f"{where}: nothing is left to search ({only}). Change `when`, `fixed:` or --set."
        )
    _refuse_all_forbidden(space, f"{place}, forbid", "leaves nothing of the space")
    _check_combinations(space, place)
    points = [
        _start_point(space, point, f"{place}, start {number}", overridden)
        for number, point in enumerate(sections["start"], 1)
    ]
    # Points may be equal, for example because --set took away what distinguished them; each is
    # tried once.
    distinct = {tuple(point.items()): point for point in points if point}
    return replace(space, start=tuple(distinct.values()))


def _rules(
    raw: Sequence[Mapping[object, object]], domains: Mapping[str, Domain], place: str
) -> tuple[Mapping[str, tuple[Value, ...]], ...]:
    """The section `forbid`: settings with the values that they must not have together.

    domains   the domains of the searched settings
    """
    rules: list[Mapping[str, tuple[Value, ...]]] = []
    for number, given in enumerate(raw, 1):
        where, rule = f"{place} {number}", dict[str, tuple[Value, ...]]()
        if not given:
            raise SpaceError(f"{where}: must name at least one setting, and is empty.")
        for name, values in given.items():
            check_name(name, where)
            assert isinstance(name, str)
            rule[name] = _choices(
                name, values if isinstance(values, list) else [values], where
            ).values
            domain = domains.get(name)
            if domain is not None and domain.count is None:
                raise SpaceError(
                    f"{where}: {name} must have choices or a `step`, since single values are"
                    " forbidden, and has a continuous range. Narrow the range, or take a step."
                )
            strange = [one for one in rule[name] if domain is not None and one not in domain]
            if strange:
                raise SpaceError(
                    f"{where}: {name} must have values that it can take, and {brief(strange[0])} is"
                    " not in its space."
                )
        rules.append(rule)
    return tuple(rules)


def _refuse_all_forbidden(space: SearchSpace, place: str, what: str) -> None:
    """Raise SpaceError if every point of a space is forbidden, or if nobody can tell.

    what   the end of the sentence: `leaves nothing of the space`
    """
    part = space.of_rules
    told_apart = math.prod(1 + len(part.told_apart(one.name)) for one in part.parameters)
    if told_apart > _MAX_RULED:
        raise SpaceError(
            f"{place}: must name few values of few settings, at most {_MAX_RULED:,} combinations of"
            f" them, and names {told_apart:,}. Shorten it, or tie settings by `when`."
        )
    if space.forbid and part.size == 0:
        raise SpaceError(f"{place}: {what}. Take a rule out, or add values to `space:`.")


def refuse_without_effect(space: SearchSpace, place: str) -> None:
    """Raise SpaceError for a search whose trials would all be the same configuration in effect."""
    idle, searched = space.idle, space.possible
    if searched and searched <= idle.keys():
        why = ", ".join(f"{name} needs {need}" for name, need in idle.items() if name in searched)
        raise SpaceError(
            f"{place}, space: nothing that is searched can have an effect, so all trials would be"
            f" one configuration ({why}). Search that as well, or put it under `fixed:`."
        )


def prediction_values(sections: Mapping[str, Any], place: str) -> dict[str, tuple[Value, ...]]:
    """The section `after_training`: settings of prediction, each with the values to try.

    Raises SpaceError or SettingError.
    """
    where = f"{place}, after_training"
    named = [("fixed", sections["fixed"]), ("space", sections.get("space", {}))]
    named += [("variants", settings) for settings in sections.get("variants", {}).values()]
    named += [("start", point) for point in sections.get("start", [])]
    tried: dict[str, tuple[Value, ...]] = {}
    for name, values in sections["after_training"].items():
        check_name(name, where)
        if not name.startswith("predict."):
            raise SpaceError(
                f"{where}: '{name}' must be a `predict.` setting, which no training depends on, and"
                " is not. Search it under `space:`."
            )
        for section, settings in named:
            if name in settings:
                raise SpaceError(
                    f"{where}: '{name}' is under `{section}:` too. Keep it in one of the two."
                )
        if not isinstance(values, list):
            raise SpaceError(
                f"{where}: {name} must be a list of values, and is {brief(values)}. "
                "A single value belongs under `fixed:`."
            )
        tried[name] = _choices(name, values, where).values
    count = math.prod(len(values) for values in tried.values())
    if count > MAX_CANDIDATES:
        raise SpaceError(
            f"{where}: must make at most {MAX_CANDIDATES} combinations, each of which predicts all"
            f" validation images once more, and makes {count}. Take values out."
        )
    for combination in itertools.product(*tried.values()):
        TrialConfig.from_settings(dict(zip(tried, combination, strict=True)), where)
    return tried


def _check_not_shared(names: Iterable[str], place: str) -> None:
    for name in names:
        if name in SHARED:
            raise SpaceError(
                f"{place}: '{name}' must be the same for all trials, which share seed, split and"
                " metric. Leave it out here."
            )


def _domain(name: str, spec: object, place: str) -> Domain:
    """The domain of a searched setting, from its entry in the file. Raises SpaceError."""
    if isinstance(spec, list):
        return _choices(name, spec, place)
    if not isinstance(spec, Mapping):
        raise SpaceError(
            f"{place}: {name} must be a list of choices or a range such as {{low: 1, high: 5}}, and"
            f" is {brief(spec)}. A single value belongs under `fixed:`."
        )
    check_known(
        spec,
        ("choices", "low", "high", "log", "step", "when"),
        f"{place}, {name}",
        "an option of a setting",
    )
    if "choices" in spec:
        extra = [key for key in spec if key not in ("choices", "when")]
        if extra or not isinstance(spec["choices"], list):
            raise SpaceError(
                f"{place}: {name} must be `choices: [...]` or a range with `low` and `high`, not"
                " both."
            )
        return _choices(name, spec["choices"], place)
    return _range(name, spec, place)


def _choices(name: str, values: Sequence[object], place: str) -> Choices:
    if not values:
        raise SpaceError(f"{place}: {name} must have at least one choice, and its list is empty.")
    choices = [checked_value(name, value, place) for value in values]
    if name == "optim.precision" and AUTO in choices:
        raise SpaceError(
            f"{place}: {name} must have choices that are the same on every machine, fp32, bf16 and"
            " fp16, and auto is among them. It may stand under `fixed:`."
        )
    _refuse_at_hand(name, choices, place)
    if len(set(choices)) < len(choices):
        twice = next(value for value in choices if choices.count(value) > 1)
        raise SpaceError(
            f"{place}: {name} must have different choices, and {brief(twice)} is there twice."
        )
    return Choices(tuple(choices))


def _refuse_at_hand(name: str, values: Iterable[Value], place: str) -> None:
    """Raise SpaceError for weights that would not be the same on every machine."""
    if name == "model.weights" and AT_HAND in values:
        raise SpaceError(
            f"{place}: {name} must name the same weights on every machine, since rows or trials"
            " differ in it, and is at_hand. That may stand under `fixed:`."
        )


def _range(name: str, spec: Mapping[str, object], place: str) -> FloatRange | IntRange:
    kind = TYPES[name]
    if kind not in (int, float):
        raise SpaceError(
            f"{place}: {name} is no number and must be a list of choices, and is {brief(spec)}."
        )
    for end in ("low", "high"):
        if end not in spec:
            raise SpaceError(
                f"{place}: {name} must have both `low` and `high`, or `choices`, and has no"
                f" `{end}`."
            )
    for end in ("low", "high"):
        if spec[end] == AUTO:
            raise SpaceError(
                f"{place}, {name}, {end}: must be a number, and is auto. It may be one of a list of"
                " choices."
            )
    low, high = (
        checked_value(name, spec[end], f"{place}, {name}, {end}") for end in ("low", "high")
    )
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    if low >= high:
        raise SpaceError(
            f"{place}: {name} must have low under high, and has low {low} and high {high}."
        )
    log = spec.get("log", False)
    if not isinstance(log, bool):
        raise SpaceError(
            f"{place}: {name} must have `log: true` or `log: false`, and has {brief(log)}."
        )
    if log and low <= 0:
        raise SpaceError(
            f"{place}: {name} must have low above 0 where log is true, and has low {low}."
        )
    if spec.get("step") is None:
        return IntRange(int(low), int(high), log) if kind is int else FloatRange(low, high, log)
    step = _step(name, spec["step"], low, high, place)
    if log and not (kind is int and step == 1):
        raise SpaceError(f"{place}: {name} must have `log` or `step`, and has both.")
    return (
        IntRange(int(low), int(high), log, int(step))
        if kind is int
        else FloatRange(low, high, log, step)
    )


def _step(name: str, raw: object, low: float, high: float, place: str) -> float:
    try:
        step = _STEP[TYPES[name]].validate_python(None if isinstance(raw, bool) else raw)
    except ValidationError:
        number = "whole number" if TYPES[name] is int else "number"
        raise SpaceError(
            f"{place}: {name} must have a step that is a {number} above 0, and has {brief(raw)}."
        ) from None
    if high - low > _MAX_STEPS * step:
        raise SpaceError(
            f"{place}: {name} must have at most {_MAX_STEPS:,} steps, and step {step} makes more."
        )
    if (Decimal(repr(high)) - Decimal(repr(low))) % Decimal(repr(step)):
        last = low + math.floor((high - low) / step) * step
        raise SpaceError(
            f"{place}: {name} must have a whole number of steps from low to high, and step {step}"
            f" does not lead from {low} to {high}. The last step under it is {as_number(last, 6)}."
        )
    return float(step)


def _when(
    name: str,
    specs: Mapping[str, object],
    domains: Mapping[str, Domain],
    fixed: Mapping[str, Value],
    place: str,
) -> dict[str, tuple[Value, ...]]:
    """The conditions under the `when` of a setting: other settings, each with allowed values."""
    spec = specs[name]
    raw = spec.get("when") if isinstance(spec, Mapping) else None
    where = f"{place}, {name}, when"
    conditions: dict[str, tuple[Value, ...]] = {}
    for parent, values in as_mapping(
        {} if raw is None else raw, where, "settings with the values they must have"
    ).items():
        check_name(parent, where)
        if parent == name:
            raise SpaceError(f"{where}: must name other settings, and names its own.")
        allowed = _choices(parent, values if isinstance(values, list) else [values], where).values
        if parent in domains:
            parent_spec = specs[parent]
            conditional = isinstance(parent_spec, Mapping) and bool(parent_spec.get("when"))
            elsewhere = [fixed.get(parent, SETTINGS[parent])] if conditional else []
            for value in allowed:
                if value not in domains[parent] and value not in elsewhere:
                    raise SpaceError(
                        f"{where}: {parent} must have values that it can take, and {brief(value)}"
                        " is not in its space."
                    )
        conditions[parent] = allowed
    return conditions


def _parents_first(parameters: Sequence[Parameter], place: str) -> tuple[Parameter, ...]:
    """The parameters in the order of the file, but each after those that its `when` names."""
    ordered: list[Parameter] = []
    waiting = list(parameters)
    while waiting:
        names = {parameter.name for parameter in waiting}
        ready = next((parameter for parameter in waiting if not names & set(parameter.when)), None)
        if ready is None:
            circle = ", ".join(sorted(names))
            raise SpaceError(
                f"{place}: `when` must not go round in a circle, and does: {circle}. Take one"
                " `when` out."
            )
        ordered.append(ready)
        waiting.remove(ready)
    return tuple(ordered)


def _check_combinations(space: SearchSpace, place: str) -> None:
    """Raise SettingError for a space in which some points are no valid configuration.

    All combinations of choices and range ends are tried. If there are more than MAX_COMBINATIONS,
    each group of settings (`model.`, `optim.`, RELATED) is tried by itself, since the rules of
    `core.config` relate settings of one group only. Of a group that still has too many, a random
    sample is tried.
    """
    whole = space.corners
    assert whole.size is not None
    if whole.size <= MAX_COMBINATIONS:
        _check_all(whole, whole.grid(), place)
        return
    prefixes = dict.fromkeys(parameter.name.partition(".")[0] for parameter in space.parameters)
    groups: list[Callable[[str], bool]] = [
        operator.methodcaller("startswith", f"{prefix}.") for prefix in prefixes
    ]
    for group in (*groups, RELATED.__contains__):
        part = whole.part(group)
        assert part.size is not None
        if part.size <= MAX_COMBINATIONS:
            _check_all(part, part.grid(), place)
        else:
            _check_all(part, _draws(part), place)


def _draws(space: SearchSpace) -> Iterator[dict[str, Value]]:
    """Random points whose values are choices and range ends, the same in every call."""
    rng = random.Random(0)
    for _ in range(_SAMPLED_COMBINATIONS):
        yield space.sample(lambda _, domain: rng.choice(domain.corners))


def _check_all(space: SearchSpace, points: Iterable[Mapping[str, Value]], place: str) -> None:
    """Raise SettingError, which names the combination, for a point that is no configuration."""
    for params in points:
        if space.forbidden_by(params) is not None:
            continue
        try:
            space.resolve(params, place)
        except SettingError as error:
            named = [f"{name}={params[name]}" for name in params if name in str(error)]
            if not named:
                raise
            raise SettingError(
                f"{error} (the combination {', '.join(named)}). "
                "Take a value out, or tie one setting to another by `when`, or forbid it by"
                " `forbid:`."
            ) from None


def _start_point(
    space: SearchSpace, raw: Mapping[str, object], place: str, overridden: Set[str]
) -> dict[str, Value]:
    """A checked point of `start`, without the settings that `--set` made inactive."""
    if not raw:
        raise SpaceError(f"{place}: must name at least one setting, and is empty.")
    searched = {parameter.name: parameter for parameter in space.parameters}
    for name in raw:
        check_name(name, place)
        if name not in searched:
            raise SpaceError(
                f"{place}: '{name}' is not searched. Leave it out, or add it to `space:`."
            )
    # Settings that --set took out of the space, then also those that this made inactive.
    lifted = set(overridden)
    point: dict[str, Value] = {}
    for name, parameter in searched.items():
        if name not in raw:
            continue
        value = checked_value(name, raw[name], place)
        if value not in parameter.domain:
            raise SpaceError(f"{place}: {name} must be in its space, and is {brief(value)}.")
        for parent in parameter.when:
            if (
                parent in searched
                and parent not in point
                and space.is_active(parent, point)
                and parent not in lifted
            ):
                raise SpaceError(
                    f"{place}: {name} is searched only where {condition(parameter.when)}. Give"
                    f" {parent} too."
                )
        if space.is_active(name, point):
            point[name] = value
        elif lifted & set(parameter.when):
            lifted.add(name)
        else:
            raise SpaceError(
                f"{place}: {name} is searched only where {condition(parameter.when)}. Leave it out."
            )
    _refuse_all_forbidden(
        space.pinned(point), place, "is forbidden by `forbid:`, whatever else it has"
    )
    filled = space.sample(lambda name, domain: point.get(name, domain.corners[0]))
    space.resolve(filled, place)
    return point
