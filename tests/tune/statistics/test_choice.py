"""Laws of the choice of a winner: made on mean curves, and its luck subtracted."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from benchmarks import statistics
from benchmarks.simulated_scores import MAX_DETS, draw_images, evaluate
from core.config import PredictConfig
from core.metric.ap50 import MatchTable, ap50
from tune.statistics.certainty import Verdict, for_all_pairs
from tune.statistics.choice import Choice, Predictions, choose_winner

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


def test_the_other_candidates_are_compared_with_the_winner_at_their_own_best_epochs() -> None:
    tables = candidates(8, {"a": [-1.0, -1.2], "b": [0.9, 1.0], "c": [0.9, 0.8]}, 3, images=40)
    found = choose_winner(tables, MAX_DETS)
    assert set(found.others) == set(tables) - {found.name}
    for name, other in found.others.items():
        assert other.estimate == pytest.approx(max(found.curves[name]) - found.score, abs=1e-9)
        assert other.repeats == 3
    assert found.others["a"].verdict is Verdict.WORSE
    close = next(one for name, one in found.others.items() if name != "a")
    assert close.verdict is Verdict.CANNOT_TELL
    pairs = [found.others[name].p for name in found.others]
    assert [one.p_adjusted for one in found.others.values()] == for_all_pairs(pairs)


def test_one_candidate_has_no_others() -> None:
    assert choose_winner(candidates(8, {"a": [0.0]}, 2), MAX_DETS).others == {}


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


WAYS = [PredictConfig(max_detections=500 + number) for number in range(8)]


def ways(
    seed: int, tables: Tables, qualities: dict[str, list[float]], images: int = 25
) -> dict[str, Predictions]:
    """Other ways to predict of candidates that were drawn from `seed`, and their qualities.

    The own one is that of the first epoch.
    """
    found = {}
    rng = np.random.default_rng(seed)
    parts = [draw_images(rng, images) for _ in next(iter(tables.values()))]
    rng = np.random.default_rng([seed, 1])
    for name, of_ways in qualities.items():
        tried = {
            way: [
                partial(same, evaluate(rng, part, quality, np.arange(images) + 1000 * number))
                for number, part in enumerate(parts)
            ]
            for way, quality in zip(WAYS, of_ways, strict=False)
        }
        found[name] = Predictions([epochs[0] for epochs in tables[name]], tried)
    return found


def test_the_winner_is_the_pair_of_a_candidate_and_a_way_to_predict() -> None:
    tables = candidates(7, {"a": [0.2, 0.0], "b": [0.0, -0.2]}, 3, images=40)
    tried = ways(7, tables, {"a": [-0.5, -0.6], "b": [-0.5, 2.0]}, 40)
    alone = choose_winner(tables, MAX_DETS)
    assert (alone.name, alone.prediction, alone.gains) == ("a", None, {})
    found = choose_winner(tables, MAX_DETS, predictions=tried)
    assert (found.name, found.epoch, found.prediction) == ("b", 1, WAYS[1])
    for way, loaders in tried["b"].tried.items():
        gain = np.mean(
            [
                ap50(other(), MAX_DETS).mean - ap50(own(), MAX_DETS).mean
                for other, own in zip(loaders, tried["b"].own, strict=True)
            ]
        )
        assert found.gains[way] == pytest.approx(gain, abs=1e-9)
    assert found.score == pytest.approx(found.curves["b"][0] + found.gains[WAYS[1]])
    assert found.corrected.estimate == pytest.approx(found.score - found.optimism)
    assert found.corrected.low < found.corrected.estimate < found.corrected.high


def test_ways_to_predict_that_are_worse_change_nothing_but_their_gains() -> None:
    tables = candidates(9, {"a": [0.2], "b": [0.0]}, 2, images=40)
    tried = ways(9, tables, {"a": [-3.0, -4.0]}, 40)
    alone = choose_winner(tables, MAX_DETS)
    found = choose_winner(tables, MAX_DETS, predictions=tried)
    assert (found.name, found.score, found.prediction) == (alone.name, alone.score, None)
    assert found.optimism == pytest.approx(alone.optimism, abs=1e-6)
    assert all(gain < 0 for gain in found.gains.values())
    assert len(found.gains) == 2


def test_more_ways_to_predict_are_more_luck_to_subtract() -> None:
    """Averaged over data sets: eight ways that are no better than the own one, and none."""
    few, many = [], []
    for seed in range(6):
        tables = candidates(seed, {"a": [0.0]}, 3)
        few.append(choose_winner(tables, MAX_DETS).optimism)
        tried = ways(seed, tables, {"a": [0.0] * 8})
        many.append(choose_winner(tables, MAX_DETS, predictions=tried).optimism)
    assert np.mean(many) > np.mean(few) + 0.005


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_confirmed_winner_is_better_and_its_score_nearer_the_truth_than_the_best_score_of_the_search() -> (
    None
):
    found = statistics.won(41, 20, 5, 3, 60)
    assert found.confirmed < found.by_score
    assert abs(found.corrected) < found.raw < found.too_high
    assert found.covered >= 0.85
