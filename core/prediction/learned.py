"""The trust that a model deserves, by `metrics.json` beside it: whether to believe its predictions,
and from which score on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import ModelError
from core.files import read_json
from core.values import as_ap50

LEARNED = 0.01
"""Least AP50 of a model, or of the best trial of a study, that has learned something. Below it
detections hit by chance."""

METRICS = "metrics.json"


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of `metrics.json` beside a model; empty where there is no such file.

    Raises ModelError for a file that is no such JSON.
    """
    path = folder / METRICS
    if not path.exists():
        return {}
    order = "bring it back, or remove it"
    metrics = read_json(path, ModelError, order)
    if not isinstance(metrics, dict):
        raise ModelError(f"{path}: the file must hold a JSON object, and does not; {order}")
    return metrics


def ap50_in(metrics: Mapping[str, Any]) -> float | None:
    """The AP50 of the model: on validation images, else of its trial in the search; None if none.

    metrics   the content of metrics.json
    """
    for part in ("validation", "together", "search"):
        found = metrics.get(part)
        score = found.get("ap50") if isinstance(found, dict) else None
        if isinstance(score, int | float) and 0 <= score <= 1:
            return float(score)
    return None


def balanced_score_in(metrics: Mapping[str, Any]) -> float | None:
    """The score at which F1 was highest on the validation images; None if it is not known."""
    score = metrics.get("balanced_score")
    return float(score) if isinstance(score, int | float) and 0 < score <= 1 else None


def warning_of(metrics: Mapping[str, Any]) -> str:
    """A sentence, without a full stop, on a model that learned nothing; empty for another."""
    ap50 = ap50_in(metrics)
    if ap50 is None or ap50 >= LEARNED:
        return ""
    return (
        f"this model learned nothing (AP50 {as_ap50(ap50)} on validation images), so its"
        " predictions are guesses"
    )
