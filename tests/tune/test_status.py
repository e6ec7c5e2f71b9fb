"""Laws of `tune.status`: what a screen says of a study, from any machine that reaches its ledger,
and that looking changes nothing.
"""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from sqlalchemy import func

from core.files import write_json_atomically
from core.metric.ap50 import MatchTable
from tests.replayed import ROOT, Search, read_table
from tests.test_command_lines import ended
from tune.ledger.claim import CLAIMS, Claim
from tune.ledger.ledger import Ledger
from tune.ledger.reading import Reading
from tune.ledger.records import TrialRecord
from tune.ledger.runs import Run, now_ms
from tune.request.file import from_document
from tune.request.request import StudyRequest
from tune.status import main
from tune.store.folder import STUDY_FORMAT, StudyFolder, match_table_path
from tune.study import standing as standings
from tune.study.standing import Rate, Standing, read_standing

SPACE: dict[str, Any] = {
    "study": "shown",
    "data": "synthetic",
    "fixed": {"optim.epochs": 4},
    "space": {"optim.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}},
    "search": {"sampler": "random", "trials": 6, "seed": 0},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 0},
}


def request(**changes: Any) -> StudyRequest:
    return from_document({**SPACE, **changes}, "test")


def history(*scores: float) -> list[dict[str, Any]]:
    return [
        {"epoch": number, "ap50": score, "seconds": 600.0, "losses": {"loss": 1.0}}
        for number, score in enumerate(scores, start=1)
    ]


@contextlib.contextmanager
def driven(results: Path, **changes: Any) -> Iterator[Ledger]:
    """A study that this process drives: one trial is complete, one failed, one runs."""
    asked = request(**changes)
    folder = StudyFolder(results / asked.study)
    folder.path.mkdir(parents=True)
    description = {
        "format": STUDY_FORMAT, "created": "2026", "request": asked.to_document(),
        "data": {"where": "synthetic"}, "storage": None, "tracking_uri": None,
    }  # fmt: skip
    write_json_atomically(folder.description, description)
    with Claim(f"sqlite:///{folder.path / 'study.db'}", asked.study) as claim:
        ledger = Ledger(claim, asked)
        ledger.note_run(Run.begun_here(asked.to_document(), str(folder.path.absolute()), 2))
        for number in range(3):
            record = ledger.next()
            assert record is not None
            if number == 0:
                ledger.report(number, history(0.1, 0.2, 0.5, 0.4))
            elif number == 1:
                ledger.report(number, history(0.1))
                ledger.fail(number, "epoch 2, batch 3: loss is nan\x1b[2J")
            else:
                ledger.report(number, history(0.1, 0.3))
        yield ledger


def status(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def at_rest(path: Path) -> tuple[bytes, dict[str, list[tuple[Any, ...]]]]:
    """The bytes of a database and of its log, and all rows."""
    log = path.with_name(f"{path.name}-wal")
    content = path.read_bytes() + (log.read_bytes() if log.exists() else b"")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names}
    return content, rows


def test_a_screen_shows_trials_by_state_the_best_the_running_the_driver_and_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driven(tmp_path):
        seen = status(capsys, "--study", "shown", "--results", str(tmp_path))
    assert f"Driven by process {os.getpid()} on host {socket.gethostname()} since 20" in seen
    assert "last heartbeat" in seen
    assert "6 trials: 1 complete, 1 failed, 1 running and 3 waiting" in seen
    assert "best so far: trial 0, AP50 0.5000: learning_rate" in seen
    assert " 2/4 " in seen
    assert " left" in seen
    assert r"failed: trial 1: epoch 2, batch 3: loss is nan\x1b[2J" in seen


def test_the_ledger_alone_is_enough_and_the_screen_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driven(tmp_path / "results"):
        here = status(capsys, "--study", "shown", "--results", str(tmp_path / "results"))
        ledger = tmp_path / "elsewhere.db"
        with (
            contextlib.closing(sqlite3.connect(tmp_path / "results/shown/study.db")) as source,
            contextlib.closing(sqlite3.connect(ledger)) as copy,
        ):
            source.backup(copy)
        shutil.move(tmp_path / "results", tmp_path / "on another machine")
        alone = ["--storage", f"sqlite:///{ledger}", "--results", str(tmp_path / "none")]
        there = status(capsys, "--study", "shown", *alone)
        listed = status(capsys, *alone)
    counted = "6 trials: 1 complete, 1 failed, 1 running and 3 waiting"
    assert counted in here
    assert counted in there
    assert listed.startswith(f"shown: {counted}; best AP50 0.5000 (trial 0); Driven by process")
    assert "no interval, because the match tables cannot be reached from here" in there
    assert f"they are in {tmp_path / 'results/shown'} on host {socket.gethostname()}" in there
    assert "no interval" not in here


def test_studies_of_other_programs_in_a_shared_ledger_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driven(tmp_path / "results"):
        storage = f"sqlite:///{tmp_path / 'results/shown/study.db'}"
        other = optuna.create_study(study_name="other", storage=storage)
        other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        listed = status(capsys, "--storage", storage, "--results", str(tmp_path / "none"))
    assert listed.startswith("shown: ")
    assert listed.count("\n") == 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE study_user_attributes SET value_json = '{no json' WHERE key = 'identity'",
        "UPDATE study_user_attributes SET value_json = CAST(x'229f22' AS TEXT)",
        "UPDATE trial_user_attributes SET value_json = '3' WHERE key = 'name'",
        "UPDATE trial_user_attributes SET value_json = '{}' WHERE key = 'settings'",
        "UPDATE trial_user_attributes SET value_json = '[]' WHERE key = 'settings'",
        "UPDATE cell_tune_claims SET driver = '[]'",
        "UPDATE cell_tune_claims SET heard = 'yesterday'",
    ],
)
def test_a_damaged_ledger_is_one_sentence_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    with driven(tmp_path):
        with contextlib.closing(sqlite3.connect(tmp_path / "shown/study.db")) as connection:
            connection.execute(damage)
            connection.commit()
        assert main(["--study", "shown", "--results", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert "from a backup, then run the same command again" in said.err


def test_looking_changes_no_byte_and_no_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driven(tmp_path):
        path = tmp_path / "shown/study.db"
        files = {one: one.stat().st_mtime_ns for one in tmp_path.rglob("*") if one.is_file()}
        before = at_rest(path)
        for arguments in (["--study", "shown"], ["--study", "shown", "--json"], []):
            status(capsys, *arguments, "--results", str(tmp_path))
        assert at_rest(path) == before
        # sqlite's index of the log is memory that readers and writers share.
        now = {one: one.stat().st_mtime_ns for one in tmp_path.rglob("*") if one.is_file()}
        assert {one for one in files | now if files.get(one) != now.get(one)} <= {
            tmp_path / "shown/study.db-shm"
        }


def test_a_study_that_nobody_drives_says_how_its_last_run_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--study", "shown", "--results", str(tmp_path)]
    with driven(tmp_path) as ledger:
        run = Run.begun_here(request().to_document(), str(tmp_path / "shown"), 2)
    seen = status(capsys, *arguments)  # the driver gave up its claim and noted no end
    assert "Not driven: the search's command continues the study" in seen
    assert "1 complete, 1 failed, 1 to be continued and 3 waiting" in seen
    assert "left" not in seen
    with Claim(f"sqlite:///{tmp_path / 'shown/study.db'}", "shown") as claim:
        ledger = Ledger(claim, request())
        ledger.note_run(replace(run, end="interrupted", ended=now_ms()))
    assert "(interrupted); the search's command continues" in status(capsys, *arguments)
    with Claim(f"sqlite:///{tmp_path / 'shown/study.db'}", "shown") as claim:
        Ledger(claim, request()).note_run(replace(run, finished=True, ended=now_ms()))
    assert "Finished at 20" in status(capsys, *arguments)


def test_a_driver_that_ends_while_its_study_is_read_is_not_taken_for_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = standings.read_ledger
    with driven(tmp_path) as ledger:
        run = Run.begun_here(request().to_document(), str(tmp_path / "shown"), 2)

        def read_and_end(storage: str, study: str) -> Reading | None:
            found = read(storage, study)
            monkeypatch.setattr(standings, "read_ledger", read)
            ledger.note_run(replace(run, finished=True, ended=now_ms()))
            ledger.claim.__exit__(None, None, None)
            return found

        monkeypatch.setattr(standings, "read_ledger", read_and_end)
        assert read_standing("shown", tmp_path).finished


@pytest.mark.parametrize("here", [True, False])
def test_a_driver_counts_as_dead_when_its_process_is_gone_or_long_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], here: bool
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with driven(tmp_path) as ledger:
        engine = ledger.claim.database.engine
        assert engine is not None
        with engine.begin() as connection:
            driver = json.loads(str(connection.execute(CLAIMS.select()).one().driver))
            changed: dict[str, Any] = {"driver": json.dumps({**driver, "pid": gone.pid})}
            if not here:
                changed["driver"] = json.dumps({**driver, "machine": "another"})
                changed["heard"] = func.datetime("now", "-1 hour")
            connection.execute(CLAIMS.update().values(**changed))
        seen = status(capsys, "--study", "shown", "--results", str(tmp_path))
    assert "died, last heartbeat" in seen
    assert ("60 min ago" in seen) == (not here)
    assert "the search's command continues the study" in seen


def test_the_rate_counts_the_epochs_of_this_run_and_of_the_last_hour_alone() -> None:
    run = Run(request().to_document(), "results/shown", 2, 1, "lab", since=1000 * 3600)
    ages = [0, *(3600 + 60 * minute for minute in range(91))]  # one of an earlier run, then 90 min
    epochs = tuple({**history(0.1)[0], "at": 1000 * at} for at in ages)
    searched = Reading("", {}, (TrialRecord(0, epochs=epochs),), run=run)
    standing = Standing("shown", "", None, request(), searched, None, None)
    assert standing.rate == Rate(60.0, 3600.0)
    two = Reading("", {}, (TrialRecord(0, epochs=epochs[:2]),), run=run)
    assert replace(standing, searched=two).rate is None


def test_the_best_has_its_interval_where_its_match_table_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driven(tmp_path) as ledger:
        best = ledger.records[0]
        path = match_table_path(StudyFolder(tmp_path / "shown").trial(0), 3)
        path.parent.mkdir(parents=True)
        table_of_eight_images().save(path)
        assert best.best_epoch == 3
        seen = status(capsys, "--study", "shown", "--results", str(tmp_path))
        read = json.loads(status(capsys, "--study", "shown", "--results", str(tmp_path), "--json"))
    assert "best so far: trial 0, AP50 0.5000 (0." in seen
    assert 0 <= read["best"]["low"] <= read["best"]["high"] <= 1


def test_json_holds_what_the_screen_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driven(tmp_path):
        (one,) = json.loads(status(capsys, "--results", str(tmp_path), "--json"))
    assert one["trials"] == {"RUNNING": 1, "COMPLETE": 1, "PRUNED": 0, "FAIL": 1}
    assert (one["planned"], one["finished"]) == (6, False)
    assert one["driver"] | {"seconds_since_heartbeat": 0} == {
        "pid": os.getpid(), "host": socket.gethostname(), "alive": True,
        "seconds_since_heartbeat": 0,
    }  # fmt: skip
    assert [(run["trial"], run["epochs"], run["planned_epochs"]) for run in one["running"]] == [
        (2, 2, 4)
    ]
    assert [found["trial"] for found in one["failed"]] == [1]


def test_the_first_screen_waits_for_none_of_the_slow_libraries(tmp_path: Path) -> None:
    """Optuna reads the ledger; torch and SciPy are imported for an interval alone."""
    with driven(tmp_path / "results"):
        shutil.rmtree(tmp_path / "results/shown/trials", ignore_errors=True)
        code, heavy, said = ended(tmp_path, "tune.status")
    assert (code, heavy) == (0, {"optuna"})
    assert "shown: 6 trials" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "holds no study"),
        (["--study", "other"], "'other' is not a study in"),
        (["--storage", "nothing"], "--storage must be an SQLAlchemy URL"),
    ],
)
def test_a_study_that_is_not_there_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main([*arguments, "--results", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.study
def test_a_search_that_is_looked_at_ends_as_if_alone(tmp_path: Path) -> None:
    # Longer than two looks take to start, also beside other work.
    do = ("--epoch-seconds", "3")
    watched, alone = Search(tmp_path / "watched", do=do), Search(tmp_path / "alone")
    driver = watched.start()
    looking = [sys.executable, "-m", "tune.status", "--results", str(watched.results)]
    watched.wait_for("0-2-1", driver)
    seen = [
        subprocess.run(
            [*looking, *more], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
        )
        for more in ([], ["--study", "faulty"])
    ]
    assert [(one.returncode, one.stderr) for one in seen] == [(0, "")] * 2
    assert all("Driven by process" in one.stdout for one in seen)
    assert driver.wait(280) == alone.run() == 0
    watched.assert_complete(6)
    left_out = {"seconds", "gpu_hours"}
    of_both = [
        [{name: row[name] for name in row.keys() - left_out} for row in read_table(one)]
        for one in (watched.results / "faulty", alone.results / "faulty")
    ]
    assert of_both[0] == of_both[1]
    last = subprocess.run(
        [*looking, "--study", "faulty", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    assert json.loads(last.stdout)["finished"]


def table_of_eight_images() -> MatchTable:
    """Two cells in each of eight images; in every other image one of them is not found."""
    count = 16
    return MatchTable(
        image_D=np.arange(count, dtype=np.int32) // 2,
        label_D=np.ones(count, dtype=np.int16),
        score_D=np.linspace(0.9, 0.1, count).astype(np.float32),
        rank_D=np.arange(count, dtype=np.int32) % 2,
        hit_D=np.arange(count) % 4 != 3,
        ignored_D=np.zeros(count, dtype=np.bool_),
        truths_IC=np.full((8, 1), 2, dtype=np.int32),
        image_names=tuple(f"image {number}" for number in range(8)),
    )
