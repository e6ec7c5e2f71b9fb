"""The AP50 that settings like those of each trial reach, estimated from all trials together."""

from collections.abc import Mapping, Sequence

from tune.ledger.proposals import tried_of
from tune.ledger.records import TrialRecord
from tune.ledger.selections import Estimate
from tune.samplers.encoding import Encoding
from tune.samplers.surrogate import encoded_points, fit_surrogate
from tune.space.space import SearchSpace

MOST = 300
"""Largest number of trials that are compared. The time grows with the cube of their number."""


def posterior(space: SearchSpace, records: Sequence[TrialRecord]) -> Mapping[int, Estimate]:
    """The estimate of each trial that is complete or was stopped early, by number of the trial.

    A score is partly luck, and the best of many scores more than others. A Gaussian process weighs
    each trial's score against those of trials with similar settings, so a score that few others
    support is moved towards theirs. A stopped trial counts with the best score that it had and the
    median of what complete trials gained after the same epoch; the more these gains differ, the
    less it counts.

    Trials without an epoch, those that run and those that failed have no estimate. Where more than
    MOST trials have a score, only those with the highest scores have one. The result is empty for a
    study of variants, which has no space to compare settings in.
    """
    if not space.parameters:
        return {}
    scored = [
        (record.id, one)
        for record, one in zip(records, tried_of(records), strict=True)
        if one.score is not None
    ]
    if not scored:
        return {}
    scored = sorted(scored, key=lambda pair: -(pair[1].score or 0.0))[:MOST]
    encoding, tried = Encoding(space), [one for _, one in scored]
    means_N, sds_N = fit_surrogate(encoding, tried).estimates(encoded_points(encoding, tried))
    return {
        number: Estimate(float(mean), float(sd))
        for (number, _), mean, sd in zip(scored, means_N, sds_N, strict=True)
    }
