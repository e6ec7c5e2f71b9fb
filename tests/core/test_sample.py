"""The axis letters of core are those of the legend."""

import ast
import re
from pathlib import Path

from core import sample

CORE = Path(sample.__file__).parent


def test_every_axis_letter_is_in_the_legend_once_and_in_use() -> None:
    legend = re.findall(r"^    ([A-Z])   ", sample.__doc__ or "", re.MULTILINE)
    used: set[str] = set()
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", None) or getattr(node, "arg", None)
            if isinstance(name, str) and (
                match := re.fullmatch(r"[a-z][a-z0-9_]*_([0-9a-z]*[A-Z][0-9a-zA-Z]*)", name)
            ):
                used |= {letter for letter in match[1] if letter.isupper()}
    assert len(set(legend)) == len(legend)
    assert used == set(legend)
