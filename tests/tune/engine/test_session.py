"""Laws of the environment that a search gives its processes."""

import pytest

from core.errors import ResourceError
from tune.engine import session
from tune.engine.resources import Node


def test_without_a_gpu_processes_keep_freed_memory_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    assert session._memory_of_workers(Node(2, 1)) == {}
    alone = session._memory_of_workers(Node(2, 0))
    assert int(alone["MALLOC_TRIM_THRESHOLD_"]) > 2**35
    assert alone["MALLOC_MMAP_MAX_"] == "0"
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert set(alone) - set(session._memory_of_workers(Node(2, 0))) == {"MALLOC_TRIM_THRESHOLD_"}


def test_a_cluster_that_is_reached_from_outside_is_refused_with_the_way_in() -> None:
    with pytest.raises(ResourceError, match=r"'ray://head:10001'.*ray job submit") as raised:
        session.cluster_at("ray://head:10001")
    assert "\n" not in str(raised.value)
