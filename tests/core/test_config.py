"""Laws of the settings, of the addresses of random draws, and of files that are there whole or
not at all.
"""

import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import annotated_types
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from core.config import AUTO, AUTO_SETTINGS, SETTINGS, TrialConfig, check_setting_name
from core.errors import BadRequest, SettingError
from core.files import write_atomically, write_json_atomically
from core.randomness import Purpose, generator, torch_seed


def fields(model: type[BaseModel] = TrialConfig, prefix: str = "") -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def limits(field: FieldInfo) -> list[tuple[str, float]]:
    return [
        (kind, getattr(limit, kind))
        for limit in field.metadata
        for kind in ("ge", "gt", "le", "lt")
        if isinstance(
            limit, annotated_types.Ge | annotated_types.Gt | annotated_types.Le | annotated_types.Lt
        )
        and hasattr(limit, kind)
    ]


FIELDS = fields()
NUMBERS = [name for name, field in FIELDS.items() if field.annotation in (int, float)]
OUTSIDE = [
    (name, limit + {"ge": -1, "gt": 0, "le": 1, "lt": 0}[kind])
    for name, field in FIELDS.items()
    for kind, limit in limits(field)
]


def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises(SettingError) as caught:
        TrialConfig.from_settings(settings, "space.yaml")
    message = str(caught.value)
    assert message.startswith("space.yaml: ")
    assert "\n" not in message
    return message


def test_a_setting_that_is_wrong_is_a_bad_request() -> None:
    assert issubclass(SettingError, BadRequest)


def test_every_setting_is_documented_and_has_a_default_inside_its_range() -> None:
    assert set(FIELDS) == set(SETTINGS)
    assert all(field.description for field in FIELDS.values())
    assert TrialConfig.from_settings(SETTINGS) == TrialConfig()


def test_every_number_has_a_range() -> None:
    assert [name for name in NUMBERS if not limits(FIELDS[name])] == []


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**40),
            "data.crop": st.integers(32, 8192),
            "augment.elastic": st.booleans(),
            "augment.rotate": st.floats(0, 180),
            "model.backbone": st.sampled_from(["resnet18", "resnet101"]),
            "model.weights": st.sampled_from(["auto", "none", "a/file.pth"]),
            "optim.learning_rate": st.floats(1e-9, 1),
            "optim.epochs": st.integers(1, 10000),
        },
    )
)
def test_a_configuration_is_rebuilt_from_its_settings_even_through_json(
    settings: dict[str, Any],
) -> None:
    config = TrialConfig.from_settings(settings)
    assert config.settings() == dict(SETTINGS) | settings
    assert TrialConfig.from_settings(json.loads(json.dumps(config.settings()))) == config


def test_a_configuration_cannot_be_changed() -> None:
    config = TrialConfig()
    with pytest.raises(ValidationError):
        config.optim.epochs = 3  # type: ignore[misc]


@given(st.sampled_from(sorted(SETTINGS)), st.data())
def test_a_misspelt_setting_is_refused_with_a_suggestion_that_exists(
    name: str, data: st.DataObject
) -> None:
    place = data.draw(st.integers(name.rfind(".") + 1, len(name) - 1))
    misspelt = name[:place] + name[place + 1 :]
    assume(misspelt not in SETTINGS)
    message = refusal({misspelt: 1})
    assert f"'{misspelt}' is not a trial setting" in message
    assert (
        message.endswith("list all settings.")
        or message.split("Did you mean '")[1].rstrip("'?") in SETTINGS
    )


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("optim.learnig_rate", "optim.learning_rate"),
        ("learning_rate", "optim.learning_rate"),
        ("elastic", "augment.elastic"),
    ],
)
def test_the_suggestion_is_the_nearest_setting(wrong: str, right: str) -> None:
    assert refusal({wrong: 1}).endswith(f"Did you mean '{right}'?")


@pytest.mark.parametrize("group", ["optim", "optim.", "", ".", "optim.epochs.x"])
def test_a_group_of_settings_is_no_setting(group: str) -> None:
    with pytest.raises(SettingError, match="is not a trial setting"):
        check_setting_name(group, "space.yaml")


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_a_value_outside_its_range_is_refused_by_name_and_value(name: str, value: float) -> None:
    message = refusal({name: value})
    assert f"{name} must " in message
    assert message.endswith(f"and is {value!r}") or f"is {value!r}" in message


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, True, False, None, "many", [1]])
def test_what_is_no_finite_number_is_refused(name: str, value: Any) -> None:
    message = refusal({name: value})
    assert f"{name} must " in message
    assert repr(value) in message


def test_auto_is_a_value_of_the_settings_that_are_resolved_and_of_no_other_number() -> None:
    assert set(AUTO_SETTINGS) == {
        "data.crop",
        "model.image_min_side",
        "model.image_max_side",
        "model.anchor_scale",
        "model.proposals_train",
        "model.proposals_test",
        "optim.precision",
        "predict.max_detections",
    }
    config = TrialConfig.from_settings(dict.fromkeys(AUTO_SETTINGS, AUTO))
    assert config.open == AUTO_SETTINGS
    assert TrialConfig.from_settings(json.loads(json.dumps(config.settings()))) == config
    for name in set(NUMBERS) - set(AUTO_SETTINGS):
        assert f"{name} must " in refusal({name: AUTO})


@pytest.mark.parametrize("name", sorted(set(AUTO_SETTINGS) - {"optim.precision"}))
def test_what_is_neither_a_number_nor_auto_is_refused_with_both(name: str) -> None:
    assert refusal({name: "aut"}).endswith(" or 'auto', and is 'aut'")


def test_auto_is_resolved_in_the_order_of_dependence_and_what_nobody_knows_stays_open() -> None:
    asked: dict[str, TrialConfig] = {}

    def value_of(name: str, config: TrialConfig) -> int | None:
        asked[name] = config
        return 800 if "side" in name else None

    open_settings = ("data.crop", "model.image_min_side", "model.image_max_side")
    found = TrialConfig.from_settings(dict.fromkeys(open_settings, AUTO)).resolved(value_of)
    assert tuple(asked) == (*open_settings, "optim.precision")
    assert asked["model.image_max_side"].model.image_min_side == 800
    assert found.open == ("data.crop", "optim.precision")
    assert found.model.image_min_side == found.model.image_max_side == 800


def test_a_number_written_as_yaml_1_1_reads_it_is_a_number() -> None:
    assert TrialConfig.from_settings({"optim.learning_rate": "1e-5"}).optim.learning_rate == 1e-5


CHOICES = {
    f"{group}.{leaf}": field["enum"]
    for group, info in TrialConfig.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    for leaf, field in info.annotation.model_json_schema()["properties"].items()
    if "enum" in field
}


def test_there_are_settings_with_choices() -> None:
    assert set(CHOICES) == {
        "model.detector", "model.backbone", "model.mask_side", "model.norm", "optim.precision",
        "predict.views", "predict.merge",
    }  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(name: str) -> None:
    message = refusal({name: "vgg"})
    assert all(repr(choice) in message for choice in CHOICES[name])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"data.folds": 1}, "data.folds"),
        ({"data.fold": 1}, "data.fold"),
        ({"data.folds": 3, "data.fold": 3}, "data.fold"),
        ({"data.crop": 31}, "data.crop"),
        ({"data.group_pattern": "("}, "data.group_pattern"),
        ({"data.group_pattern": "no group"}, "data.group_pattern"),
        ({"data.group_pattern": f"(a{{{10**12}}})"}, "data.group_pattern"),
        ({"data.group_pattern": "(" * 1000 + ")" * 1000}, "data.group_pattern"),
        ({"model.image_min_side": 1400}, "model.image_min_side"),
        ({"model.weights": "coco", "model.backbone": "resnet101"}, "model.weights"),
        ({"model.stride_in_1x1": True, "model.backbone": "resnet18"}, "model.stride_in_1x1"),
        ({"model.norm": "group"}, "model.norm"),
        ({"model.norm": "frozen"}, "model.norm"),
        (
            {"model.norm": "frozen", "model.detector": "fpn_v2", "model.weights": "none"},
            "model.norm",
        ),
        (
            {"model.norm": "frozen", "model.detector": "fpn_v2", "model.backbone": "resnet101"},
            "model.norm",
        ),
        ({"optim.warmup_epochs": 2, "optim.epochs": 2}, "optim.warmup_epochs"),
        ({"predict.tile": 31}, "predict.tile"),
        (
            {
                "optim.precision": "fp16",
                "model.backbone": "convnext_small",
                "model.weights": "none",
                "model.trainable_layers": 5,
            },
            "optim.precision",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], named: str
) -> None:
    message = refusal(settings)
    assert message.startswith(f"space.yaml: {named}")
    assert all(str(value) in message for value in settings.values() if not isinstance(value, bool))


@pytest.mark.parametrize(
    ("given_", "form"),
    [(1, "1"), (0.5, "0.5"), ("1.0", "1"), ("1.25, 0.75,1", "0.75,1,1.25"), ("1e0,4", "1,4")],
)
def test_scales_of_prediction_have_one_form(given_: Any, form: str) -> None:
    predict = TrialConfig.from_settings({"predict.scales": given_}).predict
    assert predict.scales == form
    assert predict.factors == tuple(float(text) for text in form.split(","))


@pytest.mark.parametrize(
    ("given_", "form", "of_three"),
    [(0, "0", (0, 0, 0)), ("20,0,0", "20,0", (20, 0, 0)), ("5, 5", "5", (5, 5, 5)),
     ("1,2,3,4", "1,2,3,4", (1, 2, 3))],
)  # fmt: skip
def test_caps_of_classes_have_one_form_and_the_last_holds_for_the_rest(
    given_: Any, form: str, of_three: tuple[int, ...]
) -> None:
    predict = TrialConfig.from_settings({"predict.class_caps": given_}).predict
    assert predict.class_caps == form
    assert tuple(predict.cap_of(label) for label in (1, 2, 3)) == of_three


@pytest.mark.parametrize("wrong", ["", "20,", "-1", "1.5", 10_001, True, None])
def test_caps_that_are_not_valid_are_refused_with_an_example(wrong: Any) -> None:
    message = refusal({"predict.class_caps": wrong})
    assert message.startswith("space.yaml: predict.class_caps must be whole numbers from 0 to")
    assert "20,0" in message


@pytest.mark.parametrize(
    "wrong", ["", "1,", "a", "0.2", "5", "1,1.0", "nan", "inf", "1,2,3,4,0.3,0.4,0.5,0.6,0.7", True]
)
def test_scales_that_are_none_are_refused_with_an_example(wrong: Any) -> None:
    message = refusal({"predict.scales": wrong})
    assert message.startswith("space.yaml: predict.scales must be 1 to 8 different factors")
    assert message.endswith(f"such as 0.75,1,1.25, and is {wrong!r}")


# A purpose's addresses all have one length, so no two may give the same draws.
ADDRESSES = st.sampled_from(Purpose).flatmap(
    lambda purpose: st.tuples(
        st.integers(0, 2**32 - 1), st.just(purpose), st.integers(0, 10000), st.integers(0, 10000)
    )
)


@given(ADDRESSES, ADDRESSES)
def test_draws_depend_on_their_address_and_on_nothing_else(
    one: tuple[int, Purpose, int, int], other: tuple[int, Purpose, int, int]
) -> None:
    draws = generator(*one).integers(2**32, size=8)
    np.random.default_rng().random()
    np.testing.assert_array_equal(generator(*one).integers(2**32, size=8), draws)
    assert torch_seed(*one) == torch_seed(*one)
    if one != other:
        assert (generator(*other).integers(2**32, size=8) != draws).any()
        assert torch_seed(*other) != torch_seed(*one)


def test_the_numbers_of_the_purposes_never_change() -> None:
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "INITIALISE": 0,
        "SPLIT": 1,
        "ORDER": 2,
        "AUGMENT": 3,
        "CROP": 4,
        "TRAIN": 5,
        "SYNTHETIC": 6,
        "MIX": 7,
        "REPEAT": 8,
    }
    assert generator(0, Purpose.ORDER, 1).permutation(8).tolist() == [7, 2, 5, 1, 0, 4, 3, 6]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")
    with pytest.raises(ValueError, match="Out of range float"):
        write_json_atomically(path, {"ap50": math.nan})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [
        ("state.json", b"old")
    ]


def test_a_reader_sees_the_old_file_or_the_new_one_and_never_a_mixture(tmp_path: Path) -> None:
    path, seen, done = tmp_path / "file", set(), threading.Event()
    contents = [bytes([letter]) * 300_000 for letter in b"ab"]
    write_atomically(path, contents[0])

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        write_atomically(path, contents[turn % 2])
    done.set()
    reader.join()
    assert seen == set(contents)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        st.lists,
    )
)
def test_json_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "content.json"
    write_json_atomically(path, content)
    assert json.loads(path.read_text()) == content
