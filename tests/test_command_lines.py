"""Laws of all command lines: what is asked of the arguments alone is answered before the libraries
that do the work are imported.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "ray", "mlflow", "optuna", "albumentations", "scipy", "pandas"}
AFTERWARDS = """
import json, runpy, sys
sys.argv = ["it", *sys.argv[2:]]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("MODULES", json.dumps([end.code or 0, sorted(sys.modules)]))
"""


def ended(folder: Path, module: str, *arguments: str) -> tuple[int, set[str], str]:
    """Exit status of a command, the heavy libraries it imported, and what it printed."""
    code = AFTERWARDS.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", code, "it", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    printed, _, told = done.stdout.partition("MODULES")
    assert told, done.stderr
    status, modules = json.loads(told)
    return status, HEAVY & set(modules), printed + done.stderr


COMMANDS = [
    "core.check",
    "core.convert",
    "core.predict",
    "tune.search",
    "tune.retrain_best",
    "tune.report",
    "tune.status",
    "tune.weights",
]


@pytest.mark.parametrize("module", COMMANDS)
def test_help_imports_none_of_the_libraries_that_do_the_work(tmp_path: Path, module: str) -> None:
    status, heavy, said = ended(tmp_path, module, "--help")
    assert (status, heavy) == (0, set())
    assert said.startswith(f"usage: python -m {module}")


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        *((module, ["--no-such-option"], "usage:") for module in COMMANDS),
        ("tune.search", [], "--space FILE is needed"),
        ("tune.search", ["--space", "none.yaml"], "none.yaml: must be a space file"),
        ("tune.search", ["--space", "wrong.yaml"], "Did you mean 'optim.learning_rate'"),
        ("tune.search", ["--study", "none"], "'none' is not a study in results"),
        ("tune.search", ["--parallel", "0"], "--parallel must be at least 1, and is 0"),
        ("tune.search", ["--time-budget", "soon"], "--time-budget must be a number"),
        ("tune.search", ["--rebuild-tracking"], "--rebuild-tracking needs --study NAME"),
        ("tune.retrain_best", ["--on", "some"], "usage:"),
        ("tune.status", ["--watch"], "--watch needs --study NAME"),
        ("tune.status", ["--drain"], "--drain needs --study NAME"),
        ("tune.status", ["--study", "a", "--stop", "1", "--requeue", "1"], "not allowed with"),
        ("tune.weights", ["none.yaml"], "none.yaml: must be a space file"),
        ("core.check", ["cells", "--set", "data.skipbad=true"], "Did you mean 'data.skip_bad'"),
        ("core.convert", [".", "."], "the folder to write must be empty"),
    ],
)
def test_a_wrong_request_is_answered_before_them(
    tmp_path: Path, module: str, arguments: list[str], told: str
) -> None:
    (tmp_path / "wrong.yaml").write_text(
        "study: a\ndata: synthetic\nspace: {optim.learnig_rate: [1e-4, 1e-3]}\n"
    )
    status, heavy, said = ended(tmp_path, module, *arguments)
    assert (status, heavy) == (2, set())
    assert told in said


@pytest.mark.parametrize("module", COMMANDS)
def test_help_ends_with_examples_that_the_command_takes(module: str) -> None:
    name = f"{module}.__main__" if module == "tune.report" else module
    parser = importlib.import_module(name).build_parser()
    begun, _, examples = parser.format_help().partition("examples:\n")
    assert begun.startswith(f"usage: python -m {module}")
    lines = re.findall(rf"^  python -m {re.escape(module)}(.*)", examples.replace("\\\n", ""), re.M)
    assert lines
    for line in lines:
        parser.parse_args(shlex.split(line))


def test_importing_the_package_costs_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, tune; print(*sys.modules)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {*HEAVY, "numpy", "pydantic", "rich"} & set(done.stdout.split())
