"""A ledger's database, opened to be read or written.

Every operation is one transaction. If the database refuses it for a reason that may pass, it is
tried again for a while; if it is still refused, an error says so in one sentence.
"""

import contextlib
import functools
import itertools
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from core.config import Value
from core.errors import StorageError, StudyError
from core.values import as_number
from tune import database
from tune.database import Patience, cause_of, place_of, refusal_of
from tune.ledger import server
from tune.ledger.damage import damaged
from tune.redaction import without_password

BUSY_SECONDS = 5
"""Seconds for which sqlite itself waits while another process has locked the ledger, before
`Patience` tries again."""

OPEN_SECONDS = 20.0
"""Seconds for which opening a ledger is tried again if the reason may pass. They are few, because a
user waits for the first answer. A ledger that has answered this process before is waited for as
long as any other operation."""

IN_MEMORY = "memory"
"""The URL of a ledger that is kept in memory only, for simulations and tests."""

optuna.logging.set_verbosity(optuna.logging.WARNING)

_T = TypeVar("_T")

_answered: set[str] = set()
"""The URLs of the ledgers that this process has opened."""


class Database:
    """An open database of ledgers.

    url      its SQLAlchemy URL
    engine   its engine; None for a database in memory
    fence    function that raises ClaimLost if another process has taken over the study; does
             nothing until a claim sets it
    settle   function that is called before an operation is tried again; does nothing until a claim
             sets it (see `tune.ledger.claim`)
    """

    def __init__(
        self,
        url: str,
        storage: optuna.storages.BaseStorage,
        engine: sqlalchemy.engine.Engine | None,
    ) -> None:
        self.url, self.engine = url, engine
        self.fence: Callable[[], None] = lambda: None
        self.settle: Callable[[], None] = lambda: None
        self._storage, self._patience = storage, Patience(url)

    def hurry(self) -> None:
        """Stop waiting for a database that refuses: each further operation is tried only once."""
        self._patience.lose()

    def names(self) -> list[str]:
        """The names of all studies."""
        return self.call(lambda: optuna.get_all_study_names(self._storage))

    def close(self) -> None:
        """Close the connections; a further operation would open new ones."""
        if self.engine is not None:
            self.engine.dispose()

    def study(self, name: str) -> "StoredStudy | None":
        """The study of this name; None if there is none."""
        try:
            number = self.call(lambda: self._storage.get_study_id_from_name(name))
        except KeyError:
            return None
        return StoredStudy(self, self._storage, number)

    def made_study(self, name: str) -> "StoredStudy":
        """The study of this name, which is made if there is none."""
        found = self.study(name)
        if found is None:
            # A first try may have made the study although its answer was lost.
            with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
                self.call(lambda: self._storage.create_new_study([StudyDirection.MAXIMIZE], name))
            self.call(lambda: _name_the_score(self._storage, name))
            found = self.study(name)
        assert found is not None
        return found

    def call(self, operation: Callable[[], _T]) -> _T:
        """The result of an operation on the database, which is tried again for a while.

        Raises StorageError if the database still refuses it, if what it holds cannot be read, or if
        another driver has ended the trial.
        """
        tries = itertools.count()

        def attempt() -> _T:
            if next(tries):
                self.settle()
            return operation()

        try:
            return self._patience(attempt)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            self.fence()  # another driver has ended the trial
            raise _written_by_another() from error
        except ValueError as error:  # text that is no JSON, no time or no UTF-8
            raise damaged(f"the ledger {place_of(self.url)}", error) from error
        except Exception as error:
            cause = cause_of(error)
            if cause is None:
                raise
            meant = refusal_of(cause, self.url)
            tried = f" for {as_number(database.RETRY_SECONDS)} seconds" if meant.transient else ""
            whole = "what it holds is whole: " if meant.whole else ""
            raise StorageError(
                f"the ledger could not be read or written{tried} ({meant.reason});"
                f" {whole}{meant.way_out}, then run the same command again"
            ) from error


def _name_the_score(storage: optuna.storages.BaseStorage, study: str) -> None:
    """Say in a study what its values are, for programs that draw them, such as optuna-dashboard."""
    with warnings.catch_warnings():
        # Optuna has had this function since 2023 and still calls it experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.load_study(study_name=study, storage=storage).set_metric_names(["AP50"])


class StoredStudy:
    """One Optuna study of a database. Trials are named by their numbers in it, counted from 0."""

    def __init__(
        self, database: Database, storage: optuna.storages.BaseStorage, number: int
    ) -> None:
        self._call, self._storage, self._number = database.call, storage, number
        self._ids: dict[int, int] = {}

    def attributes(self) -> Mapping[str, Any]:
        """The user attributes of the study."""
        return self._call(lambda: self._storage.get_study_user_attrs(self._number))

    def set_attribute(self, name: str, value: Any) -> None:
        """Store a user attribute of the study; the value consists of JSON types."""
        self._call(lambda: self._storage.set_study_user_attr(self._number, name, value))

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self._call(lambda: self._storage.get_all_trials(self._number, deepcopy=False))

    def begun_trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers, none of them in Optuna's state WAITING.

        An earlier version stored planned trials before they began. Such trials are set to RUNNING
        first.
        """
        for trial in self.trials():
            if trial.state is TrialState.WAITING:
                self._begin(self._id(trial.number))
        return self.trials()

    def _begin(self, trial: int) -> None:
        self._call(lambda: self._storage.set_trial_state_values(trial, TrialState.RUNNING))

    def add(
        self,
        number: int,
        params: Mapping[str, Value],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
    ) -> None:
        """Store a running trial, whole or not at all; its number must be the next one.

        Raises StorageError if another program has stored a trial of this number.
        """
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(attributes),
        )

        def create() -> int:
            try:  # the answer to a first try may have been lost
                known = self._storage.get_trial_id_from_study_id_trial_number(self._number, number)
            except KeyError:
                return self._storage.create_new_trial(self._number, trial)
            if self._storage.get_trial(known).user_attrs != trial.user_attrs:
                raise _written_by_another()
            return known

        self._ids[number] = self._call(create)

    def set_trial_attribute(self, number: int, name: str, value: Any) -> None:
        """Store a user attribute of a running trial; the value consists of JSON types."""
        trial = self._id(number)
        self._call(lambda: self._storage.set_trial_user_attr(trial, name, value))

    def set_value(self, number: int, epoch: int, value: float) -> None:
        """Store the value of a running trial after an epoch."""
        trial = self._id(number)
        self._call(lambda: self._storage.set_trial_intermediate_value(trial, epoch, value))

    def end(self, number: int, state: TrialState, value: float | None) -> None:
        """End a trial; nothing happens if it is in this state already."""
        trial = self._id(number)
        values = None if value is None else [value]

        def change() -> None:
            try:
                self._storage.set_trial_state_values(trial, state, values)
            except optuna.exceptions.UpdateFinishedTrialError:
                if self._storage.get_trial(trial).state is not state:
                    raise

        self._call(change)

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self._call(
                lambda: self._storage.get_trial_id_from_study_id_trial_number(self._number, number)
            )
        return self._ids[number]


def _written_by_another() -> StorageError:
    return StorageError(
        "another program writes this study's trials into the ledger; end it, then run the same"
        " command again"
    )


@contextlib.contextmanager
def open_to_read(url: str) -> Iterator[Database | None]:
    """The database at a URL to the end of the block; None where there is none yet.

    Nothing is written. Raises StudyError where it cannot be opened.
    """
    file = database.file_of(_checked(url))
    missing = file is not None and (not file.is_file() or _is_half_made(file))
    found = None if missing else _open_patiently(url, make=False)
    try:
        yield found
    finally:
        if found is not None:
            found.close()


@contextlib.contextmanager
def study_to_read(url: str, name: str) -> Iterator[StoredStudy | None]:
    """A study of the database at a URL to the end of the block; None if there is none.

    Raises the errors of `open_to_read`, and StorageError where the database does not answer.
    """
    with open_to_read(url) as found:
        yield None if found is None else found.study(name)


def open_to_write(url: str) -> Database:
    """The database at a URL, made if there is none.

    A sqlite file is made whole or not at all, and a server's empty database gets its tables. Raises
    StudyError where it cannot be opened.
    """
    if url == IN_MEMORY:
        return Database(url, optuna.storages.InMemoryStorage(), None)
    made = _open_patiently(_checked(url), make=True)
    assert made is not None
    return made


def _checked(url: str) -> str:
    """The URL, if it is one; raises StudyError otherwise."""
    try:
        scheme = sqlalchemy.engine.make_url(url).drivername
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StudyError(
            "--storage must be an SQLAlchemy URL, such as sqlite:///team.db or"
            f" postgresql+psycopg://USER@HOST/DATABASE, and is {without_password(url)!r}"
        ) from None
    if scheme == "postgres":
        raise StudyError(
            f"--storage must begin with postgresql+psycopg:// and is {without_password(url)!r}"
        )
    return url


def _open_patiently(url: str, make: bool) -> Database | None:
    """The database at a URL; None where there is none and `make` is False."""
    seconds = None if url in _answered else OPEN_SECONDS
    try:
        opened = Patience(url, seconds)(lambda: _open(url, make))
    except RuntimeError as error:  # another version of Optuna made it
        reason, order = str(error).splitlines()[0], "see to it, or name another --storage"
    except (
        optuna.exceptions.StorageInternalError,
        sqlalchemy.exc.SQLAlchemyError,
        ImportError,
        OSError,
        ValueError,
    ) as error:
        cause = cause_of(error)
        meant = None if cause is None else refusal_of(cause, url)
        reason = meant.reason if meant else str(error).strip().splitlines()[0]
        order = "see to it, or name another --storage"
        if meant:
            order = f"{meant.way_out}, then run the same command again"
    else:
        _answered.add(url)
        return opened
    raise StudyError(
        f"the ledger {place_of(url)} cannot be opened ({without_password(reason)}): {order}"
    )


def _open(url: str, make: bool) -> Database | None:
    """One attempt at `_open_patiently`."""
    if not url.startswith("sqlite"):
        at_server = server.open_storage(url, make)
        if at_server is None:
            return None
        database.hand_over(at_server.engine, url)
        return Database(url, at_server, at_server.engine)
    file = database.file_of(url)
    if make and file is not None:
        database.make_whole(file, _make_tables, _is_half_made)
    in_a_file = file is not None
    opened = optuna.storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}},
        skip_table_creation=in_a_file,
    )
    # sqlite stores the journal mode in the file, but not the setting `synchronous`.
    sqlalchemy.event.listen(opened.engine, "connect", _synchronous_normal)
    if make:
        with opened.engine.connect() as connection:  # plain Optuna may have made the file
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    opened.engine.dispose()
    database.hand_over(opened.engine, url)
    return Database(url, opened, opened.engine)


def _make_tables(url: str) -> None:
    """Have Optuna make its tables, and leave no connection open."""
    optuna.storages.RDBStorage(
        url, engine_kwargs={"poolclass": sqlalchemy.pool.NullPool}
    ).remove_session()
    path = Path(str(database.file_of(url)))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        # Write-ahead logging lets others read while the search writes.
        connection.execute("PRAGMA journal_mode=WAL")


def _is_half_made(path: Path) -> bool:
    """Whether the making of Optuna's tables was cut short, or has not begun.

    An earlier version had Optuna make them in place. Such a database has some of Optuna's tables,
    no other, and nothing in them but the version.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=1.0)) as connection:
            names = "SELECT name FROM sqlite_master WHERE type = 'table'"
            tables = {str(name) for (name,) in connection.execute(names)}
            return not any(
                connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
                for name in tables - {"version_info", "alembic_version"}
            ) and (tables < _tables_of_optuna())
    except (sqlite3.Error, ValueError):  # locked, damaged or no database: opening it says so
        return False


@functools.cache
def _tables_of_optuna() -> frozenset[str]:
    made = optuna.storages.RDBStorage("sqlite://")
    try:
        return frozenset(sqlalchemy.inspect(made.engine).get_table_names())
    finally:
        made.engine.dispose()


def _synchronous_normal(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
