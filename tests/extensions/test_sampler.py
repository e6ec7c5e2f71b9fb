"""A sampler of another package chooses the settings of a study's trials."""

import csv
import json
from pathlib import Path

import pytest

from tests import toys
from tests.extensions.tiny_study import run_python

HALVING = """
class Halving:
    '''Proposes half of the rate that the trial before had.'''

    exhausts = False

    def propose(self, space, given, tried, seed):
        (rate,) = space.parameters
        return {rate.name: rate.domain.high / 2 ** len(tried)}
"""


def test_a_study_asks_a_sampler_of_another_package(tmp_path: Path) -> None:
    site = toys.install(tmp_path / "site", HALVING, {"cell_tune.samplers": "halving = toy:Halving"})
    toys.write_study(tmp_path)
    study = {**toys.STUDY, "search": {"sampler": "halving", "trials": 2}}
    (tmp_path / "tiny.json").write_text(json.dumps(study))
    command = ["-m", "tune.search", "--space", "tiny.json", "--gpus-per-trial", "0"]
    done = run_python(tmp_path, site, *command)
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader((tmp_path / "results/tiny/trials.csv").read_text().splitlines())
    rates = [float(row["optim.learning_rate"]) for row in rows]
    assert rates == pytest.approx([1e-3, 5e-4])

    without = run_python(tmp_path, tmp_path / "empty", *command)
    assert without.returncode == 2
    assert "sampler must be 'gp', 'tpe', 'random' or 'grid', and is 'halving'" in without.stderr
