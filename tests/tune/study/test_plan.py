"""Laws of the messages about a request before its study starts."""

from typing import Any

from core.backbones import BACKBONES
from core.data import synthetic
from core.detectors import DETECTORS
from tune.request.file import from_document
from tune.study.plan import data_advice, network_advice

SPACE: dict[str, Any] = {
    "model.backbone": ["resnet18", "resnet34"],
    "optim.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
    "optim.batch_size": {"low": 1, "high": 4},
    "optim.restarts": [0, 1],
    "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1]}},
}
DATA = synthetic.make_cells(images=2, side=64)


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
