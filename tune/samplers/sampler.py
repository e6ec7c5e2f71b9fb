"""The protocol of a sampler, and the table of samplers.

To add a sampler, write a class like those beside this file and give it a row in `SAMPLERS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from core.config import Value
from core.extensions import Parts
from tune.space.space import SearchSpace


class Outcome(StrEnum):
    """The outcome of a trial so far."""

    RUNS = "runs"
    COMPLETE = "complete"
    STOPPED = "stopped early"
    FAILED = "failed"


@dataclass(frozen=True)
class Tried:
    """A trial as a sampler sees it.

    params     its searched settings, active ones only
    settings   every setting, flat names
    outcome    whether it runs, or how it ended
    curve      AP50 after each epoch so far
    score      AP50 of its best epoch if it is complete; the AP50 that it might have reached if it
               was stopped early (see `tune.stopping.hope.expected_gain`); else None
    variance   known part of the variance of the score as an estimate of the AP50 that settings like
               these reach: the part due to images on which trials differ, and that due to the
               unknown gain of a stopped trial. The part due to the seed is not in it
    elsewhere  whether it is a trial of another study, whose settings may well be tried here
    """

    params: Mapping[str, Value]
    settings: Mapping[str, Value]
    outcome: Outcome = Outcome.RUNS
    curve: Sequence[float] = ()
    score: float | None = None
    variance: float = 0.0
    elsewhere: bool = False


class Sampler(Protocol):
    """Chooses the settings of the next trial. It keeps no state: equal arguments, equal proposal.

    exhausts   whether it proposes every point of a space exactly once, also where the space has
               grown since some were tried. With such a sampler ranges need a step, and the study
               has as many trials as the space has points
    takes_history   whether trials of another study tell it something; a sampler that does not say
                    is never shown any
    """

    exhausts: bool
    takes_history: bool

    def propose(
        self, space: SearchSpace, given: Mapping[str, Value], tried: Sequence[Tried], seed: int
    ) -> dict[str, Value]:
        """The params of the next trial: a value for each parameter that is active.

        given   settings that the trial has whatever the sampler would choose: those of a start
                point, or a value that was added to the space
        tried   all earlier trials, in the order of their numbers; before them the trials of
                another study, if the sampler takes any (see `tune.samplers.elsewhere`)
        seed    seed of all that is random in the proposal; each trial of a study has another
        """


SAMPLERS = Parts[type[Sampler]](
    "sampler",
    "cell_tune.samplers",
    {
        "gp": "tune.samplers.gaussian:GaussianProcess",
        "tpe": "tune.samplers.tpe:TreeParzen",
        "random": "tune.samplers.at_random:AtRandom",
        "grid": "tune.samplers.grid:Grid",
    },
)
"""All samplers, by the values of `search.sampler`."""
