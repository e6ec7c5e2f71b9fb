"""A study as processes other than its driver read it, also while it runs. Nothing here writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from optuna.trial import TrialState

from tune.ledger.records import FACTS_KEY, IDENTITY_KEY, State, TrialRecord, best_of, record_of
from tune.ledger.runs import Run, stored_run
from tune.ledger.selections import NOTHING_CHOSEN, Selections, stored_selections
from tune.ledger.storage import open_to_read, study_to_read
from tune.ledger.warm_start import WarmStart, stored_warm_start

_CONFIRMING = ".confirm"


@dataclass(frozen=True)
class Reading:
    """A study as it stands.

    identity   a name that no other ledger has
    facts      what its trials have in common (see `Ledger.remember`)
    records    its trials, in the order of their numbers
    chosen     the trials that were chosen for its confirmation
    run        its last run; None where the ledger does not describe it
    warm_start   what it took from another study when it began; None where it took nothing
    """

    identity: str
    facts: Mapping[str, Any]
    records: tuple[TrialRecord, ...]
    chosen: Selections = NOTHING_CHOSEN
    run: Run | None = None
    warm_start: WarmStart | None = None

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the highest AP50; see `best_of`."""
        return best_of(self.records)

    def finished(self, planned: int) -> bool:
        """Whether there are as many trials as planned, and all have ended."""
        return len(self.records) >= planned and all(
            record.state is not State.RUNNING for record in self.records
        )


def read_ledger(storage: str, study: str) -> Reading | None:
    """Read a study from the ledger at a URL; None if there is no such study.

    Raises StudyError where the ledger cannot be opened, StorageError where it cannot be read.
    """
    with study_to_read(storage, study) as found:
        if found is None:
            return None
        known, stored = found.attributes(), found.trials()
    # Trials that an earlier version had planned but not begun come last, and do not count yet.
    trials = [trial for trial in stored if trial.state is not TrialState.WAITING]
    records = tuple(record_of(trial, known) for trial in trials)
    return Reading(
        known.get(IDENTITY_KEY, ""),
        known.get(FACTS_KEY, {}),
        records,
        stored_selections(known),
        stored_run(known),
        stored_warm_start(known),
    )


def confirming_name(study: str) -> str:
    """The name of the Optuna study that holds the confirmation of a study."""
    return f"{study}{_CONFIRMING}"


def studies_in(storage: str) -> list[str]:
    """The names of the studies in a ledger, without their confirmations; empty without a ledger.

    Studies of other programs that use Optuna are left out. Raises the errors of `read_ledger`.
    """
    with open_to_read(storage) as database:
        if database is None:
            return []
        # The name of a study of ours holds no dot.
        found = {name: database.study(name) for name in database.names() if "." not in name}
        return sorted(
            name
            for name, study in found.items()
            if study is not None and {IDENTITY_KEY, FACTS_KEY} & study.attributes().keys()
        )


def remembered_facts(storage: str, study: str) -> Mapping[str, Any] | None:
    """The facts of a study; None if there is none yet. Raises the errors of `read_ledger`."""
    with study_to_read(storage, study) as found:
        facts = None if found is None else found.attributes().get(FACTS_KEY)
    return cast("Mapping[str, Any] | None", facts)
