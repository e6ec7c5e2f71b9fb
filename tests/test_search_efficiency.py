"""Laws of the benchmark that compares searches: the same epochs for everybody, and only complete
trials count.
"""

import itertools

import numpy as np
import pytest

from benchmarks import learning_curves, search_efficiency
from benchmarks.learning_curves import EPOCHS, SPACE
from benchmarks.search_efficiency import BUDGET, METHODS, OURS, Outcome, play

MISSING = learning_curves.missing()


class Stopping:
    """Stops each trial after so many epochs, except every third."""

    def __init__(self, after: int) -> None:
        self.after, self.epochs, self.numbers = after, 0, itertools.count()

    def start(self) -> tuple[int, dict[str, float]]:
        return next(self.numbers), {name: low for name, (low, *_) in SPACE.items()}

    def stops(self, trial: int, epoch: int, _: float) -> bool:
        self.epochs += 1
        return epoch == EPOCHS or (epoch == self.after and trial % 3 > 0)


@pytest.mark.parametrize("after", [1, 6, 51, 52])
def test_no_method_spends_more_than_all_epochs_nor_leaves_a_full_training_unused(
    after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        learning_curves, "curves", lambda _, configs: np.ones((len(configs), EPOCHS))
    )
    method = Stopping(after)
    course = play(method, "data")
    assert BUDGET - EPOCHS < method.epochs <= BUDGET
    assert course.trials == next(method.numbers)


def test_trials_that_were_stopped_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = itertools.count(1)
    monkeypatch.setattr(
        learning_curves, "curves", lambda *_: np.full((1, EPOCHS), next(accuracies))
    )
    course = play(Stopping(10), "data")
    best = course.found[-1]
    assert (best - 1) % 3 == 0, "every third runs to the end, the first of them with accuracy 1"
    assert np.isnan(course.found[EPOCHS - 1])
    assert np.nanmin(np.diff(course.found)) >= 0


def test_epochs_to_a_gap_are_those_at_which_the_mean_course_has_it() -> None:
    gaps = np.zeros((2, len(METHODS), 1, 5))
    gaps[:, list(METHODS).index(OURS), 0] = [[np.nan, 4, 2, 0, 0], [np.nan, np.nan, 4, 2, 2]]
    outcome = Outcome(gaps, np.zeros(gaps.shape[:3]))
    assert outcome.epochs_to(3, OURS) == 2
    assert outcome.epochs_to(0.5, OURS) == float("inf")


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_the_replayed_curves_are_accuracies_and_both_halves_are_apart() -> None:
    tuning, final = (learning_curves.data_sets(half) for half in (True, False))
    assert len({*tuning, *final}) == len(tuning) + len(final) == 34
    configs = learning_curves.random_configs(25, np.random.default_rng(0))
    curves = learning_curves.curves(tuning[0], configs)
    assert curves.shape == (25, EPOCHS)
    assert curves.min() >= 0
    assert curves.max() <= 100
    one_by_one = np.concatenate(
        [learning_curves.curves(tuning[0], config[None]) for config in configs]
    )
    assert np.abs(curves - one_by_one).max() < 1e-3


def test_where_the_curves_are_missing_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    monkeypatch.setattr(learning_curves, "FOLDER", tmp_path)
    assert list(search_efficiency.lines(short=True)) == []
    assert "are not here" in capsys.readouterr().out
