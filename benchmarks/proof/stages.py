"""The stages of the proof, in their order. Each is done or not, and can be continued."""

import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.proof import example, plan, short
from benchmarks.proof.clock import Clock, Ended, run_child
from benchmarks.proof.plan import ROWS_STUDY, SEARCH_STUDY, Weights
from benchmarks.proof.state import ProofState, commit, machine, now
from benchmarks.proof.throughput import work_of
from core.errors import CheckpointError, StudyError
from core.files import read_json
from core.text import many
from tune.ledger.records import State, TrialRecord
from tune.study.learned import nothing_learned
from tune.study.reading import Study, read_study

LEAST_SECONDS = 20.0
"""Least seconds that must be left for a stage to begin: less is over before its first epoch."""
PAGE_SECONDS = 45.0
"""Seconds that must be left for the pages to be written."""
RECIPE = "Res50"
"""The report's recipe: its row from which all others depart."""
PILOTS = "pilots"
"""Name of the folder of the pilots' studies in the folder of results."""


@dataclass(frozen=True)
class Stage:
    """A stage.

    name      its name in proof.json
    is_done   whether there is nothing left to do
    run       does it, or a part of it while there is time
    left      what is left of it, in words
    """

    name: str
    is_done: Callable[[], bool]
    run: Callable[[], object]
    left: Callable[[], str]


@dataclass(frozen=True)
class Proof:
    """A proof on its way.

    data      folder of the images, in HW3 layout
    weights   folder of the pretrained weights
    command   the command line, for the pages
    say       prints a line
    """

    state: ProofState
    data: Path
    weights: Weights
    clock: Clock
    command: str
    say: Callable[[str], object]

    @property
    def results(self) -> Path:
        """The folder of everything."""
        return self.state.results

    def study(self, name: str, folder: str = "") -> Study | None:
        """A study as it is now; None before it has begun."""
        try:
            return read_study(name, self.results / folder)
        except StudyError:
            if (self.results / folder / name / "study.db").exists():
                raise
            return None

    def stages(self) -> list[Stage]:
        """All stages, in their order."""
        return [
            *(stage for name in (ROWS_STUDY, SEARCH_STUDY) for stage in self._of_a_study(name)),
            self._retraining(SEARCH_STUDY, "the winner of the search"),
            self._retraining(ROWS_STUDY, f"the report's recipe, {RECIPE}"),
            Stage(
                "pages",
                lambda: example.is_current(self.results),
                self._write_pages,
                lambda: "the pages",
            ),
        ]

    def _of_a_study(self, name: str) -> list[Stage]:
        return [
            Stage(
                f"choice of {name}",
                lambda: name in self.state.chosen,
                lambda: self._choose(name),
                lambda: f"the epochs and trials of {name}, from a measured rate",
            ),
            Stage(
                name,
                lambda: self._is_finished(name),
                lambda: self._search(name, name, self.state.chosen[name]["document"]),
                lambda: f"the study {name}, {self._progress(name)}",
            ),
        ]

    def _is_finished(self, name: str) -> bool:
        study = self.study(name)
        return (
            study is not None
            and study.finished
            and (study.folder.path / "report" / "index.html").exists()
        )

    def _progress(self, name: str) -> str:
        study = self.study(name)
        if study is None:
            return "not begun"
        ended = sum(one.state is not State.RUNNING for one in study.records)
        found = f"{ended} of {many(study.request.planned_trials, 'trial')} ended"
        confirmation = study.confirmation
        if study.searched and confirmation is not None:
            found += f", {confirmation.ended} of {confirmation.planned} that confirm them"
        return found

    def _choose(self, name: str) -> None:
        """Choose the rows, epochs and trials of a study, once and for all."""
        make = plan.rows_document if name == ROWS_STUDY else plan.search_document
        rows = make(self.weights, self.state.short)
        document = rows.document
        chosen: dict[str, Any] = {"left_out": list(rows.left_out)}
        if self.state.short:
            epochs, trials = short.EPOCHS, short.TRIALS
            top, seeds = short.TOP, short.FRESH_SEEDS
            chosen["why"] = "The short form has fixed numbers of epochs and trials."
        else:
            pilot = self._pilot(name, document)
            if pilot is None:
                return
            top, seeds, trials = plan.TOP, plan.FRESH_SEEDS, 0
            seconds = 60 * plan.MINUTES[name]
            if name == ROWS_STUDY:
                trainings = plan.SEEDS * len(document["variants"])
                epochs = plan.epochs_that_fit(trainings, pilot, seconds)
            else:
                epochs, trials = plan.search_that_fits(pilot, seconds)
            chosen["why"] = (
                f"Chosen before the study from a measured rate: {pilot.epoch:.1f} s an epoch with"
                f" {many(pilot.places, 'trial')} at once (the median of a pilot of one epoch), so"
                f" that it takes about {plan.MINUTES[name]:g} minutes."
            )
            chosen["pilot"] = dict(vars(pilot))
        if name == ROWS_STUDY:
            chosen["document"] = plan.rows_request(document, epochs)
        else:
            chosen["document"] = plan.search_request(document, epochs, trials, top, seeds)
        self.state.chosen[name] = chosen
        self.state.save()

    def _pilot(self, name: str, document: dict[str, Any]) -> plan.Pilot | None:
        """Run the pilot of a study, or continue it; its result, or None if time was up before.

        Its measurement of how many trials share a GPU holds for the study too.
        """
        pilot = plan.pilot_document(document)
        own = pilot["study"]
        study = self.study(own, PILOTS)
        if study is None or not study.finished:
            self._search(f"pilot of {name}", own, pilot, PILOTS)
            study = self.study(own, PILOTS)
        if study is None or not study.finished:
            return None
        measured, there = study.folder.packing, self.results / name / study.folder.packing.name
        if measured.exists() and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(measured, there)
        found = machine()
        return plan.pilot_of(study, found["processors"], len(found["gpus"]))

    def _search(self, stage: str, name: str, document: dict[str, Any], folder: str = "") -> None:
        """Run a search, or continue it, as its command line does."""
        results = self.results / folder
        results.mkdir(parents=True, exist_ok=True)
        space = results / f"{name}.yaml"
        plan.write_space(document, space)
        budget = self.clock.for_work() - min(30.0, 10 * (self.clock.minutes or 0.0))
        limit = [] if self.clock.minutes is None else ["--time-budget", f"{max(1.0, budget):.0f}s"]
        arguments = ["--space", str(space), "--data", str(self.data), "--results", str(results)]
        self._run(stage, ["tune.search", *arguments, *limit], lambda: self.study(name, folder))

    def _retraining(self, name: str, what: str) -> Stage:
        return Stage(
            f"retraining of {name}",
            lambda: self._is_retrained(name),
            lambda: self._retrain(name),
            lambda: f"the retraining of {what}, with its submission",
        )

    def _is_retrained(self, name: str) -> bool:
        """Whether the model of a study is retrained, and its submission written."""
        place = self.results / name / "best" / "metrics.json"
        if not place.exists():
            return False
        metrics = read_json(place, CheckpointError, "remove the folder")
        submission = metrics["submission"]
        return submission is None or bool(submission["written"])

    def _retrain(self, name: str) -> None:
        """Retrain the winner of the search, or the report's recipe, as the command line does."""
        study = self.study(name)
        assert study is not None
        trial: TrialRecord | None = None
        if name == ROWS_STUDY:
            complete = (one for one in study.records if one.state is State.COMPLETE)
            trial = next((one for one in complete if one.name == RECIPE), None)
            if trial is None:
                raise StudyError(
                    f"no training of {RECIPE} in {study.folder.path} is complete, so it cannot be"
                    " retrained; the report there says why, and the proof needs another --results"
                    " folder"
                )
        elif nothing_learned(study.records):
            trial = study.best
        arguments = ["--study", name, "--data", str(self.data), "--results", str(self.results)]
        if trial is not None:
            arguments += ["--trial", str(trial.id)]
        self._run(f"retraining of {name}", ["tune.retrain_best", *arguments], lambda: None)
        if self._is_retrained(name) and name == SEARCH_STUDY:
            example.keep_prediction(self.results)

    def _write_pages(self) -> None:
        if self.clock.left() > PAGE_SECONDS:
            example.write_example(self, self.results / "example")

    def _run(self, stage: str, arguments: Sequence[str], read: Callable[[], Study | None]) -> None:
        """Run a command of the project as a child, and record it.

        Raises StudyError if it fails.
        """
        if self.clock.for_work() < LEAST_SECONDS:
            return
        run: dict[str, Any] = {
            "stage": stage,
            "command": shlex.join(["python", "-m", *arguments]),
            "begun": now(),
            "machine": machine(),
            "commit": commit(),
            "before": work_of(read()).to_json(),
        }
        self.state.runs.append(run)
        self.state.save()
        self.say(f"\n$ {run['command']}")
        command = [sys.executable, "-m", *arguments]
        ended: Ended = run_child(command, self.clock.for_work(), {}, grace=self.clock.grace)
        run |= {
            "seconds": round(ended.seconds, 1),
            "status": ended.status,
            "after": work_of(read()).to_json(),
        }
        self.state.save()
        if ended.status not in (None, 0):
            raise StudyError(
                f"{run['command']} ended with status {ended.status}; its own message is above, and"
                " the same command of the proof continues"
            )


def run_stages(proof: Proof) -> list[Stage]:
    """Run all stages that are not done, while there is time; returns those that are left."""
    stages = proof.stages()
    for place, stage in enumerate(stages):
        if not stage.is_done():
            stage.run()
            if not stage.is_done():
                return [one for one in stages[place:] if not one.is_done()]
    return []
