"""Laws of measuring trials that train at once: real processes, which train on the CPU here as they
would on a GPU.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.config import TrialConfig
from core.data import synthetic
from core.device import CONTEXT_BYTES
from core.errors import ResourceError, SettingError
from core.training import probe as probe_module
from core.training.probe import Memory, Probe, memory_of
from tune.engine import rehearsal
from tune.engine.packing import MARGIN, MEMORY, Conditions, Gpu, what_matters
from tune.engine.rehearsal import (
    Answer,
    Ask,
    NotMeasured,
    ProcessTrouble,
    Rehearsal,
    RehearsalInputs,
    TimeIsUp,
    measure_packing,
)
from tune.engine.resources import Machine, Node
from tune.processes import environment_variables, is_running

SMALL: dict[str, Any] = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.image_min_side": 64,
    "model.image_max_side": 64,
    "model.proposals_train": 16,
    "model.proposals_test": 16,
    "model.box_samples": 16,
    "model.rpn_samples": 16,
    "model.trainable_layers": 0,
    "model.trainable_fpn": False,
    "optim.batch_size": 1,
    "optim.epochs": 2,
}
GB = 2**30
CPU = Gpu("a processor", 0)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds have time on a busy machine."""
    for name in ("SECONDS_A_KIND", "FIRST_SECONDS", "FURTHER_SECONDS", "ROUND_SECONDS"):
        monkeypatch.setattr(rehearsal, name, 300.0)


def inputs(**settings: Any) -> RehearsalInputs:
    config = TrialConfig.from_settings({**SMALL, **settings})
    return RehearsalInputs(config, synthetic.make_cells(images=6, side=64), None, "cpu")


def conditions(
    inputs: RehearsalInputs, cpus: int = 2, services: tuple[bool, ...] = (False,)
) -> Conditions:
    return Conditions(what_matters(inputs.config), (CPU,), cpus, 0, "auto", None, services)


def machine(cpus: int = 2) -> Machine:
    return Machine((Node(cpus, 1),))


def ask(trials: int, processes: int | None = None, seconds: float = 300.0) -> Ask:
    return Ask(trials, processes or trials, 0, 1, time.monotonic() + seconds)


def children(process: int) -> list[int]:
    return [
        int(child)
        for path in Path(f"/proc/{process}/task").glob("*/children")
        for child in path.read_text().split()
    ]


def until(holds: Callable[[], Any], seconds: float = 300.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(holds())


def in_another_thread(what: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=what)
    thread.start()
    return thread


@contextmanager
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Rehearsal], threading.Event]]:
    """The rehearsals that begin in the block, and an event that is set when a nursery has imported
    everything. Before that it may start other programs; after that, all that it starts trains.
    After the block none of their processes is left.
    """
    begun: list[Rehearsal] = []
    ready = threading.Event()
    enter = Rehearsal.__enter__

    def noting(self: Rehearsal) -> Rehearsal:
        begun.append(self)
        entered = enter(self)
        ready.set()
        return entered

    monkeypatch.setattr(Rehearsal, "__enter__", noting)
    yield begun, ready
    for one in begun:
        assert not one._started.living()


def test_one_and_two_trials_are_measured_and_the_data_are_as_they_were() -> None:
    given = inputs()
    before = given.data.fingerprint
    found = measure_packing(conditions(given), machine(), given)
    (measured,) = found.gpus
    assert [one.trials for one in measured.rounds] == [1, 2]
    for one in measured.rounds:
        assert one.images_per_second > 0
        assert one.trouble == ""
        assert one.peak_bytes == 0, "there is no GPU"
        assert 10 * 2**20 < one.host_bytes < 4 * 2**30
    assert found.trials in (1, 2)
    assert found.images_per_second_alone == measured.rounds[0].images_per_second
    assert given.data.fingerprint == before


class Simulated:
    """A nursery whose processes are figures: each round takes a time on a clock of its own."""

    def __init__(self, given: RehearsalInputs, memory: Memory, host: int, seconds: float) -> None:
        self.inputs, self.memory, self.host, self.seconds = given, memory, host, seconds
        self.asked: list[Ask] = []
        self.faults: Callable[[Ask], ProcessTrouble | Exception | None] = lambda _: None
        self.now = 0.0

    def __call__(self, _: RehearsalInputs, alive: Callable[[], object]) -> "Simulated":
        self.alive = alive
        return self

    def __enter__(self) -> "Simulated":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def monotonic(self) -> float:
        return self.now

    def round(self, ask: Ask) -> Answer:
        self.alive()
        self.asked.append(ask)
        if (fault := self.faults(ask)) is not None:
            if isinstance(fault, ProcessTrouble):
                return Answer(trouble=fault)
            raise fault
        self.now += self.seconds
        if self.now > ask.until:
            self.now = ask.until
            return Answer(trouble=ProcessTrouble("a process did not answer in time"))
        return Answer(10.0 * ask.trials, GB, self.host, self.memory, ask.processes)


def simulated(
    monkeypatch: pytest.MonkeyPatch,
    free: int = 140 * GB,
    host: int = GB,
    room: int = 0,
    seconds: float = 1.0,
) -> Simulated:
    """A simulation of trials that take 1.5 GB of a GPU, on a machine with `room` for them."""
    found = Simulated(inputs(), Memory(140 * GB, free, GB // 2), host, seconds)
    monkeypatch.setattr(rehearsal, "Rehearsal", found)
    monkeypatch.setattr(rehearsal, "time", found)
    monkeypatch.setattr(rehearsal.cgroups, "memory_available", lambda: room)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


H200 = Gpu("NVIDIA H200", 140 * GB)


@pytest.mark.parametrize(
    ("free", "room", "host", "most"),
    [
        (140 * GB, 0, GB, 16),
        (140 * GB, 10 * GB, GB, 7),
        (140 * GB, 2 * GB, GB, 1),
        (12 * GB, 0, GB, 6),
        (3 * GB, 0, GB, 1),
        (12 * GB, 4 * GB, GB // 2, 6),
    ],
)
def test_nothing_is_started_that_would_not_fit_the_gpu_or_the_machine(
    monkeypatch: pytest.MonkeyPatch, free: int, room: int, host: int, most: int
) -> None:
    at = simulated(monkeypatch, free, host, room)
    few = replace(conditions(at.inputs, 16), gpus=(H200,))
    found = measure_packing(few, machine(16), at.inputs)
    assert max(one.processes for one in at.asked) == found.trials == most
    assert most == 1 or most * MARGIN * 1.5 * GB <= MEMORY * free
    assert found.gpus[0].rounds[0].peak_bytes == 1.5 * GB


def test_each_trial_has_the_processors_that_it_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    at = simulated(monkeypatch)
    measure_packing(replace(conditions(at.inputs, 16), gpus=(H200,)), machine(16), at.inputs)
    asked = {one.trials: (one.threads, one.workers) for one in at.asked}
    assert asked == {1: (8, 7), 2: (8, 7), 4: (4, 3), 8: (2, 1), 16: (1, 0)}
    for trials, (threads, _) in asked.items():
        assert machine(16).share("auto", 1 / trials, None).cpus == threads


def test_starts_overlap_and_each_round_has_the_processes_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = simulated(monkeypatch)
    measure_packing(replace(conditions(at.inputs, 16), gpus=(H200,)), machine(16), at.inputs)
    assert [(one.trials, one.processes) for one in at.asked] == [
        (1, 1), (2, 8), (4, 8), (8, 8), (16, 16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "first", "second"),
    [(None, "0", "2"), ("4,5,6", "4", "6"), ("GPU-a, GPU-b, GPU-c", "GPU-a", "GPU-c")],
)
def test_each_kind_of_gpu_is_measured_in_turns_and_by_the_service(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, first: str, second: str
) -> None:
    at = simulated(monkeypatch)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/service")
    kinds = (replace(H200, number=2), Gpu("small", 8 * GB, 1, 2))
    wanted = replace(conditions(at.inputs, 12, (False, True)), gpus=kinds)
    found = measure_packing(
        wanted, Machine((Node(12, 3),)), at.inputs,
        lambda: environment_variables({"CUDA_MPS_PIPE_DIRECTORY": "/nowhere"}),
    )  # fmt: skip
    assert {frozenset(one.environment.items()) for one in at.asked} == {
        frozenset({"CUDA_VISIBLE_DEVICES": gpu, "CUDA_MPS_PIPE_DIRECTORY": folder}.items())
        for gpu in (first, second)
        for folder in ("/nowhere", "/service")
    }
    for measured in found.gpus:
        assert [(one.trials, one.service) for one in measured.rounds] == [
            (1, False), (2, False), (4, False), (2, True), (4, True),
        ]  # fmt: skip


@given(seconds=st.floats(0.1, 100), ways=st.sampled_from([(False,), (True,), (False, True)]))
def test_rounds_end_within_their_time_however_slow_a_trial_is(
    seconds: float, ways: tuple[bool, ...]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(rehearsal, "SECONDS_A_KIND", 45.0)
        at = simulated(monkeypatch, seconds=seconds)
        found = measure_packing(
            replace(conditions(at.inputs, 16, ways), gpus=(H200,)), machine(16), at.inputs
        )
        assert at.now <= seconds + 45.0 + 1e-6
        assert found.trials >= 1
        assert found.gpus[0].rounds[0].images_per_second == 10.0


@pytest.fixture(scope="module")
def nursery() -> Iterator[Rehearsal]:
    with Rehearsal(inputs()) as at:
        yield at


def process_of(at: Rehearsal, number: int, of: int) -> int:
    """The id of a process of the nursery, when there are so many."""
    found: list[int] = []

    def look() -> bool:
        found[:] = children(at._nursery.pid)
        return len(found) == of

    assert until(look)
    return found[number]


def test_processes_stay_from_round_to_round_until_they_would_find_another_service(
    nursery: Rehearsal,
) -> None:
    assert nursery.round(ask(1, 2)).processes == 2
    before = set(children(nursery._nursery.pid))
    assert len(before) == 2
    assert nursery.round(ask(2)).images_per_second > 0
    assert set(children(nursery._nursery.pid)) == before
    other = replace(ask(1), environment={"CUDA_MPS_PIPE_DIRECTORY": "/elsewhere"})
    assert nursery.round(other).images_per_second > 0
    assert process_of(nursery, 0, 1) not in before


@pytest.mark.fault
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_while_it_trains_ends_the_round_alone(
    nursery: Rehearsal, end: signal.Signals
) -> None:
    assert nursery.round(ask(2)).images_per_second > 0
    struck = process_of(nursery, 1, 2)

    def strike() -> None:
        time.sleep(0.7)
        os.kill(struck, end)

    thread = in_another_thread(strike)
    answer = nursery.round(ask(2, seconds=10))
    thread.join()
    assert answer.images_per_second == 0
    assert answer.trouble is not None
    assert answer.trouble.reason in (
        ["a process was killed (SIGKILL)"]
        if end is signal.SIGKILL
        else ["a process did not answer in time"]
    )
    assert until(lambda: not children(nursery._nursery.pid))


@pytest.mark.fault
def test_a_process_that_was_started_for_later_rounds_and_dies_does_not_end_this_one(
    nursery: Rehearsal,
) -> None:
    environment = {"CUDA_MPS_PIPE_DIRECTORY": "/new"}
    thread = in_another_thread(lambda: os.kill(process_of(nursery, 0, 2), signal.SIGKILL))
    answer = nursery.round(replace(ask(1, 2), environment=environment))
    thread.join()
    assert answer.images_per_second > 0
    assert answer.processes == 1
    assert answer.trouble is not None


def kill_when_begun(begun: list[Rehearsal], ready: threading.Event, number: int, of: int) -> None:
    """Kill process `number` of the round of `of` processes, once the measurement has begun."""
    assert ready.wait(300)
    os.kill(process_of(begun[0], number, of), signal.SIGKILL)


@pytest.mark.fault
def test_a_process_that_dies_ends_the_growth_and_the_largest_number_that_worked_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = inputs()
    with noted(monkeypatch) as (begun, ready):
        thread = in_another_thread(lambda: kill_when_begun(begun, ready, 1, 2))
        found = measure_packing(conditions(given), machine(), given)
        thread.join()
    assert [(one.trials, one.trouble) for one in found.gpus[0].rounds] == [
        (1, ""),
        (2, "a process was killed (SIGKILL)"),
    ]
    assert found.trials == 1


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (MemoryError("the machine's"), False),
        (torch.AcceleratorError("CUDA error: devices are busy"), False),
    ],
)
def test_what_does_not_fit_one_gpu_alone_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, refused: bool
) -> None:
    at = simulated(monkeypatch)
    at.faults = lambda _: rehearsal._trouble_of(error)
    with pytest.raises(
        ResourceError if refused else NotMeasured,
        match=r"optim.batch_size 1\) must fit one GPU alone.* take the largest images"
        if refused
        else str(error),
    ):
        measure_packing(replace(conditions(at.inputs), gpus=(H200,)), machine(), at.inputs)


def test_a_gpu_that_takes_one_process_at_a_time_is_measured_by_the_service_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one of compute mode EXCLUSIVE_PROCESS, whose one process is the service's."""
    at = simulated(monkeypatch)
    at.faults = lambda _: (
        ProcessTrouble("devices are busy")
        if os.environ["CUDA_MPS_PIPE_DIRECTORY"] == "/nowhere"
        else None
    )
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/service")
    without = lambda: environment_variables({"CUDA_MPS_PIPE_DIRECTORY": "/nowhere"})  # noqa: E731
    wanted = replace(conditions(at.inputs, 16, (False, True)), gpus=(H200,))
    found = measure_packing(wanted, machine(16), at.inputs, without)
    assert {one.service for one in found.gpus[0].rounds} == {True}
    assert (found.trials, found.service, found.against_service) == (16, True, "")
    with pytest.raises(NotMeasured, match="devices are busy"):
        measure_packing(replace(wanted, services=(False,)), machine(16), at.inputs, without)


def test_gpus_that_only_nvidias_driver_counts_are_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with MIG, whose parts the driver and CUDA count differently."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def about(index: int) -> SimpleNamespace:
        if index:
            raise AssertionError("Invalid device id")
        return SimpleNamespace(name="a part", total_memory=10 * GB)

    monkeypatch.setattr(torch.cuda, "get_device_properties", about)
    with pytest.raises(NotMeasured, match="Invalid device id"):
        rehearsal.gpus_here()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert rehearsal.gpus_here() == (Gpu("a part", 10 * GB),)


@pytest.mark.parametrize("fails_with", [1, 2, 8])
def test_a_measurement_that_breaks_off_keeps_what_worked_once_a_trial_trained_alone(
    monkeypatch: pytest.MonkeyPatch, fails_with: int
) -> None:
    """As where the processes hang."""
    at = simulated(monkeypatch)
    at.faults = lambda ask: NotMeasured("they hang") if ask.trials >= fails_with else None
    wanted = replace(conditions(at.inputs, 16), gpus=(H200,))
    if fails_with == 1:
        with pytest.raises(NotMeasured, match="they hang"):
            measure_packing(wanted, machine(16), at.inputs)
        return
    found = measure_packing(wanted, machine(16), at.inputs)
    assert found.trials == fails_with // 2
    assert found.gpus[0].rounds[-1].trouble == "they hang"


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_measurement_whose_study_has_no_time_left_gives_no_number(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    at = simulated(monkeypatch)

    def alive() -> None:
        if len(at.asked) == after:
            raise TimeIsUp("no time is left")

    with pytest.raises(TimeIsUp, match="no time is left"):
        measure_packing(
            replace(conditions(at.inputs, 16), gpus=(H200,)), machine(16), at.inputs, alive=alive
        )
    assert len(at.asked) == after


def test_a_driver_that_waits_for_an_answer_says_again_and_again_that_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rehearsal, "ALIVE_SECONDS", 0.01)
    beats = []
    at = Rehearsal(inputs(), lambda: beats.append(time.monotonic()))
    at._connection, theirs = multiprocessing.Pipe()
    with pytest.raises(NotMeasured, match="hang"):
        at._hear(time.monotonic() + 0.5)
    assert len(beats) > 5
    theirs.send("well")
    assert at._hear(time.monotonic()) == "well"


@pytest.mark.fault
def test_a_process_that_the_kernel_kills_for_the_machines_memory_does_not_end_the_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = inputs()
    with noted(monkeypatch) as (begun, ready):
        thread = in_another_thread(lambda: kill_when_begun(begun, ready, 0, 1))
        with pytest.raises(NotMeasured, match="SIGKILL"):
            measure_packing(conditions(given), machine(), given)
        thread.join()


@pytest.mark.fault
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_no_study_ends_because_a_measurement_failed(
    monkeypatch: pytest.MonkeyPatch, end: signal.Signals
) -> None:
    monkeypatch.setattr(rehearsal, "FIRST_SECONDS", 10.0)
    monkeypatch.setattr(rehearsal, "LEAVE_SECONDS", 0.5)
    monkeypatch.setattr(rehearsal, "KILLED_SECONDS", 0.1)
    given = inputs()
    with noted(monkeypatch) as (begun, _):

        def strike() -> None:
            assert until(lambda: begun and hasattr(begun[0], "_nursery"))
            os.kill(begun[0]._nursery.pid, end)

        thread = in_another_thread(strike)
        with pytest.raises(NotMeasured):
            measure_packing(conditions(given), machine(), given)
        thread.join()


def test_a_gpu_that_the_processes_do_not_see_ends_no_study() -> None:
    given = replace(inputs(), device="cuda:7")
    with pytest.raises(NotMeasured, match="the device cuda:7 is not there"):
        measure_packing(conditions(given), machine(), given)


def test_a_configuration_that_cannot_be_trained_is_the_users_to_mend() -> None:
    given = inputs(**{"optim.restarts": 100})
    with pytest.raises(SettingError, match="use fewer restarts or more epochs"):
        measure_packing(conditions(given), machine(), given)


@pytest.mark.fault
def test_ctrl_c_ends_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs()
    with noted(monkeypatch) as (begun, ready):

        def strike() -> None:
            assert ready.wait(300)
            process_of(begun[0], 0, 1)
            os.kill(os.getpid(), signal.SIGINT)

        # A program that was started in the background may ignore Ctrl-C.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        thread = in_another_thread(strike)
        try:
            with pytest.raises(KeyboardInterrupt):
                measure_packing(conditions(given), machine(), given)
        finally:
            signal.signal(signal.SIGINT, before)
        thread.join()


@pytest.mark.fault
def test_the_processes_end_when_the_driver_is_killed() -> None:
    """The driver is a process of its own here, which is killed while two trials train."""
    program = (
        "import time; from tests.tune.engine.test_rehearsal import *\n"
        "with Rehearsal(inputs()) as at:\n"
        "    at.round(ask(2))\n"
        "    print(at._nursery.pid, *children(at._nursery.pid), flush=True)\n"
        "    while True: at.round(ask(2))\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert driver.stdout is not None
    found = [int(word) for word in driver.stdout.readline().split()]
    assert len(found) == 3
    driver.kill()
    driver.communicate()
    assert until(lambda: not any(map(is_running, found)), 20)


@pytest.mark.usefixtures("narrow")
def test_a_training_goes_on_through_epochs_until_it_is_told_to_stop() -> None:
    given = inputs()
    probe = Probe(given.config, given.data, None, "cpu")
    probe.at_its_largest()
    steps = 0

    def goes_on() -> bool:
        nonlocal steps
        steps += 1
        return steps < 7

    trained = probe.train(0, 1, goes_on)
    assert len(trained.ends) == steps == 7
    images = len(probe.trial.split.train)
    assert sum(count for _, count in trained.ends[: len(probe.trial.batches)]) == images
    assert list(trained.ends) == sorted(trained.ends)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("tile", "images"), [(0, 8), (48, 2)])
def test_as_many_images_are_predicted_as_fill_one_batch_of_tiles(
    monkeypatch: pytest.MonkeyPatch, tile: int, images: int
) -> None:
    """Four tiles of 48 pixels cover an image of 64."""
    predicted: list[int] = []
    monkeypatch.setattr(probe_module, "most_at_once", lambda _: 8)
    monkeypatch.setattr(
        probe_module, "look_at_samples", lambda _, batch, *__, **___: predicted.append(len(batch))
    )
    given = inputs(**{"predict.tile": tile})
    Probe(given.config, given.data, None, "cpu").at_its_largest()
    assert predicted == [images]


@pytest.mark.usefixtures("narrow")
def test_memory_is_taken_at_the_largest_of_several_sizes_and_time_at_all_of_them() -> None:
    given = inputs(**{"model.size_jitter": 0.5, "model.image_max_side": 96})
    probe = Probe(given.config, given.data, None, "cpu")
    seen: list[int] = []
    model = probe.trial.model
    model.get_submodule("backbone").register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[-1]) if model.training else None
    )
    probe.at_its_largest()
    assert seen
    assert set(seen) == {96}
    seen.clear()
    probe.train(0, 1, lambda: len(seen) < 8)
    assert min(seen) < 96


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("batches", [1, 2, 16])
def test_memory_is_taken_with_the_optimizers_moments_however_many_batches_a_step_takes(
    batches: int,
) -> None:
    given = inputs(**{"optim.accumulate": batches, "optim.epochs": 2})
    probe = Probe(given.config, given.data, None, "cpu")
    model, optimizer = probe.trial.model, probe.trial.optim.optimizer
    with_moments: list[bool] = []
    model.get_submodule("backbone").register_forward_pre_hook(
        lambda *_: with_moments.append(bool(optimizer.state)) if model.training else None
    )
    probe.at_its_largest()
    assert with_moments[0] is False
    assert any(with_moments[1:])
    assert all(with_moments[1:])


@pytest.mark.usefixtures("narrow")
def test_a_setting_that_would_diverge_does_not() -> None:
    given = inputs(**{"optim.learning_rate": 1.0})
    Probe(given.config, given.data, None, "cpu").at_its_largest()


sizes = st.integers(0, 100 * GB)


@given(after=sizes, others=sizes, context=sizes, reserved=sizes)
def test_what_a_process_holds_and_what_others_hold_of_a_gpu_add_up(
    after: int, others: int, context: int, reserved: int
) -> None:
    before = after + context + reserved
    total = before + CONTEXT_BYTES + others
    found = memory_of(before, after, total, reserved)
    assert found == Memory(total, total - others, CONTEXT_BYTES + context)
    assert found.free_bytes - found.context_bytes - reserved == after


def test_memory_that_others_give_back_meanwhile_is_not_counted_as_held() -> None:
    assert memory_of(10 * GB, 12 * GB, 80 * GB, GB) == Memory(
        80 * GB, 10 * GB + CONTEXT_BYTES, CONTEXT_BYTES
    )
