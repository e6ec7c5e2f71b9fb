"""Laws of what a worker makes of an exception: a result, or the end of its process.

Ray is not started.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from core import data as datasets
from core.config import TrialConfig
from core.errors import ProcessLost
from tune.engine import worker as worker_module
from tune.engine.messages import GPU_FAILED, Assignment, Then, WorkerUnusable
from tune.engine.worker import TrialWorker
from tune.study import conductor as study


def step(folder: Path, error: Exception) -> dict[str, Any]:
    """The result of a worker whose trial raises."""

    def make_trial(*_: Any, **__: Any) -> Any:
        raise error

    worker = TrialWorker.__new__(TrialWorker)
    worker.config = {"assignment": asdict(Assignment(0, 1, str(folder), {}, 0, 0.5))}
    worker.setup({}, make_trial=make_trial, cpus=1, stall_seconds=0, shared={})
    try:
        return worker.step()
    finally:
        worker.cleanup()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.AcceleratorError(
            "CUDA error: out of memory\nCUDA kernel errors might be reported late"
        ),
    ],
)
def test_memory_that_was_missing_is_given_whoever_asked_for_it(
    tmp_path: Path, error: Exception
) -> None:
    """CUDA itself, for a context or a library, says it in other words than torch's allocator."""
    result = step(tmp_path, error)
    assert result["then"] == Then.RETRY_WITH_MORE_MEMORY
    assert result["failure"].startswith("out of memory")
    assert not (tmp_path / "error.txt").exists()


def test_after_an_error_of_the_gpu_the_worker_is_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(
        WorkerUnusable, match=f"^{GPU_FAILED}: CUDA error: device-side assert triggered$"
    ):
        step(tmp_path, torch.AcceleratorError("CUDA error: device-side assert triggered\nmore"))
    assert "device-side assert" in (tmp_path / "error.txt").read_text()


def test_a_worker_whose_gpu_does_not_answer_after_any_error_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some libraries say nothing of the GPU when it failed them."""
    monkeypatch.setattr(worker_module, "_gpu_answers", lambda: False)
    with pytest.raises(WorkerUnusable, match=f"^{GPU_FAILED}: cuDNN said so$"):
        step(tmp_path, RuntimeError("cuDNN said so"))


def test_a_trial_whose_loader_was_killed_is_tried_again_as_it_is(tmp_path: Path) -> None:
    result = step(tmp_path, ProcessLost("a process that prepares images was killed (SIGKILL)"))
    assert (result["then"], result["failure"]) == (
        Then.RETRY,
        "a process that prepares images was killed (SIGKILL)",
    )
    assert not (tmp_path / "error.txt").exists()


def test_any_other_error_is_the_trials_own(tmp_path: Path) -> None:
    result = step(tmp_path, ValueError("no such tile"))
    assert (result["then"], result["failure"]) == (Then.FAIL, "ValueError: no such tile")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_trial_that_holds_a_gpu_never_trains_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "NO_GPU_SECONDS", 0.0)
    settings = TrialConfig.from_settings({"model.weights": "none", "optim.epochs": 1}).settings()
    assignment = Assignment(0, 1, str(tmp_path), settings, 0, 0.5)
    with pytest.raises(
        WorkerUnusable, match=f"^{GPU_FAILED}: torch sees none there, although the trial"
    ):
        study.make_core_trial(assignment, 1, data=datasets.load("synthetic"), weights={}, gpu=True)
