"""The MLflow database or server that shows studies, and how a person opens it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from core.programs import program_here
from tune.redaction import without_password


@dataclass(frozen=True)
class Destination:
    """The MLflow database or server that shows a study.

    uri         MLflow's tracking URI
    artifacts   folder for artifacts, used where `uri` is on this disk; a server has its own
    """

    uri: str
    artifacts: Path

    @classmethod
    def at(cls, uri: str | None, results: Path) -> "Destination":
        """The destination of a tracking URI; for None a database under `results`."""
        return cls(
            uri or f"sqlite:///{results / 'mlflow.db'}", (results / "mlartifacts").absolute()
        )

    @property
    def how_to_open(self) -> str:
        """An order that opens the study in a browser: a command, or "open ADDRESS" for a server."""
        if urlsplit(self.uri).scheme in ("http", "https"):
            return f"open {without_password(self.uri)}"
        return f"{self.program} ui --backend-store-uri {shlex.quote(without_password(self.uri))}"

    @property
    def program(self) -> str:
        """The path of MLflow's program, quoted for a shell, relative where it is in the current
        folder.
        """
        return program_here("mlflow")

    def command(self, words: str) -> str:
        """The shell command that runs `mlflow WORDS` on this database or server."""
        return (
            f"MLFLOW_TRACKING_URI={shlex.quote(without_password(self.uri))} {self.program} {words}"
        )
