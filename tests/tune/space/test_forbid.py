"""Laws of forbidden combinations: no trial has one, and a space that is all forbidden is refused."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import SettingError, SpaceError, StudyError
from tune.ledger.proposals import next_point, preview
from tune.ledger.records import State, TrialRecord
from tune.request.file import from_document, with_overrides
from tune.request.request import StudyRequest
from tune.space.domains import Choices, IntRange
from tune.space.space import Parameter, SearchSpace
from tune.store.folder import StudyFolder
from tune.study.going_on import refuse_other_facts, study_facts

BACKBONES = ["resnet18", "resnet50", "resnet101"]
SPACE: dict[str, Any] = {
    "study": "forbidden",
    "data": "synthetic",
    "fixed": {"optim.epochs": 2},
    "space": {
        "model.backbone": BACKBONES,
        "model.trainable_layers": [0, 1, 5],
        "augment.elastic": [True, False],
    },
    "forbid": [
        {"model.backbone": "resnet101", "model.trainable_layers": [1, 5]},
        {"model.backbone": "resnet18", "augment.elastic": True, "optim.epochs": 2},
    ],
    "search": {"sampler": "random", "trials": 30, "seed": 0},
    "confirm": {"top": 0},
}


def request(**changes: Any) -> StudyRequest:
    return from_document({**SPACE, **changes}, "test")


def is_forbidden(point: Any) -> bool:
    """Whether a rule forbids a point whose values are in the order of the space."""
    backbone, layers, elastic = point.values()
    return (backbone == "resnet101" and layers in (1, 5)) or (backbone == "resnet18" and elastic)


names = ("model.trainable_layers", "optim.restarts", "optim.batch_size")
values = st.sets(st.integers(1, 4), min_size=1, max_size=3).map(sorted)
rules = st.lists(
    st.dictionaries(st.sampled_from(names), values.map(tuple), min_size=1, max_size=3), max_size=4
)
domains = values.flatmap(
    lambda some: st.sampled_from([Choices(tuple(some)), IntRange(some[0], some[-1])])
)


@given(st.tuples(domains, domains, domains), values, rules)
def test_the_grid_and_the_size_are_those_of_all_points_less_the_forbidden(
    domains: Any, allowed: list[int], forbid: Any
) -> None:
    """The last setting is searched only where the second has certain values."""
    conditions: Any = [{}, {}, {names[1]: tuple(allowed)}]
    parameters = tuple(
        Parameter(name, domain, when)
        for name, domain, when in zip(names, domains, conditions, strict=True)
    )
    space = SearchSpace(parameters=parameters, forbid=tuple(forbid))
    every = SearchSpace(parameters=parameters).grid()
    expected = [
        point
        for point in every
        if not any(
            all(space.value(name, point) in those for name, those in rule.items())
            for rule in forbid
        )
    ]
    assert space.grid() == expected
    assert space.size == len(expected)
    assert [point for point in every if space.holds(point)] == expected
    assert (space.of_rules.size == 0) == (expected == [])


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "grid"])
def test_no_sampler_proposes_what_is_forbidden(sampler: str) -> None:
    search = {"sampler": sampler} if sampler == "grid" else {"sampler": sampler, "trials": 30}
    asked = request(search=search)
    seen: list[TrialRecord] = []
    for number in range(asked.planned_trials):
        point = next_point(asked, seen)
        assert not is_forbidden(point.params)
        epochs = tuple({"ap50": 0.1 + number / 100, "seconds": 1.0} for _ in range(2))
        record = TrialRecord(
            number, state=State.COMPLETE, params=point.params, settings=point.settings,
            epochs=epochs,
        )  # fmt: skip
        seen.append(record)
    tried = {tuple(record.params.values()) for record in seen}
    every = itertools.product(BACKBONES, [0, 1, 5], [True, False])
    allowed = {one for one in every if not is_forbidden(dict(enumerate(one)))}
    assert len(allowed) == 11
    assert tried <= allowed
    assert sampler != "grid" or tried == allowed


def test_a_sampler_that_meets_what_is_forbidden_nearly_everywhere_still_finds_the_rest() -> None:
    """One of 27,648 points is allowed."""
    names = ["horizontal_flip", "color_jitter", "affine", "elastic", "blur_or_noise"]
    names += ["vertical_flip", "stain_jitter", "scale_jitter", "quarter_turns"]
    space = {f"augment.{name}": [True, False] for name in names}
    space["optim.batch_size"] = list(range(1, 55))  # type: ignore[assignment]
    forbid: list[dict[str, Any]] = [{f"augment.{name}": True} for name in names]
    forbid.append({"optim.batch_size": list(range(1, 54))})
    asked = request(space=space, forbid=forbid)
    assert asked.space.size == 1
    (record,) = preview(asked, 1)
    allowed = {f"augment.{name}": False for name in names} | {"optim.batch_size": 54}
    assert record.params == allowed
    space["optim.batch_size"] = {"low": 1, "high": 60}  # type: ignore[assignment]
    start = [{"optim.batch_size": size} for size in (55, 58)]
    started = request(space=space, forbid=forbid, start=start)
    assert [record.params for record in preview(started, 2)] == [allowed | one for one in start]


def test_a_rule_that_forbids_both_ends_of_a_range_leaves_what_is_between() -> None:
    space = {"optim.batch_size": {"low": 1, "high": 4}}
    asked = request(space=space, forbid=[{"optim.batch_size": [1, 4]}])
    assert asked.space.size == 2
    assert {record.params["optim.batch_size"] for record in preview(asked, 30)} == {2, 3}


def test_a_start_point_is_completed_by_what_is_allowed() -> None:
    asked = request(start=[{"model.backbone": "resnet101"}, {"augment.elastic": True}])
    first, second = preview(asked, 2)
    assert (first.params["model.backbone"], first.params["model.trainable_layers"]) == (
        "resnet101", 0,
    )  # fmt: skip
    assert second.params["augment.elastic"]
    assert second.params["model.backbone"] != "resnet18"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"forbid": [{"augment.elastic": [True, False]}]},
            "test, forbid: leaves nothing of the space.",
        ),
        ({"forbid": [{"optim.epochs": 2}]}, "test, forbid: leaves nothing of the space."),
        (
            {"start": [{"model.backbone": "resnet101", "model.trainable_layers": 5}]},
            "test, start 1: is forbidden by `forbid:`",
        ),
        ({"forbid": [{}]}, "test, forbid 1: must name at least one setting"),
        ({"forbid": {"model.backbone": "resnet18"}}, "forbid: must be a list of combinations"),
        ({"forbid": ["resnet18"]}, "test, forbid 1: must be a mapping of settings"),
        ({"forbid": [{"model.bakbone": "resnet18"}]}, "Did you mean 'model.backbone'"),
        (
            {"forbid": [{"model.backbone": "resnet34"}]},
            "model.backbone must have values that it can take, and 'resnet34' is not in its space",
        ),
        (
            {
                "space": {"optim.learning_rate": {"low": 0.1, "high": 0.2}},
                "forbid": [{"optim.learning_rate": 0.1}],
            },
            "optim.learning_rate must have choices or a `step`",
        ),
    ],
)
def test_rules_that_forbid_all_or_nothing_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises((SpaceError, SettingError)) as refused:
        request(**changes)
    assert told in str(refused.value)


def test_a_variant_that_is_forbidden_is_refused_by_name() -> None:
    variants = {"small": {"model.backbone": "resnet18"}, "large": {"model.backbone": "resnet101"}}
    document = {"study": "a", "data": "synthetic", "variants": variants}
    forbid = [{"model.backbone": "resnet101", "optim.batch_size": 2}]
    with pytest.raises(SpaceError, match="variants, 'large': is forbidden by `forbid:`"):
        from_document({**document, "forbid": forbid}, "test")
    fixed = {"optim.batch_size": 4}
    assert from_document({**document, "forbid": forbid, "fixed": fixed}, "test").space.forbid


def test_what_no_training_could_have_is_forbidden_instead_of_refused() -> None:
    space = {"model.backbone": ["resnet50", "resnet101"], "model.weights": ["coco", "imagenet"]}
    with pytest.raises(SettingError, match="or forbid it by `forbid:`"):
        request(space=space, forbid=[])
    asked = request(space=space, forbid=[{"model.backbone": "resnet101", "model.weights": "coco"}])
    assert asked.space.size == 3


def test_rules_are_stored_with_the_study_and_stay_what_they_were() -> None:
    asked = request()
    again = from_document(asked.to_document(), "test")
    assert again.space == asked.space
    assert "forbid" not in request(forbid=[]).to_document()
    fixed = with_overrides(asked, ["model.backbone=resnet101"])
    assert [point["model.trainable_layers"] for point in fixed.space.grid()] == [0, 0]
    folder = StudyFolder(Path("results/forbidden"))
    before = study_facts(asked, None)
    refuse_other_facts(before, study_facts(again, None), folder)
    for other in (request(forbid=[]), request(forbid=SPACE["forbid"][:1])):
        with pytest.raises(StudyError, match="forbid"):
            refuse_other_facts(before, study_facts(other, None), folder)
