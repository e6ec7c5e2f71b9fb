"""Laws of main effects: least squares finds what was put in, and says how sure it is."""

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


def test_settings_that_always_go_together_cannot_be_told_apart() -> None:
    points, scores = simulated(5, 40)
    for point in points:
        point["augment.affine"] = point["augment.elastic"]
    effects = main_effects(points, scores)
    assert {"augment.affine", "augment.elastic"} <= set(by_setting(effects))
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
