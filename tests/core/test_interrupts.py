"""Laws of SIGTERM: one Ctrl-C, however often it comes."""

import signal
from collections.abc import Iterator

import pytest

from core.interrupts import exit_status, interrupted, note_interrupt, terminable


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
