"""Laws of sampling a space whose bounds were widened: what was added is searched."""

import math
from pathlib import Path
from typing import Any

import pytest

from core.config import Value
from tune.ledger.growth import FIRST
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.proposals import next_point
from tune.request.file import from_document
from tune.request.request import StudyRequest
from tune.samplers.at_random import AtRandom
from tune.samplers.sampler import SAMPLERS, Outcome, Tried

Bounds = tuple[float, float]
NARROW, WIDE = (1e-5, 1e-3), (1e-5, 1e-1)
TRIED, MORE = 20, 20


def request(bounds: tuple[float, float], sampler: str, trials: int = TRIED) -> StudyRequest:
    low, high = bounds
    document: dict[str, Any] = {
        "study": "law",
        "data": "synthetic",
        "fixed": {"optim.epochs": 1},
        "space": {
            "optim.learning_rate": {"low": low, "high": high, "log": True},
            "optim.weight_decay": {"low": 0.0, "high": 0.1},
            "optim.restarts": [0, 1],
        },
        "search": {"sampler": sampler, "trials": trials},
        "stop_early": {"rule": "none"},
    }
    return from_document(document, "test")


def score(settings: dict[str, Value], best: float) -> float:
    """AP50 that falls with the distance of the learning rate from the best one."""
    distance = abs(math.log10(float(settings["optim.learning_rate"]) / best))
    return 0.8 - 0.1 * distance - float(settings["optim.weight_decay"])


def beyond(value: Value) -> bool:
    return float(value) > NARROW[1]


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
@pytest.mark.parametrize("best", [1e-2, 1e-3], ids=["beyond the bound", "at the bound"])
def test_a_fair_share_of_proposals_lies_beyond_a_bound_that_was_widened(
    sampler: str, best: float
) -> None:
    """Over seeds, after trials that all lie within the old bounds."""
    narrow, wide = (request(bounds, sampler) for bounds in (NARROW, WIDE))
    tried = []
    for seed in range(TRIED):
        params = AtRandom().propose(narrow.space, {}, [], seed)
        settings = narrow.space.resolve(params).settings()
        found = score(settings, best)
        tried.append(Tried(params, settings, Outcome.COMPLETE, [found], found))
    proposed = [SAMPLERS[sampler]().propose(wide.space, {}, tried, seed) for seed in range(MORE)]
    share = sum(beyond(one["optim.learning_rate"]) for one in proposed) / MORE
    assert share >= 0.25


def run(folder: Path, sampler: str, best: float, *spaces: tuple[Bounds, int]) -> Ledger:
    """The ledger of a study that had each of these bounds up to a number of trials."""
    for bounds, trials in spaces:
        # Opened anew before each trial, as after a crash.
        while (
            record := (
                ledger := open_ledger(
                    f"sqlite:///{folder / 'study.db'}", request(bounds, sampler, trials)
                )
            ).next()
        ) is not None:
            report = {"epoch": 1, "ap50": score(dict(record.settings), best), "seconds": 1.0}
            ledger.report(record.id, [report])
    return ledger


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_study_whose_bounds_were_widened_finds_what_is_best_beyond_the_old_ones(
    sampler: str, tmp_path: Path
) -> None:
    """Through a ledger, which keeps the old trials with the bounds that they were drawn from."""
    ledger = run(tmp_path, sampler, 1e-2, (NARROW, TRIED), (WIDE, TRIED + MORE))
    new = [record.params["optim.learning_rate"] for record in ledger.records[TRIED:]]
    assert not any(
        beyond(record.params["optim.learning_rate"]) for record in ledger.records[:TRIED]
    )
    assert sum(map(beyond, new)) >= MORE / 4
    assert ledger.best is not None
    assert 3e-3 < float(ledger.best.params["optim.learning_rate"]) < 3e-2


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_what_was_added_is_searched_even_where_the_best_so_far_is_far_from_it(
    sampler: str, tmp_path: Path
) -> None:
    ledger = run(tmp_path, sampler, 5e-5, (NARROW, TRIED), (WIDE, TRIED + MORE))
    new = [record.params["optim.learning_rate"] for record in ledger.records[TRIED:]]
    assert all(map(beyond, new[:FIRST:2]))
    assert sum(map(beyond, new)) >= MORE / 4
    assert ledger.best is not None
    assert not beyond(ledger.best.params["optim.learning_rate"])


def test_a_study_that_did_not_grow_has_the_sampler_s_own_proposals(tmp_path: Path) -> None:
    ledger = run(tmp_path, "tpe", 5e-5, (NARROW, TRIED // 2), (NARROW, TRIED))
    asked = request(NARROW, "tpe")
    for number, record in enumerate(ledger.records):
        before = ledger.records[:number]
        assert next_point(asked, before).params == record.params


def test_a_choice_that_was_added_is_tried_with_what_it_needs_to_be_active(tmp_path: Path) -> None:
    def asked(choices: list[float], parents: list[int]) -> StudyRequest:
        when = {"optim.restarts": [1]}
        return from_document(
            {
                "study": "law",
                "data": "synthetic",
                "fixed": {"optim.epochs": 1},
                "space": {
                    "optim.learning_rate": {"low": 1e-4, "high": 1e-3},
                    "optim.restarts": parents,
                    "optim.restart_multiplier": {"choices": choices, "when": when},
                },
                "search": {"sampler": "tpe", "trials": 12 if len(choices) == 2 else 22},
                "stop_early": {"rule": "none"},
            },
            "test",
        )

    url = f"sqlite:///{tmp_path / 'study.db'}"
    for choices, parents in (([1, 2], [0, 1]), ([1, 2, 3], [0, 1, 2])):
        ledger = open_ledger(url, asked(choices, parents))
        while (record := ledger.next()) is not None:
            ledger.report(record.id, [{"epoch": 1, "ap50": 0.5, "seconds": 1.0}])
    new = ledger.records[12 : 12 + FIRST : 2]
    # The two settings that have grown take turns.
    assert [record.params["optim.restarts"] for record in new[::2]] == [2] * len(new[::2])
    assert [record.params["optim.restart_multiplier"] for record in new[1::2]] == [3] * len(
        new[1::2]
    )
