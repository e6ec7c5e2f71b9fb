"""Where a model computes."""

import re

import torch

from core.errors import ResourceError

MOST_THREADS = 256
"""More are a slip of the keyboard, and starting them would end the process."""


def resolve(name: str) -> torch.device:
    """The device of a name: auto (the first GPU that torch sees, or else the CPU), cpu, cuda or cuda:N.

    Raises ResourceError for another name, and for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d|[1-9]\d))?", name)
    if match is None:
        raise ResourceError(f"the device must be auto, cpu, or a GPU such as cuda:0, and is {name!r}")
    found = torch.cuda.device_count()
    if name.startswith("cuda") and int(match[1] or 0) >= found:
        raise ResourceError(f"the device {name} is not there: torch sees {found} GPUs; use auto or cpu")
    return torch.device(name)
