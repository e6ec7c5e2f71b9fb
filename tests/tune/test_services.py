"""A search on services that a team runs: a PostgreSQL, a server of MLflow, and a cluster of Ray that
was started by hand. All are real, and each goes away or is killed while the search runs.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import optuna
import pytest

from tests.cluster import BEST_BYTES, Cluster, namespaces_are_allowed, weights
from tests.postgresql import Server, connections_closed
from tests.replayed import EPOCHS, read_table, searching
from tests.tune.tracking.test_mlflow_away import free_port, mlflow_server
from tune.ledger.reading import read_ledger

pytestmark = pytest.mark.fault

TRIALS = 6


def epochs_in(url: str) -> int:
    reading = read_ledger(url, "faulty")
    return 0 if reading is None else sum(len(record.epochs) for record in reading.records)


def wait_for_epochs(
    url: str, count: int, driver: subprocess.Popen[str], said: Callable[[], str]
) -> None:
    until = time.monotonic() + 200
    while epochs_in(url) < count:
        assert driver.poll() is None, said()
        assert time.monotonic() < until, said()
        time.sleep(0.2)


@pytest.mark.skipif(
    not namespaces_are_allowed(), reason="a node of its own needs the right to namespaces"
)
@pytest.mark.parametrize(
    "seconds_away",
    [20, pytest.param(60, marks=[pytest.mark.long, pytest.mark.often])],
    ids="PostgreSQL away for {} s".format,
)
def test_a_search_on_services_ends_whole_although_each_of_them_was_away_or_killed(
    seconds_away: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port, witness = free_port(), tmp_path / "witness"
    witness.mkdir()
    tracking = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        server = Server()
        stack.callback(server.remove)
        stack.enter_context(connections_closed())
        url, of_mlflow = (server.url(server.create()) for _ in range(2))
        stack.enter_context(mlflow_server(tmp_path, port, of_mlflow))
        nodes = Cluster(tmp_path)
        stack.callback(nodes.stop)
        for node in ("head", "one"):
            nodes.start(node, 1)
            nodes.wait_for(node)

        def search(results: str) -> subprocess.Popen[str]:
            arguments = searching(
                tmp_path, tmp_path / results, "--storage", url, "--tracking-uri", tracking
            )
            return nodes.search(witness, 2.0, *arguments, loss=False)

        hold = tmp_path / "hold"

        def said() -> str:
            return (tmp_path / "out").read_text() + (tmp_path / "err").read_text()

        driver = search("results")
        wait_for_epochs(url, 2, driver, said)

        hold.touch()
        assert search("elsewhere").wait(150) == 2, said()
        (sentence,) = (tmp_path / "err").read_text().splitlines()
        assert f"is being searched by process {driver.pid} on host" in sentence
        hold.unlink()

        server.stop()
        time.sleep(seconds_away)
        assert driver.poll() is None, said()
        server.start()
        wait_for_epochs(url, epochs_in(url) + 2, driver, said)

        nodes.kill("one")
        wait_for_epochs(url, epochs_in(url) + 2, driver, said)

        driver.kill()
        driver.wait(30)
        again = search("results")
        assert again.wait(300) == 0, said()
        assert "MLflow does not show" not in said()

        trials = optuna.load_study(study_name="faulty", storage=url).trials
        client = mlflow.MlflowClient(tracking)
        experiment = client.get_experiment_by_name("faulty")
        runs = client.search_runs([experiment.experiment_id], "tags.phase = 'search'")
        shown = {int(run.data.tags["trial"]): run for run in runs}
        assert len(runs) == len(shown) == len(trials) == TRIALS
        for trial in trials:
            assert trial.state.name == "COMPLETE"
            assert sorted(trial.intermediate_values) == list(range(1, EPOCHS + 1))
            run = shown[trial.number]
            history = client.get_metric_history(run.info.run_id, "ap50")
            assert len(history) == EPOCHS
            assert {point.step: point.value for point in history} == trial.intermediate_values
            assert run.info.status == "FINISHED"
            kept = {file.path for file in client.list_artifacts(run.info.run_id)}
            assert {"config.json", "epochs.csv"} <= kept
        reading = read_ledger(url, "faulty")
        assert reading is not None
        assert [record.curve for record in reading.records] == [
            list(trial.intermediate_values.values()) for trial in trials
        ]
        winner = max(reading.records, key=lambda record: record.curve[-1])
    best = tmp_path / f"results/faulty/trials/{winner.id}/best-{EPOCHS:04d}.safetensors"
    assert best.read_bytes() == weights(winner.settings, EPOCHS, BEST_BYTES)
    assert [row["state"] for row in read_table(tmp_path / "results/faulty")] == [
        "COMPLETE"
    ] * TRIALS
