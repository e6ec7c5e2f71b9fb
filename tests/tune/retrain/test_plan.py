"""Laws of choosing what is retrained: which trial, why, with what, and what is refused before
anything starts.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from core.config import TrialConfig
from core.data import synthetic
from core.errors import BadRequest, DataError, SettingError, StudyError
from tune.ledger.ledger import open_ledger
from tune.ledger.records import State, TrialRecord
from tune.request.file import load_request as load_space
from tune.retrain import plan as plan_module
from tune.retrain.plan import RetrainingPlan, choose_trial, plan_retraining
from tune.study import conductor as study
from tune.study.going_on import study_facts
from tune.study.learned import nothing_learned
from tune.study.options import Options
from tune.study.plan import plan_study as plan_search
from tune.study.reading import read_study

SPACE = """
study: replayed
data: {data}
fixed: {{model.backbone: resnet18, model.weights: none, optim.epochs: 4}}
space:
  optim.learning_rate: {{low: 1e-4, high: 1e-3, log: true}}
  augment.horizontal_flip: [true, false]
after_training:
  predict.flips: [false, true]
  predict.max_detections: [400, 1000]
search: {{sampler: random, trials: 2}}
stop_early: {{rule: none}}
confirm: {{top: 0}}
resources: {{gpus_per_trial: 0}}
"""


def record(
    number: int, state: State = State.COMPLETE, curve: Sequence[float] = (0.1, 0.3, 0.2)
) -> TrialRecord:
    settings = TrialConfig.from_settings({"optim.epochs": 3}).settings()
    return TrialRecord(
        number,
        state=state,
        settings=settings,
        epochs=tuple({"ap50": ap50, "seconds": 1.0} for ap50 in curve),
    )


scores = st.lists(st.floats(0, 1), min_size=1, max_size=3)


@given(st.lists(st.tuples(st.sampled_from(list(State)), scores), min_size=1, max_size=8))
def test_the_winner_is_the_best_of_those_that_ran_to_their_end(
    trials: list[tuple[State, list[float]]],
) -> None:
    records = [record(number, state, curve) for number, (state, curve) in enumerate(trials)]
    complete = [one for one in records if one.state is State.COMPLETE]
    if not complete:
        with pytest.raises(StudyError, match=r"none of .* has"):
            choose_trial(records, None, len(records))
        return
    if nothing_learned(records):
        with pytest.raises(StudyError, match=r"there is no winner; .* --trial ID"):
            choose_trial(records, None, len(records))
        return
    winner, why = choose_trial(records, None, len(records))
    assert winner.state is State.COMPLETE
    assert winner.ap50 == max(one.ap50 or 0.0 for one in complete)
    assert f"trial {winner.id}" in why
    assert f"{winner.ap50:.4f}" in why


def test_the_reason_says_how_many_it_beat_whether_more_may_come_and_that_nothing_confirmed_it() -> (
    None
):
    _, why = choose_trial([record(0), record(1, curve=[0.5]), record(2, State.FAIL, [])], None, 5)
    assert (
        why == "trial 1, which is the best of 2 that ran to their end so far (3 of 5 trials have"
        " ended), with AP50 0.5000; no fresh seeds and splits confirmed it"
    )
    _, why = choose_trial([replace(record(0), name="Res50"), record(1, State.PRUNED)], None, 2)
    assert why.startswith("trial 0 (Res50), which alone ran to its end, with AP50 0.3000")


def test_a_trial_that_is_named_is_taken_and_compared_with_the_best() -> None:
    records = [record(0), record(1, curve=[0.5]), record(2, State.PRUNED, [0.2])]
    assert choose_trial(records, 2, 3) == (
        records[2],
        "trial 2, because --trial names it; its AP50 is 0.2000; the best is trial 1 with 0.5000",
    )
    assert choose_trial(records, 1, 3)[1] == "trial 1, because --trial names it; its AP50 is 0.5000"


@pytest.mark.parametrize(
    ("trial", "sentence"),
    [
        (7, "--trial must be a trial of the study, 0 to 2, and is 7"),
        (-1, "--trial must be a trial of the study, 0 to 2, and is -1"),
        (1, "--trial must be a trial with a score, and trial 1 failed: diverged"),
        (2, "--trial must be a trial with a score, and trial 2 has not ended"),
    ],
)
def test_a_trial_without_a_score_is_refused(trial: int, sentence: str) -> None:
    records = [
        record(0),
        replace(record(1, State.FAIL, []), reason="diverged"),
        record(2, State.RUNNING),
    ]
    with pytest.raises(StudyError, match=sentence):
        choose_trial(records, trial, 3)


def epoch(number: int, ap50: float) -> dict[str, Any]:
    return {"epoch": number, "ap50": ap50, "seconds": 1.0}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a study of two trials in its ledger; its data set and space file
    beside it.
    """
    folder = tmp_path_factory.mktemp("searched")
    synthetic.write_hw3(synthetic.make_cells(images=5, side=64), folder / "cells")
    return search(folder)


def search(folder: Path, reading: str = "") -> Path:
    """Write what a search of `folder / "cells"` leaves; `reading` is further fixed settings,
    each after a comma.
    """
    text = SPACE.format(data=folder / "cells").replace(
        "optim.epochs: 4", f"optim.epochs: 4{reading}"
    )
    (folder / "space.yaml").write_text(text)
    plan = plan_search(load_space(folder / "space.yaml"), Options(folder / "results"))
    plan.folder.path.mkdir(parents=True)
    ledger = open_ledger(plan.storage, plan.request)
    ledger.remember(study_facts(plan.request, plan.data))
    study.write_study_json(plan)
    for curve in ([0.1, 0.2, 0.4, 0.3], [0.3, 0.2, 0.1, 0.0]):
        number = ledger.next().id  # type: ignore[union-attr]
        ledger.report(number, [epoch(place, ap50) for place, ap50 in enumerate(curve, 1)])
    return folder / "results"


def plan_of(
    searched: Path, *overrides: str, study: str | None = None, **options: Any
) -> RetrainingPlan:
    return plan_retraining(read_study(study, searched), changes=overrides, **options)


def test_without_a_change_the_trial_is_repeated_setting_by_setting(searched: Path) -> None:
    plan = plan_of(searched)
    assert plan.record.id == 0
    assert plan.config.settings() == dict(plan.record.settings)
    assert plan.own == plan.config.predict
    assert plan.epochs == 4
    assert plan.changed == {}
    assert plan.request.study == "replayed"


def test_on_all_images_it_stops_at_the_trials_best_epoch_and_keeps_the_horizon(
    searched: Path,
) -> None:
    plan = plan_of(searched, on="all")
    assert plan.epochs == 3
    assert plan.config.optim.epochs == 4


def test_what_is_tried_after_training_is_each_combination_but_its_own(searched: Path) -> None:
    plan = plan_of(searched)
    tried = {(config.flips, config.max_detections) for config in (plan.own, *plan.candidates)}
    assert tried == {(False, 400), (False, 1000), (True, 400), (True, 1000)}
    assert len(plan.candidates) == 3
    fixed = plan_of(searched, "predict.flips=true")
    assert {config.flips for config in (fixed.own, *fixed.candidates)} == {True}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "--ensemble needs a confirmation that has ended"),
        ({"trial": 0}, "and --trial asks for another model; leave one of the two out"),
        ({"on": "all"}, "and --on all asks for another model; leave one of the two out"),
    ],
)
def test_an_ensemble_is_of_the_winners_confirmed_models_alone(
    options: dict[str, Any], sentence: str, searched: Path
) -> None:
    with pytest.raises(BadRequest, match=sentence):
        plan_of(searched, ensemble=True, **options)


def test_settings_of_prediction_change_nothing_that_is_trained(searched: Path) -> None:
    plan, other = (
        plan_of(searched),
        plan_of(searched, "predict.flips=true", "predict.score_threshold=0.2"),
    )
    assert other.config == plan.config
    assert other.work == plan.work
    assert other.own.flips
    assert other.own.score_threshold == 0.2


@pytest.mark.parametrize(
    "change", ["optim.epochs=5", "seed=1", "augment.affine=true", "optim.batch_size=1"]
)
def test_every_other_change_is_another_training(searched: Path, change: str) -> None:
    plan, other = plan_of(searched), plan_of(searched, change)
    name, _, value = change.partition("=")
    assert str(other.config.settings()[name]).lower() == value
    assert other.work != plan.work
    assert any(f"of a training without these changes: {name}" in note for note in other.notes)
    assert plan_of(searched, on="all").work != plan.work


def test_auto_is_read_off_the_data_as_the_study_read_it(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(searched, "model.anchor_scale=auto", "predict.max_detections=auto")
    assert plan.changed == {"model.anchor_scale": 2.8, "predict.max_detections": 100}
    assert (plan.config.model.anchor_scale, plan.own.max_detections) == (2.8, 100)

    synthetic.write_hw3(synthetic.make_cells(images=5, side=64), tmp_path / "cells")
    results = search(tmp_path, ", model.anchor_scale: auto")
    monkeypatch.setattr(plan_module, "circumstances_of", lambda *_: pytest.fail("measured again"))
    plan = plan_of(results)
    assert plan.record.settings["model.anchor_scale"] == 2.8
    assert plan.config.settings() == dict(plan.record.settings)
    assert plan_of(results, "model.anchor_scale=auto").changed == {}
    assert plan_of(results, "model.image_min_side=auto").changed.keys() == {"model.image_min_side"}


def test_what_was_changed_is_recorded_as_the_training_had_it(searched: Path) -> None:
    plan = plan_of(searched, "optim.precision=auto", "seed=1")
    assert plan.changed == {"optim.precision": "auto", "seed": 1}
    half, full = (plan.config.changed({"optim.precision": one}) for one in ("bf16", "fp32"))
    assert plan.changed_in(half) == {"optim.precision": "bf16", "seed": 1}
    assert plan.record.settings["optim.precision"] == "fp32"
    assert plan.changed_in(full) == {"seed": 1}


def test_a_value_that_the_trial_has_already_is_no_change(searched: Path) -> None:
    assert plan_of(searched, "optim.epochs=4").changed == {}


@pytest.mark.parametrize(
    ("error", "overrides", "options", "sentence"),
    [
        (StudyError, (), {"study": "other"}, "other holds no study"),
        (
            SettingError,
            ("data.split_seed=3",),
            {},
            "data.split_seed is what all trials of a study have in common",
        ),
        (
            SettingError,
            ("metric.max_dets=10",),
            {},
            "metric.max_dets is what all trials of a study have in common",
        ),
        (
            SettingError,
            ("optim.epochs=9",),
            {"on": "all"},
            r"--on all trains as many epochs as were best .* \(3 of 4\)",
        ),
        (SettingError, ("optim.epochs=0",), {}, "optim.epochs must be"),
        (SettingError, ("search.trials=9",), {}, "'search.trials' is not a trial setting"),
        (SettingError, ("nonsense",), {}, "must be KEY=VALUE"),
        (DataError, (), {"data": "/nowhere"}, "there is no such folder"),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(
    searched: Path, error: type[BadRequest], overrides: tuple[str, ...], options: Any, sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        plan_of(searched, *overrides, **options)
    assert "\n" not in str(caught.value)


def test_another_data_set_is_refused_with_both_fingerprints(searched: Path, tmp_path: Path) -> None:
    other = synthetic.make_cells(images=4, side=64)
    synthetic.write_hw3(other, tmp_path)
    with pytest.raises(
        StudyError, match=f"was searched on .* is another .{other.fingerprint[:12]}"
    ):
        plan_of(searched, data=str(tmp_path))


def test_the_data_set_may_have_moved(searched: Path, tmp_path: Path) -> None:
    synthetic.write_hw3(synthetic.make_cells(images=5, side=64), tmp_path / "elsewhere")
    assert plan_of(searched, data=str(tmp_path / "elsewhere")).data.name == "elsewhere"


def test_a_study_goes_on_with_data_that_only_a_later_version_suspects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.write_hw3(synthetic.make_cells(images=5, side=64), tmp_path / "cells")
    for mask in (tmp_path / "cells").rglob("class2.tif"):
        shutil.copy(mask, mask.with_name("class5.tif"))
    with monkeypatch.context() as earlier:
        earlier.setattr("core.data.suspicions", lambda *_: ([], []))
        results = search(tmp_path)
    request = load_space(tmp_path / "space.yaml")
    assert any(
        "are annotated twice" in note for note in plan_search(request, Options(results)).data.notes
    )
    assert any(
        "are annotated twice" in note
        for note in plan_retraining(read_study(results=results)).data.notes
    )
    with pytest.raises(DataError, match="are annotated twice"):
        plan_search(replace(request, study="another"), Options(results))


def test_a_data_set_is_read_again_as_the_search_read_it(tmp_path: Path) -> None:
    data = synthetic.make_cells(images=5, side=64)
    synthetic.write_hw3(data, tmp_path / "cells")
    image = next((tmp_path / "cells").rglob("image.tif"))
    image.write_bytes(b"")
    for mask in (tmp_path / "cells").rglob("class2.tif"):
        tifffile.imwrite(mask, (tifffile.imread(mask) > 0).astype(np.uint8))
    results = search(
        tmp_path, ", data.skip_bad: true, data.split_components: true, data.allow_suspicious: true"
    )
    searched = plan_search(load_space(tmp_path / "space.yaml"), Options(results)).data
    retrained = plan_retraining(read_study(results=results)).data
    assert len(searched.samples) == 4
    assert searched.fingerprint == retrained.fingerprint
    assert searched.notes == retrained.notes
    assert [note.partition(":")[0] for note in searched.notes][:2] == [
        "data.skip_bad",
        "data.split_components",
    ]


def test_the_study_searched_last_is_the_one(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study; start one"):
        plan_retraining(read_study(results=tmp_path))
    assert plan_retraining(read_study(results=searched)).folder.path == searched / "replayed"


def test_nothing_is_written(searched: Path) -> None:
    def files() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for path in searched.rglob("*")
            if path.is_file() and "study.db" not in path.name  # sqlite makes a file there to read
        }

    before = files()
    plan_of(searched)
    assert files() == before
