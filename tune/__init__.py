"""Many trials: what to try, where it runs, what came of it.

Nothing phones home. These switches are read when the libraries are imported, so they are set before any of them is.
"""

import os

for _name, _value in {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)
