"""A Ray cluster of several nodes on this machine, and a search of replayed trials on it.

Each node is started by `ray start` in namespaces of its own: it sees only its own processes, so
that killing the first of them ends the whole node at once, as the loss of a machine does. Where
asked to, it has an empty disk in place of the driver's folder.

Run as a program, this file is `tune.search` with trials that replay curves, and leave what real
trials leave: match tables, and files of weights.

    python -m tests.cluster WITNESS EPOCH_SECONDS LOSS --space FILE --address HOST:PORT ...

LOSS is `loss` if trials wait for the test to kill one node and to start another one, else `none`.
"""

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.replay import ReplayedTrial
from benchmarks.replayed_search import replayed_ap50
from core.data.dataset import Dataset
from core.errors import CheckpointError
from core.files import write_atomically
from core.metric.ap50 import MatchTable
from tests.matches import match_table
from tune.engine.messages import Assignment
from tune.study.trials import TrialInputs

ROOT = Path(__file__).parents[1]
NODE = "CELL_TUNE_NODE"
"""Environment variable of the name of the node on which a process runs."""
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
BEST_BYTES, LAST_BYTES = 300_000, 9_000_000
DOOMED = "trials-1-2-1"
"""The epoch (phase, trial, epoch, attempt) in which the test kills the node."""
WAITING = 3
"""Number of the first trial that ends no epoch before one has begun on the node that joins late, so
that there is work left for that node, however slowly it starts. Of two such trials it gets one."""
LATE = "late"
"""Name of the node that joins when another has been killed."""


def namespaces_are_allowed() -> bool:
    """Whether this user may give a process its own mounts and processes."""
    try:
        return subprocess.run([*NAMESPACES, "mount", "-t", "tmpfs", "none", "/mnt"]).returncode == 0
    except OSError:
        return False


def weights(settings: Mapping[str, Any], epoch: int, size: int) -> bytes:
    """The weights of an epoch: random numbers that follow from the trial's settings and epoch."""
    rate = int(1e12 * float(settings["optim.learning_rate"]))
    return np.random.default_rng([rate, int(settings["seed"]), epoch]).bytes(size)


class WeightyTrial(ReplayedTrial):
    """A trial with match tables, and with weights that it demands back when it goes on."""

    def __init__(self, assignment: Assignment, data: Dataset, script: "Script") -> None:
        super().__init__(assignment, self._table)
        self._data, self._script = data, script
        self._settings = assignment.settings

    def _table(self, assignment: Assignment, epoch: int) -> MatchTable:
        phase = Path(assignment.folder).parent.name
        name = f"{phase}-{assignment.trial}-{epoch}-{assignment.attempt}"
        with (self._script.witness / name).open("x") as file:
            file.write(os.environ[NODE])
        while self._script.hold.exists():
            time.sleep(0.1)
        loss = self._script.loss
        time.sleep(600 if loss and name == DOOMED else self._script.epoch_seconds)
        while loss and assignment.trial >= WAITING and not self._script.late_has_run:
            time.sleep(0.1)
        settings = assignment.settings
        return match_table(self._data, settings, epoch, replayed_ap50(settings, epoch))

    def save(self, folder: Path) -> None:
        epoch = len(self.reports)
        for name, size in ((f"best-{epoch:04d}", BEST_BYTES), ("last", LAST_BYTES)):
            path = folder / f"{name}.safetensors"
            write_atomically(path, weights(self._settings, epoch, size))
        super().save(folder)
        (folder / f"best-{epoch - 1:04d}.safetensors").unlink(missing_ok=True)

    def load(self, folder: Path) -> bool:
        if not super().load(folder):
            return False
        epoch = len(self.reports)
        for name, size in ((f"best-{epoch:04d}", BEST_BYTES), ("last", LAST_BYTES)):
            path = folder / f"{name}.safetensors"
            if path.read_bytes() != weights(self._settings, epoch, size):
                raise CheckpointError(f"{path} is not what was saved")
        return True


@dataclass(frozen=True)
class Script:
    """Makes these trials.

    witness   a folder that all nodes see, in which each epoch that begins leaves the node's name
    loss      whether trials wait until the test has killed a node and started another one
    """

    witness: Path
    epoch_seconds: float
    loss: bool

    trains = False

    @property
    def hold(self) -> Path:
        """While this file exists, no epoch ends."""
        return self.witness.parent / "hold"

    @property
    def late_has_run(self) -> bool:
        """Whether an epoch began on the node that joins late."""
        return any(path.read_text() == LATE for path in self.witness.iterdir())

    def make(self, assignment: Assignment, inputs: TrialInputs) -> WeightyTrial:
        return WeightyTrial(assignment, inputs.data, self)


@dataclass
class Cluster:
    """Ray nodes on this machine.

    folder     holds the temporary folders of the nodes
    hidden     a folder in place of which all nodes but the first have an empty disk; None if all
               nodes share it
    more       further environment variables of all nodes
    """

    folder: Path
    hidden: Path | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        # Sockets need a short path, which a test's folder does not have.
        self.temporary = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.token = secrets.token_hex(32)

    def environment(self, node: str) -> dict[str, str]:
        """The environment of a node's processes, with a temporary folder of its own."""
        (self.folder / node).mkdir(exist_ok=True)
        return {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), NODE: node,
            "TMPDIR": str(self.folder / node), "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500",
            "RAY_health_check_timeout_ms": "20000", "RAY_health_check_failure_threshold": "5",
            "RAY_raylet_start_wait_time_s": "180",
            **self.more,
        }  # fmt: skip

    def start(self, node: str, cpus: int) -> None:
        """Start a node, the first of which is the head."""
        ray = [
            "ray", "start", "--block", f"--num-cpus={cpus}", "--num-gpus=0",
            "--node-ip-address=127.0.0.1", "--object-store-memory=80000000",
            "--disable-usage-stats",
        ]  # fmt: skip
        if self.nodes:
            hide = f"mount -t tmpfs none {self.hidden} && " if self.hidden else ""
            shell = f"{hide}exec {' '.join([*ray, f'--address={self.address}'])}"
            command = [*NAMESPACES, "sh", "-c", shell]
        else:
            port = self.address.rpartition(":")[2]
            ray += ["--head", f"--port={port}", "--include-dashboard=false"]
            command = [*ray, f"--temp-dir={self.temporary}"]
        environment = self.environment(node)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        with (self.folder / f"{node}.log").open("wb") as log:
            self.nodes[node] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True,
                cwd=self.folder / node,
            )  # fmt: skip

    def wait_for(self, node: str) -> None:
        """Wait until a node has joined."""
        until, log = time.monotonic() + 200, self.folder / f"{node}.log"
        while "Ray runtime started" not in log.read_text():
            assert self.nodes[node].poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def kill(self, node: str) -> None:
        """End a node's processes, all at once but for those of the head."""
        self.nodes[node].kill()
        self.nodes[node].wait()

    def search(
        self, witness: Path, epoch_seconds: float, *arguments: str, loss: bool = True
    ) -> subprocess.Popen[str]:
        """Start a search on the cluster, from the machine of its head."""
        script = [str(witness), str(epoch_seconds), "loss" if loss else "none"]
        command = [sys.executable, "-m", "tests.cluster", *script]
        with (self.folder / "out").open("a") as out, (self.folder / "err").open("a") as err:
            return subprocess.Popen(
                [*command, *arguments, "--address", self.address],
                cwd=self.folder, env=self.environment("head"), stdout=out, stderr=err, text=True,
            )  # fmt: skip

    def stop(self) -> None:
        """End every process, and remove the sockets' folder."""
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.token.encode() in (path / "environ").read_bytes():
                    os.kill(int(path.name), signal.SIGKILL)
        for process in self.nodes.values():
            process.wait(30)
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextlib.contextmanager
def cluster(
    folder: Path, hidden: Path | None, more: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A cluster of a head, which runs no trials, and two nodes for one trial each."""
    folder.mkdir(parents=True)
    made = Cluster(folder, hidden, more or {})
    try:
        # One after the other: two that start at once may choose one name for their sockets.
        for node, cpus in {"head": 0, "one": 1, "two": 1}.items():
            made.start(node, cpus)
            made.wait_for(node)
        yield made
    finally:
        made.stop()


def main(arguments: list[str]) -> int:
    from tune.search import main as search
    from tune.study import conductor

    script = Script(Path(arguments[0]), float(arguments[1]), arguments[2] == "loss")
    run = functools.partial(conductor.run_study, trials=script)
    with mock.patch.object(conductor, "run_study", run):
        return search(arguments[3:])


if __name__ == "__main__":
    # What is pickled belongs to this module under its own name, which the nodes can import.
    from tests.cluster import main as own_main

    sys.exit(own_main(sys.argv[1:]))
