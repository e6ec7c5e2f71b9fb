"""Many trials: their settings are chosen, they run, and their results are compared and shown.

The switches below keep libraries from phoning home, from drawing over our progress bar, from
printing a server's address with its password, from taking the requirements of a model from the
project in whose folder the command was started, and from asking a server for long that does not
answer, since we ask again ourselves. Libraries read them when they are imported, so they
are set before any of them is.
"""

import os

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
