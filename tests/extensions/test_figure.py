"""A figure of another package stands in the report of a study."""

from pathlib import Path

from core.data import synthetic
from tests import toys
from tests.extensions.tiny_study import search

SPEED = """
from tune.report.svg import Drawing


def speed(findings):
    trials = [trial.record for trial in findings.trials]
    if not trials:
        return None

    def draw(canvas, wide):
        canvas.subplots().plot([one.id for one in trials], [one.seconds for one in trials], "o")

    caption = f"Seconds of {len(trials)} trials. They have no uncertainty."
    return Drawing("cost", "Time", caption, lambda wide: 200, draw)


def never(findings):
    return None
"""


def test_a_figure_from_outside_stands_in_its_section_of_the_report_and_one_that_does_not_apply_does_not(
    tmp_path: Path,
) -> None:
    points = {"cell_tune.figures": "speed = toy:speed\nnever = toy:never"}
    site = toys.install(tmp_path / "site", SPEED, points)
    synthetic.write_hw3(synthetic.make(images=6, side=64), tmp_path / "cells")
    search(tmp_path, site, "cells", {"optim.learning_rate": 1e-3})
    report = tmp_path / "results" / "toy" / "report"
    page = (report / "index.html").read_text()
    section = page[page.index('<h2 id="cost">') :]
    section = section[: section.index("</section>")]
    assert 'id="figure-speed"' in section
    assert "Time.</strong> Seconds of 1 trials. They have no uncertainty." in section
    assert (report / "figures" / "speed.svg").exists()
    assert "never" not in page
