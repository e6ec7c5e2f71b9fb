"""Words of messages: counts, lists, and text that others wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.text import listed, many, shown


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (1, "epoch", "1 epoch"),
        (0, "epoch", "0 epochs"),
        (2, "batch", "2 batches"),
        (3, "class", "3 classes"),
        (2, "annotated image", "2 annotated images"),
        (2, "copy", "2 copies"),
        (2, "day", "2 days"),
        (12345, "instance", "12,345 instances"),
    ],
)
def test_a_noun_agrees_with_its_count(count: int, noun: str, expected: str) -> None:
    assert many(count, noun) == expected


def test_an_irregular_plural_is_the_one_given() -> None:
    assert many(2, "axis", "axes") == "2 axes"
    assert many(1, "axis", "axes") == "1 axis"


def test_a_list_ends_with_and() -> None:
    assert [listed(list("abc")[:length]) for length in range(4)] == ["", "a", "a and b", "a, b and c"]


@given(st.text())
def test_printable_text_is_shown_as_it_is(text: str) -> None:
    assert (shown(text) == text) == text.isprintable()


@given(st.text(st.characters(codec=None)))
def test_what_is_shown_is_one_line_that_any_terminal_only_displays(text: str) -> None:
    safe = shown(text)
    assert safe.isprintable()
    assert safe.encode() or not text
    assert shown(safe) == safe


@pytest.mark.parametrize(
    ("foreign", "expected"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("cell\u202egpj.exe", r"cell\u202egpj.exe"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\udcff.png", r"\udcff.png"),
        ("\x9b2J", r"\x9b2J"),
        ("Zellkerne, 細胞", "Zellkerne, 細胞"),
    ],
)
def test_escape_sequences_reach_no_terminal(foreign: str, expected: str) -> None:
    assert shown(foreign) == expected
