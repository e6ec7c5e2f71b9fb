"""The trials of another study from which a study began, as its ledger stores them.

They are one attribute of the Optuna study, `warm_start`, and so written in one transaction, before
the first trial. From then on the other study is never looked at again: it may grow, move or be
deleted, and this study goes on as it would have.

Trials of the other study are no trials of this one. They are not among its records, so no budget,
table, verdict, early stopping or confirmation counts them. They do two things: the best of their
configurations are start points, and the sampler is shown those whose scores compare.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from core.config import SETTINGS, Value
from core.text import many
from tune.ledger.damage import damaged
from tune.samplers.sampler import Outcome, Tried
from tune.space.space import SearchSpace

WARM_KEY = "warm_start"
"""Name of the user attribute of the study."""


@dataclass(frozen=True)
class StartPoint:
    """A configuration of the other study that is among the first proposals of this one.

    trial    number of its trial there
    params   the params of a point of this study's space
    """

    trial: int
    params: Mapping[str, Value]


@dataclass(frozen=True)
class TakenTrial:
    """A trial of the other study that the sampler is shown.

    trial      number of the trial there
    params     the params of a point of this study's space
    stopped    whether it was stopped early; else it is complete
    curve      AP50 after each epoch
    score      AP50 as a sampler sees it (see `tune.samplers.sampler.Tried`)
    variance   known part of the variance of the score
    """

    trial: int
    params: Mapping[str, Value]
    stopped: bool
    curve: tuple[float, ...]
    score: float
    variance: float = 0.0


@dataclass(frozen=True)
class WarmStart:
    """All that a study took from another one when it began.

    study       name of the other study
    place       its folder, or the address of its ledger without secrets
    start       start points, the best first
    history     trials that the sampler is shown, those that it is shown longest first
    weights     the hashes of the pretrained weights of the other study's trials, as its facts have
                them; the history counts only where they are the same here
    sentences   what was taken as what, and what was not and why, without full stops
    """

    study: str
    place: str
    start: tuple[StartPoint, ...] = ()
    history: tuple[TakenTrial, ...] = ()
    weights: Mapping[str, Any] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """One line on it, for reports and screens."""
        taken = [many(len(self.start), "start point")] if self.start else []
        if self.history:
            taken.append(f"{many(len(self.history), 'trial')} as the sampler's history")
        return f"study {self.study} ({self.place}): {' and '.join(taken)}"

    def tried(self, space: SearchSpace) -> list[Tried]:
        """The history as a sampler sees it, in a space that may have grown since."""
        return [
            Tried(
                one.params,
                {**SETTINGS, **space.fixed, **one.params},
                Outcome.STOPPED if one.stopped else Outcome.COMPLETE,
                one.curve,
                one.score,
                one.variance,
                elsewhere=True,
            )
            for one in self.history
        ]

    def with_weights(self, weights: Mapping[str, Any]) -> "WarmStart":
        """The same without the history if the other study had other weights under the same name.

        weights   the hashes of this study's pretrained weights, as its facts have them
        """
        other = [
            name for name in self.weights.keys() & weights if weights[name] != self.weights[name]
        ]
        if not other or not self.history:
            return self
        why = (
            f"no trial of {self.study} is in the sampler's history, because the file of the"
            f" pretrained weights {min(other)} was another there"
        )
        return replace(self, history=(), sentences=(*self.sentences, why))

    def to_json(self) -> dict[str, Any]:
        """The warm start as JSON types."""
        return {
            "study": self.study,
            "place": self.place,
            "start": [[one.trial, dict(one.params)] for one in self.start],
            "history": [
                [one.trial, dict(one.params), one.stopped, list(one.curve), one.score, one.variance]
                for one in self.history
            ],
            "weights": dict(self.weights),
            "sentences": list(self.sentences),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "WarmStart":
        """The warm start that `to_json` wrote."""
        return cls(
            str(content["study"]),
            str(content["place"]),
            tuple(StartPoint(int(number), dict(params)) for number, params in content["start"]),
            tuple(
                TakenTrial(
                    int(number),
                    dict(params),
                    bool(stopped),
                    tuple(map(float, curve)),
                    float(score),
                    float(variance),
                )
                for number, params, stopped, curve, score, variance in content["history"]
            ),
            dict(content["weights"]),
            tuple(map(str, content["sentences"])),
        )


def stored_warm_start(study: Mapping[str, Any]) -> WarmStart | None:
    """The warm start that a study's user attributes hold; None if it began without one.

    Raises StorageError where it is not what a driver writes.
    """
    if WARM_KEY not in study:
        return None
    try:
        return WarmStart.from_json(study[WARM_KEY])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged("the warm start in the ledger", error) from error
