"""Laws of running attempts where Ray Tune itself ends."""

import contextlib
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError

from core.errors import ProcessLost
from tune.engine import executor
from tune.engine.executor import execute
from tune.engine.resources import Machine, Node, TrialResources

MACHINE = Machine((Node(2, 0),))


def ends_with(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    class Ends:
        def __init__(self, *_: object, **__: object) -> None: ...

        def fit(self) -> None:
            raise error

    session = contextlib.nullcontext(tmp_path)
    monkeypatch.setattr(executor, "ray_session", lambda _: session)
    monkeypatch.setattr(executor.ray_tune, "Tuner", Ends)
    nothing: Any = object()
    execute(nothing, nothing, MACHINE, TrialResources(1, 0.0, 2))


def test_where_rays_memory_monitor_ends_a_running_trial_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Ray Tune survives it while a worker starts, and ends with this error in an epoch."""
    error = RuntimeError("Caught unexpected exception")
    error.__cause__ = OutOfMemoryError("2 workers were killed\nMemory on the node was 22 GB")
    with pytest.raises(ProcessLost, match=r"--parallel.* it continues$") as raised:
        ends_with(error, monkeypatch, tmp_path)
    assert "\n" not in str(raised.value)


def test_any_other_error_of_ray_tune_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with pytest.raises(RuntimeError, match="another"):
        ends_with(RuntimeError("another"), monkeypatch, tmp_path)
