"""Optuna's Gaussian process, also in a conditional space."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import optuna
import torch
from optuna.trial import TrialState, create_trial

from core.config import Value
from tune.samplers import view
from tune.samplers.encoding import value_inside
from tune.samplers.sampler import Tried
from tune.samplers.tpe import TreeParzen
from tune.space.space import SearchSpace

STARTUP = 10
"""Number of trials with a score that the Gaussian process needs; with fewer, settings are random.
"""

MOST_TRIED = 100
"""Largest number of earlier trials with which the Gaussian process is used. The time of a proposal
grows with their cube (0.15 s at 100). With more of them TPE goes on, which takes next to none."""


class GaussianProcess:
    """Optuna's GPSampler over all parameters of a space at once, conditional ones too.

    Where a parameter is not active, its setting has a fixed value, and the process is shown that
    value; values that it proposes for inactive parameters are not used. Trials without a score,
    failed ones included, are shown as running: the process then looks elsewhere, and no score is
    invented for them. A point that this study tried before is not proposed again; a random one
    takes its place.
    """

    exhausts = False
    takes_history = True

    def propose(
        self, space: SearchSpace, given: Mapping[str, Value], tried: Sequence[Tried], seed: int
    ) -> dict[str, Value]:
        """The process's point; a random one below STARTUP scores, TPE's above MOST_TRIED trials."""
        if len(tried) > MOST_TRIED:
            return TreeParzen().propose(space, given, tried, seed)
        at_random = optuna.samplers.RandomSampler(seed=seed)
        return view.propose(at_random, space, {**proposal(space, tried, seed), **given})


def proposal(space: SearchSpace, tried: Sequence[Tried], seed: int) -> dict[str, Value]:
    """A value for each parameter, active or not; empty where the next point is left to chance."""
    if sum(one.score is not None for one in tried) < STARTUP:
        return {}
    known = view.distributions(space)
    # The params win: where `auto` was chosen they say so, and the settings hold its number.
    shown = [_shown(space, {**one.settings, **one.params}) for one in tried]
    sampler = optuna.samplers.GPSampler(
        seed=seed,
        n_startup_trials=STARTUP,
        independent_sampler=optuna.samplers.RandomSampler(seed=seed),
    )
    trials = [
        create_trial(
            state=TrialState.RUNNING if one.score is None else TrialState.COMPLETE,
            value=one.score,
            params=params,
            distributions=known,
        )
        for params, one in zip(shown, tried, strict=True)
    ]
    study = view.study_with(sampler, trials)
    with _one_thread():
        proposed = study.ask(known).params
    active = space.sample(lambda name, _: proposed[name])
    own = [params for params, one in zip(shown, tried, strict=True) if not one.elsewhere]
    return {} if _shown(space, active) in own else proposed


def _shown(space: SearchSpace, settings: Mapping[str, Value]) -> dict[str, Value]:
    """The values of all parameters that the process is shown for these settings, or params."""
    return {
        one.name: value_inside(one.domain, space.value(one.name, settings))
        for one in space.parameters
    }


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block.

    On matrices this small two threads wait for each other, and take 2.5 times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
