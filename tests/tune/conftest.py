"""The databases in which the laws of a ledger are tried."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgresql import Server, connections_closed


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a ledger that holds no study."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'study.db'}"
        return
    server: Server = request.getfixturevalue("postgresql")
    with connections_closed():
        yield server.url(server.create(server.empty_ledger))
