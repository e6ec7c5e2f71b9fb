"""Laws of NVIDIA's Multi-Process Service around a study.

The service is a stand-in; what the real one brings needs a GPU, and so do real faults of its
clients (`benchmarks.faults_on_gpu`).
"""

import io
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
from core.errors import ResourceError, SpaceError
from tests.stand_in_service import StandIn
from tests.tracking_database import provide
from tune import processes
from tune.engine import mps, session
from tune.engine.messages import Assignment
from tune.engine.mps import LOGS, PIPES, PROGRAM
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.ledger import open_ledger
from tune.ledger.records import State
from tune.processes import is_running
from tune.request.file import from_document
from tune.study import automatic
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
TOGETHER = "Trials that share a GPU compute at the same time, by NVIDIA's Multi-Process Service"
TURNS = "Trials that share a GPU take turns: "


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


def start_another(stand_in: StandIn) -> int:
    """Start a service of the user's own, where every client looks, and return its process."""
    stand_in.machine_wide.mkdir()
    place = {**os.environ, PIPES: str(stand_in.machine_wide)}
    subprocess.run([PROGRAM, "-d"], check=True, env=place)
    return stand_in.started[-1]


def until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_the_service_runs_within_the_block_and_only_there_and_what_starts_there_finds_it(
    stand_in: StandIn,
) -> None:
    with mps.service("auto") as service:
        assert (service.runs, service.why) == (True, TOGETHER)
        (process,) = stand_in.started
        assert is_running(process)
        folder = Path(os.environ[PIPES])
        assert folder.stat().st_mode & 0o77 == 0
        show = f"import os; print(os.environ['{PIPES}'])"
        said = subprocess.run(
            [sys.executable, "-c", show], check=True, capture_output=True, text=True
        ).stdout
        assert said.strip() == str(folder)
    assert until(lambda: not is_running(process))
    assert PIPES not in os.environ
    assert LOGS not in os.environ
    assert not folder.exists()


def test_the_service_ends_with_an_error_in_the_block(stand_in: StandIn) -> None:
    with pytest.raises(ValueError, match="inside"), mps.service("auto"):
        raise ValueError("inside")
    (process,) = stand_in.started
    assert until(lambda: not is_running(process))


@pytest.mark.parametrize(
    ("visible", "expected"), [("3", "None"), ("GPU-8932f937", "GPU-8932f937"), ("MIG-1", "MIG-1")]
)
def test_the_service_sees_all_gpus_where_its_clients_count_them_and_those_that_have_names(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, visible: str, expected: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with mps.service("auto"):
        assert stand_in.witness.read_text().split()[1] == expected
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_a_service_that_is_not_wanted_is_not_started(stand_in: StandIn) -> None:
    with mps.service(False) as service:
        assert (service.runs, service.why) == (False, f"{TURNS}resources.mps is false")
        assert PIPES not in os.environ
    assert not stand_in.started


@pytest.mark.parametrize("by_variable", [True, False])
def test_a_service_of_the_users_own_is_used_and_left_running(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    process = start_another(stand_in)
    if by_variable:
        monkeypatch.setattr(mps, "MACHINE_WIDE", Path("/nowhere/to/be/found"))
        monkeypatch.setenv(PIPES, str(stand_in.machine_wide))
    before = os.environ.get(PIPES)
    with mps.service("auto") as service:
        assert service.runs
        assert service.why == f"{TOGETHER}, which runs in {stand_in.machine_wide}"
        assert os.environ.get(PIPES) == before
        service.mend()
    assert os.environ.get(PIPES) == before
    assert stand_in.started == [process]
    assert is_running(process)
    os.kill(process, signal.SIGTERM)


LEFT_OVER = "Cannot find MPS control daemon process"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("is left over", f"{PROGRAM} gets no answer ({LEFT_OVER})"),
        ("is another user's", f"{PROGRAM} gets no answer (Permission denied)"),
        ("keeps its clients waiting", "no process could compute by it (no end within 2 s)"),
    ],
)
def test_a_service_that_is_there_and_cannot_be_used_is_passed_over_and_one_of_ours_takes_its_place(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    """A service whose server belongs to another user keeps a client waiting until that is gone."""
    process = start_another(stand_in)
    if how == "is left over":
        os.kill(process, signal.SIGKILL)
    elif how == "is another user's":
        stand_in.misbehave("answers are for its owner")
    else:
        stand_in.misbehave("client hangs with another's")
        monkeypatch.setattr(mps, "CLIENT_SECONDS", 2)
    with mps.service("auto") as service:
        assert service.runs
        assert service.why == f"{TOGETHER} (the service in {stand_in.machine_wide}: {reason})"
        assert os.environ[PIPES] != str(stand_in.machine_wide)
        assert len(stand_in.started) == 2
    assert until(lambda: not is_running(stand_in.started[1]))
    if how != "is left over":
        assert is_running(process)
        os.kill(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (None, f"{PROGRAM} is not on the PATH"),
        ("start fails", f"{PROGRAM} did not start (Cannot start the daemon: no GPU is there)"),
        ("start hangs", f"{PROGRAM} did not start (no end within 1 s)"),
        ("dies", f"{PROGRAM} gets no answer ({LEFT_OVER})"),
        pytest.param(  # its end is waited for as well
            "hangs", f"{PROGRAM} gets no answer (no end within 1 s)", marks=pytest.mark.fault
        ),
        ("client hangs", "no process could compute by it (no end within 1 s)"),
        (
            "client fails",
            "no process could compute by it (CUDA error: MPS client failed to connect to the MPS"
            " control daemon or the MPS server)",
        ),
        (
            "client does not reach it",
            "a process computed and did not reach it, so trials would take turns in silence (a"
            " container needs the host's IPC namespace)",
        ),
    ],
)
def test_a_service_that_cannot_be_used_is_done_without_in_one_sentence_and_refused_where_it_was_asked_for(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, how: str | None, reason: str
) -> None:
    if how is None:
        stand_in.remove_program()
        monkeypatch.setenv("PATH", "/nowhere/to/be/found")
    else:
        stand_in.misbehave(how)
        for seconds in ("SERVICE_START_SECONDS", "ANSWER_SECONDS", "CLIENT_SECONDS"):
            if "hangs" in how:
                monkeypatch.setattr(mps, seconds, 1)
    begin = time.monotonic()
    with mps.service("auto") as service:
        assert (service.runs, service.why) == (False, f"{TURNS}{reason}")
        assert PIPES not in os.environ
    with pytest.raises(ResourceError) as refused, mps.service(True):
        pass
    assert str(refused.value) == (
        f"resources.mps true needs NVIDIA's Multi-Process Service: {reason}; leave resources.mps"
        " out, and trials take turns where it cannot be used"
    )
    assert time.monotonic() - begin < 60
    assert all(
        until(lambda process=process: not is_running(process)) for process in stand_in.started
    )


def test_the_driver_says_that_it_lives_between_the_steps_of_the_start(stand_in: StandIn) -> None:
    process = start_another(stand_in)
    stand_in.misbehave("client fails")
    beats: list[int] = []
    with mps.service("auto", lambda: beats.append(len(stand_in.started))) as service:
        assert not service.runs
    assert beats == [1, 1, 1, 2, 2]
    os.kill(process, signal.SIGTERM)


def test_trials_do_not_find_a_service_that_was_passed_over(stand_in: StandIn) -> None:
    process = start_another(stand_in)
    stand_in.misbehave("client fails")
    with mps.service("auto") as service:
        assert not service.runs
        place = Path(os.environ[PIPES])
        assert place.is_dir()
        assert not (place / "control").exists()
    assert PIPES not in os.environ
    os.kill(process, signal.SIGTERM)


def test_a_service_that_gained_nothing_ends_and_the_sentence_says_so(stand_in: StandIn) -> None:
    with mps.service("auto") as service:
        (process,) = stand_in.started
        service.give_up("measured, it gained nothing")
        assert (service.runs, service.why) == (False, f"{TURNS}measured, it gained nothing")
        assert until(lambda: not is_running(process))
        assert PIPES not in os.environ
        service.give_up("once more")
        service.mend()
        assert service.why == f"{TURNS}measured, it gained nothing"
    assert len(stand_in.started) == 1


def test_a_service_that_was_asked_for_is_not_given_up(stand_in: StandIn) -> None:
    with mps.service(True) as service:
        service.give_up("measured, it gained nothing")
        assert (service.runs, service.why) == (True, TOGETHER)
        assert is_running(stand_in.started[0])


def test_processes_can_do_without_the_service_for_a_while(stand_in: StandIn) -> None:
    with mps.service("auto") as service:
        place = os.environ[PIPES]
        with service.without():
            assert not (Path(os.environ[PIPES]) / "control").exists()
        assert os.environ[PIPES] == place
        assert is_running(stand_in.started[0])


def test_the_driver_opens_cuda_without_the_service_and_never_becomes_its_client(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error on the GPU the service serves nobody until all its clients have ended."""
    process = start_another(stand_in)
    looked_in: list[Path] = []

    def opened() -> bool:
        looked_in.append(Path(os.environ[PIPES]))
        assert looked_in[-1].is_dir()
        assert not (looked_in[-1] / "control").exists()
        return True

    monkeypatch.setattr(torch.cuda, "is_available", opened)
    monkeypatch.setattr(torch.cuda, "init", opened)
    with mps.service("auto") as service:
        assert service.runs
        assert len(looked_in) == 2
        assert stand_in.machine_wide not in looked_in
    os.kill(process, signal.SIGTERM)


def test_the_driver_asks_nothing_of_a_gpu_before_it_is_outside_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def asked(_: torch.device) -> str:
        done.append("asked")
        return "fp32"

    def here() -> Machine:
        done.append("counted")
        return Machine((Node(2, 1),))

    monkeypatch.setattr(Machine, "here", here)
    monkeypatch.setattr(mps, "stay_outside", lambda: done.append("outside"))
    monkeypatch.setattr(automatic, "precision_of", asked)
    assert not check_request(from_document(SPACE, "test"), Options(tmp_path))[1]
    assert done == ["outside", "counted", "asked"]


@pytest.mark.parametrize("how", ["lives", "is dead", "hangs"])
def test_a_service_of_ours_that_died_or_hangs_is_started_again_where_its_clients_look(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with mps.service("auto") as service:
        place, (first,) = os.environ[PIPES], stand_in.started
        if how == "is dead":
            os.kill(first, signal.SIGKILL)
            assert until(lambda: not is_running(first))
        elif how == "hangs":
            os.kill(first, signal.SIGSTOP)
            stand_in.misbehave("hangs")
            monkeypatch.setattr(mps, "ANSWER_SECONDS", 1)
        assert service.has_died == (how == "is dead")
        service.mend()
        assert not service.has_died
        assert os.environ[PIPES] == place
        stand_in.behave()
        assert len(stand_in.started) == (1 if how == "lives" else 2)
        assert is_running(stand_in.started[-1])
        assert how == "lives" or not is_running(first)
    assert all(
        until(lambda process=process: not is_running(process)) for process in stand_in.started
    )


@pytest.mark.parametrize("value", ["", "/nowhere/to/be/found"])
def test_a_variable_that_names_no_service_is_replaced_within_the_block(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(PIPES, value)
    with mps.service("auto"):
        assert os.environ[PIPES] != value
        assert len(stand_in.started) == 1
    assert os.environ[PIPES] == value


def test_other_variables_that_are_set_meanwhile_stay(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stand_in.started == []
    with mps.service("auto"):
        monkeypatch.setenv("SET_MEANWHILE", "1")
    assert os.environ["SET_MEANWHILE"] == "1"


def test_a_service_that_does_not_obey_is_ended_by_its_process(stand_in: StandIn) -> None:
    stand_in.misbehave("deaf")
    with mps.service("auto"):
        (process,) = stand_in.started
    assert until(lambda: not is_running(process))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_service_ends_when_its_search_is_killed(stand_in: StandIn, end: signal.Signals) -> None:
    program = (
        "import os, signal, time\nfrom tune.engine import mps\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background jobs ignore
        f"mps.CLIENT = {mps.CLIENT!r}\n"
        f"with mps.service(True):\n    print(os.environ['{PIPES}'], flush=True)\n   "
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
    (process,) = stand_in.started
    assert is_running(process)
    os.killpg(search.pid, end)  # Ctrl-C reaches all that the search started in its session
    search.communicate()
    assert until(lambda: not is_running(process))
    assert until(lambda: not folder.exists())


def test_ctrl_c_reaches_the_search_and_not_the_service(stand_in: StandIn) -> None:
    with mps.service("auto"):
        (process,) = stand_in.started
        assert os.getpgid(process) != os.getpgrp()


@pytest.mark.parametrize("mended", [False, True])
def test_sigterm_to_all_processes_of_a_job_ends_the_service_after_the_driver_ended_its_trials(
    stand_in: StandIn, mended: bool
) -> None:
    """As SLURM sends it to a job, and systemd to all of a service."""
    program = (
        "import os, signal, time\nfrom core.interrupts import terminable\n"
        "from tune import processes\nfrom tune.engine import mps\n"
        f"mps.CLIENT = {mps.CLIENT!r}\n"
        "with terminable(), mps.service(True) as service:\n"
        "    try:\n"
        f"        if {mended}:\n"
        "            with processes.marked():\n"
        "                os.kill(mps._process_of(service._ours), signal.SIGKILL)\n"
        "                service.mend()\n"
        f"        print(os.environ['{PIPES}'], flush=True)\n"
        "        time.sleep(1e6)\n"
        "    except KeyboardInterrupt:\n"
        "        time.sleep(0.5)\n"
        "        print(service.has_died, flush=True)\n"
    )
    search = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
        env={**os.environ, PIPES: "/nowhere/to/be/found"},
    )  # fmt: skip
    assert search.stdout is not None
    folder = Path(search.stdout.readline().strip())
    service = stand_in.started[-1]
    assert len(stand_in.started) == 1 + mended
    watchers = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.read_bytes().endswith(b"\0sh\0" + os.fsencode(folder) + b"\0")
    ]
    assert len(watchers) == 1
    for process in (search.pid, service, *watchers):
        os.kill(process, signal.SIGTERM)
    said, _ = search.communicate()
    assert said == "False\n"
    assert until(lambda: not is_running(service))
    assert until(lambda: not folder.exists())
    assert until(lambda: not any(map(is_running, watchers)))


def test_the_service_carries_no_mark_by_which_a_ray_session_ends_its_processes(
    stand_in: StandIn,
) -> None:
    with processes.marked() as started, mps.service("auto"):
        assert stand_in.started[0] not in started.living()


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
        f"resources.mps true needs NVIDIA's {PROGRAM}, which is not on the PATH; install it (it"
        " comes with the driver, on Debian and Ubuntu in nvidia-compute-utils), or leave"
        " resources.mps out"
    ]
    request = from_document(SPACE, "test")
    assert request.resources.mps == "auto"
    assert not check_request(request, Options(tmp_path))[1]


@pytest.mark.parametrize("value", [True, False, "auto"])
def test_the_option_is_auto_true_or_false(value: bool | str) -> None:
    assert from_document({**SPACE, "resources": {"mps": value}}, "test").resources.mps == value


def test_another_value_of_the_option_is_refused() -> None:
    with pytest.raises(SpaceError) as refused:
        from_document({**SPACE, "resources": {"mps": "maybe"}}, "test")
    assert str(refused.value) == (
        "test, resources: mps must be a valid boolean or be 'auto', and is 'maybe'."
    )


def test_without_gpus_nobody_asks_for_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "here", lambda: Machine((Node(2, 0),)))
    monkeypatch.setenv("PATH", str(tmp_path))
    request = from_document({**SPACE, "resources": {"mps": True}}, "test")
    assert not check_request(request, Options(tmp_path))[1]


def test_the_service_is_not_for_a_cluster_whose_nodes_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: StandIn
) -> None:
    monkeypatch.setattr(session, "cluster_at", lambda address: Machine((Node(2, 1),), address))
    request = from_document({**SPACE, "resources": {"mps": True}}, "test")
    _, problems = check_request(request, Options(tmp_path, address="10.0.0.1:6379"))
    assert [str(problem) for problem in problems] == [
        "resources.mps true is for the GPUs of this machine, and --address names a cluster; start"
        " the service on its nodes, and leave resources.mps out"
    ]
    plan, problems = check_request(
        from_document(SPACE, "test"), Options(tmp_path, address="10.0.0.1:6379")
    )
    assert not problems
    assert plan is not None
    with study._service(plan) as service:
        assert not service.runs
        assert service.why == (
            f"{TURNS}resources.mps auto is for the GPUs of this machine, not for a cluster's"
        )
    assert not stand_in.started


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
    ("share", "asked", "expected"),
    [(0.5, "auto", 1), (0.5, True, 1), (1.0, True, 0), (0.5, False, 0)],
)
def test_the_workers_of_a_search_whose_trials_share_a_gpu_find_one_service_for_all_of_them(
    stand_in: StandIn, tmp_path: Path, share: float, asked: bool | str, expected: int
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    document = {**SPACE, "resources": {"mps": asked, "gpus_per_trial": share}}
    plan = StudyPlan(
        from_document(document, "test"), Options(provide(tmp_path / "results")),
        datasets.load_data("synthetic"), {}, Machine((Node(2, 1),)), TrialResources(1, share, round(1 / share)),
    )  # fmt: skip
    said = io.StringIO()
    study.run_study(plan, Console(file=said, width=200), Finds(seen))
    assert said.getvalue().count("Multi-Process Service") == expected
    found = {path.read_text() for path in seen.iterdir()}
    assert len(list(seen.iterdir())) == 4
    assert {record.state for record in open_ledger(plan.storage, plan.request).records} == {
        State.FAIL
    }
    assert len(stand_in.started) == expected
    assert (found == {"none"}) is not bool(expected)
    assert len(found) == 1
    assert all(
        until(lambda process=process: not is_running(process)) for process in stand_in.started
    )
