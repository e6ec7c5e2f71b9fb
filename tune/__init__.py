"""Many trials: their settings are chosen, they run, and their results are compared and shown.

    from tune import load_request, search, read_study, report, retrain

Programs and the command lines use these functions. Each is imported when it is first asked for, so
that `import tune` costs nothing.

Importing the package also sets environment variables, unless they are set. Libraries read them when
they are imported. They turn off telemetry, a progress bar that would be drawn over ours, a line
with a server's address and password, and a model's requirements read from the project in whose
folder the command was started. They also make MLflow give up soon on a server that does not answer,
since we ask again ourselves.
"""

import os
import sys
from pkgutil import resolve_name
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.api import report, retrain, search
    from tune.request.file import load_request
    from tune.study.reading import read_study

__all__ = ["load_request", "read_study", "report", "retrain", "search"]

_PLACES = {
    "load_request": "tune.request.file:load_request",
    "read_study": "tune.study.reading:read_study",
    "report": "tune.api:report",
    "retrain": "tune.api:retrain",
    "search": "tune.api:search",
}

for _name, _value in {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)


class _Package(ModuleType):
    """The type of the package `tune`, whose names `report`, `retrain` and `search` stay functions.

    Modules have these names too, and Python sets each module that it imports as an attribute of its
    package; this type ignores that for the public names. `from tune.report import page` works all
    the same, and `import tune.report.page as page` does not.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module 'tune' has no attribute {name!r}")
        return resolve_name(_PLACES[name])

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _PLACES:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
