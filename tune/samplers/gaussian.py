"""Which settings are tried next: Optuna's Gaussian process, shown every trial of a space that may be conditional."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from core.config import Value
from tune.space.space import Choices, Domain, FloatRange, SearchSpace

STARTUP = 10
"""Trials with a result before which settings are drawn at random."""

MOST = 100
"""Trials before the one that a Gaussian process proposes. What it costs grows with their cube (0.15 s at 100); TPE,
which costs next to nothing, goes on from there."""


@dataclass(frozen=True)
class Tried:
    """What a sampler learns of a trial.

    settings   every setting, flat names
    score      what it reached, or what it might have reached where it was stopped early; None where the result is out
    """

    settings: Mapping[str, Value]
    score: float | None


class GaussianProcess(optuna.samplers.BaseSampler):
    """Optuna's GPSampler over all parameters of a space at once, conditional ones too.

    Where a parameter is not active its setting has a fixed value, and that is what the process is shown; of what it
    proposes, inactive settings are not asked for. Trials without a score are shown as still running, failed ones too:
    the process looks elsewhere, and nobody invents a score for them.

    domains   what is drawn from, by parameter
    tried     the other trials, asked for when settings are drawn
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
        """A value for each parameter; none where too little is known, or where the proposal has been tried."""
        tried = self._tried()
        if sum(one.score is not None for one in tried) < STARTUP:
            return {}
        shown = [{name: _inside(domain, one.settings[name]) for name, domain in self._domains.items()} for one in tried]
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
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value at random."""
        return self._at_random.sample_independent(study, trial, param_name, param_distribution)

    def _without_inactive(self, proposed: Mapping[str, Value]) -> dict[str, Value]:
        """What the process would be shown of the trial that comes of a proposal."""
        active = self._space.sample(lambda name, _: proposed[name])
        return {name: _inside(domain, self._space.value(name, active)) for name, domain in self._domains.items()}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The process's matrices are so small that torch's threads wait for each other: with two, 2.5 times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tree_parzen(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's TPE. `group` samples settings that are conditional on others jointly with those, else one by one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def distribution(domain: Domain) -> BaseDistribution:
    """A domain as Optuna has it."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, FloatRange):
        return FloatDistribution(domain.low, domain.high, step=domain.step, log=domain.log)
    return IntDistribution(domain.low, domain.high, step=domain.step, log=domain.log)


def _inside(domain: Domain, value: Value) -> Value:
    """The value itself, or one of the domain that stands for it: a setting that is not active may have any."""
    if value in domain:
        return value
    if isinstance(domain, Choices):
        return domain.values[0]
    near = min(max(cast(float, value), domain.low), domain.high) if not isinstance(value, str) else domain.low
    if domain.step is None:
        return near
    step = domain.low + round((near - domain.low) / domain.step) * domain.step
    return int(step) if isinstance(domain.low, int) else min(step, domain.high)
