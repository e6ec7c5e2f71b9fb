"""The rules for a study that is continued: it may ask for all that it has, and for more.

Existing trials stay as they are, and new ones are compared with them. So a study may grow: wider
bounds, more choices, more variants, more seeds, a larger confirmation. It must not shrink, because
to leave a trial out after its score was seen is to choose by that score. All else that the trials
have in common must stay the same.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.config import AUTO
from core.data.dataset import Dataset
from core.errors import StudyError
from core.text import have, listed
from core.values import as_setting
from tune.ledger.reading import read_ledger, remembered_facts
from tune.request.request import StudyRequest
from tune.space.domains import is_whole
from tune.store.folder import StudyFolder
from tune.study import automatic
from tune.study.automatic import PRECISION, precision_in
from tune.study.confirmation import confirming_request, read_confirmation

_COMPARED = (
    "fixed", "space", "start", "forbid", "variants", "baseline", "seeds", "search", "stop_early",
)  # fmt: skip
_GROWING = ("space", "variants", "seeds")
"""The parts of a request that may grow while a study goes on."""
_EXTENT = ("low", "high", "choices")
"""The parts of a setting's domain that may grow."""
_FACTS_IN_WORDS = {
    "request": "another request",
    "data": "other data",
    "weights": "other pretrained weights",
}
_ANOTHER = "give this search another --study name"


def study_facts(request: StudyRequest, data: Dataset | None) -> dict[str, Any]:
    """The facts that all trials of a study share so that their scores compare, as JSON types."""
    document = request.to_document()
    asked = {part: document[part] for part in _COMPARED if part in document}
    auto = request.space.auto
    if asked["fixed"].get(PRECISION, AUTO) == AUTO and auto is not None and auto.precision:
        asked["fixed"][PRECISION] = auto.precision
    asked["search"] = {
        name: value for name, value in asked["search"].items() if name != "trials"
    }  # a study may be continued with more trials
    of_data = {} if data is None else {"data": data.fingerprint}
    return {"request": asked} | of_data | automatic.measurement_facts(request)


def refuse_other_facts(
    before: Mapping[str, Any] | None, now: Mapping[str, Any], folder: StudyFolder
) -> None:
    """Raise StudyError, which names the first difference, if new trials would not compare.

    before   the facts of the existing trials; None for a new study, which nothing refuses
    now      the facts of the request

    A study may grow (see `growth`): its existing trials stay comparable with the new ones.
    """
    if before is None:
        return
    _refuse_less(before.get("request", {}), now.get("request", {}), folder)
    for kind, (old, new) in {
        name: (before.get(name), now.get(name)) for name in _FACTS_IN_WORDS
    }.items():
        if old is None or new is None:
            continue
        if kind == "request":
            old = {**old, "fixed": {**old.get("fixed", {}), PRECISION: precision_in(before)}}
            new = {**new, "fixed": {**new.get("fixed", {}), PRECISION: precision_in(now)}}
            if growth(before, now):
                old = {**old, **{part: new[part] for part in _GROWING if part in new}}
        if kind == "weights":  # a backbone that was added has weights that the study did not know
            old, new = ({key: one[key] for key in old.keys() & new.keys()} for one in (old, new))
        different = _difference(old, new)
        if different is not None:
            raise StudyError(
                f"{folder.path} is a study with {_FACTS_IN_WORDS[kind]}: {different}; "
                f"go back to that, or {_ANOTHER}"
            )


def _refuse_less(old: Mapping[str, Any], new: Mapping[str, Any], folder: StudyFolder) -> None:
    """Raise StudyError if a study of variants asks for fewer seeds or variants than it has."""
    if "variants" not in old or "variants" not in new:
        return
    seeds, asked = (one.get("seeds", 1) for one in (old, new))
    if asked < seeds:
        raise StudyError(
            f"{folder.path}: seeds must be at least {seeds}, as many as the study has, and is"
            f" {asked}; ask for {seeds} or more, or {_ANOTHER}"
        )
    missing = [name for name in old["variants"] if name not in new["variants"]]
    if missing:
        raise StudyError(
            f"{folder.path}: variants must name every row that the study has, and"
            f" {listed(missing)} {have(len(missing))} been left out; put back what is missing, or"
            f" {_ANOTHER}"
        )


def refuse_smaller_confirmation(request: StudyRequest, storage: str, folder: StudyFolder) -> None:
    """Raise StudyError if a larger confirmation than is asked for has already chosen a winner.

    storage   SQLAlchemy URL of the ledger

    A confirmation may still be made smaller while repeats of its candidates are missing. More
    trials of the search change nothing about that.
    """
    known = remembered_facts(storage, confirming_request(request).study) or {}
    before: Mapping[str, Any] = known.get("confirm", {}).get("asked", {})
    for option in ("top", "seeds", "folds"):
        had, asked = before.get(option, 0), getattr(request.confirm, option)
        if asked < had and _has_ended(request, before, storage, folder):
            raise StudyError(
                f"{folder.path}: confirm.{option} must be at least {had}, with which the winner of"
                f" this study was chosen, and is {asked}; ask for {had} or more, or {_ANOTHER}"
            )


def _has_ended(
    request: StudyRequest, asked: Mapping[str, Any], storage: str, folder: StudyFolder
) -> bool:
    """Whether all repeats of the candidates that were confirmed so far have ended.

    asked   the options of the confirmation when it ran
    """
    searched = read_ledger(storage, request.study)
    if searched is None:
        return False
    request = replace(request, confirm=request.confirm.model_copy(update=dict(asked)))
    found = read_confirmation(folder, storage, request, searched)
    return found is not None and 0 < found.planned == found.ended


def growth(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences, without a full stop, on what a request adds to a study.

    before   the facts of the study
    now      the facts of the request

    The list is empty if nothing was added, or if anything was changed in another way.
    """
    old, new = (facts.get("request", {}) for facts in (before, now))
    if old.get("variants") and new.get("variants"):
        return _more_of_a_table(old, new)
    return _more_of_a_space(old.get("space") or {}, new.get("space") or {})


def _more_of_a_table(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`growth` of a study of variants."""
    kept = all(new["variants"].get(name) == own for name, own in old["variants"].items())
    seeds, asked = (one.get("seeds", 1) for one in (old, new))
    if not kept or asked < seeds:
        return []
    added = [name for name in new["variants"] if name not in old["variants"]]
    sentences = [f"{listed(added)} {have(len(added))} been added to the variants"] if added else []
    return sentences + ([f"seeds is {asked}, before {seeds}"] if asked > seeds else [])


def _more_of_a_space(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`growth` of a search space."""
    if list(old) != list(new):
        return []
    grown = []
    for name in old:
        if old[name] != new[name]:
            sentence = _grown(name, old[name], new[name])
            if sentence is None:
                return []
            grown.append(sentence)
    return grown


def _grown(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """A sentence on how the domain of a setting has grown; None if it did not only grow."""
    if {key: value for key, value in old.items() if key not in _EXTENT} != {
        key: value for key, value in new.items() if key not in _EXTENT
    }:
        return None
    if "choices" in old and "choices" in new:
        added = [value for value in new["choices"] if value not in old["choices"]]
        kept = all(value in new["choices"] for value in old["choices"])
        return (
            f"{name} may be {', '.join(map(as_setting, added))} as well" if kept and added else None
        )
    if "low" not in old or "low" not in new:
        return None
    wider = new["low"] <= old["low"] and new["high"] >= old["high"]
    # The values of existing trials must lie on the steps of the wider range.
    steps = (old["low"] - new["low"]) / new.get("step", math.inf)
    if wider and is_whole(steps):
        return (
            f"{name} ranges from {as_setting(new['low'])} to {as_setting(new['high'])}, before from"
            f" {as_setting(old['low'])} to {as_setting(old['high'])}"
        )
    return None


def _difference(old: Any, new: Any, place: str = "") -> str | None:
    """The first place where two JSON values differ, with both values; None where they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if place == "space" and old.keys() == new.keys() and list(old) != list(new):
            # Samplers draw random numbers for the settings in this order.
            return f"space was in the order {', '.join(old)} and is in the order {', '.join(new)}"
        for key in dict.fromkeys([*old, *new]):
            found = _difference(
                old.get(key), new.get(key), f"{place}, {key}" if place else str(key)
            )
            if found is not None:
                return found
        return None
    if old == new:
        return None
    was, now = ("not there" if value is None else json.dumps(value)[:200] for value in (old, new))
    return f"{place + ' ' if place else ''}was {was} and is {now}"
