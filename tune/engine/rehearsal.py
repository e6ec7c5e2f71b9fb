"""Trials that train at once on one GPU, in processes of their own, to measure how many should.

The processes are forked from one that has imported everything and holds the data set, the nursery:
to start Python and torch for each would take longer than all the training. The nursery itself never
touches a GPU. Its processes stay from round to round, and a round of n trials uses n of them.

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
from core.device import is_out_of_memory, limit_memory, resolve
from core.errors import BadRequest, CellTuneError, ResourceError
from core.network.weights import BaseWeights
from core.text import first_line
from core.training.probe import Memory, Probe, Trained
from tune import processes
from tune.engine import cgroups
from tune.engine.packing import (
    MOST,
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

SECONDS = 45.0
"""Seconds for all rounds on one kind of GPU. With the start and the first trial, which is measured
alone and however long that takes, this is about a minute."""
FIRST_SECONDS, START_SECONDS, ROUND_SECONDS = 180.0, 30.0, 20.0
"""Seconds for the first trial alone with its start, for the start of further processes, and for a
round. What takes longer hangs."""
LEAST_SECONDS = 4.0
"""Seconds that must be left for a round to begin."""
WINDOW_SECONDS = 2.0
"""Seconds for which all trials of a round train together, at least."""
WARM, STEPS = 2, 4
"""Steps that each trial of a round trains before the time is taken, and in that time at least."""
TOGETHER = 8
"""Number of processes that are started together where there is room, since their starts overlap."""
ALIVE_SECONDS = 5.0
"""Seconds after which a driver that waits for an answer says again that it lives."""
IDLE_SECONDS = 120.0
"""Seconds after which a process that hears nothing more ends."""
LEAVE_SECONDS = 3.0
"""Seconds for processes to end by themselves. One that is killed while it uses a GPU by NVIDIA's
service may take others along."""
KILLED_SECONDS = 1.0
"""Seconds for the end of a process that was killed."""
_STOP, _END = "stop", "end"
_PROGRAM = "import sys; from tune.engine.rehearsal import serve; serve(int(sys.argv[1]))"


def usual_seconds(kinds: int) -> float:
    """Seconds that measuring so many kinds of GPU usually takes, their starts included."""
    return kinds * (START_SECONDS + SECONDS)


class NotMeasured(Exception):
    """How many trials share a GPU could not be measured. The message says why."""


class TimeIsUp(NotMeasured):
    """The study has no time to measure how many trials share a GPU. Another run may have it."""


class _NoRound(NotMeasured):
    """One trial alone could not train, though the processes that measure work."""


@dataclass(frozen=True)
class Inputs:
    """The configuration that every process trains, and what it starts from."""

    config: TrialConfig
    data: Dataset
    weights: BaseWeights | None
    device: str = "cuda:0"


@dataclass(frozen=True)
class Ask:
    """A round that is asked for.

    trials        number of processes that train
    processes     number of processes that there are then, more than `trials` if later rounds
                  will need them
    workers       processes of each that prepare images
    threads       CPU threads of each
    until         time of `time.monotonic` at which the round must have ended
    environment   environment variables of the processes; those that were started with others are
                  ended first
    """

    trials: int
    processes: int
    workers: int
    threads: int
    until: float
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trouble:
    """Why a process could not go on.

    memory    whether the GPU's memory was missing
    refusal   the error, where the user can correct it
    """

    reason: str
    memory: bool = False
    refusal: BadRequest | None = None


@dataclass(frozen=True)
class Answer:
    """The outcome of a round.

    images_per_second   training images of all its trials per second; 0 where it failed
    peak_bytes          most of the GPU's memory that torch's allocator held for one of them
    host_bytes          most of the machine's memory that one of them had for itself
    memory              the GPU's memory as the first process found it
    processes           number of processes that live
    trouble             why the round failed, or a process that was started for later ones
    """

    images_per_second: float = 0.0
    peak_bytes: int = 0
    host_bytes: int = 0
    memory: Memory = field(default_factory=Memory)
    processes: int = 0
    trouble: Trouble | None = None


def gpus_here() -> tuple[Gpu, ...]:
    """The kinds of GPU of this machine, in the order in which torch counts their first ones.

    Raises NotMeasured where they do not answer.
    """
    found: dict[tuple[str, int], list[int]] = {}
    try:
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            found.setdefault((about.name, about.total_memory), []).append(index)
    except (AssertionError, RuntimeError) as error:  # the first for a GPU that CUDA does not count
        raise NotMeasured(first_line(error)) from error
    return tuple(
        Gpu(name, memory, len(indices), indices[0]) for (name, memory), indices in found.items()
    )


def pack(
    conditions: Conditions,
    machine: Machine,
    inputs: Inputs,
    turns: Callable[[], AbstractContextManager[object]] = nullcontext,
    alive: Callable[[], object] = int,
) -> Packing:
    """Measure trials that train at once on each kind of GPU, in growing numbers.

    turns   a block inside which processes that are started take turns; those that are started
            outside share a GPU by NVIDIA's service, if the conditions ask for that
    alive   called every few seconds, to check that this process still runs the study; what it
            raises `pack` raises too, TimeIsUp among others

    Raises ResourceError where the configuration alone is too large for a GPU, the error of a
    configuration that cannot be trained at all, and NotMeasured where something else went wrong.
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
) -> Sequence["_Kind"]:
    """The kinds of GPU with their rounds. What worked is kept where a later round breaks off.

    A GPU that takes one process at a time (of compute mode EXCLUSIVE_PROCESS) may take that of the
    service alone, so where no trial can train outside of it, trials are measured by it.
    """
    found = [_Kind(gpu, conditions, machine, rehearsal) for gpu in conditions.gpus]
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
    kinds: Sequence["_Kind"],
    ways: Sequence[bool],
    turns: Callable[[], AbstractContextManager[object]],
) -> None:
    """Measure each kind of GPU in each way to share it: in turns (False), and by the service.

    Each has its part of the time, and what those before it left.
    """
    seconds = 0.0
    for by_service in ways:
        with nullcontext() if by_service else turns():
            for kind in kinds:
                if not kind.rounds:
                    kind.alone(by_service)
                seconds += SECONDS / len(ways)
                begin = time.monotonic()
                kind.grow(by_service, begin + seconds)
                seconds = max(0.0, seconds - (time.monotonic() - begin))


class _Kind:
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
        self._most = machine.most_on_a_gpu(conditions.cpus_per_trial, conditions.parallel, MOST)

    def alone(self, service: bool) -> None:
        """Measure one trial alone, and the memory it takes."""
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
                    f" on {self.gpu.name}; take smaller images or batches out of the space, or"
                    " name resources.gpus_per_trial"
                )
            raise _NoRound(trouble.reason)
        self._memory = answer.memory
        self.rounds.append(self._round(1, service, answer))

    def grow(self, service: bool, until: float) -> None:
        """Measure growing numbers of trials, until one gains nothing or the time is up."""
        alone, *others = self.rounds
        rounds = [alone, *(one for one in others if one.service is service)]
        failed = None
        while (trials := next_number(rounds, most := self._room())) is not None:
            now = time.monotonic()
            if until - now < LEAST_SECONDS:
                break
            wanted = max(trials, min(TOGETHER, most))
            try:
                answer = self._ask(trials, wanted, min(until, now + START_SECONDS + ROUND_SECONDS))
            except NotMeasured as reason:
                self.rounds.append(Round(trials, service, 0.0, trouble=str(reason)))
                raise
            rounds.append(self._round(trials, service, answer))
            self.rounds.append(rounds[-1])
            if answer.trouble is not None and not rounds[-1].trouble:
                # A process that a later round needed did not start: that round would fail.
                self._most = answer.processes
                failed = Round(wanted, service, 0.0, trouble=answer.trouble.reason)
        if failed is not None:
            self.rounds.append(failed)

    def _room(self) -> int:
        """The largest number of trials that fits this GPU, its part of the machine's memory, and
        the processors.
        """
        peak = max(one.peak_bytes for one in self.rounds)
        held = max(one.host_bytes for one in self.rounds)
        by_gpu = most_that_fit(peak, self._memory.free_bytes)
        return min(by_gpu, most_that_fit(held, self._host), self._most)

    def _ask(self, trials: int, wanted: int, until: float) -> Answer:
        conditions = self._conditions
        share = self._machine.share(conditions.cpus_per_trial, 1 / trials, conditions.parallel)
        # As `CoreTrials` does it: one processor drives the GPU, the others prepare images.
        return self._rehearsal.round(
            Ask(trials, wanted, share.cpus - 1, share.cpus, until, self._environment())
        )

    def _environment(self) -> dict[str, str]:
        """The variables by which CUDA finds this GPU and the service."""
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
    """Bytes of the machine's memory for the trials of each GPU; 0 where that is not known."""
    known = [size for size in (conditions.memory, cgroups.memory_available()) if size]
    if not known:
        return 0
    # Ray's object store will hold the data set once more.
    room = min(known) - data.nbytes
    return max(room // sum(gpu.number for gpu in conditions.gpus), 1)


class Rehearsal:
    """The nursery, for the time of a block. In the end, or when this process dies, it ends with all
    that it started.

    alive   called every few seconds while this process waits; what it raises ends the waiting
    """

    def __init__(self, inputs: Inputs, alive: Callable[[], object] = int) -> None:
        self.inputs, self._alive = inputs, alive

    def __enter__(self) -> Self:
        self._connection, theirs = multiprocessing.Pipe()
        # Ctrl-C reaches this process alone, which then ends the others.
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
            # Sent by a thread, because a nursery that hangs would never take it.
            threading.Thread(target=self._send_inputs, daemon=True).start()
            self._hear(until)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def round(self, ask: Ask) -> Answer:
        """Run a round. Raises NotMeasured where the nursery ended or hangs."""
        self._connection.send(ask)
        # After its time the nursery may end processes twice, those that started late and the rest.
        answer = self._hear(ask.until + 2 * (LEAVE_SECONDS + MOST * KILLED_SECONDS))
        assert isinstance(answer, Answer)
        return answer

    def _send_inputs(self) -> None:
        with contextlib.suppress(OSError, TypeError):  # the connection was closed meanwhile
            self._connection.send(self.inputs)

    def _hear(self, until: float) -> Any:
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
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nursery.wait(2 * LEAVE_SECONDS)
        self._started.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nursery.wait(LEAVE_SECONDS)


def serve(handle: int) -> None:
    """Run the nursery: answer the driver, whose connection `handle` is, until it is gone."""
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
    """A process that trains, as the nursery knows it."""

    process: Any
    connection: Connection
    memory: Memory | None = None


class _Nursery:
    """Starts processes, and has them train together.

    driver   the connection to the driver; during a round nothing comes from it but its end
    """

    def __init__(self, driver: Connection, inputs: Inputs) -> None:
        self._driver, self._inputs = driver, inputs
        self._actors: list[_Actor] = []
        self._environment: Mapping[str, str] = {}

    def run(self, ask: Ask) -> Answer:
        """Run a round. Where it fails, all processes are ended."""
        if ask.environment != self._environment:
            self.end()
            self._environment = ask.environment
        trouble = self._start(ask)
        if len(self._actors) < ask.trials:
            assert trouble is not None
            self.end()
            return Answer(trouble=trouble)
        trained = self._train(ask)
        if isinstance(trained, Trouble):
            self.end()
            return Answer(trouble=trained)
        since, trainings = trained
        speed = images_per_second([one.ends for one in trainings], since)
        if not speed:
            trouble = Trouble("the trials did not train at the same time")
        return Answer(
            speed,
            max(one.peak_bytes for one in trainings),
            max(one.host_bytes for one in trainings),
            self._actors[0].memory or Memory(),
            len(self._actors),
            trouble,
        )

    def _start(self, ask: Ask) -> Trouble | None:
        """Start the processes that are missing; the trouble of the first that failed."""
        context = multiprocessing.get_context("fork")
        new = []
        for _ in range(ask.processes - len(self._actors)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_act, args=(self._driver, theirs, self._inputs, ask))
            process.start()
            theirs.close()
            new.append(_Actor(process, ours))
        self._actors += new
        first: Trouble | None = None
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

    def _train(self, ask: Ask) -> tuple[float, list[Trained]] | Trouble:
        """Have processes train, and take the time in which all of them do.

        Returns the time of `time.monotonic` since when all of them trained, and their trainings.
        """
        actors = self._actors[: ask.trials]
        _tell(actors, ask)
        steps, since = dict.fromkeys(actors, 0), 0.0
        trainings: list[Trained] = []
        stopped = False
        for actor, message in self._heard(actors, ask.until):
            if isinstance(message, Trouble):
                return message
            if isinstance(message, Trained):
                trainings.append(message)
                if len(trainings) == len(actors):
                    return since, trainings
                continue
            steps[actor] += 1
            now = time.monotonic()
            if not since and min(steps.values()) >= WARM:
                steps, since = dict.fromkeys(actors, 0), now
            elif since and min(steps.values()) >= STEPS and now - since >= WINDOW_SECONDS:
                if not stopped:
                    _tell(actors, _STOP)
                stopped = True
        return _SILENT

    def _heard(self, actors: Iterable[_Actor], until: float) -> Iterator[tuple[_Actor, Any]]:
        """The messages of processes until a time; the last one of a process that died says how.

        Raises EOFError when the driver is gone.
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
                    if isinstance(message[0], Trouble):
                        listening.remove(actor)
                    yield actor, message[0]

    def end(self, actors: Sequence[_Actor] | None = None) -> None:
        """End processes, all of them where none are named. Those that train stop first."""
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


_SILENT = Trouble("a process did not answer in time")


def _tell(actors: Iterable[_Actor], what: Ask | str) -> None:
    for actor in actors:
        with contextlib.suppress(OSError):
            actor.connection.send(what)


def _said(actor: _Actor) -> tuple[Any] | None:
    """The next message of a process, as the only member of a tuple; None where there is none."""
    try:
        return (actor.connection.recv(),) if actor.connection.poll() else None
    except (EOFError, OSError):
        return None


def _death(exit_code: int) -> Trouble:
    if exit_code == -signal.SIGALRM:
        return _SILENT
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return Trouble(f"a process was killed ({name})")
    return Trouble(f"a process ended with status {exit_code}")


def _act(driver: Connection, nursery: Connection, inputs: Inputs, ask: Ask) -> None:
    """A process of the nursery: train on the largest images once, then whenever it is told to.

    The kernel ends it when it takes too long or hears nothing, whatever holds Python then.
    """
    driver.close()
    os.environ.update(ask.environment)
    try:
        _alarm(ask.until)
        limit_memory(resolve(inputs.device), 1 / ask.processes)
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
                limit_memory(resolve(inputs.device), 1 / message.trials)

                def goes_on() -> bool:
                    nursery.send(None)
                    return not nursery.poll()

                nursery.send(probe.train(message.workers, message.threads, goes_on))
    except (EOFError, BrokenPipeError):
        return  # the nursery is gone
    except Exception as error:  # noqa: BLE001  # whatever it raises ends this round alone
        with contextlib.suppress(OSError):
            nursery.send(_trouble(error))


def _alarm(until: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 0.001))


def _trouble(error: Exception) -> Trouble:
    line = first_line(error)
    # A GPU that is not there for this process is no fault of the request.
    if isinstance(error, BadRequest) and not isinstance(error, ResourceError):
        return Trouble(line, refusal=error)
    missing = is_out_of_memory(error)
    return Trouble("out of memory" if missing else f"{type(error).__name__}: {line}", missing)
