"""Laws of a model in MLflow's registry: loaded as its user loads it, it finds what the trained
model finds.
"""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

from core.config import TrialConfig
from core.data import synthetic
from core.data.dataset import Category
from core.errors import DataError
from core.network.build import build_detector
from core.prediction import trained_model
from core.prediction.submission import results_of
from core.prediction.trained_model import TrainedModel
from tests.tracking_database import provide
from tune.ledger.records import State, TrialRecord
from tune.tracking.mlflow_destination import Destination
from tune.tracking.mlflow_models import show_retraining
from tune.tracking.tracker import Retraining, TrackedStudy

# Said by MLflow of its own classes, when mlflow.pyfunc is first imported.
ROOT = Path(__file__).parents[3]
CLASSES = (Category(3, "round"), Category(7, "long"))
CONFIG = TrialConfig.from_settings(
    {
        "model.backbone": "resnet18",
        "model.weights": "none",
        "model.image_min_side": 64,
        "model.image_max_side": 96,
        "model.anchor_scale": 0.25,
        "model.proposals_test": 32,
        "predict.score_threshold": 0.0,
        "predict.max_detections": 8,
    }
)
RECORD = TrialRecord(4, state=State.COMPLETE)


@dataclass(frozen=True)
class Registered:
    destination: Destination
    best: Path
    trained: TrainedModel
    address: str

    @property
    def folder(self) -> Path:
        """Where MLflow keeps the version."""
        *_, study, number = self.address.split("/")
        uri = mlflow.MlflowClient(self.destination.uri).get_model_version_download_uri(
            study, number
        )
        return Path(unquote(urlsplit(uri).path))

    def results(self, image: np.ndarray, image_id: int) -> list[Any]:
        return list(results_of(self.trained.predict(image), image_id, *image.shape[:2], CLASSES))


def images() -> list[np.ndarray]:
    return [sample.image for sample in synthetic.make_cells(images=2, side=64).samples]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """Version 2 of a model; version 1 is none that could be loaded."""
    root = tmp_path_factory.mktemp("a place") / "results"
    destination = Destination.at(None, provide(root))
    older = root / "older"
    older.mkdir()
    for name in (trained_model.CONFIG, trained_model.WEIGHTS):
        (older / name).write_text("no model")
    show_retraining(
        destination,
        TrackedStudy("cells", "one"),
        RECORD,
        Retraining(older, "train", "older", {}, [], {}),
    )
    torch.manual_seed(0)
    model = build_detector(CONFIG.model, len(CLASSES), None, CONFIG.predict).eval()
    best = root / "cells" / "best"
    trained_model.save(best, TrainedModel(CONFIG, CLASSES, model))
    retraining = Retraining(best, "train", "newer", CONFIG.settings(), [], {"ap50": 0.5})
    address = show_retraining(destination, TrackedStudy("cells", "one"), RECORD, retraining)
    return Registered(destination, best, trained_model.load(best, "cpu"), address)


@pytest.fixture(scope="module")
def loaded(registered: Registered) -> Any:
    return mlflow.pyfunc.load_model(str(registered.folder))


@pytest.mark.usefixtures("narrow")
def test_models_that_predict_together_are_registered_as_one_that_finds_what_they_find(
    registered: Registered, tmp_path: Path
) -> None:
    members = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = build_detector(CONFIG.model, len(CLASSES), None, CONFIG.predict).eval()
        members.append(TrainedModel(CONFIG, CLASSES, model))
    together = trained_model.join_models(members)
    trained_model.save(tmp_path / "best", together)
    retraining = Retraining(tmp_path / "best", "together", "two", CONFIG.settings(), [], {})
    study = TrackedStudy("pairs", "two")
    address = show_retraining(registered.destination, study, RECORD, retraining)
    of_pair = dataclasses.replace(registered, trained=together, address=address)
    image = images()[0]
    loaded = mlflow.pyfunc.load_model(str(of_pair.folder))
    assert loaded.predict(image) == of_pair.results(image, 1)
    assert of_pair.results(image, 1) != list(
        results_of(members[0].predict(image), 1, *image.shape[:2], CLASSES)
    )


FRESH = """
import json, sys
import mlflow
import numpy as np
import torch

torch.set_num_threads(1)
image = np.load(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/cells/latest")
print(json.dumps([model.predict(image), model.predict([sys.argv[2], image], {"image_id": 7})]))
"""


def test_a_fresh_process_elsewhere_finds_what_the_model_finds_and_says_nothing_but_that_the_cap_was_reached(
    registered: Registered, tmp_path: Path
) -> None:
    one, two = images()
    np.save(tmp_path / "one.npy", one)
    Image.fromarray(two).save(tmp_path / "two.png")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW", "PYTHON"))
        },
        "MLFLOW_TRACKING_URI": registered.destination.uri,
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", FRESH, "../one.npy", "../two.png"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone, together = json.loads(done.stdout)
    assert alone == registered.results(one, 1)
    assert together == registered.results(two, 7) + registered.results(one, 8)
    assert min(len(registered.results(each, 1)) for each in (one, two)) > 0
    said = [
        line
        for line in done.stderr.splitlines()
        if "noload" not in line and "configure_mappers" not in line
    ]
    assert [line.split(" as many")[0] for line in said] == ["In 1 of 1 image", "In 2 of 2 images"]
    assert all(
        "predict.max_detections keeps of a tile (8), so more may be there" in line for line in said
    )
    assert list(elsewhere.iterdir()) == []


def test_an_image_a_path_and_a_list_of_both_are_understood(
    registered: Registered, loaded: Any, tmp_path: Path
) -> None:
    one, two = images()
    Image.fromarray(two).save(tmp_path / "two.png")
    assert loaded.predict(str(tmp_path / "two.png")) == registered.results(two, 1)
    assert loaded.predict([one, str(tmp_path / "two.png")]) == registered.results(
        one, 1
    ) + registered.results(two, 2)
    assert loaded.predict(one, params={"image_id": 12}) == registered.results(one, 12)
    assert loaded.predict([]) == []
    assert {result["category_id"] for result in loaded.predict(one)} <= {3, 7}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8, 3)), "the image must be .* and holds float64"),
        (np.zeros((8, 8, 3), np.uint16), "the image must be .* and holds uint16"),
        (np.zeros((8, 8, 5), np.uint8), r"the image must be .* and has the shape \[8, 8, 5\]"),
        (np.zeros((3, 8, 8), np.uint8), r"and has the shape \[3, 8, 8\]"),
        (np.zeros((0, 8, 3), np.uint8), r"and has the shape \[0, 8, 3\]"),
        ([np.zeros((8, 8, 3), np.uint8), 5], "image 2 of 2 must be .* and is of type int"),
        ({"image": 1}, "the image must be .* and is of type dict"),
        ("no-such-file.png", "no-such-file.png"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(loaded: Any, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        loaded.predict(given)
    assert "\n" not in str(caught.value)


def test_a_version_holds_the_weights_and_the_code_and_no_pickle(registered: Registered) -> None:
    files = {path.name: path for path in registered.folder.rglob("*") if path.is_file()}
    assert (
        files["registered_model.py"].read_bytes()
        == (ROOT / "tune" / "tracking" / "registered_model.py").read_bytes()
    )
    for name in (trained_model.CONFIG, trained_model.WEIGHTS):
        assert files[name].read_bytes() == (registered.best / name).read_bytes()
    expected = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"}
    written_when_loaded = {
        "registered_model_meta",
        *(name for name in files if name.endswith(".pyc")),
    }
    assert set(files) - written_when_loaded == (
        expected | {"registered_model.py", trained_model.CONFIG, trained_model.WEIGHTS}
    )


@pytest.mark.parametrize(
    "place",
    [
        "core.data.images:read_rgb",
        "core.errors:DataError",
        "core.prediction.detect:about_full_tiles",
        "core.prediction.submission:CocoResult",
        "core.prediction.submission:results_of",
        "core.prediction.trained_model:CONFIG",
        "core.prediction.trained_model:load",
        "core.prediction.trained_model:TrainedModel.predict",
        "core.sample:Detections.full_tiles",
    ],
)
def test_what_the_code_of_versions_registered_before_calls_keeps_its_name(place: str) -> None:
    """MLflow runs the code as it was when the model was registered, with today's `core`."""
    assert resolve_name(place) is not None


def test_a_version_requires_what_the_code_that_it_runs_imports_as_it_is_installed(
    registered: Registered,
) -> None:
    required = [
        Requirement(line)
        for line in (registered.folder / "requirements.txt").read_text().splitlines()
    ]
    assert all(each.specifier.contains(version(each.name)) for each in required)
    declared = {
        Requirement(line).name.lower()
        for line in requires("cell-tune") or []
        if "extra" not in line
    }
    distributions = packages_distributions()
    imported = {
        distribution.lower()
        for name in third_party("tune.tracking.registered_model")
        for distribution in distributions[name]
    }
    # imagecodecs is tifffile's, for compressed images.
    assert {each.name.lower() for each in required} == (imported & declared) | {"imagecodecs"}


def third_party(start: str) -> set[str]:
    """The top-level packages, not the standard library's or the project's, that a module needs
    when it is imported.
    """
    seen: set[str] = set()
    found: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        path = ROOT / Path(*name.split("."))
        file = next(
            (each for each in (path.with_suffix(".py"), path / "__init__.py") if each.exists()),
            None,
        )
        if name in seen or file is None:
            continue
        seen.add(name)
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            waiting += [each for each in names if each.split(".")[0] == "core"]
            found |= {each.split(".")[0] for each in names}
        waiting += [name.rpartition(".")[0]] * (name.startswith("core."))
    return found - sys.stdlib_module_names - {"core"}
