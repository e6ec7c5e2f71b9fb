"""Laws of sampling a space whose bounds were widened: what was added is searched."""

import math
from pathlib import Path
from typing import Any

import pytest

from core.config import Value
from tune.ledger.ledger import open_ledger
from tune.request.file import from_document
from tune.request.request import StudyRequest
from tune.samplers.at_random import AtRandom
from tune.samplers.sampler import SAMPLERS, Outcome, Tried

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


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_study_whose_bounds_were_widened_finds_what_is_best_beyond_the_old_ones(
    sampler: str, tmp_path: Path
) -> None:
    """Through a ledger, which keeps the old trials with the bounds that they were drawn from."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    for bounds, trials in ((NARROW, TRIED), (WIDE, TRIED + MORE)):
        ledger = open_ledger(url, request(bounds, sampler, trials))
        while (record := ledger.next()) is not None:
            report = {"epoch": 1, "ap50": score(dict(record.settings), 1e-2), "seconds": 1.0}
            ledger.report(record.id, [report])
    new = [record.params["optim.learning_rate"] for record in ledger.records[TRIED:]]
    assert not any(
        beyond(record.params["optim.learning_rate"]) for record in ledger.records[:TRIED]
    )
    assert sum(map(beyond, new)) >= MORE / 4
    assert ledger.best is not None
    assert 3e-3 < float(ledger.best.params["optim.learning_rate"]) < 3e-2
