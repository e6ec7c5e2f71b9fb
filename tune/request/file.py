"""Space files: read, merged with the command line, and checked before anything starts.

A space file is YAML. Each of its settings is one of `core.config.TrialConfig`; precedence is
defaults < `fixed` < `variants` or `space` < `--set`. `after_training` holds settings of prediction
that are tried on trained models, by predicting again (see `StudyRequest`). An invalid file raises
SpaceError or SettingError, with one sentence that says what is wrong.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from core import bounded_yaml
from core.config import SETTINGS, Value, check_setting_name
from core.errors import SettingError, SpaceError
from core.files import reason_of
from core.text import brief, many
from tune.request.request import MAX_TRIALS, OPTIONS, SearchOptions, StudyRequest
from tune.request.sections import (
    prediction_values,
    refuse_without_effect,
    sampled_space,
    variants_space,
)
from tune.request.values import (
    as_mapping,
    check_known,
    checked_options,
    checked_settings,
    checked_value,
)
from tune.store.folder import StudyFolder

SECTIONS = (
    "study",
    "data",
    "fixed",
    "space",
    "start",
    "forbid",
    "variants",
    "baseline",
    "compare",
    "seeds",
    "after_training",
    *OPTIONS,
)
"""The keys of a space file."""
_OPTIONS = tuple(
    f"{section}.{option}" for section, model in OPTIONS.items() for option in model.model_fields
)
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""A study's name, which is also the name of its folder."""

_MAX_FILE_BYTES = 1_000_000


Changes = Mapping[str, Value] | Sequence[str]
"""Changes to a request: values by name, or texts KEY=VALUE as `--set` takes them. A name is that of
a setting, or of an option such as `search.seed`."""


def load_request(
    path: str | Path,
    changes: Changes = (),
    data: str | None = None,
    study: str | None = None,
    trials: int | None = None,
) -> StudyRequest:
    """Read a space file and merge changes into it.

    changes   they win over the file; of several with one name the last wins
    data      a data set in place of the file's
    study     a name in place of the file's
    trials    number of trials in place of the file's

    Raises SpaceError or SettingError.
    """
    with _no_traceback(str(path)):
        document = _read_yaml(Path(path))
        request = _merge(document, str(path), override_texts(changes), data, study, trials)
        refuse_without_effect(request.space, str(path))
        return request


def override_texts(changes: Changes) -> Sequence[str]:
    """The changes as texts KEY=VALUE. Raises SettingError for a value of another type."""
    if not isinstance(changes, Mapping):
        return changes
    for name, value in changes.items():
        if not isinstance(value, bool | int | float | str):
            raise SettingError(
                f"changes: {name} must be a number, a text or True or False, and is {value!r:.100}"
            )
    return [f"{name}={json.dumps(v, ensure_ascii=False)}" for name, v in changes.items()]


def from_document(document: object, place: str) -> StudyRequest:
    """The request whose `to_document()` is `document`, also after a round trip through JSON.

    Documents of earlier versions are read too, even if a new search with that request would be
    refused. Raises SpaceError or SettingError, whose messages begin with `place`.
    """
    with _no_traceback(place):
        return _merge(_as_of_now(document), place)


def request_of(folder: StudyFolder) -> StudyRequest:
    """The request in a study's study.json. Raises StudyError, SpaceError or SettingError."""
    return from_document(folder.read_description()["request"], str(folder.description))


def _as_of_now(document: object) -> object:
    """Replace several GPUs a trial by one: an earlier version accepted them and trained on one."""
    resources = document.get("resources") if isinstance(document, Mapping) else None
    gpus = resources.get("gpus_per_trial") if isinstance(resources, Mapping) else None
    if (
        not isinstance(document, Mapping)
        or not isinstance(resources, Mapping)
        or not isinstance(gpus, int | float)
    ):
        return document
    return {**document, "resources": {**resources, "gpus_per_trial": min(gpus, 1)}}


def with_overrides(
    request: StudyRequest,
    changes: Changes = (),
    data: str | None = None,
    study: str | None = None,
    trials: int | None = None,
) -> StudyRequest:
    """The same request with changes merged into it, as `load_request` merges them into a file.

    Raises SpaceError or SettingError.
    """
    place = f"study {request.study}"
    with _no_traceback(place):
        return _merge(request.to_document(), place, override_texts(changes), data, study, trials)


@contextmanager
def _no_traceback(place: str) -> Iterator[None]:
    """Raise SpaceError where a hostile file causes RecursionError or OverflowError."""
    try:
        yield
    except RecursionError:
        raise SpaceError(f"{place}: values must not be nested deeply, and these are.") from None
    except OverflowError as error:
        raise SpaceError(f"{place}: a number is too large ({error}).") from None


def _read_yaml(path: Path) -> object:
    place = str(path)
    try:
        if not path.is_file():
            raise SpaceError(
                f"{place}: must be a space file, and"
                f" {'is a folder' if path.is_dir() else 'is not there'}."
            )
        with path.open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise SpaceError(f"{brief(place)}: cannot be read ({reason_of(error)}).") from None
    if len(content) > _MAX_FILE_BYTES:
        raise SpaceError(f"{place}: must be at most 1 MB, and is larger. Is it a space file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpaceError(
            f"{place}: must be UTF-8, and byte {error.start} is not. Save it as UTF-8."
        ) from None
    return _parse_yaml(text, place)


def _parse_yaml(text: str, place: str) -> object:
    try:
        return bounded_yaml.load_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or error.context or "").removeprefix("but ")
        raise SpaceError(f"{place}{line}: must be YAML that can be read ({problem}).") from None
    except yaml.YAMLError as error:
        raise SpaceError(
            f"{place}: must be YAML that can be read ({' '.join(str(error).split())})."
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        # PyYAML raises these for malformed dates, numbers and tags.
        raise SpaceError(
            f"{place}: must be YAML that can be read, and a value in it is not ({error})."
        ) from None


def _merge(
    document: object,
    place: str,
    overrides: Sequence[str] = (),
    data: str | None = None,
    study: str | None = None,
    trials: int | None = None,
) -> StudyRequest:
    """The request of a document, with the command line merged into it and everything checked."""
    sections = _shape(document, place)
    named = {"data": data, "study": study}
    sections |= {name: value for name, value in named.items() if value is not None}
    if trials is not None:
        sections["search"]["trials"] = checked_options(
            SearchOptions, {"trials": trials}, "--trials"
        ).trials
    overridden = {"search.trials"} if trials is not None else set()
    return _checked_request(
        sections, place, overridden.union(_override(sections, text) for text in overrides)
    )


def _shape(document: object, place: str) -> dict[str, Any]:
    """The sections of a document, with containers of the right kind and unchecked contents."""
    sections = dict(as_mapping(document, place, "settings and options"))
    for name in sections:
        if name in SETTINGS:
            raise SpaceError(
                f"{place}: '{name}' is a trial setting and belongs under `fixed:` or `space:`."
            )
    check_known(sections, SECTIONS, place, "a key of a space file", [*_OPTIONS, *SETTINGS])
    for name in ("fixed", *OPTIONS):
        sections[name] = dict(
            as_mapping(_or(sections.get(name), {}), f"{place}, {name}", "names and values")
        )
    sections["after_training"] = dict(
        as_mapping(
            _or(sections.get("after_training"), {}),
            f"{place}, after_training",
            "settings with their values",
        )
    )
    rules = _or(sections.get("forbid"), [])
    if not isinstance(rules, list):
        raise SpaceError(f"{place}, forbid: must be a list of combinations, and is {brief(rules)}.")
    sections["forbid"] = [
        dict(as_mapping(rule, f"{place}, forbid {n}", "settings"))
        for n, rule in enumerate(rules, 1)
    ]
    if "space" in sections and "variants" in sections:
        raise SpaceError(
            f"{place}: a study has `space:` or `variants:`, and this has both. Make two files"
            " of it."
        )
    if "variants" in sections:
        variants = as_mapping(
            _or(sections["variants"], {}),
            f"{place}, variants",
            "names of variants with their settings",
        )
        sections["variants"] = {
            name: dict(
                as_mapping(_or(settings, {}), f"{place}, variants, {brief(name)}", "settings")
            )
            for name, settings in variants.items()
        }
        sections["compare"] = dict(
            as_mapping(
                _or(sections.get("compare"), {}),
                f"{place}, compare",
                "variants with their counterparts",
            )
        )
        _refuse(
            sections,
            ("start",),
            f"{place}: `start:` belongs to a `space:`, and this study has variants.",
        )
    elif "space" in sections:
        sections["space"] = dict(
            as_mapping(_or(sections["space"], {}), f"{place}, space", "settings with their ranges")
        )
        of_variants = ("baseline", "compare", "seeds")
        _refuse(
            sections,
            of_variants,
            f"{place}: `baseline:`, `compare:` and `seeds:` belong to `variants:`.",
        )
        points = _or(sections.get("start"), [])
        if not isinstance(points, list):
            raise SpaceError(f"{place}, start: must be a list of points, and is {brief(points)}.")
        sections["start"] = [
            dict(as_mapping(p, f"{place}, start {n}", "settings")) for n, p in enumerate(points, 1)
        ]
    else:
        raise SpaceError(
            f"{place}: says nothing to search. Add `space:` with ranges or `variants:` with named"
            " rows."
        )
    return sections


def _refuse(sections: Mapping[str, Any], names: Iterable[str], message: str) -> None:
    """Raise SpaceError with this message if one of the sections is there."""
    if any(name in sections for name in names):
        raise SpaceError(message)


def setting_override(text: str) -> tuple[str, Value]:
    """The name and checked value of the trial setting in a text KEY=VALUE. Raises SettingError."""
    key, raw, place = _key_and_value(text)
    check_setting_name(key, place)
    try:
        value = _override_value(raw, place)
    except SettingError:
        if not isinstance(SETTINGS[key], str):
            raise
        value = raw
    # YAML may read the text of a text setting as something else, such as a regular expression in
    # brackets as a list: the text counts as it was given.
    value = raw if isinstance(SETTINGS[key], str) and not isinstance(value, str) else value
    return key, checked_value(key, value, place)


def _override(sections: dict[str, Any], text: str) -> str:
    """Merge one `--set KEY=VALUE` into the sections; returns the key."""
    key, raw, place = _key_and_value(text)
    section, _, option = key.partition(".")
    if section in OPTIONS and option:
        options = checked_options(OPTIONS[section], {option: _override_value(raw, place)}, place)
        sections[section][option] = getattr(options, option)
        return key
    if key == "seeds" and "variants" in sections:
        sections[key] = _override_value(raw, place)
        return key
    check_setting_name(key, place, _OPTIONS)
    _, sections["fixed"][key] = setting_override(text)
    searched = (
        sections.get("space", {}),
        *sections.get("variants", {}).values(),
        *sections.get("start", []),
    )
    for settings in (*searched, sections["after_training"]):
        settings.pop(key, None)
    if "start" in sections:
        sections["start"] = [point for point in sections["start"] if point]
    return key


def _key_and_value(text: str) -> tuple[str, str, str]:
    """The key, the value's text, and the place for messages, of `--set KEY=VALUE`."""
    place = f"--set {brief(text)}"
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key or not text.isprintable():
        raise SettingError(f"{place}: must be KEY=VALUE, such as optim.epochs=5.")
    return key, raw, place


def _override_value(raw: str, place: str) -> object:
    """The value of `--set KEY=VALUE`, read as YAML. Raises SettingError."""
    if not raw:
        return ""
    try:
        return _parse_yaml(raw, place)
    except SpaceError as error:
        raise SettingError(str(error)) from None


def _checked_request(sections: Mapping[str, Any], place: str, overridden: Set[str]) -> StudyRequest:
    study, data = sections.get("study"), sections.get("data")
    if not isinstance(study, str) or not STUDY_NAME.fullmatch(study):
        rule = "1 to 64 letters, digits, - and _, the first a letter or digit"
        raise SpaceError(
            f"{place}: `study:` must be {rule}, and is {brief(study)}. --study NAME gives one too."
        )
    if not isinstance(data, str) or not data.strip() or not data.isprintable():
        raise SpaceError(
            f"{place}: `data:` must be a folder or `synthetic`, and is {brief(data)}. --data DIR"
            " gives one too."
        )
    with_defaults = dict(sections)
    if "variants" in sections:
        with_defaults["stop_early"] = {"rule": "none", **sections["stop_early"]}
        with_defaults["confirm"] = {"top": 0, **sections["confirm"]}
    options: dict[str, Any] = {
        name: checked_options(model, with_defaults[name], f"{place}, {name}")
        for name, model in OPTIONS.items()
    }
    fixed = checked_settings(sections["fixed"], f"{place}, fixed")
    after_training = prediction_values(sections, place)
    if "variants" in sections:
        space = variants_space(sections, fixed, place)
    else:
        space = sampled_space(sections, fixed, place, overridden)
    request = StudyRequest(study, data, space, after_training=after_training, **options)
    _check_number_of_trials(request, place, overridden)
    return request


def _check_number_of_trials(request: StudyRequest, place: str, overridden: Set[str]) -> None:
    space = request.space
    given_by = None
    if space.variants:
        given_by = "list of variants"
    elif request.sampler.exhausts:
        given_by = request.search.sampler
        if space.size is None:
            try:
                space.grid()
            except SpaceError as error:
                raise SpaceError(f"{place}, space: {error}") from None
    planned = request.planned_trials
    if planned > MAX_TRIALS:
        raise SpaceError(
            f"{place}: a study has at most {MAX_TRIALS} trials, and the {given_by} in this file has"
            f" {planned}."
        )
    if given_by and "search.trials" in overridden:
        raise SpaceError(
            f"{place}: --trials (search.trials) is for samplers that draw; the {given_by} in this"
            f" file has {many(planned, 'trial')}. Leave it out."
        )


def _or(value: object, default: object) -> object:
    """The default for None, which YAML gives where all lines of a section are comments."""
    return default if value is None else value
