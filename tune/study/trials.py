"""The inputs of a study's trials, and the object that builds the trials in the workers.

Workers import this module, so it imports neither the ledger nor trackers.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from core.config import PredictConfig, TrialConfig, Value
from core.data.dataset import Dataset
from core.device import limit_memory, resolve_device
from core.errors import ResourceError
from core.fitting import Circumstances
from core.network.weights import BaseWeights
from core.text import first_line
from core.training.trial import Trial
from tune.engine.messages import Assignment, NoGpu
from tune.engine.worker import RunnableTrial
from tune.study.pretrained import weights_key

NO_GPU_SECONDS = 10.0
"""Seconds that a worker without a usable GPU waits before it ends and another takes its place."""


@dataclass(frozen=True)
class TrialInputs:
    """The inputs that all trials of a study share. In a worker the arrays are read-only.

    weights   the pretrained weights, by `weights_key`
    cpus      number of whole processors of each trial
    gpu       whether each trial holds a GPU, or a part of one
    predict   `predict.` settings, each with the values that a trial tries after its last epoch
    auto      resolves an `auto` among these values; None where there is none
    """

    data: Dataset
    weights: Mapping[str, BaseWeights]
    cpus: int
    gpu: bool
    predict: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    auto: Circumstances | None = None


class TrialMaker(Protocol):
    """An object that builds the trials of a study. It is pickled and sent to the workers."""

    @property
    def trains(self) -> bool:
        """Whether its trials really train, so that it makes sense to measure one beforehand."""

    def make(self, assignment: Assignment, inputs: TrialInputs) -> RunnableTrial:
        """Build the trial of an attempt; called in the attempt's worker."""


class CoreTrials:
    """Builds real trials: `core.training.trial.Trial`."""

    trains = True

    def make(self, assignment: Assignment, inputs: TrialInputs) -> Trial:
        """Build the trial of an attempt.

        Raises NoGpu if the attempt holds a GPU and cannot use it: the GPU is lost, its driver
        restarts, or NVIDIA's service takes no client yet after an error on the GPU. A trial never
        moves to a CPU silently.
        """
        config = TrialConfig.from_settings(assignment.settings, f"trial {assignment.trial}")
        if inputs.gpu:
            begin_to_use_gpu(min(assignment.gpus, 1.0))
        return Trial(
            config,
            inputs.data,
            inputs.weights.get(weights_key(config.model)),
            device="cuda:0" if inputs.gpu else "cpu",
            # With a GPU one processor drives it and the others prepare images; without a GPU all
            # of them train.
            loader_workers=inputs.cpus - 1 if inputs.gpu else 0,
            threads=inputs.cpus,
            predictions=self.predictions(config, inputs),
        )

    def predictions(self, config: TrialConfig, inputs: TrialInputs) -> Sequence[PredictConfig]:
        """The other settings of prediction that a trial tries after its last epoch."""
        return config.other_predictions(inputs.predict, inputs.auto)


def begin_to_use_gpu(share: float) -> None:
    """Limit this process to its share of the GPU's memory, and compute once on the GPU.

    share   part of the GPU, in (0, 1]

    Raises NoGpu, after NO_GPU_SECONDS, if the GPU cannot be used, and torch's error if its memory
    is full.
    """
    try:
        if not torch.cuda.is_available():
            raise NoGpu("torch sees none there, although the trial holds one")
        limit_memory(resolve_device("cuda:0"), share)
        torch.ones(1, device="cuda:0").sum().item()
    except (NoGpu, RuntimeError, ResourceError) as error:
        if "out of memory" in str(error):
            raise
        time.sleep(NO_GPU_SECONDS)
        raise NoGpu(first_line(error)) from None
