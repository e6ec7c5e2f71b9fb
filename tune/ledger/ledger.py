"""The trials of a study as its driver runs them: the next one to start, reports, and verdicts.

The driver has claimed the study, so it alone writes it: the records are read once and kept in
memory, and each change goes to both, first to the database.
"""

import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from core import faults
from core.config import Value
from core.errors import StudyError
from tune.ledger.claim import Claim
from tune.ledger.growth import plain_name, stored_parameter
from tune.ledger.proposals import next_point
from tune.ledger.records import (
    FACTS_KEY,
    IDENTITY_KEY,
    NAME_KEY,
    NOTES_KEY,
    PARAMS_KEY,
    SETTINGS_KEY,
    START_KEY,
    VERDICT_KEY,
    Point,
    State,
    TrialEnd,
    TrialRecord,
    best_of,
    continued_name,
    epoch_name,
    notes_of,
    record_of,
    run_name,
    settings_key,
)
from tune.ledger.runs import RUN_KEY, Run
from tune.ledger.selections import CHOSEN_KEY, Selections, stored_selections
from tune.ledger.warm_start import WARM_KEY, WarmStart, stored_warm_start
from tune.request.request import StudyRequest
from tune.samplers.view import distribution
from tune.space.domains import Choices, Domain
from tune.space.space import SearchSpace
from tune.stopping.rule import STOPPING_RULES, Curve, NoisyCurve

MAX_LOST = 2
"""Largest number of a trial's attempts that may end without finishing it and are repeated. The next
such end marks the trial FAIL."""


class Ledger:
    """The trials of one study: the next one to start, reports, and verdicts.

    Any method that writes raises StorageError where the database refuses, and ClaimLost where
    another process has taken over the study; the ledger must then be opened anew.
    """

    def __init__(
        self, claim: Claim, request: StudyRequest, wanted: Sequence[Point] | None = None
    ) -> None:
        """Open the ledger of a study, which is made if there is none.

        claim     claim of the study, or of the search that the study confirms
        request   the request; its study's name is the name of the Optuna study
        wanted    the trials that the study is to have; None for those of the request. Confirmations
                  name them, and they change when the search goes on. An existing trial counts as
                  wanted if its settings are, unless it was stopped. A trial that is not wanted
                  stays if it has ended, and is stopped if it runs
        """
        self.claim = claim
        """The claim under which this process writes the ledger."""
        self._request = request
        self._rule = request.stopping_rule
        self._domains = _domains(request.space)
        self._study = claim.database.made_study(request.study)
        known = self._study.attributes()
        self._facts: Mapping[str, Any] | None = known.get(FACTS_KEY)
        self._chosen = stored_selections(known)
        self._warm = stored_warm_start(known)
        self.identity: str = known.get(IDENTITY_KEY) or uuid.uuid4().hex
        """A name that no other ledger has, whatever its study is called."""
        if IDENTITY_KEY not in known:
            self._study.set_attribute(IDENTITY_KEY, self.identity)
        self._stored: dict[str, BaseDistribution] = {}
        self._drawn: list[Mapping[str, BaseDistribution]] = []
        self._records: dict[int, TrialRecord] = {}
        self._behind: deque[tuple[int, int, float]] = deque()
        self._curves: dict[int, tuple[Sequence[Mapping[str, Any]], NoisyCurve]] = {}
        for trial in self._study.begun_trials():
            shared = {}
            for name, one in trial.distributions.items():
                first = self._stored.setdefault(name, one)
                shared[plain_name(name)] = first if first == one else one
            self._drawn.append(shared)
            record = self._records[trial.number] = record_of(trial, known)
            if trial.state is TrialState.RUNNING:
                self._finish_writing(record, len(trial.intermediate_values))
        self._missing: deque[Point] | None = None
        if wanted is not None:
            self._missing = deque(self._keep_only(wanted))
        self._waiting = deque(record.id for record in self.records if record.state is State.RUNNING)

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """The facts that all trials of the study have in common; None before `remember`."""
        return self._facts

    def remember(self, facts: Mapping[str, Any]) -> None:
        """Store the facts that all trials of the study have in common, as JSON types."""
        if self._facts != facts:
            self._study.set_attribute(FACTS_KEY, facts)
            self._facts = facts

    @property
    def warm_start(self) -> WarmStart | None:
        """The warm start that the study took when it began; None where it took nothing."""
        return self._warm

    def begin_from(self, warm: WarmStart) -> None:
        """Store what the study takes from another one, in one write, before its first trial.

        Raises StudyError if there are trials already, which the sampler chose without it.
        """
        if self._records:
            raise StudyError(begun_without(self._request.study))
        self._study.set_attribute(WARM_KEY, warm.to_json())
        self._warm = warm
        faults.passing("warm started")

    @property
    def chosen(self) -> Selections:
        """The trials that were chosen for the confirmation."""
        return self._chosen

    def choose(self, chosen: Selections) -> None:
        """Store the trials that were chosen for the confirmation."""
        if self._chosen != chosen:
            self._study.set_attribute(CHOSEN_KEY, chosen.to_json())
            self._chosen = chosen

    def note_run(self, run: Run) -> None:
        """Store this run of the study, when its trials begin and when it ends."""
        self._study.set_attribute(RUN_KEY, run.to_json())

    @property
    def planned(self) -> int:
        """Number of trials that the study is to have in the end."""
        if self._missing is None:
            return self._request.planned_trials
        return len(self._records) + len(self._missing)

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """All trials, in the order of their numbers."""
        # Numbers were given in this order, and no trial is ever taken out.
        return tuple(self._records.values())

    @property
    def finished(self) -> bool:
        """Whether every planned trial has ended."""
        return len(self._records) >= self.planned and all(
            record.state is not State.RUNNING for record in self._records.values()
        )

    @property
    def comes_again(self) -> bool:
        """Whether the trial that `next` returns has had an attempt before."""
        return bool(self._waiting)

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the highest AP50; see `best_of`."""
        return best_of(self.records)

    def next(self, gpu_share: float = 0.0) -> TrialRecord | None:
        """The trial to start now; None if there is none.

        gpu_share   GPUs that each trial holds; 0 where trials run on processors

        The number of its new attempt is already written. Trials that need another attempt come
        first and go on from their last checkpoint; new trials follow, until there are `planned`
        trials.
        """
        if self._waiting:
            number = self._waiting.popleft()
        elif len(self._records) < self.planned:
            number = self._add()
        else:
            return None
        faults.passing("asked")
        record = self._records[number]
        # On processors a trial holds no GPU, whatever share it needed before.
        share = max(gpu_share, record.gpus_needed, record.room_needed) if gpu_share else 0.0
        record = self._note(number, attempts=record.attempts + 1, gpu_share=share)
        faults.passing("started")
        return record

    def report(self, number: int, epochs: Sequence[Mapping[str, Any]]) -> bool:
        """Enter a trial's epochs; returns whether the trial ends here.

        epochs   the reports of all its epochs so far, epoch 1 first; those that are known are
                 skipped

        The trial ends because its last epoch is done (COMPLETE), or because the stopping rule stops
        it (PRUNED); the rule never stops a trial that is continued. Raises ExtensionError where the
        rule of another package fails.
        """
        for epoch in epochs[len(self._records[number].epochs) :]:
            record = self._records[number]
            assert record.state is State.RUNNING
            place = len(record.epochs) + 1
            assert epoch["epoch"] == place
            entry = {**epoch, "at": time.time_ns() // 1_000_000}
            record = replace(record, epochs=(*record.epochs, entry))
            verdict = self._judge(record)
            stored = entry if verdict is None else {**entry, VERDICT_KEY: asdict(verdict)}
            self._set(number, epoch_name(place), stored)
            faults.passing("reported")
            self._records[number] = record
            if record.continued_after is None:
                self._behind.append((number, place, float(epoch["ap50"])))
            if verdict is not None:
                faults.passing("judged")
                self._end(number, verdict)
                return True
        return False

    def catch_up(self) -> None:
        """Let Optuna's intermediate values follow the epochs, which are stored already.

        To be called when no worker waits for an answer. The values of a trial are written before it
        ends in any case, and after the death of this process by the next driver.
        """
        while self._behind:
            self._study.set_value(*self._behind[0])
            self._behind.popleft()

    def fail(self, number: int, reason: str, seconds: float = 0.0) -> None:
        """End a trial as failed: it has a reason and no score.

        seconds   wall time inside the epoch that was lost with it
        """
        lost_seconds = self._records[number].lost_seconds + seconds
        self._stop(number, TrialEnd(State.FAIL, reason), lost_seconds=lost_seconds)

    def lost(
        self, number: int, reason: str, seconds: float = 0.0, gpus_needed: float | None = None
    ) -> bool:
        """Enter that an attempt ended without finishing its trial; returns whether another follows.

        seconds       wall time inside the epoch that was lost with the attempt
        gpus_needed   GPUs of the next attempt; None for no change

        If none follows, the trial has failed. A trial whose share grows has another attempt in any
        case: no trial fails for memory before it had a whole GPU.
        """
        record = self._records[number]
        grows = gpus_needed is not None and gpus_needed > record.gpu_share
        changes: dict[str, Any] = {} if gpus_needed is None else {"gpus_needed": gpus_needed}
        changes |= {"lost": record.lost + 1, "lost_seconds": record.lost_seconds + seconds}
        if record.lost >= MAX_LOST and not grows:
            verdict = TrialEnd(State.FAIL, f"{reason} ({record.lost + 1} times)")
            self._stop(number, verdict, **changes)
            return False
        self._note(number, reason=reason, **changes)
        self._waiting.append(number)
        return True

    def spare(
        self, number: int, reason: str, seconds: float = 0.0, room_needed: float | None = None
    ) -> None:
        """Enter that an attempt ended without finishing its trial, perhaps because of another.

        Another attempt follows, and this one does not count as lost.

        seconds       wall time inside the epoch that was lost with the attempt
        room_needed   GPUs of the attempts until an epoch is trained; None for no change
        """
        record = self._records[number]
        changes: dict[str, Any] = {} if room_needed is None else {"room_needed": room_needed}
        self._note(
            number,
            reason=reason,
            spared=record.spared + 1,
            lost_seconds=record.lost_seconds + seconds,
            **changes,
        )
        self._waiting.append(number)

    def again(self, number: int) -> None:
        """Enter that an attempt gave way after an epoch: another follows, with no larger share."""
        self._note(number, room_needed=0.0)
        self._waiting.append(number)

    def reopen(self, number: int, order: str = "", reason: str = "") -> None:
        """Let a trial that was stopped early, or failed, go on from its last checkpoint.

        order    id of a person's order to do so; empty where the confirmation needs the trial
        reason   what is said of the trial while it runs; empty for no change

        Nothing stops it early any more, and its verdict stays in the database. After an order its
        lost attempts count anew.
        """
        before = self._records[number]
        assert before.state in (State.PRUNED, State.FAIL)
        first = before.continued_after is None
        record = replace(
            before,
            state=State.RUNNING,
            continued_after=len(before.epochs) if first else before.continued_after,
            had_failed=before.state is State.FAIL if first else before.had_failed,
            lost=0 if order else before.lost,
            reason=reason or before.reason,
            by_person=False,
            obeyed=(*before.obeyed, order) if order else before.obeyed,
        )
        if number in self._chosen.released:  # it may be chosen again
            self.choose(replace(self._chosen, released=self._chosen.released - {number}))
        self._study.set_attribute(continued_name(number), notes_of(record))
        faults.passing("reopened")
        self._records[number] = record
        self._waiting.append(number)

    def stop(self, number: int, reason: str, order: str) -> None:
        """End a trial that has not ended because a person asked for it; its epochs stay.

        order   id of the person's order
        """
        if number in self._waiting:
            self._waiting.remove(number)
        obeyed = (*self._records[number].obeyed, order)
        self._stop(number, TrialEnd(State.PRUNED, reason), obeyed=obeyed, by_person=True)

    def note_mlflow_run(self, number: int, run: str) -> None:
        """Store the id of a trial's run in the tracker.

        It is an attribute of the study, because attributes of an ended trial cannot be changed.
        """
        if self._records[number].mlflow_run != run:
            self._study.set_attribute(run_name(number), run)
            self._records[number] = replace(self._records[number], mlflow_run=run)

    def _add(self) -> int:
        """Add the next trial, whole or not at all, and return its number."""
        number = len(self._records)
        if self._missing is not None:
            point = self._missing[0]
            self._store(number, point, {}, {PARAMS_KEY: dict(point.params)})
            self._missing.popleft()
            return number
        point = next_point(self._request, self.records, self._drawn, self._warm)
        self._store(number, point, point.params, {START_KEY: point.start} if point.start else {})
        return number

    def _store(
        self, number: int, point: Point, params: Mapping[str, Value], also: Mapping[str, Any]
    ) -> None:
        """Add a trial to the database and to the records.

        params   the settings that are stored as Optuna's params
        also     further user attributes
        """
        named = {
            name: stored_parameter(name, distribution(self._domains[name]), self._stored)
            for name in params
        }
        distributions = dict(named.values())
        self._study.add(
            number,
            {named[name][0]: value for name, value in params.items()},
            distributions,
            {NAME_KEY: point.name, SETTINGS_KEY: dict(point.settings), **also},
        )
        self._stored = {**distributions, **self._stored}
        self._drawn.append({plain_name(name): one for name, one in distributions.items()})
        self._records[number] = TrialRecord(
            number,
            point.name,
            params=point.params,
            settings=point.settings,
            start=point.start,
        )

    def _finish_writing(self, record: TrialRecord, values: int) -> None:
        """Write all that a driver that died had left unwritten of a running trial.

        values   number of epochs whose AP50 is stored as an intermediate value
        """
        number = record.id
        if not record.settings:  # an earlier version drew settings one after the other
            point = next_point(self._request, self.records[:-1])
            self._study.set_trial_attribute(number, PARAMS_KEY, dict(point.params))
            self._study.set_trial_attribute(number, NAME_KEY, point.name)
            self._study.set_trial_attribute(number, SETTINGS_KEY, dict(point.settings))
            self._records[number] = replace(
                record, name=point.name, params=point.params, settings=point.settings
            )
            return
        for epoch, value in enumerate(record.curve[values:], start=values + 1):
            self._study.set_value(number, epoch, value)
        if record.state is State.RUNNING and len(record.epochs) >= record.planned_epochs:
            record = replace(record, state=State.COMPLETE, reason="")
        if record.state is not State.RUNNING:
            self._end(number, TrialEnd(record.state, record.reason))

    def _keep_only(self, wanted: Sequence[Point]) -> list[Point]:
        """Stop running trials that are not wanted; returns the wanted points without a trial."""
        asked = {settings_key(point.settings) for point in wanted}
        there = set()
        for record in self.records:
            key = settings_key(record.settings)
            if record.state is State.RUNNING and key not in asked:
                reason = f"stopped after epoch {len(record.epochs)}: no longer asked for"
                self._stop(record.id, TrialEnd(State.PRUNED, reason))
            elif record.state is not State.PRUNED:
                there.add(key)
        return [point for point in wanted if settings_key(point.settings) not in there]

    def _judge(self, record: TrialRecord) -> TrialEnd | None:
        """The verdict on a trial after its last epoch so far; None if it goes on."""
        if len(record.epochs) >= record.planned_epochs:
            return TrialEnd(State.COMPLETE, _how_continued(record))
        if record.continued_after is not None:
            return None
        with STOPPING_RULES.calling(self._request.stop_early.rule):
            why = self._rule.why_stopped(
                self._curve(record),
                self._rival_curves(record.id),
                self._complete_curves(),
                record.planned_epochs,
            )
            if not isinstance(why, str):
                raise TypeError(f"a reason is a text, and this one is {why!r:.100}")
        return TrialEnd(State.PRUNED, why) if why else None

    def _rival_curves(self, number: int) -> Iterator[Curve]:
        """Curves of the other trials that have not failed."""
        for record in self._records.values():
            if record.id != number and record.state is not State.FAIL:
                yield self._curve(record)

    def _complete_curves(self) -> list[Curve]:
        complete = (one for one in self._records.values() if one.state is State.COMPLETE)
        return [self._curve(one) for one in complete]

    def _curve(self, record: TrialRecord) -> NoisyCurve:
        """A trial's curve as stopping rules see it; made once for each epoch."""
        epochs, curve = self._curves.get(record.id, (None, NoisyCurve(())))
        if epochs is not record.epochs:
            curve = NoisyCurve(record.curve, record.pulls)
            self._curves[record.id] = record.epochs, curve
        return curve

    def _note(self, number: int, **changes: Any) -> TrialRecord:
        """Change notes on a running trial, in one write."""
        record = replace(self._records[number], **changes)
        self._set(number, NOTES_KEY, notes_of(record))
        self._records[number] = record
        return record

    def _set(self, number: int, name: str, value: Any) -> None:
        """Store a user attribute of a running trial; the value consists of JSON types."""
        if self._records[number].continued_after is None:
            self._study.set_trial_attribute(number, name, value)
        else:
            self._study.set_attribute(continued_name(number, name), value)

    def _stop(self, number: int, verdict: TrialEnd, **changes: Any) -> None:
        """End a running trial between two epochs, with changes of its notes."""
        record = replace(self._records[number], **changes)
        stored = {**notes_of(record), VERDICT_KEY: asdict(verdict)}
        self._set(number, NOTES_KEY, stored)
        self._records[number] = record
        self._end(number, verdict)

    def _end(self, number: int, verdict: TrialEnd) -> None:
        """Let Optuna's state of a trial follow its verdict, which is stored already."""
        self.catch_up()  # Optuna takes no more values of a trial that has ended
        record = self._records[number]
        value = record.ap50 if verdict.state is State.COMPLETE else None
        if verdict.state is State.PRUNED and record.curve:
            value = record.curve[-1]  # Optuna's convention for pruned trials
        if record.continued_after is None:
            self._study.end(number, TrialState[verdict.state.name], value)
        self._records[number] = replace(record, state=verdict.state, reason=verdict.reason)
        faults.passing("told")


def _how_continued(record: TrialRecord) -> str:
    """The reason stored with a complete trial: that it was continued, or else nothing."""
    if record.continued_after is None:
        return ""
    if record.obeyed:
        how = "failed" if record.had_failed else "stopped"
        return f"{how} after epoch {record.continued_after}, tried again because a person asked"
    return f"stopped early after epoch {record.continued_after}, continued before the confirmation"


def begun_without(study: str) -> str:
    """A sentence for a user who names another study too late."""
    return (
        f"--warm-start is for a new study, and {study} has begun without it; leave it out, or give"
        " this search another --study name"
    )


def open_ledger(
    storage: str, request: StudyRequest, wanted: Sequence[Point] | None = None
) -> Ledger:
    """Claim a study in the database at a URL, and open its ledger.

    Raises the errors of `Claim` and of `Ledger`.
    """
    return Ledger(Claim(storage, request.study), request, wanted)


def _domains(space: SearchSpace) -> dict[str, Domain]:
    """The domain of each setting that is stored among Optuna's params."""
    if not space.variants:
        return {one.name: one.domain for one in space.parameters}
    values: dict[str, dict[Value, None]] = {}
    for variant in space.variants:
        for name, value in variant.settings.items():
            values.setdefault(name, {})[value] = None
    return {name: Choices(tuple(known)) for name, known in values.items()}
