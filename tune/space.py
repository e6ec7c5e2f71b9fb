"""What a study searches: a space file, merged with the command line and checked before anything starts.

A space file is YAML. Each of its settings is one of `core.config.TrialConfig`; precedence is defaults < `fixed` <
`variants` or `space` < `--set`. What is wrong with a file is said in one sentence, as SpaceError or SettingError.

    python -m tune.space > search_spaces/schema.json      the JSON schema by which editors complete and check a file
"""

import difflib
import json
import math
import random
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic.fields import FieldInfo

from core.config import SETTINGS, TrialConfig, Value, check_setting_name
from core.errors import SettingError, SpaceError

DEFAULT_TRIALS = 30
MAX_TRIALS = 10_000
"""Trials a study may plan."""

_MAX_FILE_BYTES = 1_000_000
_MAX_TEXT = 1000
_MAX_STEPS = 1_000_000
_MAX_COMBINATIONS = 2000
_SAMPLED_COMBINATIONS = 200
_STEP_TOLERANCE = 1e-8

_SHARED = (
    "seed",
    "data.split_seed",
    "data.validation_fraction",
    "data.folds",
    "data.fold",
    "data.group_pattern",
    "metric.max_dets",
)
"""What all configurations of a study have in common: else their scores could not be compared."""
_BY_REPEAT = ("seed", "data.split_seed", "data.fold")
"""What distinguishes the repeats of a variant."""


@dataclass(frozen=True)
class Choices:
    """One of these values, at least one and no two alike."""

    values: tuple[Value, ...]

    def __contains__(self, value: Value) -> bool:
        return value in self.values

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.values)

    @property
    def corners(self) -> tuple[Value, ...]:
        """The values that are tried when the space is checked: all."""
        return self.values

    def points(self) -> Iterator[Value]:
        """All values."""
        return iter(self.values)


@dataclass(frozen=True)
class FloatRange:
    """A number from `low` to `high`, both included; `high - low` is a whole number of `step`s where there is one."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __contains__(self, value: Value) -> bool:
        if isinstance(value, str) or not self.low <= value <= self.high:
            return False
        return self.step is None or _is_whole((value - self.low) / self.step)

    @property
    def count(self) -> int | None:
        """Number of values; None if they are continuous."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    @property
    def corners(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    def points(self) -> Iterator[float]:
        """All values; a range without `step` has too many."""
        assert self.count is not None
        # In decimals, so that the third step of 0.1 is 0.3 and not 0.30000000000000004.
        low, step = Decimal(repr(self.low)), Decimal(repr(self.step))
        return (min(float(low + index * step), self.high) for index in range(self.count))


@dataclass(frozen=True)
class IntRange:
    """A whole number from `low` to `high`, both included; `high - low` is a whole number of `step`s."""

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
        """Both ends."""
        return self.low, self.high

    def points(self) -> Iterator[int]:
        """All values."""
        return iter(range(self.low, self.high + 1, self.step))


Domain = Choices | FloatRange | IntRange


@dataclass(frozen=True)
class Parameter:
    """A searched setting.

    when   the parameter is active only where every setting named here has one of the values, after merging: a setting
           that is not searched has its fixed value or its default, and so has a parameter that is not active itself
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
class Row:
    """One trial of a study of variants.

    name     the variant's; all its repeats have the same
    config   with the seed, split seed and fold of the repeat
    params   the variant's own settings
    """

    name: str
    config: TrialConfig
    params: dict[str, Value]


@dataclass(frozen=True)
class SearchSpace:
    """The configurations of a study: parameters to search, or variants to compare.

    fixed        settings that all trials share; what is not named keeps its default
    parameters   parents before those whose `when` names them
    start        points that are tried first; what they do not name is drawn
    baseline     the variant that the others are compared with
    seeds        repeats of each variant; repeat r has seed and split seed r, counted from 0
    """

    fixed: Mapping[str, Value] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    variants: tuple[Variant, ...] = ()
    start: tuple[Mapping[str, Value], ...] = ()
    baseline: str | None = None
    seeds: int = 1

    def is_active(self, name: str, params: Mapping[str, Value]) -> bool:
        """Whether a parameter is searched, given those that come before it."""
        return self._holds(self._parameter(name), params)

    def sample(self, draw: Callable[[str, Domain], Value]) -> dict[str, Value]:
        """One point: `draw` is asked for the active parameters only, parents first."""
        params: dict[str, Value] = {}
        for parameter in self.parameters:
            if self._holds(parameter, params):
                params[parameter.name] = draw(parameter.name, parameter.domain)
        return params

    def resolve(self, params: Mapping[str, Value], place: str = "space") -> TrialConfig:
        """The configuration of a point. Raises SettingError where its settings exclude each other."""
        return TrialConfig.from_settings({**self.fixed, **params}, place)

    def rows(self) -> tuple[Row, ...]:
        """The trials of a study of variants.

        Every variant has its first repeat before any has its second: a study that is cut short compares like with like.
        """
        folds = int(self.value("data.folds", {}))
        return tuple(
            Row(variant.name, self.resolve({**variant.settings, **repeat}, variant.name), dict(variant.settings))
            for seed in range(self.seeds)
            for fold in range(max(folds, 1))
            for repeat in [dict[str, Value](zip(_BY_REPEAT, (seed, seed, fold), strict=True))]
            for variant in self.variants
        )

    def grid(self) -> list[dict[str, Value]]:
        """Every point once, in the order of the file. Raises SpaceError if a range has no step."""
        possible = self.possible
        for parameter in self.parameters:
            if parameter.domain.count is None and parameter.name in possible:
                raise SpaceError(
                    f"{parameter.name}: a grid needs a `step` or choices in place of a continuous range, "
                    f"and has low {parameter.domain.corners[0]} and high {parameter.domain.corners[1]} only."
                )
        points: list[dict[str, Value]] = [{}]
        for parameter in self.parameters:
            points = [
                point if value is None else {**point, parameter.name: value}
                for point in points
                for value in (parameter.domain.points() if self._holds(parameter, point) else [None])
            ]
        return points

    @property
    def size(self) -> int | None:
        """Number of distinct configurations, repeats not counted; None if a parameter is continuous."""
        if self.variants:
            return len({tuple(sorted(({**self.fixed, **variant.settings}).items())) for variant in self.variants})
        possible = self.possible
        if any(parameter.domain.count is None for parameter in self.parameters if parameter.name in possible):
            return None
        return self._count(0, {})

    @property
    def possible(self) -> frozenset[str]:
        """The parameters that are active in at least some points."""
        possible: set[str] = set()
        for parameter in self.parameters:
            if all(self._may_be(name, values, possible) for name, values in parameter.when.items()):
                possible.add(parameter.name)
        return frozenset(possible)

    def value(self, name: str, params: Mapping[str, Value]) -> Value:
        """A setting after merging."""
        return params.get(name, self.fixed.get(name, SETTINGS[name]))

    def _parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def _holds(self, parameter: Parameter, params: Mapping[str, Value]) -> bool:
        return all(self.value(name, params) in values for name, values in parameter.when.items())

    def _may_be(self, name: str, values: tuple[Value, ...], possible: set[str]) -> bool:
        by_default = self.value(name, {}) in values
        for parameter in self.parameters:
            if parameter.name == name and name in possible:
                return any(value in parameter.domain for value in values) or (bool(parameter.when) and by_default)
        return by_default

    def _count(self, index: int, params: Mapping[str, Any]) -> int:
        """Points that differ in the parameters from `index` on, without walking through them.

        Of a parent's values only those that a `when` names are told apart.
        """
        if index == len(self.parameters):
            return 1
        parameter = self.parameters[index]
        if not self._holds(parameter, params):
            return self._count(index + 1, params)
        assert parameter.domain.count is not None
        named = {value for value in _named_by_children(parameter.name, self.parameters) if value in parameter.domain}
        total = sum(self._count(index + 1, {**params, parameter.name: value}) for value in named)
        if others := parameter.domain.count - len(named):
            total += others * self._count(index + 1, {**params, parameter.name: None})
        return total


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class SearchOptions(_Options):
    """How configurations are chosen, and how many."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe learns from the trials before; random does not; grid tries every point once."""
    trials: int | None = Field(None, ge=1, le=MAX_TRIALS)
    """Trials in all, 30 if not given. A grid and variants have as many as they have points or rows."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the sampler; the trials' own seed is the setting `seed`."""


class StopEarly(_Options):
    """When a trial is given up before its last epoch."""

    rule: Literal["successive_halving", "none"] = "successive_halving"
    """successive_halving: at each rung only the best 1 / reduction of the trials go on. Variants: none unless asked."""
    min_epochs: int | None = Field(None, ge=1)
    """The first rung, in epochs; a tenth of the epochs if not given."""
    reduction: int = Field(3, ge=2)
    """Each rung is so many times higher than the one before."""

    def first_rung(self, epochs: int) -> int:
        """The first rung, in epochs, of a study whose longest trial has so many."""
        return self.min_epochs or math.ceil(epochs / 10)


class Confirm(_Options):
    """How the winner is chosen among the best: on fresh seeds and splits."""

    top: int = Field(5, ge=0, le=100)
    """So many of the best trials are run again; 0 for none. Variants: 0 unless asked."""
    seeds: int = Field(3, ge=1, le=100)
    """Fresh seeds for each of them."""
    folds: int = Field(0, ge=0, le=100)
    """0 for a hold-out a seed; k >= 2 for k-fold cross-validation a seed."""

    @field_validator("folds")
    @classmethod
    def _check_folds(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("folds must be 0 (hold-out) or at least 2, and is 1")
        return folds


class Resources(_Options):
    """What one trial gets."""

    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """A part of one GPU (0.5), or whole GPUs; 0 for none; auto measures."""
    cpus_per_trial: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU cores; auto shares them out."""
    stall_minutes: float = Field(60, gt=0)
    """A trial that reports no epoch for so long counts as lost."""

    @field_validator("gpus_per_trial")
    @classmethod
    def _check_gpus(cls, gpus: float | Literal["auto"]) -> float | Literal["auto"]:
        if gpus != "auto" and gpus > 1 and gpus % 1:
            raise ValueError(f"gpus_per_trial must be a whole number or at most 1, and is {gpus}")
        return gpus


@dataclass(frozen=True)
class StudyRequest:
    """Everything that a search is asked to do, merged and checked.

    study   the study's name
    data    a folder, relative to where the command runs, or `synthetic`
    """

    study: str
    data: str
    space: SearchSpace
    search: SearchOptions = field(default_factory=SearchOptions)
    stop_early: StopEarly = field(default_factory=StopEarly)
    confirm: Confirm = field(default_factory=Confirm)
    resources: Resources = field(default_factory=Resources)

    @classmethod
    def load(
        cls,
        path: Path,
        overrides: Sequence[str] = (),
        data: str | None = None,
        study: str | None = None,
        trials: int | None = None,
    ) -> "StudyRequest":
        """Read a space file and merge the command line into it.

        overrides            `KEY=VALUE` of each `--set`, the last of one key wins
        data, study, trials  of `--data`, `--study` and `--trials`, where given

        Raises SpaceError or SettingError.
        """
        with _no_traceback(str(path)):
            return _merge(_read_yaml(path), str(path), overrides, data, study, trials)

    def with_overrides(
        self,
        overrides: Sequence[str] = (),
        data: str | None = None,
        study: str | None = None,
        trials: int | None = None,
    ) -> "StudyRequest":
        """The same request with a command line merged into it, as `load` merges one into a file."""
        place = f"study {self.study}"
        with _no_traceback(place):
            return _merge(self.to_document(), place, overrides, data, study, trials)

    @classmethod
    def from_document(cls, document: object, place: str) -> "StudyRequest":
        """The request of which `document` is the `to_document()`; it may have been to a JSON file and back.

        Raises SpaceError or SettingError, sentences that begin with `place`.
        """
        with _no_traceback(place):
            return _merge(document, place)

    def to_document(self) -> dict[str, Any]:
        """The request in the form of a space file, with JSON's types only."""
        space = self.space
        searched: dict[str, Any] = {}
        if space.variants:
            searched["variants"] = {variant.name: dict(variant.settings) for variant in space.variants}
            searched |= {"baseline": space.baseline, "seeds": space.seeds}
        else:
            searched["space"] = {parameter.name: _parameter_document(parameter) for parameter in space.parameters}
            searched["start"] = [dict(point) for point in space.start]
        return {
            "study": self.study,
            "data": self.data,
            "fixed": dict(space.fixed),
            **searched,
            **{name: getattr(self, name).model_dump(exclude_none=True) for name in _OPTIONS},
        }

    @property
    def planned_trials(self) -> int:
        """Trials the study is to have in the end."""
        if self.space.variants:
            return len(self.space.variants) * self.space.seeds * max(int(self.space.value("data.folds", {})), 1)
        if self.search.sampler == "grid":
            assert self.space.size is not None
            return self.space.size
        return self.search.trials or DEFAULT_TRIALS

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial that is possible."""
        space = self.space
        epochs = [space.value("optim.epochs", variant.settings) for variant in space.variants]
        for parameter in space.parameters:
            if parameter.name == "optim.epochs" and parameter.name in space.possible:
                epochs += parameter.domain.corners
        if not space.variants and not any(p.name == "optim.epochs" and not p.when for p in space.parameters):
            epochs.append(space.value("optim.epochs", {}))
        return max(int(value) for value in epochs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before the search starts, a sentence each."""
        return (*self._space_notes(), *self._stopping_notes(), *self._confirm_notes())

    def _space_notes(self) -> Iterator[str]:
        space, planned = self.space, self.planned_trials
        if space.variants:
            yield from _variant_notes(space, planned)
            if self.search != SearchOptions():
                yield f"search is not used by variants: there are {planned} trials, each variant {space.seeds} times"
            return
        for parameter in space.parameters:
            if parameter.name not in space.possible:
                reasons = " and ".join(
                    f"{name} is one of {_listed(values)}"
                    for name, values in parameter.when.items()
                    if not space._may_be(name, values, set(space.possible))
                )
                yield f"{parameter.name} is never searched: it needs that {reasons}"
        if self.search.sampler == "grid":
            if self.search.trials is not None:
                yield f"search.trials {self.search.trials} is not used: the grid has {planned} points, one trial each"
            if space.start:
                yield "start is not used: a grid tries every point"
        elif space.size is not None and planned > space.size:
            yield f"search.trials {planned} is more than the {space.size} different configurations: some are repeated"
        if self.search.sampler != "grid" and len(space.start) > planned:
            yield f"search.trials {planned} is less than the {len(space.start)} start points: the last are not tried"

    def _stopping_notes(self) -> Iterator[str]:
        if self.stop_early.rule == "none":
            if self.space.variants:
                yield "variants are not stopped early; stop_early.rule: successive_halving would ask for it"
            return
        rung = self.stop_early.first_rung(self.max_epochs)
        if rung >= self.max_epochs:
            yield f"stop_early.min_epochs {rung} is not under optim.epochs {self.max_epochs}: no trial is stopped early"
        elif self.space.variants:
            yield "variants that are stopped early have no score to be compared by"

    def _confirm_notes(self) -> Iterator[str]:
        if self.confirm.top > 0:
            yield (
                f"confirm (top {self.confirm.top}) is read and checked, but not carried out yet: "
                "the winner is the best score, which is too high by the luck of one seed and one split"
            )


def _variant_notes(space: SearchSpace, planned: int) -> Iterator[str]:
    names: dict[tuple[tuple[str, Value], ...], str] = {}
    for variant in space.variants:
        settings = tuple(sorted(({**SETTINGS, **space.fixed, **variant.settings}).items()))
        if settings in names:
            yield f"variants '{names[settings]}' and '{variant.name}' have the same settings"
        names.setdefault(settings, variant.name)
    if space.seeds == 1:
        yield "seeds is 1: what differs between variants cannot be told from what differs between seeds"
    if folds := space.value("data.folds", {}):
        yield f"data.folds {folds}: each variant runs {folds} times a seed, {planned} trials in all"


_OPTIONS: Mapping[str, type[_Options]] = {
    "search": SearchOptions,
    "stop_early": StopEarly,
    "confirm": Confirm,
    "resources": Resources,
}
_SECTIONS = ("study", "data", "fixed", "space", "start", "variants", "baseline", "seeds", *_OPTIONS)
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@contextmanager
def _no_traceback(place: str) -> Iterator[None]:
    """Says in one sentence what a hostile file can do to a parser: exhaust the stack or overflow a number."""
    try:
        yield
    except RecursionError:
        raise SpaceError(f"{place}: values must not be nested deeply, and these are.") from None
    except OverflowError as error:
        raise SpaceError(f"{place}: a number is too large ({error}).") from None


class _Loader(yaml.SafeLoader):
    """YAML of which no line is lost: the plain loader keeps the last of two equal keys and says nothing."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {_shown(key.value)} is there twice; keep one"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return node


def _read_yaml(path: Path) -> object:
    place = str(path)
    try:
        if not path.is_file():
            raise SpaceError(
                f"{place}: must be a space file, and {'is a folder' if path.is_dir() else 'is not there'}."
            )
        with path.open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise SpaceError(f"{_shown(place)}: cannot be read ({error}).") from None
    if len(content) > _MAX_FILE_BYTES:
        raise SpaceError(f"{place}: must be at most 1 MB, and is larger. Is it a space file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpaceError(f"{place}: must be UTF-8, and byte {error.start} is not. Save it as UTF-8.") from None
    return _parse_yaml(text, place)


def _parse_yaml(text: str, place: str) -> object:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or error.context or "").removeprefix("but ")
        raise SpaceError(f"{place}{line}: must be YAML that can be read ({problem}).") from None
    except yaml.YAMLError as error:
        raise SpaceError(f"{place}: must be YAML that can be read ({' '.join(str(error).split())}).") from None
    except (ValueError, TypeError, AttributeError) as error:  # PyYAML lets those of dates, numbers and tags pass
        raise SpaceError(f"{place}: must be YAML that can be read, and a value in it is not ({error}).") from None


def _merge(
    document: object,
    place: str,
    overrides: Sequence[str] = (),
    data: str | None = None,
    study: str | None = None,
    trials: int | None = None,
) -> StudyRequest:
    sections = _shape(document, place)
    named = {"data": data, "study": study}
    sections |= {name: value for name, value in named.items() if value is not None}
    if trials is not None:
        sections["search"]["trials"] = _parse_options(SearchOptions, {"trials": trials}, "--trials").trials
    overridden = {"search.trials"} if trials is not None else set()
    return _request(sections, place, overridden.union(_override(sections, text) for text in overrides))


def _shape(document: object, place: str) -> dict[str, Any]:
    """The sections of a document, each a container of the right kind; what is in them is not checked yet."""
    sections = dict(_mapping(document, place, "settings and options"))
    for name in sections:
        if name in SETTINGS:
            raise SpaceError(f"{place}: '{name}' is a trial setting and belongs under `fixed:` or `space:`.")
    _check_known(sections, _SECTIONS, place, "a key of a space file")
    for name in ("fixed", *_OPTIONS):
        sections[name] = dict(_mapping(_or(sections.get(name), {}), f"{place}, {name}", "names and values"))
    if "space" in sections and "variants" in sections:
        raise SpaceError(f"{place}: a study has `space:` or `variants:`, and this has both. Make two files of it.")
    if "variants" in sections:
        variants = _mapping(
            _or(sections["variants"], {}), f"{place}, variants", "names of variants with their settings"
        )
        sections["variants"] = {
            name: dict(_mapping(_or(settings, {}), f"{place}, variants, {_shown(name)}", "settings"))
            for name, settings in variants.items()
        }
        _refuse(sections, ("start",), f"{place}: `start:` belongs to a `space:`, and this study has variants.")
    elif "space" in sections:
        sections["space"] = dict(_mapping(_or(sections["space"], {}), f"{place}, space", "settings with their ranges"))
        _refuse(sections, ("baseline", "seeds"), f"{place}: `baseline:` and `seeds:` belong to `variants:`.")
        points = _or(sections.get("start"), [])
        if not isinstance(points, list):
            raise SpaceError(f"{place}, start: must be a list of points, and is {_shown(points)}.")
        sections["start"] = [dict(_mapping(p, f"{place}, start {n}", "settings")) for n, p in enumerate(points, 1)]
    else:
        raise SpaceError(f"{place}: says nothing to search. Add `space:` with ranges or `variants:` with named rows.")
    return sections


def _refuse(sections: Mapping[str, Any], names: Iterable[str], message: str) -> None:
    if any(name in sections for name in names):
        raise SpaceError(message)


def _override(sections: dict[str, Any], text: str) -> str:
    """Merge one `--set KEY=VALUE` into the sections; returns the key."""
    place = f"--set {_shown(text)}"
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key or not text.isprintable():
        raise SettingError(f"{place}: must be KEY=VALUE, such as optim.epochs=5.")
    section, _, option = key.partition(".")
    if section in _OPTIONS and option:
        options = _parse_options(_OPTIONS[section], {option: _override_value(raw, place)}, place)
        sections[section][option] = getattr(options, option)
        return key
    check_setting_name(key, place)
    try:
        value = _override_value(raw, place)
    except SettingError:
        if not isinstance(SETTINGS[key], str):
            raise
        value = raw
    # A text that happens to be YAML for something else, such as a regular expression in brackets, is still a text.
    value = raw if isinstance(SETTINGS[key], str) and not isinstance(value, str) else value
    sections["fixed"][key] = _value(key, value, place)
    for settings in (sections.get("space", {}), *sections.get("variants", {}).values(), *sections.get("start", [])):
        settings.pop(key, None)
    if "start" in sections:
        sections["start"] = [point for point in sections["start"] if point]
    return key


def _override_value(raw: str, place: str) -> object:
    if not raw:
        return ""
    try:
        return _parse_yaml(raw, place)
    except SpaceError as error:
        raise SettingError(str(error)) from None


def _request(sections: Mapping[str, Any], place: str, overridden: Set[str]) -> StudyRequest:
    study, data = sections.get("study"), sections.get("data")
    if not isinstance(study, str) or not _STUDY_NAME.fullmatch(study):
        rule = "1 to 64 letters, digits, - and _, the first a letter or digit"
        raise SpaceError(f"{place}: `study:` must be {rule}, and is {_shown(study)}. --study NAME gives one too.")
    if not isinstance(data, str) or not data.strip() or not data.isprintable():
        raise SpaceError(
            f"{place}: `data:` must be a folder or `synthetic`, and is {_shown(data)}. --data DIR gives one too."
        )
    with_defaults = dict(sections)
    if "variants" in sections:
        with_defaults["stop_early"] = {"rule": "none", **sections["stop_early"]}
        with_defaults["confirm"] = {"top": 0, **sections["confirm"]}
    options: dict[str, Any] = {
        name: _parse_options(model, with_defaults[name], f"{place}, {name}") for name, model in _OPTIONS.items()
    }
    fixed = _settings(sections["fixed"], f"{place}, fixed")
    if "variants" in sections:
        space = _variants_space(sections, fixed, place)
    else:
        space = _sampled_space(sections, fixed, place, overridden)
    request = StudyRequest(study, data, space, **options)
    _check_number_of_trials(request, place, overridden)
    return request


def _check_number_of_trials(request: StudyRequest, place: str, overridden: Set[str]) -> None:
    space = request.space
    if request.search.sampler == "grid" and not space.variants and space.size is None:
        try:
            space.grid()
        except SpaceError as error:
            raise SpaceError(f"{place}, space: {error}") from None
    planned = request.planned_trials
    given_by = "list of variants" if space.variants else "grid" if request.search.sampler == "grid" else None
    if planned > MAX_TRIALS:
        raise SpaceError(
            f"{place}: a study has at most {MAX_TRIALS} trials, and the {given_by} in this file has {planned}."
        )
    if given_by and "search.trials" in overridden:
        raise SpaceError(
            f"{place}: --trials (search.trials) is for samplers that draw; the {given_by} in this file has {planned} "
            "trials. Leave it out."
        )


def _variants_space(sections: Mapping[str, Any], fixed: Mapping[str, Value], place: str) -> SearchSpace:
    if not sections["variants"]:
        raise SpaceError(f"{place}: `variants:` is empty. Name at least one row with its settings.")
    for name in _BY_REPEAT:
        if name in fixed:
            raise SpaceError(
                f"{place}: '{name}' cannot be fixed in a study of variants: repeat r of each has seed and split seed "
                "r. `seeds:` says how many repeats, data.folds how many folds."
            )
    variants: list[Variant] = []
    for name, raw in sections["variants"].items():
        where = f"{place}, variants, {_shown(name)}"
        if not isinstance(name, str) or not name.strip() or len(name) > 100 or not name.isprintable():
            raise SpaceError(f"{where}: a variant's name must be a text of 1 to 100 characters.")
        settings = _settings(raw, where)
        _check_not_shared(settings, where)
        variants.append(Variant(name, settings))
    seeds = sections.get("seeds", 1)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or not 1 <= seeds <= 1000:
        raise SpaceError(f"{place}: `seeds:` must be a whole number from 1 to 1000, and is {_shown(seeds)}.")
    names = [variant.name for variant in variants]
    baseline = sections.get("baseline", names[0])
    if baseline not in names:
        raise SpaceError(
            f"{place}: `baseline:` must name a variant, and is {_shown(baseline)}. {_suggestion(baseline, names)}"
        )
    space = SearchSpace(fixed, variants=tuple(variants), baseline=baseline, seeds=seeds)
    for variant in variants:
        space.resolve(variant.settings, f"{place}, variants, '{variant.name}'")
    return space


def _sampled_space(
    sections: Mapping[str, Any], fixed: Mapping[str, Value], place: str, overridden: Set[str]
) -> SearchSpace:
    if not sections["space"]:
        taken = ", ".join(sorted(overridden & set(SETTINGS)))
        why = f" (--set fixes {taken})" if taken else ""
        raise SpaceError(
            f"{place}: `space:` is empty, nothing is left to search{why}. "
            "Search at least one setting, or name the configuration under `variants:`."
        )
    if fixed.get("data.folds"):
        raise SpaceError(
            f"{place}: data.folds must be 0 in a search, whose trials share one split, and is {fixed['data.folds']}. "
            "Use confirm.folds, or `variants:`."
        )
    where = f"{place}, space"
    domains: dict[str, Domain] = {}
    for name, spec in sections["space"].items():
        _check_name(name, where)
        if name in fixed:
            raise SpaceError(f"{where}: '{name}' is under `fixed:` too. Keep it in one of the two.")
        domains[name] = _domain(name, spec, where)
    _check_not_shared(domains, where)
    parameters = [
        Parameter(name, domain, _when(name, sections["space"], domains, fixed, where))
        for name, domain in domains.items()
    ]
    space = SearchSpace(fixed, _parents_first(parameters, where))
    if not space.possible:
        only = ", ".join(f"{p.name} only where {_condition(p.when)}" for p in space.parameters)
        raise SpaceError(f"{where}: nothing is left to search ({only}). Change `when`, `fixed:` or --set.")
    _check_combinations(space, place)
    points = [
        _start_point(space, point, f"{place}, start {number}", overridden)
        for number, point in enumerate(sections["start"], 1)
    ]
    # A point that is there twice, perhaps because --set took away what distinguished it, is tried once.
    distinct = {tuple(point.items()): point for point in points if point}
    return replace(space, start=tuple(distinct.values()))


def _check_not_shared(names: Iterable[str], place: str) -> None:
    for name in names:
        if name in _SHARED:
            raise SpaceError(
                f"{place}: '{name}' must be the same for all trials, which share seed, split and metric. "
                "Leave it out here."
            )


def _domain(name: str, spec: object, place: str) -> Domain:
    if isinstance(spec, list):
        return _choices(name, spec, place)
    if not isinstance(spec, Mapping):
        raise SpaceError(
            f"{place}: {name} must be a list of choices or a range such as {{low: 1, high: 5}}, and is {_shown(spec)}. "
            "A single value belongs under `fixed:`."
        )
    _check_known(spec, ("choices", "low", "high", "log", "step", "when"), f"{place}, {name}", "an option of a setting")
    if "choices" in spec:
        extra = [key for key in spec if key not in ("choices", "when")]
        if extra or not isinstance(spec["choices"], list):
            raise SpaceError(f"{place}: {name} must be `choices: [...]` or a range with `low` and `high`, not both.")
        return _choices(name, spec["choices"], place)
    return _range(name, spec, place)


def _choices(name: str, values: Sequence[object], place: str) -> Choices:
    if not values:
        raise SpaceError(f"{place}: {name} must have at least one choice, and its list is empty.")
    choices = [_value(name, value, place) for value in values]
    if len(set(choices)) < len(choices):
        twice = next(value for value in choices if choices.count(value) > 1)
        raise SpaceError(f"{place}: {name} must have different choices, and {_shown(twice)} is there twice.")
    return Choices(tuple(choices))


def _range(name: str, spec: Mapping[str, object], place: str) -> FloatRange | IntRange:
    kind = _ANNOTATIONS[name]
    if kind not in (int, float):
        raise SpaceError(f"{place}: {name} is no number and must be a list of choices, and is {_shown(spec)}.")
    for end in ("low", "high"):
        if end not in spec:
            raise SpaceError(f"{place}: {name} must have both `low` and `high`, or `choices`, and has no `{end}`.")
    low, high = (_value(name, spec[end], f"{place}, {name}, {end}") for end in ("low", "high"))
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    if low >= high:
        raise SpaceError(f"{place}: {name} must have low under high, and has low {low} and high {high}.")
    log = spec.get("log", False)
    if not isinstance(log, bool):
        raise SpaceError(f"{place}: {name} must have `log: true` or `log: false`, and has {_shown(log)}.")
    if log and low <= 0:
        raise SpaceError(f"{place}: {name} must have low above 0 where log is true, and has low {low}.")
    if spec.get("step") is None:
        return IntRange(int(low), int(high), log) if kind is int else FloatRange(low, high, log)
    step = _step(name, spec["step"], low, high, place)
    if log and not (kind is int and step == 1):
        raise SpaceError(f"{place}: {name} must have `log` or `step`, and has both.")
    return IntRange(int(low), int(high), log, int(step)) if kind is int else FloatRange(low, high, log, step)


def _step(name: str, raw: object, low: float, high: float, place: str) -> float:
    try:
        step = _STEP[_ANNOTATIONS[name]].validate_python(None if isinstance(raw, bool) else raw)
    except ValidationError:
        number = "whole number" if _ANNOTATIONS[name] is int else "number"
        raise SpaceError(
            f"{place}: {name} must have a step that is a {number} above 0, and has {_shown(raw)}."
        ) from None
    if high - low > _MAX_STEPS * step:
        raise SpaceError(f"{place}: {name} must have at most {_MAX_STEPS:,} steps, and step {step} makes more.")
    if not _is_whole((high - low) / step):
        last = low + math.floor((high - low) / step) * step
        raise SpaceError(
            f"{place}: {name} must have a whole number of steps from low to high, and step {step} does not lead "
            f"from {low} to {high}. The last step under it is {last:g}."
        )
    return float(step)


def _is_whole(quotient: float) -> bool:
    return abs(quotient - round(quotient)) < _STEP_TOLERANCE


def _when(
    name: str, specs: Mapping[str, object], domains: Mapping[str, Domain], fixed: Mapping[str, Value], place: str
) -> dict[str, tuple[Value, ...]]:
    spec = specs[name]
    raw = spec.get("when") if isinstance(spec, Mapping) else None
    where = f"{place}, {name}, when"
    conditions: dict[str, tuple[Value, ...]] = {}
    for parent, values in _mapping(_or(raw, {}), where, "settings with the values they must have").items():
        _check_name(parent, where)
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
                        f"{where}: {parent} must have values that it can take, and {_shown(value)} is not in its space."
                    )
        conditions[parent] = allowed
    return conditions


def _parents_first(parameters: Sequence[Parameter], place: str) -> tuple[Parameter, ...]:
    """In the order of the file, except that a parameter waits for those that its `when` names."""
    ordered: list[Parameter] = []
    waiting = list(parameters)
    while waiting:
        names = {parameter.name for parameter in waiting}
        ready = next((parameter for parameter in waiting if not names & set(parameter.when)), None)
        if ready is None:
            circle = ", ".join(sorted(names))
            raise SpaceError(f"{place}: `when` must not go round in a circle, and does: {circle}. Take one `when` out.")
        ordered.append(ready)
        waiting.remove(ready)
    return tuple(ordered)


def _named_by_children(name: str, parameters: Iterable[Parameter]) -> list[Value]:
    """The values of a parameter that some `when` tells apart, each once."""
    return list(dict.fromkeys(value for other in parameters for value in other.when.get(name, ())))


def _check_combinations(space: SearchSpace, place: str) -> None:
    """Refuse a space of which some points are no configurations: all combinations of choices and ends of ranges.

    Where these are too many, each group of settings (`model.`, `optim.`) is tried by itself, since the rules of
    `core.config` relate settings of one group only; and where a group has too many still, a random sample of it.
    """
    whole = _corners(space)
    assert whole.size is not None
    if whole.size <= _MAX_COMBINATIONS:
        _check_all(whole, whole.grid(), place)
        return
    for group in dict.fromkeys(parameter.name.partition(".")[0] for parameter in space.parameters):
        part = replace(whole, parameters=_with_ancestors(whole.parameters, f"{group}."))
        assert part.size is not None
        if part.size <= _MAX_COMBINATIONS:
            _check_all(part, part.grid(), place)
        else:
            _check_all(part, _draws(part), place)


def _draws(space: SearchSpace) -> Iterator[dict[str, Value]]:
    rng = random.Random(0)
    for _ in range(_SAMPLED_COMBINATIONS):
        yield space.sample(lambda _, domain: rng.choice(domain.corners))


def _check_all(space: SearchSpace, points: Iterable[Mapping[str, Value]], place: str) -> None:
    for params in points:
        try:
            space.resolve(params, place)
        except SettingError as error:
            named = [f"{name}={params[name]}" for name in params if name in str(error)]
            if not named:
                raise
            raise SettingError(
                f"{error} (the combination {', '.join(named)}). "
                "Take a value out, or tie one setting to another by `when`."
            ) from None


def _corners(space: SearchSpace) -> SearchSpace:
    def corners(parameter: Parameter) -> Choices:
        named = [v for v in _named_by_children(parameter.name, space.parameters) if v in parameter.domain]
        return Choices(tuple(dict.fromkeys([*parameter.domain.corners, *named])))

    return replace(space, parameters=tuple(replace(p, domain=corners(p)) for p in space.parameters))


def _with_ancestors(parameters: Sequence[Parameter], prefix: str) -> tuple[Parameter, ...]:
    wanted: set[str] = set()
    for parameter in reversed(parameters):
        if parameter.name.startswith(prefix) or parameter.name in wanted:
            wanted |= {parameter.name, *parameter.when}
    return tuple(parameter for parameter in parameters if parameter.name in wanted)


def _start_point(space: SearchSpace, raw: Mapping[str, object], place: str, overridden: Set[str]) -> dict[str, Value]:
    if not raw:
        raise SpaceError(f"{place}: must name at least one setting, and is empty.")
    searched = {parameter.name: parameter for parameter in space.parameters}
    for name in raw:
        _check_name(name, place)
        if name not in searched:
            raise SpaceError(f"{place}: '{name}' is not searched. Leave it out, or add it to `space:`.")
    lifted = set(overridden)  # settings that --set took away, and those that it made inactive
    point: dict[str, Value] = {}
    for name, parameter in searched.items():
        if name not in raw:
            continue
        value = _value(name, raw[name], place)
        if value not in parameter.domain:
            raise SpaceError(f"{place}: {name} must be in its space, and is {_shown(value)}.")
        for parent in parameter.when:
            if parent in searched and parent not in point and space.is_active(parent, point) and parent not in lifted:
                raise SpaceError(f"{place}: {name} is there only when {_condition(parameter.when)}; give {parent} too.")
        if space.is_active(name, point):
            point[name] = value
        elif lifted & set(parameter.when):
            lifted.add(name)
        else:
            raise SpaceError(f"{place}: {name} is there only when {_condition(parameter.when)}. Leave it out.")
    filled = space.sample(lambda name, domain: point.get(name, domain.corners[0]))
    space.resolve(filled, place)
    return point


def _condition(when: Mapping[str, tuple[Value, ...]]) -> str:
    return " and ".join(f"{name} is one of {_listed(values)}" for name, values in when.items())


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(_shown(value) for value in values)


def _fields() -> dict[str, FieldInfo]:
    fields: dict[str, FieldInfo] = {}
    for group, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            fields |= {f"{group}.{leaf}": inner for leaf, inner in info.annotation.model_fields.items()}
        else:
            fields[group] = info
    assert list(fields) == list(SETTINGS)
    return fields


def _adapter(info: FieldInfo) -> TypeAdapter[Any]:
    # The description only fills a place: Annotated wants at least one annotation, and not every field has a constraint.
    annotated: Any = Annotated
    constrained = annotated[info.annotation, info.description, *info.metadata]
    return TypeAdapter(constrained, config=ConfigDict(allow_inf_nan=False))


_FIELDS = _fields()
_ANNOTATIONS: Mapping[str, Any] = {name: info.annotation for name, info in _FIELDS.items()}
_ADAPTERS = {name: _adapter(info) for name, info in _FIELDS.items()}
_STEP: Mapping[Any, TypeAdapter[Any]] = {
    int: TypeAdapter(Annotated[int, Field(gt=0)]),
    float: TypeAdapter(Annotated[float, Field(gt=0, allow_inf_nan=False)]),
}


def _value(name: str, value: object, place: str) -> Value:
    """A setting's value with the setting's own type, so that 1, 1.0 and '1e0' of a float are one value."""
    _check_scalar(name, value, place)
    if isinstance(value, bool) and _ANNOTATIONS[name] in (int, float):
        raise SettingError(f"{place}: {name} must be a number, not true or false, and is {value}.")
    try:
        result: Value = _ADAPTERS[name].validate_python(value)
    except ValidationError as error:
        raise SettingError(f"{place}: {name} must {_rule(error)}, and is {value!r}.") from None
    return result


def _check_scalar(name: str, value: object, place: str) -> None:
    if not isinstance(value, bool | int | float | str):
        raise SettingError(f"{place}: {name} must be one number, text or truth value, and is {_shown(value)}.")
    if isinstance(value, str) and (len(value) > _MAX_TEXT or not value.isprintable()):
        raise SettingError(
            f"{place}: {name} must be a text of at most {_MAX_TEXT} printable characters, and is {_shown(value)}."
        )
    if isinstance(value, int) and value.bit_length() > 64:
        raise SettingError(f"{place}: {name} must be a number of at most 64 bits, and has {value.bit_length()}.")


def _settings(raw: Mapping[str, object], place: str) -> dict[str, Value]:
    settings: dict[str, Value] = {}
    for name, value in raw.items():
        _check_name(name, place)
        if isinstance(value, list | Mapping):
            raise SettingError(f"{place}: {name} must be one value, and is {_shown(value)}. Ranges go under `space:`.")
        settings[name] = _value(name, value, place)
    return settings


def _check_name(name: object, place: str) -> None:
    if not isinstance(name, str) or len(name) > _MAX_TEXT or not name.isprintable():
        raise SettingError(f"{place}: {_shown(name)} is not a trial setting. core/config.py lists all settings.")
    check_setting_name(name, place)


_M = TypeVar("_M", bound=_Options)


def _parse_options(model: type[_M], raw: Mapping[str, object], place: str) -> _M:
    _check_known(raw, tuple(model.model_fields), place, "an option")
    for name, value in raw.items():
        try:
            _check_scalar(name, value, place)
        except SettingError as error:
            raise SpaceError(str(error)) from None
        if isinstance(value, bool):
            raise SpaceError(f"{place}: {name} must not be true or false, and is {value}.")
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "value_error":
            raise SpaceError(f"{place}: {first['msg'].removeprefix('Value error, ')}.") from None
        name = str(first["loc"][0])
        raise SpaceError(f"{place}: {name} must {_rule(error)}, and is {raw[name]!r}.") from None


def _rule(error: ValidationError) -> str:
    """What the first value that is wrong must be; where it may be one of two things, both."""
    errors = error.errors(include_url=False)
    messages = [entry["msg"] for entry in errors if entry["loc"][:1] == errors[0]["loc"][:1]]
    rules = (message.removeprefix("Input ").removeprefix("should ") for message in messages)
    return " or ".join(rule.partition(", unable to parse")[0] for rule in rules)


def _check_known(raw: Mapping[Any, object], names: Sequence[str], place: str, what: str) -> None:
    for name in raw:
        if name not in names:
            raise SpaceError(f"{place}: {_shown(name)} is not {what}. {_suggestion(name, names)}")


def _suggestion(name: object, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) if isinstance(name, str) else []
    return f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(names)}."


def _mapping(value: object, place: str, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise SpaceError(f"{place}: must be a mapping of {what}, and is {_shown(value)}.")
    return value


def _or(value: object, default: object) -> object:
    """A section whose lines are all commented out is None, and means an empty one."""
    return default if value is None else value


class _Short(reprlib.Repr):
    """A value as it stands in a message; a file can hold values whose full text would fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxother = 80


_shown: Callable[[object], str] = _Short().repr


def _parameter_document(parameter: Parameter) -> dict[str, Any]:
    domain = parameter.domain
    document: dict[str, Any]
    if isinstance(domain, Choices):
        document = {"choices": list(domain.values)}
    else:
        document = {"low": domain.low, "high": domain.high}
        if domain.log:
            document["log"] = True
        elif domain.step is not None:
            document["step"] = domain.step
    if parameter.when:
        document["when"] = {name: list(values) for name, values in parameter.when.items()}
    return document


def json_schema() -> dict[str, Any]:
    """The JSON schema of a space file, from the same models that check it."""
    settings = {name: _setting_schema(name) for name in SETTINGS}
    reference = {name: {"$ref": f"#/$defs/settings/properties/{name}"} for name in SETTINGS}
    some_of = {name: {"$ref": f"#/$defs/choices/{name}"} for name in SETTINGS}
    choices = {
        name: {"type": "array", "items": reference[name], "minItems": 1, "uniqueItems": True} for name in SETTINGS
    }
    when = {
        "description": "The setting is searched only where each of these has one of the values.",
        **_object({name: {"anyOf": [reference[name], some_of[name]]} for name in SETTINGS}),
    }
    searched: dict[str, Any] = {}
    for name in SETTINGS:
        if name in _SHARED:
            continue
        forms = [some_of[name], _object({"choices": some_of[name], "when": {"$ref": "#/$defs/when"}}, ["choices"])]
        if _ANNOTATIONS[name] in (int, float):
            step = {"type": "integer" if _ANNOTATIONS[name] is int else "number", "exclusiveMinimum": 0}
            ends = {"low": reference[name], "high": reference[name], "log": {"type": "boolean"}, "step": step}
            forms.append(_object({**ends, "when": {"$ref": "#/$defs/when"}}, ["low", "high"]))
        searched[name] = {"description": settings[name]["description"], "anyOf": forms}
    # Draft 7 ignores what stands beside a `$ref`, and editors know that draft best.
    all_settings = {"allOf": [{"$ref": "#/$defs/settings"}]}
    sections: dict[str, Any] = {
        "study": {"type": "string", "pattern": f"^{_STUDY_NAME.pattern}$", "description": "The study's name."},
        "data": {"type": "string", "minLength": 1, "description": "A folder of images, or `synthetic`; --data wins."},
        "fixed": {**all_settings, "description": "What all trials share; what is not named keeps its default."},
        "space": {**_object(searched), "minProperties": 1, "description": "What is searched, and where."},
        "start": {"type": "array", "items": all_settings, "description": "Known good points, tried first."},
        "variants": {
            "type": "object",
            "additionalProperties": all_settings,
            "minProperties": 1,
            "description": "In place of `space:`, the rows of an ablation table.",
        },
        "baseline": {"type": "string", "description": "The variant that the others are compared with; the first."},
        "seeds": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "Repeats of each variant; 1."},
        **{name: _options_schema(model) for name, model in _OPTIONS.items()},
    }
    assert tuple(sections) == _SECTIONS
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A search space of cell-tune",
        **_object(sections, ["study", "data"]),
        "oneOf": [{"required": ["space"]}, {"required": ["variants"]}],
        "$defs": {"settings": _object(settings), "choices": choices, "when": when},
    }


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


def _setting_schema(name: str) -> dict[str, Any]:
    info = _FIELDS[name]
    assert info.description, f"{name} has no docstring"
    return {**_ADAPTERS[name].json_schema(), "default": SETTINGS[name], "description": info.description}


def _options_schema(model: type[_Options]) -> dict[str, Any]:
    schema = model.model_json_schema()
    for option in schema["properties"].values():
        del option["title"]
    return {key: value for key, value in schema.items() if key != "title"}


if __name__ == "__main__":
    json.dump(json_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
