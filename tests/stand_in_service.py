"""A stand-in for NVIDIA's Multi-Process Service: its control program, and a client of it.

The program starts, answers and ends as the real one does, with a `control` file for its socket and
a file of its process's id, and misbehaves where a test asks for it. The client reaches a service,
whose server then exists, and computes nothing.
"""

import os
import sys
from pathlib import Path

import pytest

from tune.engine import mps
from tune.engine.mps import LOGS, PIPES, PROGRAM

_PROGRAM = """#!{python} -I
import os, pathlib, signal, sys, time
folder, asked = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"]), pathlib.Path({asked!r})
held = folder / "nvidia-cuda-mps-control.pid"
if sys.argv[1:] == ["-d"]:
    if (asked / "start fails").exists():
        sys.exit("Cannot start the daemon: no GPU is there")
    if (asked / "start hangs").exists():
        time.sleep(1000)
    if held.exists():
        sys.exit("An instance of this daemon is already running")
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.read(reader, 1)
        sys.exit(0)
    os.setsid()
    held.write_text(str(os.getpid()))
    (folder / "control").touch()
    with open({witness!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{os.environ.get('CUDA_VISIBLE_DEVICES')}}\\n")
    os.write(writer, b".")
    os.close(writer)
    if (asked / "dies").exists():
        sys.exit()
    while True:
        signal.pause()
if (asked / "answers are for its owner").exists() and not (folder / ".owner").exists():
    sys.exit("Permission denied")
command = sys.stdin.read().strip()
if (asked / "hangs").exists():
    time.sleep(1000)
try:
    daemon = int(held.read_text())
    os.kill(daemon, 0)
    if pathlib.Path(f"/proc/{{daemon}}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
        raise ProcessLookupError
except (OSError, ValueError):
    sys.exit("Cannot find MPS control daemon process")
if command == "get_server_list":
    if (folder / "server").exists():
        print((folder / "server").read_text())
elif command.startswith("quit -t "):  # without -t it waits for its clients
    if not (asked / "deaf").exists():
        os.kill(daemon, signal.SIGKILL)  # in place of a word to it, by its socket
        held.unlink()
else:
    sys.exit(f"{{command}} is not a command")
"""
_CLIENT = """
import os, pathlib, sys, time
folder = pathlib.Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or {machine_wide!r})
asked = pathlib.Path({asked!r})
if (asked / "client hangs").exists() and (folder / "control").exists():
    time.sleep(1000)
if (asked / "client hangs with another's").exists() and not (folder / ".owner").exists():
    time.sleep(1000)
if (asked / "client fails").exists():
    sys.exit("CUDA error: MPS client failed to connect to the MPS control daemon or the MPS server")
if (folder / "control").exists() and not (asked / "client does not reach it").exists():
    (folder / "server").write_text("4711")
"""


class StandIn:
    """The program on the PATH, the client in place of ours, and the folder of a service that every
    client finds.

    witness        has a line for each service that was started: its process, and the GPUs it was
                   restricted to
    machine_wide   the folder in which a client looks by itself; not there at first
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.witness, self.machine_wide = folder / "services", folder / "machine-wide"
        self._asked = folder / "asked"
        self._program = folder / "programs" / PROGRAM
        self._asked.mkdir()
        self._program.parent.mkdir()
        self.witness.touch()
        places = {"asked": str(self._asked), "witness": str(self.witness)}
        self._program.write_text(_PROGRAM.format(python=sys.executable, **places))
        self._program.chmod(0o755)
        client = _CLIENT.format(machine_wide=str(self.machine_wide), **places)
        path = f"{self._program.parent}{os.pathsep}{os.environ['PATH']}"
        monkeypatch.setenv("PATH", path)
        monkeypatch.setattr(mps, "MACHINE_WIDE", self.machine_wide)
        monkeypatch.setattr(mps, "CLIENT", (sys.executable, "-I", "-c", client))
        monkeypatch.delenv(PIPES, raising=False)
        monkeypatch.delenv(LOGS, raising=False)

    def misbehave(self, how: str) -> None:
        """Misbehave from now on: a name of the script above, such as "client hangs"."""
        assert f'"{how}"' in _PROGRAM + _CLIENT
        (self._asked / how).touch()

    def behave(self) -> None:
        """Misbehave no more."""
        for one in self._asked.iterdir():
            one.unlink()

    def remove_program(self) -> None:
        """Take the program from the PATH."""
        self._program.unlink()

    @property
    def started(self) -> list[int]:
        """The processes of all services that were started."""
        return [int(line.split()[0]) for line in self.witness.read_text().splitlines()]
