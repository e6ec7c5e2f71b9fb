"""A new study begins from another one: `--warm-start STUDY`.

A score of the other study compares with those of this one if it comes from the same data, and if
its trial, run here, would be a point of this space with the same settings in effect: the same split
and metric, the same epochs, the same weights, the same value of all that this space fixes. Only the
seed may differ, which is luck in both studies. Such a trial joins the sampler's history. Any other
configuration may still be a good guess: if all settings that are searched here have a value of
their domain there, it can be a start point, and its other settings are those of this study.

Each trial of the other study says itself what its settings were, defaults included. A setting that
it does not name, because it ran before there was one, has the default, which changes nothing. A
setting that it names, and that is not known here, is a difference like any other.

Nothing is written, here and there. What is taken is stored by the driver (`Ledger.begin_from`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.config import SETTINGS, Value
from core.dependence import effective_settings
from core.errors import SettingError, StudyError
from core.text import brief, listed, many, nearest
from core.values import as_setting
from tune.ledger.ledger import begun_without
from tune.ledger.proposals import tried_of
from tune.ledger.reading import Reading, read_ledger
from tune.ledger.records import State, TrialRecord
from tune.ledger.warm_start import StartPoint, TakenTrial, WarmStart
from tune.redaction import without_password
from tune.request.file import STUDY_NAME, request_of
from tune.request.request import StudyRequest
from tune.samplers.encoding import Encoding
from tune.samplers.sampler import Tried
from tune.samplers.surrogate import encoded_points, fit_surrogate
from tune.space.domains import Choices, Domain
from tune.space.space import SearchSpace
from tune.store.folder import StudyFolder, all_studies
from tune.study.options import Options, recall_options, storage_of, without_ledger

MOST_STARTS = 5
"""Largest number of start points that are taken."""
TRIALS_A_START = 6
"""Number of planned trials for each start point: a short search keeps most of its trials."""
MOST_HISTORY = 60
"""Largest number of trials in the history. One half of them are the best, and the other half are
spread over all others, since a sampler must also know where it is bad."""
MOST_REASONS = 3
"""Largest number of reasons that are given why trials were not taken."""

_NOT_COMPARED = frozenset(
    (
        "seed",
        "data.skip_bad",
        "data.allow_suspicious",
        "data.split_components",
        "data.class_names",
        "data.intensity",
    )
)
"""The settings that may differ although scores compare: the seed, and those of reading the data,
because the fingerprint covers what was read."""


@dataclass(frozen=True)
class _Guess:
    """A trial of the other study that is a point of this space.

    params   its params here
    tried    the trial as a sampler of this study would see it
    why_not  why its score does not compare, a clause; empty where it does
    """

    record: TrialRecord
    params: Mapping[str, Value]
    tried: Tried
    why_not: str


class _Outside(Exception):
    """A configuration is no point of the space; the message is a clause that says why."""


def planned_warm_start(
    request: StudyRequest, options: Options, fingerprint: str
) -> WarmStart | None:
    """The warm start from the study that the options name, or that of the study's beginning.

    request       its space holds the values that every `auto` stands for
    options       completed by those of the study's folder
    fingerprint   fingerprint of the data set

    None where it takes nothing. Raises StudyError if the options name a study that is not there, of
    which nothing can be used, or another one than that with which this study began.
    """
    own = storage_of(options, StudyFolder(options.results / request.study))
    known = read_ledger(own, request.study)
    asked = options.warm_start
    if asked is None:
        return None if known is None else known.warm_start
    if known is not None and known.warm_start is not None:
        if asked.rstrip("/").rpartition("/")[2] != known.warm_start.study:
            raise StudyError(
                f"study {request.study} began from study {known.warm_start.study}, and --warm-start"
                f" names {without_password(asked)!r}; leave it out, or give this search another"
                " --study name"
            )
        return known.warm_start
    if known is not None and known.records:
        raise StudyError(begun_without(request.study))
    if request.space.variants:
        raise StudyError(
            "--warm-start is for a sampler that chooses settings, and variants are all tried; leave"
            " it out"
        )
    if request.sampler.exhausts:
        raise StudyError(
            f"--warm-start is for a sampler that chooses settings, and {request.search.sampler}"
            " tries every point; leave it out, or choose another search.sampler"
        )
    name, storage, place = _find(asked, request, options, own)
    found = read_ledger(storage, name)
    if found is None:
        raise StudyError(
            "--warm-start: "
            + without_ledger(StudyFolder(Path(place)), storage, "leave --warm-start out")
        )
    return warm_start_from(request, fingerprint, name, place, found)


def _find(asked: str, request: StudyRequest, options: Options, own: str) -> tuple[str, str, str]:
    """Name, SQLAlchemy URL of the ledger, and place in words of the study that a user names.

    own   SQLAlchemy URL of this study's ledger
    """
    shown = without_password(asked)
    if "://" in asked:
        raise StudyError(
            f"--warm-start must be a study's name or its folder, and is {shown!r}; a name is looked"
            " for in the results folder, and then in the ledger that --storage names"
        )
    is_name = STUDY_NAME.fullmatch(asked) is not None
    folder = StudyFolder(options.results / asked if is_name else Path(asked))
    if folder.description.exists():
        name, storage = request_of(folder).study, _ledger_of(folder, options)
        place = str(folder.path)
    elif is_name and options.storage is not None and read_ledger(own, asked) is not None:
        name, storage, place = asked, own, without_password(own)
    else:
        names = [one.path.name for one in _studies_in(options.results)]
        meant = nearest(asked, [one for one in names if one != request.study]) if is_name else None
        hint = f"; did you mean {meant}?" if meant else f"; {options.results} has {_some(names)}"
        where = f"in {options.results}" if is_name else "(it has no study.json)"
        beside = ", nor in the ledger that --storage names" if options.storage and is_name else ""
        raise StudyError(f"--warm-start: {shown!r} is not a study {where}{beside}{hint}")
    if name == request.study and storage == own:
        raise StudyError(
            f"--warm-start must name another study, and {name} is the study itself; the same"
            " command without --warm-start continues it"
        )
    return name, storage, place


def _studies_in(results: Path) -> Sequence[StudyFolder]:
    try:
        return all_studies(results)
    except StudyError:
        return ()


def _some(names: Sequence[str]) -> str:
    few = [*names[:MOST_REASONS], *(["others"] if len(names) > MOST_REASONS else [])]
    return listed(few) if names else "none"


def _ledger_of(folder: StudyFolder, options: Options) -> str:
    """The SQLAlchemy URL of the ledger that a study's folder names, with the password of this
    study's where it is the same database.
    """
    described = folder.read_description()["storage"]
    given = options.storage
    if given is not None and described is not None and without_password(given) == described:
        return given
    if described is not None and "***" in described:
        raise StudyError(
            f"--warm-start: the ledger of {folder.path} is {described}, and passwords are not"
            " stored; --storage with this URL keeps this study in the same database"
        )
    plain = Options(folder.path.parent, tracking_uri="not used")
    return storage_of(recall_options(plain, folder, moved=True), folder)


def warm_start_from(
    request: StudyRequest, fingerprint: str, name: str, place: str, found: Reading
) -> WarmStart:
    """The warm start from another study, with the sentences that describe it.

    fingerprint   fingerprint of this study's data set
    name, place   name and place of the other study
    found         the other study as its ledger has it

    Raises StudyError if nothing can be taken.
    """
    ended = [one for one in found.records if one.state in (State.COMPLETE, State.PRUNED)]
    ended = [one for one in ended if one.curve]
    if not ended:
        failed = sum(one.state is State.FAIL for one in found.records)
        raise StudyError(
            f"--warm-start: study {name} ({place}) has no trial with a score"
            + (f"; {many(failed, 'trial')} failed there" if failed else "")
            + "; leave it out, or name another study"
        )
    other_data = ""
    if found.facts.get("data") != fingerprint:
        other_data = "it was searched on other data"
    guesses, outside = _points_of(request.space, found.records, ended, other_data)
    space = request.space
    start = _start_points(request, guesses)
    history: tuple[TakenTrial, ...] = ()
    if getattr(request.sampler, "takes_history", False):
        history = _history([one for one in guesses if not one.why_not])
    if not start and not history:
        raise StudyError(
            f"--warm-start: nothing of study {name} ({place}) can be used here:"
            f" {_reasons(outside) or 'all its configurations are forbidden by `forbid:`'}; leave"
            " it out, or widen `space:`"
        )
    warm = WarmStart(name, place, start, history, dict(found.facts.get("weights") or {}))
    sentences = _sentences(request, warm, found.records, guesses, outside)
    assert all(space.holds(one.params) for one in start)
    return replace(warm, sentences=tuple(sentences))


def _points_of(
    space: SearchSpace,
    records: Sequence[TrialRecord],
    ended: Sequence[TrialRecord],
    other_data: str,
) -> tuple[list[_Guess], list[str]]:
    """The trials that are points of a space, and for each other one the reason why it is none.

    other_data   why no score compares, whatever the settings; empty if that is not so
    """
    seen = {record.id: one for record, one in zip(records, tried_of(records), strict=True)}
    guesses, outside = [], []
    for record in ended:
        try:
            params, settings = _point_of(space, record)
        except _Outside as why:
            outside.append(str(why))
            continue
        tried = replace(seen[record.id], params=params, settings=settings, elsewhere=True)
        why_not = other_data or next(_differences(settings, record.settings), "")
        guesses.append(_Guess(record, params, tried, why_not))
    return guesses, outside


def _point_of(
    space: SearchSpace, record: TrialRecord
) -> tuple[dict[str, Value], Mapping[str, Value]]:
    """A trial's params in a space, and all its settings there. Raises _Outside."""

    def value(name: str, domain: Domain) -> Value:
        drawn = record.params.get(name)
        if drawn is not None and drawn in domain:  # `auto`, where both studies search it
            return drawn
        had = record.settings.get(name, SETTINGS[name])
        if had not in domain:
            raise _Outside(
                f"{name} {as_setting(had)} is not among the choices here"
                if isinstance(domain, Choices)
                else f"{name} is outside of its range here"
            )
        return had

    params = space.sample(value)
    try:
        return params, space.resolve(params).settings()
    except SettingError as error:
        raise _Outside(str(error)) from None


def _differences(here: Mapping[str, Value], there: Mapping[str, Value]) -> Iterator[str]:
    """The settings in effect by which a trial here differs from one there, a clause each."""
    ours, theirs = effective_settings(here), effective_settings(there)
    for name in dict.fromkeys((*ours, *theirs)):
        if name not in _NOT_COMPARED and ours.get(name) != theirs.get(name):
            was, is_now = (
                "without effect" if value is None else as_setting(value)
                for value in (theirs.get(name), ours.get(name))
            )
            if name not in SETTINGS:
                yield f"{brief(name)} was {was} there and is not known here"
            else:
                yield f"{name} was {was} there and is {is_now} here"


def _start_points(request: StudyRequest, guesses: Sequence[_Guess]) -> tuple[StartPoint, ...]:
    """The best configurations that are allowed here, each once, the best first.

    Best means the highest posterior mean of AP50, as for the candidates of a confirmation: of
    scores, the highest would be the luckiest.
    """
    space = request.space
    scored = [one for one in guesses if one.tried.score is not None]
    if not scored or not space.parameters:
        return ()
    encoding, tried = Encoding(space), [one.tried for one in scored]
    means_N, _ = fit_surrogate(encoding, tried).estimates(encoded_points(encoding, tried))
    most = min(MOST_STARTS, max(1, request.planned_trials // TRIALS_A_START))
    found: list[StartPoint] = []
    for place in sorted(range(len(scored)), key=lambda place: -float(means_N[place])):
        params = scored[place].params
        known = any(one.params == params for one in found)
        if len(found) < most and not known and space.forbidden_by(params) is None:
            found.append(StartPoint(scored[place].record.id, params))
    return tuple(found)


def _history(comparable: Sequence[_Guess]) -> tuple[TakenTrial, ...]:
    """The trials that the sampler is shown: good ones, and in turn ones spread over the others.

    The longer a search goes on, the fewer of the last ones it is shown.
    """
    half = MOST_HISTORY // 2
    ranked = sorted(comparable, key=lambda one: -(one.tried.score or 0.0))
    best, others = ranked[:half], ranked[half:]
    spread = others[:: max(1, math.ceil(len(others) / half))]
    in_turn = [one for pair in zip(best, spread, strict=False) for one in pair]
    shorter = min(len(best), len(spread))
    chosen = [*in_turn, *best[shorter:], *spread[shorter:]]
    return tuple(
        TakenTrial(
            one.record.id,
            one.params,
            one.record.state is State.PRUNED,
            tuple(one.tried.curve),
            float(one.tried.score or 0.0),
            one.tried.variance,
        )
        for one in chosen
    )


def _sentences(
    request: StudyRequest,
    warm: WarmStart,
    records: Sequence[TrialRecord],
    guesses: Sequence[_Guess],
    outside: Sequence[str],
) -> Iterator[str]:
    """Sentences on what was taken as what, and what was not and why, without full stops."""
    comparable = sum(not one.why_not for one in guesses)
    ended = len(guesses) + len(outside)
    starts = many(len(warm.start), "start point")
    took = f"the best of them give {starts}" if warm.start else "it gives no start point"
    if warm.history:
        part = "" if len(warm.history) == comparable else f"{len(warm.history)} of "
        known = (
            f"the sampler knows the scores of {part}{many(comparable, 'trial')}, which count for"
            " nothing else"
        )
    elif comparable:
        known = f"the sampler {request.search.sampler} cannot use a history"
    else:
        known = "the sampler is shown no score of it"
    scored = many(ended, "trial")
    yield f"study {warm.study} ({warm.place}) has {scored} with a score: {took}, and {known}"
    other = [one.why_not for one in guesses if one.why_not]
    if other:
        yield (
            f"{many(len(other), 'trial')} of {warm.study} can be start points alone, since their"
            f" scores do not compare: {_reasons(other)}"
        )
    if outside:
        yield f"{many(len(outside), 'trial')} of {warm.study} cannot be used: {_reasons(outside)}"
    rest = len(records) - ended
    if rest:
        yield f"{many(rest, 'trial')} of {warm.study} that failed or still ran told nothing"


def _reasons(clauses: Sequence[str]) -> str:
    """The most frequent of these clauses, each once."""
    counted = sorted(dict.fromkeys(clauses), key=lambda clause: -clauses.count(clause))
    more = len(counted) - MOST_REASONS
    return "; ".join([*counted[:MOST_REASONS], *([f"{more} more reasons"] if more > 0 else [])])
