"""Laws of `optim.precision: auto`: a study finds its precision once, on the machine where it
begins, and every trial of it names it.

GPUs are declared ones.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from core.data import synthetic
from core.errors import StudyError
from tune.announcements import search_lines
from tune.engine import session
from tune.engine.packing import heaviest
from tune.engine.resources import Machine, Node
from tune.ledger.claim import Claim
from tune.ledger.ledger import Ledger
from tune.request.file import from_document, load_request, request_of, with_overrides
from tune.study.conductor import write_study_json
from tune.study.going_on import study_facts
from tune.study.options import Options
from tune.study.plan import StudyPlan, check_request

NAME = "optim.precision"
SEARCHED: dict[str, Any] = {
    "study": "s",
    "data": "cells",
    "fixed": {"model.backbone": "resnet18", "model.weights": "none"},
    "space": {"optim.learning_rate": [1e-4, 1e-3]},
    "search": {"sampler": "grid"},
    "confirm": {"top": 0},
}
ROWS: dict[str, Any] = {
    **{name: SEARCHED[name] for name in ("study", "data", "fixed")},
    "variants": {
        "auto": {NAME: "auto"},
        "silent": {},
        "fp32": {NAME: "fp32"},
        "bf16": {NAME: "bf16"},
    },
}
BY_MACHINE = {"cpu": "fp32", "old gpu": "fp32", "gpu": "bf16", "one old gpu": "fp32"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    synthetic.write_hw3(synthetic.make_cells(images=3, side=32), folder)
    return folder


@pytest.fixture(autouse=True)
def _small_data(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEARCHED, "data", str(cells))
    monkeypatch.setitem(ROWS, "data", str(cells))


def on(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare a machine: its GPUs, and what they can do."""
    capabilities = {
        "cpu": [],
        "gpu": [(9, 0)],
        "old gpu": [(7, 5)],
        "one old gpu": [(8, 0), (7, 0)],
    }[machine]
    monkeypatch.setattr(Machine, "here", lambda: Machine((Node(2, len(capabilities)),)))
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capabilities[device.index]
    )


def planned(document: Mapping[str, Any], results: Path, *changes: str, **options: Any) -> StudyPlan:
    request = with_overrides(from_document(document, "test"), changes)
    plan, problems = check_request(request, Options(results, **options))
    assert plan is not None, problems
    return plan


def begin(plan: StudyPlan, facts: Mapping[str, Any] | None = None, trials: int = 9) -> list[str]:
    """The precision that each trial of a study names, after the study has begun."""
    plan.folder.path.mkdir(parents=True, exist_ok=True)
    with Claim(plan.storage, plan.request.study) as claim:
        ledger = Ledger(claim, plan.request)
        ledger.remember(facts or study_facts(plan.request, plan.data))
        write_study_json(plan)
        records = [ledger.next(plan.resources.gpus) for _ in range(trials)]
        return [str(record.settings[NAME]) for record in records if record is not None]


@pytest.mark.parametrize("machine", BY_MACHINE)
def test_a_study_begins_in_bf16_where_all_gpus_have_it_and_in_fp32_elsewhere(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(machine, monkeypatch)
    plan = planned(SEARCHED, tmp_path)
    assert heaviest(plan.request.space).optim.precision == BY_MACHINE[machine]
    assert begin(plan) == [BY_MACHINE[machine]] * 2
    said = [line for line in search_lines(plan) if NAME in line]
    assert len(said) == (machine != "cpu")
    assert all(f"auto is {BY_MACHINE[machine]}" in line for line in said)


@pytest.mark.parametrize("machine", BY_MACHINE)
def test_a_row_that_names_its_precision_keeps_it(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(machine, monkeypatch)
    here = BY_MACHINE[machine]
    assert begin(planned(ROWS, tmp_path)) == [here, here, "fp32", "bf16"]


@pytest.mark.parametrize("named", ["fp32", "bf16"])
def test_where_all_trials_name_it_nothing_is_said(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("gpu", monkeypatch)
    plan = planned(SEARCHED, tmp_path, f"{NAME}={named}")
    assert begin(plan) == [named] * 2
    assert not [line for line in search_lines(plan) if NAME in line]


def test_trials_on_processors_beside_a_gpu_are_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("gpu", monkeypatch)
    assert begin(planned(SEARCHED, tmp_path, "resources.gpus_per_trial=0")) == ["fp32"] * 2


@pytest.mark.parametrize("driver", ["cpu", "gpu"])
def test_a_study_on_a_cluster_is_in_fp32_whatever_its_driver_has_and_says_how_to_change_it(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(driver, monkeypatch)
    monkeypatch.setattr(session, "cluster_at", lambda address: Machine((Node(2, 1),), address))
    plan = planned(SEARCHED, tmp_path, address="10.0.0.1:6379")
    assert begin(plan) == ["fp32"] * 2
    (said,) = [line for line in search_lines(plan) if NAME in line]
    assert "--set optim.precision=bf16" in said


@pytest.mark.parametrize("document", [SEARCHED, ROWS], ids=["searched", "rows"])
@pytest.mark.parametrize(("first", "then"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_a_study_that_goes_on_elsewhere_keeps_the_precision_with_which_it_began(
    document: Mapping[str, Any], first: str, then: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    on(first, monkeypatch)
    begun = planned(document, tmp_path)
    one, *_ = begin(begun, trials=1)
    on(then, monkeypatch)
    for request in (from_document(document, "test"), request_of(begun.folder)):
        plan, problems = check_request(request, Options(tmp_path))
        assert plan is not None, problems
        assert plan.request.space.auto is not None
        assert plan.request.space.auto.precision == one == BY_MACHINE[first]
        assert plan.precision == f"optim.precision auto is {one}, as when the study began"
    assert begin(plan)[0] == one
    with Claim(plan.storage, "s") as claim:
        others = [record.settings[NAME] for record in Ledger(claim, plan.request).records]
    assert others[:2] == [one, one]


@pytest.mark.parametrize("machine", ["cpu", "gpu"])
def test_a_study_that_an_earlier_version_began_goes_on_in_fp32(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote no precision down where the file named none."""
    on("cpu", monkeypatch)
    begun = planned(SEARCHED, tmp_path)
    facts = study_facts(from_document(SEARCHED, "test"), begun.data)
    assert NAME not in facts["request"]["fixed"]
    begin(begun, facts, trials=1)
    on(machine, monkeypatch)
    assert begin(planned(SEARCHED, tmp_path)) == ["fp32", "fp32"]


def test_to_name_the_precision_that_a_study_has_is_no_change_and_another_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("gpu", monkeypatch)
    begin(planned(SEARCHED, tmp_path), trials=1)
    on("cpu", monkeypatch)
    assert set(begin(planned(SEARCHED, tmp_path, f"{NAME}=bf16"))) == {"bf16"}
    request = with_overrides(from_document(SEARCHED, "test"), [f"{NAME}=fp32"])
    _, (problem,) = check_request(request, Options(tmp_path))
    assert isinstance(problem, StudyError)
    assert 'fixed, optim.precision was "bf16" and is "fp32"' in str(problem)


def test_a_searched_precision_is_the_samplers_and_auto_holds_where_it_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("gpu", monkeypatch)
    space = {NAME: ["fp32", "bf16"]}
    plan = planned({**SEARCHED, "space": space}, tmp_path / "always")
    assert begin(plan) == ["fp32", "bf16"]
    assert plan.precision is None
    assert heaviest(plan.request.space).optim.precision == "fp32"
    space = {
        "optim.restarts": [0, 1],
        NAME: {"choices": ["fp32"], "when": {"optim.restarts": [0]}},
    }
    plan = planned({**SEARCHED, "space": space}, tmp_path / "sometimes")
    assert begin(plan) == ["fp32", "bf16"]
    assert plan.precision == "optim.precision auto is bf16, which this machine's GPUs have"


def test_the_rows_of_the_reference_report_are_in_fp32_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("gpu", monkeypatch)
    for name in ("report_as_run", "report_tables"):
        path = Path("search_spaces") / f"{name}.yaml"
        request = load_request(path, ["model.weights=none"], data=SEARCHED["data"])
        plan, problems = check_request(request, Options(tmp_path))
        assert plan is not None, problems
        assert {row.config.optim.precision for row in plan.request.space.rows()} == {"fp32"}
