"""Ray on the loopback interface: its processes cannot be reached from another computer."""

import contextlib
from collections.abc import Iterator

from ray._private import ray_constants

_SWITCH = "ENABLE_RAY_CLUSTER"
"""Ray's constant that says whether Ray may become a cluster, and so must be reachable."""


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts inside the block use the loopback address for all its processes.

    Ray does so by itself on macOS and Windows, where it expects no cluster. On Linux it listens on
    every address, and replaces a given 127.0.0.1 by the host's own address. Ray's variable
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER sets the same switch, but it is read when Ray is first
    imported, and would hold for a cluster at --address as well.

    A version of Ray without this switch starts as it is: it listens on every address and asks for
    the token.
    """
    before = getattr(ray_constants, _SWITCH, None)
    if before is None:
        yield
        return
    setattr(ray_constants, _SWITCH, False)
    try:
        yield
    finally:
        setattr(ray_constants, _SWITCH, before)
