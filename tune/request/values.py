"""Single values of a space file: checked by themselves, and shown in messages."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from core.config import MAY_BE_LISTS, SETTINGS, SYNONYMS, TrialConfig, Value, check_setting_name
from core.errors import SettingError, SpaceError
from core.text import brief, nearest

_MAX_TEXT = 1000


def _fields() -> dict[str, FieldInfo]:
    """Every setting with its definition, in the order of SETTINGS."""
    fields: dict[str, FieldInfo] = {}
    for group, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            fields |= {
                f"{group}.{leaf}": inner for leaf, inner in info.annotation.model_fields.items()
            }
        else:
            fields[group] = info
    assert list(fields) == list(SETTINGS)
    return fields


def _adapter(info: FieldInfo) -> TypeAdapter[Any]:
    """The validator of a setting's type and range."""
    # Annotated needs at least one annotation. A field may have no constraint, but it has a
    # description.
    annotated: Any = Annotated
    constrained = annotated[info.annotation, info.description, *info.metadata]
    return TypeAdapter(constrained, config=ConfigDict(allow_inf_nan=False))


FIELDS: Mapping[str, FieldInfo] = _fields()
"""Every setting with its definition."""
TYPES: Mapping[str, Any] = {name: info.annotation for name, info in FIELDS.items()}
"""Every setting with its type."""
ADAPTERS: Mapping[str, TypeAdapter[Any]] = {name: _adapter(info) for name, info in FIELDS.items()}
"""Every setting with the validator of its type and range."""


def checked_value(name: str, value: object, place: str) -> Value:
    """The value in the setting's own type: 1, 1.0 and '1e0' are the same value of a float.

    Raises SettingError, whose message begins with `place`, for a value outside type or range.
    """
    if name not in MAY_BE_LISTS or not isinstance(value, list | Mapping):
        _check_scalar(name, value, place)
    if isinstance(value, bool) and TYPES[name] in (int, float):
        raise SettingError(f"{place}: {name} must be a number, not true or false, and is {value}.")
    try:
        result: Value = ADAPTERS[name].validate_python(value)
    except ValidationError as error:
        raise SettingError(
            f"{place}: {name} must {_rule(error)}, and is {brief(value)}.{_meant(error)}"
        ) from None
    return result


def _check_scalar(name: str, value: object, place: str) -> None:
    if not isinstance(value, bool | int | float | str):
        raise SettingError(
            f"{place}: {name} must be one number, text or truth value, and is {brief(value)}."
        )
    if isinstance(value, str) and (len(value) > _MAX_TEXT or not value.isprintable()):
        raise SettingError(
            f"{place}: {name} must be a text of at most {_MAX_TEXT} printable characters, and is"
            f" {brief(value)}."
        )
    if isinstance(value, int) and value.bit_length() > 64:
        raise SettingError(
            f"{place}: {name} must be a number of at most 64 bits, and has {value.bit_length()}."
        )


def checked_settings(raw: Mapping[str, object], place: str) -> dict[str, Value]:
    """The checked value of each setting in `raw`. Raises SettingError."""
    settings: dict[str, Value] = {}
    for name, value in raw.items():
        check_name(name, place)
        if isinstance(value, list | Mapping) and name not in MAY_BE_LISTS:
            raise SettingError(
                f"{place}: {name} must be one value, and is {brief(value)}. Ranges go under"
                " `space:`."
            )
        settings[name] = checked_value(name, value, place)
    return settings


def check_name(name: object, place: str) -> None:
    """Raise SettingError unless `name`, any value that YAML can hold, names a trial setting."""
    if not isinstance(name, str) or len(name) > _MAX_TEXT or not name.isprintable():
        raise SettingError(
            f"{place}: {brief(name)} is not a trial setting. core/config.py and core/augment/ list"
            " all settings."
        )
    check_setting_name(name, place)


_M = TypeVar("_M", bound=BaseModel)


def checked_options(model: type[_M], raw: Mapping[str, object], place: str) -> _M:
    """The options of one section, the unnamed ones at their defaults. Raises SpaceError."""
    check_known(raw, tuple(model.model_fields), place, "an option")
    for name, value in raw.items():
        try:
            _check_scalar(name, value, place)
        except SettingError as error:
            raise SpaceError(str(error)) from None
        kind = model.model_fields[name].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise SpaceError(f"{place}: {name} must not be true or false, and is {value}.")
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "value_error":
            raise SpaceError(f"{place}: {first['msg'].removeprefix('Value error, ')}.") from None
        name = str(first["loc"][0])
        raise SpaceError(
            f"{place}: {name} must {_rule(error)}, and is {raw[name]!r}.{_meant(error)}"
        ) from None


def _rule(error: ValidationError) -> str:
    """The rule that the first wrong value breaks, in words that follow "must".

    Rules of which one would suffice are joined by "or".
    """
    errors = error.errors(include_url=False)
    messages = [entry["msg"] for entry in errors if entry["loc"][:1] == errors[0]["loc"][:1]]
    rules = (message.removeprefix("Input ").removeprefix("should ") for message in messages)
    return " or ".join(rule.partition(", unable to")[0] for rule in rules)


def _meant(error: ValidationError) -> str:
    """A question that suggests the allowed word nearest to the value; empty where none is near."""
    first = error.errors(include_url=False)[0]
    words = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
    near = nearest(first["input"], words) if isinstance(first["input"], str) else None
    return f" Did you mean '{near}'?" if near else ""


def check_known(
    raw: Mapping[Any, object],
    names: Sequence[str],
    place: str,
    what: str,
    others: Iterable[str] = (),
) -> None:
    """Raise SpaceError unless all keys of `raw` are among `names`; it suggests the nearest name.

    what     what the keys must be, such as "an option"
    others   names that belong elsewhere, but may have been meant
    """
    for name in raw:
        if name not in names:
            raise SpaceError(
                f"{place}: {brief(name)} is not {what}. {suggestion(name, names, others)}"
            )


def suggestion(name: object, names: Sequence[str], others: Iterable[str] = ()) -> str:
    """The sentence that suggests the nearest of `names` and `others`, or else lists `names`."""
    near = nearest(name, [*names, *others], SYNONYMS) if isinstance(name, str) else None
    return f"Did you mean '{near}'?" if near else f"There are {', '.join(names)}."


def as_mapping(value: object, place: str, what: str) -> Mapping[Any, Any]:
    """The value, if it is a mapping. Raises SpaceError."""
    if not isinstance(value, Mapping):
        raise SpaceError(f"{place}: must be a mapping of {what}, and is {brief(value)}.")
    return value


def condition(when: Mapping[str, tuple[Value, ...]]) -> str:
    """The conditions of a `when`, in words."""
    return " and ".join(
        f"{name} is one of {', '.join(map(brief, values))}" for name, values in when.items()
    )
