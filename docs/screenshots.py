"""Pictures of all pages that show a study: `python -m docs.screenshots STUDY FOLDER`.

It needs Chromium, and a study in `results/` (or `--results DIR`) with its report. A long page is
cut into pictures one below the other, `-1`, `-2` and so on. FOLDER then holds

    report-1280-light-1.png ...  the report, at the widths of a desk and of a phone, light and dark
    doctor-1280-light-1.png ...  the doctor's page of the study's images, in the same way
    live.png, live-narrow.png    the table of a running search, drawn from the study's own trials
    mlflow-runs.png, -charts.png, -compare.png, -run.png, -run-files.png,
    mlflow-parent.png, -parent-files.png
    optuna-dashboard.png

`--only report doctor` takes some of them.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow  # noqa: TID251  # to find the pages of runs
from rich.console import Console

from core.values import as_duration
from tests.browser import Browser, Tab, dashboard, mlflow_server, opened
from tune.ledger.records import State
from tune.report.contact_sheet import FILE
from tune.study.plan import tracking_of
from tune.study.progress import Progress
from tune.study.reading import Study, read_study
from tune.study.scores import interval_so_far
from tune.tracking.mlflow_view import UI
from tune.tracking.tracker import TrackedStudy

DESK, PHONE = 1280, 390
HEIGHTS = {DESK: 1400, PHONE: 1700}
"""Height of a picture in CSS pixels, by the width of the window."""
TALL = 2400
"""Height of the window in CSS pixels for pages of MLflow that scroll inside the window."""
LONG = ("compare", "run", "parent")
"""The pages of MLflow that are taken in such a window."""
SETTLING_SECONDS = 4
"""Seconds after the first sign of a page of MLflow or Optuna, which draw in several steps."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the pictures of one study."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.screenshots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--only", nargs="+", choices=PAGES, default=list(PAGES))
    asked = parser.parse_args(arguments)
    study = read_study(asked.study, asked.results)
    asked.folder.mkdir(parents=True, exist_ok=True)
    with opened() as browser:
        for name in asked.only:
            PAGES[name](browser, study, asked.folder)


def take_report(browser: Browser, study: Study, folder: Path) -> None:
    """Take the report's page at two widths, light and dark."""
    _take_views(browser, study.folder.path / "report" / "index.html", folder / "report")


def take_doctor(browser: Browser, study: Study, folder: Path) -> None:
    """Take the doctor's page of the study's images at two widths, light and dark."""
    _take_views(browser, study.folder.path / "report" / FILE, folder / "doctor")


def _take_views(browser: Browser, page: Path, path: Path) -> None:
    for width, height in HEIGHTS.items():
        for scheme in ("light", "dark"):
            tab = Tab(browser, page.resolve(), width, scheme)
            tab.screenshots(path.with_name(f"{path.name}-{width}-{scheme}.png"), height)


def take_live(browser: Browser, study: Study, folder: Path) -> None:
    """Take the live table as it would look with the study's last two trials half done."""
    records = list(study.records)
    records[-2:] = [
        replace(one, state=State.RUNNING, epochs=one.epochs[: max(1, len(one.epochs) - 1 - place)])
        for place, one in enumerate(records[-2:])
    ]
    for name, width in (("live", 120), ("live-narrow", 80)):
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            console = Console(record=True, width=width, force_terminal=True, file=nowhere)
            progress = Progress(
                len(records) + 1,
                console,
                left=lambda _: f"about {as_duration(600)} left",
                sure=lambda record: interval_so_far(record, study.folder.trial(record.id)),
            )
            progress.show(records)
            console.print(progress.view())
        drawn = (folder / f"{name}.svg").resolve()
        console.save_svg(str(drawn), title="python -m tune.search")
        tab = Tab(browser, drawn, DESK, "light")
        tab.screenshot(folder / f"{name}.png", of="svg > rect")
        drawn.unlink()


def take_mlflow(browser: Browser, study: Study, folder: Path) -> None:
    """Take MLflow's pages: runs, charts, the best beside each other, the best run, the study's."""
    tracking, best = tracking_of(study.options), study.best
    link = tracking.link_to(TrackedStudy(study.name, study.ledger.identity))
    if link is None or best is None:
        return
    client = mlflow.MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    number = experiment.experiment_id
    runs = client.search_runs(
        [number], "tags.phase = 'search'", order_by=["metrics.best_ap50 DESC"], max_results=3
    )
    (parent,) = client.search_runs([number], "tags.phase = 'study'")
    several = f"runs={json.dumps([run.info.run_id for run in runs])}"
    compared = f"{several}&experiments={json.dumps([number])}"
    best_run = f"/#/experiments/{number}/runs/{runs[0].info.run_id}"
    called = str(runs[0].info.run_name)[:20]
    with mlflow_server(study.options.results) as address:
        pages = {
            "runs": (link.replace(UI, address), called),
            "charts": (f"{link.replace(UI, address)}&compareRunsMode=CHART", "Model metrics"),
            "compare": (f"{address}/#/compare-runs?{compared}", called),
            "run": (f"{address}{best_run}", called),
            "run-files": (f"{address}{best_run}/artifacts", "epochs.csv"),
            "parent": (f"{address}/#/experiments/{number}/runs/{parent.info.run_id}", study.name),
            "parent-files": (
                f"{address}/#/experiments/{number}/runs/{parent.info.run_id}/artifacts",
                "report",
            ),
        }
        for name, (page, sign) in pages.items():
            tab = Tab(browser, page, DESK, "light", height=TALL if name in LONG else 900)
            tab.wait(f"document.body.innerText.includes({json.dumps(sign)})", 90)
            time.sleep(SETTLING_SECONDS)
            tab.screenshot(folder / f"mlflow-{name}.png")


def take_dashboard(browser: Browser, study: Study, folder: Path) -> None:
    """Take the first study of optuna-dashboard."""
    with dashboard(study.storage) as address:
        tab = Tab(browser, f"{address}/dashboard/studies/1", DESK, "light")
        tab.wait("document.body.innerText.includes('AP50')", 90)
        time.sleep(SETTLING_SECONDS)
        tab.screenshot(folder / "optuna-dashboard.png")


PAGES: Mapping[str, Callable[[Browser, Study, Path], None]] = {
    "report": take_report,
    "doctor": take_doctor,
    "live": take_live,
    "mlflow": take_mlflow,
    "dashboard": take_dashboard,
}


if __name__ == "__main__":
    main()
