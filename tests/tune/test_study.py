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
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from ray import cloudpickle
from rich.console import Console

from benchmarks.replay import ReplayedTrial
from core import data as datasets
from core.errors import StudyError, TrialDiverged
from tune import study
from tune.bridge import Assignment
from tune.executor import Machine, TrialResources
from tune.folder import StudyFolder
from tune.ledger import Ledger, State
from tune.plan import Options, Plan
from tune.space_file import from_document

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


def replaying(deed: Callable[[Assignment, int], None]) -> Any:
    """Trials whose AP50 is their learning rate times the share of their epochs; what else they do, `deed` says."""

    def ap50(assignment: Assignment, epoch: int) -> float:
        deed(assignment, epoch)
        return float(assignment.settings["optim.learning_rate"]) * epoch / EPOCHS

    def make_trial(assignment: Assignment, cpus: int, **_: Any) -> ReplayedTrial:
        assert cpus == 1
        return ReplayedTrial(assignment, ap50)

    return make_trial


def nothing_else(assignment: Assignment, epoch: int) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def _workers_can_unpickle_this_file() -> Iterator[None]:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def make_plan(
    results: Path, document: dict[str, Any] | None = None, gpus: int = 0, share: float = 0.0, parallel: int = 2
) -> Plan:
    return Plan(
        from_document({**SPACE, **(document or {})}, "test"),
        Options(results),
        datasets.load("synthetic"),
        {},
        Machine(max(parallel, 2), gpus),
        TrialResources(1, share, parallel),
    )


def run(plan: Plan, deed: Callable[[Assignment, int], None] = nothing_else) -> str:
    output = Console(file=io.StringIO(), width=200)
    study.run(plan, output, replaying(deed))
    return output.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def table(plan: Plan) -> list[dict[str, str]]:
    return list(csv.DictReader(plan.folder.trials_csv.open()))


def mlflow_runs(plan: Plan) -> dict[int, Any]:
    client = mlflow.MlflowClient(plan.tracking.uri)
    experiment = client.get_experiment_by_name(plan.request.study)
    runs = client.search_runs([experiment.experiment_id], "tags.phase = 'search'")
    assert len({run.data.tags["trial"] for run in runs}) == len(runs)
    return {int(run.data.tags["trial"]): run for run in runs}


def misbehave(assignment: Assignment, epoch: int) -> None:
    if assignment.trial == 1 and epoch == 1:
        raise TrialDiverged("epoch 1, batch 3: loss is nan")
    if assignment.trial == 2 and epoch == 1:
        raise ValueError("no such tile")


def test_complete_pruned_and_failed_trials_are_the_same_in_ledger_table_and_mlflow(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    run(plan, misbehave)

    records = Ledger(plan.storage, plan.request).records
    assert [record.state for record in records[1:3]] == [State.FAIL, State.FAIL]
    assert records[1].reason == "diverged: epoch 1, batch 3: loss is nan"
    assert records[2].reason == "ValueError: no such tile"
    assert {record.state for record in records} == {State.COMPLETE, State.PRUNED, State.FAIL}

    trials = optuna.load_study(study_name="replayed", storage=plan.storage).trials
    runs = mlflow_runs(plan)
    rows = table(plan)
    assert len(records) == len(trials) == len(runs) == len(rows) == 6
    client = mlflow.MlflowClient(plan.tracking.uri)
    for record, trial, row in zip(records, trials, rows, strict=True):
        shown = runs[record.id]
        assert record.state == trial.state.name == row["state"] == shown.data.tags["state"]
        assert record.reason == row["reason"] == shown.data.tags["reason"]
        assert record.mlflow_run == shown.info.run_id
        assert shown.info.status == {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}[record.state]
        curve = [point.value for point in client.get_metric_history(shown.info.run_id, "ap50")]
        assert record.curve == list(trial.intermediate_values.values()) == curve
        assert int(row["epochs"]) == len(curve)
        assert row["ap50"] == ("" if record.ap50 is None else str(record.ap50))
        assert float(row["optim.learning_rate"]) == record.params["optim.learning_rate"]
        assert shown.data.params["optim.learning_rate"] == str(record.params["optim.learning_rate"])
        assert set(shown.data.params) == set(record.settings)


def test_a_worker_killed_in_an_epoch_is_replaced_and_its_trial_goes_on_from_the_last_saved_epoch(
    tmp_path: Path,
) -> None:
    seen = tmp_path / "epochs"
    seen.mkdir()

    def die_once(assignment: Assignment, epoch: int) -> None:
        (seen / f"{assignment.trial}-{epoch}-{assignment.attempt}").touch()
        if (assignment.trial, epoch, assignment.attempt) == (0, 3, 1):
            os.kill(os.getpid(), signal.SIGKILL)

    plan = make_plan(
        tmp_path / "results", {"stop_early": {"rule": "none"}, "search": {"sampler": "random", "trials": 3}}
    )
    run(plan, die_once)
    first, *others = Ledger(plan.storage, plan.request).records
    assert (first.state, first.attempts, first.lost) == (State.COMPLETE, 2, 1)
    assert {(other.state, other.attempts) for other in others} == {(State.COMPLETE, 1)}
    assert sorted(path.name for path in seen.glob("0-*")) == ["0-1-1", "0-2-1", "0-3-1", "0-3-2", "0-4-2"]
    assert first.seconds > 4 * 0.25  # the lost epoch is paid for as well


def test_a_trial_whose_worker_always_dies_fails_and_the_others_go_on(tmp_path: Path) -> None:
    def die(assignment: Assignment, epoch: int) -> None:  # noqa: ARG001
        if assignment.trial == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    plan = make_plan(tmp_path, {"search": {"sampler": "random", "trials": 3}})
    run(plan, die)
    states = [record.state for record in Ledger(plan.storage, plan.request).records]
    assert states[0] is State.FAIL
    assert State.FAIL not in states[1:]
    assert table(plan)[0]["reason"] == "its worker process died (3 times)"


def test_a_checkpoint_that_the_ledger_has_not_heard_of_is_reported_before_anything_runs(tmp_path: Path) -> None:
    seen = tmp_path / "epochs"
    seen.mkdir()

    def note(assignment: Assignment, epoch: int) -> None:
        (seen / f"{assignment.trial}-{epoch}").touch(exist_ok=False)

    plan = make_plan(tmp_path / "results", {"search": {"sampler": "random", "trials": 1}})
    plan.folder.path.mkdir(parents=True)
    # A driver that died after its worker had saved the last epoch and before it heard of it.
    record = Ledger(plan.storage, plan.request).next()
    assert record is not None
    done = replaying(nothing_else)(Assignment(0, 1, "", record.settings, 0), cpus=1)
    for _ in range(EPOCHS):
        done.run_epoch()
    plan.folder.trial(0).mkdir(parents=True)
    done.save(plan.folder.trial(0))
    run(plan, note)
    record = Ledger(plan.storage, plan.request).records[0]
    assert (record.state, len(record.curve)) == (State.COMPLETE, EPOCHS)
    assert not list(seen.iterdir())


def test_the_same_command_on_a_finished_study_runs_nothing_and_loses_nothing(tmp_path: Path) -> None:
    def refuse(assignment: Assignment, epoch: int) -> None:  # noqa: ARG001
        raise AssertionError

    plan = make_plan(tmp_path, {"search": {"sampler": "random", "trials": 2}})
    run(plan)
    before = plan.folder.trials_csv.read_bytes()
    run(plan, refuse)
    assert plan.folder.trials_csv.read_bytes() == before
    assert len(mlflow_runs(plan)) == 2


def test_more_trials_on_a_finished_study_are_added_to_it(tmp_path: Path) -> None:
    run(make_plan(tmp_path, {"search": {"sampler": "random", "trials": 2, "seed": 1}}))
    plan = make_plan(tmp_path, {"search": {"sampler": "random", "trials": 4, "seed": 1}})
    run(plan)
    records = Ledger(plan.storage, plan.request).records
    assert len(records) == 4
    assert all(record.attempts == 1 for record in records)
    assert len(mlflow_runs(plan)) == 4


def test_worker_processes_are_reused(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()

    def note(assignment: Assignment, epoch: int) -> None:  # noqa: ARG001
        (pids / str(os.getpid())).touch()

    run(make_plan(tmp_path / "results", {"search": {"sampler": "random", "trials": 12}}), note)
    assert len(list(pids.iterdir())) <= 4


def test_a_time_budget_ends_the_study_after_running_epochs_and_the_same_command_finishes_it(tmp_path: Path) -> None:
    def slow(assignment: Assignment, epoch: int) -> None:  # noqa: ARG001
        time.sleep(0.5)

    plan = make_plan(tmp_path, {"stop_early": {"rule": "none"}})
    run(replace(plan, options=replace(plan.options, time_budget=8.0)), slow)
    ledger = Ledger(plan.storage, plan.request)
    assert not ledger.finished
    epochs_before = sum(len(record.epochs) for record in ledger.records)
    run(plan)
    records = Ledger(plan.storage, plan.request).records
    assert [record.state for record in records] == [State.COMPLETE] * 6
    assert sum(len(record.epochs) for record in records) == 6 * EPOCHS >= epochs_before


def test_whole_gpu_trials_see_different_gpus_and_half_gpu_trials_run_four_at_once_on_two(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    document = {"stop_early": {"rule": "none"}, "search": {"sampler": "random", "trials": 4}}

    def at_once(trials: int) -> Callable[[Assignment, int], None]:
        def wait_for_the_others(assignment: Assignment, epoch: int) -> None:
            here = seen / f"{trials}-{assignment.trial}"
            here.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
            until = time.monotonic() + 60
            while epoch == 1 and len(list(seen.glob(f"{trials}-*"))) < trials and time.monotonic() < until:
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
    assert {record.state for record in Ledger(plan.storage, plan.request).records} == {State.COMPLETE}
    assert all(float(row["gpu_hours"]) == pytest.approx(0.5 * 0.25 * EPOCHS / 3600, abs=1e-6) for row in table(plan))


def test_a_study_that_is_being_searched_refuses_a_second_search_and_says_whose_it_is(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "busy")
    with folder.driver_lock(), pytest.raises(StudyError, match=f"process {os.getpid()} on host"):
        folder.driver_lock().__enter__()
    with folder.driver_lock():
        pass


def test_progress_says_what_starts_what_an_epoch_gave_and_how_trials_end(tmp_path: Path) -> None:
    said = run(make_plan(tmp_path), misbehave)
    assert "[0/6] trial 0 starts: optim.learning_rate" in said
    assert f"epoch 1/{EPOCHS}: loss 1.000, AP50" in said
    assert "failed: diverged: epoch 1, batch 3: loss is nan" in said
    assert "; stopped early" in said
    assert f"epoch {EPOCHS}/{EPOCHS}" in said
    assert "; complete, AP50" in said
