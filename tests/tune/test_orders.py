"""Laws of what a person asks of a running study: to stop a trial, to try one again, to end.

The conductor is given the messages of workers by hand; Ray is not started, the ledger is real.
"""

import contextlib
import io
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.files import write_json_atomically
from tests.replayed import EPOCHS, ROOT, Search, begun, read_table
from tests.tune.test_retries import Desk, Unseen, desk
from tune.engine import mps
from tune.engine.messages import Failure, Then
from tune.ledger.ledger import Ledger
from tune.ledger.orders import Deed, Order, order_of, orders_name, place_order, read_orders
from tune.ledger.reading import read_ledger
from tune.ledger.records import Point, State
from tune.request.file import from_document
from tune.status import main
from tune.store.folder import STUDY_FORMAT
from tune.study import conductor as study
from tune.study.candidates import may_be_chosen, to_continue
from tune.study.limits import Limits
from tune.study.progress import Progress


@pytest.fixture(autouse=True)
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TrackingThread", Unseen)
    monkeypatch.setattr(study, "LOOK_SECONDS", 0.0)


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'again' / 'study.db'}"


def ask(folder: Path, deed: Deed, trial: int | None = None, token: int = 0) -> Order:
    order = order_of(deed, trial, token)
    place_order(url(folder), "again", order)
    return order


def answers(folder: Path) -> list[str]:
    return [
        "" if one.answer is None else one.answer.said for one in read_orders(url(folder), "again")
    ]


@contextlib.contextmanager
def driven(folder: Path, parallel: int = 1, **changes: Any) -> Iterator[Desk]:
    with desk(folder, 0.0, parallel, gpus=0, **changes) as at, at.ledger.claim:
        yield at


def test_a_trial_that_a_person_stops_ends_after_its_epoch_keeps_its_epochs_and_says_who(
    tmp_path: Path,
) -> None:
    with driven(tmp_path) as at:
        first = at.conductor.hand_out()
        assert first is not None
        assert not at.trained(first, 1)
        order = ask(tmp_path, Deed.STOP, first.trial)
        assert at.conductor.hand_out() is None  # looked, and the epoch runs
        assert answers(tmp_path) == [""]
        assert at.trained(first, 2)
        stopped = at.ledger.records[first.trial]
        assert (stopped.state, len(stopped.epochs), stopped.by_person) == (State.PRUNED, 2, True)
        assert stopped.reason == f"stopped after epoch 2: {order.by} asked for it"
        assert answers(tmp_path) == ["stopped after 2 epochs"]
        following = at.conductor.hand_out()
        assert following is not None
        assert following.trial == first.trial + 1
        read = read_ledger(url(tmp_path), "again")
        assert read is not None
        assert read.records[first.trial] == stopped


def test_a_trial_that_a_person_stopped_is_not_continued_by_the_confirmation(
    tmp_path: Path,
) -> None:
    confirmed = from_document(
        {
            "study": "again", "data": "synthetic", "fixed": {"optim.epochs": 3},
            "space": {"optim.learning_rate": {"low": 1e-5, "high": 0.1}}, "confirm": {"top": 3},
        },
        "test",
    )  # fmt: skip
    with driven(tmp_path) as at:
        for number in range(2):
            one = at.conductor.hand_out()
            assert one is not None
            at.trained(one, 1)
            if number:
                ask(tmp_path, Deed.STOP, one.trial)
            at.trained(one, 2) or at.trained(one, 3)
        chosen = study.confirmation.choose(at.ledger.records, confirmed)
        assert at.ledger.records[1].state is State.PRUNED
        assert to_continue(at.ledger.records, chosen) == ()
        assert 1 not in may_be_chosen(at.ledger.records, confirmed, chosen)


@pytest.mark.parametrize("failed", [True, False])
def test_a_trial_that_failed_or_was_stopped_is_tried_again_and_can_become_complete(
    tmp_path: Path, failed: bool
) -> None:
    with driven(tmp_path) as at:
        first = at.conductor.hand_out()
        assert first is not None
        at.trained(first, 1)
        if failed:
            at.conductor.take_in(first, Failure("loss is nan", Then.FAIL, 2.0))
        else:
            ask(tmp_path, Deed.STOP, first.trial)
            at.trained(first, 2)
        ended = at.ledger.records[first.trial]
        assert ended.state is (State.FAIL if failed else State.PRUNED)
        ask(tmp_path, Deed.REQUEUE, first.trial)
        again = at.conductor.hand_out()
        assert again is not None
        assert (again.trial, again.attempt) == (first.trial, 2)
        assert again.known_epochs == len(ended.epochs)
        at.done(again)
        record = at.ledger.records[first.trial]
        assert (record.state, record.as_stopped.state) == (
            State.COMPLETE,
            State.COMPLETE if failed else State.PRUNED,
        )
        was = "failed after epoch 1" if failed else "stopped after epoch 2"
        assert record.reason == f"{was}, tried again because a person asked"
        read = read_ledger(url(tmp_path), "again")
        assert read is not None
        assert read.records == at.ledger.records


def test_an_order_outlives_the_driver_and_is_carried_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first driver dies before it looks, the second between its deed and its answer."""
    with driven(tmp_path) as at:
        one = at.conductor.hand_out()
        assert one is not None
        at.trained(one, 1)
        ask(tmp_path, Deed.STOP, one.trial)

    class Died(Exception):
        pass

    def die(point: str) -> None:
        if point == "obeyed":
            raise Died

    monkeypatch.setattr(study.faults, "passing", die)
    with (
        contextlib.suppress(AssertionError),
        driven(tmp_path) as at,
    ):
        assert isinstance(at.conductor.error, Died)
        at.conductor.error = None
        assert answers(tmp_path) == [""]
    monkeypatch.undo()
    monkeypatch.setattr(study, "TrackingThread", Unseen)
    with driven(tmp_path) as at:
        assert answers(tmp_path) == ["stopped after 1 epoch"]
        stopped = at.ledger.records[one.trial]
        assert (stopped.state, len(stopped.obeyed), stopped.attempts) == (State.PRUNED, 1, 1)
    with driven(tmp_path) as at:
        assert at.ledger.records[one.trial] == stopped


def test_a_drain_ends_the_run_after_the_running_epochs_and_the_next_run_goes_on(
    tmp_path: Path,
) -> None:
    with driven(tmp_path, parallel=2) as at:
        handed = at.hand_out_all()
        assert len(handed) == 2
        ask(tmp_path, Deed.DRAIN, token=at.ledger.claim.token)
        assert at.trained(handed[0], 1)
        assert not at.conductor.finished
        assert at.conductor.hand_out() is None
        assert at.trained(handed[1], 1)
        assert at.conductor.finished
        assert "asked it to end" in at.conductor._limits.why
        token = at.ledger.claim.token
    with driven(tmp_path, parallel=2) as at:
        late = ask(tmp_path, Deed.DRAIN, token=token)  # meant for the run that has ended
        assert not at.conductor.finished
        again = at.hand_out_all()
        assert [(one.trial, one.known_epochs) for one in again] == [(0, 1), (1, 1)]
        assert read_orders(url(tmp_path), "again")[-1].answer is not None
        assert late.token != at.ledger.claim.token


def test_an_order_that_comes_too_late_is_answered_and_changes_nothing(tmp_path: Path) -> None:
    with driven(tmp_path) as at:
        one = at.conductor.hand_out()
        assert one is not None
        ask(tmp_path, Deed.STOP, one.trial)
        ask(tmp_path, Deed.STOP, 7)
        at.done(one)
        before = at.ledger.records[0]
        ask(tmp_path, Deed.REQUEUE, one.trial)
        assert at.conductor.hand_out() is not None
        assert at.ledger.records[0] == before
        assert before.state is State.COMPLETE
    assert sorted(answers(tmp_path)) == [
        "it had ended before: COMPLETE", "it is COMPLETE", "there is no such trial",
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["is done", "died"])
def test_an_order_to_stop_is_answered_at_once_however_the_attempt_ends(
    tmp_path: Path, how: str
) -> None:
    with driven(tmp_path) as at:
        one = at.conductor.hand_out()
        assert one is not None
        at.trained(one, 1)
        ask(tmp_path, Deed.STOP, one.trial)
        at.done(one) if how == "is done" else at.died(one)
        done = how == "is done"
        assert answers(tmp_path) == [
            "it had ended before: COMPLETE" if done else "stopped after 1 epoch"
        ]
        assert at.ledger.records[0].state is (State.COMPLETE if done else State.PRUNED)
        following = at.conductor.hand_out()
        assert following is not None
        assert following.trial == 1


def test_an_order_for_a_trial_of_the_search_touches_no_trial_of_the_confirmation(
    tmp_path: Path,
) -> None:
    """The trials of both are numbered from 0, and those of the search are more."""
    with driven(tmp_path) as at:
        while (one := at.conductor.hand_out()) is not None:
            at.done(one)
        plan, (best, *_) = at.conductor._plan, at.ledger.records
        asked = study.confirmation.confirming_request(plan.request)
        wanted = [Point("trial 0", best.params, best.settings)]
        confirming = Ledger(at.ledger.claim, asked, wanted)
        phase = study._confirm_phase(plan, at.ledger, confirming, ())
        with (
            Progress(1, Console(file=io.StringIO()), "confirm") as progress,
            study._Conductor(plan, phase, progress, Limits(), mps.turns("")) as conductor,
        ):
            one = conductor.hand_out()
            assert one is not None
            for deed, trial in ((Deed.STOP, 0), (Deed.REQUEUE, 0), (Deed.STOP, 8)):
                ask(tmp_path, deed, trial)
            assert conductor.hand_out() is None
            assert answers(tmp_path) == ["the search had ended, and its best are confirmed"] * 3
            assert Desk(conductor, confirming).trained(one, 3)
        assert [record.state for record in confirming.records] == [State.COMPLETE]


def test_an_order_that_no_driver_of_this_version_knows_ends_neither_driver_nor_reader(
    tmp_path: Path,
) -> None:
    known = {"deed": "stop", "trial": 0, "by": "somebody", "at": 1, "token": 0}
    with driven(tmp_path) as at:
        one = at.conductor.hand_out()
        assert one is not None
        orders = at.ledger.claim.database.made_study(orders_name("again"))
        for name, content in {
            "order a": {**known, "deed": "dance"}, "order b": "stop", "order c": {"deed": "stop"},
            "order d": {**known, "trial": "first"}, "order e": {**known, "priority": 3},
        }.items():  # fmt: skip
            orders.set_attribute(name, content)
        assert [order.id for order in read_orders(url(tmp_path), "again")] == ["e"]
        assert at.trained(one, 1)
        assert at.ledger.records[0].state is State.PRUNED


def test_an_order_adds_rows_and_changes_none(tmp_path: Path) -> None:
    def rows() -> set[tuple[str, tuple[Any, ...]]]:
        path = tmp_path / "again" / "study.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {
                (name, row)
                for (name,) in names.fetchall()
                for row in connection.execute(f'SELECT * FROM "{name}"')
            }

    with driven(tmp_path) as at:
        at.conductor.hand_out()
        before = rows()
        for deed in (Deed.STOP, Deed.REQUEUE, Deed.STOP):
            ask(tmp_path, deed, 0)
            after = rows()
            assert before < after
            before = after


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--stop", "9"], "--stop must name a trial of again, which has trials 0 to 2, and is 9"),
        (["--stop", "0"], "only a trial that runs can be stopped, and it is complete"),
        (["--requeue", "2"], "gets another attempt, and it runs"),
        (["--drain"], "nobody drives again"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    some_study(tmp_path)
    assert main(["--study", "again", "--results", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert said.err.count("\n") == 1
    assert read_orders(url(tmp_path), "again") == []


def test_the_command_leaves_an_order_that_the_screen_shows_and_refuses_it_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some_study(tmp_path)
    asked = ["--study", "again", "--results", str(tmp_path), "--requeue", "1"]
    assert main(asked) == 0
    assert "Asked of again: requeue trial 1; nobody drives the study" in capsys.readouterr().out
    assert main(asked) == 2
    assert "has been asked already" in capsys.readouterr().err
    assert main(asked[:4]) == 0
    shown = capsys.readouterr().out
    assert "asked: requeue trial 1, by " in shown
    assert "the next driver obeys" in shown
    with driven(tmp_path) as at:
        assert at.ledger.records[1].state is State.RUNNING
    assert main(asked[:4]) == 0
    assert ": it gets another attempt" in capsys.readouterr().out


def some_study(folder: Path) -> None:
    """A study that nobody drives: a complete trial, a failed one, and one to be continued."""
    with driven(folder) as at:
        for number in range(3):
            one = at.conductor.hand_out()
            assert one is not None
            if number == 0:
                at.done(one)
            elif number == 1:
                at.conductor.take_in(one, Failure("loss is nan", Then.FAIL, 2.0))
            else:
                at.trained(one, 1)
        request = at.conductor._plan.request
    description = {
        "format": STUDY_FORMAT, "created": "2026", "request": request.to_document(),
        "data": {"where": "synthetic"}, "storage": None, "tracking_uri": None,
    }  # fmt: skip
    write_json_atomically(folder / "again" / "study.json", description)


@pytest.mark.study
def test_a_search_that_is_drained_from_another_process_loses_nothing_and_is_continued(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path, do=("--epoch-seconds", "1"))
    driver = search.start()
    search.wait_for("0-1-1", driver)
    done = subprocess.run(
        [
            sys.executable, "-m", "tune.status", "--study", "faulty",
            "--results", str(search.results), "--drain",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert driver.wait(280) == 0, search.err
    assert "asked it to end after the running epochs" in search.out
    rows = read_table(search.results / "faulty")
    assert "RUNNING" in {row["state"] for row in rows} or len(rows) < 6
    assert search.run() == 0, search.err
    search.assert_complete(6)
    epochs = [(trial, epoch) for trial, epoch, _ in begun(search.witness)]
    assert len(epochs) == len(set(epochs)) == 6 * EPOCHS
