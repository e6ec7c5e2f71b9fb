"""An empty tracking database for a test's results folder: MLflow takes seconds to make one."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import mlflow


@cache
def _empty() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tracking-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def provide(results: Path) -> Path:
    """Put an empty tracking database into a results folder that has none; returns the folder."""
    results.mkdir(parents=True, exist_ok=True)
    if not (results / "mlflow.db").exists():
        shutil.copy(_empty(), results)
    return results
