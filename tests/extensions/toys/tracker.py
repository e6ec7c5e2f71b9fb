"""A toy tracker: files on a board."""

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
