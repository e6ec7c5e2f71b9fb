"""The values that `auto` stands for in a study: found where the study begins, kept in its facts.

So a study that goes on elsewhere, or under a version with other rules, its confirmation and its
retraining have the settings of the trials before. The facts in the ledger hold the precision under
`request`, `fixed`, and the measurement of the data with the version of the rules under `auto`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from core.config import AUTO, Precision, TrialConfig
from core.data.dataset import Dataset
from core.data.measure import measure
from core.device import precision_of
from core.errors import StudyError
from core.fitting import FITTING_RULES, READ_OFF_DATA, Circumstances
from core.values import as_setting
from tune.engine.resources import Machine, TrialResources
from tune.request.request import StudyRequest
from tune.space.space import SearchSpace

PRECISION = "optim.precision"
KEPT = "auto"
"""The key of a study's facts that holds the measurement of its data."""


def resolved_request(request: StudyRequest, facts: Mapping[str, Any]) -> StudyRequest:
    """The request of a study that has begun, with `auto` as its facts have it.

    Rules of a later version than this one leave open what they would say.
    """
    kept = facts.get(KEPT, {})
    known = kept if kept.get("rules", 0) in FITTING_RULES else {}
    auto = Circumstances.from_json(known, "bf16" if precision_in(facts) == "bf16" else "fp32")
    return replace(request, space=replace(request.space, auto=auto))


def study_circumstances(
    request: StudyRequest,
    before: Mapping[str, Any] | None,
    data: Dataset | None,
    machine: Machine | None,
    resources: TrialResources | None,
) -> tuple[Circumstances, str | None]:
    """The facts on which `auto` depends in a study, and a sentence on its precision where needed.

    before   the facts of the study that is continued, whose values it keeps

    What is not given is left open. Raises StudyError for a study that a later version began.
    """
    precision, said = _precision(request.space, before, machine, resources)
    kept = (before or {}).get(KEPT, {})
    if kept:
        rules = kept.get("rules")
        if rules not in FITTING_RULES:
            raise StudyError(
                f"study {request.study} reads `auto` off its data by rules {rules!r:.20} of a later"
                f" version, and this one has {max(FITTING_RULES)}; continue it with that version"
            )
        return Circumstances.from_json(kept, precision), said
    wanted = data is not None and settings_left_open(request)
    return Circumstances(precision, measure(data) if data is not None and wanted else None), said


def settings_left_open(request: StudyRequest) -> list[str]:
    """The settings that some trial, or a try after training, leaves to the data."""
    tried = request.after_training
    return sorted(
        name
        for name in READ_OFF_DATA
        if request.space.leaves_open(name) or AUTO in tried.get(name, ())
    )


def measurement_facts(request: StudyRequest) -> dict[str, Any]:
    """The measurement of the data as a study's facts keep it; empty where nothing is read off."""
    auto = request.space.auto
    return {KEPT: auto.to_json()} if auto is not None and auto.data is not None else {}


def sentences_on_data(request: StudyRequest) -> Iterator[str]:
    """A sentence for each setting that is read off the data, with its value and why.

    A value may depend on settings that are searched, or differ between variants: then it is that of
    the first configuration.
    """
    space, told = request.space, set[str]()
    if space.auto is None:
        return
    points = [dict(variant.settings) for variant in space.variants] or [
        space.sample(lambda _, domain: AUTO if AUTO in domain else domain.corners[0])
    ]
    for point in points:
        config = TrialConfig.from_settings({**space.fixed, **point})
        for name, found in space.auto.explained(config):
            if name not in told:
                told.add(name)
                yield f"{name} auto is {as_setting(found.value)}: {found.why}"


def _precision(
    space: SearchSpace,
    before: Mapping[str, Any] | None,
    machine: Machine | None,
    resources: TrialResources | None,
) -> tuple[Precision | None, str | None]:
    """The precision that `optim.precision: auto` is in a study, and a sentence on it where needed.

    before   the facts of the study that is continued: it keeps the precision with which it began

    The precision is None where neither these nor the machine are known.
    """
    found: Precision | None = None
    said = None
    if machine is not None and resources is not None:
        found, said = _precision_here(machine, resources)
    if before is not None:
        kept: Precision = "bf16" if precision_in(before) == "bf16" else "fp32"
        said = f"{kept}, as when the study began" if kept != found else None
        found = kept
    if said is None or not space.leaves_open(PRECISION):
        return found, None
    return found, f"{PRECISION} auto is {said}"


def _precision_here(machine: Machine, resources: TrialResources) -> tuple[Precision, str | None]:
    """The precision of a study that begins, and words on it for a user of GPUs.

    The driver cannot see the GPUs of a cluster, and need not have one itself.
    """
    if not resources.gpus:
        return "fp32", None
    if machine.address is not None:
        return "fp32", (
            "fp32 on a cluster, whose GPUs are not asked; where all of them have bf16,"
            " --set optim.precision=bf16 trains faster"
        )
    (node,) = machine.nodes
    if all(precision_of(torch.device("cuda", gpu)) == "bf16" for gpu in range(node.gpus)):
        return "bf16", "bf16, which this machine's GPUs have"
    return "fp32", "fp32, since not every GPU of this machine has bf16"


def precision_in(facts: Mapping[str, Any]) -> str:
    """The precision that the facts of a study name for trials that name none; an earlier version,
    which did not write it down, trained these in fp32.
    """
    return str(facts.get("request", {}).get("fixed", {}).get(PRECISION, "fp32"))
