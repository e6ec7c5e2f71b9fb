"""The state of a proof: `proof.json`, and the archive in which it is carried to another machine.

`proof.json` holds what was chosen once and then stays, so that a continuation is the same study as
an uninterrupted one: the rows, the epochs, the trials. It also holds every run of a stage, with its
machine and its seconds. The results themselves are in the studies' own folders.
"""

import contextlib
import os
import platform
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from core.errors import BadRequest, StudyError
from core.files import read_json, write_json_atomically

FORMAT = 1
"""Version of proof.json."""
ARCHIVE = "carried.tar.gz"
"""Name of the archive in the folder of results."""
MOST_BYTES = 100_000_000
"""Largest size of the archive, in bytes."""
_LEFT_FOLDERS = {"retrain", "weights", "data", "mlartifacts", "example", "overlays"}
_LEFT_FILES = {"driver.json", "retrain.json", ARCHIVE}
_LEFT_SUFFIXES = {".safetensors", ".lock", ".part"}
"""Files that are not carried: weights and checkpoints (a trial that has not ended begins anew
elsewhere), locks, and files that are made again: images, pages and pictures."""


@dataclass
class ProofState:
    """The choices and runs of a proof.

    results   the folder of everything
    short     whether this is the short form
    chosen    by study: the epochs and trials that were chosen, and why; the rows; what was left out
    runs      the runs of the stages in their order: stage, command, machine, begin, and what each
              had done before and after. A run that was killed has no `seconds`
    """

    results: Path
    short: bool
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The file."""
        return self.results / "proof.json"

    def save(self) -> None:
        """Write proof.json, whole or not at all."""
        content = {"format": FORMAT, "short": self.short, "chosen": self.chosen, "runs": self.runs}
        write_json_atomically(self.path, content)

    def runs_of(self, stage: str) -> list[dict[str, Any]]:
        """The runs of one stage."""
        return [run for run in self.runs if run["stage"] == stage]

    @property
    def seconds(self) -> float:
        """Seconds of all runs that were not killed."""
        return sum(float(run.get("seconds", 0.0)) for run in self.runs)


def open_state(results: Path, short: bool) -> ProofState:
    """The state in a folder: a new one, what is there, or what the archive there holds.

    Raises BadRequest if it is one of the other form, and StudyError if it is damaged.
    """
    results.mkdir(parents=True, exist_ok=True)
    state = ProofState(results, short)
    if not state.path.exists() and (results / ARCHIVE).exists():
        _unpack(results)
    if not state.path.exists():
        return state
    content = read_json(state.path, StudyError, "restore it, or name another folder of results")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StudyError(
            f"{state.path} must be of format {FORMAT}, and is not; name another folder of results"
        )
    if content["short"] != short:
        form = "the short form" if content["short"] else "the whole form"
        raise BadRequest(
            f"{results} holds {form} of the proof, and the other was asked for; name another folder"
            f" with --results, or {'add' if content['short'] else 'leave out'} --short"
        )
    return ProofState(results, short, content["chosen"], content["runs"])


@contextlib.contextmanager
def locked(results: Path) -> Iterator[None]:
    """Hold a folder of results for one command. Raises StudyError if another holds it."""
    results.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(results / ".proof.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StudyError(
            f"another process works in {results}; wait for it, or name another folder with"
            " --results"
        ) from None
    try:
        yield
    finally:
        lock.release()


def machine() -> dict[str, Any]:
    """The machine on which this process runs, for people."""
    import torch

    gpus = [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())]
    return {
        "processor": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "torch": torch.__version__,
    }


def machine_in_words(found: dict[str, Any]) -> str:
    """A machine in a few words."""
    of_gpus = ", ".join(found["gpus"]) or "no GPU"
    return f"{of_gpus}, {found['processors']} processors ({found['processor']})"


def commit() -> str:
    """The revision of this project, with `+` if tracked files have changed; empty without git."""
    with contextlib.suppress(OSError):
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return described.stdout.strip()
    return ""


def now() -> str:
    """The time in UTC, to the second."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def pack(results: Path) -> tuple[Path, int]:
    """Write the archive with all that a continuation elsewhere needs; returns its path and bytes.

    Weights and checkpoints are left behind: a trial that has not ended begins anew there. Nothing
    may write into the folder meanwhile.
    """
    target = results / ARCHIVE
    part = results / f".{ARCHIVE}.part"
    with tarfile.open(part, "w:gz", compresslevel=6) as archive:
        for path in sorted(results.rglob("*")):
            inside = path.relative_to(results)
            if path.is_file() and not path.is_symlink() and not _left_behind(inside):
                archive.add(path, str(inside), recursive=False)
    part.replace(target)
    return target, target.stat().st_size


def _left_behind(inside: Path) -> bool:
    """Whether a file, by its path in the folder of results, is not carried."""
    return (
        inside.name in _LEFT_FILES
        or inside.suffix in _LEFT_SUFFIXES
        or inside.name.endswith(".lock")
        or not _LEFT_FOLDERS.isdisjoint(inside.parts[:-1])
    )


def _unpack(results: Path) -> None:
    """Unpack the archive of a folder into it. Raises StudyError if it is damaged."""
    place = results / ARCHIVE
    try:
        with tarfile.open(place, "r:gz") as archive:
            members = archive.getmembers()
            last = [one for one in members if one.name == "proof.json"]
            archive.extractall(results, [one for one in members if one not in last], filter="data")
            # What says that all is there comes last, so that an interrupted unpacking begins anew.
            archive.extractall(results, last, filter="data")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise StudyError(f"{place} cannot be unpacked ({error}); bring it again") from None
