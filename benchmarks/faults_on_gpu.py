"""A hundred faults in trials that share a GPU by NVIDIA's Multi-Process Service: what they cost.

    python -m benchmarks.faults_on_gpu [--faults 100] [--trials 60] [--together 6]

The study is a real one with real workers; a trial multiplies matrices for a second an epoch. Faults
are injected in turn: a write to an illegal address, more memory than the trial may have, SIGKILL.
Each is injected once, and a trial has at most as many as it may lose attempts, so that none of them
need be lost. Counted are the trials that were lost all the same, and the attempts that were charged
to a trial beyond the faults that were injected in it. Needs a GPU and the service, and says so
where they are not.
"""

import argparse
import ctypes
import itertools
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console

from benchmarks.replay import ReplayedTrial
from core import data as datasets
from core.errors import CellTuneError
from tune.engine.messages import Assignment
from tune.engine.resources import Machine
from tune.ledger.ledger import MAX_LOST
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord
from tune.request.file import from_document
from tune.study import conductor as study
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.trials import TrialInputs, begin_to_use_gpu

EPOCHS = 3
KINDS = ("address", "memory", "kill")
"""The faults: a write to an illegal address, too little memory, SIGKILL."""
_WRITES_NOWHERE = b"""
.version 6.4
.target sm_75
.address_size 64
.visible .entry fault()
{
    .reg .b64 %place;
    .reg .b32 %value;
    mov.u64 %place, 64;
    mov.u32 %value, 1;
    st.global.u32 [%place], %value;
    ret;
}
"""
"""A kernel in PTX that writes to an address that no process has."""


class Card(Protocol):
    """The GPU that trials share, as a worker's process has it."""

    def begin(self, share: float) -> None:
        """Begin to use a share of it."""

    def compute(self, seconds: float) -> None:
        """Compute for some seconds; raises what torch raises after an error on the GPU."""

    def fault(self, kind: str) -> None:
        """Do what ends in a fault of this kind."""


class RealCard:
    """The first GPU that the process sees."""

    def begin(self, share: float) -> None:
        """Begin to use a share of it."""
        begin_to_use_gpu(share)

    def compute(self, seconds: float) -> None:
        """Multiply matrices."""
        end, matrix = time.monotonic() + seconds, torch.ones(1024, 1024, device="cuda:0")
        while time.monotonic() < end:
            (matrix @ matrix).sum().item()

    def fault(self, kind: str) -> None:
        """Do what ends in a fault of this kind."""
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "memory":
            torch.empty(2 * torch.cuda.mem_get_info()[1], dtype=torch.uint8, device="cuda:0")
        else:
            _write_nowhere()


def _write_nowhere() -> None:
    """Raise what torch raises after a write to an illegal address."""
    cuda, module, function = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), ctypes.c_void_p()
    torch.ones(1, device="cuda:0")  # makes the context current
    for status in (
        cuda.cuModuleLoadData(ctypes.byref(module), _WRITES_NOWHERE),
        cuda.cuModuleGetFunction(ctypes.byref(function), module, b"fault"),
        cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None),
    ):
        if status:
            raise ValueError(f"the kernel that is to fault could not be started (CUDA: {status})")
    torch.cuda.synchronize()


@dataclass(frozen=True)
class Faulty:
    """Makes trials in which faults are injected.

    card      the GPU that they share
    witness   a folder that has a file for each fault that was injected
    once      the kind of fault in the first attempt that comes to an epoch, by trial and epoch
    always    the epoch, by trial, in which each attempt writes to an illegal address
    seconds   seconds that an epoch computes
    """

    card: Card
    witness: Path
    once: Mapping[tuple[int, int], str]
    always: Mapping[int, int] = field(default_factory=dict)
    seconds: float = 1.0

    trains = False

    def make(self, assignment: Assignment, inputs: TrialInputs) -> ReplayedTrial:  # noqa: ARG002
        """The trial of an attempt."""
        self.card.begin(assignment.gpus)
        return ReplayedTrial(assignment, self._ap50)

    def _ap50(self, assignment: Assignment, epoch: int) -> float:
        self.card.compute(self.seconds / 2)
        place = assignment.trial, epoch
        done = self.witness / f"{place[0]}-{place[1]}"
        if self.always.get(assignment.trial) == epoch:
            self.card.fault("address")
        elif place in self.once and not done.exists():
            done.touch()
            self.card.fault(self.once[place])
        self.card.compute(self.seconds / 2)
        return epoch / (10 + assignment.trial)


def spread(faults: int, trials: int) -> dict[tuple[int, int], str]:
    """Faults in turn, by trial and epoch, at most MAX_LOST in a trial."""
    places = itertools.product(range(1, min(MAX_LOST, EPOCHS) + 1), range(trials))
    chosen = list(itertools.islice(places, faults))
    if len(chosen) < faults:
        raise ValueError(f"{trials} trials take {len(chosen)} faults, and {faults} are asked for")
    return {(trial, epoch): kind for (epoch, trial), kind in zip(chosen, itertools.cycle(KINDS))}


@dataclass(frozen=True)
class Cost:
    """The cost of faults.

    records   the trials in the end
    injected  number of faults that were injected, by trial
    seconds   time of the study
    """

    records: Sequence[TrialRecord]
    injected: Mapping[int, int]
    seconds: float

    @property
    def lost(self) -> list[int]:
        """The trials that are not complete."""
        return [record.id for record in self.records if record.state is not State.COMPLETE]

    @property
    def overcharged(self) -> int:
        """Number of attempts that were charged beyond the faults that were injected."""
        return sum(max(0, one.lost - self.injected.get(one.id, 0)) for one in self.records)


def measure(trials: int, together: int, machine: Machine, faulty: Faulty, results: Path) -> Cost:
    """Run a study of short trials in which faults are injected.

    together   number of trials that share each GPU

    Raises ResourceError where the service does not run.
    """
    request = from_document(
        {
            "study": "faults",
            "data": "synthetic",
            "fixed": {"optim.epochs": EPOCHS, "model.weights": "none"},
            "space": {"optim.learning_rate": {"low": 1e-5, "high": 0.1, "log": True}},
            "search": {"sampler": "random", "trials": trials},
            "stop_early": {"rule": "none"},
            "confirm": {"top": 0},
            "resources": {"gpus_per_trial": 1 / together, "mps": True},
        },
        "benchmark",
    )
    plan = StudyPlan(
        request, Options(results), datasets.load_data("synthetic"), {}, machine,
        machine.share(1, 1 / together, None),
    )  # fmt: skip
    begin = time.monotonic()
    study.run_study(plan, Console(file=sys.stderr), faulty)
    known = read_ledger(plan.storage, "faults")
    assert known is not None
    injected = Counter(int(path.name.split("-")[0]) for path in faulty.witness.iterdir())
    return Cost(known.records, injected, time.monotonic() - begin)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was counted; the status is 1 if a trial was lost, or charged for another."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults_on_gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--together", type=int, default=6, help="trials that share each GPU")
    parsed = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("faults_on_gpu needs a GPU, and torch sees none: nothing was measured")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        witness = Path(folder) / "witness"
        witness.mkdir()
        faulty = Faulty(RealCard(), witness, spread(parsed.faults, parsed.trials))
        try:
            cost = measure(
                parsed.trials, parsed.together, Machine.here(), faulty, Path(folder) / "results"
            )
        except CellTuneError as error:
            print(f"faults_on_gpu: {error}: nothing was measured")
            return 1
    kinds = Counter(faulty.once.values())
    spared = sum(record.spared for record in cost.records)
    print(
        f"{sum(cost.injected.values())} faults ({kinds['address']} illegal addresses,"
        f" {kinds['memory']} out of memory, {kinds['kill']} SIGKILL) in {parsed.trials} trials,"
        f" {parsed.together} at once on a {torch.cuda.get_device_name()}: {len(cost.lost)} trials"
        f" lost, {cost.overcharged} attempts charged to innocents, {spared} not charged;"
        f" {cost.seconds / 60:.1f} minutes"
    )
    return 1 if cost.lost or cost.overcharged else 0


if __name__ == "__main__":
    sys.exit(main())
