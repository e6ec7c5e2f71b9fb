"""What command lines print."""

import io

import pytest
from rich.console import Console

from core.console import complain, say

HOSTILE = "variant [bold]\x1b]0;owned\x07[/bold] :bug: \udcff\ntwo"
SHOWN = r"variant [bold]\x1b]0;owned\x07[/bold] :bug: \udcff\ntwo"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_is_printed_as_it_is_and_a_terminal_obeys_nothing_in_it(terminal: bool) -> None:
    out = io.StringIO()
    say(Console(file=out, force_terminal=terminal, width=20), HOSTILE)
    assert out.getvalue() == f"{SHOWN}\n"


def test_an_error_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    complain(ValueError(HOSTILE))
    assert capsys.readouterr() == ("", f"{SHOWN}\n")
