"""What holds for every test file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgresql import Server

# How long an example takes says how busy the machine is, and nothing of the law.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

HERE = Path(__file__).parent
LONGEST = (
    "tune/test_clusters.py",
    "tune/test_kills.py",
    "tune/test_signals.py",
    "tune/test_preemption.py",
    "tune/test_failing_trials.py",
    "tune/test_full_disks.py",
    "tune/test_locked_ledger.py",
    "tune/tracking/test_mlflow_away.py",
    "end_to_end/test_retrain_command.py",
    "end_to_end/test_search_command.py",
    "extensions/test_toy_study.py",
    "tune/study/test_conductor.py",
    "tune/study/test_confirmation.py",
    "tune/report/test_report_replay.py",
    "tune/ledger/test_ledger.py",
    "core/network/test_mask_rcnn.py",
    "tune/engine/test_rehearsal.py",
    "tune/report/test_content.py",
    "tune/study/test_learned.py",
)
"""The files that take longest, each 40 s or more where three run at once on two processors."""


@pytest.fixture
def narrow() -> Iterator[None]:
    """Build detectors with few channels; see `tests.core.narrow`."""
    from tests.core.narrow import narrowed  # imports torch, which most tests do without

    with narrowed():
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL of this session; where it is not installed, the test is skipped."""
    server = Server()
    yield server
    server.remove()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first.

    Files are dealt out to the processes in this order. So no process has a long one left when the
    others are done.
    """
    places = {HERE / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
