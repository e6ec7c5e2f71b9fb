"""Laws of a search that is interrupted, asked to end, or whose Ray dies."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.replayed import (
    Search,
    begun,
)
from tune.ledger.reading import read_ledger
from tune.ledger.records import State

pytestmark = pytest.mark.fault


@pytest.mark.long
def test_ctrl_c_ends_a_study_of_long_epochs_within_half_a_minute_and_says_how_to_continue(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "interrupted",
        ("--parallel", "2", "--trials", "2", "--grace", "5s"),
        ("--epoch-seconds", "60"),
    )
    driver = search.start()
    search.wait_for("0-1-1", driver)
    search.wait_for("1-1-1", driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 130
    assert "to continue, run the same command again" in search.err
    assert "Traceback" not in search.err
    driver = search.start()
    search.wait_for("0-1-2", driver)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(5) == 130
    assert "Ended at once; to continue, run the same command again" in search.err
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(2)


@pytest.mark.long
def test_ctrl_c_lets_an_epoch_that_is_nearly_done_be_saved(tmp_path: Path) -> None:
    search = Search(
        tmp_path / "nearly", ("--parallel", "1", "--trials", "1"), ("--epoch-seconds", "4")
    )
    driver = search.start()
    search.wait_for("0-2-1", driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 130
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(1)
    assert begun(search.witness) == [(0, 1, 1), (0, 2, 1), (0, 3, 2)]


def test_sigterm_is_one_ctrl_c_an_epoch_that_is_nearly_done_is_saved_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    """`docker stop` and Kubernetes end one process, SLURM all of a job."""
    search = Search(
        tmp_path / "ended", ("--parallel", "1", "--trials", "1"), ("--epoch-seconds", "4")
    )
    for ends, (epoch, of_all) in enumerate([("0-1-1", False), ("0-2-2", True)], start=1):
        driver = search.start()
        search.wait_for(epoch, driver)
        for process in search.processes if of_all else [driver.pid]:
            os.kill(process, signal.SIGTERM)
        assert driver.wait(60) == 128 + signal.SIGTERM
        assert search.err == ends * "Interrupted; to continue, run the same command again\n"
        assert search.processes == {}
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(1)
    assert begun(search.witness) == [(0, 1, 1), (0, 2, 2), (0, 3, 3)]


def test_sigterm_in_a_confirmation_is_one_ctrl_c_and_the_same_command_confirms_the_rest(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "confirming",
        ("--parallel", "1", "--trials", "2", "--set", "confirm.top=1", "--set", "confirm.seeds=2"),
        ("--epoch-seconds", "2"),
    )
    driver = search.start()
    search.wait_for("confirm-0-2-1", driver)
    driver.terminate()
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert search.err == "Interrupted; to continue, run the same command again\n"
    assert search.processes == {}
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(2)
    reading = read_ledger(f"sqlite:///{search.results / 'faulty/study.db'}", "faulty.confirm")
    assert reading is not None
    assert [(record.state, record.attempts) for record in reading.records] == [
        (State.COMPLETE, 2),
        (State.COMPLETE, 1),
    ]
    epochs = sorted(path.name for path in search.witness.glob("confirm-*"))
    assert epochs == [
        f"confirm-{name}" for name in ("0-1-1", "0-2-1", "0-3-2", "1-1-1", "1-2-1", "1-3-1")
    ]


@pytest.mark.long
def test_sigterm_while_ray_starts_is_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    search = Search(tmp_path / "early", ("--parallel", "1", "--trials", "1"))
    driver = search.start()
    search.wait_for_process("gcs_server", driver)
    driver.terminate()
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert search.err.count("\n") == 1, search.err
    assert "to continue, run the same command again" in search.err
    assert search.processes == {}
    assert search.run() == 0, search.err
    search.assert_complete(1)


def test_a_search_whose_ray_dies_ends_at_once_in_one_sentence_with_all_its_processes(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "headless", ("--parallel", "1", "--trials", "1"), ("--epoch-seconds", "60")
    )
    driver = search.start()
    search.wait_for("0-1-1", driver)
    os.kill(search.wait_for_process("gcs_server", driver), signal.SIGKILL)
    begin = time.monotonic()
    assert driver.wait(60) == 1
    assert time.monotonic() - begin < 30  # Ray waits for a minute
    assert search.err.startswith("Ray's gcs_server has ended; ")
    assert search.err.endswith("run the same command again\n")
    assert search.err.count("\n") == 1
    assert search.processes == {}
    search.do = ()
    assert search.run() == 0, search.err
    search.assert_complete(1)


def test_after_a_second_ctrl_c_no_process_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    base = Path("/tmp") / f"t{os.getpid()}"  # short, for Ray's sockets
    base.mkdir()
    try:
        search = Search(
            tmp_path / "twice",
            ("--parallel", "1", "--trials", "1"),
            ("--epoch-seconds", "60"),
            {"TMPDIR": str(base)},
        )
        driver = search.start()
        search.wait_for("0-1-1", driver)
        assert list(base.glob("ct-*"))
        assert set(search.shared_memory.values()) == {False}  # nor would a kill leave any
        driver.send_signal(signal.SIGINT)
        time.sleep(0.5)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(15) == 130
        assert search.processes == {}
        assert not list(base.glob("ct-*"))
        assert search.err == "Ended at once; to continue, run the same command again\n"
    finally:
        shutil.rmtree(base)
