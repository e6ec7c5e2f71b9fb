"""Whether the trials of a study learned anything, and sentences for the user if they did not."""

from collections.abc import Iterable, Sequence

from core.config import Value
from core.prediction.learned import LEARNED
from core.text import many
from core.values import as_ap50, as_setting
from tune.ledger.records import State, TrialRecord


def nothing_learned(records: Iterable[TrialRecord]) -> bool:
    """Whether some trial is complete, and no trial, complete or not, reached an AP50 of LEARNED."""
    scored = [record for record in records if record.ap50 is not None]
    return any(record.state is State.COMPLETE for record in scored) and all(
        record.ap50 < LEARNED for record in scored if record.ap50 is not None
    )


def no_winner(records: Sequence[TrialRecord]) -> str:
    """The reason why a study that learned nothing has no winner: a sentence without a full stop."""
    scored = [record for record in records if record.ap50 is not None]
    best = max(scored, key=lambda record: (record.ap50, -record.id))
    return (
        f"nothing was learned: the highest AP50 of {many(len(scored), 'trial')} is"
        f" {as_ap50(best.ap50)} (trial {best.id}), under {LEARNED}, so no trial is better than"
        " another and there is no winner"
    )


def remedies(records: Sequence[TrialRecord]) -> str:
    """Suggestions for a study that learned nothing, with the values that it tried.

    A sentence without a full stop.
    """
    tried = [record.settings for record in records if record.ap50 is not None]

    def had(name: str) -> str:
        values = list(dict.fromkeys(settings[name] for settings in tried if name in settings))
        return f"{name} was {_tried_values(values)}" if values else name

    return (
        f"to try: more epochs ({had('optim.epochs')}), a higher learning rate"
        f" ({had('optim.learning_rate')}), pretrained weights ({had('model.weights')}), and where"
        f" cells are small larger images ({had('model.image_min_side')}) or smaller anchors"
        f" ({had('model.anchor_scale')}); python -m core.check looks for faults of the annotations,"
        " and the pictures of the report show them beside the predictions"
    )


def _tried_values(values: Sequence[Value]) -> str:
    """The values of a setting in words: the range of several numbers, else each value."""
    numbers = [
        value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if len(values) > 1 and len(numbers) == len(values):
        return f"{as_setting(min(numbers))} to {as_setting(max(numbers))}"
    return " or ".join(map(as_setting, values))
