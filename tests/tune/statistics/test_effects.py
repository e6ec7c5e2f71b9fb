"""Laws of main effects: least squares finds what was put in, and says how sure it is."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks import statistics
from core.config import Value
from tune.statistics.certainty import holm
from tune.statistics.effects import Effect, comparable_epoch, main_effects


def simulated(
    seed: int, trials: int, noise: float = 0.01
) -> tuple[list[dict[str, Value]], list[float]]:
    """AP50 that gains 0.1 with resnet101, 0.02 with each doubling of the learning rate and
    nothing with elastic.
    """
    rng = np.random.default_rng(seed)
    points: list[dict[str, Value]] = []
    scores = []
    for _ in range(trials):
        point: dict[str, Value] = {
            "model.backbone": str(rng.choice(["resnet50", "resnet50", "resnet101"])),
            "augment.elastic": bool(rng.integers(2)),
            "optim.learning_rate": float(np.exp(rng.uniform(np.log(1e-5), np.log(5e-4)))),
        }
        points.append(point)
        rate = np.log2(float(point["optim.learning_rate"]) / 1e-5)
        scores.append(
            0.3
            + 0.1 * (point["model.backbone"] == "resnet101")
            + 0.02 * rate
            + rng.normal(0, noise)
        )
    return points, [float(value) for value in scores]


def by_setting(effects: list[Effect]) -> dict[str, Effect]:
    return {effect.setting: effect for effect in effects}


def test_what_was_put_in_is_found_and_named_in_words() -> None:
    found = by_setting(main_effects(*simulated(0, 60)))
    assert found["model.backbone"].change == "resnet101 instead of resnet50"
    assert found["optim.learning_rate"].change == "doubled"
    assert found["model.backbone"].estimate == pytest.approx(0.1, abs=0.01)
    assert found["optim.learning_rate"].estimate == pytest.approx(0.02, abs=0.003)
    assert found["augment.elastic"].estimate == pytest.approx(0.0, abs=0.01)
    assert not any(effect.alone for effect in found.values())


def test_an_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    held = []
    for seed in range(200):
        found = by_setting(main_effects(*simulated(seed, 40, noise=0.05)))
        held += [found["model.backbone"].low <= 0.1 <= found["model.backbone"].high]
    assert 0.9 <= np.mean(held) <= 0.99


def test_too_few_trials_for_all_settings_are_taken_one_at_a_time() -> None:
    effects = main_effects(*simulated(1, 8))
    assert effects
    assert all(effect.alone for effect in effects)


def test_a_conditional_setting_is_judged_among_the_trials_that_have_it() -> None:
    points, scores = simulated(2, 30)
    for number, point in enumerate(points):
        if number % 2:
            point["optim.restart_multiplier"] = 1 + number // 2 % 2
    found = by_setting(main_effects(points, scores))["optim.restart_multiplier"]
    assert (found.trials, found.alone) == (15, True)


def test_a_setting_that_does_not_vary_has_no_effect_to_show() -> None:
    points, scores = simulated(3, 20)
    for point in points:
        point["augment.elastic"] = True
    assert "augment.elastic" not in by_setting(main_effects(points, scores))


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_hardly_any_trials_give_no_effects_and_no_error(trials: int) -> None:
    points, scores = simulated(4, trials)
    assert main_effects(points, scores) == []


def test_settings_that_always_change_together_are_one_effect_that_names_them_all() -> None:
    points, scores = simulated(5, 40)
    before = by_setting(main_effects(points, scores))
    for point in points:
        point["augment.affine"] = not point["augment.elastic"]
        point["optim.weight_decay"] = 3 * float(point["optim.learning_rate"])
    found = by_setting(main_effects(points, scores))
    assert set(found) == set(before)
    for name, other, words in (
        ("augment.elastic", "augment.affine", ", always with affine {} instead of {}"),
        ("optim.learning_rate", "optim.weight_decay", ", always together with weight decay"),
    ):
        assert found[name].together == (other,)
        was_on = before[name].change == "on instead of off"
        said = words.format(*(("off", "on") if was_on else ("on", "off")))
        assert found[name] == replace(
            before[name], change=before[name].change + said, together=(other,)
        )


def test_settings_whose_effects_add_up_to_another_cannot_be_told_apart() -> None:
    points, scores = simulated(5, 40)
    for number, point in enumerate(points):
        point["augment.affine"] = bool(point["augment.elastic"]) and number % 3 == 0
        point["augment.color_jitter"] = bool(point["augment.elastic"]) and number % 3 != 0
    effects = main_effects(points, scores)
    assert {"augment.affine", "augment.color_jitter", "augment.elastic"} <= set(by_setting(effects))
    assert all(effect.alone for effect in effects)


def test_a_conditional_setting_does_not_take_the_others_from_each_other() -> None:
    """Elastic goes with the better backbone: held together, it has no effect of its own."""
    points, scores = simulated(6, 60)
    for number, point in enumerate(points):
        point["augment.elastic"] = (point["model.backbone"] == "resnet101") != (number % 10 == 0)
        if number % 2:
            point["optim.restart_multiplier"] = 1 + number // 2 % 2
    found = by_setting(main_effects(points, scores))
    assert not found["augment.elastic"].alone
    assert found["augment.elastic"].low <= 0 <= found["augment.elastic"].high


def test_scores_that_are_all_the_same_show_no_effect() -> None:
    points, scores = simulated(7, 40)
    assert main_effects(points, [0.3] * len(scores)) == []


def test_p_values_are_adjusted_for_all_effects_of_the_study() -> None:
    points, scores = simulated(8, 40, noise=0.1)
    for number, point in enumerate(points):
        if number % 2:
            point["optim.restart_multiplier"] = 1 + number // 2 % 2
    effects = main_effects(points, scores)
    assert len({effect.setting for effect in effects}) == 4
    assert [one.p_adjusted for one in effects] == holm([one.p for one in effects])
    for one in effects:
        assert (one.p < 0.05) == (not one.low <= 0 <= one.high)
        assert one.is_clear == (one.p_adjusted < 0.05)


def test_a_twentieth_of_searches_name_one_of_seven_settings_without_an_effect() -> None:
    """A share this high is seen once in a hundred times where the truth is 5%."""
    named, by_itself = 0, 0
    for search in range(300):
        rng = np.random.default_rng([9, search])
        points: list[dict[str, Value]] = [
            {f"setting {place}": bool(value) for place, value in enumerate(values)}
            for values in rng.integers(0, 2, (40, 7))
        ]
        effects = main_effects(points, rng.normal(0.3, 0.05, 40).tolist())
        named += any(one.is_clear for one in effects)
        by_itself += any(one.p < 0.05 for one in effects)
    assert named <= stats.binom.ppf(0.99, 300, 0.05)
    assert by_itself > 60


NUMBERS = ("optim.learning_rate", "optim.weight_decay", "augment.elastic_strength")


def humped(
    search: int, trials: int, hump: float, slope: float = 0.0, noise: float = 0.05
) -> tuple[list[dict[str, Value]], list[float]]:
    """AP50 that is `hump` lower at both ends of the learning rate, 1e-5 and 1e-3, than at 1e-4, and
    rises by `slope` between them.

    Two other numbers and four switches have no effect.
    """
    rng = np.random.default_rng([10, search, trials])
    place_NP = rng.uniform(-1, 1, (trials, 3))
    points: list[dict[str, Value]] = [
        {
            **dict(zip(NUMBERS, (float(1e-4 * 10**a), float(b + 1), float(10**c)), strict=True)),
            **{f"switch {number}": bool(rng.integers(2)) for number in range(4)},
        }
        for a, b, c in place_NP
    ]
    rate_N = place_NP[:, 0]
    truth_N = 0.4 - hump * rate_N**2 + slope * rate_N / 2
    return points, (truth_N + rng.normal(0, noise, trials)).tolist()


@pytest.mark.parametrize("trials", [12, 25, 32, 33, 60])
def test_squares_make_no_more_false_alarms_at_any_number_of_trials(trials: int) -> None:
    """With 12, 25, 32 and 33 trials settings are taken alone, as lines, each with its own square
    and with all squares. A share this high is seen once in a hundred times where the truth is 5%.
    """
    named = sum(
        any(one.is_clear for one in main_effects(*humped(search, trials, 0.0)))
        for search in range(300)
    )
    assert named <= stats.binom.ppf(0.99, 300, 0.05)


@pytest.mark.parametrize("trials", [32, 40])
def test_a_hump_is_found_and_its_top_and_ends_are_where_they_were_put(trials: int) -> None:
    """In all searches it is clear; the intervals of its top and ends hold the truth in 95%."""
    top, ends = [], []
    for search in range(100):
        points, scores = humped(search, trials, 0.2, noise=0.03)
        effects = main_effects(points, scores)
        low, high = (one for one in effects if one.setting == NUMBERS[0])
        assert low.is_clear
        assert low.turn == high.turn
        turn = low.turn
        assert turn is not None
        assert turn.is_best
        assert turn.low <= turn.at <= turn.high
        top.append(turn.low <= 1e-4 <= turn.high)
        places = [np.log10(float(point[NUMBERS[0]]) / 1e-4) for point in points]
        truths = [-0.2 * place**2 for place in (min(places), max(places))]
        ends.append(low.low <= truths[0] <= low.high)
        ends.append(high.low <= truths[1] <= high.high)
    assert np.mean(top) >= stats.binom.ppf(0.01, 100, 0.95) / 100
    assert np.mean(ends) >= stats.binom.ppf(0.01, 100, 0.95) / 100


def test_a_hump_does_not_hide_the_effect_of_another_setting() -> None:
    points, scores = humped(0, 40, 0.4)
    scores = [
        score + 0.1 * bool(one["switch 1"]) for one, score in zip(points, scores, strict=True)
    ]
    found = by_setting(main_effects(points, scores))
    assert {name for name, one in found.items() if one.is_clear} == {NUMBERS[0], "switch 1"}


def test_a_hump_is_told_in_plain_words() -> None:
    low, high = (
        one for one in main_effects(*humped(1, 60, 0.3, noise=0.01)) if one.setting == NUMBERS[0]
    )
    assert str(low.turn) == "best near 0.0001; lower and higher scored less"
    assert low.turn is not None
    assert 9e-5 < low.turn.low < low.turn.at < low.turn.high < 1.1e-4
    assert low.change.endswith(" instead of 0.0001")
    assert high.change.endswith(" instead of 0.0001")
    upside_down = main_effects(*humped(1, 60, -0.3, noise=0.01))
    worst = next(one.turn for one in upside_down if one.setting == NUMBERS[0])
    assert str(worst).startswith("worst near ")
    assert str(worst).endswith("; lower and higher scored more")


def test_a_curve_that_rises_all_the_way_has_no_best_value_inside() -> None:
    points, scores = humped(2, 60, 0.1, slope=0.8, noise=0.01)
    (found,) = (one for one in main_effects(points, scores) if one.setting == NUMBERS[0])
    assert found.turn is None
    rates = [float(point[NUMBERS[0]]) for point in points]
    assert found.change == f"from {min(rates):.2g} to {max(rates):.2g}"
    first, last = (np.log10(rate / 1e-4) for rate in (min(rates), max(rates)))
    assert found.low <= 0.4 * (last - first) - 0.1 * (last**2 - first**2) <= found.high


def test_a_line_keeps_its_words_beside_the_test_of_a_curve() -> None:
    points, scores = humped(4, 60, 0.0, slope=0.4)
    (found,) = (one for one in main_effects(points, scores) if one.setting == NUMBERS[0])
    assert (found.change, found.turn, found.is_clear) == ("doubled", None, True)
    assert found.low <= 0.4 / np.log2(100) <= found.high


def test_trials_are_compared_after_the_last_epoch_that_all_reached() -> None:
    curves = [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2], [0.1, 0.1, 0.2]]
    assert comparable_epoch(curves, [False, True, True]) == 2
    assert comparable_epoch(curves[:1], [False]) is None
    assert comparable_epoch([], []) is None


def test_early_stopping_does_not_make_an_effect_look_smaller_than_it_is() -> None:
    """Complete trials alone are those that were early, good or lucky, and show another effect."""
    found = statistics.effects(60, 0.06, True, "random", 60)
    assert found.estimate == pytest.approx(0.06, abs=0.008)
    assert found.covered >= 0.95 - 3 * (0.95 * 0.05 / 60) ** 0.5
    assert abs(found.complete[0] - 0.06) > 0.01
