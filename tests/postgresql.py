"""A real PostgreSQL for tests: a server of their own in a temporary folder."""

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; None where there are none."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def _unprivileged() -> dict[str, Any]:
    """Arguments of subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


class Server:
    """A PostgreSQL on this machine that trusts everybody, on a loopback port."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            pytest.skip("PostgreSQL is not installed: there is no initdb")
        self._programs = found
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        atexit.register(self.remove)
        self._names = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._run = {"cwd": self.folder, **_unprivileged()}
        if "user" in self._run:
            shutil.chown(self.folder, "nobody")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        subprocess.run(
            [
                found / "initdb", "--pgdata", self.folder / "data", "--username", "tester",
                "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync",
                "--no-instructions",
            ],
            check=True, stdout=subprocess.DEVNULL, **self._run,
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        assert self._process is None
        # Nothing here is to survive a power failure, so nothing waits for a disk.
        fast = ("fsync=off", "full_page_writes=off")
        small = ("shared_buffers=16MB", "max_connections=200", "autovacuum=off")
        own = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=")
        options = [part for one in (*fast, *small, *own) for part in ("-c", one)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *options],
                stdout=log, stderr=log, **self._run,
            )  # fmt: skip
        until = time.monotonic() + 60
        while not self.answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.05)

    def answers(self) -> bool:
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: in order, with all connections, or by SIGQUIT as in a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://tester@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template1") -> str:
        """Make a database, a copy of another; returns its name."""
        name = f"law{next(self._names)}"
        self.tell(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    @functools.cached_property
    def empty_ledger(self) -> str:
        """The name of a database with Optuna's tables, which take longer to make than to copy."""
        name = self.create()
        made = optuna.storages.RDBStorage(
            self.url(name), engine_kwargs={"poolclass": sqlalchemy.pool.NullPool}
        )
        made.remove_session()
        return name

    def tell(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside of a transaction."""
        engine = sqlalchemy.create_engine(
            self.url(database), poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


@contextlib.contextmanager
def connections_closed() -> Iterator[None]:
    """Close, at the end of the block, all connections that SQLAlchemy made inside it.

    A test opens ledgers and forgets them; psycopg warns of each connection that nobody closed.
    """
    made: list[Any] = []

    def keep(connection: Any, _: Any) -> None:
        made.append(connection)

    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "connect", keep)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.pool.Pool, "connect", keep)
        for connection in made:
            connection.close()
