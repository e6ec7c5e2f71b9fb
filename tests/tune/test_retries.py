"""Laws of attempts: who comes next, with how much of a GPU, and what time is counted.

Ray is not started.
"""

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core import data as datasets
from tune.engine.messages import Assignment, Cause, Failure, History, Then, WorkerLost
from tune.engine.resources import Machine, Node, TrialResources
from tune.engine.worker import EPOCH_FILE
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.records import State
from tune.request.file import from_document
from tune.study import conductor as study
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.progress import Progress

SPACE: dict[str, Any] = {
    "study": "again",
    "data": "synthetic",
    "fixed": {"optim.epochs": 3, "model.weights": "none"},
    "space": {"optim.learning_rate": {"low": 1e-5, "high": 0.1, "log": True}},
    "search": {"sampler": "random", "trials": 9, "seed": 0},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 0},
}


class Unseen:
    """Shows nothing in a tracker."""

    trouble = None

    def __init__(self, *_: object) -> None:
        pass

    def show(self, _: object) -> None:
        pass

    def new_names(self) -> dict[int, str]:
        return {}

    def close(self, *_: object) -> tuple[int, ...]:
        return ()


@pytest.fixture(autouse=True)
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TrackingThread", Unseen)


class Desk:
    """The conductor of a study on one GPU, and its ledger."""

    def __init__(self, conductor: study._Conductor, ledger: Ledger) -> None:
        self.conductor, self.ledger = conductor, ledger

    def hand_out_all(self) -> list[Assignment]:
        """What is handed out until nothing more is; all that finds room begins."""
        handed = []
        while (one := self.conductor.hand_out()) is not None:
            handed.append(one)
        return handed

    def out_of_memory(self, assignment: Assignment, seconds: float = 0.0) -> None:
        failure = Failure("out of memory: all of it", Then.RETRY_WITH_MORE_MEMORY, seconds)
        assert self.conductor.take_in(assignment, failure)

    def died(self, assignment: Assignment) -> None:
        assert self.conductor.take_in(assignment, WorkerLost(Cause.DIED))

    def done(self, assignment: Assignment) -> None:
        epochs = [
            {"epoch": 1 + n, "ap50": 0.5, "seconds": 1.0, "losses": {"loss": 1.0}} for n in range(3)
        ]
        assert self.conductor.take_in(assignment, History(epochs))


@contextmanager
def desk(folder: Path, share: float, parallel: int) -> Iterator[Desk]:
    request = from_document(SPACE, "test")
    machine, resources = Machine((Node(16, 1),)), TrialResources(1, share, parallel)
    plan = StudyPlan(request, Options(folder), datasets.load("synthetic"), {}, machine, resources)
    with ExitStack() as stack:
        stack.enter_context(plan.folder.driver_lock())
        ledger = open_ledger(plan.storage, request)
        phase = study._search_phase(plan, ledger)
        progress = stack.enter_context(
            Progress(ledger.planned, Console(file=io.StringIO()), "search")
        )
        conductor = stack.enter_context(study._Conductor(plan, phase, progress, None))
        yield Desk(conductor, ledger)
        assert conductor.error is None


@pytest.mark.parametrize(
    ("share", "shares"),
    [(0.2, [0.2, 0.4, 1.0]), (0.1, [0.1, 0.2, 1.0]), (0.5, [0.5, 1.0, 1.0]), (1.0, [1.0] * 3)],
)
def test_a_trial_out_of_memory_has_twice_its_share_and_in_its_last_attempt_a_whole_gpu(
    tmp_path: Path, share: float, shares: list[float]
) -> None:
    with desk(tmp_path, share, 1) as at:
        had = []
        for _ in shares:
            one = at.conductor.hand_out()
            assert one is not None
            assert one.trial == 0
            at.conductor.begun(one)
            had.append(one.gpus)
            at.out_of_memory(one)
        assert had == shares
        failed = at.ledger.records[0]
        assert (failed.state, failed.reason) == (State.FAIL, "out of memory: all of it (3 times)")


def test_a_trial_that_lost_its_attempts_otherwise_still_has_a_whole_gpu_before_it_fails_for_memory(
    tmp_path: Path,
) -> None:
    with desk(tmp_path, 0.2, 1) as at:
        for _ in range(2):
            one = at.conductor.hand_out()
            assert one is not None
            at.died(one)
        one = at.conductor.hand_out()
        assert one is not None
        assert (one.trial, one.gpus) == (0, 0.2)
        at.out_of_memory(one)
        one = at.conductor.hand_out()
        assert one is not None
        assert (one.trial, one.gpus) == (0, 1.0)
        at.out_of_memory(one)
        assert at.ledger.records[0].state is State.FAIL


def test_a_trial_that_comes_again_with_more_of_the_gpu_gets_what_becomes_free_before_new_trials(
    tmp_path: Path,
) -> None:
    with desk(tmp_path, 0.2, 5) as at:
        running = at.hand_out_all()
        assert [one.trial for one in running] == [0, 1, 2, 3, 4]
        at.out_of_memory(running[2])
        (again,) = at.hand_out_all()
        assert (again.trial, again.gpus, again.attempt) == (2, 0.4, 2)
        at.done(running[0])
        assert (
            at.hand_out_all() == []
        )  # a fifth of the GPU is free: the other half of what trial 2 waits for
        at.conductor.begun(again)
        assert at.hand_out_all() == []  # 1, 3, 4 and 2 fill it
        at.done(running[1])
        assert [one.trial for one in at.hand_out_all()] == [5]
        at.out_of_memory(again)
        (last,) = at.hand_out_all()
        assert (last.trial, last.gpus) == (2, 1.0)
        at.done(running[3])
        at.done(running[4])
        assert at.hand_out_all() == []


def test_a_trial_that_needed_a_whole_gpu_goes_on_without_one_where_the_study_now_runs_on_processors(
    tmp_path: Path,
) -> None:
    """Ray would wait for a GPU that is not there in silence for ever."""
    with desk(tmp_path, 0.5, 1) as at:
        one = at.conductor.hand_out()
        assert one is not None
        at.out_of_memory(one)
        assert at.ledger.records[0].gpus_needed == 1.0
    with desk(tmp_path, 0.0, 1) as at:
        again = at.conductor.hand_out()
        assert again is not None
        assert (again.trial, again.attempt, again.gpus) == (0, 2, 0.0)
        assert at.conductor.hand_out() is None
        at.done(again)
        assert at.ledger.records[0].state is State.COMPLETE
        assert at.ledger.records[0].gpu_share == 0.0


def test_several_trials_that_need_the_whole_gpu_have_it_one_after_another_and_then_new_ones_come(
    tmp_path: Path,
) -> None:
    with desk(tmp_path, 0.5, 2) as at:
        running = at.hand_out_all()
        assert [one.trial for one in running] == [0, 1]
        for one in running:
            at.out_of_memory(one)
        for number in (0, 1):
            (again,) = (
                at.hand_out_all()
            )  # nothing beside it, as long as it has not begun and while it runs
            assert (again.trial, again.gpus) == (number, 1.0)
            at.conductor.begun(again)
            # The next whole GPU is asked for before this one is free; a new trial is not.
            waiting = at.hand_out_all()
            assert [one.trial for one in waiting] == ([1] if number == 0 else [])
            at.done(again)
            if waiting:
                at.conductor.begun(waiting[0])
                at.out_of_memory(waiting[0])
        assert [one.trial for one in at.hand_out_all()] == [2, 3]


def test_only_time_inside_epochs_is_counted_and_of_every_attempt(tmp_path: Path) -> None:
    with desk(tmp_path, 0.5, 1) as at:
        one = at.conductor.hand_out()
        assert one is not None
        time.sleep(0.3)  # until Ray has a worker
        at.out_of_memory(one, seconds=2.0)
        one = at.conductor.hand_out()
        assert one is not None
        time.sleep(0.3)
        at.died(one)  # before its epoch began
        assert at.ledger.records[0].seconds == 2.0
        one = at.conductor.hand_out()
        assert one is not None
        failure = Failure("diverged: loss is nan", Then.FAIL, seconds=4.0)
        assert at.conductor.take_in(one, failure)
        failed = at.ledger.records[0]
        assert failed.state is State.FAIL
        assert failed.seconds == 6.0


def test_a_process_that_died_in_an_epoch_is_counted_from_the_epochs_begin(tmp_path: Path) -> None:
    with desk(tmp_path, 0.5, 1) as at:
        one = at.conductor.hand_out()
        assert one is not None
        time.sleep(0.5)
        Path(one.folder).mkdir(parents=True)
        (Path(one.folder) / EPOCH_FILE).write_text(str(one.attempt))
        time.sleep(0.3)
        at.died(one)
        assert 0.3 <= at.ledger.records[0].seconds < 0.75
        again = at.conductor.hand_out()
        assert again is not None
        at.died(again)  # the file is that of the attempt before
        assert at.ledger.records[0].seconds < 0.75
