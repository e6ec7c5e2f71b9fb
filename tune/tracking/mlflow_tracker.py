"""MLflow as a tracker of studies."""

from pathlib import Path

from tune.ledger.records import TrialRecord
from tune.tracking import mlflow_errors, mlflow_models, mlflow_runs, mlflow_view
from tune.tracking.mlflow_destination import Destination
from tune.tracking.tracker import Retraining, TrackedStudy, Tracker, Trouble


class MLflow(Tracker):
    """An MLflow database or server.

    uri       MLflow's tracking URI; None for a database in `results`
    results   folder of all studies, in which the artifacts of a database lie
    """

    name = "MLflow"

    def __init__(self, uri: str | None, results: Path) -> None:
        self._destination = Destination.at(uri, results)

    @property
    def uri(self) -> str:
        """MLflow's tracking URI."""
        return self._destination.uri

    @property
    def how_to_open(self) -> str:
        """An order that opens the studies in a browser, without secrets."""
        return self._destination.how_to_open

    def trials(self, study: TrackedStudy, phase: str) -> mlflow_runs.TrialRuns:
        """The runs of a phase's trials, nested in the study's run."""
        return mlflow_runs.TrialRuns(self._destination, study, phase)

    def link_to(self, study: TrackedStudy) -> str | None:
        """The address of the study's runs, sorted by AP50, in MLflow's pages for training."""
        return mlflow_runs.link_of_study(self._destination, study)

    def link_to_charts(self, study: TrackedStudy) -> str | None:
        """The address of the curves of the study's runs, and of their settings beside AP50."""
        return mlflow_view.address_of_charts(mlflow_runs.link_of_study(self._destination, study))

    def show_report(self, study: TrackedStudy, folder: Path) -> str:
        """Show a report as artifacts of the study's run; returns the address of its page."""
        return mlflow_runs.show_report(self._destination, study, folder)

    def show_retraining(
        self, study: TrackedStudy, record: TrialRecord, retraining: Retraining
    ) -> str:
        """Show a retraining as a run, and register its model; returns the model's address."""
        return mlflow_models.show_retraining(self._destination, study, record, retraining)

    def trouble_of(self, error: Exception) -> Trouble:
        """The meaning of an error of MLflow, and what the user can do."""
        return mlflow_errors.trouble_of(error, self._destination)
