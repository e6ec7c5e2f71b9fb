"""The candidates of a confirmation, and the trials that are continued to make them complete.

A trial that was stopped early is paused, not lost: it may still be one of the best, because it was
stopped on few epochs and noisy scores. So when all trials of a search have ended, the best of them,
twice as many as there will be candidates, are chosen among complete and stopped trials alike, and
the stopped ones go on to their last epoch. Then the candidates are the best `confirm.top` of all
complete trials. Best means the highest posterior mean of AP50 (`tune.ledger.posterior`), which
weighs a trial's score against those of similar settings, because the highest scores are partly the
luckiest. The trial with the highest score is a candidate in any case, if there are several.

Both choices are made once and stored in the ledger, so a study that is opened again, whatever died,
goes on with them. A trial that was not chosen loses its checkpoint and does not go on later.

What was chosen also stays when a study grows. If `confirm.top` is raised, the best of the other
complete trials become candidates as well. If trials were added, the stopped ones among them may go
on, and those become candidates that are among the best of all, so there may be more candidates than
`confirm.top`. More seeds and folds of the confirmation change no candidate.

A study of variants has no settings that could be similar, and its rows are to be compared whatever
was asked for first. It chooses by score, stores nothing, and chooses again when it has grown. A
confirmation that an earlier version began had chosen by score too, and keeps its candidates.
"""

import functools
import math
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from core.config import Value
from tune.ledger.posterior import posterior
from tune.ledger.records import State, TrialRecord, best_of, settings_key
from tune.ledger.selections import NOTHING_CHOSEN, Estimate, Selection, Selections
from tune.request.request import StudyRequest
from tune.space.space import BY_REPEAT
from tune.stopping.hope import expected_gain
from tune.study.learned import nothing_learned
from tune.tables import Origin

SPARE = 2
"""While a search runs, the weights and checkpoints of this number times as many configurations are
kept as will be chosen. The order of trials that have ended changes little when others end."""

_Settings = tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Candidate:
    """A configuration that did well in the search.

    name       name of the variant, or `trial 12`
    trials     the complete trials of the search with this configuration in effect, in the order of
               their numbers, but first the one whose settings are trained again; the trials of a
               variant differ in seed, split and fold
    expected   the AP50 that was expected of it when it was chosen; None where it was chosen by its
               score
    """

    name: str
    trials: tuple[TrialRecord, ...]
    expected: Estimate | None = None

    @property
    def score(self) -> float:
        """AP50 in the search, the mean over its trials."""
        return math.fsum(record.ap50 or 0.0 for record in self.trials) / len(self.trials)

    @property
    def trial(self) -> TrialRecord:
        """The candidate's best trial in the search."""
        best = best_of(self.trials)
        assert best is not None
        return best

    @property
    def continued_after(self) -> int | None:
        """The epoch after which a trial of it had been stopped early; None if none was."""
        return next(
            (one.continued_after for one in self.trials if one.continued_after is not None), None
        )

    @property
    def origin(self) -> Origin:
        """The candidate's result in the search, for the table of the confirmation."""
        expected = None if self.expected is None else self.expected.mean
        return Origin(self.continued_after, self.score, expected)


def candidates(
    records: Sequence[TrialRecord], request: StudyRequest, chosen: Selections
) -> tuple[Candidate, ...]:
    """The candidates that a search has chosen, in the order of their choice, the best first.

    Trials that differ in nothing but seed, split and settings without effect are one candidate.
    """
    if chosen.candidates is None:
        return ()
    by_number = {record.id: record for record in records}
    alike = _alike(records, (State.COMPLETE,))
    found = []
    for number in _asked(chosen.candidates, request):
        first = by_number[number]
        others = [one for one in alike[_key(first, BY_REPEAT)] if one.id != number]
        expected = chosen.candidates.expected[number]
        found.append(Candidate(_name(first), (first, *others), expected))
    return tuple(found)


def choose(
    records: Sequence[TrialRecord], request: StudyRequest, before: Selections = NOTHING_CHOSEN
) -> Selections:
    """The selections of a search all of whose trials have ended, with what is to be chosen now.

    before   what it has chosen so far

    The candidates are chosen when no chosen trial waits to be continued. Nothing is chosen where
    nothing was learned, since training again would confirm nothing.
    """
    if not request.confirm.top or nothing_learned(records):
        return before
    if not request.space.parameters:
        return _by_score(records, request.confirm.top)
    if _covers(before.candidates, records, request):
        return before
    chosen = replace(before, continued=_continued(records, request, before))
    if to_continue(records, chosen):
        return chosen
    chosen = replace(chosen, candidates=_candidates(records, request, before.candidates))
    return released(records, chosen, kept=())


def chosen_before(records: Sequence[TrialRecord], request: StudyRequest, top: int) -> Selections:
    """The selections of a search whose confirmation an earlier version began: the candidates that
    were best by score. That version stored no choice.

    top   `confirm.top` of that confirmation
    """
    if not request.space.parameters or nothing_learned(records):
        return NOTHING_CHOSEN
    best = _best_first(records, (State.COMPLETE,))[:top]
    # Trials that run were added since; they are compared with the candidates when they have ended.
    running = (record.id for record in records if record.state is State.RUNNING)
    chosen = Selection(
        next(running, len(records)), top, dict.fromkeys(one.trials[0].id for one in best)
    )
    return released(records, Selections(candidates=chosen), kept=())


def is_settled(records: Sequence[TrialRecord], request: StudyRequest, chosen: Selections) -> bool:
    """Whether a search all of whose trials have ended has nothing to choose or to continue."""
    if not request.confirm.top or nothing_learned(records):
        return True
    if not request.space.parameters:
        return not to_continue(records, chosen)
    return _covers(chosen.candidates, records, request)


def most_candidates(
    records: Sequence[TrialRecord], request: StudyRequest, chosen: Selections
) -> int:
    """Largest number of candidates that a search can have in the end."""
    known = 0 if chosen.candidates is None else len(_asked(chosen.candidates, request))
    planned = request.planned_trials
    if len(records) >= planned and is_settled(records, request, chosen):
        return known
    if chosen.candidates is None or not request.space.parameters:
        return request.candidates
    added = planned - chosen.candidates.trials
    return max(request.candidates, known + min(added, request.candidates))


def to_continue(records: Sequence[TrialRecord], chosen: Selections) -> tuple[int, ...]:
    """Numbers of the stopped trials that are to go on, in the order of their choice."""
    stopped = {record.id for record in records if _is_paused(record)}
    numbers = () if chosen.continued is None else chosen.continued.expected
    return tuple(number for number in numbers if number in stopped)


def may_be_chosen(
    records: Sequence[TrialRecord], request: StudyRequest, chosen: Selections
) -> frozenset[int]:
    """Numbers of the ended trials that a search has chosen, or may choose when all have ended.

    Their weights are kept, and the checkpoints of those that were stopped.
    """
    top = request.confirm.top
    if not top:
        return frozenset()
    if not request.space.parameters:
        complete = _best_first(records, (State.COMPLETE,))[:top]
        return frozenset({*_paused(records, SPARE * top), *(one.trial.id for one in complete)})
    expected = posterior(request.space, records)
    best = _ranked(records, chosen.released, expected)[: SPARE * max(request.continued, top)]
    selections = [one for one in (chosen.continued, chosen.candidates) if one is not None]
    numbers = frozenset(best).union(*(one.expected for one in selections))
    # The report and a retraining use the best trial of a configuration, whichever was chosen.
    alike = _alike(records, (State.COMPLETE,))
    keys = {_key(record, BY_REPEAT) for record in records if record.id in numbers}
    bests = (best_of(alike[key]) for key in keys if key in alike)
    return numbers | {one.id for one in bests if one is not None}


def released(
    records: Sequence[TrialRecord], chosen: Selections, kept: Container[int]
) -> Selections:
    """The selections of a search, when only the checkpoints of some of its stopped trials are kept.

    kept   numbers of these trials
    """
    stopped = {record.id for record in records if record.state is State.PRUNED}
    gone = frozenset(number for number in stopped if number not in kept)
    return replace(chosen, released=chosen.released | gone)


def expected_scores(records: Sequence[TrialRecord]) -> dict[int, float]:
    """The AP50 that each trial is expected to have at its last epoch, by its number.

    A complete trial has its score. A stopped one has its best score so far and the median of what
    complete trials gained after the same epoch. Failed and running trials have none.
    """
    complete = [record.curve for record in records if record.state is State.COMPLETE]
    gain = functools.cache(functools.partial(expected_gain, complete))
    return {
        record.id: max(record.curve)
        + (
            0.0
            if record.state is State.COMPLETE
            else gain(len(record.curve), record.planned_epochs)
        )
        for record in records
        if record.state in (State.COMPLETE, State.PRUNED) and record.curve
    }


def _covers(
    selection: Selection | None, records: Sequence[TrialRecord], request: StudyRequest
) -> bool:
    """Whether a selection was made among all these trials, for at least `confirm.top`."""
    return (
        selection is not None
        and selection.trials >= len(records)
        and selection.top >= request.confirm.top
    )


def _asked(selection: Selection, request: StudyRequest) -> list[int]:
    """The numbers of a selection; only the first ones if `confirm.top` is lower than it was."""
    numbers = list(selection.expected)
    return numbers[: request.confirm.top] if request.confirm.top < selection.top else numbers


def _continued(
    records: Sequence[TrialRecord], request: StudyRequest, chosen: Selections
) -> Selection:
    """The stopped trials that go on: those of the best `request.continued` configurations."""
    before = chosen.continued
    if before is not None and _covers(before, records, request):
        return before
    expected = posterior(request.space, records)
    best = _ranked(records, chosen.released, expected)[: request.continued]
    stopped = {record.id for record in records if record.state is State.PRUNED}
    found = {number: expected[number] for number in best if number in stopped}
    known = {} if before is None else before.expected
    return Selection(len(records), request.confirm.top, {**known, **found})


def _candidates(
    records: Sequence[TrialRecord], request: StudyRequest, before: Selection | None
) -> Selection:
    """A trial of each candidate: the earlier ones, the best of the others until there are
    `confirm.top`, and of the trials that were added since all that are among the best of all.

    The trial with the highest score is among the best, if there are several: a reader looks for it.
    """
    top, known, since = request.confirm.top, dict[int, Estimate | None](), len(records)
    if before is not None:
        known = {number: before.expected[number] for number in _asked(before, request)}
        since = before.trials
    stopped = {record.id for record in records if record.state is State.PRUNED}
    expected = posterior(request.space, records)
    by_number = {record.id: record for record in records}
    keys = {_key(by_number[number], BY_REPEAT) for number in known}
    missing, found = top - len(known), known
    ranked = _ranked(records, stopped, expected)
    highest = max(ranked, key=lambda number: by_number[number].ap50 or 0.0, default=None)
    if highest is not None and ranked.index(highest) >= top > 1:
        ranked.remove(highest)
        ranked.insert(top - 1, highest)
    others = [one for one in ranked if _key(by_number[one], BY_REPEAT) not in keys]
    # A single candidate need not have the highest score, and a second one may be asked for later.
    if highest is not None and top > 1 and missing > 0 and highest in others[missing:]:
        others.remove(highest)
        others.insert(missing - 1, highest)
    for number in others:
        if missing > 0 or (number >= since and number in ranked[:top]):
            missing -= 1
            found[number] = expected[number]
    return Selection(len(records), top, found)


def _ranked(
    records: Sequence[TrialRecord], without: Collection[int], expected: Mapping[int, Estimate]
) -> list[int]:
    """A trial of each configuration that has an estimate, the best first: a complete one, or else
    the first that was stopped.

    without   numbers of trials that do not count
    """
    counted = [
        record
        for record in records
        if record.id not in without
        and record.id in expected
        and (record.state is State.COMPLETE or _is_paused(record))
    ]
    alike = _alike(counted, (State.COMPLETE, State.PRUNED))
    firsts = [
        next((one for one in trials if one.state is State.COMPLETE), trials[0]).id
        for trials in alike.values()
    ]
    return sorted(firsts, key=lambda number: (-expected[number].mean, number))


def _by_score(records: Sequence[TrialRecord], top: int) -> Selections:
    """The selections of a study of variants."""
    best = _best_first(records, (State.COMPLETE,))[:top]
    return Selections(
        _selection(records, top, _paused(records, top)),
        _selection(records, top, (one.trials[0].id for one in best)),
    )


def _selection(records: Sequence[TrialRecord], top: int, numbers: Iterable[int]) -> Selection:
    return Selection(len(records), top, dict.fromkeys(numbers))


def _paused(records: Sequence[TrialRecord], best: int) -> list[int]:
    """Numbers of the trials of the `best` configurations that early stopping stopped, those that
    were continued since included.

    A trial is left out if it would repeat another, complete or stopped, that has the same settings
    in effect, seed and split included.
    """
    counted = [
        one.as_stopped for one in records if one.state is not State.PRUNED or _is_paused(one)
    ]
    found = _best_first(counted, (State.COMPLETE, State.PRUNED))
    paused: list[int] = []
    for one in found[:best]:
        alike: dict[_Settings, TrialRecord] = {}
        for record in one.trials:
            known = alike.setdefault(_key(record), record)
            if record.state is State.COMPLETE and known.state is State.PRUNED:
                alike[_key(record)] = record
        paused += [record.id for record in alike.values() if record.state is State.PRUNED]
    return paused


def _is_paused(record: TrialRecord) -> bool:
    """Whether a trial was stopped early and may go on: not where a person stopped it."""
    return record.state is State.PRUNED and not record.by_person


def _key(record: TrialRecord, without: Sequence[str] = ()) -> _Settings:
    return settings_key(record.in_effect, without)


def _name(record: TrialRecord) -> str:
    return record.name or f"trial {record.id}"


def _alike(
    records: Sequence[TrialRecord], states: Collection[State]
) -> dict[_Settings, list[TrialRecord]]:
    """The trials in these states that have run an epoch, by their settings in effect without those
    of a repeat.
    """
    alike: dict[_Settings, list[TrialRecord]] = {}
    for record in records:
        if record.state in states and record.curve:
            alike.setdefault(_key(record, BY_REPEAT), []).append(record)
    return alike


def _best_first(records: Sequence[TrialRecord], states: Collection[State]) -> tuple[Candidate, ...]:
    """The configurations of all trials in these states that have run an epoch, best first."""
    expected = expected_scores(records)
    found = [
        Candidate(_name(trials[0]), tuple(trials)) for trials in _alike(records, states).values()
    ]
    scores = _without_luck_of_splits(found, lambda record: expected[record.id])
    return tuple(found[place] for place in np.argsort(-scores, kind="stable"))


def _without_luck_of_splits(
    found: Sequence[Candidate], score: Callable[[TrialRecord], float]
) -> NDArray[np.float64]:
    """The score of each candidate without the effect of its repeats' splits.

    Where all candidates have the same repeats it is their mean score. Otherwise each score is
    modelled as the sum of an effect of its candidate and one of its repeat, fitted by least
    squares, and the result is the effect of the candidate.
    """
    if len({frozenset(_repeat(record) for record in one.trials) for one in found}) <= 1:
        return np.array([np.mean([score(record) for record in one.trials]) for one in found])
    repeats = list(dict.fromkeys(_repeat(record) for one in found for record in one.trials))
    rows, scores = [], []
    for place, one in enumerate(found):
        for record in one.trials:
            row = np.zeros(len(found) + len(repeats))
            row[place] = row[len(found) + repeats.index(_repeat(record))] = 1
            rows.append(row)
            scores.append(score(record))
    effects: NDArray[np.float64] = np.linalg.lstsq(np.array(rows), np.array(scores))[0][
        : len(found)
    ]
    return effects


def _repeat(record: TrialRecord) -> tuple[int, int]:
    return int(record.settings["seed"]), int(record.settings["data.fold"])
