"""Laws of every command line: an error of ours is one sentence and an exit status."""

import signal
from collections.abc import Sequence

import pytest

from core.command import command_line
from core.errors import BadRequest, CellTuneError, DataError, StorageError


def ended(raised: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status of a command in which this is raised, and what it says."""

    @command_line(interrupted="Interrupted; give the same command again")
    def main(arguments: Sequence[str] | None = None) -> int:
        assert arguments is None
        if raised is not None:
            raise raised
        return 0

    status = main()
    printed = capsys.readouterr()
    assert printed.out == ""
    return status, printed.err


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (None, 0, ""),
        (BadRequest("no"), 2, "no\n"),
        (DataError("no image"), 2, "no image\n"),
        (StorageError("full"), 1, "full\n"),
        (CellTuneError("\x1b[2J"), 1, "\\x1b[2J\n"),
        (KeyboardInterrupt(), 130, "Interrupted; give the same command again\n"),
        (KeyboardInterrupt("half is done"), 130, "half is done\n"),
        (
            OSError(28, "No space left on device", "a.json"),
            1,
            "a.json cannot be used (No space left on device): free space on its disk, then run the"
            " same command again; what was saved is whole\n",
        ),
    ],
)
def test_each_error_has_its_status_and_one_sentence(
    raised: BaseException | None, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(raised, capsys) == (status, said)


def test_what_nobody_raised_on_purpose_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError(), capsys)


def test_sigterm_ends_a_command_as_ctrl_c_does(capsys: pytest.CaptureFixture[str]) -> None:
    @command_line(interrupted="Interrupted")
    def main(arguments: Sequence[str] | None = None) -> int:
        signal.raise_signal(signal.SIGTERM)
        return len(arguments or ())

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main([]) == 143
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "Interrupted\n"
