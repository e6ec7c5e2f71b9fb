"""Further seeds with their cost, or further images, that would decide open comparisons."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.config import SETTINGS
from tune.report.main_table import MainRow, repeat_of
from tune.report.trial_scores import ScoredTrial
from tune.request.request import StudyRequest
from tune.statistics.certainty import Difference, Repeat, Scored, Verdict, of_one_seed
from tune.statistics.choice import Choice
from tune.statistics.further import ENOUGH_SEEDS, images_to_decide, outlook, seeds_to_decide


@dataclass(frozen=True)
class Further:
    """The seeds or images that would decide an open comparison in 80% of cases.

    It is assumed that the true difference is the observed one.

    name            the row, candidate or trial
    compared_with   its counterpart
    difference      the difference of the two as it stands
    seeds       number of further seeds; None where no number of them would decide. One training of
                the search counts for nothing here: its trials are trained anew
    trainings   number of trainings with these seeds, of the whole table or all candidates, or of
                the two trials of a search; 0 where `seeds` is None
    hours       hours of these trainings one after the other, at the pace of the study's trainings
    images      number of further annotated images, or groups of them, that would decide with at
                least ENOUGH_SEEDS seeds; None where seeds alone do, or where MOST_TIMES_THE_IMAGES
                times the images would not
    """

    name: str
    compared_with: str
    difference: Difference
    seeds: int | None
    trainings: int
    hours: float
    images: int | None


def further_of(
    request: StudyRequest, rows: Sequence[MainRow], trials: Sequence[ScoredTrial], units: int
) -> tuple[Further, ...]:
    """The seeds or images for each open comparison of a table of variants, in the order of rows.

    trials   the trials of the search
    units    number of images of the whole data set, or of their groups

    A comparison is open if its verdict is "cannot tell".
    """
    by_number = {trial.record.id: trial for trial in trials}
    scores = {row.name: _scores([by_number[number] for number in row.trials]) for row in rows}
    still_open = [row for row in rows if _is_open(row.difference)]
    seconds = math.fsum(
        statistics.fmean(by_number[number].record.seconds for number in row.trials) for row in rows
    )
    found = []
    for row in still_open:
        assert row.difference is not None
        assert row.compared_with is not None
        pair = _Pair(row.name, row.compared_with, row.difference, len(still_open), len(rows))
        found.append(_further(request, pair, scores, units, seconds))
    return tuple(found)


def further_of_search(
    request: StudyRequest,
    rows: Sequence[MainRow],
    trials: Sequence[ScoredTrial],
    choice: Choice | None,
    confirm_trials: Sequence[ScoredTrial],
    units: int,
) -> tuple[Further, ...]:
    """The seeds or images that would tell the best of a sampled study from the next, if it is open.

    The best is the confirmed winner (`choice`), and the next the best candidate that cannot be told
    from it; without a confirmation these are trials, and a trial with the defaults of all searched
    settings follows. The arguments are those of `further_of`; a confirmation counts with all its
    seeds.
    """
    if choice is not None:
        scores = {
            name: _scores([one for one in confirm_trials if one.record.name == name])
            for name in choice.curves
        }
        alike = {name: one for name, one in choice.others.items() if _is_open(one)}
        if not alike or not all(scores[name] for name in (choice.name, *alike)):
            return ()
        runner_up = max(alike, key=lambda name: alike[name].estimate)
        number = len(choice.curves)
        seconds = number * statistics.fmean(one.record.seconds for one in confirm_trials)
        pair = _Pair(runner_up, choice.name, alike[runner_up], len(alike), number)
        return (_further(request, pair, scores, units, seconds),)
    by_number = {trial.record.id: trial for trial in trials}
    alike_rows = [row for row in rows[1:] if _is_open(row.difference)]
    asked = [
        row
        for place, row in enumerate(alike_rows)
        if not place or all(value == SETTINGS[name] for name, value in row.settings.items())
    ]
    found = []
    for row in asked:
        assert row.difference is not None
        both = [by_number[one.trials[0]] for one in (row, rows[0])]
        pair = _Pair(row.name, rows[0].name, row.difference, 1, 2, anew=True)
        of_pair = {row.name: _scores(both[:1]), rows[0].name: _scores(both[1:])}
        seconds = math.fsum(trial.record.seconds for trial in both)
        found.append(_further(request, pair, of_pair, units, seconds))
    return tuple(found)


def _is_open(difference: Difference | None) -> bool:
    """Whether a comparison has no verdict, and a standard error."""
    return (
        difference is not None
        and difference.verdict is Verdict.CANNOT_TELL
        and math.isfinite(difference.se)
    )


def _scores(trials: Sequence[ScoredTrial]) -> dict[Repeat, Scored]:
    return {repeat_of(one.record): one.scored for one in trials if one.scored is not None}


@dataclass(frozen=True)
class _Pair:
    """An open comparison, and what a further seed of it costs.

    open        number of open comparisons, which share one error rate
    trained     number of rows that are trained with each further seed
    anew        whether the two are trained anew, so that the seeds so far are not counted
    """

    name: str
    compared_with: str
    difference: Difference
    open: int
    trained: int
    anew: bool = False


def _further(
    request: StudyRequest,
    pair: _Pair,
    scores: Mapping[str, Mapping[Repeat, Scored]],
    units: int,
    seconds: float,
) -> Further:
    """The seeds or images for one comparison.

    units     number of images, or of their groups
    seconds   seconds of one training of each row, one after the other
    """
    folds = int(request.space.value("data.folds", {}))
    if not request.space.variants and not pair.anew:
        folds = request.confirm.folds
    own, other = scores[pair.name], scores[pair.compared_with]
    both = [repeat for repeat in own if repeat in other]
    found = outlook(
        [own[repeat] for repeat in both],
        [other[repeat] for repeat in both],
        pair.difference,
        of_one_seed(scores, pair.name, pair.compared_with),
        folds,
        float(request.space.value("data.validation_fraction", {})),
    )
    compared = pair.name, pair.compared_with, pair.difference
    needed, times = seeds_to_decide(found, pair.open), images_to_decide(found, pair.open)
    if needed is None and times == 1 and found.seeds < ENOUGH_SEEDS:
        # Very many seeds leave the few degrees of freedom of the images alone, and decide less.
        needed = ENOUGH_SEEDS
    if needed is not None:
        seeds = needed if pair.anew else needed - found.seeds
        repeats = seeds * max(folds, 1)
        return Further(*compared, seeds, repeats * pair.trained, repeats * seconds / 3600, None)
    images = None if times is None else math.ceil((times - 1) * units)
    return Further(*compared, None, 0, 0.0, images)
