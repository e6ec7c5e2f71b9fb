"""Laws of a study whose trials compute on one GPU at the same time, in which some of them fall.

Ray, the ledger and the workers are real. GPU and service are stand-ins: what one trial does to the
card ends all that use it, and it takes no other until these have ended.
"""

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmarks.faults_on_gpu import EPOCHS, KINDS, Faulty, main, measure, spread
from tests.stand_in_service import StandIn
from tune.engine.messages import NoGpu
from tune.engine.resources import Machine, Node
from tune.ledger.ledger import MAX_LOST
from tune.ledger.records import State
from tune.processes import is_running

TRIALS, TOGETHER, GUILTY = 5, 3, 1


@dataclass(frozen=True)
class StandInCard:
    """A card in a folder: a file for each process that uses it, with the number of faults that it
    began after.
    """

    folder: Path

    def begin(self, share: float) -> None:  # noqa: ARG002
        now = self._faults()
        for client in self.folder.glob("client-*"):
            process = int(client.name.split("-")[1])
            if (
                process != os.getpid()
                and is_running(process)
                and int(client.read_text() or now) < now
            ):
                time.sleep(0.5)
                raise NoGpu("CUDA error: the MPS server is not ready to accept new MPS requests")
        mine = self.folder / f"client-{os.getpid()}"
        if not mine.exists():  # a process opens the card once
            mine.write_text(str(now))

    def compute(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            if int((self.folder / f"client-{os.getpid()}").read_text()) < self._faults():
                raise torch.AcceleratorError(
                    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors ..."
                )
            if time.monotonic() >= end:
                return
            time.sleep(0.02)

    def fault(self, kind: str) -> None:
        if kind == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        with (self.folder / "faults").open("a") as file:
            file.write("x")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.compute(0)

    def _faults(self) -> int:
        try:
            return (self.folder / "faults").stat().st_size
        except FileNotFoundError:
            return 0


@pytest.mark.fault
def test_faults_of_all_kinds_lose_no_trial_and_charge_no_innocent_one_and_one_that_always_falls_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = StandIn(tmp_path, monkeypatch)
    card, witness = tmp_path / "card", tmp_path / "witness"
    card.mkdir()
    witness.mkdir()
    kinds = {place: kind for place, kind in spread(6, 5).items() if kind != "address"}
    once = {place: kind for place, kind in kinds.items() if place[0] != GUILTY}
    faulty = Faulty(StandInCard(card), witness, once, always={GUILTY: 2}, seconds=0.4)
    cost = measure(TRIALS, TOGETHER, Machine((Node(TOGETHER, 1),)), faulty, tmp_path / "results")
    assert len(stand_in.started) == 1
    assert sum(cost.injected.values()) == len(once)
    assert set(once.values()) == {"memory", "kill"}
    assert cost.lost == [GUILTY]
    guilty = cost.records[GUILTY]
    assert (guilty.state, guilty.lost, len(guilty.epochs)) == (State.FAIL, 3, 1)
    assert guilty.reason == (
        "the GPU failed its worker: CUDA error: an illegal memory access was encountered (3 times)"
    )
    for record in cost.records:
        if record is not guilty:
            assert record.state is State.COMPLETE
            assert len(record.epochs) == EPOCHS
            assert record.lost <= cost.injected.get(record.id, 0)
            if cost.injected.get(record.id, 0) == 0:
                assert record.lost == 0
    assert sum(record.spared for record in cost.records) > 0


def test_the_faults_that_are_injected_cost_no_trial_all_its_attempts() -> None:
    faults = spread(100, 60)
    assert len(faults) == 100
    assert max(Counter(trial for trial, _ in faults).values()) <= MAX_LOST
    assert {epoch for _, epoch in faults} <= set(range(1, EPOCHS + 1))
    assert set(Counter(faults.values()).values()) == {33, 34}
    assert set(faults.values()) == set(KINDS)
    with pytest.raises(ValueError, match="10 trials take 20 faults, and 21 are asked for"):
        spread(21, 10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_nothing_is_measured_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    said = "faults_on_gpu needs a GPU, and torch sees none: nothing was measured\n"
    assert capsys.readouterr().out == said
