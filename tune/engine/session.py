"""Starts Ray for a search, closed to others, or joins a cluster; and ends what it started."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from core.errors import ResourceError
from core.files import reason_of, write_once
from core.text import first_line
from tune import processes
from tune.engine import cgroups, scratch
from tune.engine.interruption import (
    ended_with_ray,
    ended_with_the_driver,
    own_handler_of_sigterm,
)
from tune.engine.loopback import on_loopback
from tune.engine.resources import Machine, Node


@contextlib.contextmanager
def ray_session(machine: Machine) -> Iterator[Path]:
    """Run Ray for the time of the block, or join the cluster at the machine's address.

    Yields a temporary folder. At the end of the block the folder is removed, and the processes that
    were started are ended. Raises ResourceError if TMPDIR or Ray's token cannot be used.
    """
    if machine.address is not None:
        packages = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "core")]
        with scratch.folder() as folder:
            try:
                with own_handler_of_sigterm():
                    ray.init(
                        machine.address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        runtime_env={"py_modules": packages},
                    )
                yield folder
            finally:
                ray.shutdown()
        return
    (node,) = machine.nodes
    _make_token()
    with (
        scratch.folder() as folder,
        processes.marked() as started,
        ended_with_the_driver(started, folder),
    ):
        try:
            with (
                on_loopback(),
                # A short path, as Ray's sockets need, in a folder that is removed at the end.
                processes.environment_variables(
                    {"TMPDIR": str(folder), **_memory_of_workers(node)}
                ),
                processes.deaf_to_sigterm(),
                own_handler_of_sigterm(),
            ):
                ray.init(
                    "local",  # without it Ray would join a cluster that RAY_ADDRESS names
                    num_cpus=node.cpus,
                    num_gpus=node.gpus,
                    object_store_memory=_object_store_bytes(node.memory),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder / "ray"),
                )
            with ended_with_ray(started):
                yield folder
        finally:
            with processes.ended_when_asked(started):
                ray.shutdown()
            started.end()


def _memory_of_workers(node: Node) -> dict[str, str]:
    """Environment variables that let workers keep freed memory, on a node without a GPU.

    Otherwise each step gives its tensors' memory back to the kernel and asks for it again, page by
    page, which takes a ninth of the processor time at 800 pixels. The price is an eighth more
    memory (docs/performance.md). Variables that the user has set stay.
    """
    wanted = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}  # read by glibc
    return {} if node.gpus else {n: value for n, value in wanted.items() if n not in os.environ}


def _object_store_bytes(memory: int) -> int | None:
    """Bytes for Ray's object store; None to let Ray decide.

    memory   bytes that the search may use; 0 if that is not known

    By itself Ray takes three tenths of the memory that it finds, but it reads the limit of one
    control group only, and not those of the groups above it.
    """
    if not memory or memory >= cgroups.memory_of_the_machine():
        return None
    return max(_LEAST_STORE, min(int(0.3 * memory), _MOST_STORE))


_LEAST_STORE, _MOST_STORE = 80 * 2**20, 10**10
"""Bounds, in bytes, on the size of the object store. Ray refuses less than 75 MB, and more than
10 GB if /dev/shm is smaller."""


def _make_token() -> None:
    """Make the token that Ray's processes demand of every connection; only this user can read it.

    Ray demands a token unless RAY_AUTH_MODE says otherwise; a token that Ray makes can be read by
    all. If no home folder can keep the token, it is in this process's environment only. Raises
    ResourceError if RAY_AUTH_TOKEN_PATH names a file that cannot be written.
    """
    if "RAY_AUTH_TOKEN" in os.environ:
        return
    chosen = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(chosen) if chosen else Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_once(path, secrets.token_hex(32).encode())
        path.chmod(0o600)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home at all
        if chosen:
            raise ResourceError(
                "RAY_AUTH_TOKEN_PATH must name a file that Ray's token can be kept in, and"
                f" {chosen} cannot be written"
                f" ({reason_of(error)}); name another, or unset it"
            ) from None
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def cluster_at(address: str) -> Machine:
    """The living nodes of the Ray cluster at an address.

    Raises ResourceError if none answers, and for `ray://`, because the search would then not run on
    a node of the cluster, on which it keeps the trials' files.
    """
    if address.startswith("ray://"):
        raise ResourceError(
            "--address must be auto or HOST:PORT of a cluster whose node runs on this machine, and"
            f" is {address!r}; from outside a cluster give: ray job submit --address"
            " http://HOST:8265 --working-dir . -- python -m tune.search ... --address auto"
        )
    try:
        with own_handler_of_sigterm():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"--address: no Ray cluster answers at {address!r}: {first_line(error)}"
        ) from None
    else:
        return machine_now(address)
    finally:
        ray.shutdown()


def machine_now(address: str) -> Machine:
    """The living nodes of the cluster that this process has joined, in a fixed order.

    address   the address at which it was joined
    """
    found = [node["Resources"] for node in living_nodes()]
    return Machine(
        tuple(Node(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in found), address
    )


def living_nodes() -> list[dict[str, Any]]:
    """Ray's descriptions of the nodes of the cluster that are alive, in a fixed order."""
    return sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
