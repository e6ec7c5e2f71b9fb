"""Laws of the view in MLflow, on a real database."""

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException

from tests.tracking_database import provide
from tune.ledger.ledger import open_ledger
from tune.ledger.records import State, TrialRecord
from tune.request.file import from_document
from tune.tracking import mlflow_view
from tune.tracking.mlflow_destination import Destination
from tune.tracking.mlflow_errors import CopiedFolderError, ExperimentDeletedError, trouble_of
from tune.tracking.mlflow_models import show_retraining
from tune.tracking.mlflow_runs import TrialRuns, show_report
from tune.tracking.mlflow_tracker import MLflow
from tune.tracking.thread import TrackingThread
from tune.tracking.tracker import Retraining, TrackedStudy, TrialsView

VIEW = TrackedStudy("view", "one")
SPACE = {
    "study": "view",
    "data": "synthetic",
    "fixed": {"optim.epochs": 2},
    "space": {"optim.learning_rate": {"low": 1e-4, "high": 1e-2}},
    "search": {"sampler": "random", "trials": 3},
    "stop_early": {"rule": "none"},
}


def epoch(number: int) -> dict[str, Any]:
    losses = {"loss": 1 / number, "loss_mask": 0.5}
    return {
        "epoch": number,
        "ap50": number / 10,
        "at": number * 1000,
        "seconds": 1.0,
        "losses": losses,
    }


def record(number: int, state: State = State.COMPLETE, **changes: Any) -> TrialRecord:
    settings = {"optim.epochs": 2, "optim.learning_rate": 0.1 + number}
    return TrialRecord(
        number, state=state, settings=settings, epochs=(epoch(1), epoch(2)), **changes
    )


def runs(destination: Destination, ledger: str = "one") -> dict[str, Any]:
    client = mlflow.MlflowClient(destination.uri)
    experiment = client.get_experiment_by_name("view")
    found = client.search_runs(
        [experiment.experiment_id], f"tags.phase = 'search' and tags.ledger = '{ledger}'"
    )
    assert len({run.data.tags["trial"] for run in found}) == len(found)
    return {run.data.tags["trial"]: run for run in found}


def curve(destination: Destination, run: Any) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(destination.uri).get_metric_history(run.info.run_id, "ap50")
    return [(point.step, point.value) for point in history]


@pytest.fixture
def destination(tmp_path: Path) -> Destination:
    return Destination.at(None, provide(tmp_path))


def show(destination: Destination, *records: TrialRecord, ledger: str = "one") -> TrackingThread:
    tracker = MLflow(destination.uri, destination.artifacts.parent)
    study = TrackedStudy("view", ledger)
    thread = TrackingThread(tracker, study, "search", lambda number: Path(f"none/{number}"))
    for each in records:
        thread.show(each)
    return thread


def test_showing_a_record_again_from_another_process_s_view_changes_nothing(
    destination: Destination,
) -> None:
    for _ in range(2):
        failed = record(1, State.FAIL, reason="diverged")
        unnamed = record(2, State.FAIL, reason="no file donn\udce9es")
        assert not show(destination, record(0), failed, unnamed).close(ended=True)
    shown = runs(destination)
    assert sorted(shown) == ["0", "1", "2"]
    assert shown["2"].data.tags["reason"] == r"no file donn\udce9es"
    assert curve(destination, shown["0"]) == [(1, 0.1), (2, 0.2)]
    assert shown["1"].data.tags["reason"] == "diverged"


def test_what_limited_a_class_is_shown_as_shares(destination: Destination) -> None:
    limits = [
        {
            "instances": {"found": 3, "not_found": 1},
            "called": [0, 0],
            "detections": {"right": 3, "background": 0},
            "mended": {"not_found": 0.75, "background": None},
        },
        {"instances": {"found": 0}, "called": [0, 0], "detections": {"right": 0}, "mended": {}},
    ]
    shown = record(0)
    shown = replace(shown, epochs=(shown.epochs[0], {**shown.epochs[1], "limits": limits}))
    assert not show(destination, shown).close(ended=True)
    found = runs(destination)["0"].data.metrics
    assert {name: value for name, value in found.items() if name.startswith("limits/")} == {
        "limits/class 1/instances/found": 0.75,
        "limits/class 1/instances/not_found": 0.25,
        "limits/class 1/detections/right": 1.0,
        "limits/class 1/detections/background": 0.0,
        "limits/class 1/mended/not_found": 0.75,
    }


def test_a_trial_that_is_shown_to_its_end_is_not_written_again_and_one_that_is_not_is_completed(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = record(1, State.PRUNED)
    half = replace(half, state=State.RUNNING, epochs=half.epochs[:1])
    assert not show(destination, record(0), half).close(ended=False)
    written: list[int] = []
    write = TrialRuns.write

    def noted(trials: TrialRuns, record: TrialRecord, folder: Path) -> str:
        written.append(record.id)
        return write(trials, record, folder)

    monkeypatch.setattr(TrialRuns, "write", noted)
    thread = show(destination, record(0), record(1, State.PRUNED))
    assert not thread.close(ended=True)
    assert written == [1]
    shown = runs(destination)
    assert thread.new_names() == {int(trial): run.info.run_id for trial, run in shown.items()}
    assert (shown["1"].info.status, curve(destination, shown["1"])) == (
        "FINISHED",
        [(1, 0.1), (2, 0.2)],
    )


def test_epochs_that_come_close_together_are_written_together_and_closing_waits_for_no_pause(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.tracking.thread.GATHERING_SECONDS", 1000.0)
    started = replace(record(0), state=State.RUNNING, epochs=())
    thread = show(destination, started)
    while not thread.new_names():
        pass
    for count in (1, 2):
        thread.show(replace(started, epochs=record(0).epochs[:count]))
    assert curve(destination, runs(destination)["0"]) == []
    assert not thread.close(ended=False)
    assert curve(destination, runs(destination)["0"]) == [(1, 0.1), (2, 0.2)]


def test_the_view_of_a_finished_study_is_rebuilt_whole_from_its_ledger(
    destination: Destination, tmp_path: Path
) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'study.db'}", from_document(SPACE, "test"))
    while (asked := ledger.next()) is not None:
        ledger.report(asked.id, [epoch(1), epoch(2)])
    thread = show(destination, *ledger.records, ledger=ledger.identity)
    assert not thread.close(ended=True)
    for number, run in thread.new_names().items():
        ledger.note_mlflow_run(number, run)
    shown = runs(destination, ledger.identity)
    again = open_ledger(f"sqlite:///{tmp_path / 'study.db'}", from_document(SPACE, "test"))
    assert [each.mlflow_run for each in again.records] == [
        shown[str(number)].info.run_id for number in range(3)
    ]
    assert again.identity == ledger.identity


def test_a_study_that_is_searched_anew_does_not_mix_with_the_old_one_of_its_name(
    destination: Destination,
) -> None:
    assert not show(destination, record(0)).close(ended=True)
    assert not show(destination, record(0, params={"other": 1}), ledger="two").close(ended=True)
    assert curve(destination, runs(destination, "two")["0"]) == [(1, 0.1), (2, 0.2)]
    assert runs(destination, "one")["0"].info.run_id != runs(destination, "two")["0"].info.run_id


def test_a_record_that_mlflow_refuses_holds_up_no_other(destination: Destination) -> None:
    assert not show(destination, record(0)).close(ended=True)
    other = record(0)
    refused = TrialRecord(
        0, settings={**other.settings, "optim.epochs": 3}, epochs=other.epochs
    )  # params cannot change
    thread = show(destination, refused, record(1), record(2))
    assert thread.close(ended=True, seconds=4) == [0]
    assert thread.trouble
    assert sorted(runs(destination)) == ["0", "1", "2"]


def test_what_could_not_be_shown_is_shown_when_mlflow_is_back(
    destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.tracking.thread.PASSING_TROUBLE_SECONDS", 0.2)
    away = tmp_path / "away"

    class Away(MLflow):
        def trials(self, study: TrackedStudy, phase: str) -> TrialsView:
            if not away.exists():
                raise ConnectionError("no answer from http://user:secret@server")
            return super().trials(study, phase)

    tracker = Away(destination.uri, destination.artifacts.parent)
    thread = TrackingThread(tracker, VIEW, "search", lambda number: Path(f"none/{number}"))
    thread.show(record(0))
    while thread.trouble is None:
        pass
    assert thread.trouble.reason == "no answer from http://***@server"
    away.touch()
    assert not thread.close(ended=True)
    assert sorted(runs(destination)) == ["0"]
    assert thread.trouble is None


def test_a_study_that_another_process_runs_is_shown_no_more_by_this_one(
    destination: Destination, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    first = open_ledger(url, from_document(SPACE, "test"))
    tracker = MLflow(destination.uri, destination.artifacts.parent)
    folder = Path("none")
    thread = TrackingThread(tracker, VIEW, "search", lambda _: folder, lambda: first.claim.is_held)
    thread.show(record(0))
    while not thread.new_names():
        time.sleep(0.01)
    second = open_ledger(url, from_document(SPACE, "test"))
    assert second.claim.is_held
    assert not first.claim.is_held
    thread.show(record(1))
    assert thread.close(ended=False) == [1]
    assert sorted(runs(destination)) == ["0"]


@pytest.mark.parametrize("kept", ["config.json", "epochs.csv", "overlay.jpg"])
def test_a_file_that_was_refused_is_there_when_the_trial_was_shown_again(
    destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    folder = tmp_path / "trial"
    folder.mkdir()
    names = ["config.json", "epochs.csv", "overlay.jpg"]
    for name in names:
        (folder / name).write_text(name)
    away = tmp_path / "away"
    away.touch()
    whole = mlflow.MlflowClient.log_artifact

    def log_artifact(self: mlflow.MlflowClient, run: str, path: str) -> None:
        if away.exists() and Path(path).name == kept:
            raise ConnectionError("away")
        whole(self, run, path)

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", log_artifact)
    view = TrialRuns(destination, VIEW, "search")
    with pytest.raises(ConnectionError):
        view.write(record(0), folder)
    away.unlink()
    for again in (view, TrialRuns(destination, VIEW, "search")):
        if again.shown(record(0)) is None:
            again.write(record(0), folder)
    run = runs(destination)["0"]
    client = mlflow.MlflowClient(destination.uri)
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == set(names)
    assert run.info.status == "FINISHED"
    assert curve(destination, run) == [(1, 0.1), (2, 0.2)]


# What was deleted in MLflow, and what a server refuses


def deleted(destination: Destination) -> tuple[mlflow.MlflowClient, str]:
    """The study's experiment, deleted as its page does."""
    client = mlflow.MlflowClient(destination.uri)
    number = client.get_experiment_by_name("view").experiment_id
    client.delete_experiment(number)
    return client, number


def test_an_experiment_that_was_deleted_is_told_as_that_with_the_command_that_restores_it(
    destination: Destination,
) -> None:
    assert not show(destination, record(0)).close(ended=False)
    client, number = deleted(destination)
    thread = show(destination, record(0), record(1))
    begin = time.monotonic()
    assert thread.close(ended=True) == [0, 1]
    assert time.monotonic() - begin < 20  # nobody waits for what needs a person
    assert thread.trouble is not None
    assert thread.trouble.reason == f"experiment view (ID {number}) was deleted in MLflow"
    command = (
        f"MLFLOW_TRACKING_URI={destination.uri} .*mlflow experiments restore --experiment-id"
        f" {number}, then run"
    )
    assert re.search(command, thread.trouble.way_out)
    client.restore_experiment(number)
    assert not show(destination, record(0), record(1)).close(ended=True)
    assert sorted(runs(destination)) == ["0", "1"]


@pytest.mark.fault
def test_the_command_that_is_said_to_restore_an_experiment_restores_it(
    destination: Destination,
) -> None:
    TrialRuns(destination, VIEW, "search")
    client, number = deleted(destination)
    with pytest.raises(ExperimentDeletedError) as caught:
        TrialRuns(destination, VIEW, "search")
    trouble = trouble_of(caught.value, destination)
    command = trouble.way_out.removeprefix("bring it back with: ").partition(", then")[0]
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=200)
    assert client.get_experiment(number).lifecycle_stage == "active"


def test_an_experiment_that_is_deleted_while_trials_are_shown_and_restored_misses_nothing(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.tracking.thread.LASTING_TROUBLE_SECONDS", 0.2)
    half = replace(record(0), state=State.RUNNING, epochs=record(0).epochs[:1])
    thread = show(destination, half)
    while not thread.new_names():
        time.sleep(0.05)
    client, number = deleted(destination)
    thread.show(record(0))
    thread.show(record(1))
    while thread.trouble is None or "was deleted" not in thread.trouble.reason:
        time.sleep(0.05)
    client.restore_experiment(number)
    assert not thread.close(ended=True)
    shown = runs(destination)
    assert sorted(shown) == ["0", "1"]
    assert curve(destination, shown["0"]) == [(1, 0.1), (2, 0.2)]


@pytest.mark.parametrize("phases", [("search",), ("study",), ("search", "study")])
def test_a_run_that_is_deleted_while_trials_are_shown_is_written_anew(
    destination: Destination, phases: tuple[str, ...]
) -> None:
    half = replace(record(0), state=State.RUNNING, epochs=record(0).epochs[:1])
    tracker = TrialRuns(destination, replace(VIEW, tags={"data": "cells"}), "search")
    tracker.write(half, Path("none"))
    client = mlflow.MlflowClient(destination.uri)
    experiment = client.get_experiment_by_name("view").experiment_id
    for phase in phases:
        (run,) = client.search_runs([experiment], f"tags.phase = '{phase}'")
        client.delete_run(run.info.run_id)
    tracker.write(record(0), Path("none"))
    tracker.write(replace(record(1), state=State.RUNNING), Path("none"))
    tracker.close(ended=True)
    again = TrialRuns(destination, replace(VIEW, tags={"data": "cells"}), "search")
    (parent,) = client.search_runs([experiment], "tags.phase = 'study'")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["data"] == "cells"
    shown = runs(destination)
    assert {run.data.tags["mlflow.parentRunId"] for run in shown.values()} == {parent.info.run_id}
    assert sorted(shown) == ["0", "1"]
    assert curve(destination, shown["0"]) == [(1, 0.1), (2, 0.2)]
    assert again.shown(record(0))


@pytest.mark.parametrize(
    ("code", "order"),
    [
        (401, "MLFLOW_TRACKING_USERNAME"),
        (403, "the right to write there"),
        (404, "the address of an MLflow server"),
    ],
)
def test_what_a_server_refuses_for_good_is_told_with_its_way_out_and_nobody_waits_for_it(
    tmp_path: Path, code: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b"no")

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        begin = time.monotonic()
        thread = show(
            Destination(f"http://TOKEN@127.0.0.1:{server.server_port}", tmp_path), record(0)
        )
        assert thread.close(ended=True) == [0]
        assert time.monotonic() - begin < 20
        server.shutdown()
    assert thread.trouble is not None
    assert thread.trouble.lasting
    assert order in thread.trouble.way_out
    assert "TOKEN@" not in str(thread.trouble)


def test_a_server_that_is_away_is_only_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    destination = Destination("http://127.0.0.1:9", tmp_path)
    with pytest.raises(MlflowException) as caught:
        TrialRuns(destination, VIEW, "search")
    trouble = trouble_of(caught.value, destination)
    assert (trouble.lasting, trouble.way_out) == (
        False,
        "run the same command again when it answers",
    )


def test_a_finished_study_that_is_extended_runs_in_mlflow_until_it_ends_again(
    destination: Destination,
) -> None:
    client = mlflow.MlflowClient(destination.uri)

    def study() -> Any:
        (run,) = client.search_runs(
            [client.get_experiment_by_name("view").experiment_id], "tags.phase = 'study'"
        )
        return run.info

    assert not show(destination, record(0)).close(ended=True)
    ended = study()
    assert ended.status == "FINISHED"
    assert not show(destination, record(0)).close(
        ended=True
    )  # the same command, with nothing to do
    assert (study().status, study().end_time) == ("FINISHED", ended.end_time)
    thread = show(destination, record(0), replace(record(1), state=State.RUNNING))
    while not thread.new_names():
        time.sleep(0.05)
    thread.close(ended=False)
    assert study().status == "RUNNING"
    assert not show(destination, record(0), record(1)).close(ended=True)
    assert study().status == "FINISHED"
    assert study().end_time > ended.end_time


def test_a_trial_that_is_continued_runs_in_mlflow_by_its_status_and_by_its_tag(
    destination: Destination,
) -> None:
    stopped = replace(record(0, State.PRUNED, reason="behind"), epochs=(epoch(1),))
    assert not show(destination, stopped).close(ended=False)
    ended = runs(destination)["0"]
    assert (ended.info.status, ended.data.tags["state"]) == ("FINISHED", "PRUNED")
    thread = show(destination, replace(stopped, state=State.RUNNING, continued_after=1))
    while not thread.new_names():
        time.sleep(0.05)
    thread.close(ended=False)
    goes_on = runs(destination)["0"]
    assert (goes_on.info.status, goes_on.data.tags["state"]) == ("RUNNING", "RUNNING")


def test_confirming_trials_have_runs_of_their_own_beside_those_of_the_search(
    destination: Destination,
) -> None:
    repeated = record(0, name="trial 3")
    settings = {**repeated.settings, "seed": 1000, "data.folds": 5, "data.fold": 2}
    repeated = TrialRecord(0, "trial 3", State.COMPLETE, settings=settings, epochs=repeated.epochs)
    for _ in range(2):
        TrialRuns(destination, VIEW, "search").write(record(0), Path("none"))
        TrialRuns(destination, VIEW, "confirm").write(repeated, Path("none"))
    client = mlflow.MlflowClient(destination.uri)
    found = client.search_runs([client.get_experiment_by_name("view").experiment_id])
    by_phase = {run.data.tags["phase"]: run for run in found}
    assert len(found) == len(by_phase) == 3
    assert by_phase["confirm"].info.run_name == "confirm trial 3, seed 1000, fold 2"
    assert by_phase["confirm"].data.params["seed"] == "1000"
    assert "seed" not in by_phase["search"].data.params
    parents = {by_phase[phase].data.tags["mlflow.parentRunId"] for phase in ("search", "confirm")}
    assert parents == {by_phase["study"].info.run_id}


def test_a_report_is_shown_whole_in_the_studys_run_with_its_address_however_often(
    destination: Destination, tmp_path: Path
) -> None:
    TrialRuns(destination, VIEW, "search")
    folder = tmp_path / "report"
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "main.csv").write_text("a,b")
    for page in ("first", "second"):
        (folder / "index.html").write_text(page)
        address = show_report(destination, VIEW, folder)
        assert Path(unquote(urlsplit(address).path)).read_text() == page
    client = mlflow.MlflowClient(destination.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("view").experiment_id])
    assert (run.data.tags["phase"], run.data.tags["report"]) == ("study", address)
    assert "report/images.html" in run.data.tags["mlflow.note.content"]
    assert {one.path for one in client.list_artifacts(run.info.run_id, "report")} == {
        "report/index.html",
        "report/tables",
    }


@pytest.mark.parametrize("moved", [False, True])
def test_the_report_of_a_copied_or_moved_folder_writes_nothing_where_the_folder_was(
    tmp_path: Path, moved: bool
) -> None:
    original, copied, folder = tmp_path / "original", tmp_path / "copied", tmp_path / "report"
    folder.mkdir()
    (folder / "index.html").write_text("first")
    first = Destination.at(None, provide(original))
    TrialRuns(first, VIEW, "search")
    address = show_report(first, VIEW, folder)
    shutil.copytree(original, copied)
    if moved:
        shutil.rmtree(original)
    (folder / "index.html").write_text("second")
    destination = Destination.at(None, copied)
    with pytest.raises(CopiedFolderError) as refused:
        show_report(destination, VIEW, folder)
    meant = trouble_of(refused.value, destination)
    assert str(original) in meant.reason
    assert str(copied) in meant.reason
    assert "nothing was written there" in meant.way_out
    assert original.exists() != moved
    if not moved:
        assert local(address).read_text() == "first"
        show_report(first, VIEW, folder)
        assert local(address).read_text() == "second"


def best(folder: Path, content: str = "settings: {}") -> Path:
    """A folder as a retraining leaves it."""
    (folder / "overlays" / "test").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(content)
    (folder / "model.safetensors").write_bytes(content.encode() * 1000)
    (folder / "metrics.json").write_text("{}")
    (folder / "submission.zip").write_bytes(b"PK")
    (folder / "overlays" / "test" / "1.png").write_bytes(b"PNG")
    return folder


def retraining(folder: Path, **changes: Any) -> Retraining:
    epochs = [{**epoch(number), "at": None} for number in (1, 2, 3)]
    metrics = {"ap50": 0.25, "search_ap50": 0.2, "epoch": 2}
    settings = {"optim.epochs": 3, "optim.learning_rate": 0.1}
    given = {
        "folder": folder,
        "on": "train",
        "key": "7-train",
        "settings": settings,
        "epochs": epochs,
    }
    return Retraining(**{**given, "metrics": metrics, **changes})


def shown(destination: Destination, study: str = "view") -> list[Any]:
    """The runs of all retrainings, oldest first."""
    client = mlflow.MlflowClient(destination.uri)
    experiment = client.get_experiment_by_name(study)
    found = client.search_runs(
        [experiment.experiment_id], "tags.phase = 'retrain'", order_by=["start_time ASC"]
    )
    return list(found)


def versions(destination: Destination, study: str = "view") -> list[Any]:
    found = mlflow.MlflowClient(destination.uri).search_model_versions(f"name = '{study}'")
    return sorted(found, key=lambda version: int(version.version))


def local(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def everything(destination: Destination, study: str) -> dict[str, Any]:
    """All that MLflow shows of a study's retrainings, without ids and times."""
    client = mlflow.MlflowClient(destination.uri)
    experiment = client.get_experiment_by_name(study)
    content: dict[str, Any] = {}
    for number, run in enumerate(shown(destination, study)):
        tags = {
            name: value
            for name, value in run.data.tags.items()
            if name not in ("ledger", "mlflow.user")
        }
        names = sorted(run.data.metrics)
        points = [
            (p.key, p.step, p.value)
            for name in names
            for p in client.get_metric_history(run.info.run_id, name)
        ]
        files = {
            str(path.relative_to(local(run.info.artifact_uri))): path.read_bytes()
            for path in local(run.info.artifact_uri).rglob("*")
            if path.is_file()
        }
        run_name, outputs = run.info.run_name, len(run.outputs.model_outputs)
        content[f"run {number}"] = (
            run_name,
            run.info.status,
            tags,
            run.data.params,
            points,
            files,
            outputs,
        )
    for number, model in enumerate(client.search_logged_models([experiment.experiment_id])):
        weights = (local(model.artifact_location) / "artifacts" / "model.safetensors").read_bytes()
        metrics = sorted((metric.key, metric.value) for metric in model.metrics or [])
        content[f"model {number}"] = (str(model.status), model.tags, model.params, metrics, weights)
    for version in versions(destination, study):
        aliases = client.get_model_version(study, version.version).aliases
        content[f"version {version.version}"] = (
            version.tags,
            version.description,
            version.status,
            aliases,
        )
    return content


def test_a_retraining_is_a_finished_run_linked_to_the_trial_that_won(
    destination: Destination, tmp_path: Path
) -> None:
    assert not show(destination, record(6), record(7)).close(ended=True)
    address = show_retraining(destination, VIEW, record(7), retraining(best(tmp_path / "best")))
    assert address == "models:/view/1"
    (run,) = shown(destination)
    winner = runs(destination)["7"]
    assert run.info.run_name == "retrain trial 7"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"optim.epochs": "3", "optim.learning_rate": "0.1"}
    expected = {
        "phase": "retrain",
        "trial": "7",
        "on": "train",
        "retraining": "7-train",
        "ledger": "one",
    }
    expected |= {"winner_run": winner.info.run_id}
    expected |= {"mlflow.parentRunId": winner.data.tags["mlflow.parentRunId"]}
    assert expected.items() <= run.data.tags.items()
    assert curve(destination, run) == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert {
        "best_ap50": 0.25,
        "best_epoch": 2,
        "search_ap50": 0.2,
    }.items() <= run.data.metrics.items()
    files = {path.name for path in local(run.info.artifact_uri).rglob("*") if path.is_file()}
    assert files == {"config.yaml", "metrics.json", "submission.zip", "1.png"}
    assert (local(run.info.artifact_uri) / "overlays" / "test" / "1.png").exists()
    (version,) = versions(destination)
    assert version.run_id == run.info.run_id
    assert {
        "trial": "7",
        "on": "train",
        "winner_run": winner.info.run_id,
    }.items() <= version.tags.items()
    assert (
        version.description
        == "Trial 7, trained again on its own split: ap50 0.2500, search_ap50 0.2000"
    )


def test_the_ledger_s_word_for_the_winner_s_run_comes_first(
    destination: Destination, tmp_path: Path
) -> None:
    assert not show(destination, record(7)).close(ended=True)
    named = record(7, mlflow_run="abc", name="Partial")
    show_retraining(destination, VIEW, named, retraining(best(tmp_path / "best"), on="all"))
    (run,) = shown(destination)
    assert run.data.tags["winner_run"] == "abc"
    (version,) = versions(destination)
    assert version.description.startswith(
        "Trial 7 (Partial), trained again on every annotated image: "
    )


def test_a_retraining_is_shown_where_its_study_never_was(
    destination: Destination, tmp_path: Path
) -> None:
    blind = [{**epoch(1), "ap50": None, "losses": {"loss": 1.0}}]
    bare = retraining(
        best(tmp_path / "best"), on="all", epochs=blind, metrics={"confirmed_ap50": 0.4}
    )
    assert show_retraining(destination, VIEW, record(0), bare) == "models:/view/1"
    (run,) = shown(destination)
    assert not {"winner_run", "mlflow.parentRunId"} & set(run.data.tags)
    assert "ap50" not in run.data.metrics
    assert run.data.metrics["confirmed_ap50"] == 0.4
    assert versions(destination)[0].description.endswith(
        "every annotated image: confirmed_ap50 0.4000"
    )


def test_the_weights_lie_once_among_the_artifacts_of_the_study(
    destination: Destination, tmp_path: Path
) -> None:
    folder = best(tmp_path / "best")
    show_retraining(destination, VIEW, record(7), retraining(folder))
    uri = mlflow.MlflowClient(destination.uri).get_model_version_download_uri("view", "1")
    study = destination.artifacts / "view"
    assert local(uri).is_relative_to(study)
    wanted = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    hashes = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.rglob("*")
        if path.is_file()
    ]
    assert hashes.count(wanted) == 2  # in best/ and here
    assert len(list(study.rglob("model.safetensors"))) == 1


def test_showing_a_retraining_again_changes_nothing(
    destination: Destination, tmp_path: Path
) -> None:
    same = retraining(best(tmp_path / "best"))
    first = show_retraining(destination, VIEW, record(7), same)
    before, (run,) = everything(destination, "view"), shown(destination)
    assert show_retraining(destination, VIEW, record(7), same) == first
    assert everything(destination, "view") == before
    assert shown(destination)[0].info.end_time == run.info.end_time
    assert before["version 1"]


def test_another_retraining_or_another_model_of_one_is_another_version(
    destination: Destination, tmp_path: Path
) -> None:
    folder = best(tmp_path / "best")
    assert show_retraining(destination, VIEW, record(7), retraining(folder)) == "models:/view/1"
    other_key = retraining(folder, key="7-all", on="all")
    assert show_retraining(destination, VIEW, record(7), other_key) == "models:/view/2"
    best(folder, "settings: {predict.flips: true}")
    flipped = retraining(folder, settings={"optim.epochs": 3, "predict.flips": True})
    assert show_retraining(destination, VIEW, record(7), flipped) == "models:/view/3"
    assert (
        show_retraining(destination, TrackedStudy("view", "two"), record(7), flipped)
        == "models:/view/4"
    )
    assert len(shown(destination)) == 4
    client = mlflow.MlflowClient(destination.uri)
    assert int(client.get_model_version_by_alias("view", "best").version) == 4
    best(folder)
    assert show_retraining(destination, VIEW, record(7), retraining(folder)) == "models:/view/1"
    assert int(client.get_model_version_by_alias("view", "best").version) == 1


STEPS = (
    "create_experiment", "create_run", "log_batch", "create_logged_model", "log_model_artifacts",
    "finalize_logged_model", "log_outputs", "log_artifacts", "log_artifact",
    "create_registered_model", "create_model_version", "set_registered_model_alias",
    "set_terminated",
)  # fmt: skip


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed retraining leaves."""
    root = tmp_path_factory.mktemp("whole")
    destination = Destination.at(None, provide(root))
    show_retraining(destination, VIEW, record(7), retraining(best(root / "best")))
    return everything(destination, "view")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_retraining_whose_showing_was_cut_short_is_completed_by_the_next_call(
    step: str, after: bool, destination: Destination, tmp_path: Path, whole: dict[str, Any]
) -> None:
    same = retraining(best(tmp_path / "best"))
    real: Callable[..., Any] = getattr(mlflow.MlflowClient, step)

    def cut_short(*args: Any, **kwargs: Any) -> None:
        if after:
            real(*args, **kwargs)
        for torn in (
            destination.artifacts.rglob("model.safetensors")
            if step == "log_model_artifacts"
            else ()
        ):
            torn.write_bytes(b"torn")
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, step, cut_short)
        with pytest.raises(Killed):
            show_retraining(destination, VIEW, record(7), same)
    assert show_retraining(destination, VIEW, record(7), same) == "models:/view/1"
    assert everything(destination, "view") == whole


def test_what_else_uses_mlflow_in_the_process_is_left_as_it_was_and_nothing_is_printed(
    destination: Destination, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (
        mlflow.get_tracking_uri(),
        mlflow.get_registry_uri(),
        os.environ.get("MLFLOW_TRACKING_URI"),
    )
    show_retraining(destination, VIEW, record(7), retraining(best(tmp_path / "best")))
    after = (
        mlflow.get_tracking_uri(),
        mlflow.get_registry_uri(),
        os.environ.get("MLFLOW_TRACKING_URI"),
    )
    assert after == before
    assert mlflow.active_run() is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"this is no database" * 100, "not a database"), (b"", r"127\.0\.0\.1")],
    ids=["no database", "no server"],
)
def test_why_a_retraining_is_not_shown_is_one_line_without_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "mlflow.db").write_bytes(content)
    tracker = MLflow(None if content else "http://somebody:hidden@127.0.0.1:9", tmp_path)
    with pytest.raises((MlflowException, sqlalchemy.exc.SQLAlchemyError)) as caught:
        tracker.show_retraining(VIEW, record(7), retraining(best(tmp_path / "best")))
    trouble = tracker.trouble_of(caught.value)
    assert re.search(reason, trouble.reason)
    assert "\n" not in trouble.reason
    assert "hidden" not in str(trouble)


def test_runs_are_named_by_what_was_tried_and_say_if_they_were_stopped_early(
    destination: Destination,
) -> None:
    params = {"optim.learning_rate": 0.1}
    whole = replace(record(0), params=params)
    stopped = replace(record(1, State.PRUNED), params=params)
    repeat = replace(record(2, name="Elastic"), settings={"seed": 1, "optim.epochs": 2})
    assert not show(destination, whole, stopped, repeat).close(ended=True)
    assert {trial: run.info.run_name for trial, run in runs(destination).items()} == {
        "0": "trial 0: learning_rate 0.1",
        "1": "trial 1 (stopped early): learning_rate 1.1",
        "2": "Elastic, seed 1",
    }
    goes_on = replace(stopped, state=State.RUNNING, continued_after=1)
    show(destination, goes_on).close(ended=False)
    assert runs(destination)["1"].info.run_name == "trial 1: learning_rate 1.1"


def test_the_experiment_keeps_a_view_of_its_searched_settings_and_the_link_names_it(
    destination: Destination,
) -> None:
    tracker = MLflow(destination.uri, destination.artifacts.parent)
    searched = ("optim.learning_rate", "model.backbone")
    study = TrackedStudy("view", "one", searched=searched)
    tracker.trials(study, "search").close(ended=True)
    client = mlflow.MlflowClient(destination.uri)
    experiment = client.get_experiment_by_name("view")
    view = json.loads(experiment.tags[mlflow_view.TAG])
    assert view["orderByKey"] == "metrics.`best_ap50`"
    assert view["orderByAsc"] is False
    assert {f"params.`{name}`" for name in searched} <= set(view["selectedColumns"])
    assert view["compareRunCharts"][0]["metricKey"] == "ap50"
    link = tracker.link_to(study)
    assert link == (
        f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={mlflow_view.KEY}"
    )
    hidden = mlflow_view.address_of_runs("https://user:secret@host:1234/", "7")
    assert hidden.startswith("https://")
    assert "secret" not in hidden
    assert hidden.endswith(f"host:1234/#/experiments/7/runs{link[link.index('?') :]}")
