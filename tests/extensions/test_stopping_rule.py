"""A stopping rule of another package stops a study's trials."""

import csv
import json
from pathlib import Path

from tests import toys
from tests.extensions.tiny_study import run_python

ENOUGH = """
class Enough:
    '''Stops every trial but the first after `min_epochs` epochs.'''

    def __init__(self, min_epochs, reduction):
        self.min_epochs = min_epochs

    def rungs(self, epochs):
        return (self.min_epochs,)

    def why_stopped(self, curve, others, complete, epochs):
        if len(curve) < self.min_epochs or not any(True for _ in complete):
            return ""
        return f"stopped early after epoch {len(curve)}: one complete trial is enough"
"""


def test_a_study_obeys_a_stopping_rule_of_another_package(tmp_path: Path) -> None:
    site = toys.install(
        tmp_path / "site", ENOUGH, {"cell_tune.stopping_rules": "enough = toy:Enough"}
    )
    toys.write_study(tmp_path)
    study = {
        **toys.STUDY,
        "fixed": {**toys.STUDY["fixed"], "optim.epochs": 3},
        "stop_early": {"rule": "enough", "min_epochs": 2},
    }
    (tmp_path / "tiny.json").write_text(json.dumps(study))
    command = ["-m", "tune.search", "--space", "tiny.json", "--parallel", "1"]
    done = run_python(tmp_path, site, *command, "--gpus-per-trial", "0")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "results/tiny/trials.csv").read_text().splitlines()))
    assert [(row["state"], row["epochs"]) for row in rows] == [("COMPLETE", "3"), ("PRUNED", "2")]
    assert rows[1]["reason"] == "stopped early after epoch 2: one complete trial is enough"
