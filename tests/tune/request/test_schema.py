"""The schema says to an editor what the reader says to the user."""

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from core.config import SETTINGS
from core.errors import CellTuneError
from tune.request.file import from_document
from tune.request.schema import json_schema


def test_the_schema_knows_every_setting_with_its_meaning_and_range() -> None:
    schema = json_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    described = schema["$defs"]["settings"]["properties"]
    assert list(described) == list(SETTINGS)
    assert all(entry["description"] for entry in described.values())
    assert described["model.trainable_layers"]["maximum"] == 5
    assert "resnext50_32x4d" in described["model.backbone"]["enum"]


@pytest.mark.parametrize(
    "document",
    [
        {"fixed": {"optim.epoch": 1}},
        {"fixed": {"optim.epochs": 0}},
        {"space": {"optim.epochs": []}},
        {"space": {"optim.epochs": {"low": 1}}},
        {"space": {"seed": [0, 1]}},
        {"space": {"optim.epochs": {"choices": [1], "when": {"optim.restart": [1]}}}},
        {"space": {}},
        {"variants": {"A": {}}},
        {"serach": {}},
        {"search": {"sampler": "bayes"}},
        {"search": {"trails": 3}},
        {"study": "-"},
        {"after_training": {"optim.restarts": [0, 1]}},
        {"after_training": {"predict.flip": [True]}},
        {"after_training": {"predict.flips": True}},
        {"after_training": {"predict.flips": []}},
        {"after_training": {"predict.flips": [True, True]}},
        {"after_training": {"predict.nms_iou": [0, 0.5]}},
        {"after_training": {"predict.tile": {"low": 0, "high": 64}}},
    ],
)
def test_the_schema_marks_what_the_reader_refuses(document: dict[str, Any]) -> None:
    good = {
        "study": "s",
        "data": "synthetic",
        "space": {"optim.restarts": [0, 1]},
        "after_training": {"predict.flips": [False, True], "predict.tile": [0, 64]},
    }
    validator = jsonschema.Draft7Validator(json_schema())
    assert validator.is_valid(good)
    from_document(good, "document")
    bad = {**good, **document}
    assert not validator.is_valid(bad)
    with pytest.raises(CellTuneError):
        from_document(bad, "document")
