"""Laws of a study in which trials fail, and of their next attempts.

The trials replay a curve; what fails, really fails: processes die or hold Python for ever.
"""

import dataclasses
import io
import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.replay import Replays
from benchmarks.replayed_search import Script, replayed_ap50
from core.config import TrialConfig
from core.data import synthetic
from core.training.trial import Trial
from tests.replayed import EPOCHS, SPACE, Search, begun, plan_of, read_table
from tune.engine.messages import Assignment
from tune.ledger.ledger import open_ledger
from tune.ledger.records import State, TrialRecord
from tune.study import conductor as study
from tune.study.plan import StudyPlan
from tune.study.trials import TrialInputs

pytestmark = pytest.mark.fault


@dataclass(frozen=True)
class Faulty:
    plan: StudyPlan
    records: tuple[TrialRecord, ...]
    witness: Path
    said: str
    rows: list[dict[str, str]]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """Ten trials, each with half of a machine's only GPU, of which eight have trouble."""
    results, witness = tmp_path_factory.mktemp("faulty"), tmp_path_factory.mktemp("witness")
    plan = plan_of(results, gpus=1, share=0.5, search={**SPACE["search"], "trials": 10})
    deeds = (
        ("hang", 0, 2, None),
        ("raise", 1, 2, None),
        ("diverge", 2, 1, None),
        ("memory", 3, 2, 1),
        ("gpu", 4, 2, 1),
        ("spin", 5, 2, 1),
        ("die", 6, 3, 1),
        ("gpu", 7, 1, None),
    )
    output = io.StringIO()
    study.run_study(
        plan, Console(file=output, width=200), Script(witness, deeds, epoch_seconds=0.2)
    )
    return Faulty(
        plan,
        open_ledger(plan.storage, plan.request).records,
        witness,
        output.getvalue(),
        read_table(plan.folder.path),
    )


def test_trials_that_have_no_trouble_complete_beside_those_that_do(faulty: Faulty) -> None:
    states = {record.id: record.state for record in faulty.records}
    assert {number for number, state in states.items() if state is State.FAIL} == {0, 1, 2, 7}
    assert {number for number, state in states.items() if state is State.COMPLETE} == {
        3,
        4,
        5,
        6,
        8,
        9,
    }
    for record in faulty.records:
        expected = [replayed_ap50(record.settings, epoch) for epoch in range(1, EPOCHS + 1)]
        assert record.curve == expected[: len(record.curve)]
        assert len(record.curve) == (
            EPOCHS if record.state is State.COMPLETE else {0: 1, 1: 1, 2: 0, 7: 0}[record.id]
        )


def test_why_trials_failed_stands_in_the_table_and_what_was_overcome_does_not(
    faulty: Faulty,
) -> None:
    reasons = [row["reason"] for row in faulty.rows]
    assert (
        reasons[0]
        == "no epoch for 0.15 minutes (resources.stall_minutes): its worker was ended (3 times)"
    )
    assert reasons[1] == "ValueError: no such tile"
    assert reasons[2] == "diverged: epoch 1, batch 3: loss is nan"
    gpu = "the GPU failed its worker: CUDA error: an illegal memory access was encountered"
    assert reasons[7] == f"{gpu} (3 times)"
    assert reasons[3:7] + reasons[8:] == [""] * 6
    assert "trial 3 will go on after epoch 1: out of memory: CUDA out of memory" in faulty.said
    assert f"trial 4 will go on after epoch 1: {gpu}" in faulty.said
    assert "trial 5 will go on after epoch 1: no epoch for 0.15 minutes" in faulty.said
    assert "trial 6 will go on after epoch 2: its worker process died" in faulty.said


def test_a_trial_that_hangs_is_tried_three_times_and_costs_its_time(faulty: Faulty) -> None:
    assert [epoch for epoch in begun(faulty.witness) if epoch[0] == 0] == [
        (0, 1, 1),
        (0, 2, 1),
        (0, 2, 2),
        (0, 2, 3),
    ]
    assert faulty.records[0].seconds >= 3 * 60 * 0.15


def test_a_trial_whose_worker_holds_python_for_ever_is_ended_all_the_same_and_goes_on_after_its_last_epoch(
    faulty: Faulty,
) -> None:
    assert [epoch for epoch in begun(faulty.witness) if epoch[0] == 5] == [
        (5, 1, 1),
        (5, 2, 1),
        (5, 2, 2),
        (5, 3, 2),
    ]


def test_a_worker_whose_gpu_failed_runs_nothing_more_and_the_trial_goes_on_in_another(
    faulty: Faulty,
) -> None:
    assert [epoch for epoch in begun(faulty.witness) if epoch[0] == 4] == [
        (4, 1, 1),
        (4, 2, 1),
        (4, 2, 2),
        (4, 3, 2),
    ]
    assert [epoch for epoch in begun(faulty.witness) if epoch[0] == 7] == [
        (7, 1, 1),
        (7, 1, 2),
        (7, 1, 3),
    ]
    files = {name: faulty.witness / "-".join(map(str, name)) for name in begun(faulty.witness)}
    order = sorted(files, key=lambda name: files[name].stat().st_mtime_ns)
    for failed in [(4, 2, 1), (7, 1, 1), (7, 1, 2), (7, 1, 3)]:
        process = files[failed].read_text()
        later = order[order.index(failed) + 1 :]
        assert process not in {files[name].read_text() for name in later}
    assert "illegal memory access" in (faulty.plan.folder.trial(7) / "error.txt").read_text()


def test_a_trial_out_of_memory_goes_on_with_the_whole_gpu_to_itself_and_with_the_same_settings(
    faulty: Faulty,
) -> None:
    record = faulty.records[3]
    assert (record.attempts, record.gpu_share, record.lost) == (2, 1.0, 1)
    fresh = open_ledger("memory", faulty.plan.request)
    for _ in range(4):
        asked = fresh.next(0.5)
    assert asked is not None
    assert asked.settings == record.settings  # batch size and all
    times = {
        name: (faulty.witness / "-".join(map(str, name))).stat().st_mtime
        for name in begun(faulty.witness)
    }
    alone = [at for (trial, _, attempt), at in times.items() if (trial, attempt) == (3, 2)]
    assert len(alone) == EPOCHS - 1
    assert not [
        name for name, at in times.items() if name[0] != 3 and min(alone) <= at < max(alone) + 0.2
    ]


def test_a_trial_whose_loaders_process_is_killed_goes_on_in_another_attempt_and_fails_after_the_last(
    tmp_path: Path,
) -> None:
    """Trial 0 loses the process that prepares its images in its second epoch, trial 1 in every
    attempt.
    """

    def make(assignment: Assignment, inputs: TrialInputs) -> Trial:
        config = TrialConfig.from_settings(assignment.settings)
        trial = Trial(config, inputs.data, device="cpu", loader_workers=1, threads=1)
        run_epoch = trial.run_epoch

        def killing(*given: Any) -> Any:
            if assignment.trial == 1 or (trial.epoch, assignment.attempt) == (1, 1):
                return run_epoch(
                    lambda _: [one.kill() for one in multiprocessing.active_children()]
                )
            return run_epoch(*given)

        trial.run_epoch = killing  # type: ignore[method-assign]
        return trial

    small = {"model.backbone": "resnet18", "model.image_min_side": 64, "model.proposals_train": 32}
    small |= {"model.proposals_test": 32, "model.box_samples": 16, "data.validation_fraction": 0.5}
    plan = plan_of(
        tmp_path / "results",
        fixed={**SPACE["fixed"], **small, "optim.epochs": 2, "optim.batch_size": 2},
        space={"optim.learning_rate": SPACE["space"]["optim.learning_rate"]},
        search={"sampler": "random", "trials": 2, "seed": 0},
        resources={},
    )
    plan = dataclasses.replace(plan, data=synthetic.make_cells(images=4, side=64))
    assert study.run_study(plan, Console(file=io.StringIO()), Replays(make))
    records = open_ledger(plan.storage, plan.request).records
    assert [(record.state, record.attempts, len(record.epochs)) for record in records] == [
        (State.COMPLETE, 2, 2),
        (State.FAIL, 3, 0),
    ]
    reason = (
        "a process that prepares images was killed (SIGKILL); the machine may be short of memory (3"
        " times)"
    )
    assert records[1].reason == reason


@pytest.mark.long
def test_a_trial_whose_checkpoint_is_torn_begins_anew_and_completes(tmp_path: Path) -> None:
    search = Search(
        tmp_path / "torn", ("--parallel", "1", "--trials", "2"), ("--epoch-seconds", "1")
    )
    driver = search.start()
    worker = search.wait_for("0-3-1", driver)
    driver.kill()
    os.kill(worker, signal.SIGKILL)  # it would live for some seconds, and save its epoch
    driver.wait()
    checkpoint = search.results / "faulty/trials/0/last.json"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    assert search.run() == 0, search.err
    search.assert_complete(2)
    assert [epoch for epoch in begun(search.witness) if epoch[0] == 0 and epoch[2] > 1] == [
        (0, epoch, 3) for epoch in range(1, EPOCHS + 1)
    ]
