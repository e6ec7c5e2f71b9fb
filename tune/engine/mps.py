"""NVIDIA's Multi-Process Service: with it, trials that share a GPU compute at the same time.

Without it, processes on one GPU take turns: each has the GPU for a slice of time, however little of
the GPU it uses. The service comes with NVIDIA's driver. Its clients find it by two environment
variables that name its folder, and the processes of a study inherit them. No setting of the GPU is
touched.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.errors import ResourceError
from tune.engine import scratch
from tune.processes import variables

PROGRAM = "nvidia-cuda-mps-control"
"""NVIDIA's program that starts the service and ends it."""
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
"""The environment variables that name the folders of the service's sockets and of its logs."""
MACHINE_WIDE = Path("/tmp/nvidia-mps")
"""The folder in which a client looks for the service where PIPES is not set."""
ANSWER_SECONDS = 30
"""Seconds that the program may take to start the service or to end it."""
_END_WHEN_ORPHANED = f"""trap '' TERM
read -r _
echo "quit -t 5" | timeout -s KILL 20 {PROGRAM} >/dev/null 2>&1
test -f "$1/{PROGRAM}.pid" && kill "$(cat "$1/{PROGRAM}.pid")" 2>/dev/null
rm -rf "$1"
"""
"""A shell script that waits until its standard input is closed, or the writer of it dies; then it
ends the service and removes the service's folder, its argument."""


def check_service() -> None:
    """Raise ResourceError where no service runs and none can be started."""
    if not _runs_already() and shutil.which(PROGRAM) is None:
        raise ResourceError(
            f"resources.mps true needs NVIDIA's {PROGRAM}, which is not on the PATH; it comes with"
            " the driver (on Debian and Ubuntu in nvidia-compute-utils), or leave"
            " resources.mps out"
        )


@contextlib.contextmanager
def multi_process_service() -> Iterator[None]:
    """Run the service for all processes that start inside the block and use a GPU.

    A service that the user runs already is used as it is. Ours ends with the block, and also when
    this process is killed. Raises ResourceError, which quotes the program, where the service does
    not start.
    """
    if _runs_already():
        yield
        return
    check_service()
    with scratch.folder() as folder:
        environment = {**os.environ, PIPES: str(folder), LOGS: str(folder)}
        if not environment.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-")):
            # A client's numbers count the GPUs that the service sees. So the service sees all, and
            # clients choose.
            environment.pop("CUDA_VISIBLE_DEVICES", None)
        with _ended_with_this_process(folder, environment):
            _start(environment, folder)
            with variables({PIPES: str(folder), LOGS: str(folder)}):
                yield


def _runs_already() -> bool:
    return Path(os.environ.get(PIPES) or MACHINE_WIDE, "control").exists()


def _start(environment: Mapping[str, str], folder: Path) -> None:
    refusal = f"resources.mps true: {PROGRAM} did not start ({{}}); leave resources.mps out"
    said = folder / "said"  # a pipe would stay open in the daemon, and `run` would wait for its end
    try:
        with said.open("wb") as output:
            subprocess.run(
                [PROGRAM, "-d"], check=True, env=environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                timeout=ANSWER_SECONDS,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ResourceError(refusal.format(f"no answer in {ANSWER_SECONDS} s")) from None
    except (OSError, subprocess.CalledProcessError) as error:
        lines = said.read_text(errors="replace").strip().splitlines()
        raise ResourceError(refusal.format(lines[-1][:300] if lines else error)) from None


@contextlib.contextmanager
def _ended_with_this_process(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """End the service of this folder when the block is left or this process dies; a shell waits for
    either.

    The shell has a session of its own, so that Ctrl-C does not end it: workers need the service to
    end their epochs.
    """
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", _END_WHEN_ORPHANED, "sh", str(folder)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            watcher.wait(ANSWER_SECONDS)
