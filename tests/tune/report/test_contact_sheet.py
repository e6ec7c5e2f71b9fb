"""Laws of the contact sheet beside a report: every image that was searched on, and no other."""

from dataclasses import replace
from pathlib import Path

from benchmarks.simulated_study import SMALL, build
from core.data import load_data
from tune.report import page as report
from tune.report.contact_sheet import FILE
from tune.report.content import content_of
from tune.study.reading import read_study

ONE = {
    **SMALL,
    "study": "one",
    "fixed": {"model.weights": "none", "optim.epochs": 1},
    "variants": {"Plain": {}},
    "seeds": 1,
}


def test_the_sheet_shows_every_image_once_it_is_known_which_were_searched_on(
    tmp_path: Path,
) -> None:
    folder = build(tmp_path, ONE, lambda _: 0.3)
    study, data = read_study("one", tmp_path), load_data("synthetic")
    sheet = folder.path / "report" / FILE
    link = f'href="{FILE}"'

    page = report.write_report(content_of(study), {})
    assert (sheet.exists(), link in page.read_text()) == (False, False)

    another = replace(data, samples=data.samples[1:], fingerprint="another")
    page = report.write_report(content_of(study, another), {})
    assert (sheet.exists(), link in page.read_text()) == (False, False)

    page = report.write_report(content_of(study, data), {})
    assert link in page.read_text()
    shown = sheet.read_text()
    assert all(f"<b>{sample.name}</b>" in shown for sample in data.samples)
    assert "The next command" not in shown
    assert "core.check" not in shown.partition("<body>")[2]
