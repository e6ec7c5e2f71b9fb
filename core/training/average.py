"""The exponential moving average of a network's weights, which is evaluated and kept instead."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from core.network.detector import Detector

DELAY = 8
"""An early average looks back on 1 / (1 + DELAY) of the steps so far."""


class WeightAverage:
    """An exponential moving average of all floating-point numbers that training changes.

    trained     the detector that trains
    half_life   number of optimizer steps after which a step's weights count half as much

    The attribute `model` is a copy of the detector, in evaluation mode, that has the average; it
    shares the tensors that do not train. The weights after the first step are the first average, so
    the initial weights are not in it. Early averages look back on a ninth of the steps so far, not
    on the half-life (see `kept`). Batch norm's statistics are averaged as weights are: those of a
    batch of two images are noisy, and to first order the mean features of averaged weights are
    averaged mean features.
    """

    def __init__(self, trained: Detector, half_life: float) -> None:
        assert half_life > 0
        self.half_life = half_life
        changing = {id(value) for value in trained.trained_state().values()}
        shared = {
            id(value): value
            for value in (*trained.parameters(), *trained.buffers())
            if id(value) not in changing
        }
        self.model: Detector = copy.deepcopy(trained, shared).eval()
        self._weights = _floats(trained)
        self._averages = _floats(self.model)

    def kept(self, step: int) -> float:
        """The decay at a step: the fraction of the average that stays; the rest is its weights.

        step   number of optimizer steps so far, this one included

        It is (t - 1) / (t + DELAY) after t steps until that exceeds 0.5 ** (1 / half_life). This is
        polynomial-decay averaging (Shamir and Zhang, 2013), which TensorFlow's
        ExponentialMovingAverage has as min(decay, (1 + n) / (10 + n)).
        """
        long_run: float = 0.5 ** (1 / self.half_life)
        return min((step - 1) / (step + DELAY), long_run)

    def update(self, step: int) -> None:
        """Take the weights after an optimizer step into the average, without waiting for a GPU.

        step   number of optimizer steps so far, this one included
        """
        average = get_ema_multi_avg_fn(self.kept(step))  # type: ignore[no-untyped-call]
        average(self._averages, self._weights, step)


def _floats(model: Detector) -> list[torch.Tensor]:
    """The tensors that are averaged: all that training changes but batch norm's counters.

    Those of a detector and of its copy have the same order.
    """
    return [value.detach() for value in model.trained_state().values() if value.is_floating_point()]
