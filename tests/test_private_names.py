"""torchvision, Optuna, Ray and MLflow are used by their public names: read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = {"torchvision", "optuna", "ray", "mlflow"}
FILES = {
    str(path.relative_to(ROOT)): path
    for package in ("core", "tune")
    for path in sorted((ROOT / package).rglob("*.py"))
}

# Public all the same. torch promises them no less than its other names: a tensor's count of writes,
# and addition to many tensors at once. The standard library documents `os._exit`, and `_replace` of a
# named tuple, whose underscore keeps it apart from the fields.
PUBLIC = {"_version", "_foreach_add_", "_foreach_mul_", "_exit", "_replace"}

ALLOWED = {
    # Ray has no public way to listen on loopback alone. This constant is Ray's own switch for it,
    # and a Ray without it starts as it is.
    "tune/engine/loopback.py": ["ray._private.ray_constants"],
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each dotted name that is imported from the libraries, and the name that it has in the
    file.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(one.name, one.asname or one.name.split(".")[0]) for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(f"{node.module}.{one.name}", one.asname or one.name) for one in node.names]
        else:
            continue
        yield from ((name, known_as) for name, known_as in names if name.split(".")[0] in LIBRARIES)


def own_names(tree: ast.AST) -> set[str]:
    """Functions, classes, parameters and attributes that the file itself defines."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def private_uses(source: str) -> list[str]:
    """Private names that are imported from the libraries, or that are attributes of what is not
    the file's own.
    """
    tree = ast.parse(source)
    found = [
        name for name, _ in imported(tree) if any(is_private(part) for part in name.split("."))
    ]
    own = own_names(tree) | PUBLIC
    found += [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own
    ]
    found += [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"getattr", "setattr", "hasattr", "delattr"}
        and isinstance(node.args[1], ast.Constant)
        and is_private(str(node.args[1].value))
    ]
    return found


def heirs(source: str) -> list[str]:
    """Classes that inherit from something of the libraries."""
    tree = ast.parse(source)
    known = {known_as for _, known_as in imported(tree)}
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).split("[")[0].split(".")[0] in known for base in node.bases)
    ]


@pytest.mark.parametrize("name", FILES)
def test_no_private_name_of_a_library_is_used(name: str) -> None:
    assert private_uses(FILES[name].read_text()) == ALLOWED.get(name, [])


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("core/")])
def test_core_inherits_from_no_class_of_a_library(name: str) -> None:
    """Ray is different: it is extended by inheriting from its classes, as its manual says."""
    assert heirs(FILES[name].read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from torchvision.models.detection._utils import Matcher",
        "from torchvision.models import _utils",
        "import optuna._imports",
        "from torchvision import models\nmodels._api",
        "def f(network):\n    return network._get_top_n_idx(1)",
        "class A(B):\n    def f(self):\n        return self._inherited",
        "def f(trial):\n    return getattr(trial, '_trial_id')",
    ],
)
def test_private_names_are_found_wherever_they_are(source: str) -> None:
    assert private_uses(source)


@pytest.mark.parametrize(
    "source",
    [
        "from torchvision.ops import FrozenBatchNorm2d\nclass A(FrozenBatchNorm2d): ...",
        "import torchvision\nclass A(torchvision.ops.MultiScaleRoIAlign): ...",
    ],
)
def test_inheritance_is_found_whatever_the_import_looks_like(source: str) -> None:
    assert heirs(source) == ["A"]


def test_what_is_public_or_the_files_own_is_not_found() -> None:
    source = (
        "from torchvision.ops import nms\nclass A:\n    def __init__(self):\n        self._kept ="
        " nms\n        a._kept"
    )
    assert private_uses(source) == heirs(source) == []
