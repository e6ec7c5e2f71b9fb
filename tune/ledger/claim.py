"""The right to write a study, held by one process at a time.

The lock in the study's folder keeps apart two drivers that share the folder; the claim keeps apart
two that share only the database. The claim is a row of a table of our own beside Optuna's tables,
with a number that grows with each claim (a fencing token). Each transaction of the holder's engine
reads this number before it commits, so a driver that was stalled while another took over writes
nothing more, however long it slept and whatever the clocks of the two machines say.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import sqlalchemy
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, Text, func, select

from core.errors import ClaimLost, StorageError, StudyError
from core.files import parse_json
from tune import processes
from tune.database import RefusedForNowError
from tune.ledger.storage import open_to_write

BEAT_SECONDS, CLAIM_SECONDS = 30, 180
"""Seconds between a holder's heartbeats, and seconds without a heartbeat after which the holder
counts as dead."""

CLAIMS = Table(
    "cell_tune_claims",
    MetaData(),
    Column("study", String(512), primary_key=True),
    Column("token", Integer, nullable=False),
    Column("driver", Text),
    Column("heard", DateTime(timezone=True), nullable=False),
)
"""A row for each study: the number of its last claim, the claim's holder as JSON (NULL once it gave
up the claim), and the time of its last heartbeat by the database's clock."""


class Claim:
    """A study's claim, which this process holds until the end of a `with` block.

    study      name of the study; the claim holds for the study of its confirmation too
    database   the study's database, opened to be written, and fenced by the claim: once another
               process has taken the claim over, each write raises ClaimLost
    """

    def __init__(self, url: str, study: str) -> None:
        """Claim a study in the database at a URL.

        Raises StudyError where the database cannot be opened, or where another living process holds
        the claim, and StorageError where the database refuses.
        """
        self.study = study
        self.database = open_to_write(url)
        self._token = 0
        self._beat = time.monotonic()
        engine = self.database.engine
        if engine is not None:
            self.database.call(lambda: self._take(engine))
            sqlalchemy.event.listen(engine, "commit", self._check)
            self.database.fence = self._verify
            self.database.settle = self._settle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give up the claim: this process no longer runs the study."""
        if kind is not None:
            # After a failure or an interrupt the last write is not worth minutes of patience.
            self.database.hurry()
        with contextlib.suppress(StorageError):  # the next driver finds that this process is gone
            self._write(driver=None)
        self.database.close()

    @property
    def is_held(self) -> bool:
        """Whether no other process has taken the study over.

        True also while the database does not answer: then nobody can take it over.
        """
        try:
            self.database.fence()
        except ClaimLost:
            return False
        except (RefusedForNowError, sqlalchemy.exc.SQLAlchemyError):
            pass
        return True

    @property
    def token(self) -> int:
        """The number of this claim; 0 for a database in memory, which needs none."""
        return self._token

    def beat(self) -> None:
        """Write a heartbeat, at most once in BEAT_SECONDS: this process still runs the study."""
        if time.monotonic() - self._beat >= BEAT_SECONDS:
            self._write(heard=func.now())
            self._beat = time.monotonic()

    def _settle(self) -> None:
        """Write a heartbeat before a write is tried again whose answer was lost.

        A connection may be lost while its last transaction still waits to be committed. The
        heartbeat changes the row that this transaction has locked (see `_check`), so it waits until
        that write is there or is undone: no write is done twice. It also tells the others that this
        process lives, which writes nothing else while it waits for the database.
        """
        self._once(heard=func.now())

    def _write(self, **values: Any) -> None:
        self.database.call(lambda: self._once(**values))

    def _once(self, **values: Any) -> None:
        engine = self.database.engine
        if engine is not None:
            with engine.begin() as connection:
                connection.execute(CLAIMS.update().where(self._is_ours).values(**values))

    @cached_property
    def _ours(self) -> sqlalchemy.Select[tuple[int]]:
        """The query for the claim's row while it is ours, built once: every transaction asks it."""
        return select(CLAIMS.c.token).where(self._is_ours).with_for_update(read=True)

    @property
    def _is_ours(self) -> sqlalchemy.ColumnElement[bool]:
        return (CLAIMS.c.study == self.study) & (CLAIMS.c.token == self._token)

    def _take(self, engine: sqlalchemy.engine.Engine) -> None:
        """Make the claim's row, or take it over from a holder that is dead or gave it up."""
        _make_table(engine)
        us = {"pid": os.getpid(), "host": socket.gethostname(), "machine": processes.machine_name()}
        ours = {"driver": json.dumps(us), "heard": func.now()}
        mine = CLAIMS.c.study == self.study
        with engine.begin() as connection:
            row = connection.execute(
                select(CLAIMS.c.token, CLAIMS.c.driver, CLAIMS.c.heard, func.now())
                .where(mine)
                .with_for_update()
            ).one_or_none()
            token = 0
            if row is not None:
                token, driver, heard, now = row
                if driver is not None:
                    self._refuse(parse_json(driver), (now - heard).total_seconds())
            try:
                if row is None:
                    connection.execute(CLAIMS.insert().values(study=self.study, token=1, **ours))
                else:
                    changed = connection.execute(
                        CLAIMS.update()
                        .where(mine & (CLAIMS.c.token == token))
                        .values(token=token + 1, **ours)
                    )
                    if changed.rowcount != 1:
                        raise StudyError(self._taken("another process"))
            except sqlalchemy.exc.IntegrityError:
                raise StudyError(self._taken("another process")) from None
        self._token = token + 1

    def _refuse(self, driver: Mapping[str, Any], silence: float) -> None:
        """Raise StudyError if the holder of the claim is alive.

        driver    the holder, as its row has it
        silence   seconds since its last heartbeat

        A holder is dead after CLAIM_SECONDS of silence, and on this machine also if its process is
        gone. This process may take over a claim of its own.
        """
        here = driver.get("machine") == processes.machine_name()
        if silence > CLAIM_SECONDS or (here and driver["pid"] == os.getpid()):
            return
        if not here or processes.is_running(driver["pid"]):
            raise StudyError(self._taken(f"process {driver['pid']} on host {driver['host']}"))

    def _taken(self, holder: str) -> str:
        return (
            f"study {self.study} is being searched by {holder}; wait for it or stop it (if it is"
            f" dead, {CLAIM_SECONDS // 60} minutes are enough), or give this search another --study"
            " name"
        )

    def _check(self, connection: sqlalchemy.Connection) -> None:
        """Let a transaction be committed only while the claim is ours, else raise ClaimLost.

        The row cannot change between this check and the commit: sqlite lets one process write at a
        time, and other databases lock the row by FOR SHARE.
        """
        if connection.execute(self._ours).one_or_none() is None:
            raise ClaimLost(
                f"another process has taken over study {self.study}, because this one was not"
                " heard of for too long; this search ends, and what it had saved is whole"
            )

    def _verify(self) -> None:
        """Raise ClaimLost if the claim is no longer ours."""
        engine = self.database.engine
        assert engine is not None
        with engine.begin():  # `_check` is called when it ends
            pass


def _make_table(engine: sqlalchemy.engine.Engine) -> None:
    try:
        CLAIMS.create(engine, checkfirst=True)
    except sqlalchemy.exc.DBAPIError:
        if not sqlalchemy.inspect(engine).has_table(CLAIMS.name):  # made by another at this moment
            raise
