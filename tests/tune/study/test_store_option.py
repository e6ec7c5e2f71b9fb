"""Laws of the store's URL among the options of a study that goes on."""

from pathlib import Path
from typing import Any

import pytest

from core.errors import StudyError
from core.files import write_json_atomically
from tune.store.folder import STUDY_FORMAT, StudyFolder
from tune.study import plan
from tune.study.options import Options, recall_options
from tune.study.plan import refuse_network_ledger


def known_study(results: Path, **entries: Any) -> StudyFolder:
    folder = StudyFolder(results / "known")
    folder.path.mkdir(parents=True)
    described = {"created": "", "request": {}, "data": {}, "storage": None, "tracking_uri": None}
    write_json_atomically(folder.description, {"format": STUDY_FORMAT, **described, **entries})
    return folder


def test_a_study_goes_on_with_its_own_store(tmp_path: Path) -> None:
    folder = known_study(tmp_path, store="s3://bucket/here")
    for given in (None, "s3://bucket/here"):
        assert recall_options(Options(tmp_path, store=given), folder).store == "s3://bucket/here"
    with pytest.raises(StudyError, match=r"must be that of the study, s3://bucket/here, and is"):
        recall_options(Options(tmp_path, store="s3://bucket/elsewhere"), folder)


@pytest.mark.parametrize("entries", [{}, {"store": None}])
def test_the_files_of_a_study_without_store_stay_in_its_folder(
    tmp_path: Path, entries: dict[str, Any]
) -> None:
    folder = known_study(tmp_path, **entries)  # an earlier version wrote no entry
    assert recall_options(Options(tmp_path), folder).store is None
    with pytest.raises(StudyError, match="its own folder"):
        recall_options(Options(tmp_path, store="s3://bucket/here"), folder)


def test_a_store_with_a_password_is_given_again(tmp_path: Path) -> None:
    folder = known_study(tmp_path, store="s3://***@bucket/here")
    with pytest.raises(StudyError, match="must be given again"):
        recall_options(Options(tmp_path), folder)
    url = "s3://key:hush@bucket/here"
    assert recall_options(Options(tmp_path, store=url), folder).store == url


def test_a_ledger_in_a_file_on_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "network_type", lambda _: "nfs4")
    with pytest.raises(StudyError, match=r"study\.db is on nfs4; keep it on a disk") as raised:
        refuse_network_ledger(f"sqlite:///{tmp_path / 'study.db'}")
    assert "\n" not in str(raised.value)
    refuse_network_ledger("postgresql://me:hush@host/ledger")
    monkeypatch.setattr(plan, "network_type", lambda _: None)
    refuse_network_ledger(f"sqlite:///{tmp_path / 'study.db'}")
