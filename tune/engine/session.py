"""Ray for the time of a search: started here or joined elsewhere, closed to others, and ended."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import ray

from core.errors import ResourceError
from core.files import write_once
from core.text import first_line
from tune import processes
from tune.engine import cgroups, scratch
from tune.engine.interruption import (
    ended_with_ray,
    ended_with_the_driver,
    our_answer_to_sigterm,
)
from tune.engine.loopback import on_loopback
from tune.engine.resources import Machine, Node


@contextlib.contextmanager
def ray_session(machine: Machine) -> Iterator[Path]:
    """Run Ray for the time of the block; its processes and its temporary folder, which is
    yielded, end with it.
    """
    if machine.address is not None:
        packages = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "core")]
        with scratch.folder() as folder:
            try:
                with our_answer_to_sigterm():
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
        processes.marked() as mark,
        ended_with_the_driver(mark, folder),
    ):
        try:
            with (
                on_loopback(),
                _temporary_files_in(folder),
                processes.deaf_to_sigterm(),
                our_answer_to_sigterm(),
            ):
                ray.init(
                    "local",  # RAY_ADDRESS may name a cluster
                    num_cpus=node.cpus,
                    num_gpus=node.gpus,
                    object_store_memory=_object_store_bytes(node.memory),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder / "ray"),
                )
            with ended_with_ray(mark):
                yield folder
        finally:
            with processes.ended_when_asked(mark):
                ray.shutdown()
            processes.end(mark)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let processes that are started inside use `folder` for temporary files: it is removed, and
    its path is short.
    """
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _object_store_bytes(memory: int) -> int | None:
    """Largest size, in bytes, of Ray's object store where `memory` bytes are allowed; None to
    leave it to Ray.

    Ray takes three tenths of the memory that it finds, but it reads one control group only, and
    none above or beneath.
    """
    if not memory or memory >= cgroups.memory_of_the_machine():
        return None
    return max(_LEAST_STORE, min(int(0.3 * memory), _MOST_STORE))


_LEAST_STORE, _MOST_STORE = 80 * 2**20, 10**10
"""Bytes: Ray refuses less than 75 MB, and more than 10 GB where /dev/shm has less."""


def _make_token() -> None:
    """Make the token that Ray asks of everyone who connects to its processes, readable by its
    owner alone.

    Ray asks for a token unless RAY_AUTH_MODE says otherwise, and would make one that all can read.
    Where there is no home folder to keep it in, the token of this process is in its environment
    only.
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
                f" ({error.strerror if isinstance(error, OSError) else error}); name another, or"
                " unset it"
            ) from None
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def cluster_at(address: str) -> Machine:
    """The nodes of the cluster at `address` that are alive."""
    try:
        with our_answer_to_sigterm():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"--address: no Ray cluster answers at {address!r}: {first_line(error)}"
        ) from None
    else:
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return Machine(
            tuple(Node(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in found), address
        )
    finally:
        ray.shutdown()
