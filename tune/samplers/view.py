"""The trials of a study as an Optuna study in memory, which is shown to Optuna's samplers.

A view is made anew for each proposal, so the proposal depends on the trials alone, whatever the
database holds about them, and the domains of all trials are those of the space as it is now.
"""

from collections.abc import Container, Mapping, Sequence
from typing import cast

import optuna
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

optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(
    sampler: optuna.samplers.BaseSampler,
    space: SearchSpace,
    given: Mapping[str, Value],
    trials: Sequence[FrozenTrial] = (),
) -> dict[str, Value]:
    """The params that one of Optuna's samplers proposes after these trials.

    given   settings that the proposal has whatever the sampler would choose; those that are no
            active parameter are ignored
    """
    study = study_with(sampler, trials)
    if given:
        study.enqueue_trial(dict(given))
    trial = study.ask()

    def suggest(name: str, domain: Domain) -> Value:
        if isinstance(domain, Choices):
            return cast(Value, trial.suggest_categorical(name, domain.values))
        if isinstance(domain, FloatRange):
            drawn = trial.suggest_float(
                name, domain.low, domain.high, step=domain.step, log=domain.log
            )
            return domain.nearest(drawn)
        return trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)

    return space.sample(suggest)


def study_with(sampler: optuna.samplers.BaseSampler, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """A study in memory that shows these trials to a sampler."""
    return optuna.create_study(direction="maximize", sampler=sampler, storage=_Shown(trials))


class _Shown(optuna.storages.InMemoryStorage):
    """A storage whose study begins with given trials.

    `Study.add_trials` copies each trial with its distributions, which took most of the time of a
    proposal after 1,000 trials.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._shown = list(trials)
        for number, trial in enumerate(self._shown, start=1):  # 0 is the trial that is asked for
            trial.number = number

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The given trials, never copied, and those that were asked for since."""
        shown = [one for one in self._shown if states is None or one.state in states]
        return [*shown, *super().get_all_trials(study_id, deepcopy, states)]


def distribution(domain: Domain) -> BaseDistribution:
    """The Optuna distribution of a domain."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, FloatRange):
        return FloatDistribution(domain.low, domain.high, step=domain.step, log=domain.log)
    return IntDistribution(domain.low, domain.high, step=domain.step, log=domain.log)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The distribution of each parameter of a space."""
    return {one.name: distribution(one.domain) for one in space.parameters}
