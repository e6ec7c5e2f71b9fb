"""Orders of people to a study that runs: to stop a trial, to try one again, to end for now.

An order comes from a process without a claim, and not from the driver. So it is only added: it is a
new attribute of an Optuna study of its own, `STUDY.orders`, and changes nothing that the driver
writes. The driver alone acts. It reads the orders about once a second, carries each one out within
an epoch, and adds an answer. The study of the orders has no trials, and these attributes:

order ID    the order, who gave it and when (see `Order`)
answer ID   the driver's answer (see `OrderAnswer`)

An order is carried out once, whatever dies. Its id is stored with the trial that it changes, in the
transaction that changes it, so a driver that finds it there has only the answer left to write. An
order to end holds only for the driver that ran when it was given: the next one continues the study.
"""

import contextlib
import getpass
import socket
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from core.errors import StudyError
from tune.ledger.runs import now_ms
from tune.ledger.storage import Database, StoredStudy, open_to_read, study_to_read


class Deed(StrEnum):
    """The kinds of orders."""

    STOP = "stop"
    """A trial that has not ended ends after its epoch, and keeps its epochs."""
    REQUEUE = "requeue"
    """A trial that failed or was stopped gets another attempt."""
    DRAIN = "drain"
    """Running trials end their epoch and are saved, and the search ends."""


@dataclass(frozen=True)
class OrderAnswer:
    """The driver's answer to an order.

    done   whether the order was carried out
    said   a sentence without a full stop
    at     the time by the driver's clock, in milliseconds since 1970
    """

    done: bool
    said: str
    at: int


@dataclass(frozen=True)
class Order:
    """An order of a person to a study.

    id       a name that no other order has
    trial    number of the trial of the search; None where the order concerns the whole study
    by       the person who gives the order, and the host
    at       the time by that host's clock, in milliseconds since 1970
    token    number of the driver's claim when the order was given; 0 if nobody drove the study
    answer   None as long as the driver has not answered
    """

    id: str
    deed: Deed
    trial: int | None
    by: str
    at: int
    token: int = 0
    answer: OrderAnswer | None = None

    @property
    def asked(self) -> str:
        """The order in words: `stop trial 3`."""
        return str(self.deed) if self.trial is None else f"{self.deed} trial {self.trial}"


def order_of(deed: Deed, trial: int | None, token: int) -> Order:
    """An order that the user of this process gives now."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        user = "somebody"
    by = f"{user} on host {socket.gethostname()}"
    return Order(uuid.uuid4().hex, deed, trial, by, now_ms(), token)


def place_order(storage: str, study: str, order: Order) -> None:
    """Leave an order in the ledger at a URL.

    Raises StudyError where there is no ledger, StorageError where it cannot be written.
    """
    content = asdict(order)
    del content["id"], content["answer"]
    with open_to_read(storage) as database:  # it must be there: nothing is made but the order
        if database is None:
            raise StudyError(f"{study} has no ledger in which an order could be left")
        database.made_study(orders_name(study)).set_attribute(f"order {order.id}", content)


def read_orders(storage: str, study: str) -> list[Order]:
    """All orders of a study, the oldest first. Raises the errors of `read_ledger`."""
    with study_to_read(storage, orders_name(study)) as found:
        return [] if found is None else _orders_in(found.attributes())


def orders_name(study: str) -> str:
    """The name of the Optuna study that holds the orders of a study."""
    return f"{study}.orders"


def _orders_in(attributes: Mapping[str, Any]) -> list[Order]:
    orders = []
    for name, content in attributes.items():
        kind, _, key = name.partition(" ")
        if kind == "order":
            # An order of another version is left to a driver that knows it.
            with contextlib.suppress(KeyError, TypeError, ValueError):
                orders.append(_order_in(key, content, attributes.get(f"answer {key}")))
    return sorted(orders, key=lambda order: (order.at, order.id))


def _order_in(key: str, content: Any, answer: Any) -> Order:
    return Order(
        key,
        Deed(content["deed"]),
        None if content["trial"] is None else int(content["trial"]),
        str(content["by"]),
        int(content["at"]),
        int(content["token"]),
        None if answer is None else OrderAnswer(**answer),
    )


class OrderBook:
    """The orders of a study as its driver reads and answers them.

    database   the database, fenced by the driver's claim
    """

    def __init__(self, database: Database, study: str) -> None:
        self._database, self._name = database, orders_name(study)
        self._study: StoredStudy | None = None

    def unanswered(self) -> list[Order]:
        """The orders that wait for an answer, the oldest first."""
        self._study = self._study or self._database.study(self._name)
        if self._study is None:
            return []
        return [order for order in _orders_in(self._study.attributes()) if order.answer is None]

    def answer(self, order: Order, done: bool, said: str) -> None:
        """Store the answer to an order that `unanswered` returned."""
        assert self._study is not None
        self._study.set_attribute(f"answer {order.id}", asdict(OrderAnswer(done, said, now_ms())))
