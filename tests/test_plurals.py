"""A count agrees with its noun, read from the sources: `1 trials` is never printed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    str(path.relative_to(ROOT)): path
    for package in ("core", "tune")
    for path in sorted((ROOT / package).rglob("*.py"))
}
NOUNS = (
    "annotation batch cell class core cycle detection epoch file fold GPU group hold-out image instance"
    " member model object polygon process processor repeat row run seed setting step tile"
    " training trial variant worker"
)
OTHERWISE = "(?:of|and|with|without|beside|list|more|go|a|an|the|on|in|to|names)"
"""Words after which the noun is no longer that of the count."""
PLURAL = re.compile(
    rf" ?(?:(?!{OTHERWISE}\b)[a-z]+ )?(?:{'|'.join(noun + ('es' if noun[-1] in 'sh' else 's') for noun in NOUNS.split())})\b(?!/)"
)
"""The text after a count that is not one, perhaps with a word between."""


def with_fixed_plural(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each count in an f-string that a plural follows whatever the count.

    A constant in capital letters is known to be more than one. `one if n == 1 else f"{n} ..."` asks
    first, and an assertion speaks to developers.
    """
    guarded = {
        inside
        for node in ast.walk(tree)
        if isinstance(node, ast.IfExp | ast.Assert)
        for inside in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr) or node in guarded:
            continue
        for value, after in zip(node.values, node.values[1:], strict=False):
            if (
                isinstance(value, ast.FormattedValue)
                and isinstance(after, ast.Constant)
                and PLURAL.match(str(after.value))
                and not ast.unparse(value.value).rpartition(".")[2].isupper()
            ):
                yield node.lineno, f"{{{ast.unparse(value.value)}}}{after.value}"


@pytest.mark.parametrize("name", FILES)
def test_a_plural_does_not_follow_a_count_that_may_be_one(name: str) -> None:
    found = [
        text
        for _, text in with_fixed_plural(ast.parse(FILES[name].read_text()))
        if (name, text.partition("}")[0] + "}") not in SEVERAL
    ]
    assert found == [], "core.text.many makes a count and its noun agree"


SEVERAL: dict[tuple[str, str], str] = {
    ("core/data/coco.py", "{item['id']}"): "an id that repeats one",
    ("core/data/coco.py", "{name}"): "a name that repeats one",
    ("tune/report/figures/stopped.py", "{share}"): "a fraction in words",
    ("tune/report/sentences.py", "{count}"): "repeats of several seeds",
    ("tune/report/sentences.py", "{len(evidence.rows)}"): "a best trial and others like it",
    ("tune/retrain/ensemble.py", "{len(plan.members)}"): "a model alone is no ensemble",
}
"""Counts that are never one, and why; and other words in the place of a count."""


def test_the_reader_of_sources_sees_what_it_looks_for() -> None:
    source = 'a = f"{n} trials"; b = f"{len(x)} finished trials and {MOST} rows"; c = f"{n} trial"'
    assert [text for _, text in with_fixed_plural(ast.parse(source))] == [
        "{n} trials",
        "{len(x)} finished trials and ",
    ]
    asked = 'a = "one trial" if n == 1 else f"{n} trials"'
    assert list(with_fixed_plural(ast.parse(asked))) == []
