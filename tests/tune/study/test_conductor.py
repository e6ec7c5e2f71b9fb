"""Laws of the whole engine, from the ledger through Ray to MLflow, on trials that replay a curve.

Ray, the databases and the worker processes are real; only the training is not.
"""

import csv
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from ray import cloudpickle
from rich.console import Console

from benchmarks.replay import ReplayedTrial, Replays
from core import data as datasets
from core.errors import StudyError, TrialDiverged
from tests.tracking_database import provide
from tune.engine import mps
from tune.engine.messages import Assignment
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.ledger import open_ledger
from tune.ledger.records import State, TrialRecord
from tune.request.file import from_document
from tune.store.folder import StudyFolder
from tune.study import conductor as study
from tune.study.limits import Limits
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.progress import Progress
from tune.study.trials import TrialInputs

EPOCHS = 4
SPACE: dict[str, Any] = {
    "study": "replayed",
    "data": "synthetic",
    "fixed": {"optim.epochs": EPOCHS},
    "space": {"optim.learning_rate": {"low": 0.01, "high": 0.9}},
    "search": {"sampler": "random", "trials": 6, "seed": 0},
    "stop_early": {"rule": "successive_halving", "min_epochs": 1, "reduction": 2},
    "confirm": {"top": 0},
}


def replaying(deed: Callable[[Assignment, int], None]) -> Replays:
    """Trials whose AP50 is their learning rate times the share of their epochs; what else they
    do, `deed` says.
    """

    def ap50(assignment: Assignment, epoch: int) -> float:
        deed(assignment, epoch)
        return float(assignment.settings["optim.learning_rate"]) * epoch / EPOCHS

    def make(assignment: Assignment, inputs: TrialInputs) -> ReplayedTrial:
        assert inputs.cpus == 1
        return ReplayedTrial(assignment, ap50)

    return Replays(make)


def nothing_else(assignment: Assignment, epoch: int) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def _workers_can_unpickle_this_file() -> Iterator[None]:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def make_plan(
    results: Path,
    document: dict[str, Any] | None = None,
    gpus: int = 0,
    share: float = 0.0,
    parallel: int = 2,
) -> StudyPlan:
    return StudyPlan(
        from_document({**SPACE, **(document or {})}, "test"),
        Options(provide(results)),
        datasets.load_data("synthetic"),
        {},
        Machine((Node(max(parallel, 2), gpus),)),
        TrialResources(1, share, parallel),
    )


def run(plan: StudyPlan, deed: Callable[[Assignment, int], None] = nothing_else) -> str:
    output = Console(file=io.StringIO(), width=200)
    study.run_study(plan, output, replaying(deed))
    return output.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def table(plan: StudyPlan) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(plan.folder.trials_csv.read_text())))


def mlflow_runs(plan: StudyPlan) -> dict[int, Any]:
    client = mlflow.MlflowClient(plan.tracking.uri)
    experiment = client.get_experiment_by_name(plan.request.study)
    runs = client.search_runs([experiment.experiment_id], "tags.phase = 'search'")
    assert len({run.data.tags["trial"] for run in runs}) == len(runs)
    return {int(run.data.tags["trial"]): run for run in runs}


def events(folder: Path) -> Callable[[Assignment, int], None]:
    """What happens in the eventful study; every epoch that begins leaves a file, and every
    process one more.
    """

    def happen(assignment: Assignment, epoch: int) -> None:
        (folder / f"process-{os.getpid()}").touch()
        (folder / f"epoch-{assignment.trial}-{epoch}-{assignment.attempt}").touch()
        if (assignment.trial, epoch, assignment.attempt) == (0, 3, 1) or assignment.trial == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if assignment.trial == 1:
            raise TrialDiverged("epoch 1, batch 3: loss is nan")
        if assignment.trial == 2:
            raise ValueError("no such tile")

    return happen


@dataclass(frozen=True)
class Eventful:
    plan: StudyPlan
    records: tuple[TrialRecord, ...]
    said: str
    files: list[str]


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Eventful:
    """A study of ten trials in which much goes wrong: 1 diverges, 2 raises, 4 kills every
    worker, 0 its first.
    """
    results, files = tmp_path_factory.mktemp("eventful"), tmp_path_factory.mktemp("events")
    plan = make_plan(results, {"search": {"sampler": "random", "trials": 10, "seed": 0}})
    said = run(plan, events(files))
    records = open_ledger(plan.storage, plan.request).records
    return Eventful(plan, records, said, sorted(path.name for path in files.iterdir()))


@pytest.mark.fault
def test_complete_pruned_and_failed_trials_are_the_same_in_ledger_table_and_mlflow(
    eventful: Eventful,
) -> None:
    plan, records = eventful.plan, eventful.records
    assert {record.state for record in records} == {State.COMPLETE, State.PRUNED, State.FAIL}
    trials = optuna.load_study(study_name="replayed", storage=plan.storage).trials
    runs = mlflow_runs(plan)
    rows = table(plan)
    assert len(records) == len(trials) == len(runs) == len(rows) == 10
    client = mlflow.MlflowClient(plan.tracking.uri)
    for record, trial, row in zip(records, trials, rows, strict=True):
        shown = runs[record.id]
        assert record.state == trial.state.name == row["state"] == shown.data.tags["state"]
        assert record.reason == row["reason"] == shown.data.tags["reason"]
        assert record.mlflow_run == shown.info.run_id
        assert (
            shown.info.status
            == {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}[record.state]
        )
        curve = [point.value for point in client.get_metric_history(shown.info.run_id, "ap50")]
        assert record.curve == list(trial.intermediate_values.values()) == curve
        assert int(row["epochs"]) == len(curve)
        assert row["ap50"] == ("" if record.ap50 is None else str(record.ap50))
        assert float(row["optim.learning_rate"]) == record.params["optim.learning_rate"]
        assert shown.data.params["optim.learning_rate"] == str(record.params["optim.learning_rate"])
        assert set(shown.data.params) == set(record.settings)


@pytest.mark.fault
def test_a_trial_that_diverges_or_raises_fails_with_its_reason_and_is_not_tried_again(
    eventful: Eventful,
) -> None:
    assert [record.reason for record in eventful.records[1:3]] == [
        "diverged: epoch 1, batch 3: loss is nan",
        "ValueError: no such tile",
    ]
    for record in eventful.records[1:3]:
        assert (record.state, record.attempts, record.ap50) == (State.FAIL, 1, None)


@pytest.mark.fault
def test_a_worker_killed_in_an_epoch_is_replaced_and_its_trial_goes_on_from_the_last_saved_epoch(
    eventful: Eventful,
) -> None:
    first = eventful.records[0]
    assert (first.state, first.attempts, first.lost) == (State.COMPLETE, 2, 1)
    epochs = [name for name in eventful.files if name.startswith("epoch-0-")]
    assert epochs == ["epoch-0-1-1", "epoch-0-2-1", "epoch-0-3-1", "epoch-0-3-2", "epoch-0-4-2"]
    assert first.seconds > EPOCHS * 0.25  # the lost epoch is paid for as well


@pytest.mark.fault
def test_a_trial_whose_worker_always_dies_fails_and_the_others_go_on(eventful: Eventful) -> None:
    failed = eventful.records[4]
    assert (failed.state, failed.reason) == (State.FAIL, "its worker process died (3 times)")
    assert State.FAIL not in {
        record.state for record in eventful.records if record.id not in (1, 2, 4)
    }


@pytest.mark.fault
def test_worker_processes_are_reused(eventful: Eventful) -> None:
    # Two at once, four that were killed, and two that Ray may start in advance; each trial in one
    # of its own makes 14.
    assert sum(name.startswith("process-") for name in eventful.files) <= 8


@pytest.mark.fault
def test_progress_says_what_starts_what_an_epoch_gave_and_how_trials_end(
    eventful: Eventful,
) -> None:
    said = eventful.said
    assert "[0/10] trial 0 starts: optim.learning_rate" in said
    assert "trial 0 will go on after epoch 2: its worker process died" in said
    assert "trial 0 goes on after epoch 2, attempt 2" in said
    assert f"epoch 1/{EPOCHS}: loss 1.000, AP50" in said
    assert "failed: diverged: epoch 1, batch 3: loss is nan" in said
    assert "; stopped early" in said
    assert "; complete, AP50" in said


@pytest.mark.fault
def test_the_same_command_on_a_finished_study_runs_nothing_and_loses_nothing(
    eventful: Eventful,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    before = eventful.plan.folder.trials_csv.read_bytes()
    run(eventful.plan, refuse)
    assert eventful.plan.folder.trials_csv.read_bytes() == before
    assert len(mlflow_runs(eventful.plan)) == 10


@pytest.mark.fault
def test_what_a_time_budget_or_a_dead_driver_left_is_finished_by_the_same_command_and_no_epoch_runs_twice(
    tmp_path: Path,
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()

    up = time.time() + 25

    def once(assignment: Assignment, epoch: int) -> None:
        (begun / f"{assignment.trial}-{epoch}").touch(exist_ok=False)
        if epoch == 2:  # whatever the machine's speed, the budget runs out in a second epoch
            time.sleep(max(0.0, up - time.time()))

    document = {
        "stop_early": {"rule": "none"},
        "search": {"sampler": "random", "trials": 4, "seed": 0},
    }
    plan = make_plan(tmp_path / "results", document)
    run(replace(plan, options=replace(plan.options, time_budget=20.0)), once)
    ledger = open_ledger(plan.storage, plan.request)
    assert not ledger.finished

    # A driver that handed out one more trial and died after the worker had saved its last epoch,
    # before it heard of it.
    number = len(ledger.records)
    while (record := ledger.next()) is not None and record.id != number:
        pass
    assert record is not None
    done = replaying(nothing_else).make(
        Assignment(number, 1, "", record.settings, 0), TrialInputs(plan.data, {}, 1, gpu=False)
    )
    for epoch in range(EPOCHS):
        done.run_epoch()
        (begun / f"{number}-{epoch + 1}").touch(exist_ok=False)
    plan.folder.trial(number).mkdir(parents=True)
    done.save(plan.folder.trial(number))

    more = make_plan(
        tmp_path / "results", {**document, "search": {"sampler": "random", "trials": 6, "seed": 0}}
    )
    run(more, once)
    records = open_ledger(more.storage, more.request).records
    assert [record.state for record in records] == [State.COMPLETE] * 6
    assert len(list(begun.iterdir())) == 6 * EPOCHS
    assert len(mlflow_runs(more)) == 6


@pytest.mark.parametrize(
    ("budget", "rule", "starts"),
    [
        (100.0, {"rule": "none"}, True),
        (5.0, {"rule": "none"}, False),
        (100.0, {"rule": "successive_halving", "min_epochs": 3}, True),
        (25.0, {"rule": "successive_halving", "min_epochs": 3}, False),
    ],
)
def test_no_trial_starts_that_cannot_reach_its_first_rung_before_the_time_is_up(
    budget: float, rule: dict[str, Any], starts: bool, tmp_path: Path
) -> None:
    """An epoch takes 10 seconds by the ledger; the first rung is after one epoch, or after
    three.
    """
    plan = make_plan(tmp_path, {"stop_early": rule})
    plan.folder.path.mkdir()
    ledger = open_ledger(plan.storage, plan.request)
    first = ledger.next()
    assert first is not None
    epochs = [
        {"epoch": number, "ap50": 0.5, "seconds": 10.0, "losses": {"loss": 1.0}}
        for number in range(1, EPOCHS + 1)
    ]
    ledger.report(first.id, epochs)
    phase, limits = study._search_phase(plan, ledger), Limits(time.monotonic() + budget)
    with (
        Progress(6, Console(file=io.StringIO())) as progress,
        study._Conductor(plan, phase, progress, limits, mps.turns("")) as conductor,
    ):
        assert conductor.finished is not starts
        assert (conductor.hand_out() is not None) is starts


@pytest.mark.study
def test_whole_gpu_trials_see_different_gpus_and_half_gpu_trials_run_four_at_once_on_two(
    tmp_path: Path,
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    document = {"stop_early": {"rule": "none"}, "search": {"sampler": "random", "trials": 4}}

    def at_once(trials: int) -> Callable[[Assignment, int], None]:
        def wait_for_the_others(assignment: Assignment, epoch: int) -> None:
            here = seen / f"{trials}-{assignment.trial}"
            here.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
            until = time.monotonic() + 60
            while (
                epoch == 1
                and len(list(seen.glob(f"{trials}-*"))) < trials
                and time.monotonic() < until
            ):
                time.sleep(0.05)
            if epoch == 1 and time.monotonic() >= until:
                raise TimeoutError

        return wait_for_the_others

    run(make_plan(tmp_path / "whole", document, gpus=2, share=1.0, parallel=2), at_once(2))
    whole = [(seen / f"2-{trial}").read_text() for trial in (0, 1)]
    assert sorted(whole) == ["0", "1"]

    plan = make_plan(tmp_path / "half", document, gpus=2, share=0.5, parallel=4)
    run(plan, at_once(4))
    halves = [(seen / f"4-{trial}").read_text() for trial in range(4)]
    assert sorted(halves) == ["0", "0", "1", "1"]
    assert {record.state for record in open_ledger(plan.storage, plan.request).records} == {
        State.COMPLETE
    }
    assert all(
        float(row["gpu_hours"]) == pytest.approx(0.5 * 0.25 * EPOCHS / 3600, abs=1e-6)
        for row in table(plan)
    )


def test_a_study_that_is_being_searched_refuses_a_second_search_and_says_whose_it_is(
    tmp_path: Path,
) -> None:
    folder = StudyFolder(tmp_path / "busy")
    with folder.driver_lock(), pytest.raises(StudyError, match=f"process {os.getpid()} on host"):
        folder.driver_lock().__enter__()
    with folder.driver_lock():
        pass
