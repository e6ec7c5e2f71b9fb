"""The device on which a model computes: CPU or GPU."""

import re
from typing import Literal

import torch

from core.config import Precision
from core.errors import ResourceError

MOST_THREADS = 256
"""Largest number of threads: more are a typing error, and starting them would end the process."""

CONTEXT_BYTES = 2**29
"""Bytes of a GPU that CUDA takes for a process before the process can ask how much is free."""
_LIBRARIES_MISSING = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def resolve_device(name: str) -> torch.device:
    """The device of a name: auto (the first GPU that torch sees, or else the CPU), cpu, cuda or
    cuda:N.

    Raises ResourceError for another name, and for a GPU that is not there.
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
            f"the device {name} is not there: torch sees {found} GPUs; use auto or cpu"
        )
    return torch.device(name)


def limit_memory(device: torch.device, share: float) -> None:
    """Limit this process to a fraction `share`, in (0, 1], of a GPU's memory; on a CPU there is
    no limit.

    A trial that needs more then runs out of memory itself, and the trials beside it do not. A share
    below 1 holds what CUDA takes beside torch's allocator too; the allocator gets half of it at
    least.
    """
    if device.type == "cuda":
        if share < 1:
            total = torch.cuda.get_device_properties(device).total_memory
            share = max(share - CONTEXT_BYTES / total, share / 2)
        torch.cuda.set_per_process_memory_fraction(share, device)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a GPU's memory was missing: torch's allocator says so in its own
    words, CUDA and its libraries, for what they need themselves, in others.
    """
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or (isinstance(error, torch.AcceleratorError) and "out of memory" in said)
        or (isinstance(error, RuntimeError) and any(words in said for words in _LIBRARIES_MISSING))
    )


def precision_of(device: torch.device) -> Precision:
    """The precision that `optim.precision: auto` is on a device: bf16 on a GPU that computes in
    it, else fp32.

    These are AMD's GPUs and NVIDIA's from compute capability 8.0 on; older ones only emulate bf16.
    torch's own question, `is_bf16_supported`, is of the current device alone. A GPU that does not
    answer counts as one without.
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
    """A block in which a network computes in this precision, its weights being float32."""
    chosen = precision_of(device) if precision == "auto" else precision
    dtype = torch.float16 if chosen == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=chosen != "fp32")


def memory_format(device: torch.device) -> torch.memory_format:
    """The memory format for convolutions: channels last on a GPU, whose tensor cores read it.

    A CPU keeps the default, because channels last gained nothing there (results/LOG.md).
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def use_fast_kernels(device: torch.device) -> None:
    """Let a GPU multiply float32 matrices in TF32 (10 bits of mantissa), as cuDNN's convolutions
    do by default.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
