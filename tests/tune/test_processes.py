"""Laws of finding the processes that a search starts."""

import subprocess
import time
from pathlib import Path

import pytest

from tune.processes import is_running, marked

CHILD_WITHOUT_MARK = "env -i sleep 1000 & echo $!; wait"
"""A shell whose child has lost its environment, as has a process of Ray that names itself."""


def shell() -> tuple[subprocess.Popen[str], int]:
    """The shell, and its child once that is a program of its own."""
    parent = subprocess.Popen(["sh", "-c", CHILD_WITHOUT_MARK], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as said:
        child = int(said.readline())
    while Path(f"/proc/{child}/cmdline").read_bytes() != b"sleep\x001000\x00":
        time.sleep(0.01)
    return parent, child


@pytest.mark.parametrize("look_before", [True, False])
def test_a_process_that_lost_its_mark_is_found_by_its_parent_and_known_after_the_parents_end(
    look_before: bool,
) -> None:
    with marked() as started:
        parent, child = shell()
    with marked() as others:
        stranger = subprocess.Popen(["sleep", "1000"])
    try:
        if look_before:
            assert started.living() == sorted([parent.pid, child])
            parent.kill()
            parent.wait()
            assert started.living() == [child]
        started.end()
        assert not is_running(child)
        assert started.living() == []
        assert others.living() == [stranger.pid]
    finally:
        others.end()
        parent.wait()
        stranger.wait()
