"""A search on every export in the table, from the command to the report.

Trials train one after the other in this process, with a narrow network: what Ray does with a data
set does not depend on the format that it was read from.
"""

from pathlib import Path
from unittest import mock

import pytest

from benchmarks.replay import execute_here
from tests.core.data.exports.export import Export
from tests.core.data.exports.table import EXPORTS
from tune import read_study
from tune.search import main
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


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_a_search_on_an_export_ends_with_a_report(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, space, results = tmp_path / "data", tmp_path / "space.yaml", tmp_path / "results"
    data.mkdir()
    export.write(data)
    space.write_text(SPACE)
    command = ["--space", str(space), "--data", str(data), "--results", str(results)]
    with mock.patch.object(conductor, "execute", execute_here):
        assert main(command) == 0
    assert "1 complete" in capsys.readouterr().out
    study = read_study("export", results)
    assert study.finished
    assert (results / "export" / "report" / "index.html").is_file()
