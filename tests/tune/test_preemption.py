"""Laws of a search that a scheduler ends: SIGTERM to its driver, to a worker, or to all of a job.

Processes, Ray and databases are real; trials replay a curve. A port, a socket or shared memory ends
with the processes that hold it, and all of these are looked for.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.replayed import EPOCHS, Search
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord

pytestmark = pytest.mark.fault

SENTENCES = (
    "Interrupted; to continue, run the same command again",
    "Ended at once; to continue, run the same command again",
)


def records(search: Search, study: str = "faulty") -> list[TrialRecord]:
    reading = read_ledger(f"sqlite:///{search.results / 'faulty/study.db'}", study)
    assert reading is not None
    return list(reading.records)


def begun(search: Search) -> Counter[str]:
    """The number of times that each epoch began, by its phase, trial and number."""
    return Counter(path.name.rpartition("-")[0] for path in search.witness.iterdir())


@pytest.mark.parametrize(("deed", "again"), [("", 0), ("hang@0.2.1", 1)], ids=["ends", "given up"])
def test_a_worker_that_is_told_to_end_ends_or_gives_up_its_epoch_and_its_trial_goes_on(
    deed: str, again: int, tmp_path: Path
) -> None:
    """Nothing is charged to the trial, and an epoch that ended in time is not run again."""
    do = ("--do", deed) if deed else ()
    grace = "1s" if deed else "60s"
    search = Search(
        tmp_path / "told",
        ("--parallel", "1", "--trials", "2", "--grace", grace),
        ("--epoch-seconds", "1.5", *do),
    )
    driver = search.start()
    os.kill(search.wait_for("0-2-1", driver), signal.SIGTERM)
    assert driver.wait(200) == 0, search.out + search.err
    search.assert_complete(2)
    assert search.err == ""
    assert search.processes == {}
    first, second = records(search)
    assert (first.attempts, first.spared, first.lost) == (2, 1, 0)
    assert (second.attempts, second.spared, second.lost) == (1, 0, 0)
    assert sum(begun(search).values()) == 2 * EPOCHS + again


def test_what_does_not_end_in_the_grace_time_is_given_up_and_goes_on_next_time(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "given up",
        ("--parallel", "2", "--trials", "2", "--grace", "1s"),
        ("--do", "hang@0.2.1", "--do", "hang@1.1.1"),
    )
    driver = search.start()
    search.wait_for("0-2-1", driver)
    search.wait_for("1-1-1", driver)
    driver.terminate()
    driver.terminate()  # some send several
    assert driver.wait(90) == 128 + signal.SIGTERM
    assert search.err == SENTENCES[0] + "\n"
    assert "Ending: running epochs have 1 s to end" in search.out
    assert search.processes == {}
    assert search.run() == 0, search.err
    search.assert_complete(2)
    assert [(one.attempts, one.lost) for one in records(search)] == [(2, 0), (2, 0)]


@pytest.mark.timeout(1500)  # on a busy machine each start takes a minute
@pytest.mark.parametrize(
    "moments",
    [3, pytest.param(12, marks=[pytest.mark.long, pytest.mark.often])],
    ids="{} moments".format,
)
def test_sigterm_at_random_moments_loses_nothing_repeats_nothing_and_leaves_nothing(
    moments: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every epoch begins exactly once if the grace time is longer than an epoch."""
    draw = random.Random(os.environ.get("CELL_TUNE_SEED", "0"))
    base = Path("/tmp") / f"t{os.getpid()}"  # short, for Ray's sockets
    base.mkdir()
    trials = 1 + moments
    confirmed = ("--set", "confirm.top=1", "--set", "confirm.seeds=2")
    study = ("--parallel", "2", "--trials", str(trials), *confirmed)
    search = Search(tmp_path / "preempted", study, ("--epoch-seconds", "1"), {"TMPDIR": str(base)})
    (search.folder / "out").touch()
    told: Counter[str] = Counter()
    may_repeat = 0
    driver: subprocess.Popen[str] | None = None
    try:
        for moment in range(moments):
            if driver is None:
                room = 1 if draw.random() < 0.3 else 0  # for one epoch of each running trial
                search.more = (*study, "--grace", "0s" if room else "60s")
                said = len(search.out)
                driver = search.start()
            epochs = len(list(search.witness.iterdir()))
            whom = ("driver", "worker", "group")[moment % 3]
            # While databases are made, Ray starts or trials begin, there is no worker to tell.
            if whom != "worker" and draw.random() < 0.3:
                wait_until(driver, lambda said=said: len(search.out) > said)
                time.sleep(draw.uniform(0, 8))
            else:
                wait_until(
                    driver,
                    lambda epochs=epochs: len(list(search.witness.iterdir())) > epochs,
                )
                time.sleep(draw.uniform(0, 3))
            if driver.poll() is not None:
                break  # the study had ended
            assert True not in search.shared_memory.values()  # none would outlive its process
            if whom == "worker" and tell_a_worker(search):
                told[whom] += 1
                may_repeat += room
                continue
            told["group" if whom == "group" else "driver"] += 1
            may_repeat += 2 * room
            sentences = search.err.count("\n")
            for process in search.processes if whom == "group" else [driver.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
            assert driver.wait(90) == 128 + signal.SIGTERM, search.err
            driver = None
            said_last = search.err.splitlines()[sentences:]
            assert len(said_last) == 1, search.err
            assert said_last[0] in SENTENCES
            assert search.processes == {}
            assert not list(base.glob("ct-*"))
        search.more = study
        assert (driver or search.start()).wait(280) == 0, search.err
        assert search.processes == {}
        assert not list(base.iterdir())
    finally:
        shutil.rmtree(base)
    search.assert_complete(trials)
    both = [*records(search), *records(search, "faulty.confirm")]
    assert len(both) == trials + 2
    assert {one.state for one in both} == {State.COMPLETE}
    assert {one.lost for one in both} == {0}
    assert {len(one.epochs) for one in both} == {EPOCHS}
    assert not list(search.results.rglob(".*.part"))
    counted = begun(search)
    assert len(counted) == EPOCHS * len(both)
    again = sum(counted.values()) - len(counted)
    assert again <= may_repeat
    with capsys.disabled():
        print(f"\nSIGTERM to {dict(told)}; {len(counted)} epochs, {again} given up and run again")


def wait_until(driver: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, or the driver has ended."""
    while not condition() and driver.poll() is None:
        time.sleep(0.02)


def tell_a_worker(search: Search) -> bool:
    """Send SIGTERM to the worker of the latest epoch; False if it has ended."""
    paths = sorted(search.witness.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    worker = int(paths[-1].read_text() or 0) if paths else 0
    if worker not in search.processes:
        return False
    os.kill(worker, signal.SIGTERM)
    return True
