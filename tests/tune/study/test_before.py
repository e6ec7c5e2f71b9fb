"""A study that the version before began goes on.

`before/` holds what it left: `study.json`, and `study.db` as statements. Its driver was killed when
trial 3 had one of three epochs; checkpoints were lost with their disk.
"""

import contextlib
import csv
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import cloudpickle
from rich.console import Console

from benchmarks.replay import ReplayedTrial, Replays
from tune import read_study, report
from tune.engine.messages import Assignment
from tune.ledger.reading import read_ledger
from tune.ledger.records import State
from tune.request.file import request_of, with_overrides
from tune.store.folder import StudyFolder
from tune.study.conductor import run_study
from tune.study.options import Options
from tune.study.plan import plan_study
from tune.study.trials import TrialInputs

pytestmark = pytest.mark.study

BEFORE = Path(__file__).with_name("before")


@pytest.fixture(autouse=True)
def _workers_can_unpickle_this_file() -> Iterator[None]:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def replayed(assignment: Assignment, inputs: TrialInputs) -> ReplayedTrial:  # noqa: ARG001
    return ReplayedTrial(assignment, lambda _, epoch: 0.1 * epoch)


def test_a_study_of_the_version_before_goes_on_with_every_trial_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "before"
    folder.mkdir(parents=True)
    shutil.copy(BEFORE / "study.json", folder)
    with contextlib.closing(sqlite3.connect(folder / "study.db")) as connection:
        connection.executescript((BEFORE / "study.sql").read_text())
    storage = f"sqlite:///{folder / 'study.db'}"
    before = read_ledger(storage, "before")
    assert before is not None
    *ended, running = before.records
    assert [record.state for record in ended] == [State.COMPLETE, State.PRUNED, State.PRUNED]
    assert ended[1].reason == "stopped early after epoch 2: not among the best 1 in 2 at this rung"
    assert (running.state, len(running.epochs), running.attempts) == (State.RUNNING, 1, 1)
    assert running.params.keys() == {
        "optim.learning_rate",
        "optim.restarts",
        "optim.restart_multiplier",
    }

    results = folder.parent
    request = with_overrides(request_of(StudyFolder(folder)), trials=5)
    plan = plan_study(request, Options(results, parallel=1))
    run_study(plan, Console(quiet=True), Replays(replayed))
    after = read_ledger(storage, "before")
    assert after is not None
    # MLflow is new, so the ids of runs are.
    known = [(one.params, one.settings, one.epochs, one.state, one.reason) for one in ended]
    assert known == [
        (one.params, one.settings, one.epochs, one.state, one.reason) for one in after.records[:3]
    ]
    again, new = after.records[3:]
    assert (again.params, again.epochs[0], again.attempts) == (running.params, running.epochs[0], 2)
    assert {again.state, new.state} <= {State.COMPLETE, State.PRUNED}
    assert len(again.epochs) >= 2
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == list("01234")
    assert report(read_study("before", results)).exists()
