"""Laws of what a worker makes of an exception: a result, or the end of its process.

Ray is not started.
"""

import contextlib
import csv
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.replay import ReplayedTrial
from core import data as datasets
from core.config import TrialConfig
from core.errors import ProcessLost
from core.metric.limits import ClassLimits
from core.training.trial import EpochReport
from tune.engine import worker as worker_module
from tune.engine.messages import (
    Assignment,
    Failure,
    GpuFailed,
    History,
    NoGpu,
    Then,
    message_in,
    to_config,
)
from tune.engine.worker import OpenFiles, TrialWorker, files_here
from tune.store.carried import CarriedShelf
from tune.store.keeper import Keeper
from tune.store.trial_files import Copied
from tune.study import trials


@pytest.fixture(autouse=True)
def farewells_end_with_their_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker answers SIGTERM to the end of its process, which here runs other tests."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


ended_in: list[float] = []
"""Seconds in which the kernel was to end the process, after each step of a worker; 0 for never."""


def step(folder: Path, error: Exception, open_files: OpenFiles = files_here) -> Failure:
    """The message of a worker whose trial raises."""

    def make_trial(_: Assignment) -> Any:
        raise error

    worker = TrialWorker.__new__(TrialWorker)
    worker.config = to_config(Assignment(0, 1, str(folder), {}, 0, 0.5))
    worker.setup({}, make_trial=make_trial, stall_seconds=0, grace=30, open_files=open_files)
    try:
        message = message_in(worker.step())
        assert isinstance(message, Failure)
        return message
    finally:
        ended_in.append(signal.getitimer(signal.ITIMER_REAL)[0])
        signal.setitimer(signal.ITIMER_REAL, 0)  # which would end the tests
        worker.cleanup()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.AcceleratorError(
            "CUDA error: out of memory\nCUDA kernel errors might be reported late"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_memory_that_was_missing_is_given_whoever_asked_for_it(
    tmp_path: Path, error: Exception
) -> None:
    """CUDA itself, for a context or a library, says it in other words than torch's allocator."""
    failure = step(tmp_path, error)
    assert failure.then is Then.RETRY_WITH_MORE_MEMORY
    assert failure.reason.startswith("out of memory")
    assert not (tmp_path / "error.txt").exists()


def test_the_table_of_epochs_has_a_column_for_each_number(tmp_path: Path) -> None:
    kinds = {"found": 2, "not_found": 1}
    limits = ClassLimits(kinds, (0, 0), {"right": 2}, {"not_found": None})

    class Limited(ReplayedTrial):
        def run_epoch(self, progress: Callable[[float], object] = float) -> EpochReport:
            report = replace(
                super().run_epoch(progress), limits=(limits, limits), ap50_pulls=(0.1,)
            )
            self.reports[-1] = report
            return report

    worker = TrialWorker.__new__(TrialWorker)
    worker.config = to_config(Assignment(0, 1, str(tmp_path), {}, 0, 0.5))
    make_trial = lambda assignment: Limited(assignment, lambda *_: 0.5)  # noqa: E731
    worker.setup({}, make_trial=make_trial, stall_seconds=0, grace=30)
    try:
        worker.step()
    finally:
        worker.cleanup()
    with (tmp_path / "epochs.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert None not in row  # no cell is beside the columns
    assert (row["ap50_per_class/1"], row["ap50_per_class/2"]) == ("0.5", "")
    assert (row["limits/2/instances/found"], row["limits/1/called/1"]) == ("2", "0")
    assert row["limits/2/mended/not_found"] == ""
    assert not any("pulls" in name for name in row)  # they are for programs


def test_what_follows_the_last_epoch_has_the_time_of_an_epoch_for_each_step(tmp_path: Path) -> None:
    left: list[float] = []

    class Slow(ReplayedTrial):
        def run_epoch(self, progress: Callable[[float], object] = float) -> EpochReport:
            for done in (0.5, 1.0, 1.0):
                signal.setitimer(signal.ITIMER_REAL, 50)  # half of the time has gone by
                progress(done)
                left.append(signal.getitimer(signal.ITIMER_REAL)[0])
            return super().run_epoch(progress)

    worker = TrialWorker.__new__(TrialWorker)
    worker.config = to_config(Assignment(0, 1, str(tmp_path), {}, 0, 0.5))
    make_trial = lambda assignment: Slow(assignment, lambda *_: 0.5)  # noqa: E731
    worker.setup({}, make_trial=make_trial, stall_seconds=100, grace=30)
    try:
        assert isinstance(message_in(worker.step()), History)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # which would end the tests
        worker.cleanup()
    assert [round(seconds / 50) for seconds in left] == [1, 2, 2]


def test_after_an_error_of_the_gpu_the_worker_is_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(GpuFailed, match=r"^CUDA error: device-side assert triggered$"):
        step(tmp_path, torch.AcceleratorError("CUDA error: device-side assert triggered\nmore"))
    assert "device-side assert" in (tmp_path / "error.txt").read_text()
    assert 0 < ended_in[-1] <= worker_module.LAST_SECONDS  # whatever hangs when it ends by itself


def test_a_worker_whose_gpu_does_not_answer_after_any_error_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some libraries say nothing of the GPU when it failed them."""
    monkeypatch.setattr(worker_module, "_gpu_answers", lambda: False)
    with pytest.raises(GpuFailed, match=r"^cuDNN said so$"):
        step(tmp_path, RuntimeError("cuDNN said so"))


def test_a_trial_whose_loader_was_killed_is_tried_again_as_it_is(tmp_path: Path) -> None:
    reason = "a process that prepares images was killed (SIGKILL)"
    assert step(tmp_path, ProcessLost(reason)) == Failure(reason, Then.RETRY)
    assert not (tmp_path / "error.txt").exists()


def test_any_other_error_is_the_trials_own(tmp_path: Path) -> None:
    failure = step(tmp_path, ValueError("no such tile"))
    assert failure == Failure("ValueError: no such tile", Then.FAIL)
    assert ended_in[-1] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_trial_that_holds_a_gpu_never_trains_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "NO_GPU_SECONDS", 0.0)
    settings = TrialConfig.from_settings({"model.weights": "none", "optim.epochs": 1}).settings()
    assignment = Assignment(0, 1, str(tmp_path), settings, 0, 0.5)
    inputs = trials.TrialInputs(datasets.load_data("synthetic"), {}, 1, gpu=True)
    with pytest.raises(NoGpu, match=r"^torch sees none there, although the trial holds one$"):
        trials.CoreTrials().make(assignment, inputs)


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        (
            torch.AcceleratorError("CUDA error: MPS server is not ready\nmore"),
            NoGpu,
            r"^CUDA error: MPS server is not ready$",
        ),
        (RuntimeError("Unexpected error from cudaGetDeviceCount()"), NoGpu, "^Unexpected error"),
        (torch.AcceleratorError("CUDA error: out of memory"), torch.AcceleratorError, "memory$"),
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError, "memory"),
    ],
)
def test_a_gpu_that_cannot_be_used_yet_is_no_fault_of_the_trial_and_missing_memory_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception], says: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(trials, "NO_GPU_SECONDS", 0.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(trials, "limit_memory", fails)
    with pytest.raises(expected, match=says):
        trials.begin_to_use_gpu(0.5)


def test_a_worker_that_finds_no_gpu_ends_as_one_whose_gpu_failed(tmp_path: Path) -> None:
    with pytest.raises(NoGpu, match=r"^none there$"):
        step(tmp_path, NoGpu("none there"))
    assert ended_in[-1] > 0
    assert not (tmp_path / "error.txt").exists()


def carried_from(node: Path) -> OpenFiles:
    """Files in a folder of a node, and of the keeper at the driver's machine."""

    @contextlib.contextmanager
    def opened(assignment: Assignment) -> Iterator[Copied]:
        folder = Path(assignment.folder)
        keeper = Keeper(str(folder.parents[1]))
        shelf = CarriedShelf(
            lambda name, *rest: getattr(keeper, name)(*rest), f"trials/{folder.name}", 1
        )
        shelf.enter(folder)
        node.mkdir()
        yield Copied(node, shelf)
        shelf.leave()

    return opened


def test_the_error_of_a_gpu_on_another_node_is_left_at_the_driver(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "trials" / "0"
    error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    with pytest.raises(GpuFailed):
        step(folder, error, carried_from(tmp_path / "node"))
    assert "device-side assert" in (folder / "error.txt").read_text()


def test_a_full_disk_of_a_node_is_named_with_the_node_and_the_drivers_is_not(
    tmp_path: Path,
) -> None:
    folder, node = tmp_path / "study" / "trials" / "0", tmp_path / "node"
    for full, said in (
        (node / "last.safetensors", f"{node}/last.safetensors on {socket.gethostname()} cannot"),
        (folder / "last.safetensors", f"{folder}/last.safetensors cannot"),
    ):
        error = OSError(errno.ENOSPC, "No space left on device", str(full))
        failure = step(folder, error, carried_from(node))
        assert failure.then is Then.HALT
        assert failure.reason.startswith(said)
        for left in node.iterdir():
            left.unlink()
        node.rmdir()
