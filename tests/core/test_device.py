"""Where a model computes: what is named, if it is there."""

import pytest
import torch

from core.device import resolve
from core.errors import ResourceError


def test_auto_is_the_first_gpu_or_else_the_cpu() -> None:
    assert resolve("auto") == torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    assert resolve("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CPU", "", "mps", "cuda:01", "cpu:0 "])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ResourceError, match="must be auto, cpu, or a GPU such as cuda:0, and is"):
        resolve(name)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    name = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(
        ResourceError, match=f"{name} is not there: torch sees {torch.cuda.device_count()} GPUs"
    ):
        resolve(name)
