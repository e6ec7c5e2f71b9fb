"""Laws of NVIDIA's Multi-Process Service around a study.

Its program is a stand-in that starts, answers and ends as the real one does; what the service
brings needs a GPU and is `benchmarks.gpu_throughput --mps`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from core import data as datasets
from core.errors import ResourceError
from tune.engine import mps, session
from tune.engine.messages import Assignment
from tune.engine.mps import LOGS, PIPES, PROGRAM, multi_process_service
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.ledger import open_ledger
from tune.ledger.records import State
from tune.request.file import from_document
from tune.study import conductor as study
from tune.study.options import Options
from tune.study.plan import StudyPlan, check_request
from tune.study.trials import TrialInputs

SPACE: dict[str, Any] = {
    "study": "shared",
    "data": "synthetic",
    "fixed": {"optim.epochs": 1, "model.weights": "none"},
    "space": {"optim.learning_rate": {"low": 1e-5, "high": 0.1, "log": True}},
    "search": {"sampler": "random", "trials": 4},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 0},
}
DAEMON = """#!{python}
import os, pathlib, signal, sys
folder = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
if sys.argv[1:] == ["-d"]:
    if os.path.exists({broken!r}):
        sys.exit("Cannot start the daemon: no GPU is there")
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.read(reader, 1)
        sys.exit(0)
    (folder / "nvidia-cuda-mps-control.pid").write_text(str(os.getpid()))
    (folder / "control").touch()
    with open({witness!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{os.environ.get('CUDA_VISIBLE_DEVICES')}}\\n")
    os.write(writer, b".")
    os.close(writer)
    while True:
        signal.pause()
if sys.stdin.read().startswith("quit -t ") and not os.path.exists({deaf!r}):  # without -t it waits for its clients
    os.kill(int((folder / "nvidia-cuda-mps-control.pid").read_text()), signal.SIGTERM)
"""


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each service that was started: its process, and the GPUs it was
    restricted to.
    """
    programs, witness = tmp_path / "programs", tmp_path / "services"
    programs.mkdir()
    witness.touch()
    program = programs / PROGRAM
    places = {
        "broken": str(tmp_path / "broken"),
        "deaf": str(tmp_path / "deaf"),
        "witness": str(witness),
    }
    program.write_text(DAEMON.format(python=sys.executable, **places))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(mps, "MACHINE_WIDE", tmp_path / "nowhere")
    monkeypatch.delenv(PIPES, raising=False)
    monkeypatch.delenv(LOGS, raising=False)
    return witness


def started(services: Path) -> list[int]:
    return [int(line.split()[0]) for line in services.read_text().splitlines()]


def runs(process: int) -> bool:
    """Whether it runs; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_the_service_runs_within_the_block_and_only_there_and_what_starts_there_finds_it(
    services: Path,
) -> None:
    with multi_process_service():
        (process,) = started(services)
        assert runs(process)
        folder = Path(os.environ[PIPES])
        assert folder.stat().st_mode & 0o77 == 0
        show = f"import os; print(os.environ['{PIPES}'])"
        said = subprocess.run(
            [sys.executable, "-c", show], check=True, capture_output=True, text=True
        ).stdout
        assert said.strip() == str(folder)
    assert until(lambda: not runs(process))
    assert PIPES not in os.environ
    assert LOGS not in os.environ
    assert not folder.exists()


def test_the_service_ends_with_an_error_in_the_block(services: Path) -> None:
    with pytest.raises(ValueError, match="inside"), multi_process_service():
        raise ValueError("inside")
    (process,) = started(services)
    assert until(lambda: not runs(process))


@pytest.mark.parametrize(
    ("visible", "expected"), [("3", "None"), ("GPU-8932f937", "GPU-8932f937"), ("MIG-1", "MIG-1")]
)
def test_the_service_sees_all_gpus_where_its_clients_count_them_and_those_that_have_names(
    services: Path, monkeypatch: pytest.MonkeyPatch, visible: str, expected: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with multi_process_service():
        assert services.read_text().split()[1] == expected
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize("machine_wide", [True, False])
def test_a_service_of_the_users_own_is_used_and_left_running(
    services: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine_wide: bool
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "control").touch()
    if machine_wide:
        monkeypatch.setattr(mps, "MACHINE_WIDE", own)
    else:
        monkeypatch.setenv(PIPES, str(own))
    before = os.environ.get(PIPES)
    with multi_process_service():
        assert os.environ.get(PIPES) == before
    assert os.environ.get(PIPES) == before
    assert not started(services)


@pytest.mark.parametrize("value", ["", "/nowhere/to/be/found"])
def test_a_variable_that_names_no_service_is_replaced_within_the_block(
    services: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(PIPES, value)
    with multi_process_service():
        assert os.environ[PIPES] != value
        assert len(started(services)) == 1
    assert os.environ[PIPES] == value


def test_other_variables_that_are_set_meanwhile_stay(
    services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert services.exists()
    with multi_process_service():
        monkeypatch.setenv("SET_MEANWHILE", "1")
    assert os.environ["SET_MEANWHILE"] == "1"


def test_a_service_that_does_not_answer_is_ended_by_its_process(
    services: Path, tmp_path: Path
) -> None:
    (tmp_path / "deaf").touch()
    with multi_process_service():
        (process,) = started(services)
    assert until(lambda: not runs(process))


def test_a_service_that_does_not_start_is_refused_with_what_it_said(
    services: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(ResourceError) as refused, multi_process_service():
        pass
    assert (
        str(refused.value)
        == f"resources.mps true: {PROGRAM} did not start (Cannot start the daemon: no GPU is"
        " there); "
        "leave resources.mps out"
    )
    assert not started(services)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_service_ends_when_its_search_is_killed(services: Path, end: signal.Signals) -> None:
    program = (
        "import os, signal, time\nfrom tune.engine.mps import multi_process_service\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background jobs ignore
        f"with multi_process_service():\n    print(os.environ['{PIPES}'], flush=True)\n   "
        " time.sleep(1e6)\n"
    )
    search = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, PIPES: "/nowhere/to/be/found"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert search.stdout is not None
    folder = Path(search.stdout.readline().strip())
    (process,) = started(services)
    assert runs(process)
    os.killpg(search.pid, end)  # Ctrl-C reaches all that the search started in its session
    search.communicate()
    assert until(lambda: not runs(process))
    assert until(lambda: not folder.exists())


def test_ctrl_c_reaches_the_search_and_not_the_service(services: Path) -> None:
    with multi_process_service():
        (process,) = started(services)
        assert os.getpgid(process) != os.getpgrp()


def test_where_there_is_no_such_program_a_search_with_gpus_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "here", lambda: Machine((Node(2, 1),)))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mps, "MACHINE_WIDE", tmp_path / "nowhere")
    monkeypatch.delenv(PIPES, raising=False)
    request = from_document({**SPACE, "resources": {"mps": True}}, "test")
    plan, problems = check_request(request, Options(tmp_path))
    assert plan is None
    assert [str(problem) for problem in problems] == [
        f"resources.mps true needs NVIDIA's {PROGRAM}, which is not on the PATH; it comes with the"
        " driver (on Debian and Ubuntu in nvidia-compute-utils), or leave resources.mps out"
    ]


def test_without_gpus_nobody_asks_for_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "here", lambda: Machine((Node(2, 0),)))
    monkeypatch.setenv("PATH", str(tmp_path))
    request = from_document({**SPACE, "resources": {"mps": True}}, "test")
    assert not check_request(request, Options(tmp_path))[1]


def test_the_service_is_not_for_a_cluster_whose_nodes_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "cluster_at", lambda address: Machine((Node(2, 1),), address))
    request = from_document({**SPACE, "resources": {"mps": True}}, "test")
    _, problems = check_request(request, Options(tmp_path, address="10.0.0.1:6379"))
    assert [str(problem) for problem in problems] == [
        "resources.mps true is for the GPUs of this machine, and --address names a cluster; start"
        " the service on its nodes, and leave resources.mps out"
    ]


class Finds:
    """A trial that notes which service its worker would use."""

    def __init__(self, seen: Path) -> None:
        self.seen = seen

    trains = False

    def make(self, assignment: Assignment, inputs: TrialInputs) -> Any:  # noqa: ARG002
        (self.seen / f"{assignment.trial}").write_text(os.environ.get(PIPES, "none"))
        raise ValueError("that was all")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("share", "asked", "expected"), [(0.5, True, 1), (1.0, True, 0), (0.5, False, 0)]
)
def test_the_workers_of_a_search_whose_trials_share_a_gpu_find_one_service_for_all_of_them(
    services: Path, tmp_path: Path, share: float, asked: bool, expected: int
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    document = {**SPACE, "resources": {"mps": asked}}
    plan = StudyPlan(
        from_document(document, "test"), Options(tmp_path / "results"), datasets.load("synthetic"),
        {}, Machine((Node(2, 1),)), TrialResources(1, share, round(1 / share)),
    )  # fmt: skip
    study.run_study(plan, Console(quiet=True), Finds(seen))
    found = {path.read_text() for path in seen.iterdir()}
    assert len(list(seen.iterdir())) == 4
    assert {record.state for record in open_ledger(plan.storage, plan.request).records} == {
        State.FAIL
    }
    assert len(started(services)) == expected
    assert (found == {"none"}) is not bool(expected)
    assert len(found) == 1
    assert all(until(lambda process=process: not runs(process)) for process in started(services))


class LosesTheGPU:
    """A trial whose first attempt loses the GPU, for itself and so for all that share it by the
    service.
    """

    def __init__(self, seen: Path) -> None:
        self.seen = seen

    trains = False

    def make(self, assignment: Assignment, inputs: TrialInputs) -> Any:  # noqa: ARG002
        (self.seen / f"{assignment.trial}-{assignment.attempt}").write_text(str(assignment.gpus))
        if assignment.attempt == 1:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        raise ValueError("that was all")


@pytest.mark.fault
@pytest.mark.parametrize(("asked", "next_share"), [(True, "1.0"), (False, "0.5")])
def test_who_lost_the_gpu_with_others_has_it_alone_in_the_next_attempt(
    services: Path, tmp_path: Path, asked: bool, next_share: str
) -> None:
    """So the trial that is to blame takes one attempt from the others, and not all three."""
    assert services.exists()
    seen = tmp_path / "seen"
    seen.mkdir()
    document = {**SPACE, "resources": {"mps": asked}, "search": {**SPACE["search"], "trials": 2}}
    plan = StudyPlan(
        from_document(document, "test"), Options(tmp_path / "results"), datasets.load("synthetic"),
        {}, Machine((Node(2, 1),)), TrialResources(1, 0.5, 2),
    )  # fmt: skip
    study.run_study(plan, Console(quiet=True), LosesTheGPU(seen))
    shares = {path.name: path.read_text() for path in seen.iterdir()}
    assert shares == {"0-1": "0.5", "1-1": "0.5", "0-2": next_share, "1-2": next_share}
    assert {record.lost for record in open_ledger(plan.storage, plan.request).records} == {1}
