"""Laws of attempts: who comes next, with how much of a GPU, and what time is counted.

Ray is not started.
"""

import functools
import io
import math
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from rich.console import Console

from core import data as datasets
from core.data.dataset import Dataset
from core.errors import GpuLost
from tune.engine import mps
from tune.engine.messages import Assignment, Cause, Failure, History, Then, WorkerLost
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.ledger import MAX_LOST, Ledger, open_ledger
from tune.ledger.records import State
from tune.ledger.storage import IN_MEMORY
from tune.request.file import from_document
from tune.store.trial_files import EPOCH_FILE
from tune.store.url import Collection, UrlStore
from tune.study import conductor as study
from tune.study.limits import Limits
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


@functools.cache
def synthetic_data() -> Dataset:
    return datasets.load_data("synthetic")


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
        self.lost(assignment, Cause.DIED)

    def lost(self, assignment: Assignment, cause: Cause) -> None:
        assert self.conductor.take_in(assignment, WorkerLost(cause))

    def trained(self, assignment: Assignment, epochs: int) -> bool:
        """Report so many epochs in all; True if the worker leaves the trial."""
        reports = [
            {"epoch": 1 + n, "ap50": 0.5, "seconds": 1.0, "losses": {"loss": 1.0}}
            for n in range(epochs)
        ]
        return self.conductor.take_in(assignment, History(reports))

    def done(self, assignment: Assignment) -> None:
        assert self.trained(assignment, 3)


@contextmanager
def desk(
    folder: Path,
    share: float,
    parallel: int,
    together: bool = False,
    storage: str | None = None,
    address: str | None = None,
    gpus: int = 1,
    **changes: Any,
) -> Iterator[Desk]:
    """together: whether trials that share the GPU compute at the same time, by NVIDIA's service.

    changes: sections in place of those of SPACE.
    """
    request = from_document({**SPACE, **changes}, "test")
    machine, resources = Machine((Node(16, gpus),), address), TrialResources(1, share, parallel)
    plan = StudyPlan(
        request,
        Options(folder, storage=storage),
        synthetic_data(),
        {},
        machine,
        resources,
    )
    with ExitStack() as stack:
        stack.enter_context(plan.folder.driver_lock())
        ledger = open_ledger(plan.storage, request)
        phase = study._search_phase(plan, ledger)
        progress = stack.enter_context(
            Progress(ledger.planned, Console(file=io.StringIO()), "search")
        )
        conductor = stack.enter_context(
            study._Conductor(plan, phase, progress, Limits(), mps.Service(together, ""))
        )
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


def test_who_is_lost_among_others_that_compute_at_the_same_time_is_not_charged_until_it_is_alone(
    tmp_path: Path,
) -> None:
    """CUDA tells all that share the GPU of the same error, and none of them whose it is."""
    with desk(tmp_path, 1 / 8, 8, together=True) as at:
        (guilty, *others) = at.hand_out_all()
        had = []
        for one in others[:3]:
            at.done(one)
        while at.ledger.records[0].state is State.RUNNING:
            had.append(guilty.gpus)
            at.lost(guilty, Cause.GPU_FAILED)
            record = at.ledger.records[0]
            assert (record.lost, record.spared) == (max(0, len(had) - 3), min(len(had), 3))
            if record.state is State.RUNNING:
                again = at.conductor.hand_out()
                assert again is not None
                assert again.trial == 0
                at.conductor.begun(again)
                guilty = again
        assert had == [1 / 8, 1 / 4, 1 / 2, 1, 1, 1]
        assert record.reason == "the GPU failed its worker (3 times)"
        assert {one.lost for one in at.ledger.records[1:]} == {0}


def test_a_trial_that_was_lost_among_others_has_its_larger_share_for_one_epoch(
    tmp_path: Path,
) -> None:
    with desk(tmp_path, 1 / 4, 4, together=True) as at:
        (one, *_) = at.hand_out_all()
        assert not at.trained(one, 1)
        at.died(one)
        reason = (
            "its worker process died (perhaps through another trial on its GPU, so not counted)"
        )
        assert at.ledger.records[0].reason == reason
        again = at.conductor.hand_out()
        assert again is not None
        assert (again.trial, again.attempt, again.known_epochs, again.gpus) == (0, 2, 1, 1 / 2)
        at.conductor.begun(again)
        assert at.trained(again, 2)
        last = at.conductor.hand_out()
        assert last is not None
        assert (last.trial, last.attempt, last.known_epochs, last.gpus) == (0, 3, 2, 1 / 4)
        assert at.trained(last, 3)
        record = at.ledger.records[0]
        assert (record.state, record.lost, record.spared) == (State.COMPLETE, 0, 1)


def test_others_make_room_after_their_epoch_for_a_trial_that_waits_for_more_of_the_gpu(
    tmp_path: Path,
) -> None:
    """Without it the GPU would empty until the longest of the trials has ended."""
    with desk(tmp_path, 1 / 4, 4, together=True) as at:
        first, second, third, fourth = at.hand_out_all()
        at.died(first)
        assert not at.trained(second, 1)  # a quarter is free, and nobody waits for more yet
        (again,) = at.hand_out_all()
        assert (again.trial, again.gpus) == (0, 1 / 2)
        assert at.trained(third, 1)
        at.conductor.begun(again)
        assert not at.trained(fourth, 1)
        (back,) = at.hand_out_all()
        assert (back.trial, back.attempt, back.gpus, back.known_epochs) == (2, 2, 1 / 4, 1)
        assert [record.lost for record in at.ledger.records] == [0] * 4
        assert [record.spared for record in at.ledger.records] == [1, 0, 0, 0]


def test_a_trial_that_hangs_among_others_is_alone_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attempt of a trial that hangs costs its whole time limit."""
    with desk(tmp_path, 1 / 8, 8, together=True) as at:
        (one, *_) = at.hand_out_all()
        monkeypatch.setattr(at.conductor, "_silence", lambda _: 1e6)
        at.died(one)
        record = at.ledger.records[0]
        assert (record.lost, record.spared, record.room_needed) == (0, 1, 1.0)
        assert record.reason.startswith("no epoch for 120 minutes")


@pytest.mark.parametrize("cause", [Cause.DIED, Cause.GPU_FAILED])
def test_where_trials_take_turns_every_lost_worker_counts(tmp_path: Path, cause: Cause) -> None:
    with desk(tmp_path, 1 / 4, 4) as at:
        for attempt in range(1, 4):
            one = at.conductor.hand_out()
            assert one is not None
            assert (one.trial, one.attempt, one.gpus) == (0, attempt, 1 / 4)
            at.lost(one, cause)
            assert at.ledger.records[0].lost == attempt
        assert at.ledger.records[0].state is State.FAIL


def test_a_gpu_that_is_away_now_and_then_between_long_epochs_stops_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path, 1 / 4, 1) as at:
        now = time.monotonic()
        for minutes in (0, 12, 24):
            monkeypatch.setattr(time, "monotonic", lambda later=60 * minutes: now + later)
            one = at.conductor.hand_out()
            assert one is not None
            at.lost(one, Cause.NO_GPU)
            assert at.conductor.error is None


@pytest.mark.parametrize(
    ("address", "there", "counts"),
    [(None, False, 1), (None, True, 0), ("10.0.0.1:6379", False, 0)],
)
def test_a_loss_among_others_counts_only_where_no_service_of_the_users_can_have_spread_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    there: bool,
    counts: int,
) -> None:
    monkeypatch.setattr(mps, "is_there", lambda: there)
    with desk(tmp_path, 1 / 4, 4, address=address) as at:
        for one in at.hand_out_all():
            at.lost(one, Cause.GPU_FAILED)
        lost = {record.lost for record in at.ledger.records}
        assert lost == {counts}


def test_a_service_of_the_study_that_has_died_is_started_again_when_a_trial_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended: list[bool] = []
    monkeypatch.setattr(mps.Service, "mend", lambda self: mended.append(self.has_died))
    control = tmp_path / f"{mps.PROGRAM}.pid"
    dead = subprocess.Popen(["true"])
    dead.wait()
    with desk(tmp_path / "results", 1 / 2, 2) as at:
        at.conductor._service = mps.Service(True, "", ours=tmp_path)
        one = at.conductor.hand_out()
        assert one is not None
        at.conductor.begun(one)
        control.write_text(str(os.getpid()))
        at.conductor.begun(one)
        assert mended == []
        control.write_text(str(dead.pid))
        at.conductor.begun(one)
        assert mended == [True]


def test_others_make_room_for_a_larger_share_on_whichever_of_several_gpus_they_are(
    tmp_path: Path,
) -> None:
    """Ray alone knows which half of two GPUs is free."""
    with desk(tmp_path, 1 / 2, 4, together=True, gpus=2) as at:
        first, second, third, fourth = at.hand_out_all()
        for one in (first, second, third, fourth):
            at.conductor.begun(one)
        at.lost(first, Cause.GPU_FAILED)
        at.done(second)
        waiting = at.conductor.hand_out()
        assert waiting is not None
        assert (waiting.trial, waiting.gpus) == (first.trial, 1.0)
        assert at.trained(third, 1)


def test_a_gpu_that_cannot_be_used_is_waited_for_and_charged_to_nobody_and_then_stops_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path, 1 / 4, 1) as at:

        def lose(cause: Cause) -> None:
            one = at.conductor.hand_out()
            assert one is not None
            assert (one.trial, one.gpus) == (0, 1 / 4)
            at.lost(one, cause)

        for _ in range(5):
            lose(Cause.NO_GPU)
        assert (at.ledger.records[0].lost, at.ledger.records[0].spared) == (0, 5)
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + study.GPU_AWAY_SECONDS)
        one = at.conductor.hand_out()
        assert one is not None
        assert not at.trained(one, 1)  # a trial that trains says that the GPU is there
        at.died(one)
        lose(Cause.NO_GPU)
        assert at.conductor.error is None
        begin, minute = now + study.GPU_AWAY_SECONDS, 60
        for later in range(minute, int(study.GPU_AWAY_SECONDS), minute):
            monkeypatch.setattr(time, "monotonic", lambda later=later: begin + later)
            lose(Cause.NO_GPU)
            assert at.conductor.error is None
        monkeypatch.setattr(time, "monotonic", lambda: begin + study.GPU_AWAY_SECONDS)
        lose(Cause.NO_GPU)
        stopped, at.conductor.error = at.conductor.error, None
        assert isinstance(stopped, GpuLost)
        assert str(stopped) == (
            "the GPU could not be used for 10 minutes (its worker found no GPU that it could use);"
            " see to it, then run the same command again"
        )
        assert at.ledger.records[0].state is State.RUNNING


class Card:
    """A GPU on which trials compute at the same time, as Ray fills it and as NVIDIA's service lets
    its clients fall.

    guilty   the epoch, by trial, in which it always ends all that share the GPU
    chance   draws all that is left to chance: who comes first, and how it ends
    """

    def __init__(self, at: Desk, guilty: Mapping[int, int], chance: Random) -> None:
        self._at, self._guilty, self._chance = at, guilty, chance
        self._handed: list[Assignment] = []
        self._running: list[Assignment] = []
        self._struck: list[Assignment] = []
        self.trained = Counter[tuple[int, int]]()
        """How often each epoch of each trial was begun."""

    def step(self) -> None:
        """Let one thing happen."""
        self._handed += self._at.hand_out_all()
        self._chance.shuffle(self._handed)
        for one in list(self._handed):
            held = sum(other.gpus for other in self._running + self._struck)
            if held + one.gpus <= 1 + 1e-9:
                self._handed.remove(one)
                self._running.append(one)
                self._at.conductor.begun(one)
        if self._struck and self._chance.random() < 0.5:
            one = self._struck.pop(self._chance.randrange(len(self._struck)))
            self._at.lost(one, self._chance.choice([Cause.GPU_FAILED, Cause.DIED]))
        elif self._running:
            self._advance(self._chance.choice(self._running))

    def strike(self) -> None:
        """End all that run, for no trial's fault."""
        self._struck += self._running
        self._running = []

    @property
    def shared(self) -> bool:
        """Whether none that runs has the GPU alone."""
        return all(one.gpus < 1 for one in self._running)

    def _advance(self, one: Assignment) -> None:
        epochs = len(self._at.ledger.records[one.trial].epochs)
        if epochs == one.known_epochs and self._struck:  # the service takes no new client yet
            self._running.remove(one)
            self._at.lost(one, Cause.NO_GPU)
            return
        self.trained[one.trial, epochs + 1] += 1
        if self._guilty.get(one.trial) == epochs + 1:
            self.strike()
        elif self._at.trained(one, epochs + 1):
            self._running.remove(one)


@settings(max_examples=60)
@given(
    guilty=st.dictionaries(st.integers(0, 8), st.integers(1, 3), max_size=4),
    parallel=st.sampled_from([2, 3, 5, 8]),
    others=st.integers(0, 5),
    chance=st.randoms(use_true_random=False),
)
def test_whatever_falls_in_whatever_order_the_innocent_are_not_charged_and_the_guilty_end(
    guilty: dict[int, int], parallel: int, others: int, chance: Random
) -> None:
    """others: number of errors on the GPU that no trial caused, such as one of the hardware."""
    with (
        TemporaryDirectory() as folder,
        desk(Path(folder), 1 / parallel, parallel, together=True, storage=IN_MEMORY) as at,
    ):
        card, faults = Card(at, guilty, chance), others
        for _ in range(3000):
            if at.conductor.finished:
                break
            if faults and card.shared and chance.random() < 0.05:
                faults -= 1
                card.strike()
            card.step()
        assert at.conductor.finished
        for record in at.ledger.records:
            if record.id in guilty:
                assert (record.state, record.lost) == (State.FAIL, 3)
                assert len(record.epochs) == guilty[record.id] - 1
                until_alone = math.ceil(math.log2(parallel))
                assert card.trained[record.id, guilty[record.id]] <= until_alone + 3
            else:
                assert (record.state, record.lost) == (State.COMPLETE, 0)
                assert record.epochs


def test_a_trial_is_charged_for_the_nodes_that_die_under_it_only_after_ten(tmp_path: Path) -> None:
    with desk(tmp_path, 1.0, 1, address="cluster") as at:
        for _ in range(study.MOST_NODES):
            one = at.conductor.hand_out()
            assert one is not None
            at.lost(one, Cause.NODE_DIED)
        record = at.ledger.records[0]
        assert (record.spared, record.lost) == (study.MOST_NODES, 0)
        for _ in range(MAX_LOST + 1):
            one = at.conductor.hand_out()
            assert one is not None
            assert one.trial == 0
            at.lost(one, Cause.NODE_DIED)
        assert at.ledger.records[0].state is State.FAIL


def test_on_this_machine_alone_a_lost_connection_is_the_death_of_a_worker(tmp_path: Path) -> None:
    with desk(tmp_path, 1.0, 1) as at:
        one = at.conductor.hand_out()
        assert one is not None
        at.lost(one, Cause.NODE_DIED)
        record = at.ledger.records[0]
        assert (record.spared, record.lost) == (0, 1)
        assert record.reason == "its worker process died"


def test_nodes_that_leave_and_join_change_how_many_trials_run(tmp_path: Path) -> None:
    one, two = Node(16, 1), Node(16, 2)
    with desk(tmp_path, 1.0, 1, address="cluster") as at:
        (first,) = at.hand_out_all()
        at.conductor.now_has(Machine((one, two), "cluster"))
        assert len(at.hand_out_all()) == 2
        at.conductor.now_has(Machine((one,), "cluster"))
        at.done(first)
        assert at.hand_out_all() == []  # two still run, and there is room for one
        at.conductor.now_has(Machine((), "cluster"))
        assert not at.conductor.finished
        at.conductor.now_has(Machine((one, two, two), "cluster"))
        assert len(at.hand_out_all()) == 3


def test_parallel_caps_the_trials_on_nodes_that_join(tmp_path: Path) -> None:
    with desk(tmp_path, 1.0, 1, address="cluster") as at:
        options = replace(at.conductor._plan.options, parallel=2)
        at.conductor._plan = replace(at.conductor._plan, options=options)
        at.conductor.now_has(Machine((Node(16, 8),), "cluster"))
        assert len(at.hand_out_all()) == 2


def with_store(at: Desk, folder: Path) -> None:
    """Let trials' files come through the URL of a store, here a folder."""
    collection = Collection(UrlStore(f"file://{folder}", "again", pauses=()))
    at.conductor._phase = replace(at.conductor._phase, collection=collection)


def test_the_error_of_a_failed_trial_comes_from_the_stores_url(tmp_path: Path) -> None:
    with desk(tmp_path, 1.0, 1) as at:
        with_store(at, tmp_path / "far")
        for message in (Failure("ValueError: no", Then.FAIL), WorkerLost(Cause.GPU_FAILED)):
            one = at.conductor.hand_out()
            assert one is not None
            there = tmp_path / "far" / "again" / "trials" / str(one.trial)
            there.mkdir(parents=True)
            (there / "error.txt").write_text("Traceback")
            (there / "last.safetensors").write_text("large")
            assert at.conductor.take_in(one, message)
            here = [path.name for path in Path(one.folder).iterdir()]
            assert here == ["error.txt"]


@pytest.mark.parametrize("asked", [False, True], ids=["at its end", "interrupted"])
def test_kept_weights_come_from_the_stores_url_unless_a_scheduler_waits_for_the_end(
    tmp_path: Path, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path, 1.0, 1) as at:
        with_store(at, tmp_path / "far")
        one = at.conductor.hand_out()
        assert one is not None
        there = tmp_path / "far" / "again" / "trials" / str(one.trial)
        there.mkdir(parents=True)
        (there / "best-0003.safetensors").write_text("large")
        at.done(one)
        monkeypatch.setattr(study, "interrupted", lambda: asked)
    assert (Path(one.folder) / "best-0003.safetensors").exists() is not asked


def test_what_a_killed_worker_left_half_written_goes_when_its_trial_has_failed(
    tmp_path: Path,
) -> None:
    with desk(tmp_path, 1.0, 1) as at:
        for _ in range(MAX_LOST + 1):
            one = at.conductor.hand_out()
            assert one is not None
            matches = Path(one.folder) / "matches"
            matches.mkdir(parents=True, exist_ok=True)
            (matches / ".epoch-0001.npz.7.part").write_text("half")
            (matches.parent / ".last.safetensors.7.part").write_text("half")
            at.died(one)
        assert at.ledger.records[one.trial].state is State.FAIL
        assert not list(Path(one.folder).rglob(".*.part"))
