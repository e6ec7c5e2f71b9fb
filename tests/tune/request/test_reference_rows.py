"""The rows of the reference report resolve to the settings that are stored beside this test.

They are what a study is compared with for years, so a change of a default, of a space file or of
what `auto` means must not move them unseen. A setting that is new must have the effect of before.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.config import SETTINGS, Value
from tune.request.file import load_request

STORED: Mapping[str, Mapping[str, Mapping[str, Value]]] = json.loads(
    (Path(__file__).parent / "reference_rows.json").read_text()
)
"""By file and row: the settings that differ from DEFAULTS."""
DEFAULTS: Mapping[str, Value] = STORED["defaults"]["all"]
"""All settings that there were when the rows were stored, with their defaults."""


def rows(name: str) -> dict[str, Mapping[str, Value]]:
    """The settings of every row of a table at its first repeat."""
    space = load_request(Path("search_spaces") / f"{name}.yaml").space
    return {row.name: row.config.settings() for row in reversed(space.rows())}


@pytest.mark.parametrize("name", ["report_tables", "report_as_run"])
def test_the_rows_resolve_to_the_same_settings_as_ever(name: str) -> None:
    found = rows(name)
    assert found.keys() == STORED[name].keys()
    for row, settings in found.items():
        # What was added since is at its default in these rows.
        assert settings == {**SETTINGS, **DEFAULTS, **STORED[name][row]}, row


def test_the_defaults_are_the_same_as_ever() -> None:
    assert {name: SETTINGS[name] for name in DEFAULTS} == DEFAULTS
