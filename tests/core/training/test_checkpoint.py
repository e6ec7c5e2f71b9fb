"""Laws of checkpoint files."""

import json
import math
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import CheckpointError
from core.training import checkpoint

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES), st.booleans()),
        max_size=5,
    ),
    st.dictionaries(st.text(), JSON, max_size=4),
)
def test_what_is_loaded_is_what_was_saved(
    layouts: dict[str, tuple[list[int], torch.dtype, bool]], state: dict[str, Any]
) -> None:
    tensors = {}
    for name, (shape, dtype, transposed) in layouts.items():
        tensor = torch.randint(0, 100, shape).to(dtype)
        tensors[name] = tensor.mT if transposed and tensor.ndim >= 2 else tensor
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.safetensors"
        checkpoint.save_checkpoint(path, tensors, state)
        assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]
        loaded, loaded_state = checkpoint.load_checkpoint(path)
    assert loaded_state == state
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


def test_what_is_loaded_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save_checkpoint(path, {"a": torch.arange(1000)}, {})
    loaded, _ = checkpoint.load_checkpoint(path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    path.unlink()
    torch.testing.assert_close(loaded["a"], torch.arange(1000))


def test_a_parameter_is_saved_without_its_gradient_and_as_it_was_at_that_moment(
    tmp_path: Path,
) -> None:
    path, parameter = tmp_path / "last.safetensors", torch.nn.Parameter(torch.ones(3))
    checkpoint.save_checkpoint(path, {"a": parameter}, {})
    torch.nn.init.zeros_(parameter)
    loaded, _ = checkpoint.load_checkpoint(path)
    assert not loaded["a"].requires_grad
    torch.testing.assert_close(loaded["a"], torch.ones(3))


@given(st.data())
def test_a_file_cut_off_anywhere_is_refused_by_name(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.safetensors"
        checkpoint.save_checkpoint(path, {"a": torch.arange(40), "b": torch.ones(3)}, {"epoch": 3})
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(CheckpointError, match=r"last\.safetensors is torn or is no checkpoint"):
            checkpoint.load_checkpoint(path)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    path, ran = tmp_path / "last.safetensors", tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="is torn or is no checkpoint"):
        checkpoint.load_checkpoint(path)
    torch.save({"a": Bomb()}, path)
    with pytest.raises(CheckpointError, match="is torn or is no checkpoint"):
        checkpoint.load_checkpoint(path)
    assert not ran.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"state": "{"}])
def test_tensors_without_a_state_are_no_checkpoint(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors .* not a checkpoint"):
        checkpoint.load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.safetensors: there is no such checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "last.safetensors")


def test_a_state_that_json_cannot_hold_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save_checkpoint(path, {"a": torch.ones(1)}, {"epoch": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        checkpoint.save_checkpoint(path, {"a": torch.zeros(1)}, {"ap50": math.nan})
    loaded, state = checkpoint.load_checkpoint(path)
    assert (loaded["a"].item(), state) == (1, {"epoch": 1})


def test_the_state_can_be_read_without_this_project(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save_checkpoint(path, {"a": torch.ones(1)}, {"epoch": 1})
    header = path.read_bytes()[8:].split(b"}}")[0]
    assert b'"state"' in header
    with safetensors.safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["state"]) == {"epoch": 1}
