"""Many trials: their settings are chosen, they run, and their results are compared and shown.

    from tune import load_request, search, read_study, report, retrain

These functions are what programs use, and the command lines too. Each is imported when it is first
asked for, so that `import tune` costs nothing.

The switches below keep libraries from phoning home, from drawing over our progress bar, from
printing a server's address with its password, from taking the requirements of a model from the
project in whose folder the command was started, and from asking a server for long that does not
answer, since we ask again ourselves. Libraries read them when they are imported, so they
are set before any of them is.
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
    """A package whose public names are its functions, also where modules are called alike.

    Python enters every module that it imports as a name of its package: `tune.report` would be the
    package of the report once that is imported. `from tune.report import page` finds it all the
    same.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module 'tune' has no attribute {name!r}")
        return resolve_name(_PLACES[name])

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _PLACES:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
