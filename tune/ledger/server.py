"""A ledger in a database server, such as PostgreSQL: its connections, and the making of its tables.

Unlike with a file, connections can be lost, a driver's machine can vanish in a transaction, and
several processes can make the tables at the same time. The tests run on PostgreSQL.
"""

import contextlib
import shlex
from typing import Any

import optuna
import sqlalchemy
from sqlalchemy import func, select

from core.errors import StudyError
from core.programs import program_here
from tune.database import place_of

LONGEST_LOCK_SECONDS = 10
"""Seconds for which a statement waits for a row that another transaction has locked, before it is
refused, and so tried again."""

LONGEST_IDLE_SECONDS = 30
"""Seconds after which the server ends a transaction whose process does not go on. A driver that is
stopped or cut off in the middle of a write would otherwise keep its locks, and nobody could take
its study over."""

_CONNECT_SECONDS, _SILENT_SECONDS = 10, 30
"""Seconds for which a connection is tried, and after which one without an answer from the other
machine counts as lost: a failing network closes no connection, and TCP itself waits for hours."""

_LIBPQ = {
    "connect_timeout": _CONNECT_SECONDS,
    "keepalives_idle": _SILENT_SECONDS // 2,
    "keepalives_interval": _SILENT_SECONDS // 6,
    "keepalives_count": 3,
    "tcp_user_timeout": _SILENT_SECONDS * 1000,
    "application_name": "cell-tune",
}
"""Parameters of libpq, which a URL may set otherwise."""

_MAKING = 0x63656C6C
"""The number of the server's lock that is held while the tables are made; any number will do."""

_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""The packages of drivers whose names differ from their modules'."""


def open_storage(url: str, make: bool) -> optuna.storages.RDBStorage | None:
    """Optuna's storage at the URL of a server; None where its tables are missing.

    make   whether missing tables are made; if several processes ask for this, one makes them

    Raises StudyError where a driver is missing or the database is another program's, and
    SQLAlchemy's errors.
    """
    arguments = _engine_arguments(url)
    try:
        engine = sqlalchemy.create_engine(
            url, **arguments | {"poolclass": sqlalchemy.pool.NullPool, "pool_pre_ping": False}
        )
    except ImportError as error:
        raise StudyError(_missing_driver(url, error)) from error
    _bound_waiting(engine)
    with engine.connect() as connection:
        if make and _is_postgresql(engine.url):  # until the connection is closed
            connection.execute(select(func.pg_advisory_lock(_MAKING)))
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        connection.rollback()  # the server would end a transaction that is idle for long
        ours = bool({"studies", "trials", "version_info"} & tables)
        if not ours and {"experiments", "runs", "alembic_version"} <= tables:
            raise StudyError(
                f"--storage must be a database that no other program uses, and {place_of(url)} is"
                " MLflow's; create another on the same server"
            )
        # Optuna makes this table last.
        if not make and not (ours and "alembic_version" in tables):
            return None
        # Optuna refuses a database that lacks only some of its tables, and says so. It formats the
        # URL, in which a password may have braces.
        opened = optuna.storages.RDBStorage(
            url.replace("{", "{{").replace("}", "}}"),
            engine_kwargs=arguments,
            skip_table_creation=ours,
        )
    _bound_waiting(opened.engine)
    opened.engine.dispose()
    return opened


def _engine_arguments(url: str) -> dict[str, Any]:
    """The arguments of SQLAlchemy's engine."""
    parsed = sqlalchemy.engine.make_url(url)
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if _is_postgresql(parsed):
        # A server may be set up for another level, in which Optuna's locks are refusals.
        arguments["isolation_level"] = "READ COMMITTED"
    if parsed.drivername in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        arguments["connect_args"] = {
            name: value for name, value in _LIBPQ.items() if name not in parsed.query
        }
    return arguments


def _is_postgresql(url: sqlalchemy.URL) -> bool:
    return url.get_backend_name() == "postgresql"


def _bound_waiting(engine: sqlalchemy.engine.Engine) -> None:
    """Bound the waiting for locks, and idle transactions, on each new connection of an engine."""
    if not _is_postgresql(engine.url):
        return

    def bound(connection: Any, _: Any) -> None:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(f"SET lock_timeout = '{LONGEST_LOCK_SECONDS}s'")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{LONGEST_IDLE_SECONDS}s'")
        connection.commit()  # a rollback would undo it

    sqlalchemy.event.listen(engine, "connect", bound)


def _missing_driver(url: str, error: ImportError) -> str:
    module = error.name or sqlalchemy.engine.make_url(url).drivername.partition("+")[2]
    package = _PACKAGES.get(module.partition(".")[0], module) or _PACKAGES["psycopg"]
    return (
        f"--storage {place_of(url)} needs the Python package {package}, which is not installed"
        f" ({error}); install it with: {program_here('python')} -m pip install"
        f" {shlex.quote(package)}"
    )
