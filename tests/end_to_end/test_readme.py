"""README's lines of Python run, and it names every table that takes parts of other packages.

`test_pages.py` checks its commands, settings, paths and links, as those of the pages in docs/.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import core

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_table_that_takes_parts_of_other_packages_is_named() -> None:
    """The groups of entry points in the source are those that README lists."""
    groups: set[str] = set()
    for package in ("core", "tune"):
        for path in (ROOT / package).rglob("*.py"):
            groups |= set(re.findall(r'"cell_tune\.(\w+)",', path.read_text()))
    text = " ".join(README.split())
    sentence = text.partition("entry point of the group `cell_tune.")[2].partition(" ([core/")[0]
    assert set(re.findall(r"(\w+)`", sentence)) == groups


@pytest.mark.long
def test_one_trial_is_trained_by_the_lines_that_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = README.partition("## One trial from Python\n")[2].partition("\n`trial.save")[0]
    source = textwrap.dedent(shown)
    assert len([line for line in source.splitlines() if line]) == 4
    names: dict[str, Any] = {}
    exec(source, names)
    assert 0 <= float(capsys.readouterr().out) <= 1
    trial = names["trial"]
    assert trial.epoch == 1
    assert len(trial.trained_model().predict(trial.data.samples[0].image)) >= 0


def test_the_package_of_one_trial_is_imported_without_what_it_trains_with() -> None:
    source = "import sys, core; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="module 'core' has no attribute 'Trail'"):
        core.Trail  # noqa: B018
