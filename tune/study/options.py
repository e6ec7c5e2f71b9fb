"""The options of a command besides its request: folders, addresses and limits."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import BadRequest, StudyError
from core.interrupts import GRACE_SECONDS
from tune.redaction import without_password
from tune.store.folder import StudyFolder
from tune.store.url import checked_store


@dataclass(frozen=True)
class Options:
    """The options of a command besides its request.

    results       folder of all studies
    storage       SQLAlchemy URL of the ledger; None for a file in the study's folder
    tracking_uri  address of the tracker; None for an MLflow database in `results`
    parallel      largest number of trials at once; None for as many as fit
    time_budget   seconds after which no epoch begins; None for no limit
    address       address of a Ray cluster; None for this machine
    store         URL of an object store through which trials' files go; None for `results` alone
    grace         seconds that running epochs have to end after Ctrl-C or SIGTERM
    warm_start    name or folder of another study from which a new one begins; None for none

    URLs of SQLite files are stored with absolute paths, so that they hold in any working directory.
    Raises BadRequest for `parallel` under 1, for a store that is no URL of a known scheme, and for
    `results` with ?, % or # in its path.
    """

    results: Path = Path("results")
    storage: str | None = None
    tracking_uri: str | None = None
    parallel: int | None = None
    time_budget: float | None = None
    address: str | None = None
    store: str | None = None
    grace: float = GRACE_SECONDS
    warm_start: str | None = None

    def __post_init__(self) -> None:
        if self.parallel is not None and self.parallel < 1:
            raise BadRequest(f"--parallel must be at least 1, and is {self.parallel}")
        object.__setattr__(self, "results", Path(self.results))
        if set("?%#") & set(str(self.results)):
            raise BadRequest(
                "--results must be a folder without ?, % and # in its path, which the addresses of"
                f" databases cannot hold, and is {self.results}"
            )
        if self.store is not None:
            checked_store(self.store)
        object.__setattr__(self, "storage", _absolute(self.storage))
        object.__setattr__(self, "tracking_uri", _absolute(self.tracking_uri))


def storage_of(options: Options, folder: StudyFolder) -> str:
    """The SQLAlchemy URL of a study's ledger, password included."""
    return options.storage or f"sqlite:///{folder.path / 'study.db'}"


def recall_options(options: Options, folder: StudyFolder, moved: bool = False) -> Options:
    """The options, completed with the ledger and tracker that the study's study.json names.

    moved   whether the command may give another ledger than the study's, because it was moved

    Raises StudyError if the command gives another ledger, or leaves out a URL that has a password,
    which is not stored.
    """
    if not folder.description.exists():
        return options
    described = folder.read_description()
    own = None
    if described["storage"] is None:
        own = _absolute(storage_of(replace(options, storage=None), folder))
    for name, option in (("storage", "--storage"), ("tracking_uri", "--tracking-uri")):
        before, given = described[name], getattr(options, name)
        if given is None and before is not None:
            if "***" in before:
                raise StudyError(
                    f"{option} must be given again for {folder.path}: it was {before}, and"
                    " passwords are not stored"
                )
            options = replace(options, **{name: before})
        elif (
            given is not None
            and name == "storage"
            and not moved
            and without_password(given) not in (without_password(before or ""), own)
        ):
            raise StudyError(
                f"{option} must be that of the study, {before or 'its own file'}, and is"
                f" {without_password(given)}; leave it out, or give this search another --study"
                " name"
            )
    return replace(options, store=_same_store(options.store, described.get("store"), folder))


def _same_store(given: str | None, before: Any, folder: StudyFolder) -> str | None:
    """The store of a study that goes on. Raises StudyError if the command gives another.

    given    the command's; None if it gives none
    before   that of study.json, without passwords; None if it has none
    """
    if given is None and isinstance(before, str) and "***" in before:
        raise StudyError(
            f"--store must be given again for {folder.path}: it was {before}, and passwords are not"
            " stored"
        )
    if given is None:
        return before if isinstance(before, str) else None
    if without_password(given) != before:
        raise StudyError(
            f"--store must be that of the study, {before or 'its own folder'}, and is"
            f" {without_password(given)}; leave it out, or give this search another --study name"
        )
    return given


def without_ledger(folder: StudyFolder, storage: str, or_else: str) -> str:
    """A sentence for the user on a study that is not in its ledger.

    storage   SQLAlchemy URL of the ledger
    or_else   another way out than to bring the ledger back
    """
    return (
        f"{folder.path} is a study that is not in its ledger {without_password(storage)};"
        f" bring the ledger back, or {or_else}"
    )


def _absolute(url: str | None) -> str | None:
    """A URL, in which the relative path of a SQLite file is made absolute."""
    relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!file:)([^/?:][^?]*)(.*)", url or "")
    return url if relative is None else f"{relative[1]}{Path(relative[2]).absolute()}{relative[3]}"
