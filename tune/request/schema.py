"""The JSON schema by which editors complete and check a space file.

`python -m tune.request.schema > search_spaces/schema.json` writes it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel

from core.config import AUTO, SETTINGS
from tune.request.file import SECTIONS, STUDY_NAME
from tune.request.request import OPTIONS
from tune.request.values import ADAPTERS, FIELDS, TYPES
from tune.space.space import SHARED


def json_schema() -> dict[str, Any]:
    """The JSON schema of a space file, from the same models that check it."""
    settings = {name: _setting_schema(name) for name in SETTINGS}
    reference = {name: {"$ref": f"#/$defs/settings/properties/{name}"} for name in SETTINGS}
    some_of = {name: {"$ref": f"#/$defs/choices/{name}"} for name in SETTINGS}
    choices = {
        name: {"type": "array", "items": reference[name], "minItems": 1, "uniqueItems": True}
        for name in SETTINGS
    }
    values = _object({name: {"anyOf": [reference[name], some_of[name]]} for name in SETTINGS})
    these_values = {"allOf": [{"$ref": "#/$defs/values"}]}
    when = {
        "description": "The setting is searched only where each of these has one of the values.",
        **these_values,
    }
    searched: dict[str, Any] = {}
    for name in SETTINGS:
        if name in SHARED:
            continue
        forms = [
            some_of[name],
            _object({"choices": some_of[name], "when": {"$ref": "#/$defs/when"}}, ["choices"]),
        ]
        if TYPES[name] in (int, float):
            step = {"type": "integer" if TYPES[name] is int else "number", "exclusiveMinimum": 0}
            number = _without_auto(settings[name]) or reference[name]
            ends = {
                "low": number,
                "high": number,
                "log": {"type": "boolean"},
                "step": step,
            }
            forms.append(_object({**ends, "when": {"$ref": "#/$defs/when"}}, ["low", "high"]))
        searched[name] = {"description": settings[name]["description"], "anyOf": forms}
    predictions = {name: some_of[name] for name in SETTINGS if name.startswith("predict.")}
    # Draft 7 ignores what stands beside a `$ref`, and editors know that draft best.
    all_settings = {"allOf": [{"$ref": "#/$defs/settings"}]}
    sections: dict[str, Any] = {
        "study": {
            "type": "string",
            "pattern": f"^{STUDY_NAME.pattern}$",
            "description": "The study's name.",
        },
        "data": {
            "type": "string",
            "minLength": 1,
            "description": "A folder of images, or `synthetic`; --data wins.",
        },
        "fixed": {
            **all_settings,
            "description": "Settings that all trials share; others keep their defaults.",
        },
        "space": {
            **_object(searched),
            "minProperties": 1,
            "description": "The searched settings, each with its choices or its range.",
        },
        "start": {
            "type": "array",
            "items": all_settings,
            "description": "Configurations known to be good, tried first.",
        },
        "forbid": {
            "type": "array",
            "items": {**these_values, "minProperties": 1},
            "description": "Combinations that no trial has: settings, each with one value or more.",
        },
        "variants": {
            "type": "object",
            "additionalProperties": all_settings,
            "minProperties": 1,
            "description": "In place of `space:`, the rows of an ablation table.",
        },
        "baseline": {
            "type": "string",
            "description": "The variant that the others are compared with; default: the first.",
        },
        "compare": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": (
                "The counterpart of each variant that is not compared with the baseline, by name."
            ),
        },
        "seeds": {
            "type": "integer",
            "minimum": 1,
            "maximum": 1000,
            "description": "Number of repeats of each variant; default: 1.",
        },
        "after_training": {
            **_object(predictions),
            "description": (
                "Settings of prediction: every combination is tried, without more training, on the"
                " models of the confirmation, or on the winner where nothing is confirmed."
            ),
        },
        **{name: _options_schema(model) for name, model in OPTIONS.items()},
    }
    assert tuple(sections) == SECTIONS
    document = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A search space of cell-tune",
        **_object(sections, ["study", "data"]),
        "oneOf": [{"required": ["space"]}, {"required": ["variants"]}],
        "$defs": {
            "settings": _object(settings),
            "choices": choices,
            "values": values,
            "when": when,
        },
    }
    return cast("dict[str, Any]", _on_one_line(document))


def _on_one_line(part: Any) -> Any:
    """The same JSON with each text on one line: texts from docstrings have line breaks."""
    if isinstance(part, dict):
        return {name: _on_one_line(inner) for name, inner in part.items()}
    if isinstance(part, list):
        return [_on_one_line(inner) for inner in part]
    return " ".join(part.split()) if isinstance(part, str) else part


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
    }
    return {**schema, "required": list(required)} if required else schema


def _setting_schema(name: str) -> dict[str, Any]:
    info = FIELDS[name]
    assert info.description, f"{name} has no docstring"
    return {
        **ADAPTERS[name].json_schema(),
        "default": SETTINGS[name],
        "description": info.description,
    }


def _without_auto(schema: Mapping[str, Any]) -> Any:
    """The schema of a setting's numbers alone, if it may also be `auto`; else None."""
    either = schema.get("anyOf", ())
    return either[0] if {"const": AUTO, "type": "string"} in either else None


def _options_schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    for option in schema["properties"].values():
        del option["title"]
    return {key: value for key, value in schema.items() if key != "title"}


if __name__ == "__main__":
    json.dump(json_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
