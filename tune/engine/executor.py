"""Ray: start it, give each attempt its processors and its GPU, and run it in a process that
later attempts reuse.
"""

import contextlib
import errno
import gc
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from core import faults, interrupts
from core.errors import CheckpointError, ProcessLost, ResourceError, TornCheckpoint, TrialDiverged
from core.files import write_atomically, write_json_atomically, write_once

# Ray reads these on import. Results go to the ledger, so Ray's own loggers and progress tables are
# off. Ray may start as many workers at once as it is handed trials, since no more trials are handed
# out than may run: by default it starts a worker when the one before is up, and six trials that
# share a GPU began 15 s apart.
for _name, _value in {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}.items():
    os.environ.setdefault(_name, _value)

import filelock  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
from ray import tune as ray_tune  # noqa: E402

from tune import processes  # noqa: E402
from tune.engine import cgroups, scratch  # noqa: E402
from tune.engine.bridge import (  # noqa: E402
    Assignment,
    Desk,
    LedgerCallback,
    LedgerScheduler,
    LedgerSearcher,
    WorkerUnusable,
)
from tune.engine.loopback import on_loopback  # noqa: E402

GPU_FAILED = "the GPU failed its worker"
"""The beginning of the reason where a process can no longer use its GPU."""
RUNNING = ".epoch"
"""A file in a trial's folder that exists while an epoch runs: it holds the attempt, and is as old
as the epoch."""
LOCK_SECONDS = 120
"""Seconds that a new attempt waits for the worker of an earlier attempt to leave the trial's
folder."""


class RunnableTrial(Protocol):
    """A trial that a worker can run: the real one of `core.training.trial`, or a replayed curve."""

    @property
    def reports(self) -> list[Any]:
        """The EpochReport of each epoch so far, the first epoch's first."""

    def run_epoch(self) -> Any:
        """Train and evaluate one epoch."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint into `folder`, atomically."""

    def load(self, folder: Path) -> bool:
        """Continue from the checkpoint in `folder`; False if there is none.

        Raises CheckpointError.
        """

    def discard(self, folder: Path) -> None:
        """Set a torn checkpoint aside."""


class Then(StrEnum):
    """The step that follows a failed attempt."""

    FAIL = "fail"
    RETRY = "retry"
    RETRY_WITH_MORE_MEMORY = "retry with more memory"
    HALT = "halt"
    """The study stops until the user removes the cause: nothing is wrong with the trial, the next
    would fail too."""


STORAGE_ERRORS = {
    errno.EACCES,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
}
"""Error numbers of a disk that is full, read-only, broken or away."""

MakeTrial = Callable[..., RunnableTrial]
"""Builds the trial of an attempt in the worker's process: `make_trial(assignment, cpus, **shared)`.

`shared` arrives from Ray's object store; its arrays are read-only.
"""


@dataclass(frozen=True)
class TrialResources:
    """The processors and GPUs that each trial holds, and how many trials run at once.

    cpus       whole processors of a trial, and also its number of threads
    gpus       GPUs of a trial: 0, 1, or a fraction of one
    parallel   number of trials that run at once
    """

    cpus: int
    gpus: float
    parallel: int


@dataclass(frozen=True)
class Node:
    """The processors, the GPUs and the memory of one computer. A trial never spans two.

    memory   bytes that may be used; 0 where that is not known
    """

    cpus: int
    gpus: int
    memory: int = 0


@dataclass(frozen=True)
class Machine:
    """The nodes that Ray may use: this machine alone, or those of the cluster at `address`."""

    nodes: tuple[Node, ...]
    address: str | None = None

    @classmethod
    def here(cls) -> "Machine":
        """The machine that this process runs on, as far as its control groups let it use it."""
        allowed = cgroups.allowed()
        return cls((Node(allowed.cpus, torch.cuda.device_count(), allowed.memory),))

    def share(
        self, cpus_per_trial: int | str, gpus_per_trial: float | str, parallel: int | None
    ) -> TrialResources:
        """Resolve `auto` and count how many trials fit: on each node by itself, then summed.

        GPUs, auto: one whole GPU for each trial where any node has one (`tune.engine.packing`
        measures how many trials may share it), else none. Processors, auto: with GPUs, a node's
        processors divided by the trials that its GPUs hold, on the node where that is least, and at
        most 8; without GPUs, a quarter of the largest node's processors, and at least one. Raises
        ResourceError for a trial that fits on no node, since Ray would wait for ever without a
        message.
        """
        several = len(self.nodes) > 1
        most_gpus = max((node.gpus for node in self.nodes), default=0)
        gpus = (1.0 if most_gpus else 0.0) if gpus_per_trial == "auto" else float(gpus_per_trial)
        assert 0 <= gpus <= 1, "a trial trains on one GPU"  # tune.request.request refuses others
        if gpus and not most_gpus:
            raise ResourceError(
                "resources.gpus_per_trial must be 0, since"
                f" {'no node has a' if several else 'there is no'} GPU, and is {gpus:g};"
                " --gpus-per-trial 0 runs on processors"
            )
        by_gpu = [(node, _trials_by_gpu(node, gpus)) for node in self.nodes]
        by_gpu = [(node, trials) for node, trials in by_gpu if trials]
        most_cpus = max((node.cpus for node, _ in by_gpu), default=0)
        if cpus_per_trial != "auto":
            cpus = int(cpus_per_trial)
        elif gpus:
            # A node without processors runs no trial, so it does not count.
            least = min((node.cpus // trials for node, trials in by_gpu if node.cpus), default=1)
            cpus = max(1, min(8, least))
        else:
            cpus = max(1, most_cpus // 4)
        if cpus > most_cpus:
            largest = "of the largest node with enough GPUs" if gpus else "of the largest node"
            raise ResourceError(
                f"resources.cpus_per_trial must not pass the {most_cpus} processors "
                f"{largest if several else 'there are'}, and is {cpus}; "
                + ("--cpus-per-trial auto fits" if most_cpus else "give Ray's nodes processors")
            )
        fitting = sum(min(trials, node.cpus // cpus) for node, trials in by_gpu)
        return TrialResources(cpus, gpus, fitting if parallel is None else min(parallel, fitting))


def _trials_by_gpu(node: Node, gpus: float) -> int:
    """How many trials the GPUs of a node hold; a trial with a fraction of a GPU stays on one
    GPU.
    """
    if gpus == 0:
        return sys.maxsize
    return node.gpus * int(1 / gpus + 1e-9)


class TrialWorker(ray_tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """Runs attempts, one epoch in each step.

    A failure inside a trial is a result, not an exception.

    A result holds either `epochs`, the whole history of the trial as JSON objects, or `failure`, a
    sentence, with `then`, the step that follows (see `Then`), and `seconds`, the wall time inside
    the epoch that failed. The one exception is an error of the GPU: this process can no longer use
    it, so the worker raises WorkerUnusable, Ray ends the process, and later attempts run in
    another.
    """

    def setup(  # Ray ships the configuration; the assignment is read in the step
        self,
        config: dict[str, Any],  # noqa: ARG002
        make_trial: Any,
        cpus: int,
        stall_seconds: float,
        shared: dict[str, Any],
    ) -> None:
        """Store the arguments only: Ray may hand a started worker another trial.

        Work begins in the first step.
        """
        self._make_trial, self._cpus, self._shared = make_trial, cpus, shared
        self._stall_seconds = stall_seconds
        self._trial: RunnableTrial | None = None
        self._history: list[dict[str, Any]] = []
        self._epoch_began: float | None = None
        self._frozen = False
        self._lock: filelock.BaseFileLock | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:  # noqa: ARG002
        """Leave the last trial and give back its GPU memory; returns True."""
        self._leave()
        return True

    def cleanup(self) -> None:
        """Leave the last trial."""
        self._leave()

    def step(self) -> dict[str, Any]:
        """Run one epoch, save it and report it; a checkpoint that is ahead of the ledger is
        reported at once.
        """
        assignment = Assignment(**self.config["assignment"])
        folder = Path(assignment.folder)
        # The kernel ends this process when the time is up, whatever holds Python then; 0 sets no
        # alarm.
        signal.setitimer(signal.ITIMER_REAL, self._stall_seconds)
        self._epoch_began = None
        try:
            if self._trial is None:
                self._trial = self._open(assignment, folder)
                if len(self._trial.reports) > assignment.known_epochs:
                    return self._result(folder)
            running = folder / RUNNING
            running.write_text(str(assignment.attempt))
            signal.setitimer(
                signal.ITIMER_REAL, self._stall_seconds
            )  # opening the trial had its own time
            self._epoch_began = time.monotonic()
            self._trial.run_epoch()
            self._trial.save(folder)
            running.unlink()
            faults.passing("saved")
            return self._result(folder)
        except TrialDiverged as error:
            return self._failure(f"diverged: {error}", Then.FAIL)
        except (MemoryError, torch.OutOfMemoryError) as error:
            return self._failure(
                f"out of memory: {_first_line(error)}", Then.RETRY_WITH_MORE_MEMORY
            )
        except (ProcessLost, TornCheckpoint, filelock.Timeout) as error:
            return self._failure(_first_line(error), Then.RETRY)
        except CheckpointError as error:
            return self._failure(_first_line(error), Then.FAIL)
        except WorkerUnusable:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a trial raises is data for the ledger
            if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
                return self._failure(
                    f"{error.filename or folder} cannot be written: {error.strerror}", Then.HALT
                )
            if isinstance(error, torch.AcceleratorError) and "out of memory" in str(
                error
            ):  # not from torch's allocator
                return self._failure(
                    f"out of memory: {_first_line(error)}", Then.RETRY_WITH_MORE_MEMORY
                )
            with contextlib.suppress(OSError):
                write_atomically(folder / "error.txt", traceback.format_exc().encode())
            if isinstance(error, torch.AcceleratorError) or not _gpu_answers():
                raise WorkerUnusable(f"{GPU_FAILED}: {_first_line(error)}") from None
            return self._failure(f"{type(error).__name__}: {_first_line(error)}", Then.FAIL)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _failure(self, sentence: str, then: Then) -> dict[str, Any]:
        began = self._epoch_began
        seconds = 0.0 if began is None else time.monotonic() - began
        with contextlib.suppress(OSError):
            (Path(self.config["assignment"]["folder"]) / RUNNING).unlink(missing_ok=True)
        return {"failure": sentence, "then": then.value, "seconds": seconds}

    def _open(self, assignment: Assignment, folder: Path) -> RunnableTrial:
        if not self._frozen:
            # Imported modules stay for good. Searching their half a million objects for garbage
            # whenever a trial ends took most of the time between two trials.
            gc.freeze()
            self._frozen = True
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS)
        self._lock.acquire()
        for part in folder.glob(".*.part"):  # files that a killed process had half written
            part.unlink()
        write_json_atomically(folder / "config.json", dict(assignment.settings))
        trial: RunnableTrial = self._make_trial(assignment, self._cpus, **self._shared)
        try:
            trial.load(folder)
        except TornCheckpoint:
            trial.discard(folder)
            raise
        return trial

    def _result(self, folder: Path) -> dict[str, Any]:
        """The result with the trial's whole history, which is also written as a table."""
        assert self._trial is not None
        self._history += [report.to_json() for report in self._trial.reports[len(self._history) :]]
        _write_epochs(folder, self._history)
        return {"epochs": self._history}

    def _leave(self) -> None:
        self._trial, self._history = None, []
        gc.collect()
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # the GPU may have failed
                torch.cuda.empty_cache()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def execute(
    desk: Desk,
    make_trial: MakeTrial,
    shared: Mapping[str, Any],
    machine: Machine,
    resources: TrialResources,
    stall_seconds: float = 0.0,
) -> None:
    """Run the attempts that the desk hands out until it is finished.

    shared         keyword arguments for `make_trial`; they go to the object store once, for all
                   workers
    stall_seconds  seconds that one epoch may take; a worker that takes longer is ended, and its
                   attempt is lost; 0 for no limit

    Raises KeyboardInterrupt after Ctrl-C, when running trials have had some seconds to report. A
    second Ctrl-C ends the process.
    """
    with _second_interrupt_ends(), _ray(machine) as folder:
        trainable = ray_tune.with_resources(
            ray_tune.with_parameters(
                TrialWorker,
                make_trial=make_trial,
                cpus=resources.cpus,
                stall_seconds=stall_seconds,
                shared=dict(shared),
            ),
            lambda config: _room(resources.cpus, config["assignment"]["gpus"]),
        )
        tuner = ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=LedgerSearcher(desk),
                scheduler=LedgerScheduler(desk),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_ray_trial_name,
                trial_dirname_creator=_ray_trial_name,
            ),
            run_config=ray_tune.RunConfig(
                name="study",
                storage_path=str(folder / "results"),
                verbose=0,
                failure_config=ray_tune.FailureConfig(max_failures=0),
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[LedgerCallback(desk), _NotesCtrlC()],
            ),
        )
        logging.getLogger("ray.tune").setLevel(
            logging.CRITICAL
        )  # in the end it lists each end of a worker once more
        tuner.fit()
    if (
        not desk.finished or interrupts.interrupted()
    ):  # Ray handles the interrupt itself and returns as if all trials were done
        raise KeyboardInterrupt


class _NotesCtrlC(ray_tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Lets this process know that Ctrl-C came.

    Ray answers it by setting an event, which it checks between steps only.

    Code that waits inside a step, for a database, must stop waiting.
    """

    def setup(self, *_: Any, **__: Any) -> None:
        """Handle Ctrl-C before the handler of Ray, which is installed by now and restores the
        earlier one itself.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        rays = signal.getsignal(signal.SIGINT)

        def answer(number: int, frame: Any) -> None:
            interrupts.note()
            if callable(rays):
                rays(number, frame)

        signal.signal(signal.SIGINT, answer)


@contextlib.contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """End this process at once on a Ctrl-C that Ray does not handle: saved files are whole at
    any moment.

    While trials run, Ray handles the first Ctrl-C by giving workers some seconds; then it restores
    this handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(
        signal.SIGINT,
        lambda *_: _end_at_once(
            interrupts.exit_status(), "Ended at once; to continue, run the same command again"
        ),
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_started: dict[str, Path] = {}
"""For each Ray that runs, the mark of its processes and its temporary folder."""


def _end_at_once(status: int, sentence: str) -> None:
    """Print a sentence, and end this process and all processes that it started, in about a
    second.
    """
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    print(f"{show_cursor}{sentence}", file=sys.stderr, flush=True)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(
            nothing.fileno(), sys.__stderr__.fileno() if sys.__stderr__ else 2
        )  # Ray's libraries would repeat it
    for mark, folder in _started.items():
        processes.end(mark)
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(status)


@contextlib.contextmanager
def _ray(machine: Machine) -> Iterator[Path]:
    """Run Ray for the time of the block; its processes and its temporary folder, which is
    yielded, end with it.
    """
    if machine.address is not None:
        packages = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "core")]
        with scratch.folder() as folder:
            try:
                with _our_answer_to_sigterm():
                    ray.init(
                        machine.address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        runtime_env={"py_modules": packages},
                    )
                yield folder
            finally:
                ray.shutdown()
        return
    (node,) = machine.nodes
    _make_token()
    with scratch.folder() as folder, processes.marked() as mark:
        _started[mark] = folder
        try:
            with (
                on_loopback(),
                _temporary_files_in(folder),
                processes.deaf_to_sigterm(),
                _our_answer_to_sigterm(),
            ):
                ray.init(
                    "local",  # RAY_ADDRESS may name a cluster
                    num_cpus=node.cpus,
                    num_gpus=node.gpus,
                    object_store_memory=_object_store_bytes(node.memory),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder / "ray"),
                )
            with _ended_with_ray(mark):
                yield folder
        finally:
            with processes.ended_when_asked(mark):
                ray.shutdown()
            processes.end(mark)
            del _started[mark]


@contextlib.contextmanager
def _our_answer_to_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray installs one when it starts, which ends
    without a message.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # Ray's handler was called while Ray started
        signal.signal(signal.SIGTERM, ours)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, ours)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let processes that are started inside use `folder` for temporary files: it is removed, and
    its path is short.
    """
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


@contextlib.contextmanager
def _ended_with_ray(mark: str) -> Iterator[None]:
    """End this process soon after a process dies that Ray cannot run without.

    Ray would wait for a minute and then end or abort this process without a message; Ray's agents
    would live on.
    """
    done = threading.Event()
    watched = {
        process: name
        for process in processes.living(mark)
        if (name := processes.name_of(process)) in _HEART
    }

    def watch() -> None:
        while not done.wait(_WATCH_SECONDS):
            gone = next(
                (name for process, name in watched.items() if not processes.runs(process)), None
            )
            if gone is not None and not done.is_set():
                _end_at_once(
                    1,
                    f"Ray's {gone} ended, killed by somebody or by the kernel for want of memory;"
                    " what was saved is whole: run the same command again",
                )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


_HEART = ("gcs_server", "raylet")
"""The processes that Ray cannot run without."""
_WATCH_SECONDS = 0.5


def _object_store_bytes(memory: int) -> int | None:
    """Largest size, in bytes, of Ray's object store where `memory` bytes are allowed; None to
    leave it to Ray.

    Ray takes three tenths of the memory that it finds, but it reads one control group only, and
    none above or beneath.
    """
    if not memory or memory >= cgroups.memory_of_the_machine():
        return None
    return max(_LEAST_STORE, min(int(0.3 * memory), _MOST_STORE))


_LEAST_STORE, _MOST_STORE = 80 * 2**20, 10**10
"""Bytes: Ray refuses less than 75 MB, and more than 10 GB where /dev/shm has less."""


def _make_token() -> None:
    """Make the token that Ray asks of everyone who connects to its processes, readable by its
    owner alone.

    Ray asks for a token unless RAY_AUTH_MODE says otherwise, and would make one that all can read.
    Where there is no home folder to keep it in, the token of this process is in its environment
    only.
    """
    if "RAY_AUTH_TOKEN" in os.environ:
        return
    chosen = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(chosen) if chosen else Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_once(path, secrets.token_hex(32).encode())
        path.chmod(0o600)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home at all
        if chosen:
            raise ResourceError(
                "RAY_AUTH_TOKEN_PATH must name a file that Ray's token can be kept in, and"
                f" {chosen} cannot be written"
                f" ({error.strerror if isinstance(error, OSError) else error}); name another, or"
                " unset it"
            ) from None
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def cluster(address: str) -> Machine:
    """The nodes of the cluster at `address` that are alive."""
    try:
        with _our_answer_to_sigterm():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"--address: no Ray cluster answers at {address!r}: {_first_line(error)}"
        ) from None
    else:
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return Machine(
            tuple(Node(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in found), address
        )
    finally:
        ray.shutdown()


def seconds_of_lost_epoch(folder: Path, attempt: int) -> float:
    """Seconds since the beginning of the epoch that an attempt was in when its process died; 0
    if it was in none.
    """
    running = folder / RUNNING
    try:
        if int(running.read_text()) != attempt:
            return 0.0
        return max(0.0, time.time() - running.stat().st_mtime)
    except (OSError, ValueError):
        return 0.0


def _room(cpus: int, gpus: float) -> Any:
    """The processors and GPUs that Ray reserves for an attempt."""
    return ray_tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}])


def _ray_trial_name(trial: Any) -> str:
    assignment = trial.config["assignment"]
    return f"{assignment['trial']}-{assignment['attempt']}"


def _write_epochs(folder: Path, epochs: list[dict[str, Any]]) -> None:
    """Write the trial's epochs as a table for people and spreadsheets: one row for each epoch,
    losses flattened.
    """
    rows = [_flat(epoch) for epoch in epochs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names)] + [",".join(str(row.get(name, "")) for name in names) for row in rows]
    write_atomically(folder / "epochs.csv", ("\n".join(lines) + "\n").encode())


def _flat(report: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{key}": inner for key, inner in value.items()}
        elif isinstance(value, list | tuple):
            flat |= {f"{name}/{place}": inner for place, inner in enumerate(value, start=1)}
        else:
            flat[name] = value
    return {name: "" if value is None else value for name, value in flat.items()}


def _gpu_answers() -> bool:
    """Whether this process can still use its GPU; True where it has none."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
