"""Laws of the noise of scores, as the ledger knows it."""

from typing import Any

import numpy as np
import pytest

from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.posterior import posterior
from tune.ledger.proposals import tried_of
from tune.ledger.records import State
from tune.request.file import from_document
from tune.samplers.sampler import Outcome
from tune.stopping.rule import STOPPING_RULES, NoisyCurve

DOCUMENT: dict[str, Any] = {
    "study": "law",
    "data": "synthetic",
    "fixed": {"optim.epochs": 3},
    "space": {"optim.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}},
    "search": {"sampler": "random", "trials": 20},
    "stop_early": {"rule": "none"},
}


def play(ledger: Ledger, curve: list[float], pulls: list[list[float]] | None = None) -> int:
    """Run the next trial along a curve; returns its number."""
    record = ledger.next()
    assert record is not None
    reports: list[dict[str, Any]] = [
        {"epoch": number, "ap50": ap50, "seconds": 1.0} for number, ap50 in enumerate(curve, 1)
    ]
    for report, pull in zip(reports, pulls or [], strict=bool(pulls)):
        report["ap50_pulls"] = pull
    ledger.report(record.id, reports)
    return record.id


def test_a_samplers_view_has_the_variance_by_which_images_set_trials_apart() -> None:
    ledger = open_ledger("memory", from_document(DOCUMENT, "test"))
    best = [[0.03, -0.03], [0.01, 0.01]]
    for pull in best:
        play(ledger, [0.1, 0.5, 0.4], [[9.0, 9.0], pull, [9.0, 9.0]])
    # The mean pull is (0.02, -0.01); each trial is (0.01, -0.02) or its opposite away from it.
    variances = [one.variance for one in tried_of(ledger.records)]
    assert variances == pytest.approx([0.01**2 + 0.02**2] * 2)


def test_where_pulls_are_not_known_of_all_trials_alike_scores_count_as_exact() -> None:
    ledger = open_ledger("memory", from_document(DOCUMENT, "test"))
    play(ledger, [0.1, 0.5, 0.4])
    play(ledger, [0.1, 0.5, 0.4], [[0.1]] * 3)
    play(ledger, [0.1, 0.5, 0.4], [[0.1, 0.2]] * 3)
    assert [one.variance for one in tried_of(ledger.records)] == [0.0] * 3


def test_a_stopped_trial_is_as_unsure_as_the_gains_of_complete_ones_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = open_ledger("memory", from_document(DOCUMENT, "test"))
    for last in (0.4, 0.6, 0.8):
        play(ledger, [0.2, 0.2, last])

    class Stops:
        def why_stopped(self, curve: object, *_: object) -> str:
            assert isinstance(curve, NoisyCurve)
            return "stopped early after epoch 1: enough"

    monkeypatch.setattr(ledger, "_rule", Stops())
    play(ledger, [0.1])
    stopped = tried_of(ledger.records)[-1]
    assert (stopped.outcome, stopped.score) == (Outcome.STOPPED, pytest.approx(0.5))
    assert stopped.variance == pytest.approx(np.var([0.2, 0.4, 0.6], ddof=1))


def test_a_rule_is_shown_curves_with_the_pulls_of_each_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = open_ledger("memory", from_document(DOCUMENT, "test"))
    shown = []

    class Looks:
        def why_stopped(self, curve: Any, others: Any, complete: Any, _: int) -> str:
            shown.append((curve, [*others], [*complete]))
            return ""

    monkeypatch.setattr(ledger, "_rule", Looks())
    pulls = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    play(ledger, [0.1, 0.2, 0.3], pulls)
    play(ledger, [0.1, 0.2, 0.3])
    curve, others, complete = shown[-1]
    assert (curve, curve.pulls) == ((0.1, 0.2), [(), ()])
    assert others == complete == [(0.1, 0.2, 0.3)]
    assert [list(one) for one in others[0].pulls] == pulls
    assert STOPPING_RULES  # the table from which a study takes its rule


def test_the_order_by_posterior_mean_is_that_of_the_truth_where_the_best_score_is_a_lucky_one() -> (
    None
):
    request = from_document(DOCUMENT, "test")
    ledger = open_ledger("memory", request)
    rng = np.random.default_rng(1)
    truth = {}
    lucky = None
    for _ in range(20):
        record = ledger.next()
        assert record is not None
        rate = float(record.params["optim.learning_rate"])
        truth[record.id] = 0.5 + 0.1 * np.log10(rate / 1e-5)
        score = truth[record.id] + rng.normal(0.0, 0.05)
        if lucky is None and truth[record.id] < 0.6:
            lucky, score = record.id, 0.99
        pull = (rng.normal(size=20) * 0.05 / 20**0.5).tolist()
        reports = [
            {"epoch": number, "ap50": score, "seconds": 1.0, "ap50_pulls": pull}
            for number in (1, 2, 3)
        ]
        ledger.report(record.id, reports)
    found = posterior(request.space, ledger.records)
    assert found.keys() == truth.keys()
    best = max(found, key=lambda number: found[number].mean)
    assert ledger.best is not None
    assert ledger.best.id == lucky != best
    assert truth[best] > max(truth.values()) - 0.05
    assert all(one.sd > 0 for one in found.values())


def test_only_trials_with_a_result_have_an_estimate() -> None:
    request = from_document(DOCUMENT, "test")
    ledger = open_ledger("memory", request)
    assert posterior(request.space, ledger.records) == {}
    number = play(ledger, [0.1, 0.2, 0.3])
    assert posterior(request.space, ledger.records)[number].mean == pytest.approx(0.3, abs=1e-6)
    failed, running = ledger.next(), ledger.next()
    assert failed is not None
    assert running is not None
    ledger.fail(failed.id, "diverged")
    assert posterior(request.space, ledger.records).keys() == {number}
    assert ledger.records[failed.id].state is State.FAIL
