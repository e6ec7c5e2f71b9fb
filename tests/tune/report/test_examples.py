"""Laws of the pictures in the report: which images, and that they are there only with data and
weights.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.config import TrialConfig
from core.data import synthetic
from core.data.dataset import Dataset
from core.metric.ap50 import MatchTable
from core.training.trial import Trial
from tests.core.narrow import narrowed
from tune.ledger.ledger import open_ledger
from tune.report import page as report
from tune.report.content import ReportContent, content_of
from tune.report.figures.examples import chosen_images, examples, image_f1
from tune.report.figures.figure import Absence, Pictures, figures_of
from tune.request.file import from_document
from tune.store.folder import StudyFolder, match_table_path
from tune.study import conductor as study
from tune.study.going_on import study_facts
from tune.study.options import Options
from tune.study.plan import check_request
from tune.study.reading import read_study

SPACE = {
    "study": "seen",
    "fixed": {
        "model.backbone": "resnet18", "model.weights": "none", "model.image_min_side": 64,
        "optim.epochs": 1, "model.proposals_train": 32, "model.proposals_test": 32,
        "model.box_samples": 16, "predict.score_threshold": 0.0, "predict.max_detections": 20,
    },
    "space": {"optim.learning_rate": {"low": 1e-4, "high": 1e-2}},
    "search": {"sampler": "random", "trials": 1},
    "confirm": {"top": 0},
    "resources": {"gpus_per_trial": 0},
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _few_channels() -> Iterator[None]:
    with narrowed():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Dataset]:
    """A study of one trial that was really trained, an epoch on eight small images."""
    place = tmp_path_factory.mktemp("trained")
    data = synthetic.make_cells(images=8, side=64)
    synthetic.write_hw3(data, place / "cells")
    request = from_document({**SPACE, "data": str(place / "cells")}, "test")
    plan, problems = check_request(request, Options(place / "results"))
    assert plan is not None, problems
    plan.folder.path.mkdir(parents=True)
    ledger = open_ledger(plan.storage, request)
    ledger.remember(study_facts(request, plan.data))
    study.write_study_json(plan)
    record = ledger.next()
    assert record is not None
    trial = Trial(TrialConfig.from_settings(record.settings), plan.data, device="cpu", threads=1)
    trial.run_epoch()
    trial.save(plan.folder.trial(record.id))
    ledger.report(record.id, [one.to_json() for one in trial.reports])
    return plan.folder, plan.data


def found(folder: StudyFolder, data: Dataset | None = None) -> ReportContent:
    return content_of(read_study(folder.path.name, folder.path.parent), data)


def test_the_page_shows_annotations_and_predictions_of_validation_images(
    trained: tuple[StudyFolder, Dataset],
) -> None:
    folder, data = trained
    threads = torch.get_num_threads()
    shown = examples(found(folder, data))
    assert isinstance(shown, Pictures)
    assert torch.get_num_threads() == threads
    table = MatchTable.load(match_table_path(folder.trial(0), 1))
    assert len(shown.pictures) == min(2, len(table.image_names))
    for picture in shown.pictures:
        image = Image.open(io.BytesIO(picture.png))
        image.load()
        assert image.size == picture.size
        assert any(name in picture.alt for name in table.image_names)
    assert examples(found(folder, data)) == shown
    page = report.write_report(found(folder), figures_of(found(folder, data))).read_text()
    embedded = re.findall(r'src="(data:image/webp;base64,[^"]+)"', page)
    assert embedded == [picture.uri for picture in shown.pictures]
    for number, picture in enumerate(shown.pictures, start=1):
        assert (
            folder.path / "report" / "figures" / f"examples-{number}.png"
        ).read_bytes() == picture.png


def test_where_data_or_weights_are_not_there_a_sentence_says_so(
    trained: tuple[StudyFolder, Dataset], tmp_path: Path
) -> None:
    folder, data = trained

    def said(data: Dataset | None) -> str:
        absence = examples(found(folder, data))
        assert isinstance(absence, Absence)
        return absence.sentence

    assert "--data DIR" in said(None)
    assert "another" in said(replace(data, fingerprint="other"))
    (weights,) = folder.trial(0).glob("best-*.safetensors")
    weights.rename(tmp_path / "away")
    assert said(data) == "There are no pictures: the weights of trial 0 are not kept."
    weights.write_bytes(b"torn")
    assert said(data).startswith("There are no pictures: ")
    (tmp_path / "away").rename(weights)


def table_of(rows: list[tuple[int, float, bool]], truths: list[int]) -> MatchTable:
    """A table of one class: rows of image, score, hit."""
    count = len(rows)
    parts: dict[str, Any] = {
        "image_D": np.array([row[0] for row in rows], np.int32),
        "label_D": np.ones(count, np.int16),
        "score_D": np.array([row[1] for row in rows], np.float32),
        "rank_D": np.zeros(count, np.int32), "hit_D": np.array([row[2] for row in rows], np.bool_),
        "ignored_D": np.zeros(count, np.bool_),
    }  # fmt: skip
    return MatchTable(
        **parts,
        truths_IC=np.array(truths, np.int32)[:, None],
        image_names=tuple(map(str, range(len(truths)))),
    )


def test_f1_of_an_image_counts_what_is_shown_and_what_there_is() -> None:
    rows = [(0, 0.9, True), (0, 0.8, False), (0, 0.1, True), (1, 0.9, False)]
    f1_I = image_f1(table_of(rows, [3, 0, 0, 2]), 0.5)
    assert f1_I[:2].tolist() == [2 / 5, 0.0]
    assert np.isnan(f1_I[2])
    assert f1_I[3] == 0.0


scores = st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=1, max_size=9)


@given(scores, st.data())
def test_the_images_are_the_middling_and_the_worst_of_those_that_are_quick_to_predict(
    f1: list[float], data: st.DataObject
) -> None:
    pixels = data.draw(st.lists(st.sampled_from([100, 10**8]), min_size=len(f1), max_size=len(f1)))
    picked = chosen_images(np.array(f1), pixels)
    there = [place for place, score in enumerate(f1) if not np.isnan(score)]
    quick = [place for place in there if pixels[place] == 100]
    assert len(set(picked)) == len(picked) <= 2
    assert set(picked) <= set(quick or there)
    assert bool(picked) == bool(there)
    if quick:
        middling = f1[picked[0]]
        assert f1[picked[-1]] == min(f1[place] for place in quick)
        assert sum(f1[place] < middling for place in quick) <= len(quick) // 2
        assert sum(f1[place] > middling for place in quick) <= len(quick) // 2
