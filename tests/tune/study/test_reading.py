"""Laws of studies as programs read them, also while they run."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulated_study import SAMPLED, build, sampled_quality
from core.errors import StudyError
from tune import read_study, report
from tune.ledger.ledger import State
from tune.store.folder import StudyFolder

DOCUMENT = {
    **SAMPLED,
    "study": "read",
    "fixed": {"model.weights": "none", "optim.epochs": 4},
    "search": {"sampler": "random", "trials": 6},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 2, "seeds": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A simulated study whose trial 3 failed, with its confirmation."""
    results = tmp_path_factory.mktemp("results")
    return build(results, DOCUMENT, sampled_quality, lambda record: "diverged" * (record.id == 3))


def test_each_column_has_the_type_of_its_setting_whatever_its_values(folder: StudyFolder) -> None:
    trials = read_study("read", folder.path.parent).trials
    types = {name: str(kind) for name, kind in trials.dtypes.items()}
    assert types == {str(name): str(kind) for name, kind in trials.iloc[:0].dtypes.items()}
    assert types["trial"] == types["epochs"] == types["attempts"] == "int64"
    assert types["ap50"] == types["seconds"] == types["optim.learning_rate"] == "float64"
    assert types["best_epoch"] == types["seed"] == types["optim.restarts"] == "Int64"
    assert types["augment.elastic"] == "boolean"
    assert types["state"] == types["name"] == types["model.backbone"] == "str"
    assert trials["trial"].tolist() == list(range(6))
    assert trials.set_index("trial").loc[3, ["state", "reason"]].tolist() == ["FAIL", "diverged"]


def test_what_a_study_knows_agrees_with_its_tables(folder: StudyFolder) -> None:
    study = read_study("read", str(folder.path.parent))
    assert study.finished
    complete = study.trials[study.trials["state"] == State.COMPLETE]
    assert study.best is not None
    assert study.best.id == complete.loc[complete["ap50"].idxmax(), "trial"]
    assert study.winner is not None
    assert study.confirmation is not None
    assert study.winner.name in study.confirm["name"].unique()
    assert len(study.confirm) == 4
    assert np.isfinite(study.confirm["ap50"]).all()


def test_the_study_that_was_used_last_is_read_where_none_is_named(folder: StudyFolder) -> None:
    assert read_study(results=folder.path.parent).name == "read"


def test_a_study_without_its_ledger_is_refused_with_the_way_out(
    folder: StudyFolder, tmp_path: Path
) -> None:
    with pytest.raises(
        StudyError, match=r"not in its ledger .*; bring the ledger back, or name it with"
    ):
        read_study("read", folder.path.parent, f"sqlite:///{tmp_path}/none.db")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"format": 99}', "must be of format 1, and is of format 99; use the version that wrote"),
        ("[]", "must be of format 1, and is of format None; use the version that wrote"),
        ('{"format": 1, "created": 3}', "is damaged: created is 3; "),
        ("{", "the file is not JSON"),
    ],
)
def test_a_study_json_that_cannot_be_used_is_refused_with_the_way_out(
    text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(StudyError, match=f"study.json:? {sentence}.*restore it from a backup$"):
        StudyFolder(tmp_path).read_description()


def test_a_program_writes_the_report(folder: StudyFolder) -> None:
    page = report(read_study("read", folder.path.parent))
    assert page == folder.path / "report/index.html"
    assert "read" in page.read_text()


def test_the_names_of_the_package_are_functions_also_after_modules_called_alike() -> None:
    import tune.report.page  # Python enters `tune.report` as a name of `tune` here
    import tune.retrain.plan
    import tune.search

    assert callable(tune.search)
    assert callable(tune.report)
    assert callable(tune.retrain)
    with pytest.raises(AttributeError):
        tune.nothing  # noqa: B018  # type: ignore[attr-defined]


def test_a_copied_study_is_read_from_its_own_folder(folder: StudyFolder, tmp_path: Path) -> None:
    shutil.copytree(folder.path, tmp_path / "copy")
    study, copy = read_study("read", folder.path.parent), read_study("copy", tmp_path)
    assert copy.folder == StudyFolder(tmp_path / "copy")
    assert copy.storage.endswith("copy/study.db")
    assert (copy.records, copy.finished) == (study.records, study.finished)
    assert report(copy).is_relative_to(tmp_path / "copy")
