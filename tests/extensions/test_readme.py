"""README's table says where a part is added, and nothing else knows the part: counted in the source."""

import ast
import re
from collections.abc import Mapping
from typing import Any

import pytest

from core.augmentations import AUGMENTATIONS
from core.backbones import BACKBONES
from core.data.readers import READERS
from core.extensions import Parts
from tests.test_architecture import IMPORTS, ROOT
from tune.report.figures.figure import FIGURES
from tune.samplers.sampler import SAMPLERS
from tune.stopping.rule import STOPPING_RULES
from tune.tracking.tracker import TRACKERS

# The file of each table, where our parts are, and the words of README's table.
TABLES: Mapping[str, tuple[Parts[Any], str, str]] = {
    "core/backbones.py": (BACKBONES, "core/backbones.py", "a backbone"),
    "core/augmentations.py": (AUGMENTATIONS, "core/augment/", "an augmentation"),
    "core/data/readers.py": (READERS, "core/data/", "a data format"),
    "tune/samplers/sampler.py": (SAMPLERS, "tune/samplers/", "a sampler"),
    "tune/stopping/rule.py": (STOPPING_RULES, "tune/stopping/", "a rule of early stopping"),
    "tune/tracking/tracker.py": (TRACKERS, "tune/tracking/", "a tracker"),
    "tune/report/figures/figure.py": (FIGURES, "tune/report/figures/", "a figure"),
}


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def files_that_know(table: str, part: str) -> set[str]:
    """The modules that name a part of a table: its own, the table's, and those that import it."""
    module = TABLES[table][0].places[part].partition(":")[0]
    importers = {name for name, imported in IMPORTS.items() if module in imported}
    return {module, module_of(table)} | importers


@pytest.mark.parametrize("table", TABLES)
def test_readme_names_the_folder_of_the_parts_and_the_table(table: str) -> None:
    _, folder, words = TABLES[table]
    (row,) = re.findall(rf"^\| {words}\b.*\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = re.findall(r"`([\w/.]+)`", row)
    assert named[0] == folder
    assert table in (named[-1], folder + named[-1])


def named_in_files() -> list[tuple[str, str]]:
    """Each name with its file, of the rows that say "`freeze` and `losses` in `core/c.py`"."""
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.startswith("|")]
    found = re.findall(r"((?:`\w+`(?: and )?)+) in `([\w/]+\.py)`", "\n".join(rows))
    return [(name, file) for names, file in found for name in re.findall(r"`(\w+)`", names)]


@pytest.mark.parametrize(("name", "file"), named_in_files())
def test_what_readme_names_in_a_file_is_defined_there(name: str, file: str) -> None:
    defined = {
        node.id if isinstance(node, ast.Name) else node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }
    assert name in defined


@pytest.mark.parametrize(
    ("table", "part"), [(table, part) for table, (parts, _, _) in TABLES.items() for part in parts]
)
def test_a_part_is_one_file_and_one_line_in_a_table(table: str, part: str) -> None:
    parts, folder, _ = TABLES[table]
    module, _, _ = parts.places[part].partition(":")
    assert (module.replace(".", "/") + ".py").startswith(folder)
    of_other_parts = {place.partition(":")[0] for place in parts.places.values()}
    if module != module_of(table):
        others = files_that_know(table, part) - {module_of(table)} - of_other_parts
        # The one reads lists of test images, in any format; the other writes COCO.
        assert others <= {"core.data.listing", "core.data.conversion"}
    lines = (ROOT / table).read_text().splitlines()
    assert sum(f'"{part}": ' in line for line in lines) == 1
