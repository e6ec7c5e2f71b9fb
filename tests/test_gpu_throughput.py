"""Laws of the comparison on a GPU: its arithmetic, and that no part takes another with it."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gpu_throughput, operations, step_parts
from benchmarks.gpu_throughput import LIMIT_SECONDS, PART_SECONDS, PARTS, study_figures, table
from benchmarks.operations import counted_now
from benchmarks.step_parts import as_table, picture
from tune.engine import rehearsal

ROOT = Path(__file__).parents[1]


def epoch(at: float, seconds: float, images: float) -> dict[str, float]:
    """An epoch whose training takes three quarters of its seconds."""
    return {
        "at": 1000 * at, "seconds": seconds, "train_seconds": 0.75 * seconds,
        "evaluate_seconds": 0.25 * seconds, "images_per_second": images / (0.75 * seconds),
    }  # fmt: skip


def test_a_study_s_images_are_divided_by_the_time_from_its_process_to_its_last_entry() -> None:
    trials = [
        [epoch(130, 10, 86), epoch(140, 10, 86)],
        [epoch(135, 12, 86)],
        [],
    ]
    found = study_figures(trials, begin=100)
    assert found["images_per_second"] == pytest.approx(3 * 86 / 40)
    assert found["after_start"] == pytest.approx(3 * 86 / 20)
    assert found["start_seconds"] == 20
    assert (found["trials"], found["epochs"]) == (2, 3)
    assert found["evaluation"] == pytest.approx(0.25)


def test_the_table_compares_with_the_faster_plain_loop_and_says_which_goals_are_met() -> None:
    whole = study_figures([[epoch(130, 10, 86)]], begin=100) | {"said": ["Study x: 6 at once"]}
    found: dict[str, Any] = {
        "plain": {"fp32": 10.0, "bf16": 20.0},
        "trial": {"training": 80.0, "whole": 70.0, "evaluation": 0.125, "step_ms": 25.0},
        "packed": whole | {"images_per_second": 199.0},
        "turns": {"error": "it took longer than the 120 s it had"},
    }
    lines = [line.split("  ") for line in table(found).splitlines()]
    rows = {line[0].strip(): " ".join("  ".join(line[1:]).split()) for line in lines}
    assert rows["plain loop, bf16"] == "20.0 1.00"
    assert rows["one trial, training"] == "80.0 4.00 4, met"
    assert rows["study, the service, everything included"] == "199.0 9.95 10, missed"
    assert rows["study, turns, everything included"] == "not measured 5"
    said = table(found)
    assert "turns was not measured: it took longer" in said
    assert "evaluation takes 12% of a trial's time; goal 10%: missed" in said
    assert "Study x: 6 at once" in said


def test_without_a_plain_loop_nothing_is_compared() -> None:
    found = {"plain": {"error": "no"}, "trial": {"training": 80.0}}
    (row,) = [line for line in table(found).splitlines() if line.startswith("one trial, training")]
    assert row.split()[-2:] == ["80.0", "4"]


class Machine:
    """A machine whose parts take the seconds that are said, or all that they are given."""

    def __init__(self, takes: Mapping[str, float]) -> None:
        self.takes, self.now = takes, 1000.0
        self.given: dict[str, tuple[float, int]] = {}

    def run(self, name: str, seconds: float, _: argparse.Namespace, at_once: int) -> dict[str, Any]:
        self.given[name] = (seconds, at_once)
        self.now += min(seconds, self.takes[name])
        return {"at_once": 12} if name == "packed" else {}

    def clock(self) -> float:
        return self.now


def compared(takes: Mapping[str, float], only: Sequence[str] = PARTS) -> Machine:
    machine = Machine(takes)
    parsed = argparse.Namespace(device="cpu", short=False, only=[*only], out=None)
    gpu_throughput.compare(parsed, machine.run, machine.clock)
    return machine


@given(st.fixed_dictionaries({name: st.floats(1, 500) for name in PARTS}))
def test_all_parts_end_within_six_minutes_and_each_has_its_time(takes: dict[str, float]) -> None:
    machine = compared(takes)
    assert machine.now - 1000 <= LIMIT_SECONDS + 1e-6 <= 360
    for name, (seconds, _) in machine.given.items():
        assert seconds >= PART_SECONDS[name] - 1e-6
    assert set(machine.given) == set(PARTS) == set(PART_SECONDS)


def test_a_packed_study_has_what_short_parts_before_it_left_and_most_of_it_is_training() -> None:
    machine = compared({"plain": 20, "trial": 20, "step": 20, "packed": 500, "turns": 500})
    seconds = machine.given["packed"][0]
    assert seconds == LIMIT_SECONDS - 60 - PART_SECONDS["turns"]
    assert seconds - gpu_throughput.AROUND_SECONDS > 2 * rehearsal.SECONDS_A_KIND + 60


def test_the_study_in_turns_takes_the_number_that_the_packed_one_measured() -> None:
    parts = compared(dict.fromkeys(PARTS, 10.0)).given
    assert [parts[name][1] for name in PARTS] == [0, 0, 0, 0, 12]
    assert compared({"turns": 10.0}, ["turns"]).given["turns"] == (LIMIT_SECONDS, 0)


@pytest.mark.parametrize(
    ("name", "at_once", "resources"),
    [
        ("packed", 0, {"gpus_per_trial": "auto", "mps": "auto"}),
        ("turns", 0, {"gpus_per_trial": "auto", "mps": False}),
        ("turns", 4, {"gpus_per_trial": 0.25, "mps": False}),
    ],
)
def test_a_search_is_asked_for_its_share_of_the_gpu_and_ends_before_its_part_does(
    name: str, at_once: int, resources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    spaces: list[dict[str, Any]] = []

    def search(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        spaces.append(yaml.safe_load(Path(command[command.index("--space") + 1]).read_text()))
        return subprocess.CompletedProcess(command, 1, "", "no GPU is here")

    monkeypatch.setattr(gpu_throughput.subprocess, "run", search)
    parsed = argparse.Namespace(
        data=".", weights="none", short=False, seconds=155.0, at_once=at_once
    )
    with pytest.raises(RuntimeError, match="no epoch was trained: no GPU is here"):
        gpu_throughput.study(name, parsed, torch.device("cuda"))
    assert spaces[0]["resources"] == resources
    assert commands[0][-2:] == ["--time-budget", f"{155 - gpu_throughput.AROUND_SECONDS:.0f}s"]


def test_a_part_s_own_process_understands_what_it_is_asked() -> None:
    found = gpu_throughput.run_apart("turns", 300, asked("turns"), at_once=12)
    assert found == {"left_out": "on processors there is no service to do without"}


def test_a_table_of_parts_has_each_part_before_and_now() -> None:
    rows = as_table({"backbone": 4.0, "step": 25.5, "waits": 1}).splitlines()
    assert len(rows) == 1 + len(step_parts.PARTS) + 5
    (backbone,) = [row for row in rows if row.startswith("backbone")]
    assert backbone.split() == ["backbone", "11.5", "4.0", "ms"]
    (waits,) = [row for row in rows if row.startswith("waits")]
    assert waits.split() == ["waits", "11", "1", "a", "step"]


def test_the_picture_in_the_docs_has_the_operations_of_today() -> None:
    assert picture(counted_now()) in (ROOT / "docs/performance.md").read_text()


def test_each_change_taken_back_alone_asks_for_as_many_operations_as_the_docs_say() -> None:
    docs = (ROOT / "docs/performance.md").read_text()
    found = []
    for taken_back in operations.one_change_less().values():
        with taken_back:
            counts = counted_now()
        assert f"| {counts.operations:,} | {counts.waits} |" in docs
        found.append(counts.operations)
    assert len({*found, counted_now().operations}) == 5


def test_a_picture_has_the_milliseconds_of_now_where_they_were_measured() -> None:
    took = dict.fromkeys(step_parts.PARTS, 2.0) | {"step": 12.0}
    lines = [line.split() for line in picture(operations.BEFORE, took).splitlines()]
    assert ["now", "2.0", "##", "187", "#########"] in lines
    assert ["now", "12.0", "1,259,", "9", "waits"] in lines
    assert "unmeasured" not in picture(operations.BEFORE, took)


def asked(*only: str) -> argparse.Namespace:
    return argparse.Namespace(
        data="synthetic", weights="none", device="cpu", short=True, only=only, out=None
    )


def test_a_part_that_fails_or_never_ends_leaves_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def program(text: str) -> None:
        monkeypatch.setattr(
            gpu_throughput.subprocess,
            "Popen",
            lambda _, **named: real([sys.executable, "-c", text], **named),
        )

    program("import sys; sys.exit('CUDA error: an illegal memory access')")
    assert gpu_throughput.run_apart("trial", 60, asked("trial")) == {
        "error": "CUDA error: an illegal memory access"
    }
    program("import os; os.abort()")
    assert "ended with -6" in gpu_throughput.run_apart("trial", 60, asked("trial"))["error"]
    program("import time; time.sleep(600)")
    assert "longer than the 1 s" in gpu_throughput.run_apart("trial", 1.0, asked("trial"))["error"]
    monkeypatch.undo()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_that_it_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_throughput.main([]) == 0
    assert capsys.readouterr().out.count("needs a GPU") == 1


def test_the_parts_of_a_real_step_add_up_to_it() -> None:
    found = step_parts.measured_alone("cpu", short=True)
    parts = [found[name] for name in step_parts.PARTS]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(found["step"], rel=0.2)
    assert 300 < found["asked"] < 4000
    assert found["waits"] >= 0


WITHOUT_RAY = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "optuna", "mlflow", "tune"):
            raise ModuleNotFoundError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())
from benchmarks.gpu_throughput import main
sys.exit(main(["--part", "trial", "--device", "cpu", "--short"]))
"""


def test_a_trial_is_measured_where_ray_is_not_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training"] > 0


@pytest.mark.long
def test_the_whole_comparison_runs_on_a_processor_at_a_tiny_size(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_throughput", "--device", "cpu", "--short", "--out",
         str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == list(PARTS)
    assert min(parts["plain"].values()) > 0
    assert parts["packed"]["epochs"] == 2
    assert "left_out" in parts["turns"]
    assert "study, the service, everything included" in done.stdout
