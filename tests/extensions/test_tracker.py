"""A tracker of another package shows a study that the commands search and retrain."""

import json
from pathlib import Path

from tests import toys

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
COMMANDS = """
import tune.retrain_best, tune.search
assert tune.search.main(["--space", "tiny.json", "--gpus-per-trial", "0", "--tracking-uri", "board:board"]) == 0
assert tune.retrain_best.main(["--trial", "1"]) == 0
"""


def test_a_tracker_from_outside_shows_each_trials_end_the_report_and_the_winner_where_it_was_told_to(
    tmp_path: Path,
) -> None:
    site = toys.install(tmp_path / "site", BOARD, {"cell_tune.trackers": "board = toy:Board"})
    toys.write_study(tmp_path)
    said = toys.run(tmp_path, site, COMMANDS)
    board = {path.name: json.loads(path.read_text()) for path in (tmp_path / "board").iterdir()}
    assert sorted(board) == ["report", "study", "trial-0", "trial-1", "winner"]
    assert [board["trial-0"][0], board["trial-1"][0]] == ["COMPLETE", "COMPLETE"]
    assert [len(board["trial-0"][1]), len(board["trial-1"][1])] == [1, 1]
    assert board["study"] == ["tiny", True]
    assert board["winner"] == [1, "pinned trial-1", 1]
    assert "Compare: ls board" in said
    assert "The board: pinned winner; ls board" in said
    assert not (tmp_path / "results" / "mlflow.db").exists()
