"""The confirmation of a study: the best of the search run again on fresh seeds and splits.

The best of many scores on the same images is partly the luckiest of them. So the best `confirm.top`
candidates are trained again, all on the same fresh seeds; a seed also draws the split of the
images. Each candidate has a mean curve over these trainings. The winner is the candidate whose mean
curve has the highest point, and the winner's epoch is the epoch of that point. If the space file
lists settings of prediction under `after_training:`, each training tries them on its own validation
images after its last epoch, and the winner is a pair of a candidate and settings of prediction. The
fresh splits divide the same images as the search's do, so only a test set is independent of it.

The trials of a confirmation are a second study in the ledger, `STUDY.confirm`, so that neither the
search's sampler nor its early stopping sees them. The facts of that study are those of the search,
and `confirm`:

    asked      the options of the confirmation
    repeats    seed and fold of each repeat
    notes      notes for the user, a sentence each
    continues  whether stopped trials of variants were continued before it began
"""

import functools
import itertools
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import faults
from core.config import DataConfig, PredictConfig, TrialConfig, Value
from core.data.dataset import Dataset
from core.data.split import group_names, split
from core.errors import DataError
from core.metric.ap50 import MatchTable
from core.text import many
from tune.ledger.ledger import Ledger
from tune.ledger.reading import Reading, confirming_name, read_ledger, remembered_facts
from tune.ledger.records import Point, State, TrialRecord, settings_key
from tune.ledger.selections import NOTHING_CHOSEN, Selections
from tune.request.request import SearchOptions, StopEarly, StudyRequest
from tune.space.space import SearchSpace
from tune.statistics.certainty import Repeat
from tune.statistics.choice import Choice, Predictions, choose_winner
from tune.store.folder import StudyFolder, match_table_path, prediction_table_path
from tune.study.candidates import (
    Candidate,
    candidates,
    choose,
    chosen_before,
    is_settled,
    may_be_chosen,
    released,
)

FIRST_SEED = 1000
"""The smallest fresh seed."""
PATIENCE = 100
"""Number of consecutive seeds without a new split after which no further seed is tried."""


@dataclass(frozen=True)
class Confirmed:
    """A candidate whose repeats are all complete.

    repeats       the trials of the repeats, in the order of `Confirmation.repeats`
    matches       the files of their match tables: for each repeat, one for each epoch
    predictions   the files of the match tables with other settings of prediction, one for each
                  repeat; only settings that every repeat tried
    """

    candidate: Candidate
    repeats: tuple[TrialRecord, ...]
    matches: tuple[tuple[Path, ...], ...]
    predictions: Mapping[PredictConfig, tuple[Path, ...]]

    @property
    def ways(self) -> Predictions:
        """The match tables for all settings of prediction, the candidate's own included."""
        own = [
            paths[(record.best_epoch or 1) - 1]
            for record, paths in zip(self.repeats, self.matches, strict=True)
        ]
        tried = {predict: _loading(paths) for predict, paths in self.predictions.items()}
        return Predictions(_loading(own), tried)


@dataclass(frozen=True)
class Confirmation:
    """A confirmation as its ledger and folder have it.

    candidates   the candidates that the search has chosen, best first
    confirmed    those of them that can be chosen, in the same order
    repeats      the repeats of each candidate: seed and fold
    records      all trials of the confirmation, those of former candidates included
    ended        number of trainings of these candidates that have ended
    planned      number of trainings that these candidates need
    finished     whether the search and all these trainings have ended, with the options that the
                 request has now, so that the winner can be chosen
    notes        notes for the user, a sentence each, such as why a candidate is left out
    """

    candidates: tuple[Candidate, ...]
    confirmed: tuple[Confirmed, ...]
    repeats: tuple[Repeat, ...]
    records: tuple[TrialRecord, ...]
    ended: int
    planned: int
    finished: bool
    notes: tuple[str, ...]

    @property
    def on(self) -> str:
        """The seeds and splits that each candidate was trained on, in words."""
        seeds = len({seed for seed, _ in self.repeats})
        folds = 1 + max((fold for _, fold in self.repeats), default=0)
        splits = "split" if seeds == 1 else "splits"
        return (
            f"{many(seeds, 'fresh seed')} and {splits}{f' into {folds} folds' if folds > 1 else ''}"
        )


def fresh_repeats(request: StudyRequest, data: Dataset) -> tuple[Repeat, ...]:
    """The repeats of each candidate: seeds and splits that the search does not use.

    Every call returns the same. A seed is passed over if the search uses it, or if every validation
    part that it draws is known already: a small data set has few splits. So there may be fewer
    seeds than asked for, or none (see `shortage`). Raises DataError if the images cannot be divided
    this way.
    """
    asked, space = request.confirm, request.space
    if not asked.top:
        return ()
    data_settings = {name: value for name, value in space.fixed.items() if name.startswith("data.")}
    searched = TrialConfig.from_settings(data_settings).data
    if space.variants:
        seeds = split_seeds = set(range(space.seeds))
    else:
        seeds, split_seeds = {int(space.value("seed", {}))}, {searched.split_seed}
    known = {part for seed in split_seeds for part in _validation_parts(data, searched, seed)}
    config = searched.model_copy(update={"folds": asked.folds, "fold": 0})

    found: list[int] = []
    in_vain, trouble = 0, None
    for seed in itertools.count(FIRST_SEED):
        if len(found) == asked.seeds or in_vain == PATIENCE:
            break
        if seed in seeds | split_seeds:
            continue
        parts: set[tuple[int, ...]] = set()
        try:
            parts = _validation_parts(data, config, seed)
        except DataError as error:
            trouble = error
        in_vain += 1
        if not parts <= known:
            found.append(seed)
            known |= parts
            in_vain = 0
    if trouble is not None and not found:
        raise DataError(
            f"confirm, {asked.folds} folds: {trouble}" if asked.folds else f"confirm: {trouble}"
        )
    return tuple(Repeat(seed, fold) for seed in found for fold in range(max(asked.folds, 1)))


def _validation_parts(data: Dataset, config: DataConfig, seed: int) -> set[tuple[int, ...]]:
    """The validation parts that a seed draws, as indices of images: one, or one for each fold."""
    configs = (
        config.model_copy(update={"split_seed": seed, "fold": fold})
        for fold in range(max(config.folds, 1))
    )
    return {split(data, one).validation for one in configs}


def shortage(request: StudyRequest, repeats: Sequence[Repeat]) -> str | None:
    """A sentence for the user if there are fewer fresh splits than asked for; None otherwise."""
    found, asked = len({seed for seed, _ in repeats}), request.confirm.seeds
    if not request.confirm.top or found == asked:
        return None
    way_out = (
        "" if request.confirm.folds else " (with confirm.folds every image serves for validation)"
    )
    if not found:
        return (
            "confirm: these images have no split but those of the search, so nothing is"
            f" confirmed{way_out}"
        )
    return (
        f"confirm.seeds {asked}: these images have only {many(found, 'split')} beside the search's,"
        f" and each candidate is trained once on {'it' if found == 1 else 'each'}{way_out}"
    )


def confirming_points(
    chosen: Sequence[Candidate], request: StudyRequest, repeats: Sequence[Repeat]
) -> tuple[Point, ...]:
    """The trials that confirm the candidates of a search, in the order in which they run.

    The first repeats of all candidates come before any second one, so a confirmation that is cut
    short compares like with like.
    """
    return tuple(
        Point(
            candidate.name, candidate.trials[0].params, _repeat_settings(candidate, repeat, request)
        )
        for repeat in repeats
        for candidate in chosen
    )


def _repeat_settings(
    candidate: Candidate, repeat: Repeat, request: StudyRequest
) -> dict[str, Value]:
    """The settings of a candidate's training on the seed and fold of a repeat."""
    seed, fold = repeat
    changed = {
        "seed": seed,
        "data.split_seed": seed,
        "data.folds": request.confirm.folds,
        "data.fold": fold,
    }
    # The first trial's settings, not the best one's: another trial with the same settings in effect
    # may become the best.
    return {**candidate.trials[0].settings, **changed}


def confirming_request(request: StudyRequest) -> StudyRequest:
    """The request of the confirmation as a study of its own, which searches and stops nothing."""
    return replace(
        request,
        study=confirming_name(request.study),
        space=SearchSpace(),
        search=SearchOptions(sampler="random"),
        stop_early=StopEarly(rule="none"),
    )


def chosen_so_far(search: Reading | Ledger, storage: str, request: StudyRequest) -> Selections:
    """The selections of a search for its confirmation.

    storage   URL of the ledger

    Studies of variants do not store it. An earlier version that began a confirmation stored none
    either: its candidates were the best by score.
    """
    if not request.space.parameters:
        return choose(search.records, request)
    facts = remembered_facts(storage, confirming_request(request).study) or {}
    if search.chosen == NOTHING_CHOSEN and "confirm" in facts:
        return chosen_before(search.records, request, int(facts["confirm"]["asked"]["top"]))
    return search.chosen


def decide(ledger: Ledger, request: StudyRequest) -> Selections:
    """Choose what a search all of whose trials have ended needs for its confirmation, unless it is
    chosen already, and store it.
    """
    chosen = choose(ledger.records, request, ledger.chosen)
    if request.space.parameters:
        ledger.choose(chosen)
        faults.passing("chosen")
    return chosen


def keep(ledger: Ledger, request: StudyRequest) -> frozenset[int]:
    """Numbers of the trials of a running search whose weights are kept. Stopped trials that are
    not among them are stored as such: they cannot be chosen any more.
    """
    kept = may_be_chosen(ledger.records, request, ledger.chosen)
    release(ledger, request, kept)
    return kept


def release(ledger: Ledger, request: StudyRequest, kept: Container[int]) -> None:
    """Store that stopped trials cannot be chosen any more, before their checkpoints are removed.

    kept   numbers of the trials whose checkpoints stay
    """
    if request.space.parameters:
        ledger.choose(released(ledger.records, ledger.chosen, kept))


def continues(storage: str, request: StudyRequest) -> bool:
    """Whether stopped trials are continued before the confirmation.

    False only for variants, if an earlier version, which continued none, has begun the
    confirmation: its candidates would change.
    """
    if request.space.parameters:
        return True
    facts = remembered_facts(storage, confirming_request(request).study) or {}
    return bool(facts.get("confirm", {"continues": True}).get("continues", False))


def confirmation_facts(
    request: StudyRequest, repeats: Sequence[Repeat], continues: bool = True
) -> dict[str, Any]:
    """The facts of a confirmation, besides those that it shares with the search, as JSON types.

    continues   whether stopped trials of variants were continued before it
    """
    note = shortage(request, repeats)
    asked = request.confirm.model_dump()
    return {
        "confirm": {
            "asked": asked,
            "repeats": [list(repeat) for repeat in repeats],
            "notes": [note] if note else [],
            "continues": continues,
        }
    }


def read_confirmation(
    folder: StudyFolder, storage: str, request: StudyRequest, search: Reading | Ledger
) -> Confirmation | None:
    """Read the confirmation of a study as it stands, also while it runs; None if there is none.

    search_records   the trials of the search

    Writes nothing.
    """
    study = confirming_request(request).study
    reading = read_ledger(storage, study) if request.confirm.top else None
    known = None if reading is None else reading.facts.get("confirm")
    if reading is None or known is None:
        return None
    repeats = tuple(Repeat(int(seed), int(fold)) for seed, fold in known["repeats"])
    by_settings = {
        settings_key(record.settings): record
        for record in reading.records
        if record.state is not State.PRUNED
    }
    chosen = chosen_so_far(search, storage, request)
    found = candidates(search.records, request, chosen)
    confirmed: list[Confirmed] = []
    notes: list[str] = list(known["notes"])
    ended = 0
    for candidate in found:
        asked = [_repeat_settings(candidate, repeat, request) for repeat in repeats]
        there = [by_settings.get(settings_key(settings)) for settings in asked]
        done = [
            record for record in there if record is not None and record.state is not State.RUNNING
        ]
        ended += len(done)
        trouble = _why_not_chosen(folder, done)
        if trouble is not None:
            notes.append(f"{candidate.name} is left out of the choice: {trouble}")
        elif len(done) == len(repeats):
            predictions = _predictions(folder, request, done)
            missing = len(_asked_predictions(request, done)) - len(predictions)
            if missing:
                notes.append(
                    f"{candidate.name} was not tried with {many(missing, 'combination')} of predict"
                    " settings (after_training), because GPU memory was short, or they were asked"
                    " for after its trainings, or an earlier version trained it; it is compared"
                    " without their gain"
                )
            matches = tuple(_matches(folder, record) for record in done)
            confirmed.append(Confirmed(candidate, tuple(done), matches, predictions))
    searched = len(search.records) >= request.planned_trials and all(
        record.state is not State.RUNNING for record in search.records
    )
    if request.space.parameters or known.get("continues"):
        searched = searched and is_settled(search.records, request, chosen)
    planned = len(found) * len(repeats)
    return Confirmation(
        candidates=found,
        confirmed=tuple(confirmed),
        repeats=repeats,
        records=reading.records,
        ended=ended,
        planned=planned,
        finished=searched and ended == planned and known["asked"] == request.confirm.model_dump(),
        notes=tuple(notes),
    )


def _why_not_chosen(folder: StudyFolder, ended: Sequence[TrialRecord]) -> str | None:
    """The reason why a candidate cannot be chosen, whatever its other repeats give; None if none.

    ended   its repeats that have ended
    """
    for record in ended:
        if record.state is State.FAIL:
            return f"its training with seed {record.settings['seed']} failed ({record.reason})"
        for path in _matches(folder, record):
            if not path.exists():
                return f"the match table {path} is missing"
    return None


def _matches(folder: StudyFolder, record: TrialRecord) -> tuple[Path, ...]:
    epochs = range(1, len(record.epochs) + 1)
    return tuple(match_table_path(folder.confirm_trial(record.id), epoch) for epoch in epochs)


def _asked_predictions(
    request: StudyRequest, repeats: Sequence[TrialRecord]
) -> list[PredictConfig]:
    """The settings of prediction that a candidate tries besides its own."""
    config = TrialConfig.from_settings(repeats[0].settings)
    return config.other_predictions(request.after_training, request.space.auto)


def _predictions(
    folder: StudyFolder, request: StudyRequest, repeats: Sequence[TrialRecord]
) -> dict[PredictConfig, tuple[Path, ...]]:
    """The match tables of the settings of prediction that all repeats of a candidate tried."""
    found = {
        predict: tuple(
            prediction_table_path(folder.confirm_trial(record.id), predict) for record in repeats
        )
        for predict in _asked_predictions(request, repeats)
    }
    return {
        predict: paths for predict, paths in found.items() if all(path.exists() for path in paths)
    }


def _loading(paths: Sequence[Path]) -> list[Callable[[], MatchTable]]:
    return [functools.partial(MatchTable.load, path) for path in paths]


def changed_prediction(choice: Choice, trial: TrialRecord) -> dict[str, Value]:
    """The winner's settings of prediction that its trial has with another value."""
    if choice.prediction is None:
        return {}
    chosen = {f"predict.{name}": value for name, value in choice.prediction.model_dump().items()}
    own = TrialConfig.from_settings(trial.settings).settings()
    return {name: value for name, value in chosen.items() if value != own[name]}


def confirmed_winner(confirmation: Confirmation) -> Choice | None:
    """The winner, with its epoch, its settings of prediction and its corrected score.

    None before the confirmation has ended, or if no candidate can be chosen. Raises CheckpointError
    for a damaged match table.
    """
    if not confirmation.finished or not confirmation.confirmed:
        return None
    settings = confirmation.confirmed[0].candidate.trial.settings
    return choose_winner(
        {
            one.candidate.name: [_loading(paths) for paths in one.matches]
            for one in confirmation.confirmed
        },
        int(settings["metric.max_dets"]),
        functools.partial(
            group_names, pattern=str(settings["data.group_pattern"]), place="the confirmation"
        ),
        predictions={one.candidate.name: one.ways for one in confirmation.confirmed},
        repeats=confirmation.repeats,
    )
