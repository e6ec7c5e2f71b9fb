"""Laws of a study in which trials, MLflow, the disk or the ledger's database fail, and of one
that is interrupted.

The trials replay a curve; what fails, really fails: processes die, files grow no more, databases
are locked.
"""

import contextlib
import csv
import dataclasses
import io
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from rich.console import Console

from benchmarks.replay import Replays
from benchmarks.replayed_search import Script, replayed_ap50
from core import data as datasets
from core.config import TrialConfig
from core.data import synthetic
from core.errors import StorageError, StudyError
from core.training.trial import Trial
from tests.tracking_database import provide
from tune import database
from tune.engine.messages import Assignment
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger import claim as claims
from tune.ledger import storage as storages
from tune.ledger.ledger import open_ledger
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord
from tune.ledger.storage import BUSY_SECONDS
from tune.request.file import from_document
from tune.search import main
from tune.study import conductor as study
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.trials import TrialInputs

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]
EPOCHS = 3
SPACE: dict[str, Any] = {
    "study": "faulty",
    "data": "synthetic",
    "fixed": {"optim.epochs": EPOCHS, "model.weights": "none"},
    "space": {
        "optim.learning_rate": {"low": 1e-5, "high": 0.1, "log": True},
        "optim.weight_decay": {"low": 0.0, "high": 0.9},
        "optim.batch_size": [2, 4, 8],
    },
    "search": {"sampler": "random", "trials": 8, "seed": 0},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 0},
    "resources": {"stall_minutes": 0.15},
}
FILE = """
study: faulty
data: synthetic
fixed: {optim.epochs: 3, model.weights: none}
space:
  optim.learning_rate: {low: 1.0e-5, high: 0.1, log: true}
  optim.weight_decay: {low: 0.0, high: 0.9}
search: {sampler: random, trials: 6, seed: 0}
stop_early: {rule: none}
confirm: {top: 0}
"""


def plan_of(results: Path, gpus: int = 0, share: float = 0.0, **changes: Any) -> StudyPlan:
    return StudyPlan(
        from_document({**SPACE, **changes}, "test"),
        Options(provide(results)),
        datasets.load("synthetic"),
        {},
        Machine((Node(2, gpus),)),
        TrialResources(1, share, 2),
    )


def read_table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))


def begun(witness: Path) -> list[tuple[int, int, int]]:
    """Trial, epoch and attempt of every epoch that began."""
    names = [path.name.split("-") for path in witness.iterdir()]
    return sorted((int(trial), int(epoch), int(attempt)) for trial, epoch, attempt in names)


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
    plan = dataclasses.replace(plan, data=synthetic.make(images=4, side=64))
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


def test_a_file_that_cannot_grow_stops_the_study_in_one_sentence_and_costs_no_trial(
    tmp_path: Path,
) -> None:
    witness = tmp_path / "witness"
    witness.mkdir()
    plan = plan_of(tmp_path / "results", search={"sampler": "random", "trials": 3, "seed": 0})
    script = Script(witness, [("full", 1, 2, 1)], epoch_seconds=0.1)
    with pytest.raises(
        StorageError,
        match=r"trials/1\S* cannot be written: File too large; see to it, then run the same",
    ):
        study.run_study(plan, Console(file=io.StringIO()), script)
    left = open_ledger(plan.storage, plan.request)
    assert not left.finished
    assert State.FAIL not in {record.state for record in left.records}
    assert study.run_study(plan, Console(file=io.StringIO()), script)
    records = open_ledger(plan.storage, plan.request).records
    assert [(record.state, record.lost) for record in records] == [(State.COMPLETE, 0)] * 3
    assert [row["state"] for row in read_table(plan.folder.path)] == ["COMPLETE"] * 3


@contextlib.contextmanager
def locked(database: Path) -> Iterator[Callable[[], None]]:
    """Another process writes a database, and does not end its transaction until it is told to."""
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "connection.execute('BEGIN EXCLUSIVE')\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n"
            "connection.execute('COMMIT')\n",
            str(database),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"locked\n"

    def let_go() -> None:
        holder.communicate(timeout=30)

    try:
        yield let_go
    finally:
        if holder.poll() is None:
            let_go()


def an_epoch(number: int) -> dict[str, Any]:
    return {"epoch": number, "ap50": number / 10, "seconds": 1.0, "losses": {"loss": 1.0}}


def test_a_ledger_that_another_process_locks_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    request = from_document(SPACE, "test")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    ledger = open_ledger(url, request)
    asked = ledger.next()
    assert asked is not None
    with locked(tmp_path / "study.db") as let_go:
        timer = threading.Timer(2.0, let_go)
        timer.start()
        begin = time.monotonic()
        assert not ledger.report(asked.id, [an_epoch(1)])
        assert time.monotonic() - begin > 1
        timer.join()
    assert open_ledger(url, request).records[0].curve == [0.1]


def test_a_ledger_that_stays_locked_is_one_sentence_and_read_again_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storages, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(database, "RETRY_SECONDS", 1.0)
    request = from_document(SPACE, "test")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    ledger = open_ledger(url, request)
    asked = ledger.next()
    assert asked is not None
    assert not ledger.report(asked.id, [an_epoch(1)])
    with (
        locked(tmp_path / "study.db"),
        pytest.raises(
            StorageError,
            match=(
                r"could not be read or written for 1 seconds \(database is locked\); what it holds"
                r" is whole: see "
                rf"which process holds {tmp_path / 'study.db'}, and end it, then run"
            ),
        ),
    ):
        ledger.report(asked.id, [an_epoch(1), an_epoch(2)])
    again = open_ledger(url, request)
    assert again.records[0].curve in ([0.1], [0.1, 0.2])
    assert again.report(asked.id, [an_epoch(1), an_epoch(2), an_epoch(3)])
    assert open_ledger(url, request).records[0].state is State.COMPLETE


def test_heartbeats_and_writes_outlast_a_lock_that_is_held_longer_than_sqlite_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storages, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)
    request = from_document(SPACE, "test")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    ledger = open_ledger(url, request)
    asked = ledger.next()
    assert asked is not None
    writes: tuple[Callable[[], Any], ...] = (
        ledger.claim.beat,
        lambda: ledger.report(asked.id, [an_epoch(number) for number in (1, 2, 3)]),
        ledger.next,
        lambda: ledger.lost(1, "its worker process died"),
        ledger.next,
        lambda: ledger.fail(1, "diverged"),
        lambda: ledger.note_mlflow_run(0, "run"),
        lambda: ledger.remember({"request": {"a": 1}}),
        lambda: ledger.claim.__exit__(None),
        lambda: open_ledger(url, request),
    )
    for write in writes:
        with locked(tmp_path / "study.db") as let_go:
            timer = threading.Timer(0.5, let_go)
            timer.start()
            begin = time.monotonic()
            write()
            assert time.monotonic() - begin > 3 * storages.BUSY_SECONDS
            timer.join()
    again = open_ledger(url, request)
    assert again.facts == {"request": {"a": 1}}
    assert [(record.state, record.attempts) for record in again.records] == [
        (State.COMPLETE, 1),
        (State.FAIL, 2),
    ]
    assert again.records[0].curve == [0.1, 0.2, 0.3]
    assert again.records[0].mlflow_run == "run"


def test_a_study_whose_ledger_is_locked_for_longer_than_sqlite_waits_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storages, "BUSY_SECONDS", 1.0)
    (tmp_path / "witness").mkdir()
    plan = plan_of(tmp_path / "results", search={"sampler": "random", "trials": 3, "seed": 0})
    script = Script(tmp_path / "witness", epoch_seconds=1.0)

    def lock_for_a_while() -> None:
        while not (tmp_path / "witness" / "0-2-1").exists():
            time.sleep(0.05)
        with locked(plan.folder.path / "study.db"):
            time.sleep(storages.BUSY_SECONDS + 3)

    locker = threading.Thread(target=lock_for_a_while)
    locker.start()
    assert study.run_study(plan, Console(file=io.StringIO()), script)
    locker.join(60)
    records = open_ledger(plan.storage, plan.request).records
    assert [(record.state, record.attempts) for record in records] == [(State.COMPLETE, 1)] * 3


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda path: sqlite3.connect(path).executescript("DROP TABLE trial_user_attributes"),
            (
                r"no such table: trial_user_attributes\); bring .*study\.db back from a copy of it,"
                r" or name another"
            ),
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[:100] + bytes(2**16)),
            r"(malformed|not a database)\); bring .*study\.db back from a copy of it, then run",
        ),
    ],
    ids=["a table is gone", "damaged"],
)
def test_a_ledger_that_will_never_take_a_write_is_told_at_once_with_its_way_out(
    tmp_path: Path, break_it: Callable[[Path], object], said: str
) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'study.db'}", from_document(SPACE, "test"))
    asked = ledger.next()
    assert asked is not None
    ledger.claim.database.engine.dispose()  # type: ignore[union-attr]
    break_it(tmp_path / "study.db")
    begin = time.monotonic()
    with pytest.raises(StorageError, match=said):
        ledger.report(asked.id, [an_epoch(1)])
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda path: path.write_bytes(b"this is no database" * 100),
            r"not a database\): bring .*study\.db back",
        ),
        (
            lambda path: path.mkdir(),
            r"unable to open database file\): see that the folder of .*study\.db is there",
        ),
        (
            lambda path: (
                optuna.storages.RDBStorage(f"sqlite:///{path}").remove_session(),
                sqlite3.connect(path).executescript(
                    "UPDATE alembic_version SET version_num = 'v9'"
                ),
            ),
            r"no longer compatible .*\): see to it, or name another --storage",
        ),
    ],
    ids=["no database", "a folder", "another version"],
)
def test_a_ledger_that_will_never_open_is_a_wrong_request_at_once(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "study.db")
    begin = time.monotonic()
    with pytest.raises(StudyError, match=said):
        open_ledger(f"sqlite:///{tmp_path / 'study.db'}", from_document(SPACE, "test"))
    assert time.monotonic() - begin < 10


def test_a_write_whose_answer_was_lost_is_there_once(tmp_path: Path) -> None:
    """Each commit of a short study in turn fails: before it was done, or after, so that nobody
    knows of it.
    """
    request = from_document({**SPACE, "search": {"sampler": "tpe", "trials": 2, "seed": 0}}, "test")

    def run(name: str, failing: int, done: bool) -> tuple[tuple[TrialRecord, ...], int]:
        ledger = open_ledger(f"sqlite:///{tmp_path / name}", request)
        engine = ledger.claim.database.engine
        assert engine is not None
        commit, commits = engine.dialect.do_commit, 0

        def lose(connection: Any) -> None:
            nonlocal commits
            commits += 1
            if done or commits != failing:
                commit(connection)
            if commits == failing:
                raise sqlite3.OperationalError("server closed the connection unexpectedly")

        engine.dialect.do_commit = lose  # type: ignore[method-assign]
        while (record := ledger.next()) is not None:
            ledger.report(record.id, [an_epoch(1), an_epoch(2), an_epoch(3)])
        engine.dialect.do_commit = commit  # type: ignore[method-assign]
        again = open_ledger(f"sqlite:///{tmp_path / name}", request)
        assert again.records == ledger.records
        return (
            tuple(
                replace(record, epochs=tuple({**one, "at": 0} for one in record.epochs))
                for record in again.records
            ),
            commits,
        )

    undisturbed, commits = run("whole.db", 0, done=True)
    assert commits > 15
    for failing in range(1, commits + 1):
        for done in (True,) if failing % 3 else (False, True):
            records, _ = run(f"{failing}-{done}.db", failing, done)
            assert records == undisturbed, (failing, done)


def searching(folder: Path, results: Path, *more: str) -> list[str]:
    space = folder / "space.yaml"
    space.write_text(FILE)
    return [
        "--space",
        str(space),
        "--results",
        str(results),
        "--cpus-per-trial",
        "1",
        "--gpus-per-trial",
        "0",
        *more,
    ]


def test_a_results_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(searching(tmp_path, tmp_path / "file" / "results")) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "file") in said


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_read_only_results_folder_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "results", "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "results")], check=True)
        assert main(searching(tmp_path, tmp_path / "results")) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Read-only file system" in said


@dataclass
class Search:
    """`tune.search` on replayed trials, in a process of its own."""

    folder: Path
    more: tuple[str, ...] = ()
    do: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    results: Path = field(init=False)
    witness: Path = field(init=False)

    def __post_init__(self) -> None:
        self.results, self.witness = self.folder / "results", self.folder / "witness"
        self.witness.mkdir(parents=True)
        provide(self.results)

    def start(self) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.replayed_search",
            "--witness",
            str(self.witness),
            *self.do,
        ]
        command += searching(self.folder, self.results, *self.more)
        with (self.folder / "out").open("a") as out, (self.folder / "err").open("a") as err:
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "CELL_TUNE_TEST": self.mark,
                **self.environment,
            }
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=err, text=True
            )

    def run(self, seconds: float = 280) -> int:
        return self.start().wait(seconds)

    @property
    def processes(self) -> dict[int, str]:
        """The names of the living processes of this search, itself and Ray's agents among them."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                living = (path / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                if (
                    living
                    and f"CELL_TUNE_TEST={self.mark}".encode() in (path / "environ").read_bytes()
                ):
                    found[int(path.name)] = (path / "comm").read_text().strip()
        return found

    @property
    def shared_memory(self) -> dict[str, bool]:
        """The files in /dev/shm that its processes have in memory, each with whether it would
        outlive them.
        """
        found = {}
        for process in self.processes:
            with contextlib.suppress(OSError):
                for line in (Path("/proc") / str(process) / "maps").read_text().splitlines():
                    _, shared, name = line.partition("/dev/shm/")
                    if shared:
                        found[name] = not name.endswith(" (deleted)")
        return found

    def wait_for_process(self, name: str, driver: subprocess.Popen[str]) -> int:
        """Wait until a process of this name lives; its id."""
        while True:
            for process, its_name in self.processes.items():
                if its_name == name:
                    return process
            assert driver.poll() is None, self.out + self.err
            time.sleep(0.02)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def wait_for(self, epoch: str, driver: subprocess.Popen[str]) -> int:
        """Wait until an epoch has begun; the process id of its worker."""
        path = self.witness / epoch
        while not path.exists() or not path.read_text():
            assert driver.poll() is None, self.out + self.err
            time.sleep(0.02)
        return int(path.read_text())

    def assert_complete(self, trials: int, tracking: str | None = None) -> None:
        """Every trial ended as if nothing had happened: in ledger, table and MLflow."""
        storage = f"sqlite:///{self.results / 'faulty/study.db'}"
        found = optuna.load_study(study_name="faulty", storage=storage).trials
        rows = read_table(self.results / "faulty")
        assert (
            [trial.state.name for trial in found]
            == [row["state"] for row in rows]
            == ["COMPLETE"] * trials
        )
        client = mlflow.MlflowClient(tracking or f"sqlite:///{self.results / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("faulty")
        runs = client.search_runs([experiment.experiment_id], "tags.phase = 'search'")
        shown = {int(run.data.tags["trial"]): run for run in runs}
        assert sorted(shown) == list(range(trials))
        assert len(runs) == trials
        for trial in found:
            curve = {epoch: replayed_ap50(trial.params, epoch) for epoch in range(1, EPOCHS + 1)}
            assert trial.intermediate_values == curve
            history = client.get_metric_history(shown[trial.number].info.run_id, "ap50")
            assert {point.step: point.value for point in history} == curve
            assert shown[trial.number].info.status == "FINISHED"


@pytest.mark.long
def test_a_full_disk_stops_the_study_in_one_sentence_and_with_space_the_same_command_ends_it(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path / "full", ("--parallel", "2"), ("--epoch-seconds", "0.5"))
    with mounted(search.results, "8m"):
        driver = search.start()
        search.wait_for("2-1-1", driver)
        ballast = search.results / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert driver.wait(120) == 1
        assert search.err.count("\n") == 1, search.err
        assert "run the same command again" in search.err
        ballast.unlink()
        assert search.run() == 0, search.err
        search.assert_complete(6)
        assert len(begun(search.witness)) <= 6 * EPOCHS + 2


@pytest.mark.long
def test_a_ledger_that_cannot_grow_stops_the_study_in_one_sentence_and_the_same_command_ends_it(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path / "limited", ("--parallel", "1"), ("--epoch-seconds", "0.5"))
    driver = search.start()
    search.wait_for("2-1-1", driver)
    # Of the files that the driver writes, only its databases are larger; they take nothing from now
    # on.
    resource.prlimit(driver.pid, resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
    assert driver.wait(120) == 1
    assert search.err.count("\n") == 1, search.err
    assert "run the same command again" in search.err
    assert search.run() == 0, search.err
    search.assert_complete(6)


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


@pytest.mark.long
def test_ctrl_c_ends_a_study_of_long_epochs_within_half_a_minute_and_says_how_to_continue(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "interrupted", ("--parallel", "2", "--trials", "2"), ("--epoch-seconds", "60")
    )
    driver = search.start()
    search.wait_for("0-1-1", driver)
    search.wait_for("1-1-1", driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 130
    assert "to continue, run the same command again" in search.err
    assert "Traceback" not in search.err
    driver = search.start()
    search.wait_for("0-1-2", driver)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(5) == 130
    assert "Ended at once; to continue, run the same command again" in search.err
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(2)


@pytest.mark.long
def test_ctrl_c_lets_an_epoch_that_is_nearly_done_be_saved(tmp_path: Path) -> None:
    search = Search(
        tmp_path / "nearly", ("--parallel", "1", "--trials", "1"), ("--epoch-seconds", "4")
    )
    driver = search.start()
    search.wait_for("0-2-1", driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 130
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(1)
    assert begun(search.witness) == [(0, 1, 1), (0, 2, 1), (0, 3, 2)]


def test_sigterm_is_one_ctrl_c_an_epoch_that_is_nearly_done_is_saved_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    """`docker stop` and Kubernetes end one process, SLURM all of a job."""
    search = Search(
        tmp_path / "ended", ("--parallel", "1", "--trials", "1"), ("--epoch-seconds", "4")
    )
    for ends, (epoch, of_all) in enumerate([("0-1-1", False), ("0-2-2", True)], start=1):
        driver = search.start()
        search.wait_for(epoch, driver)
        for process in search.processes if of_all else [driver.pid]:
            os.kill(process, signal.SIGTERM)
        assert driver.wait(60) == 128 + signal.SIGTERM
        assert search.err == ends * "Interrupted; to continue, run the same command again\n"
        assert search.processes == {}
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(1)
    assert begun(search.witness) == [(0, 1, 1), (0, 2, 2), (0, 3, 3)]


def test_sigterm_in_a_confirmation_is_one_ctrl_c_and_the_same_command_confirms_the_rest(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "confirming",
        ("--parallel", "1", "--trials", "2", "--set", "confirm.top=1", "--set", "confirm.seeds=2"),
        ("--epoch-seconds", "2"),
    )
    driver = search.start()
    search.wait_for("confirm-0-2-1", driver)
    driver.terminate()
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert search.err == "Interrupted; to continue, run the same command again\n"
    assert search.processes == {}
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(2)
    reading = read_ledger(f"sqlite:///{search.results / 'faulty/study.db'}", "faulty.confirm")
    assert reading is not None
    assert [(record.state, record.attempts) for record in reading.records] == [
        (State.COMPLETE, 2),
        (State.COMPLETE, 1),
    ]
    epochs = sorted(path.name for path in search.witness.glob("confirm-*"))
    assert epochs == [
        f"confirm-{name}" for name in ("0-1-1", "0-2-1", "0-3-2", "1-1-1", "1-2-1", "1-3-1")
    ]


def test_a_search_that_waits_for_a_locked_ledger_ends_soon_when_it_is_asked_to(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "waiting", ("--parallel", "1", "--trials", "1"), ("--epoch-seconds", "3")
    )
    asked = ((signal.SIGTERM, 143, "0-1-1", "0-2-1"), (signal.SIGINT, 130, "0-2-2", "0-3-2"))
    for ends, (number, status, epoch, following) in enumerate(asked, start=1):
        driver = search.start()
        search.wait_for(epoch, driver)
        with locked(search.results / "faulty/study.db"):
            time.sleep(3 + BUSY_SECONDS + 1)
            assert not (search.witness / following).exists()  # the epoch waits to be written
            begin = time.monotonic()
            driver.send_signal(number)
            assert driver.wait(90) == status
            assert time.monotonic() - begin < database.RETRY_SECONDS / 2
        assert search.err == ends * "Interrupted; to continue, run the same command again\n"
        assert search.processes == {}
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(1)
    assert begun(search.witness) == [(0, 1, 1), (0, 2, 2), (0, 3, 3)]


@pytest.mark.long
def test_sigterm_while_ray_starts_is_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    search = Search(tmp_path / "early", ("--parallel", "1", "--trials", "1"))
    driver = search.start()
    search.wait_for_process("gcs_server", driver)
    driver.terminate()
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert search.err.count("\n") == 1, search.err
    assert "to continue, run the same command again" in search.err
    assert search.processes == {}
    assert search.run() == 0, search.err
    search.assert_complete(1)


def test_a_search_whose_ray_dies_ends_at_once_in_one_sentence_with_all_its_processes(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "headless", ("--parallel", "1", "--trials", "1"), ("--epoch-seconds", "60")
    )
    driver = search.start()
    search.wait_for("0-1-1", driver)
    os.kill(search.wait_for_process("gcs_server", driver), signal.SIGKILL)
    begin = time.monotonic()
    assert driver.wait(60) == 1
    assert time.monotonic() - begin < 30  # Ray waits for a minute
    assert search.err.startswith("Ray's gcs_server ended, ")
    assert search.err.endswith("run the same command again\n")
    assert search.err.count("\n") == 1
    assert search.processes == {}
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(1)


def test_after_a_second_ctrl_c_no_process_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    base = Path("/tmp") / f"t{os.getpid()}"  # short, for Ray's sockets
    base.mkdir()
    try:
        search = Search(
            tmp_path / "twice",
            ("--parallel", "1", "--trials", "1"),
            ("--epoch-seconds", "60"),
            {"TMPDIR": str(base)},
        )
        driver = search.start()
        search.wait_for("0-1-1", driver)
        assert list(base.glob("ct-*"))
        assert set(search.shared_memory.values()) == {False}  # nor would a kill leave any
        driver.send_signal(signal.SIGINT)
        time.sleep(0.5)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(15) == 130
        assert search.processes == {}
        assert not list(base.glob("ct-*"))
        assert search.err == "Ended at once; to continue, run the same command again\n"
    finally:
        shutil.rmtree(base)


def test_a_search_runs_where_home_cannot_be_written_and_tmpdir_is_too_long_for_sockets(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    long = tmp_path / ("x" * 90)
    long.mkdir()
    search = Search(
        tmp_path / "homeless",
        ("--parallel", "1", "--trials", "1"),
        environment={"HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(long)},
    )
    assert search.run() == 0, search.err
    search.assert_complete(1)
    assert search.processes == {}


def test_a_place_for_rays_token_that_cannot_be_written_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "token"))
    assert main(searching(tmp_path, tmp_path / "results", "--trials", "1")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(
        "RAY_AUTH_TOKEN_PATH must name a file that Ray's token can be kept in, and "
    )
    assert "unset it" in said


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--backend-store-uri",
                f"sqlite:///{folder / 'away.db'}", "--artifacts-destination",
                str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers",
                "1",
            ],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        until = time.monotonic() + 90
        while True:
            assert time.monotonic() < until, (folder / "server.log").read_text()
            try:
                ask(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.long
def test_what_a_server_of_mlflow_missed_while_it_was_away_is_there_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    search = Search(
        tmp_path / "server",
        ("--parallel", "1", "--tracking-uri", f"http://127.0.0.1:{port}"),
        ("--epoch-seconds", "1.5"),
    )
    with mlflow_server(tmp_path, port):
        driver = search.start()
        search.wait_for("1-2-1", driver)
    search.wait_for("3-2-1", driver)  # the search goes on
    with mlflow_server(tmp_path, port):
        assert driver.wait(200) == 0, search.err
        assert "MLflow does not show" not in search.out
        search.assert_complete(6, f"http://127.0.0.1:{port}")


@pytest.mark.long
def test_a_study_ends_without_mlflow_says_what_is_not_shown_and_the_same_command_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    search = Search(
        tmp_path / "server",
        ("--parallel", "1", "--tracking-uri", f"http://127.0.0.1:{port}"),
        ("--epoch-seconds", "1"),
    )
    with mlflow_server(tmp_path, port):
        driver = search.start()
        search.wait_for("2-2-1", driver)
    assert driver.wait(200) == 0, search.err
    assert "MLflow does not show trials" in search.out
    assert [row["state"] for row in read_table(search.results / "faulty")] == ["COMPLETE"] * 6
    with mlflow_server(tmp_path, port):
        assert search.run() == 0, search.err
        search.assert_complete(6, f"http://127.0.0.1:{port}")
    assert len(begun(search.witness)) == 6 * EPOCHS


@pytest.mark.long
def test_a_database_of_mlflow_that_is_locked_for_a_while_holds_up_no_trial_and_misses_nothing(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path / "locked", ("--parallel", "1"), ("--epoch-seconds", "1"))
    driver = search.start()
    search.wait_for("1-1-1", driver)
    with locked(search.results / "mlflow.db"):
        search.wait_for("4-1-1", driver)
    assert driver.wait(200) == 0, search.err
    assert "MLflow does not show" not in search.out
    search.assert_complete(6)
