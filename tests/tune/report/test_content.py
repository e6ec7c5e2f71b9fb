"""Laws of what a report says: its numbers are the ledger's, and its words claim no more than the
numbers show.

The ledgers, folders and match tables are real; what the tables hold is simulated, and nothing is
trained.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.simulated_scores import draw_images, evaluate
from core import data as datasets
from core.config import Value
from core.errors import StudyError
from core.metric.ap50 import MatchTable, ap50
from core.metric.limits import DETECTION_KINDS, INSTANCE_KINDS
from tune.engine.packing import (
    Conditions,
    Gpu,
    Measured,
    Packing,
    Round,
    heaviest,
    what_matters,
)
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.importances import importances
from tune.ledger.ledger import Ledger, open_ledger
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord
from tune.report import main_table
from tune.report.class_limits import RowLimits
from tune.report.content import ReportContent, content_of
from tune.report.evidence import gather_evidence
from tune.report.sentences import answer_of, cautions_of
from tune.report.trial_scores import ScoredTrial
from tune.request.file import from_document
from tune.request.request import variant_attributions
from tune.statistics.certainty import Repeat, Scored, compare_all
from tune.statistics.effects import main_effects
from tune.statistics.epochs import epochs_for_luck, luck_of_best
from tune.store.folder import match_table_path
from tune.study import conductor as study
from tune.study import confirmation
from tune.study.candidates import candidates
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.reading import read_study
from tune.tables import Kind, Table, cell_text

EPOCHS = 2
MAX_DETS = 100
_MANY = draw_images(np.random.default_rng(5), 3000)
IMAGES = _MANY.take(
    np.flatnonzero((_MANY.truths_IC > 0).all(axis=1) & (_MANY.truths_IC.sum(axis=1) < 120))[:20]
)
"""Twenty that hold every class, so that a large difference can be seen in them."""

Match = Callable[[TrialRecord, int], MatchTable]


def table_of(quality: float, *stream: int) -> MatchTable:
    return evaluate(np.random.default_rng(stream), IMAGES, quality)


def plan_of(results: Path, document: Mapping[str, Any]) -> StudyPlan:
    request = from_document({"study": "s", "data": "synthetic", **document}, "test")
    return StudyPlan(
        request,
        Options(results),
        datasets.load_data("synthetic"),
        {},
        Machine((Node(2, 0),)),
        TrialResources(1, 0.0, 2),
    )


def report_of(epoch: int, table: MatchTable) -> dict[str, Any]:
    score = ap50(table, MAX_DETS)
    return {
        "epoch": epoch, "losses": {"loss": 1.0}, "ap50": score.mean,
        "ap50_per_class": list(score.per_class), "seconds": 36.0, "images_per_second": 2.0,
    }  # fmt: skip


def begin(results: Path, document: Mapping[str, Any]) -> tuple[StudyPlan, Ledger]:
    plan = plan_of(results, document)
    plan.folder.path.mkdir(parents=True)
    study.write_study_json(plan)
    return plan, open_ledger(plan.storage, plan.request)


def train(
    plan: StudyPlan,
    book: Ledger,
    record: TrialRecord,
    match: Match,
    epochs: int = EPOCHS,
    folder: Path | None = None,
) -> None:
    """Replay a trial: its match tables on disk, its epochs in the ledger."""
    done = []
    folder = folder or plan.folder.trial(record.id)
    for epoch in range(1, epochs + 1):
        table = match(record, epoch)
        path = match_table_path(folder, epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
        done.append(report_of(epoch, table))
    book.report(record.id, done)


def replay(
    results: Path, document: Mapping[str, Any], match: Match, trials: int | None = None
) -> StudyPlan:
    """Replay a study, or its first trials."""
    plan, book = begin(results, document)
    while (trials is None or len(book.records) < trials) and (record := book.next()) is not None:
        train(plan, book, record, match)
    return plan


def found(plan: StudyPlan) -> ReportContent:
    return content_of(read_study(plan.request.study, plan.options.results))


def table(findings: ReportContent, name: str) -> Table:
    return next(table for table in findings.tables if table.name == name)


def rows_of(findings: ReportContent, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table(findings, name).csv())))


VARIANTS: dict[str, Any] = {
    "fixed": {"optim.epochs": EPOCHS},
    "variants": {
        "Plain": {},
        "Twin": {"augment.affine": True},
        "Good": {"model.trainable_layers": 5},
        "Good + affine": {"model.trainable_layers": 5, "augment.affine": True},
        "Large": {"model.trainable_layers": 3, "optim.batch_size": 8},
    },
    "seeds": 3,
}
QUALITY = {"Plain": 0.0, "Twin": 0.0, "Good": 1.6, "Good + affine": 1.6, "Large": -2.0}
SAME_AS = {"Twin": "Plain"}


def by_quality(record: TrialRecord, epoch: int) -> MatchTable:
    """A model by its variant; `Twin` makes the predictions of `Plain`."""
    name = SAME_AS.get(record.name, record.name)
    seed = int(record.settings["seed"])
    return table_of(QUALITY[name] - (0 if epoch == 1 else 0.8), *name.encode(), seed, epoch)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    return replay(tmp_path_factory.mktemp("variants"), VARIANTS, by_quality)


@pytest.fixture(scope="module")
def shown(variants: StudyPlan) -> ReportContent:
    return found(variants)


def test_every_number_of_the_main_table_is_the_ledger_s(
    variants: StudyPlan, shown: ReportContent
) -> None:
    reading = read_ledger(variants.storage, "s")
    assert reading is not None
    rows = rows_of(shown, "methods")
    assert [row["method"] for row in rows] == list(VARIANTS["variants"])
    for row in rows:
        records = [record for record in reading.records if record.name == row["method"]]
        assert float(row["ap50_best"]) == pytest.approx(
            np.mean([record.ap50 for record in records]), abs=1e-15
        )
        assert 0 < float(row["ap50"]) <= float(row["ap50_best"])
        assert float(row["ap50_last"]) == pytest.approx(
            np.mean([record.curve[-1] for record in records]), abs=1e-15
        )
        assert (row["repeats"], row["epochs"]) == (str(len(records)), str(EPOCHS))
        assert float(row["ap50_low"]) < float(row["ap50"]) < float(row["ap50_high"])


def test_differences_are_those_of_the_match_tables_over_the_same_seeds(
    variants: StudyPlan, shown: ReportContent
) -> None:
    """Each is of the best epoch, without the luck of having been chosen."""
    scores: dict[str, dict[Repeat, Scored]] = {name: {} for name in VARIANTS["variants"]}
    for trial in shown.trials:
        best, curve = trial.record.best_epoch, trial.record.curve
        assert best is not None
        folder = variants.folder.trial(trial.record.id)
        tables = {
            epoch: Scored.of(MatchTable.load(match_table_path(folder, epoch)), MAX_DETS)
            for epoch in epochs_for_luck(curve)
        }
        luck = luck_of_best(curve, tables)
        repeat = Repeat(int(trial.record.settings["seed"]))
        scores[trial.record.name][repeat] = replace(tables[best], luck=luck)
    pairs = [(name, "Plain") for name in list(VARIANTS["variants"])[1:]]
    expected = compare_all(scores, pairs, 0.25)
    assert [row.difference for row in shown.rows] == [None, *expected]


def test_equal_predictions_cannot_be_told_apart(shown: ReportContent) -> None:
    twin = next(row for row in shown.rows if row.name == "Twin")
    assert twin.difference is not None
    assert (twin.difference.estimate, twin.verdict) == (0.0, "cannot tell")
    assert any(
        sentence.startswith("The data cannot tell these from Plain: Twin (+0.0000)")
        for sentence in shown.answer
    )


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_row_whose_seeds_differ_more_than_the_others_says_so_with_three_seeds(
    tmp_path: Path, seeds: int
) -> None:
    def by_seed(record: TrialRecord, epoch: int) -> MatchTable:
        seed = int(record.settings["seed"])
        wild = 4.0 * (seed - 1) if record.name == "Wild" else 0.0
        return table_of(wild, *record.name.encode(), seed, epoch)

    names = ("Plain", "Calm", "Quiet", "Wild")
    rows = {name: {"optim.learning_rate": 1e-4 + place * 1e-5} for place, name in enumerate(names)}
    document = {"fixed": {"optim.epochs": EPOCHS}, "variants": rows, "seeds": seeds}
    shown = found(replay(tmp_path, document, by_seed))
    notes = {row["method"]: row["note"] for row in rows_of(shown, "methods")}
    words = (
        "its seeds differ more than those of the others, as those of one row in five do by chance;"
        " that widens its interval"
    )
    assert [name for name in names if words in (notes[name] or "")] == ["Wild"] * (seeds > 2)
    width = {row.name: row.interval.high - row.interval.low for row in shown.rows if row.interval}
    assert width["Wild"] > max(width[name] for name in names[:3])


def test_a_clear_difference_in_one_thing_is_said_to_be_its_effect(shown: ReportContent) -> None:
    good = next(row for row in shown.rows if row.name == "Good")
    assert (good.verdict, good.confounds, good.made_of) == (
        "better",
        (),
        ("freezing of the backbone",),
    )
    best = max(shown.rows, key=lambda row: row.ap50)
    assert best.name in ("Good", "Good + affine")
    assert shown.answer[0].startswith(
        f"{best.name} has the highest validation AP50 of 5 methods: {best.ap50:.4f} ("
    )
    assert shown.answer[1].startswith(f"{best.name} is better than Plain: +")
    said = {
        "Good": (
            "Apart from chance, the two differ only in freezing of the backbone (trains all stages"
            " instead of the last stage)."
        ),
        "Good + affine": "Apart from chance, the two differ in Twin and Good together.",
    }
    assert shown.answer[2] == said[best.name]
    assert shown.answer[3] == "The verdict holds for training on other images of this kind as well."
    scopes = {row["method"]: row["holds_for"] for row in rows_of(shown, "methods")}
    assert (scopes[best.name], scopes["Twin"]) == ("methods trained on images of this kind", "")


def test_a_confounded_difference_is_never_said_to_be_the_effect_of_its_name(
    shown: ReportContent,
) -> None:
    large = next(row for row in shown.rows if row.name == "Large")
    assert (large.verdict, large.made_of, large.note) == ("worse", (), "confounded")
    assert large.confounds == (
        (
            "Large differs from Plain in freezing of the backbone (trains the last 3 stages instead"
            " of the last stage) and batch size (8 instead of 2; learning rate per image a"
            " quarter): the difference cannot be attributed to the freezing of the backbone alone"
        ),
    )
    (row,) = [row for row in rows_of(shown, "comparisons") if row["method"] == "Large"]
    assert row["effect_of"] == "no single thing: confounded"
    assert any(
        sentence.startswith(
            "1 comparison cannot be attributed to what the name says, because more differs than"
            " that: "
        )
        for sentence in shown.answer
    )


def test_a_confounded_winner_is_said_to_be_better_and_why_that_cannot_be_attributed(
    tmp_path: Path,
) -> None:
    document = {
        **VARIANTS,
        "variants": {name: VARIANTS["variants"][name] for name in ("Large", "Good")},
    }
    answer = found(replay(tmp_path, {**document, "baseline": "Large"}, by_quality)).answer
    assert answer[1].startswith("Good is better than Large: +")
    assert answer[2].endswith(
        "the difference cannot be attributed to the freezing of the backbone alone."
    )
    assert not any("differ only in" in sentence or "name says" in sentence for sentence in answer)


def test_what_differs_is_read_from_what_was_trained(
    variants: StudyPlan, shown: ReportContent
) -> None:
    """Defaults may have changed since: then the file says less than the ledger."""
    trained = {"Twin": {**shown.trials[1].record.settings, "optim.weight_decay": 0.5}}
    (found_so,) = [
        one for one in variant_attributions(variants.request.space, trained) if one.name == "Twin"
    ]
    assert [factor.name for factor in found_so.factors] == ["augmentation", "optimizer"]
    assert [factor.name for factor in shown.rows[1].factors] == ["augmentation"]


def test_only_rows_that_differ_in_that_factor_alone_are_in_its_table(shown: ReportContent) -> None:
    assert [row["method"] for row in rows_of(shown, "freezing")] == ["Plain", "Good"]
    assert {"restarts", "backbones"}.isdisjoint(one.name for one in shown.tables)


def test_with_one_training_each_sentences_are_about_models_and_with_three_about_methods(
    shown: ReportContent, tmp_path: Path
) -> None:
    single = found(replay(tmp_path, {**VARIANTS, "seeds": 1}, by_quality))
    assert any(
        "the verdicts are about these trained models, not about the methods" in one
        for one in single.answer
    )
    assert single.answer[1].startswith(
        "The model trained as Good is better than that trained as Plain: +"
    )
    assert single.answer[2].endswith(
        "with one training each, the luck of their seeds can also have made the difference."
    )
    assert not any("trained models" in one for one in shown.answer)
    assert all(row.difference.seed_se is None for row in single.rows if row.difference)
    assert all(row.difference.seed_se for row in shown.rows if row.difference)


def test_the_smallest_difference_is_measured_from_two_trials_on_and_a_stated_prior_before(
    tmp_path: Path,
) -> None:
    first = found(replay(tmp_path / "one", VARIANTS, by_quality, trials=1)).smallest_difference
    assert "This is a prior, not a measurement on these data" in first.sentence
    two = found(replay(tmp_path / "two", VARIANTS, by_quality, trials=3)).smallest_difference
    assert two.value is not None
    assert "prior" not in two.sentence
    assert f"{two.value:.2f} AP50 is found in 80% of cases" in two.sentence
    assert "one training each, 2 comparisons that share an error rate of 5%" in two.sentence
    assert "near 0" not in two.sentence


def test_two_rows_with_two_seeds_promise_no_difference_and_say_why_there_is_no_verdict(
    tmp_path: Path,
) -> None:
    rows = {name: VARIANTS["variants"][name] for name in ("Plain", "Good")}
    shown = found(replay(tmp_path, {**VARIANTS, "variants": rows, "seeds": 2}, by_quality))
    good = shown.rows[1]
    assert good.difference is not None
    assert (good.verdict, good.note) == ("cannot tell", "too few seeds for a verdict")
    assert shown.smallest_difference.value is None
    assert "is unknown, and there is no verdict, because" in shown.smallest_difference.sentence
    assert any("Good from Plain with seeds=" in sentence for sentence in shown.answer)


def test_where_nothing_was_learned_the_smallest_difference_is_said_to_be_of_scores_near_zero(
    tmp_path: Path,
) -> None:
    plan = replay(
        tmp_path,
        VARIANTS,
        lambda record, epoch: table_of(-2.45, *record.name.encode(), record.id, epoch),
    )
    shown = found(plan)
    assert max(row.ap50 for row in shown.rows) < 0.02
    assert "Every AP50 is near 0 here" in shown.smallest_difference.sentence


def test_what_is_missing_is_said_and_takes_an_interval_and_never_a_score(tmp_path: Path) -> None:
    plan = replay(tmp_path, {**VARIANTS, "seeds": 2}, by_quality)
    whole = found(plan)
    numbers = {
        name: [t.record.id for t in whole.trials if t.record.name == name]
        for name in VARIANTS["variants"]
    }
    (gone, _), (torn, _), (other, _) = (numbers[name] for name in ("Twin", "Good", "Large"))
    match_table_path(plan.folder.trial(gone), 1).unlink()
    match_table_path(plan.folder.trial(torn), 1).write_bytes(b"PK")
    table_of(0.3, 9).save(match_table_path(plan.folder.trial(other), 1))
    foreign = match_table_path(plan.folder.trial(numbers["Large"][1]), 1)
    fewer = MatchTable.load(foreign)
    replace(fewer, truths_IC=np.pad(fewer.truths_IC, ((0, 0), (0, 1)))).save(foreign)
    left = found(plan)
    troubles = {trial.record.id: trial.trouble for trial in left.trials if trial.trouble}
    assert set(troubles) == {gone, torn, other, numbers["Large"][1]}
    assert f"is of {fewer.truths_IC.shape[1] + 1} classes" in troubles[numbers["Large"][1]]
    assert troubles[gone].endswith("is missing")
    assert troubles[torn].endswith("is damaged")
    assert f"and the ledger {left.trials[other].record.ap50:.4f}" in troubles[other]
    assert sum(": its match table " in caution for caution in left.cautions) == 3
    assert "1 more problem of this kind is not shown." in left.cautions
    for before, after in zip(whole.rows, left.rows, strict=True):
        assert before.measured == after.measured
        assert (after.interval is None) == (after.name in ("Twin", "Good", "Large"))
    twin = next(row for row in left.rows if row.name == "Twin")
    assert twin.difference is not None
    assert twin.difference.repeats == 1
    assert twin.note == (
        "match tables are missing; compared over 1 repeat that both have; too few seeds for a"
        " verdict"
    )
    (cell,) = [row for row in rows_of(left, "methods") if row["method"] == "Twin"]
    assert (cell["ap50_low"], cell["ap50_high"]) == ("", "")


def test_a_foreign_table_of_another_epoch_leaves_the_luck_unknown_and_is_no_traceback(
    tmp_path: Path,
) -> None:
    """Of other images, of other classes, or of another model: nothing is subtracted by it."""
    plan = replay(tmp_path, {**VARIANTS, "seeds": 1}, by_quality)
    whole = found(plan)
    later = {
        trial.record.name: match_table_path(
            plan.folder.trial(trial.record.id), 3 - (trial.record.best_epoch or 0)
        )
        for trial in whole.trials
    }
    fewer = evaluate(np.random.default_rng(1), IMAGES.take(np.arange(12)), 0.0)
    fewer.save(later["Twin"])
    own = MatchTable.load(later["Good"])
    replace(own, truths_IC=np.pad(own.truths_IC, ((0, 0), (0, 1)))).save(later["Good"])
    table_of(0.3, 9).save(later["Large"])
    left = found(plan)
    for before, after in zip(whole.trials, left.trials, strict=True):
        assert before.scored is not None
        assert after.scored is not None
        if after.record.name in ("Twin", "Good", "Large"):
            assert after.scored.luck == 0.0
            assert f"the match table {later[after.record.name]} gives another" in after.trouble
        else:
            assert (after.scored.luck, after.trouble) == (before.scored.luck, "")
    assert all(row.interval is not None for row in left.rows)
    noted = {row.name for row in left.rows if "luck of its epochs, which is unknown" in row.note}
    assert noted == later.keys() & {"Twin", "Good", "Large"}


def test_a_study_without_a_complete_trial_says_so(tmp_path: Path) -> None:
    plan, book = begin(tmp_path / "begun", VARIANTS)
    nothing = found(plan)
    assert nothing.answer[0] == "No trial is complete yet, so there is nothing to compare."
    assert (nothing.rows, nothing.best, nothing.tables, nothing.finished) == ((), None, (), False)
    first, second = book.next(), book.next()
    assert first is not None
    assert second is not None
    train(plan, book, first, by_quality, epochs=1)
    train(plan, book, second, by_quality, epochs=1)
    book.fail(second.id, "diverged: epoch 2, batch 1: loss is nan")
    running = found(plan)
    assert (running.rows, running.best) == ((), None)
    assert (
        running.answer[1] == "2 of 15 planned trials were begun: 1 failed and 1 running or waiting."
    )
    assert [row["reason"] for row in rows_of(running, "failures")] == [
        "diverged: epoch 2, batch 1: loss is nan"
    ]


def test_a_study_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        read_study("s", tmp_path, "sqlite:///none.db")
    plan = plan_of(tmp_path, VARIANTS)
    plan.folder.path.mkdir()
    study.write_study_json(plan)
    with pytest.raises(StudyError, match=r"not in its ledger sqlite:"):
        found(plan)


def test_an_interrupted_study_compares_the_repeats_that_there_are_and_says_so_far(
    tmp_path: Path,
) -> None:
    plan = replay(
        tmp_path, VARIANTS, by_quality, trials=8
    )  # the second repeat lacks its last two variants
    so_far = found(plan)
    assert not so_far.finished
    assert so_far.answer[-1] == "All this is so far: 8 of 15 planned trials were begun: 8 complete."
    assert {row.name: row.note.split("; ")[0] for row in so_far.rows} == {
        "Plain": "2 of 3 repeats", "Twin": "2 of 3 repeats", "Good": "2 of 3 repeats",
        "Good + affine": "1 of 3 repeats", "Large": "1 of 3 repeats",
    }  # fmt: skip
    assert [row.difference and row.difference.repeats for row in so_far.rows] == [None, 2, 2, 1, 1]


def test_failures_and_trials_that_were_stopped_enter_no_comparison(tmp_path: Path) -> None:
    document = {
        "fixed": {"optim.epochs": EPOCHS},
        "space": {"optim.learning_rate": {"low": 1e-5, "high": 1e-3}},
        "search": {"sampler": "random", "trials": 6},
        "stop_early": {"rule": "successive_halving", "min_epochs": 1, "reduction": 2},
        "confirm": {"top": 0},
    }
    plan, book = begin(tmp_path, document)

    def match(record: TrialRecord, epoch: int) -> MatchTable:
        return table_of([0.5, 2.0, -1.5, 0.6, 0.4, 0.7][record.id] + 0.1 * epoch, record.id, epoch)

    for number in range(6):
        record = book.next()
        assert record is not None
        if number == 1:  # the best score of all, and it fails after it
            train(plan, book, record, match, epochs=1)
            book.fail(record.id, "ValueError: no such tile")
        else:
            train(plan, book, record, match)
    said = found(plan)
    by_state = {
        state: [t.record.id for t in said.trials if t.record.state is state] for state in State
    }
    assert by_state[State.FAIL] == [1]
    assert 2 in by_state[State.PRUNED]
    assert {row.trials[0] for row in said.rows} == set(by_state[State.COMPLETE])
    assert said.trials[1].interval is None
    assert said.best is not None
    assert said.best.record.id == said.rows[0].trials[0] != 1
    assert all(row.difference is not None and row.difference.estimate <= 0 for row in said.rows[1:])
    scores = [float(row["ap50_best"]) for row in rows_of(said, "trials")]
    assert scores == sorted(scores, reverse=True)
    assert f"{said.trials[1].record.ap50:.4f}" not in " ".join(said.answer)
    assert [row["trial"] for row in rows_of(said, "stopped")] == [
        str(number) for number in by_state[State.PRUNED]
    ]
    cost = {row["trials"]: row for row in rows_of(said, "cost")}
    epochs = sum(len(trial.record.epochs) for trial in said.trials)
    assert (cost["all"]["number"], cost["all"]["epochs"]) == ("6", str(epochs))
    assert float(cost["all"]["hours"]) == pytest.approx(epochs / 100)
    assert float(cost["all"]["processor_hours"]) == pytest.approx(epochs / 100)


def test_what_was_measured_of_trials_that_share_a_gpu_is_a_table_and_damaged_files_are_none(
    tmp_path: Path,
) -> None:
    plan, _ = begin(tmp_path, {"space": {"optim.restarts": [0, 1]}})
    gpu = Gpu("NVIDIA H200", 140 * 2**30)
    rounds = (
        Round(1, False, 30.0, 3 * 2**30, 2**30),
        Round(2, False, 55.0, 3 * 2**30, 2**30),
        Round(2, True, 57.0, 2 * 2**30, 2**31),
        Round(4, True, 0.0, trouble="out of memory"),
    )
    settings = what_matters(heaviest(plan.request.space))
    conditions = Conditions(settings, (gpu,), 16, 0, "auto", None, (False, True))
    packing = Packing(conditions, (Measured(gpu, rounds),))
    plan.folder.packing.write_text(json.dumps(packing.to_json()))
    said = found(plan)
    assert [tuple(row.values()) for row in rows_of(said, "packing")] == [
        ("NVIDIA H200", "1", "", "30.0", "3.0", "1.0", ""),
        ("NVIDIA H200", "2", "57.0", "55.0", "3.0", "2.0", ""),
        ("NVIDIA H200", "4", "", "", "", "", "out of memory"),
    ]
    assert table(said, "packing").caption.endswith("In this study 2 trials share a GPU.")
    plan.folder.packing.write_text("{}")
    assert "packing" not in {one.name for one in found(plan).tables}


def test_of_equal_models_few_are_called_worse_than_the_best_of_them() -> None:
    """Twelve models of one quality: the best of them is the luckiest, and must not be taken for
    a better one.

    Nominal 5% of 120 searches, 12 alarms or more have then a probability of 2%. Here there are 2;
    Holm's correction for eleven comparisons, as if the best had been known beforehand, gives 23.
    """
    request = from_document(
        {"study": "s", "data": "synthetic", "space": {"optim.restarts": [0, 1]}}, "test"
    )
    alarms = 0
    for search in range(120):
        rng = np.random.default_rng([7, search])
        chosen = np.flatnonzero(
            (_MANY.truths_IC > 0).all(axis=1) & (_MANY.truths_IC.sum(axis=1) < 60)
        )
        images = _MANY.take(np.sort(rng.choice(chosen, 20, replace=False)))
        trials = []
        for number in range(12):
            scored = Scored.of(evaluate(rng, images, 0.3), MAX_DETS)
            settings = {"optim.epochs": 1, "seed": 0, "data.fold": 0}
            epochs = ({"epoch": 1, "ap50": scored.ap50, "seconds": 1.0},)
            record = TrialRecord(number, state=State.COMPLETE, settings=settings, epochs=epochs)
            trials.append(ScoredTrial(record, "search", None, (), scored=scored))
        alarms += any(row.verdict == "worse" for row in main_table.main_rows(request, trials))
    assert alarms < 12


def test_the_best_as_measured_is_said_to_be_that_and_may_be_worse_than_another_without_luck(
    said: ReportContent, sampled: StudyPlan
) -> None:
    """Trials are in the order of their scores as measured, and are compared without luck."""
    best, *others = said.rows
    (sentence,) = [one for one in said.answer if " has the highest validation AP50 " in one]
    assert sentence.startswith(
        f"Trial {best.trials[0]} has the highest validation AP50 as measured, {best.measured:.4f},"
    )
    assert f"; less the luck of its best epoch it is {best.ap50:.4f} (" in sentence
    *before, last = [row for row in others if row.difference is not None]
    evidence = gather_evidence(read_study(sampled.request.study, sampled.options.results))
    rows = (best, *before, replace(last, verdict="better"))
    answer = " ".join(answer_of(replace(evidence, rows=rows)))
    assert "1 is better once the luck of best epochs is subtracted" in answer
    worse = sum(row.verdict == "worse" for row in before)
    assert (f"{worse} {'is' if worse == 1 else 'are'} worse" in answer) == (worse > 0)


def test_images_of_one_group_are_one_unit(tmp_path: Path) -> None:
    """Ten groups of images by the last digit of their names, which are numbers."""
    document = {**VARIANTS, "fixed": {"optim.epochs": EPOCHS, "data.group_pattern": r"(\d)$"}}
    grouped = found(replay(tmp_path, document, by_quality, trials=5))
    assert all(
        trial.scored is not None and len(trial.scored.units) == 10 for trial in grouped.trials
    )
    assert "10 groups of validation images" in grouped.smallest_difference.sentence
    assert not any("data.group_pattern must say so" in caution for caution in grouped.cautions)


def test_a_class_has_its_score_and_an_interval_only_where_it_is_in_enough_images(
    shown: ReportContent,
) -> None:
    best = max(shown.rows, key=lambda row: row.ap50)
    repeats = [one for one in shown.trials if one.record.id in best.trials]
    assert len(repeats) > 1
    assert best.name in table(shown, "classes").caption
    rows = rows_of(shown, "classes")
    assert [row["class"] for row in rows] == list(shown.classes)
    for place, row in enumerate(rows):
        values = [value for one in repeats if (value := one.per_class[place]) is not None]
        images = min(int(one.scored.images_C[place]) for one in repeats if one.scored is not None)
        assert int(row["images"]) == images
        assert float(row["ap50"]) == pytest.approx(math.fsum(values) / len(values))
        assert (row["ap50_low"] == "") == (images < 5)


def test_a_mean_over_a_handful_of_repeats_names_their_scores(shown: ReportContent) -> None:
    best = max(shown.rows, key=lambda row: row.ap50)
    scores = [f"{one.honest:.4f}" for one in shown.trials if one.record.id in best.trials]
    assert shown.answer[0].endswith(
        f", the mean of {len(scores)} repeats ({', '.join(scores[:-1])} and {scores[-1]})."
    )


def test_what_limited_the_classes_is_left_out_where_trials_did_not_report_it(
    shown: ReportContent,
) -> None:
    """As trials of an earlier version, whose epochs have no such entry."""
    assert shown.limits == ()
    assert not {"limits", "detections"} & {table.name for table in shown.tables}
    assert not any("is weakest in" in sentence for sentence in shown.answer)


def test_a_class_in_few_images_is_flagged(tmp_path: Path) -> None:
    few = _MANY.take(np.arange(20))
    images = (few.truths_IC > 0).sum(axis=0)
    rare = [f"class{place + 1}" for place in np.flatnonzero((images > 0) & (images < 5))]
    assert 0 < len(rare) < 4
    plan = replay(
        tmp_path, VARIANTS, lambda *_: evaluate(np.random.default_rng(3), few, 0.0), trials=2
    )
    flagged = [one for one in found(plan).cautions if "its AP50 is hardly known" in one]
    assert [one.split()[4] for one in flagged] == rare
    assert "a rare class moves it as much as a common one" in " ".join(found(plan).cautions)


def test_a_cap_that_validation_images_of_the_best_trial_reached_is_said(tmp_path: Path) -> None:
    plan, book = begin(tmp_path, {"fixed": {"optim.epochs": 2}, "variants": {"Plain": {}}})
    record = book.next()
    assert record is not None
    tables = [table_of(0.0, 1), table_of(1.0, 2)]
    for epoch, one in enumerate(tables, start=1):
        path = match_table_path(plan.folder.trial(record.id), epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        one.save(path)
    reports = [report_of(epoch, one) for epoch, one in enumerate(tables, start=1)]
    best = max(reports, key=lambda report: report["ap50"])
    book.report(
        record.id, [{**report, "capped_images": 3 if report is best else 7} for report in reports]
    )
    (said,) = [caution for caution in found(plan).cautions if "predict.max_detections" in caution]
    assert (
        said == "In 3 validation images of the best trial as many instances were found as"
        " predict.max_detections keeps of a tile (400), so that more may be there; try a higher"
        " one under after_training."
    )


def test_what_is_needed_to_repeat_a_study_is_said(
    variants: StudyPlan, shown: ReportContent
) -> None:
    known = shown.provenance
    assert known["data fingerprint"] == variants.data.fingerprint
    assert known["seeds of the trials"] == "0, 1, 2"
    assert {"command", "data", "begun", "version of torch", "version of optuna"} <= set(known)


SAMPLED = {
    "fixed": {"optim.epochs": EPOCHS},
    "space": {
        "optim.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "augment.elastic": [False, True],
        "optim.restarts": [0, 1],
        "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1]}},
    },
    "search": {"sampler": "random", "trials": 14},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 2, "seeds": 2},
}


def by_rate(record: TrialRecord, epoch: int) -> MatchTable:
    quality = 0.4 + 0.9 * math.log10(float(record.settings["optim.learning_rate"]) / 1e-4)
    return table_of(quality + 0.1 * epoch, record.id, int(record.settings["seed"]), epoch)


def confirmed(results: Path, document: Mapping[str, Any]) -> StudyPlan:
    """A search, and the confirmation of its best."""
    plan = replay(results, document, by_rate)
    request, repeats = plan.request, confirmation.fresh_repeats(plan.request, plan.data)
    searched = open_ledger(plan.storage, request)
    found = candidates(searched.records, request, confirmation.decide(searched, request))
    points = confirmation.confirming_points(found, request, repeats)
    book = open_ledger(plan.storage, confirmation.confirming_request(request), points)
    book.remember(confirmation.confirmation_facts(request, repeats))
    while (record := book.next()) is not None:
        train(plan, book, record, by_rate, folder=plan.folder.confirm_trial(record.id))
    return plan


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    """The best two are confirmed on two seeds each."""
    return confirmed(tmp_path_factory.mktemp("sampled"), SAMPLED)


@pytest.fixture(scope="module")
def said(sampled: StudyPlan) -> ReportContent:
    return found(sampled)


def test_a_confirmed_winner_is_said_first_with_both_its_scores(said: ReportContent) -> None:
    choice = said.choice
    assert choice is not None
    number = said.candidates[choice.name]
    record = said.trials[number].record
    assert said.answer[0].startswith(f"Trial {number} has the highest AP50 of 2 candidates ")
    assert said.answer[0].endswith("; this is the score to quote.")
    single = [
        one.record.curve[choice.epoch - 1]
        for one in said.confirm_trials
        if one.record.name == choice.name
    ]
    assert math.fsum(single) / 2 == pytest.approx(choice.score)
    assert said.answer[1] == (
        f"As measured it was {choice.score:.4f} at epoch {choice.epoch}, the mean of 2 trainings"
        f" ({single[0]:.4f} and {single[1]:.4f})."
    )
    assert said.answer[2].startswith("Its settings: learning rate ")
    assert f"{choice.corrected.estimate:.4f} (" in said.answer[0]
    assert said.answer[4].startswith(f"Its score in the search was {record.ap50:.4f}, ")
    assert len(said.confirm_trials) == 4
    rows = {row["candidate"]: row for row in rows_of(said, "confirmation")}
    assert float(rows[choice.name]["confirmed_ap50"]) == choice.score
    assert float(rows[choice.name]["search_ap50"]) == record.ap50
    expected = rows[choice.name]["expected_ap50"]
    assert f"those of similar trials, {float(expected):.4f} was expected of it" in said.answer[4]
    assert {name: int(row["trial"]) for name, row in rows.items()} == dict(said.candidates)
    ((other, compared),) = choice.others.items()
    assert "has the highest AP50 of 2 candidates on fresh seeds and splits" in said.answer[0]
    assert said.answer[3].startswith("The other candidate, ")
    assert (rows[other]["verdict"], rows[choice.name]["verdict"]) == (compared.verdict, "")
    assert float(rows[other]["difference"]) == compared.estimate
    assert any("only a test set is independent" in caution for caution in said.cautions)
    assert not any("not confirmed on fresh seeds" in sentence for sentence in said.answer)


@pytest.mark.parametrize(
    ("repeats", "clause"),
    [
        ({"seeds": 1}, "; one training cannot show the luck of its seed, so "),
        ({"seeds": 1, "folds": 2}, "; folds of one seed cannot show its luck, so "),
    ],
)
def test_a_winner_confirmed_on_one_seed_has_an_interval_that_is_said_to_be_over_images_alone(
    tmp_path: Path, said: ReportContent, repeats: Mapping[str, int], clause: str
) -> None:
    clause += "the interval is over images alone."
    assert not any("over images alone" in sentence for sentence in said.answer)
    plan = confirmed(tmp_path, SAMPLED | {"confirm": {"top": 2, **repeats}})
    assert found(plan).answer[1].endswith(clause)


def test_effects_have_intervals_and_stand_beside_importances_that_add_up(
    sampled: StudyPlan, said: ReportContent
) -> None:
    assert math.fsum(said.importances.values()) == pytest.approx(1)
    assert next(iter(said.importances)) == "optim.learning_rate"
    assert said.importances == pytest.approx(importances(sampled.storage, "s"))
    rate = next(effect for effect in said.effects if effect.setting == "optim.learning_rate")
    assert 0 < rate.low < rate.estimate < rate.high
    assert any(
        sentence.startswith(
            "Settings that go with a difference in AP50 on these validation images:"
        )
        and "learning rate doubled (+" in sentence
        and sentence.endswith("For each of them p, adjusted for all effects, is under 0.05.")
        for sentence in said.answer
    )
    assert [row["p"] for row in rows_of(said, "effects") if row["p"]] == [
        str(effect.p_adjusted) for effect in said.effects
    ]
    shares = {row["setting"]: row["importance"] for row in rows_of(said, "effects")}
    assert {name: float(share) for name, share in shares.items() if share} == said.importances


def test_effects_where_trials_were_stopped_are_on_ap50_up_to_the_epoch_that_all_reached(
    tmp_path: Path,
) -> None:
    document = {
        **SAMPLED,
        "fixed": {"optim.epochs": 4},
        "stop_early": {"rule": "successive_halving", "min_epochs": 2, "reduction": 2},
        "confirm": {"top": 0},
    }
    plan, book = begin(tmp_path, document)
    while (record := book.next()) is not None:
        for epochs in range(1, 5):
            train(plan, book, record, by_rate, epochs=epochs)
            if book.records[record.id].state is not State.RUNNING:
                break
    shown = found(plan)
    curves = [trial.record.curve for trial in shown.trials]
    assert {len(curve) for curve in curves} > {4}
    assert shown.effects_epoch == min(map(len, curves)) == 2
    assert max(effect.trials for effect in shown.effects) == len(shown.trials)
    said_of = [
        one for one in shown.answer if "AP50 up to epoch 2 (which every trial reached)" in one
    ]
    assert len(said_of) == 1
    assert "AP50 up to epoch 2 (which every trial reached)" in table(shown, "effects").caption


def test_there_are_no_importances_where_optuna_cannot_tell(tmp_path: Path) -> None:
    assert importances(f"sqlite:///{tmp_path / 'none.db'}", "s") == {}
    document = {
        "space": {"optim.learning_rate": {"low": 1e-5, "high": 1e-3}}, "fixed": {"optim.epochs": 1},
        "search": {"sampler": "random", "trials": 12}, "confirm": {"top": 0},
    }  # fmt: skip
    plan, book = begin(tmp_path, document)
    for number in range(12):
        record = book.next()
        assert record is not None
        book.report(record.id, [{"epoch": 1, "ap50": 0.5, "seconds": 1.0}])
        assert importances(plan.storage, "s") == {}, f"{number + 1} trials, all with one score"


@pytest.mark.parametrize(
    ("rates", "qualities", "said"),
    [
        ([1e-4, 2e-4], (0.0, 0.0), "No complete trial has the defaults of all searched settings"),
        ([5e-5, 2e-4], (2.0, 0.0), "Trial 0 has the defaults of all searched settings."),
        (
            [5e-5, 2e-4],
            (0.0, 2.0),
            "Trial 0, which has the defaults of all searched settings, is worse than trial 1: ",
        ),
        (
            [5e-5, 2e-4],
            (0.0, 0.01),
            "Trial 0, which has the defaults of all searched settings, cannot be told from trial 1",
        ),
    ],
)
def test_the_answer_of_a_search_says_how_the_defaults_did_and_what_was_not_varied(
    tmp_path: Path, rates: list[float], qualities: tuple[float, float], said: str
) -> None:
    document = {
        "fixed": {"optim.epochs": EPOCHS},
        "space": {"optim.learning_rate": rates, "augment.horizontal_flip": [False]},
        "search": {"sampler": "grid"},
        "stop_early": {"rule": "none"},
        "confirm": {"top": 0},
    }
    plan = replay(tmp_path, document, lambda one, epoch: table_of(qualities[one.id], epoch))
    answer = found(plan).answer
    (told,) = (sentence for sentence in answer if "the defaults of all" in sentence)
    assert told.startswith(said)
    assert (
        "All complete trials have horizontal flip off: what this setting does was not tried."
        in answer
    )


@pytest.mark.parametrize(
    ("qualities", "then"),
    [((0.0, 2.0), "it is worse than trial 1: "), ((2.0, 0.0), "it is the best of them.")],
)
def test_a_trial_that_differs_from_the_defaults_only_as_all_trials_do_is_the_nearest_to_them(
    tmp_path: Path, qualities: tuple[float, float], then: str
) -> None:
    document = {
        "fixed": {"optim.epochs": EPOCHS},
        "space": {"optim.learning_rate": [5e-5, 2e-4], "augment.horizontal_flip": [True]},
        "search": {"sampler": "grid"},
        "stop_early": {"rule": "none"},
        "confirm": {"top": 0},
    }
    plan = replay(tmp_path, document, lambda one, epoch: table_of(qualities[one.id], epoch))
    (told,) = (one for one in found(plan).answer if "the defaults of all" in one)
    assert told.startswith(
        "No complete trial has the defaults of all searched settings. The nearest to them is trial"
        f" 0, which differs only in horizontal flip on, as all complete trials do; {then}"
    )


def test_a_number_that_is_best_between_the_values_tried_is_said_to_be_that(
    sampled: StudyPlan,
) -> None:
    """A straight line finds nothing there."""
    rates = np.geomspace(1e-5, 1e-3, 14).tolist()
    points: list[dict[str, Value]] = [
        {"optim.learning_rate": rate, "augment.elastic": place in (0, 3, 5, 6, 9, 12)}
        for place, rate in enumerate(rates)
    ]
    noise = np.random.default_rng(3).normal(0, 0.01, len(rates))
    scores = [0.4 - 0.2 * math.log10(rate / 1e-4) ** 2 for rate in rates] + noise
    effects = tuple(main_effects(points, scores.tolist()))
    low, high, elastic = effects
    assert not elastic.is_clear
    answer = answer_of(
        replace(gather_evidence(read_study("s", sampled.options.results)), effects=effects)
    )
    (said,) = (one for one in answer if one.startswith("Settings that go with a difference"))
    assert "learning rate, best near 0.0001; lower and higher scored less." in said
    assert "elastic" not in said
    (where,) = (one for one in answer if one.startswith("The best learning rate"))
    assert low.turn is not None
    assert f"between {low.turn.low:.2g} and {low.turn.high:.2g} (95% confidence)" in where
    for one in (low, high):
        assert f"{one.change} goes with {cell_text(one.estimate, Kind.DIFFERENCE)}" in where


def test_a_class_of_a_handful_of_instances_is_not_called_the_weakest(tmp_path: Path) -> None:
    document = {
        "fixed": {"optim.epochs": EPOCHS},
        "space": {"optim.learning_rate": [1e-4, 2e-4]},
        "search": {"sampler": "grid"},
        "stop_early": {"rule": "none"},
        "confirm": {"top": 0},
    }
    replay(tmp_path, document, lambda one, epoch: table_of(0.0, one.id, epoch))
    evidence = gather_evidence(read_study("s", tmp_path))

    def limits(label: str, instances: int, ap50: float) -> RowLimits:
        counts = dict.fromkeys(INSTANCE_KINDS, 0) | {"not_found": instances}
        detections = dict.fromkeys(DETECTION_KINDS, 0)
        return RowLimits("trial 0", label, 1, counts, None, detections, ap50, {})

    rare, common = limits("rare", 9, 0.0), limits("common", 10, 0.4)
    (said,) = (
        one
        for one in answer_of(replace(evidence, limits=(rare, common)))
        if " is weakest in " in one
    )
    assert said.startswith(
        "Of the classes with 10 or more instances in its validation images, trial 0 is weakest in"
        " common "
    )


def test_the_weakest_class_is_said_to_be_that_of_the_best_of_the_search_if_another_trial_won(
    sampled: StudyPlan,
) -> None:
    evidence = gather_evidence(read_study("s", sampled.options.results))
    best, choice = evidence.rows[0], evidence.choice
    assert choice is not None
    counts = dict.fromkeys(INSTANCE_KINDS, 0) | {"not_found": 10}
    detections = dict.fromkeys(DETECTION_KINDS, 0)
    limits = tuple(
        RowLimits(best.name, label, 1, counts, None, detections, ap50, {})
        for label, ap50 in (("low", 0.2), ("high", 0.4))
    )
    names = {choice.name, *choice.others}
    assert best.name in names
    for winner in names:
        answer = answer_of(replace(evidence, choice=replace(choice, name=winner), limits=limits))
        (said,) = (one for one in answer if " is weakest in " in one)
        whose = "" if winner == best.name else ", the best of the search,"
        assert said.startswith(f"T{best.name[1:]}{whose} is weakest in low ")


def test_a_cap_above_what_counts_of_a_single_class_is_no_limit(tmp_path: Path) -> None:
    fixed = {"optim.epochs": 1, "predict.max_detections": MAX_DETS}
    plan, book = begin(tmp_path, {"fixed": fixed, "variants": {"Plain": {}}})
    record = book.next()
    assert record is not None
    path = match_table_path(plan.folder.trial(record.id), 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    table_of(0.0, 1).save(path)
    book.report(record.id, [{**report_of(1, table_of(0.0, 1)), "capped_images": 3}])
    evidence = gather_evidence(read_study("s", tmp_path))
    assert evidence.best is not None
    data = {**evidence.description["data"], "classes": ["cell"]}
    alone = replace(
        evidence,
        description={**evidence.description, "data": data},
        best=replace(evidence.best, scored=None),
    )
    said = [
        any("predict.max_detections" in one for one in cautions_of(each))
        for each in (evidence, alone)
    ]
    assert said == [True, False]
