"""Laws of the choice of a winner: made on mean curves, and its luck subtracted."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from benchmarks import statistics
from benchmarks.simulated_scores import MAX_DETS, draw_images, evaluate
from core.metric.ap50 import MatchTable, ap50
from tune.statistics.choice import Choice, choose_winner

Tables = dict[str, list[list[Callable[[], MatchTable]]]]


def candidates(
    seed: int, curves: dict[str, list[float]], repeats: int, images: int = 25, seed_sd: float = 0.0
) -> Tables:
    """Candidates with a quality after each epoch; the repeats of all share their images."""
    rng = np.random.default_rng(seed)
    parts = [draw_images(rng, images) for _ in range(repeats)]
    found: Tables = {}
    for name, qualities in curves.items():
        found[name] = []
        for number, part in enumerate(parts):
            luck = rng.normal(0, seed_sd)
            names = np.arange(images) + 1000 * number
            tables = [evaluate(rng, part, quality + luck, names) for quality in qualities]
            found[name].append([partial(same, table) for table in tables])
    return found


def same(table: MatchTable) -> MatchTable:
    return table


def mean_curve(tables: Tables, name: str) -> list[float]:
    values = [[ap50(load(), MAX_DETS).mean for load in epochs] for epochs in tables[name]]
    return [float(value) for value in np.mean(values, axis=0)]


def test_the_winner_and_its_epoch_are_the_highest_point_of_all_mean_curves() -> None:
    tables = candidates(0, {"a": [-1, 0, 0.1], "b": [0, 0.3, 0.2], "c": [-0.5, -0.5, -0.5]}, 3)
    found = choose_winner(tables, MAX_DETS)
    curves = {name: mean_curve(tables, name) for name in tables}
    assert found.name == max(curves, key=lambda name: max(curves[name]))
    assert found.epoch == 1 + int(np.argmax(curves[found.name]))
    assert found.score == pytest.approx(max(curves[found.name]), abs=1e-9)
    for name, curve in curves.items():
        assert found.curves[name] == pytest.approx(curve, abs=1e-9)


def test_the_epoch_is_that_of_the_mean_curve_and_not_of_any_repeat() -> None:
    """One repeat peaks early and one late, as far apart; both are good in the middle."""
    tables = candidates(1, {"a": [0.0] * 3}, 2)
    rng = np.random.default_rng(2)
    part = draw_images(rng, 25)
    for repeat, qualities in enumerate(([1.0, 0.9, -1.0], [-1.0, 0.9, 1.0])):
        tables["a"][repeat] = [partial(same, evaluate(rng, part, quality)) for quality in qualities]
    assert choose_winner(tables, MAX_DETS).epoch == 2


def test_the_corrected_score_is_the_score_less_its_optimism() -> None:
    found = choose_winner(candidates(3, {"a": [0.0, 0.0], "b": [0.0, 0.0]}, 3), MAX_DETS)
    assert found.corrected.estimate == pytest.approx(found.score - found.optimism)
    assert found.corrected.low < found.corrected.estimate < found.corrected.high


def test_more_to_choose_from_is_more_luck_to_subtract() -> None:
    """Averaged over data sets: one candidate with one epoch, and ten alike with five epochs
    each.
    """
    few, many = (
        np.mean(
            [
                choose_winner(candidates(seed, curves, 3, seed_sd=0.1), MAX_DETS).optimism
                for seed in range(6)
            ]
        )
        for curves in ({"a": [0.0]}, {str(number): [0.0] * 5 for number in range(8)})
    )
    assert many > few + 0.005


def test_a_clear_winner_owes_little_to_luck() -> None:
    clear = choose_winner(
        candidates(4, {"a": [1.0], "b": [-1.0], "c": [-1.0]}, 3, images=60), MAX_DETS
    )
    assert clear.name == "a"
    assert abs(clear.optimism) < 0.03


def test_the_same_choice_is_made_again() -> None:
    tables = candidates(5, {"a": [0.0, 0.1], "b": [0.1, 0.0]}, 2)
    assert choose_winner(tables, MAX_DETS, seed=3) == choose_winner(tables, MAX_DETS, seed=3)


def test_one_candidate_with_one_repeat_is_a_choice_too() -> None:
    found = choose_winner(candidates(6, {"a": [0.0, 0.2]}, 1), MAX_DETS)
    assert isinstance(found, Choice)
    assert found.name == "a"


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_confirmed_winner_is_better_and_its_score_nearer_the_truth_than_the_best_score_of_the_search() -> (
    None
):
    found = statistics.won(41, 20, 5, 3, 60)
    assert found.confirmed < found.by_score
    assert abs(found.corrected) < found.raw < found.too_high
    assert found.covered >= 0.85
