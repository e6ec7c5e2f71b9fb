"""What holds for every test file."""

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, and nothing of the law.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

CORE = Path(__file__).parent / "core"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files that start Ray come first.

    Files are dealt out to two processes in this order, and the many short ones of `core` fill the
    time in which one process still has a long one.
    """
    items.sort(key=lambda item: CORE in item.path.parents)
