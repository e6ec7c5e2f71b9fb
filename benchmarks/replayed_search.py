"""A search of trials that replay a curve and misbehave when asked to, in a process of its own.

    python -m benchmarks.replayed_search --witness DIR --do hang@2.1 --space FILE --results DIR ...

Everything but the training is that of `python -m tune.search`, whose options it takes as well.

    --witness DIR          every epoch that begins leaves a file there, TRIAL-EPOCH-ATTEMPT, with
                           its process id in it (confirm-TRIAL-EPOCH-ATTEMPT in a confirmation)
    --do DEED@T[.E[.A]]    in trial T, its epoch E and attempt A, or in all of them; repeatable;
                           DEEDS are below
    --epoch-seconds S      what every epoch takes
"""

import argparse
import functools
import math
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.replay import ReplayedTrial
from core.errors import TrialDiverged
from tune.engine.messages import Assignment
from tune.search import main as search
from tune.study import conductor as study
from tune.study.trials import TrialInputs


def hang() -> None:
    """Wait for ever."""
    time.sleep(1e6)


def spin() -> None:
    """Compute for ever inside one call, which never gives Python back to another thread or a
    signal handler.
    """
    re.match(r"(a+)+$", "a" * 64 + "b")


def fail() -> None:
    """Raise what no trial expects."""
    raise ValueError("no such tile")


def diverge() -> None:
    """Report a loss that is no number."""
    raise TrialDiverged("epoch 1, batch 3: loss is nan")


def run_out_of_memory() -> None:
    """Ask for more memory than the GPU has."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def lose_the_gpu() -> None:
    """Meet what torch raises after an error on the GPU, which stays for the life of the process."""
    raise torch.AcceleratorError(
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might ..."
    )


def die() -> None:
    """Be killed, as by the kernel's out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    """Have this process write no file any more, as if the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


DEEDS: Mapping[str, Callable[[], None]] = {
    "hang": hang, "spin": spin, "raise": fail, "diverge": diverge, "memory": run_out_of_memory,
    "gpu": lose_the_gpu, "die": die, "full": fill_disk,
}  # fmt: skip


def replayed_ap50(settings: Mapping[str, Any], epoch: int) -> float:
    """A learning curve: a function of two settings and the epoch, and of nothing else.

    The best learning rate is 1e-3; a large weight decay learns fast and ends low, so that curves
    cross.
    """
    distance = abs(math.log10(float(settings["optim.learning_rate"])) + 3)
    decay = float(settings["optim.weight_decay"])
    return max(0.0, 0.9 - 0.3 * distance - 0.4 * decay) * (1 - math.exp(-epoch * (0.2 + decay)))


@dataclass(frozen=True)
class Script:
    """What the trials of a study do beside replaying their curves.

    deeds    name of a deed with the trial, epoch and attempt in which it is done; None for every
    """

    witness: Path
    deeds: Sequence[tuple[str, int, int | None, int | None]] = ()
    epoch_seconds: float = 0.0

    trains = False

    def make(self, assignment: Assignment, inputs: TrialInputs) -> ReplayedTrial:  # noqa: ARG002
        """The trial of an attempt."""
        return ReplayedTrial(assignment, self._ap50)

    def _ap50(self, assignment: Assignment, epoch: int) -> float:
        phase = "confirm-" if Path(assignment.folder).parent.name == "confirm" else ""
        name = f"{phase}{assignment.trial}-{epoch}-{assignment.attempt}"
        with (self.witness / name).open("x") as file:
            file.write(str(os.getpid()))
        time.sleep(self.epoch_seconds)
        for deed, trial, in_epoch, in_attempt in self.deeds:
            if (
                trial == assignment.trial
                and in_epoch in (None, epoch)
                and in_attempt in (None, assignment.attempt)
            ):
                DEEDS[deed]()
        return replayed_ap50(assignment.settings, epoch)


def parse_deed(text: str) -> tuple[str, int, int | None, int | None]:
    """`DEED@T[.E[.A]]`."""
    name, _, place = text.partition("@")
    trial, epoch, attempt = ([int(part) for part in place.split(".")] + [None, None])[:3]
    if name not in DEEDS or trial is None:
        raise argparse.ArgumentTypeError(
            f"a deed is one of {', '.join(DEEDS)}, as in hang@2.1, and is {text!r}"
        )
    return name, trial, epoch, attempt


def main() -> int:
    """The command line; returns the exit status of the search."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replayed_search", allow_abbrev=False
    )
    parser.add_argument("--witness", type=Path, required=True)
    parser.add_argument("--do", type=parse_deed, action="append", default=[], dest="deeds")
    parser.add_argument("--epoch-seconds", type=float, default=0.0)
    own, rest = parser.parse_known_args()
    script = Script(own.witness, own.deeds, own.epoch_seconds)
    with mock.patch.object(study, "run_study", functools.partial(study.run_study, trials=script)):
        return search(rest)


if __name__ == "__main__":
    sys.exit(main())
