"""Laws of how a search takes what was measured of trials that share a GPU.

The GPU and the measuring are stand-ins; tests/tune/engine/test_rehearsal.py measures.
"""

import io
import json
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from core import data as datasets
from tune.engine.mps import Service
from tune.engine.packing import Conditions, Gpu, Measured, Packing, Round, read_packing
from tune.engine.rehearsal import NotMeasured, RehearsalInputs, TimeIsUp, usual_seconds
from tune.engine.resources import Machine, Node, TrialResources
from tune.request.file import from_document
from tune.study import conductor as study
from tune.study.conductor import MORE
from tune.study.options import Options
from tune.study.plan import StudyPlan

GB = 2**30
SPACE: dict[str, Any] = {
    "study": "packed",
    "data": "synthetic",
    "fixed": {"optim.epochs": 1, "model.weights": "none"},
    "space": {"optim.learning_rate": {"low": 1e-5, "high": 0.1, "log": True}},
}
GPU = Gpu("a GPU", 80 * GB)


class Measuring:
    """Stands in for `measure_packing`: notes what is asked for, and answers with speeds by way and number."""

    def __init__(self, speeds: dict[bool, dict[int, float]]) -> None:
        self.speeds = speeds
        self.asked: list[tuple[Conditions, Any]] = []

    def __call__(
        self,
        conditions: Conditions,
        machine: Machine,
        inputs: RehearsalInputs,
        turns: Any,
        alive: Any,
    ) -> Packing:
        assert machine.nodes[0].gpus == 1
        assert inputs.config.optim.batch_size == 2
        alive()
        self.asked.append((conditions, turns))
        rounds = tuple(
            Round(trials, way, speed, 3 * GB, GB)
            for way in conditions.services
            for trials, speed in self.speeds[way].items()
        )
        return Packing(conditions, (Measured(GPU, rounds),))


class Desk:
    """A search on a machine with one GPU, as far as the measuring."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.beats = 0
        monkeypatch.setattr(study.torch.cuda, "is_available", lambda: True)
        self.left = math.inf
        monkeypatch.setattr(study, "gpus_here", lambda: (GPU,))

    def plan(
        self, parallel: int | None = None, address: str | None = None, **wanted: Any
    ) -> StudyPlan:
        request = from_document({**SPACE, "resources": wanted}, "test")
        machine = Machine((Node(16, 1),), address)
        share = (
            1.0 if request.resources.gpus_per_trial == "auto" else request.resources.gpus_per_trial
        )
        plan = StudyPlan(
            request, Options(self.folder, parallel=parallel), datasets.load_data("synthetic"), {},
            machine, TrialResources(8, float(share), 1),
        )  # fmt: skip
        plan.folder.path.mkdir(parents=True, exist_ok=True)
        return plan

    def packed(
        self, plan: StudyPlan, measuring: Any, service: Service
    ) -> tuple[StudyPlan, list[str]]:
        said = io.StringIO()
        self.monkeypatch.setattr(study, "measure_packing", measuring)
        console = Console(file=said, width=1000)

        def beat(seconds: float = 0.0) -> None:
            self.beats += 1
            if seconds >= self.left:
                raise TimeIsUp("the time budget leaves too little time")

        return study._packed(plan, {}, service, beat, console), said.getvalue().splitlines()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def running(insisted: bool = False) -> Service:
    return Service(True, "Trials compute at the same time", insisted=insisted)


def none() -> Service:
    return Service(False, "Trials take turns: it is not there")


GAINS = Measuring({False: {1: 30.0, 2: 55.0, 4: 56.0}, True: {2: 58.0, 4: 100.0, 8: 101.0}})
FAILS = Measuring({False: {1: 30.0, 2: 55.0, 4: 56.0}, True: {2: 56.0, 4: 57.0}})


def test_as_many_trials_share_a_gpu_as_gained_and_the_service_stays_where_it_gained(
    desk: Desk,
) -> None:
    plan = desk.plan()
    service = running()
    packed, said = desk.packed(plan, GAINS, service)
    assert packed == replace(plan, resources=TrialResources(4, 0.25, 4))
    assert service.runs
    assert desk.beats == 2
    assert said[0] == "Measuring how many trials share a GPU"
    assert said[1].endswith("4 trials share a GPU, by NVIDIA's Multi-Process Service; 4 at once")
    assert len(said) == 2
    written = json.loads(plan.folder.packing.read_text())
    assert (written["trials"], written["service"]) == (4, True)
    assert (written["images_per_second_alone"], written["images_per_second_packed"]) == (30, 100)


def test_a_service_that_gained_nothing_is_given_up_in_one_line(desk: Desk) -> None:
    service = running()
    packed, _ = desk.packed(desk.plan(), FAILS, service)
    assert packed.resources.gpus == 0.5
    assert not service.runs
    assert service.why == (
        "Trials that share a GPU take turns: the service gained less than 10% (56.0 images/s, and"
        " 55.0 by turns)"
    )


@pytest.mark.parametrize(
    ("service", "wanted", "ways"),
    [
        (running(), "auto", (False, True)),
        (running(insisted=True), True, (True,)),
        (none(), "auto", (False,)),
        (none(), False, (False,)),
    ],
)
def test_what_may_be_used_is_measured(
    desk: Desk, service: Service, wanted: Any, ways: tuple[bool, ...]
) -> None:
    measuring = Measuring({False: {1: 30.0, 2: 55.0}, True: {1: 30.0, 2: 58.0, 4: 100.0}})
    desk.packed(desk.plan(mps=wanted), measuring, service)
    ((conditions, turns),) = measuring.asked
    assert conditions.services == ways
    assert (turns is nullcontext) is not service.runs or turns == service.without
    assert isinstance(turns(), AbstractContextManager)


def test_what_was_measured_is_used_again_under_the_same_conditions_alone(desk: Desk) -> None:
    measuring = Measuring(GAINS.speeds)
    first, _ = desk.packed(desk.plan(), measuring, running())
    again, said = desk.packed(desk.plan(), measuring, running())
    assert again.resources == first.resources
    assert len(measuring.asked) == 1
    assert len(said) == 1, "nothing is measured, and what was measured is said"
    desk.packed(desk.plan(), measuring, none())
    desk.packed(desk.plan(parallel=2), measuring, none())
    assert len(measuring.asked) == 3


def test_where_nothing_can_be_measured_each_trial_has_a_gpu_and_one_line_says_why(
    desk: Desk,
) -> None:
    def fails(*_: object) -> Packing:
        raise NotMeasured("the processes that measure hang")

    plan = desk.plan()
    packed, said = desk.packed(plan, fails, running())
    assert packed is plan
    sentence = (
        "How many trials share a GPU could not be measured (the processes that measure hang), so"
        f" each has a GPU; delete {plan.folder.packing} to measure again"
    )
    assert said[1:] == [sentence]
    assert read_packing(plan.folder.packing) is None
    assert desk.packed(plan, None, running()) == (plan, [sentence]), "it is not measured again"
    measuring = Measuring(GAINS.speeds)
    desk.packed(plan, measuring, none())
    assert len(measuring.asked) == 1, "the conditions are others"


TOO_LITTLE = (
    "How many trials share a GPU could not be measured (the time budget leaves too little time), so"
    " each has a GPU; a run with a longer --time-budget measures it"
)


def test_what_the_time_budget_cut_short_is_measured_again_where_more_time_is_left(
    desk: Desk,
) -> None:
    clock = [0.0]
    desk.monkeypatch.setattr(study, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def is_cut_short(*arguments: Any) -> Packing:
        clock[0] += desk.left
        desk.left = 0.0
        arguments[-1]()
        raise AssertionError("the time is up")

    plan = desk.plan()
    desk.left = usual_seconds(1) + 20
    had = desk.left
    packed, said = desk.packed(plan, is_cut_short, running())
    assert packed is plan
    assert said == ["Measuring how many trials share a GPU", TOO_LITTLE]
    assert read_packing(plan.folder.packing) is None
    desk.left = MORE * had
    assert desk.packed(plan, None, running()) == (plan, [TOO_LITTLE]), "it would be cut short again"
    desk.left = MORE * had + 1
    packed, said = desk.packed(plan, GAINS, running())
    assert packed.resources.gpus == 0.25
    assert len(said) == 2


def test_a_run_without_the_time_to_measure_trains_at_once_and_uses_what_another_run_measured(
    desk: Desk,
) -> None:
    plan = desk.plan()
    desk.left = usual_seconds(1)
    assert desk.packed(plan, None, running()) == (plan, [TOO_LITTLE])
    assert not plan.folder.packing.exists()
    desk.left += 1
    measured, _ = desk.packed(plan, GAINS, running())
    desk.left = 1.0
    assert desk.packed(plan, None, running())[0] == measured


@pytest.mark.parametrize(
    "asked",
    [{"gpus_per_trial": 0.5}, {"gpus_per_trial": 1}, {"parallel": 1}, {"address": "host:1"}],
)
def test_nothing_is_measured_where_nothing_follows_from_it(
    desk: Desk, asked: dict[str, Any]
) -> None:
    plan = desk.plan(**asked)
    assert desk.packed(plan, None, none()) == (plan, [])


def test_without_a_gpu_nothing_is_measured(desk: Desk) -> None:
    desk.monkeypatch.setattr(study.torch.cuda, "is_available", lambda: False)
    plan = desk.plan()
    assert desk.packed(plan, None, none()) == (plan, [])
