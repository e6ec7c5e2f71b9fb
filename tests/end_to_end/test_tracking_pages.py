"""MLflow and optuna-dashboard as a person opens them: by what a search prints, in a real browser."""

from typing import Any

import pytest

from benchmarks.simulated_study import SAMPLED, build, sampled_quality
from tests.browser import Browser, Tab, dashboard, mlflow_server, needs_chromium
from tests.tracking_database import provide
from tune.ledger.records import State
from tune.study.options import Options
from tune.study.reading import Study, read_study
from tune.study.rebuild import rebuild_tracking
from tune.tracking.mlflow_view import UI
from tune.tracking.tracker import TrackedStudy

SEARCH: dict[str, Any] = {
    **SAMPLED,
    "study": "seen",
    "fixed": {"model.weights": "none", "optim.epochs": 3},
    "search": {"sampler": "random", "trials": 5},
    "stop_early": {"rule": "successive_halving", "min_epochs": 1, "reduction": 2},
    "confirm": {"top": 0},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A search of five trials, some of them stopped early, which MLflow shows."""
    results = provide(tmp_path_factory.mktemp("results"))
    folder = build(results, SEARCH, sampled_quality)
    rebuild_tracking(Options(results), "seen")
    return read_study(folder.path.name, results)


@needs_chromium
def test_the_printed_link_opens_the_runs_sorted_by_ap50_with_settings_and_curves(
    browser: Browser, study: Study
) -> None:
    from tune.study.plan import tracking_of

    link = tracking_of(study.options).link_to(TrackedStudy(study.name, study.ledger.identity))
    assert link is not None
    with mlflow_server(study.options.results) as address:
        tab = Tab(browser, link.replace(UI, address), 1600, "light")
        best = study.best
        assert best is not None
        tab.wait(f"document.body.innerText.includes('trial {best.id}: ')", 120)
        tab.wait("document.body.innerText.includes('best_ap50')", 60)
        shown = tab.run("document.body.innerText")
        ranked = sorted(study.records, key=lambda one: -(one.ap50 or 0.0))
        called = [
            f"trial {one.id}{' (stopped early)' if one.state is State.PRUNED else ''}: "
            for one in ranked
        ]
        places = [shown.index(name) for name in called]
        assert places == sorted(places)
        assert "learning_rate" in shown
        tab.run("document.querySelector('input[value=CHART]').click()")
        tab.wait("document.body.innerText.includes('Model metrics')", 60)
        tab.wait("document.querySelectorAll('.js-plotly-plot').length > 1", 60)
        charts = tab.run("document.body.innerText")
        assert charts.index("Model metrics") < charts.index("\ncoco")


@needs_chromium
def test_optuna_dashboard_says_that_its_axis_is_ap50(browser: Browser, study: Study) -> None:
    with dashboard(study.storage) as address:
        tab = Tab(browser, f"{address}/dashboard/studies/1", 1280, "light")
        tab.wait("document.body.innerText.includes('AP50')", 120)
        tab.wait("document.querySelectorAll('.js-plotly-plot').length > 0", 60)
