"""Laws of a study that several processes know of: real drivers, one database, folders of their own.

Trials replay a curve; Ray, the database and the processes are real.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest

from tests.tracking_database import provide
from tests.tune.test_kills import ROOT, SPACE, run_alone
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord

pytestmark = pytest.mark.fault

LEASE_SECONDS = 4
# A driver that takes another for dead after so short a silence, as if three minutes had passed.
IMPATIENT = (
    "import sys; import tune.ledger.claim as claim; from benchmarks import replayed_search;"
    f" claim.CLAIM_SECONDS = {LEASE_SECONDS}; sys.exit(replayed_search.main())"
)


@dataclass
class Team:
    """Drivers on machines of their own, which share the database of a study."""

    folder: Path
    storage: str

    def __post_init__(self) -> None:
        (self.folder / "space.yaml").write_text(SPACE)

    def start(self, name: str, *start: str, epoch_seconds: float = 0.3) -> subprocess.Popen[str]:
        """The command of a member of the team; `start` runs another program than the search."""
        home = self.folder / name
        (home / "witness").mkdir(parents=True, exist_ok=True)
        provide(home / "results")
        program = start or ("-m", "benchmarks.replayed_search")
        own = ["--witness", str(home / "witness"), "--epoch-seconds", str(epoch_seconds)]
        command = [*program, *own, "--space", str(self.folder / "space.yaml"), "--parallel", "1"]
        return self.run(home, *command, "--cpus-per-trial", "1")

    def run(self, home: Path, *command: str) -> subprocess.Popen[str]:
        shared = ["--results", str(home / "results"), "--storage", self.storage]
        return subprocess.Popen(
            [sys.executable, *command, *shared],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def records(self) -> tuple[TrialRecord, ...]:
        reading = read_ledger(self.storage, "replayed")
        return () if reading is None else reading.records

    def wait_for_epochs(self, count: int, driver: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 200
        while sum(len(record.epochs) for record in self.records()) < count:
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.2)


def alone(folder: Path) -> tuple[TrialRecord, ...]:
    """The trials of the study where one process asks and reports, one after the other."""
    (folder / "alone").mkdir()
    return run_alone(f"sqlite:///{folder / 'alone' / 'study.db'}", folder / "space.yaml").records


def same(record: TrialRecord) -> tuple[object, ...]:
    return record.id, record.params, record.state, record.curve, record.reason, record.attempts


def test_a_search_ends_as_if_alone_beside_a_second_driver_a_report_and_a_rebuilding(
    tmp_path: Path,
) -> None:
    team = Team(tmp_path, f"sqlite:///{tmp_path / 'team.db'}")
    first = team.start("first")
    team.wait_for_epochs(4, first)
    # The others have all the time that they need: the trial waits, while its driver does not.
    (worker,) = {int(path.read_text()) for path in (tmp_path / "first" / "witness").iterdir()}
    os.kill(worker, signal.SIGSTOP)
    second = team.start("second")
    report = team.run(tmp_path / "first", "-m", "tune.report", "--study", "replayed")
    rebuild = team.run(
        tmp_path / "first", "-m", "tune.search", "--study", "replayed", "--rebuild-tracking"
    )
    dry = team.start("third", "-m", "benchmarks.replayed_search", "--dry-run")
    said = {
        one: (process.communicate(timeout=250)[0], process.returncode)
        for one, process in (
            ("second", second), ("report", report), ("rebuild", rebuild), ("dry", dry),
        )
    }  # fmt: skip
    assert first.poll() is None, first.communicate()[0]
    os.kill(worker, signal.SIGCONT)
    assert said["second"][1] == 2, said["second"][0]
    assert f"is being searched by process {first.pid} on host" in said["second"][0]
    assert said["report"][1] == 0, said["report"][0]
    assert said["rebuild"][1] == 2, said["rebuild"][0]
    assert said["dry"][1] == 0, said["dry"][0]
    output, _ = first.communicate(timeout=250)
    assert first.returncode == 0, output
    assert [same(record) for record in team.records()] == [
        same(record) for record in alone(tmp_path)
    ]


def test_a_driver_that_was_stalled_until_another_took_over_writes_nothing_more(
    tmp_path: Path, url: str
) -> None:
    team = Team(tmp_path, url)
    first = team.start("first")
    team.wait_for_epochs(4, first)
    first.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS + 1)
    second = team.start("second", "-c", IMPATIENT, epoch_seconds=0.0)
    output, _ = second.communicate(timeout=250)
    assert second.returncode == 0, output
    before = (team.records(), optuna.load_study(study_name="replayed", storage=team.storage).trials)
    first.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 1, output
    assert "another process has taken over study replayed" in output
    assert "Traceback" not in output
    after = (team.records(), optuna.load_study(study_name="replayed", storage=team.storage).trials)
    assert after == before
    assert {record.state for record in team.records()} <= {State.COMPLETE, State.PRUNED}
    assert [(one.id, one.params, one.curve) for one in team.records()] == [
        (one.id, one.params, one.curve) for one in alone(tmp_path)
    ]
