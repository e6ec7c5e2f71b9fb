"""The frame of every command line: its errors end in one sentence and an exit status.

A command line parses its arguments before it imports what does the work: torch and Ray take
seconds, and `--help` or a wrong option is answered at once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

from core.console import complain
from core.errors import BadRequest, CellTuneError
from core.files import refused
from core.interrupts import exit_status, terminable


class Main(Protocol):
    """The `main` of a command line."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command; returns its exit status.

        arguments   without the program's name; None for those of the process
        """


def command_line(interrupted: str) -> Callable[[Main], Main]:
    """Decorate a `main` so that expected errors are printed and become its exit status.

    The status is 2 for a wrong request; 1 for any other error of ours, and where the system
    refuses a file; 130 after Ctrl-C and 143 after SIGTERM. Each is one sentence on standard error.

    interrupted   the sentence after an interruption that brings none of its own
    """

    def framed(main: Main) -> Main:
        @functools.wraps(main)
        def run(arguments: Sequence[str] | None = None) -> int:
            with terminable():
                try:
                    return main(arguments)
                except BadRequest as error:
                    complain(error)
                    return 2
                except CellTuneError as error:
                    complain(error)
                except OSError as error:
                    complain(refused(error, again=True))
                except KeyboardInterrupt as error:
                    complain(error if error.args else interrupted)
                    return exit_status()
                return 1

        return run

    return framed
