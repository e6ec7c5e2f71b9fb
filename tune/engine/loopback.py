"""Ray on the loopback interface: what it starts cannot be reached from another computer."""

import contextlib
from collections.abc import Iterator

from ray._private import ray_constants

_SWITCH = "ENABLE_RAY_CLUSTER"


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Have a Ray that is started inside take loopback for its address, and so for that of all its processes.

    Ray does so by itself on macOS and Windows, where it expects no cluster. On Linux it listens on every address, and
    replaces a 127.0.0.1 that it is given by the host's own. Its variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER would do it
    too, but is read when Ray is first imported, by whomever, and would hold for a cluster at --address as well.

    A Ray that has no such switch any more is left as it is: it listens on every address then, and asks for the token.
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
