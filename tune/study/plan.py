"""A request checked against the data, the weights, the machine, and the study that it continues."""

import contextlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core import data as datasets
from core.config import AUTO, SETTINGS, ModelConfig, TrialConfig, Value
from core.data.dataset import Dataset
from core.data.measure import measure
from core.data.split import group_names, split
from core.errors import BadRequest, ResourceError, SettingError, StudyError
from core.fitting import READ_OFF_DATA, Circumstances
from core.network import weights as pretrained
from core.network.weights import WeightsFile
from core.prediction.advice import advice
from core.values import as_setting
from tune.engine import mps, session
from tune.engine.resources import Machine, TrialResources
from tune.ledger.reading import remembered_facts
from tune.request.request import StudyRequest
from tune.samplers.sampler import SAMPLERS
from tune.space.domains import Choices, is_whole
from tune.space.space import MAX_COMBINATIONS, SearchSpace
from tune.store.folder import StudyFolder
from tune.study import automatic
from tune.study.automatic import PRECISION, precision_in
from tune.study.confirmation import Repeat, fresh_repeats
from tune.study.options import Options, recall, storage_of
from tune.study.reading import without_ledger
from tune.study.trials import weights_key
from tune.tracking.tracker import TrackedStudy, Tracker, tracker_at

_COMPARED = ("fixed", "space", "start", "variants", "baseline", "seeds", "search", "stop_early")
_EXTENT = ("low", "high", "choices")
"""The parts of a setting's domain that may grow while a study goes on."""
_KINDS = {"request": "another request", "data": "other data", "weights": "other pretrained weights"}
_ADVISED = frozenset((*READ_OFF_DATA, "predict.tile", "metric.max_dets"))
"""The settings on which advice about data depends."""
_MODEL_SETTINGS = ("model.detector", "model.backbone", "model.weights", "model.stride_in_1x1")


@dataclass(frozen=True)
class StudyPlan:
    """A request that was checked against the data, the weights and the machine, and can start.

    weights   the files of pretrained weights, by `weights_key`
    growth    how the space of the continued study has grown, a sentence for each setting
    precision what `optim.precision: auto` is in this study, a sentence; None where none is needed

    The request's space says what every `auto` stands for.
    """

    request: StudyRequest
    options: Options
    data: Dataset
    weights: Mapping[str, WeightsFile]
    machine: Machine
    resources: TrialResources
    growth: tuple[str, ...] = ()
    precision: str | None = None

    @property
    def folder(self) -> StudyFolder:
        """The study's folder."""
        return StudyFolder(self.options.results / self.request.study)

    @property
    def storage(self) -> str:
        """URL of the ledger."""
        return storage_of(self.options, self.folder)

    @property
    def repeats(self) -> tuple[Repeat, ...]:
        """The fresh seeds and folds on which the candidates are confirmed; empty without a
        confirmation.
        """
        return fresh_repeats(self.request, self.data)

    @property
    def groups(self) -> int:
        """Number of groups of images (`data.group_pattern`); without a pattern each image is a
        group.
        """
        pattern = str(self.request.space.value("data.group_pattern", {}))
        return len(
            set(group_names((sample.name for sample in self.data.samples), pattern, self.data.name))
        )

    @property
    def tracking(self) -> Tracker:
        """The tracker that shows the study."""
        return tracking_of(self.options)


def plan_study(request: StudyRequest, options: Options) -> StudyPlan:
    """Check a request against data, weights, machine and ledger.

    Raises BadRequest for the first problem.

    Nothing is started. Pretrained weights that are on no disk are downloaded into torch's cache;
    nothing else is written.
    """
    plan, problems = check_request(request, options)
    if plan is None:
        raise problems[0]
    # Weights are downloaded only when nothing else is wrong.
    pretrained.fetch_weights(file.missing for file in plan.weights.values() if file.missing)
    return replace(
        plan, weights={key: replace(file, missing=None) for key, file in plan.weights.items()}
    )


def check_request(
    request: StudyRequest, options: Options
) -> tuple[StudyPlan | None, Sequence[BadRequest]]:
    """The plan of a request, or everything that is wrong with it.

    Downloads nothing and writes nothing.
    """
    problems: list[BadRequest] = []
    data: Dataset | None = None
    machine: Machine | None = None
    resources: TrialResources | None = None
    weights: dict[str, WeightsFile] = {}
    grown: list[str] = []
    said: str | None = None
    folder = StudyFolder(options.results / request.study)
    try:
        data = datasets.load(
            request.data, request.reading_again if folder.description.exists() else request.reading
        )
        for config in _data_configs(request.space):
            split(data, config.data)
        fresh_repeats(request, data)
    except BadRequest as error:
        problems.append(error)
    for model in _model_configs(request.space):
        try:
            file = pretrained.find_weights(model, download=False)
        except BadRequest as error:
            problems.append(error)
        else:
            if file is not None:
                weights[weights_key(model)] = file
    try:
        if options.address is None:
            mps.stay_outside()
            machine = Machine.here()
        else:
            machine = session.cluster_at(options.address)
        resources = _resources(request, options, machine)
    except BadRequest as error:
        problems.append(error)
    try:
        options = recall(options, folder)
        before = remembered_facts(storage_of(options, folder), request.study)
        if before is None and folder.description.exists():
            raise StudyError(
                without_ledger(
                    folder, storage_of(options, folder), "give this search another --study name"
                )
            )
        auto, said = automatic.circumstances(request, before, data, machine, resources)
        request = replace(request, space=replace(request.space, auto=auto))
        refuse_other_facts(before, study_facts(request, data), folder)
        grown = growth(before or {}, study_facts(request, data))
    except BadRequest as error:
        problems.append(error)
    if problems or data is None or machine is None or resources is None:
        return None, problems
    plan = StudyPlan(request, options, data, weights, machine, resources, tuple(grown), said)
    return plan, problems


def _resources(request: StudyRequest, options: Options, machine: Machine) -> TrialResources:
    wanted = request.resources
    resources = machine.share(wanted.cpus_per_trial, wanted.gpus_per_trial, options.parallel)
    if wanted.mps is True and machine.address is not None:
        raise ResourceError(
            "resources.mps true is for the GPUs of this machine, and --address names a cluster;"
            " start the service on its nodes, and leave resources.mps out"
        )
    if wanted.mps is True and resources.gpus:
        mps.check_service()
    return resources


def data_advice(request: StudyRequest, data: Dataset) -> list[str]:
    """Notes on settings that do not suit the data set.

    Where a request tries several values of a setting, in trials or after training, those that suit
    best count.
    """
    known = request.space.auto
    measurement = known.data if known is not None and known.data else measure(data)
    auto = Circumstances(data=measurement)
    configs = dict.fromkeys(config.resolved(auto) for config in _tried(request))
    return list(advice(data, measurement, list(configs)))


def network_advice(request: StudyRequest) -> list[str]:
    """Notes on the networks that a request tries, a sentence each."""
    return list(dict.fromkeys(note for model in _models(request.space) for note in model.advice))


def _tried(request: StudyRequest) -> Iterator[TrialConfig]:
    """Configurations with the values that a request tries of the settings on which advice depends:
    all combinations of choices and ends of ranges, unless there are too many.
    """
    space = request.space
    later = {name: tried for name, tried in request.after_training.items() if name in _ADVISED}
    points: list[Mapping[str, Value]] = [variant.settings for variant in space.variants]
    if not points:
        corners = space.part(_ADVISED.__contains__).corners
        assert corners.size is not None
        points = [{}]
        if corners.size * math.prod(map(len, later.values())) <= MAX_COMBINATIONS:
            points = [*corners.grid()]
    for point in points:
        for values in itertools.product(*later.values()):
            yield space.resolve({**point, **dict(zip(later, values, strict=True))})


def _data_configs(space: SearchSpace) -> Iterator[TrialConfig]:
    """One configuration for each split the study uses."""
    if not space.variants:
        yield TrialConfig.from_settings(
            {name: value for name, value in space.fixed.items() if name.startswith("data.")}
        )
        return
    seen = set()
    for row in space.rows():
        if row.config.data not in seen:
            seen.add(row.config.data)
            yield row.config


def _model_configs(space: SearchSpace) -> Iterator[ModelConfig]:
    """One model for each key that the study's trials can have."""
    seen = set()
    for model in _models(space):
        if weights_key(model) not in seen:
            seen.add(weights_key(model))
            yield model


def _models(space: SearchSpace) -> Iterator[ModelConfig]:
    if space.variants:
        yield from (row.config.model for row in space.rows())
        return
    values = {name: [space.fixed.get(name, SETTINGS[name])] for name in _MODEL_SETTINGS}
    for parameter in space.parameters:
        if parameter.name in values and isinstance(parameter.domain, Choices):
            # Where the parameter is not active, its default holds.
            default = [SETTINGS[parameter.name]] if parameter.when else []
            values[parameter.name] = list(dict.fromkeys([*parameter.domain.values, *default]))
    for combination in itertools.product(*values.values()):
        with contextlib.suppress(SettingError):  # a combination that `when` rules out
            yield TrialConfig.from_settings(dict(zip(values, combination, strict=True))).model


def study_facts(request: StudyRequest, data: Dataset | None) -> dict[str, Any]:
    """The facts that all trials of a study must have in common for their scores to be compared,
    as JSON types.
    """
    document = request.to_document()
    asked = {part: document[part] for part in _COMPARED if part in document}
    auto = request.space.auto
    if asked["fixed"].get(PRECISION, AUTO) == AUTO and auto is not None and auto.precision:
        asked["fixed"][PRECISION] = auto.precision
    asked["search"] = {
        name: value for name, value in asked["search"].items() if name != "trials"
    }  # a study may be continued with more trials
    of_data = {} if data is None else {"data": data.fingerprint}
    return {"request": asked} | of_data | automatic.facts_of(request)


def refuse_other_facts(
    before: Mapping[str, Any] | None, now: Mapping[str, Any], folder: StudyFolder
) -> None:
    """Raise StudyError, which names the first difference, where new trials could not be compared
    with those there are.

    A space may grow: with wider bounds and more choices all trials stay comparable (see `growth`).
    """
    if before is None:
        return
    for kind, (old, new) in {name: (before.get(name), now.get(name)) for name in _KINDS}.items():
        if old is None or new is None:
            continue
        if kind == "request":
            old = {**old, "fixed": {**old.get("fixed", {}), PRECISION: precision_in(before)}}
            new = {**new, "fixed": {**new.get("fixed", {}), PRECISION: precision_in(now)}}
            if growth(before, now):
                old = {**old, "space": new["space"]}
        if (
            kind == "weights"
        ):  # a backbone that was added since has weights that the study did not know
            old, new = ({key: one[key] for key in old.keys() & new.keys()} for one in (old, new))
        different = _difference(old, new)
        if different is not None:
            raise StudyError(
                f"{folder.path} is a study with {_KINDS[kind]}: {different}; "
                "go back to that, or give this search another --study name"
            )


def growth(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How the space has grown since the study's facts were written, a sentence for each setting.

    The list is empty where the space has not grown, or has changed in another way than by wider
    bounds or more choices. A grid and variants cannot grow, because their trials are numbered in
    advance.
    """
    old, new = (facts.get("request", {}).get("space") for facts in (before, now))
    if (
        not old
        or not new
        or list(old) != list(new)
        or SAMPLERS[now["request"]["search"]["sampler"]]().exhausts
    ):
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
    # Values of trials that are there must be values of the wider range as well.
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
            # The random numbers go to the settings in their order.
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


def tracking_of(options: Options) -> Tracker:
    """The tracker that shows the studies."""
    return tracker_at(options.tracking_uri, options.results)


def tracked_study(request: StudyRequest, ledger: str, fingerprint: str) -> TrackedStudy:
    """A study as its tracker knows it.

    ledger        the ledger's identity
    fingerprint   the data set's
    """
    tags = {
        "data": request.data,
        "data_fingerprint": fingerprint,
        "planned_trials": str(request.planned_trials),
    }
    return TrackedStudy(request.study, ledger, tags)
