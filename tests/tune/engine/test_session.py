"""Laws of the environment that a search gives its processes."""

import pytest

from tune.engine import session
from tune.engine.resources import Node


def test_without_a_gpu_processes_keep_freed_memory_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "THP_MEM_ALLOC_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    assert session._memory_of_workers(Node(2, 1)) == {}
    alone = session._memory_of_workers(Node(2, 0))
    assert int(alone["MALLOC_TRIM_THRESHOLD_"]) > 2**35
    assert alone["THP_MEM_ALLOC_ENABLE"] == "1"
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert set(alone) - set(session._memory_of_workers(Node(2, 0))) == {"MALLOC_TRIM_THRESHOLD_"}
