"""The paths of the programs of this environment, as a user can type them."""

import os
import shlex
import sys
from pathlib import Path


def program_here(name: str) -> str:
    """The path of a program beside this Python, quoted for a shell.

    name   such as "python" or "mlflow"

    The path is relative where the program lies in or below the current folder, as
    `.venv/bin/python`. A program that is not there is named alone: it may be found elsewhere.
    """
    python = Path(sys.executable)
    program = python if name == "python" else python.with_name(name)
    if not program.exists():
        return shlex.quote(name)
    here = program.is_relative_to(Path.cwd())
    return shlex.quote(os.path.relpath(program) if here else str(program))
