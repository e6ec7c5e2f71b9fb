"""Laws of frozen batch norm: torchvision's is the oracle."""

import copy
from collections.abc import Callable

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from core.network.frozen_norm import FrozenBatchNorm


def filled(seed: int, channels: int = 5, eps: float = 1e-5) -> FrozenBatchNorm:
    """One whose four buffers are drawn."""
    generator = torch.Generator().manual_seed(seed)
    norm = FrozenBatchNorm(channels, eps=eps)
    norm.weight.normal_(1, 0.3, generator=generator)
    norm.bias.normal_(0, 1, generator=generator)
    norm.running_mean.normal_(0, 1, generator=generator)
    norm.running_var.uniform_(0.5, 2, generator=generator)
    return norm


def oracle(norm: FrozenBatchNorm) -> FrozenBatchNorm2d:
    """torchvision's, with the same buffers."""
    theirs = FrozenBatchNorm2d(len(norm.weight), eps=norm.eps)
    theirs.load_state_dict(norm.state_dict())
    return theirs.to(norm.weight.dtype)


def images(seed: int = 0, channels: int = 5) -> torch.Tensor:
    return torch.randn((2, channels, 6, 7), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
def test_value_gradient_and_layout_are_torchvisions(
    eps: float, layout: torch.memory_format
) -> None:
    norm, outer = filled(1, eps=eps), images(2)
    ours, theirs = (images().contiguous(memory_format=layout).requires_grad_() for _ in range(2))
    found, wanted = norm(ours), oracle(norm)(theirs)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert found.is_contiguous(memory_format=layout)
    found.backward(outer)
    wanted.backward(outer)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)


def loaded(norm: FrozenBatchNorm) -> None:
    norm.load_state_dict(filled(9).state_dict())


def written(name: str) -> Callable[[FrozenBatchNorm], None]:
    def write(norm: FrozenBatchNorm) -> None:
        getattr(norm, name).mul_(4)

    return write


def replaced(norm: FrozenBatchNorm) -> None:
    norm.bias = norm.bias + 1


def given_another_eps(norm: FrozenBatchNorm) -> None:
    norm.eps = 0.5


BUFFERS = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.parametrize("change", [loaded, *map(written, BUFFERS), replaced, given_another_eps])
def test_a_change_of_its_numbers_counts_from_the_next_call(
    change: Callable[[FrozenBatchNorm], None],
) -> None:
    norm = filled(1)
    before = norm(images())
    change(norm)
    after = norm(images())
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, oracle(norm)(images()), rtol=1e-6, atol=1e-6)


def test_a_copy_goes_its_own_way() -> None:
    norm = filled(1)
    before = norm(images())
    twin = copy.deepcopy(norm)
    assert torch.equal(twin(images()), before)
    twin.bias.add_(1)
    torch.testing.assert_close(twin(images()), before + 1, rtol=1e-6, atol=1e-6)
    assert torch.equal(norm(images()), before)


def test_it_keeps_nothing_of_its_input_for_the_gradient() -> None:
    norm, kept = filled(1), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t
    ):
        norm(images().requires_grad_())
    assert max(kept, default=0) <= 5


def test_in_bfloat16_the_result_is_bfloat16_and_the_statistics_are_not_rounded() -> None:
    norm = filled(1)
    x = images().to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, oracle(norm)(x.detach().float()).to(torch.bfloat16))
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_its_names_are_torchvisions() -> None:
    assert filled(1).state_dict().keys() == FrozenBatchNorm2d(5).state_dict().keys()


def test_what_was_first_used_or_built_in_inference_mode_is_used_in_training_and_read_there() -> (
    None
):
    used = filled(1)
    with torch.inference_mode():
        used(images())
        built = filled(1)
        found = built(images())
    x = images().requires_grad_()
    used(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(found, used(images()))
