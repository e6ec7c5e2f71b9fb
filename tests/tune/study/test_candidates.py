"""Laws of the candidates of a confirmation, and of the trials that are continued for it.

Run as a program, this file is a search with replayed trials in a process of its own: a test kills
it.
"""

import csv
import functools
import io
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.confirmed_candidates import play
from benchmarks.replay import ReplayedTrial, execute_here
from core import data as datasets
from core.config import TrialConfig
from core.dependence import effective_settings
from tune.engine.messages import Assignment
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.claim import Claim
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord, settings_key
from tune.ledger.selections import CHOSEN_KEY, NOTHING_CHOSEN, stored_selections
from tune.request.file import from_document
from tune.request.request import CONTINUED, StudyRequest
from tune.study import conductor as study
from tune.study import confirmation, pace
from tune.study.candidates import (
    SPARE,
    Candidate,
    candidates,
    choose,
    chosen_before,
    expected_scores,
    is_settled,
    may_be_chosen,
    released,
    to_continue,
)
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.reading import read_study
from tune.study.rebuild import rebuild_tracking
from tune.study.trials import TrialInputs

ROOT = Path(__file__).parents[3]
EPOCHS, FIRST_RUNG = 6, 2
SPACE: dict[str, Any] = {
    "study": "paused",
    "data": "synthetic",
    "fixed": {"optim.epochs": EPOCHS, "model.weights": "none", "model.backbone": "resnet18"},
    "space": {"optim.learning_rate": {"low": 0.1, "high": 0.9}},
    "search": {"sampler": "random", "trials": 8, "seed": 0},
    "stop_early": {"rule": "successive_halving", "min_epochs": FIRST_RUNG, "reduction": 3},
    "confirm": {"top": 3, "seeds": 1},
    "resources": {"gpus_per_trial": 0},
}


def asked(**changes: Any) -> StudyRequest:
    changed = {
        name: {**SPACE[name], **given} if isinstance(given, dict) else given
        for name, given in changes.items()
    }
    return from_document({**SPACE, **changed}, "test")


def record(number: int, curve: Sequence[float], state: State, **settings: Any) -> TrialRecord:
    epochs = tuple({"ap50": value, "seconds": 1.0} for value in curve)
    settings = {"optim.epochs": EPOCHS, "optim.learning_rate": 0.1 + number / 1000, **settings}
    whole = TrialConfig.from_settings(settings).settings()
    return TrialRecord(number, state=state, settings=whole, epochs=epochs)


# Which trials are continued


scores = st.floats(0.02, 1)
ended = st.one_of(
    st.tuples(st.just(State.COMPLETE), st.lists(scores, min_size=EPOCHS, max_size=EPOCHS)),
    st.tuples(st.just(State.PRUNED), st.lists(scores, min_size=1, max_size=EPOCHS - 1)),
    st.tuples(st.just(State.FAIL), st.lists(scores, max_size=2)),
)


def continued(one: TrialRecord, curve: Sequence[float]) -> TrialRecord:
    epochs = (*one.epochs, *({"ap50": value, "seconds": 1.0} for value in curve))
    return replace(one, state=State.COMPLETE, epochs=epochs, continued_after=len(one.epochs))


def waiting(records: Sequence[TrialRecord], request: StudyRequest) -> tuple[int, ...]:
    return to_continue(records, choose(records, request))


@given(st.lists(ended, max_size=12), st.integers(0, 4), st.randoms(use_true_random=False))
def test_after_stopped_trials_went_on_there_are_as_many_complete_candidates_as_asked_for(
    drawn: list[tuple[State, list[float]]], top: int, random: Any
) -> None:
    records = [record(number, curve, state) for number, (state, curve) in enumerate(drawn)]
    request = asked(confirm={"top": top})
    chosen = choose(records, request)
    going = to_continue(records, chosen)
    assert len(going) <= request.continued <= CONTINUED * top
    assert all(records[number].state is State.PRUNED for number in going)
    assert {*going} <= may_be_chosen(records, request, NOTHING_CHOSEN)
    assert len(may_be_chosen(records, request, NOTHING_CHOSEN)) <= SPARE * CONTINUED * top
    for number in random.sample(going, len(going)):  # killed between any two, it goes on
        assert not is_settled(records, request, chosen)
        rest = [random.uniform(0.02, 1) for _ in range(EPOCHS - len(records[number].epochs))]
        records[number] = continued(records[number], rest)
        before, chosen = chosen, choose(records, request, chosen)
        assert chosen.continued == before.continued
    assert to_continue(records, chosen) == ()
    assert is_settled(records, request, chosen)
    assert choose(records, request, chosen) == chosen
    found = candidates(records, request, chosen)
    ended_well = [one for one in records if one.state is not State.FAIL]
    assert len(found) == min(top, len(ended_well))
    assert all(one.state is State.COMPLETE for each in found for one in each.trials)
    assert len({each.trial.id for each in found}) == len(found)
    if len(found) > 1:
        complete = [one.ap50 or 0.0 for one in records if one.state is State.COMPLETE]
        assert max(complete) in [each.score for each in found]


rates = st.sampled_from([0.1, 0.2, 0.3])


@given(st.lists(st.tuples(ended, rates), max_size=9), st.integers(1, 4))
def test_no_continued_trial_repeats_another(
    drawn: list[tuple[tuple[State, list[float]], float]], top: int
) -> None:
    records = [
        record(number, curve, state, **{"optim.learning_rate": rate})
        for number, ((state, curve), rate) in enumerate(drawn)
    ]
    going = waiting(records, asked(confirm={"top": top}))
    kept = [one for one in records if one.state is State.COMPLETE or one.id in going]
    of_going = [settings_key(records[number].in_effect) for number in going]
    counts = Counter(settings_key(one.in_effect) for one in kept)
    assert len(set(of_going)) == len(of_going)
    assert all(counts[key] == 1 for key in of_going)


@given(st.lists(ended, max_size=14), st.integers(1, 2))
def test_a_trial_whose_checkpoint_was_removed_while_the_search_ran_is_never_continued(
    drawn: list[tuple[State, list[float]]], top: int
) -> None:
    """Trials end one after the other, and each time a driver removes what cannot win."""
    request, chosen, gone = asked(confirm={"top": top}), NOTHING_CHOSEN, set[int]()
    records: list[TrialRecord] = []
    for number, (state, curve) in enumerate(drawn):
        records.append(record(number, curve, state))
        kept = may_be_chosen(records, request, chosen)
        assert not gone & kept
        assert len(kept) <= SPARE * request.continued
        chosen = released(records, chosen, kept)
        gone |= {one.id for one in records if one.state is State.PRUNED and one.id not in kept}
        assert stored_selections({CHOSEN_KEY: chosen.to_json()}) == chosen
    assert chosen.released == gone
    assert not gone & {*to_continue(records, choose(records, request, chosen))}


def test_of_stopped_trials_with_equal_scores_the_one_among_better_settings_goes_on() -> None:
    """Rates around 0.2 reach 0.8 and those around 0.8 reach 0.3; one of each was stopped at 0.5."""
    good, bad = ([base + step / 100 for step in range(5)] for base in (0.18, 0.78))
    records = [
        record(number, [0.1, score - 0.1, *[score] * 4], State.COMPLETE,
               **{"optim.learning_rate": rate})
        for number, (rate, score) in enumerate([(r, 0.8) for r in good] + [(r, 0.3) for r in bad])
    ]  # fmt: skip
    records += [
        record(10 + place, [0.4, 0.5], State.PRUNED, **{"optim.learning_rate": rate})
        for place, rate in enumerate((0.805, 0.205))
    ]
    request = asked(confirm={"top": 3}, search={"trials": 12})
    assert waiting(records, request) == (11,)
    scores = expected_scores(records)
    assert scores[10] == scores[11] < scores[0]


def with_two_lucky_trials() -> list[TrialRecord]:
    """Rates below 0.5 reach 0.3, and trials 5 and 12 had luck; those above reach 0.45 to 0.5."""
    low = [(0.1 + place / 50, 0.3) for place in range(20)]
    low[5], low[12] = (low[5][0], 0.6), (low[12][0], 0.55)
    high = [(0.6 + place / 50, 0.45 + place / 300) for place in range(15)]
    return [
        record(number, [score] * EPOCHS, State.COMPLETE, **{"optim.learning_rate": rate})
        for number, (rate, score) in enumerate([*low, *high])
    ]


def test_a_trial_that_few_similar_ones_support_is_a_candidate_only_if_its_score_is_the_highest() -> (
    None
):
    records = with_two_lucky_trials()
    request = asked(confirm={"top": 4}, search={"trials": len(records)})
    found = candidates(records, request, choose(records, request))
    assert [one.trial.id for one in found][-1] == 5
    assert all(one.trial.id >= 20 for one in found[:-1])
    assert all(one.expected is not None for one in found)
    assert found[-1].expected.mean < 0.45 < found[-1].score  # type: ignore[union-attr]
    alone = asked(confirm={"top": 1}, search={"trials": len(records)})
    assert candidates(records, alone, choose(records, alone))[0].trial.id >= 20


def test_a_single_candidate_is_no_bad_trial_where_all_others_have_the_same_score() -> None:
    records = [
        record(number, [score] * EPOCHS, State.COMPLETE, **{"optim.learning_rate": rate})
        for number, (rate, score) in enumerate([(0.2, 0.1), (0.5, 0.9), (0.8, 0.9)])
    ]
    request = asked(confirm={"top": 1}, search={"trials": len(records)})
    (found,) = candidates(records, request, choose(records, request))
    assert found.score == 0.9


def test_of_trials_that_are_alike_the_weights_of_the_best_are_kept() -> None:
    """The report shows its pictures, and a retraining may use its model."""
    alike = {"optim.learning_rate": 0.5}
    records = [
        record(0, [0.9] * EPOCHS, State.COMPLETE),
        record(1, [0.5] * EPOCHS, State.COMPLETE, **alike),
        record(2, [0.6] * EPOCHS, State.COMPLETE, **alike),
    ]
    request = asked(confirm={"top": 2}, search={"trials": len(records)})
    kept = may_be_chosen(records, request, NOTHING_CHOSEN)
    found = candidates(records, request, choose(records, request))
    assert sorted(numbers(found)) == [0, 2]
    assert {*numbers(found)} <= kept


# A study that goes on


def complete(count: int, first: int = 0, best: float = 0.5) -> list[TrialRecord]:
    """Trials whose score rises with the learning rate, up to `best`."""
    return [
        record(number, [best - (first + count - 1 - number) / 100] * EPOCHS, State.COMPLETE)
        for number in range(first, first + count)
    ]


def numbers(found: Sequence[Candidate]) -> list[int]:
    return [one.trial.id for one in found]


def test_a_higher_top_keeps_the_candidates_and_adds_the_best_of_the_others() -> None:
    records = complete(8)
    three, five, two = (asked(confirm={"top": top}) for top in (3, 5, 2))
    chosen = choose(records, three)
    assert sorted(numbers(candidates(records, three, chosen))) == [5, 6, 7]
    assert not is_settled(records, five, chosen)
    more = choose(records, five, chosen)
    assert more.candidates is not None
    assert numbers(candidates(records, five, more))[:3] == numbers(
        candidates(records, three, chosen)
    )
    assert sorted(numbers(candidates(records, five, more))) == [3, 4, 5, 6, 7]
    # A confirmation that is cut short takes the first of them.
    assert choose(records, two, chosen) == chosen
    assert (
        numbers(candidates(records, two, chosen)) == numbers(candidates(records, three, chosen))[:2]
    )


def test_of_trials_that_were_added_those_among_the_best_join_the_candidates() -> None:
    records = complete(8)
    before = asked(confirm={"top": 3})
    chosen = choose(records, before)
    request = asked(confirm={"top": 3}, search={"trials": 12})
    worse = [*records, *complete(4, 8, best=0.2)]
    assert not is_settled(worse, request, chosen)
    same = choose(worse, request, chosen)
    assert numbers(candidates(worse, request, same)) == numbers(candidates(records, before, chosen))
    assert is_settled(worse, request, same)
    better = [*records, *complete(4, 8, best=0.9)]
    joined = candidates(better, request, choose(better, request, chosen))
    assert numbers(joined)[:3] == numbers(candidates(records, before, chosen))
    assert sorted(numbers(joined)[3:]) == [9, 10, 11]


def test_the_highest_score_is_among_several_candidates_also_where_one_was_chosen_first() -> None:
    """Two of the trials with low rates had luck; only one of them scored more than those added."""
    records = with_two_lucky_trials()
    alone = asked(confirm={"top": 1}, search={"trials": len(records)})
    first = choose(records, alone)
    (before,) = numbers(candidates(records, alone, first))
    assert before != 5
    added = [
        record(
            number, [0.59] * EPOCHS, State.COMPLETE, **{"optim.learning_rate": 0.3 + number / 80}
        )
        for number in range(len(records), len(records) + 5)
    ]
    grown = [*records, *added]
    three = asked(confirm={"top": 3}, search={"trials": len(grown)})
    found = numbers(candidates(grown, three, choose(grown, three, first)))
    assert before in found
    assert 5 in found


def test_what_was_stopped_and_not_chosen_is_not_continued_later_and_what_was_added_is() -> None:
    records = [*complete(4), *(record(number, [0.3], State.PRUNED) for number in range(4, 8))]
    request = asked(confirm={"top": 1})
    chosen = choose(records, request)
    assert to_continue(records, chosen) == ()
    assert chosen.released == {4, 5, 6, 7}
    more = asked(confirm={"top": 4})
    assert to_continue(records, choose(records, more, chosen)) == ()
    added = [*records, record(8, [0.9], State.PRUNED)]
    grown = asked(confirm={"top": 1}, search={"trials": 9})
    assert to_continue(added, choose(added, grown, chosen)) == (8,)


def test_a_trial_that_ran_when_an_earlier_versions_candidates_were_taken_over_may_join_them() -> (
    None
):
    records = complete(8)
    request = asked(confirm={"top": 3}, search={"trials": 9})
    chosen = chosen_before([*records, record(8, [0.2], State.RUNNING)], request, 3)
    ended = [*records, record(8, [0.9] * EPOCHS, State.COMPLETE)]
    assert not is_settled(ended, request, chosen)
    assert numbers(candidates(ended, request, choose(ended, request, chosen))) == [7, 6, 5, 8]
    assert is_settled(records, asked(confirm={"top": 3}), chosen_before(records, request, 3))


def test_candidates_of_a_wider_space_are_chosen_among_all_trials() -> None:
    records = complete(8)
    chosen = choose(records, asked())
    wider = asked(space={"optim.learning_rate": {"low": 0.01, "high": 0.95}}, search={"trials": 10})
    added = [
        *records,
        record(8, [0.9] * EPOCHS, State.COMPLETE, **{"optim.learning_rate": 0.02}),
        record(9, [0.1] * EPOCHS, State.COMPLETE, **{"optim.learning_rate": 0.94}),
    ]
    found = candidates(added, wider, choose(added, wider, chosen))
    assert numbers(found) == [*numbers(candidates(records, asked(), chosen)), 8]


def test_settings_without_an_effect_choose_no_candidate() -> None:
    """The strength of an augmentation that is off changes no estimate."""
    strengths = np.random.default_rng(0).uniform(0.1, 0.9, 8)
    space = {"augment.brightness": {"low": 0.05, "high": 0.95}, **SPACE["space"]}
    plain = complete(8)
    idle = [
        replace(one, settings={**one.settings, "augment.brightness": float(strength)})
        for one, strength in zip(plain, strengths, strict=True)
    ]
    request = asked(space=space)
    assert choose(idle, request) == choose(plain, request)


def test_variants_are_chosen_by_score_and_chosen_again_when_they_have_grown() -> None:
    document = {**SPACE, "variants": {name: {} for name in "abcd"}, "baseline": "a"}
    del document["space"], document["search"]
    for name, restarts in zip("abcd", range(4), strict=True):
        document["variants"][name] = {"optim.restarts": restarts}
    request = from_document({**document, "confirm": {"top": 2}}, "test")
    records = [
        replace(
            record(place, [score] * EPOCHS, State.COMPLETE, **{"optim.restarts": place}), name=name
        )
        for place, (name, score) in enumerate(zip("abc", (0.3, 0.5, 0.4), strict=True))
    ]
    chosen = choose(records, request)
    assert [one.name for one in candidates(records, request, chosen)] == ["b", "c"]
    assert all(one.expected is None for one in candidates(records, request, chosen))
    added = replace(record(3, [0.9] * EPOCHS, State.COMPLETE, **{"optim.restarts": 3}), name="d")
    grown = [*records, added]
    found = candidates(grown, request, choose(grown, request, chosen))
    assert [one.name for one in found] == ["d", "b"]
    stopped = [*records[:2], replace(records[2], state=State.PRUNED, epochs=records[2].epochs[:2])]
    assert to_continue(stopped, choose(stopped, request)) == (2,)


def test_a_stopped_trial_is_expected_to_gain_what_complete_ones_gained_after_the_same_epoch() -> (
    None
):
    curves = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.2, 0.3, 0.3, 0.4, 0.4, 0.8]]
    records = [
        *(record(number, curve, State.COMPLETE) for number, curve in enumerate(curves)),
        record(2, [0.1, 0.5], State.PRUNED),
        record(3, [0.3], State.FAIL),
        record(4, [0.3], State.RUNNING),
    ]
    assert expected_scores(records) == pytest.approx({0: 0.6, 1: 0.8, 2: 0.5 + 0.45})


def test_a_trial_that_failed_when_it_was_continued_is_no_candidate_and_others_are() -> None:
    records = [record(number, [0.5 - number / 10], State.PRUNED) for number in range(4)]
    request = asked(confirm={"top": 2})
    chosen = choose(records, request)
    assert {*to_continue(records, chosen)} == {0, 1, 2, 3}
    records[0] = replace(records[0], state=State.FAIL, continued_after=1)
    records[1:] = [continued(one, [0.4] * (EPOCHS - 1)) for one in records[1:]]
    found = candidates(records, request, choose(records, request, chosen))
    assert len(found) == 2
    assert 0 not in numbers(found)


def test_a_stopped_trial_that_would_repeat_another_is_not_continued() -> None:
    alike = {"optim.learning_rate": 0.5}
    records = [
        record(0, [0.5], State.PRUNED, **alike),
        record(1, [0.5] * EPOCHS, State.COMPLETE, **alike),
        record(2, [0.4], State.PRUNED),
        record(3, [0.4], State.PRUNED, **{"optim.learning_rate": 0.1 + 2 / 1000}),
    ]
    assert waiting(records, asked(confirm={"top": 5})) == (2,)


def test_what_settings_have_an_effect_is_found_once_for_each_trial() -> None:
    """Candidates are asked for when a trial ends; of 1,000 trials that would be a million times."""
    records = [record(number, [0.1 + number / 100] * EPOCHS, State.COMPLETE) for number in range(9)]
    with mock.patch(
        "tune.ledger.records.effective_settings", side_effect=effective_settings
    ) as found:
        for _ in range(3):
            candidates(records, asked(), choose(records, asked()))
            may_be_chosen(records, asked(), NOTHING_CHOSEN)
    assert found.call_count == len(records)


def test_where_nothing_was_learned_nothing_is_continued() -> None:
    records = [record(0, [0.0] * EPOCHS, State.COMPLETE), record(1, [0.005], State.PRUNED)]
    assert choose(records, asked()) == NOTHING_CHOSEN
    assert is_settled(records, asked(), NOTHING_CHOSEN)


def truth(settings: Mapping[str, Any]) -> float:
    return 0.5 + 0.3 * float(settings["optim.learning_rate"])


def noisy_score(seed: int, one: TrialRecord, epoch: int) -> tuple[float, Sequence[float]]:
    luck = float(np.random.default_rng([seed, one.id, epoch]).normal(0, 0.03))
    return truth(one.settings) * (1 - 0.6 * math.exp(-epoch / 4)) + luck, ()


def test_all_candidates_are_complete_and_the_truly_best_is_more_often_among_them() -> None:
    """These are twenty simulated searches; `benchmarks.confirmed_candidates` simulates those of
    `ablation.yaml`.
    """
    found = np.zeros(2, int)
    for seed in range(20):
        request = asked(
            search={"trials": 24, "seed": seed}, confirm={"top": 5}, fixed={"optim.epochs": 12}
        )
        outcome = play(request, truth, functools.partial(noisy_score, seed))
        assert len(outcome.after) == 5
        assert outcome.continued <= CONTINUED * 5
        assert outcome.epochs[1] <= CONTINUED * 5 * (12 - FIRST_RUNG)
        assert outcome.kept <= SPARE * CONTINUED * 5
        found += outcome.found
    assert found[1] >= 14
    assert found[1] > found[0]


# A whole study


def replayed_ap50(settings: Mapping[str, Any], epoch: int) -> float:
    """The last AP50 rises with the learning rate; all trials learn at the same pace."""
    return float(settings["optim.learning_rate"]) * (1 - 0.5 ** (epoch / 2))


class KeptTrial(ReplayedTrial):
    """A trial that leaves files of weights, as a real one does, and notes which epochs begin."""

    def __init__(self, assignment: Assignment, begun: Path) -> None:
        super().__init__(assignment, self._ap50)
        self._begun = begun

    def _ap50(self, assignment: Assignment, epoch: int) -> float:
        phase = Path(assignment.folder).parent.name
        (self._begun / f"{phase}-{assignment.trial}-{epoch}-{assignment.attempt}").touch()
        return replayed_ap50(assignment.settings, epoch)

    def save(self, folder: Path) -> None:
        super().save(folder)
        for name in ("best-0001", "last"):
            (folder / f"{name}.safetensors").write_bytes(b"weights")

    def load(self, folder: Path) -> bool:
        """Go on only where the engine has kept both files."""
        kept = all((folder / f"{name}.safetensors").exists() for name in ("best-0001", "last"))
        return kept and super().load(folder)


@dataclass(frozen=True)
class Kept:
    begun: Path

    trains = False

    def make(self, assignment: Assignment, inputs: TrialInputs) -> KeptTrial:  # noqa: ARG002
        return KeptTrial(assignment, self.begun)


def plan_for(results: Path, request: StudyRequest | None = None) -> StudyPlan:
    return StudyPlan(
        request or asked(),
        Options(results),
        datasets.load_data("synthetic"),
        {},
        Machine((Node(2, 0),)),
        TrialResources(1, 0.0, 2),
    )


def run(plan: StudyPlan, begun: Path) -> str:
    begun.mkdir(exist_ok=True)
    output = Console(file=io.StringIO(), width=1000)
    with mock.patch.object(study, "execute", execute_here):
        study.run_study(plan, output, Kept(begun))
    return output.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def searched(plan: StudyPlan) -> tuple[TrialRecord, ...]:
    reading = read_ledger(plan.storage, "paused")
    assert reading is not None
    return reading.records


def confirmed(plan: StudyPlan) -> tuple[Candidate, ...]:
    read = read_study("paused", plan.options.results).confirmation
    assert read is not None
    assert read.finished
    return read.candidates


def weights(plan: StudyPlan, number: int) -> set[str]:
    return {path.name for path in plan.folder.trial(number).glob("*.safetensors")}


def begun_epochs(begun: Path) -> Counter[tuple[str, int, int]]:
    parts = [path.name.split("-") for path in begun.iterdir()]
    return Counter((phase, int(trial), int(epoch)) for phase, trial, epoch, _ in parts)


@dataclass(frozen=True)
class Study:
    """A study whose time was up when its search had ended, and that went on later.

    paused   the trials when the search had ended
    said     what was said when it went on
    """

    plan: StudyPlan
    begun: Path
    paused: tuple[TrialRecord, ...]
    checkpoints: Mapping[int, set[str]]
    said: str


def searched_by_hand(plan: StudyPlan, begun: Path) -> None:
    """Do what workers and driver do until the search has ended."""
    begun.mkdir(exist_ok=True)
    plan.folder.path.mkdir(parents=True)
    with Claim(plan.storage, plan.request.study) as claim:
        held = Ledger(claim, plan.request)
        while (one := held.next()) is not None:
            folder = plan.folder.trial(one.id)
            folder.mkdir(parents=True)
            trial = KeptTrial(Assignment(one.id, 1, str(folder), one.settings, 0), begun)
            ended = False
            while not ended:
                trial.run_epoch()
                trial.save(folder)
                ended = held.report(one.id, [report.to_json() for report in trial.reports])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("paused")
    plan, begun = plan_for(folder / "results"), folder / "begun"
    searched_by_hand(plan, begun)
    paused = searched(plan)
    checkpoints = {one.id: weights(plan, one.id) for one in paused}
    return Study(plan, begun, paused, checkpoints, run(plan, begun))


@pytest.mark.study
def test_stopped_trials_among_the_best_go_on_from_their_checkpoints_and_no_epoch_runs_twice(
    made: Study,
) -> None:
    chosen = waiting(made.paused, made.plan.request)
    assert chosen
    after = searched(made.plan)
    for before, now in zip(made.paused, after, strict=True):
        if before.id in chosen:
            assert now.state is State.COMPLETE
            assert now.continued_after == len(before.epochs)
            assert now.as_stopped.epochs == before.epochs
            assert now.curve == [
                pytest.approx(replayed_ap50(now.settings, epoch)) for epoch in range(1, EPOCHS + 1)
            ]
        else:
            assert (now.state, now.epochs) == (before.state, before.epochs)
    ran = begun_epochs(made.begun)
    assert set(ran.values()) == {1}
    further = sum(EPOCHS - len(made.paused[number].epochs) for number in chosen)
    assert sum(phase == "trials" for phase, _, _ in ran) == further + sum(
        len(one.epochs) for one in made.paused
    )
    assert f"{further} epochs in all" in made.said
    for number in chosen:
        assert f"trial {number} after epoch {len(made.paused[number].epochs)}" in made.said


@pytest.mark.study
def test_the_best_of_all_complete_trials_are_confirmed_and_the_tables_name_what_was_continued(
    made: Study,
) -> None:
    read = read_study("paused", made.plan.options.results)
    best = sorted(read.records, key=lambda one: -float(one.settings["optim.learning_rate"]))[:3]
    assert read.confirmation is not None
    assert {one.trial.id for one in read.confirmation.candidates} == {one.id for one in best}
    stopped = {f"trial {one.id}": one.continued_after for one in best}
    scores = {each.name: (each.score, each.expected) for each in read.confirmation.candidates}
    rows = list(csv.DictReader(io.StringIO(made.plan.folder.confirm_csv.read_text())))
    assert {row["name"]: row["continued_after"] for row in rows} == {
        name: "" if epoch is None else str(epoch) for name, epoch in stopped.items()
    }
    assert any(stopped.values())
    for row in rows:
        score, expected = scores[row["name"]]
        assert expected is not None
        assert (float(row["search_ap50"]), float(row["expected_ap50"])) == (score, expected.mean)
    for row in csv.DictReader(io.StringIO(made.plan.folder.trials_csv.read_text())):
        one = read.records[int(row["trial"])]
        assert (row["state"], int(row["epochs"])) == (one.state.value, len(one.epochs))
        assert row["continued_after"] == str(one.continued_after or "")
        if one.continued_after:
            assert row["reason"] == (
                f"stopped early after epoch {one.continued_after}, continued before the"
                " confirmation"
            )


@pytest.mark.study
def test_when_all_candidates_are_complete_no_checkpoint_is_left(made: Study) -> None:
    assert all(files == {"best-0001.safetensors", "last.safetensors"} for files in
               made.checkpoints.values())  # fmt: skip
    kept = {one.trial.id for one in confirmed(made.plan)}
    for one in made.paused:
        assert weights(made.plan, one.id) == (
            {"best-0001.safetensors"} if one.id in kept else set()
        )


@pytest.mark.study
def test_the_tracker_shows_a_continued_trial_as_one_run_to_its_end(
    made: Study, tmp_path: Path
) -> None:
    def assert_shown(plan: StudyPlan) -> None:
        client = mlflow.MlflowClient(plan.tracking.uri)
        experiment = client.get_experiment_by_name("paused").experiment_id
        runs = client.search_runs([experiment], "tags.phase = 'search'")
        assert len(runs) == len(made.paused)
        for one in runs:
            now = searched(plan)[int(one.data.tags["trial"])]
            assert (one.info.status, one.data.tags["state"]) == ("FINISHED", now.state.value)
            shown = client.get_metric_history(one.info.run_id, "ap50")
            assert [point.value for point in shown] == now.curve
            epoch = now.continued_after
            assert one.data.tags.get("continued_after") == (None if epoch is None else str(epoch))

    assert_shown(made.plan)
    shutil.copytree(made.plan.options.results, tmp_path / "results")
    (tmp_path / "results" / "mlflow.db").unlink()
    copied = replace(made.plan, options=Options(tmp_path / "results"))
    rebuild_tracking(copied.options, "paused")
    assert_shown(copied)


@pytest.mark.study
def test_the_same_command_on_such_a_study_runs_and_chooses_nothing(
    made: Study, tmp_path: Path
) -> None:
    before = read_ledger(made.plan.storage, "paused")
    assert before is not None
    assert before.chosen.candidates is not None
    with mock.patch("tune.study.candidates.posterior", side_effect=AssertionError):
        run(made.plan, tmp_path / "begun")
        assert [one.trial.id for one in confirmed(made.plan)] == [
            *(before.chosen.candidates.expected)
        ]
    assert not any((tmp_path / "begun").iterdir())
    after = read_ledger(made.plan.storage, "paused")
    assert after is not None
    assert replace(after, run=before.run) == before  # only that the study was driven once more


@pytest.mark.study
def test_a_stopped_trial_without_checkpoint_is_trained_again_from_its_first_epoch_and_it_is_said(
    tmp_path: Path,
) -> None:
    plan, begun = plan_for(tmp_path / "results"), tmp_path / "begun"
    searched_by_hand(plan, begun)
    paused = searched(plan)
    first, *others = waiting(paused, plan.request)
    (plan.folder.trial(first) / "last.safetensors").unlink()
    said = run(plan, begun)
    known = len(paused[first].epochs)
    assert (
        f"Note: trial {first} has no checkpoint of its {known} epochs any more, so it is trained"
        " again from its first epoch" in said
    )
    assert said.count("has no checkpoint") == 1
    ran = begun_epochs(begun)
    assert [ran["trials", first, epoch] for epoch in range(1, EPOCHS + 1)] == [
        2 if epoch <= known else 1 for epoch in range(1, EPOCHS + 1)
    ]
    assert all(ran["trials", other, 1] == 1 for other in others)
    now = searched(plan)[first]
    assert (now.state, now.as_stopped.epochs) == (State.COMPLETE, paused[first].epochs)


@pytest.mark.study
def test_no_stopped_trial_goes_on_whose_checkpoint_was_removed_when_nothing_was_to_be_confirmed(
    tmp_path: Path,
) -> None:
    plan, begun = plan_for(tmp_path / "results", asked(confirm={"top": 0})), tmp_path / "begun"
    searched_by_hand(plan, begun)
    run(plan, begun)
    before = searched(plan)
    stopped = [one.id for one in before if one.state is State.PRUNED]
    assert stopped
    assert not any(weights(plan, number) for number in stopped)
    later = plan_for(tmp_path / "results")
    said = run(later, begun)
    assert "has no checkpoint" not in said
    assert [one.state for one in searched(later)] == [one.state for one in before]
    assert len(confirmed(later)) == min(3, len(before) - len(stopped))


@pytest.mark.study
def test_a_study_that_an_earlier_version_confirmed_stays_finished(tmp_path: Path) -> None:
    plan, begun = plan_for(tmp_path / "results"), tmp_path / "begun"
    searched_by_hand(plan, begun)
    paused = searched(plan)
    complete = [one for one in paused if one.state is State.COMPLETE]
    by_score = sorted(complete, key=lambda one: -(one.ap50 or 0.0))[: plan.request.confirm.top]
    facts = confirmation.confirmation_facts(plan.request, plan.repeats)
    del facts["confirm"]["continues"]
    wanted = confirmation.confirming_points(
        [Candidate(f"trial {one.id}", (one,)) for one in by_score], plan.request, plan.repeats
    )
    held = open_ledger(plan.storage, confirmation.confirming_request(plan.request), wanted)
    held.remember(facts)
    for _ in range(2):
        run(plan, begun)
        assert searched(plan) == tuple(
            replace(one, mlflow_run=now.mlflow_run)
            for one, now in zip(paused, searched(plan), strict=True)
        )
        assert numbers(confirmed(plan)) == [one.id for one in by_score]
        assert all(one.expected is None for one in confirmed(plan))


def test_the_forecast_counts_what_may_be_continued_and_then_what_is(tmp_path: Path) -> None:
    plan = plan_for(tmp_path / "results")
    before = pace.forecast_plan(plan, (), measures=False)
    assert [(span.low, span.high) for span in before.continuing] == [(0, EPOCHS - FIRST_RUNG)] * 6
    note = next(one for one in plan.request.notes if "that were stopped early go on" in one)
    assert note.endswith("at most 6 trials of up to 4 further epochs")
    searched_by_hand(plan, tmp_path / "begun")
    paused = searched(plan)
    chosen = waiting(paused, plan.request)
    known = pace.forecast_plan(plan, paused, measures=False)
    rest = [float(EPOCHS - len(paused[number].epochs)) for number in chosen]
    assert [(span.low, span.high) for span in known.continuing] == [(one, one) for one in rest]
    held = open_ledger(plan.storage, plan.request)
    assert to_continue(paused, confirmation.decide(held, plan.request)) == chosen
    for number in chosen:
        held.reopen(number)
    running = pace.forecast_plan(plan, held.records, measures=False, chosen=held.chosen)
    assert running.continuing == ()
    left, promised = running.left(held.records), known.left(paused)
    assert left is not None
    assert promised is not None
    assert left.low <= promised.low <= promised.high == pytest.approx(left.high)


def test_without_early_stopping_or_confirmation_nothing_is_promised() -> None:
    for changes in ({"stop_early": {"rule": "none"}}, {"confirm": {"top": 0}}):
        request = asked(**changes)
        assert request.continued == 0
        assert not any("that were stopped early go on" in note for note in request.notes)


@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kills",
    [
        ("chosen:1", "reopened:1", "reported:3"),
        pytest.param(("reopened:2", "judged:1", "writing last.json:3"), marks=pytest.mark.long),
    ],
    ids=lambda kills: ", ".join(kills),
)
def test_a_driver_killed_while_trials_are_continued_goes_on_and_continues_the_same(
    kills: Sequence[str], tmp_path: Path
) -> None:
    plan, begun = plan_for(tmp_path / "results"), tmp_path / "begun"
    searched_by_hand(plan, begun)
    paused = searched(plan)
    chosen = waiting(paused, plan.request)
    assert len(chosen) >= 2
    for kill in (*kills, ""):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment |= {"CELL_TUNE_KILL": kill} if kill else {}
        done = subprocess.run(
            [sys.executable, __file__, str(tmp_path)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == (-signal.SIGKILL if kill else 0), (kill, done.stdout, done.stderr)
    after = searched(plan)
    assert {one.id for one in after if one.continued_after is not None} == {*chosen}
    for number in chosen:
        assert after[number].state is State.COMPLETE
        assert after[number].as_stopped.epochs == paused[number].epochs
        assert after[number].curve == [
            pytest.approx(replayed_ap50(after[number].settings, epoch))
            for epoch in range(1, EPOCHS + 1)
        ]
        assert all(
            (phase, trial, epoch) in begun_epochs(begun)
            for phase, trial in (("trials", number),)
            for epoch in range(1, EPOCHS + 1)
        )
    ran = Counter({name: n for name, n in begun_epochs(begun).items() if n > 1})
    assert ran.total() <= 2 * len(kills)  # the epochs that ran when a driver died
    reading = read_ledger(plan.storage, "paused.confirm")
    assert reading is not None
    assert {one.state for one in reading.records} == {State.COMPLETE}
    best = confirmed(plan)
    keys = {settings_key(one.settings, ("seed", "data.split_seed")) for one in reading.records}
    assert keys == {settings_key(one.trial.settings, ("seed", "data.split_seed")) for one in best}


if __name__ == "__main__":
    here = Path(sys.argv[1])
    run(plan_for(here / "results"), here / "begun")
