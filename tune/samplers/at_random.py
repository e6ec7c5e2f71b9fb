"""Settings drawn at random, by Optuna's RandomSampler."""

from collections.abc import Mapping, Sequence

import optuna

from core.config import Value
from tune.samplers import view
from tune.samplers.sampler import Tried
from tune.space.space import SearchSpace


class AtRandom:
    """Draws each active parameter from its domain, whatever was tried before."""

    exhausts = False
    takes_history = False

    def propose(
        self,
        space: SearchSpace,
        given: Mapping[str, Value],
        tried: Sequence[Tried],  # noqa: ARG002
        seed: int,
    ) -> dict[str, Value]:
        """A random point of the space, with the values that are given."""
        return view.propose(optuna.samplers.RandomSampler(seed), space, given)
