"""Laws of helper threads: the results are those of one thread, in order, and nothing outlives."""

import functools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.helpers import AHEAD, Helpers


def after(seconds: float, value: int) -> int:
    time.sleep(seconds)
    return value


def helpers_alive() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("helper")]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 4), st.lists(st.floats(0, 0.003), max_size=25))
def test_results_come_in_the_order_of_the_tasks_whatever_the_number_of_helpers(
    count: int, seconds: list[float]
) -> None:
    tasks = [functools.partial(after, one, number) for number, one in enumerate(seconds)]
    with Helpers(count) as beside:
        assert list(beside.in_order(tasks)) == list(range(len(tasks)))
    assert helpers_alive() == []


def test_tasks_are_taken_no_further_ahead_than_the_helpers_can_hold() -> None:
    taken = 0

    def tasks() -> Iterator[Callable[[], int]]:
        nonlocal taken
        for number in range(30):
            taken += 1
            yield functools.partial(after, 0.002, number)

    with Helpers(2) as beside:
        for number in beside.in_order(tasks()):
            assert taken - number <= 2 * AHEAD


def test_the_caller_prepares_the_next_task_while_a_helper_works() -> None:
    prepared = threading.Event()

    def tasks() -> Iterator[Callable[[], bool]]:
        yield functools.partial(prepared.wait, 30)
        prepared.set()
        yield lambda: True

    with Helpers(1) as beside:
        assert list(beside.in_order(tasks())) == [True, True]


def test_without_helpers_each_task_runs_in_the_callers_thread_when_it_is_its_turn() -> None:
    ran: list[int] = []

    def tasks() -> Iterator[Callable[[], int]]:
        for number in range(3):
            assert ran == list(range(number))
            yield lambda number=number: ran.append(number) or threading.get_ident()

    with Helpers(0) as beside:
        assert set(beside.in_order(tasks())) == {threading.get_ident()}


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "a.png"), MemoryError(), KeyboardInterrupt()]
)
def test_an_exception_of_a_task_is_raised_as_it_is_in_the_place_of_its_result(
    count: int, error: BaseException
) -> None:
    def fail() -> int:
        raise error

    got = []
    with pytest.raises(type(error)) as raised, Helpers(count) as beside:  # noqa: PT012
        for number in beside.in_order([lambda: 0, lambda: 1, fail, lambda: 3]):
            got.append(number)
    assert raised.value is error
    assert got == [0, 1]
    assert helpers_alive() == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_ctrl_c_in_the_callers_thread_drops_what_has_not_begun_and_leaves_no_thread(
    count: int,
) -> None:
    begun = []

    def tasks() -> Iterator[Callable[[], None]]:
        for number in range(2 * max(count, 1)):
            yield lambda number=number: (begun.append(number), time.sleep(0.05))[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Helpers(count) as beside:
        list(beside.in_order(tasks()))
    assert len(begun) <= 2 * max(count, 1)
    assert helpers_alive() == []


def test_a_caller_that_stops_taking_results_leaves_no_thread() -> None:
    with Helpers(2) as beside:
        assert next(beside.in_order([functools.partial(after, 0.01, n) for n in range(9)])) == 0
    assert helpers_alive() == []
