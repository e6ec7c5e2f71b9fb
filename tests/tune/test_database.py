"""Laws of databases that are made whole or not at all, and of what is tried again when one refuses.

What is killed is a process of its own, by SIGKILL, at a statement of SQL that is counted; sqlite is
real.
"""

import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from core import interrupts
from tune import database
from tune.database import Patience, cause_of, file_of, make_whole, place_of, refusal_of

ROOT = Path(__file__).parents[2]


def make_table(url: str) -> None:
    with contextlib.closing(sqlite3.connect(str(file_of(url)))) as connection:
        connection.execute("CREATE TABLE there (who)")
        connection.execute("INSERT INTO there VALUES (?)", (os.getpid(),))
        connection.commit()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".view.db.lock"}


# Whole or not at all


def test_a_database_is_made_once_and_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "view.db"
    make_whole(path, make_table)
    before = path.read_bytes()

    def make_another(url: str) -> None:
        raise AssertionError(url)

    make_whole(path, make_another)
    assert path.read_bytes() == before
    assert names(tmp_path) == {"view.db"}


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(url: str) -> None:
        make_table(url)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        make_whole(tmp_path / "view.db", fail)
    assert names(tmp_path) == set()


def test_what_a_dead_maker_left_goes_also_where_the_database_is_there(tmp_path: Path) -> None:
    path, left = tmp_path / "view.db", tmp_path / ".view.db.abc.part"
    for _ in range(2):
        left.mkdir()
        (left / "view.db-journal").write_text("half")
        make_whole(path, make_table)
        assert names(tmp_path) == {"view.db"}


def test_a_journal_of_a_database_that_is_gone_never_reaches_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "view.db-journal").write_bytes(b"of another")
    make_whole(tmp_path / "view.db", make_table)
    assert names(tmp_path) == {"view.db", "view.db.half-made-journal"}


def test_a_half_made_database_is_kept_with_its_journal_under_another_name_however_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "QUIET_SECONDS", 0.2)
    path = tmp_path / "view.db"

    def half_made(found: Path) -> bool:
        return found.read_bytes().startswith(b"half")

    for number in range(2):
        path.write_bytes(b"half %d" % number)
        (tmp_path / "view.db-wal").write_bytes(b"wal %d" % number)
        make_whole(path, make_table, half_made)
    assert not half_made(path)
    assert (tmp_path / "view.db.half-made").read_bytes() == b"half 0"
    assert (tmp_path / "view.db.half-made-2").read_bytes() == b"half 1"
    assert (tmp_path / "view.db.half-made-2-wal").read_bytes() == b"wal 1"


def test_a_database_that_another_program_is_making_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "QUIET_SECONDS", 1.0)
    path = tmp_path / "view.db"
    path.write_bytes(b"half")
    calls: list[int] = []

    def half_made(found: Path) -> bool:
        calls.append(1)
        if len(calls) == 2:  # the other program ends what it was at
            found.write_bytes(b"whole")
            return True
        return found.read_bytes() == b"half"

    make_whole(path, make_table, half_made)
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == {"view.db"}


def test_a_folder_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        make_whole(tmp_path / "typo" / "view.db", make_table)
    assert caught.value.filename == str(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def _make_slowly(path: Path, made: Path) -> None:
    def make(url: str) -> None:
        time.sleep(0.3)
        make_table(url)
        (made / str(os.getpid())).touch()

    make_whole(path, make)


def test_of_several_makers_at_once_one_makes_it_and_all_find_it(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    context = multiprocessing.get_context("fork")
    makers = [
        context.Process(target=_make_slowly, args=(tmp_path / "view.db", made)) for _ in range(4)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
        assert maker.exitcode == 0
    (one,) = made.iterdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "view.db")) as connection:
        assert connection.execute("SELECT who FROM there").fetchall() == [(int(one.name),)]
    assert names(tmp_path) == {"view.db", "made"}


def test_a_file_system_without_links_does_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    make_whole(tmp_path / "view.db", make_table)
    assert names(tmp_path) == {"view.db"}


KILLED = """
import os, random, signal, sys, threading, time
from pathlib import Path
import sqlalchemy
import tune
from tune.tracking.mlflow_destination import Destination
from tune.tracking.mlflow_runs import StudyRuns
from tune.tracking.tracker import TrackedStudy
from tune.ledger.ledger import open_ledger
from tune.ledger.storage import OPEN_SECONDS
from tune.request.file import from_document
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
import mlflow

SPACE = {"study": "law", "data": "synthetic", "space": {"optim.restarts": [0, 1]},
         "search": {"sampler": "random", "trials": 2}, "confirm": {"top": 0}}

def view():
    StudyRuns(Destination.at(None, folder), TrackedStudy("law", "one")).create("run", {"trial": "0"})

def in_place():
    SqlAlchemyStore(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "mlartifacts"))

def ledger():
    open_ledger(f"sqlite:///{folder / 'study.db'}", from_document(SPACE, "test")).next()

def ledger_in_place():
    import optuna
    optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")

def age():
    old = time.time() - 60
    os.utime(folder / "mlflow.db", (old, old))

for step in sys.argv[1:]:
    folder, what, moment = step.split("|")
    folder = Path(folder)
    child = os.fork()
    if child == 0:
        seen = [0, False]
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        def die_at(connection, cursor, statement, parameters, context, executemany):
            seen[0] += 1
            statement_, _, milliseconds = moment.partition("+")
            if statement_.isdigit() and seen[0] == int(statement_) or seen[1]:
                if milliseconds:
                    threading.Timer(int(milliseconds) / 1000, die).start()
                else:
                    die()
            seen[1] = moment.startswith("after ") and moment[6:] in statement
        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", die_at)
        if moment.startswith("point "):
            os.environ["CELL_TUNE_KILL"] = moment[6:]
        try:
            globals()[what]()
        except BaseException as error:
            print(moment, "raised", repr(error)[:300], flush=True)
            os._exit(1)
        print(moment, "done after", seen[0], flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(moment, "ended", os.waitstatus_to_exitcode(status), flush=True)
"""


def killed(*steps: tuple[Path, str, object]) -> list[int]:
    """Do one thing after the other, each in a process that is killed at a moment; how each ended.

    A step is a folder, what is done in it, and the moment: the number of a statement, `N+M` for M
    milliseconds after statement N began, `after TEXT` of one, `point NAME`, or `never`.
    """
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *("|".join(map(str, step)) for step in steps)],
        cwd=ROOT, capture_output=True, text=True, timeout=590, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = [
        int(line.rpartition(" ended ")[2]) for line in done.stdout.splitlines() if " ended " in line
    ]
    assert len(ends) == len(steps), done.stdout + done.stderr
    return ends


@pytest.mark.fault
def test_a_first_start_that_is_killed_anywhere_while_mlflow_makes_its_tables_is_followed_by_one_that_works(
    tmp_path: Path,
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    moments: list[object] = [
        random.Random(place).randrange(place, place + 90) for place in range(1, 400, 90)
    ]
    moments += [f"{place}+{random.Random(place).randrange(20)}" for place in (30, 130, 230)]
    ends = killed(*((one, "view", moment) for moment in [*moments, "point mlflow.db is made"]))
    assert ends == [-9] * len(ends)
    assert not (one / "mlflow.db").exists()
    assert len(list(one.glob(".mlflow.db.*.part"))) == 1  # each removes what the one before it left
    shutil.copytree(one, other, dirs_exist_ok=True)
    assert killed(
        (one, "view", "point mlflow.db is there"), (one, "view", "never"), (other, "view", "never")
    ) == [
        -9,
        0,
        0,
    ]
    for folder in (one, other):
        assert {path.name for path in folder.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}


@pytest.mark.fault
def test_a_database_of_mlflow_that_an_earlier_version_left_half_made_is_kept_aside_and_made_anew(
    tmp_path: Path,
) -> None:
    folders = [tmp_path / str(number) for number in range(3)]
    steps: list[tuple[Path, str, object]] = []
    for folder, moment in zip(
        folders, ("after CREATE TABLE _alembic_tmp_experiments", 3, 120), strict=True
    ):
        folder.mkdir()
        steps += [(folder, "in_place", moment), (folder, "age", "never"), (folder, "view", "never")]
    # Before the first is mended, the fault itself: MLflow never opens it again.
    steps[1:1] = [(folders[0], "in_place", "never")]
    assert killed(*steps) == [-9, 1, 0, 0, -9, 0, 0, -9, 0, 0]
    for folder in folders:
        assert (folder / "mlflow.db").exists()
        assert (folder / "mlflow.db.half-made").exists()


@pytest.mark.fault
def test_a_ledger_whose_making_was_killed_anywhere_opens_also_one_of_an_earlier_version(
    tmp_path: Path,
) -> None:
    whole = tmp_path / "whole"
    steps: list[tuple[Path, str, object]] = [(whole, "ledger", "never")]
    for moment in (*range(1, 70, 9), "point study.db is made", "point study.db is there"):
        folder = tmp_path / f"killed {moment}"
        steps += [(folder, "ledger", moment), (folder, "ledger", "never")]
    for moment in (20, 35, 50):
        folder = tmp_path / f"in place {moment}"
        steps += [(folder, "ledger_in_place", moment), (folder, "ledger", "never")]
    for folder, _, _ in steps:
        folder.mkdir(exist_ok=True)
    assert killed(*steps) == [0] + [-9, 0] * (len(steps) // 2)
    for folder in tmp_path.glob("killed *"):
        assert schema(folder / "study.db") == schema(whole / "study.db")
        assert not list(folder.glob(".*.part"))


def schema(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {str(sql) for (sql,) in connection.execute("SELECT sql FROM sqlite_master")}


# What is tried again


@pytest.fixture
def table(tmp_path: Path) -> Iterator[tuple[sqlalchemy.Engine, str, Path]]:
    path = tmp_path / "view.db"
    make_table(f"sqlite:///{path}")
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.1})
    yield engine, f"sqlite:///{path}", path
    engine.dispose()


def insert(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO there VALUES (1)"))


def meant(url: str, do: Callable[[], object]) -> database.Refusal:
    with pytest.raises(sqlalchemy.exc.SQLAlchemyError) as caught:
        do()
    cause = cause_of(caught.value)
    assert cause is not None
    return refusal_of(cause, url)


def test_a_lock_is_transient_and_waited_out(table: tuple[sqlalchemy.Engine, str, Path]) -> None:
    engine, url, path = table
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert meant(url, lambda: insert(engine)).transient
        attempts: list[float] = []

        def try_it() -> None:
            attempts.append(time.monotonic())
            if len(attempts) == 5:
                other.execute("COMMIT")
            insert(engine)

        Patience(url)(try_it)
        assert len(attempts) == 5
        pauses = [after - before for before, after in itertools.pairwise(attempts)]
        assert pauses[-1] > 3 * pauses[0]


def test_nobody_waits_for_a_database_in_a_process_that_is_asked_to_end(
    table: tuple[sqlalchemy.Engine, str, Path],
) -> None:
    engine, url, path = table
    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other,
        interrupts.terminable(),
    ):
        other.execute("BEGIN EXCLUSIVE")
        patience = Patience(url)
        timer = threading.Timer(1.5, interrupts.note_interrupt)
        timer.start()
        begin = time.monotonic()
        for _ in range(3):
            with pytest.raises(sqlalchemy.exc.OperationalError):
                patience(lambda: insert(engine))
            with pytest.raises(sqlalchemy.exc.OperationalError):
                Patience(url)(lambda: insert(engine))
        assert 1.5 <= time.monotonic() - begin < 10
        timer.join()
        other.execute("COMMIT")
        patience(lambda: insert(engine))  # what finds it free is done all the same


def test_who_waits_no_more_tries_once_until_something_succeeds(
    table: tuple[sqlalchemy.Engine, str, Path],
) -> None:
    engine, url, path = table
    patience = Patience(url)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        patience.lose()
        begin = time.monotonic()
        with pytest.raises(sqlalchemy.exc.OperationalError):
            patience(lambda: insert(engine))
        assert time.monotonic() - begin < 10
        other.execute("COMMIT")
        patience(lambda: insert(engine))


def test_what_stays_refused_is_raised_as_it_is_when_the_time_is_up(
    table: tuple[sqlalchemy.Engine, str, Path],
) -> None:
    engine, url, path = table
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        patience = Patience(url, 1.5)
        begin = time.monotonic()
        with pytest.raises(sqlalchemy.exc.OperationalError, match="locked"):
            patience(lambda: insert(engine))
        assert 1.4 < time.monotonic() - begin < 10
        begin = time.monotonic()
        for _ in range(5):  # the last words of a study do not each wait as long
            with pytest.raises(sqlalchemy.exc.OperationalError, match="locked"):
                patience(lambda: insert(engine))
        assert time.monotonic() - begin < 1.4
        other.execute("COMMIT")
        patience(lambda: insert(engine))
        other.execute("BEGIN EXCLUSIVE")
        begin = time.monotonic()
        with pytest.raises(sqlalchemy.exc.OperationalError, match="locked"):
            patience(lambda: insert(engine))
        assert 1.4 < time.monotonic() - begin < 10


def test_what_will_never_be_taken_is_said_at_once_with_the_file_and_its_way_out(
    table: tuple[sqlalchemy.Engine, str, Path], tmp_path: Path
) -> None:
    engine, url, path = table
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE there")
    found = [meant(url, lambda: Patience(url)(lambda: insert(engine)))]
    for content in (b"this is no database" * 100, None):
        broken = tmp_path / "broken.db"
        shutil.rmtree(broken, ignore_errors=True)
        broken.write_bytes(content) if content is not None else (broken.unlink(), broken.mkdir())
        other = f"sqlite:///{broken}"
        found.append(
            meant(
                other,
                lambda other=other: Patience(other)(
                    lambda: insert(sqlalchemy.create_engine(other))
                ),
            )
        )
    assert [one.transient for one in found] == [False] * 3
    assert [one.whole for one in found] == [False, False, True]
    assert "a table is missing" in found[0].way_out
    assert found[1].way_out == f"restore {tmp_path / 'broken.db'} from a backup"
    assert str(tmp_path / "broken.db") in found[2].way_out


def test_a_read_only_database_is_said_at_once(table: tuple[sqlalchemy.Engine, str, Path]) -> None:
    _, url, path = table
    uri = f"sqlite:///file:{path}?mode=ro&uri=true"
    found = meant(url, lambda: Patience(url)(lambda: insert(sqlalchemy.create_engine(uri))))
    assert (found.transient, found.way_out) == (
        False,
        f"make {path} and its folder writable for this user",
    )


class Told(Exception):
    """What a driver of another database raises."""

    def __init__(self, words: str, state: str = "") -> None:
        super().__init__(words)
        self.sqlstate = state or None


def from_driver(
    words: str, state: str = "", lost: bool = False, kind: str = "OperationalError"
) -> Any:
    return getattr(sqlalchemy.exc, kind)(
        "SELECT 1", {}, Told(words, state), connection_invalidated=lost
    )


@pytest.mark.parametrize(
    ("error", "transient", "order"),
    [
        (from_driver("server closed the connection unexpectedly", lost=True), True, "answers"),
        (from_driver("connection already closed", kind="InterfaceError"), True, "answers"),
        (
            from_driver('connection to server at "db", port 5432 failed: Connection refused'),
            True,
            "answers",
        ),
        (
            from_driver(
                "could not translate host name to address: Temporary failure in name resolution"
            ),
            True,
            "answers",
        ),
        (from_driver("the database system is shutting down", "57P03"), True, "answers"),
        (from_driver("too many connections", "53300"), True, "answers"),
        (from_driver("deadlock detected", "40P01"), True, "which process"),
        (
            from_driver("could not extend file: No space left on device", "53100"),
            False,
            "free space",
        ),
        (
            from_driver(
                "cannot execute INSERT in a read-only transaction", "25006", kind="InternalError"
            ),
            False,
            "writable",
        ),
        (
            from_driver('relation "trials" does not exist', "42P01", kind="ProgrammingError"),
            False,
            "table is missing",
        ),
        (
            from_driver('FATAL:  password authentication failed for user "me"'),
            False,
            "user and password",
        ),
        (from_driver("FATAL: no", "28P01"), False, "user and password"),
        (from_driver('FATAL:  database "team" does not exist'), False, "on its server"),
        (
            from_driver('could not translate host name "dd" to address: Name or service not known'),
            False,
            "a host",
        ),
        (from_driver("value too long", "22001", kind="DataError"), False, "see to"),
        (sqlalchemy.exc.TimeoutError("QueuePool limit"), True, "answers"),
    ],
)
def test_refusals_of_a_server_that_may_pass_are_told_from_those_that_will_not(
    error: sqlalchemy.exc.SQLAlchemyError, transient: bool, order: str
) -> None:
    found = refusal_of(error, "postgresql://me:secret@db/team")
    assert (found.transient, order in found.way_out) == (transient, True)
    assert "secret" not in f"{found.reason}{found.way_out}"
    assert "\n" not in f"{found.reason}{found.way_out}"


@given(st.integers(0, 6), st.booleans())
def test_an_operation_is_done_as_often_as_it_takes_and_not_once_more(
    refusals: int, passes: bool
) -> None:
    calls: list[int] = []

    def operation() -> str:
        calls.append(1)
        if len(calls) <= refusals:
            raise from_driver("connection lost", lost=True)
        if not passes:
            raise ValueError("another fault")
        return "done"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "FIRST_PAUSE_SECONDS", 1e-6)
        if passes:
            assert Patience("postgresql://db/team")(operation) == "done"
        else:
            with pytest.raises(ValueError, match="another fault"):
                Patience("postgresql://db/team")(operation)
    assert len(calls) == refusals + 1


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:///results/study.db", "results/study.db"),
        ("sqlite:////abs/study.db", "/abs/study.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql://me:secret@db/team", None),
        ("http://127.0.0.1:5000", None),
        ("no url", None),
    ],
)
def test_only_a_sqlite_url_of_a_file_names_a_file(url: str, place: str | None) -> None:
    assert file_of(url) == (place and Path(place))
    assert "secret" not in place_of(url)
