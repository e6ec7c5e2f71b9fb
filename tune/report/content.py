"""The content of a study's report, computed once: every number, sentence and table.

It is computed from the study's folder and its ledger alone, also while the search runs; neither
images nor weights are needed. Missing files are named, and their content is never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.data.dataset import Dataset
from tune.report.class_limits import RowLimits
from tune.report.data_table import data_table
from tune.report.evidence import gather_evidence
from tune.report.main_table import MainRow, SmallestDifference
from tune.report.sentences import answer_of, cautions_of, provenance_of
from tune.report.tables import tables_of
from tune.report.trial_scores import ScoredTrial
from tune.request.request import StudyRequest
from tune.statistics.choice import Choice
from tune.statistics.effects import Effect
from tune.store.folder import StudyFolder
from tune.study.reading import Study
from tune.tables import Table

__all__ = ["MainRow", "ReportContent", "ScoredTrial", "SmallestDifference", "content_of"]


@dataclass(frozen=True)
class ReportContent:
    """The content of a study's report.

    folder              folder of the study
    data                the data set, for pictures and the table of the data; None where its place
                        is not known
    study               name of the study
    request             the search request
    finished            whether search and confirmation have ended; otherwise the answer says "so
                        far"
    nothing_learned     whether trials are complete, and no trial ever reached an AP50 of
                        `tune.study.learned.LEARNED`
    answer              the answer in plain sentences, the most important first
    cautions            the limits of the answer, a sentence each
    trials              trials of the search: those of variants in the order of the rows and their
                        repeats, those of a sampled study in the order of their numbers
    confirm_trials      trials of the confirmation, in the order of their numbers
    rows                rows of the main table: variants in the order of the file, trials of a
                        sampled study best first
    choice              the confirmed winner; None before the confirmation has ended, and where
                        there is none
    candidates          number of the search trial that each candidate of the confirmation repeats,
                        by candidate name
    effects             effects of the settings of a sampled study; empty for variants
    effects_epoch       the epoch after which the effects compare all trials; None for final scores
    importances         Optuna's importances of the searched settings, which add up to 1; empty if
                        Optuna has none
    smallest_difference the smallest true difference that a comparison finds in 80% of cases
    classes             names of the classes, in the order of every `per_class`
    tables              the tables, the main one first
    best                the complete trial of the search with the highest AP50
    limits              what limited each class in the best variants, or in the best trial; empty
                        where an earlier version ran the trials
    provenance          facts that are needed to repeat the study, by name
    """

    folder: StudyFolder
    data: Dataset | None
    study: str
    request: StudyRequest
    finished: bool
    nothing_learned: bool
    answer: tuple[str, ...]
    cautions: tuple[str, ...]
    trials: tuple[ScoredTrial, ...]
    confirm_trials: tuple[ScoredTrial, ...]
    rows: tuple[MainRow, ...]
    choice: Choice | None
    candidates: Mapping[str, int]
    effects: tuple[Effect, ...]
    effects_epoch: int | None
    importances: Mapping[str, float]
    smallest_difference: SmallestDifference
    classes: tuple[str, ...]
    tables: tuple[Table, ...]
    best: ScoredTrial | None
    limits: tuple[RowLimits, ...]
    provenance: Mapping[str, str]


def content_of(study: Study, data: Dataset | None = None) -> ReportContent:
    """Compute the content of a study's report.

    data   the data set, for pictures and the table of the data; None where its place is not known

    Without a complete trial the answer says that there is none. Raises StorageError if the ledger
    does not answer.
    """
    evidence = gather_evidence(study)
    confirmation = evidence.confirmation
    return ReportContent(
        folder=study.folder,
        data=data,
        study=evidence.request.study,
        request=evidence.request,
        finished=evidence.finished,
        nothing_learned=evidence.nothing_learned,
        answer=answer_of(evidence),
        cautions=cautions_of(evidence),
        trials=evidence.trials,
        confirm_trials=evidence.confirm_trials,
        rows=evidence.rows,
        choice=evidence.choice,
        candidates=(
            {one.name: one.trial.id for one in confirmation.candidates} if confirmation else {}
        ),
        effects=evidence.effects,
        effects_epoch=evidence.effects_epoch,
        importances=evidence.importances,
        smallest_difference=evidence.smallest_difference,
        classes=evidence.classes,
        tables=(*tables_of(evidence), *data_table(data, evidence)),
        best=evidence.best,
        limits=evidence.limits,
        provenance=provenance_of(evidence),
    )
