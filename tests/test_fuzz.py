"""Whatever a file holds: what reads it succeeds, or says in one sentence of ours what is wrong.

Nothing else.

A short run of each goes with every test run; `make test-long` puts in more than ten thousand
inputs.
"""

import contextlib
import copy
import hashlib
import io
import json
import math
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from core import check
from core.config import SETTINGS, DataConfig, TrialConfig
from core.data import inspect_data, list_images, load_data, synthetic
from core.data.dataset import Category
from core.errors import CellTuneError
from core.metric.ap50 import MatchTable, ap50, balanced_score, match_images
from core.network.build import build_detector
from core.prediction import trained_model
from core.prediction.trained_model import TrainedModel
from core.sample import Detections
from core.training import checkpoint
from core.training.trial import Trial
from tune.ledger.ledger import open_ledger
from tune.request import file as space_file
from tune.retrain import plan as retrain_plan
from tune.search import main as search
from tune.study.conductor import write_study_json
from tune.study.options import Options
from tune.study.plan import plan_study
from tune.study.reading import read_study

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
TINY = {
    "data.validation_fraction": 0.5,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.trainable_layers": 0,
    "model.image_min_side": 64,
    "model.image_max_side": 64,
    "model.proposals_train": 16,
    "model.proposals_test": 16,
    "model.rpn_samples": 16,
    "model.box_samples": 16,
    "optim.epochs": 1,
}


def budgets(short: int, long: int) -> pytest.MarkDecorator:
    """How many inputs a test puts in: few in every run, many in `make test-long`."""
    return pytest.mark.parametrize(
        "inputs",
        [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.long)],
    )


def put_in(inputs: int, attempt: Callable[[st.DataObject], None]) -> None:
    """Run `attempt` on so many inputs; it may raise what is ours, a sentence, and nothing else."""
    ran = 0

    @settings(max_examples=inputs, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def ends_well(data: st.DataObject) -> None:
        nonlocal ran
        ran += 1
        sentence = "fine"
        try:
            attempt(data)
        except CellTuneError as error:
            sentence = str(error)
        assert sentence
        assert "\n" not in sentence

    ends_well()
    assert ran >= inputs


NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.floats(width=32),
    st.sampled_from(
        [2**31, 2**63, 2**64, -(2**63), 10**40, 1e308, 1e-320, math.inf, -math.inf, math.nan]
    ),
)
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "C:\\x",
            "a\0b",
            "\ud800",
            "x" * 300,
            "1e-5",
            "nan",
            "null",
            "[",
            "\u0661",
            "🙂",
        ]
    ),
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def mutated(document: Any, data: st.DataObject, keys: st.SearchStrategy[Any] = TEXTS) -> Any:
    """A copy of which one entry, anywhere, is something else, is gone, is there twice, or has
    another name.
    """
    what = data.draw(st.sampled_from(["deeper", "deeper", "deeper", "replace", "remove", "again"]))
    if isinstance(document, dict) and document and what != "replace":
        key = data.draw(st.sampled_from(list(document)))
        rest = {name: value for name, value in document.items() if name != key}
        if what == "remove":
            return rest
        if what == "again":
            return {**rest, data.draw(keys): document[key]}
        return {**document, key: mutated(document[key], data, keys)}
    if isinstance(document, list) and document and what != "replace":
        index = data.draw(st.integers(0, len(document) - 1))
        middle = {"remove": [], "again": [document[index], copy.deepcopy(document[index])]}.get(
            what
        )
        if middle is None:
            middle = [mutated(document[index], data, keys)]
        return [*document[:index], *middle, *document[index + 1 :]]
    return data.draw(JUNK)


def mutated_often(document: Any, data: st.DataObject, keys: st.SearchStrategy[Any] = TEXTS) -> Any:
    for _ in range(data.draw(st.integers(1, 4))):
        document = mutated(document, data, keys)
    return document


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """Bytes of which some are others, are gone, or are new."""
    what = data.draw(st.sampled_from(["flip", "flip", "flip", "cut", "insert", "end", "whole"]))
    place = data.draw(st.integers(0, max(0, len(content) - 1)))
    if what == "flip":
        changed = bytearray(content)
        for position in data.draw(
            st.lists(st.integers(0, max(0, len(content) - 1)), min_size=1, max_size=6)
        ):
            if position < len(changed):
                changed[position] = data.draw(st.integers(0, 255))
        return bytes(changed)
    if what == "cut":
        return content[:place] + content[place + data.draw(st.integers(1, 400)) :]
    if what == "insert":
        return content[:place] + data.draw(st.binary(max_size=40)) + content[place:]
    return content[:place] if what == "end" else data.draw(st.binary(max_size=60))


def as_json(document: Any, data: st.DataObject) -> bytes:
    """JSON of a document, now and then damaged."""
    content = json.dumps(document).encode()
    return damaged(content, data) if data.draw(st.integers(0, 9)) == 0 else content


# --- space files


@pytest.mark.filterwarnings(
    "ignore::FutureWarning"
)  # of `re`, about a pattern that is somebody's setting
@budgets(200, 4000)
def test_space_files(inputs: int, tmp_path: Path) -> None:
    texts = [path.read_bytes() for path in SPACES]
    documents = [yaml.safe_load(text) for text in texts]
    keys = (
        st.sampled_from(
            [*space_file.SECTIONS, "choices", "low", "high", "log", "step", "when", *SETTINGS]
        )
        | TEXTS
    )
    path = tmp_path / "space.yaml"
    overrides = st.lists(
        st.builds(
            "{}={}".format,
            st.sampled_from([*SETTINGS, "search.trials", "confirm.top"]) | TEXTS,
            SCALARS,
        ),
        max_size=1,
    )

    def attempt(data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(texts) - 1))
        if data.draw(st.integers(0, 2)) == 0:
            content = damaged(texts[number], data)
        else:
            document = mutated_often(documents[number], data, keys)
            content = yaml.safe_dump(document, allow_unicode=True).encode(errors="surrogatepass")
        path.write_bytes(content)
        request = space_file.load_request(path, data.draw(overrides))
        assert (
            space_file.from_document(json.loads(json.dumps(request.to_document())), "again")
            == request
        )

    put_in(inputs, attempt)


# --- data folders


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_all(files: dict[str, bytes]) -> None:
    """Write a data folder and read it in every way there is.

    Names that no disk takes are left out.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in files.items():
            with contextlib.suppress(OSError, ValueError):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
        inspection = inspect_data(name)
        assert inspection.dataset is not None or inspection.problems
        lenient = DataConfig(skip_bad=True, allow_suspicious=True, split_components=True)
        assert len(inspect_data(name, lenient).problems) <= len(inspection.problems)
        check.main([name])
        problem: CellTuneError | None = None
        try:
            list_images(name)
        except CellTuneError as error:
            problem = error
        load_data(name)
        if problem is not None:
            raise problem


ODD_NAMES = st.one_of(
    TEXTS,
    st.sampled_from(
        [
            "class0.tif",
            "class1.tif",
            "class01.tif",
            "class5.tif",
            "class99999999999999999999.tif",
            "class1\u0663.tif",
            "Class2.TIF",
            "image.tif",
            "image.tif/image.tif",
            "train",
            "test",
            "test.json",
            "train.json",
            ".hidden",
            "__MACOSX",
            "é",
            "e\u0301",
        ]
    ),
)


def renamed(path: str, data: st.DataObject) -> str:
    parts = path.split("/")
    parts[data.draw(st.integers(0, len(parts) - 1))] = data.draw(ODD_NAMES)
    return "/".join(parts).lstrip("/").replace("..", "_")


@pytest.mark.filterwarnings("ignore")  # of decoders, about files that are damaged on purpose
@budgets(200, 3000)
def test_hw3_folders(inputs: int, tmp_path: Path) -> None:
    synthetic.write_hw3(
        synthetic.make_cells(images=2, side=32),
        tmp_path,
        test=synthetic.make_cells(images=1, side=16).samples,
    )
    whole = files_in(tmp_path)
    listing = "test_image_name_to_ids.json"
    entries = json.loads(whole[listing])

    def attempt(data: st.DataObject) -> None:
        files = dict(whole)
        for _ in range(data.draw(st.integers(1, 3))):
            path = data.draw(st.sampled_from(sorted(files)))
            match data.draw(
                st.sampled_from(
                    ["damage", "damage", "damage", "listing", "rename", "remove", "swap"]
                )
            ):
                case "listing":
                    files[listing] = as_json(mutated_often(entries, data), data)
                case "damage":
                    files[path] = damaged(files[path], data)
                case "rename":
                    files[renamed(path, data)] = files.pop(path)
                case "remove" if len(files) > 1:
                    del files[path]
                case _:
                    files[path] = files[data.draw(st.sampled_from(sorted(files)))]
        read_all(files)

    put_in(inputs, attempt)


def coco_folder() -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a small data set in the COCO layout, and what its train.json says."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8))
    files = {}
    for name, kind in (("train/a.png", "PNG"), ("train/b.jpg", "JPEG"), ("test/c.png", "PNG")):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        files[name] = buffer.getvalue()
    square = [2, 2, 9, 2, 9, 8, 2, 8]
    document = {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 12, "width": 16},
            {"id": 9, "file_name": "b.jpg", "height": 12, "width": 16},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 2,
                "iscrowd": 0,
                "segmentation": [square, [0, 0, 3, 0, 0, 3]],
            },
            {
                "id": 2,
                "image_id": 7,
                "category_id": 5,
                "iscrowd": 1,
                "bbox": [0, 0, 5, 5],
                "area": 25,
            }
            | {"segmentation": {"size": [12, 16], "counts": [30, 40, 122]}},
            {
                "id": 3,
                "image_id": 9,
                "category_id": 2,
                "segmentation": {"size": [12, 16], "counts": "n0X1j3"},
            },
        ],
        "categories": [{"id": 2, "name": "cell"}, {"id": 5, "name": "mitosis"}],
    }
    files["train.json"] = json.dumps(document).encode()
    files["test.json"] = json.dumps(
        {"images": [{"id": 1, "file_name": "c.png", "height": 12, "width": 16}]}
    ).encode()
    return files, document


@pytest.mark.filterwarnings("ignore")
@budgets(200, 3000)
def test_coco_folders(inputs: int) -> None:
    whole, document = coco_folder()
    listed = json.loads(whole["test.json"])

    def attempt(data: st.DataObject) -> None:
        files = dict(whole)
        match data.draw(st.sampled_from(["train", "train", "train", "train", "test", "file"])):
            case "train":
                files["train.json"] = as_json(mutated_often(document, data), data)
            case "test":
                files["test.json"] = as_json(mutated_often(listed, data), data)
            case _:
                path = data.draw(st.sampled_from(sorted(files)))
                files[path] = damaged(files[path], data)
        read_all(files)

    read_all(whole)
    put_in(inputs, attempt)


# --- study folders


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study whose two trials have ended."""
    monkeypatch.chdir(tmp_path)
    synthetic.write_hw3(synthetic.make_cells(images=4, side=32), tmp_path / "cells")
    document = {
        "study": "fuzzed",
        "data": "cells",
        "fixed": TINY,
        "space": {"optim.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
        "after_training": {"predict.flips": [False, True]},
        "search": {"sampler": "random", "trials": 2},
        "resources": {"gpus_per_trial": 0},
    }
    plan = plan_study(space_file.from_document(document, "test"), Options(Path("results")))
    plan.folder.path.mkdir(parents=True)
    ledger = open_ledger(plan.storage, plan.request)
    while (record := ledger.next()) is not None:
        ledger.report(record.id, [{"epoch": 1, "ap50": 0.5, "seconds": 1.0}])
    write_study_json(plan)
    return plan.folder.path


@pytest.mark.filterwarnings("ignore")
@budgets(40, 1200)
def test_descriptions_of_studies(inputs: int, study: Path) -> None:
    file = study / "study.json"
    whole = json.loads(file.read_bytes())

    def attempt(data: st.DataObject) -> None:
        content = json.dumps(whole).encode()
        part = data.draw(st.sampled_from(["all", "request", "addresses", "bytes"]))
        if part == "bytes":
            content = damaged(content, data)
        elif part == "addresses":
            name = data.draw(st.sampled_from(["storage", "tracking_uri", "data", "format"]))
            content = json.dumps({**whole, name: data.draw(JUNK)}).encode()
        elif part == "request":
            content = json.dumps(
                {**whole, "request": mutated_often(whole["request"], data)}
            ).encode()
        else:
            content = as_json(mutated_often(whole, data), data)
        file.write_bytes(content)
        if data.draw(st.booleans()):
            retrain_plan.plan_retraining(read_study("fuzzed"))
        else:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()) as said,
            ):
                status = search(["--study", "fuzzed", "--dry-run"])
            assert status == (2 if said.getvalue() else 0)

    retrain_plan.plan_retraining(read_study("fuzzed"))
    put_in(inputs, attempt)


@budgets(200, 1200)
def test_checkpoints(inputs: int, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save_checkpoint(
        path,
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)},
        {"epoch": 3},
    )
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, tensors = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def attempt(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            content = damaged(whole, data)
        else:
            text = as_json(mutated_often(header, data), data)
            content = struct.pack("<Q", len(text)) + text + tensors
        path.write_bytes(content)
        checkpoint.load_checkpoint(path)

    put_in(inputs, attempt)


@budgets(60, 400)
def test_states_of_trials(inputs: int, tmp_path: Path) -> None:
    trial = Trial(
        TrialConfig.from_settings(TINY),
        synthetic.make_cells(images=4, side=32),
        device="cpu",
        threads=1,
    )
    trial.run_epoch()
    trial.save(tmp_path)
    last, best = tmp_path / "last.safetensors", tmp_path / "best-0001.safetensors"
    states = {path: checkpoint.load_checkpoint(path)[1] for path in (last, best)}
    for path, state in states.items():  # without tensors, which come last and take long
        checkpoint.save_checkpoint(path, {}, state)

    def attempt(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from([last, last, best]))
        for other, state in states.items():
            changed = mutated_often(state, data) if other == path else state
            header = {"__metadata__": {"state": json.dumps(changed)}}
            other.write_bytes(safetensors_bytes(header))
        try:
            trial.load(tmp_path)
        finally:
            for strange in set(tmp_path.glob("best-*")) - {best}:
                strange.unlink()

    put_in(inputs, attempt)


def safetensors_bytes(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.filterwarnings("ignore")
@budgets(200, 1200)
def test_match_tables(inputs: int, tmp_path: Path) -> None:
    samples = synthetic.make_cells(images=2, side=48).samples
    nothing = Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), []
    )
    path = tmp_path / "epoch-0001.npz"
    table = match_images(samples, [nothing] * len(samples), 4)[0]
    rows = {
        "image_D": 0,
        "label_D": 1,
        "score_D": 0.5,
        "rank_D": 0,
        "hit_D": True,
        "ignored_D": False,
    }
    columns = {name: np.full(5, value, getattr(table, name).dtype) for name, value in rows.items()}
    columns |= {"truths_IC": table.truths_IC, "image_names": np.array(table.image_names)}
    dtypes = st.sampled_from(
        ["float32", "int32", "int64", "bool", "U3", "S2", "complex64", "datetime64[s]", "uint8"]
    )

    def attempt(data: st.DataObject) -> None:
        arrays = dict(columns)
        name = data.draw(st.sampled_from(sorted(arrays)))
        shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=3)))
        what = data.draw(st.sampled_from(["bytes", "array", "values", "gone", "none"]))
        if what == "array":
            arrays[name] = np.zeros(shape, data.draw(dtypes))
        elif what == "values" and name != "image_names":
            kind = arrays[name].dtype
            arrays[name] = np.resize(
                np.array(data.draw(st.lists(NUMBERS, min_size=1)), float), columns[name].shape
            )
            with np.errstate(all="ignore"):
                arrays[name] = arrays[name].astype(kind)
        elif what == "gone":
            del arrays[name]
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        path.write_bytes(damaged(buffer.getvalue(), data) if what == "bytes" else buffer.getvalue())
        loaded = MatchTable.load(path)
        with np.errstate(all="ignore"):
            ap50(loaded, 100)
            balanced_score(loaded)

    put_in(inputs, attempt)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's folder."""
    config = TrialConfig.from_settings(TINY)
    classes = (Category(1, "cell"), Category(4, "mitosis"))
    network = build_detector(config.model, len(classes), None, config.predict)
    folder = tmp_path_factory.mktemp("model")
    trained_model.save(folder, TrainedModel(config, classes, network.eval()))
    return folder


@pytest.mark.filterwarnings("ignore")
@budgets(150, 1200)
def test_configurations_of_models(inputs: int, model: Path, tmp_path: Path) -> None:
    """Up to where the weights' sum is compared: the model is not built, so that many fit in."""
    text = (model / "config.yaml").read_bytes()
    document = yaml.safe_load(text)
    (tmp_path / "model.safetensors").write_bytes(b"others")

    def attempt(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            content = damaged(text, data)
        else:
            content = yaml.safe_dump(mutated_often(document, data), allow_unicode=True).encode(
                errors="surrogatepass"
            )
        (tmp_path / "config.yaml").write_bytes(content)
        trained_model.load(tmp_path, "cpu")

    put_in(inputs, attempt)


@pytest.mark.filterwarnings("ignore")
@budgets(4, 100)
def test_models(inputs: int, model: Path, tmp_path: Path) -> None:
    """All the way: configurations and weights that name each other, and do not belong together."""
    document = yaml.safe_load((model / "config.yaml").read_text())
    tensors = safetensors.torch.load_file(model / "model.safetensors")
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)

    def attempt(data: st.DataObject) -> None:
        changed = copy.deepcopy(document)
        part = data.draw(st.sampled_from(["network", "classes", "weights"]))
        weights = (model / "model.safetensors").read_bytes()
        if part == "weights":
            name = data.draw(st.sampled_from(sorted(tensors)))
            shape = data.draw(st.lists(st.integers(0, 3), max_size=4))
            weights = safetensors.torch.save(
                {**tensors, name: torch.zeros(shape, dtype=torch.int16)}
            )
        else:
            changed[part] = mutated(changed[part], data)
        changed["sha256"] = hashlib.sha256(weights).hexdigest()
        (tmp_path / "model.safetensors").write_bytes(weights)
        text = yaml.safe_dump(changed, allow_unicode=True)
        (tmp_path / "config.yaml").write_bytes(text.encode(errors="surrogatepass"))
        trained_model.load(tmp_path, "cpu")

    put_in(inputs, attempt)
