"""Laws of the comparison of both forms of a training step."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import step_forms
from benchmarks.step_forms import last_line, line_of, mean_interval, trained
from core.network.mask_rcnn import MaskRCNN

TINY = {
    **step_forms.SETTINGS,
    "model.image_min_side": 64,
    "model.proposals_train": 16,
    "model.proposals_test": 16,
    "model.box_samples": 16,
    "optim.epochs": 1,
}


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, 7)
    mean, low, high = mean_interval(list(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(
        stats.t.interval(0.95, 6, values.mean(), stats.sem(values)), abs=1e-12
    )


def test_differences_are_those_of_one_seed_and_the_last_line_has_their_mean() -> None:
    assert line_of(7, 0.2, 0.1).split() == ["7", "0.2000", "0.1000", "+0.1000"]
    last = last_line([(0.2, 0.1), (0.3, 0.4), (0.4, 0.1)])
    assert last.startswith("AP50 0.3000 in the fixed form and 0.2000 in the other: +0.1000 (-")
    assert last.endswith(", n = 3")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("fixed", [True, False])
def test_a_training_has_the_form_that_is_asked_for_in_each_step(
    monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    monkeypatch.setattr(step_forms, "TRAIN", 3)
    monkeypatch.setattr(step_forms, "HELD_OUT", 2)
    forms = []
    losses = MaskRCNN.losses

    def noting(self: MaskRCNN, *arguments: object) -> object:
        forms.append(self.fixed)
        return losses(self, *arguments)

    monkeypatch.setattr(MaskRCNN, "losses", noting)
    assert 0 <= trained(1, fixed, TINY) <= 1
    assert forms == [fixed, fixed]
