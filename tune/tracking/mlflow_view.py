"""How MLflow's page of a study looks when it is opened: a view that the study's experiment keeps.

MLflow's button "Share" writes such a view as a tag of the experiment, and a link names it. Written
here, it opens the training runs (and not the page for language models that MLflow opens by itself),
sorted by AP50, with the columns and charts that a search is about.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from tune.redaction import without_password

KEY = "search"
"""The name of the view in links."""
TAG = f"mlflow.sharedViewState.{KEY}"
"""The tag of an experiment that holds the view."""
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""The tag and value by which MLflow shows an experiment as training."""
BEST = "best_ap50"
"""The metric by which runs are sorted."""
_CURVES, _OTHERS = "Model metrics", "System metrics"
"""MLflow's own names of the section of metrics without a prefix, and of its last section."""
_SETTINGS = "From settings to AP50"
"""The section of the chart that has the searched settings as axes, and the chart's name."""
_FIRST_CHARTS = ("ap50", "loss/loss", "learning_rate")
"""The curves that stand first, in this order."""
_FOLDED = ("coco", "loss")
"""Other sections of charts, whose names are prefixes of metrics. They are closed at first."""
UI = "http://127.0.0.1:5000"
"""The address at which `mlflow ui` listens unless it is told otherwise."""


def address_of_runs(uri: str, experiment: str) -> str:
    """The address of a study's runs in a browser, without secrets.

    uri   MLflow's tracking URI; a server has its own address, for a database it is that of
          `mlflow ui`
    """
    served = urlsplit(uri).scheme in ("http", "https")
    base = without_password(uri).rstrip("/") if served else UI
    return (
        f"{base}/#/experiments/{quote(experiment)}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={KEY}"
    )


def address_of_charts(runs: str) -> str:
    """The address of a study's curves and settings, given that of its runs."""
    return f"{runs}&compareRunsMode=CHART"


def view_of(searched: Sequence[str]) -> str:
    """The view as MLflow reads it from the tag, JSON.

    searched   names of the searched settings, which get columns and axes
    """
    columns = [
        f"metrics.`{BEST}`",
        "metrics.`best_epoch`",
        "tags.`state`",
        *(f"params.`{name}`" for name in searched),
    ]
    curves = [
        {
            "uuid": f"curve-{name}", "type": "LINE", "metricSectionId": "curves",
            "runsCountToCompare": 100, "deleted": False, "isGenerated": False,
            "metricKey": name, "selectedMetricKeys": [name], "displayName": name,
            "lineSmoothness": 0, "xAxisScaleType": "linear", "scaleType": "linear", "range": {},
            "xAxisKey": "step", "selectedXAxisMetricKey": "", "yAxisKey": "metric",
            "yAxisExpressions": [], "ignoreOutliers": False, "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
        for name in _FIRST_CHARTS
    ]  # fmt: skip
    parallel: list[dict[str, Any]] = [
        {
            "uuid": "settings", "type": "PARALLEL", "metricSectionId": "settings",
            "runsCountToCompare": 100, "deleted": False, "isGenerated": False,
            "displayName": _SETTINGS, "selectedParams": list(searched),
            "selectedMetrics": [BEST], "showAllRuns": False,
        }
    ]  # fmt: skip
    sections = [
        {"uuid": "curves", "name": _CURVES, "display": True, "columns": 2},
        # Names of many axes need the whole width.
        {"uuid": "settings", "name": _SETTINGS, "display": len(searched) > 1, "columns": 1},
        *({"uuid": name, "name": name, "display": False} for name in _FOLDED),
        {"uuid": "system", "name": _OTHERS, "display": False},
    ]
    view = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{BEST}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunCharts": [*curves, *(parallel if len(searched) > 1 else [])],
        "compareRunSections": [
            {**one, "isReordered": True, "deleted": False, "isGenerated": False} for one in sections
        ],
    }
    return json.dumps(view)
