"""The choice of the next trial's settings by Optuna's Gaussian process, also in a conditional
space.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from core.config import Value
from tune.space.domains import Choices, Domain, FloatRange
from tune.space.space import SearchSpace

STARTUP = 10
"""Number of trials with a score before which settings are drawn at random."""

MOST = 100
"""Largest number of earlier trials with which the Gaussian process is used. Its cost grows with
their cube (0.15 s at 100); beyond, TPE, which costs next to nothing, takes over."""


@dataclass(frozen=True)
class Tried:
    """A trial as a sampler sees it.

    settings   every setting, flat names
    score      the trial's AP50, or what it might have reached if it was stopped early; None while
               there is no result
    """

    settings: Mapping[str, Value]
    score: float | None


class GaussianProcess(optuna.samplers.BaseSampler):
    """Optuna's GPSampler over all parameters of a space at once, conditional ones too.

    Where a parameter is not active, its setting has a fixed value, and the process is shown that
    value; values that it proposes for inactive parameters are not used. Trials without a score,
    failed ones included, are shown as still running: the process then looks elsewhere, and no score
    is invented for them.

    domains   the domain of each parameter
    tried     returns the other trials; called when settings are drawn
    """

    def __init__(
        self,
        seed: int,
        space: SearchSpace,
        domains: Mapping[str, Domain],
        tried: Callable[[], Sequence[Tried]],
    ) -> None:
        self._seed, self._space, self._tried = seed, space, tried
        self._domains = domains
        self._at_random = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002  # Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """All parameters, active or not."""
        return {name: distribution(domain) for name, domain in self._domains.items()}

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """A value for each parameter; empty where fewer than STARTUP trials have a score or the
        proposal was tried.
        """
        tried = self._tried()
        if sum(one.score is not None for one in tried) < STARTUP:
            return {}
        shown = [
            {name: _inside(domain, one.settings[name]) for name, domain in self._domains.items()}
            for one in tried
        ]
        process = optuna.samplers.GPSampler(
            seed=self._seed, n_startup_trials=STARTUP, independent_sampler=self._at_random
        )
        view = optuna.create_study(direction="maximize", sampler=process)
        for params, one in zip(shown, tried, strict=True):
            view.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING if one.score is None else TrialState.COMPLETE,
                    value=one.score,
                    params=params,
                    distributions=search_space,
                )
            )
        with _one_thread():
            proposed = view.ask(search_space).params
        return {} if self._without_inactive(proposed) in shown else proposed

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value at random."""
        return self._at_random.sample_independent(study, trial, param_name, param_distribution)

    def _without_inactive(self, proposed: Mapping[str, Value]) -> dict[str, Value]:
        """The values with which the process would be shown a trial made from this proposal."""
        active = self._space.sample(lambda name, _: proposed[name])
        return {
            name: _inside(domain, self._space.value(name, active))
            for name, domain in self._domains.items()
        }


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread of torch: on matrices this small two threads wait for each other and take
    2.5 times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tree_parzen(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's TPE.

    `group` samples a conditional setting jointly with its parents; without it, by itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True
        )


def distribution(domain: Domain) -> BaseDistribution:
    """The Optuna distribution of a domain."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, FloatRange):
        return FloatDistribution(domain.low, domain.high, step=domain.step, log=domain.log)
    return IntDistribution(domain.low, domain.high, step=domain.step, log=domain.log)


def _inside(domain: Domain, value: Value) -> Value:
    """The value itself, or a value of the domain that stands for it: an inactive setting may lie
    outside its domain.
    """
    if value in domain:
        return value
    if isinstance(domain, Choices):
        return domain.values[0]
    near = (
        min(max(cast(float, value), domain.low), domain.high)
        if not isinstance(value, str)
        else domain.low
    )
    if domain.step is None:
        return near
    step = domain.low + round((near - domain.low) / domain.step) * domain.step
    return int(step) if isinstance(domain.low, int) else min(step, domain.high)
