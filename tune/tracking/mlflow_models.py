"""A retraining in MLflow: a run linked to its trial's, and a version of the registered model.

The registered model is named like the study.
"""

import hashlib
import importlib.metadata
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow.entities import (
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec

from core.prediction import trained_model
from core.values import as_ap50
from tune.ledger.records import TrialRecord
from tune.tracking.mlflow_destination import Destination
from tune.tracking.mlflow_runs import MEASURED, PARENT, StudyRuns, metric_points
from tune.tracking.tracker import Retraining, TrackedStudy

ALIAS = "best"
"""The alias of the version that `results/STUDY/best` holds; `latest` is the newest version."""

MODEL_NEEDS = (
    "filelock", "imagecodecs", "numpy", "pillow", "pycocotools", "pydantic", "pyyaml",
    "rich", "safetensors", "scipy", "tifffile", "torch", "torchvision",
)  # fmt: skip
"""Packages that a registered model needs beside MLflow and this project."""


def show_retraining(
    destination: Destination, study: TrackedStudy, record: TrialRecord, retraining: Retraining
) -> str:
    """Show a retraining as a run linked to the trial's, and register its model.

    Returns the address of the registered version, `models:/STUDY/VERSION`.

    record   the trial that was trained again

    The alias `best` (`models:/STUDY@best`) names the version that was shown last, even if a later
    version exists. Runs, models and versions of an earlier call that was killed or failed are found
    and completed; nothing is made twice.
    """
    runs = StudyRuns(destination, study)
    run, tags = _retraining_run(runs, record, retraining)
    model = _logged_model(runs, study.name, run, tags, retraining)
    _log_results(runs, run, model, retraining)
    version = _registered_version(
        runs, study.name, run, model, tags, _description(record, retraining)
    )
    runs.client.set_registered_model_alias(study.name, ALIAS, version)
    if run.info.status != "FINISHED":
        runs.client.set_terminated(run.info.run_id, "FINISHED")
    return f"models:/{study.name}/{version}"


def _retraining_run(
    runs: StudyRuns, record: TrialRecord, retraining: Retraining
) -> tuple[Run, dict[str, str]]:
    """The run of a retraining with its tags and params, and those tags that its model has too."""
    trial = str(record.id)
    # The same training with other settings of prediction is another model with a run of its own,
    # since params of a run cannot change.
    content = hashlib.sha256((retraining.folder / trained_model.CONFIG).read_bytes()).hexdigest()
    tags = {"trial": trial, "on": retraining.on, "retraining": retraining.key, "content": content}
    winner = record.mlflow_run or next(
        (run.info.run_id for run in runs.search(phase="search", trial=trial)), None
    )
    if winner is not None:
        tags["winner_run"] = winner
    own = {**tags, "phase": "retrain"}
    parent = runs.parent()
    if parent is not None:
        own[PARENT] = parent.info.run_id
    known = (run for run in runs.search(phase="retrain", content=content))
    run = next((run for run in known if run.data.tags["retraining"] == retraining.key), None)
    if run is None:
        took = sum(float(epoch["seconds"]) for epoch in retraining.epochs)
        run = runs.create(f"retrain trial {trial}", own, int((time.time() - took) * 1000))
    runs.client.log_batch(
        run.info.run_id, tags=[RunTag(name, value) for name, value in own.items()]
    )
    runs.log_params(run.info.run_id, retraining.settings)
    return run, tags


def _log_results(runs: StudyRuns, run: Run, model: LoggedModel, retraining: Retraining) -> None:
    """Write the metrics and files of a run.

    Metrics of the kept model are linked to the model too; the weights are in the model only.
    """
    at = int(run.info.start_time)  # the same in every call, so that no point is doubled
    points = []
    for epoch in retraining.epochs:
        at += int(float(epoch["seconds"]) * 1000)
        points += metric_points({**epoch, "at": at})
    kept = int(retraining.metrics.get("epoch", len(retraining.epochs)))
    for name, value in retraining.metrics.items():
        shown = f"best_{name}" if name in (*MEASURED, "epoch") else name
        points.append(
            Metric(shown, float(value), at, kept, model_id=model.model_id, run_id=run.info.run_id)
        )
    runs.log_metrics(run.info.run_id, points)
    for path in sorted(retraining.folder.iterdir()):
        if path.name == trained_model.MEMBERS:
            continue
        if path.is_dir():
            runs.client.log_artifacts(run.info.run_id, str(path), path.name)
        elif path.name != trained_model.WEIGHTS:
            runs.client.log_artifact(run.info.run_id, str(path))


def _logged_model(
    runs: StudyRuns, study: str, run: Run, tags: Mapping[str, str], retraining: Retraining
) -> LoggedModel:
    """The model of a run, which is made and uploaded if it is missing or incomplete."""
    run_id = run.info.run_id
    known = runs.client.search_logged_models([runs.experiment], f"source_run_id = '{run_id}'")
    if known:
        model = known[0]
    else:
        params = {name: str(value) for name, value in retraining.settings.items()}
        model = runs.client.create_logged_model(runs.experiment, study, run_id, dict(tags), params)
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            _save_model(folder, model, run_id, retraining.folder)
            runs.client.log_model_artifacts(model.model_id, str(folder))
        runs.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    if model.model_id not in [output.model_id for output in outputs]:
        runs.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model


def _save_model(folder: Path, model: LoggedModel, run: str, best: Path) -> None:
    """Write an MLflow model: the files of `best`, and `registered_model.py`, which reads them."""
    with warnings.catch_warnings():
        # MLflow warns without an example of the input. One would not help: JSON has no uint8, and
        # an input schema would refuse paths and lists.
        warnings.filterwarnings("ignore", "(?s).*An input example was not provided", UserWarning)
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(Path(__file__).with_name("registered_model.py")),
            artifacts={path.name: str(path) for path in trained_model.files_of(best)},
            signature=ModelSignature(params=ParamSchema([ParamSpec("image_id", "long", 1)])),
            pip_requirements=[f"{name}=={_public_version(name)}" for name in MODEL_NEEDS],
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                run_id=run,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
        )


def _public_version(distribution: str) -> str:
    """The version without its local part: package indexes have 2.11.0, not 2.11.0+cpu."""
    return importlib.metadata.version(distribution).partition("+")[0]


def _registered_version(
    runs: StudyRuns,
    study: str,
    run: Run,
    model: LoggedModel,
    tags: Mapping[str, str],
    description: str,
) -> str:
    """The number of the registered version of a run's model, which is made if it is missing."""
    run_id = run.info.run_id
    known = runs.client.search_model_versions(f"name = '{study}' and run_id = '{run_id}'")
    if known:
        return str(known[0].version)
    try:
        runs.client.create_registered_model(
            study,
            description=(
                "Takes an RGB image, uint8 [height, width, 3], or its path; returns COCO results."
            ),
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # MLflow would look up a source `models:/ID` at its global tracking URI, not at this client's.
    return str(
        runs.client.create_model_version(
            study,
            model.artifact_location,
            run_id,
            dict(tags),
            description=description,
            model_id=model.model_id,
        ).version
    )


def _description(record: TrialRecord, retraining: Retraining) -> str:
    name = f" ({record.name})" if record.name else ""
    on = {
        "train": "trained again on its own split",
        "all": "trained again on every annotated image",
        "together": "the models of its confirmation together",
    }[retraining.on]
    scores = [
        f"{metric} {as_ap50(value)}"
        for metric, value in retraining.metrics.items()
        if "ap50" in metric
    ]
    return f"Trial {record.id}{name}, {on}" + (f": {', '.join(scores)}" if scores else "")
