"""The AP50 that settings like those of each trial reach, estimated from all trials together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune.ledger.proposals import tried_of
from tune.ledger.records import TrialRecord
from tune.samplers.encoding import Encoding
from tune.samplers.surrogate import encoded_points, fit_surrogate
from tune.space.space import SearchSpace


@dataclass(frozen=True)
class Estimate:
    """The AP50 that a training on a trial's settings reaches: its mean and standard deviation.

    The deviation says how uncertain the mean is; the luck of a further training is not in it.
    """

    mean: float
    sd: float


def posterior(space: SearchSpace, records: Sequence[TrialRecord]) -> Mapping[int, Estimate]:
    """The estimate of each trial that is complete or was stopped early, by number of the trial.

    A score is partly luck, and the best of many scores more than others. A Gaussian process weighs
    each trial's score against those of trials with similar settings, so a score that few others
    support is moved towards theirs. Ordering trials by `mean` is not shown to find better ones than
    ordering them by score (results/LOG.md).

    Trials without an epoch, those that run and those that failed have no estimate. The result is
    empty for a study of variants, which has no space to compare settings in.
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
    encoding, tried = Encoding(space), [one for _, one in scored]
    means_N, sds_N = fit_surrogate(encoding, tried).estimates(encoded_points(encoding, tried))
    return {
        number: Estimate(float(mean), float(sd))
        for (number, _), mean, sd in zip(scored, means_N, sds_N, strict=True)
    }
