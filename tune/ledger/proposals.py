"""The settings of a study's next trial, before it is in the ledger."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from optuna.distributions import BaseDistribution

from core.config import Value
from core.errors import ExtensionError
from tune.ledger.growth import added_value
from tune.ledger.records import Point, State, TrialRecord
from tune.ledger.warm_start import WarmStart
from tune.request.request import StudyRequest
from tune.samplers.sampler import SAMPLERS, Outcome, Tried
from tune.space.space import BY_REPEAT, SearchSpace, VariantRepeat
from tune.stopping.hope import expected_gain, gain_variance

_SAMPLER_STREAM, _RULES_STREAM = 1, 2
_ASKED, _DRAWN = 5, 50
"""Largest number of proposals of the sampler, and then of random points, that may be forbidden."""
CHECKS = 6
"""Number of trials after the start points of which every other one is proposed as if the sampler
had no history of another study. Their scores show whether the history holds here: those at its best
points alone could not."""
_OUTCOMES = {
    State.RUNNING: Outcome.RUNS,
    State.COMPLETE: Outcome.COMPLETE,
    State.PRUNED: Outcome.STOPPED,
    State.FAIL: Outcome.FAILED,
}


def next_point(
    request: StudyRequest,
    records: Sequence[TrialRecord],
    drawn: Sequence[Mapping[str, BaseDistribution]] = (),
    warm: WarmStart | None = None,
) -> Point:
    """The next trial: the first missing row of the variants, or else the sampler's proposal.

    drawn   the distributions of the records' params, where the space may have grown since
    warm    what the study took from another one when it began; None where it began without

    The sampler's seed is made of the study's seed and the trial's number, so that a study that goes
    on after a crash has the proposals that it would have had without one. Raises ExtensionError
    where a sampler of another package fails or proposes no point of the space.
    """
    space, number = request.space, len(records)
    if space.variants:
        row = next(missing_rows(space, records))
        return Point(row.name, row.params, row.config.settings())
    seed = np.random.default_rng([request.search.seed, _SAMPLER_STREAM, number]).integers(2**32)
    given: Mapping[str, Value] = added_value(space, drawn, int(seed))
    starts, start = _start_points(space, warm), ""
    if number < len(starts):
        given, start = starts[number]
    name = request.search.sampler
    tried = [*_history(request, records, len(starts), warm), *tried_of(records)]
    params = _allowed(request, given, tried, int(seed))
    if not space.holds(params):
        raise ExtensionError(
            f"the sampler {name!r} proposed {params!r:.300}, which is no point of the space;"
            " mend its package, or choose another"
        )
    return Point("", params, space.resolve(params).settings(), start)


def _start_points(
    space: SearchSpace, warm: WarmStart | None
) -> list[tuple[Mapping[str, Value], str]]:
    """The points that are tried first, each with a few words on where it is from: those of the
    space file, then those of another study.
    """
    points = [(point, f"space file, point {place}") for place, point in enumerate(space.start, 1)]
    if warm is None:
        return points
    for one in warm.start:
        if all(dict(point) != dict(one.params) for point, _ in points):
            points.append((one.params, f"study {warm.study}, trial {one.trial}"))
    return points


def _history(
    request: StudyRequest, records: Sequence[TrialRecord], starts: int, warm: WarmStart | None
) -> list[Tried]:
    """The trials of another study that the sampler is shown for the next trial.

    starts   number of start points
    """
    if warm is None or not getattr(request.sampler, "takes_history", False):
        return []
    since = len(records) - starts
    if 0 <= since < CHECKS and since % 2 == 0:
        return []
    from tune.samplers.elsewhere import believed  # brings SciPy; a first screen does without

    return believed(request.space, warm.tried(request.space), tried_of(records))


def _allowed(
    request: StudyRequest, given: Mapping[str, Value], tried: Sequence[Tried], seed: int
) -> dict[str, Value]:
    """The sampler's proposal, or another if that is forbidden.

    The sampler is asked again with other seeds. If all its proposals are forbidden, random points
    are drawn. If these are forbidden too, one of the combinations that the rules leave is taken.
    """
    space, sampler, at_random = request.space, request.sampler, SAMPLERS["random"]()
    for attempt in range(_ASKED if space.forbid else 1):
        with SAMPLERS.calling(request.search.sampler):
            params = sampler.propose(space, given, tried, (seed + attempt) % 2**32)
            if not space.forbid or space.forbidden_by(params) is None:
                return params
    for attempt in range(_DRAWN):
        params = at_random.propose(space, given, tried, (seed + attempt) % 2**32)
        if space.forbidden_by(params) is None:
            return params
    left = space.pinned(given).of_rules.grid() or space.of_rules.grid()
    rng = np.random.default_rng([seed, _RULES_STREAM])
    combination = left[int(rng.integers(len(left)))]
    return at_random.propose(space, {**given, **combination}, tried, seed)


def missing_rows(space: SearchSpace, records: Sequence[TrialRecord]) -> Iterator[VariantRepeat]:
    """The trials of a study of variants that are not among its records, in the order of the rows.

    Where a study asked for more variants or seeds later, its existing trials keep their order.
    """
    there = {_row_and_repeat(record.name, record.settings) for record in records}
    return (
        row for row in space.rows() if _row_and_repeat(row.name, row.config.settings()) not in there
    )


def as_planned(space: SearchSpace, records: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Records in the order of a study that asked for all of them from the start."""
    if not space.variants:
        return tuple(records)
    places = {
        _row_and_repeat(row.name, row.config.settings()): at for at, row in enumerate(space.rows())
    }
    last = len(places)
    return tuple(
        sorted(records, key=lambda one: places.get(_row_and_repeat(one.name, one.settings), last))
    )


def _row_and_repeat(name: str, settings: Mapping[str, Value]) -> tuple[Value | None, ...]:
    """A variant's name, and the settings that tell its repeats apart."""
    return name, *(settings.get(one) for one in BY_REPEAT)


def tried_of(records: Sequence[TrialRecord]) -> list[Tried]:
    """The trials as a sampler sees them."""
    complete = [record.curve for record in records if record.state is State.COMPLETE]
    gain = functools.cache(functools.partial(expected_gain, complete))
    spread = functools.cache(functools.partial(gain_variance, complete))
    of_images = _image_variances(records)

    def seen(record: TrialRecord) -> Tried:
        score, variance = None, of_images.get(record.id, 0.0)
        if record.state is State.COMPLETE:
            score = record.ap50
        elif record.state is State.PRUNED and record.epochs:
            score = max(record.curve) + gain(len(record.curve), record.planned_epochs)
            variance += spread(len(record.curve), record.planned_epochs)
        outcome = _OUTCOMES[record.state]
        return Tried(record.params, record.settings, outcome, record.curve, score, variance)

    return [seen(record) for record in records]


def _image_variances(records: Sequence[TrialRecord]) -> dict[int, float]:
    """The variance of each trial's score that is due to images, by number of the trial.

    The mean pull of all trials is subtracted from the pulls of each, because trials of a search
    have the same validation images, and a pull that all scores share does not change their order.
    Trials whose pulls are not known are left out, and all are where their numbers of pulls differ.
    """
    known = {one.id: one.pulls[one.best_epoch - 1] for one in records if one.best_epoch}
    known = {number: pulls for number, pulls in known.items() if pulls}
    if len({len(pulls) for pulls in known.values()}) != 1:
        return {}
    pulls_TU = np.array(list(known.values()))
    apart_T = np.square(pulls_TU - pulls_TU.mean(axis=0)).sum(axis=1)
    return dict(zip(known, apart_T.tolist(), strict=True))


def preview(request: StudyRequest, count: int, warm: WarmStart | None = None) -> list[TrialRecord]:
    """The first `count` trials of a study, as they would be started if none had a result.

    warm   what the study takes from another one
    """
    records: list[TrialRecord] = []
    for number in range(min(count, request.planned_trials)):
        point = next_point(request, records, warm=warm)
        records.append(
            TrialRecord(
                number,
                point.name,
                params=point.params,
                settings=point.settings,
                start=point.start,
            )
        )
    return records
