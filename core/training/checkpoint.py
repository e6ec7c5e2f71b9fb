"""A checkpoint: named tensors and a JSON state in one safetensors file, without any pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from core.errors import CheckpointError, TornCheckpoint
from core.files import parse_json, reason_of, write_atomically


def save_checkpoint(
    path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]
) -> None:
    """Write `tensors`, from any device, and `state`, any JSON without NaN, to `path`.

    The file is written whole or not at all. Raises OSError where the disk refuses.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"state": json.dumps(state, allow_nan=False)}
    write_atomically(path, safetensors.torch.save(on_cpu, metadata))


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the state that `save_checkpoint` wrote to `path`.

    Raises CheckpointError for a file that cannot be read, and TornCheckpoint, a kind of it, for one
    that is damaged or gone.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: what is read must outlive the file, which a later checkpoint replaces.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise TornCheckpoint(f"{path}: there is no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from None
    except safetensors.SafetensorError as error:
        raise TornCheckpoint(
            f"{path} is torn or is no checkpoint ({error}); remove it to begin anew"
        ) from None
    try:
        state = parse_json(metadata["state"])
    except (KeyError, ValueError):
        raise TornCheckpoint(
            f"{path} is a safetensors file without a trial's state, not a checkpoint; remove it to"
            " begin anew"
        ) from None
    return tensors, state
