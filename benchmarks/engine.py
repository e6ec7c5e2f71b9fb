"""What the search engine adds to a trial, measured on replayed curves: nothing is trained.

python -m benchmarks.engine [--trials N] [--ledger-trials N]
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.replay import ReplayedTrial
from core import data as datasets
from tune import space_file, study
from tune.bridge import Assignment
from tune.executor import Machine, Node
from tune.ledger import Ledger
from tune.plan import Options, Plan

EPOCHS = 10


def rising_curve(assignment: Assignment, epoch: int) -> float:
    """AP50 that grows with the epoch and with the learning rate."""
    return float(assignment.settings["optim.learning_rate"]) * epoch / EPOCHS


def make_replayed(assignment: Assignment, cpus: int, **_: Any) -> ReplayedTrial:  # noqa: ARG001
    """The trial of an attempt."""
    return ReplayedTrial(assignment, rising_curve)


def request(trials: int) -> Any:
    """A study over the settings of a usual ablation."""
    return space_file.from_document(
        {
            "study": "engine",
            "data": "synthetic",
            "fixed": {"optim.epochs": EPOCHS},
            "space": {
                "optim.learning_rate": {"low": 1e-5, "high": 0.9, "log": True},
                "model.backbone": ["resnet18", "resnet34", "resnet101"],
                "model.trainable_layers": [0, 1, 5],
                "augment.elastic": [True, False],
                "optim.restarts": [0, 1, 3],
                "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1, 3]}},
            },
            "search": {"sampler": "tpe", "trials": trials},
            "stop_early": {"min_epochs": 1, "reduction": 3},
            "confirm": {"top": 0},
        },
        "benchmark",
    )


def ledger_alone(trials: int) -> None:
    """Milliseconds of each call of the ledger, over the first and the last twenty trials."""
    timings: dict[str, list[float]] = {"next": [], "epoch": []}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(f"sqlite:///{Path(folder) / 'study.db'}", request(trials))
        for _ in range(trials):
            begin = time.perf_counter()
            record = ledger.next()
            timings["next"].append(time.perf_counter() - begin)
            assert record is not None
            history: list[dict[str, Any]] = []
            spent = []
            for epoch in range(1, EPOCHS + 1):
                ap50 = float(record.settings["optim.learning_rate"]) * epoch / EPOCHS
                history.append({"epoch": epoch, "ap50": ap50, "seconds": 1.0, "losses": {"loss": 1.0}})
                begin = time.perf_counter()
                ended = ledger.report(record.id, history)
                spent.append(time.perf_counter() - begin)
                if ended:
                    break
            timings["epoch"].append(statistics.mean(spent))
    for name, values in timings.items():
        first, last = statistics.median(values[:20]) * 1000, statistics.median(values[-20:]) * 1000
        print(f"ledger, {name:5s}: {first:7.1f} ms at the first trials, {last:7.1f} ms at {trials} trials")


def engine(trials: int) -> None:
    """Seconds a trial through Ray, ledger, MLflow and files, start of Ray not counted."""
    asked = request(trials)
    data = datasets.load("synthetic")
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            machine = Machine((Node(2, 0),))
            plan = Plan(asked, Options(Path(folder)), data, {}, machine, machine.share(1, 0, workers))
            study.run(plan, Console(file=io.StringIO()), make_replayed)
            records = Ledger(plan.storage, asked).records
            ends = [int(record.epochs[-1]["at"]) / 1000 for record in records]
            begin = min(int(record.epochs[0]["at"]) / 1000 for record in records)
            epochs = sum(len(record.epochs) for record in records)
            seconds = max(ends) - begin
            print(
                f"engine, {workers} at once: {seconds / trials:.3f} s a trial, "
                f"{1000 * seconds / epochs:.1f} ms an epoch"
                f" ({trials} trials, {epochs} epochs, {seconds:.1f} s)"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--ledger-trials", type=int, default=200)
    parsed = parser.parse_args()
    engine(parsed.trials)
    ledger_alone(parsed.ledger_trials)


if __name__ == "__main__":
    main()
