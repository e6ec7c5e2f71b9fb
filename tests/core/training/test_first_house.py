"""Laws of what the first house wrote: a model and an interrupted trial go on under today's code.

The files of `tests/core/first_house` were written by commit af2b1db, the last one before packages,
with `Stack` as its resnet18, pyramid and heads of CHANNELS channels and a box's vector of VECTOR
numbers. A trial of twelve epochs on `synthetic.make(images=5, side=64)` was saved after eleven
(`trial/`, without its match tables), its best model was written (`best/`), and what that model
detects in the first image (`detections.npz`) and the report of the twelfth epoch
(`next_epoch.json`) are what the old code made of them.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core import bounded_yaml
from core.config import SETTINGS, TrialConfig
from core.data import synthetic
from core.prediction import trained_model
from core.sample import Detections
from core.training.trial import Trial
from tests.core.narrow import narrowed

HERE = Path(__file__).parents[1] / "first_house"
CHANNELS, VECTOR = 4, 8
DATA = synthetic.make_cells(images=5, side=64)


@pytest.fixture(autouse=True, scope="module")
def _as_narrow_as_it_was() -> Iterator[None]:
    torch.set_num_threads(1)
    with narrowed(channels=CHANNELS, vector=VECTOR):
        yield


def settings_of_then() -> dict[str, object]:
    document = bounded_yaml.load_yaml((HERE / "best/config.yaml").read_text())
    settings: dict[str, object] = document["settings"]
    return settings


def assert_as_then(found: Detections) -> None:
    then = np.load(HERE / "detections.npz")
    assert len(found) == len(then["scores_N"]) > 5
    np.testing.assert_array_equal(found.labels_N, then["labels_N"])
    np.testing.assert_allclose(found.scores_N, then["scores_N"], atol=1e-5)
    np.testing.assert_allclose(found.boxes_N4, then["boxes_N4"], atol=1e-3)
    for number, crop in enumerate(found.masks):
        assert (crop.y0, crop.x0) == tuple(then["corners_N2"][number])
        assert np.array_equal(np.packbits(crop.pixels), then[f"mask_{number}"])
        assert np.array_equal(crop.pixels.shape, then[f"shape_{number}"])


def test_settings_that_the_first_house_did_not_have_take_their_defaults() -> None:
    then, now = settings_of_then(), TrialConfig.from_settings(settings_of_then()).settings()
    assert {name: now[name] for name in then} == then
    added = SETTINGS.keys() - then.keys()
    assert len(added) > 20
    assert {name: now[name] for name in added} == {name: SETTINGS[name] for name in added}


def test_a_model_of_the_first_house_detects_what_it_did() -> None:
    model = trained_model.load(HERE / "best", "cpu")
    assert_as_then(model.predict(DATA.samples[0].image))


def test_a_trial_of_the_first_house_goes_on_as_it_would_have(tmp_path: Path) -> None:
    shutil.copytree(HERE / "trial", tmp_path / "trial")
    trial = Trial(TrialConfig.from_settings(settings_of_then()), DATA, device="cpu", threads=1)
    assert trial.load(tmp_path / "trial")
    assert trial.epoch == 11
    assert_as_then(trial.trained_model().predict(DATA.samples[0].image))
    then = json.loads((HERE / "next_epoch.json").read_text())
    report = trial.run_epoch()
    assert report.losses == pytest.approx(then["losses"], rel=1e-3)
    assert report.learning_rate == pytest.approx(then["learning_rate"])
    assert (report.detections, report.steps) == (then["detections"], then["steps"])
    assert report.ap50 == pytest.approx(then["ap50"], abs=1e-3)
