"""Laws of a worker's process that is told to end. Ray is not started.

Each runs in a process of its own, because the answer to SIGTERM holds to the end of a process.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BEGIN = """
import os, signal, subprocess, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as a search starts its workers
from tune.engine.farewell import Farewell
from tune.engine.messages import ToldToEnd

def tell():
    os.kill(os.getpid(), signal.SIGTERM)

"""


def said_by(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_an_epoch_ends_in_its_grace_time_and_no_other_begins() -> None:
    assert said_by("""
farewell = Farewell(1000)
with farewell.awaited():
    tell(); tell()
    print("ended", farewell.told)
print(signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM) == signal.SIG_DFL)
try:
    with farewell.awaited():
        print("began")
except ToldToEnd as told:
    print(told)
""") == ["ended True", "(0.0, 0.0) True", "SIGTERM"]


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_an_epoch_that_does_not_end_in_time_is_given_up_whatever_it_catches(seconds: float) -> None:
    assert said_by(f"""
try:
    with Farewell({seconds}).awaited():
        try:
            tell()
            time.sleep(1000)
        except Exception:
            print("caught")
except ToldToEnd as told:
    print(told)
""") == ["SIGTERM"]


def test_a_process_that_is_told_while_it_starts_or_waits_begins_no_epoch() -> None:
    assert said_by("""
tell()  # it is blocked yet
farewell = Farewell(1000)
try:
    with farewell.awaited():
        print("began")
except ToldToEnd as told:
    print(told)
""") == ["SIGTERM"]


def test_forked_processes_outlive_a_sigterm_to_all_of_a_job() -> None:
    """An epoch needs the processes that prepare its images until it ends."""
    assert said_by("""
os.setpgid(0, 0)
farewell = Farewell(1000)
with farewell.awaited():
    end, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(end, 1)  # until the parent closes its end
        os._exit(7)
    os.close(end)
    os.killpg(0, signal.SIGTERM)
    print(farewell.told)
    os.close(write)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""") == ["True", "7"]
