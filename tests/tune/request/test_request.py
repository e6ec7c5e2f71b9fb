"""What a request means: how many trials, how long, and what the user should know."""

from pathlib import Path

import pytest

from core.config import PredictConfig, TrialConfig
from tune.request.file import load_request
from tune.request.request import StopEarly, StudyRequest
from tune.study.going_on import study_facts

HEAD = "study: s\ndata: synthetic\n"


def request_of(text: str, tmp_path: Path) -> StudyRequest:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + text)
    return load_request(path)


def test_each_repeat_of_a_variant_has_its_own_seed_and_split_the_same_for_all_variants(
    tmp_path: Path,
) -> None:
    request = request_of(
        "variants: {A: {model.trainable_layers: 0}, B: {model.trainable_layers: 1}}\nseeds: 3",
        tmp_path,
    )
    rows = request.space.rows()
    assert [row.name for row in rows] == ["A", "B"] * 3
    assert [(row.config.seed, row.config.data.split_seed) for row in rows] == [
        (0, 0),
        (0, 0),
        (1, 1),
        (1, 1),
        (2, 2),
        (2, 2),
    ]
    assert [row.params for row in rows[:2]] == [
        {"model.trainable_layers": 0},
        {"model.trainable_layers": 1},
    ]
    assert request.space.baseline == "A"
    assert request.planned_trials == len(rows) == 6


def test_folds_make_each_repeat_of_a_variant_as_many_trials(tmp_path: Path) -> None:
    request = request_of(
        "fixed: {data.folds: 3}\nvariants: {A: {}, B: {augment.affine: true}}\nseeds: 2", tmp_path
    )
    rows = request.space.rows()
    places = [
        (row.name, row.config.seed, row.config.data.split_seed, row.config.data.fold)
        for row in rows
    ]
    assert sorted(places) == [
        (name, seed, seed, fold) for name in "AB" for seed in range(2) for fold in range(3)
    ]
    assert request.planned_trials == 12
    assert "data.folds 3: each variant runs 3 times a seed, 12 trials in all" in request.notes


@pytest.mark.parametrize(("epochs", "rung"), [(1, 1), (5, 1), (10, 1), (11, 2), (50, 5), (200, 20)])
def test_the_first_rung_is_a_tenth_of_the_epochs_unless_given(epochs: int, rung: int) -> None:
    assert StopEarly().first_rung(epochs) == rung
    assert StopEarly(min_epochs=7).first_rung(epochs) == 7


@pytest.mark.parametrize(
    ("text", "epochs"),
    [
        ("space: {optim.restarts: [0, 1]}", 50),
        ("fixed: {optim.epochs: 7}\nspace: {optim.restarts: [0, 1]}", 7),
        ("fixed: {optim.restarts: 0}\nspace: {optim.epochs: [5, 30, 10]}", 30),
        (
            (
                "space: {optim.restarts: [0, 1], optim.epochs: {low: 5, high: 20, when:"
                " {optim.restarts: 1}}}"
            ),
            50,
        ),
        (
            (
                "space: {optim.restarts: [0, 1], optim.epochs: {low: 5, high: 70, when:"
                " {optim.restarts: 1}}}"
            ),
            70,
        ),
        ("fixed: {optim.epochs: 7}\nvariants: {A: {optim.epochs: 3}, B: {optim.epochs: 4}}", 4),
    ],
)
def test_the_longest_trial_is_the_longest_that_is_possible(
    text: str, epochs: int, tmp_path: Path
) -> None:
    assert request_of(text, tmp_path).max_epochs == epochs


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            (
                "fixed: {optim.epochs: 5}\nspace: {optim.restarts: [0, 1]}\nstop_early:"
                " {min_epochs: 6}"
            ),
            "stop_early.min_epochs 6 is not under optim.epochs 5: no trial is stopped early",
        ),
        (
            "space: {optim.learning_rate: [1e-4, 1e-3], augment.brightness: {low: 0.1, high: 0.5}}",
            (
                "augment.brightness is searched and can have no effect: it needs"
                " augment.color_jitter true, which no trial has"
            ),
        ),
        (
            (
                "space: {augment.color_jitter: [false, true], augment.brightness: {choices: [0.1,"
                " 0.5], when: {augment.color_jitter: false}}}"
            ),
            (
                "augment.brightness is searched and can have no effect: it needs"
                " augment.color_jitter true, which no trial has"
            ),
        ),
        (
            "fixed: {augment.rotate: 45}\nspace: {optim.restarts: [0, 1]}",
            (
                "augment.rotate 45.0 can have no effect: it needs augment.affine true, which no"
                " trial has"
            ),
        ),
        (
            (
                "space: {optim.restarts: [0, 1], augment.rotate: {choices: [5, 45], when:"
                " {optim.epochs: 10}}}"
            ),
            "augment.rotate is never searched: it needs that optim.epochs is one of 10",
        ),
        (
            "space: {optim.restarts: [0, 1]}\nsearch: {trials: 12}",
            "search.trials 12 is more than the 2 different configurations: some are repeated",
        ),
        (
            "space: {optim.restarts: [0, 1]}\nsearch: {trials: 12, sampler: grid}",
            "search.trials 12 is not used: the grid has 2 points, one trial each",
        ),
        (
            (
                "space: {optim.restarts: [0, 1]}\nstart: [{optim.restarts: 0}]\nsearch: {sampler:"
                " grid}"
            ),
            "start is not used: a grid tries every point",
        ),
        (
            (
                "space: {optim.restarts: [0, 1]}\nstart: [{optim.restarts: 0}, {optim.restarts:"
                " 1}]\nsearch: {trials: 1}"
            ),
            "search.trials 1 is less than the 2 start points: the last are not tried",
        ),
        (
            "space: {optim.restarts: [0, 1]}",
            (
                "confirm: the best 2 of the search will be trained again on 3 fresh seeds and"
                " splits, never stopped early, and the winner chosen there: 6 trainings of up to 50"
                " epochs beside the search's 30"
            ),
        ),
        (
            (
                "fixed: {optim.epochs: 1}\nspace: {optim.learning_rate: {low: 1e-5, high: 1e-3}}\n"
                "confirm: {top: 1, seeds: 1}"
            ),
            (
                "confirm: the best one of the search will be trained again on 1 fresh seed and"
                " split, never stopped early, and the winner chosen there: 1 training of up to 1"
                " epoch beside the search's 30"
            ),
        ),
        (
            "space: {optim.learning_rate: {low: 1e-5, high: 1e-3}}\nconfirm: {folds: 4}",
            (
                "confirm: the best 5 of the search will be trained again on 3 fresh seeds and"
                " splits into 4 folds, never stopped early, and the winner chosen there: 60"
                " trainings of up to 50 epochs beside the search's 30"
            ),
        ),
        (
            (
                "variants: {A: {}, B: {optim.restarts: 1}, C: {optim.restarts: 3}}\nseeds:"
                " 2\nconfirm: {top: 2}"
            ),
            (
                "confirm: the best 2 of the search will be trained again on 3 fresh seeds and"
                " splits, never stopped early, and the winner chosen there: 6 trainings of up to 50"
                " epochs beside the search's 6"
            ),
        ),
        (
            "variants: {A: {}}\nstop_early: {rule: successive_halving}",
            "variants that are stopped early have no score to be compared by",
        ),
        (
            "variants: {A: {}}",
            "variants are not stopped early, unless stop_early.rule: successive_halving asks for it",
        ),
        (
            "variants: {A: {}}",
            (
                "seeds is 1: what differs between variants cannot be told from what differs between"
                " seeds"
            ),
        ),
        (
            "variants: {A: {}}\nseeds: 2\nsearch: {trials: 12}",
            "search is not used by variants: 2 trials in all, 2 repeats of each variant",
        ),
        (
            (
                "space: {optim.restarts: [0, 1]}\nafter_training: {predict.flips: [false, true],"
                " predict.score_threshold: [0.02, 0.01, 0.1]}"
            ),
            (
                "after_training: 6 combinations of predict settings will be tried by each training"
                " of the confirmation, where the winner is chosen with one of them, at no cost for"
                " training; the trials predict with predict.flips off, predict.score_threshold 0.05"
            ),
        ),
        (
            "variants: {A: {}}\nafter_training: {predict.flips: [true]}",
            (
                "after_training: 1 combination of predict settings will be tried on the winner"
                " after its retraining, at no cost for training; the trials predict with"
                " predict.flips off"
            ),
        ),
    ],
)
def test_what_a_request_will_not_do_is_noted(text: str, note: str, tmp_path: Path) -> None:
    assert note in request_of(text, tmp_path).notes


AFTER_TRAINING = """
after_training:
  predict.flips: [false, true]
  predict.score_threshold: [0.05, 0.02]
  predict.max_detections: [400, 1000, 200]
"""


@pytest.mark.parametrize(
    "searched", ["space: {optim.restarts: [0, 1]}", "variants: {A: {}, B: {optim.restarts: 1}}"]
)
def test_a_winner_is_to_be_tried_with_every_combination_the_first_values_first(
    searched: str, tmp_path: Path
) -> None:
    request = request_of(searched + AFTER_TRAINING, tmp_path)
    candidates = TrialConfig().predictions(request.after_training, None)
    tried = [(one.flips, one.score_threshold, one.max_detections) for one in candidates]
    assert tried == [
        (flips, threshold, most)
        for flips in (False, True)
        for threshold in (0.05, 0.02)
        for most in (400, 1000, 200)
    ]
    assert candidates[0] == PredictConfig()


def test_what_is_not_tried_on_a_winner_stays_the_winner_s_own(tmp_path: Path) -> None:
    text = "fixed: {predict.tile: 64}\nspace: {predict.nms_iou: [0.4, 0.6]}" + AFTER_TRAINING
    request = request_of(text, tmp_path)
    winner = request.space.resolve({"predict.nms_iou": 0.6})
    assert {
        (one.tile, one.nms_iou) for one in winner.predictions(request.after_training, None)
    } == {(64, 0.6)}


def test_where_nothing_is_tried_after_training_the_winner_predicts_as_its_trial_did(
    tmp_path: Path,
) -> None:
    winner = TrialConfig(predict=PredictConfig(flips=True, tile=128))
    for section in ("", "\nafter_training:", "\nafter_training: {}"):
        request = request_of("space: {optim.restarts: [0, 1]}" + section, tmp_path)
        assert winner.predictions(request.after_training, None) == [winner.predict]
        assert not any("after_training" in note for note in request.notes)


@pytest.mark.parametrize("searched", ["space: {optim.restarts: [0, 1]}", "variants: {A: {}}"])
def test_a_study_may_go_on_with_other_settings_to_try_after_training(
    searched: str, tmp_path: Path
) -> None:
    without, with_it = (
        request_of(searched + section, tmp_path) for section in ("", AFTER_TRAINING)
    )
    assert without.to_document() != with_it.to_document()
    assert study_facts(without, None) == study_facts(with_it, None)


def test_a_request_with_nothing_remarkable_has_no_notes(tmp_path: Path) -> None:
    assert (
        request_of(
            "space: {optim.learning_rate: {low: 1e-5, high: 1e-3}}\nconfirm: {top: 0}", tmp_path
        ).notes
        == ()
    )
