"""The settings of a study's next trial, before it is in the ledger."""

import functools
from collections.abc import Sequence

import numpy as np

from core.errors import ExtensionError
from tune.ledger.records import Point, State, TrialRecord
from tune.request.request import StudyRequest
from tune.samplers.sampler import SAMPLERS, Outcome, Tried
from tune.stopping.hope import expected_gain

_SAMPLER_STREAM = 1
_OUTCOMES = {
    State.RUNNING: Outcome.RUNS,
    State.COMPLETE: Outcome.COMPLETE,
    State.PRUNED: Outcome.STOPPED,
    State.FAIL: Outcome.FAILED,
}


def next_point(request: StudyRequest, records: Sequence[TrialRecord]) -> Point:
    """The trial that follows these: the next row of the variants, or a proposal of the sampler.

    The sampler's seed is made of the study's seed and the trial's number, so that a study that goes
    on after a crash proposes what it would have proposed without one.
    """
    space, number = request.space, len(records)
    if space.variants:
        row = space.rows()[number]
        return Point(row.name, row.params, row.config.settings())
    seed = np.random.default_rng([request.search.seed, _SAMPLER_STREAM, number]).integers(2**32)
    given = space.start[number] if number < len(space.start) else {}
    name = request.search.sampler
    with SAMPLERS.calling(name):
        params = request.sampler.propose(space, given, _tried(records), int(seed))
    if not space.holds(params):
        raise ExtensionError(
            f"the sampler {name!r} proposed {params!r:.300}, which is no point of the space;"
            " mend its package, or choose another"
        )
    return Point("", params, space.resolve(params).settings())


def _tried(records: Sequence[TrialRecord]) -> list[Tried]:
    """The trials as a sampler sees them."""
    complete = [record.curve for record in records if record.state is State.COMPLETE]
    gain = functools.cache(functools.partial(expected_gain, complete))

    def score(record: TrialRecord) -> float | None:
        if record.state is State.PRUNED and record.epochs:
            return max(record.curve) + gain(len(record.curve), record.planned_epochs)
        return record.ap50 if record.state is State.COMPLETE else None

    return [
        Tried(one.params, one.settings, _OUTCOMES[one.state], one.curve, score(one))
        for one in records
    ]


def preview(request: StudyRequest, count: int) -> list[TrialRecord]:
    """The first `count` trials of a study, as they would be started if none had a result."""
    records: list[TrialRecord] = []
    for number in range(min(count, request.planned_trials)):
        point = next_point(request, records)
        records.append(
            TrialRecord(number, point.name, params=point.params, settings=point.settings)
        )
    return records
