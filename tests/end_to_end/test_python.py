"""The Python interface as README shows it: its example runs as it stands there."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from core.data import synthetic
from tests.end_to_end.test_retrain_command import HELD_BACK, SPACE, TRAINED_ON
from tune import read_study

# The fixture searches and retrains. The command lines call the same functions in shorter tests.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().partition("## From Python\n")[2].partition("\n## ")[0]
EXAMPLE = textwrap.dedent("".join(re.findall(r"(?:^    .*\n|^\n(?=    ))+", SECTION, re.M)))


def printed(folder: Path) -> list[str]:
    """What README's example prints when it runs in a folder."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", EXAMPLE],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which README's example ran on a space file of its own, and what it
    printed.
    """
    folder = tmp_path_factory.mktemp("program")
    synthetic.write_hw3(TRAINED_ON, folder / "cells", test=HELD_BACK)
    (folder / "search_spaces").mkdir()
    space = SPACE.replace("study: tiny", "study: demo").replace("trials: 1", "trials: 9")
    (folder / "search_spaces/demo.yaml").write_text(space)
    return folder, printed(folder)


def test_a_program_searches_reports_and_retrains(ran: tuple[Path, list[str]]) -> None:
    folder, lines = ran
    assert lines[0].startswith("True ")
    assert Path(lines[-2]) == Path("results/demo/report/index.html")
    assert (folder / lines[-2]).is_file()
    assert float(lines[-1]) > 0
    assert (folder / "results/demo/best/model.safetensors").is_file()
    assert len(lines) == 1 + 3 + 2, "nothing is printed but what the example prints"


def test_a_study_is_read_as_its_table_has_it_and_nothing_is_written(
    ran: tuple[Path, list[str]],
) -> None:
    folder, _ = ran

    def files() -> dict[Path, int]:
        """Each file with the time it was written last; sqlite makes its -wal and -shm to read."""
        return {
            path: path.stat().st_mtime_ns
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith("study.db-")
        }

    before = files()
    study = read_study("demo", folder / "results")
    table = pd.read_csv(folder / "results/demo/trials.csv", keep_default_na=False)
    assert study.finished
    assert study.trials.astype(str).equals(table.astype(str))
    assert len(study.trials) == 2
    assert list(study.confirm.columns) == list(table.columns)
    assert study.confirm.empty
    assert study.winner is None
    assert study.best is not None
    assert study.best.ap50 == study.trials["ap50"].max()
    assert files() == before
