"""The memory of activations that a network keeps for the gradient."""

import torch
from torch import nn


def kept_bytes(network: nn.Module, images: torch.Tensor) -> int:
    """Bytes that `network(images)` keeps beside its own tensors, each memory counted once."""
    tensors = [*network.parameters(), *network.buffers()]
    own = {value.untyped_storage().data_ptr() for value in tensors}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = network(images)
    assert all(output.requires_grad for output in outputs)
    return sum(storage.nbytes() for storage in kept.values())
