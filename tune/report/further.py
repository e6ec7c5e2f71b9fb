"""Further seeds with their cost, or further images, that would decide open comparisons."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune.report.main_table import MainRow, repeat_of
from tune.report.trial_scores import ScoredTrial
from tune.request.request import StudyRequest
from tune.statistics.certainty import Repeat, Scored, Verdict, of_one_seed
from tune.statistics.further import Outlook, images_to_decide, outlook, seeds_to_decide


@dataclass(frozen=True)
class Further:
    """The seeds or images that would decide an open comparison in 80% of cases.

    It is assumed that the true difference is the observed one.

    row         the row, with its difference to its counterpart
    seeds       number of further seeds; None where no number of them would decide
    trainings   number of trainings of the whole table with these seeds; 0 where `seeds` is None
    hours       hours of these trainings one after the other, at the pace of the study's trainings
    images      number of further annotated images, or groups of them, that would decide with at
                least ENOUGH_SEEDS seeds; None where seeds alone do, or where MOST_TIMES_THE_IMAGES
                times the images would not
    """

    row: MainRow
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

    A comparison is open if its verdict is "cannot tell". A sampled study has none.
    """
    by_number = {trial.record.id: trial for trial in trials}
    scores: dict[str, dict[Repeat, Scored]] = {
        row.name: {
            repeat_of(trial.record): trial.scored
            for number in row.trials
            if (trial := by_number[number]).scored is not None
        }
        for row in rows
    }
    still_open = [
        row
        for row in rows
        if row.difference is not None
        and row.verdict == Verdict.CANNOT_TELL
        and math.isfinite(row.difference.se)
    ]
    if not request.space.variants or not still_open:
        return ()
    hours = math.fsum(
        statistics.fmean(by_number[number].record.seconds for number in row.trials) / 3600
        for row in rows
    )
    return tuple(
        _further(request, row, _outlook(request, row, scores), len(still_open), units, hours)
        for row in still_open
    )


def _outlook(
    request: StudyRequest, row: MainRow, scores: Mapping[str, Mapping[Repeat, Scored]]
) -> Outlook:
    """The state of a row's comparison, from which the seeds and images that it needs follow."""
    assert row.difference is not None
    assert row.compared_with is not None
    own, other = scores[row.name], scores[row.compared_with]
    both = [repeat for repeat in own if repeat in other]
    return outlook(
        [own[repeat] for repeat in both],
        [other[repeat] for repeat in both],
        row.difference,
        of_one_seed(scores, row.name, row.compared_with),
        int(request.space.value("data.folds", {})),
        float(request.space.value("data.validation_fraction", {})),
    )


def _further(
    request: StudyRequest,
    row: MainRow,
    found: Outlook,
    comparisons: int,
    units: int,
    hours: float,
) -> Further:
    """The seeds or images for one comparison.

    comparisons   number of open comparisons of the table
    units         number of images, or of their groups
    hours         hours of one training of each row, one after the other
    """
    needed = seeds_to_decide(found, comparisons)
    if needed is not None:
        seeds, each = needed - found.seeds, max(int(request.space.value("data.folds", {})), 1)
        trainings = seeds * each * len(request.space.variants)
        return Further(row, seeds, trainings, seeds * each * hours, None)
    times = images_to_decide(found, comparisons)
    images = None if times is None else math.ceil((times - 1) * units)
    return Further(row, None, 0, 0.0, images)
