"""Many trials: what to try, where it runs, what came of it.

Nothing phones home, draws over our own progress bar, or prints a server's address with its password. A model's
requirements are its own, not those of a project that the command was started in. These switches are read when the
libraries are imported, so they are set before any of them is.
"""

import os

for _name, _value in {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)
