"""Laws of settings that are `auto` in a study: read off the data once, where the study begins; all
that is recorded, shown and trained has numbers.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core import fitting
from core.config import AUTO, Value
from core.data import synthetic
from core.data.dataset import Dataset
from core.errors import SpaceError, StudyError
from core.fitting import READ_OFF_DATA, Chosen, Circumstances
from tune.announcements import first_configurations, search_lines
from tune.engine.packing import heaviest
from tune.ledger.claim import Claim
from tune.ledger.ledger import Ledger
from tune.ledger.records import TrialRecord
from tune.request.file import from_document, request_of, with_overrides
from tune.request.request import variant_attributions
from tune.study import automatic
from tune.study.conductor import write_study_json
from tune.study.going_on import study_facts
from tune.study.options import Options
from tune.study.plan import StudyPlan, check_request
from tune.study.reading import read_study
from tune.tables import trials_csv

FIXED: dict[str, Value] = {"model.backbone": "resnet18", "model.weights": "none"}
ALL: dict[str, Value] = {**FIXED, **dict.fromkeys(sorted(READ_OFF_DATA), AUTO)}
SEARCHED: dict[str, Any] = {
    "study": "s",
    "data": "synthetic",
    "fixed": ALL,
    "space": {"optim.learning_rate": [1e-4, 1e-3]},
    "search": {"sampler": "grid"},
    "confirm": {"top": 0},
}
CHOICES: dict[str, Any] = {
    **SEARCHED,
    "fixed": FIXED,
    "space": {
        "model.image_min_side": [32, AUTO],
        "model.anchor_scale": [1, AUTO],
        "predict.max_detections": {"choices": [50, AUTO], "when": {"model.anchor_scale": [AUTO]}},
    },
}
ROWS: dict[str, Any] = {
    **{name: SEARCHED[name] for name in ("study", "data", "fixed")},
    "fixed": FIXED,
    "variants": {
        "plain": {},
        "anchors": {"model.anchor_scale": AUTO},
        "both": {"model.anchor_scale": AUTO, "model.image_min_side": AUTO},
    },
}
DATA = synthetic.make_cells(images=4, side=64)


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.data.load_data", lambda *_: DATA)


def planned(document: Mapping[str, Any], results: Path, *changes: str) -> StudyPlan:
    request = with_overrides(from_document(document, "test"), changes)
    plan, problems = check_request(request, Options(results))
    assert plan is not None, problems
    return plan


def begin(plan: StudyPlan, trials: int = 9) -> tuple[TrialRecord, ...]:
    """The trials of a study after so many more have begun."""
    plan.folder.path.mkdir(parents=True, exist_ok=True)
    with Claim(plan.storage, plan.request.study) as claim:
        ledger = Ledger(claim, plan.request)
        ledger.remember(study_facts(plan.request, plan.data))
        write_study_json(plan)
        for _ in range(trials):
            ledger.next(0)
        return ledger.records


@pytest.mark.parametrize("document", [SEARCHED, CHOICES, ROWS], ids=["fixed", "choices", "rows"])
def test_no_trial_is_recorded_or_shown_with_auto(
    document: Mapping[str, Any], tmp_path: Path
) -> None:
    plan = planned(document, tmp_path)
    records = begin(plan, 20)
    assert len(records) == plan.request.planned_trials
    for record in records:
        assert AUTO not in [record.settings[name] for name in READ_OFF_DATA]
        assert AUTO not in record.searched.values()
        assert record.searched.keys() == record.params.keys()
    table = csv.reader(io.StringIO(trials_csv(records, plan.request.searched)))
    assert not [row for row in table if AUTO in row]
    assert not [line for line in first_configurations(plan.request) if AUTO in line]


def test_each_configuration_is_resolved_by_itself(tmp_path: Path) -> None:
    """The anchors follow the side that is searched beside them."""
    records = begin(planned(CHOICES, tmp_path), 20)
    found = {tuple(record.params.values()): record.settings for record in records}
    assert found[32, 1]["model.anchor_scale"] == 1
    small, large = found[32, AUTO, 50], found[AUTO, AUTO, AUTO]
    assert small["model.image_min_side"] == 32
    assert int(large["model.image_min_side"]) > 100
    assert float(small["model.anchor_scale"]) < float(large["model.anchor_scale"])
    assert (small["predict.max_detections"], large["predict.max_detections"]) == (50, 100)


def test_what_was_read_off_the_data_is_said_with_its_reason(tmp_path: Path) -> None:
    for document in (SEARCHED, CHOICES):
        plan = planned(document, tmp_path)
        said = [line for line in search_lines(plan) if " auto is " in line]
        assert len(said) == len(automatic.settings_left_open(plan.request))
        (scale,) = [line for line in said if "model.anchor_scale auto is" in line]
        assert "% of the instances" in scale
    assert not [
        line
        for line in search_lines(planned({**SEARCHED, "fixed": FIXED}, tmp_path))
        if " auto is " in line
    ]


def test_a_study_that_goes_on_keeps_what_it_began_with_whatever_a_later_version_would_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = planned(SEARCHED, tmp_path)
    (first,) = begin(begun, 1)

    others: dict[str, Value] = {**dict.fromkeys(READ_OFF_DATA, 64), "model.anchor_scale": 3.0}
    rules = {name: lambda *_, value=value: Chosen(value, "") for name, value in others.items()}
    monkeypatch.setattr(fitting, "FITTING_RULES", {**fitting.FITTING_RULES, 99: rules})
    monkeypatch.setattr(fitting, "NEWEST_RULES", 99)
    anew = planned({**SEARCHED, "study": "anew"}, tmp_path).request.space.resolve({}).settings()
    assert {name: anew[name] for name in others} == others

    def not_again(_: Dataset) -> None:
        raise AssertionError("the data are measured once")

    monkeypatch.setattr(automatic, "measure", not_again)
    for request in (from_document(SEARCHED, "test"), request_of(begun.folder)):
        plan, problems = check_request(request, Options(tmp_path))
        assert plan is not None, problems
        assert plan.request.space.auto == begun.request.space.auto
    assert study_facts(plan.request, DATA) == study_facts(begun.request, DATA)
    one, two = begin(plan)
    for name in READ_OFF_DATA:
        assert one.settings[name] == two.settings[name] == first.settings[name]
    assert read_study("s", tmp_path).request.space.resolve(one.params).settings() == one.settings


def test_a_study_by_the_rules_of_a_later_version_is_refused_and_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(SEARCHED, tmp_path)
    monkeypatch.setattr(Circumstances, "to_json", lambda _: {"rules": 7, "data": {}})
    begin(plan, 1)
    _, (problem,) = check_request(from_document(SEARCHED, "test"), Options(tmp_path))
    assert isinstance(problem, StudyError)
    assert "by rules 7 of a later version" in str(problem)
    assert len(read_study("s", tmp_path).records) == 1


def test_a_study_that_reads_nothing_off_its_data_keeps_no_measurement(tmp_path: Path) -> None:
    plan = planned({**SEARCHED, "fixed": FIXED}, tmp_path)
    assert automatic.KEPT not in study_facts(plan.request, plan.data)


def test_auto_can_be_added_to_the_choices_of_a_study_that_began_without(tmp_path: Path) -> None:
    document = {**SEARCHED, "fixed": FIXED, "search": {"sampler": "random", "trials": 1}}
    begin(planned({**document, "space": {"model.anchor_scale": [0.5, 1]}}, tmp_path))
    document["search"] = {"sampler": "random", "trials": 30}
    plan = planned({**document, "space": {"model.anchor_scale": [0.5, 1, AUTO]}}, tmp_path)
    records = begin(plan, 30)
    assert {record.params["model.anchor_scale"] for record in records} == {0.5, 1, AUTO}
    assert AUTO not in [record.settings["model.anchor_scale"] for record in records]


def test_the_heaviest_configuration_compares_auto_by_its_number(tmp_path: Path) -> None:
    for side in (32, 4000):
        space = {"model.image_min_side": [side, AUTO], "model.image_max_side": [4000]}
        plan = planned({**CHOICES, "space": space}, tmp_path / str(side))
        by_data = plan.request.space.resolve(
            {"model.image_max_side": 4000, "model.image_min_side": AUTO}
        )
        largest = max(side, by_data.model.image_min_side)
        assert heaviest(plan.request.space).model.image_min_side == largest


def test_rows_differ_in_the_numbers_that_auto_stands_for(tmp_path: Path) -> None:
    plan = planned(ROWS, tmp_path)
    anchors, both = variant_attributions(plan.request.space)
    assert [factor.name for factor in anchors.factors] == ["anchors"]
    assert AUTO not in anchors.sentence
    assert {factor.name for factor in both.factors} <= {"anchors", "image size"}
    # Before the data are known the sentence says what was asked for.
    assert AUTO in variant_attributions(from_document(ROWS, "test").space)[0].sentence


@pytest.mark.parametrize("end", ["low", "high"])
def test_an_end_of_a_range_must_be_a_number(end: str) -> None:
    ends = {"low": 0.5, "high": 1, end: AUTO}
    document = {**SEARCHED, "fixed": FIXED, "space": {"model.anchor_scale": ends}}
    with pytest.raises(SpaceError, match=f"{end}: must be a number, and is auto"):
        from_document(document, "test")


def test_settings_tried_after_training_are_resolved_for_the_winner(tmp_path: Path) -> None:
    document = {
        **SEARCHED,
        "fixed": FIXED,
        "after_training": {"predict.max_detections": [400, AUTO]},
    }
    plan = planned(document, tmp_path)
    winner = plan.request.space.resolve({"optim.learning_rate": 1e-4})
    tried = [
        one.max_detections
        for one in winner.predictions(plan.request.after_training, plan.request.space.auto)
    ]
    assert tried == [400, 100]
