"""Measures how many trials should share a GPU: trials train at once on it, in their own processes.

These are forked from one process, the nursery (a fork server), which has imported everything and
holds the data set: to start Python and torch for each would take longer than all the training. The
nursery itself never touches a GPU. Its processes stay from round to round, and a round of n trials
uses n of them.

    driver  ->  nursery  ->  a process for each trial  ->  its processes that prepare images
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import torch

from core.config import TrialConfig
from core.data.dataset import Dataset
from core.device import is_out_of_memory, limit_memory, resolve_device
from core.errors import BadRequest, CellTuneError, ResourceError
from core.network.weights import BaseWeights
from core.text import first_line
from core.training.probe import Memory, Probe, Trained
from tune import processes
from tune.engine import cgroups
from tune.engine.packing import (
    MOST_TRIALS,
    Conditions,
    Gpu,
    Measured,
    Packing,
    Round,
    images_per_second,
    most_that_fit,
    next_number,
)
from tune.engine.resources import Machine

SECONDS_A_KIND = 45.0
"""Seconds for all rounds with several trials on one kind of GPU. The first trial, measured alone,
and its start come before and have their own limit; in all this usually takes about a minute."""
FIRST_SECONDS, FURTHER_SECONDS, ROUND_SECONDS = 180.0, 30.0, 20.0
"""Limits in seconds for the first trial alone with its start, for the start of further processes,
and for a round. A process that takes longer counts as hanging."""
LEAST_SECONDS = 4.0
"""Seconds that must be left for a round to begin."""
WINDOW_SECONDS = 2.0
"""Least number of seconds over which the speed of a round is measured."""
WARM_STEPS, TIMED_STEPS = 2, 4
"""Least number of steps of each trial in a round before the measured time, and within it."""
STARTED_TOGETHER = 8
"""Number of processes that are started together where there is room, since their starts overlap."""
ALIVE_SECONDS = 5.0
"""Seconds between two calls of `alive` while the driver waits for an answer."""
IDLE_SECONDS = 120.0
"""Seconds after which a process that is told nothing more ends."""
LEAVE_SECONDS = 3.0
"""Seconds for processes to end by themselves. Killing one that uses a GPU by NVIDIA's service may
end others that use it."""
KILLED_SECONDS = 1.0
"""Seconds to wait for the end of a process that was killed."""
_STOP, _END = "stop", "end"
_PROGRAM = "import sys; from tune.engine.rehearsal import serve; serve(int(sys.argv[1]))"


def usual_seconds(kinds: int) -> float:
    """Seconds that measuring a number of kinds of GPU usually takes, the starts included."""
    return kinds * (FURTHER_SECONDS + SECONDS_A_KIND)


class NotMeasured(Exception):
    """The measurement of how many trials should share a GPU failed. The message says why."""


class TimeIsUp(NotMeasured):
    """The time budget leaves too little for the measurement. A later run may have enough."""


class _NoRound(NotMeasured):
    """One trial alone could not train, although the processes that measure work."""


@dataclass(frozen=True)
class RehearsalInputs:
    """The configuration that every process trains, with its data, base weights and device."""

    config: TrialConfig
    data: Dataset
    weights: BaseWeights | None
    device: str = "cuda:0"


@dataclass(frozen=True)
class Ask:
    """The driver's order for a round.

    trials        number of processes that train
    processes     number of processes that must have been started, more than `trials` if later
                  rounds will need them
    workers       number of processes that prepare images, for each trial
    threads       CPU threads of each trial
    until         time of `time.monotonic` at which the round must have ended
    environment   environment variables of the processes; processes that were started with others
                  are ended first
    """

    trials: int
    processes: int
    workers: int
    threads: int
    until: float
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProcessTrouble:
    """The reason why a process could not go on.

    reason    one line
    memory    whether it ran out of GPU memory
    refusal   the error, if it is one that the user can correct
    """

    reason: str
    memory: bool = False
    refusal: BadRequest | None = None


@dataclass(frozen=True)
class Answer:
    """The outcome of a round.

    images_per_second   training images per second of all its trials together; 0 if it failed
    peak_bytes          largest GPU memory that torch's allocator held for one of them
    host_bytes          largest main memory that one of them had for itself
    memory              the GPU's memory as the first process found it
    processes           number of processes that live
    trouble             why the round failed, or why a process for later rounds did not start
    """

    images_per_second: float = 0.0
    peak_bytes: int = 0
    host_bytes: int = 0
    memory: Memory = field(default_factory=Memory)
    processes: int = 0
    trouble: ProcessTrouble | None = None


def gpus_here() -> tuple[Gpu, ...]:
    """The kinds of GPU of this machine, in the order in which torch counts their first ones.

    Raises NotMeasured if a GPU does not answer.
    """
    found: dict[tuple[str, int], list[int]] = {}
    try:
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            found.setdefault((about.name, about.total_memory), []).append(index)
    except (AssertionError, RuntimeError) as error:  # AssertionError: CUDA does not count this GPU
        raise NotMeasured(first_line(error)) from error
    return tuple(
        Gpu(name, memory, len(indices), indices[0]) for (name, memory), indices in found.items()
    )


def measure_packing(
    conditions: Conditions,
    machine: Machine,
    inputs: RehearsalInputs,
    turns: Callable[[], AbstractContextManager[object]] = nullcontext,
    alive: Callable[[], object] = int,
) -> Packing:
    """Measure trials that train at once on each kind of GPU, in growing numbers.

    turns   makes a block inside which new processes take turns on a GPU; processes that start
            outside of it share the GPU by NVIDIA's service, if the conditions ask for that
    alive   called every few seconds, to check that this process still runs the study; what it
            raises, `measure_packing` raises too, such as TimeIsUp

    Raises ResourceError if one trial of the configuration is too large for a GPU, BadRequest if the
    configuration cannot be trained at all, and NotMeasured if anything else goes wrong.
    """
    try:
        with Rehearsal(inputs, alive) as rehearsal:
            found = _rehearse(conditions, conditions.services, machine, rehearsal, turns)
    except (CellTuneError, NotMeasured):
        raise
    except Exception as error:  # no study ends because a measurement failed
        raise NotMeasured(first_line(error)) from error
    return Packing(conditions, tuple(Measured(one.gpu, tuple(one.rounds)) for one in found))


def _rehearse(
    conditions: Conditions,
    ways: Sequence[bool],
    machine: Machine,
    rehearsal: "Rehearsal",
    turns: Callable[[], AbstractContextManager[object]],
) -> Sequence["_KindOfGpu"]:
    """The kinds of GPU with their rounds. Rounds that worked are kept if a later one breaks off.

    ways   whether trials share a GPU by NVIDIA's service (True) or take turns (False), in the order
           of their measurement

    A GPU that takes one process at a time (compute mode EXCLUSIVE_PROCESS) may take only that of
    the service. So if no trial can train by turns, all are measured with the service.
    """
    found = [_KindOfGpu(gpu, conditions, machine, rehearsal) for gpu in conditions.gpus]
    try:
        _rehearse_ways(found, ways, turns)
    except _NoRound:
        if ways != (False, True):
            raise
        return _rehearse(conditions, (True,), machine, rehearsal, turns)
    except TimeIsUp:
        raise
    except NotMeasured:
        if not all(kind.rounds for kind in found):
            raise
    return found


def _rehearse_ways(
    kinds: Sequence["_KindOfGpu"],
    ways: Sequence[bool],
    turns: Callable[[], AbstractContextManager[object]],
) -> None:
    """Measure each kind of GPU in each of the ways to share it.

    Each measurement has an equal part of the time, and what those before it left over.
    """
    seconds = 0.0
    for by_service in ways:
        with nullcontext() if by_service else turns():
            for kind in kinds:
                if not kind.rounds:
                    kind.alone(by_service)
                seconds += SECONDS_A_KIND / len(ways)
                begin = time.monotonic()
                kind.grow(by_service, begin + seconds)
                seconds = max(0.0, seconds - (time.monotonic() - begin))


class _KindOfGpu:
    """The rounds on one kind of GPU."""

    def __init__(
        self,
        gpu: Gpu,
        conditions: Conditions,
        machine: Machine,
        rehearsal: "Rehearsal",
    ) -> None:
        self.gpu = gpu
        self.rounds: list[Round] = []
        self._conditions, self._machine = conditions, machine
        self._rehearsal = rehearsal
        self._memory = Memory()
        self._host = _host_room(conditions, rehearsal.inputs.data)
        self._most = machine.most_on_a_gpu(
            conditions.cpus_per_trial, conditions.parallel, MOST_TRIALS
        )

    def alone(self, service: bool) -> None:
        """Measure one trial alone, and the memory that it takes.

        Raises ResourceError if it does not fit the GPU, BadRequest if it cannot be trained at all,
        and NotMeasured.
        """
        answer = self._ask(1, 1, time.monotonic() + FIRST_SECONDS)
        trouble = answer.trouble
        if trouble is not None:
            config = self._rehearsal.inputs.config
            if trouble.refusal is not None:
                raise trouble.refusal
            if trouble.memory:
                raise ResourceError(
                    "resources.gpus_per_trial auto: the heaviest settings of the space"
                    f" (model.backbone {config.model.backbone}, optim.batch_size"
                    f" {config.optim.batch_size}) must fit one GPU alone, and ran out of memory"
                    f" on {self.gpu.name}; take the largest images or batches out of the"
                    " space, or set resources.gpus_per_trial, and nothing is measured"
                )
            raise _NoRound(trouble.reason)
        self._memory = answer.memory
        self.rounds.append(self._round(1, service, answer))

    def grow(self, service: bool, until: float) -> None:
        """Measure growing numbers of trials, until one gains nothing or the time is up.

        until   time of `time.monotonic`

        Raises NotMeasured if the processes that measure hang or end.
        """
        alone, *others = self.rounds
        rounds = [alone, *(one for one in others if one.service is service)]
        failed = None
        while (trials := next_number(rounds, most := self._room())) is not None:
            now = time.monotonic()
            if until - now < LEAST_SECONDS:
                break
            wanted = max(trials, min(STARTED_TOGETHER, most))
            try:
                answer = self._ask(
                    trials, wanted, min(until, now + FURTHER_SECONDS + ROUND_SECONDS)
                )
            except NotMeasured as reason:
                self.rounds.append(Round(trials, service, 0.0, trouble=str(reason)))
                raise
            rounds.append(self._round(trials, service, answer))
            self.rounds.append(rounds[-1])
            if answer.trouble is not None and not rounds[-1].trouble:
                # A process for a later round did not start, so that round would fail.
                self._most = answer.processes
                failed = Round(wanted, service, 0.0, trouble=answer.trouble.reason)
        if failed is not None:
            self.rounds.append(failed)

    def _room(self) -> int:
        """The largest number of trials for which GPU memory, main memory and processors suffice."""
        peak = max(one.peak_bytes for one in self.rounds)
        held = max(one.host_bytes for one in self.rounds)
        by_gpu = most_that_fit(peak, self._memory.free_bytes)
        return min(by_gpu, most_that_fit(held, self._host), self._most)

    def _ask(self, trials: int, wanted: int, until: float) -> Answer:
        """Run a round of `trials` trials, for which `wanted` processes are to be started."""
        conditions = self._conditions
        share = self._machine.share(conditions.cpus_per_trial, 1 / trials, conditions.parallel)
        # As in `CoreTrials`, one processor drives the GPU, and the others prepare images.
        return self._rehearsal.round(
            Ask(trials, wanted, share.cpus - 1, share.cpus, until, self._environment())
        )

    def _environment(self) -> dict[str, str]:
        """The environment variables by which CUDA finds this GPU, and no other, and the service."""
        found = {name: value for name, value in os.environ.items() if name.startswith("CUDA_")}
        if self.gpu.memory:
            visible = found.get("CUDA_VISIBLE_DEVICES", "")
            names = [name.strip() for name in visible.split(",")] if visible else []
            found["CUDA_VISIBLE_DEVICES"] = names[self.gpu.first] if names else str(self.gpu.first)
        return found

    def _round(self, trials: int, service: bool, answer: Answer) -> Round:
        if not answer.images_per_second:
            assert answer.trouble is not None
            return Round(trials, service, 0.0, trouble=answer.trouble.reason)
        peak = answer.peak_bytes + self._memory.context_bytes if self.gpu.memory else 0
        return Round(trials, service, answer.images_per_second, peak, answer.host_bytes)


def _host_room(conditions: Conditions, data: Dataset) -> int:
    """Bytes of main memory for the trials of each GPU; 0 if that is not known."""
    known = [size for size in (conditions.memory, cgroups.memory_available()) if size]
    if not known:
        return 0
    # Ray's object store will hold the data set once more.
    room = min(known) - data.nbytes
    return max(room // sum(gpu.number for gpu in conditions.gpus), 1)


class Rehearsal:
    """The driver's side of the nursery, which runs for the time of a block.

    At the end of the block, or when this process dies, the nursery ends with all that it started.

    alive   called every few seconds while this process waits; what it raises ends the waiting
    """

    def __init__(self, inputs: RehearsalInputs, alive: Callable[[], object] = int) -> None:
        self.inputs, self._alive = inputs, alive

    def __enter__(self) -> Self:
        self._connection, theirs = multiprocessing.Pipe()
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others.
        with processes.marked() as self._started, theirs:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            until = time.monotonic() + FIRST_SECONDS
            self._hear(until)
            # Sent by a thread, because sending to a nursery that hangs would never return.
            threading.Thread(target=self._send_inputs, daemon=True).start()
            self._hear(until)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def round(self, ask: Ask) -> Answer:
        """Run a round. Raises NotMeasured if the nursery hangs or has ended."""
        self._connection.send(ask)
        # After `until` the nursery may end processes twice: those that start slowly, then the rest.
        answer = self._hear(ask.until + 2 * (LEAVE_SECONDS + MOST_TRIALS * KILLED_SECONDS))
        assert isinstance(answer, Answer)
        return answer

    def _send_inputs(self) -> None:
        with contextlib.suppress(OSError, TypeError):  # the connection was closed meanwhile
            self._connection.send(self.inputs)

    def _hear(self, until: float) -> Any:
        """The next message of the nursery. Raises NotMeasured if none comes in time."""
        self._alive()
        while not self._connection.poll(min(max(until - time.monotonic(), 0.0), ALIVE_SECONDS)):
            self._alive()
            if time.monotonic() >= until:
                raise NotMeasured("the processes that measure hang")
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise NotMeasured("the process that starts those that measure has ended") from None

    def _end(self) -> None:
        """End the nursery with all that it started: by closing the connection, then by force."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nursery.wait(2 * LEAVE_SECONDS)
        self._started.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nursery.wait(LEAVE_SECONDS)


def serve(handle: int) -> None:
    """Run the nursery: answer the driver until it is gone.

    handle   file descriptor of the connection to the driver
    """
    driver = Connection(handle)
    driver.send(None)
    try:
        nursery = _Nursery(driver, driver.recv())
        driver.send(None)
        try:
            while True:
                driver.send(nursery.run(driver.recv()))
        finally:
            nursery.end()
    except (EOFError, OSError):
        pass
    finally:
        os.killpg(0, signal.SIGKILL)


@dataclass(eq=False)
class _Actor:
    """A process that trains, as the nursery knows it; `memory` is None until it has started."""

    process: Any
    connection: Connection
    memory: Memory | None = None


class _Nursery:
    """Starts processes, and has them train together.

    driver   the connection to the driver; if it is ready during a round, the driver is gone
    """

    def __init__(self, driver: Connection, inputs: RehearsalInputs) -> None:
        self._driver, self._inputs = driver, inputs
        self._actors: list[_Actor] = []
        self._environment: Mapping[str, str] = {}

    def run(self, ask: Ask) -> Answer:
        """Run a round. If a process fails, all are ended. Raises EOFError if the driver is gone."""
        if ask.environment != self._environment:
            self.end()
            self._environment = ask.environment
        trouble = self._start(ask)
        if len(self._actors) < ask.trials:
            assert trouble is not None
            self.end()
            return Answer(trouble=trouble)
        trained = self._train(ask)
        if isinstance(trained, ProcessTrouble):
            self.end()
            return Answer(trouble=trained)
        since, trainings = trained
        speed = images_per_second([one.ends for one in trainings], since)
        if not speed:
            trouble = ProcessTrouble("the trials did not train at the same time")
        return Answer(
            speed,
            max(one.peak_bytes for one in trainings),
            max(one.host_bytes for one in trainings),
            self._actors[0].memory or Memory(),
            len(self._actors),
            trouble,
        )

    def _start(self, ask: Ask) -> ProcessTrouble | None:
        """Start the missing processes; returns the trouble of the first that failed, if any did."""
        context = multiprocessing.get_context("fork")
        new = []
        for _ in range(ask.processes - len(self._actors)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_act, args=(self._driver, theirs, self._inputs, ask))
            process.start()
            theirs.close()
            new.append(_Actor(process, ours))
        self._actors += new
        first: ProcessTrouble | None = None
        for actor, message in self._heard(new, ask.until):
            if isinstance(message, Memory):
                actor.memory = message
            else:
                first = first or message
                self.end([actor])
            if all(one.memory for one in new if one in self._actors):
                return first
        slow = [one for one in new if one in self._actors and not one.memory]
        self.end(slow)
        return first or (_SILENT if slow else None)

    def _train(self, ask: Ask) -> tuple[float, list[Trained]] | ProcessTrouble:
        """Have the processes train until all of them have trained together for long enough.

        Returns the time of `time.monotonic` since when all of them trained, and their trainings.
        """
        actors = self._actors[: ask.trials]
        _tell(actors, ask)
        steps, since = dict.fromkeys(actors, 0), 0.0
        trainings: list[Trained] = []
        stopped = False
        for actor, message in self._heard(actors, ask.until):
            if isinstance(message, ProcessTrouble):
                return message
            if isinstance(message, Trained):
                trainings.append(message)
                if len(trainings) == len(actors):
                    return since, trainings
                continue
            steps[actor] += 1
            now = time.monotonic()
            if not since and min(steps.values()) >= WARM_STEPS:
                steps, since = dict.fromkeys(actors, 0), now
            elif since and min(steps.values()) >= TIMED_STEPS and now - since >= WINDOW_SECONDS:
                if not stopped:
                    _tell(actors, _STOP)
                stopped = True
        return _SILENT

    def _heard(self, actors: Iterable[_Actor], until: float) -> Iterator[tuple[_Actor, Any]]:
        """The messages of processes until a time of `time.monotonic`.

        The last one of a process that dies is a ProcessTrouble. Raises EOFError if the driver is
        gone.
        """
        listening = list(actors)
        while listening and (left := until - time.monotonic()) > 0:
            ready = wait([self._driver, *(one.connection for one in listening)], min(left, 0.2))
            if self._driver in ready:
                raise EOFError
            for actor in list(listening):
                message = _said(actor) if actor.connection in ready else None
                if message is None and not actor.process.is_alive():
                    message = _said(actor) or (_death(actor.process.exitcode),)
                if message is not None:
                    if isinstance(message[0], ProcessTrouble):
                        listening.remove(actor)
                    yield actor, message[0]

    def end(self, actors: Sequence[_Actor] | None = None) -> None:
        """End these processes, or all. They are told to stop, and killed if they do not in time."""
        ending = list(self._actors if actors is None else actors)
        _tell(ending, _END)
        until = time.monotonic() + LEAVE_SECONDS
        for actor in ending:
            actor.process.join(max(until - time.monotonic(), 0.0))
            if actor.process.is_alive():
                actor.process.kill()
                actor.process.join(KILLED_SECONDS)
            actor.connection.close()
            self._actors.remove(actor)


_SILENT = ProcessTrouble("a process did not answer in time")


def _tell(actors: Iterable[_Actor], what: Ask | str) -> None:
    for actor in actors:
        with contextlib.suppress(OSError):
            actor.connection.send(what)


def _said(actor: _Actor) -> tuple[Any] | None:
    """The next message of a process, in a tuple because it may be None; None if there is none."""
    try:
        return (actor.connection.recv(),) if actor.connection.poll() else None
    except (EOFError, OSError):
        return None


def _death(exit_code: int) -> ProcessTrouble:
    """The trouble of a process that ended with this exit code: minus the signal that killed it."""
    if exit_code == -signal.SIGALRM:
        return _SILENT
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return ProcessTrouble(f"a process was killed ({name})")
    return ProcessTrouble(f"a process ended with status {exit_code}")


def _act(driver: Connection, nursery: Connection, inputs: RehearsalInputs, ask: Ask) -> None:
    """The program of a process that trains: once on the largest images, then when it is told to.

    The kernel kills it if it takes too long or is told nothing, even where native code holds the
    GIL.
    """
    driver.close()
    os.environ.update(ask.environment)
    try:
        _alarm(ask.until)
        limit_memory(resolve_device(inputs.device), 1 / ask.processes)
        torch.set_num_threads(ask.threads)
        probe = Probe(inputs.config, inputs.data, inputs.weights, inputs.device)
        nursery.send(probe.at_its_largest())
        while True:
            _alarm(time.monotonic() + IDLE_SECONDS)
            message = nursery.recv()
            if message == _END:
                return
            if isinstance(message, Ask):
                _alarm(message.until)
                limit_memory(resolve_device(inputs.device), 1 / message.trials)

                def goes_on() -> bool:
                    nursery.send(None)
                    return not nursery.poll()

                nursery.send(probe.train(message.workers, message.threads, goes_on))
    except (EOFError, BrokenPipeError):
        return  # the nursery is gone
    except Exception as error:  # noqa: BLE001  # whatever it raises ends only this round
        with contextlib.suppress(OSError):
            nursery.send(_trouble_of(error))


def _alarm(until: float) -> None:
    """Have the kernel kill this process at a time of `time.monotonic`."""
    signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 0.001))


def _trouble_of(error: Exception) -> ProcessTrouble:
    """The trouble that an error of a training process is to the driver."""
    line = first_line(error)
    # A GPU that this process cannot use is no fault of the request.
    if isinstance(error, BadRequest) and not isinstance(error, ResourceError):
        return ProcessTrouble(line, refusal=error)
    missing = is_out_of_memory(error)
    return ProcessTrouble(
        "out of memory" if missing else f"{type(error).__name__}: {line}", missing
    )
