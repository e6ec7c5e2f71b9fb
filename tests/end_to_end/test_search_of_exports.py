"""A search on every export in the table, from the command to the report.

Trials train one after the other in this process, with a narrow network. Two formats go through Ray
as well: one of outlines, and one whose images Ray's processes get with a measured range of
brightness and its own split.
"""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tifffile

from benchmarks.replay import execute_here
from core import predict
from core.config import DataConfig
from core.data import load_data
from core.data.split import split
from core.metric.ap50 import MatchTable
from core.prediction import trained_model
from tests.core.data.exports.export import SCENE, Export
from tests.core.data.exports.table import EXPORTS
from tune import read_study, retrain
from tune.search import main
from tune.store.folder import match_table_path
from tune.study import conductor

pytestmark = pytest.mark.study

SPACE = """
study: export
fixed:
  model.backbone: resnet18
  model.weights: none
  model.image_min_side: 64
  model.image_max_side: 64
  model.proposals_train: 32
  model.proposals_test: 16
  model.rpn_samples: 32
  model.box_samples: 16
  predict.max_detections: 5
  data.validation_fraction: 0.5
  optim.epochs: 1
space:
  optim.learning_rate: [1e-4]
search: {sampler: grid}
stop_early: {rule: none}
confirm: {top: 0}
"""


def command(tmp_path: Path, *arguments: str, rates: str = "[1e-4]") -> list[str]:
    """The arguments of a search on tmp_path/data."""
    (tmp_path / "space.yaml").write_text(SPACE.replace("[1e-4]", rates))
    return [
        "--space", str(tmp_path / "space.yaml"), "--data", str(tmp_path / "data"),
        "--results", str(tmp_path / "results"), *arguments,
    ]  # fmt: skip


def search(tmp_path: Path, *arguments: str, rates: str = "[1e-4]") -> int:
    """Search on tmp_path/data, or continue."""
    with mock.patch.object(conductor, "execute", execute_here):
        return main(command(tmp_path, *arguments, rates=rates))


def deep_label_images(folder: Path) -> None:
    """Images of 16 bits in `train` and `val`, with label images beside them."""
    for number, sample in enumerate(SCENE.samples):
        path = folder / ("val" if number == 0 else "train") / sample.name
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(f"{path}.tif", sample.image.astype(np.uint16) * 11, photometric="rgb")
        tifffile.imwrite(f"{path}_masks.tif", sample.label_maps[0])


@pytest.mark.parametrize("write", [EXPORTS["qupath"].write, deep_label_images])
def test_a_search_through_ray_trains_on_what_the_driver_read(
    write: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    assert main(command(tmp_path, "--parallel", "1")) == 0
    assert "1 complete" in capsys.readouterr().out
    study = read_study("export", tmp_path / "results")
    (record,) = study.records
    data = load_data(str(tmp_path / "data"))
    assert study.description["data"]["fingerprint"] == data.fingerprint
    kept = MatchTable.load(match_table_path(study.folder.trial(record.id), 1))
    validating = split(data, DataConfig(validation_fraction=0.5)).validation
    assert kept.image_names == tuple(data.samples[index].name for index in validating)
    counts_IC = data.instance_counts()[list(validating)]
    np.testing.assert_array_equal(kept.truths_IC, counts_IC)
    assert record.settings["data.intensity"] == (data.intensity or "auto")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_a_search_on_an_export_ends_with_a_report(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    export.write(tmp_path / "data")
    assert search(tmp_path) == 0
    assert "1 complete" in capsys.readouterr().out
    assert read_study("export", tmp_path / "results").finished
    assert (tmp_path / "results" / "export" / "report" / "index.html").is_file()


@pytest.mark.usefixtures("narrow")
def test_a_study_keeps_the_range_of_brightness_that_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for sample in SCENE.samples:
        path = tmp_path / "data" / sample.name
        tifffile.imwrite(f"{path}.tif", sample.image.astype(np.uint16) * 11, photometric="rgb")
        tifffile.imwrite(f"{path}_masks.tif", sample.label_maps[0])
    measured = load_data(str(tmp_path / "data")).intensity
    assert measured is not None
    assert search(tmp_path) == 0
    assert f"data.intensity {measured}: 4 images of uint16" in capsys.readouterr().out
    assert search(tmp_path, rates="[1e-4, 2e-4]") == 0
    study = read_study("export", tmp_path / "results")
    assert [record.settings["data.intensity"] for record in study.records] == [measured] * 2
    retrained = retrain(study, trial=0)
    assert retrained.metrics["validation"]["ap50"] is not None
    best = tmp_path / "results" / "export" / "best"
    assert trained_model.load(best).config.data.intensity == measured
    results = ["--images", str(tmp_path / "data"), "--out", str(tmp_path / "results.json")]
    assert predict.main(["--model", str(best), *results]) == 0
    assert search(tmp_path, "--set", "data.intensity=0,100") == 2
