"""Laws of a search that ends before its time. Ray is not started: a process has its raylet's name."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, shutil, signal, subprocess, sys, threading, time
from pathlib import Path

from tune import processes
from tune.engine.interruption import ended_by_interrupt, ended_with_ray, ended_with_the_driver

folder, cause = Path(sys.argv[1]), sys.argv[2]
end = processes.Started.end

def slow_end(started):  # as on a machine that is busy
    end(started)
    if threading.current_thread() is threading.main_thread():
        time.sleep(3)

processes.Started.end = slow_end
with ended_by_interrupt(), processes.marked() as started, ended_with_the_driver(started, folder / "tmp"):
    raylet = subprocess.Popen([shutil.copy(shutil.which("sleep"), folder / "raylet"), "1000"])
    with ended_with_ray(started):
        if cause == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            raylet.kill()
        time.sleep(100)
"""


@pytest.mark.parametrize(
    ("cause", "status", "sentence"),
    [
        ("Ctrl-C", 130, "Ended at once; to continue, run the same command again\n"),
        (
            "death",
            1,
            "Ray's raylet has ended; perhaps the kernel killed it because memory ran out; what was"
            " saved is whole: run the same command again\n",
        ),
    ],
)
def test_a_search_that_ends_at_once_has_one_reason_although_ray_ends_with_it(
    cause: str, status: int, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), cause],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, sentence)
    assert not (tmp_path / "tmp").exists()
