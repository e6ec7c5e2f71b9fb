"""The trials that a search has chosen for its confirmation, as its ledger stores them.

They are an attribute of the Optuna study, `chosen`. Only the driver writes it, and a choice that is
stored is never made again (see `tune.study.candidates`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import StorageError

CHOSEN_KEY = "chosen"
"""Name of the user attribute of the study."""


@dataclass(frozen=True)
class Estimate:
    """The AP50 that a training on a trial's settings reaches: its mean and standard deviation.

    The deviation says how uncertain the mean is; the luck of a further training is not in it.
    """

    mean: float
    sd: float


@dataclass(frozen=True)
class Selection:
    """Trials that were chosen from a search.

    trials     number of trials that the search had at that time
    top        `confirm.top` at that time
    expected   what was expected of each chosen trial, by its number, the first choice first; None
               where it was chosen by its score
    """

    trials: int
    top: int
    expected: Mapping[int, Estimate | None]

    def to_json(self) -> dict[str, Any]:
        """The selection as JSON types."""
        return {
            "trials": self.trials,
            "top": self.top,
            "expected": [
                [number, None if one is None else [one.mean, one.sd]]
                for number, one in self.expected.items()
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Selection":
        """The selection that `to_json` wrote."""
        expected = {
            int(number): None if one is None else Estimate(*map(float, one))
            for number, one in content["expected"]
        }
        return cls(int(content["trials"]), int(content["top"]), expected)


@dataclass(frozen=True)
class Selections:
    """All that a search has chosen for its confirmation.

    continued    the stopped trials that go on to their last epoch; None before they are chosen
    candidates   a trial of each candidate, whose settings are trained again; None before they are
                 chosen
    released     numbers of the stopped trials that are never chosen, because their checkpoints were
                 removed while the search ran
    """

    continued: Selection | None = None
    candidates: Selection | None = None
    released: frozenset[int] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """The selections as JSON types."""
        parts = {"continued": self.continued, "candidates": self.candidates}
        return {
            "released": sorted(self.released),
            **{name: one.to_json() for name, one in parts.items() if one is not None},
        }


NOTHING_CHOSEN = Selections()


def stored_selections(study: Mapping[str, Any]) -> Selections:
    """The selections that a study's user attributes hold.

    Raises StorageError where they are not what a driver writes.
    """
    try:
        parts = dict(study.get(CHOSEN_KEY, {}))
        released = frozenset(map(int, parts.pop("released", ())))
        selections = {name: Selection.from_json(one) for name, one in parts.items()}
        return Selections(**selections, released=released)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            "the candidates of the confirmation are damaged in the ledger"
            f" ({type(error).__name__}: {error}); bring the ledger back from a copy of it, then run"
            " the same command again"
        ) from error
