"""Laws of the ledger.

Plain Optuna reads beside it and is the oracle for what the database holds.
"""

import contextlib
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from core.errors import ClaimLost, StorageError, StudyError
from tune import database, processes
from tune.ledger.claim import BEAT_SECONDS, CLAIM_SECONDS, CLAIMS, Claim
from tune.ledger.importances import importances
from tune.ledger.ledger import MAX_LOST, Ledger, open_ledger
from tune.ledger.proposals import preview
from tune.ledger.reading import read_ledger, remembered_facts
from tune.ledger.records import State, TrialRecord, best_of
from tune.ledger.selections import (
    CHOSEN_KEY,
    NOTHING_CHOSEN,
    Estimate,
    Selection,
    Selections,
    stored_selections,
)
from tune.request.file import from_document
from tune.request.request import StudyRequest
from tune.stopping.hope import NO_HOPE

SPACE: dict[str, Any] = {
    "study": "law",
    "data": "synthetic",
    "fixed": {"optim.epochs": 9},
    "space": {
        "optim.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "optim.restarts": [0, 1, 3],
        "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1, 3]}},
        "augment.elastic": [True, False],
    },
    "start": [{"optim.learning_rate": 0.001, "optim.restarts": 0}],
    "search": {"sampler": "tpe", "trials": 12, "seed": 3},
    "stop_early": {"rule": "successive_halving", "min_epochs": 1, "reduction": 3},
}
VARIANTS: dict[str, Any] = {
    "study": "law",
    "data": "synthetic",
    "fixed": {"optim.epochs": 2},
    "variants": {
        "plain": {},
        "flip": {"augment.horizontal_flip": True},
        "deep": {"model.trainable_layers": 5},
    },
    "baseline": "plain",
    "seeds": 2,
}


def request(document: dict[str, Any], **changes: Any) -> StudyRequest:
    return from_document({**document, **changes}, "test")


def epoch(number: int, ap50: float) -> dict[str, Any]:
    return {"epoch": number, "ap50": ap50, "seconds": 1.5, "losses": {"loss": 1.0}}


def told(url: str, *statements: Any, **values: Any) -> list[Any]:
    """Run statements in a database, in one transaction; the rows of the last."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.begin() as connection:
        for one in statements:
            what = sqlalchemy.text(one) if isinstance(one, str) else one
            found = connection.execute(what, values)
        return list(found) if found.returns_rows else []


def run_epochs(ledger: Ledger, record: TrialRecord, quality: float) -> None:
    history: list[dict[str, Any]] = []
    for number in range(1, record.planned_epochs + 1):
        history.append(epoch(number, quality * number / record.planned_epochs))
        if ledger.report(record.id, history):
            return


def by_learning_rate(record: TrialRecord) -> float:
    return float(record.params["optim.learning_rate"]) * 100


def run_all(ledger: Ledger, quality: Callable[[TrialRecord], float] = by_learning_rate) -> None:
    while (record := ledger.next()) is not None:
        run_epochs(ledger, record, quality(record))


def read_with_plain_optuna(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="law", storage=url).trials


def test_a_study_has_exactly_the_trials_it_was_asked_for_each_in_an_end_state(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    run_all(ledger)
    assert ledger.finished
    trials = read_with_plain_optuna(url)
    assert len(trials) == 12
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}


def test_plain_optuna_reads_every_epoch_and_the_best_score(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    run_all(ledger)
    for trial, record in zip(read_with_plain_optuna(url), ledger.records, strict=True):
        assert list(trial.intermediate_values.values()) == record.curve
        assert trial.params == dict(record.params)
        if record.state is State.COMPLETE:
            assert trial.value == max(record.curve)
            assert len(record.curve) == 9


def stopped_trial(ledger: Ledger) -> TrialRecord:
    return next(record for record in ledger.records if record.state is State.PRUNED)


def test_a_stopped_trial_that_is_continued_is_one_trial_whoever_reads_and_whenever_a_driver_dies(
    url: str,
) -> None:
    """A ledger is opened anew after every epoch. Optuna keeps the trial as it was stopped."""
    ledger = open_ledger(url, request(SPACE))
    run_all(ledger)
    before, stopped = read_with_plain_optuna(url), stopped_trial(ledger)
    known = len(stopped.epochs)
    ledger.reopen(stopped.id)
    history = [dict(one) for one in stopped.epochs]
    for number in range(known + 1, 10):
        ledger = open_ledger(url, request(SPACE))
        assert not ledger.finished
        record = ledger.next()
        assert record is not None
        assert (record.id, record.attempts) == (stopped.id, number - known + 1)
        assert (record.state, len(record.epochs)) == (State.RUNNING, number - 1)
        assert record.as_stopped.epochs == stopped.epochs
        history.append(epoch(number, 0.0))  # far behind, and not stopped
        assert ledger.report(stopped.id, history) == (number == 9)
        ledger.note_mlflow_run(stopped.id, "run")
    reading = read_ledger(url, "law")
    assert reading is not None
    assert reading.records == ledger.records == open_ledger(url, request(SPACE)).records
    record = ledger.records[stopped.id]
    assert (record.state, record.continued_after, len(record.epochs)) == (State.COMPLETE, known, 9)
    assert record.reason == (
        f"stopped early after epoch {known}, continued before the confirmation"
    )
    assert record.as_stopped.epochs == stopped.epochs
    assert ledger.finished
    assert open_ledger(url, request(SPACE)).next() is None
    assert read_with_plain_optuna(url) == before


def test_a_continued_trial_that_loses_its_last_attempt_fails_and_another_is_tried_before(
    url: str,
) -> None:
    ledger = open_ledger(url, request(SPACE))
    run_all(ledger)
    number = stopped_trial(ledger).id
    ledger.reopen(number)
    for lost in range(MAX_LOST + 1):
        assert ledger.next() is not None
        assert ledger.lost(number, "its worker died") == (lost < MAX_LOST)
    assert ledger.finished
    record = open_ledger(url, request(SPACE)).records[number]
    assert (record.state, record.reason) == (State.FAIL, "its worker died (3 times)")
    assert record.as_stopped == record


def test_importances_are_over_continued_trials_as_well(url: str) -> None:
    """Optuna has them as stopped, with the score that they had then."""
    ledger = open_ledger(url, request(SPACE))
    run_all(ledger)
    stopped = [record for record in ledger.records if record.state is State.PRUNED]
    for record in stopped:
        ledger.reopen(record.id)
        further = range(len(record.epochs) + 1, 10)
        ledger.report(record.id, [*record.epochs, *(epoch(number, 0.9) for number in further)])
    assert stopped
    whole = optuna.create_study(direction="maximize")
    for trial, record in zip(
        optuna.load_study(study_name="law", storage=url).trials, ledger.records, strict=True
    ):
        whole.add_trial(
            optuna.trial.create_trial(
                value=record.ap50, params=trial.params, distributions=trial.distributions
            )
        )
    expected = optuna.importance.get_param_importances(whole)
    assert importances(url, "law") == pytest.approx(expected)


def test_the_reason_of_a_stopped_trial_says_by_which_rule_it_ended(url: str) -> None:
    ledger = open_ledger(
        url,
        request(SPACE, stop_early={"rule": "successive_halving", "min_epochs": 2, "reduction": 3}),
    )
    for quality in (0.5, 0.6, 0.7):
        record = ledger.next()
        assert record is not None
        assert ledger.report(record.id, [epoch(number, quality) for number in range(1, 10)])
    behind, hopeless = ledger.next(), ledger.next()
    assert behind is not None
    assert hopeless is not None
    assert ledger.report(behind.id, [epoch(number, 0.1) for number in (1, 2)])
    assert not ledger.report(hopeless.id, [epoch(number, 0.8) for number in (1, 2)])
    history = [epoch(number, 0.8) for number in (1, 2)]
    for quality in (0.9, 0.95, 0.99):
        record = ledger.next()
        assert record is not None
        assert ledger.report(record.id, [epoch(number, quality) for number in range(1, 10)])
    assert ledger.report(hopeless.id, [*history, epoch(3, 0.8)])
    known = {record.id: record.reason for record in read_reasons(url)}
    assert known[behind.id] == "stopped early after epoch 2: not among the best 1 in 3 at this rung"
    assert known[hopeless.id] == f"stopped early after epoch 3: {NO_HOPE}"


def read_reasons(url: str) -> tuple[TrialRecord, ...]:
    reading = read_ledger(url, "law")
    assert reading is not None
    return reading.records


def test_trials_stopped_early_keep_their_epochs_and_are_never_best(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    first = ledger.next()
    assert first is not None
    run_epochs(ledger, first, 0.5)
    second = ledger.next()
    assert second is not None
    assert ledger.report(second.id, [epoch(1, 0.01)])
    pruned = ledger.records[second.id]
    assert (pruned.state, pruned.curve) == (State.PRUNED, [0.01])
    assert ledger.best is not None
    assert ledger.best.id == first.id


def test_only_active_settings_are_drawn_and_start_points_come_first(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    run_all(ledger)
    first = ledger.records[0].params
    assert (first["optim.learning_rate"], first["optim.restarts"]) == (0.001, 0)
    for record in ledger.records:
        assert ("optim.restart_multiplier" in record.params) == (
            record.params["optim.restarts"] != 0
        )


def test_the_settings_of_a_trial_are_its_params_over_the_fixed_over_the_defaults(url: str) -> None:
    record = open_ledger(url, request(SPACE)).next()
    assert record is not None
    assert record.settings["optim.epochs"] == 9
    assert record.settings["optim.weight_decay"] == 0.01
    assert {name: record.settings[name] for name in record.params} == dict(record.params)


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_a_study_that_is_reopened_after_every_trial_proposes_what_an_uninterrupted_one_does(
    url: str, sampler: str
) -> None:
    search = {"sampler": sampler, "trials": 14, "seed": 3}
    whole, broken = (request(SPACE, study=name, search=search) for name in ("whole", "broken"))
    run_all(open_ledger(url, whole))
    while (record := (ledger := open_ledger(url, broken)).next()) is not None:
        run_epochs(ledger, record, by_learning_rate(record))
    first, second = open_ledger(url, whole).records, open_ledger(url, broken).records
    assert [record.params for record in first] == [record.params for record in second]
    assert [record.curve for record in first] == [record.curve for record in second]


def test_two_seeds_propose_different_trials() -> None:
    proposals = [
        [
            record.params
            for record in preview(request(SPACE, search={"trials": 5, "seed": seed}), 5)[1:]
        ]
        for seed in (1, 2)
    ]
    assert proposals[0] != proposals[1]


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_sampler_that_learns_finds_the_good_region_more_often_than_chance(
    url: str, sampler: str
) -> None:
    def score(record: TrialRecord) -> float:
        return float(record.params["augment.elastic"]) * 0.5 + 0.1

    search = {"sampler": sampler, "trials": 60 if sampler == "tpe" else 30, "seed": 0}
    ledger = open_ledger(url, request(SPACE, search=search, stop_early={"rule": "none"}))
    run_all(ledger, score)
    late = [
        record.params["augment.elastic"] for record in ledger.records[len(ledger.records) // 2 :]
    ]
    assert sum(bool(value) for value in late) > len(late) * 2 / 3


def test_a_trial_that_cannot_come_among_the_best_any_more_is_stopped_between_rungs(
    url: str,
) -> None:
    stop_early = {"rule": "successive_halving", "min_epochs": 2, "reduction": 4}
    ledger = open_ledger(url, request(SPACE, fixed={"optim.epochs": 8}, stop_early=stop_early))
    *whole, last = (record for _ in range(4) if (record := ledger.next()) is not None)
    for record in whole:
        run_epochs(ledger, record, 0.8)
    history = [epoch(number, 0.2) for number in (1, 2)]  # as good as they were after two epochs
    assert not ledger.report(last.id, history)
    assert ledger.report(last.id, [*history, epoch(3, 0.2)])  # they had 0.3, and gained 0.5 since
    assert [record.state for record in ledger.records] == [State.COMPLETE] * 3 + [State.PRUNED]


def test_a_trial_that_lost_its_worker_comes_again_before_new_ones_with_its_next_attempt(
    url: str,
) -> None:
    ledger = open_ledger(url, request(SPACE))
    record = ledger.next()
    assert record is not None
    ledger.report(record.id, [epoch(1, 0.3)])
    assert ledger.lost(record.id, "its worker process died", seconds=7.0)
    again = ledger.next()
    assert again is not None
    assert (again.id, again.attempts, again.curve, again.params) == (
        record.id,
        2,
        [0.3],
        record.params,
    )
    assert again.seconds == 1.5 + 7.0


def test_a_trial_that_keeps_losing_its_worker_fails_with_the_reason(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    for _ in range(MAX_LOST + 1):
        record = ledger.next()
        assert record is not None
        assert record.id == 0
        ledger.lost(0, "its worker process died")
    failed = ledger.records[0]
    assert (failed.state, failed.reason) == (
        State.FAIL,
        f"its worker process died ({MAX_LOST + 1} times)",
    )
    following = ledger.next()
    assert following is not None
    assert following.id == 1


def test_a_failure_has_a_reason_and_no_score(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    record = ledger.next()
    assert record is not None
    ledger.report(record.id, [epoch(1, 0.9)])
    ledger.fail(record.id, "diverged: epoch 2, batch 1: loss is nan")
    trial = read_with_plain_optuna(url)[0]
    assert (trial.state.name, trial.value) == ("FAIL", None)
    assert trial.user_attrs["notes"]["verdict"]["reason"].startswith("diverged")
    assert ledger.best is None


def test_a_failed_trial_is_no_rival_at_a_rung(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    first, second = ledger.next(), ledger.next()
    assert first is not None
    assert second is not None
    ledger.report(first.id, [epoch(1, 0.9)])
    ledger.fail(first.id, "diverged")
    assert not ledger.report(second.id, [epoch(1, 0.1)])


def test_running_trials_of_a_dead_driver_go_on_where_the_ledger_has_them(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    record = ledger.next()
    assert record is not None
    ledger.report(record.id, [epoch(1, 0.3)])
    del ledger
    continued = open_ledger(url, request(SPACE))
    again = continued.next()
    assert again is not None
    assert (again.id, again.attempts, again.curve, again.lost) == (record.id, 2, [0.3], 0)


def test_a_history_that_repeats_known_epochs_enters_each_once(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    record = ledger.next()
    assert record is not None
    history = [epoch(1, 0.3), epoch(2, 0.4)]
    ledger.report(record.id, history[:1])
    ledger.report(record.id, history)
    ledger.report(record.id, history)
    assert ledger.records[0].curve == [0.3, 0.4]
    ledger.catch_up()
    assert read_with_plain_optuna(url)[0].intermediate_values == {1: 0.3, 2: 0.4}


def test_optunas_own_values_follow_the_epochs_by_this_driver_or_by_the_next(url: str) -> None:
    asked = request(SPACE, stop_early={"rule": "none"})
    ledger = open_ledger(url, asked)
    records = [ledger.next() for _ in range(3)]
    kept, left, ended = [record.id for record in records if record is not None]
    ledger.report(kept, [epoch(1, 0.5)])
    ledger.report(ended, [epoch(1, 0.4)])
    ledger.fail(ended, "diverged")
    ledger.report(left, [epoch(1, 0.6)])

    def values() -> list[dict[int, float]]:
        return [trial.intermediate_values for trial in read_with_plain_optuna(url)]

    # A trial that ends has all values, and so have those that reported before it.
    assert [values()[one] for one in (kept, left, ended)] == [{1: 0.5}, {}, {1: 0.4}]
    ledger.report(kept, [epoch(1, 0.5), epoch(2, 0.7)])
    del ledger  # the driver dies here
    open_ledger(url, asked)
    assert [values()[one] for one in (kept, left, ended)] == [{1: 0.5, 2: 0.7}, {1: 0.6}, {1: 0.4}]


@contextlib.contextmanager
def refusing(url: str, table: str) -> Iterator[None]:
    """Let a database refuse new rows of a table for the time of the block."""
    # Errors of its own, since Optuna passes over violated constraints.
    make = [f"CREATE TRIGGER refuse BEFORE INSERT ON {table} BEGIN SELECT json('no'); END"]
    remove = "DROP TRIGGER refuse"
    if url.startswith("postgresql"):
        body = "BEGIN RAISE EXCEPTION 'malformed JSON'; END"
        make = [
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS '{body}'".replace(
                "'malformed JSON'", "''malformed JSON''"
            ),
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse()",
        ]
        remove = "DROP FUNCTION refuse CASCADE"
    told(url, *make)
    yield
    told(url, remove)


def test_an_epoch_that_the_database_refuses_is_not_in_the_ledger_and_comes_again(
    url: str,
) -> None:
    ledger = open_ledger(url, request(SPACE))
    asked = ledger.next()
    assert asked is not None
    with (
        refusing(url, "trial_user_attributes"),
        pytest.raises(StorageError, match="JSON"),
    ):
        ledger.report(asked.id, [epoch(1, 0.1)])
    again = open_ledger(url, request(SPACE))
    assert again.records[asked.id].epochs == ()
    assert not again.report(asked.id, [epoch(1, 0.1)])
    again.catch_up()
    (trial,) = read_with_plain_optuna(url)
    assert trial.intermediate_values == {1: 0.1}


def test_a_verdict_is_stored_with_its_epoch_and_carried_out_by_whoever_comes_next(
    url: str,
) -> None:
    ledger = open_ledger(url, request(SPACE))
    first, second = ledger.next(), ledger.next()
    assert first is not None
    assert second is not None
    ledger.report(first.id, [epoch(1, 0.9)])
    # The driver dies between the epoch with its verdict and all that follows from it.
    with refusing(url, "trial_intermediate_values"), pytest.raises(StorageError):
        ledger.report(second.id, [epoch(1, 0.1)])
    assert read_with_plain_optuna(url)[second.id].state.name == "RUNNING"
    reading = read_ledger(url, "law")
    assert reading is not None
    assert reading.records[second.id].state is State.PRUNED
    # A better first trial would not have pruned it: nothing is judged again.
    again = open_ledger(url, request(SPACE, stop_early={"rule": "none"}))
    assert again.records[second.id] == reading.records[second.id]
    trial = read_with_plain_optuna(url)[second.id]
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {1: 0.1})


def content_of(url: str) -> object:
    """All that a database holds: the bytes of a file, or the rows and tables of a server."""
    file = database.file_of(url)
    if file is not None:
        told(url, "PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    tables = sqlalchemy.inspect(engine).get_table_names()
    return {name: sorted(map(repr, told(url, f"SELECT * FROM {name}"))) for name in tables}


def test_opening_judges_nothing_and_reading_writes_nothing(url: str) -> None:
    lenient = request(SPACE, stop_early={"rule": "none"})
    ledger = open_ledger(url, lenient)
    for quality in (0.9, 0.1):
        record = ledger.next()
        assert record is not None
        ledger.report(record.id, [epoch(1, quality)])
    before = content_of(url)
    for look in (read_ledger, remembered_facts, importances):
        look(url, "law")
    if (file := database.file_of(url)) is not None:
        log = file.with_name("study.db-wal")
        assert not log.exists() or not log.stat().st_size
    assert content_of(url) == before
    strict = open_ledger(url, request(SPACE))  # whose rule would have stopped the second trial
    assert {record.state for record in strict.records} == {State.RUNNING}


def test_a_driver_whose_study_was_taken_over_writes_nothing_more(url: str) -> None:
    first = open_ledger(url, request(SPACE))
    asked = first.next()
    assert asked is not None
    second = open_ledger(url, request(SPACE))
    writes: list[Callable[[], Any]] = [
        lambda: first.report(asked.id, [epoch(1, 0.1)]),
        lambda: first.fail(asked.id, "it came too late"),
        lambda: first.lost(asked.id, "it came too late"),
        lambda: first.remember({"late": True}),
        lambda: first.choose(Selections(released=frozenset({asked.id}))),
        lambda: first.note_mlflow_run(asked.id, "late"),
        first.next,
    ]
    for write in writes:
        with pytest.raises(ClaimLost, match="has taken over study law"):
            write()
    second.fail(asked.id, "ended elsewhere")
    for write in writes:
        with pytest.raises(ClaimLost):
            write()
    reading = read_ledger(url, "law")
    assert reading is not None
    assert reading.records == second.records
    assert reading.facts == {}
    assert reading.chosen == NOTHING_CHOSEN


def test_what_was_chosen_is_read_as_it_was_stored_and_damage_is_one_sentence(url: str) -> None:
    chosen = Selections(
        Selection(60, 5, {7: Estimate(0.41, 0.02), 3: Estimate(1 / 3, 0.0)}),
        Selection(60, 5, {3: None}),
        frozenset({1, 2}),
    )
    held = open_ledger(url, request(SPACE))
    held.choose(chosen)
    assert held.chosen == open_ledger(url, request(SPACE)).chosen == chosen
    reading = read_ledger(url, "law")
    assert reading is not None
    assert reading.chosen == chosen
    assert reading.chosen.continued is not None
    assert list(reading.chosen.continued.expected) == [7, 3]  # the first choice comes first
    for damage in (
        "nonsense",
        {"continued": {}},
        {"candidates": {**chosen.to_json()["candidates"], "top": None}},
    ):
        with pytest.raises(StorageError, match="candidates of the confirmation are damaged"):
            stored_selections({CHOSEN_KEY: damage})


def test_a_driver_that_dies_while_settings_are_drawn_loses_no_trial_and_draws_no_setting_twice(
    url: str,
) -> None:
    study = optuna.create_study(storage=url, study_name="law", direction="maximize")
    study.enqueue_trial({"optim.learning_rate": 0.001, "optim.restarts": 0})
    trial = study.ask()
    drawn = trial.suggest_float("optim.learning_rate", 1e-5, 1e-2, log=True)
    ledger = open_ledger(url, request(SPACE))
    record = ledger.next()
    assert record is not None
    assert (record.id, record.params["optim.learning_rate"], record.params["optim.restarts"]) == (
        0,
        drawn,
        0,
    )
    run_epochs(ledger, record, 0.5)
    run_all(ledger)
    assert len(read_with_plain_optuna(url)) == 12


def test_a_driver_that_dies_between_enqueueing_and_asking_loses_no_trial(url: str) -> None:
    optuna.create_study(storage=url, study_name="law", direction="maximize").enqueue_trial(
        SPACE["start"][0]
    )
    ledger = open_ledger(url, request(SPACE))
    record = ledger.next()
    assert record is not None
    assert (record.id, record.params) == (0, preview(request(SPACE), 1)[0].params)
    run_all(ledger)
    assert len(read_with_plain_optuna(url)) == 12


def test_variants_run_once_for_each_seed_in_the_order_of_the_table(url: str) -> None:
    ledger = open_ledger(url, request(VARIANTS))
    run_all(ledger, lambda record: random.Random(record.id).random())
    names = [
        (record.name, record.settings["seed"], record.settings["data.split_seed"])
        for record in ledger.records
    ]
    assert names == [(name, seed, seed) for seed in (0, 1) for name in ("plain", "flip", "deep")]
    assert {record.state for record in ledger.records} == {State.COMPLETE}
    flips = [record.settings["augment.horizontal_flip"] for record in ledger.records]
    assert flips == [False, True, False] * 2


def test_a_grid_tries_every_point_once(url: str) -> None:
    space = {"optim.restarts": [0, 1], "augment.elastic": [True, False]}
    ledger = open_ledger(
        url,
        request(
            SPACE, space=space, start=[], search={"sampler": "grid"}, stop_early={"rule": "none"}
        ),
    )
    run_all(ledger, lambda _: 0.5)
    points = {tuple(record.params.values()) for record in ledger.records}
    assert len(points) == len(ledger.records) == 4


def test_a_preview_shows_what_the_search_then_asks_and_writes_nothing(url: str) -> None:
    shown = preview(request(SPACE), 2)
    ledger = open_ledger(url, request(SPACE))
    asked = [ledger.next(), ledger.next()]
    assert [record.params for record in shown] == [
        record.params for record in asked if record is not None
    ]


def test_the_best_of_equals_is_the_earliest(url: str) -> None:
    ledger = open_ledger(url, request(VARIANTS))
    run_all(ledger, lambda _: 0.5)
    assert ledger.best is not None
    assert ledger.best.id == 0


def test_the_database_can_be_read_while_it_is_written(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    ledger.next()
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as reader:
        reader.exec_driver_sql("BEGIN" if url.startswith("sqlite") else "SELECT 1")
        reader.exec_driver_sql("SELECT count(*) FROM trials").fetchone()
        assert ledger.next() is not None  # sqlite's default journal mode would wait for the reader


# A space that grows

GROWN: dict[str, Any] = {
    **SPACE,
    "space": {
        "optim.learning_rate": {"low": 1e-6, "high": 1e-1, "log": True},
        "optim.restarts": [5, 3, 1, 0],
        "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1, 3]}},
        "augment.elastic": [True, False],
    },
    "search": {"sampler": "tpe", "trials": 30, "seed": 3},
}


def test_a_space_that_has_grown_keeps_every_trial_and_searches_what_was_added(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    run_all(ledger)
    before = ledger.records
    more = open_ledger(url, request(GROWN, stop_early={"rule": "none"}))
    assert more.records == before
    run_all(more)
    assert more.finished
    trials = read_with_plain_optuna(url)
    assert len(trials) == 30
    for trial, record in zip(trials, more.records, strict=True):
        assert {name.split()[0]: value for name, value in trial.params.items()} == record.params
    assert "optim.restarts (4 choices)" in trials[-1].params
    assert more.records[:12] == before
    assert sum(importances(url, "law").values()) == pytest.approx(1)
    added = {record.params["optim.restarts"] for record in more.records[12:]}
    assert 5 in added
    assert added & {0, 1, 3}
    for trial in trials[12:]:
        domain = trial.distributions["optim.learning_rate"]
        assert isinstance(domain, optuna.distributions.FloatDistribution)
        assert (domain.low, domain.high) == (1e-6, 1e-1)


def test_a_space_grows_twice_and_a_trial_that_was_running_keeps_what_it_drew(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    ledger.next()
    running = ledger.next()
    assert running is not None
    run_epochs(ledger, ledger.records[0], 0.5)
    more = open_ledger(url, request(GROWN))
    again = more.next()
    assert again is not None
    assert (again.id, again.params, again.settings) == (
        running.id,
        running.params,
        running.settings,
    )
    run_epochs(more, again, 0.4)
    space = {**GROWN["space"], "optim.restarts": [0, 1, 3, 5, 7]}
    most = open_ledger(url, request({**GROWN, "space": space}))
    assert [record.params for record in most.records] == [record.params for record in more.records]
    run_all(most)
    assert most.finished
    assert {trial.state.name for trial in read_with_plain_optuna(url)} <= {"COMPLETE", "PRUNED"}


def test_growing_touches_no_other_study_of_the_database(url: str) -> None:
    other = open_ledger(url, request(SPACE, study="other"))
    run_all(other)
    run_all(open_ledger(url, request(SPACE)))
    open_ledger(url, request(GROWN))
    distributions = [
        trial.distributions["optim.restarts"]
        for trial in optuna.load_study(study_name="other", storage=url).trials
    ]
    assert {distribution.choices for distribution in distributions} == {(0, 1, 3)}


# One driver


# A container with the network of its host has the host's name, and process ids of its own.
ELSEWHERE = {"pid": os.getpid(), "host": socket.gethostname(), "machine": "elsewhere"}


def held_by(url: str, driver: Mapping[str, Any], seconds_ago: float) -> None:
    """Enter another process as the one that runs the study."""
    ((now,),) = told(url, sqlalchemy.select(sqlalchemy.func.now()))
    heard = now - timedelta(seconds=seconds_ago)
    change = CLAIMS.update().values(
        token=CLAIMS.c.token + 1, driver=json.dumps(driver), heard=heard
    )
    told(url, change)


def test_a_study_is_claimed_by_one_live_process_of_this_machine(url: str) -> None:
    open_ledger(url, request(SPACE))
    with subprocess.Popen(["sleep", "100"]) as other:
        held_by(url, {"pid": other.pid, "host": "here", "machine": processes.machine_name()}, 0)
        with pytest.raises(
            StudyError,
            match=f"is being searched by process {other.pid} on host here",
        ):
            open_ledger(url, request(SPACE))
        other.kill()
    assert open_ledger(url, request(SPACE)).next() is not None


def test_a_driver_of_another_machine_is_believed_as_long_as_it_is_heard_of(url: str) -> None:
    open_ledger(url, request(SPACE))
    held_by(url, ELSEWHERE, CLAIM_SECONDS / 2)
    with pytest.raises(StudyError, match=r"by process \d+ on host .*; .* 3 minutes are enough"):
        open_ledger(url, request(SPACE))
    held_by(url, ELSEWHERE, CLAIM_SECONDS + 1)
    assert open_ledger(url, request(SPACE)).next() is not None


def test_a_claim_that_was_given_up_is_free_at_once_and_gives_the_next_one_a_higher_number(
    url: str,
) -> None:
    numbers = []
    for _ in range(3):
        with Claim(url, "law") as claim:
            ledger = Ledger(claim, request(SPACE))
            held_by(url, ELSEWHERE, 0)
            with pytest.raises(ClaimLost):
                ledger.remember({"late": True})
        numbers += [token for (token,) in told(url, sqlalchemy.select(CLAIMS.c.token))]
        told(url, CLAIMS.update().values(driver=None))
    assert numbers == sorted(set(numbers))


def test_a_driver_that_waits_for_its_database_still_counts_as_alive_when_the_database_is_back() -> (
    None
):
    assert database.RETRY_SECONDS + BEAT_SECONDS <= CLAIM_SECONDS


def test_of_processes_that_claim_a_study_at_once_exactly_one_has_it(url: str) -> None:
    open_ledger(url, request(SPACE, study="other"))  # which makes the file
    claim = (
        "import sys, time; from tune.ledger.claim import Claim; from core.errors import StudyError\n"
        "print('ready', flush=True)\n"
        "time.sleep(max(0, float(sys.stdin.readline()) - time.time()))\n"
        "try: Claim(sys.argv[1], 'law'); print('mine', flush=True); time.sleep(60)\n"
        "except StudyError as error: print(error, flush=True)"
    )
    with contextlib.ExitStack() as stack:
        drivers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", claim, url],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )
            for _ in range(4)
        ]  # fmt: skip
        for one in drivers:
            stack.callback(one.kill)
        pipes = [(one.stdin, one.stdout) for one in drivers if one.stdin and one.stdout]
        assert [out.readline() for _, out in pipes] == ["ready\n"] * 4
        at = time.time() + 0.5
        for go, _ in pipes:
            print(at, file=go, flush=True)
        said = [out.readline() for _, out in pipes]
    assert sum(line == "mine\n" for line in said) == 1, said
    assert all(line == "mine\n" or "is being searched by" in line for line in said)


def test_a_ledger_is_read_beside_the_one_that_writes_it(url: str) -> None:
    assert read_ledger(url, "law") is None
    ledger = open_ledger(url, request(SPACE))
    ledger.remember({"request": {"a": 1}})
    run_epochs(ledger, ledger.next(), 0.5)  # type: ignore[arg-type]
    running = ledger.next()
    reading = read_ledger(url, "law")
    assert reading is not None
    assert (reading.identity, reading.facts, reading.records) == (
        ledger.identity,
        ledger.facts,
        ledger.records,
    )
    assert running in reading.records
    assert best_of(reading.records) == ledger.best


@pytest.mark.long
def test_optuna_dashboard_opens_the_ledger_while_it_is_written(url: str) -> None:
    ledger = open_ledger(url, request(SPACE))
    run_epochs(ledger, ledger.next(), 0.5)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    with subprocess.Popen(
        [program, url, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as dashboard:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def shown(path: str) -> Any:
            until = time.monotonic() + 60
            while True:
                try:
                    with direct.open(f"http://127.0.0.1:{port}/api/{path}", timeout=10) as answer:
                        return json.load(answer)
                except OSError:
                    assert time.monotonic() < until, "the dashboard did not start"
                    time.sleep(0.2)

        try:
            assert [one["study_name"] for one in shown("studies")["study_summaries"]] == ["law"]
            run_epochs(ledger, ledger.next(), 0.7)  # type: ignore[arg-type]
            time.sleep(6)  # the dashboard keeps what it read for some seconds
            trials = shown("studies/1")["trials"]
            assert len(trials) == 2
            assert {trial["state"] for trial in trials} <= {"Complete", "Pruned"}
        finally:
            dashboard.terminate()


@pytest.mark.parametrize(
    "table", ["trials", "trial_params", "trial_user_attributes", "study_user_attributes"]
)
def test_a_ledger_with_a_damaged_table_is_one_sentence_for_whoever_reads_it(
    table: str, tmp_path: Path
) -> None:
    url, path = f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "study.db"
    asked = request(SPACE)
    run_all(open_ledger(url, asked))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\7" * size
    path.write_bytes(content)
    said = []
    for look in (
        read_ledger,
        remembered_facts,
        importances,
        lambda url, _: open_ledger(url, asked),
    ):
        try:
            look(url, asked.study)  # what does not read the table is none the worse
        except StorageError as error:
            said.append(str(error))
    assert len(said) >= 2
    assert all(f"malformed); restore {path} from a backup, then run" in one for one in said)


def without_tables(path: Path, tables: list[str]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in tables:
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("tables", [[], ["version_info"], ["trial_params", "trials"]])
def test_a_ledger_whose_tables_were_never_all_made_is_kept_aside_and_made_anew(
    tables: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "QUIET_SECONDS", 0.1)
    url, path = f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "study.db"
    if tables:
        optuna.storages.RDBStorage(url).remove_session()
        without_tables(path, tables)
    else:
        path.touch()
    assert read_ledger(url, "law") is None
    assert open_ledger(url, request(SPACE)).next() is not None
    assert (tmp_path / "study.db.half-made").exists()


def test_a_ledger_that_holds_a_study_and_a_database_of_another_program_are_never_set_aside(
    tmp_path: Path,
) -> None:
    damaged, foreign = tmp_path / "study.db", tmp_path / "other.db"
    run_all(open_ledger(f"sqlite:///{damaged}", request(SPACE)))
    without_tables(damaged, ["trial_params"])
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE studies_of_plants (name)")
    for path in (damaged, foreign):
        before = path.read_bytes()
        with pytest.raises((StudyError, StorageError), match="a table is missing there"):
            open_ledger(f"sqlite:///{path}", request(SPACE)).next()
        assert path.read_bytes() == before
    assert not list(tmp_path.glob("*half-made*"))
