"""The best configurations that the project's own search and its rivals find on replayed learning
curves with noise, with equal numbers of epochs.

    python -m benchmarks.search_efficiency --out DIR --repeats 1      the table, an hour or two on 2
                                                                      cores; continues if killed
    python -m benchmarks.search_efficiency --out DIR --repeats 0      the table of what DIR holds

The table has only runs that all of its methods have; --methods can leave out a method with few.

A cell of the table is a level of noise, a number of full trainings that may be spent, and a number
of trials that train at once, one epoch of each in turn. No method starts or continues a trial that
could not reach its last epoch with the epochs that are left. The unit of noise is the interquartile
range of the final scores of the best fifth of random configurations (see benchmarks.score_noise).

Each search names its choice, and at most five candidates. The candidates are trained again on three
fresh seeds and splits, and the one whose mean curve has the highest point is confirmed, as in a
study. The result is judged without noise: the accuracy points missing are those by which the best
epoch of the chosen, or confirmed, configuration falls short of the best that counts (see
benchmarks.learning_curves).

Each repeat on each data set has a seed of its own, which all methods share. So runs on two data
sets share no luck, and the standard error of a mean is that of the means of its data sets: it holds
for other data sets and other seeds. Methods are compared within each run, before any mean is taken.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np

from benchmarks import learning_curves
from benchmarks.learning_curves import EPOCHS, Task
from benchmarks.score_noise import Noise, Split
from benchmarks.search_methods import METHODS, OURS, Fate, Method, Trial, is_ours, unavailable
from benchmarks.table import Line

CONFIRM_SEEDS = 3
"""Fresh seeds and splits of the confirmation, the default of a study."""


@dataclass(frozen=True)
class Cell:
    """The circumstances of a search.

    noise       standard deviation of a score, in interquartile ranges of good scores
    trainings   full trainings that it may spend
    parallel    trials that train at once
    """

    noise: float
    trainings: int
    parallel: int

    def __str__(self) -> str:
        return f"noise {self.noise:g}, {self.trainings} trainings, {self.parallel} at once"


CELLS = tuple(Cell(*one) for one in itertools.product((0.0, 1.0, 2.0), (10, 30), (1, 8)))


@dataclass(frozen=True)
class Played:
    """A search that was run, and its result.

    chosen     accuracy points missing to the best, of the search's own choice
    confirmed  the same of the winner of the confirmation
    trials     trials that it started
    complete   those that reached their last epoch
    seconds    processor time for all proposals and verdicts
    """

    cell: Cell
    data_set: str
    method: str
    repeat: int
    chosen: float
    confirmed: float
    trials: int
    complete: int
    seconds: float

    @property
    def run(self) -> tuple[str, str, int]:
        """The key that identifies it among the runs of its cell."""
        return self.method, self.data_set, self.repeat


def run_search(
    method: Method, task: Task, split: Split, cell: Cell
) -> tuple[dict[Trial, np.ndarray], float]:
    """Spend the epochs; returns the true curve of each trial, [52], and the processor time, in
    seconds, that the method took.
    """
    truths: dict[Trial, np.ndarray] = {}
    errors: dict[Trial, np.ndarray] = {}
    running: list[Trial] = []
    left, seconds = cell.trainings * EPOCHS, 0.0
    while True:
        while len(running) < cell.parallel:
            room = left - sum(EPOCHS - len(one.scores) for one in running)
            begin = time.process_time()
            trial = method.next(room)
            seconds += time.process_time() - begin
            if trial is None:
                break
            if trial not in truths:
                truths[trial] = task.curve(trial.config)
                errors[trial], pulls_I = split.draw(len(truths))
                trial.pulls = pulls_I.tolist()
            running.append(trial)
        if not running:
            return truths, seconds
        for trial in list(running):
            epoch = len(trial.scores)
            trial.scores.append(float(truths[trial][epoch] + errors[trial][epoch]))
            left -= 1
            begin = time.process_time()
            fate = method.report(trial)
            seconds += time.process_time() - begin
            if fate is not Fate.GOES_ON:
                running.remove(trial)
        assert left >= 0


def confirmed(truths: Sequence[np.ndarray], splits: Sequence[Split]) -> int:
    """The place of the candidate whose mean curve over fresh trainings has the highest point.

    A split has the errors of all candidates, because they share its images.
    """
    curves = [
        truth + np.mean([split.draw(place)[0] for split in splits], axis=0)
        for place, truth in enumerate(truths)
    ]
    return int(np.argmax([curve.max() for curve in curves]))


def play(cell: Cell, data_set: str, name: str, repeat: int) -> Played:
    """Let a method search, and judge what it chose."""
    task = learning_curves.task(data_set)
    seed = int.from_bytes(hashlib.sha256(f"{data_set} {repeat}".encode()).digest()[:4], "big")
    noise = Noise(cell.noise * task.spread)
    method = METHODS[name](seed, cell.trainings)
    truths, seconds = run_search(method, task, Split(noise, (seed, 0)), cell)
    candidates = [truths[one] for one in method.candidates()]
    splits = [Split(noise, (seed, 1 + number)) for number in range(CONFIRM_SEEDS)]
    winner = candidates[confirmed(candidates, splits)]
    return Played(
        cell, data_set, name, repeat,
        chosen=task.best - float(candidates[0].max()), confirmed=task.best - float(winner.max()),
        trials=len(method.trials), complete=sum(len(one.scores) == EPOCHS for one in truths),
        seconds=seconds,
    )  # fmt: skip


class Results:
    """The runs in a folder, a file of JSON lines for each cell; a later line replaces an earlier
    one of the same run.
    """

    def __init__(self, folder: Path, half: str) -> None:
        self._folder, self._half = folder, half
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, cell: Cell) -> list[Played]:
        """The runs of a cell. A line that was cut off by a kill does not count."""
        found: dict[tuple[str, str, int], Played] = {}
        path = self._path(cell)
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                stored = json.loads(line)
            except ValueError:
                continue
            played = Played(**{**stored, "cell": Cell(**stored["cell"])})
            found[played.run] = played
        return list(found.values())

    def add(self, played: Played) -> None:
        """Append a run on a new line, even after a line that a kill cut off."""
        with self._path(played.cell).open("a") as file:
            file.write("\n" + json.dumps(asdict(played)))

    def _path(self, cell: Cell) -> Path:
        name = f"{self._half}-noise{cell.noise:g}-trainings{cell.trainings}-at-once{cell.parallel}"
        return self._folder / f"{name}.jsonl"


def play_all(
    runs: Iterable[tuple[Cell, str, str, int]], jobs: int, done: Callable[[Played], object]
) -> None:
    """Play runs, `jobs` at a time, and pass each to `done` as it ends."""
    # Processes are spawned: the threads of Ray and onnxruntime would not survive a fork.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent) as pool:
        futures: list[Future[Played]] = [pool.submit(play, *run) for run in runs]
        for future in as_completed(futures):
            done(future.result())


def _end_with_parent() -> None:
    """End this process when its parent ends, so that a killed parent leaves no idle process."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Mean:
    """A mean over data sets, with its standard error (nan for one data set)."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.error:.2f}"


def mean_of(values: Mapping[tuple[str, int], float]) -> Mean:
    """The mean of runs, by data set and repeat; each data set counts the same."""
    by_data_set: dict[str, list[float]] = {}
    for (data_set, _), value in values.items():
        by_data_set.setdefault(data_set, []).append(value)
    means = np.array([np.mean(repeats) for repeats in by_data_set.values()])
    error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return Mean(float(means.mean()), float(error))


@dataclass(frozen=True)
class Outcome:
    """The result of one cell, or of several together.

    missing   points missing, by method, then by data set and repeat; all methods have the same runs
    """

    missing: Mapping[str, Mapping[tuple[str, int], float]]

    @property
    def runs(self) -> int:
        """Number of runs of each method."""
        return len(self.missing[OURS])

    @property
    def best_rival(self) -> str:
        """The rival that misses least. It is chosen on these runs, which favours its mean."""
        rivals = [name for name in self.missing if not is_ours(name)]
        return min(rivals, key=lambda name: mean_of(self.missing[name]).value)

    @property
    def behind(self) -> Mean:
        """The points that ours misses more than the best rival; negative where it misses less."""
        ours, theirs = self.missing[OURS], self.missing[self.best_rival]
        return mean_of({run: ours[run] - theirs[run] for run in ours})

    @property
    def won(self) -> str:
        """In how many runs ours misses less than the best rival, and in how many more."""
        ours, theirs = self.missing[OURS], self.missing[self.best_rival]
        return f"{sum(ours[one] < theirs[one] for one in ours)} : " + str(
            sum(ours[one] > theirs[one] for one in ours)
        )


def outcome(played: Iterable[Played], of: Callable[[Played], float]) -> Outcome | None:
    """The outcome of a cell: of the runs that all its methods have; None if there are none."""
    missing: dict[str, dict[tuple[str, int], float]] = {}
    for one in played:
        missing.setdefault(one.method, {})[one.data_set, one.repeat] = of(one)
    common = set.intersection(*map(set, missing.values())) if missing else set()
    if not common or OURS not in missing or all(map(is_ours, missing)):
        return None
    return Outcome(
        {
            name: {run: missing[name][run] for run in sorted(common)}
            for name in METHODS
            if name in missing
        }
    )


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """The mean over cells, run by run: of the methods and runs that all of them have."""
    names = [name for name in METHODS if all(name in one.missing for one in outcomes)]
    runs = set.intersection(*(set(one.missing[OURS]) for one in outcomes))
    return Outcome(
        {
            name: {
                run: float(np.mean([one.missing[name][run] for one in outcomes]))
                for run in sorted(runs)
            }
            for name in names
        }
    )


def table(outcomes: Mapping[str, Outcome]) -> str:
    """A Markdown table of points missing, with a row for each cell and one for their mean."""
    rows = dict(outcomes)
    if len(outcomes) > 1 and together(list(outcomes.values())).runs:
        rows["all of these"] = together(list(outcomes.values()))
    names = [name for name in METHODS if any(name in one.missing for one in rows.values())]
    lines = [["", "n", *names, "best rival", "ours - best rival", "won : lost"]]
    for label, one in rows.items():
        means = [str(mean_of(one.missing[name])) if name in one.missing else "" for name in names]
        lines.append([label, str(one.runs), *means, one.best_rival, str(one.behind), one.won])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def effort(played: Iterable[Played]) -> str:
    """A Markdown table of means over all runs of each method: number of trials, of complete ones,
    and processor time for a trial's proposal and verdicts.
    """
    by_method: dict[str, list[Played]] = {}
    for one in played:
        by_method.setdefault(one.method, []).append(one)
    lines = ["| | trials | complete | seconds a trial |", "|---|---|---|---|"]
    for name in METHODS:
        if runs := by_method.get(name):
            trials = sum(one.trials for one in runs)
            lines.append(
                f"| {name} | {trials / len(runs):.0f}"
                f" | {sum(one.complete for one in runs) / len(runs):.1f}"
                f" | {sum(one.seconds for one in runs) / trials:.3f} |"
            )
    return "\n".join(lines)


SHORT = (Cell(0.0, 10, 1), Cell(1.0, 10, 8))
"""The cells of the short form."""


def lines(short: bool) -> Iterator[Line]:
    """What the table of all benchmarks says of the search; nothing where the curves are missing,
    but why.

    short   three data sets, under a minute on two cores, instead of 17; of the tuning half, since
            the other half is kept for the table
    """
    if why := learning_curves.missing():
        print(why)
        return
    data_sets = learning_curves.data_sets(tuning=True)[: 3 if short else None]
    names = [name for name in METHODS if not unavailable(name)]
    found: list[Played] = []
    play_all(
        ((cell, data_set, name, 0) for cell in SHORT for data_set in data_sets for name in names),
        jobs=2,
        done=found.append,
    )
    for cell in SHORT:
        one = outcome((run for run in found if run.cell == cell), lambda run: run.chosen)
        assert one is not None
        ours, rival = mean_of(one.missing[OURS]), mean_of(one.missing[one.best_rival])
        yield Line(
            f"search, {cell}: points missing, {one.runs} data sets",
            f"{ours.value:.2f}",
            f"{one.best_rival} {rival.value:.2f}",
            rival.value / ours.value if ours.value > 0 else None,
            f"goal: not behind by more than its error; behind by {one.behind}",
        )


def main() -> None:
    """Play what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--noise", type=float, nargs="+", help="only cells with these levels")
    parser.add_argument("--trainings", type=int, nargs="+", help="only cells with these budgets")
    parser.add_argument("--at-once", type=int, nargs="+", help="only cells with these numbers")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="NAME",
        help=f"only these of {', '.join(METHODS)}",
    )
    parser.add_argument("--repeats", type=int, default=1, help="runs on each data set")
    parser.add_argument(
        "--tuning", action="store_true", help="the half of the data sets on which choices are made"
    )
    parser.add_argument(
        "--again", action="store_true", help="repeat existing runs; the new results count"
    )
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    if why := learning_curves.missing():
        print(why)
        return
    cells = [
        cell
        for cell in CELLS
        if cell.noise in (asked.noise or [cell.noise])
        and cell.trainings in (asked.trainings or [cell.trainings])
        and cell.parallel in (asked.at_once or [cell.parallel])
    ]
    results = Results(asked.out, "tuning" if asked.tuning else "table")
    names = [name for name in asked.methods or METHODS if not unavailable(name)]
    for why in filter(None, map(unavailable, asked.methods or METHODS)):
        print(why)
    data_sets = learning_curves.data_sets(asked.tuning)
    there = {(cell, *one.run) for cell in cells for one in results.of(cell) if not asked.again}
    runs = [
        (cell, data_set, name, repeat)
        for repeat in range(asked.repeats)
        for data_set in data_sets  # before cells: a table that is cut short has all of them
        for cell in cells
        for name in names
        if (cell, name, data_set, repeat) not in there
    ]
    play_all(runs, asked.jobs, results.add)
    _print({cell: [one for one in results.of(cell) if one.method in names] for cell in cells})


def _print(played: Mapping[Cell, Sequence[Played]]) -> None:
    measures: Mapping[str, Callable[[Played], float]] = {
        "as chosen by the search": lambda run: run.chosen,
        "as confirmed": lambda run: run.confirmed,
    }
    for title, of in measures.items():
        found = {str(cell): outcome(runs, of) for cell, runs in played.items()}
        outcomes = {label: one for label, one in found.items() if one is not None}
        if not outcomes:
            print("There is no cell yet in which ours and a rival have played.")
            return
        print(f"\nPoints missing, {title}; n runs of each method; ± standard error\n")
        print(table(outcomes))
    print(f"\n{effort(itertools.chain.from_iterable(played.values()))}")


if __name__ == "__main__":
    main()
