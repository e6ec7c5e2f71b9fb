"""Laws of continuing a study: what may change, what may not, and what is said of it."""

from pathlib import Path
from typing import Any

import pytest

from core.backbones import BACKBONES
from core.data import synthetic
from core.detectors import DETECTORS
from core.errors import StudyError
from tune.request.file import from_document
from tune.store.folder import StudyFolder
from tune.study.plan import (
    data_advice,
    growth,
    network_advice,
    refuse_other_facts,
    study_facts,
)

SPACE: dict[str, Any] = {
    "model.backbone": ["resnet18", "resnet34"],
    "optim.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
    "optim.batch_size": {"low": 1, "high": 4},
    "optim.restarts": [0, 1],
    "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1]}},
}
DATA = synthetic.make(images=2, side=64)


def facts(space: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    document = {"study": "s", "data": "synthetic", "space": SPACE | (space or {}), **sections}
    return study_facts(from_document(document, "test"), DATA)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"model.backbone": ["resnet34", "resnet50", "resnet18", "resnet101"]},
            "model.backbone may be resnet50, resnet101 as well",
        ),
        (
            {"optim.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}},
            "optim.learning_rate ranges from 1e-05 to 0.01, before from 0.0001 to 0.001",
        ),
        (
            {"optim.batch_size": {"low": 1, "high": 8}},
            "optim.batch_size ranges from 1 to 8, before from 1 to 4",
        ),
        (
            {"optim.restart_multiplier": {"choices": [1, 2, 3], "when": {"optim.restarts": [1]}}},
            "optim.restart_multiplier may be 3 as well",
        ),
    ],
)
def test_wider_bounds_and_more_choices_are_taken_and_told(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    assert growth(facts(), facts(change)) == [sentence]
    refuse_other_facts(facts(), facts(change), StudyFolder(tmp_path))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"model.backbone": ["resnet18"]}, "space, model.backbone"),
        ({"model.backbone": ["resnet18", "resnet50"]}, "space, model.backbone"),
        (
            {"optim.learning_rate": {"low": 2e-4, "high": 1e-2, "log": True}},
            "space, optim.learning_rate",
        ),
        ({"optim.learning_rate": {"low": 1e-4, "high": 1e-3}}, "space, optim.learning_rate, log"),
        ({"optim.batch_size": [1, 2, 3, 4]}, "space, optim.batch_size"),
        ({"optim.weight_decay": [0.0, 0.1]}, "space, optim.weight_decay"),
        (
            {"optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [0]}}},
            "restart_multiplier, when",
        ),
    ],
)
def test_any_other_change_of_the_space_is_refused_with_its_place(
    change: dict[str, Any], place: str, tmp_path: Path
) -> None:
    assert growth(facts(), facts(change)) == []
    with pytest.raises(
        StudyError, match=f"is a study with another request: .*{place}.* was .* and is "
    ) as caught:
        refuse_other_facts(facts(), facts(change), StudyFolder(tmp_path))
    assert "give this search another --study name" in str(caught.value)


def test_growth_excuses_no_other_change(tmp_path: Path) -> None:
    wider = {"optim.batch_size": {"low": 1, "high": 8}}
    with pytest.raises(StudyError, match=r"fixed, optim\.epochs was not there and is 7"):
        refuse_other_facts(facts(), facts(wider, fixed={"optim.epochs": 7}), StudyFolder(tmp_path))
    with pytest.raises(StudyError, match=r"is a study with other data: was .* and is "):
        refuse_other_facts(facts(), facts(wider) | {"data": "0" * 64}, StudyFolder(tmp_path))


def test_more_trials_are_no_change_and_a_grid_does_not_grow(tmp_path: Path) -> None:
    refuse_other_facts(
        facts(search={"trials": 60}), facts(search={"trials": 80}), StudyFolder(tmp_path)
    )
    grid = {"search": {"sampler": "grid"}}
    only = {
        name: [value]
        for name, value in {"optim.learning_rate": 1e-4, "optim.batch_size": 1}.items()
    }
    before, after = (
        facts(only, **grid),
        facts({**only, "model.backbone": ["resnet18", "resnet34", "resnet50"]}, **grid),
    )
    assert growth(before, after) == []
    with pytest.raises(StudyError, match="another request"):
        refuse_other_facts(before, after, StudyFolder(tmp_path))


def test_weights_of_a_choice_that_was_added_are_no_change_and_others_are(tmp_path: Path) -> None:
    before, after = (
        {"weights": {"a": ["1", False]}},
        {"weights": {"a": ["1", False], "b": ["2", False]}},
    )
    refuse_other_facts(before, after, StudyFolder(tmp_path))
    with pytest.raises(StudyError, match="other pretrained weights: a was"):
        refuse_other_facts(before, {"weights": {"a": ["3", False]}}, StudyFolder(tmp_path))


def advised(**sections: Any) -> list[str]:
    document = {"study": "s", "data": "synthetic", "space": SPACE, **sections}
    return data_advice(from_document(document, "test"), DATA)


def test_instances_beyond_the_cap_are_counted_with_the_loosest_cap_that_is_tried() -> None:
    counts = DATA.instance_counts().sum(axis=1)
    low = {"fixed": {"predict.max_detections": 1}}
    assert any(
        f"so that {counts.sum() - 2} of {counts.sum()} instances can never be found" in one
        for one in advised(**low)
    )
    assert not any("can never be found" in one for one in advised())
    searched = {"space": SPACE | {"predict.max_detections": [1, 300]}}
    variants = {"a": {"predict.max_detections": 1}, "b": {"predict.max_detections": 300}}
    assert not any("can never be found" in one for one in advised(**searched))
    document = {
        "study": "s",
        "data": "synthetic",
        "variants": variants,
        "baseline": "a",
        "seeds": 1,
    }
    assert not any(
        "can never be found" in one for one in data_advice(from_document(document, "test"), DATA)
    )


def test_what_a_network_needs_is_noted_once_for_each_that_may_be_tried() -> None:
    names = ["resnet18", "swin_t", "convnext_tiny"]
    space = {
        "model.backbone": names,
        "model.detector": {"choices": ["fpn", "cascade"], "when": {"model.backbone": names[:1]}},
    }
    asked = {
        "space": {"space": space},
        "variants": {
            "variants": {name: {"model.backbone": name} for name in names}
            | {"stages": {"model.detector": "cascade"}},
            "baseline": "resnet18",
            "seeds": 1,
        },
    }
    expected = {
        f"model.backbone swin_t: {BACKBONES['swin_t'].advice}",
        f"model.backbone convnext_tiny: {BACKBONES['convnext_tiny'].advice}",
        f"model.detector cascade: {DETECTORS['cascade'].advice}",
    }
    for sections in asked.values():
        document = {"study": "s", "data": "synthetic", **sections}
        notes = network_advice(from_document(document, "test"))
        assert sorted(notes) == sorted(expected)
    document = {"study": "s", "data": "synthetic", "space": SPACE}
    assert network_advice(from_document(document, "test")) == []


def test_how_data_are_read_is_taken_from_the_request() -> None:
    fixed = {"data.skip_bad": True, "data.allow_suspicious": True, "data.group_pattern": "^(.)"}
    request = from_document(
        {"study": "s", "data": "synthetic", "space": SPACE, "fixed": fixed}, "test"
    )
    assert (
        request.reading.skip_bad,
        request.reading.allow_suspicious,
        request.reading.split_components,
    ) == (
        True,
        True,
        False,
    )
    assert request.reading.group_pattern == "^(.)"


@pytest.mark.parametrize(("low", "high", "grows"), [(0.0, 0.6, True), (0.05, 0.55, False)])
def test_a_range_with_steps_grows_by_whole_steps_so_that_the_values_that_were_tried_stay_its_own(
    low: float, high: float, grows: bool
) -> None:
    before, after = (
        facts({"optim.weight_decay": {"low": a, "high": b, "step": 0.1}})
        for a, b in ((0.1, 0.5), (low, high))
    )
    assert bool(growth(before, after)) == grows
