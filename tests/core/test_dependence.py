"""Laws of which settings have no effect. What the settings really do is the oracle; that all others
have one is held in `test_settings.py`.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.augment import pipeline as augment
from core.config import SETTINGS, TrialConfig, Value
from core.data import synthetic
from core.data.split import split
from core.dependence import NEEDS, Need, effective_settings, unmet_need
from core.training.optim import Schedule, parameter_groups
from tests.core.training.small_detector import SmallDetector

IMAGE = synthetic.make_cells(images=4, side=64)
LARGER: dict[str, Value] = {
    "augment.hue": 60,
    "augment.rotate": 90.0,
    "augment.elastic_sigma": 2.0,
    "augment.scale_jitter_low": 0.9,
    "augment.copy_paste_rarity": 1.0,
    "augment.copy_paste_blend": 3.0,
    "data.fold": 2,
}


def other(name: str) -> Value:
    """Another value of a setting than its default."""
    default = SETTINGS[name]
    if name in LARGER:
        return LARGER[name]
    if isinstance(default, bool):
        return not default
    return (
        default + 3
        if isinstance(default, int)
        else 0.9
        if name.endswith("_p")
        else float(default) * 3
    )


def what_it_does(settings: dict[str, Value]) -> Any:
    """Everything that the settings of the table decide: augmented images, learning rates and weight
    decays, the split.
    """
    config = TrialConfig.from_settings(settings)
    mixer = augment.build_mixer(config.augment, IMAGE.samples)
    augmenter = augment.build_augmenter(config.augment)
    seen = []
    for number in range(40 if mixer or augmenter else 0):
        sample = IMAGE.samples[number % 4]
        mixed = mixer(sample, np.random.default_rng([8, number])) if mixer else sample
        changed, labels = mixed.image, mixed.label_maps
        if augmenter:
            changed, labels = augmenter(changed, labels, np.random.default_rng([7, number]))
        seen.append(
            (changed.tobytes(), labels.tobytes())
            if not np.array_equal(changed, sample.image)
            else None
        )
    seen = seen if any(seen) else []
    schedule = Schedule(config.optim, 4)
    detector = SmallDetector()
    detector.freeze(config.model.trainable_layers, config.model.trainable_fpn)
    groups = [
        (group["factor"], group["weight_decay"], len(group["params"]))
        for group in parameter_groups(detector, config.optim)
    ]
    return (
        seen,
        groups,
        [schedule.learning_rate(step) for step in range(schedule.steps)],
        split(IMAGE, config.data),
    )


def met(needs: tuple[Need, ...], name: str) -> dict[str, Value]:
    needed = {
        need.setting: other(need.setting) if need.above_0 else SETTINGS[need.setting]
        for need in needs
    }
    return {
        need: value for need, value in needed.items() if bool(SETTINGS[need]) != bool(value)
    } | ({"data.folds": 4} if name == "data.fold" else {})


def unmeet(need: Need) -> Value:
    default = SETTINGS[need.setting]
    if need.above_0:
        return type(default)(0)
    return 4


@pytest.mark.parametrize(
    ("name", "need"), [(name, need) for name, needs in NEEDS.items() for need in needs]
)
def test_a_setting_does_nothing_where_a_need_is_not_met(name: str, need: Need) -> None:
    lacking = {**met(NEEDS[name], name), need.setting: unmeet(need)}
    lacking |= {"data.fold": 0} if name == "data.fold" else {}
    with_it = {**lacking, name: other(name)}
    assert unmet_need(name, with_it) is not None
    assert effective_settings(with_it) == effective_settings(lacking)
    if name != "data.fold":  # without folds there is no other fold
        assert what_it_does(with_it) == what_it_does(lacking)


def test_every_need_names_settings() -> None:
    assert {*NEEDS, *(need.setting for needs in NEEDS.values() for need in needs)} <= set(SETTINGS)


@given(st.dictionaries(st.sampled_from(sorted(NEEDS)), st.booleans()))
def test_what_is_in_effect_is_in_effect_of_itself(chosen: dict[str, bool]) -> None:
    settings = {name: other(name) for name, changed in chosen.items() if changed}
    found = effective_settings(settings)
    assert found.keys() <= SETTINGS.keys()
    assert effective_settings(found) == found


def test_one_configuration_has_one_form() -> None:
    assert effective_settings({"model.weights": "coco"}) == effective_settings({})
    assert effective_settings({"data.crop": 256, "predict.tile": 256}) == effective_settings(
        {"data.crop": 256}
    )
    assert effective_settings(
        {"augment.affine": True, "augment.affine_p": 0.0}
    ) == effective_settings({})
    assert effective_settings({"predict.flips": True}) == effective_settings(
        {"predict.views": "mirror"}
    )
    all_views = {"predict.views": "all"}
    assert effective_settings(all_views | {"predict.flips": True}) == effective_settings(all_views)


@pytest.mark.parametrize(
    ("idle", "where"),
    [
        ({"predict.overlap": 0.5}, {"predict.tile": 64}),
        ({"predict.overlap": 0.5}, {"data.crop": 64}),
        ({"predict.merge": "weighted"}, {"predict.views": "mirror"}),
        ({"predict.merge": "weighted"}, {"predict.flips": True}),
        ({"predict.agreement": 0.5}, {"predict.scales": "1,2"}),
    ],
)
def test_merging_needs_several_looks_and_an_overlap_needs_tiles(
    idle: dict[str, Value], where: dict[str, Value]
) -> None:
    assert effective_settings(idle) == effective_settings({})
    assert effective_settings(idle | where) != effective_settings(where)
    assert effective_settings({"predict.merge": "soft_nms"}) != effective_settings({})
