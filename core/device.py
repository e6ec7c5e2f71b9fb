"""The device on which a model computes: CPU or GPU."""

import re
from typing import Literal

import torch

from core.config import Precision
from core.errors import ResourceError
from core.text import many

MOST_THREADS = 256
"""Largest number of threads: more are a typing error, and starting them would end the process."""

CONTEXT_BYTES = 2**29
"""Bytes of a GPU that CUDA takes for a process before the process can ask how much is free."""
_LIBRARIES_MISSING = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def resolve_device(name: str) -> torch.device:
    """Choose a device by its name: cpu, cuda, cuda:N, or auto: the first GPU, or else the CPU.

    Raises ResourceError for another name, and for a GPU that torch does not see.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d|[1-9]\d))?", name)
    if match is None:
        raise ResourceError(
            f"the device must be auto, cpu, or a GPU such as cuda:0, and is {name!r}"
        )
    found = torch.cuda.device_count()
    if name.startswith("cuda") and int(match[1] or 0) >= found:
        raise ResourceError(
            f"the device {name} is not there: torch sees {many(found, 'GPU')}; use auto or cpu"
        )
    return torch.device(name)


def limit_memory(device: torch.device, share: float) -> None:
    """Limit this process to a fraction `share`, in (0, 1], of a GPU's memory; a CPU has no limit.

    A trial that needs more then runs out of memory itself, and the trials beside it do not. Of a
    share below 1, CONTEXT_BYTES are left to CUDA, and torch's allocator may take the rest, or half
    of the share if that is more.
    """
    if device.type == "cuda":
        if share < 1:
            total = torch.cuda.get_device_properties(device).total_memory
            share = max(share - CONTEXT_BYTES / total, share / 2)
        torch.cuda.set_per_process_memory_fraction(share, device)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a GPU ran out of memory.

    torch's allocator says so in an error of its own; CUDA and its libraries, which take memory
    themselves, say so in others.
    """
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or (isinstance(error, torch.AcceleratorError) and "out of memory" in said)
        or (isinstance(error, RuntimeError) and any(words in said for words in _LIBRARIES_MISSING))
    )


def precision_of(device: torch.device) -> Precision:
    """The precision that `optim.precision: auto` stands for: bf16 on a GPU that has it, else fp32.

    AMD's GPUs have it, and NVIDIA's from compute capability 8.0 on; older ones only emulate bf16.
    torch's `is_bf16_supported` tells of the current device alone. A GPU that does not answer counts
    as one without.
    """
    if device.type != "cuda":
        return "fp32"
    try:
        has = bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    except (AssertionError, RuntimeError):  # the first for a GPU that only NVIDIA's driver counts
        return "fp32"
    return "bf16" if has else "fp32"


def autocast(
    device: torch.device, precision: Precision | Literal["auto", "fp16"]
) -> torch.autocast:
    """A context in which a network of float32 weights computes in this precision."""
    chosen = precision_of(device) if precision == "auto" else precision
    dtype = torch.float16 if chosen == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=chosen != "fp32")


def memory_format(device: torch.device) -> torch.memory_format:
    """The memory format for convolutions: channels last on a GPU, for its tensor cores.

    A CPU keeps the default, because channels last gained nothing there (results/LOG.md).
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def use_fast_kernels(device: torch.device) -> None:
    """Let a GPU multiply float32 in TF32, with 10 bits of mantissa, as cuDNN does by default."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
