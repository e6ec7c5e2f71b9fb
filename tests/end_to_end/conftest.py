"""The browser that the tests of pages share."""

from collections.abc import Iterator

import pytest

from tests.browser import Browser, opened


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a process; each opens its pages in it."""
    with opened() as browser:
        yield browser
