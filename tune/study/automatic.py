"""The values that `auto` stands for in a study: found when the study begins, kept in its facts.

Thus all trials have the same settings: also those of a study that is continued on another machine
or by a version with other rules, those of its confirmation, and its retraining. The facts in the
ledger hold the precision under `request`, `fixed`, and under `auto` the measurement of the data
with the version of the rules.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from core.config import AT_HAND, AUTO, SETTINGS, ModelConfig, Precision, TrialConfig
from core.data.dataset import Dataset
from core.data.measure import measure
from core.device import precision_of
from core.errors import StudyError
from core.fitting import FITTING_RULES, READ_OFF_DATA, Circumstances
from core.network.weights import weights_at_hand
from core.values import as_setting
from tune.engine.resources import Machine, TrialResources
from tune.request.file import with_overrides
from tune.request.request import StudyRequest
from tune.space.space import SearchSpace

PRECISION, PRETRAINED = "optim.precision", "model.weights"
INTENSITY = "data.intensity"
KEPT = "auto"
"""The key of a study's facts that holds the measurement of its data."""


def resolved_request(request: StudyRequest, facts: Mapping[str, Any]) -> StudyRequest:
    """The request of a study that has begun, with the values of `auto` that its facts hold.

    Settings that rules of a later version read off the data stay `auto`.
    """
    kept = facts.get(KEPT, {})
    known = kept if kept.get("rules", 0) in FITTING_RULES else {}
    auto = Circumstances.from_json(known, "bf16" if precision_in(facts) == "bf16" else "fp32")
    return replace(request, space=replace(request.space, auto=auto))


def with_kept_intensity(request: StudyRequest, before: Mapping[str, Any] | None) -> StudyRequest:
    """The request with the range of brightness that the study measured when it began.

    before   the facts of the study that is continued; None for a new one
    """
    kept = (before or {}).get("request", {}).get("fixed", {}).get(INTENSITY, AUTO)
    return request if kept == AUTO else _with_intensity(request, str(kept))


def with_measured_intensity(request: StudyRequest, data: Dataset) -> StudyRequest:
    """The request with the range of brightness by which its images were brought to 8 bits."""
    return request if data.intensity is None else _with_intensity(request, data.intensity)


def _with_intensity(request: StudyRequest, intensity: str) -> StudyRequest:
    """The request with a range in place of `data.intensity: auto`."""
    if request.space.value(INTENSITY, {}) != AUTO:
        return request
    return with_overrides(request, [f"{INTENSITY}={intensity}"])


def with_weights_at_hand(
    request: StudyRequest, before: Mapping[str, Any] | None, models: Iterable[ModelConfig]
) -> tuple[StudyRequest, str | None]:
    """The request with a name in place of `model.weights: at_hand`, and a sentence on it.

    before   the facts of the study that is continued, whose weights it keeps
    models   the networks that the study trains

    A request that names its weights is returned as it is, without a sentence. Raises SettingError
    where what was found and other settings exclude each other.
    """
    if request.space.fixed.get(PRETRAINED) != AT_HAND:
        return request, None
    fixed: Mapping[str, Any] | None = (before or {}).get("request", {}).get("fixed")
    if fixed is not None and PRETRAINED not in fixed:
        # The study began when its space file left the weights to the default.
        others = {name: one for name, one in request.space.fixed.items() if name != PRETRAINED}
        return (
            replace(request, space=replace(request.space, fixed=others)),
            f"{PRETRAINED} at_hand is {SETTINGS[PRETRAINED]}, as when the study began",
        )
    kept = None if fixed is None else fixed[PRETRAINED]
    found = weights_at_hand(models) if kept is None else str(kept)
    if kept is not None:
        why = "as when the study began"
    elif found == "none":
        why = (
            "since this machine has the files of neither coco nor imagenet for all networks of the"
            " study; training starts from scratch, and --set model.weights=auto downloads what is"
            " missing"
        )
    else:
        why = "the first whose files are on this machine"
    return with_overrides(
        request, [f"{PRETRAINED}={found}"]
    ), f"{PRETRAINED} at_hand is {found}, {why}"


def study_circumstances(
    request: StudyRequest,
    before: Mapping[str, Any] | None,
    data: Dataset | None,
    machine: Machine | None,
    resources: TrialResources | None,
) -> tuple[Circumstances, str | None]:
    """The facts on which `auto` depends in a study, and a sentence on the precision.

    before   the facts of the study that is continued, which keeps its values; None for a new one

    The sentence is None if the user need not know it. Where data, machine or resources are None,
    what depends on them stays open. Raises StudyError if a later version began the study by rules
    that this one does not have.
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
    """The settings that are `auto`, and read off the data, in some trial or try after training."""
    tried = request.after_training
    return sorted(
        name
        for name in READ_OFF_DATA
        if request.space.leaves_open(name) or AUTO in tried.get(name, ())
    )


def measurement_facts(request: StudyRequest) -> dict[str, Any]:
    """The measurement of the data as a study's facts keep it; empty if no setting needs it."""
    auto = request.space.auto
    return {KEPT: auto.to_json()} if auto is not None and auto.data is not None else {}


def sentences_on_data(request: StudyRequest) -> Iterator[str]:
    """A sentence for each setting that is read off the data, with its value and the reason.

    If a value depends on searched settings or on the variant, that of the first configuration is
    given.
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
    """The precision that `optim.precision: auto` is in a study, and a sentence on it.

    before   the facts of the study that is continued, which keeps its precision; None for a new one

    The precision is None if neither `before` nor machine and resources are given; the sentence, if
    the user need not know it.
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
    """The precision of a new study, and words on it if trials have GPUs.

    On a cluster it is fp32, because the driver cannot see the GPUs of other nodes.
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
    """The precision of the trials whose settings leave it open, by the facts of their study.

    An earlier version did not store it, and trained these trials in fp32.
    """
    return str(facts.get("request", {}).get("fixed", {}).get(PRECISION, "fp32"))
