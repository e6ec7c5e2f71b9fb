"""A tracker of another package shows a study that the commands search and retrain."""

import json
from pathlib import Path

from core.data import synthetic
from tests import toys
from tests.extensions.tiny_study import run_python, search

BOARD = """
import json
from pathlib import Path
from tune.tracking.tracker import Tracker, TrialsView


class Board(Tracker):
    name = "The board"
    uri = how_to_open = ""

    def __init__(self, uri, results):
        self.uri, self.folder = uri, Path(uri.partition(":")[2])
        self.how_to_open = f"ls {self.folder}"

    def pin(self, name, content):
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text(json.dumps(content))
        return f"pinned {name}"

    def trials(self, study, phase):
        return Trials(self, study)

    def show_report(self, study, folder):
        return self.pin("report", str(folder))

    def show_retraining(self, study, record, retraining):
        return self.pin("winner", [record.id, record.mlflow_run, retraining.metrics["epoch"]])


class Trials(TrialsView):
    def __init__(self, board, study):
        self.board, self.study = board, study

    def write(self, record, folder):
        return self.board.pin(f"trial-{record.id}", [record.state, list(record.curve)])

    def close(self, ended):
        self.board.pin("study", [self.study.name, ended])
"""


def test_a_tracker_from_outside_shows_each_trials_end_the_report_and_the_winner_where_it_was_told_to(
    tmp_path: Path,
) -> None:
    site = toys.install(tmp_path / "site", BOARD, {"cell_tune.trackers": "board = toy:Board"})
    synthetic.write_hw3(synthetic.make(images=6, side=64), tmp_path / "cells")
    address = ("--tracking-uri", f"board:{tmp_path / 'board'}")
    row, _ = search(tmp_path, site, "cells", {"optim.learning_rate": 1e-3}, *address)
    again = run_python(tmp_path, site, "-m", "tune.retrain_best", "--trial", "0")
    assert again.returncode == 0, again.stderr
    board = {path.name: json.loads(path.read_text()) for path in (tmp_path / "board").iterdir()}
    assert board == {
        "trial-0": ["COMPLETE", [float(row["ap50"])]],
        "study": ["toy", True],
        "report": "results/toy/report",
        "winner": [0, "pinned trial-0", 1],
    }
    assert f"The board: pinned winner; ls {tmp_path / 'board'}" in again.stdout
    assert not (tmp_path / "results" / "mlflow.db").exists()
