"""Pictures of all pages that show a study: `python -m docs.screenshots STUDY FOLDER`.

It needs Chromium, and a study in `results/` (or `--results DIR`) with its report. FOLDER then holds

    report-1280-light.png ...    the report, at the widths of a desk and of a phone, light and dark
    live.png                     the table of a running search, drawn of the study's own trials
    mlflow-runs.png, -charts.png, -compare.png, -run.png
    optuna-dashboard.png
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlflow  # noqa: TID251  # to find the best run's page
from rich.console import Console

from core.values import as_duration
from tests.browser import Browser, Tab, dashboard, mlflow_server, opened
from tune.ledger.records import State
from tune.study.plan import tracking_of
from tune.study.progress import Progress
from tune.study.reading import Study, read_study
from tune.study.scores import interval_so_far
from tune.tracking.mlflow_view import UI
from tune.tracking.tracker import TrackedStudy

DESK, PHONE = 1280, 390


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the pictures of one study."""
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    parser.add_argument("study")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"))
    asked = parser.parse_args(arguments)
    study = read_study(asked.study, asked.results)
    with opened() as browser:
        take_report(browser, study, asked.folder)
        take_live(browser, study, asked.folder)
        with mlflow_server(asked.results) as address:
            take_mlflow(browser, study, asked.folder, address)
        with dashboard(study.storage) as address:
            take_dashboard(browser, asked.folder, address)


def take_report(browser: Browser, study: Study, folder: Path) -> None:
    """Take the report's page at two widths, light and dark."""
    page = (study.folder.path / "report" / "index.html").resolve()
    for width in (DESK, PHONE):
        for scheme in ("light", "dark"):
            Tab(browser, page, width, scheme).screenshot(folder / f"report-{width}-{scheme}.png")


def take_live(browser: Browser, study: Study, folder: Path) -> None:
    """Take the live table as it would look with the study's last two trials half done."""
    folder.mkdir(parents=True, exist_ok=True)
    records = list(study.records)
    records[-2:] = [
        replace(one, state=State.RUNNING, epochs=one.epochs[: max(1, len(one.epochs) - 1 - place)])
        for place, one in enumerate(records[-2:])
    ]
    console = Console(record=True, width=120, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    progress = Progress(
        len(records) + 1,
        console,
        left=lambda _: f"about {as_duration(600)} left",
        sure=lambda record: interval_so_far(record, study.folder.trial(record.id)),
    )
    progress.show(records)
    console.print(progress.view())
    console.save_svg(str(folder / "live.svg"), title="python -m tune.search")
    tab = Tab(browser, (folder / "live.svg").resolve(), DESK, "light")
    tab.screenshot(folder / "live.png", whole=False)
    (folder / "live.svg").unlink()


def take_mlflow(browser: Browser, study: Study, folder: Path, address: str) -> None:
    """Take the pages of MLflow: runs, charts, the comparison of the best, and the best run."""
    link = tracking_of(study.options).link_to(TrackedStudy(study.name, study.ledger.identity))
    assert link is not None
    tab = Tab(browser, link.replace(UI, address), DESK, "light")
    best = study.best
    assert best is not None
    tab.wait(f"document.body.innerText.includes('trial {best.id}')", 90)
    time.sleep(3)  # MLflow draws its table in several steps
    tab.screenshot(folder / "mlflow-runs.png", whole=False)
    tab.run("document.querySelector('[value=CHART]')?.closest('label, button')?.click()")
    tab.run("document.querySelector('input[value=CHART]')?.click()")
    time.sleep(8)
    tab.screenshot(folder / "mlflow-charts.png", whole=False)
    client = mlflow.MlflowClient(tracking_of(study.options).uri)
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    number = experiment.experiment_id
    runs = client.search_runs(
        [number], "tags.phase = 'search'", order_by=["metrics.best_ap50 DESC"], max_results=3
    )
    names = json.dumps([run.info.run_id for run in runs])
    pages = {
        "compare": f"/#/compare-runs?runs={names}&experiments={json.dumps([number])}",
        "run": f"/#/experiments/{number}/runs/{runs[0].info.run_id}",
    }
    for name, page in pages.items():
        tab = Tab(browser, address + page, DESK, "light")
        tab.wait(f"document.body.innerText.includes('trial {best.id}')", 90)
        time.sleep(4)
        tab.screenshot(folder / f"mlflow-{name}.png", whole=False)


def take_dashboard(browser: Browser, folder: Path, address: str) -> None:
    """Take the first study of optuna-dashboard."""
    tab = Tab(browser, f"{address}/dashboard/studies/1", DESK, "light")
    tab.wait("document.body.innerText.includes('AP50')", 90)
    time.sleep(4)
    tab.screenshot(folder / "optuna-dashboard.png", whole=False)


if __name__ == "__main__":
    main()
