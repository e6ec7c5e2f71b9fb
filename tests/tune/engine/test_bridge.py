"""Laws of the messages between driver and workers, and of what Ray makes of them.

Ray is not started.
"""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from ray.tune.execution import tune_controller
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict

from tune.engine.bridge import LedgerScheduler, LedgerSearcher
from tune.engine.messages import (
    Assignment,
    Cause,
    Failure,
    History,
    Then,
    WorkerLost,
    assignment_in,
    message_in,
    to_config,
    to_result,
)

PLAIN = (dict, list, str, int, float, bool, type(None))
values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
assignments = st.builds(
    Assignment,
    trial=st.integers(0),
    attempt=st.integers(1),
    folder=st.text(),
    settings=st.dictionaries(st.text(), values),
    known_epochs=st.integers(0),
    gpus=st.floats(0, 1),
)
messages = st.one_of(
    st.builds(History, st.lists(st.dictionaries(st.text(), values))),
    st.builds(Failure, st.text(), st.sampled_from(Then), st.floats(0)),
)


def only_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(only_plain(inner) for inner in (*value, *value.values()))
    if isinstance(value, list):
        return all(only_plain(inner) for inner in value)
    return isinstance(value, PLAIN)


class Desk:
    """Hands out one attempt, and keeps what it is told."""

    def __init__(self, assignment: Assignment, finished: bool = False, ended: bool = False) -> None:
        self.assignment, self.finished, self.ended = assignment, finished, ended
        self.told: list[tuple[Assignment, History | Failure | WorkerLost]] = []

    def hand_out(self) -> Assignment | None:
        return self.assignment

    def begun(self, assignment: Assignment) -> None:
        raise AssertionError(assignment)

    def take_in(self, assignment: Assignment, message: History | Failure | WorkerLost) -> bool:
        self.told.append((assignment, message))
        return self.ended


@given(assignments, messages, st.booleans())
def test_what_one_side_says_reaches_the_other_as_it_was_said(
    assignment: Assignment, message: History | Failure, ended: bool
) -> None:
    desk = Desk(assignment, ended=ended)
    config = LedgerSearcher(desk).suggest("of Ray's")
    carried = pickle.loads(pickle.dumps(to_result(message)))
    trial = SimpleNamespace(config=pickle.loads(pickle.dumps(config)))
    result = flatten_dict({**carried, "done": False, "config": config})
    answer = LedgerScheduler(desk).on_trial_result(None, trial, result)
    assert desk.told == [(assignment, message)]
    assert (answer == TrialScheduler.STOP) is ended
    assert only_plain(config)
    assert only_plain(carried)
    assert assignment_in(to_config(assignment)) == assignment
    assert message_in(to_result(message)) == message


def test_a_finished_desk_ends_rays_search() -> None:
    assert LedgerSearcher(Desk(NOTHING, finished=True)).suggest("") == Searcher.FINISHED


NOTHING = Assignment(0, 1, "", {}, 0)
GPU = """
ray::TrialWorker.train() (pid=7, ip=127.0.0.1)
  File "tune/engine/worker.py", line 1, in step
tune.engine.messages.GpuFailed: CUDA error: an illegal memory access was encountered
"""


@pytest.mark.parametrize(
    ("text", "reason", "cause"),
    [
        (None, "its worker process died", Cause.DIED),
        ("", "its worker process died", Cause.DIED),
        ("The actor died: ActorDiedError\nmore", "its worker process died", Cause.DIED),
        ("the worker\n process has died", "its worker process died", Cause.DIED),
        (
            "The actor 65 is unavailable: The actor is temporarily unavailable: Socket closed",
            "its node does not answer any more",
            Cause.NODE_DIED,
        ),
        (
            "ActorDiedError\nThe actor died because its node has died.",
            "its node does not answer any more",
            Cause.NODE_DIED,
        ),
        (
            GPU,
            "the GPU failed its worker: CUDA error: an illegal memory access was encountered",
            Cause.GPU_FAILED,
        ),
        (
            GPU.replace("GpuFailed", "NoGpu"),
            "its worker found no GPU that it could use: CUDA error: an illegal memory access was"
            " encountered",
            Cause.NO_GPU,
        ),
        (
            "Traceback\nImportError: no tune\n",
            "its worker could not run: ImportError: no tune",
            Cause.COULD_NOT_RUN,
        ),
    ],
)
def test_the_text_that_ray_leaves_says_why_a_worker_is_lost(
    text: str | None, reason: str, cause: Cause, tmp_path: Path
) -> None:
    file = tmp_path / "error.txt"
    if text is not None:
        file.write_text(text)
    desk = Desk(NOTHING)
    trial = SimpleNamespace(
        config=to_config(NOTHING), error_file=None if text is None else str(file)
    )
    LedgerScheduler(desk).on_trial_error(None, trial)
    ((assignment, lost),) = desk.told
    assert assignment == NOTHING
    assert isinstance(lost, WorkerLost)
    assert (lost.reason, lost.cause) == (reason, cause)


def test_ray_starts_every_worker_that_it_is_handed_a_trial_for_without_waiting_for_the_one_before() -> (
    None
):
    """Of a searcher of one's own Ray would start one worker after the other."""
    assert tune_controller._get_max_pending_trials(LedgerSearcher(Desk(NOTHING))) >= 1000
