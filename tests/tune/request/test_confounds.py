"""Laws of comparisons: what differs between two configurations, and when a difference has a
single cause.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import SETTINGS, TrialConfig, Value
from core.text import listed
from tune.request import confounds
from tune.request.confounds import BACKBONE, FACTORS, Attribution, differing_factors
from tune.request.file import load_request
from tune.request.request import variant_attributions

SPACES = Path(__file__).parents[3] / "search_spaces"
PLAIN = dict(SETTINGS)


def changed(**settings: Value) -> dict[str, Value]:
    """The defaults with changes; the two underscores of a name stand for its dot."""
    return {**PLAIN, **{name.replace("__", "."): value for name, value in settings.items()}}


def factors(one: dict[str, Value], other: dict[str, Value] = PLAIN) -> list[str]:
    return [factor.name for factor in differing_factors(one, other)]


def other_value(name: str) -> Value:
    """A value of a setting that is not its default and goes with the defaults of all others."""
    default = SETTINGS[name]
    special: dict[str, Value] = {
        "model.detector": "fpn_v2", "model.backbone": "resnet18", "model.weights": "none",
        "model.norm": "group", "optim.precision": "bf16", "data.group_pattern": "(.)", "data.class_names": "a", "optim.warmup_epochs": 1.0,
        "model.image_min_side": 512, "data.crop": 256, "predict.tile": 256, "data.folds": 3,
        "predict.views": "all", "predict.scales": "0.5,1", "predict.merge": "weighted",
        "predict.class_caps": "20,0", "data.intensity": "0,4095",
    }  # fmt: skip
    if name in special:
        return special[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    assert isinstance(default, float)
    return default / 2 if default else 0.25


def test_every_setting_belongs_to_exactly_one_factor() -> None:
    assert Counter(name for settings in FACTORS.values() for name in settings) == dict.fromkeys(
        SETTINGS, 1
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_a_change_of_any_setting_is_a_difference_in_its_factor_unless_it_has_no_effect(
    name: str,
) -> None:
    one = {**PLAIN, name: other_value(name)}
    augmented = {
        setting: True
        for setting in SETTINGS
        if setting.startswith("augment.") and SETTINGS[setting] is False
    }
    active = {
        "optim.restarts": 1,
        "predict.tile": 64,
        "predict.scales": "1,2",
        **augmented,
        **({} if name == "data.validation_fraction" else {"data.folds": 5}),
    }
    (factor,) = [factor for factor, settings in FACTORS.items() if name in settings]
    where_all_is_active = factors(
        {**one, **active, name: one[name]}, {**PLAIN, **active, name: SETTINGS[name]}
    )
    # Another backbone starts from other weights, where the weights are those that `auto` means.
    assert where_all_is_active == (
        [factor, "pretrained weights"] if name == "model.backbone" else [factor]
    )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_differences_are_the_same_factors_from_either_side_and_none_from_itself(
    data: st.DataObject,
) -> None:
    names = data.draw(st.lists(st.sampled_from(list(SETTINGS)), unique=True, max_size=6))
    one = {**PLAIN, **{name: other_value(name) for name in names}}
    assert differing_factors(one, one) == ()
    assert factors(one) == factors(PLAIN, one)


def test_what_has_no_effect_does_not_differ() -> None:
    assert factors(changed(augment__elastic_alpha=1.0, augment__rotate=45.0)) == []
    assert factors(changed(optim__restart_multiplier=2.0)) == []
    assert factors(changed(model__weights="coco")) == []  # what auto means for resnet50
    assert factors(changed(model__backbone="resnet18", model__weights="imagenet"), changed(
        model__backbone="resnet18")) == []  # fmt: skip


def test_a_batch_size_says_what_it_does_to_the_learning_rate_of_an_image() -> None:
    texts = {
        8: "batch size (8 instead of 2; learning rate per image a quarter)",
        4: "batch size (4 instead of 2; learning rate per image half)",
        1: "batch size (1 instead of 2; learning rate per image twice)",
        6: "batch size (6 instead of 2; learning rate per image 0.333 times)",
    }
    for size, said in texts.items():
        assert [
            str(factor) for factor in differing_factors(changed(optim__batch_size=size), PLAIN)
        ] == [said]


def test_a_learning_rate_that_follows_the_batch_size_is_no_factor_of_its_own() -> None:
    scaled = changed(optim__batch_size=8, optim__learning_rate=2e-4)
    assert [str(factor) for factor in differing_factors(scaled, PLAIN)] == [
        "batch size (8 instead of 2, the learning rate in proportion)"
    ]
    halfway = changed(optim__batch_size=8, optim__learning_rate=1e-4)
    assert factors(halfway) == ["learning rate", "batch size"]


def test_batches_that_make_one_step_count_as_its_batch_size() -> None:
    def said(one: dict[str, Value], other: dict[str, Value] = PLAIN) -> list[str]:
        return [str(factor) for factor in differing_factors(one, other)]

    assert said(changed(optim__accumulate=4, optim__learning_rate=2e-4)) == [
        "batch size (8 images a step in 4 batches instead of 2 images a step in 1 batch, the"
        " learning rate in proportion)"
    ]
    one, other = changed(optim__accumulate=4), changed(optim__batch_size=8)
    assert said(one, other) == [
        "batch size (8 images a step in 4 batches instead of 8 images a step in 1 batch; learning"
        " rate per image the same)"
    ]
    assert said({**one, "optim.learning_rate": 1e-4}, other) == [
        "learning rate (0.0001 instead of 5e-05)",
        "batch size (8 images a step in 4 batches instead of 8 images a step in 1 batch; learning"
        " rate per image twice)",
    ]


def test_both_values_of_a_difference_are_said() -> None:
    one = changed(
        model__backbone="resnet101", model__trainable_layers=5, model__trainable_fpn=False,
        augment__affine=True, augment__rotate=45.0, optim__restarts=2,
        optim__restart_multiplier=2.0, model__image_min_side=512,
    )  # fmt: skip
    assert [str(factor) for factor in differing_factors(one, PLAIN)] == [
        "augmentation (affine on, rotate 45)",
        "freezing of the backbone (trains all stages instead of the last stage)",
        "freezing of the feature pyramid (frozen instead of trained)",
        "backbone (resnet101 instead of resnet50)",
        "pretrained weights (imagenet instead of coco)",
        "image size (image min side 512 instead of 800)",
        "learning rate schedule (restarts 2 instead of 0, restart multiplier 2)",
    ]
    assert "affine off" in str(differing_factors(PLAIN, one)[0])


AUG = {"augment.affine": True, "augment.horizontal_flip": True}
TABLE = {
    "Res50": {**PLAIN, "model.trainable_layers": 0},
    "Aug.": {**PLAIN, "model.trainable_layers": 0, **AUG},
    "Partial": PLAIN,
    "Partial + Aug.": {**PLAIN, **AUG},
}


def attribution(
    name: str, counterpart: str, table: Mapping[str, Mapping[str, Value]]
) -> Attribution:
    (found,) = confounds.attribute_comparisons({name: counterpart}, table)
    return found


def test_one_factor_is_what_a_difference_is_the_effect_of() -> None:
    found = attribution("Aug.", "Res50", TABLE)
    assert (found.is_confounded, found.causes) == (False, ("augmentation",))
    assert (
        found.sentence == "Aug. differs from Res50 in augmentation (horizontal flip on, affine on)"
    )


def test_a_row_that_joins_two_others_has_their_effects_together() -> None:
    found = attribution("Partial + Aug.", "Res50", TABLE)
    assert (found.is_confounded, found.causes) == (False, ("Aug.", "Partial"))
    assert found.sentence.endswith("the difference is that of Aug. and Partial together")


@pytest.mark.parametrize("missing", ["Aug.", "Partial"])
def test_without_the_rows_that_it_joins_it_is_confounded(missing: str) -> None:
    table = {name: row for name, row in TABLE.items() if name != missing}
    found = attribution("Partial + Aug.", "Res50", table)
    assert (found.is_confounded, found.causes, found.together) == (True, (), ())


ONE_OF_EACH = {
    factor: next(
        name
        for name in settings
        if name not in ("augment.horizontal_flip_p", "model.stride_in_1x1")
    )
    for factor, settings in FACTORS.items()
    if factor != BACKBONE  # another backbone has other weights too
}


@given(
    parts=st.lists(st.sampled_from(list(ONE_OF_EACH)), min_size=2, max_size=5, unique=True),
    left_out=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_sum_is_attributable_exactly_where_every_part_has_a_row(
    parts: list[str], left_out: bool
) -> None:
    changes = {factor: {ONE_OF_EACH[factor]: other_value(ONE_OF_EACH[factor])} for factor in parts}
    whole = {name: value for change in changes.values() for name, value in change.items()}
    rows = {factor: {**PLAIN, **change} for factor, change in changes.items()}
    if left_out:
        del rows[parts[0]]
    found = attribution("all", "plain", {"plain": PLAIN, **rows, "all": {**PLAIN, **whole}})
    assert found.is_confounded is left_out
    assert set(found.causes) == (set() if left_out else set(parts))


def test_rows_that_change_the_same_factor_to_another_value_do_not_speak_for_it() -> None:
    table = {**TABLE, "Partial": {**PLAIN, "model.trainable_layers": 3}}
    assert attribution("Partial + Aug.", "Res50", table).is_confounded
    table = {**TABLE, "Aug.": {**TABLE["Aug."], "augment.rotate": 45.0}}
    assert attribution("Partial + Aug.", "Res50", table).is_confounded


def test_rows_that_are_confounded_themselves_do_not_speak_for_a_sum() -> None:
    large = {"optim.batch_size": 8}
    table = {
        **TABLE,
        "Aug.": {**TABLE["Aug."], **large},
        "Partial + Aug.": {**TABLE["Partial + Aug."], **large},
    }
    found = attribution("Partial + Aug.", "Res50", table)
    assert found.is_confounded
    assert [factor.name for factor in found.factors] == [
        "augmentation",
        "freezing of the backbone",
        "batch size",
    ]


def test_the_larger_bundle_speaks_for_a_factor() -> None:
    elastic = {**AUG, "augment.elastic": True}
    table = {
        **TABLE,
        "Elastic": {**TABLE["Aug."], "augment.elastic": True},
        "Partial + Elastic": {**PLAIN, **elastic},
    }
    assert attribution("Partial + Elastic", "Res50", table).causes == ("Partial", "Elastic")


def test_the_same_settings_under_another_name_differ_by_chance_alone() -> None:
    found = attribution("Aug.", "Res50", {"Res50": PLAIN, "Aug.": changed(augment__shift=0.1)})
    assert (found.is_confounded, found.causes) == (False, ())
    assert found.sentence == "Aug. has the same settings as Res50: they differ by chance alone"


def shipped(name: str, *overrides: str) -> dict[str, Attribution]:
    return {
        found.name: found
        for found in variant_attributions(load_request(SPACES / f"{name}.yaml", overrides).space)
    }


def test_every_comparison_of_the_report_s_tables_has_one_cause() -> None:
    found = shipped("report_tables")
    assert not any(one.is_confounded for one in found.values())
    assert {name: one.causes for name, one in found.items()} == {
        "Aug.": ("augmentation",),
        "Elastic": ("augmentation",),
        "Partial": ("freezing of the backbone",),
        "Partial + Aug.": ("Aug.", "Partial"),
        "Partial + Elastic": ("Elastic", "Partial"),
        "Res50 with restart": ("learning rate schedule",),
        "Full fine-tuning": ("freezing of the backbone",),
        "Res50 (ImageNet)": ("pretrained weights",),
        "ResNet-101": ("backbone",),
        "ResNeXt-50": ("backbone",),
    }
    assert not any(
        "differs from" in note for note in load_request(SPACES / "report_tables.yaml").notes
    )


def test_the_report_as_it_was_run_is_confounded_wherever_more_differs_than_a_name_says() -> None:
    found = shipped("report_as_run")
    clean = {name for name, one in found.items() if not one.is_confounded}
    assert clean == {"Partial", "Res50 with restart"}
    assert (
        found["Aug."].sentence
        == "Aug. differs from Res50 in augmentation (affine on, blur or noise on) and batch size (8"
        " instead of 2; learning rate per image a quarter): the difference cannot be attributed"
        " to the augmentation alone"
    )
    notes = load_request(SPACES / "report_as_run.yaml").notes
    assert {name for name, one in found.items() if one.sentence in notes} == set(found) - clean


def test_a_setting_that_the_command_line_makes_equal_is_no_confound_any_more() -> None:
    found = shipped("report_as_run", "optim.batch_size=2")
    assert {name for name, one in found.items() if one.is_confounded} == {
        "Full fine-tuning", "ResNet-101", "ResNeXt-50",
    }  # fmt: skip


def test_factors_are_found_in_resolved_configurations() -> None:
    short, whole = (
        {"model.backbone": "resnet101"},
        TrialConfig.from_settings({"model.backbone": "resnet101"}).settings(),
    )
    assert differing_factors(short | PLAIN, PLAIN) == ()
    assert factors(whole) == ["backbone", "pretrained weights"]


def test_a_list_reads_like_a_sentence() -> None:
    assert [listed(list(text)) for text in ("", "a", "ab", "abc")] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
