"""Laws of a confirmed winner.

Ray, databases and match tables are real; trials replay curves instead of training.

Run as a program, this file is a search with such trials in a process of its own: tests kill it.
"""

import csv
import functools
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from rich.console import Console

from benchmarks.replay import ReplayedTrial, Replays
from core import data as datasets
from core.config import TrialConfig, Value
from core.data import synthetic
from core.data.dataset import Dataset
from core.data.split import split
from core.errors import DataError, StudyError
from core.metric.ap50 import MatchTable
from tests.matches import match_table
from tests.tracking_database import provide
from tune.announcements import searched_lines
from tune.engine import mps
from tune.engine.messages import Assignment
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.claim import Claim
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.reading import Reading, read_ledger
from tune.ledger.records import Point, State, TrialRecord
from tune.report.page import make_report
from tune.request.file import from_document
from tune.request.request import StudyRequest
from tune.retrain import plan as retrain_plan
from tune.retrain.plan import choose_trial
from tune.search import main
from tune.statistics.choice import choose_winner as chosen_among
from tune.store.folder import prediction_table_path
from tune.study import conductor as study
from tune.study import confirmation
from tune.study.candidates import SPARE, Candidate, candidates, choose
from tune.study.confirmation import (
    FIRST_SEED,
    Confirmation,
    confirming_points,
    fresh_repeats,
    shortage,
)
from tune.study.going_on import refuse_smaller_confirmation
from tune.study.learned import nothing_learned
from tune.study.limits import Limits
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.progress import Progress
from tune.study.reading import read_study
from tune.study.rebuild import rebuild_tracking
from tune.study.trials import TrialInputs, TrialMaker
from tune.tables import OF_ORIGIN

ROOT = Path(__file__).parents[3]
EPOCHS = 3
SEARCHED = 4
SPACE: dict[str, Any] = {
    "study": "sure",
    "data": "synthetic",
    "fixed": {"optim.epochs": EPOCHS, "model.weights": "none", "model.backbone": "resnet18"},
    "space": {"optim.learning_rate": {"low": 0.1, "high": 0.9}},
    "search": {"sampler": "random", "trials": SEARCHED, "seed": 0},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 2, "seeds": 2},
    "resources": {"gpus_per_trial": 0},
}
VARIANTS: dict[str, Any] = {
    "study": "sure",
    "data": "synthetic",
    "fixed": {"optim.epochs": EPOCHS, "model.weights": "none"},
    "variants": {
        "plain": {},
        "flip": {"augment.horizontal_flip": True},
        "deep": {"model.trainable_layers": 5},
    },
    "baseline": "plain",
    "seeds": 2,
    "confirm": {"top": 2, "seeds": 2},
}


def asked(
    document: dict[str, Any] | None = None, trials: int = SEARCHED, **confirm: int
) -> StudyRequest:
    document = document or SPACE
    changed = {**document, "confirm": {**document["confirm"], **confirm}}
    if "search" in document:
        changed["search"] = {**document["search"], "trials": trials}
    return from_document(changed, "test")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load_data("synthetic")


# What is trained again, and on what


def record(
    number: int, curve: Sequence[float], state: State = State.COMPLETE, **settings: Any
) -> TrialRecord:
    epochs = tuple({"ap50": value, "seconds": 1.0} for value in curve)
    whole = TrialConfig.from_settings({"optim.epochs": EPOCHS, **settings}).settings()
    return TrialRecord(number, state=state, settings=whole, epochs=epochs)


def chosen(records: Sequence[TrialRecord], request: StudyRequest) -> tuple[Candidate, ...]:
    return candidates(records, request, choose(records, request))


def decided(held: Ledger, request: StudyRequest) -> tuple[Candidate, ...]:
    return candidates(held.records, request, confirmation.decide(held, request))


trials = st.tuples(
    st.sampled_from(list(State)), st.sampled_from([0, 1, 3]), st.lists(st.floats(0, 1), min_size=1)
)


@given(st.lists(trials, max_size=9), st.integers(1, 4))
def test_candidates_are_settings_of_trials_that_ran_to_their_end_no_two_alike_the_highest_among_them(
    drawn: list[tuple[State, int, list[float]]], top: int
) -> None:
    records = [
        record(number, one[2], one[0], **{"optim.restarts": one[1]})
        for number, one in enumerate(drawn)
    ]
    found = chosen(records, asked(top=top))
    of_settings: dict[int, list[float]] = {}
    for state, restarts, curve in drawn:
        if state is State.COMPLETE:
            of_settings.setdefault(restarts, []).append(max(curve))
    means = {key: float(np.mean(scores)) for key, scores in of_settings.items()}
    means = {} if nothing_learned(records) else means
    assert len(found) == min(top, len(means))
    for candidate in found:
        restarts = int(candidate.trial.settings["optim.restarts"])
        assert candidate.score == pytest.approx(means[restarts])
    if found and top > 1:
        firsts = {key: scores[0] for key, scores in of_settings.items()}
        highest = max(firsts, key=lambda key: firsts[key])
        assert firsts[highest] in [candidate.trials[0].ap50 for candidate in found]
    assert len({candidate.trial.settings["optim.restarts"] for candidate in found}) == len(found)
    assert len({candidate.name for candidate in found}) == len(found)
    for candidate in found:
        assert candidate.trial.ap50 == max(one.ap50 or 0.0 for one in candidate.trials)


def test_a_variant_gains_no_rank_by_lacking_a_repeat_on_a_hard_split() -> None:
    """All differ alike on both splits; the worst has failed on the hard one, and has the highest
    mean for it.
    """
    request = asked(VARIANTS)
    scores = {"plain": (0.6, 0.2), "flip": (0.7, 0.3), "deep": (0.5, None)}
    records = [
        replace(
            record(number, [score or 0.0], State.FAIL if score is None else State.COMPLETE),
            name=row.name,
            settings=row.config.settings(),
        )
        for number, row in enumerate(request.space.rows())
        for score in [scores[row.name][number // 3]]
    ]
    found = chosen(records, replace(request, confirm=request.confirm.model_copy(update={"top": 3})))
    assert [candidate.name for candidate in found] == ["flip", "plain", "deep"]
    assert [candidate.score for candidate in found] == pytest.approx([0.5, 0.4, 0.5])


def test_of_equal_candidates_the_earliest_comes_first() -> None:
    records = [record(number, [0.5], **{"optim.restarts": number}) for number in range(3)]
    assert [candidate.name for candidate in chosen(records, asked(top=2))] == [
        "trial 0",
        "trial 1",
    ]


def test_a_variant_is_one_candidate_and_its_score_the_mean_of_its_repeats() -> None:
    request = asked(VARIANTS)
    scores = {"plain": (0.9, 0.1), "flip": (0.6, 0.5), "deep": (0.4, 0.5)}
    records = [
        replace(
            record(number, [scores[row.name][number // 3]]),
            name=row.name,
            settings=row.config.settings(),
        )
        for number, row in enumerate(request.space.rows())
    ]
    found = chosen(records, request)
    assert [(candidate.name, candidate.score) for candidate in found] == [
        ("flip", 0.55),
        ("plain", 0.5),
    ]
    assert [[one.id for one in candidate.trials] for candidate in found] == [[1, 4], [0, 3]]
    wanted = confirming_points(found, request, [(1000, 0), (1001, 0)])
    assert [point.name for point in wanted] == ["flip", "plain"] * 2
    for point in wanted:
        own = next(
            variant.settings for variant in request.space.variants if variant.name == point.name
        )
        seed = point.settings["seed"]  # type: ignore[index]
        expected = request.space.resolve({**own, "seed": seed, "data.split_seed": seed}).settings()
        assert point.settings == expected


def validation(data: Dataset, settings: dict[str, Any]) -> tuple[int, ...]:
    return split(data, TrialConfig.from_settings(settings).data).validation


def test_fresh_seeds_and_splits_are_none_of_the_search_and_differ_from_each_other(
    data: Dataset,
) -> None:
    for fixed in (
        {},
        {"seed": 1000},
        {"data.split_seed": 1001},
        {"seed": 1001, "data.split_seed": 1000},
    ):
        request = asked({**SPACE, "fixed": {**SPACE["fixed"], **fixed}}, seeds=4)
        seeds = [seed for seed, _ in fresh_repeats(request, data)]
        assert len(set(seeds)) == 4
        assert not set(seeds) & {*fixed.values(), 0}
        parts = [
            validation(data, fixed),
            *(validation(data, {"data.split_seed": seed}) for seed in seeds),
        ]
        assert len(set(parts)) == 5
        fewer = fresh_repeats(asked({**SPACE, "fixed": {**SPACE["fixed"], **fixed}}, seeds=2), data)
        assert [seed for seed, _ in fewer] == seeds[:2]


def test_fresh_seeds_of_variants_are_none_of_their_repeats(data: Dataset) -> None:
    request = asked({**VARIANTS, "fixed": {**VARIANTS["fixed"], "data.folds": 3}})
    repeats = fresh_repeats(request, data)
    assert [fold for _, fold in repeats] == [
        0,
        0,
    ]  # the search's folds are not those of the confirmation
    assert not {seed for seed, _ in repeats} & {0, 1}


def test_with_folds_every_seed_validates_each_image_once(data: Dataset) -> None:
    repeats = fresh_repeats(asked(folds=3), data)
    assert repeats == tuple(
        (seed, fold) for seed in (FIRST_SEED, FIRST_SEED + 1) for fold in range(3)
    )
    for seed in (FIRST_SEED, FIRST_SEED + 1):
        parts = [
            validation(data, {"data.split_seed": seed, "data.folds": 3, "data.fold": fold})
            for fold in range(3)
        ]
        assert sorted(itertools.chain(*parts)) == list(range(len(data.samples)))
    wanted = confirming_points(chosen([record(0, [0.5])], asked(folds=3)), asked(folds=3), repeats)
    assert [(one.settings["data.folds"], one.settings["data.fold"]) for one in wanted] == [  # type: ignore[index]
        (3, fold) for _, fold in repeats
    ]


@pytest.mark.parametrize("images", [4, 6, 8])
def test_a_data_set_with_few_splits_is_confirmed_on_those_there_are_and_it_is_said(
    images: int,
) -> None:
    few, request = synthetic.make_cells(images=images, side=64), asked(seeds=7)
    seeds = [seed for seed, _ in fresh_repeats(request, few)]
    parts = {validation(few, {"data.split_seed": seed}) for seed in [0, *seeds]}
    assert parts == {
        validation(few, {"data.split_seed": seed}) for seed in range(300)
    }  # none is left out
    assert len(parts) == 1 + len(seeds)
    said = {
        4: "confirm: these images have no split but those of the search, so nothing is confirmed",
        6: (
            "confirm.seeds 7: these images have only 1 split beside the search's, and each"
            " candidate is trained once on it"
        ),
        8: (
            "confirm.seeds 7: these images have only 5 splits beside the search's, and each"
            " candidate is trained once on each"
        ),
    }
    repeats = fresh_repeats(request, few)
    assert (
        shortage(request, repeats)
        == said[images] + " (with confirm.folds every image serves for validation)"
    )


def test_with_enough_splits_nothing_is_said_and_too_many_folds_are_refused(data: Dataset) -> None:
    assert shortage(asked(), fresh_repeats(asked(), data)) is None
    assert fresh_repeats(asked(top=0), data) == ()
    assert shortage(asked(top=0), ()) is None
    with pytest.raises(DataError, match=r"confirm, 7 folds: .* needs at least 7 images"):
        fresh_repeats(asked(folds=7), synthetic.make_cells(images=4, side=64))


# Its ledger


def wanted(*rates: float, seeds: Sequence[int] = (1000, 1001)) -> list[Point]:
    return [
        Point(
            f"rate {rate}",
            {"optim.learning_rate": rate},
            record(0, [], **{"optim.learning_rate": rate, "seed": seed}).settings,
        )
        for seed in seeds
        for rate in rates
    ]


def epoch(number: int, score: float = 0.5) -> dict[str, Any]:
    return {"epoch": number, "ap50": score, "seconds": 1.0, "losses": {"loss": 1.0}}


def confirming(url: str, *rates: float) -> Ledger:
    return open_ledger(url, confirmation.confirming_request(asked()), wanted(*rates))


def finish(held: Ledger, number: int) -> None:
    held.report(number, [epoch(place) for place in range(1, EPOCHS + 1)])


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def names(held: Ledger) -> list[tuple[str, Any, State]]:
    return [(one.name, one.settings["seed"], one.state) for one in held.records]


def test_a_ledger_that_is_given_its_trials_has_exactly_these_whatever_dies_in_between(
    url: str,
) -> None:
    while (one := (held := confirming(url, 0.1, 0.2)).next()) is not None:
        assert one.params == {"optim.learning_rate": one.settings["optim.learning_rate"]}
        assert one.attempts == 1
        finish(held, one.id)
    assert held.finished
    assert held.planned == 4
    assert names(held) == [
        (f"rate {rate}", seed, State.COMPLETE) for seed in (1000, 1001) for rate in (0.1, 0.2)
    ]
    shown = optuna.load_study(study_name="sure.confirm", storage=url).trials
    assert [trial.value for trial in shown] == [0.5] * 4


def test_a_trial_whose_driver_died_before_its_attempt_was_written_is_there_whole(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    held = confirming(url, 0.1, 0.2)
    with monkeypatch.context() as dying:
        dying.setattr(Ledger, "_note", die)
        with pytest.raises(KeyboardInterrupt):
            held.next()
    again = confirming(url, 0.1, 0.2)
    assert again.planned == 4
    one = again.next()
    assert one is not None
    assert (one.id, one.attempts, one.name, one.settings) == (
        0,
        1,
        "rate 0.1",
        wanted(0.1)[0].settings,
    )


def test_when_other_trials_are_wanted_ended_ones_stay_running_ones_stop_and_only_what_is_missing_runs(
    url: str,
) -> None:
    held = confirming(url, 0.1, 0.2)
    finish(held, held.next().id)  # type: ignore[union-attr]
    held.fail(held.next().id, "diverged")  # type: ignore[union-attr]
    held.report(held.next().id, [epoch(1)])  # type: ignore[union-attr]
    other = confirming(url, 0.2, 0.3)
    assert names(other) == [
        ("rate 0.1", 1000, State.COMPLETE),
        ("rate 0.2", 1000, State.FAIL),
        ("rate 0.1", 1001, State.PRUNED),
    ]
    assert other.records[2].reason == "stopped after epoch 1: no longer asked for"
    asked_for = []
    while (one := other.next()) is not None:
        asked_for.append((one.id, one.name, one.settings["seed"]))
        finish(other, one.id)
    assert asked_for == [(3, "rate 0.3", 1000), (4, "rate 0.2", 1001), (5, "rate 0.3", 1001)]
    assert other.finished
    back = confirming(url, 0.1)
    assert back.planned == 7
    one = back.next()
    assert one is not None
    assert (one.id, one.name, one.settings["seed"], one.curve) == (6, "rate 0.1", 1001, [])


# Trials that replay curves, and leave match tables


def quality(settings: Any, epoch: int) -> float:
    """The share of instances that a model finds: what looks best in the search is worst on fresh
    seeds.

    There, even and odd seeds are best after their first and last epoch, and their mean after the
    second.
    """
    rate, seed = float(settings["optim.learning_rate"]), int(settings["seed"])
    if seed < FIRST_SEED:
        return rate * epoch / EPOCHS
    return (1 - rate) * ((0.9, 0.8, 0.3) if seed % 2 == 0 else (0.3, 0.8, 0.9))[epoch - 1]


class MatchedTrial(ReplayedTrial):
    """Leaves what a real trial leaves: match tables, and files of weights.

    begun   each epoch that begins leaves a file there, once
    """

    def __init__(self, assignment: Assignment, data: Dataset, begun: Path) -> None:
        super().__init__(assignment, self._table)
        self._data, self._begun = data, begun

    def _table(self, assignment: Assignment, epoch: int) -> MatchTable:
        phase = Path(assignment.folder).parent.name
        (self._begun / f"{phase}-{assignment.trial}-{epoch}").touch(exist_ok=False)
        settings = assignment.settings
        return match_table(self._data, settings, epoch, quality(settings, epoch))

    def save(self, folder: Path) -> None:
        for name in ("best-0001", "last"):
            (folder / f"{name}.safetensors").write_bytes(b"weights")
        super().save(folder)


@dataclass(frozen=True)
class Matched:
    """Makes the trial of an attempt."""

    begun: Path

    trains = False

    def make(self, assignment: Assignment, inputs: TrialInputs) -> MatchedTrial:
        return MatchedTrial(assignment, inputs.data, self.begun)


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError


@pytest.fixture(scope="module", autouse=True)
def _workers_can_unpickle_this_file() -> Iterator[None]:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def plan_for(results: Path, request: StudyRequest, data: Dataset) -> StudyPlan:
    options = Options(provide(results))
    return StudyPlan(request, options, data, {}, Machine((Node(2, 0),)), TrialResources(1, 0.0, 2))


def run(plan: StudyPlan, trials: TrialMaker) -> str:
    output = Console(file=io.StringIO(), width=200)
    assert study.run_study(plan, output, trials)
    return output.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def run_by_hand(
    held: Ledger, number: int, folder: Path, data: Dataset, begun: Path, epochs: int = EPOCHS
) -> None:
    """What a worker and its driver do in one attempt; of an unfinished one the driver hears
    nothing.
    """
    trial = MatchedTrial(
        Assignment(number, 1, str(folder), held.records[number].settings, 0), data, begun
    )
    for _ in range(epochs):
        trial.run_epoch()
        folder.mkdir(parents=True, exist_ok=True)
        trial.save(folder)
    if epochs == EPOCHS:
        held.report(number, [report.to_json() for report in trial.reports])


def test_what_wins_is_a_pair_where_every_repeat_tried_other_ways_to_predict(
    tmp_path: Path, data: Dataset
) -> None:
    tried: dict[str, tuple[Value, ...]] = {
        "predict.flips": (False, True), "predict.max_detections": (400, 500),
    }  # fmt: skip
    plan = plan_for(tmp_path / "results", replace(asked(), after_training=tried), data)
    plan.folder.path.mkdir(parents=True)
    held = open_ledger(plan.storage, plan.request)
    (tmp_path / "begun").mkdir()
    while (one := held.next()) is not None:
        run_by_hand(held, one.id, plan.folder.trial(one.id), data, tmp_path / "begun")
    request = confirmation.confirming_request(plan.request)
    asked_for = confirming_points(decided(held, plan.request), plan.request, plan.repeats)
    confirmed = open_ledger(plan.storage, request, asked_for)
    confirmed.remember(confirmation.confirmation_facts(plan.request, plan.repeats))
    while (one := confirmed.next()) is not None:
        run_by_hand(confirmed, one.id, plan.folder.confirm_trial(one.id), data, tmp_path / "begun")

    def read() -> Confirmation:
        found = confirmation.read_confirmation(plan.folder, plan.storage, plan.request, held)
        assert found is not None
        assert found.finished
        return found

    before = confirmation.confirmed_winner(read())
    assert before is not None
    assert (before.prediction, before.gains) == (None, {})
    assert all("3 combinations of predict settings" in note for note in read().notes)

    own = TrialConfig.from_settings(dict(confirmed.records[0].settings)).predict
    mirrored, both, _ = (own.model_copy(update=change) for change in (
        {"flips": True}, {"flips": True, "max_detections": 500}, {},
    ))  # fmt: skip
    for record_, predict in itertools.product(confirmed.records, (mirrored, both)):
        if predict == both and record_.id == 0:
            continue  # one repeat could not try it
        better = {**record_.settings, "optim.learning_rate": 0.3}
        path = prediction_table_path(plan.folder.confirm_trial(record_.id), predict)
        match_table(data, better, 2, quality(better, 2)).save(path)
    choice = confirmation.confirmed_winner(read())
    assert choice is not None
    assert choice.prediction == mirrored
    assert choice.gains[mirrored] > 0
    winner = next(one for one in read().candidates if one.name == choice.name)
    assert confirmation.changed_prediction(choice, winner.trial) == {"predict.flips": True}
    of_first = next(
        one for one in read().confirmed if one.candidate.name == confirmed.records[0].name
    )
    assert set(of_first.predictions) == {mirrored}
    _, why = choose_trial(held.records, None, SEARCHED, read(), choice)
    assert "predicting with predict.flips on" in why


@dataclass(frozen=True)
class Study:
    """A search that ended, and was confirmed by two drivers, of whom the first died.

    before   when the search had ended and no time was left to confirm it: its table and trials, and
             what MLflow said
    """

    plan: StudyPlan
    begun: Path
    said: str
    table_before: bytes
    trials_before: list[optuna.trial.FrozenTrial]
    status_before: str

    @property
    def searched(self) -> tuple[TrialRecord, ...]:
        return self.reading("sure").records

    @property
    def confirmed(self) -> tuple[TrialRecord, ...]:
        return self.reading("sure.confirm").records

    def reading(self, name: str) -> Reading:
        reading = read_ledger(self.plan.storage, name)
        assert reading is not None
        return reading

    def read(self) -> Confirmation:
        found = confirmation.read_confirmation(
            self.plan.folder, self.plan.storage, self.plan.request, self.reading("sure")
        )
        assert found is not None
        return found


def runs_of(plan: StudyPlan, phase: str) -> list[Any]:
    client = mlflow.MlflowClient(plan.tracking.uri)
    experiment = client.get_experiment_by_name("sure").experiment_id
    return list(client.search_runs([experiment], f"tags.phase = '{phase}'"))


def parent_run(plan: StudyPlan) -> Any:
    (run,) = runs_of(plan, "study")
    return run


def search_trials(plan: StudyPlan) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="sure", storage=plan.storage).trials


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Study:
    results, begun = tmp_path_factory.mktemp("sure"), tmp_path_factory.mktemp("begun")
    plan = plan_for(results, asked(), data)
    plan.folder.path.mkdir()
    held = open_ledger(plan.storage, plan.request)
    while (one := held.next()) is not None:
        run_by_hand(held, one.id, plan.folder.trial(one.id), data, begun)
    late = replace(plan, options=replace(plan.options, time_budget=0.0))
    assert not study.run_study(late, Console(file=io.StringIO()), Replays(refuse))
    before = plan.folder.trials_csv.read_bytes(), search_trials(plan), parent_run(plan).info.status

    # A driver that confirms, and dies when one trial has ended and a worker has saved the first
    # epoch of the next.
    held = open_ledger(
        plan.storage,
        confirmation.confirming_request(plan.request),
        confirming_points(
            decided(open_ledger(plan.storage, plan.request), plan.request),
            plan.request,
            plan.repeats,
        ),
    )
    for epochs in (EPOCHS, 1):
        one = held.next()
        assert one is not None
        run_by_hand(held, one.id, plan.folder.confirm_trial(one.id), data, begun, epochs)
    return Study(plan, begun, run(plan, Matched(begun)), *before)


@pytest.mark.study
def test_every_candidate_runs_on_the_same_fresh_seeds_and_splits_none_of_the_searchs(
    made: Study, data: Dataset
) -> None:
    best = sorted(made.searched, key=lambda one: -(one.ap50 or 0.0))[:2]
    seeds = Counter(
        (one.name, one.settings["seed"], one.settings["data.split_seed"]) for one in made.confirmed
    )
    fresh = [seed for seed, _ in made.plan.repeats]
    assert seeds == Counter((f"trial {one.id}", seed, seed) for one in best for seed in fresh)
    assert not {*fresh} & {one.settings["seed"] for one in made.searched}
    parts = {validation(data, dict(one.settings)) for one in made.confirmed}
    assert len(parts) == len(fresh) == 2
    assert not parts & {validation(data, dict(one.settings)) for one in made.searched}
    for one in made.confirmed:
        trial = next(other for other in best if f"trial {other.id}" == one.name)
        changed = {name for name in one.settings if one.settings[name] != trial.settings[name]}
        assert changed == {"seed", "data.split_seed"}
        assert one.params == trial.params
        assert one.state is State.COMPLETE


@pytest.mark.study
def test_the_search_its_table_and_its_ledger_are_the_same_before_and_after(made: Study) -> None:
    assert made.plan.folder.trials_csv.read_bytes() == made.table_before
    assert search_trials(made.plan) == made.trials_before
    assert open_ledger(made.plan.storage, made.plan.request).finished


@pytest.mark.study
def test_a_confirmation_whose_driver_died_goes_on_and_no_epoch_runs_twice(made: Study) -> None:
    begun = Counter(
        path.name.split("-")[0] for path in made.begun.iterdir()
    )  # a second time would have failed the trial
    assert begun == {"trials": SEARCHED * EPOCHS, "confirm": 4 * EPOCHS}
    assert [one.attempts for one in made.confirmed] == [1, 2, 1, 1]
    assert {one.state for one in made.confirmed} == {State.COMPLETE}


@pytest.mark.study
def test_the_same_command_on_a_confirmed_study_runs_nothing(made: Study) -> None:
    before = made.plan.folder.confirm_csv.read_bytes()
    run(made.plan, Replays(refuse))
    assert made.plan.folder.confirm_csv.read_bytes() == before


@pytest.mark.study
def test_a_confirmed_candidate_is_not_left_out_by_asking_for_fewer_also_with_more_trials(
    made: Study,
) -> None:
    for trials in (SEARCHED, SEARCHED + 2):
        with pytest.raises(StudyError, match=r"confirm\.top must be at least 2"):
            refuse_smaller_confirmation(
                asked(trials=trials, top=1), made.plan.storage, made.plan.folder
            )


@pytest.mark.study
def test_confirm_csv_has_the_columns_of_trials_csv_and_names_what_was_repeated(made: Study) -> None:
    tables = [
        list(csv.DictReader(io.StringIO(path.read_text())))
        for path in (made.plan.folder.trials_csv, made.plan.folder.confirm_csv)
    ]
    assert {*tables[1][0]} - {*tables[0][0]} == {*OF_ORIGIN}
    assert {*tables[0][0]} < {*tables[1][0]}
    for row, one in zip(tables[1], made.confirmed, strict=True):
        assert (row["name"], row["seed"], row["ap50"]) == (
            one.name,
            str(one.settings["seed"]),
            str(one.ap50),
        )
        assert row["optim.learning_rate"] == str(one.settings["optim.learning_rate"])


@pytest.mark.study
def test_match_tables_of_all_confirming_epochs_are_kept_and_weights_of_the_winner(
    made: Study,
) -> None:
    choice = confirmation.confirmed_winner(made.read())
    assert choice is not None
    for one in made.confirmed:
        folder = made.plan.folder.confirm_trial(one.id)
        assert sorted(path.name for path in (folder / "matches").iterdir()) == [
            f"epoch-{number:04d}.npz" for number in range(1, EPOCHS + 1)
        ]
        kept = [path.name for path in folder.glob("*.safetensors")]
        assert kept == (["best-0001.safetensors"] if one.name == choice.name else [])


@pytest.mark.study
def test_mlflow_nests_confirming_runs_in_the_studys_and_the_view_can_be_rebuilt(
    made: Study,
) -> None:
    parent = parent_run(made.plan)
    assert (made.status_before, parent.info.status) == ("RUNNING", "FINISHED")
    for removed in (False, True):
        if removed:
            for one in runs_of(made.plan, "confirm")[:2]:
                mlflow.MlflowClient(made.plan.tracking.uri).delete_run(one.info.run_id)
            assert rebuild_tracking(Options(made.plan.options.results), "sure")[:2] == (SEARCHED, 4)
        assert len(runs_of(made.plan, "search")) == SEARCHED
        shown = {int(one.data.tags["trial"]): one for one in runs_of(made.plan, "confirm")}
        assert len(runs_of(made.plan, "confirm")) == len(shown) == 4
        for one in made.confirmed:
            tags = shown[one.id].data.tags
            assert tags["mlflow.parentRunId"] == parent.info.run_id
            assert tags["state"] == "COMPLETE"
            assert shown[one.id].info.run_name == f"confirm {one.name}, seed {one.settings['seed']}"
            assert shown[one.id].data.metrics["best_ap50"] == one.ap50


@pytest.mark.study
def test_progress_says_what_is_confirmed_on_which_seed(made: Study) -> None:
    told = [line for line in made.said.splitlines() if line.startswith("[")]
    assert all(re.match(r"\[[1-4]/4\] confirming trial \d, seed 100[01] ", line) for line in told)
    assert any(line.startswith("[4/4]") and "complete, AP50" in line for line in told)


@pytest.mark.study
def test_the_winner_is_the_best_mean_curve_and_its_epoch_that_of_the_mean_curve(
    made: Study,
) -> None:
    curves = {
        name: np.mean([one.curve for one in made.confirmed if one.name == name], axis=0)
        for name in {one.name for one in made.confirmed}
    }
    best = max(curves, key=lambda name: float(curves[name].max()))
    read = made.read()
    assert read.finished
    assert (read.ended, read.planned, read.notes) == (4, 4, ())
    choice = confirmation.confirmed_winner(read)
    assert choice is not None
    assert (choice.name, choice.epoch) == (best, 2)
    assert {one.best_epoch for one in made.confirmed} == {1, 3}  # of no repeat by itself
    assert choice.score == pytest.approx(float(curves[best][1]))
    assert {name: list(curve) for name, curve in choice.curves.items()} == {
        name: pytest.approx(curve.tolist()) for name, curve in curves.items()
    }
    assert read.candidates[0].name != choice.name  # the best of the search is the other
    assert choice.corrected.low <= choice.corrected.estimate <= choice.corrected.high


@pytest.mark.study
def test_the_search_ends_by_saying_what_was_confirmed_and_that_another_was_the_best_before(
    made: Study,
) -> None:
    choice = confirmation.confirmed_winner(made.read())
    first, second = made.read().candidates
    assert choice is not None
    study = read_study("sure", made.plan.options.results)
    lines = "\n".join(searched_lines(made.plan, study, make_report(study, made.plan.data)))
    assert f"Confirmed: {second.name}, AP50 {choice.corrected.estimate:.4f} (" in lines
    assert (
        f") at epoch 2, on 2 fresh seeds and splits; in the search it had {second.score:.4f}"
        in lines
    )
    assert (
        f"In the search another candidate had the highest score: {first.name} had"
        f" {first.score:.4f} there" in lines
    )
    assert (
        f"Settings of {second.name}: optim.learning_rate"
        f" {second.trial.params['optim.learning_rate']:.4g}" in lines
    )


@pytest.mark.study
def test_the_confirmed_winner_is_retrained_up_to_the_epoch_of_the_mean_curve(made: Study) -> None:
    choice = confirmation.confirmed_winner(made.read())
    assert choice is not None
    study = read_study("sure", made.plan.options.results)
    plan = retrain_plan.plan_retraining(study, on="all")
    assert f"trial {plan.record.id}" == choice.name
    assert plan.config.settings() == plan.record.settings
    assert plan.epochs == choice.epoch == 2
    first, second = made.read().candidates
    assert (
        plan.why == f"{choice.name}, confirmed on 2 fresh seeds and splits: AP50"
        f" {choice.corrected.estimate:.4f} (in the search {second.score:.4f}), the best of 2"
        f" candidates; its mean curve is highest at epoch 2; the search's best was {first.name}"
        f" with {first.score:.4f}"
    )
    assert retrain_plan.plan_retraining(study).epochs == EPOCHS
    named = retrain_plan.plan_retraining(study, first.trial.id, on="all")
    assert named.epochs == EPOCHS


@pytest.mark.study
def test_when_the_search_goes_on_only_what_is_missing_is_confirmed(
    made: Study, data: Dataset, tmp_path: Path
) -> None:
    """Two more trials, of which one is better than all before and joins the candidates."""
    shutil.copytree(made.plan.options.results, tmp_path / "results")
    begun = tmp_path / "begun"
    shutil.copytree(made.begun, begun)
    plan = plan_for(tmp_path / "results", asked(trials=SEARCHED + 2), data)
    copied = replace(made, plan=plan, begun=begun)
    former = made.read().candidates
    unfinished = copied.read()
    assert (unfinished.finished, confirmation.confirmed_winner(unfinished)) == (False, None)
    held = open_ledger(plan.storage, plan.request)
    while (one := held.next()) is not None:
        run_by_hand(held, one.id, plan.folder.trial(one.id), data, begun)
    said = run(plan, Matched(begun))
    new = copied.read()
    assert new.finished
    *kept, added = [one.name for one in new.candidates]
    assert kept == [one.name for one in former]
    records = copied.confirmed
    assert records[:4] == made.confirmed
    assert [(one.id, one.name, one.settings["seed"]) for one in records[4:]] == [
        (4, added, 1000),
        (5, added, 1001),
    ]
    assert f"confirming {added}, seed 1000 starts" in said
    rows = list(csv.DictReader(io.StringIO(plan.folder.confirm_csv.read_text())))
    assert [row["name"] for row in rows] == [one.name for one in records]


@pytest.mark.study
def test_the_search_keeps_the_weights_of_all_that_may_be_confirmed(made: Study) -> None:
    held = open_ledger(made.plan.storage, made.plan.request)
    best = sorted(held.records, key=lambda one: -(one.ap50 or 0.0))
    kept = study._search_phase(made.plan, held).kept()
    assert isinstance(kept, frozenset)
    assert {one.id for one in best[:2]} <= kept
    assert len(kept) <= SPARE * made.plan.request.confirm.top
    alone = replace(made.plan, request=asked(top=0))
    assert study._search_phase(alone, held).kept() == {best[0].id}


# What is read of it


def copy_of(made: Study, folder: Path) -> Study:
    shutil.copytree(made.plan.options.results, folder)
    return replace(made, plan=replace(made.plan, options=Options(folder)))


@pytest.mark.study
def test_a_candidate_whose_match_table_is_missing_is_left_out_and_it_is_said(
    made: Study, tmp_path: Path
) -> None:
    copied = copy_of(made, tmp_path / "results")
    second = copied.read().candidates[1]
    number = next(one.id for one in copied.confirmed if one.name == second.name)
    lost = copied.plan.folder.confirm_trial(number) / "matches" / "epoch-0002.npz"
    lost.unlink()
    read = copied.read()
    assert read.finished
    assert read.notes == (
        f"{second.name} is left out of the choice: the match table {lost} is missing",
    )
    choice = confirmation.confirmed_winner(read)
    assert choice is not None
    assert choice.name == read.candidates[0].name


def test_a_candidate_with_a_failed_repeat_is_left_out_and_it_is_said(
    url: str, tmp_path: Path
) -> None:
    request = asked(top=1)
    held = open_ledger(url, request)
    while (one := held.next()) is not None:
        finish(held, one.id)
    repeats = [(1000, 0), (1001, 0)]
    confirmed = open_ledger(
        url,
        confirmation.confirming_request(request),
        confirming_points(decided(held, request), request, repeats),
    )
    folder = plan_for(tmp_path, request, datasets.load_data("synthetic")).folder
    assert (
        confirmation.read_confirmation(folder, url, request, held) is None
    )  # nothing is known of it yet
    confirmed.remember(confirmation.confirmation_facts(request, repeats))
    first, second = confirmed.next(), confirmed.next()
    confirmed.fail(first.id, "diverged")  # type: ignore[union-attr]
    before = confirmation.read_confirmation(folder, url, request, held)
    assert before is not None
    assert (before.ended, before.planned, before.finished) == (1, 2, False)
    confirmed.fail(second.id, "diverged")  # type: ignore[union-attr]
    read = confirmation.read_confirmation(folder, url, request, held)
    assert read is not None
    assert read.finished
    assert read.notes == (
        "trial 0 is left out of the choice: its training with seed 1000 failed (diverged)",
    )
    assert confirmation.confirmed_winner(read) is None
    more = asked(top=1, seeds=3)
    again = confirmation.read_confirmation(folder, url, more, held)
    assert again is not None
    assert not again.finished  # what is asked for now was not


def test_what_is_retrained_without_a_whole_confirmation_is_the_best_of_the_search_and_it_says_so() -> (
    None
):
    records = [record(0, [0.1, 0.4]), record(1, [0.5])]
    some = Confirmation(
        (Candidate("trial 1", (records[1],)),), (), ((1000, 0),), (), 3, 15, False, ()
    )
    winner, why = choose_trial(records, None, 2, some)
    assert winner.id == 1
    assert why.endswith(
        "it is not confirmed yet: 3 of 15 trainings on fresh seeds and splits have ended, and the"
        " search command goes on with them"
    )
    none = replace(
        some, ended=15, finished=True, notes=("trial 1 is left out of the choice: it failed",)
    )
    assert choose_trial(records, None, 2, none)[1].endswith(
        "no candidate could be confirmed: trial 1 is left out of the choice: it failed"
    )


def in_groups(read: Confirmation, pattern: str) -> Confirmation:
    """The same confirmation of a study with another `data.group_pattern`."""

    def of(candidate: Candidate) -> Candidate:
        trials = (
            replace(one, settings={**one.settings, "data.group_pattern": pattern})
            for one in candidate.trials
        )
        return Candidate(candidate.name, tuple(trials))

    return replace(
        read, confirmed=tuple(replace(one, candidate=of(one.candidate)) for one in read.confirmed)
    )


@pytest.mark.study
def test_groups_of_images_are_the_units_of_the_choice_where_there_are_groups(made: Study) -> None:
    read = made.read()
    grouped = confirmation.confirmed_winner(in_groups(read, "^(slide..)"))
    tables = {
        one.candidate.name: [
            [functools.partial(MatchTable.load, path) for path in paths] for paths in one.matches
        ]
        for one in read.confirmed
    }
    assert grouped == chosen_among(tables, 100, lambda names: [name[:7] for name in names])
    assert grouped != confirmation.confirmed_winner(read)


# Before and while it runs


def test_a_dry_run_states_what_the_confirmation_costs_and_what_a_small_data_set_cannot_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.write_hw3(synthetic.make_cells(images=6, side=64), tmp_path / "cells")
    space = tmp_path / "space.yaml"
    space.write_text(
        f"study: cost\ndata: {tmp_path / 'cells'}\nfixed: {{model.weights: none, optim.epochs:"
        " 7, model.image_min_side: 64, model.image_max_side: 64, model.backbone: resnet18}\nspace:"
        " {optim.learning_rate: {low: 1.0e-5, high: 1.0e-3}}\nsearch: {trials:"
        " 30}\nconfirm: {top: 5, seeds: 4}\n"
    )
    assert main(["--space", str(space), "--results", str(tmp_path / "results"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Study cost: 30 trials of up to 7 epochs" in said
    assert "20 trainings of up to 7 epochs beside the search's 30" in said
    assert "Note: confirm.seeds 4: these images have only 1 split beside the search's" in said
    assert not (tmp_path / "results").exists()
    assert main(["--space", str(space), "--set", "confirm.folds=9", "--dry-run"]) == 2
    assert (
        "confirm, 9 folds: cells: data.folds 9 needs at least 9 images, and there are 6"
        in capsys.readouterr().err
    )


@pytest.mark.study
@pytest.mark.parametrize(("seconds", "starts"), [(100.0, True), (-1.0, False), (0.2, False)])
def test_the_time_budget_of_a_search_is_that_of_its_confirmation_too(
    seconds: float, starts: bool, made: Study, tmp_path: Path
) -> None:
    """An epoch of the search took a quarter of a second, by its ledger."""
    copied = copy_of(made, tmp_path / "results")
    request = asked(seeds=3)
    plan = replace(copied.plan, request=request)
    held = open_ledger(plan.storage, request)
    found = decided(held, request)
    more = open_ledger(
        plan.storage,
        confirmation.confirming_request(request),
        confirming_points(found, request, plan.repeats),
    )
    phase = study._confirm_phase(plan, held, more, found)
    with (
        Progress(more.planned, Console(file=io.StringIO()), "confirm") as progress,
        study._Conductor(
            plan, phase, progress, Limits(time.monotonic() + seconds), mps.turns("")
        ) as conductor,
    ):
        assert conductor.finished is not starts
        assignment = conductor.hand_out()
    assert (assignment is not None) is starts
    if assignment is not None:
        assert (assignment.trial, assignment.settings["seed"]) == (4, FIRST_SEED + 2)
        assert assignment.folder == str(plan.folder.confirm_trial(4).absolute())


@pytest.mark.study
def test_a_confirmation_on_other_data_is_refused(made: Study, tmp_path: Path) -> None:
    copied = copy_of(made, tmp_path / "results")
    held = open_ledger(copied.plan.storage, asked())
    held.remember({name: value for name, value in (held.facts or {}).items() if name != "data"})
    other = synthetic.make_cells(images=8, side=64)
    with pytest.raises(StudyError, match="is a study with other data"):
        run(replace(copied.plan, data=other), Replays(refuse))


@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kills",
    [
        ("told:4", "reported:2"),
        pytest.param(("asked:1", "judged:1", "writing confirm.csv:2"), marks=pytest.mark.long),
        pytest.param(("started:1", "tracking:3", "writing last.json:2"), marks=pytest.mark.long),
    ],
    ids=lambda kills: ", ".join(kills),
)
def test_a_driver_killed_anywhere_in_a_confirmation_goes_on_and_nothing_is_confirmed_twice(
    kills: Sequence[str], tmp_path: Path, data: Dataset
) -> None:
    plan = plan_for(tmp_path / "results", asked(), data)
    if "told:4" not in kills:  # the search is not what is killed
        begun = tmp_path / "begun"
        begun.mkdir()
        plan.folder.path.mkdir(parents=True)
        with Claim(plan.storage, plan.request.study) as claim:
            held = Ledger(claim, plan.request)
            while (one := held.next()) is not None:
                run_by_hand(held, one.id, plan.folder.trial(one.id), data, begun)
        shutil.rmtree(begun)
    command = [sys.executable, __file__, str(tmp_path)]
    for number, kill in enumerate([*kills, ""]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)} | (
            {"CELL_TUNE_KILL": kill} if kill else {}
        )
        begun = tmp_path / "begun"
        if begun.exists():  # what was running is begun again
            begun.rename(tmp_path / f"begun {number}")
        begun.mkdir()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == (-signal.SIGKILL if kill else 0), (kill, done.stdout, done.stderr)
        time.sleep(3)  # its workers end with it
    epochs = Counter(path.name for folder in tmp_path.glob("begun*") for path in folder.iterdir())
    again = [name for name, times in epochs.items() if times > 1]
    assert len(again) <= 2 * len(
        kills
    )  # the epochs that were running when a driver died, two at once
    reading = read_ledger(plan.storage, "sure.confirm")
    assert reading is not None
    assert {one.state for one in reading.records} == {State.COMPLETE}
    names = Counter((one.name, one.settings["seed"]) for one in reading.records)
    best = decided(open_ledger(plan.storage, plan.request), plan.request)
    assert names == Counter((one.name, seed) for one in best for seed in (1000, 1001))
    client = mlflow.MlflowClient(plan.tracking.uri)
    shown = client.search_runs([client.get_experiment_by_name("sure").experiment_id])
    assert Counter(one.data.tags["phase"] for one in shown) == {
        "study": 1,
        "search": SEARCHED,
        "confirm": 4,
    }
    assert {one.info.status for one in shown} == {"FINISHED"}
    assert len(plan.folder.confirm_csv.read_text().splitlines()) == 5


if __name__ == "__main__":
    here = Path(sys.argv[1])
    sys.exit(
        0
        if study.run_study(
            plan_for(here / "results", asked(), datasets.load_data("synthetic")),
            Console(),
            Matched(here / "begun"),
        )
        else 1
    )
