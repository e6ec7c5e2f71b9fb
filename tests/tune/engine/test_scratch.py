"""Laws of temporary folders: short, and removed by whoever comes next where their owner could
not.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from core.errors import ResourceError
from tune.engine import scratch

HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from tune.engine import scratch
scratch.LONGEST_BASE = 1000
with scratch.folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(base: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process that has a folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(base)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "LONGEST_BASE", 1000)
    return tmp_path


def test_what_a_killed_owner_left_goes_with_the_next_folder_and_what_is_in_use_or_anothers_stays(
    base: Path,
) -> None:
    dead, left = holder(base)
    alive, used = holder(base)
    (left / "ray").mkdir()
    (left / "ray" / "socket").touch()
    dead.kill()
    dead.communicate()
    (base / "ct-foreign").mkdir()  # no file says whose it is
    (base / "ct-file").touch()
    (base / "ct-link").symlink_to(used)
    stay = {used.name, "ct-foreign", "ct-file", "ct-link"}
    with scratch.folder() as mine, scratch.folder() as other:
        assert not left.exists()
        assert {path.name for path in base.iterdir()} == {mine.name, other.name, *stay}
    assert {path.name for path in base.iterdir()} == stay
    alive.communicate(timeout=30)
    assert not used.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_the_folder_of_another_user_stays(base: Path) -> None:
    dead, left = holder(base)
    dead.kill()
    dead.communicate()
    os.chown(left, 12345, 12345)
    with scratch.folder():
        assert left.exists()


def test_a_folder_is_short_enough_for_the_sockets_in_it_wherever_tmpdir_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with scratch.folder() as folder:
        socket = folder / "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
        assert len(os.fsencode(socket)) <= 107
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(long.iterdir()) == []


def test_where_nothing_short_can_be_written_tmpdir_and_the_rule_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_FALLBACK", tmp_path / "missing")
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 60)
    with (
        pytest.raises(
            ResourceError,
            match=r"^TMPDIR must have at most \d+ bytes, .* and /x+ has 61; set TMPDIR to",
        ),
        scratch.folder(),
    ):
        pass
    monkeypatch.setattr(tempfile, "tempdir", "/missing")
    with (
        pytest.raises(
            ResourceError,
            match=r"^TMPDIR must be a folder that can be written, and /missing is not",
        ),
        scratch.folder(),
    ):
        pass
