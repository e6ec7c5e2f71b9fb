"""A search whose trials replay a curve, for tests in which something around it fails or ends it.

Nothing is trained: an epoch leaves a file in a folder, the witness, and has a score that follows
from the trial's settings.
"""

import contextlib
import csv
import functools
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import optuna

from benchmarks.replayed_search import replayed_ap50
from core import data as datasets
from core.data.dataset import Dataset
from tests.tracking_database import provide
from tune.engine.resources import Machine, Node, TrialResources
from tune.processes import Started, name_of
from tune.request.file import from_document
from tune.study.options import Options
from tune.study.plan import StudyPlan

ROOT = Path(__file__).parents[1]
EPOCHS = 3
_MARK = "CELL_TUNE_TEST"
"""In the environment of what a test starts, and so in that of Ray's processes."""
SPACE: dict[str, Any] = {
    "study": "faulty",
    "data": "synthetic",
    "fixed": {"optim.epochs": EPOCHS, "model.weights": "none"},
    "space": {
        "optim.learning_rate": {"low": 1e-5, "high": 0.1, "log": True},
        "optim.weight_decay": {"low": 0.0, "high": 0.9},
        "optim.batch_size": [2, 4, 8],
    },
    "search": {"sampler": "random", "trials": 8, "seed": 0},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 0},
    "resources": {"stall_minutes": 0.15},
}
FILE = """
study: faulty
data: synthetic
fixed: {optim.epochs: 3, model.weights: none}
space:
  optim.learning_rate: {low: 1.0e-5, high: 0.1, log: true}
  optim.weight_decay: {low: 0.0, high: 0.9}
search: {sampler: random, trials: 6, seed: 0}
stop_early: {rule: none}
confirm: {top: 0}
"""


@functools.cache
def _data() -> Dataset:
    return datasets.load_data("synthetic")


def plan_of(results: Path, gpus: int = 0, share: float = 0.0, **changes: Any) -> StudyPlan:
    return StudyPlan(
        from_document({**SPACE, **changes}, "test"),
        Options(provide(results)),
        _data(),
        {},
        Machine((Node(2, gpus),)),
        TrialResources(1, share, 2),
    )


def read_table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))


def begun(witness: Path) -> list[tuple[int, int, int]]:
    """Trial, epoch and attempt of every epoch that began."""
    names = [path.name.split("-") for path in witness.iterdir()]
    return sorted((int(trial), int(epoch), int(attempt)) for trial, epoch, attempt in names)


def searching(folder: Path, results: Path, *more: str) -> list[str]:
    space = folder / "space.yaml"
    space.write_text(FILE)
    return [
        "--space",
        str(space),
        "--results",
        str(results),
        "--cpus-per-trial",
        "1",
        "--gpus-per-trial",
        "0",
        *more,
    ]


@contextlib.contextmanager
def locked(database: Path) -> Iterator[Callable[[], None]]:
    """Another process writes a database, and does not end its transaction until it is told to."""
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "connection.execute('BEGIN EXCLUSIVE')\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n"
            "connection.execute('COMMIT')\n",
            str(database),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"locked\n"

    def let_go() -> None:
        holder.communicate(timeout=30)

    try:
        yield let_go
    finally:
        if holder.poll() is None:
            let_go()


@dataclass
class Search:
    """`tune.search` on replayed trials, in a process of its own."""

    folder: Path
    more: tuple[str, ...] = ()
    do: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    _started: Started = field(default_factory=lambda: Started(_MARK))
    results: Path = field(init=False)
    witness: Path = field(init=False)

    def __post_init__(self) -> None:
        self.results, self.witness = self.folder / "results", self.folder / "witness"
        self.witness.mkdir(parents=True)
        provide(self.results)

    def start(self) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.replayed_search",
            "--witness",
            str(self.witness),
            *self.do,
        ]
        command += searching(self.folder, self.results, *self.more)
        with (self.folder / "out").open("a") as out, (self.folder / "err").open("a") as err:
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                _MARK: self._started.mark,
                **self.environment,
            }
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=err, text=True
            )

    def run(self, seconds: float = 280) -> int:
        return self.start().wait(seconds)

    @property
    def processes(self) -> dict[int, str]:
        """The names of the living processes of this search, itself and Ray's agents among them."""
        return {process: name_of(process) for process in self._started.living()}

    @property
    def shared_memory(self) -> dict[str, bool]:
        """The files in /dev/shm that its processes have in memory, each with whether it would
        outlive them.
        """
        found = {}
        for process in self.processes:
            with contextlib.suppress(OSError):
                for line in (Path("/proc") / str(process) / "maps").read_text().splitlines():
                    _, shared, name = line.partition("/dev/shm/")
                    if shared:
                        found[name] = not name.endswith(" (deleted)")
        return found

    def wait_for_process(self, name: str, driver: subprocess.Popen[str]) -> int:
        """Wait until a process of this name lives; its id."""
        while True:
            for process, its_name in self.processes.items():
                if its_name == name:
                    return process
            assert driver.poll() is None, self.out + self.err
            time.sleep(0.02)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def wait_for(self, epoch: str, driver: subprocess.Popen[str]) -> int:
        """Wait until an epoch has begun; the process id of its worker."""
        path = self.witness / epoch
        while not path.exists() or not path.read_text():
            assert driver.poll() is None, self.out + self.err
            time.sleep(0.02)
        return int(path.read_text())

    def assert_complete(self, trials: int, tracking: str | None = None) -> None:
        """Every trial ended as if nothing had happened: in ledger, table and MLflow."""
        storage = f"sqlite:///{self.results / 'faulty/study.db'}"
        found = optuna.load_study(study_name="faulty", storage=storage).trials
        rows = read_table(self.results / "faulty")
        assert (
            [trial.state.name for trial in found]
            == [row["state"] for row in rows]
            == ["COMPLETE"] * trials
        )
        client = mlflow.MlflowClient(tracking or f"sqlite:///{self.results / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("faulty")
        runs = client.search_runs([experiment.experiment_id], "tags.phase = 'search'")
        shown = {int(run.data.tags["trial"]): run for run in runs}
        assert sorted(shown) == list(range(trials))
        assert len(runs) == trials
        for trial in found:
            curve = {epoch: replayed_ap50(trial.params, epoch) for epoch in range(1, EPOCHS + 1)}
            assert trial.intermediate_values == curve
            history = client.get_metric_history(shown[trial.number].info.run_id, "ap50")
            assert {point.step: point.value for point in history} == curve
            assert shown[trial.number].info.status == "FINISHED"
