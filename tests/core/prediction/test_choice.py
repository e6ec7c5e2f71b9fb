"""Laws of choosing the settings of prediction: each candidate scores what it would score alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from core.config import PredictConfig, TrialConfig
from core.data import synthetic
from core.metric.ap50 import ap50, match_images
from core.network.build import build_detector
from core.prediction.choice import best_evaluated, evaluate_candidates
from core.prediction.detect import predict
from core.training.trial import Trial
from tests.core.narrow import narrowed

SETTINGS: dict[str, Any] = {
    "data.validation_fraction": 0.5,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.trainable_layers": 5,
    "model.image_min_side": 64,
    "model.image_max_side": 96,
    "model.proposals_train": 64,
    "model.proposals_test": 64,
    "model.rpn_samples": 64,
    "model.box_samples": 32,
    "model.anchor_scale": 0.5,
    "optim.epochs": 2,
    "optim.learning_rate": 1e-3,
    "predict.score_threshold": 0.0,
    "predict.max_detections": 20,
}
DATA = synthetic.make_cells(images=4, side=96)


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    torch.set_num_threads(1)
    with narrowed():
        trial = Trial(TrialConfig.from_settings(SETTINGS), DATA, device="cpu", threads=1)
        trial.run_epoch()
        trial.run_epoch()
        yield trial


def candidates(own: PredictConfig) -> list[PredictConfig]:
    changes: list[dict[str, Any]] = [
        {},
        {"flips": True},
        {"max_detections": 5},
        {"score_threshold": 0.01, "flips": True},
        {"tile": 64},
        {"tile": 64, "flips": True, "max_detections": 40},
        {"nms_iou": 0.2},
        {"class_caps": "1,3"},
    ]
    return [own.model_copy(update=change) for change in changes]


def test_each_candidate_scores_what_a_model_built_with_it_scores(trial: Trial) -> None:
    trained = trial.trained_model()
    state = {name: value.clone() for name, value in trained.model.state_dict().items()}
    samples = [DATA.samples[index] for index in trial.split.validation]
    evaluated = evaluate_candidates(trained, samples, candidates(trained.config.predict))
    different = set()
    for one in evaluated:
        model = build_detector(trial.config.model, len(DATA.classes), None, one.config)
        model.load_state_dict(state)
        model.eval()
        expected = [predict([model], sample.image, one.config) for sample in samples]
        masks, boxes = match_images(samples, expected, len(DATA.classes))
        for found, alone in zip(one.found, expected, strict=True):
            assert np.array_equal(found.boxes_N4, alone.boxes_N4)
            assert np.array_equal(found.scores_N, alone.scores_N)
        for table, alone in ((one.masks, masks), (one.boxes, boxes)):
            assert np.array_equal(table.score_D, alone.score_D)
            assert np.array_equal(table.hit_D, alone.hit_D)
        assert one.ap50 == ap50(masks, 100).mean
        different.add(tuple(one.masks.score_D.tolist()))
    assert len(different) >= 5


def test_a_cap_of_all_classes_scores_what_the_metrics_cap_scores(trial: Trial) -> None:
    """The gain of caps can therefore be read off the match tables of a model without caps."""
    trained = trial.trained_model()
    own, samples = trained.config.predict, DATA.samples
    capped = [own.model_copy(update={"class_caps": caps}) for caps in ("0", "1", "4")]
    free, *others = evaluate_candidates(trained, samples, capped)
    for cap, one in zip((1, 4), others, strict=True):
        assert one.ap50 == ap50(free.masks, cap).mean
    counts = [sum(map(len, one.found)) for one in (others[0], others[1], free)]
    assert counts == sorted(set(counts)), "each cap cuts"


def test_the_models_own_settings_score_what_its_best_epoch_reported(trial: Trial) -> None:
    trained = trial.trained_model()
    samples = [DATA.samples[index] for index in trial.split.validation]
    (own,) = evaluate_candidates(trained, samples, [trained.config.predict])
    assert trial.best is not None
    assert own.ap50 == trial.best.ap50
    assert ap50(own.masks, None).mean == trial.best.ap50_uncapped
    assert ap50(own.boxes, 100).mean == trial.best.ap50_box
    assert sum(map(len, own.found)) == trial.best.detections


def test_the_model_is_left_with_its_own_settings_and_progress_rises_to_one(trial: Trial) -> None:
    trained = trial.trained_model()
    before = trained.predict(DATA.samples[0].image)
    seen: list[float] = []
    evaluate_candidates(trained, DATA.samples[:2], candidates(trained.config.predict), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert np.array_equal(trained.predict(DATA.samples[0].image).scores_N, before.scores_N)


def test_the_first_of_equals_is_the_best(trial: Trial) -> None:
    trained = trial.trained_model()
    own = trained.config.predict
    nothing = [
        own.model_copy(update={"score_threshold": 0.999, "flips": flips}) for flips in (False, True)
    ]
    evaluated = evaluate_candidates(trained, DATA.samples[:2], nothing)
    assert [one.ap50 for one in evaluated] == [0.0, 0.0]
    assert best_evaluated(evaluated).config == nothing[0]
