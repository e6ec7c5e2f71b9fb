"""Laws of a search whose MLflow is away, or holds a lock, for a while."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replayed import (
    EPOCHS,
    Search,
    begun,
    locked,
    read_table,
)

pytestmark = pytest.mark.fault


@contextlib.contextmanager
def mlflow_server(
    folder: Path, port: int, backend: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server of MLflow on a database of its own, a file where none is named."""
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--backend-store-uri",
                backend or f"sqlite:///{folder / 'away.db'}", "--artifacts-destination",
                str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers",
                "1",
            ],
            stdout=log, stderr=log, start_new_session=True,
            # Six processes for jobs of MLflow's own, which nobody gives it here.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
    try:
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        until = time.monotonic() + 90
        while True:
            assert time.monotonic() < until, (folder / "server.log").read_text()
            try:
                ask(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.long
def test_what_a_server_of_mlflow_missed_while_it_was_away_is_there_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    search = Search(
        tmp_path / "server",
        ("--parallel", "1", "--tracking-uri", f"http://127.0.0.1:{port}"),
        ("--epoch-seconds", "1.5"),
    )
    with mlflow_server(tmp_path, port):
        driver = search.start()
        search.wait_for("1-2-1", driver)
    search.wait_for("3-2-1", driver)  # the search goes on
    with mlflow_server(tmp_path, port):
        assert driver.wait(200) == 0, search.err
        assert "MLflow does not show" not in search.out
        search.assert_complete(6, f"http://127.0.0.1:{port}")


@pytest.mark.long
def test_a_study_ends_without_mlflow_says_what_is_not_shown_and_the_same_command_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    search = Search(
        tmp_path / "server",
        ("--parallel", "1", "--tracking-uri", f"http://127.0.0.1:{port}"),
        ("--epoch-seconds", "1"),
    )
    with mlflow_server(tmp_path, port):
        driver = search.start()
        search.wait_for("2-2-1", driver)
    assert driver.wait(200) == 0, search.err
    assert "MLflow does not show trials" in search.out
    assert [row["state"] for row in read_table(search.results / "faulty")] == ["COMPLETE"] * 6
    with mlflow_server(tmp_path, port):
        assert search.run() == 0, search.err
        search.assert_complete(6, f"http://127.0.0.1:{port}")
    assert len(begun(search.witness)) == 6 * EPOCHS


@pytest.mark.long
def test_a_database_of_mlflow_that_is_locked_for_a_while_holds_up_no_trial_and_misses_nothing(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path / "locked", ("--parallel", "1"), ("--epoch-seconds", "1"))
    driver = search.start()
    search.wait_for("1-1-1", driver)
    with locked(search.results / "mlflow.db"):
        search.wait_for("4-1-1", driver)
    assert driver.wait(200) == 0, search.err
    assert "MLflow does not show" not in search.out
    search.assert_complete(6)
