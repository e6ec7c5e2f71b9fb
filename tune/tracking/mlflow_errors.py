"""The meaning of MLflow's errors, in one sentence each, with the way out."""

import re
import shlex

from mlflow.exceptions import MlflowException

from core.errors import CellTuneError
from core.files import way_out
from tune.database import cause_of, place_of, refusal_of
from tune.redaction import without_password
from tune.tracking.mlflow_destination import Destination
from tune.tracking.tracker import Trouble, safe_first_line


class ExperimentDeletedError(CellTuneError):
    """The study's experiment was deleted in MLflow. `number` is its ID there."""

    def __init__(self, name: str, number: str) -> None:
        super().__init__(f"experiment {name} (ID {number}) was deleted in MLflow")
        self.number = number


class CopiedFolderError(CellTuneError):
    """A database that was copied or moved with its folder, and names the folder of before."""

    def __init__(self, database: str, artifacts: str) -> None:
        super().__init__(f"{database} was copied or moved: it keeps its files in {artifacts}")


_REFUSED = {
    401: (
        "give it a user and password (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD) or a"
        " token (MLFLOW_TRACKING_TOKEN) that it accepts"
    ),
    403: "ask whoever runs it for the right to write there",
    404: "give the address of an MLflow server as --tracking-uri",
}
"""The way out for each of these HTTP status codes of a server."""


def trouble_of(error: BaseException, destination: Destination) -> Trouble:
    """The meaning of an error of MLflow, and what the user can do."""
    reason, uri = safe_first_line(error), destination.uri
    again = ", then run the same command again"
    if isinstance(error, ExperimentDeletedError):
        return Trouble(
            reason,
            f"bring it back with: {destination.command('experiments restore')} "
            f"--experiment-id {error.number}{again}, or use another --study name",
            lasting=True,
        )
    if isinstance(error, CopiedFolderError):
        return Trouble(
            reason,
            "nothing was written there; open the report's file, or give an MLflow of its own with"
            " --tracking-uri",
            lasting=True,
        )
    if "_alembic_tmp_" in str(error):
        return Trouble(
            reason,
            f"an upgrade of {place_of(uri)} was cut short: restore it from a backup made before the"
            " upgrade, or move it away and write it anew, study by study, with --rebuild-tracking",
            lasting=True,
        )
    if "out-of-date database schema" in str(error):
        upgrade = f"{destination.program} db upgrade {shlex.quote(without_password(uri))}"
        return Trouble(
            reason.partition(". ")[0],
            f"copy {place_of(uri)}, upgrade it with: {upgrade}{again}",
            lasting=True,
        )
    cause = cause_of(error)
    if cause is not None:
        meant = refusal_of(cause, uri)
        return Trouble(meant.reason, f"{meant.way_out}{again}", not meant.transient)
    return _trouble_of_server(error, reason, again)


def _trouble_of_server(error: BaseException, reason: str, again: str) -> Trouble:
    """The meaning of an error of an MLflow server or of the way to it."""
    said = str(error)
    if isinstance(error, MlflowException):
        code = error.get_http_status_code()  # type: ignore[no-untyped-call]
        if code in _REFUSED and (code != 404 or said.startswith("API request to endpoint")):
            return Trouble(reason, f"{_REFUSED[code]}{again}", lasting=True)
    if re.search(
        r"(name or service not known|nodename nor servname|no address associated)",
        said,
        re.IGNORECASE,
    ):
        return Trouble(reason, f"give a host that exists as --tracking-uri{again}", lasting=True)
    if isinstance(error, OSError) and error.errno and way_out(error):
        return Trouble(reason, f"{way_out(error)}{again}", lasting=True)
    return Trouble(reason)
