"""The cost of a large study for its driver: 1,000 replayed trials on 64 declared GPUs of 8 nodes.

    python -m benchmarks.scale [--trials N] [--nodes N] [--gpus N] [--epochs N] [--storage URL]
                               [--mlflow]

The request, the plan, the conductor with its claim, ledger, table and progress, the sampler, the
stopping rule and the database are the real ones, and with --mlflow so is the thread that shows
trials in MLflow. Ray and the workers are simulated. In their place this process holds as many
attempts at once as the declared GPUs take. As soon as an epoch is taken in, it hands in the next
epoch of an attempt that is drawn at random. So the driver never waits, and the measured time is the
time that it needs. A report is as large as that of a data set with 41 validation images and four
classes. Nothing is trained, and no trial's folder is written.
"""

import argparse
import io
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import sqlalchemy
from rich.console import Console

from benchmarks.engine import Nothing
from benchmarks.replay import Replays
from benchmarks.replayed_search import replayed_ap50
from core import data as datasets
from core.metric.coco_summary import SUMMARY_NAMES
from core.metric.limits import DETECTION_KINDS, INSTANCE_KINDS, MENDS, ClassLimits
from core.training.trial import EpochReport
from core.values import as_number
from tune.database import file_of
from tune.engine.bridge import Desk
from tune.engine.messages import Assignment, History
from tune.engine.resources import Machine, Node, TrialResources
from tune.redaction import without_password
from tune.request.file import from_document
from tune.request.request import StudyRequest
from tune.study import conductor as study
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.tracking.mlflow_tracker import MLflow

IMAGES, CLASSES = 41, 4
"""Validation images and classes of the data set whose reports are imitated."""
EPOCH_SECONDS = 30.0
"""Seconds of an epoch, of 170 images on a fast GPU, for which the busy share of the driver is
printed."""


def request(trials: int, epochs: int) -> StudyRequest:
    """A study over six settings, of which two determine the score."""
    return from_document(
        {
            "study": "scale",
            "data": "synthetic",
            "fixed": {"optim.epochs": epochs},
            "space": {
                "optim.learning_rate": {"low": 1e-5, "high": 0.1, "log": True},
                "optim.weight_decay": {"low": 0.0, "high": 0.9},
                "model.backbone": ["resnet18", "resnet34", "resnet101"],
                "model.trainable_layers": [0, 1, 5],
                "augment.elastic": [True, False],
                "optim.restarts": [0, 1, 3],
            },
            "search": {"trials": trials},
            "stop_early": {"min_epochs": max(1, epochs // 8), "reduction": 3},
            "confirm": {"top": 0},
        },
        "benchmark",
    )


def report(assignment: Assignment, epoch: int, best: float, rng: random.Random) -> EpochReport:
    """The report of an epoch, as large as a real one.

    best   the highest AP50 of the epochs before; a report with a higher one has the limits of its
           classes
    """
    score = min(1.0, max(0.0, replayed_ap50(assignment.settings, epoch) + rng.gauss(0, 0.01)))
    last = epoch == int(assignment.settings["optim.epochs"])
    limits = ClassLimits(
        {kind: rng.randrange(1000) for kind in INSTANCE_KINDS},
        tuple(rng.randrange(100) for _ in range(CLASSES)),
        {kind: rng.randrange(1000) for kind in DETECTION_KINDS},
        {kind: rng.random() for kind in MENDS},
    )
    terms = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn", "loss")
    return EpochReport(
        epoch=epoch, losses={name: rng.random() for name in terms},
        learning_rate=rng.random(), ap50=score, ap50_uncapped=score, ap50_box=rng.random(),
        ap50_per_class=tuple(rng.random() for _ in range(CLASSES)), seconds=EPOCH_SECONDS,
        train_seconds=rng.random(), evaluate_seconds=rng.random(), images_per_second=rng.random(),
        peak_memory_bytes=rng.randrange(10**10), steps=85, detections=4000,
        coco={name: rng.random() for name in SUMMARY_NAMES} if last else {},
        limits=(limits,) * CLASSES if score > best else (),
        ap50_pulls=tuple(rng.gauss(0, 0.01) for _ in range(IMAGES)),
    )  # fmt: skip


@dataclass
class Meter:
    """Counts of the driver's calls and of the database's work.

    handed, taken    each call that hands out an attempt or takes in an epoch
    most             largest number of attempts at once
    """

    handed: list["Call"] = field(default_factory=list)
    taken: list["Call"] = field(default_factory=list)
    most: int = 0
    statements: int = 0
    writes: int = 0
    bytes_written: int = 0
    commits: int = 0
    _wrote: bool = False

    def note_statement(
        self, _: Any, __: Any, statement: str, values: Any, ___: Any, ____: bool
    ) -> None:
        """Count a statement, and the size of what it writes."""
        self.statements += 1
        if statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE")):
            self.writes += 1
            self._wrote = True
            given = values.values() if isinstance(values, Mapping) else values
            self.bytes_written += sum(len(str(one)) for one in given)

    def note_commit(self, _: Any) -> None:
        """Count a transaction that wrote something."""
        self.commits += self._wrote
        self._wrote = False


@dataclass(frozen=True)
class Call:
    """A call of the desk.

    trials      number of trials that had been handed out before
    seconds     wall time, waiting for the database and for a processor included
    processor   processor time of the driver's thread, in seconds
    """

    trials: int
    seconds: float
    processor: float


@dataclass(frozen=True)
class Together:
    """Runs the attempts of a desk at once, in this process, in place of Ray."""

    meter: Meter

    def execute(
        self,
        desk: Desk,
        *_: object,
    ) -> None:
        """Hand out attempts and take in epochs until the desk is finished."""
        rng, meter = random.Random(0), self.meter
        running: list[tuple[Assignment, list[EpochReport]]] = []
        begun = 0
        while not desk.finished:
            while True:
                begin = time.perf_counter(), time.thread_time()
                assignment = desk.hand_out()
                if assignment is None:
                    break
                meter.handed.append(_since(begin, begun))
                begun += 1
                desk.begun(assignment)
                running.append((assignment, []))
            meter.most = max(meter.most, len(running))
            place = rng.randrange(len(running))
            assignment, done = running[place]
            best = max((one.ap50 or 0.0 for one in done), default=-1.0)
            done.append(report(assignment, len(done) + 1, best, rng))
            history = History([one.to_json() for one in done])
            begin = time.perf_counter(), time.thread_time()
            leaves = desk.take_in(assignment, history)
            meter.taken.append(_since(begin, begun))
            if leaves:
                running[place] = running[-1]
                running.pop()


def _since(begin: tuple[float, float], trials: int) -> Call:
    return Call(trials, time.perf_counter() - begin[0], time.thread_time() - begin[1])


def at(calls: Sequence[Call], trials: int) -> str:
    """The medians of wall and processor time, in ms, of the calls around a number of trials."""
    near = [one for one in calls if 0.9 * trials <= one.trials <= 1.1 * trials]
    if not near:
        return "-"
    wall = 1000 * statistics.median(one.seconds for one in near)
    own = 1000 * statistics.median(one.processor for one in near)
    return f"{wall:.1f} ({own:.1f})"


def measure(trials: int, machine: Machine, epochs: int, storage: str | None, mlflow: bool) -> None:
    """Run a study, and print what it cost."""
    meter = Meter()
    gpus = sum(node.gpus for node in machine.nodes)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        plan = StudyPlan(
            request(trials, epochs),
            Options(Path(temporary), storage),
            datasets.load_data("synthetic"),
            {},
            machine,
            TrialResources(1, 1.0, gpus),
        )
        stack.enter_context(mock.patch.object(study, "execute", Together(meter).execute))
        if not mlflow:
            stack.enter_context(mock.patch.object(MLflow, "trials", return_value=Nothing()))
        for name, listener in (
            ("before_cursor_execute", meter.note_statement),
            ("commit", meter.note_commit),
        ):
            sqlalchemy.event.listen(sqlalchemy.Engine, name, listener)
            stack.callback(sqlalchemy.event.remove, sqlalchemy.Engine, name, listener)
        begin = time.perf_counter()
        study.run_study(plan, Console(file=io.StringIO()), Replays(_never))
        seconds = time.perf_counter() - begin
        size = _size(plan.storage)
    reported = len(meter.taken)
    print(f"{without_password(storage) if storage else 'sqlite, a file on this disk'}")
    print(
        f"  {trials} trials of at most {epochs} epochs, {reported} epochs reported, at most"
        f" {meter.most} at once, in {seconds:.0f} s"
    )
    print(
        f"  a trial: {meter.commits / trials:.1f} transactions that write,"
        f" {meter.statements / trials:.0f} statements of which {meter.writes / trials:.1f} write"
        f" {meter.bytes_written / trials / 1000:.1f} kB; the database has"
        f" {size / trials / 1000:.1f} kB"
    )
    for what, calls in (("an epoch taken in", meter.taken), ("a trial handed out", meter.handed)):
        print(
            f"  {what}, medians of wall time (and processor time of the driver's thread) in ms: "
            + ", ".join(
                f"{at(calls, number)} at {number} trials"
                for number in (50, 100, 300, 900, 3000, 9000)
                if number <= trials
            )
        )
    late = [one for one in meter.taken if one.trials >= 0.8 * trials]
    handed = [one for one in meter.handed if one.trials >= 0.8 * trials]
    an_epoch = sum(one.processor for one in (*late, *handed)) / len(late)
    print(
        f"  the driver's processor time for an epoch at the end, hand-outs included:"
        f" {1000 * an_epoch:.1f} ms; with epochs of {as_number(EPOCH_SECONDS)} s on {gpus} GPUs it"
        f" is busy {gpus * an_epoch / EPOCH_SECONDS:.1%} of the time, and half of the time on"
        f" {int(EPOCH_SECONDS / 2 / an_epoch)} GPUs"
    )


def _never(*_: object) -> Any:
    raise AssertionError("no worker makes a trial here")


def _size(storage: str) -> int:
    """The bytes of a ledger's database."""
    file = file_of(storage)
    if file is not None:
        return sum(one.stat().st_size for one in file.parent.glob(f"{file.name}*"))
    engine = sqlalchemy.create_engine(storage, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT pg_database_size(current_database())")
        return int(found.scalar_one())


def main() -> None:
    """Print the measurements, one storage after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=64, help="of all nodes together")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--storage", help="URL of an empty database; a sqlite file without it")
    parser.add_argument("--mlflow", action="store_true", help="show the trials in MLflow too")
    parsed = parser.parse_args()
    share = parsed.gpus // parsed.nodes
    machine = Machine((Node(2 * share, share),) * parsed.nodes, "declared")
    measure(parsed.trials, machine, parsed.epochs, parsed.storage, parsed.mlflow)


if __name__ == "__main__":
    main()
