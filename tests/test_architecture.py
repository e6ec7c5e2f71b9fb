"""Who may import whom: read from the source, and tried with what core must not need taken away."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What speaks to each of the three libraries.
SPEAKERS = {
    "ray": {"tune.executor", "tune.bridge", "tune.loopback"},
    "optuna": {"tune.ledger", "tune.sampler"},
    "mlflow": {"tune.tracking", "tune.registered_model"},
}

# From the command lines down to what knows nobody. A module imports modules of lower rows only.
ROWS = [
    {"search", "retrain_best", "schema"},
    {"report", "retrain"},
    {"study", "retrain_plan", "rebuild"},
    {"plan", "progress"},
    {"executor"},
    {"figures", "examples"},
    {"curves"},
    {"marks"},
    {"findings"},
    {"sentences"},
    {"report_tables"},
    {"evidence"},
    {"rows"},
    {"bridge", "packing", "tracking", "registered_model", "tables", "confirmation", "trial_scores"},
    {"learned"},
    {"ledger", "space_file"},
    {"sampler"},
    {"request", "space_sections", "mps"},
    {"database"},
    {"space", "values", "stopping", "folder", "redaction", "loopback", "choice", "effects", "svg", "confounds"},
    {"certainty", "cgroups", "processes", "scratch"},
    {"reweighted"},
]


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, inside functions too; `from a import b` gives a.b if that is a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
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
    assert {"core.trainable", "core.data.coco", "tune.ledger"} <= set(MODULES)
    assert "core.optim" in IMPORTS["core.trainable"]
    assert "core.weights" in IMPORTS["core.trainable"]


@pytest.mark.parametrize("library", ["ray", "optuna", "mlflow", "tune"])
def test_core_does_not_know_what_is_built_on_it(library: str) -> None:
    guilty = [
        name
        for name, imported in IMPORTS.items()
        if name.split(".")[0] == "core" and any(other.split(".")[0] == library for other in imported)
    ]
    assert guilty == []


@pytest.mark.parametrize("library", sorted(SPEAKERS))
def test_each_library_is_spoken_to_in_its_own_place(library: str) -> None:
    speakers = {name for name, imported in IMPORTS.items() if any(other.split(".")[0] == library for other in imported)}
    assert speakers == SPEAKERS[library]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("tune.")))
def test_the_arrows_of_tune_run_one_way(name: str) -> None:
    row_of = {f"tune.{member}": row for row, members in enumerate(ROWS) for member in members}
    assert name in row_of, f"{name} has no place among ROWS; give it one, and say so in docs/decisions.md"
    upward = {other for other in IMPORTS[name] & set(row_of) if row_of[other] <= row_of[name]}
    assert upward == set()


def test_no_two_modules_need_each_other() -> None:
    graph = {name: imported & set(MODULES) - {name} for name, imported in IMPORTS.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_only_the_trial_assembles_model_optimizer_and_batches() -> None:
    users = {name for name, imported in IMPORTS.items() if imported & {"core.optim", "core.train"}}
    # The probe takes the largest images of a trial's batches and trains it with them.
    assert users <= {"core.trainable", "core.train", "core.probe"}


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
from core.trainable import Trial

config = TrialConfig.from_settings({
    "model.backbone": "resnet18", "model.weights": "none", "model.image_min_side": 64, "model.proposals_train": 32,
    "model.proposals_test": 32, "model.box_samples": 16, "optim.epochs": 1, "data.validation_fraction": 0.5,
})
trial = Trial(config, synthetic.make(images=4, side=64), device="cpu", threads=1)
report = trial.run_epoch()
trial.save(Path(sys.argv[1]))
assert Trial(config, trial.data, device="cpu").load(Path(sys.argv[1]))
print(report.epoch, report.losses["loss"] > 0)
"""


def test_a_trial_runs_where_ray_optuna_and_mlflow_are_not_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "True"]
