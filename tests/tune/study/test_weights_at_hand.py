"""Laws of `model.weights: at_hand`: a study begins with what is on the machine, and keeps it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.config import TrialConfig
from core.data import synthetic
from core.errors import SpaceError
from core.network.weights import FOLDER_VARIABLE, find_weights, weights_at_hand
from core.training.trial import Trial
from tests.core.narrow import narrowed
from tune.announcements import search_lines
from tune.ledger.claim import Claim
from tune.ledger.ledger import Ledger
from tune.request.file import from_document, request_of, with_overrides
from tune.study.conductor import write_study_json
from tune.study.going_on import study_facts
from tune.study.options import Options
from tune.study.plan import StudyPlan, check_request

NAME = "model.weights"
COCO = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
IMAGENET = {"resnet50": "resnet50-0676ba61.pth", "resnet18": "resnet18-f37072fd.pth"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of weights, empty."""
    folder = tmp_path / "weights of this machine"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no hub"))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    synthetic.write_hw3(synthetic.make_cells(images=3, side=32), tmp_path / "cells")
    return {
        "study": "s",
        "data": str(tmp_path / "cells"),
        "fixed": {NAME: "at_hand", "model.backbone": "resnet50"},
        "space": {"optim.learning_rate": [1e-4, 1e-3]},
        "search": {"sampler": "grid"},
        "confirm": {"top": 0},
    }


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def planned(document: Mapping[str, Any], results: Path, *changes: str) -> StudyPlan:
    request = with_overrides(from_document(document, "test"), changes)
    plan, problems = check_request(request, Options(results))
    assert plan is not None, problems
    return plan


def begin(plan: StudyPlan) -> str:
    """The weights that the first trial of a study names, after the study has begun."""
    plan.folder.path.mkdir(parents=True, exist_ok=True)
    with Claim(plan.storage, plan.request.study) as claim:
        ledger = Ledger(claim, plan.request)
        ledger.remember(study_facts(plan.request, plan.data))
        write_study_json(plan)
        record = ledger.next(plan.resources.gpus)
    assert record is not None
    return str(record.settings[NAME])


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ((), "none"),
        ((IMAGENET["resnet50"],), "imagenet"),
        ((COCO,), "coco"),
        ((COCO, IMAGENET["resnet50"]), "coco"),
        ((IMAGENET["resnet18"],), "none"),
    ],
)
def test_a_study_begins_with_the_first_of_coco_imagenet_and_none_that_is_there_and_says_so(
    files: tuple[str, ...], found: str, here: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    put(here, *files)
    plan = planned(document, tmp_path / "results")
    assert begin(plan) == found
    assert [file.path.name for file in plan.weights.values()] == [
        name for name in (COCO, IMAGENET["resnet50"]) if name in files
    ][:1]
    (said,) = [line for line in search_lines(plan) if NAME in line]
    assert said.startswith(f"Note: {NAME} at_hand is {found}, ")
    assert ("--set model.weights=auto downloads what is missing" in said) == (found == "none")


def test_a_study_keeps_the_weights_with_which_it_began_whatever_comes_or_goes(
    here: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    put(here, IMAGENET["resnet50"])
    begun = planned(document, tmp_path / "results")
    assert begin(begun) == "imagenet"
    put(here, COCO)
    plan = planned(document, tmp_path / "results")
    assert plan.at_hand == f"{NAME} at_hand is imagenet, as when the study began"
    assert begin(plan) == begin(planned(document, tmp_path / "results", f"{NAME}=imagenet"))
    (here / IMAGENET["resnet50"]).unlink()
    again = planned(document, tmp_path / "results")
    assert again.request.space.fixed[NAME] == "imagenet"
    assert [file.missing is not None for file in again.weights.values()] == [True]
    assert request_of(begun.folder).space.fixed[NAME] == "imagenet"


def test_a_study_whose_file_said_nothing_of_weights_when_it_began_goes_on_with_the_default(
    here: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    """`quick.yaml` left the weights to the default, and asks for what is at hand now."""
    fixed = {name: value for name, value in document["fixed"].items() if name != NAME}
    assert begin(planned({**document, "fixed": fixed}, tmp_path / "results")) == "auto"
    put(here, IMAGENET["resnet50"])
    plan = planned(document, tmp_path / "results")
    assert plan.at_hand == f"{NAME} at_hand is auto, as when the study began"
    assert NAME not in plan.request.space.fixed
    assert begin(plan) == "auto"


def test_all_backbones_of_a_study_begin_with_one_kind_of_weights(
    here: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    """Comparing the backbones then compares no weights."""
    del document["fixed"]["model.backbone"]
    document["space"] = {"model.backbone": ["resnet50", "resnet18"]}
    put(here, COCO, IMAGENET["resnet18"])
    assert planned(document, tmp_path / "results").request.space.fixed[NAME] == "none"
    put(here, IMAGENET["resnet50"])
    assert planned(document, tmp_path / "results").request.space.fixed[NAME] == "imagenet"


@pytest.mark.parametrize(
    "searched",
    [
        {"space": {NAME: ["at_hand", "none"]}},
        {"variants": {"a": {NAME: "at_hand"}, "b": {NAME: "none"}}},
    ],
)
def test_what_differs_between_machines_is_no_choice_and_no_row(
    searched: dict[str, Any], document: dict[str, Any]
) -> None:
    del document["space"], document["search"], document["fixed"][NAME]
    with pytest.raises(SpaceError, match=r"is at_hand\. That may stand under `fixed:`"):
        from_document({**document, **searched}, "test")


def test_a_trial_names_the_weights_that_it_found(here: Path) -> None:
    settings = {NAME: "at_hand", "model.backbone": "resnet18", "model.image_min_side": 64}
    config = TrialConfig.from_settings(settings)
    assert find_weights(config.model) is None
    data = synthetic.make_cells(images=3, side=32)
    with narrowed():
        assert Trial(config, data, device="cpu").config.model.weights == "none"
    put(here, IMAGENET["resnet18"])
    assert weights_at_hand([config.model]) == "imagenet"
    file = find_weights(config.model)
    assert file is not None
    assert (file.path, file.missing) == (here / IMAGENET["resnet18"], None)
