"""What a study shows, computed once: every number and every sentence of its report.

It is computed from the study's folder and its ledger alone, also while the search runs; neither images nor weights are
needed. What is missing on disk is said, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tune.report.evidence import gather
from tune.report.rows import Row, Smallest
from tune.report.sentences import answer_of, cautions_of, provenance_of
from tune.report.tables import tables_of
from tune.report.trial_scores import Trial
from tune.space.request import StudyRequest
from tune.statistics.choice import Choice
from tune.statistics.effects import Effect
from tune.store.folder import StudyFolder
from tune.tables import Table

__all__ = ["Findings", "Row", "Smallest", "Trial", "find"]


@dataclass(frozen=True)
class Findings:
    """What a study shows.

    study               its name
    identity            of its ledger: a name that no other has
    request             what was asked
    finished            whether every planned trial has ended; otherwise all is said "so far"
    nothing_learned     whether no trial ever reached an AP50 that means anything
    answer              plain sentences, the most important first
    cautions            what limits all of it, a sentence each
    trials              of the search, in the order of their numbers
    confirm_trials      of the confirmation, likewise
    rows                of the main table: variants in the order of the file, trials of a sampled study best first
    choice              the confirmed winner; None before every candidate is confirmed, and where nothing is
    candidates          the search trial that each candidate of the confirmation repeats, by its name
    effects             of each setting in a sampled study, from its complete trials; empty for variants
    importances         Optuna's, of the searched settings, adding up to 1; empty where Optuna cannot say
    smallest_difference that a comparison finds in 80% of cases
    classes             names of the classes, in the order of every `per_class`
    tables              the main one first
    best                the complete trial of the search with the highest AP50
    provenance          what is needed to repeat it, by what it is
    """

    study: str
    identity: str
    request: StudyRequest
    finished: bool
    nothing_learned: bool
    answer: tuple[str, ...]
    cautions: tuple[str, ...]
    trials: tuple[Trial, ...]
    confirm_trials: tuple[Trial, ...]
    rows: tuple[Row, ...]
    choice: Choice | None
    candidates: Mapping[str, int]
    effects: tuple[Effect, ...]
    importances: Mapping[str, float]
    smallest_difference: Smallest
    classes: tuple[str, ...]
    tables: tuple[Table, ...]
    best: Trial | None
    provenance: Mapping[str, str]


def find(folder: StudyFolder, storage: str) -> Findings:
    """Everything that the report of a study says.

    storage   SQLAlchemy URL of its ledger

    Raises StudyError for a study that is not there. A study without a complete trial says that it has none.
    """
    evidence = gather(folder, storage)
    confirmation = evidence.confirmation
    return Findings(
        study=evidence.request.study,
        identity=evidence.identity,
        request=evidence.request,
        finished=evidence.finished,
        nothing_learned=evidence.nothing_learned,
        answer=answer_of(evidence),
        cautions=cautions_of(evidence),
        trials=evidence.trials,
        confirm_trials=evidence.confirm_trials,
        rows=evidence.rows,
        choice=evidence.choice,
        candidates={one.name: one.trial.id for one in confirmation.candidates} if confirmation else {},
        effects=evidence.effects,
        importances=evidence.importances,
        smallest_difference=evidence.smallest_difference,
        classes=evidence.classes,
        tables=tables_of(evidence),
        best=evidence.best,
        provenance=provenance_of(evidence),
    )
