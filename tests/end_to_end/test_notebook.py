"""The notebook of docs/: its cells run in their order, and each shows what its text promises."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/notebook.ipynb"
CONTENT: dict[str, Any] = json.loads(NOTEBOOK.read_text())
CELLS = ["".join(cell["source"]) for cell in CONTENT["cells"] if cell["cell_type"] == "code"]
TEXT = "\n".join(
    "".join(cell["source"]) for cell in CONTENT["cells"] if cell["cell_type"] == "markdown"
)


def ran(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last line, which a notebook shows."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


@pytest.mark.study
@pytest.mark.timeout(900)
def test_every_cell_runs_and_shows_what_a_notebook_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = [ran(source, names) for source in CELLS]
    pictures = [one for one in shown if isinstance(one, Image.Image)]
    assert len(pictures) == 3
    assert len({picture.tobytes() for picture in pictures}) == 3
    trials, cells = (one for one in shown if isinstance(one, pd.DataFrame))
    assert trials["state"].tolist() == ["COMPLETE"] * 3
    assert (cells["area_um2"] > 0).all()
    (figure,) = (one._repr_svg_() for one in shown if hasattr(one, "_repr_svg_"))
    assert figure.lstrip().startswith("<")
    assert "svg" in figure
    said = capsys.readouterr().out
    assert "finished: True" in said
    assert float(re.findall(r"AP50 of ([\d.]+)", said)[0]) > 0
    assert (tmp_path / "notebook/check/index.html").is_file()
    assert (tmp_path / "notebook/results/notebook/best/submission.zip").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"notebook"}, "all it writes is in there"


def test_the_stored_notebook_is_valid_small_and_holds_no_result_of_a_machine() -> None:
    assert (CONTENT["nbformat"], CONTENT["nbformat_minor"]) >= (4, 5)
    assert NOTEBOOK.stat().st_size < 300_000
    for cell in CONTENT["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert len({cell["id"] for cell in CONTENT["cells"]}) == len(CONTENT["cells"])


def test_readme_and_tutorial_lead_to_the_notebook_and_its_links_lead_somewhere() -> None:
    for page in ("README.md", "docs/tutorial.md"):
        assert "notebook.ipynb)" in (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT)
    assert len(links) >= 4
    assert all((NOTEBOOK.parent / link).exists() for link in links)
