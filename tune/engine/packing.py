"""How many trials share a GPU: a probe of the heaviest trial measures its memory, and the time for
which it leaves the GPU idle.
"""

import dataclasses
import math
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.backbones import BACKBONES
from core.config import TrialConfig, Value
from core.data.dataset import Dataset
from core.detectors import DETECTORS
from core.errors import BadRequest, ResourceError
from core.files import read_json
from core.network.weights import BaseWeights
from core.training import probe
from core.training.probe import Probe
from tune.space.domains import Choices
from tune.space.space import SearchSpace

MEMORY = 0.92
"""Fraction of a GPU's memory that trials may fill; the rest is left to what no allocator counts."""
MARGIN = 1.15
"""Memory that is reserved for a trial, as a multiple of the probe's peak: other images, proposals
and a fragmented memory may need more than the probe did."""
MOST = 16
"""Largest number of trials on one GPU: the processes of more would cost more than they bring."""


def _rank(name: str) -> Callable[[Value], float]:
    """A key that orders the values of a setting: with a larger key a trial takes more memory."""
    if name == "model.backbone":
        return lambda value: BACKBONES[str(value)].memory_rank
    if name == "model.detector":
        return lambda value: DETECTORS[str(value)].memory_rank
    if name == "optim.precision":
        return lambda value: value == "fp32"
    if name == "data.crop":
        return lambda value: float("inf") if not value else float(value)  # 0: the whole image
    return float


HEAVY = (
    "optim.batch_size", "model.image_min_side", "model.image_max_side", "data.crop",
    "model.trainable_layers", "model.backbone", "model.detector", "model.trainable_fpn",
    "model.proposals_train", "model.box_samples", "model.rpn_samples", "model.proposals_test",
    "predict.max_detections", "predict.tile", "optim.precision",
)  # fmt: skip
"""The settings on which a trial's memory depends, those with the largest effect first."""


def heaviest(space: SearchSpace) -> TrialConfig:
    """The configuration of a study that takes most memory, judged by the settings in HEAVY."""
    if space.variants:
        return max((row.config for row in space.rows()), key=_weight)

    def draw(name: str, domain: Any) -> Value:
        values = domain.values if isinstance(domain, Choices) else domain.corners
        return max(values, key=_rank(name)) if name in HEAVY else values[0]

    return space.resolve(space.sample(draw))


def _weight(config: TrialConfig) -> tuple[float, ...]:
    settings = config.settings()
    return tuple(_rank(name)(settings[name]) for name in HEAVY)


def trials_that_share(found: Probe, memory: int = 0) -> int:
    """Number of trials on one GPU, from 1 to MOST: as many as fit its memory, its time and the
    machine's memory.

    memory   bytes of the machine's memory that may be used for each of its GPUs; 0 where that is
             not known

    A trial that keeps the GPU busy for a fraction b of the time leaves the rest to others; 1 / b
    trials fill it. The number is rounded up, because trials do not compute in turns.
    """
    by_memory = int(MEMORY * found.total_bytes / (MARGIN * found.peak_bytes))
    # The small number makes it three trials at a third of the time, however 1/3 is rounded.
    by_time = math.ceil(1 / found.busy - 1e-9)
    known = memory and found.host_bytes
    by_host = int(MEMORY * memory / (MARGIN * found.host_bytes)) if known else MOST
    return max(1, min(by_memory, by_time, by_host, MOST))


@dataclass(frozen=True)
class Packing:
    """The result of a probe, and the number of trials on one GPU that follows from it.

    settings   the settings that were probed, by their flat names
    """

    settings: Mapping[str, Value]
    probe: Probe
    trials: int

    @property
    def sentence(self) -> str:
        """The result in one sentence for the user."""
        share = "1 trial has a GPU" if self.trials == 1 else f"{self.trials} trials share a GPU"
        return (
            f"Probe of the heaviest settings ({self.settings['model.backbone']}, batch"
            f" {self.settings['optim.batch_size']}): {self.probe.peak_bytes / 2**30:.1f} of"
            f" {self.probe.total_bytes / 2**30:.0f} GB, and the GPU busy"
            f" {100 * self.probe.busy:.0f}% of the time: {share}"
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `packing.json`, as JSON types."""
        return dataclasses.asdict(self)


def remembered(path: Path, space: SearchSpace) -> Packing | None:
    """The packing that a file holds; None unless its settings and its GPU are those of this study
    and machine.
    """
    try:
        content = read_json(path, ValueError)
        found = Packing(content["settings"], Probe(**content["probe"]), int(content["trials"]))
    except (ValueError, LookupError, TypeError):
        return None
    same = found.settings == heaviest(space).settings() and 1 <= found.trials <= MOST
    return (
        found
        if same and torch.cuda.is_available() and found.probe.device == torch.cuda.get_device_name()
        else None
    )


def pack(
    space: SearchSpace,
    data: Dataset,
    weights: Callable[[TrialConfig], BaseWeights | None],
    device: str = "auto",
    memory: int = 0,
) -> Packing:
    """Measure the heaviest configuration of a study, in a process of its own.

    weights   returns the pretrained weights of a configuration; None where it has none
    device    a device's name, as `core.device.resolve` takes it
    memory    bytes of the machine's memory for each GPU, as `trials_that_share` takes it

    Raises ResourceError where that configuration alone is too large for the GPU.
    """
    config = heaviest(space)
    found = _apart(config, data, weights(config), device)
    return Packing(
        config.settings(), found, trials_that_share(found, memory) if found.total_bytes else 1
    )


def _apart(config: TrialConfig, data: Dataset, weights: BaseWeights | None, device: str) -> Probe:
    place = (
        f"the heaviest settings of the space (model.backbone {config.model.backbone},"
        f" optim.batch_size {config.optim.batch_size})"
    )
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            measured = pool.submit(probe.measure, config, data, weights, device)
            try:
                return measured.result()
            except KeyboardInterrupt:
                for child in multiprocessing.active_children():
                    child.kill()  # leaving the block would wait for it
                raise
    except BadRequest:
        raise
    except (torch.OutOfMemoryError, MemoryError, BrokenProcessPool) as error:
        raise ResourceError(
            f"resources.gpus_per_trial auto: {place} must fit one GPU alone, and ran out of its"
            " memory; take smaller images or batches out of the space, or name"
            " resources.gpus_per_trial"
        ) from error
