"""Laws of a study whose processes are killed: nothing measured is lost, nothing runs twice, the
same command goes on.

The driver is a process of its own, killed by SIGKILL. Its trials replay a curve that depends on
their settings and the epoch alone; Ray, the databases and the processes are real.
"""

import contextlib
import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import mlflow
import optuna
import pytest

from benchmarks.replayed_search import replayed_ap50
from tests.tracking_database import provide
from tune.ledger.ledger import Ledger, open_ledger
from tune.processes import Started
from tune.request.file import load_request

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]
EPOCHS = 5
SPACE = f"""
study: replayed
data: synthetic
fixed: {{optim.epochs: {EPOCHS}, model.weights: none}}
space:
  optim.learning_rate: {{low: 1.0e-5, high: 0.1, log: true}}
  optim.weight_decay: {{low: 0.0, high: 0.9}}
search: {{sampler: tpe, trials: 14, seed: 0}}
stop_early: {{rule: successive_halving, min_epochs: 2, reduction: 2}}
confirm: {{top: 0}}
"""
MARK = "CELL_TUNE_TEST"
"""In the environment of what a test starts, and so in that of Ray's processes, wherever they move
to."""


@dataclass
class Search:
    """A study in a folder of its own, and the command that runs it."""

    folder: Path
    more: tuple[str, ...] = ()
    _started: Started = field(default_factory=lambda: Started(MARK))

    def __post_init__(self) -> None:
        (self.folder / "witness").mkdir(parents=True)
        (self.folder / "space.yaml").write_text(SPACE)
        provide(self.folder / "results")

    @property
    def study(self) -> Path:
        return self.folder / "results" / "replayed"

    def start(self, kill: str = "") -> subprocess.Popen[str]:
        command = [
            "benchmarks.replayed_search",
            "--witness",
            str(self.folder / "witness"),
            "--cpus-per-trial",
            "1",
        ]
        command += [
            "--space",
            str(self.folder / "space.yaml"),
            "--results",
            str(self.folder / "results"),
            *self.more,
        ]
        environment = {**os.environ, MARK: self._started.mark, "OMP_NUM_THREADS": "1"} | (
            {"CELL_TUNE_KILL": kill} if kill else {}
        )
        with (self.folder / "said.txt").open("a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=said,
            )

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text()

    @property
    def begun(self) -> set[tuple[int, int, int]]:
        """Trial, epoch and attempt of every epoch that ever began."""
        names = [path.name.split("-") for path in (self.folder / "witness").iterdir()]
        return {(int(trial), int(epoch), int(attempt)) for trial, epoch, attempt in names}

    @property
    def processes(self) -> list[int]:
        """The living processes of this study, but for Ray's agents: they run no trials, and die
        up to minutes later.
        """
        found = []
        for process in self._started.living():
            with contextlib.suppress(OSError):
                if b"Agent" not in Path(f"/proc/{process}/cmdline").read_bytes():
                    found.append(process)
        return found

    def wait_until_alone(self) -> None:
        """Wait until the processes of a dead driver are gone as well."""
        until = time.monotonic() + 60
        while self.processes:
            assert time.monotonic() < until, [
                Path(f"/proc/{pid}/cmdline").read_text() for pid in self.processes
            ]
            time.sleep(0.1)

    def saved(self) -> dict[int, int]:
        """Epochs in each trial's checkpoint."""
        paths = (self.study / "trials").glob("*/last.json")
        return {int(path.parent.name): len(json.loads(path.read_text())) for path in paths}

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """The ledger, read by plain Optuna."""
        storage = f"sqlite:///{self.study / 'study.db'}"
        return optuna.load_study(study_name="replayed", storage=storage).get_trials(
            states=[
                state
                for state in optuna.trial.TrialState
                if state is not optuna.trial.TrialState.WAITING
            ]
        )


def run_alone(url: str, space: Path) -> Ledger:
    """The ledger of the study where one process asks and reports, one trial after the other."""
    ledger = open_ledger(url, load_request(space))
    while (record := ledger.next()) is not None:
        epochs: list[dict[str, Any]] = []
        ended = False
        while not ended:
            ap50 = replayed_ap50(record.settings, len(epochs) + 1)
            epochs.append(
                {"epoch": len(epochs) + 1, "ap50": ap50, "seconds": 1.0, "losses": {"loss": 1.0}}
            )
            ended = ledger.report(record.id, epochs)
    return ledger


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[optuna.trial.FrozenTrial]:
    """The trials of the study as its ledger alone has them, asked for and reported to by hand,
    one after the other.
    """
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "space.yaml").write_text(SPACE)
    url = f"sqlite:///{folder / 'study.db'}"
    run_alone(url, folder / "space.yaml")
    return optuna.load_study(study_name="replayed", storage=url).trials


def assert_whole(search: Search, planned: int) -> None:
    """Ledger, trials.csv and MLflow show the same trials, each once, none running, and what they
    measured is right.
    """
    trials = search.trials()
    rows = list(csv.DictReader(io.StringIO((search.study / "trials.csv").read_text())))
    client = mlflow.MlflowClient(f"sqlite:///{search.folder / 'results' / 'mlflow.db'}")
    experiments = client.search_experiments(filter_string="name = 'replayed'")
    everything = client.search_runs([experiments[0].experiment_id])
    runs = {
        int(run.data.tags["trial"]): run for run in everything if run.data.tags["phase"] == "search"
    }
    numbers = list(range(planned))
    assert (
        [trial.number for trial in trials]
        == [int(row["trial"]) for row in rows]
        == sorted(runs)
        == numbers
    )
    assert Counter(run.data.tags["phase"] for run in everything) == {"study": 1, "search": planned}
    assert {run.info.status for run in everything if run.data.tags["phase"] == "study"} == {
        "FINISHED"
    }
    for trial, row in zip(trials, rows, strict=True):
        run = runs[trial.number]
        assert trial.state.name == row["state"] == run.data.tags["state"]
        assert trial.state.name in ("COMPLETE", "PRUNED"), trial.user_attrs
        curve = {
            epoch: replayed_ap50(trial.params, epoch) for epoch in range(1, int(row["epochs"]) + 1)
        }
        assert trial.intermediate_values == curve
        assert len(curve) == (EPOCHS if trial.state.name == "COMPLETE" else len(curve))
        assert len(curve) in (2, 4, EPOCHS)
        shown = client.get_metric_history(run.info.run_id, "ap50")
        assert [(point.step, point.value) for point in shown] == list(curve.items())
        assert run.info.status == "FINISHED"
        assert run.data.tags["state"] == trial.state.name
        assert float(row["ap50"]) == max(curve.values())
        assert search.saved()[trial.number] == len(curve)
        epochs = list(
            csv.DictReader(
                io.StringIO((search.study / f"trials/{trial.number}/epochs.csv").read_text())
            )
        )
        assert [int(epoch["epoch"]) for epoch in epochs] == list(curve)
    assert not list(search.study.rglob(".*.part"))


@dataclass(frozen=True)
class Snapshot:
    """A study as its killed driver left it."""

    begun: set[tuple[int, int, int]]
    saved: dict[int, int]
    ended: set[int]


def snapshot(search: Search) -> Snapshot:
    search.wait_until_alone()
    saved = search.saved()
    trials = search.trials() if (search.study / "study.db").exists() else []
    for trial in trials:
        assert len(trial.intermediate_values) <= saved.get(
            trial.number, 0
        )  # the ledger never leads the folder
    return Snapshot(
        search.begun, saved, {trial.number for trial in trials if trial.state.is_finished()}
    )


def assert_nothing_ran_again(search: Search, before: Snapshot) -> None:
    for trial, epoch, attempt in search.begun - before.begun:
        assert trial not in before.ended, (
            f"trial {trial} had ended, and attempt {attempt} ran epoch {epoch}"
        )
        assert epoch > before.saved.get(trial, 0), (
            f"epoch {epoch} of trial {trial} was saved, and ran again"
        )


def end_by_itself(search: Search, kill: str) -> None:
    """Run the command with a kill point, until that ends it."""
    assert search.start(kill).wait(250) == -signal.SIGKILL, f"{kill} was not reached: {search.said}"


long = pytest.mark.long


@pytest.mark.parametrize(
    "points",
    [
        ("saved:6", "judged:2"),
        pytest.param(
            (
                "asked:3",
                "started:3",
                "reported:4",
                "writing last.json:4",
                "told:2",
                "writing trials.csv:2",
                "tracking:2",
            ),
            marks=long,
        ),
        pytest.param(
            ("asked", "started", "reported", "tracking", "told", "writing last.json"), marks=long
        ),
    ],
    ids=", ".join,
)
def test_a_driver_killed_anywhere_in_a_trials_life_leaves_a_study_that_ends_as_if_nothing_had_happened(
    points: tuple[str, ...], undisturbed: list[optuna.trial.FrozenTrial], tmp_path: Path
) -> None:
    search = Search(tmp_path / "killed", ("--parallel", "1"))
    left = []
    for point in points:
        end_by_itself(search, point)
        for before in left:
            assert_nothing_ran_again(search, before)
        left.append(snapshot(search))
    assert search.start().wait(250) == 0, search.said
    for before in left:
        assert_nothing_ran_again(search, before)
    assert_whole(search, len(undisturbed))
    for trial, other in zip(search.trials(), undisturbed, strict=True):
        assert (trial.params, trial.state) == (other.params, other.state)
        assert trial.intermediate_values == other.intermediate_values
    again = len(search.begun) - len({(trial, epoch) for trial, epoch, _ in search.begun})
    assert again <= len(points)  # at each kill at most the one epoch that was running
    search.wait_until_alone()


@pytest.mark.long
@pytest.mark.often
def test_a_study_whose_driver_is_killed_ten_times_at_random_moments_ends_with_exactly_the_trials_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = random.Random(os.environ.get("CELL_TUNE_SEED", "0"))
    planned, kills = 20, 0
    search = Search(
        tmp_path / "random", ("--parallel", "2", "--trials", str(planned), "--epoch-seconds", "1.2")
    )
    left: list[Snapshot] = []
    reached: Counter[str] = Counter()
    while kills < 10:
        begun = len(search.begun)
        driver = search.start()
        if moments.random() < 0.7:
            reached["after an epoch had begun"] += 1
            while len(search.begun) == begun:
                assert driver.poll() is None, search.said
                time.sleep(0.02)
            time.sleep(moments.uniform(0.0, 4.0))
        else:
            reached["at any time from its start"] += 1
            time.sleep(moments.uniform(0.0, 15.0))
        assert driver.poll() is None, f"ended after {kills} kills: {search.said}"
        others = search.processes if moments.random() < 0.5 else []
        driver.kill()
        for process in (
            others
        ):  # as when the power fails; else workers outlive their driver by a second or two
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        driver.wait()
        kills += 1
        reached["with all its workers"] += bool(others)
        for before in left:
            assert_nothing_ran_again(search, before)
        if moments.random() < 0.5:  # else the next driver meets what is left of this one
            left.append(snapshot(search))
    assert search.start().wait(280) == 0, search.said
    for before in left:
        assert_nothing_ran_again(search, before)
    assert_whole(search, planned)
    search.wait_until_alone()
    epochs = Counter((trial, epoch) for trial, epoch, _ in search.begun)
    states = Counter(trial.state.name for trial in search.trials())
    again = sum(epochs.values()) - len(epochs)
    with capsys.disabled():
        print(f"\n{kills} kills of the driver: {dict(reached)}; {planned} trials: {dict(states)};")
        print(
            f"{len(epochs)} epochs, of which {again} were running when a driver died, and ran again"
        )


@contextlib.contextmanager
def stopped(process: int) -> Iterator[None]:
    """Stop a process inside the block, and let it live when its parent dies.

    The kernel sends SIGHUP to the stopped processes of a group when the last of its members ends
    whose parent is outside the group and inside the session. A child of this process is one.
    """
    child = subprocess.Popen(["sleep", "600"], process_group=os.getpgid(process))
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
        child.kill()
        child.wait()


@pytest.mark.long
def test_a_worker_that_outlives_its_driver_writes_nothing_into_the_next_attempt(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "outlived", ("--parallel", "1", "--trials", "2", "--epoch-seconds", "2")
    )
    driver = search.start()
    witness = search.folder / "witness" / "0-2-1"
    while not witness.exists() or not witness.read_text():
        assert driver.poll() is None, search.said
        time.sleep(0.02)
    worker = int(witness.read_text())
    assert worker in search.processes
    with stopped(worker):  # it cannot notice that its driver dies, and keeps the lock on trials/0
        driver.kill()
        driver.wait()
        time.sleep(5)  # what of Ray can still notice that the driver died ends now
        assert worker in search.processes
        before = (search.study / "trials/0/last.json").read_bytes()
        driver = search.start()
        while "trial 0 goes on after epoch 1, attempt 2" not in search.said:
            assert driver.poll() is None, search.said
            time.sleep(0.1)
        time.sleep(8)  # far longer than the next attempt needs to begin
        assert {attempt for _, _, attempt in search.begun} == {1}
        assert (search.study / "trials/0/last.json").read_bytes() == before
    assert driver.wait(250) == 0, search.said
    search.wait_until_alone()
    assert_whole(search, 2)
    begun = {
        (epoch, attempt): (search.folder / "witness" / f"{t}-{epoch}-{attempt}").stat().st_mtime_ns
        for t, epoch, attempt in search.begun
        if t == 0
    }
    assert {attempt for _, attempt in begun} == {1, 2}
    last_of_first = max(at for (_, attempt), at in begun.items() if attempt == 1)
    first_of_second = min(at for (_, attempt), at in begun.items() if attempt == 2)
    assert last_of_first < first_of_second


def test_the_next_attempt_waits_while_somebody_holds_the_trials_folder(tmp_path: Path) -> None:
    search = Search(tmp_path / "held", ("--parallel", "1", "--trials", "1"))
    folder = search.study / "trials/0"
    folder.mkdir(parents=True)
    lock = filelock.FileLock(folder / ".lock")
    with lock:
        driver = search.start()
        while "trial 0 starts" not in search.said:
            assert driver.poll() is None, search.said
            time.sleep(0.1)
        time.sleep(6)
        assert not search.begun
        assert sorted(path.name for path in folder.iterdir()) == [".lock"]
        second = search.start()
        assert second.wait(120) == 2
        refusal = re.search(
            r"^.*is being searched by process (\d+) on host (\S+);.*$", search.said, re.MULTILINE
        )
        assert refusal is not None
        assert refusal[1] == str(driver.pid)
        assert refusal[2] == os.uname().nodename
        assert "Traceback" not in search.said
    assert driver.wait(250) == 0, search.said
    assert_whole(search, 1)
    search.wait_until_alone()


@pytest.mark.long
def test_two_studies_at_once_on_one_machine_and_one_mlflow_database_both_end_whole(
    tmp_path: Path,
) -> None:
    shared = tmp_path / "both" / "mlflow.db"
    searches: list[Any] = [Search(tmp_path / "both" / name) for name in ("one", "two")]
    for search, name in zip(searches, ("one", "two"), strict=True):
        search.more = ("--parallel", "1", "--trials", "5", "--tracking-uri", f"sqlite:///{shared}")
        (search.folder / "space.yaml").write_text(
            SPACE.replace("study: replayed", f"study: {name}")
        )
    drivers = [search.start() for search in searches]
    for driver, search in zip(drivers, searches, strict=True):
        assert driver.wait(280) == 0, search.said
        assert "MLflow does not show" not in search.said
    client = mlflow.MlflowClient(f"sqlite:///{shared}")
    for search, name in zip(searches, ("one", "two"), strict=True):
        study = optuna.load_study(
            study_name=name, storage=f"sqlite:///{search.folder}/results/{name}/study.db"
        )
        experiment = client.get_experiment_by_name(name)
        runs = client.search_runs([experiment.experiment_id], "tags.phase = 'search'")
        shown = {int(run.data.tags["trial"]): run for run in runs}
        assert len(runs) == len(shown) == len(study.trials) == 5
        for trial in study.trials:
            curve = client.get_metric_history(shown[trial.number].info.run_id, "ap50")
            assert {point.step: point.value for point in curve} == trial.intermediate_values
            assert (
                shown[trial.number].data.tags["state"] == trial.state.name in ("COMPLETE", "PRUNED")
            )
        search.wait_until_alone()
