"""What the search engine adds to a trial, measured on replayed curves: nothing is trained.

    python -m benchmarks.engine [--trials N] [--ledger-trials N]       some five minutes on 2 cores

Workers note when each epoch begins and ends, so what lies between the end of one and the begin of
the next is the engine's: the trial's own files, the way to the driver, ledger, table, MLflow,
progress, and the way back. One trial runs at a time, an epoch sleeps for EPOCH_SECONDS. Beside it,
as the other side, Ray Tune as its documentation has it: OptunaSearch, FIFO, reused actors, a
checkpoint an epoch, default loggers.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import ray
from ray import tune as ray_tune
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from benchmarks.replay import ReplayedTrial
from benchmarks.table import Line, as_text
from core import data as datasets
from core.files import write_json_atomically
from tune.engine.messages import Assignment
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.ledger import open_ledger
from tune.ledger.reading import read_ledger
from tune.request.file import from_document
from tune.request.request import StudyRequest
from tune.study import conductor as study
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.trials import TrialInputs
from tune.tracking.mlflow_tracker import MLflow
from tune.tracking.tracker import TrackedStudy, TrialsView

EPOCHS, EPOCH_SECONDS = 10, 0.05
FILLED_EPOCHS = 2
"""Of a trial that was in the ledger, complete, before anything was measured."""


def request(trials: int, sampler: str = "tpe", epochs: int = EPOCHS) -> StudyRequest:
    """A study over the settings of a usual ablation, with rungs at epochs 1, 3 and 9."""
    return from_document(
        {
            "study": "engine",
            "data": "synthetic",
            "fixed": {"optim.epochs": epochs},
            "space": {
                "optim.learning_rate": {"low": 1e-5, "high": 0.9, "log": True},
                "model.backbone": ["resnet18", "resnet34", "resnet101"],
                "model.trainable_layers": [0, 1, 5],
                "augment.elastic": [True, False],
                "optim.restarts": [0, 1, 3],
                "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1, 3]}},
            },
            "search": {"sampler": sampler, "trials": trials},
            "stop_early": {"min_epochs": 1, "reduction": 3},
            "confirm": {"top": 0},
        },
        "benchmark",
    )


def trials_of(storage: str) -> int:
    """Number of trials of the study in a ledger."""
    known = read_ledger(storage, "engine")
    assert known is not None
    return len(known.records)


def report(epoch: int, ap50: float) -> dict[str, Any]:
    """An epoch as a worker reports it."""
    return {
        "epoch": epoch, "losses": {"loss": 1 / epoch}, "learning_rate": 0.1, "ap50": ap50,
        "ap50_uncapped": ap50, "ap50_box": ap50, "ap50_per_class": [ap50, None], "seconds": 0.25,
        "train_seconds": 0.2, "evaluate_seconds": 0.05, "images_per_second": 10.0,
        "peak_memory_bytes": None, "steps": 3, "detections": 7,
    }  # fmt: skip


def better_than_all_before(assignment: Assignment, epoch: int) -> float:
    """A curve that no rung stops: above those of earlier trials, and above those the ledger was
    filled with.
    """
    time.sleep(EPOCH_SECONDS)
    return 0.5 + assignment.trial / 10_000 + epoch / 1_000_000


def fill(study_folder: Path, trials: int) -> None:
    """A ledger of so many trials that have ended, through its own interface.

    Settings are drawn at random and a whole trial is FILLED_EPOCHS long: their number matters here,
    and TPE and ten epochs each would take many minutes. The rung after the first epoch stops about
    two thirds of them.
    """
    study_folder.mkdir(parents=True, exist_ok=True)
    asked = request(trials, sampler="random", epochs=FILLED_EPOCHS)
    ledger = open_ledger(f"sqlite:///{study_folder / 'study.db'}", asked)
    while (record := ledger.next()) is not None:
        score = float(record.settings["optim.learning_rate"]) / 2
        epochs = [
            report(epoch, score * epoch / FILLED_EPOCHS) for epoch in range(1, FILLED_EPOCHS + 1)
        ]
        ledger.report(record.id, epochs)


def copy(filled: Path, study_folder: Path) -> None:
    """A filled ledger for another measurement; nobody writes it."""
    study_folder.mkdir(parents=True, exist_ok=True)
    for file in filled.glob("study.db*"):
        shutil.copy(file, study_folder)


@dataclass(frozen=True)
class Span:
    """One epoch of one trial in one process, in seconds of `time.time`.

    began, ended   of what the trial itself does in `run_epoch`
    saved          seconds of the trial's `save` that followed
    """

    process: int
    trial: int
    epoch: int
    began: float
    ended: float
    saved: float


@dataclass(frozen=True)
class Timed:
    """Makes trials that note when their epochs begin and end, in files of `folder`, one a
    process.
    """

    folder: Path

    trains = False

    def make(self, assignment: Assignment, inputs: TrialInputs) -> "TimedTrial":  # noqa: ARG002
        """The trial of an attempt."""
        return TimedTrial(assignment, self.folder)

    def spans(self) -> list[Span]:
        """All epochs, in the order in which they began."""
        found = []
        for path in self.folder.iterdir():
            for line in path.read_text().splitlines():
                trial, epoch, *times = line.split()
                found.append(Span(int(path.name), int(trial), int(epoch), *map(float, times)))
        return sorted(found, key=lambda span: span.began)


def note(folder: Path, *values: object) -> None:
    """Append a line to this process's file."""
    with (folder / str(os.getpid())).open("a") as file:
        file.write(" ".join(map(str, values)) + "\n")


class TimedTrial(ReplayedTrial):
    """A replayed trial that notes its times after each save."""

    def __init__(self, assignment: Assignment, folder: Path) -> None:
        super().__init__(assignment, better_than_all_before)
        self._notes = folder

    def run_epoch(self, progress: Callable[[float], object] = float) -> Any:
        """The next epoch."""
        self._began = time.time()
        done = super().run_epoch(progress)
        self._ended = time.time()
        return done

    def save(self, folder: Path) -> None:
        """Save, and note the epoch's times."""
        begin = time.time()
        super().save(folder)
        epoch = len(self.reports)
        note(
            self._notes,
            self._assignment.trial,
            epoch,
            self._began,
            self._ended,
            time.time() - begin,
        )


class Nothing(TrialsView):
    """Stands for MLflow where it is not to be measured."""

    def shown(self, *_: Any) -> str:
        """Everything, always."""
        return "none"

    def write(self, *_: Any) -> str:
        """Nothing."""
        return "none"

    def close(self, *_: Any) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Overheads:
    """What an engine adds, medians.

    start   seconds from the call to the begin of the first epoch
    trial   seconds from the end of a trial's last epoch to the begin of the next one's first, in
            the same process
    epoch   seconds from the end of an epoch to the begin of the next in the same trial
    saving  seconds of these that are the trial's own `save`
    """

    start: float
    trial: float
    epoch: float
    saving: float

    @classmethod
    def of(cls, begin: float, spans: list[Span]) -> "Overheads":
        """Taken from the epochs of one study. The first two trials warm up, and are left out."""
        first = spans[0].began
        trials: list[float] = []
        epochs: list[float] = []
        settled = sorted({span.trial for span in spans})[2]
        last: dict[int, Span] = {}
        for span in spans:
            before = last.get(span.process)
            if before is not None and before.trial >= settled:
                (epochs if before.trial == span.trial else trials).append(span.began - before.ended)
            last[span.process] = span
        saving = statistics.median(span.saved for span in spans if span.trial >= settled)
        return cls(first - begin, statistics.median(trials), statistics.median(epochs), saving)


def ours(trials: int, filled: Path | None = None, tracked: bool = True) -> Overheads:
    """A study of so many trials, one at a time, in a new ledger or in a copy of one that was
    filled.

    tracked   whether MLflow is written; trials that were in the ledger are then brought to it
              before
    """
    data = datasets.load_data("synthetic")
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        times, options = Path(temporary) / "times", Options(Path(temporary))
        times.mkdir()
        there = 0
        if filled is not None:
            copy(filled, options.results / "engine")
            there = trials_of(f"sqlite:///{options.results}/engine/study.db")
        plan = StudyPlan(
            request(there + trials),
            options,
            data,
            {},
            Machine((Node(2, 0),)),
            TrialResources(1, 0, 1),
        )
        if not tracked:
            stack.enter_context(mock.patch.object(MLflow, "trials", return_value=Nothing()))
        elif filled is not None:
            ledger = open_ledger(plan.storage, plan.request)
            view = plan.tracking.trials(TrackedStudy("engine", ledger.identity), "search")
            for record in ledger.records:
                view.write(record, plan.folder.trial(record.id))
        begin = time.time()
        study.run_study(plan, Console(file=io.StringIO()), Timed(times))
        return Overheads.of(begin, Timed(times).spans())


class BareTrial(ray_tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """The same curve and the same file an epoch, as Ray's documentation has a class trainable."""

    def setup(self, config: Mapping[str, Any], folder: str) -> None:
        """A new trial."""
        self._folder, self._config, self._done = Path(folder), config, 0

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """The next trial in this process."""
        self._config, self._done = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        began = time.time()
        self._done += 1
        time.sleep(EPOCH_SECONDS)
        note(self._folder, int(self.trial_id, 16), self._done, began, time.time(), 0.0)
        return {"ap50": float(self._config["optim.learning_rate"]), "done": self._done == EPOCHS}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write what the replayed trial writes."""
        reports = [report(epoch, 0.5) for epoch in range(1, self._done + 1)]
        write_json_atomically(Path(checkpoint_dir) / "last.json", reports)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continue from it."""
        self._done = len(json.loads((Path(checkpoint_dir) / "last.json").read_text()))


def bare_ray(trials: int) -> Overheads:
    """The same number of trials by Ray Tune and its OptunaSearch, one at a time, with a
    checkpoint an epoch.
    """
    space = {
        "optim.learning_rate": ray_tune.loguniform(1e-5, 0.9),
        "model.backbone": ray_tune.choice(["resnet18", "resnet34", "resnet101"]),
        "model.trainable_layers": ray_tune.choice([0, 1, 5]),
        "augment.elastic": ray_tune.choice([True, False]),
        "optim.restarts": ray_tune.choice([0, 1, 3]),
        "optim.restart_multiplier": ray_tune.choice([1, 2]),
    }
    with tempfile.TemporaryDirectory(prefix="ct-") as temporary:
        times = Path(temporary) / "times"
        times.mkdir()
        # What the engine switches off for itself when it is imported is on again, as Ray has it.
        with mock.patch.dict(os.environ, {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0"}):
            begin = time.time()
            ray.init(
                "local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR, _temp_dir=str(Path(temporary) / "ray"),
            )  # fmt: skip
            try:
                search = OptunaSearch(
                    metric="ap50", mode="max", sampler=optuna.samplers.TPESampler(seed=0)
                )
                ray_tune.Tuner(
                    ray_tune.with_resources(
                        ray_tune.with_parameters(BareTrial, folder=str(times)), {"cpu": 1}
                    ),
                    param_space=space,
                    tune_config=ray_tune.TuneConfig(
                        search_alg=search, num_samples=trials, max_concurrent_trials=1,
                        reuse_actors=True
                    ),
                    run_config=ray_tune.RunConfig(
                        name="bare", storage_path=str(Path(temporary) / "results"), verbose=0,
                        checkpoint_config=ray_tune.CheckpointConfig(
                            checkpoint_frequency=1, num_to_keep=1, checkpoint_at_end=False
                        ),
                    ),
                ).fit()  # fmt: skip
            finally:
                ray.shutdown()
        spans = Timed(times).spans()
    order = {
        trial: place for place, trial in enumerate(dict.fromkeys(span.trial for span in spans))
    }
    numbered = [
        Span(span.process, order[span.trial], span.epoch, span.began, span.ended, span.saved)
        for span in spans
    ]
    return Overheads.of(begin, numbered)


@dataclass(frozen=True)
class Calls:
    """Seconds of the ledger's calls, medians.

    ask     `next`, TPE's proposal and its writing included
    epoch   `report` of an epoch at which nothing is judged
    rung    `report` of an epoch at which the trial is compared with all others, and goes on
    end     `report` of the last epoch
    follow  `catch_up` after an epoch, while no worker waits
    """

    ask: float
    epoch: float
    rung: float
    end: float
    follow: float


def ledger_calls(filled: Path, trials: int) -> Calls:
    """The ledger alone, when it holds what it was filled with."""
    timings: dict[str, list[float]] = {"ask": [], "epoch": [], "rung": [], "end": [], "follow": []}
    with tempfile.TemporaryDirectory() as temporary:
        copy(filled, Path(temporary))
        storage = f"sqlite:///{temporary}/study.db"
        ledger = open_ledger(storage, request(trials_of(storage) + trials))
        for _ in range(trials):
            begin = time.perf_counter()
            record = ledger.next()
            timings["ask"].append(time.perf_counter() - begin)
            assert record is not None
            history: list[dict[str, Any]] = []
            for epoch in range(1, EPOCHS + 1):
                history.append(report(epoch, 0.5 + record.id / 10_000 + epoch / 1_000_000))
                begin = time.perf_counter()
                ledger.report(record.id, history)
                kind = "end" if epoch == EPOCHS else "rung" if epoch in (1, 3, 9) else "epoch"
                timings[kind].append(time.perf_counter() - begin)
                begin = time.perf_counter()
                ledger.catch_up()
                if epoch < EPOCHS:
                    timings["follow"].append(time.perf_counter() - begin)
    return Calls(**{name: statistics.median(values) for name, values in timings.items()})


def lines(short: bool, trials: int = 0, ledger_trials: int = 1000) -> Iterator[Line]:
    """What the engine adds, with few trials in the ledger and with many, and what Ray adds by
    itself.
    """
    trials = trials or (8 if short else 20)
    with tempfile.TemporaryDirectory() as temporary:
        small, large = Path(temporary) / "small", Path(temporary) / "large"
        fill(small, 10)
        fill(large, ledger_trials)
        few, bare = ours(trials, small), bare_ray(trials)
        # What MLflow takes depends on one trial's run, and showing it a thousand first takes
        # minutes.
        many = ours(trials, large, tracked=not short)
        before, after = (
            ledger_calls(small, 4 if short else 20),
            ledger_calls(large, 4 if short else 20),
        )
    at = f"... at {ledger_trials} trials in the ledger" + (", MLflow not counted" if short else "")
    yield _line("start of Ray and of the first worker", few.start, bare.start, "")
    yield _line(
        "end of a trial's last epoch to begin of the next one's first",
        few.trial,
        bare.trial,
        "under 0.3 s",
    )
    yield _line(at, many.trial, None, "under 0.3 s")
    saving = f"under 20 ms; of it the trial's own save {1000 * few.saving:.1f} ms"
    yield _line("a reported epoch", few.epoch, bare.epoch, saving)
    yield _line(at, many.epoch, None, "under 20 ms")
    for name, what in {
        "ask": "ask",
        "epoch": "an epoch",
        "rung": "an epoch at a rung",
        "end": "the end",
        "follow": "Optuna's own value of an epoch, while no worker waits",
    }.items():
        yield Line(
            f"ledger alone, {what}, at {ledger_trials} trials",
            _milliseconds(getattr(after, name)),
            _milliseconds(getattr(before, name)) + ", ours at 10 trials",
            getattr(before, name) / getattr(after, name),
            "the same at any number",
        )


def _line(what: str, seconds: float, of_ray: float | None, goal: str) -> Line:
    return Line(
        what,
        _milliseconds(seconds),
        "" if of_ray is None else f"{_milliseconds(of_ray)}, Ray with OptunaSearch",
        None if of_ray is None else of_ray / seconds,
        goal,
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--ledger-trials", type=int, default=1000)
    parsed = parser.parse_args()
    print(as_text(lines(short=False, trials=parsed.trials, ledger_trials=parsed.ledger_trials)))


if __name__ == "__main__":
    main()
