"""The README is checked against what is there: its file tree, its commands, its settings."""

import re
import shlex
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import core
from core.config import SETTINGS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.strip() for line in README.splitlines() if line.startswith("    .venv/bin/python -m ")
]


PARSERS = {
    name: import_module(name).build_parser()
    for name in ("core.check", "core.predict", "tune.retrain_best", "tune.search")
}
NO_SETTINGS = {"model.safetensors", "model.predict"}


def test_every_package_has_its_line_in_the_file_tree_and_every_line_its_package() -> None:
    listed = set()
    folder = ""
    for name in re.findall(
        r"^    ( {0,2}[\w.]+[/.]\S*) ", README.partition("## Files")[2], re.MULTILINE
    ):
        if not name.startswith(" "):
            folder = name
        elif folder in ("core/", "tune/"):
            listed.add(folder + name.strip())
    there = {
        f"{package}/{path.name}{'/' if path.is_dir() else ''}"
        for package in ("core", "tune")
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
    }
    assert listed == there


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:core|tune|search_spaces|docs)/[\w/.]+)`", README)))
)
def test_every_path_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_python_command_names_a_module_and_options_that_exist(command: str) -> None:
    _, _, module, *arguments = shlex.split(command, comments=True)
    place = ROOT / module.replace(".", "/")
    assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
    if module in PARSERS:
        parsed = PARSERS[module].parse_args(arguments)
        if module == "tune.search":
            assert (ROOT / parsed.space).is_file()


def test_every_setting_that_is_named_exists() -> None:
    named = set(
        re.findall(r"\b((?:data|augment|model|optim|predict|metric)\.[a-z_0-9]+)\b", README)
    )
    assert {
        name for name in named - NO_SETTINGS if not name.endswith((".py", ".tif"))
    } <= SETTINGS.keys()


def test_every_table_that_takes_parts_of_other_packages_is_named() -> None:
    """The groups of entry points in the source are those that README lists."""
    groups: set[str] = set()
    for package in ("core", "tune"):
        for path in (ROOT / package).rglob("*.py"):
            groups |= set(re.findall(r'"cell_tune\.(\w+)",', path.read_text()))
    text = " ".join(README.split())
    sentence = text.partition("entry point of the group `cell_tune.")[2].partition(" ([core/")[0]
    assert set(re.findall(r"(\w+)`", sentence)) == groups


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"make ([a-z-]+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


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
