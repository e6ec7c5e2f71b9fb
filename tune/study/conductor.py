"""Runs a study from its first trial to its last, the confirmation included."""

import contextlib
import functools
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

import torch
from rich.console import Console

from core import faults
from core.console import say
from core.errors import CheckpointError, GpuLost, ResourceError, StorageError
from core.files import encoded, refused, write_atomically, write_json_atomically
from core.interrupts import interrupted
from core.network import weights as pretrained
from core.network.weights import BaseWeights
from core.text import first_line, listed, many
from core.values import as_number
from tune.engine import mps
from tune.engine.executor import execute
from tune.engine.messages import Assignment, Cause, Failure, History, Then, WorkerLost
from tune.engine.mps import Service
from tune.engine.packing import (
    CUT_SHORT,
    FAILED,
    Conditions,
    Packing,
    heaviest,
    remembered_fact,
    remembered_packing,
    unmeasured_to_json,
    what_matters,
)
from tune.engine.rehearsal import (
    NotMeasured,
    RehearsalInputs,
    TimeIsUp,
    gpus_here,
    measure_packing,
    usual_seconds,
)
from tune.engine.resources import Machine
from tune.engine.worker import MakeTrial
from tune.ledger.claim import Claim
from tune.ledger.ledger import MAX_LOST, Ledger
from tune.ledger.orders import Deed, Order, OrderBook
from tune.ledger.reading import confirming_name, read_ledger, remembered_facts
from tune.ledger.records import State, TrialRecord
from tune.ledger.runs import Run, now_ms
from tune.redaction import without_password
from tune.store.folder import STUDY_FORMAT, checkpoint_path
from tune.store.names import key_of
from tune.store.trial_files import remove_parts, seconds_of_lost_epoch
from tune.store.url import Collection
from tune.study import confirmation, pace
from tune.study.candidates import Candidate, candidates, to_continue
from tune.study.duration import Forecast, Span, time_left, time_line
from tune.study.going_on import refuse_other_facts, study_facts
from tune.study.learned import nothing_learned
from tune.study.limits import Limits, Spent, spent_on
from tune.study.plan import StudyPlan, tracked_study
from tune.study.pretrained import weights_key
from tune.study.progress import Progress
from tune.study.scores import interval_so_far
from tune.study.trials import CoreTrials, TrialInputs, TrialMaker
from tune.tables import Origin, TrialsCsv
from tune.tracking.thread import TrackingThread
from tune.tracking.tracker import Trouble

TRACKER_CLOSE_SECONDS, TRACKER_INTERRUPTED_SECONDS = 60.0, 10.0
"""Seconds to wait for the tracker at the end of a study, and after an interruption; what it misses
can be shown later."""
LOOK_SECONDS = 1.0
"""Seconds between two looks for orders by people. The orders are few, and lie beside the trials."""
GPU_AWAY_SECONDS, GPU_BACK_SECONDS = 600.0, 300.0
"""Seconds for which workers may find no usable GPU before the study stops, and seconds without such
a report after which the GPU counts as back. After an error on the GPU NVIDIA's service needs some
time, until all processes that saw the error have ended."""

MOST_NODES = 10
"""Largest number of nodes that a trial may lose without being charged with a failure: nothing is
wrong with the trial, unless all nodes that run it die."""

MORE = 1.5
"""Factor on the seconds after which a measurement was cut short for want of time: it begins again
only if at least this much is left."""

_PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "optuna",
    "mlflow",
    "albumentations",
    "pycocotools",
    "numpy",
)
"""The packages whose versions `study.json` names."""


def run_study(plan: StudyPlan, console: Console, trials: TrialMaker | None = None) -> bool:
    """Run a study, or continue it; True if it is finished, False if its time was up before.

    If the request asks for a confirmation, it follows the finished search and belongs to the study.

    trials   builds the trials that workers run: real ones by default; tests and benchmarks replay
             learning curves

    Raises BadRequest; StorageError if a disk or a database fails; GpuLost if the GPU stays away;
    ProcessLost if memory ran out; and KeyboardInterrupt after Ctrl-C.
    """
    trials = trials or CoreTrials()
    faults.mark_driver()
    budget = plan.options.time_budget
    asked = plan.request.resources
    limits = Limits(
        None if budget is None else time.monotonic() + budget,
        asked.epoch_budget,
        asked.gpu_hour_budget,
    )
    locked = plan.folder.driver_lock()
    with _files_in_one_sentence(), locked, Claim(plan.storage, plan.request.study) as claim:
        ledger = Ledger(claim, plan.request)
        weights = {key: pretrained.read_weights(file) for key, file in plan.weights.items()}
        facts = study_facts(plan.request, plan.data) | {
            "weights": {key: [base.sha256, base.stride_in_1x1] for key, base in weights.items()}
        }
        refuse_other_facts(ledger.facts, facts, plan.folder)
        _begin_from(plan, ledger, facts["weights"], console)
        ledger.remember(facts)

        def measures_on(seconds: float = 0.0) -> None:
            claim.beat()
            if limits.until is not None and seconds >= limits.until:
                raise TimeIsUp("the time budget leaves too little time")

        with _service(plan, claim.beat) as service:
            if trials.trains:
                plan = _packed(plan, weights, service, measures_on, console)
            if not 0 < plan.resources.gpus < 1:
                service.close()
            elif plan.request.resources.mps is not False:
                say(console, service.why)
            write_study_json(plan)
            with _noted_run(ledger, plan) as end:
                finished = _run_phases(
                    plan, ledger, facts, weights, service, trials, limits, console
                )
                end(finished, "" if finished else limits.why)
            if not finished:
                say(console, f"The search ends before its last trial: {limits.why}")
            return finished


def _begin_from(
    plan: StudyPlan, ledger: Ledger, weights: Mapping[str, Any], console: Console
) -> None:
    """Store what a new study takes from another one, before anything else is known of it.

    weights   the hashes of the pretrained weights, which are known only now

    A study that goes on has stored it, and takes nothing again.
    """
    if plan.warm_start is None or ledger.warm_start is not None:
        return
    warm = plan.warm_start.with_weights(weights)
    for sentence in warm.sentences[len(plan.warm_start.sentences) :]:
        say(console, f"Note: warm start: {sentence}")
    ledger.begin_from(warm)


def _run_phases(
    plan: StudyPlan,
    ledger: Ledger,
    facts: dict[str, Any],
    weights: Mapping[str, BaseWeights],
    service: Service,
    trials: TrialMaker,
    limits: Limits,
    console: Console,
) -> bool:
    """Run the search and its confirmation; True if the study is finished.

    facts   what all trials of the study have in common
    """
    inputs = TrialInputs(plan.data, weights, plan.resources.cpus, plan.resources.gpus > 0)
    make_trial = functools.partial(trials.make, inputs=inputs)
    chosen = confirmation.chosen_so_far(ledger, plan.storage, plan.request)
    if plan.request.space.parameters:
        ledger.choose(chosen)
    measures = trials.trains and not console.quiet  # nobody reads the estimate otherwise
    forecast = pace.forecast_plan(plan, ledger.records, measures, chosen=chosen)
    confirming_before = read_ledger(plan.storage, confirming_name(plan.request.study))
    confirmed = () if confirming_before is None else confirming_before.records
    for line in pace.plan_budget_lines(plan, forecast, ledger.records, confirmed):
        say(console, line)
    phase = replace(_search_phase(plan, ledger), beside=confirmed)
    continues = confirmation.continues(plan.storage, plan.request)
    while True:
        _run_phase(plan, phase, forecast, limits, console, make_trial, service)
        if not ledger.finished:
            return False
        chosen = confirmation.decide(ledger, plan.request)
        waiting = to_continue(ledger.records, chosen) if continues else ()
        if not waiting:
            break
        _reopen(ledger, waiting, console)
        forecast = replace(forecast, continuing=())
    found = candidates(ledger.records, plan.request, chosen)
    kept = {one.trial.id for one in found} | _best(ledger)
    confirmation.release(ledger, plan.request, kept)
    _remove_weights_that_lost(replace(phase, kept=lambda: kept), set())
    repeats = plan.repeats
    points = confirmation.confirming_points(found, plan.request, repeats)
    if not points:
        return True
    confirming = Ledger(ledger.claim, confirmation.confirming_request(plan.request), points)
    refuse_other_facts(confirming.facts, facts, plan.folder)
    own = confirmation.confirmation_facts(plan.request, repeats, continues)
    confirming.remember(facts | own)
    phase = _confirm_phase(plan, ledger, confirming, found)
    trainings = forecast.confirming[:1] * confirming.planned
    forecast = replace(forecast, continuing=(), confirming=trainings)
    request = plan.request
    inputs = replace(inputs, predict=request.after_training, auto=request.space.auto)
    make_trial = functools.partial(trials.make, inputs=inputs)
    _run_phase(plan, phase, forecast, limits, console, make_trial, service)
    if confirming.finished:
        _remove_weights_but_the_winners(plan, ledger)
    return confirming.finished


def _service(plan: StudyPlan, alive: Callable[[], object] = int) -> AbstractContextManager[Service]:
    """NVIDIA's service for the time of the block, if trials may share a GPU of this machine.

    alive   called between the steps of its start, to check that this process still runs the study
    """
    wanted = plan.request.resources
    if plan.machine.address is not None:
        return nullcontext(
            mps.turns("resources.mps auto is for the GPUs of this machine, not for a cluster's")
        )
    may_share = wanted.gpus_per_trial == "auto" and plan.options.parallel != 1
    if not (0 < plan.resources.gpus < 1 or (plan.resources.gpus and may_share)):
        return nullcontext(mps.turns("in this study each has its own"))
    return mps.service(wanted.mps, alive)


def _packed(
    plan: StudyPlan,
    weights: Mapping[str, BaseWeights],
    service: Service,
    alive: Callable[..., object],
    console: Console,
) -> StudyPlan:
    """The plan with the number of trials on a GPU that measurements choose.

    alive   called every few seconds, to check that this process still runs the study; raises
            TimeIsUp if less time is left than its argument, in seconds (0 by default)

    The plan stays as it is unless the request says `auto` and this machine has a GPU; the GPUs of a
    cluster are not measured. A measurement under the same conditions is used again. If nothing
    could be measured, each trial has a whole GPU. A service that gained nothing is given up.
    """
    wanted = plan.request.resources
    here = plan.machine.address is None and torch.cuda.is_available()
    shareable = plan.resources.gpus > 0 and plan.options.parallel != 1
    if wanted.gpus_per_trial != "auto" or not here or not shareable:
        return plan
    try:
        packing = _measured(plan, weights, service, alive, console)
    except NotMeasured as reason:
        way_out = (
            "a run with a longer --time-budget measures it"
            if isinstance(reason, TimeIsUp)
            else f"delete {plan.folder.packing} to measure again"
        )
        say(
            console,
            f"How many trials share a GPU could not be measured ({reason}), so each has a GPU;"
            f" {way_out}",
        )
        return plan
    share = 1 / packing.trials
    resources = plan.machine.share(wanted.cpus_per_trial, share, plan.options.parallel)
    first, *others = packing.sentences
    for sentence in (f"{first}; {resources.parallel} at once", *others):
        say(console, sentence)
    if packing.against_service:
        service.give_up(packing.against_service)
    return replace(plan, resources=resources)


def _measured(
    plan: StudyPlan,
    weights: Mapping[str, BaseWeights],
    service: Service,
    alive: Callable[..., object],
    console: Console,
) -> Packing:
    """The measurements of this machine: those in the study's folder if they still hold, else new.

    Raises NotMeasured if nothing can be measured. Failures are stored too: otherwise jobs of a few
    minutes, one after the other, would each measure in vain and never train. A measurement that was
    cut short because the study's time was up begins again only if more time is left now.
    """
    wanted, (node,) = plan.request.resources, plan.machine.nodes
    config = heaviest(plan.request.space, plan.request.after_training)
    ways: tuple[bool, ...] = (False,)
    if service.runs:
        ways = (True,) if wanted.mps is True else (False, True)
    conditions = Conditions(
        what_matters(config), gpus_here(), node.cpus, node.memory, wanted.cpus_per_trial,
        plan.options.parallel, ways,
    )  # fmt: skip
    failed = remembered_fact(plan.folder.packing, conditions, FAILED)
    if failed is not None:
        raise NotMeasured(failed)
    packing = remembered_packing(plan.folder.packing, conditions)
    if packing is None:
        before = remembered_fact(plan.folder.packing, conditions, CUT_SHORT) or 0
        alive(max(usual_seconds(len(conditions.gpus)), MORE * float(before)))
        say(console, "Measuring how many trials share a GPU")
        inputs = RehearsalInputs(config, plan.data, weights.get(weights_key(config.model)))
        in_turns = service.without if service.runs else nullcontext
        begin = time.monotonic()
        try:
            packing = measure_packing(conditions, plan.machine, inputs, in_turns, alive)
        except NotMeasured as reason:
            fact: tuple[str, str | float] = (FAILED, str(reason))
            if isinstance(reason, TimeIsUp):
                fact = CUT_SHORT, time.monotonic() - begin
            write_json_atomically(plan.folder.packing, unmeasured_to_json(conditions, *fact))
            raise
        write_json_atomically(plan.folder.packing, packing.to_json())
    return packing


@dataclass(frozen=True)
class _Phase:
    """A phase of a study: the trials of the search, or those that confirm its best.

    name        search or confirm, also the name of the phase in the tracker
    ledger      the ledger that holds these trials
    searched    the ledger of the search
    first_rung  number of epochs after which a trial can first be stopped early; 1 if none can
    folder_of   returns a trial's folder, given its number
    table       path of the CSV file with the table of these trials
    kept        returns the numbers of the trials whose weights are kept after their end, and the
                checkpoints of those that were stopped, which may still be continued
    origins     where the settings of these trials came from, by the trials' names; None in a search
    followed    returns whether more trials follow when all these have ended
    collection  brings files from the store's URL; None without one
    is_chosen   returns whether the candidates of the confirmation are chosen
    beside      the trials of the other phase, which count towards the budgets
    """

    name: Literal["search", "confirm"]
    ledger: Ledger
    searched: Ledger
    first_rung: int
    folder_of: Callable[[int], Path]
    table: Path
    kept: Callable[[], Container[int]]
    origins: Mapping[str, Origin] | None
    followed: Callable[[], bool]
    collection: Collection | None
    is_chosen: Callable[[], bool] = lambda: True
    beside: Sequence[TrialRecord] = ()


def _search_phase(plan: StudyPlan, ledger: Ledger) -> _Phase:
    """The phase of the search, in which trials may be stopped early and continued."""
    request = plan.request
    rungs = request.stopping_rule.rungs(request.max_epochs)

    return _Phase(
        name="search",
        ledger=ledger,
        searched=ledger,
        first_rung=min(rungs, default=1),
        folder_of=plan.folder.trial,
        table=plan.folder.trials_csv,
        kept=lambda: confirmation.keep(ledger, request) | _best(ledger),
        origins=None,
        is_chosen=lambda: (
            ledger.chosen.candidates is not None
            or remembered_facts(plan.storage, confirming_name(request.study)) is not None
        ),
        followed=lambda: (
            bool(plan.repeats)
            and not nothing_learned(ledger.records)
            and any(record.state is not State.FAIL for record in ledger.records)
        ),
        collection=_collection(plan),
    )


def _best(ledger: Ledger) -> set[int]:
    """Number of the complete trial with the highest AP50; empty before one is complete."""
    return set() if ledger.best is None else {ledger.best.id}


def _confirm_phase(
    plan: StudyPlan, searched: Ledger, ledger: Ledger, found: Sequence[Candidate]
) -> _Phase:
    """The phase of the confirmation, in which no trial is stopped early and all weights stay."""
    return _Phase(
        name="confirm",
        ledger=ledger,
        searched=searched,
        first_rung=1,
        folder_of=plan.folder.confirm_trial,
        table=plan.folder.confirm_csv,
        kept=lambda: {one.id for one in ledger.records if one.state is not State.PRUNED},
        origins={one.name: one.origin for one in found},
        followed=lambda: False,
        collection=_collection(plan),
        beside=searched.records,
    )


def _collection(plan: StudyPlan) -> Collection | None:
    """The driver's copies of what is at the store's URL; None if the study has no such store."""
    return None if plan.store is None else Collection(plan.store)


def _reopen(ledger: Ledger, chosen: Sequence[int], console: Console) -> None:
    """Reopen stopped trials in the ledger, so that they go on to their last epoch, and say so.

    chosen   numbers of the trials
    """
    records = [ledger.records[number] for number in chosen]
    trials = listed([f"trial {one.id} after epoch {len(one.epochs)}" for one in records])
    epochs = sum(one.planned_epochs - len(one.epochs) for one in records)
    was, goes = ("was", "goes") if len(records) == 1 else ("were", "go")
    say(
        console,
        f"Before the confirmation, {many(len(records), 'trial')} that {was} stopped early and may"
        f" be among the best {goes} on to the last epoch: {trials},"
        f" {many(epochs, 'epoch')} in all",
    )
    for number in chosen:
        ledger.reopen(number)


def _remove_weights_that_lost(phase: _Phase, settled: set[int]) -> None:
    """Remove the last checkpoint of ended trials that will not go on, and all weights of those that
    can no longer win.

    Epochs and match tables stay.

    settled   numbers of the trials whose weights were removed before; those removed now are added
    """
    kept = phase.kept()
    for record in phase.ledger.records:
        if record.state is State.RUNNING or record.id in settled:
            continue
        folder = phase.folder_of(record.id)
        if record.id not in kept:
            _remove_weights(folder, phase.collection)
            remove_parts(folder)  # of a worker that was killed in its last attempt
            settled.add(record.id)
        elif record.state is not State.PRUNED:  # else it may be continued
            _remove_weights(folder, phase.collection, checkpoint_path(folder).name.__eq__)


def _remove_weights(
    folder: Path, collection: Collection | None, lost: Callable[[str], bool] = bool
) -> None:
    """Remove weights of an ended trial, here and at the store's URL.

    folder   the trial's folder
    lost     whether a file of weights, by its name, is removed; all are by default
    """
    for file in [*folder.glob("*.safetensors")]:
        if lost(file.name):
            file.unlink(missing_ok=True)
    if collection is not None:
        collection.remove(key_of(folder), lambda name: _is_weights(name) and lost(name))


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _remove_weights_but_the_winners(plan: StudyPlan, searched: Ledger) -> None:
    """Remove the weights of confirming trials, except the winner's, which can predict together.

    If there is no winner, all stay.

    searched   the trials of the search
    """
    found = confirmation.read_confirmation(plan.folder, plan.storage, plan.request, searched)
    with contextlib.suppress(CheckpointError):  # a damaged match table: the report names it
        winner = None if found is None else confirmation.confirmed_winner(found)
        if found is None or winner is None:
            return
        kept = next(one for one in found.confirmed if one.candidate.name == winner.name)
        for record in found.records:
            if record not in kept.repeats:
                _remove_weights(plan.folder.confirm_trial(record.id), _collection(plan))


def _run_phase(
    plan: StudyPlan,
    phase: _Phase,
    forecast: Forecast,
    limits: Limits,
    console: Console,
    make_trial: MakeTrial,
    service: Service,
) -> None:
    """Run the trials of a phase that have not ended, until a limit is reached.

    Raises the error that stopped the study, if one did.
    """

    def seconds_left(records: Sequence[TrialRecord]) -> Span | None:
        searched = phase.searched.records
        return forecast.left(searched, () if phase.name == "search" else records)

    if plan.store is not None:
        # What fails now would fail a minute later.
        replace(plan.store, pauses=()).claim(phase.searched.identity)
    with (
        Progress(
            phase.ledger.planned,
            console,
            phase.name,
            lambda records: time_left(seconds_left(records), limits.until),
            lambda record: interval_so_far(record, phase.folder_of(record.id)),
        ) as progress,
        _Conductor(plan, phase, progress, limits, service) as conductor,
    ):
        if not conductor.finished:
            records = phase.ledger.records
            begun = any(record.epochs for record in (*phase.searched.records, *records))
            line = time_line(seconds_left(records), limits.until, not plan.resources.gpus, begun)
            if line:
                say(console, line)
            stall_seconds = 60 * plan.request.resources.stall_minutes
            execute(
                conductor, make_trial, plan.machine, plan.resources, stall_seconds,
                plan.folder.path, plan.store, plan.options.grace,
            )  # fmt: skip
    if conductor.error is not None:
        raise conductor.error
    if conductor.untracked:
        numbers = ", ".join(map(str, conductor.untracked))
        what = "trial" if phase.name == "search" else "confirming trial"
        what = what if len(conductor.untracked) == 1 else f"{what}s"
        say(
            console,
            f"{plan.tracking.name} does not show {what} {numbers} in full"
            f" ({conductor.trouble.reason}): {conductor.trouble.way_out}",
        )


@contextlib.contextmanager
def _noted_run(ledger: Ledger, plan: StudyPlan) -> Iterator[Callable[[bool, str], None]]:
    """Describe this run in the ledger for the time of a block, and its end.

    The block calls the given function with whether the study is finished, and else with the reason.
    After an exception the end is noted with its message, if the ledger still takes it.
    """
    run = Run.begun_here(
        plan.request.to_document(), str(plan.folder.path.absolute()), plan.resources.parallel
    )
    ledger.note_run(run)

    def end(finished: bool, why: str) -> None:
        ledger.note_run(replace(run, finished=finished, end=why, ended=now_ms()))

    try:
        yield end
    except BaseException as error:
        ledger.claim.database.hurry()
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
        with contextlib.suppress(StorageError):
            end(False, without_password(why))
        raise


@contextlib.contextmanager
def _files_in_one_sentence() -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file, the reason and the way out."""
    try:
        yield
    except OSError as error:
        raise StorageError(refused(error, "a file of the study", again=True)) from error


class _Conductor:
    """The desk of one phase (see `tune.engine.bridge`).

    It hands out attempts, and tells ledger, tracker, table and progress of each event once.
    """

    def __init__(
        self,
        plan: StudyPlan,
        phase: _Phase,
        progress: Progress,
        limits: Limits,
        service: Service,
    ) -> None:
        self._plan, self._phase, self._progress, self._limits = plan, phase, progress, limits
        self._ledger, self._service = phase.ledger, service
        # Whether trials may compute together by NVIDIA's service. The nodes of a cluster may have
        # one that this process cannot see, and a user's own is found by all workers even if the
        # study asks for none.
        self._together = service.runs or plan.machine.address is not None or mps.is_there()
        self._machine, self._parallel = plan.machine, plan.resources.parallel
        self._gpu_away_since: float | None = None
        self._gpu_away_heard = 0.0
        self._said_that_it_ends = False
        self._heard: dict[int, float] = {}
        self._without_room: set[int] = set()
        self._without_weights: set[int] = set()
        self._stall_seconds = 60 * plan.request.resources.stall_minutes
        self._orders = OrderBook(self._ledger.claim.database, plan.request.study)
        self._looked: float | None = None
        self._to_stop: dict[int, Order] = {}
        self._table = TrialsCsv(plan.request.searched, phase.origins)
        self.error: Exception | None = None
        """The error that stopped the study before its end; None if there was none."""
        study = tracked_study(
            plan.request,
            phase.searched.identity,
            plan.data.fingerprint,
            phase.searched.warm_start,
        )
        self._tracking = TrackingThread(
            plan.tracking, study, phase.name, phase.folder_of, lambda: phase.ledger.claim.is_held
        )
        self.untracked: Sequence[int] = ()
        """Numbers of the trials that the tracker does not show in full; set when the phase ends."""
        self.trouble = Trouble("")
        """The reason why the tracker does not show them, and the way out."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray always pickles searcher and scheduler, and this desk with them, but uses no copy.
        return (str, ())

    def __enter__(self) -> Self:
        with self._halting():
            self._obey()
        for record in self._ledger.records:
            self._tracking.show(record)
        self._progress.show(self._ledger.records)
        return self

    def __exit__(self, *_: object) -> None:
        with self._halting():
            self._write_table()
            self._collect_weights()
        ended = self._ledger.finished
        if not ended:
            self._limits.note_used_up(self._spent, self._first_epochs)
        last = ended and not self._phase.followed()
        self.untracked = self._tracking.close(
            last, TRACKER_CLOSE_SECONDS if ended else TRACKER_INTERRUPTED_SECONDS
        )
        self.trouble = self._tracking.trouble or Trouble("it took too long")
        with self._halting():
            self._ledger.catch_up()
            self._note_runs()

    @property
    def _gpus(self) -> int:
        """Number of GPUs of all nodes."""
        return sum(node.gpus for node in self._machine.nodes)

    def now_has(self, machine: Machine) -> None:
        if machine == self._machine:
            return
        shares = self._plan.resources
        try:
            share = machine.share(shares.cpus, shares.gpus, self._plan.options.parallel)
            parallel = share.parallel
        except ResourceError:  # no node has room for a trial at present
            parallel = 0
        if parallel != self._parallel:
            nodes = many(len(machine.nodes), "node")
            then = many(parallel, "trial") if parallel else "no trial"
            wait = "" if parallel else "; the search waits for a node"
            self.say(f"The cluster has {nodes} now: room for {then} at once{wait}")
        self._machine, self._parallel = machine, parallel

    def say(self, sentence: str) -> None:
        self._progress.say(sentence)

    @property
    def finished(self) -> bool:
        if self.error is not None or self._ledger.finished:
            return True
        return not self._heard and (
            self._limits.reached or not self._first_rung_fits or not self._budget_allows_another
        )

    @property
    def _budget_allows_another(self) -> bool:
        """Whether the budgets leave room for another attempt: for an epoch of a trial that goes on,
        and else for all epochs up to the first rung.
        """
        return self._budget_allows(len(self._heard), self._first_epochs)

    def _budget_allows(self, running: int, more: int = 1) -> bool:
        return not self._limits.has_budget or self._limits.allows(self._spent, running, more)

    @property
    def _first_epochs(self) -> int:
        return 1 if self._ledger.comes_again else self._phase.first_rung

    @property
    def _spent(self) -> Spent:
        """The cost of the study so far, over both phases and all runs."""
        return spent_on((*self._phase.beside, *self._ledger.records))

    def hand_out(self) -> Assignment | None:
        with self._halting():
            # Ray calls this often enough for a heartbeat, and while no worker waits.
            self._ledger.claim.beat()
            self._ledger.catch_up()
            self._obey()
        self._say_that_it_ends()
        if self.error is not None or not self._has_room:
            return None
        # Checked last, since it reads every epoch of the study.
        if self._limits.reached or not self._budget_allows_another or not self._first_rung_fits:
            return None
        with self._halting():
            record = self._ledger.next(self._plan.resources.gpus)
            if record is None:
                return None
            self._heard[record.id] = time.monotonic()
            if record.gpu_share > self._plan.resources.gpus:
                self._without_room.add(record.id)
            self._show(record.id)
            folder = str(self._phase.folder_of(record.id).absolute())
            known = len(record.epochs)
            return Assignment(
                record.id, record.attempts, folder, dict(record.settings), known, record.gpu_share
            )
        return None

    def _say_that_it_ends(self) -> None:
        """Tell the user, once, that a Ctrl-C was received and how long running epochs have."""
        if interrupted() and self._heard and not self._said_that_it_ends:
            self._said_that_it_ends = True
            self._progress.say(
                f"Ending: running epochs have {as_number(self._plan.options.grace)} s to end; a"
                " second Ctrl-C ends at once"
            )

    @property
    def _has_room(self) -> bool:
        """Whether another attempt may be handed out.

        An attempt that needs a larger share of a GPU than others is handed out before there is room
        for it. Until it has begun, no other is handed out, because that would take the part of the
        GPU that becomes free.
        """
        if self._without_room or len(self._heard) >= self._parallel:
            return False
        held = sum(self._ledger.records[number].gpu_share for number in self._heard)
        return self._ledger.comes_again or held + self._plan.resources.gpus <= self._gpus + 1e-6

    @property
    def _first_rung_fits(self) -> bool:
        """Whether a trial that starts now would reach its first rung before the deadline.

        Each epoch counts with the median time of the study's epochs; True if there are none yet.
        """
        left = self._limits.until
        if left is None:
            return True
        records = (*self._phase.searched.records, *self._ledger.records)
        seconds = [float(epoch["seconds"]) for record in records for epoch in record.epochs]
        if not seconds:
            return True
        return self._phase.first_rung * statistics.median(seconds) <= left

    def begun(self, assignment: Assignment) -> None:
        self._without_room.discard(assignment.trial)
        if assignment.trial in self._heard:
            self._heard[assignment.trial] = time.monotonic()
        if self._service.has_died:  # processes that start without it take turns in silence
            self._service.mend()

    def take_in(self, assignment: Assignment, message: History | Failure | WorkerLost) -> bool:
        number = assignment.trial
        if self.error is not None:
            return True
        with self._halting():
            self._obey()
            ended = True
            match message:
                case History(epochs):
                    self._gpu_away_since = None
                    self._collect(assignment)
                    self._note_beginning_anew(number, epochs)
                    ended = (
                        self._ledger.report(number, epochs)
                        or self._stopped_by_a_person(number)
                        or self._leaves(number)
                    )
                case Failure(reason, Then.HALT):
                    self._halt(
                        StorageError(f"{reason}; see to it, then run the same command again")
                    )
                case Failure(reason, Then.FAIL, seconds):
                    self._ledger.fail(number, reason, seconds)
                    self._collect(assignment)  # `error.txt`
                case Failure(reason, then, seconds):
                    more = then is Then.RETRY_WITH_MORE_MEMORY
                    self._ledger.lost(
                        number, reason, seconds, self._more_memory(number) if more else None
                    )
                case WorkerLost(cause):
                    self._enter_loss(assignment, message)
                    if cause is Cause.GPU_FAILED:
                        self._collect(assignment)
            return self._after(number, ended)
        return True

    def _collect(self, assignment: Assignment) -> None:
        """Bring a trial's files but for its weights from the store's URL.

        This comes before the ledger records the epoch, so that it records none whose files are
        missing.
        """
        folder = Path(assignment.folder)
        if self._phase.collection is not None:
            self._phase.collection.collect(
                folder, key_of(folder), lambda name: not _is_weights(name)
            )

    def _collect_weights(self) -> None:
        """Bring the weights of complete trials that are kept from the store's URL.

        They are large, and a scheduler that takes this machine away does not wait for them: after
        an interruption the next run brings them.
        """
        if self._phase.collection is None or interrupted():
            return
        kept = self._phase.kept()
        for record in self._ledger.records:
            folder = self._phase.folder_of(record.id)
            if record.id in kept and record.state is State.COMPLETE:
                self._phase.collection.collect(folder, key_of(folder), _is_weights)

    def _obey(self) -> None:
        """Carry out what people have asked for, if LOOK_SECONDS have passed since the last look.

        A trial that runs is stopped when its epoch has been reported.
        """
        now = time.monotonic()
        if self._looked is not None and now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for order in self._orders.unanswered():
            if order.deed is Deed.DRAIN:
                self._drain(order)
            elif order.trial is None or not 0 <= order.trial < len(self._phase.searched.records):
                self._orders.answer(order, False, "there is no such trial")
            elif self._phase.name != "search":  # its trials have numbers of their own
                self._orders.answer(
                    order, False, "the search had ended, and its best are confirmed"
                )
            elif order.deed is Deed.REQUEUE:
                self._requeue(order, order.trial)
            elif order.trial in self._heard:
                self._to_stop[order.trial] = order
            else:
                self._to_stop.pop(order.trial, None)
                self._stop(order, order.trial)

    def _drain(self, order: Order) -> None:
        if order.token != self._ledger.claim.token:
            self._orders.answer(order, False, "the run that it was meant for had ended already")
            return
        self._limits.drained_by = order.by
        self._orders.answer(order, True, "the search ends after the running epochs")
        self._progress.say(f"{order.by} asked the search to end; it ends after the running epochs")

    def _stopped_by_a_person(self, number: int) -> bool:
        """Whether a trial that has reported ends, because a person asked for it."""
        order = self._to_stop.pop(number, None)
        return order is not None and self._stop(order, number)

    def _stop(self, order: Order, number: int) -> bool:
        """Stop a trial that no worker runs, or that is between two epochs, and answer the order.

        Returns whether it was stopped.
        """
        record = self._ledger.records[number]
        there = order.id in record.obeyed  # done by a driver that died before it could answer
        if record.state is not State.RUNNING and not there:
            self._orders.answer(order, False, f"it had ended before: {record.state}")
            return False
        if not there:
            reason = f"stopped after epoch {len(record.epochs)}: {order.by} asked for it"
            self._ledger.stop(number, reason, order.id)
            faults.passing("obeyed")
            self._show(number)
            self._write_table()
        self._orders.answer(order, True, f"stopped after {many(len(record.epochs), 'epoch')}")
        return True

    def _requeue(self, order: Order, number: int) -> None:
        """Give a trial that failed or was stopped another attempt, and answer the order."""
        record = self._ledger.records[number]
        if order.id not in record.obeyed:
            if self._phase.is_chosen():
                self._orders.answer(order, False, "the candidates of the confirmation are chosen")
                return
            if record.state not in (State.FAIL, State.PRUNED):
                self._orders.answer(order, False, f"it is {record.state}")
                return
            was = "failed" if record.state is State.FAIL else "stopped"
            reason = f"{was} after epoch {len(record.epochs)}, tried again: {order.by} asked for it"
            self._ledger.reopen(number, order.id, reason)
            self._without_weights.discard(number)
            faults.passing("obeyed")
            self._show(number)
            self._write_table()
        self._orders.answer(order, True, "it gets another attempt")

    def _note_beginning_anew(self, number: int, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Tell the user if a trial that had run some epochs is trained again from its first."""
        known = len(self._ledger.records[number].epochs)
        if len(epochs) == 1 < known:
            self._progress.say(
                f"Note: trial {number} has no checkpoint of its {known} epochs any more, so it is"
                " trained again from its first epoch"
            )

    def _enter_loss(self, assignment: Assignment, lost: WorkerLost) -> None:
        """Record that the worker of an attempt is lost, and whether that counts against its trial.

        With NVIDIA's service, the study's or the user's, one trial's error on the GPU ends all that
        share the GPU, and CUDA tells each of them the same. So an attempt that was lost while it
        shared a GPU does not count. The trial then holds twice its share for one epoch, beside half
        as many others. A trial that is to blame is lost again, until it is alone on a GPU and its
        losses count; the others go on as before.
        """
        number, share = assignment.trial, assignment.gpus
        if lost.cause is Cause.NODE_DIED and self._plan.machine.address is None:
            lost = replace(lost, cause=Cause.DIED)  # this node lives, since this process does
        silence, limit = self._silence(number), self._stall_seconds
        stalled = bool(limit and silence >= limit and lost.cause is Cause.DIED)
        reason = lost.reason
        if stalled:
            reason = (
                f"no epoch for {as_number(limit / 60)} minutes (resources.stall_minutes): its"
                " worker was ended"
            )
        seconds = seconds_of_lost_epoch(Path(assignment.folder), assignment.attempt)
        # The kernel killed the worker at its time limit, however late Ray noticed that.
        seconds = min(seconds, silence, limit or silence)
        if lost.cause is Cause.TOLD_TO_END or interrupted():
            # A scheduler that ends a whole job kills what does not end in time.
            self._ledger.spare(number, reason, seconds)
        elif lost.cause is Cause.NO_GPU:
            self._ledger.spare(number, reason, seconds)
            self._wait_for_gpu(reason)
        elif lost.cause is Cause.NODE_DIED and self._ledger.records[number].spared < MOST_NODES:
            self._ledger.spare(number, reason, seconds)
        elif self._together and 0 < share < 1 and lost.cause is not Cause.COULD_NOT_RUN:
            reason = f"{reason} (perhaps through another trial on its GPU, so not counted)"
            # A trial that hangs costs its whole time limit each time, so it is alone at once.
            room = 1.0 if stalled else min(2 * share, 1.0)
            self._ledger.spare(number, reason, seconds, room)
        else:
            self._ledger.lost(number, reason, seconds)

    def _leaves(self, number: int) -> bool:
        """Whether a trial that has trained an epoch ends its attempt, and goes on in another.

        A trial that had a larger share for one epoch goes on with the study's share. With NVIDIA's
        service the others make room for a trial that waits for a larger share; otherwise the GPU
        would slowly empty until the longest of them has ended.
        """
        records = self._ledger.records
        waiting = [records[one].gpu_share for one in self._without_room]
        held = sum(records[one].gpu_share for one in self._heard.keys() - self._without_room)
        # With several GPUs the free parts may be large enough only in sum.
        full = self._gpus > 1 or held + sum(waiting) > self._gpus + 1e-6
        crowded = self._together and full
        if not (records[number].room_needed or (waiting and crowded)):
            return False
        self._ledger.again(number)
        return True

    def _wait_for_gpu(self, reason: str) -> None:
        """Stop the study if for GPU_AWAY_SECONDS no worker could use a GPU and none trained."""
        now = time.monotonic()
        # An epoch may take longer than the limit, so that none ended in this time says nothing; but
        # if no worker has reported a missing GPU for a while, the GPU is back.
        if self._gpu_away_since is None or now - self._gpu_away_heard > GPU_BACK_SECONDS:
            self._gpu_away_since = now
        self._gpu_away_heard = now
        self._service.mend()
        if now - self._gpu_away_since >= GPU_AWAY_SECONDS:
            self._halt(
                GpuLost(
                    f"the GPU could not be used for {as_number(GPU_AWAY_SECONDS / 60)} minutes"
                    f" ({reason}); see to it, then run the same command again"
                )
            )

    def _more_memory(self, number: int) -> float | None:
        """The share of a GPU for the next attempt of a trial that ran out of memory.

        It is doubled, so that fewer trials run beside it, and 1 in the last attempt. None for no
        change: the trial has no GPU, or a whole one.
        """
        record = self._ledger.records[number]
        if not 0 < record.gpu_share < 1:
            return None
        return 1.0 if record.lost + 1 >= MAX_LOST else min(2 * record.gpu_share, 1.0)

    @contextlib.contextmanager
    def _halting(self) -> Iterator[None]:
        """Stop the study in order at any exception inside the block.

        Ray's hooks call this desk, and an exception that reached Ray would end it in disorder.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised again when Ray has ended
            self._halt(error)

    def _halt(self, error: Exception) -> None:
        self.error = self.error or error
        self._heard.clear()
        self._without_room.clear()

    def _after(self, number: int, ended: bool) -> bool:
        """Show a trial's new state; True if its worker must leave the trial.

        ended   whether the attempt has ended
        """
        self._heard[number] = time.monotonic()
        others = len(self._heard) - 1
        if ended or self._limits.reached or not self._budget_allows(others):
            del self._heard[number]
            self._without_room.discard(number)
            self._stopped_by_a_person(number)  # or its order is answered: it has ended
            if not (ended or self._limits.reached):
                # The budget may have room for it later: another trial may fail in its epoch.
                self._ledger.again(number)
        self._show(number)
        self._note_runs()
        if ended:
            self._write_table()
            _remove_weights_that_lost(self._phase, self._without_weights)
        return number not in self._heard

    def _note_runs(self) -> None:
        """Record which run of the tracker shows which trial: only this thread writes the ledger."""
        for number, run in self._tracking.new_names().items():
            self._ledger.note_mlflow_run(number, run)

    def _silence(self, number: int) -> float:
        """Seconds since the last news of a trial's attempt."""
        return time.monotonic() - self._heard[number]

    def _show(self, number: int) -> None:
        records = self._ledger.records
        self._tracking.show(records[number])
        self._progress.show(records, records[number])

    def _write_table(self) -> None:
        write_atomically(self._phase.table, encoded(self._table.text(self._ledger.records)))


def write_study_json(plan: StudyPlan) -> None:
    """Write study.json. If there is one already, its date of creation stays."""
    folder = plan.folder
    created = (
        folder.read_description()["created"]
        if folder.description.exists()
        else datetime.now(UTC).isoformat()
    )
    write_json_atomically(
        folder.description,
        {
            "format": STUDY_FORMAT,
            "study": plan.request.study,
            "created": created,
            "command": shlex.join(
                ["python", "-m", "tune.search", *map(without_password, sys.argv[1:])]
            ),
            "request": plan.request.to_document(),
            "data": {
                "where": plan.request.data,
                "fingerprint": plan.data.fingerprint,
                "images": len(plan.data.samples),
                "groups": plan.groups,
                "classes": [category.name for category in plan.data.classes],
            },
            # None stands for the default, a file in this folder or beside it, which holds wherever
            # the folder is moved.
            "storage": plan.options.storage and without_password(plan.options.storage),
            "store": plan.options.store and without_password(plan.options.store),
            "tracking_uri": (
                plan.options.tracking_uri and without_password(plan.options.tracking_uri)
            ),
            "resources": {
                "cpus_per_trial": plan.resources.cpus,
                "gpus_per_trial": plan.resources.gpus,
            },
            "versions": (
                {"python": platform.python_version()}
                | {name: metadata.version(name) for name in _PACKAGES}
            ),
            "git_revision": _git_revision(),
        },
    )


def _git_revision() -> str | None:
    """The git revision of this project, with `+` if files have changed; None outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    here = Path(__file__).parent
    describe = subprocess.run(
        [git, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
        cwd=here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return describe.stdout.strip() or None
