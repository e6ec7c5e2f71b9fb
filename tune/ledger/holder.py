"""The process that holds the claim of a study, as others see it. Nothing here writes."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import func, select

from core.files import parse_json
from tune import processes
from tune.ledger.claim import CLAIM_SECONDS, CLAIMS
from tune.ledger.damage import damaged
from tune.ledger.storage import open_to_read


@dataclass(frozen=True)
class Holder:
    """The process that claimed a study, and has not given it up.

    token      number of the claim: a later claim has a larger one
    silence    seconds since its last heartbeat, both by the database's clock
    is_alive   whether it counted as alive when this was read, by the rule by which another driver
               would be refused
    """

    pid: int
    host: str
    token: int
    silence: float
    is_alive: bool


def holder_of(storage: str, study: str) -> Holder | None:
    """The process that holds the claim of a study; None if none does.

    Raises StudyError where the ledger cannot be opened, StorageError where it cannot be read.
    """
    with open_to_read(storage) as database:
        engine = None if database is None else database.engine
        if database is None or engine is None:
            return None

        def read() -> Any:
            if not sqlalchemy.inspect(engine).has_table(CLAIMS.name):
                return None
            with engine.connect() as connection:
                return connection.execute(
                    select(CLAIMS.c.token, CLAIMS.c.driver, CLAIMS.c.heard, func.now()).where(
                        CLAIMS.c.study == study
                    )
                ).one_or_none()

        row = database.call(read)
    if row is None or row[1] is None:
        return None
    token, text, heard, now = row
    try:
        driver = parse_json(text)
        pid, host, machine = int(driver["pid"]), str(driver["host"]), driver.get("machine")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(f"the claim of study {study} in the ledger", error) from error
    silence, here = (now - heard).total_seconds(), machine == processes.machine_name()
    is_alive = silence <= CLAIM_SECONDS and (not here or processes.is_running(pid))
    return Holder(pid, host, int(token), silence, is_alive)
