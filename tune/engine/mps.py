"""NVIDIA's Multi-Process Service: with it, trials that share a GPU compute at the same time.

Without it, processes on one GPU take turns (time-slicing): each has the GPU for a slice of time,
however little of the GPU it uses. The service comes with NVIDIA's driver. Its clients find it by
an environment variable that names its folder, which the processes of a study inherit. No setting of
the GPU is touched.

    with mps.service("auto") as service:    # started, and tried by a client
        service.runs                        # whether processes that start now compute through it
        service.why                         # the reason, one sentence for the user
        with service.without(): ...         # processes that start here take turns
        service.give_up("it gained nothing")

An error of one client on the GPU, by NVIDIA's documentation, is reported to all clients on that
GPU, without saying whose it is. None of them can compute again, and no new client is served until
all of them have ended. Then the service goes on by itself.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Literal

import torch

from core.errors import ResourceError
from core.files import reason_of
from core.values import as_duration
from tune.engine import scratch
from tune.processes import MARK, deaf_to_sigterm, environment_variables, is_running

PROGRAM = "nvidia-cuda-mps-control"
"""NVIDIA's program that starts the service, queries it and stops it."""
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
"""The environment variables that name the folders of the service's sockets and of its logs."""
MACHINE_WIDE = Path("/tmp/nvidia-mps")
"""The folder in which a client looks for the service if PIPES is not set."""
SERVICE_START_SECONDS, SERVICE_END_SECONDS = 30, 30
"""Seconds that the start of the service may take, and its end."""
ANSWER_SECONDS = 10
"""Seconds that the service may take to answer a question."""
CLIENT_SECONDS = 60
"""Seconds that the first client may take, the import of torch included."""
CLIENT = (
    sys.executable,
    "-c",
    """
import torch
if not torch.cuda.is_available():
    raise SystemExit("torch finds no GPU")
for number in range(torch.cuda.device_count()):
    matrix = torch.ones(64, 64, device=f"cuda:{number}")
    if float((matrix @ matrix).sum()) != 64.0**3:
        raise SystemExit(f"GPU {number} multiplies wrongly")
""",
)
"""The command of a process that multiplies matrices on each GPU; its exit status is 0 if it could.
"""
_KILLED_SECONDS = 5
"""Seconds to wait for the end of a killed process; one that hangs in NVIDIA's driver never ends."""
_NAME = PROGRAM[:15]
"""The name, as the kernel shortens it, of the control program and of the servers that it starts."""
_END_WHEN_ORPHANED = f"""trap '' TERM
read -r _
echo "quit -t 5" | timeout -s KILL 10 {PROGRAM} >/dev/null 2>&1
[ -e "$1/{PROGRAM}.pid" ] && sleep 1
for process in /proc/[0-9]*; do
  read -r name <"$process/comm" && [ "$name" = {_NAME} ] &&
    grep -qzxF "{PIPES}=$1" "$process/environ" && kill -KILL "${{process#/proc/}}"
done 2>/dev/null
rm -rf "$1"
"""
"""A shell script that stops the service of the folder that is its argument, and removes the folder.

It first waits until its standard input is closed, which also happens when the process that holds
the other end dies. It kills what does not stop."""
_TOGETHER = "Trials that share a GPU compute at the same time, by NVIDIA's Multi-Process Service"
_TURNS = "Trials that share a GPU take turns"


class Service:
    """The service as the processes of one study find it, or the reason why they do without it.

    runs   whether processes that start now and share a GPU compute at the same time
    why    one sentence for the user: whether they do, and the reason if not
    """

    def __init__(
        self,
        runs: bool,
        why: str,
        held: ExitStack | None = None,
        ours: Path | None = None,
        insisted: bool = False,
    ) -> None:
        """Describe a service that has been found or started, or the lack of one.

        held       the stack that ends what was started for it; `close` closes the stack
        ours       folder of a service that this process started; None for another's, or none
        insisted   whether the request requires the service (`resources.mps` true)
        """
        self.runs, self.why = runs, why
        self._held, self._ours, self._insisted = held or ExitStack(), ours, insisted

    def without(self) -> AbstractContextManager[None]:
        """Let processes that start inside the block find no service, so that they take turns."""
        return _hidden()

    def give_up(self, reason: str) -> None:
        """Let trials take turns from now on, and stop the service if it is ours.

        reason   the end of the sentence that becomes `why`

        Does nothing if the request requires the service (`resources.mps` true).
        """
        if self.runs and not self._insisted:
            self.close()
            self.why = f"{_TURNS}: {reason}"
            _hide_what_is_there(self._held)

    @property
    def has_died(self) -> bool:
        """Whether the control program of our own service has ended; one that hangs has not."""
        if self._ours is None or not self.runs:
            return False
        with contextlib.suppress(OSError, ValueError):
            return not is_running(_process_of(self._ours))
        return False

    def mend(self) -> None:
        """Restart our service if its control program has died or does not answer any more.

        Otherwise there is nothing to do: after an error on the GPU the service goes on by itself
        when all clients that saw the error have ended. Another's service is left as it is.
        """
        if self._ours is None or not self.runs:
            return
        try:
            _ask("get_server_list", self._ours)
        except ResourceError:
            pass
        except OSError:  # there was no disk space for the answer: nothing is known of the service
            return
        else:
            return
        with contextlib.suppress(OSError, ValueError):
            os.kill(_process_of(self._ours), signal.SIGKILL)
        with contextlib.suppress(ResourceError, OSError):
            for left in self._ours.iterdir():
                if left.name != scratch.LOCK:
                    left.unlink(missing_ok=True)
            _start(self._ours)

    def close(self) -> None:
        """Stop what was started, and let new processes find whatever service was there before."""
        self.runs = False
        self._held.close()


def turns(reason: str) -> Service:
    """A `Service` that does not run; `reason` is the end of its sentence `why`."""
    return Service(False, f"{_TURNS}: {reason}")


@contextlib.contextmanager
def service(wanted: bool | Literal["auto"], alive: Callable[[], object] = int) -> Iterator[Service]:
    """Find or start the service for all processes that start inside the block and use a GPU.

    wanted   `resources.mps`. If the service cannot be used, auto goes on without it, and true
             raises ResourceError with the reason; false looks for none
    alive    called between the steps of the start, which together may take minutes; what it raises
             ends the start

    A service that runs already is used, and left running. Ours ends with the block, also if this
    process is killed. No step waits longer than the limits above. A service that hangs, was left
    over by a dead process, belongs to another user, or is not reached by its clients is passed
    over, and `why` says so.
    """
    if wanted is False:
        yield turns("resources.mps is false")
        return
    found = _usable(wanted is True, alive)
    try:
        yield found
    finally:
        found.close()


def stay_outside() -> None:
    """Open CUDA in this process without the service, so that it never becomes a client.

    After an error on the GPU the service serves nobody until all its clients have ended, and the
    driver of a study does not end; another user's service would make it wait. So a driver calls
    this before it asks anything of a GPU.
    """
    with ExitStack() as hiding:
        _hide_what_is_there(hiding)
        if torch.cuda.is_available():  # which may ask NVIDIA's driver without opening CUDA
            with contextlib.suppress(AssertionError, RuntimeError):
                torch.cuda.init()  # type: ignore[no-untyped-call]


def check_service() -> None:
    """Raise ResourceError if no service runs and the program that starts one is missing."""
    if not is_there() and shutil.which(PROGRAM) is None:
        raise ResourceError(
            f"resources.mps true needs NVIDIA's {PROGRAM}, which is not on the PATH; install it (it"
            " comes with the driver, on Debian and Ubuntu in nvidia-compute-utils), or leave"
            " resources.mps out"
        )


def check_client() -> None:
    """Raise ResourceError unless a new process computes on each GPU through the service.

    The error's text is the bare reason, to be put into a sentence.
    """
    try:
        _output(CLIENT, CLIENT_SECONDS)
    except ResourceError as error:
        raise ResourceError(f"no process could compute by it ({error})") from None
    if shutil.which(PROGRAM) and not _ask("get_server_list", _place()).split():
        raise ResourceError(
            "a process computed and did not reach it, so trials would take turns in silence (a"
            " container needs the host's IPC namespace)"
        )


def _usable(insisted: bool, alive: Callable[[], object]) -> Service:
    """The first service through which a client computes: one that runs already, or else ours.

    insisted   whether the request requires the service
    alive      see `service`

    Raises ResourceError if there is none and the request requires it.
    """
    stay_outside()
    ways: list[Callable[[], AbstractContextManager[Path | None]]] = [_ours]
    if is_there():
        ways.insert(0, _anothers)
    reasons: list[str] = []
    for way in ways:
        alive()
        with ExitStack() as begun:
            try:
                ours = begun.enter_context(way())
                alive()
                check_client()
            except ResourceError as error:
                whose = f"the service in {_place()}: " if way is _anothers else ""
                reasons.append(f"{whose}{error}")
                continue
            where = f", which runs in {_place()}" if ours is None else ""
            passed_over = f" ({'; '.join(reasons)})" if reasons else ""
            why = f"{_TOGETHER}{where}{passed_over}"
            return Service(True, why, begun.pop_all(), ours, insisted)
    alive()
    if insisted:
        raise ResourceError(
            f"resources.mps true needs NVIDIA's Multi-Process Service: {'; '.join(reasons)}; leave"
            " resources.mps out, and trials take turns where it cannot be used"
        )
    hiding = ExitStack()
    _hide_what_is_there(hiding)
    return Service(False, f"{_TURNS}: {'; '.join(reasons)}", hiding)


@contextlib.contextmanager
def _hidden() -> Iterator[None]:
    """Let processes that start inside the block look for the service in an empty folder."""
    with scratch.folder() as folder, environment_variables({PIPES: str(folder)}):
        yield


def _hide_what_is_there(held: ExitStack) -> None:
    """Let new processes find no service that runs already, until `held` is closed."""
    if is_there():
        held.enter_context(_hidden())


@contextlib.contextmanager
def _anothers() -> Iterator[None]:
    """Use a service that runs already. Raises ResourceError if it does not answer."""
    if shutil.which(PROGRAM):
        _ask("get_server_list", _place())
    yield


@contextlib.contextmanager
def _ours() -> Iterator[Path]:
    """Start a service for the time of the block; yields its folder.

    Raises ResourceError if it does not start.
    """
    if shutil.which(PROGRAM) is None:
        raise ResourceError(f"{PROGRAM} is not on the PATH")
    with (
        scratch.folder() as folder,
        _ended_with_this_process(folder),
        environment_variables({PIPES: str(folder), LOGS: str(folder)}),
    ):
        _start(folder)
        yield folder


def _place() -> Path:
    """The folder in which a client that starts now looks for the service."""
    return Path(os.environ.get(PIPES) or MACHINE_WIDE)


def is_there() -> bool:
    """Whether a client that starts now finds a service's socket, perhaps that of a dead one."""
    # Not Path.exists, which raises where another user's folder is closed.
    return os.path.exists(_place() / "control")  # noqa: PTH110


def _process_of(folder: Path) -> int:
    """The id of the control program of a folder's service.

    Raises OSError or ValueError if the file that holds it is missing or damaged.
    """
    return int((folder / f"{PROGRAM}.pid").read_text())


def _start(folder: Path) -> None:
    """Start the service in a folder. Raises ResourceError, which quotes the program's output."""
    try:
        _output((PROGRAM, "-d"), SERVICE_START_SECONDS, environment=_of_program(folder), stays=True)
    except ResourceError as error:
        raise ResourceError(f"{PROGRAM} did not start ({error})") from None
    _ask("get_server_list", folder)


def _ask(question: str, folder: Path) -> str:
    """The answer of the service in a folder to a command of its control program.

    Raises ResourceError if none comes within ANSWER_SECONDS.
    """
    try:
        return _output((PROGRAM,), ANSWER_SECONDS, f"{question}\n", _of_program(folder))
    except ResourceError as error:
        raise ResourceError(f"{PROGRAM} gets no answer ({error})") from None


def _of_program(folder: Path) -> dict[str, str]:
    """The environment variables with which NVIDIA's program manages the service of a folder."""
    environment = {**os.environ, PIPES: str(folder), LOGS: str(folder)}
    environment.pop(MARK, None)  # the service outlives the Ray session in which it is mended
    if not environment.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-")):
        # A client counts only the GPUs that the service sees, so the service sees all of them and
        # each client chooses its own. Names of GPUs mean the same to both.
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    return environment


def _output(
    command: Sequence[str],
    seconds: float,
    typed: str = "",
    environment: Mapping[str, str] | None = None,
    stays: bool = False,
) -> str:
    """Run a command, and return its output, standard error included.

    seconds       limit after which the command is killed
    typed         text for its standard input
    environment   its environment variables; None for those of this process
    stays         whether it, and all that it starts, block SIGTERM

    Raises ResourceError if the command fails, with its last line of output, or takes too long.
    """
    # A daemon that it starts would keep a pipe open, and `communicate` would wait for its end.
    with tempfile.TemporaryFile() as output:
        try:
            with deaf_to_sigterm() if stays else nullcontext():
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise ResourceError(reason_of(error)) from None
        try:
            process.communicate(typed.encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            raise ResourceError(f"no end within {as_duration(seconds)}") from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_KILLED_SECONDS)
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if process.returncode:
        last = said.splitlines()[-1][:300] if said else f"exit status {process.returncode}"
        raise ResourceError(last)
    return said


@contextlib.contextmanager
def _ended_with_this_process(folder: Path) -> Iterator[None]:
    """Stop the service of this folder when the block is left or this process dies.

    A shell waits for either. Workers need the service until their epochs have ended, so shell and
    service have sessions of their own, which Ctrl-C does not reach, and block SIGTERM, which a
    scheduler that ends a job sends to all its processes.
    """
    with deaf_to_sigterm():
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", _END_WHEN_ORPHANED, "sh", str(folder)], env=_of_program(folder),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            watcher.wait(SERVICE_END_SECONDS)
