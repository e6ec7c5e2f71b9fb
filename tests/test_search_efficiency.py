"""Laws of the benchmark that compares searches: all methods have the same epochs and luck, rivals
run as in their own libraries, and choices are judged by their true scores.
"""

import dataclasses
import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks import learning_curves, search_efficiency, search_methods, warm_start
from benchmarks.learning_curves import EPOCHS, RANGES, SPACE, Task
from benchmarks.score_noise import IMAGES, Noise, Split
from benchmarks.search_efficiency import (
    CELLS,
    OURS,
    Cell,
    Played,
    Results,
    confirmed,
    mean_of,
    outcome,
    run_search,
    together,
)
from benchmarks.search_methods import METHODS, Trial, unavailable
from tune.ledger.ledger import Ledger, open_ledger

MISSING = learning_curves.missing()
SILENT = Split(Noise(0.0), (0,))

playable = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(bool(why), reason=why or ""))
        for name in METHODS
        for why in [unavailable(name)]
    ],
)
needs_curves = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")


class Toy(Task):
    """Curves whose last height depends on two settings and shows early."""

    def curve(self, config: Mapping[str, float]) -> np.ndarray:
        rate = abs(math.log10(config["learning_rate"]) + 2.5)
        height = 90 - 20 * rate - 30 * abs(config["max_dropout"] - 0.3)
        return height * (1 - 0.5 ** np.arange(1, EPOCHS + 1))


TOY = Toy("toy", best=90.0, spread=2.0)


def played(name: str, cell: Cell, seed: int = 3) -> tuple[list[Trial], dict[Trial, np.ndarray]]:
    method = METHODS[name](seed, cell.trainings)
    truths, _ = run_search(method, TOY, Split(Noise(cell.noise), (seed,)), cell)
    return method.trials, truths


@playable
@pytest.mark.parametrize("parallel", [1, 8])
def test_no_method_spends_more_than_all_epochs_nor_leaves_a_full_training_unused(
    name: str, parallel: int
) -> None:
    cell = Cell(1.0, 6, parallel)
    trials, _ = played(name, cell)
    spent = sum(len(one.scores) for one in trials)
    assert cell.trainings * EPOCHS - EPOCHS < spent <= cell.trainings * EPOCHS
    assert max(len(one.scores) for one in trials) == EPOCHS


@playable
def test_the_same_seed_gives_the_same_search_and_another_seed_another(name: str) -> None:
    cell = Cell(1.0, 4, 2)
    first, again, other = (played(name, cell, seed)[0] for seed in (3, 3, 4))
    assert [(one.config, one.scores) for one in first] == [
        (one.config, one.scores) for one in again
    ]
    assert first[0].config != other[0].config


@playable
def test_without_noise_scores_are_the_truth_and_the_choice_is_the_best_that_is_complete(
    name: str,
) -> None:
    cell = Cell(0.0, 4, 2)
    method = METHODS[name](3, cell.trainings)
    truths, _ = run_search(method, TOY, SILENT, cell)
    for trial, truth in truths.items():
        assert trial.scores == truth[: len(trial.scores)].tolist()
        assert not any(trial.pulls)
    complete = [truths[one].max() for one in method.trials if len(one.scores) == EPOCHS]
    found = [truths[one].max() for one in method.candidates()]
    if name.startswith("ours"):  # ordered by posterior, which knows no trial to be without noise
        assert max(found) == max(complete)
        assert set(found) <= set(complete)
        assert len(found) == min(5, len(complete))
    else:
        assert found == sorted(complete, reverse=True)[:5]
    assert confirmed([truths[one] for one in method.candidates()], [SILENT]) == 0


def test_what_is_chosen_is_judged_by_its_truth_and_trials_that_were_stopped_never_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learning_curves, "task", lambda _: TOY)
    cell = Cell(2.0, 6, 1)
    one = search_efficiency.play(cell, "toy", "TPE + ASHA", repeat=0)
    assert one == dataclasses.replace(
        search_efficiency.play(cell, "toy", "TPE + ASHA", repeat=0), seconds=one.seconds
    )
    assert one.complete < one.trials
    assert min(one.chosen, one.confirmed) >= 0
    lucky, better, stopped = Trial({}), Trial({}), Trial({})
    lucky.scores, better.scores = [0.0] * 51 + [9.0], [8.0] * 52
    stopped.scores = [99.0] * 51
    method = METHODS["random"](0, 1)
    method.trials = [stopped, better, lucky]
    assert method.candidates() == [lucky, better]


@pytest.mark.parametrize("name", ["random", "random + halving", "Optuna's default", "TPE + ASHA"])
def test_rivals_by_optuna_are_what_its_own_loop_makes_of_the_same_seed(name: str) -> None:
    samplers = {
        "random": lambda: optuna.samplers.RandomSampler(3),
        "TPE": lambda: optuna.samplers.TPESampler(seed=3),
    }
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "random": optuna.pruners.NopPruner(),
        "Optuna's default": optuna.pruners.MedianPruner(),
    }
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=6, reduction_factor=3)
    study = optuna.create_study(
        direction="maximize",
        sampler=samplers["random" if name.startswith("random") else "TPE"](),
        pruner=pruners.get(name, halving),
    )

    def objective(trial: optuna.Trial) -> float:
        config = {}
        for setting, (low, high, log, _) in SPACE.items():
            if setting == "num_layers":
                config[setting] = float(trial.suggest_int(setting, int(low), int(high)))
            else:
                config[setting] = trial.suggest_float(setting, low, high, log=log)
        scores = TOY.curve(config).tolist()
        for epoch, score in enumerate(scores, start=1):
            trial.report(score, epoch)
            if epoch < EPOCHS and trial.should_prune():
                raise optuna.TrialPruned
        return float(max(scores))

    method = METHODS[name](3, 20)
    run_search(method, TOY, SILENT, Cell(0.0, 20, 1))
    study.optimize(objective, n_trials=len(method.trials))
    assert len(method.trials) >= 20
    assert [one.config for one in method.trials] == [one.params for one in study.trials]
    assert [len(one.scores) for one in method.trials] == [
        len(one.intermediate_values) for one in study.trials
    ]


def test_hyperband_compares_at_its_milestones_and_a_third_goes_on() -> None:
    method = METHODS["Hyperband, Ray"](3, 30)
    truths, _ = run_search(method, TOY, SILENT, Cell(0.0, 30, 1))
    lengths = [len(one.scores) for one in method.trials]
    assert {2, 6, EPOCHS} <= set(lengths) <= {2, 6, 18, EPOCHS}
    ended_at_6 = [truths[one][5] for one in method.trials if len(one.scores) == 6]
    assert np.median([truths[one][5] for one in method.trials if len(one.scores) > 6]) > np.median(
        ended_at_6
    )


@pytest.mark.parametrize("trainings", [10, 30])
def test_a_third_of_the_trainings_goes_to_the_best_after_one_epoch(trainings: int) -> None:
    method = METHODS["top third after one epoch"](3, trainings)
    run_search(method, TOY, SILENT, Cell(0.0, trainings, 8))
    assert sum(len(one.scores) for one in method.trials) == trainings * EPOCHS
    assert {len(one.scores) for one in method.trials} == {1, EPOCHS}
    firsts = sorted((one.scores[0] for one in method.trials), reverse=True)
    complete = sorted((one.scores[0] for one in method.candidates()), reverse=True)
    assert complete == firsts[: min(5, trainings // 3)]


def test_our_search_is_given_the_pull_of_each_image_on_each_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Ledger] = []

    def opening(*arguments: object) -> Ledger:
        opened.append(open_ledger(*arguments))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(search_methods, "open_ledger", opening)
    method = METHODS[OURS](3, 2)
    run_search(method, TOY, Split(Noise(3.0), (0,)), Cell(3.0, 2, 1))
    for record, trial in zip(opened[0].records, method.trials, strict=True):
        for epoch in record.epochs:
            assert epoch["ap50_pulls"] == [pull / 100 for pull in trial.pulls]


def test_noise_has_its_level_and_the_pulls_of_images_tell_the_part_that_images_have() -> None:
    noise = Noise(2.0, images=0.5, epoch=0.2, common=0.8)
    pairs = []
    for number in range(3000):
        split = Split(noise, (number,))
        pairs.append([split.draw(training) for training in (0, 1)])
    errors_S2E = np.array([[errors for errors, _ in pair] for pair in pairs])
    pulls_S2I = np.array([[pulls for _, pulls in pair] for pair in pairs])
    # On one split the order of two trials is hidden by the level alone.
    apart_S = errors_S2E[:, 0, 0] - errors_S2E[:, 1, 0]
    assert apart_S.var() == pytest.approx(2 * noise.level**2, rel=0.08)
    assert (errors_S2E[:, 0, 0] - errors_S2E[:, 0, 1]).var() == pytest.approx(
        2 * 0.2 * noise.level**2, rel=0.08
    )
    images = noise.standard_error**2
    assert images == pytest.approx(0.5 * noise.level**2 / 0.2)
    assert errors_S2E[:, 0, 0].var() == pytest.approx(images + 0.5 * noise.level**2, rel=0.08)
    assert np.square(pulls_S2I).sum(axis=2).mean() == pytest.approx(images, rel=0.03)
    apart = np.square(pulls_S2I[:, 0] - pulls_S2I[:, 1]).sum(axis=1).mean()
    assert apart == pytest.approx(2 * 0.5 * noise.level**2, rel=0.03)
    assert pulls_S2I.shape[2] == IMAGES


def test_a_confirmation_is_a_fresh_draw_and_takes_the_better_of_two_that_luck_had_swapped() -> None:
    truths = [np.full(EPOCHS, 80.0), np.full(EPOCHS, 82.0)]
    noise = Noise(1.0)
    chosen = [
        confirmed(truths, [Split(noise, (number, repeat)) for repeat in range(3)])
        for number in range(200)
    ]
    # By the normal distribution: sqrt(1 - 0.2) of a level of 1 lasts, over three fresh trainings.
    expected = 0.5 * (1 + math.erf(2 / math.sqrt(2 * 0.8 / 3) / math.sqrt(2)))
    assert np.mean(chosen) == pytest.approx(expected, abs=0.05)


def test_standard_errors_hold_for_other_data_sets_and_other_seeds() -> None:
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(1000):
        of_set = rng.normal(0, 2, 9)
        values = {
            (str(place), repeat): of_set[place] + rng.normal(0, 3)
            for place in range(9)
            for repeat in range(2)
        }
        found = mean_of(values)
        means.append(found.value)
        errors.append(found.error**2)
    assert np.var(means) == pytest.approx(np.mean(errors), rel=0.1)
    assert np.var(means) == pytest.approx((4 + 9 / 2) / 9, rel=0.1)


def one_run(method: str, data_set: str, missing: float, cell: Cell = CELLS[0]) -> Played:
    return Played(cell, data_set, method, 0, missing, missing, 9, 5, 0.5)


def test_ours_is_compared_with_the_best_rival_on_the_runs_that_all_methods_have() -> None:
    found = outcome(
        [
            one_run(OURS, "a", 1.0), one_run(OURS, "b", 2.0), one_run(OURS, "c", 9.0),
            one_run("ours, TPE", "a", 0.1), one_run("ours, TPE", "b", 0.1),
            one_run("random", "a", 3.0), one_run("random", "b", 3.0),
            one_run("TPE + ASHA", "a", 2.0), one_run("TPE + ASHA", "b", 3.5),
        ],
        lambda run: run.chosen,
    )  # fmt: skip
    assert found is not None
    assert (found.runs, found.best_rival) == (2, "TPE + ASHA")
    assert (found.behind.value, found.behind.error) == pytest.approx((-1.25, 0.25))
    assert found.won == "2 : 0"
    both = together([found, found])
    assert both.behind == found.behind
    assert outcome([one_run(OURS, "a", 1.0)], lambda run: run.chosen) is None


def test_results_go_on_after_a_kill_and_a_later_run_replaces_an_earlier_one(
    tmp_path: Path,
) -> None:
    results = Results(tmp_path, "table")
    first, second = one_run(OURS, "a", 1.0), one_run(OURS, "b", 2.0)
    results.add(first)
    results.add(second)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-20])  # a kill in the middle of a line
    assert Results(tmp_path, "table").of(CELLS[0]) == [first]
    replaced = dataclasses.replace(first, chosen=0.5)
    results.add(replaced)
    results.add(second)
    assert sorted(results.of(CELLS[0]), key=lambda one: one.data_set) == [replaced, second]
    assert results.of(CELLS[1]) == Results(tmp_path, "tuning").of(CELLS[0]) == []


HELD = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from benchmarks.search_efficiency import _end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), _end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(300)
"""


@pytest.mark.fault
def test_a_comparison_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "held.py"
    path.write_text(HELD)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, path], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker = Path("/proc", process.stdout.readline().strip())
        assert worker.is_dir()
        process.kill()
    deadline = time.monotonic() + 60
    while worker.is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.is_dir()


@needs_curves
def test_the_two_halves_of_the_data_sets_share_none_and_hold_all() -> None:
    tuning, table = (learning_curves.data_sets(half) for half in (True, False))
    assert len(tuning) == len(table) == 17
    assert len({*tuning, *table}) == 34


@needs_curves
def test_a_replayed_curve_is_an_accuracy_whatever_configurations_are_asked_for_beside_it() -> None:
    name = learning_curves.data_sets(tuning=True)[0]
    configs = learning_curves.random_configs(25, np.random.default_rng(0))
    curves = learning_curves.curves(name, configs)
    assert curves.shape == (25, EPOCHS)
    assert curves.min() >= 0
    assert curves.max() <= 100
    one_by_one = np.concatenate([learning_curves.curves(name, config[None]) for config in configs])
    assert np.abs(curves - one_by_one).max() < 1e-3


@needs_curves
def test_points_missing_are_not_negative_at_any_corner_of_the_space() -> None:
    task = learning_curves.task(learning_curves.data_sets(tuning=True)[0])
    assert task.spread > 0
    corners = list(itertools.product(*((low, high) for low, high, *_ in SPACE.values())))
    best = learning_curves.curves(task.data_set, np.array(corners)).max(axis=1)
    for place in np.argsort(best)[[0, -2, -1]]:
        curve = task.curve(dict(zip(SPACE, corners[place], strict=True)))
        assert curve.max() == pytest.approx(min(best[place], task.best), abs=1e-3)
        assert curve.max() <= task.best


def test_the_space_is_the_middle_of_each_range() -> None:
    for name, (low, high, log, whole) in SPACE.items():
        ends = [math.log(end) if log else end for end in RANGES[name][:2]]
        found = [math.log(end) if log else end for end in (low, high)]
        margins = (found[0] - ends[0], ends[1] - found[1])
        assert min(margins) >= 0.0999 * (ends[1] - ends[0])
        if whole:
            assert (low, high) == (int(low), int(high))
        else:
            assert margins == pytest.approx([0.1 * (ends[1] - ends[0])] * 2)


def test_where_the_curves_are_missing_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(learning_curves, "FOLDER", tmp_path)
    assert list(search_efficiency.lines(short=True)) == []
    assert "are not here" in capsys.readouterr().out


def test_every_setting_of_the_curves_has_an_effect_in_the_project_s_own_search() -> None:
    """Otherwise configurations that differ would be one candidate."""
    engine = METHODS[OURS](0, 3)
    assert engine.next(3 * EPOCHS) is not None
    assert isinstance(engine, search_methods.Engine)
    (record,) = engine.records
    assert set(search_methods.SETTINGS.values()) <= record.in_effect.keys()


def test_a_search_that_begins_from_another_tries_the_best_of_it_first() -> None:
    first, second = search_methods.Engine(1, 3, "tpe"), warm_start.WarmEngine(2, 3, "tpe")
    warm_start.missing(TOY, first, 3, 1)
    second.begin_from(first, True, 3)
    trial = second.next(3 * EPOCHS)
    assert trial is not None
    assert trial.config in [one.config for one in first.trials]
    assert second.records[0].start.startswith("study first, trial")
    assert TOY.best - TOY.curve(trial.config).max() <= np.median(
        [TOY.best - TOY.curve(one.config).max() for one in first.trials]
    )


@needs_curves
def test_an_inverted_task_has_its_best_where_the_data_set_has_its_worst() -> None:
    name = learning_curves.data_sets(tuning=True)[0]
    plain, other = learning_curves.task(name), warm_start.inverted(name)
    drawn = learning_curves.random_configs(12, np.random.default_rng(3))
    configs = [dict(zip(SPACE, row.tolist(), strict=True)) for row in drawn]
    here = np.array([plain.curve(one).max() for one in configs])
    there = np.array([other.curve(one).max() for one in configs])
    above = here > other.worst
    assert np.allclose(there[above], other.best + other.worst - here[above])
    assert np.allclose(there[~above], other.best)
