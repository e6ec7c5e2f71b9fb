"""Orders of people to a study: refused where they make no sense, and else left for its driver."""

from core.errors import StudyError
from tune.ledger.orders import Deed, Order, order_of, place_order
from tune.ledger.records import State
from tune.study.standing import Standing

_WORDS = {
    State.RUNNING: "runs",
    State.COMPLETE: "is complete",
    State.PRUNED: "was stopped early",
    State.FAIL: "has failed",
}


def ask(standing: Standing, deed: Deed, trial: int | None = None) -> Order:
    """Leave an order in the ledger of a study, and return it.

    trial   number of a trial of the search; None for an order to end the run

    Raises StudyError where the order makes no sense, StorageError where the ledger refuses.
    """
    why = _refusal(standing, deed, trial)
    if why is not None:
        raise StudyError(why)
    order = order_of(deed, trial, 0 if standing.holder is None else standing.holder.token)
    if any(one.answer is None and one.asked == order.asked for one in standing.orders):
        raise StudyError(
            f"the driver of {standing.name} has been asked already to {order.asked}, and has not"
            " answered yet; wait for its answer"
        )
    place_order(standing.storage, standing.name, order)
    return order


def _refusal(standing: Standing, deed: Deed, trial: int | None) -> str | None:
    """The reason why an order makes no sense, with a way out; None if it does."""
    name, records = standing.name, standing.searched.records
    if deed is Deed.DRAIN:
        return (
            None
            if standing.is_driven
            else f"--drain ends a search that runs, and nobody drives {name}: nothing is to end"
        )
    option = f"--{deed}"
    if trial is None or not 0 <= trial < len(records):
        there = f"has trials 0 to {len(records) - 1}" if records else "has no trial yet"
        return f"{option} must name a trial of {name}, which {there}, and is {trial}"
    state = records[trial].state
    if deed is Deed.STOP and state is not State.RUNNING:
        return f"{option} {trial}: only a trial that runs can be stopped, and it {_WORDS[state]}"
    if deed is Deed.REQUEUE:
        if state not in (State.FAIL, State.PRUNED):
            return (
                f"{option} {trial}: only a trial that failed or was stopped gets another attempt,"
                f" and it {_WORDS[state]}"
            )
        if standing.confirmed is not None:
            return (
                f"{option} {trial}: the candidates of the confirmation of {name} are chosen, and"
                " the trial cannot be one of them any more; run its settings in another study"
            )
    return None
