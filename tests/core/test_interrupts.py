"""Laws of SIGTERM: one Ctrl-C, however often it comes."""

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from core.interrupts import exit_status, grace, interrupted, note_interrupt, terminable

went_on: list[int] = []
"""The signals after which a block with a grace time went on."""


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """The answer to Ctrl-C is Python's own, also where a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_sigterm_interrupts_once_and_leaves_the_answer_as_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert (interrupted(), exit_status()) == (False, 130)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # some send several
        assert (interrupted(), exit_status()) == (True, 143)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not interrupted()
    with terminable():
        assert exit_status() == 130


def test_sigterm_is_answered_by_whatever_answers_ctrl_c() -> None:
    asked = []
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    with terminable():
        signal.raise_signal(signal.SIGTERM)
    assert asked == [signal.SIGINT]


def test_sigterm_interrupts_where_ctrl_c_is_ignored_too() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with terminable(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_a_ctrl_c_that_a_library_answers_is_known_until_the_command_ends() -> None:
    with terminable():
        note_interrupt()
        assert (interrupted(), exit_status()) == (True, 130)
    assert not interrupted()


def test_a_command_inside_a_command_leaves_sigterm_to_the_outer_one() -> None:
    with terminable():
        with pytest.raises(KeyboardInterrupt), terminable():
            signal.raise_signal(signal.SIGTERM)
        assert (interrupted(), exit_status()) == (True, 143)


def with_signals(*numbers: int, seconds: float = 1000, then: Callable[[], object] = int) -> None:
    """Raise signals in a block with a grace time, and note after which of them it went on."""
    went_on.clear()
    with grace(seconds):
        for number in numbers:
            signal.raise_signal(number)
            went_on.append(number)
            assert interrupted()
        then()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_has_a_grace_time_ends_in_order_and_then_the_command_does(number: int) -> None:
    with terminable():
        with pytest.raises(KeyboardInterrupt):
            with_signals(number)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert went_on == [number]
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_what_does_not_end_in_its_grace_time_is_given_up(seconds: float) -> None:
    with terminable(), pytest.raises(KeyboardInterrupt):
        with_signals(signal.SIGTERM, seconds=seconds, then=lambda: time.sleep(1000))


def test_a_second_ctrl_c_gives_up_at_once_and_a_second_sigterm_does_not() -> None:
    with terminable(), pytest.raises(KeyboardInterrupt):
        with_signals(signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT)
    assert went_on == [signal.SIGTERM, signal.SIGTERM]


def test_a_block_that_nobody_interrupts_changes_nothing() -> None:
    alarm = signal.getsignal(signal.SIGALRM)
    with terminable(), grace(0.01):
        time.sleep(0.05)
    assert not interrupted()
    assert signal.getsignal(signal.SIGALRM) == alarm
