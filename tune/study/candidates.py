"""The candidates of a confirmation, and the trials that are continued to make them complete.

A trial that was stopped early is paused, not lost: it may still be one of the best, because it was
stopped on few epochs and noisy scores. So when all trials of a search have ended, the best
configurations are chosen among complete and stopped trials alike, by the score that each is
expected to have at its last epoch. Their stopped trials go on to their last epoch. The candidates
are then the best among all complete trials.

All of this is read off the ledger's trials as early stopping left them. So a study that is
continued after a crash chooses the same trials.
"""

import functools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.config import Value
from tune.ledger.records import State, TrialRecord, best_of, settings_key
from tune.request.request import StudyRequest
from tune.space.space import BY_REPEAT
from tune.stopping.hope import expected_gain
from tune.study.learned import nothing_learned

SPARE = 2
"""While the search runs, the checkpoints of the best configurations are kept, this number times
`confirm.top` of them. The order of trials that have ended changes little when others end."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that did well in the search.

    name      name of the variant, or `trial 12`
    trials    the complete trials of the search with this configuration in effect, in the order of
              their numbers; the trials of a variant differ in seed, split and fold
    """

    name: str
    trials: tuple[TrialRecord, ...]

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


def candidates(records: Sequence[TrialRecord], request: StudyRequest) -> tuple[Candidate, ...]:
    """The candidates of a search, best first, at most `confirm.top`, among its complete trials.

    Trials that differ in nothing but seed, split and settings without effect are one candidate.
    There are no candidates where nothing was learned, since training again would confirm nothing.
    Where some repeats of a variant failed, its score is corrected for the splits of these repeats.
    """
    if nothing_learned(records):
        return ()
    return _best_first(records, (State.COMPLETE,))[: request.confirm.top]


def to_continue(records: Sequence[TrialRecord], request: StudyRequest) -> tuple[int, ...]:
    """Numbers of the stopped trials that go on before the confirmation of a finished search.

    They are the stopped trials of the best `confirm.top` configurations.
    """
    if nothing_learned(records):
        return ()
    stopped = {record.id for record in records if record.state is State.PRUNED}
    return tuple(number for number in _paused(records, request.confirm.top) if number in stopped)


def may_be_continued(records: Sequence[TrialRecord], request: StudyRequest) -> frozenset[int]:
    """Numbers of the stopped trials that `to_continue` may still choose when more trials have
    ended. Their checkpoints are kept.
    """
    return frozenset(_paused(records, SPARE * request.confirm.top))


def continued_names(records: Sequence[TrialRecord]) -> dict[str, int]:
    """The epoch after which a trial was continued, by the name of its configuration."""
    return {
        one.name: one.continued_after
        for one in _best_first(records, (State.COMPLETE,))
        if one.continued_after is not None
    }


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


def _paused(records: Sequence[TrialRecord], best: int) -> list[int]:
    """Numbers of the trials of the `best` configurations that early stopping stopped, those that
    were continued since included.

    A trial is left out if it would repeat another, complete or stopped, that has the same settings
    in effect, seed and split included.
    """
    found = _best_first([record.as_stopped for record in records], (State.COMPLETE, State.PRUNED))
    paused: list[int] = []
    for one in found[:best]:
        alike: dict[tuple[tuple[str, Value], ...], TrialRecord] = {}
        for record in one.trials:
            known = alike.setdefault(_key(record), record)
            if record.state is State.COMPLETE and known.state is State.PRUNED:
                alike[_key(record)] = record
        paused += [record.id for record in alike.values() if record.state is State.PRUNED]
    return paused


def _key(record: TrialRecord, without: Sequence[str] = ()) -> tuple[tuple[str, Value], ...]:
    return settings_key(record.in_effect, without)


def _best_first(records: Sequence[TrialRecord], states: Collection[State]) -> tuple[Candidate, ...]:
    """The configurations of all trials in these states that have run an epoch, best first."""
    expected = expected_scores(records)
    alike: dict[tuple[tuple[str, Value], ...], list[TrialRecord]] = {}
    for record in records:
        if record.state in states and record.id in expected:
            alike.setdefault(_key(record, BY_REPEAT), []).append(record)
    found = [
        Candidate(trials[0].name or f"trial {trials[0].id}", tuple(trials))
        for trials in alike.values()
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
