"""Tables of parts, to which an installed package adds its own."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from core.errors import ExtensionError
from core.extensions import NameIn, Parts
from tests import toys

GROUP = "cell_tune.test_parts"
OURS = {"sqrt": "math:sqrt", "floor": "math:floor"}


def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, point: str, source: str = "ONE = 1"
) -> Parts[object]:
    monkeypatch.syspath_prepend(toys.install(folder, source, {GROUP: point}, name="toy_part"))
    return Parts("part", GROUP, OURS)


def test_a_part_is_imported_from_where_the_table_says() -> None:
    assert Parts[object]("part", GROUP, OURS)["sqrt"].__name__ == "sqrt"  # type: ignore[attr-defined]


def test_the_names_cost_no_import() -> None:
    assert list(Parts[object]("part", GROUP, {"absent": "no_such_module:part"})) == ["absent"]


def test_an_installed_package_adds_a_part_after_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = installed(tmp_path / "site", monkeypatch, "added = toy_part:ONE")
    assert list(table) == ["sqrt", "floor", "added"]
    assert table["added"] == 1


def test_a_name_that_is_taken_is_refused_with_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = installed(tmp_path / "site", monkeypatch, "sqrt = toy_part:ONE")
    with pytest.raises(
        ExtensionError, match=r"two parts are the part 'sqrt': math:sqrt and toy_pa"
    ):
        list(table)


def test_a_part_that_cannot_be_imported_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = installed(tmp_path / "site", monkeypatch, "bad = toy_part:TWO", "ONE = 1")
    with pytest.raises(
        ExtensionError, match=r"the part 'bad' cannot be imported from toy_part:TWO"
    ):
        table["bad"]


def test_an_unknown_name_is_a_missing_key() -> None:
    with pytest.raises(KeyError):
        Parts[object]("part", GROUP, OURS)["nothing"]


def test_a_setting_takes_the_names_of_a_table_and_no_other() -> None:
    class Settings(BaseModel):
        part: Annotated[str, NameIn(OURS)] = "sqrt"

    assert Settings(part="floor").part == "floor"
    with pytest.raises(ValidationError, match="Input should be 'sqrt' or 'floor'"):
        Settings(part="ceil")
    assert Settings.model_json_schema()["properties"]["part"]["enum"] == ["sqrt", "floor"]
