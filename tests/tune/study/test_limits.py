"""Laws of budgets: no more is trained than they allow, over all runs of a study, and a larger one
continues. Ray is not started.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tune.test_retries import Desk, Unseen, desk
from tune.engine.messages import Assignment, Failure, Then
from tune.ledger.records import State, TrialRecord
from tune.request.request import Resources
from tune.study import conductor as study
from tune.study.duration import Span, forecast_of
from tune.study.limits import Limits, Spent, budget_lines, spent_on


@pytest.fixture(autouse=True)
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TrackingThread", Unseen)


def train_until_it_ends(at: Desk, limits: Limits) -> int:
    """Train all that is handed out, an epoch of each trial in turn; number of epochs."""
    at.conductor._limits = limits
    trained = 0
    running: dict[int, tuple[Assignment, int]] = {}
    while True:
        for one in at.hand_out_all():
            running[one.trial] = one, one.known_epochs
        if not running:
            assert at.conductor.finished
            return trained
        for one, known in list(running.values()):
            trained += 1
            running[one.trial] = one, known + 1
            if at.trained(one, known + 1):
                del running[one.trial]


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_a_budget_of_epochs_holds_over_runs_and_a_larger_one_finishes_the_study(
    tmp_path: Path, parallel: int
) -> None:
    with desk(tmp_path, 0.0, parallel, gpus=0) as at, at.ledger.claim:
        assert train_until_it_ends(at, limits := Limits(epochs=7)) == 7
        assert not at.ledger.finished
        assert all(one.state in (State.COMPLETE, State.RUNNING) for one in at.ledger.records)
    assert limits.why.startswith("7 of its budget of 7 epochs are trained")
    with desk(tmp_path, 0.0, parallel, gpus=0) as at, at.ledger.claim:
        assert train_until_it_ends(at, Limits(epochs=7)) == 0
    with desk(tmp_path, 0.0, parallel, gpus=0) as at, at.ledger.claim:
        assert train_until_it_ends(at, Limits(epochs=27)) == 20
        assert at.ledger.finished


def test_a_trial_that_made_way_for_the_budget_goes_on_where_another_leaves_room(
    tmp_path: Path,
) -> None:
    """The last epoch that the budget allows is begun by a trial that fails in it."""
    two = {"sampler": "random", "trials": 2, "seed": 0}
    with desk(tmp_path, 0.0, 2, gpus=0, search=two) as at, at.ledger.claim:
        at.conductor._limits = Limits(epochs=3)
        first, second = at.hand_out_all()
        assert not at.trained(first, 1)
        assert at.trained(second, 1)  # the third epoch is that of the first trial
        at.conductor.take_in(first, Failure("loss is nan", Then.FAIL))
        again = at.conductor.hand_out()
        assert again is not None
        assert (again.trial, again.known_epochs) == (second.trial, 1)
        assert at.trained(again, 2)
        assert at.conductor.finished


def test_no_trial_begins_that_the_budget_ends_before_its_first_rung(tmp_path: Path) -> None:
    rule = {"rule": "successive_halving", "min_epochs": 2, "reduction": 2}
    with desk(tmp_path, 0.0, 1, gpus=0, stop_early=rule) as at, at.ledger.claim:
        assert train_until_it_ends(at, Limits(epochs=4)) == 3
        assert [one.state for one in at.ledger.records] == [State.COMPLETE]


def test_a_budget_of_gpu_hours_counts_the_part_of_the_gpu_and_the_time_that_was_lost(
    tmp_path: Path,
) -> None:
    """An epoch takes a second, and half a GPU."""
    with desk(tmp_path, 0.5, 1) as at, at.ledger.claim:
        assert train_until_it_ends(at, limits := Limits(gpu_hours=5.4 * 0.5 / 3600)) == 5
    assert "--gpu-hour-budget continues" in limits.why
    lost = TrialRecord(0, lost_seconds=7200.0, gpu_share=0.5)
    assert spent_on([lost, lost]) == Spent(0, 2.0)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 8), st.integers(1, 5))
def test_what_is_allowed_never_exceeds_the_budget(
    budget: int, spent: int, running: int, more: int
) -> None:
    allowed = Limits(epochs=budget).allows(Spent(spent, 0.0), running, more)
    assert allowed == (spent + running + more <= budget)


@settings(max_examples=50)
@given(st.integers(1, 100), st.floats(0, 50), st.floats(0, 50))
def test_a_plan_says_that_a_budget_ends_a_study_only_where_it_may(
    budget: int, low: float, more: float
) -> None:
    (line,) = budget_lines(
        Resources(epoch_budget=budget), Spent(0, 0.0), Span(low, low + more), None, on_gpu=False
    )
    enough, short = "the budget is enough", "the budget ends the study early"
    assert (enough in line) + (short in line) + ("the budget may end" in line) == 1
    assert (enough in line) == (budget >= -(-(low + more) // 1))


def test_a_plan_says_what_a_budget_of_gpu_hours_cannot_limit_or_foresee() -> None:
    asked = Resources(gpu_hour_budget=40.0)
    (line,) = budget_lines(asked, Spent(0, 0.0), Span(1, 2), None, on_gpu=False)
    assert "trials run on processors here, which it does not limit" in line
    (line,) = budget_lines(asked, Spent(0, 0.0), Span(1, 2), None, on_gpu=True)
    assert "is not known before an epoch has run" in line
    (line,) = budget_lines(asked, Spent(9, 3.0), Span(1, 2), Span(20, 60), on_gpu=True)
    assert "40.00 GPU hours, 3.00 of them spent; the rest of the study takes 20.00 to 60.00" in line
    assert "so the budget may end the study early" in line


def test_the_epochs_left_of_a_study_are_those_of_the_search_and_of_the_confirmation(
    tmp_path: Path,
) -> None:
    with desk(tmp_path, 0.0, 1, gpus=0, confirm={"top": 2, "seeds": 3}) as at, at.ledger.claim:
        request = at.conductor._plan.request
        forecast = forecast_of(request, 3, 1)
        assert forecast.epochs_left(()) == Span(9 * 3 + 6 * 3, 9 * 3 + 6 * 3)
        one = at.conductor.hand_out()
        assert one is not None
        at.done(one)
        left = forecast_of(request, 3, 1, records=at.ledger.records)
        assert left.epochs_left(at.ledger.records) == Span(8 * 3 + 6 * 3, 8 * 3 + 6 * 3)
