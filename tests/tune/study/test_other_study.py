"""Laws of what a new study takes from another one: what compares, what does not, and where it is."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest

from core import faults
from core.errors import StudyError
from tests.replayed import SPACE, Search, plan_of, read_table
from tune.ledger.claim import Claim
from tune.ledger.ledger import Ledger
from tune.ledger.reading import read_ledger
from tune.ledger.warm_start import WarmStart
from tune.request.file import from_document
from tune.study import conductor
from tune.study.going_on import study_facts
from tune.study.other_study import MOST_HISTORY, planned_warm_start
from tune.study.plan import StudyPlan
from tune.study.screen import as_document, study_screen
from tune.study.standing import read_standing

RANGES: dict[str, Any] = SPACE["space"]
SAMPLED = {"sampler": "gp", "trials": 24, "seed": 1}


def score(settings: Any) -> float:
    return 0.5 + 0.1 * float(settings["optim.weight_decay"])


def searched(
    results: Path,
    *,
    storage: str | None = None,
    trials: int = 8,
    quality: Callable[[Any], float | None] = score,
    data: str | None = None,
    weights: dict[str, Any] | None = None,
    **changes: Any,
) -> StudyPlan:
    """A study that has ended. A trial without a quality has failed."""
    search = {"sampler": "random", "trials": trials, "seed": 0}
    plan = plan_of(results, **{"study": "other", "search": search, **changes})
    plan = replace(plan, options=replace(plan.options, storage=storage))
    plan.folder.path.mkdir(parents=True, exist_ok=True)
    with Claim(plan.storage, plan.request.study) as claim:
        ledger = Ledger(claim, plan.request)
        facts = study_facts(plan.request, plan.data) | {"weights": weights or {}}
        ledger.remember(facts | ({} if data is None else {"data": data}))
        while (record := ledger.next()) is not None:
            found = quality(record.settings)
            if found is None:
                ledger.fail(record.id, "no such tile")
                continue
            epochs = [
                {"epoch": number, "ap50": found * number / record.planned_epochs, "seconds": 1.0}
                for number in range(1, record.planned_epochs + 1)
            ]
            ledger.report(record.id, epochs)
    conductor.write_study_json(plan)
    return plan


def begun(results: Path, asked: str = "other", **changes: Any) -> WarmStart | None:
    """The warm start that a new study would have."""
    plan = plan_of(results, **{"study": "new", "search": SAMPLED, **changes})
    return planned(plan, asked)


def planned(plan: StudyPlan, asked: str | None, storage: str | None = None) -> WarmStart | None:
    options = replace(plan.options, warm_start=asked, storage=storage)
    return planned_warm_start(plan.request, options, plan.data.fingerprint)


def said(warm: WarmStart | None) -> str:
    assert warm is not None
    return "; ".join(warm.sentences)


def test_the_same_space_and_data_give_all_scores_and_the_best_configurations(
    tmp_path: Path,
) -> None:
    there = searched(tmp_path)
    warm = begun(tmp_path)
    assert warm is not None
    known = read_ledger(there.storage, "other")
    assert known is not None
    records = {one.id: one for one in known.records}
    assert {one.trial for one in warm.history} == set(records)
    assert all(one.params == records[one.trial].params for one in (*warm.history, *warm.start))
    assert all(one.score == records[one.trial].ap50 for one in warm.history)
    best = max(known.records, key=lambda one: one.ap50 or 0)
    assert best.id in {one.trial for one in warm.start}
    assert len(warm.start) == SAMPLED["trials"] // 6
    assert said(warm).startswith(
        f"study other ({tmp_path / 'other'}) has 8 trials with a score: the best of them give"
        " 4 start points, and the sampler knows the scores of 8 trials"
    )


EPOCHS: dict[str, Any] = {"fixed": {"optim.epochs": 5, "model.weights": "none"}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (EPOCHS, "optim.epochs was 3 there and is 5 here"),
        (
            {"fixed": {**SPACE["fixed"], "data.split_seed": 1}},
            "data.split_seed was 0 there and is 1 here",
        ),
        (
            {"fixed": {**SPACE["fixed"], "metric.max_dets": 50}},
            "metric.max_dets was 100 there and is 50 here",
        ),
        (
            {"fixed": {**SPACE["fixed"], "augment.blur_or_noise": True}},
            "augment.blur_or_noise was off there and is on here",
        ),
    ],
)
def test_scores_of_other_epochs_splits_metrics_or_settings_give_start_points_alone(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    searched(tmp_path)
    warm = begun(tmp_path, **changes)
    assert warm is not None
    assert warm.history == ()
    assert len(warm.start) == 4
    assert why in said(warm)


def test_scores_on_other_data_give_start_points_alone(tmp_path: Path) -> None:
    searched(tmp_path, data="another fingerprint")
    warm = begun(tmp_path)
    assert warm is not None
    assert (warm.history, len(warm.start)) == ((), 4)
    assert "it was searched on other data" in said(warm)


def test_another_seed_of_the_trials_compares(tmp_path: Path) -> None:
    searched(tmp_path)
    warm = begun(tmp_path, fixed={**SPACE["fixed"], "seed": 7})
    assert warm is not None
    assert len(warm.history) == 8


def test_a_setting_that_was_fixed_there_and_is_searched_here_has_its_value(tmp_path: Path) -> None:
    less = {name: one for name, one in RANGES.items() if name != "optim.batch_size"}
    searched(tmp_path, space=less, fixed={**SPACE["fixed"], "optim.batch_size": 4})
    warm = begun(tmp_path)
    assert warm is not None
    assert {one.params["optim.batch_size"] for one in (*warm.history, *warm.start)} == {4}
    assert len(warm.history) == 8


def test_a_setting_that_was_left_to_its_default_there_has_it_here(tmp_path: Path) -> None:
    searched(tmp_path)
    warm = begun(tmp_path, space={**RANGES, "optim.restarts": [0, 1]})
    assert warm is not None
    assert {one.params["optim.restarts"] for one in warm.history} == {0}
    assert len(warm.history) == 8


def test_a_setting_that_was_searched_there_and_is_fixed_here_must_have_its_value(
    tmp_path: Path,
) -> None:
    there = searched(tmp_path)
    less = {name: one for name, one in RANGES.items() if name != "optim.batch_size"}
    warm = begun(tmp_path, space=less, fixed={**SPACE["fixed"], "optim.batch_size": 4})
    known = read_ledger(there.storage, "other")
    assert known is not None
    assert warm is not None
    equal = {one.id for one in known.records if one.params["optim.batch_size"] == 4}
    assert 0 < len(equal) < 8
    assert {one.trial for one in warm.history} == equal
    assert all("optim.batch_size" not in one.params for one in warm.start)


def test_values_outside_of_a_range_or_not_among_the_choices_are_not_used(tmp_path: Path) -> None:
    there = searched(tmp_path)
    narrow = {
        **RANGES,
        "optim.batch_size": [2, 4],
        "optim.weight_decay": {"low": 0.0, "high": 0.5},
    }
    warm = begun(tmp_path, space=narrow)
    known = read_ledger(there.storage, "other")
    assert known is not None
    assert warm is not None
    inside = {
        one.id
        for one in known.records
        if one.params["optim.batch_size"] != 8 and float(one.params["optim.weight_decay"]) <= 0.5
    }
    assert 0 < len(inside) < 8
    assert {one.trial for one in warm.history} == inside
    assert "optim.weight_decay is outside of its range here" in said(warm)
    assert f"{8 - len(inside)} trials of other cannot be used" in said(warm)


def test_a_range_may_be_linear_there_and_logarithmic_here(tmp_path: Path) -> None:
    linear = {**RANGES, "optim.learning_rate": {"low": 1e-4, "high": 0.1}}
    searched(tmp_path, space=linear)
    warm = begun(tmp_path)
    assert warm is not None
    assert len(warm.history) == 8


def test_a_forbidden_configuration_is_no_start_point_and_tells_its_score(tmp_path: Path) -> None:
    searched(tmp_path)
    warm = begun(tmp_path, forbid=[{"optim.batch_size": [2, 4]}])
    assert warm is not None
    assert len(warm.history) == 8
    assert {one.params["optim.batch_size"] for one in warm.start} == {8}


def test_a_study_of_variants_gives_what_its_rows_say(tmp_path: Path) -> None:
    rows = {
        f"row {number}": {"optim.batch_size": number, "optim.weight_decay": 0.1 * number}
        for number in (2, 4)
    }
    document = {name: one for name, one in SPACE.items() if name not in ("space", "search")}
    plan = plan_of(tmp_path)
    asked = from_document({**document, "study": "other", "variants": rows}, "test")
    plan = replace(plan, request=asked)
    plan.folder.path.mkdir(parents=True)
    with Claim(plan.storage, "other") as claim:
        ledger = Ledger(claim, asked)
        ledger.remember(study_facts(asked, plan.data))
        while (record := ledger.next()) is not None:
            epochs = [{"epoch": one, "ap50": 0.1 * one, "seconds": 1.0} for one in (1, 2, 3)]
            ledger.report(record.id, epochs)
    conductor.write_study_json(plan)
    warm = begun(tmp_path)
    assert warm is not None
    assert sorted(one.params["optim.batch_size"] for one in warm.history) == [2, 4]


def test_failed_trials_tell_nothing(tmp_path: Path) -> None:
    def fails(settings: Any) -> float | None:
        return None if settings["optim.batch_size"] == 4 else score(settings)

    there = searched(tmp_path, quality=fails)
    known = read_ledger(there.storage, "other")
    assert known is not None
    failed = sum(one.state.value == "FAIL" for one in known.records)
    warm = begun(tmp_path)
    assert warm is not None
    assert 0 < failed == 8 - len(warm.history)
    assert "that failed or still ran told nothing" in said(warm)


def test_the_history_of_a_long_study_has_its_best_trials_and_some_of_all_others(
    tmp_path: Path,
) -> None:
    searched(tmp_path, trials=150)
    warm = begun(tmp_path)
    assert warm is not None
    assert len(warm.history) == MOST_HISTORY
    scores = [one.score for one in warm.history]
    assert len({one.trial for one in warm.history}) == MOST_HISTORY
    assert scores[0] == max(scores)
    # The first half of the list, which is shown longest, has good and bad trials as well.
    assert min(scores[: MOST_HISTORY // 2]) < sorted(scores)[MOST_HISTORY // 2]


def refusal(results: Path, asked: str = "other", **changes: Any) -> str:
    with pytest.raises(StudyError) as error:
        begun(results, asked, **changes)
    return str(error.value)


def test_a_study_that_is_not_there_is_answered_with_the_one_that_was_meant(tmp_path: Path) -> None:
    searched(tmp_path)
    assert "'othr' is not a study" in refusal(tmp_path, "othr")
    assert refusal(tmp_path, "othr").endswith("did you mean other?")
    assert "(it has no study.json)" in refusal(tmp_path, str(tmp_path / "nowhere"))


def test_a_study_without_a_score_is_refused(tmp_path: Path) -> None:
    searched(tmp_path, quality=lambda _: None)
    assert "has no trial with a score; 8 trials failed there" in refusal(tmp_path)


def test_a_study_of_which_nothing_fits_is_refused_with_the_reason(tmp_path: Path) -> None:
    searched(tmp_path)
    answer = refusal(tmp_path, space={**RANGES, "optim.batch_size": [16, 32]})
    assert "nothing of study other" in answer
    assert "optim.batch_size 4 is not among the choices here" in answer


def test_variants_and_grids_have_no_use_for_it(tmp_path: Path) -> None:
    searched(tmp_path)
    grid = refusal(
        tmp_path,
        space={"optim.batch_size": [2, 4]},
        search={"sampler": "grid"},
    )
    assert "grid tries every point" in grid
    rows = {"row": {"optim.batch_size": 2}}
    document = {name: one for name, one in SPACE.items() if name not in ("space", "search")}
    asked = from_document({**document, "study": "new", "variants": rows}, "test")
    with pytest.raises(StudyError, match="variants are all tried"):
        planned(replace(plan_of(tmp_path), request=asked), "other")


def test_a_study_cannot_begin_from_itself(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, study="new", search=SAMPLED)
    plan.folder.path.mkdir()
    conductor.write_study_json(plan)
    assert "is the study itself" in refusal(tmp_path, "new")


def test_a_url_is_no_name_and_its_password_is_not_repeated(tmp_path: Path) -> None:
    answer = refusal(tmp_path, "postgresql://lab:secret@host/db")
    assert "must be a study's name or its folder" in answer
    assert "secret" not in answer


def test_a_study_with_trials_that_began_without_it_is_refused(tmp_path: Path) -> None:
    searched(tmp_path)
    searched(tmp_path, study="new", search={**SAMPLED, "trials": 2})
    assert "new has begun without it" in refusal(tmp_path)


def test_a_sampler_that_does_not_learn_gets_start_points_and_says_so(tmp_path: Path) -> None:
    searched(tmp_path)
    warm = begun(tmp_path, search={"sampler": "random", "trials": 24})
    assert warm is not None
    assert (len(warm.start), warm.history) == (4, ())
    assert "the sampler random cannot use a history" in said(warm)


def test_a_folder_elsewhere_is_read_and_nothing_in_it_is_changed(tmp_path: Path) -> None:
    searched(tmp_path / "old")
    folder = tmp_path / "old/other"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    warm = begun(tmp_path / "new", str(folder))
    assert warm is not None
    assert (warm.study, warm.place, len(warm.history)) == ("other", str(folder), 8)
    there = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name: there[name] for name in before} == before
    assert there.keys() - before.keys() <= {"study.db-wal", "study.db-shm"}


def test_a_study_is_found_in_the_ledger_of_this_one_and_taken_once(
    url: str, tmp_path: Path
) -> None:
    """It is found there without its folder, and never looked for again when it is gone."""
    searched(tmp_path / "there", storage=url)
    plan = plan_of(tmp_path / "here", study="new", search=SAMPLED)
    assert plan.folder.path.exists() is False
    warm = planned(plan, "other", url)
    assert warm is not None
    assert len(warm.history) == 8
    with Claim(url, "new") as claim:
        Ledger(claim, plan.request).begin_from(warm)
        optuna.delete_study(study_name="other", storage=url)
        assert planned(plan, "other", url) == warm
        assert planned(plan, None, url) == warm
        with pytest.raises(StudyError, match="began from study other, and --warm-start names"):
            planned(plan, "another", url)


def test_a_ledger_whose_password_is_not_known_is_asked_for(tmp_path: Path) -> None:
    there = searched(tmp_path)
    options = replace(there.options, storage="postgresql+psycopg://lab:secret@host/db")
    conductor.write_study_json(replace(there, options=options))
    assert "passwords are not stored" in refusal(tmp_path)


def test_a_warm_search_runs_and_shows_where_it_began(tmp_path: Path) -> None:
    """With Ray, by the command line."""
    search = Search(tmp_path / "search", ("--study", "new", "--warm-start", "other"))
    searched(
        search.results,
        trials=6,
        space={name: RANGES[name] for name in ("optim.learning_rate", "optim.weight_decay")},
    )
    search.more += ("--trials", "6", "--set", "search.sampler=tpe")
    assert search.run() == 0, search.out + search.err
    assert "Note: warm start: study other" in search.out
    rows = read_table(search.results / "new")
    assert [row["start"].partition(",")[0] for row in rows] == ["study other", *[""] * 5]
    page = (search.results / "new/report/index.html").read_text()
    assert "study other" in page
    standing = read_standing("new", search.results)
    assert any("Warm start: study other" in str(part) for part in study_screen(standing))
    assert "study other" in str(as_document(standing)["warm_start"])
    client = mlflow.MlflowClient(f"sqlite:///{search.results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("new")
    runs = client.search_runs([experiment.experiment_id])
    tags = [run.data.tags for run in runs]
    assert [one["warm_start"] for one in tags if one["phase"] == "study"] == [
        as_document(standing)["warm_start"]
    ]
    assert [one["trial"] for one in tags if "start" in one] == ["0"]


@pytest.mark.fault
def test_a_search_that_is_killed_when_it_has_taken_a_study_does_not_need_it_again(
    tmp_path: Path,
) -> None:
    search = Search(
        tmp_path / "search",
        ("--study", "new", "--warm-start", "other", "--trials", "2", "--set", "search.sampler=tpe"),
        environment={faults.VARIABLE: "warm started"},
    )
    space = {name: RANGES[name] for name in ("optim.learning_rate", "optim.weight_decay")}
    searched(search.results, trials=6, space=space)
    assert search.run() == -9
    shutil.rmtree(search.results / "other")
    search.environment.clear()
    assert search.run() == 0, search.out + search.err
    assert read_table(search.results / "new")[0]["start"].startswith("study other")
