"""A request checked against the world: the data, the weights, the machine, and the study it continues."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import data as datasets
from core import weights as pretrained
from core.config import SETTINGS, ModelConfig, TrialConfig
from core.data.dataset import Dataset
from core.data.split import split
from core.errors import BadRequest, SettingError, StudyError
from core.weights import WeightsFile
from tune import executor
from tune.executor import Machine, TrialResources
from tune.folder import StudyFolder
from tune.request import StudyRequest
from tune.space import Choices, SearchSpace
from tune.tracking import Destination

_MODEL_SETTINGS = ("model.detector", "model.backbone", "model.weights", "model.stride_in_1x1")


@dataclass(frozen=True)
class Options:
    """What the command line adds to a request: where things are and what the trials may use.

    results       folder of all studies
    storage       SQLAlchemy URL of the ledger, None for a file in the study's folder
    tracking_uri  MLflow's, None for a database in `results`
    parallel      most trials at once, None for as many as fit
    time_budget   seconds after which no epoch is begun any more, None for no limit
    address       a Ray cluster, None for this machine
    """

    results: Path = Path("results")
    storage: str | None = None
    tracking_uri: str | None = None
    parallel: int | None = None
    time_budget: float | None = None
    address: str | None = None


@dataclass(frozen=True)
class Plan:
    """A request that was checked against the data, the weights and the machine: it can start.

    weights   the file of pretrained weights for each way to ask for one (see `weights_key`)
    """

    request: StudyRequest
    options: Options
    data: Dataset
    weights: Mapping[str, WeightsFile]
    machine: Machine
    resources: TrialResources

    @property
    def folder(self) -> StudyFolder:
        """Where the study lives."""
        return StudyFolder(self.options.results / self.request.study)

    @property
    def storage(self) -> str:
        """URL of the ledger."""
        return self.options.storage or f"sqlite:///{self.folder.path / 'study.db'}"

    @property
    def tracking(self) -> Destination:
        """Where MLflow's view is."""
        default = Destination.default(self.options.results)
        return Destination(self.options.tracking_uri or default.uri, default.artifacts.absolute())


def make_plan(request: StudyRequest, options: Options) -> Plan:
    """Check a request against the world. Starts and writes nothing. Raises BadRequest for the first thing wrong."""
    plan, problems = check(request, options)
    if problems:
        raise problems[0]
    assert plan is not None
    return plan


def check(request: StudyRequest, options: Options) -> tuple[Plan | None, Sequence[BadRequest]]:
    """The plan of a request, or everything that is wrong with it."""
    problems: list[BadRequest] = []
    data: Dataset | None = None
    machine: Machine | None = None
    resources: TrialResources | None = None
    weights: dict[str, WeightsFile] = {}
    try:
        data = datasets.load(request.data)
        for config in _data_configs(request.space):
            split(data, config.data)
    except BadRequest as error:
        problems.append(error)
    for model in _model_configs(request.space):
        try:
            file = pretrained.find(model)
        except BadRequest as error:
            problems.append(error)
        else:
            if file is not None:
                weights[weights_key(model)] = file
    try:
        machine = Machine.here() if options.address is None else executor.cluster(options.address)
        wanted = request.resources
        resources = machine.share(wanted.cpus_per_trial, wanted.gpus_per_trial, options.parallel)
    except BadRequest as error:
        problems.append(error)
    try:
        _check_continues(request, data, StudyFolder(options.results / request.study))
    except BadRequest as error:
        problems.append(error)
    if problems or data is None or machine is None or resources is None:
        return None, problems
    return Plan(request, options, data, weights, machine, resources), problems


def weights_key(model: ModelConfig) -> str:
    """Models with the same key start from the same file."""
    return f"{model.detector} {model.backbone} {model.weights}"


def searched_settings(space: SearchSpace) -> list[str]:
    """The settings that differ between the trials of a study, in the order of the space file."""
    names = [parameter.name for parameter in space.parameters]
    names += [name for variant in space.variants for name in variant.settings]
    return list(dict.fromkeys(names))


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
            # Where it is not active its default holds.
            default = [SETTINGS[parameter.name]] if parameter.when else []
            values[parameter.name] = list(dict.fromkeys([*parameter.domain.values, *default]))
    for combination in itertools.product(*values.values()):
        with contextlib.suppress(SettingError):  # a combination that `when` rules out
            yield TrialConfig.from_settings(dict(zip(values, combination, strict=True))).model


def _check_continues(request: StudyRequest, data: Dataset | None, folder: StudyFolder) -> None:
    """Refuse to continue a study with another space or other data, which would mix what cannot be compared."""
    if not folder.description.exists():
        return
    before = folder.read_description()
    now = request.to_document()
    for part in ("fixed", "space", "start", "variants", "baseline", "seeds", "search", "stop_early"):
        old, new = before["request"].get(part, {}), now.get(part, {})
        if part == "search":  # more trials are welcome
            old, new = {**old, "trials": None}, {**new, "trials": None}
        if old != new:
            raise StudyError(
                f"{folder.path} is a study with another '{part}': it was {json.dumps(old)} and is {json.dumps(new)}; "
                "go back to it, or give this search another --study name"
            )
    if data is not None and before["data"]["fingerprint"] != data.fingerprint:
        raise StudyError(
            f"{folder.path} was searched on other data: the fingerprint was {before['data']['fingerprint'][:12]} and "
            f"is {data.fingerprint[:12]}; bring the old data back, or give this search another --study name"
        )
