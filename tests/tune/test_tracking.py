"""Laws of the view in MLflow, on a real database."""

from pathlib import Path
from typing import Any

import mlflow
import pytest

from tune.ledger import Ledger, State, TrialRecord
from tune.redaction import without_password
from tune.space_file import from_document
from tune.tracking import Destination, Tracker, TrackingThread

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
    return {"epoch": number, "ap50": number / 10, "at": number * 1000, "seconds": 1.0, "losses": losses}


def record(number: int, state: State = State.COMPLETE, **changes: Any) -> TrialRecord:
    settings = {"optim.epochs": 2, "optim.learning_rate": 0.1 + number}
    return TrialRecord(number, state=state, settings=settings, epochs=(epoch(1), epoch(2)), **changes)


def runs(destination: Destination, ledger: str = "one") -> dict[str, Any]:
    client = mlflow.MlflowClient(destination.uri)
    experiment = client.get_experiment_by_name("view")
    found = client.search_runs([experiment.experiment_id], f"tags.phase = 'search' and tags.ledger = '{ledger}'")
    assert len({run.data.tags["trial"] for run in found}) == len(found)
    return {run.data.tags["trial"]: run for run in found}


def curve(destination: Destination, run: Any) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(destination.uri).get_metric_history(run.info.run_id, "ap50")
    return [(point.step, point.value) for point in history]


@pytest.fixture
def destination(tmp_path: Path) -> Destination:
    return Destination.default(tmp_path)


def show(destination: Destination, *records: TrialRecord, ledger: str = "one") -> TrackingThread:
    thread = TrackingThread(lambda: Tracker(destination, "view", ledger, {}), lambda number: Path(f"none/{number}"))
    for each in records:
        thread.show(each)
    return thread


def test_showing_a_record_again_from_another_process_s_view_changes_nothing(destination: Destination) -> None:
    for _ in range(2):
        assert not show(destination, record(0), record(1, State.FAIL, reason="diverged")).close(ended=True)
    shown = runs(destination)
    assert sorted(shown) == ["0", "1"]
    assert curve(destination, shown["0"]) == [(1, 0.1), (2, 0.2)]
    assert shown["1"].data.tags["reason"] == "diverged"


def test_the_view_of_a_finished_study_is_rebuilt_whole_from_its_ledger(
    destination: Destination, tmp_path: Path
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'study.db'}", from_document(SPACE, "test"))
    while (asked := ledger.next()) is not None:
        ledger.report(asked.id, [epoch(1), epoch(2)])
    thread = show(destination, *ledger.records, ledger=ledger.identity)
    assert not thread.close(ended=True)
    for number, run in thread.new_runs().items():
        ledger.note_mlflow_run(number, run)
    shown = runs(destination, ledger.identity)
    again = Ledger(f"sqlite:///{tmp_path / 'study.db'}", from_document(SPACE, "test"))
    assert [each.mlflow_run for each in again.records] == [shown[str(number)].info.run_id for number in range(3)]
    assert again.identity == ledger.identity


def test_a_study_that_is_searched_anew_does_not_mix_with_the_old_one_of_its_name(destination: Destination) -> None:
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
    assert thread.close(ended=True, seconds=15) == [0]
    assert thread.trouble
    assert sorted(runs(destination)) == ["0", "1", "2"]


def test_what_could_not_be_shown_is_shown_when_mlflow_is_back(
    destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.tracking.RETRY_SECONDS", 0.2)
    away = tmp_path / "away"

    def open_tracker() -> Tracker:
        if not away.exists():
            raise ConnectionError("no answer from http://user:secret@server")
        return Tracker(destination, "view", "one", {})

    thread = TrackingThread(open_tracker, lambda number: Path(f"none/{number}"))
    thread.show(record(0))
    while thread.trouble is None:
        pass
    assert thread.trouble == "no answer from http://user:***@server"
    away.touch()
    assert not thread.close(ended=True)
    assert sorted(runs(destination)) == ["0"]
    assert thread.trouble is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:secret@host/db", "postgresql://u:***@host/db"),
        ("--storage=postgresql://u:se/c#r@et@host/db", "--storage=postgresql://u:***@host/db"),
        ("mysql://host/db?password=secret&x=1", "mysql://host/db?password=***&x=1"),
        ("sqlite:///results/study.db", "sqlite:///results/study.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_passwords_are_taken_out_of_what_is_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown
