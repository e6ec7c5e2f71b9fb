"""The main table's rows: variants with their repeats, or trials of a sampled study."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from core.config import Value
from core.dependence import effective_settings
from core.text import many
from core.values import as_ap50
from tune.ledger.records import State, TrialRecord
from tune.report.trial_scores import ScoredTrial
from tune.request.confounds import Factor
from tune.request.request import StudyRequest, variant_attributions
from tune.statistics.certainty import (
    LEAST_DF,
    Difference,
    Interval,
    Repeat,
    Scope,
    Scored,
    Verdict,
    compare,
    compare_all,
    distinct_seeds,
    for_all_pairs,
    mean_interval,
    prior_smallest_difference,
    seed_variances,
    smallest_difference,
)
from tune.study.learned import nothing_learned

SAME_SETTINGS = "same settings"
"""The verdict of a row that is the same configuration in effect as its counterpart."""


@dataclass(frozen=True)
class MainRow:
    """A row of the main table: a variant with its repeats, or a complete trial of a sampled study.

    name            name of the variant, or `trial 12`
    trials          numbers of its complete trials, one for each repeat
    seeds           number of distinct seeds among them
    settings        the settings that distinguish the row: the variant's own, or the searched ones
    ap50            mean over the repeats of the AP50 of their best epochs, without the luck of
                    having been chosen by the images that score them
    measured        the same with that luck, as the ledger has it; equal to `ap50` where match
                    tables are missing
    interval        interval of `ap50`, over images and, with several seeds, over these; None if
                    match tables are missing
    last            mean over the repeats of the AP50 of their last epochs
    epochs          number of epochs of each complete repeat
    compared_with   name of the row's counterpart; None for a row that is compared with none
    difference      the row's AP50 minus its counterpart's, over the repeats that both have; None if
                    there is none
    confounds       why the difference cannot be attributed to what the name says, a sentence each,
                    without full stops; empty if it can
    made_of         the causes of an attributable difference: a factor, or other rows whose effects
                    add up to it
    verdict         better, worse, cannot tell, or same settings; empty where nothing is compared
    note            a note for the reader in a few words: missing repeats, confounds
    factors         the factors in which a variant differs from its counterpart
    """

    name: str
    trials: tuple[int, ...]
    seeds: int
    settings: Mapping[str, Value]
    ap50: float
    measured: float
    interval: Interval | None
    last: float
    epochs: int
    compared_with: str | None
    difference: Difference | None
    confounds: tuple[str, ...]
    made_of: tuple[str, ...]
    verdict: str
    note: str
    factors: tuple[Factor, ...] = ()

    @property
    def scope(self) -> Scope | None:
        """The widest claim of a verdict of better or worse; None for any other verdict."""
        clear = (Verdict.BETTER, Verdict.WORSE)
        return self.difference.scope if self.difference and self.verdict in clear else None


def main_rows(request: StudyRequest, trials: Sequence[ScoredTrial]) -> tuple[MainRow, ...]:
    """The main table's rows: variants as in the file, trials of a sampled study best first.

    A row has at least one complete trial; trials that were stopped early, have failed or still run
    are in no row. A row that is the same configuration in effect as its counterpart is not compared
    with it, since the two differ by chance alone. No row is compared where nothing was learned.
    """
    complete = [trial for trial in trials if trial.record.state is State.COMPLETE]
    rows = _variant_rows(request, complete) if request.space.variants else _trial_rows(complete)
    if nothing_learned([trial.record for trial in trials]):
        return tuple(
            replace(
                row, difference=None, verdict="" if row.verdict != SAME_SETTINGS else SAME_SETTINGS
            )
            for row in rows
        )
    return rows


def repeat_of(record: TrialRecord) -> Repeat:
    """The repeat of a trial, which pairs the trials of two variants."""
    return Repeat(int(record.settings["seed"]), int(record.settings["data.fold"]))


def _variant_rows(request: StudyRequest, complete: Sequence[ScoredTrial]) -> tuple[MainRow, ...]:
    """The variants with a complete trial, compared with their counterparts over common repeats."""
    space, planned = request.space, request.planned_trials // len(request.space.variants)
    own = {variant.name: dict(variant.settings) for variant in space.variants}
    by_name = {name: [trial for trial in complete if trial.record.name == name] for name in own}
    scores: dict[str, dict[Repeat, Scored]] = {
        name: {
            repeat_of(trial.record): trial.scored for trial in trials if trial.scored is not None
        }
        for name, trials in by_name.items()
    }
    variances = seed_variances(scores)
    trained = {name: trials[0].record.settings for name, trials in by_name.items() if trials}
    attributed = {
        attribution.name: attribution for attribution in variant_attributions(space, trained)
    }
    pairs = [
        (name, one.counterpart)
        for name, one in attributed.items()
        if one.factors and scores[name].keys() & scores[one.counterpart]
    ]
    training = _validation_over_training(complete[0].record.settings) if complete else None
    differences = dict(zip(pairs, compare_all(scores, pairs, training), strict=True))
    rows = []
    for name, trials in by_name.items():
        if not trials:
            continue
        scored = list(scores[name].values())
        whole = len(scored) == len(trials)
        row = _row_of_trials(name, trials, own[name])
        of_seeds = None if variances is None else variances.of_mean([name], row.seeds)
        row = replace(row, interval=mean_interval(scored, of_seeds) if whole else None)
        attribution = attributed.get(name)
        if attribution is not None and by_name[attribution.counterpart]:
            row = _compared(
                row, attribution.counterpart, differences.get((name, attribution.counterpart))
            )
            row = replace(
                row,
                confounds=(attribution.sentence,) if attribution.is_confounded else (),
                made_of=attribution.causes,
                factors=attribution.factors,
                verdict=row.verdict if attribution.factors else SAME_SETTINGS,
            )
        own_variance = variances.own.get(name) if variances is not None else None
        uneven = own_variance is not None and own_variance.df >= LEAST_DF
        lucky = any(trial.is_lucky for trial in trials)
        rows.append(replace(row, note=_note(row, planned, uneven, lucky)))
    return tuple(rows)


def _validation_over_training(settings: Mapping[str, Value]) -> float:
    """Number of validation images of a repeat over that of its training images."""
    folds = int(settings["data.folds"])
    fraction = 1 / folds if folds else float(settings["data.validation_fraction"])
    return fraction / (1 - fraction)


def _trial_rows(complete: Sequence[ScoredTrial]) -> tuple[MainRow, ...]:
    """The trials, best first as measured, each compared with the first over images alone.

    Each row is one trained model. The first was picked by these scores, so some difference to it is
    large by chance: p values are adjusted as if every trial had been compared with every other.
    """
    ranked = sorted(complete, key=lambda trial: (-_ap50(trial.record), trial.record.id))
    rows = [
        replace(_row_of_trials(f"trial {t.record.id}", [t], t.record.searched), interval=t.interval)
        for t in ranked
    ]
    if not ranked or ranked[0].scored is None:
        return tuple(rows)
    same = [
        effective_settings(trial.record.settings) == effective_settings(ranked[0].record.settings)
        for trial in ranked
    ]
    rows = [
        replace(row, compared_with=rows[0].name, verdict=SAME_SETTINGS)
        if place and same[place]
        else row
        for place, row in enumerate(rows)
    ]
    compared = [
        place for place, trial in enumerate(ranked) if not same[place] and trial.scored is not None
    ]
    found = [
        compare([scored], [ranked[0].scored]) for at in compared if (scored := ranked[at].scored)
    ]
    for at, difference, p in zip(
        compared, found, for_all_pairs([one.p for one in found]), strict=True
    ):
        rows[at] = _compared(rows[at], rows[0].name, replace(difference, p_adjusted=p))
    return tuple(rows)


def _row_of_trials(
    name: str, trials: Sequence[ScoredTrial], settings: Mapping[str, Value]
) -> MainRow:
    """A row with its scores, before it has an interval and is compared."""
    records = [trial.record for trial in trials]
    return MainRow(
        name,
        tuple(record.id for record in records),
        distinct_seeds(repeat_of(record) for record in records),
        settings,
        statistics.fmean(trial.honest for trial in trials),
        statistics.fmean(_ap50(record) for record in records),
        None,
        statistics.fmean(record.curve[-1] for record in records),
        records[0].planned_epochs,
        compared_with=None,
        difference=None,
        confounds=(),
        made_of=(),
        verdict="",
        note="",
    )


def _compared(row: MainRow, counterpart: str, difference: Difference | None) -> MainRow:
    verdict = "" if difference is None else difference.verdict.value
    return replace(row, compared_with=counterpart, difference=difference, verdict=verdict)


def _ap50(record: TrialRecord) -> float:
    assert record.ap50 is not None, "a complete trial has a score"
    return record.ap50


def _note(row: MainRow, planned: int, uneven: bool, lucky: bool) -> str:
    """The note of a variant: its missing repeats, and what limits its interval and difference.

    planned   number of repeats that were asked for
    uneven    whether its seeds differ so much more than those of the others that its interval is
              from its own variance, and there are more than two: of two, one row in four would
              be called so by chance
    lucky     whether the luck of an epoch is unknown, and so is in its score and its difference
    """
    notes = []
    if len(row.trials) < planned:
        notes.append(f"{len(row.trials)} of {many(planned, 'repeat')}")
    if row.interval is None:
        notes.append("match tables are missing")
    if lucky:
        notes.append("not less the luck of its epochs, which is unknown")
    if row.verdict == SAME_SETTINGS:
        notes.append(f"the same configuration in effect as {row.compared_with}")
    elif row.compared_with is not None and row.difference is None:
        notes.append(f"no repeat in common with {row.compared_with}")
    elif row.difference is not None and row.difference.repeats < len(row.trials):
        notes.append(f"compared over {many(row.difference.repeats, 'repeat')} that both have")
    if row.difference is not None and not row.difference.decidable:
        notes.append("too few seeds for a verdict")
    if uneven:
        notes.append(
            "its seeds differ more than those of the others, as those of one row in five do by"
            " chance; that widens its interval"
        )
    if row.confounds:
        notes.append("confounded")
    return "; ".join(notes)


class SmallestDifference(NamedTuple):
    """The smallest true difference that a comparison finds in 80% of cases.

    value      the difference in AP50; None if there are too few images or seeds to say
    sentence   the same in words, without a full stop
    """

    value: float | None
    sentence: str


_NEAR_ZERO = 0.02
"""AP50 below which no image moves a score by much. Where every AP50 is below it, a difference seems
surer than it will be once the models have learned something."""
_NOTHING_LEARNED = ". Every AP50 is near 0 here, and higher scores differ more from image to image"


def smallest_shown(
    request: StudyRequest, rows: Sequence[MainRow], units: int
) -> SmallestDifference:
    """The smallest true difference that a comparison of this study finds in 80% of cases.

    units   number of images of the whole data set, or of their groups, for the time before two
            trials can be compared
    """
    compared = [row.difference for row in rows if row.difference is not None]
    measured = [one for one in compared if math.isfinite(one.se)]
    found = [one for one in measured if one.decidable]
    variants = bool(request.space.variants)
    if measured and not found:
        return SmallestDifference(
            None,
            "How small a difference this study can show is unknown, and there is no verdict,"
            " because so few seeds cannot show how much seeds differ; three seeds or more are"
            " better",
        )
    if found:
        comparisons = len(compared) if variants else math.comb(len(compared) + 1, 2)
        value = smallest_difference(
            statistics.median(one.se for one in found),
            statistics.median(one.df for one in found),
            comparisons,
        )
        if math.isfinite(value):
            middle = sorted(found, key=lambda one: one.se)[len(found) // 2]
            return SmallestDifference(
                value,
                f"A true difference of {as_ap50(value, 2)} AP50 is found in 80% of cases"
                f" ({_over(request, middle)}{_sharing(comparisons, variants)}); smaller ones are"
                " missed more often"
                + (_NOTHING_LEARNED if max(row.ap50 for row in rows) < _NEAR_ZERO else ""),
            )
    folds = int(request.space.value("data.folds", {}))
    repeats = request.space.seeds * max(folds, 1) if variants else 1
    # Folds share no validation image; hold-outs of several seeds overlap as random draws do.
    fraction = (
        1.0
        if folds
        else 1 - (1 - float(request.space.value("data.validation_fraction", {}))) ** repeats
    )
    validation = max(round(fraction * units), 1)
    comparisons = max(len(request.space.variants) - 1, 1)
    value = prior_smallest_difference(validation, repeats, comparisons)
    what = _what_validates(request)
    if not math.isfinite(value):
        return SmallestDifference(
            None,
            f"There are too few {what} and seeds to say how small a difference this study can show",
        )
    return SmallestDifference(
        value,
        "As long as no two trials can be compared, simulated cell images tell what to expect: with"
        f" {validation} {what} and {many(repeats, 'repeat')}{_sharing(comparisons, variants)}, a"
        f" true difference of {as_ap50(value, 2)} AP50 is found in 80% of cases. This is a prior,"
        " not a measurement on these data",
    )


def _sharing(comparisons: int, variants: bool) -> str:
    """A clause on the comparisons that share one error rate, if there are several."""
    if comparisons == 1:
        return ""
    what = many(comparisons, "comparison") if variants else f"{comparisons:,} pairs of trials"
    return f", {what} that share an error rate of 5%"


def _over(request: StudyRequest, difference: Difference) -> str:
    """The validation images and repeats of a comparison, in words."""
    repeats = (
        "one training each" if difference.repeats == 1 else f"{difference.repeats} repeats each"
    )
    return f"{difference.units} {_what_validates(request)}, {repeats}"


def _what_validates(request: StudyRequest) -> str:
    """The word for the units of the images' part of the variance: images, or groups of them."""
    return (
        "groups of validation images"
        if request.space.value("data.group_pattern", {})
        else "validation images"
    )
