"""Laws of the Gaussian process that knows the noise of each score, and of the rows it compares."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tests.tune.samplers.test_gaussian import SPACE, at_random, space_of, tried
from tune.samplers.encoding import Encoding
from tune.samplers.sampler import Tried
from tune.samplers.surrogate import encoded_points, fit_surrogate
from tune.space.space import SearchSpace


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rows_are_points_of_the_space_and_say_what_the_points_say(seed: int) -> None:
    space = space_of(
        SPACE
        | {
            "augment.elastic_p": {"low": 0.1, "high": 0.9, "step": 0.1},
            "optim.warmup_epochs": {
                "low": 0.5,
                "high": 2,
                "when": {"optim.restart_multiplier": [2], "model.trainable_layers": [0, 5]},
            },
            "augment.elastic": [True],
        }
    )
    encoding = Encoding(space)
    for row in encoding.drawn(np.random.default_rng(seed).random((20, len(space.parameters)))):
        values = encoding.decoded(row)
        point = space.sample(lambda name, _, values=values: values[name])  # type: ignore[misc]
        assert space.holds(point)
        np.testing.assert_allclose(encoding.encoded([encoding.shown(point)])[0], row, atol=1e-9)


def noisy(space: SearchSpace, count: int, variance: float) -> list[Tried]:
    """Trials whose score is their learning rate's place in its domain, and luck."""
    luck = np.random.default_rng(0).normal(0.0, variance**0.5, count)
    return [
        replace(
            tried(point, float(np.log10(float(point["optim.learning_rate"])) / 3 + one)),
            variance=variance,
        )
        for point, one in zip(at_random(space, count), luck, strict=True)
    ]


def test_scores_without_noise_are_what_the_process_expects_there() -> None:
    space = space_of(SPACE)
    known = noisy(space, 20, 0.0)
    encoding = Encoding(space)
    means, sds = fit_surrogate(encoding, known).estimates(encoded_points(encoding, known))
    np.testing.assert_allclose(means, [one.score for one in known], atol=0.05)
    assert (sds < 0.05).all()


def test_estimates_lie_nearer_to_the_truth_than_noisy_scores_and_a_lucky_one_is_not_the_best() -> (
    None
):
    space, encoding = space_of(SPACE), Encoding(space_of(SPACE))
    known = noisy(space, 40, 0.04)
    truth = np.array([np.log10(float(one.settings["optim.learning_rate"])) / 3 for one in known])
    lucky = int(np.argmin(truth))
    known[lucky] = replace(known[lucky], score=max(one.score or 0.0 for one in known) + 0.05)
    means, _ = fit_surrogate(encoding, known).estimates(encoded_points(encoding, known))
    away = np.array([one.score for one in known]) - truth
    assert np.square(means - truth).mean() < np.square(away).mean() / 2
    assert np.argmax(means) != lucky


@pytest.mark.parametrize("variance", [0.0, 1e-3])
@pytest.mark.parametrize("others", [(1.0, 1.0), (0.7, 0.7), (0.99, 1.0)])
def test_a_bad_score_does_not_pass_for_a_good_one_where_most_are_nearly_the_best(
    others: tuple[float, float], variance: float
) -> None:
    space, encoding = space_of(SPACE), Encoding(space_of(SPACE))
    scores = [0.02, *(others[place % 2] for place in range(9))]
    known = [
        replace(tried(point, score), variance=variance)
        for point, score in zip(at_random(space, len(scores)), scores, strict=True)
    ]
    means, _ = fit_surrogate(encoding, known).estimates(encoded_points(encoding, known))
    assert np.argmin(means) == 0


def test_the_surer_of_two_scores_at_one_point_counts_for_more() -> None:
    space, encoding = space_of(SPACE), Encoding(space_of(SPACE))
    known = noisy(space, 20, 0.0001)
    sure, vague = known[0], replace(known[0], variance=0.25)
    means = [
        fit_surrogate(
            encoding, [*known[1:], replace(one, score=(one.score or 0.0) + 0.3)]
        ).estimates(encoded_points(encoding, [one]))[0][0]
        for one in (sure, vague)
    ]
    assert means[0] > means[1] + 0.03


def test_the_gradient_by_which_the_process_is_fitted_is_that_of_its_loss() -> None:
    encoding = Encoding(space_of(SPACE))
    known = noisy(encoding.space, 15, 0.01)
    surrogate = fit_surrogate(encoding, known)
    theta = np.random.default_rng(1).normal(0.0, 1.0, len(encoding.space.parameters) + 2)
    value, gradient = surrogate.loss(theta)
    step = 1e-6 * np.eye(len(theta))
    numeric = [
        (surrogate.loss(theta + one)[0] - surrogate.loss(theta - one)[0]) / 2e-6 for one in step
    ]
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)
