"""Who may import whom: read from the source, and tried with what core must not need taken away."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The packages that speak to each of the three libraries.
SPEAKERS = {
    "ray": {"tune.engine"},
    "optuna": {"tune.ledger", "tune.samplers"},
    "mlflow": {"tune.tracking"},
}

# From what knows nobody up to the command lines. A package uses those of the rows above its own,
# and what stands in its own folder; packages of one row do not know each other.
ROWS = [
    "core.errors core.text core.values core.faults core.randomness core.interrupts core.bounded_yaml"
    " core.programs core.sample core.svg",
    "core.files core.console core.extensions core.helpers core.html",
    "core.augmentations core.backbones core.command core.detectors",
    "core.config",
    "core.dependence core.device",
    "core.labels",
    "core.data core.network core.metric",
    "core.fitting",
    "core.augment core.prediction",
    "core.doctor core.training",
    "core.check core.convert core.predict",
    "tune.redaction",
    "tune.durations tune.processes tune.stopping tune.statistics tune.store",
    "tune.database tune.space",
    "tune.samplers",
    "tune.request",
    "tune.ledger",
    "tune.tables tune.tracking tune.engine",
    "tune.study",
    "tune.retrain",
    "tune.report",
    "tune.announcements",
    "tune.api",
    "tune tune.search tune.retrain_best tune.report.__main__ tune.status tune.weights",
]


class WithoutTypes(ast.NodeTransformer):
    """Leaves out what is imported for a type checker alone."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imports(path: Path, for_types: bool = True) -> set[str]:
    """Dotted names of all that a file imports, inside functions too; `from a import b` gives a.b
    if that is a file.
    """
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree if for_types else WithoutTypes().visit(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            assert node.module is not None
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in members if name in MODULES}
            # A package whose modules alone are taken is not itself used: `from core import masks`.
            found |= modules if modules == members else modules | {node.module}
    return found


def modules(package: str) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


MODULES = modules("core") | modules("tune")
IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def test_there_is_something_to_read() -> None:
    assert {"core.training.trial", "core.data.coco", "tune.ledger.ledger"} <= set(MODULES)
    assert "core.training.optim" in IMPORTS["core.training.trial"]
    assert "core.network.weights" in IMPORTS["core.training.trial"]


@pytest.mark.parametrize("library", ["ray", "optuna", "mlflow", "tune"])
def test_core_does_not_know_what_is_built_on_it(library: str) -> None:
    guilty = [
        name
        for name, imported in IMPORTS.items()
        if name.split(".")[0] == "core"
        and any(other.split(".")[0] == library for other in imported)
    ]
    assert guilty == []


def package(module: str) -> str:
    """`core.network` of `core.network.anchors`, and `core.config` of itself, as a command line is
    of its own.
    """
    return module if module.endswith(".__main__") else ".".join(module.split(".")[:2])


@pytest.mark.parametrize("library", sorted(SPEAKERS))
def test_each_library_is_spoken_to_in_its_own_place(library: str) -> None:
    speakers = {
        name
        for name, imported in IMPORTS.items()
        if any(other.split(".")[0] == library for other in imported)
    }
    assert {package(name) for name in speakers} == SPEAKERS[library]


def test_every_package_has_its_place() -> None:
    assert {one for row in ROWS for one in row.split()} == {package(name) for name in MODULES} - {
        "core"
    }


# The two packages themselves hand on names of all that is in them, and nothing inside takes those.
@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"core", "tune"}))
def test_imports_go_to_packages_further_down(name: str) -> None:
    row_of = {one: number for number, row in enumerate(ROWS) for one in row.split()}
    others = {package(other) for other in IMPORTS[name] & set(MODULES)} - {package(name)}
    assert {other for other in others if row_of[other] >= row_of[package(name)]} == set()


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in MODULES.values() if path.parent.parent != ROOT})
)
def test_every_package_names_its_files(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    named = {
        line.split()[0]
        for line in docstring.splitlines()
        if line.strip() and line.split()[0].endswith(".py")
    }
    assert named == {path.name for path in folder.glob("*.py")} - {"__init__.py"}


def test_no_two_modules_need_each_other() -> None:
    graph = {name: imported & set(MODULES) - {name} for name, imported in IMPORTS.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_a_worker_imports_neither_optuna_nor_mlflow() -> None:
    """Importing them takes seconds, and each worker is a process of its own."""
    needed, found = ["tune.engine.worker", "tune.study.trials"], set()
    while needed:
        name = needed.pop()
        if name not in found:
            found.add(name)
            parts = name.split(".")
            packages = {".".join(parts[:length]) for length in range(1, len(parts))}
            needed += (imports(MODULES[name], for_types=False) | packages) & set(MODULES)
    libraries = {
        other.split(".")[0] for name in found for other in imports(MODULES[name], for_types=False)
    }
    assert libraries & set(SPEAKERS) == {"ray"}


def test_only_the_trial_assembles_model_optimizer_and_batches() -> None:
    users = {
        name
        for name, imported in IMPORTS.items()
        if imported & {"core.training.optim", "core.training.loop"}
    }
    # The probe trains a trial with its largest images, and then for as long as it is told to.
    assert users <= {"core.training.trial", "core.training.loop", "core.training.probe"}


# Names that several modules define, because each is that module's own part of one interface.
EVERYWHERE = {
    "main": "a command line's function, which `python -m` calls",
    "build_parser": "a command line's options, which its help and the tests of README read",
    "READER": "a format's row in the table of readers",
}


def definitions(path: Path) -> set[str]:
    """Public names of the functions, classes and constants that a module defines."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {
                name.id
                for target in targets
                for name in ast.walk(target)
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
    return {name for name in found if not name.startswith("_")}


def test_a_public_name_is_defined_in_one_module() -> None:
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for name in definitions(path):
            homes.setdefault(name, []).append(module)
    assert {"Trial", "MOST_THREADS", "load_data"} <= homes.keys()
    shared = {name: modules for name, modules in homes.items() if len(modules) > 1}
    assert shared.keys() == EVERYWHERE.keys(), shared


@pytest.mark.parametrize(
    "name", [name for name, path in MODULES.items() if "__all__ = " in path.read_text()]
)
def test_all_that_a_module_offers_by_name_is_there(name: str) -> None:
    """`from core.data import *` would fail on a name that was given up."""
    module = importlib.import_module(name)
    assert [one for one in module.__all__ if not hasattr(module, one)] == []


def test_json_is_read_in_one_place() -> None:
    """There a key that stands twice is refused, and so is what is nested too deeply."""
    readers = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if ast.unparse(node) in {"json.loads", "json.load", "json.JSONDecoder"}
        or (isinstance(node, ast.ImportFrom) and node.module == "json")
    }
    assert readers == {"core.files"}


def test_numbers_are_written_in_one_place() -> None:
    """A number that is not whole gets its digits from `core.values`, whose functions name the kind
    of the value. The coordinates inside a figure are no values.
    """
    writers = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FormattedValue)
        and node.format_spec is not None
        and re.search("[efg%]'$", ast.unparse(node.format_spec))
    }
    assert writers == {"core.values", "core.svg"}


ALONE = """
import sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "optuna", "mlflow", "tune"):
            raise ModuleNotFoundError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())

from core.config import TrialConfig
from core.data import synthetic
from core.training.trial import Trial

config = TrialConfig.from_settings({
    "model.backbone": "resnet18", "model.weights": "none", "model.image_min_side": 64,
    "model.proposals_train": 32, "model.proposals_test": 32, "model.box_samples": 16,
    "optim.epochs": 1, "data.validation_fraction": 0.5, "predict.max_detections": 4,
})
trial = Trial(config, synthetic.make_cells(images=4, side=64), device="cpu", threads=1)
report = trial.run_epoch()
trial.save(Path(sys.argv[1]))
assert Trial(config, trial.data, device="cpu").load(Path(sys.argv[1]))
print(report.epoch, report.losses["loss"] > 0)
"""


def test_a_trial_runs_where_ray_optuna_and_mlflow_are_not_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "True"]
