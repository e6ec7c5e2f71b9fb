"""The tables of a study's report: methods, differences, classes, cost, trials that ended early.

The tables of the reference report (restarts, depth of freezing, backbones) are there if the study
has variants for them.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from core.config import SETTINGS, Value, setting_in_words
from core.dependence import effective_settings
from core.text import many
from core.values import as_setting
from tune.ledger.records import State
from tune.report.evidence import Evidence
from tune.report.main_table import MainRow
from tune.report.trial_scores import class_interval
from tune.request.confounds import BACKBONE, BACKBONE_FREEZING, SCHEDULE
from tune.space.space import BY_REPEAT
from tune.statistics.certainty import Difference, Interval
from tune.statistics.further import ENOUGH_SEEDS, USUAL_SEED_SD
from tune.stopping.hope import BEST_PLACES
from tune.tables import Cell, Column, Kind, Table

_AP50 = Column("ap50", "AP50 (95% confidence)", Kind.INTERVAL)
_BEST = Column("ap50_best", "AP50, best epoch as measured", Kind.AP50)
_LAST = Column("ap50_last", "AP50, last epoch", Kind.AP50)
_DIFFERENCE = Column("difference", "Difference (95% confidence)", Kind.DIFFERENCE)
_P = Column("p", "p (Holm)", Kind.P)
_P_OF_PAIRS = Column("p", "p (all pairs)", Kind.P)


def tables_of(evidence: Evidence) -> tuple[Table, ...]:
    """All tables for which the study has data, the main one first."""
    variants = bool(evidence.request.space.variants)
    found = [
        _methods_table(evidence) if variants else _ranking_table(evidence),
        *_factor_tables(evidence),
    ]
    others = [
        _chosen_table,
        _comparisons_table,
        _further_table,
        _confirmation_table,
        _effects_table,
        _classes_table,
        _limits_table,
        _detections_table,
        _stopped_table,
        _failures_table,
        _cost_table,
        _packing_table,
    ]
    return tuple(
        table
        for table in (*found, *(make(evidence) for make in others))
        if table is not None and table.rows
    )


def _chosen_table(evidence: Evidence) -> Table | None:
    """The settings of the winner, or else of the best row, beside the defaults or the baseline."""
    if evidence.nothing_learned or not evidence.rows:
        return None
    variants = bool(evidence.request.space.variants)
    best = max(evidence.rows, key=lambda row: row.ap50) if variants else evidence.rows[0]
    title, settings = _called(best.name), _trained_settings(evidence, best)
    if evidence.choice is not None and evidence.confirmation is not None:
        confirmed = next(
            one for one in evidence.confirmation.candidates if one.name == evidence.choice.name
        )
        title, settings = _called(confirmed.name), confirmed.trial.settings
    partner = next((row for row in evidence.rows if row.name == best.compared_with), None)
    other, heading = (
        (_trained_settings(evidence, partner), partner.name)
        if variants and partner is not None
        else (SETTINGS, "Default")
    )
    in_effect, of_other = effective_settings(settings), effective_settings(other)
    names = (
        [one for one in evidence.request.searched if in_effect.get(one) != of_other.get(one)]
        if variants
        else [one.name for one in evidence.request.space.parameters if one.name in in_effect]
    )
    columns = (
        Column("setting", "Setting", Kind.SETTING), Column("best", title),
        Column("other", heading),
    )  # fmt: skip
    rows = tuple(
        (name, as_setting(settings[name]), as_setting(other[name]))
        for name in names
        if name not in BY_REPEAT
    )
    caption = (
        "The settings in which the two differ."
        if variants
        else "The searched settings, and their defaults, which need not have been tried."
    ) + " Below each plain name stands the name by which space files and --set know the setting."
    return Table("chosen", "The best settings", caption, columns, rows)


def _called(name: str) -> str:
    """A row's name as the heading of a column: `Trial 3`, or a name that a user gave as it is."""
    return f"{name[0].upper()}{name[1:]}" if name.startswith(("trial ", "candidate ")) else name


def _methods_table(evidence: Evidence) -> Table:
    columns = (
        Column("method", "Method"), _AP50, _BEST, _LAST, Column("epochs", "Epochs", Kind.COUNT),
        Column("repeats", "Repeats", Kind.COUNT), Column("compared_with", "Compared with"),
        _DIFFERENCE, _P, Column("verdict", "Verdict"), Column("holds_for", "Holds for"),
        Column("note", "Note"),
    )  # fmt: skip
    rows = tuple(
        (
            row.name, ap50_cell(row), row.measured, row.last, row.epochs, len(row.trials),
            row.compared_with, difference_cell(row), p_cell(row), row.verdict or None,
            row.scope and row.scope.value, row.note or None,
        )
        for row in evidence.rows
    )  # fmt: skip
    caption = (
        "Validation AP50 at the best epoch, mean over repeats, less the estimated luck of having"
        " chosen that epoch on the same images; the next column has it as measured. Differences are"
        " paired: over the same images and the same seeds. The interval of a difference is for that"
        " comparison by itself. p and the verdict are adjusted for all comparisons of the table:"
        " where p is 0.05 or more, the data cannot tell. p is for methods trained on these images;"
        " where the difference is also clear for training on other images of this kind, the column"
        " after the verdict says so."
    )
    if _single(evidence.rows):
        caption += (
            " Each method was trained with one seed, so the intervals are over images alone and the"
            " verdicts are about these trained models, not about the methods."
        )
    return Table("methods", "Methods", caption, columns, rows)


def _ranking_table(evidence: Evidence) -> Table:
    settings = [
        parameter.name
        for parameter in evidence.request.space.parameters
        if any(parameter.name in row.settings for row in evidence.rows)
    ]
    columns = (
        Column("trial", "Trial"), _AP50, _BEST, _LAST, Column("epochs", "Epochs", Kind.COUNT),
        _DIFFERENCE, _P_OF_PAIRS,
        Column("verdict", "Verdict"), *(_setting_column(evidence, name) for name in settings),
    )  # fmt: skip
    rows = tuple(
        (
            row.name.removeprefix("trial "), ap50_cell(row), row.measured, row.last, row.epochs,
            difference_cell(row), p_cell(row), row.verdict or None,
            *(_setting_cell(row.settings.get(name)) for name in settings),
        )
        for row in evidence.rows
    )  # fmt: skip
    caption = (
        "Trials that ran to their last epoch, ordered by AP50 as measured, the best first. AP50 is"
        " that of the best epoch, less the estimated luck of having chosen that epoch on the same"
        " images. Each trial is compared with the best over the same images. The best was picked by"
        " these scores, so p is adjusted as if every trial had been compared with every other. Each"
        " was trained once: the verdicts are about these trained models, not about their settings."
    )
    return Table("trials", "Trials", caption, columns, rows)


def _factor_tables(evidence: Evidence) -> Iterator[Table]:
    """A table for each factor: the rows that differ from their counterpart in this factor alone."""
    for factor, name, title, settings in (
        (
            SCHEDULE,
            "restarts",
            "Warm restarts",
            ("optim.restarts", "optim.restart_multiplier", "optim.warmup_epochs"),
        ),
        (BACKBONE_FREEZING, "freezing", "Depth of freezing", ("model.trainable_layers",)),
        (BACKBONE, "backbones", "Backbones", ("model.backbone",)),
    ):
        alone = [row for row in evidence.rows if [one.name for one in row.factors] == [factor]]
        shown = {row.name for row in alone} | {row.compared_with for row in alone}
        rows = [row for row in evidence.rows if row.name in shown]
        by_row = {row.name: effective_settings(_trained_settings(evidence, row)) for row in rows}
        varying = [one for one in settings if len({by_row[row.name].get(one) for row in rows}) > 1]
        columns = (
            Column("method", "Method"), *(_setting_column(evidence, one) for one in varying), _AP50,
            _LAST, Column("compared_with", "Compared with"), _DIFFERENCE,
            Column("verdict", "Verdict"),
        )  # fmt: skip
        cells = []
        for row in rows:
            # A counterpart may itself be compared with another row, for another factor.
            own = (
                (row.compared_with, difference_cell(row), row.verdict or None)
                if row in alone
                else (None,) * 3
            )
            values = (_setting_cell(by_row[row.name].get(one)) for one in varying)
            cells.append((row.name, *values, ap50_cell(row), row.last, *own))
        yield Table(
            name, title,
            f"Methods that differ in one thing only: {factor}. The verdict is that of the main"
            " table.",
            columns, tuple(cells),
        )  # fmt: skip


def _comparisons_table(evidence: Evidence) -> Table:
    columns = (
        Column("method", "Method"), Column("compared_with", "Compared with"),
        Column("differs_in", "Differs in"), Column("effect_of", "Apart from chance, the effect of"),
    )  # fmt: skip
    rows = tuple(
        (
            row.name, row.compared_with, "; ".join(map(str, row.factors)) or "nothing",
            _cause_cell(row),
        )
        for row in evidence.rows
        if row.compared_with is not None and evidence.request.space.variants
    )  # fmt: skip
    caption = (
        "All settings in which a method differs from the one it is compared with, read from what"
        " was trained. Where several things differ that no other methods of the table tell apart,"
        " the difference has no single cause."
    )
    return Table("comparisons", "What differs", caption, columns, rows)


def _further_table(evidence: Evidence) -> Table:
    columns = (
        Column("method", "Method"), Column("compared_with", "Compared with"), _DIFFERENCE,
        Column("seeds", "Further seeds", Kind.COUNT),
        Column("trainings", "Trainings", Kind.COUNT), Column("hours", "Hours", Kind.HOURS),
        Column("images", "Or further images", Kind.COUNT),
    )  # fmt: skip
    rows = tuple(
        (
            one.name, one.compared_with, _interval_of(one.difference), one.seeds,
            one.trainings or None, one.hours or None, one.images,
        )
        for one in evidence.further
        if evidence.request.space.variants
    )  # fmt: skip
    unit = (
        "groups of images" if evidence.request.space.value("data.group_pattern", {}) else "images"
    )
    caption = (
        "The number of further seeds that would decide each open comparison in 80% of cases, if the"
        " true difference is the observed one. It is computed from this study's own variances, with"
        " one error rate of 5% for all open comparisons. Every method of the table is trained with"
        " these seeds, since `seeds:` holds for all; hours are those of the trainings one after the"
        " other, at the pace of the trainings so far. Where no number of seeds would decide, the"
        f" last column has how many further annotated {unit} would, with at least {ENOUGH_SEEDS}"
        " seeds. The observed differences are uncertain, and so are these numbers."
    )
    if _single(evidence.rows):
        caption += (
            " Each method was trained once, so the standard deviation of AP50 over seeds is taken"
            f" to be {USUAL_SEED_SD}, as is usual."
        )
    return Table("further", "What would decide open comparisons", caption, columns, rows)


def _confirmation_table(evidence: Evidence) -> Table | None:
    confirmation, choice = evidence.confirmation, evidence.choice
    if confirmation is None or choice is None:
        return None
    expects = any(one.expected is not None for one in confirmation.candidates)
    columns = (
        Column("candidate", "Candidate"), Column("trial", "Trial of the search"),
        Column("continued_after", "Continued after epoch", Kind.COUNT),
        Column("search_ap50", "AP50 in the search", Kind.AP50),
        *([Column("expected_ap50", "Expected AP50", Kind.AP50)] if expects else []),
        Column("confirmed_ap50", "AP50 on fresh seeds and splits", Kind.AP50),
        Column("epoch", "At epoch", Kind.COUNT), Column("change", "Change", Kind.CHANGE),
        Column("corrected", "Less the luck of the choice", Kind.INTERVAL),
        Column("difference", "Difference to the winner (95% confidence)", Kind.DIFFERENCE),
        _P_OF_PAIRS, Column("verdict", "Verdict"),
    )  # fmt: skip
    rows = []
    for candidate in confirmation.candidates:
        curve = choice.curves.get(candidate.name)
        found = None if curve is None else max(curve)
        other = choice.others.get(candidate.name)
        rows.append((
            candidate.name, str(candidate.trial.id), candidate.continued_after, candidate.score,
            *([candidate.origin.expected] if expects else []),
            found,
            None if curve is None else 1 + curve.index(max(curve)),
            None if found is None else found - candidate.score,
            choice.corrected if candidate.name == choice.name else None,
            None if other is None else Interval(other.estimate, other.low, other.high),
            None if other is None else other.p_adjusted,
            None if other is None else other.verdict.value,
        ))  # fmt: skip
    caption = (
        f"{_why_candidates(expects)} Each was trained again on the same fresh seeds and splits. The"
        " epoch is the one at which a candidate's mean curve is highest. The winner's score is"
        " corrected for having been chosen among candidates, epochs and ways to predict. The others"
        " are compared with it over the same images; as it was picked by these scores, p is"
        " adjusted for all pairs of candidates. A candidate that was continued had been stopped"
        " early in the search. Fresh splits reuse the images of the search: only a test set is"
        " independent of it."
    )
    return Table("confirmation", "Confirmation", caption, columns, tuple(rows))


def _why_candidates(expects: bool) -> str:
    """Sentences on what made configurations candidates: an expectation, or their scores alone."""
    if not expects:
        return "The candidates are the configurations with the highest scores in the search."
    return (
        "The candidates are the trials with the highest expected AP50 when the search had ended,"
        " and the trial with the highest score in the search. The expected AP50 weighs a trial's"
        " score against those of trials with similar settings, because the highest scores are"
        " partly the luckiest."
    )


def _effects_table(evidence: Evidence) -> Table:
    columns = (
        Column("setting", "Setting", Kind.SETTING), Column("change", "Change"),
        Column("effect", "Effect on AP50", Kind.DIFFERENCE), _P,
        Column("trials", "Trials", Kind.COUNT),
        Column("importance", "Importance (Optuna)", Kind.PERCENT), Column("estimated", "Estimated"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            one.setting, one.change, Interval(one.estimate, one.low, one.high), one.p_adjusted,
            one.trials, evidence.importances.get(one.setting),
            "by itself" if one.alone else "beside the other settings",
        )
        for one in evidence.effects
    ]  # fmt: skip
    estimated = {name for one in evidence.effects for name in (one.setting, *one.together)}
    rows += [
        (name, None, None, None, None, share, None)
        for name, share in evidence.importances.items()
        if name not in estimated
    ]
    caption = (
        f"The change of {effects_score(evidence.effects_epoch)} with each setting, with a 95%"
        " interval that is not adjusted for the number of effects; p is adjusted for all effects of"
        " the table. A number is estimated with its square. Where that is clear, the smallest and"
        " the largest value that were tried are compared with the value between them at which the"
        " curve is highest (or lowest), and both have one p. Settings that always changed together"
        " have one row. The"
        " importance is the share of the differences in AP50 among the complete trials that Optuna"
        " ascribes to the setting; it has no interval. The sampler tried good settings more often,"
        " and all trials share their validation images, so the table describes this search; it is"
        " not an experiment."
    )
    return Table("effects", "Settings", caption, columns, tuple(rows))


def _classes_table(evidence: Evidence) -> Table | None:
    columns = (
        Column("class", "Class"), Column("images", "Validation images with it", Kind.COUNT), _AP50,
    )  # fmt: skip
    best = best_row(evidence.rows, bool(evidence.request.space.variants))
    if best is None:
        return None
    trials = [one for one in evidence.trials if one.record.id in best.trials]
    scored = [one.scored for one in trials if one.scored is not None]
    rows: list[tuple[Cell, ...]] = []
    for place, name in enumerate(evidence.classes):
        values = [
            value
            for one in trials
            if place < len(one.per_class) and (value := one.per_class[place]) is not None
        ]
        whole = len(scored) == len(trials)
        images = min(int(one.images_C[place]) for one in scored) if whole else None
        found = class_interval(scored, place) if whole and values else None
        ends = (math.nan, math.nan) if found is None else (found.low, found.high)
        rows.append((name, images, Interval(statistics.fmean(values), *ends) if values else None))
    caption = (
        f"AP50 of each class for {classes_of(best)}, at its best epoch and as measured, with the"
        " luck of having chosen that epoch. A class in fewer than 5 images has no interval. Of"
        " several repeats the number of images is that of the one with the fewest. The"
        " interval of"
        " a common class in crowded images is too narrow at an AP50 of about 0.8: in simulation it"
        " held the truth in 73 to 78% of cases instead of 95%."
    )
    return Table("classes", "Classes", caption, columns, tuple(rows))


def _limits_table(evidence: Evidence) -> Table:
    kinds = {
        "found": "Found",
        "called_another_class": "Called another class",
        "badly_outlined": "Badly outlined",
        "not_found": "Not found",
    }
    mends = {
        "called_another_class": "AP50 if none were called another class",
        "badly_outlined": "AP50 if outlines were right",
        "not_found": "AP50 without those not found",
    }
    columns = (
        Column("method", "Method"), Column("class", "Class"),
        Column("instances", "Instances", Kind.COUNT),
        *(Column(name, title, Kind.PERCENT) for name, title in kinds.items()),
        Column("called", "Called most often"), Column("ap50", "AP50", Kind.AP50),
        *(Column(f"ap50_{name}", title, Kind.AP50) for name, title in mends.items()),
    )  # fmt: skip
    rows = tuple(
        (
            one.row, one.label, sum(one.instances.values()), *map(one.share, kinds), one.called,
            one.ap50, *(one.mended[name] for name in mends),
        )
        for one in evidence.limits
    )  # fmt: skip
    caption = (
        "What became of the annotated instances of each class in the validation images, at the best"
        " epoch, over all repeats. Found: a detection of the class with an IoU of 0.5 or more took"
        " it. Called another class: not found, but a detection of another class has such an IoU."
        " Badly outlined: neither, but a detection of the class has an IoU of 0.1 or more. The last"
        " columns say what the AP50 of the class, as measured, would be if one kind of error were"
        " mended. The shares are counts on these images and have no interval."
    )
    return Table("limits", "What limited each class", caption, columns, rows)


def _detections_table(evidence: Evidence) -> Table:
    kinds = {
        "right": "Right",
        "duplicate": "Duplicates",
        "of_another_class": "Of another class",
        "badly_outlined": "Badly outlined",
        "background": "Background",
    }
    mends = {"duplicate": "AP50 without duplicates", "background": "AP50 without background"}
    columns = (
        Column("method", "Method"), Column("class", "Class"),
        Column("detections", "Detections", Kind.COUNT),
        *(Column(name, title, Kind.PERCENT) for name, title in kinds.items()),
        Column("ap50", "AP50", Kind.AP50),
        *(Column(f"ap50_{name}", title, Kind.AP50) for name, title in mends.items()),
    )  # fmt: skip
    rows = []
    for one in evidence.limits:
        count = sum(one.detections.values())
        shares = (one.detections[kind] / count if count else None for kind in kinds)
        after = (one.mended[name] for name in mends)
        rows.append((one.row, one.label, count, *shares, one.ap50, *after))
    caption = (
        "The kinds of the detections of each class, of those that count in AP50 (at most"
        " metric.max_dets in an image), whatever their scores. A duplicate has an IoU of 0.5 or"
        " more with an instance that another detection took; one of another class has it with an"
        " instance of another class. The last columns say what the AP50 of the class, as measured,"
        " would be without one kind. The shares are counts on these images and have no interval."
    )
    return Table("detections", "Detections of each class by kind", caption, columns, tuple(rows))


def _stopped_table(evidence: Evidence) -> Table:
    columns = (
        Column("trial", "Trial"), Column("name", "Name"),
        Column("epochs", "Stopped after epoch", Kind.COUNT), Column("planned", "Of", Kind.COUNT),
        Column("ap50", "Best AP50 until then", Kind.AP50), Column("reason", "Reason"),
    )  # fmt: skip
    rows = tuple(
        (
            str(t.record.id), t.record.name or None, len(t.record.epochs), t.record.planned_epochs,
            t.record.ap50, t.record.reason or None,
        )
        for t in evidence.in_state(State.PRUNED)
    )  # fmt: skip
    caption = (
        "Trials that were stopped early: at a rung because others had done better by the same"
        " epoch, or between rungs because even with much luck they would not have come among the"
        f" best {BEST_PLACES} complete trials. They are compared with no other trial."
    )
    return Table("stopped", "Stopped early", caption, columns, rows)


def _failures_table(evidence: Evidence) -> Table:
    columns = (
        Column("trial", "Trial"), Column("phase", "Phase"), Column("name", "Name"),
        Column("epochs", "Epochs done", Kind.COUNT), Column("attempts", "Attempts", Kind.COUNT),
        Column("reason", "Reason"),
    )  # fmt: skip
    rows = tuple(
        (
            str(t.record.id),
            t.phase,
            t.record.name or None,
            len(t.record.epochs),
            t.record.attempts,
            t.record.reason,
        )
        for t in (*evidence.trials, *evidence.confirm_trials)
        if t.record.state is State.FAIL
    )
    caption = "Trials that failed. A failure is no score: they enter no comparison."
    return Table("failures", "Failures", caption, columns, rows)


def _cost_table(evidence: Evidence) -> Table:
    on_gpu = any(trial.record.gpu_share for trial in (*evidence.trials, *evidence.confirm_trials))
    device = "GPU" if on_gpu else "Processor"
    columns = (
        Column("trials", "Trials"), Column("number", "Number", Kind.COUNT),
        Column("epochs", "Epochs", Kind.COUNT), Column("hours", "Hours", Kind.HOURS),
        Column(f"{device.lower()}_hours", f"{device} hours", Kind.HOURS),
        Column("images_per_second", "Images per second", Kind.NUMBER),
    )  # fmt: skip
    words = (
        (State.COMPLETE, "complete"), (State.PRUNED, "stopped early"), (State.FAIL, "failed"),
        (State.RUNNING, "running or waiting"),
    )  # fmt: skip
    groups = [(word, evidence.in_state(state)) for state, word in words]
    groups += [
        ("confirmation", evidence.confirm_trials),
        ("all", (*evidence.trials, *evidence.confirm_trials)),
    ]
    processors = float((evidence.description.get("resources") or {}).get("cpus_per_trial", 1))
    rows: list[tuple[Cell, ...]] = []
    for word, trials in groups:
        records = [trial.record for trial in trials]
        speeds = [
            float(epoch["images_per_second"]) for record in records for epoch in record.epochs
        ]
        shares = [
            record.seconds * (record.gpu_share if on_gpu else processors) for record in records
        ]
        epochs = sum(len(record.epochs) for record in records)
        hours = math.fsum(record.seconds for record in records) / 3600
        if records:
            speed = statistics.median(speeds) if speeds else None
            rows.append((word, len(records), epochs, hours, math.fsum(shares) / 3600, speed))
    caption = (
        "Time inside epochs, over all attempts, lost epochs included. Images per second are"
        " training images of one trial, the median over epochs."
    )
    return Table("cost", "Cost", caption, columns, tuple(rows))


def _packing_table(evidence: Evidence) -> Table | None:
    packing = evidence.packing
    if packing is None:
        return None
    columns = (
        Column("gpu", "GPU"), Column("trials", "Trials at once", Kind.COUNT),
        Column("with_service", "Images per second, with the service", Kind.NUMBER),
        Column("in_turns", "Images per second, taking turns", Kind.NUMBER),
        Column("gpu_gb", "GPU memory of each (GB)", Kind.NUMBER),
        Column("machine_gb", "Machine's memory of each (GB)", Kind.NUMBER),
        Column("note", "Note"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for measured in packing.gpus:
        for trials in sorted({one.trials for one in measured.rounds}):
            found = [one for one in measured.rounds if one.trials == trials]
            speed = {one.service: one.images_per_second or None for one in found}
            peak, host = (
                max(sizes) / 2**30 or None
                for sizes in zip(*((one.peak_bytes, one.host_bytes) for one in found), strict=True)
            )
            note = "; ".join(one.trouble for one in found if one.trouble) or None
            name = measured.gpu.name
            rows.append((name, trials, speed.get(True), speed.get(False), peak, host, note))
    share = "1 trial has a GPU" if packing.trials == 1 else f"{packing.trials} trials share a GPU"
    way = ", by the service" if packing.service else ""
    caption = (
        "Training images per second of all trials of one GPU together, with the settings of the"
        " study that take the most memory, measured before the search. The service is NVIDIA's"
        f" Multi-Process Service; without it trials take turns. In this study {share}{way}."
    )
    return Table("packing", "Trials that share a GPU", caption, columns, tuple(rows))


def best_row(rows: Sequence[MainRow], variants: bool) -> MainRow | None:
    """The row that the answer names first; None without rows.

    variants   whether the rows are variants; trials are ordered by AP50 as measured
    """
    return max(rows, key=lambda row: row.ap50, default=None) if variants else next(iter(rows), None)


def classes_of(row: MainRow) -> str:
    """Words for the trainings of which the AP50 of each class is shown."""
    if len(row.trials) == 1:
        return row.name
    return f"{row.name}, the mean over {many(len(row.trials), 'repeat')}"


def _cause_cell(row: MainRow) -> str:
    if row.confounds:
        return "no single thing: confounded"
    together = " together" if len(row.factors) > 1 else ""
    return f"{' and '.join(row.made_of)}{together}" if row.factors else "chance"


def effects_score(epoch: int | None) -> str:
    """Words for the score that the effects of settings change.

    epoch   the epoch after which the effects compare all trials; None for final scores
    """
    return "AP50" if epoch is None else f"AP50 up to epoch {epoch} (which every trial reached)"


def ap50_cell(row: MainRow) -> Interval:
    """A row's AP50 with its interval; the ends are nan if there is none."""
    ends = (math.nan, math.nan) if row.interval is None else (row.interval.low, row.interval.high)
    return Interval(row.ap50, *ends)


def difference_cell(row: MainRow) -> Interval | None:
    """The difference of a row to its counterpart with its interval; None if not compared."""
    return None if row.difference is None else _interval_of(row.difference)


def _interval_of(difference: Difference) -> Interval:
    return Interval(difference.estimate, difference.low, difference.high)


def p_cell(row: MainRow) -> float | None:
    """The p value of a row's difference, adjusted for all comparisons; None if not compared."""
    return None if row.difference is None else row.difference.p_adjusted


def _single(rows: Sequence[MainRow]) -> bool:
    """Whether each row was trained with one seed only."""
    return all(row.seeds == 1 for row in rows)


def _trained_settings(evidence: Evidence, row: MainRow) -> Mapping[str, Value]:
    """All settings with which a row was trained."""
    return next(
        trial.record.settings for trial in evidence.trials if trial.record.id == row.trials[0]
    )


def _setting_column(evidence: Evidence, name: str) -> Column:
    values = [_trained_settings(evidence, row)[name] for row in evidence.rows]
    is_number = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    return Column(name, setting_in_words(name), Kind.NUMBER if is_number else Kind.TEXT)


def _setting_cell(value: Value | None) -> Cell:
    return as_setting(value) if isinstance(value, bool) else value
