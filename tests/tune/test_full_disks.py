"""Laws of a study whose disk is full, or whose folders cannot be made or written."""

import contextlib
import io
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.replayed_search import Script
from core.errors import StorageError
from tests.replayed import (
    EPOCHS,
    Search,
    begun,
    plan_of,
    read_table,
    searching,
)
from tune.ledger.ledger import open_ledger
from tune.ledger.records import State
from tune.search import main
from tune.study import conductor as study

pytestmark = pytest.mark.fault


def test_a_file_that_cannot_grow_stops_the_study_in_one_sentence_and_costs_no_trial(
    tmp_path: Path,
) -> None:
    witness = tmp_path / "witness"
    witness.mkdir()
    plan = plan_of(tmp_path / "results", search={"sampler": "random", "trials": 3, "seed": 0})
    script = Script(witness, [("full", 1, 2, 1)], epoch_seconds=0.1)
    with pytest.raises(
        StorageError,
        match=r"trials/1\S* cannot be written: File too large; see to it, then run the same",
    ):
        study.run_study(plan, Console(file=io.StringIO()), script)
    left = open_ledger(plan.storage, plan.request)
    assert not left.finished
    assert State.FAIL not in {record.state for record in left.records}
    assert study.run_study(plan, Console(file=io.StringIO()), script)
    records = open_ledger(plan.storage, plan.request).records
    assert [(record.state, record.lost) for record in records] == [(State.COMPLETE, 0)] * 3
    assert [row["state"] for row in read_table(plan.folder.path)] == ["COMPLETE"] * 3


def test_a_results_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(searching(tmp_path, tmp_path / "file" / "results")) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "file") in said


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_read_only_results_folder_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "results", "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "results")], check=True)
        assert main(searching(tmp_path, tmp_path / "results")) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Read-only file system" in said


@pytest.mark.long
def test_a_full_disk_stops_the_study_in_one_sentence_and_with_space_the_same_command_ends_it(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path / "full", ("--parallel", "2"), ("--epoch-seconds", "0.5"))
    with mounted(search.results, "8m"):
        driver = search.start()
        search.wait_for("2-1-1", driver)
        ballast = search.results / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert driver.wait(120) == 1
        assert search.err.count("\n") == 1, search.err
        assert "run the same command again" in search.err
        ballast.unlink()
        assert search.run() == 0, search.err
        search.assert_complete(6)
        assert len(begun(search.witness)) <= 6 * EPOCHS + 2


@pytest.mark.long
def test_a_ledger_that_cannot_grow_stops_the_study_in_one_sentence_and_the_same_command_ends_it(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path / "limited", ("--parallel", "1"), ("--epoch-seconds", "0.5"))
    driver = search.start()
    search.wait_for("2-1-1", driver)
    # Of the files that the driver writes, only its databases are larger; they take nothing from now
    # on.
    resource.prlimit(driver.pid, resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
    assert driver.wait(120) == 1
    assert search.err.count("\n") == 1, search.err
    assert "run the same command again" in search.err
    assert search.run() == 0, search.err
    search.assert_complete(6)


def test_a_search_runs_where_home_cannot_be_written_and_tmpdir_is_too_long_for_sockets(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    long = tmp_path / ("x" * 90)
    long.mkdir()
    search = Search(
        tmp_path / "homeless",
        ("--parallel", "1", "--trials", "1"),
        environment={"HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(long)},
    )
    assert search.run() == 0, search.err
    search.assert_complete(1)
    assert search.processes == {}


def test_a_place_for_rays_token_that_cannot_be_written_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "token"))
    assert main(searching(tmp_path, tmp_path / "results", "--trials", "1")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(
        "RAY_AUTH_TOKEN_PATH must name a file that Ray's token can be kept in, and "
    )
    assert "unset it" in said
