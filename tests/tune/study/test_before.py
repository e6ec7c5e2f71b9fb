"""A study that the version before began goes on.

`before/` holds what it left: `study.json`, and `study.db` as statements. Its driver was killed when
trial 3 had one of three epochs; checkpoints were lost with their disk.
"""

import contextlib
import csv
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from tune.ledger.reading import read_ledger
from tune.ledger.records import State

BEFORE = Path(__file__).with_name("before")
ROOT = Path(__file__).parents[3]


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

    command = ["-m", "tune.search", "--study", "before", "--trials", "5", "--gpus-per-trial", "0"]
    done = subprocess.run(
        [sys.executable, *command, "--results", str(tmp_path / "results"), "--parallel", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
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
    assert (folder / "report" / "index.html").exists()
