"""Where a model computes: what is named, if it is there."""

from types import SimpleNamespace

import pytest
import torch

from core.device import autocast, limit_memory, precision_of, resolve_device
from core.errors import ResourceError


def test_auto_is_the_first_gpu_or_else_the_cpu() -> None:
    assert resolve_device("auto") == torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CPU", "", "mps", "cuda:01", "cpu:0 "])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ResourceError, match="must be auto, cpu, or a GPU such as cuda:0, and is"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    name = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(
        ResourceError, match=f"{name} is not there: torch sees {torch.cuda.device_count()} GPUs?"
    ):
        resolve_device(name)


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((7, 0), "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((9, 0), "bf16")],
)
def test_auto_is_bf16_on_a_gpu_that_computes_in_it_and_fp32_elsewhere(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability
    )
    gpu = torch.device("cuda", 1)
    assert precision_of(gpu) == precision
    assert asked == [gpu]
    assert precision_of(torch.device("cpu")) == "fp32"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert precision_of(gpu) == "bf16"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA driver initialization failed"),
        AssertionError("Invalid device id"),  # NVIDIA's driver may count more GPUs than CUDA
    ],
)
def test_a_gpu_that_does_not_answer_computes_in_fp32(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: torch.device) -> tuple[int, int]:
        raise error

    monkeypatch.setattr(torch.cuda, "get_device_capability", fails)
    assert precision_of(torch.device("cuda", 0)) == "fp32"


@pytest.mark.parametrize(
    ("share", "total", "limit"),
    [(1.0, 80, 1.0), (0.25, 80, 19.5 / 80), (0.5, 4, 1.5 / 4), (0.5, 1, 0.25)],
)
def test_a_share_of_a_gpu_holds_what_cuda_takes_beside_torch(
    share: float, total: int, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total memory is in GB."""
    set_to: list[float] = []
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda _: SimpleNamespace(total_memory=total * 2**30),
    )
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda fraction, _: set_to.append(fraction)
    )
    limit_memory(torch.device("cuda", 0), share)
    assert set_to == [pytest.approx(limit)]


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("auto", torch.float32)],
)
def test_a_network_computes_in_its_precision(precision: str, kind: torch.dtype) -> None:
    with autocast(torch.device("cpu"), precision):
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == kind
