"""A request checked against the data, the weights, the machine, and the study that it continues."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core import data as datasets
from core.config import TrialConfig, Value
from core.data.dataset import Dataset
from core.data.measure import measure
from core.data.split import group_names, split
from core.errors import BadRequest, ResourceError, StudyError
from core.fitting import READ_OFF_DATA, Circumstances
from core.network.weights import WeightsFile, fetch_weights
from core.prediction.advice import advice
from tune import database
from tune.engine import mps, session
from tune.engine.resources import Machine, TrialResources
from tune.ledger.reading import remembered_facts
from tune.ledger.warm_start import WarmStart
from tune.request.request import StudyRequest
from tune.space.space import MAX_COMBINATIONS, SearchSpace
from tune.statistics.certainty import Repeat
from tune.store.filesystems import network_type
from tune.store.folder import StudyFolder
from tune.store.url import UrlStore
from tune.study import automatic
from tune.study.confirmation import fresh_repeats
from tune.study.going_on import (
    growth,
    refuse_other_facts,
    refuse_smaller_confirmation,
    study_facts,
)
from tune.study.options import Options, recall_options, storage_of, without_ledger
from tune.study.other_study import planned_warm_start
from tune.study.pretrained import models_of, weights_files_of
from tune.tracking.tracker import TrackedStudy, Tracker, tracker_at

_ADVISED = frozenset((*READ_OFF_DATA, "predict.tile", "metric.max_dets"))
"""The settings on which advice about data depends."""


@dataclass(frozen=True)
class StudyPlan:
    """A request that was checked against the data, the weights and the machine, and can start.

    request     its space holds the values that every `auto` stands for
    weights     the files of pretrained weights, by `weights_key`
    growth      what the request adds to the study that it continues, a sentence each
    precision   a sentence on the value of `optim.precision: auto`; None if the user need not know
    at_hand     a sentence on the value of `model.weights: at_hand`; None if another was asked for
    warm_start  what the study takes from another one, or took when it began; None for nothing
    """

    request: StudyRequest
    options: Options
    data: Dataset
    weights: Mapping[str, WeightsFile]
    machine: Machine
    resources: TrialResources
    growth: tuple[str, ...] = ()
    precision: str | None = None
    at_hand: str | None = None
    warm_start: WarmStart | None = None

    @property
    def folder(self) -> StudyFolder:
        """The study's folder."""
        return StudyFolder(self.options.results / self.request.study)

    @property
    def storage(self) -> str:
        """The SQLAlchemy URL of the ledger, password included."""
        return storage_of(self.options, self.folder)

    @property
    def store(self) -> UrlStore | None:
        """The URL through which trials' files go; None if they are in the study's folder."""
        url = self.options.store
        return None if url is None else UrlStore(url, self.request.study)

    @property
    def repeats(self) -> tuple[Repeat, ...]:
        """The fresh seeds and folds on which candidates are confirmed; empty if none are to be."""
        return fresh_repeats(self.request, self.data)

    @property
    def groups(self) -> int:
        """Number of groups of images (`data.group_pattern`), or of images without a pattern."""
        pattern = str(self.request.space.value("data.group_pattern", {}))
        return len(
            set(group_names((sample.name for sample in self.data.samples), pattern, self.data.name))
        )

    @property
    def tracking(self) -> Tracker:
        """The tracker that shows the study."""
        return tracking_of(self.options)


def plan_study(request: StudyRequest, options: Options) -> StudyPlan:
    """Check a request against data, weights, machine and ledger. Raises the first BadRequest.

    Nothing is started. Pretrained weights that are not on this machine are downloaded into torch's
    cache; nothing else is written.
    """
    plan, problems = check_request(request, options)
    if plan is None:
        raise problems[0]
    # Weights are downloaded only when nothing else is wrong.
    fetch_weights(file.missing for file in plan.weights.values() if file.missing)
    return replace(
        plan, weights={key: replace(file, missing=None) for key, file in plan.weights.items()}
    )


def check_request(
    request: StudyRequest, options: Options
) -> tuple[StudyPlan | None, Sequence[BadRequest]]:
    """The plan of a request, or None and everything that is wrong with the request.

    Downloads nothing and writes nothing.
    """
    problems: list[BadRequest] = []
    data: Dataset | None = None
    machine: Machine | None = None
    resources: TrialResources | None = None
    grown: list[str] = []
    said: str | None = None
    at_hand: str | None = None
    warm: WarmStart | None = None
    folder = StudyFolder(options.results / request.study)
    try:
        request, at_hand = automatic.with_weights_at_hand(
            request, _facts_before(request, options, folder), models_of(request.space)
        )
    except BadRequest as error:
        problems.append(error)
    try:
        request = automatic.with_kept_intensity(request, _facts_before(request, options, folder))
        data = datasets.load_data(
            request.data, request.reading_again if folder.description.exists() else request.reading
        )
        request = automatic.with_measured_intensity(request, data)
        for config in _data_configs(request.space):
            split(data, config.data)
        fresh_repeats(request, data)
    except BadRequest as error:
        problems.append(error)
    weights = weights_files_of(request.space, problems)
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
        options = recall_options(options, folder)
        refuse_network_ledger(storage_of(options, folder))
        before = remembered_facts(storage_of(options, folder), request.study)
        if before is None and folder.description.exists():
            raise StudyError(
                without_ledger(
                    folder, storage_of(options, folder), "give this search another --study name"
                )
            )
        auto, said = automatic.study_circumstances(request, before, data, machine, resources)
        request = replace(request, space=replace(request.space, auto=auto))
        refuse_other_facts(before, study_facts(request, data), folder)
        refuse_smaller_confirmation(request, storage_of(options, folder), folder)
        grown = growth(before or {}, study_facts(request, data))
        if data is not None:
            warm = planned_warm_start(request, options, data.fingerprint)
    except BadRequest as error:
        problems.append(error)
    if problems or data is None or machine is None or resources is None:
        return None, problems
    plan = StudyPlan(
        request, options, data, weights, machine, resources, tuple(grown), said, at_hand, warm
    )
    return plan, problems


def _facts_before(
    request: StudyRequest, options: Options, folder: StudyFolder
) -> Mapping[str, Any] | None:
    """The facts of the study that a request continues; None for a new study, and for one whose
    ledger cannot be read, which `check_request` reports.
    """
    try:
        return remembered_facts(storage_of(recall_options(options, folder), folder), request.study)
    except BadRequest:
        return None


def _resources(request: StudyRequest, options: Options, machine: Machine) -> TrialResources:
    """The resources of each trial. Raises ResourceError if the machine does not have them."""
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


def refuse_network_ledger(storage: str) -> None:
    """Raise StudyError for a ledger that is a SQLite file on a network file system."""
    file = database.file_of(storage)
    kind = None if file is None else network_type(file)
    if kind is not None:
        raise StudyError(
            "the ledger must not be a SQLite file on a network file system, where its locks do not"
            f" hold, and {file} is on {kind}; keep it on a disk of this machine, --storage"
            " sqlite:////PATH/study.db, or in a database server, --storage postgresql+psycopg://..."
        )


def data_advice(request: StudyRequest, data: Dataset) -> list[str]:
    """Notes on settings that do not suit the data set, a sentence each.

    If a request tries several values of a setting, in trials or after training, the value that
    suits best counts.
    """
    known = request.space.auto
    measurement = known.data if known is not None and known.data else measure(data)
    auto = Circumstances(data=measurement)
    configs = dict.fromkeys(config.resolved(auto) for config in _tried_configs(request))
    return list(advice(data, measurement, list(configs)))


def network_advice(request: StudyRequest) -> list[str]:
    """Notes on the networks that a request tries, a sentence each."""
    return list(dict.fromkeys(note for model in models_of(request.space) for note in model.advice))


def _tried_configs(request: StudyRequest) -> Iterator[TrialConfig]:
    """Configurations with the values that a request tries of the settings in _ADVISED.

    These are all combinations of choices and ends of ranges; if there are more than
    MAX_COMBINATIONS, the settings that trials search keep their fixed values or defaults.
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
    """One configuration for each split that the search uses."""
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


def tracking_of(options: Options) -> Tracker:
    """The tracker at the options' address, or MLflow in the folder of all studies."""
    return tracker_at(options.tracking_uri, options.results)


def tracked_study(
    request: StudyRequest, ledger: str, fingerprint: str, warm: WarmStart | None
) -> TrackedStudy:
    """A study as its tracker knows it.

    ledger        identity of the ledger
    fingerprint   fingerprint of the data set
    warm          what the study took from another one; None for nothing
    """
    tags = {
        "data": request.data,
        "data_fingerprint": fingerprint,
        "planned_trials": str(request.planned_trials),
    }
    if warm is not None:
        tags["warm_start"] = warm.line
    return TrackedStudy(request.study, ledger, tags, tuple(request.searched))
