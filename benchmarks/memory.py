"""The most memory that this process held, and the tensors that operations make."""

import contextlib
import re
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Made(TorchDispatchMode):
    """Counts the tensors that operations make inside the block, views left out.

    tensors   their number
    bytes     of all of them
    largest   bytes of the largest
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors = self.bytes = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not func.is_view:
            self.tensors += 1
            self.bytes += made.nbytes
            self.largest = max(self.largest, made.nbytes)
        return made


def forget_the_peak() -> None:
    """Let the peak begin again from what is resident now, on Linux; importing took more for a
    moment.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that was resident so far; on Linux its own count, since getrusage begins
    with the parent's.
    """
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
