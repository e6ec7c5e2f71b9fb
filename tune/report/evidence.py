"""All numbers of a study's report, without any sentences about them.

They come from the study's folder and its ledger alone, and can be gathered while the search runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.dependence import unmet_need
from core.errors import CheckpointError
from tune.engine.packing import Packing, read_packing
from tune.ledger.importances import importances
from tune.ledger.proposals import as_planned
from tune.ledger.records import State, best_of
from tune.report.class_limits import RowLimits, limits_of_rows
from tune.report.further import Further, further_of, further_of_search
from tune.report.main_table import MainRow, SmallestDifference, main_rows, smallest_shown
from tune.report.trial_scores import ScoredTrial, score_trial
from tune.request.request import StudyRequest
from tune.statistics.choice import Choice
from tune.statistics.effects import Effect, comparable_epoch, main_effects
from tune.study.confirmation import Confirmation
from tune.study.learned import nothing_learned
from tune.study.reading import Study


@dataclass(frozen=True)
class Evidence:
    """All numbers of a study that its report shows.

    description     content of study.json
    facts           the facts that its trials have in common (see `Ledger.remember`)
    confirmation    the confirmation as it stands; None if there is none
    choice          the confirmed winner; None before the confirmation has ended
    further         the seeds or images that would decide each open comparison; empty before the
                    search has ended
    packing         what was measured of trials that share a GPU; None if nothing was
    warm_start      one line on what the study took from another one; None if it took nothing
    trouble         why an interval, the luck of an epoch or the winner is unknown, a sentence each,
                    without full stops
    effects_epoch   the epoch after which the effects compare all trials; None where no trial was
                    stopped early, so that they compare final scores
    The other fields are those of `tune.report.content.ReportContent`.
    """

    request: StudyRequest
    description: Mapping[str, Any]
    facts: Mapping[str, Any]
    trials: tuple[ScoredTrial, ...]
    confirm_trials: tuple[ScoredTrial, ...]
    rows: tuple[MainRow, ...]
    confirmation: Confirmation | None
    choice: Choice | None
    effects: tuple[Effect, ...]
    effects_epoch: int | None
    importances: Mapping[str, float]
    smallest_difference: SmallestDifference
    best: ScoredTrial | None
    limits: tuple[RowLimits, ...]
    further: tuple[Further, ...]
    packing: Packing | None
    warm_start: str | None
    trouble: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.description["data"]["classes"])

    @property
    def nothing_learned(self) -> bool:
        """Whether trials are complete, and none learned anything (see `tune.study.learned`)."""
        return nothing_learned([trial.record for trial in self.trials])

    @property
    def searched(self) -> bool:
        """Whether every planned trial of the search has ended."""
        ended = [trial for trial in self.trials if trial.record.state is not State.RUNNING]
        return len(ended) == len(self.trials) >= self.request.planned_trials

    @property
    def finished(self) -> bool:
        """Whether the search has ended, and the confirmation if there is one."""
        return self.searched and (self.confirmation is None or self.confirmation.finished)

    def in_state(self, state: State) -> tuple[ScoredTrial, ...]:
        """The trials of the search that are in a state."""
        return tuple(trial for trial in self.trials if trial.record.state is state)


def gather_evidence(study: Study) -> Evidence:
    """Gather all numbers of a study's report. A study without a complete trial has no rows."""
    request, description, folder = study.request, study.description, study.folder
    classes = len(description["data"]["classes"])
    # A study that was extended has the same report as one that asked for all trials at once.
    records = as_planned(request.space, study.records)
    trials = tuple(
        score_trial(record, "search", folder.trial(record.id), classes) for record in records
    )
    rows = main_rows(request, trials)
    complete = [trial for trial in trials if trial.record.state is State.COMPLETE]
    best = best_of(records)
    confirming = study.confirmation
    confirm_trials = tuple(
        score_trial(record, "confirm", folder.confirm_trial(record.id), classes)
        for record in (confirming.records if confirming else ())
    )
    trouble = [trial.trouble for trial in (*trials, *confirm_trials) if trial.trouble]
    choice = None
    try:
        choice = study.winner
    except CheckpointError as error:
        trouble.append(f"the winner cannot be chosen: {error}")
    # Settings have no effects to report where none were drawn, or where nothing was learned.
    alike = bool(request.space.variants) or nothing_learned(study.records)
    effects, effects_epoch = ((), None) if alike else _effects_of_settings(trials)
    units = _number_of_units(description)
    further = (
        further_of(request, rows, trials, units)
        if request.space.variants
        else further_of_search(request, rows, trials, choice, confirm_trials, units)
    )
    return Evidence(
        request,
        description,
        study.ledger.facts,
        trials,
        confirm_trials,
        rows,
        confirming,
        choice,
        effects,
        effects_epoch,
        {} if alike else _importances(study, _with_effect(complete)),
        smallest_shown(request, rows, units),
        next((trial for trial in trials if best is not None and trial.record.id == best.id), None),
        limits_of_rows(rows, trials, description["data"]["classes"], bool(request.space.variants)),
        further if study.searched else (),
        read_packing(folder.packing),
        None if (warm := study.ledger.warm_start) is None else warm.line,
        tuple(trouble),
    )


def _number_of_units(description: Mapping[str, Any]) -> int:
    """Number of groups of images; of images, if study.json is of a version without that count."""
    data = description["data"]
    return int(data.get("groups", data["images"]))


def _with_effect(trials: Sequence[ScoredTrial]) -> list[str]:
    """The searched settings that have an effect in at least one of these trials."""
    names = [
        name
        for trial in trials
        for name in trial.record.params
        if unmet_need(name, trial.record.settings) is None
    ]
    return list(dict.fromkeys(names))


def _importances(study: Study, names: Sequence[str]) -> dict[str, float]:
    """Optuna's importances of the settings `names`, scaled to add up to 1; empty if it has none.

    Optuna also rates settings that have no effect.
    """
    shares = importances(study.storage, study.name)
    shares = {name: share for name, share in shares.items() if name in names}
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total else {}


def _effects_of_settings(trials: Sequence[ScoredTrial]) -> tuple[tuple[Effect, ...], int | None]:
    """The effects of the searched settings, and the epoch after which they compare the trials.

    They are estimated over the trials that ended with a score. The epoch is None for final scores.
    """
    ended = [one for one in trials if one.record.state in (State.COMPLETE, State.PRUNED)]
    epoch = comparable_epoch(
        [one.record.curve for one in ended], [one.record.state is State.PRUNED for one in ended]
    )
    points = [{name: one.record.searched[name] for name in _with_effect([one])} for one in ended]
    return tuple(main_effects(points, [max(one.record.curve[:epoch]) for one in ended])), epoch
