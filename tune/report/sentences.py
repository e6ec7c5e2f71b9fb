"""A study's report in plain sentences: the answer, its limits, the facts to repeat it.

No sentence claims more than the numbers: a difference is called the effect of something only where
nothing else differs, and with one training each it is a difference of two trained models.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.config import SETTINGS, Value, setting_in_words
from core.metric.ap50 import FEW_IMAGES
from core.text import have, listed, many
from core.values import as_duration, as_number, as_setting, as_settings
from tune.ledger.records import State
from tune.report.evidence import Evidence
from tune.report.further import Further
from tune.report.main_table import SAME_SETTINGS, MainRow, repeat_of
from tune.report.tables import ap50_cell, difference_cell, effects_score
from tune.statistics.certainty import (
    Interval,
    Repeat,
    Scope,
    Verdict,
    distinct_seeds,
    warnings_of,
)
from tune.statistics.choice import Choice
from tune.statistics.effects import Effect
from tune.statistics.further import ENOUGH_SEEDS, MOST_TIMES_THE_IMAGES
from tune.study.candidates import Candidate
from tune.study.confirmation import changed_prediction
from tune.study.learned import no_winner, remedies
from tune.tables import Kind, cell_text

_VERDICTS = {
    Verdict.BETTER: "Better than",
    Verdict.WORSE: "Worse than",
    Verdict.CANNOT_TELL: "The data cannot tell these from",
}
_SCOPES = {
    Scope.HERE: (
        "The verdict is about methods trained on these images; whether it holds for training on"
        " other images of this kind cannot be told"
    ),
    Scope.ELSEWHERE: "The verdict holds for training on other images of this kind as well",
}
ENOUGH_INSTANCES = 10
"""Least number of instances of a class, over all repeats, that can be called the weakest."""
_MOST_VALUES = 6
"""Largest number of scores behind a mean that are written out."""
_MOST = 3
"""Largest number of similar items or sentences that are written out; the others are counted."""


def answer_of(evidence: Evidence) -> tuple[str, ...]:
    """The answer to what the study asked, the most important sentence first."""
    return tuple(f"{sentence}." for sentence in _answer(evidence))


def cautions_of(evidence: Evidence) -> tuple[str, ...]:
    """The limits of the answer, a sentence each."""
    return tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in _cautions(evidence))


def _answer(evidence: Evidence) -> Iterator[str]:
    if not evidence.rows:
        yield (
            f"No trial is complete{'' if evidence.searched else ' yet'}, so there is nothing to"
            " compare"
        )
        yield _progress(evidence)
        yield evidence.smallest_difference.sentence
        return
    if evidence.nothing_learned:
        records = [trial.record for trial in evidence.trials]
        yield from (f"{one[0].upper()}{one[1:]}" for one in (no_winner(records), remedies(records)))
        if not evidence.finished:
            yield f"All this is so far: {_progress(evidence)}"
        return
    yield from (
        _variants_answer(evidence) if evidence.request.space.variants else _search_answer(evidence)
    )
    yield from _limited(evidence)
    yield evidence.smallest_difference.sentence
    yield from _what_would_decide(evidence)
    if not evidence.finished:
        yield f"All this is so far: {_progress(evidence)}"


def _what_would_decide(evidence: Evidence) -> Iterator[str]:
    """Sentences on the further seeds and images that would decide the open comparisons."""
    if not evidence.request.space.variants:
        yield from (_would_tell(evidence, one) for one in evidence.further)
        return
    planned = evidence.request.space.seeds
    enough = max(planned, ENOUGH_SEEDS)
    by_seeds = sorted(
        (one for one in evidence.further if one.seeds is not None), key=lambda one: one.trainings
    )
    if by_seeds:
        said = [
            f"{one.name} from {one.compared_with} with seeds={planned + (one.seeds or 0)}"
            f" ({many(one.trainings, 'more training')}, {as_duration(3600 * one.hours)} one after"
            " the other)"
            for one in by_seeds[:_MOST]
        ]
        more = f" ({len(by_seeds) - _MOST} more are in the table)" if len(by_seeds) > _MOST else ""
        yield (
            "If the true differences are the observed ones, further seeds would in 80% of cases"
            f" distinguish {listed(said)}{more}; python -m tune.search --study"
            f" {evidence.request.study} --set seeds=N runs what is missing"
        )
    by_images = [one for one in evidence.further if one.seeds is None]
    if by_images:
        said = [
            f"{one.name} from {one.compared_with}"
            + (
                f" (nor would {as_number(MOST_TIMES_THE_IMAGES)} times as many"
                f" {_units_in_words(evidence)})"
                if one.images is None
                else f" (about {one.images:,} more {_units_in_words(evidence)} would, with"
                f" seeds={enough})"
            )
            for one in by_images[:_MOST]
        ]
        more = f" ({len(by_images) - _MOST} more)" if len(by_images) > _MOST else ""
        yield f"No number of further seeds would distinguish {listed(said)}{more}"


def _would_tell(evidence: Evidence, one: Further) -> str:
    """A sentence on what would tell the best of a search from the next, or from the defaults."""
    confirmed = evidence.choice is not None
    found = cell_text(one.difference.estimate, Kind.CHANGE)
    pair = f"{one.name} from {one.compared_with}"
    begin = f"If the true difference is the observed one ({found}), "
    lucky = "" if confirmed else "; the observed one is that of the best of several scores, so it"
    lucky += "" if confirmed else " is too large on average, and more may be needed"
    if one.seeds is None:
        more = (
            f"nor would {as_number(MOST_TIMES_THE_IMAGES)} times as many"
            f" {_units_in_words(evidence)}"
            if one.images is None
            else f"but about {one.images:,} more {_units_in_words(evidence)} would, with"
            f" {ENOUGH_SEEDS} seeds or more"
        )
        return f"{begin}no number of further seeds would tell {pair}, {more}{lucky}"
    cost = f"{many(one.trainings, 'training')}, {as_duration(3600 * one.hours)} one after the other"
    request = evidence.request
    how = (
        f"{many(one.seeds, 'more seed')} of the confirmation ({cost}; python -m tune.search --study"
        f" {request.study} --set confirm.seeds={request.confirm.seeds + one.seeds})"
        if confirmed
        else f"{many(one.seeds, 'seed')} of each ({cost}; a space file with both as variants: and"
        f" seeds: {one.seeds})"
    )
    return f"{begin}{how} would in 80% of cases tell {pair}{lucky}"


def _units_in_words(evidence: Evidence) -> str:
    grouped = evidence.request.space.value("data.group_pattern", {})
    return "groups of annotated images" if grouped else "annotated images"


_LIMITS = {
    "called_another_class": "were found but called another class",
    "not_found": "were not found",
    "badly_outlined": "were badly outlined",
}
"""Words for each kind of instance, but for those that were found."""

_MENDED = {
    "called_another_class": "if all were called by their class",
    "not_found": "without those that were not found",
    "badly_outlined": "if all outlines were right",
    "duplicate": "without duplicates",
    "background": "without detections on the background",
}
"""Words for each kind of error, after "the AP50 of the class would be X"."""


def _limited(evidence: Evidence) -> Iterator[str]:
    """A sentence on what limited the class with the lowest AP50 in the best row."""
    mine = [one for one in evidence.limits if one.row == evidence.limits[0].row]
    if not mine:
        return
    # Which of the classes is weakest cannot be told of one with a handful of instances.
    judged = [one for one in mine if sum(one.instances.values()) >= ENOUGH_INSTANCES] or mine
    weakest = min(judged, key=lambda one: one.ap50)
    kinds = sorted((kind for kind in _LIMITS if weakest.instances[kind]), key=weakest.share)[::-1]
    said = [
        f"{cell_text(weakest.share(kind), Kind.PERCENT)} {_LIMITS[kind]}"
        + (f" ({weakest.called} most often)" if kind == "called_another_class" else "")
        for kind in kinds
    ]
    found = f"{cell_text(weakest.share('found'), Kind.PERCENT)} were found correctly"
    mend = weakest.best_mend
    gain = (
        f"; the AP50 of the class would be {cell_text(weakest.mended[mend], Kind.AP50)}"
        f" {_MENDED[mend]}"
        if mend
        else ""
    )
    row, instances = weakest.row, many(sum(weakest.instances.values()), "instance")
    counted = f", counted in {weakest.repeats} repeats," if weakest.repeats > 1 else ""
    if not evidence.request.space.variants:
        if evidence.choice is not None and not _is_best(evidence, evidence.rows[0]):
            row = f"{row}, the best of the search,"  # not the winner, which is named first
        row = f"T{row[1:]}"  # it begins a sentence: "trial 3", not a name that a user gave
    if len(judged) < len(mine):
        of = f"Of the classes with {ENOUGH_INSTANCES} or more instances in its validation images, "
        row = f"{of}{weakest.row}"
    subject = (
        f"{row} is weakest in {weakest.label} (AP50 {cell_text(weakest.ap50, Kind.AP50)}): of its"
        f" {instances}{counted}"
        if len(mine) > 1
        else f"Of the {instances} in the validation images of {weakest.row}{counted or ','}"
    )
    yield f"{subject} {listed([*said, found])}{gain}"


def _progress(evidence: Evidence) -> str:
    words = (
        (State.COMPLETE, "complete"), (State.PRUNED, "stopped early"), (State.FAIL, "failed"),
        (State.RUNNING, "running or waiting"),
    )  # fmt: skip
    counts = [
        f"{len(evidence.in_state(state))} {word}"
        for state, word in words
        if evidence.in_state(state)
    ]
    begun = (
        f"{len(evidence.trials)} of {many(evidence.request.planned_trials, 'planned trial')}"
        f" {_was(evidence)} begun"
    )
    search = f"{begun}: {listed(counts)}" if counts else "no trial was begun"
    if evidence.confirmation is None or evidence.confirmation.finished:
        return search
    ended, trainings = evidence.confirmation.ended, many(evidence.confirmation.planned, "training")
    return f"{search}; {ended} of {trainings} of the confirmation {have(ended)} ended"


def _variants_answer(evidence: Evidence) -> Iterator[str]:
    rows = evidence.rows
    best = max(rows, key=lambda row: row.ap50)
    planned = len(evidence.request.space.variants)
    of = (
        f"{len(rows)} methods"
        if len(rows) == planned
        else f"the {len(rows)} of {planned} methods that have a score"
    )
    if len(rows) == 1:
        only = f"is the only one of {many(planned, 'method')} with a score"
        yield f"{best.name} {only}: AP50 {_score(best)}, {_repeats(evidence, best)}"
    else:
        yield (
            f"{best.name} has the highest validation AP50 of {of}: {_score(best)},"
            f" {_repeats(evidence, best)}"
        )
    yield from _confirmed(evidence)
    yield from _comparison(best, rows)
    compared = [row for row in rows if row.difference is not None]
    others_of_all = [row for row in rows if row is not best]
    others = [row for row in compared if row is not best]
    for verdict, words in _VERDICTS.items():
        for counterpart in dict.fromkeys(row.compared_with for row in others):
            named = [
                _with_difference(row)
                for row in others
                if (row.verdict, row.compared_with) == (verdict, counterpart)
            ]
            if named:
                yield f"{words} {counterpart}: {listed(named)}"
    same = [
        f"{row.name} as {row.compared_with}"
        for row in others_of_all
        if row.verdict == SAME_SETTINGS
    ]
    if same:
        yield (
            f"The same configuration in effect, so that they differ by chance alone: {listed(same)}"
        )
    confounded = [
        row for row in (best, *others) if row.confounds and not (row is best and _is_clear(row))
    ]
    if confounded:
        yield (
            f"{many(len(confounded), 'comparison')} cannot be attributed to what the name says,"
            f" because more differs than that: {listed([_confounded(row) for row in confounded])}"
        )
    if compared and all(
        row.difference is not None and row.difference.seeds == 1 for row in compared
    ):
        yield (
            "Every comparison is over one seed: the verdicts are about these trained models, not"
            " about the methods, since another seed can change their order"
        )


def _comparison(row: MainRow, rows: Sequence[MainRow]) -> Iterator[str]:
    """Sentences on the comparison of the best row with its counterpart."""
    if row.compared_with is None:
        if any(other.compared_with == row.name for other in rows):
            yield f"{row.name} is what the others are compared with"
        return
    if row.difference is None:
        if row.verdict == SAME_SETTINGS:
            yield (
                f"It is the same configuration in effect as {row.compared_with}: they differ by"
                " chance alone"
            )
        else:
            yield f"Whether it is better than {row.compared_with} is not known: {row.note}"
        return
    single = row.difference.seeds == 1
    one, other = row.name, row.compared_with
    if single:
        if row.difference.repeats == 1:
            one, other = f"The model trained as {one}", f"that trained as {other}"
        else:
            one = f"{one}, trained with one seed,"
    p = cell_text(row.difference.p_adjusted, Kind.P)
    p = p if p.startswith("<") else f"= {p}"
    found = f"{cell_text(difference_cell(row), Kind.DIFFERENCE)}, p {p}"
    if row.verdict == Verdict.CANNOT_TELL:
        who = f"t{one[1:]}" if one.startswith("The model trained as ") else one
        yield f"The data cannot tell whether {who} is better than {other}: {found}"
        return
    yield f"{one} is {row.verdict} than {other}: {found}"
    yield from _attribution(row)
    if row.scope is not None and row.scope in _SCOPES:
        yield _SCOPES[row.scope]


def _attribution(row: MainRow) -> Iterator[str]:
    """A sentence on what a difference can be attributed to that is better or worse."""
    if row.confounds:
        yield row.confounds[0]
    elif row.factors and row.scope is Scope.MODELS:
        differs = listed([str(factor) for factor in row.factors])
        yield (
            f"They differ in {differs}; with one training each, the luck of their seeds can also"
            " have made the difference"
        )
    elif len(row.factors) > 1:
        yield f"Apart from chance, the two differ in {listed(row.made_of)} together"
    elif row.factors:
        yield f"Apart from chance, the two differ only in {row.factors[0]}"


def _is_clear(row: MainRow) -> bool:
    return row.verdict in (Verdict.BETTER, Verdict.WORSE)


def _with_difference(row: MainRow) -> str:
    """A row's name with its difference, and what limits the verdict."""
    assert row.difference is not None
    more = ", on these training images" if row.scope is Scope.HERE else ""
    more += ", confounded" if row.confounds else ""
    return f"{row.name} ({cell_text(row.difference.estimate, Kind.CHANGE)}{more})"


def _confounded(row: MainRow) -> str:
    """A row's name with the factors in which it differs from its counterpart."""
    return (
        f"{row.name} ({listed([factor.name for factor in row.factors])} differ from"
        f" {row.compared_with})"
    )


def _search_answer(evidence: Evidence) -> Iterator[str]:
    best, *others = evidence.rows
    yield from _confirmed(evidence)
    if not others:
        yield (
            f"Trial {best.trials[0]} is the only complete one: AP50 {_score(best)}, with"
            f" {_settings_in_words(best.settings)}"
        )
        return
    same = [row.trials[0] for row in others if row.verdict == SAME_SETTINGS]
    if len(same) == len(others):
        yield (
            f"All {len(evidence.rows)} complete trials are the same configuration in effect, since"
            " what differs between them has no effect: they differ by chance alone, and there is"
            " nothing to rank"
        )
        return
    among = f"the search's {many(len(evidence.rows), 'complete trial')}"
    where = "" if evidence.choice is None else ", on the one split of the search"
    yield (
        f"Trial {best.trials[0]} has the highest validation AP50 as measured,"
        f" {cell_text(best.measured, Kind.AP50)}, of {among}; less the luck of its best epoch it is"
        f" {_score(best)}{where}"
    )
    if evidence.choice is None or not _is_best(evidence, best):
        yield f"Its settings: {_settings_in_words(best.settings)}"
    if evidence.choice is None:
        yield (
            "That is the best of several scores on the same images, and so too high on average; it"
            " was not confirmed on fresh seeds and splits"
        )
    if same:
        numbers = listed([str(number) for number in same[:_MOST]])
        more = f" (and {len(same) - _MOST} more)" if len(same) > _MOST else ""
        is_ = "Trial {} is" if len(same) == 1 else "Trials {}" + more + " are"
        yield (
            f"{is_.format(numbers)} the same configuration in effect: they differ from it by chance"
            " alone"
        )
    compared = [row for row in others if row.difference is not None]
    alike = [row.name for row in compared if row.verdict == Verdict.CANNOT_TELL]
    worse, better = (
        sum(row.verdict == verdict for row in compared)
        for verdict in (Verdict.WORSE, Verdict.BETTER)
    )
    if compared:
        counts = [f"{worse} {_is(worse)} worse"] if worse else []
        counts += (
            [f"{better} {_is(better)} better once the luck of best epochs is subtracted"]
            if better
            else []
        )
        counts += (
            [f"{len(alike)} cannot be told from it, first of them {listed(alike[:_MOST])}"]
            if alike
            else []
        )
        said = (
            f"Of {many(len(compared), 'other')} that can be compared with it, {listed(counts)}"
            if len(alike) < len(compared)
            else f"Trial {best.trials[0]} cannot be told from any of the {len(alike)} others that"
            " are compared with it"
            if len(alike) > 1
            else f"The other, {alike[0]}, cannot be told from it"
        )
        yield (
            f"{said}; this is about the trained models, one training each, and not about their"
            " settings"
        )
    yield _defaults(evidence)
    yield from _effects(evidence)


def _defaults(evidence: Evidence) -> str:
    """A sentence on how the trials compare with the defaults of all searched settings."""
    best = evidence.rows[0]
    row = next(
        (
            row
            for row in evidence.rows
            if all(value == SETTINGS[name] for name, value in row.settings.items())
        ),
        None,
    )
    if row is None:
        shared = _shared(evidence.rows)
        nearest = next(
            (
                (one, apart)
                for one in evidence.rows
                if (apart := _apart_from_defaults(one)) and apart.keys() <= shared.keys()
            ),
            None,
        )
        if nearest is not None:
            row, apart = nearest
            return (
                "No complete trial has the defaults of all searched settings. The nearest to them"
                f" is trial {row.trials[0]}, which differs only in {_settings_in_words(apart)}, as"
                f" all complete trials do; {_against_best(evidence, row)}"
            )
        return (
            "No complete trial has the defaults of all searched settings, so whether any is better"
            " than the defaults was not measured; a space file with both as variants: and seeds=3"
            " measures it, and its report says how many further seeds or images would decide"
        )
    if row is best or row.difference is None:
        return f"Trial {row.trials[0]} has the defaults of all searched settings"
    return (
        f"Trial {row.trials[0]}, which has the defaults of all searched settings,"
        f" {_against_best(evidence, row).removeprefix('it ')}"
    )


def _against_best(evidence: Evidence, row: MainRow) -> str:
    """A clause on how a trial compares with the best one of a search."""
    best = evidence.rows[0]
    if row is best:
        return "it is the best of them"
    if row.difference is None:
        return f"it could not be compared with trial {best.trials[0]}"
    told = "cannot be told from" if row.verdict == Verdict.CANNOT_TELL else f"is {row.verdict} than"
    found = cell_text(difference_cell(row), Kind.DIFFERENCE)
    return f"it {told} trial {best.trials[0]}: {found}"


def _apart_from_defaults(row: MainRow) -> dict[str, Value]:
    """The searched settings of a trial that are not at their defaults."""
    return {name: value for name, value in row.settings.items() if value != SETTINGS[name]}


def _shared(rows: Sequence[MainRow]) -> dict[str, Value]:
    """The searched settings with one value in all rows."""
    first, *others = (row.settings for row in rows)
    return {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }


def _is_best(evidence: Evidence, row: MainRow) -> bool:
    """Whether the confirmed winner repeats the trial of a row."""
    choice, confirmation = evidence.choice, evidence.confirmation
    if choice is None or confirmation is None:
        return False
    winner = next(one for one in confirmation.candidates if one.name == choice.name)
    return winner.trial.id in row.trials


def _effects(evidence: Evidence) -> Iterator[str]:
    """A sentence on the searched settings with a clear effect on AP50, or that there are none."""
    score = effects_score(evidence.effects_epoch)
    clear = sorted(
        (one for one in evidence.effects if one.is_clear), key=lambda one: -abs(one.estimate)
    )
    if clear:
        yield from _clear_effects(clear, score)
    elif evidence.effects:
        yield f"The data cannot tell whether any searched setting made a difference in {score}"
    else:
        trials = many(len(evidence.rows), "complete trial")
        yield f"With {trials} the effect of no single setting can be estimated"
    tried = {name for one in evidence.effects for name in (one.setting, *one.together)}
    alike = {name: value for name, value in _shared(evidence.rows).items() if name not in tried}
    if alike:
        yield (
            f"All complete trials have {_settings_in_words(alike)}: what"
            f" {'this setting does' if len(alike) == 1 else 'these settings do'} was not tried"
        )


def _clear_effects(clear: Sequence[Effect], score: str) -> Iterator[str]:
    """Sentences on clear effects on `score`, and on where a number is best or worst."""
    turns = {one.setting: one.turn for one in clear if one.turn is not None}
    lines = [one for one in clear if one.turn is None]
    said = [
        f"{setting_in_words(one.setting)} {one.change} ({cell_text(one.estimate, Kind.DIFFERENCE)})"
        for one in lines[:_MOST]
    ]
    shown = dict(list(turns.items())[:_MOST])
    said += [f"{setting_in_words(name)}, {turn}" for name, turn in shown.items()]
    left = len(lines) + len(turns) - len(said)
    more = f" (and {left} more)" if left else ""
    yield (
        f"Settings that go with a difference in {score} on these validation images:"
        f" {'; '.join(said)}{more}. For each of them p, adjusted for all effects, is under 0.05"
    )
    for name, turn in shown.items():
        ends = [
            f"{one.change} goes with"
            f" {cell_text(Interval(one.estimate, one.low, one.high), Kind.DIFFERENCE)}"
            for one in clear
            if one.setting == name
        ]
        best = f"{'best' if turn.is_best else 'worst'} {setting_in_words(name)}"
        yield (
            f"The {best} of a smooth curve through all trials lies between"
            f" {as_number(turn.low, 2)} and {as_number(turn.high, 2)} (95% confidence);"
            f" {listed(ends)}"
        )


def _confirmed(evidence: Evidence) -> Iterator[str]:
    """Sentences on the confirmed winner; one where a planned confirmation has not ended."""
    choice, confirmation = evidence.choice, evidence.confirmation
    if choice is None or confirmation is None:
        if evidence.request.confirm.top and evidence.searched:
            yield "The winner is not confirmed on fresh seeds and splits yet"
        return
    candidate = next(one for one in confirmation.candidates if one.name == choice.name)
    name = f"{choice.name[0].upper()}{choice.name[1:]}"
    repeats = len(confirmation.repeats)
    trained = "one training" if repeats == 1 else f"the mean of {many(repeats, 'training')}"
    single = [
        one.record.curve[choice.epoch - 1]
        for one in evidence.confirm_trials
        if one.record.name == choice.name and repeat_of(one.record) in confirmation.repeats
    ]
    if choice.prediction is None and len(single) == repeats:
        trained += _values(single)
    among = (
        f"has the highest AP50 of {many(len(choice.curves), 'candidate')}"
        if choice.others
        else "is the only candidate"
    )
    yield (
        f"{name} {among} on fresh seeds and splits: {cell_text(choice.corrected, Kind.INTERVAL)},"
        " less the estimated luck of having been chosen; this is the score to quote"
    )
    yield (
        f"As measured it was {cell_text(choice.score, Kind.AP50)} at epoch {choice.epoch},"
        f" {trained}" + _of_one_seed(confirmation.repeats)
    )
    if not evidence.request.space.variants:
        yield f"Its settings: {_settings_in_words(candidate.trial.searched)}"
    if choice.others:
        yield runners_up(choice)
    if choice.gains:
        yield _way_to_predict(choice, candidate)
    optimism = candidate.score - choice.corrected.estimate
    how = "above" if optimism > 0 else "below"
    expected = candidate.origin.expected
    by_others = (
        ""
        if expected is None
        else f"; given this score and those of similar trials, {cell_text(expected, Kind.AP50)} was"
        " expected of it when it was chosen"
    )
    yield (
        f"Its score in the search was {cell_text(candidate.score, Kind.AP50)},"
        f" {cell_text(abs(optimism), Kind.AP50)} {how} the score to quote{by_others}"
    )


def _values(scores: Sequence[float]) -> str:
    """The scores behind a mean in brackets, with a space before; empty if they are too many."""
    if not 1 < len(scores) <= _MOST_VALUES:
        return ""
    return f" ({listed([cell_text(score, Kind.AP50) for score in scores])})"


def _of_one_seed(repeats: Sequence[Repeat]) -> str:
    """A clause for repeats of one seed, which says that the interval is over images alone."""
    if distinct_seeds(repeats) > 1:
        return ""
    what = "one training cannot show the luck of its seed"
    if len(repeats) > 1:
        what = "folds of one seed cannot show its luck"
    return f"; {what}, so the interval is over images alone"


def runners_up(choice: Choice) -> str:
    """A sentence on how the other candidates compare with the winner, without a full stop."""
    worse = [name for name, one in choice.others.items() if one.verdict is Verdict.WORSE]
    alike = sorted(
        (name for name in choice.others if name not in worse),
        key=lambda name: -choice.others[name].estimate,
    )
    models = (
        "; this is about the trained models, one training each"
        if all(one.repeats == 1 for one in choice.others.values())
        else ""
    )
    first = choice.others[(alike or worse)[0]]
    found = cell_text(Interval(first.estimate, first.low, first.high), Kind.DIFFERENCE)
    if len(choice.others) == 1:
        told = "cannot be told from the winner" if alike else "is worse"
        return f"The other candidate, {(alike or worse)[0]}, {told}: {found}{models}"
    counts = [f"{len(worse)} {_is(len(worse))} worse"] if worse else []
    if alike:
        counts.append(
            f"{len(alike)} cannot be told from the winner; the best of these is {alike[0]}"
            f" ({found})"
        )
    return f"Of {many(len(choice.others), 'other candidate')}, {listed(counts)}{models}"


def _way_to_predict(choice: Choice, candidate: Candidate) -> str:
    """A sentence on the winner's best settings of prediction, and on what they gain."""
    tried = (
        f"{many(len(choice.gains), 'other combination')} of them (after_training), tried on the"
        " validation images of each of these trainings"
    )
    if choice.prediction is None:
        return f"Its own settings of prediction are no worse than {tried}"
    changed = as_settings(changed_prediction(choice, candidate.trial))
    return (
        f"Its best settings of prediction are {changed}: a gain of"
        f" {cell_text(choice.gains[choice.prediction], Kind.AP50)}, counted above, the largest of"
        f" {tried}; the luck of this choice is subtracted too"
    )


def _cautions(evidence: Evidence) -> Iterator[str]:
    if evidence.rows:
        yield (
            "the AP50 of a row is that of its best epoch, less the estimated luck of having chosen"
            " that epoch on the images that score it; the table also has this AP50 as measured and"
            " that of the last epoch"
        )
    if evidence.rows and not evidence.request.space.value("data.group_pattern", {}):
        yield (
            "each image counts as independent of the others; where several are of one patient or"
            " slide, data.group_pattern must say so, or all intervals are too narrow"
        )
    best = evidence.best
    if best is not None and best.scored is not None:
        yield from (
            f"in the best trial, {warning}"
            for warning in warnings_of(best.scored, evidence.classes)
        )
        images_C = best.scored.images_C
        if (images_C[images_C > 0] < FEW_IMAGES).any():
            yield "AP50 is the mean over classes, so a rare class moves it as much as a common one"
    if best is not None and best.record.best_epoch:
        settings = best.record.settings
        # Of one class alone, the detections that a cap leaves out come after those that count.
        none_counts = len(evidence.classes) == 1 and int(settings["predict.max_detections"]) >= int(
            settings["metric.max_dets"]
        )
        if not none_counts:
            yield from _cap_was_reached(best.record.epochs[best.record.best_epoch - 1], settings)
    if evidence.confirmation is not None:
        yield "fresh splits reuse the images of the search: only a test set is independent of it"
        yield from evidence.confirmation.notes
    missing = [
        variant.name
        for variant in evidence.request.space.variants
        if variant.name not in {row.name for row in evidence.rows}
    ]
    if missing and evidence.rows:
        yield f"{listed(missing)} {have(len(missing))} no complete trial"
    failed = evidence.in_state(State.FAIL)
    if failed:
        yield f"{many(len(failed), 'trial')} failed and {have(len(failed))} no score"
    yield from evidence.trouble[:_MOST]
    more = len(evidence.trouble) - _MOST
    if more > 0:
        yield f"{many(more, 'more problem')} of this kind {_is(more)} not shown"


def _cap_was_reached(epoch: Mapping[str, Any], settings: Mapping[str, Value]) -> Iterator[str]:
    """A sentence if an epoch reached the cap on detections; earlier versions did not report it."""
    images = int(epoch.get("capped_images", 0))
    if images:
        yield (
            f"in {many(images, 'validation image')} of the best trial as many instances were found"
            f" as predict.max_detections keeps of a tile ({settings['predict.max_detections']:,}),"
            " so that more may be there; try a higher one under after_training"
        )


def provenance_of(evidence: Evidence) -> dict[str, str]:
    """The facts that are needed to repeat the study, by name."""
    known, request = evidence.description, evidence.request
    versions: Mapping[str, Any] = known.get("versions") or {}
    data, resources = known["data"], known.get("resources") or {}
    seeds = sorted(
        {
            str(trial.record.settings.get("seed"))
            for trial in evidence.trials
            if trial.record.settings
        }
    )
    classes = f"{'class' if len(data['classes']) == 1 else 'classes'} {', '.join(data['classes'])}"
    found = {
        "command": known.get("command"),
        "git revision": known.get("git_revision"),
        "data": f"{data['where']}, {many(data['images'], 'image')}, {classes}",
        "data fingerprint": data["fingerprint"],
        "pretrained weights": _weights(evidence.facts.get("weights") or {}),
        "warm start": evidence.warm_start,
        "seed of the sampler": None if request.space.variants else str(request.search.seed),
        "seeds of the trials": ", ".join(seeds),
        "resources of a trial": ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in resources.items()
        ),
        "begun": known.get("created"),
        **{f"version of {name}": version for name, version in versions.items()},
    }
    return {name: str(value) for name, value in found.items() if value}


def _weights(files: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: SHA-256 {value[0]}" for key, value in files.items())


def _score(row: MainRow) -> str:
    return cell_text(ap50_cell(row), Kind.INTERVAL)


def _repeats(evidence: Evidence, row: MainRow) -> str:
    """A clause on the trainings behind a row's score."""
    count = len(row.trials)
    single = [one.honest for one in evidence.trials if one.record.id in row.trials]
    if row.seeds > 1:
        return f"the mean of {count} repeats{_values(single)}"
    trained = "one training" if count == 1 else f"{count} folds of one seed"
    return f"from {trained}, so the interval is over images alone and not over other seeds"


def _was(evidence: Evidence) -> str:
    return "was" if len(evidence.trials) == 1 else "were"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _settings_in_words(settings: Mapping[str, Value]) -> str:
    words = [f"{setting_in_words(name)} {as_setting(value)}" for name, value in settings.items()]
    return ", ".join(words) or "all settings at their defaults"
