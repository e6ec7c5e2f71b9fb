"""Laws of a ledger whose database is locked, damaged, or loses an answer."""

import io
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from benchmarks.replayed_search import Script
from core.errors import StorageError, StudyError
from tests.replayed import (
    SPACE,
    Search,
    begun,
    locked,
    plan_of,
)
from tune import database
from tune.ledger import claim as claims
from tune.ledger import storage as storages
from tune.ledger.ledger import open_ledger
from tune.ledger.records import State, TrialRecord
from tune.ledger.storage import BUSY_SECONDS
from tune.request.file import from_document
from tune.study import conductor as study

pytestmark = pytest.mark.fault


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
                r" is whole: find out "
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
                r"no such table: trial_user_attributes\); restore .*study\.db from a backup,"
                r" or name another"
            ),
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[:100] + bytes(2**16)),
            r"(malformed|not a database)\); restore .*study\.db from a backup, then run",
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
            r"not a database\): restore .*study\.db from a backup",
        ),
        (
            lambda path: path.mkdir(),
            r"unable to open database file\): check that the folder of .*study\.db exists",
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


def test_a_write_whose_answer_was_lost_is_there_once(url: str) -> None:
    """Each commit of a short study in turn fails: before it was done, or after, so that nobody
    knows of it.
    """

    def run(name: str, failing: int, done: bool) -> tuple[tuple[TrialRecord, ...], int]:
        search = {"sampler": "tpe", "trials": 2, "seed": 0}
        request = from_document({**SPACE, "study": name, "search": search}, "test")
        ledger = open_ledger(url, request)
        engine = ledger.claim.database.engine
        assert engine is not None
        commit, commits = engine.dialect.do_commit, 0

        def lose(connection: Any) -> None:
            nonlocal commits
            commits += 1
            if done or commits != failing:
                commit(connection)
            if commits == failing:
                raise engine.dialect.dbapi.OperationalError("server closed the connection")

        engine.dialect.do_commit = lose  # type: ignore[method-assign]
        while (record := ledger.next()) is not None:
            ledger.report(record.id, [an_epoch(1), an_epoch(2), an_epoch(3)])
        engine.dialect.do_commit = commit  # type: ignore[method-assign]
        again = open_ledger(url, request)
        assert again.records == ledger.records
        return (
            tuple(
                replace(record, epochs=tuple({**one, "at": 0} for one in record.epochs))
                for record in again.records
            ),
            commits,
        )

    undisturbed, commits = run("whole", 0, done=True)
    assert commits > 15
    for failing in range(1, commits + 1):
        for done in (True,) if failing % 3 else (False, True):
            records, _ = run(f"{failing}-{done}", failing, done)
            assert records == undisturbed, (failing, done)


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
