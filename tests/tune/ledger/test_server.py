"""Laws of a ledger in a database server: a real PostgreSQL that ends connections, and processes
that are stopped or killed at a chosen moment.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optuna
import pytest
import sqlalchemy

from core.errors import ClaimLost, StorageError, StudyError
from tests.postgresql import Server, connections_closed
from tests.tune.ledger.test_ledger import SPACE, epoch, request, run_all, told
from tune.ledger import claim as claims
from tune.ledger import server as servers
from tune.ledger import storage as storages
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.reading import read_ledger
from tune.ledger.records import State

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def empty(postgresql: Server) -> Iterator[str]:
    """The URL of a database without a table."""
    with connections_closed():
        yield postgresql.url(postgresql.create())


@pytest.fixture
def url(postgresql: Server) -> Iterator[str]:
    """The URL of a ledger that holds no study."""
    with connections_closed():
        yield postgresql.url(postgresql.create(postgresql.empty_ledger))


def names(url: str) -> set[str]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    return set(sqlalchemy.inspect(engine).get_table_names())


def engine_of(ledger: Ledger) -> sqlalchemy.engine.Engine:
    engine = ledger.claim.database.engine
    assert engine is not None
    return engine


def begun(ledger: Ledger) -> int:
    record = ledger.next()
    assert record is not None
    return record.id


# Opening


def test_an_empty_database_is_no_study_for_a_reader_and_gets_its_tables_from_a_driver(
    empty: str,
) -> None:
    assert read_ledger(empty, "law") is None
    assert names(empty) == set()
    run_all(open_ledger(empty, request(SPACE)))
    trials = optuna.load_study(study_name="law", storage=empty).trials
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    reading = read_ledger(empty, "law")
    assert reading is not None
    assert len(reading.records) == 12


def test_of_drivers_that_make_the_tables_at_once_all_find_them_whole(empty: str) -> None:
    studies = [request(SPACE, study=f"study{number}") for number in range(4)]
    drivers = [FORK.Process(target=open_ledger, args=(empty, one)) for one in studies]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)
        assert driver.exitcode == 0
    assert set(optuna.get_all_study_names(empty)) == {one.study for one in studies}


def _open_and_die(url: str, at: int) -> None:
    seen = 0

    def die(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", die)
    open_ledger(url, request(SPACE))


def test_tables_whose_making_was_killed_anywhere_are_made_by_the_next_driver(
    postgresql: Server,
) -> None:
    for at in (20, 55, 64, 70):
        with connections_closed():
            url = postgresql.url(postgresql.create())
            driver = FORK.Process(target=_open_and_die, args=(url, at))
            driver.start()
            driver.join(60)
            assert driver.exitcode == -signal.SIGKILL, at
            read_ledger(url, "law")  # whatever is there, reading it is no error
            assert open_ledger(url, request(SPACE)).next() is not None


def test_a_missing_driver_is_one_sentence_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    url = "postgresql+psycopg://me:secret@db/team"
    for look in (lambda: read_ledger(url, "law"), lambda: open_ledger(url, request(SPACE))):
        with pytest.raises(StudyError) as caught:
            look()
        said = str(caught.value)
        assert "needs the Python package psycopg[binary], which is not installed" in said
        assert said.endswith("-m pip install 'psycopg[binary]'")
        assert "secret" not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database": "nowhere"}, r'database "nowhere" does not exist\): create the database of '),
        ({"username": "nobody"}, r'role "nobody" does not exist\): give the right user and pass'),
        ({"drivername": "postgres"}, r"must begin with postgresql\+psycopg://"),
    ],
    ids=["no such database", "no such user", "another scheme"],
)
def test_a_database_that_will_never_open_is_one_sentence_at_once(
    url: str, change: dict[str, Any], said: str
) -> None:
    begin = time.monotonic()
    with pytest.raises(StudyError, match=said):
        open_ledger(sqlalchemy.make_url(url).set(**change).render_as_string(), request(SPACE))
    assert time.monotonic() - begin < storages.OPEN_SECONDS / 2


def test_the_database_of_mlflow_is_refused_and_left_as_it_is(empty: str) -> None:
    told(empty, *(f"CREATE TABLE {name} ()" for name in ("experiments", "runs", "alembic_version")))
    assert read_ledger_or_sentence(empty).startswith("--storage must be a database that no other")
    with pytest.raises(StudyError, match=r"is MLflow's; create another on the same server"):
        open_ledger(empty, request(SPACE))
    assert names(empty) == {"experiments", "runs", "alembic_version"}


def read_ledger_or_sentence(url: str) -> str:
    try:
        return str(read_ledger(url, "law"))
    except StudyError as error:
        return str(error)


def test_a_url_may_set_a_parameter_of_the_connection_otherwise(url: str) -> None:
    ledger = open_ledger(f"{url}?application_name=ours", request(SPACE))
    with engine_of(ledger).connect() as connection:
        assert connection.exec_driver_sql("SHOW application_name").scalar_one() == "ours"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "10s"


def test_whatever_level_a_server_isolates_transactions_at_by_default_a_study_runs(
    url: str, postgresql: Server
) -> None:
    name = sqlalchemy.make_url(url).database
    postgresql.tell(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    first = open_ledger(url, request(SPACE))
    number = begun(first)
    second = open_ledger(url, request(SPACE))
    with pytest.raises(ClaimLost):
        first.report(number, [epoch(1, 0.1)])
    run_all(second)
    assert second.finished


# Lost connections


def test_a_connection_that_was_lost_while_idle_is_replaced_for_every_write_without_a_refusal(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)
    ledger = open_ledger(url, request(SPACE))
    settled: list[int] = []
    monkeypatch.setattr(ledger.claim.database, "settle", lambda: settled.append(1))
    number = begun(ledger)
    writes: tuple[Callable[[], Any], ...] = (
        ledger.claim.beat,
        lambda: ledger.report(number, [epoch(1, 0.1)]),
        ledger.next,
        lambda: ledger.lost(1, "its worker process died"),
        lambda: ledger.remember({"a": 1}),
        lambda: ledger.note_mlflow_run(0, "run"),
    )
    for write in writes:
        end_connections(url)
        write()
    assert not settled  # nothing had to be tried again
    assert open_ledger(url, request(SPACE)).records == ledger.records


def end_connections(url: str) -> None:
    """Have the server end all connections to a database but this one."""
    told(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


class Wire:
    """The way to a server, on which some commits arrive late, and their answers never.

    after   parts of statements: the first commit after each of them is lost so, one after the other
    """

    def __init__(self, server: Server, seconds: float, after: Sequence[bytes]) -> None:
        self._server, self._seconds, self.after = server.port, seconds, list(after)
        self._loses = False
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._door.accept()
                there = socket.create_connection(("127.0.0.1", self._server))
                for way in ((here, there, True), (there, here, False)):
                    threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while content := source.recv(2**16):
                if asks and self.after and self.after[0] in content:
                    self.after.pop(0)
                    self._loses = True
                if asks and self._loses and b"COMMIT\0" in content:
                    self._loses = False
                    source.shutdown(socket.SHUT_RDWR)
                    time.sleep(self._seconds)
                    target.sendall(content)
                    time.sleep(self._seconds)
                    return
                target.sendall(content)

    def close(self) -> None:
        self._door.close()


def test_a_write_that_is_committed_late_by_a_lost_connection_is_waited_for_and_not_done_twice(
    url: str, postgresql: Server
) -> None:
    writes = [b"INSERT INTO trials ", b"INSERT INTO trial_user_attributes ", b"UPDATE trials "]
    wire = Wire(postgresql, 0.5, writes)
    asked = request(SPACE, fixed={"optim.epochs": 2}, search={"trials": 3, "seed": 0})
    with contextlib.closing(wire):
        far = sqlalchemy.make_url(url).set(port=wire.port).render_as_string()
        ledger = open_ledger(far, asked)
        run_all(ledger)
    assert not wire.after
    assert ledger.finished
    assert len(optuna.load_study(study_name="law", storage=url).trials) == 3
    reading = read_ledger(url, "law")
    assert reading is not None
    assert reading.records == ledger.records


def test_a_refusal_that_lasts_is_one_sentence_and_the_ledger_is_whole(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.database.RETRY_SECONDS", 1.0)
    monkeypatch.setattr(servers, "LONGEST_LOCK_SECONDS", 1)
    ledger = open_ledger(url, request(SPACE))
    number = begun(ledger)
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool).connect() as other:
        other.exec_driver_sql("LOCK TABLE trial_user_attributes IN EXCLUSIVE MODE")
        with pytest.raises(
            StorageError,
            match=r"for 1 seconds \(canceling statement due to lock timeout\); what it holds is"
            r" whole: find out which process holds",
        ):
            ledger.report(number, [epoch(1, 0.1)])
    assert open_ledger(url, request(SPACE)).records[number].epochs == ()


# Drivers that are stopped


def _stop_before_a_commit(url: str, ready: Any) -> None:
    """A driver that stops itself when it may commit an epoch and has not yet done so."""
    with connections_closed():
        ledger = open_ledger(url, request(SPACE))
        number = begun(ledger)
        engine = engine_of(ledger)
        commit = engine.dialect.do_commit

        def stop(connection: Any) -> None:
            engine.dialect.do_commit = commit  # type: ignore[method-assign]
            ready.set()
            os.kill(os.getpid(), signal.SIGSTOP)
            commit(connection)

        engine.dialect.do_commit = stop  # type: ignore[method-assign]
        try:
            ledger.report(number, [epoch(1, 0.1)])
        except ClaimLost:
            sys.exit(7)


def test_a_driver_that_is_stopped_between_its_check_and_its_commit_writes_nothing_after_another_took_over(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "LONGEST_IDLE_SECONDS", 2)
    monkeypatch.setattr(claims, "CLAIM_SECONDS", 1)
    ready = FORK.Event()
    stalled = FORK.Process(target=_stop_before_a_commit, args=(url, ready))
    stalled.start()
    assert ready.wait(60)
    try:
        time.sleep(claims.CLAIM_SECONDS + 0.1)
        second = open_ledger(url, request(SPACE))  # waits until the server ends the transaction
        assert second.records[0].epochs == ()
        second.fail(begun(second), "ended elsewhere")
        before = read_ledger(url, "law")
    finally:
        assert stalled.pid is not None
        os.kill(stalled.pid, signal.SIGCONT)
        stalled.join(60)
    assert stalled.exitcode == 7
    assert read_ledger(url, "law") == before
    (trial,) = optuna.load_study(study_name="law", storage=url).trials
    assert trial.intermediate_values == {}
    assert second.records[0].state is State.FAIL


@pytest.mark.fault
def test_a_server_that_restarts_or_crashes_ends_nothing(postgresql: Server) -> None:
    with connections_closed():
        url = postgresql.url(postgresql.create(postgresql.empty_ledger))
        ledger = open_ledger(url, request(SPACE, stop_early={"rule": "none"}))
        for how in (signal.SIGINT, signal.SIGQUIT):
            number = begun(ledger)
            postgresql.stop(how)
            back = threading.Timer(3.0, postgresql.start)
            back.start()
            assert not ledger.report(number, [epoch(1, 0.1)])
            back.join()
            run = [epoch(place, 0.1 * place) for place in range(1, 10)]
            assert ledger.report(number, run)
        again = open_ledger(url, request(SPACE, stop_early={"rule": "none"}))
        assert again.records == ledger.records
        assert [record.state for record in again.records] == [State.COMPLETE] * 2


def test_a_reader_and_a_driver_that_ends_leave_no_connection(url: str) -> None:
    with claims.Claim(url, "law") as claim:
        Ledger(claim, request(SPACE)).next()
        read_ledger(url, "law")
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    until = time.monotonic() + 20
    while told(url, count) != [(1,)]:
        assert time.monotonic() < until
        time.sleep(0.05)
