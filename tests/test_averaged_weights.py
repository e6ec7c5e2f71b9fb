"""Laws of the comparison of averaged weights with the weights themselves."""

import numpy as np
import pytest

from benchmarks import averaged_weights
from benchmarks.averaged_weights import WEIGHTS, curves, rows, summary
from core.config import TrialConfig
from core.data import synthetic
from core.training.trial import Trial


def test_averages_kept_beside_a_training_are_those_of_a_training_that_keeps_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(averaged_weights, "IMAGES", 8)
    monkeypatch.setattr(averaged_weights, "HALF_LIVES", (0.5,))
    found = curves(3, 2)
    assert list(found) == [WEIGHTS, "half-life 0.5"]
    for name, half_life in zip(found, (0, 0.5), strict=True):
        settings = {
            **averaged_weights.SETTINGS, "seed": 3, "data.split_seed": 3, "optim.epochs": 2,
            "optim.ema": half_life,
        }  # fmt: skip
        data = synthetic.make_cells(8, averaged_weights.SIDE, 3)
        trial = Trial(TrialConfig.from_settings(settings), data, device="cpu", threads=1)
        trial.run_epoch()
        assert found[name] == [trial.run_epoch().ap50]


def test_a_row_has_the_mean_difference_from_the_weights_of_the_same_seeds() -> None:
    rng = np.random.default_rng(0)
    by_seed = [{WEIGHTS: rng.random(6), "other": rng.random(6)} for _ in range(4)]
    _, plain, other = rows(by_seed)
    changes = [
        np.diff(one["other"]).std(ddof=1) - np.diff(one[WEIGHTS]).std(ddof=1) for one in by_seed
    ]
    assert f"({np.mean(changes):+.4f}, " in other
    assert f"{np.mean([one[WEIGHTS][-1] for one in by_seed]):.4f}" in plain
    assert summary([0.1, 0.2, 0.4])["SD of change"] == pytest.approx(np.std([0.1, 0.2], ddof=1))
