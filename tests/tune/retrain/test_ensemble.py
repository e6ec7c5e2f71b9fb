"""What models gain together is told by instances that none of them trained on, or not at all."""

import dataclasses

import numpy as np
import pytest

from core.config import PredictConfig
from core.data import synthetic
from core.metric.ap50 import match_image, match_tables
from core.prediction.choice import Evaluated
from core.sample import Detections, MaskCrop, Sample
from tune.retrain.ensemble import gain_of_ensemble

CELLS = synthetic.make_cells(images=3, side=64)
CLASSES = len(CELLS.classes)


def emptied(sample: Sample) -> Sample:
    """The image, in which every instance is a crowd region."""
    return dataclasses.replace(sample, crowd_N=np.ones(len(sample.labels_N), np.bool_))


def evaluated(samples: list[Sample], found: int) -> Evaluated:
    """The score of a model that finds nothing but so many squares."""
    squares = Detections(
        np.array([[0, 0, 9, 9]] * found, np.float32).reshape(-1, 4),
        np.ones(found, np.int64),
        np.linspace(0.9, 0.5, found, dtype=np.float32),
        (MaskCrop(0, 0, np.ones((9, 9), np.bool_)),) * found,
    )
    masks, boxes = match_tables([match_image(one, squares, CLASSES) for one in samples], CLASSES)
    return Evaluated(PredictConfig(), (), masks, boxes, 100)


@pytest.mark.filterwarnings("error")
def test_images_without_an_instance_tell_no_gain() -> None:
    nothing = [emptied(one) for one in CELLS.samples]
    assert (
        gain_of_ensemble([evaluated(nothing, 2), evaluated(nothing, 1), evaluated(nothing, 0)], "")
        is None
    )
    assert gain_of_ensemble([], "") is None


def test_the_gain_is_that_over_the_mean_of_each_alone() -> None:
    samples = list(CELLS.samples)
    told = gain_of_ensemble(
        [evaluated(samples, 2), evaluated(samples, 1), evaluated(samples, 0)], ""
    )
    assert told is not None
    assert told["images"] == 3
    alone = [evaluated(samples, count).ap50 for count in (1, 0)]
    assert told["ap50_gain"] == pytest.approx(told["ap50"] - sum(alone) / 2)
