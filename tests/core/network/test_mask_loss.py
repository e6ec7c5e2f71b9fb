"""Laws of the mask branch's loss: autograd through all proposals at once is the oracle."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from core.network import mask_loss

CLASSES = 3


def branch(seed: int, norm: bool = False) -> nn.Module:
    """A small one: a convolution, maybe batch norm, and an upsampling to logits of CLASSES + 1
    classes.
    """
    torch.manual_seed(seed)
    first: list[nn.Module] = [nn.Conv2d(4, 6, 3, padding=1)]
    first += [nn.BatchNorm2d(6)] if norm else []
    return nn.Sequential(*first, nn.ReLU(), nn.ConvTranspose2d(6, CLASSES + 1, 2, 2)).double()


def proposals(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [P, 4, 5, 5], classes 1..CLASSES, wanted masks [P, 10, 10]."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((count, 4, 5, 5), generator=generator, dtype=torch.float64)
    labels = torch.randint(1, CLASSES + 1, (count,), generator=generator)
    return features, labels, torch.rand((count, 10, 10), generator=generator, dtype=torch.float64)


def plain(
    network: nn.Module, features: torch.Tensor, labels: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """The definition."""
    logits = network(features)
    return functional.binary_cross_entropy_with_logits(
        logits[torch.arange(len(labels)), labels], wanted
    )


def both(
    network: nn.Module,
    features: torch.Tensor,
    labels: torch.Tensor,
    wanted: torch.Tensor,
    outer: float = 1.0,
) -> list[tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Loss, the gradients there are, and the state after it: ours and the definition's."""
    found = []
    for loss_of in (mask_loss.mask_loss, plain):
        twin, inputs = (
            copy.deepcopy(network),
            features.detach().clone().requires_grad_(features.requires_grad),
        )
        loss = loss_of(twin, inputs, labels, wanted)
        if loss.requires_grad:
            (outer * loss).backward()
        gradients = {
            name: one.grad for name, one in [("features", inputs), *twin.named_parameters()]
        }
        found.append(
            (
                loss.detach(),
                {k: v for k, v in gradients.items() if v is not None},
                dict(twin.state_dict()),
            )
        )
    return found


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 9),
    at_once=st.sampled_from([1, 2, 4, 100]),
    outer=st.sampled_from([1.0, 0.25, -3.0]),
    norm=st.booleans(),
    features_learn=st.booleans(),
    frozen=st.sampled_from([0, 1, 2, 99]),
)
@settings(deadline=None, max_examples=60)
def test_loss_and_gradients_are_those_of_all_proposals_at_once(
    seed: int, count: int, at_once: int, outer: float, norm: bool, features_learn: bool, frozen: int
) -> None:
    network = branch(seed, norm)
    for parameter in list(network.parameters())[:frozen]:
        parameter.requires_grad_(False)
    features, labels, wanted = proposals(seed, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_loss, "CELLS_AT_ONCE", 25 * at_once)
        ours, theirs = both(network, features.requires_grad_(features_learn), labels, wanted, outer)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
def test_without_a_proposal_the_loss_is_zero_and_so_is_each_gradient_which_is_not_the_same_as_none(
    norm: bool,
) -> None:
    network = branch(0, norm)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    features, labels, wanted = proposals(0, 0)
    loss = mask_loss.mask_loss(network, features.requires_grad_(), labels, wanted)
    (3 * loss).backward()
    assert loss == 0
    for tensor in (features, *network.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@given(seed=st.integers(0, 1000), weights=st.lists(st.booleans(), min_size=1, max_size=9))
@settings(deadline=None, max_examples=30)
def test_a_proposal_without_weight_counts_for_nothing(seed: int, weights: list[bool]) -> None:
    network = branch(seed)
    weight = torch.tensor(weights)
    features, labels, wanted = proposals(seed, len(weights))
    found = []
    for some, counts in ((slice(None), weight.double()), (weight, None)):
        twin, inputs = copy.deepcopy(network), features.clone().requires_grad_()
        loss = mask_loss.mask_loss(twin, inputs[some], labels[some], wanted[some], counts)
        loss.backward()
        gradients = [one.grad for one in twin.parameters()]
        found.append((loss.detach(), inputs.grad[weight], gradients))
        assert not inputs.grad[~weight].any()
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("outer", [1.0, 1024.0, 3.0])
def test_the_scale_of_the_losses_changes_no_gradient(outer: float) -> None:
    """It multiplies what is computed inside of the branch alone."""
    network, inside = branch(0), []
    features, labels, wanted = proposals(0, 70)
    found = []
    for scale in (None, torch.tensor(1024.0, dtype=torch.float64)):
        twin, inputs = copy.deepcopy(network), features.clone().requires_grad_()
        twin[0].register_full_backward_hook(lambda *given: inside.append(given[2][0].norm()))
        loss = mask_loss.mask_loss(twin, inputs, labels, wanted, None, scale)
        (outer * loss).backward()
        gradients = [one.grad for one in twin.parameters()]
        found.append((loss.detach(), inputs.grad, gradients))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    pieces = len(inside) // 2
    assert inside[pieces] == pytest.approx(1024 * inside[0])


def test_batch_norm_sees_all_proposals_once() -> None:
    network = branch(0, norm=True)
    features, labels, wanted = proposals(0, 2 * mask_loss.CELLS_AT_ONCE // 25 + 1)
    ours, theirs = both(network, features.requires_grad_(), labels, wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert ours[2]["1.num_batches_tracked"] == 1


def test_no_activation_outlives_its_piece() -> None:
    network = branch(0)
    features, labels, wanted = proposals(0, 4 * mask_loss.CELLS_AT_ONCE // 25)
    held: list[torch.Size] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        mask_loss.mask_loss(network, features.requires_grad_(), labels, wanted)
    assert held, "the branch keeps activations for a gradient"
    assert all(shape[:1] != (len(labels),) for shape in held)


def test_without_gradients_it_is_the_same_number() -> None:
    network = branch(0)
    features, labels, wanted = proposals(0, 70)
    wanted_loss = plain(network, features, labels, wanted)
    with torch.no_grad():
        torch.testing.assert_close(
            mask_loss.mask_loss(network, features, labels, wanted), wanted_loss.detach()
        )


def test_under_autocast_loss_and_gradients_of_parameters_are_float32() -> None:
    network = branch(0).float()
    features, labels, wanted = proposals(0, 70)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mask_loss.mask_loss(
            network, features.float().requires_grad_(), labels, wanted.float()
        )
    loss.backward()
    assert loss.dtype == torch.float32
    exact = plain(network, features.float(), labels, wanted.float())
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
    for parameter, gradient in zip(
        network.parameters(), torch.autograd.grad(exact, list(network.parameters())), strict=True
    ):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert (
            functional.cosine_similarity(parameter.grad.flatten(), gradient.flatten(), dim=0)
            > 0.999
        )


def test_without_gradients_none_is_computed() -> None:
    network = branch(0)
    features, labels, wanted = proposals(0, 70)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", None)
        assert not mask_loss.mask_loss(
            network, features.requires_grad_(), labels, wanted
        ).requires_grad


def test_a_second_backward_pass_is_refused_and_not_answered_with_numbers_that_were_used() -> None:
    network = branch(0)
    features, labels, wanted = proposals(0, 70)
    loss = 3 * mask_loss.mask_loss(network, features.requires_grad_(), labels, wanted)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="this is the second"):
        loss.backward()
